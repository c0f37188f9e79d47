//! The control path: queues, link, statistics, watchdog. Nothing filters frames here: see the methods.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::tx::{Outbox, Shared};
use super::{Config, FrameIo, LIMITS, Rx, Tx};
use crate::clock::Nanos;
use crate::dma::DmaAllocator;
use crate::error::Error;
use crate::groups::Groups;
use crate::interrupt::Interrupt;
use crate::mmio::wait_until;
use crate::pool::{Pool, PoolPlan};
use crate::port::{Link, MacAddress, Port, PortEvent, PortStats, QueuePair, TxQueue};
use crate::ring::Indices;
use crate::watchdog::Watch;

/// How long frames that wait for room may take to leave when a queue is closed.
const DRAIN_WAIT: Duration = Duration::from_millis(100);

/// A port over `I`, with one queue pair.
pub struct SoftPort<I> {
    address: String,
    mac: MacAddress,
    io: Arc<I>,
    config: Config,
    groups: Groups,
    link: Link,
    /// What queue pairs counted that are closed.
    stats: PortStats,
    open: Option<(Arc<Shared>, Watch)>,
}

impl<I: FrameIo> SoftPort<I> {
    /// A port whose frames go through `io`. `address` is its name in messages; `mac` is the station's address.
    ///
    /// # Errors
    /// When `config` is out of range, `mac` is a group's, or `io` has failed already.
    pub fn new(address: String, mac: MacAddress, io: I, config: Config) -> Result<Self, Error> {
        config.check(&LIMITS)?;
        if mac.is_group() {
            let value = mac.0.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            return Err(Error::refused("station address", value, "the group bit must be clear"));
        }
        let io = Arc::new(io);
        let (groups, stats, open) = (Groups::default(), PortStats::default(), None);
        let mut port = Self { address, mac, io, config, groups, link: Link::Down, stats, open };
        port.link = port.link()?;
        Ok(port)
    }

    fn lost(&self, reason: impl ToString) -> Error {
        Error::Lost { address: self.address.clone(), reason: reason.to_string() }
    }

    fn refuse_unless_closed(&self) -> Result<(), Error> {
        match self.open {
            None => Ok(()),
            Some(_) => Err(Error::refused("open queues", 1, "close every queue first")),
        }
    }

    /// The buffers of the queue pair: one to receive into, and as for every device.
    fn pool(&self) -> Result<Pool, Error> {
        let config = &self.config;
        let plan = PoolPlan::default()
            .consumer("frame being received", 1)
            .consumer("received frames kept by handlers", config.kept_frames)
            .consumer("transmit ring", config.tx_descriptors)
            .consumer("sent frames retained, or parked", config.retained_frames);
        Ok(Pool::new(&DmaAllocator::unmapped(), &plan)?)
    }
}

impl<I: FrameIo> Port for SoftPort<I> {
    type Rx = Rx<I>;
    type Tx = Tx<I>;

    fn open_queue(&mut self, index: u16) -> Result<QueuePair<Rx<I>, Tx<I>>, Error> {
        self.refuse_unless_closed()?;
        if index >= self.config.queues {
            return Err(Error::refused("queue", index.into(), "a queue that is configured"));
        }
        let bad = || Error::refused("transmit ring", self.config.tx_descriptors.into(), "a power of two");
        let ring = Indices::new(self.config.tx_descriptors).ok_or_else(bad)?;
        let pool = self.pool()?;
        let buffer = pool.take().ok_or_else(bad)?;
        let shared = Arc::<Shared>::default();
        let outbox = Rc::new(Outbox::new(Arc::clone(&self.io), pool, ring, Arc::clone(&shared)));
        self.open = Some((shared, Watch::default()));
        Ok(QueuePair { rx: Rx::new(Rc::clone(&outbox), buffer, self.config.max_frame), tx: Tx::new(outbox) })
    }

    fn close_queue(&mut self, mut pair: QueuePair<Rx<I>, Tx<I>>) -> Result<(), Error> {
        pair.tx.flush();
        wait_until(DRAIN_WAIT, || {
            pair.tx.reclaim();
            (!pair.tx.is_waiting()).then_some(())
        });
        let is_stopped = pair.tx.is_stopped();
        let never_left = pair.tx.abandon();
        // Who was told why the queues have stopped need not hear what follows from it.
        if never_left > 0 && !is_stopped {
            log::warn!("{}: {never_left} frames never left", self.address);
        }
        if let Some((shared, _)) = self.open.take() {
            shared.counters.add_to(&mut self.stats);
        }
        Ok(())
    }

    /// An interrupt that comes while a frame waits, armed or not.
    fn interrupt(&mut self, index: u16) -> Result<Interrupt, Error> {
        if self.open.is_none() || index >= self.config.queues {
            return Err(Error::refused("queue", index.into(), "a queue that is open"));
        }
        let Some(readable) = self.io.readable() else {
            let (address, feature) = (self.address.clone(), "an interrupt");
            return Err(Error::MissingFeature { address, feature, follows: "poll it, and rest in another way" });
        };
        Interrupt::readable(readable.try_clone_to_owned().map_err(Error::Event)?)
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn link(&self) -> Result<Link, Error> {
        self.io.link().map_err(|error| self.lost(error))
    }

    /// Changes nothing: every frame that is there is received, whoever it is for.
    fn set_promiscuous(&mut self, _: bool) -> Result<(), Error> {
        Ok(())
    }

    /// Changes nothing, for every group is received; refuses an address that is no group's.
    fn join_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        self.groups.join(group).map(drop)
    }

    /// Changes nothing, for every group is received.
    fn leave_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        self.groups.leave(group);
        Ok(())
    }

    /// Counted by the queues. `rx_missed` and `rx_crc_errors` stay zero: what is lost before it is received, others know.
    fn stats(&mut self) -> PortStats {
        let mut stats = self.stats;
        if let Some((shared, _)) = &self.open {
            shared.counters.add_to(&mut stats);
        }
        stats
    }

    fn service(&mut self, now: Nanos, notice: &mut dyn FnMut(PortEvent)) -> Result<(), Error> {
        if let Some(reason) = self.open.as_ref().and_then(|(shared, _)| shared.counters.fault.get()) {
            return Err(self.lost(reason));
        }
        let link = self.link()?;
        if link != self.link {
            self.link = link;
            notice(PortEvent::Link(link));
        }
        if let Some((shared, watch)) = &mut self.open {
            let (gone, flushed) = (shared.gone.load(Ordering::Relaxed), shared.flushed.load(Ordering::Relaxed));
            if watch.is_stuck(gone, flushed, link, now) {
                notice(PortEvent::TransmitStuck { queue: 0 });
            }
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.refuse_unless_closed()?;
        self.link = self.link()?;
        Ok(())
    }
}
