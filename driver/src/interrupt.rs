//! Sleeping until a queue has work.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::bus::{Bus, BusError, InterruptKind};
use crate::error::Error;

/// An interrupt, delivered while this lives.
///
/// To sleep: [`crate::RxQueue::arm_interrupt`], poll the queue once more, then [`Interrupt::wait`].
pub struct Interrupt {
    source: Source,
    event: OwnedFd,
}

/// What interrupts, besides whoever makes the event.
enum Source {
    /// A device, by the event.
    Device { bus: Arc<dyn Bus>, vector: u16 },
    /// A file that is readable while there is work.
    Readable(OwnedFd),
}

impl Interrupt {
    /// Takes interrupt `vector` of the device on `bus`.
    pub(crate) fn new(bus: Arc<dyn Bus>, vector: u16) -> Result<Self, Error> {
        let event = new_event()?;
        let copy = event.try_clone().map_err(Error::Event)?;
        bus.set_interrupt(vector, Some(copy))?;
        Ok(Self { source: Source::Device { bus, vector }, event })
    }

    /// An interrupt that comes while `file` is readable, or has failed.
    pub(crate) fn readable(file: OwnedFd) -> Result<Self, Error> {
        Ok(Self { source: Source::Readable(file), event: new_event()? })
    }

    /// Sleeps until the interrupt comes, at most for `limit`. Says whether it did. Returns early when a signal arrives.
    pub fn wait(&self, limit: Duration) -> Result<bool, BusError> {
        let file = match &self.source {
            Source::Device { bus, vector } => {
                if bus.interrupts().kind == InterruptKind::IntX {
                    bus.unmask_interrupt(*vector)?;
                }
                None
            }
            Source::Readable(file) => Some(file),
        };
        let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let event = PollFd::new(&self.event, PollFlags::IN);
        let woken = match file {
            None => sleep(&mut [event], &limit),
            Some(file) => sleep(&mut [event, PollFd::new(file, PollFlags::IN)], &limit),
        };
        if woken {
            // Empties the counter; it may have been emptied between, or another woke us (EAGAIN), which changes nothing.
            let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        }
        Ok(woken)
    }

    /// The eventfd that a device makes the interrupt with: whoever writes to it wakes the sleeper up too.
    pub fn event(&self) -> std::io::Result<OwnedFd> {
        self.event.as_fd().try_clone_to_owned()
    }
}

fn new_event() -> Result<OwnedFd, Error> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| Error::Event(error.into()))
}

/// Says whether one of `files` woke us.
fn sleep(files: &mut [PollFd<'_>], limit: &Timespec) -> bool {
    // The only errors left are EINTR, an early return, and ENOMEM, where trying again is all there is.
    poll(files, Some(limit)).is_ok_and(|ready| ready > 0)
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        if let Source::Device { bus, vector } = &self.source
            && let Err(error) = bus.set_interrupt(*vector, None)
        {
            log::warn!("{error}");
        }
    }
}
