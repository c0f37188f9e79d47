//! A NIC and its descriptor rings, driven from user space.
//!
//! The crate has two sides. The **control path** ([`Port`]) brings a device up, watches its link and
//! keeps its statistics; it may allocate, log and fail with rich errors. The **hot path** ([`RxQueue`],
//! [`TxQueue`]) moves frames; it never allocates, locks, makes a system call, logs or panics.
//!
//! A driver reaches its device through [`bus::Bus`]: configuration space, register windows, DMA mappings,
//! interrupts and reset. The same driver therefore runs on a device model in this process and on a
//! physical function behind VFIO.

pub mod bus;
pub mod clock;
pub mod dma;
mod error;
mod frame;
pub mod ixgbe;
pub mod mmio;
pub mod pool;
mod port;
pub mod ring;

pub use error::Error;
pub use frame::{Checksum, ClockDomain, Frame, FrameMeta, MAX_FRAME_LEN, OwnedFrame, Timestamp};
pub use port::{
    ChecksumOffload, Link, MacAddress, Port, PortEvent, PortStats, QueueFault, QueuePair, RxQueue, TxError, TxMeta,
    TxQueue,
};
