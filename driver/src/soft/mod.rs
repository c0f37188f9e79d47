//! A port over anything that moves whole Ethernet frames by copy: an interface of the kernel, or queues in memory. The same rooms as every
//! driver, as far as there is no device: rx, tx, control.
//!
//! The queues behave as a NIC's do: received frames are lent and can be taken, sent ones leave in order at the doorbell, and what does not find
//! room waits in the ring. What a NIC does in hardware is done in software: checksums, the VLAN tag, padding.
#![forbid(unsafe_code)]

mod control;
mod rx;
#[cfg(test)]
mod tests;
mod tx;

pub use control::SoftPort;
pub use rx::Rx;
pub use tx::Tx;

use std::io;
use std::os::fd::BorrowedFd;

use crate::pool::BUFFER_LEN;
use crate::port::{Link, PortLimits};

pub use crate::port::PortConfig as Config;

/// Moves whole Ethernet frames, without FCS. Both directions are used by the thread that owns the queue pair, the rest by the control path.
///
/// An error stops the queues for good, and its text becomes the port's: it says what is wrong and what to do.
pub trait FrameIo: Send + Sync {
    /// Copies the next frame that waits into `buffer`, and returns its length; `None` when none waits. What does not fit is cut off: a frame
    /// that fills the buffer counts as too long.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// Sends a frame of at least 60 bytes. `false` when there is no room for it now: it is offered again later.
    fn send(&self, frame: &[u8]) -> io::Result<bool>;

    /// The state of the link.
    fn link(&self) -> io::Result<Link> {
        Ok(Link::Up { speed_mbps: 0 })
    }

    /// What is readable, as poll(2) means it, while a frame waits; `None` where there is no such thing, and no sleeping.
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The receive ring is whatever holds the frames that wait, so a receive ring's length is checked and then changes nothing. A frame must leave
/// a byte of its buffer free: see [`FrameIo::receive`].
const LIMITS: PortLimits = PortLimits { queues: 1, ring: (2, 1 << 16), max_frame: BUFFER_LEN - 1 };

/// An Ethernet header, in bytes: less is no frame.
const HEADER_LEN: u16 = 14;
