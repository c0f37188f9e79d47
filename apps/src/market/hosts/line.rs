//! The second line of the feed on a core of its own: what its port receives goes into a ring, to the core that arbitrates.

use std::sync::Arc;

use barewire_driver::clock::{Clock, Nanos};
use barewire_models::Ixgbe82599;
use barewire_netstack::Event;

use super::EndStats;
use super::trader::{TraderEnd, line};
use crate::feed::ring::Writer;
use crate::market::{Config, Error};

/// The port of the second line.
pub struct LineHost {
    end: TraderEnd,
    ring: Writer,
}

impl LineHost {
    /// Opens the trader's port on `model`, that of the second wire, and joins the line that arrives there.
    pub fn open(config: &Config, clock: &Clock, model: &Arc<Ixgbe82599>, ring: Writer) -> Result<Self, Error> {
        Ok(Self { end: TraderEnd::open(config, clock, model, 1)?, ring })
    }

    /// One turn: what has arrived goes into the ring. Returns the number of frames.
    #[inline]
    pub fn poll(&mut self, now: Nanos) -> Result<u32, Error> {
        let Self { end: TraderEnd { end, feeds, .. }, ring } = self;
        Ok(end.stack.poll(now, |_, event| {
            if let Event::Multicast { receiver, datagram } = event
                && let Some(source) = line(feeds, receiver)
            {
                ring.push(now, source, datagram.payload);
            }
        })?)
    }

    /// Closes the port. What was counted remains: by the port, and packets for which the ring had no room.
    pub fn finish(self) -> Result<(EndStats, u64), Error> {
        Ok((self.end.end.close()?, self.ring.dropped()))
    }
}
