//! How a driver reaches a device: configuration space, register windows, DMA mappings, interrupts and reset.
//!
//! One face for every way there is: [`vfio`], a physical function; [`model`], a device model in this process; [`vfio_user`], one in another.
#![forbid(unsafe_code)]

pub mod model;
pub mod sysfs;
pub mod vfio;
pub mod vfio_user;

use std::ops::RangeInclusive;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::dma::Region;
pub use crate::mmio::Width;

use crate::mmio::Mmio;
use model::ArrivalStamps;

/// Standard configuration registers that drivers use (PCI Local Bus 3.0, 6.2).
pub mod config {
    /// Vendor id, 16 bits.
    pub const VENDOR_ID: u16 = 0x00;
    /// Device id, 16 bits.
    pub const DEVICE_ID: u16 = 0x02;
    /// Command register, 16 bits.
    pub const COMMAND: u16 = 0x04;
    /// Command: answer memory accesses.
    pub const COMMAND_MEMORY: u32 = 1 << 1;
    /// Command: the device may start DMA.
    pub const COMMAND_BUS_MASTER: u32 = 1 << 2;
    /// Status register, 16 bits.
    pub const STATUS: u16 = 0x06;
    /// Status: there is a list of capabilities.
    pub const STATUS_CAPABILITIES: u32 = 1 << 4;
    /// Where the list of capabilities begins, 8 bits.
    pub const CAPABILITIES: u16 = 0x34;
}

/// Makes the function answer memory accesses, and lets it start DMA or not. A driver says no until it has reset the device: whoever had it
/// before may have died and left rings in it, which lead to what is somebody else's memory now.
pub(crate) fn enable(bus: &dyn Bus, dma: bool) -> Result<(), BusError> {
    let others = bus.config_read(config::COMMAND, Width::Word)? & !config::COMMAND_BUS_MASTER;
    let dma = if dma { config::COMMAND_BUS_MASTER } else { 0 };
    bus.config_write(config::COMMAND, Width::Word, others | config::COMMAND_MEMORY | dma)
}

/// Why the way to a device failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The device has no such register window.
    #[error("{address}: no BAR {bar}; is this the right device?")]
    NoBar {
        /// Bus address.
        address: String,
        /// The BAR asked for.
        bar: u8,
    },
    /// The device has no such interrupt vector.
    #[error("{address}: interrupt vector {vector} asked for, the device has {available}")]
    NoVector {
        /// Bus address.
        address: String,
        /// The vector asked for.
        vector: u16,
        /// How many there are.
        available: u16,
    },
    /// The process that has the device is not there, does not answer, or refuses.
    #[error("{address}: {reason}")]
    Peer {
        /// Bus address.
        address: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A mapping overlaps one that exists, or leaves the ranges that the IOMMU translates.
    #[error("{address}: cannot map {len:#x} bytes at IOVA {iova:#x}: {reason}")]
    Map {
        /// Bus address.
        address: String,
        /// Where the mapping was to go.
        iova: u64,
        /// Its length in bytes.
        len: usize,
        /// What is in the way.
        reason: &'static str,
    },
    /// The kernel's VFIO refused.
    #[error(transparent)]
    Vfio(#[from] vfio::VfioError),
}

/// How a device interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptKind {
    /// Messages, one a vector (PCI Local Bus 3.0, 6.8.2). Nothing is to be done between one and the next.
    MsiX,
    /// The line INTA#: one vector, level triggered. It stays masked after firing until [`Bus::unmask_interrupt`].
    IntX,
}

/// The interrupts of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupts {
    /// The best kind there is.
    pub kind: InterruptKind,
    /// Vectors of that kind; zero where the device cannot interrupt.
    pub vectors: u16,
}

/// A device as a driver sees it. Control path only: the hot path uses the [`Mmio`] and the memory that it hands out.
pub trait Bus: Send + Sync {
    /// The device's address as a person writes it, such as `model:82599` or `0000:03:00.0`.
    fn address(&self) -> String;

    /// Reads configuration space at `offset`, which must be aligned to `width`.
    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError>;

    /// Writes configuration space at `offset`, which must be aligned to `width`.
    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError>;

    /// Opens a register window.
    fn bar(&self, index: u8) -> Result<Mmio, BusError>;

    /// The I/O virtual addresses that can be mapped, in ascending order.
    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>>;

    /// The memory that DMA must stay in, on a bus whose device reaches nothing else: a memfd sealed against shrinking, whose byte `n` the
    /// device sees at IOVA `n`. `None` where any memory can be mapped.
    fn memory(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Lets the device reach `region` at `iova`.
    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError>;

    /// Takes the mapping at `iova` away. Returns only when no DMA into it is in flight.
    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError>;

    /// The device's interrupts.
    fn interrupts(&self) -> Interrupts;

    /// Makes interrupt `vector` add one to an eventfd, or silences it with `None`.
    fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) -> Result<(), BusError>;

    /// Lets a line interrupt fire again, once the device's cause is cleared. Message interrupts need no such thing.
    fn unmask_interrupt(&self, vector: u16) -> Result<(), BusError> {
        let _ = vector;
        Ok(())
    }

    /// Whether the way to the device still stands; the error says why not. Registers read all ones then.
    fn check(&self) -> Result<(), BusError> {
        Ok(())
    }

    /// Whether somebody wants the device back, such as a hot-unplug: close the queues and drop the port.
    fn removal_requested(&self) -> bool {
        false
    }

    /// Resets the function. Returns only when no DMA is in flight; the mappings stay.
    fn reset(&self) -> Result<(), BusError>;

    /// When frames reached receive ring `queue`, where the bus can tell beside the device: in-process models only.
    fn arrival_stamps(&self, queue: u16) -> Option<Arc<ArrivalStamps>> {
        let _ = queue;
        None
    }
}
