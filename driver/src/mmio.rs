//! Register windows: volatile access to a mapped BAR, or calls into an emulated device.
//!
//! The barriers between ring memory and registers are here and in [`crate::ring`], nowhere else.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// The value a register reads when the device has left the bus (PCIe completes such reads with all ones).
pub const ALL_ONES: u32 = u32::MAX;

/// A device's registers, emulated in this process or at the other end of a socket.
pub trait Registers: Send + Sync {
    /// Reads the 32-bit register at `offset` (bytes into the BAR).
    fn read32(&self, offset: u32) -> u32;
    /// Writes the 32-bit register at `offset` (bytes into the BAR). A doorbell runs the device on the caller's thread.
    fn write32(&self, offset: u32, value: u32);
}

/// Why a register access failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MmioError {
    /// A bounded wait ran out.
    #[error(
        "register {register} ({offset:#07x}) reads {value:#010x} after {waited_us} us while waiting for {what}; reset the device, and if it repeats, suspect the hardware"
    )]
    Timeout {
        /// Datasheet name.
        register: &'static str,
        /// Bytes into the BAR.
        offset: u32,
        /// The last value read.
        value: u32,
        /// How long the wait lasted, in microseconds.
        waited_us: u64,
        /// The condition that did not come true.
        what: &'static str,
    },
    /// The device does not answer any more.
    #[error("register {register} ({offset:#07x}) reads all ones: the device is gone or in reset; rebind or replug it")]
    Gone {
        /// Datasheet name.
        register: &'static str,
        /// Bytes into the BAR.
        offset: u32,
    },
}

/// A mapped or emulated register window (one BAR).
#[derive(Clone)]
pub struct Mmio {
    kind: Kind,
    len: u32,
}

#[derive(Clone)]
enum Kind {
    Mapped { base: NonNull<u8>, _owner: Arc<dyn Any + Send + Sync> },
    Emulated(Arc<dyn Registers>),
}

// SAFETY: `base` points into a device mapping that `_owner` keeps alive; registers are accessed by volatile
// reads and writes only, which the device orders, so a window may be used from any thread.
unsafe impl Send for Mmio {}
// SAFETY: as for `Send`; no Rust reference to the mapped bytes is ever formed.
unsafe impl Sync for Mmio {}

impl Mmio {
    /// Wraps a mapped BAR of `len` bytes.
    ///
    /// # Safety
    /// `base..base + len` must be a device mapping, 4-byte aligned, that stays valid while `owner` lives.
    pub unsafe fn mapped(base: NonNull<u8>, len: u32, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { kind: Kind::Mapped { base, _owner: owner }, len }
    }

    /// Wraps an emulated register file of `len` bytes.
    pub fn emulated(registers: Arc<dyn Registers>, len: u32) -> Self {
        Self { kind: Kind::Emulated(registers), len }
    }

    /// The size of the window in bytes.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the window has no registers.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the register at `offset`; an offset outside the window reads [`ALL_ONES`], as the bus would answer.
    #[inline]
    pub fn read32(&self, offset: u32) -> u32 {
        if !self.holds(offset) {
            return ALL_ONES;
        }
        match &self.kind {
            // SAFETY: `holds` keeps the access inside the mapping and aligned; the mapping is alive by `_owner`.
            Kind::Mapped { base, .. } => unsafe { base.add(offset as usize).cast::<u32>().read_volatile() },
            Kind::Emulated(registers) => registers.read32(offset),
        }
    }

    /// Writes the register at `offset`; an offset outside the window is dropped, as the bus would drop it.
    #[inline]
    pub fn write32(&self, offset: u32, value: u32) {
        if !self.holds(offset) {
            return;
        }
        match &self.kind {
            // SAFETY: as in `read32`.
            Kind::Mapped { base, .. } => unsafe { base.add(offset as usize).cast::<u32>().write_volatile(value) },
            Kind::Emulated(registers) => registers.write32(offset, value),
        }
    }

    /// Rings a doorbell: everything written to ring memory and buffers before is visible to the device first.
    #[inline]
    pub fn doorbell32(&self, offset: u32, value: u32) {
        dma_write_barrier();
        self.write32(offset, value);
    }

    /// Reads `register` until `done` holds, for at most `limit`.
    ///
    /// # Errors
    /// [`MmioError::Gone`] when the register reads all ones, [`MmioError::Timeout`] when `limit` has passed.
    pub fn wait(
        &self,
        register: &'static str,
        offset: u32,
        what: &'static str,
        limit: Duration,
        done: impl Fn(u32) -> bool,
    ) -> Result<u32, MmioError> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(1);
        loop {
            let value = self.read32(offset);
            if value == ALL_ONES {
                return Err(MmioError::Gone { register, offset });
            }
            if done(value) {
                return Ok(value);
            }
            let waited = start.elapsed();
            if waited >= limit {
                let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
                return Err(MmioError::Timeout { register, offset, value, waited_us, what });
            }
            std::thread::sleep(pause.min(limit - waited));
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    fn holds(&self, offset: u32) -> bool {
        offset.is_multiple_of(4) && offset < self.len
    }
}

impl std::fmt::Debug for Mmio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Mapped { .. } => "mapped",
            Kind::Emulated(_) => "emulated",
        };
        write!(f, "Mmio({kind}, {} bytes)", self.len)
    }
}

/// Orders earlier writes to DMA memory before a later register write.
///
/// x86-64 keeps stores to write-back memory and to uncached registers in order, so a compiler fence is enough
/// (Intel SDM vol. 3, 11.2.2). aarch64 needs a store barrier that reaches the outer shareable domain.
#[inline]
pub fn dma_write_barrier() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier instruction touches no memory or register that Rust knows of.
    unsafe {
        std::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// Orders an earlier read of a descriptor's done bit before later reads of what the device wrote.
#[inline]
pub fn dma_read_barrier() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as in `dma_write_barrier`.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    fence(Ordering::Acquire);
}
