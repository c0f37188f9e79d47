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

/// The width of a register or configuration-space access.
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
    #[inline]
    pub const fn bytes(self) -> u16 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }

    /// The bits that an access of this width carries.
    #[inline]
    pub const fn mask(self) -> u32 {
        match self {
            Self::Byte => 0xFF,
            Self::Word => 0xFFFF,
            Self::Dword => u32::MAX,
        }
    }
}

/// A device's registers, emulated in this process or at the other end of a socket. Offsets are bytes into the BAR and aligned to the width.
pub trait Registers: Send + Sync {
    /// Reads the register at `offset`; bits beyond `width` are zero.
    fn read(&self, offset: u32, width: Width) -> u32;
    /// Writes the register at `offset`. A doorbell runs an in-process device on the caller's thread.
    fn write(&self, offset: u32, width: Width, value: u32);
}

/// Why a register access failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MmioError {
    /// A bounded wait ran out.
    #[error(
        "register {register} ({offset:#07x}) reads {value:#010x} after {waited_us} us while waiting for {what}; \
         reset the device, and if it repeats, suspect the hardware"
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
unsafe impl Send for Kind {}
// SAFETY: as for `Send`; no Rust reference to the mapped bytes is ever formed.
unsafe impl Sync for Kind {}

impl Kind {
    /// Writes a register.
    ///
    /// # Safety
    /// The register must lie inside the window, aligned to its width: see [`Mmio::holds`].
    #[inline]
    unsafe fn write(&self, offset: u32, width: Width, value: u32) {
        match self {
            Self::Mapped { base, .. } => {
                // SAFETY: inside the mapping and aligned by the caller's promise; the mapping is alive by `_owner`.
                unsafe {
                    let place = base.add(offset as usize);
                    match width {
                        Width::Byte => place.write_volatile(value as u8),
                        Width::Word => place.cast::<u16>().write_volatile(value as u16),
                        Width::Dword => place.cast::<u32>().write_volatile(value),
                    }
                }
            }
            Self::Emulated(registers) => registers.write(offset, width, value),
        }
    }
}

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

    /// Reads the register at `offset`; an offset outside the window reads all ones, as the bus would answer.
    #[inline]
    pub fn read(&self, offset: u32, width: Width) -> u32 {
        if !self.holds(offset, width) {
            return width.mask();
        }
        match &self.kind {
            Kind::Mapped { base, .. } => {
                // SAFETY: `holds` keeps the access inside the mapping and aligned; the mapping is alive by `_owner`.
                unsafe {
                    let place = base.add(offset as usize);
                    match width {
                        Width::Byte => place.read_volatile().into(),
                        Width::Word => place.cast::<u16>().read_volatile().into(),
                        Width::Dword => place.cast::<u32>().read_volatile(),
                    }
                }
            }
            Kind::Emulated(registers) => registers.read(offset, width),
        }
    }

    /// Writes the register at `offset`; an offset outside the window is dropped, as the bus would drop it.
    #[inline]
    pub fn write(&self, offset: u32, width: Width, value: u32) {
        if !self.holds(offset, width) {
            return;
        }
        // SAFETY: `holds` keeps the access inside the window and aligned.
        unsafe { self.kind.write(offset, width, value) }
    }

    /// Reads the 32-bit register at `offset`.
    #[inline]
    pub fn read32(&self, offset: u32) -> u32 {
        self.read(offset, Width::Dword)
    }

    /// Writes the 32-bit register at `offset`.
    #[inline]
    pub fn write32(&self, offset: u32, value: u32) {
        self.write(offset, Width::Dword, value);
    }

    /// The register at `offset` as a doorbell; one outside the window does nothing, as the bus would drop its writes.
    pub fn doorbell(&self, offset: u32, width: Width) -> Doorbell {
        Doorbell { kind: self.holds(offset, width).then(|| self.kind.clone()), offset, width }
    }

    /// Reads the 32-bit `register` until `done` holds, for at most `limit`.
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
        self.wait_for(register, (offset, Width::Dword), what, limit, done)
    }

    /// As [`Mmio::wait`], for a register of another width.
    ///
    /// # Errors
    /// As [`Mmio::wait`].
    pub fn wait_for(
        &self,
        register: &'static str,
        (offset, width): (u32, Width),
        what: &'static str,
        limit: Duration,
        done: impl Fn(u32) -> bool,
    ) -> Result<u32, MmioError> {
        let mut value = 0;
        let answer = wait_until(limit, || {
            value = self.read(offset, width);
            if value == width.mask() {
                return Some(Err(MmioError::Gone { register, offset }));
            }
            done(value).then_some(Ok(value))
        });
        let waited_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        answer.unwrap_or(Err(MmioError::Timeout { register, offset, value, waited_us, what }))
    }

    #[inline]
    fn holds(&self, offset: u32, width: Width) -> bool {
        let bytes = u32::from(width.bytes());
        offset & (bytes - 1) == 0 && offset < self.len && bytes <= self.len - offset
    }
}

/// A register that tells the device of work, and whose place was checked when this was made.
pub struct Doorbell {
    /// None where the register lies outside the window.
    kind: Option<Kind>,
    offset: u32,
    width: Width,
}

impl Doorbell {
    /// Rings: everything written to ring memory and buffers before is visible to the device first.
    #[inline]
    pub fn ring(&self, value: u32) {
        dma_write_barrier();
        if let Some(kind) = &self.kind {
            // SAFETY: `Mmio::doorbell` keeps only what the window holds.
            unsafe { kind.write(self.offset, self.width, value) }
        }
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

/// Asks `look` until it answers, for at most `limit`, and sleeps in between, longer each time.
pub(crate) fn wait_until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(1);
    loop {
        if let Some(answer) = look() {
            return Some(answer);
        }
        let waited = start.elapsed();
        if waited >= limit {
            return None;
        }
        std::thread::sleep(pause.min(limit - waited));
        pause = (pause * 2).min(Duration::from_millis(1));
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

/// Orders earlier writes to DMA memory before later reads of it: a flag is set, and then what the device did before it saw the flag is looked at.
#[inline]
pub fn dma_full_barrier() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as in `dma_write_barrier`.
    unsafe {
        std::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "aarch64"))]
    fence(Ordering::SeqCst);
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
