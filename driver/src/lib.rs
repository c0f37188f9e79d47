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
mod checksum;
pub mod clock;
mod counters;
pub mod dma;
pub mod e1000;
mod error;
mod frame;
mod groups;
pub mod huge;
pub mod interrupt;
pub mod ixgbe;
pub mod mmio;
pub mod pool;
mod port;
pub mod regs;
pub mod ring;
pub mod soft;
pub mod tap;
mod vfio_kernel;
pub mod virtio;
mod watchdog;

pub use error::Error;
pub use frame::{Checksum, ClockDomain, Frame, FrameMeta, MAX_FRAME_LEN, OwnedFrame, Timestamp};
pub use port::{
    ChecksumOffload, Link, MacAddress, Port, PortConfig, PortEvent, PortLimits, PortStats, QueueFault, QueuePair,
    RxQueue, TxError, TxMeta, TxQueue,
};
