//! How a driver reaches a device: configuration space, register windows, DMA mappings, interrupts and reset.
//!
//! One face for every way there is. Today: [`model`], a device model in this process.
#![forbid(unsafe_code)]

pub mod model;

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::dma::Region;
use crate::mmio::Mmio;
use model::ArrivalStamps;

/// The width of a configuration-space access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes, at an even offset.
    Word,
    /// Four bytes, at an offset divisible by four.
    Dword,
}

impl Width {
    /// The width in bytes.
    pub fn bytes(self) -> u16 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }
}

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

    /// Lets the device reach `region` at `iova`.
    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError>;

    /// Takes the mapping at `iova` away. Returns only when no DMA into it is in flight.
    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError>;

    /// How many MSI-X vectors the device has.
    fn interrupt_vectors(&self) -> u16;

    /// Makes interrupt `vector` add one to an eventfd, or silences it with `None`.
    fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) -> Result<(), BusError>;

    /// Resets the function. Returns only when no DMA is in flight; the mappings stay.
    fn reset(&self) -> Result<(), BusError>;

    /// When frames reached receive ring `queue`, where the bus can tell beside the device: in-process models only.
    fn arrival_stamps(&self, queue: u16) -> Option<Arc<ArrivalStamps>> {
        let _ = queue;
        None
    }
}
