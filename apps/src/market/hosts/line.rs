//! The second line of the feed on a core of its own: what its port receives goes into a ring, to the core that arbitrates.

use std::sync::Arc;

use barewire_driver::bus::Bus;
use barewire_driver::clock::{Clock, Nanos};

use super::EndStats;
use super::feed::FeedEnd;
use crate::feed::ring::Writer;
use crate::market::{Config, Error};

/// The port of the second line.
pub struct LineHost {
    end: FeedEnd,
    ring: Writer,
}

impl LineHost {
    /// Opens the trader's port on `bus`, that of the second wire, and joins the line that arrives there.
    pub fn open(config: &Config, clock: &Clock, bus: &Arc<dyn Bus>, ring: Writer) -> Result<Self, Error> {
        Ok(Self { end: FeedEnd::open(config, clock, bus, 1)?, ring })
    }

    /// One turn: what has arrived goes into the ring. Returns the number of frames.
    #[inline]
    pub fn poll(&mut self, now: Nanos) -> Result<u32, Error> {
        let Self { end, ring } = self;
        end.poll_lines(now, |source, packet| _ = ring.push(now, source, packet))
    }

    /// Closes the port. What was counted remains: by the port, and packets for which the ring had no room.
    pub fn finish(self) -> Result<(EndStats, u64), Error> {
        Ok((self.end.end.close()?, self.ring.dropped()))
    }
}
