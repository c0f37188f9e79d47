//! Memory that a device may reach: shared memfds, prefaulted, on huge pages where there are any, each at one I/O virtual address.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::bus::{Bus, BusError};
use crate::ring::Words;

/// Why DMA memory could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmaError {
    /// The operating system refused the memory.
    #[error(
        "cannot allocate {len} bytes of DMA memory for {name}: {source}; free some memory or make the rings smaller"
    )]
    Allocate {
        /// What the memory is for.
        name: &'static str,
        /// How much was asked for, in bytes.
        len: usize,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Every range of I/O virtual addresses is taken.
    #[error("no I/O virtual addresses left for {len} bytes ({name}); use fewer or smaller queues")]
    NoIova {
        /// What the memory is for.
        name: &'static str,
        /// How much was asked for, in bytes.
        len: usize,
    },
    /// The device could not be given the memory.
    #[error(transparent)]
    Map(#[from] BusError),
}

/// Shared memory: a memfd, mapped and prefaulted. Another process may map the same bytes through [`Region::fd`].
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    file: File,
    page: usize,
}

const KIB_4: usize = 4 << 10;
const MIB_2: usize = 2 << 20;
const GIB_1: usize = 1 << 30;

impl Region {
    /// Allocates at least `len` zeroed bytes, rounded up to whole pages. Takes 1 GiB pages for a GiB and more, else 2 MiB pages, else
    /// plain ones; that huge pages are missing is said once in the log.
    pub fn allocate(name: &'static str, len: usize) -> Result<Arc<Self>, DmaError> {
        let huge = [(GIB_1, MemfdFlags::HUGE_1GB), (MIB_2, MemfdFlags::HUGE_2MB)];
        for (page, flag) in huge.into_iter().filter(|&(page, _)| page == MIB_2 || len >= page) {
            if let Ok(region) = Self::map(name, len, page, MemfdFlags::HUGETLB | flag) {
                return Ok(Arc::new(region));
            }
        }
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            log::info!("no free huge pages: DMA memory is on 4 KiB pages (more TLB misses, same behaviour)")
        });
        match Self::map(name, len, KIB_4, MemfdFlags::empty()) {
            Ok(region) => Ok(Arc::new(region)),
            Err(source) => Err(DmaError::Allocate { name, len, source }),
        }
    }

    fn map(name: &str, len: usize, page: usize, flags: MemfdFlags) -> std::io::Result<Self> {
        let len = len.max(1).checked_next_multiple_of(page).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let file = File::from(memfd_create(format!("barewire {name}"), flags | MemfdFlags::CLOEXEC)?);
        ftruncate(&file, len as u64)?;
        let map = MmapOptions::new().len(len).populate().map_raw(&file)?;
        Ok(Self { map, file, page })
    }

    /// The size in bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Never true: a region has at least one page.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// The size of the pages behind it, in bytes.
    pub fn page_size(&self) -> usize {
        self.page
    }

    /// The file behind it, to be handed to another process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where the bytes are mapped in this process. Valid while the region lives; other parties may write there at any time, so no
    /// reference may cover bytes that are not owned by protocol.
    pub(crate) fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }

    /// Copies bytes out, as a device's DMA read does.
    ///
    /// # Panics
    /// When the range leaves the region: the caller translates addresses and has checked it.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(self.holds(offset, into.len()), "DMA read of {} bytes at {offset} leaves the region", into.len());
        // SAFETY: the source range is inside the mapping (checked above) and cannot overlap a Rust slice, which is
        // never formed over memory that belongs to the device; ownership passes by descriptor words (ring.rs).
        unsafe { self.base().as_ptr().add(offset).copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) }
    }

    /// Copies bytes in, as a device's DMA write does.
    ///
    /// # Panics
    /// When the range leaves the region: the caller translates addresses and has checked it.
    pub fn write(&self, offset: usize, from: &[u8]) {
        assert!(self.holds(offset, from.len()), "DMA write of {} bytes at {offset} leaves the region", from.len());
        // SAFETY: as in `read`, with the roles exchanged.
        unsafe { self.base().as_ptr().add(offset).copy_from_nonoverlapping(from.as_ptr(), from.len()) }
    }

    /// Views `count` words, a power of two, at `offset`, a multiple of eight. `None` where that does not fit.
    pub fn words(&self, offset: usize, count: usize) -> Option<RegionWords<'_>> {
        let fits = count.is_power_of_two() && offset.is_multiple_of(8) && self.holds(offset, count.checked_mul(8)?);
        fits.then(|| RegionWords { region: self, offset, mask: count - 1 })
    }

    fn holds(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }

    /// The atomic word at `offset`.
    ///
    /// # Safety
    /// `offset` must be a multiple of eight and `offset + 8` within the region.
    #[inline]
    unsafe fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: in bounds and aligned by the caller; the mapping lives as long as `self`; all parties access
        // descriptor words as atomics of this width.
        unsafe { &*self.base().as_ptr().add(offset).cast::<AtomicU64>() }
    }
}

/// Descriptor words inside a region. Indices wrap.
#[derive(Debug, Clone, Copy)]
pub struct RegionWords<'a> {
    region: &'a Region,
    offset: usize,
    mask: usize,
}

impl Words for RegionWords<'_> {
    #[inline]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        // SAFETY: `Region::words` checked the whole span and its alignment; the mask keeps the index inside.
        unsafe { self.region.word(self.offset + (index & self.mask) * 8) }.load(order)
    }

    #[inline]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        // SAFETY: as in `load`.
        unsafe { self.region.word(self.offset + (index & self.mask) * 8) }.store(value, order);
    }
}

/// Hands out memory to one device, each piece at an I/O virtual address of our choosing.
#[derive(Clone)]
pub struct DmaAllocator {
    bus: Arc<dyn Bus>,
    next: Arc<AtomicU64>,
}

/// Addresses below are left free: a device that forgets to set an address must fault, not write.
const FIRST_IOVA: u64 = 0x10_0000;

impl DmaAllocator {
    /// An allocator for the device on `bus`. Make one a device.
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        Self { bus, next: Arc::new(AtomicU64::new(FIRST_IOVA)) }
    }

    /// Allocates and maps at least `len` bytes. The mapping ends when the memory is dropped.
    pub fn allocate(&self, name: &'static str, len: usize) -> Result<DmaMemory, DmaError> {
        let region = Region::allocate(name, len)?;
        let iova = self.reserve(&region).ok_or(DmaError::NoIova { name, len: region.len() })?;
        self.bus.dma_map(iova, &region)?;
        Ok(DmaMemory { bus: Arc::clone(&self.bus), region, iova })
    }

    /// Takes the next free span. Addresses are never used twice: a late DMA of a dead mapping must fault.
    fn reserve(&self, region: &Region) -> Option<u64> {
        let (len, align) = (region.len() as u64, region.page_size() as u64);
        let ranges = self.bus.iova_ranges();
        let place = |next: u64| {
            ranges.iter().find_map(|range| {
                let start = next.max(*range.start()).checked_next_multiple_of(align)?;
                let last = start.checked_add(len - 1)?;
                (last <= *range.end()).then_some(start)
            })
        };
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| Some(place(next)? + len));
        taken.ok().and_then(place)
    }
}

/// Memory that one device can reach, from [`DmaMemory::iova`] on.
pub struct DmaMemory {
    bus: Arc<dyn Bus>,
    region: Arc<Region>,
    iova: u64,
}

impl DmaMemory {
    /// The device's address of the first byte.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// The memory behind it.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Turns the first `count` words (a power of two) into descriptor memory; `None` where they do not fit.
    pub fn into_words(self, count: usize) -> Option<DmaWords> {
        self.region.words(0, count)?;
        Some(DmaWords { memory: self, mask: count - 1 })
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        if let Err(error) = self.bus.dma_unmap(self.iova, &self.region) {
            log::warn!("{error}");
        }
    }
}

/// A descriptor ring's memory, owned. Indices wrap.
pub struct DmaWords {
    memory: DmaMemory,
    mask: usize,
}

impl DmaWords {
    /// The device's address of the first descriptor.
    pub fn iova(&self) -> u64 {
        self.memory.iova
    }

    /// The length in bytes, as length registers want it.
    pub fn byte_len(&self) -> usize {
        (self.mask + 1) * 8
    }
}

impl Words for DmaWords {
    #[inline]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        // SAFETY: `into_words` checked the whole span; the mask keeps the index inside; the region lives in `memory`.
        unsafe { self.memory.region.word((index & self.mask) * 8) }.load(order)
    }

    #[inline]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        // SAFETY: as in `load`.
        unsafe { self.memory.region.word((index & self.mask) * 8) }.store(value, order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_words_wrap_and_refuse_what_does_not_fit() {
        let region = Region::allocate("test", 4096).unwrap();
        let words = region.words(64, 8).unwrap();
        words.store(9, 7, Ordering::Release);
        assert_eq!(words.load(1, Ordering::Acquire), 7);
        for (offset, count) in [(4, 8), (0, 3), (region.len() - 32, 8), (usize::MAX - 7, 2)] {
            assert!(region.words(offset, count).is_none(), "{offset} {count}");
        }
    }

    #[test]
    fn region_bytes_round_trip() {
        let region = Region::allocate("test", 1).unwrap();
        region.write(100, b"tick");
        let mut back = [0; 4];
        region.read(100, &mut back);
        assert_eq!(&back, b"tick");
    }
}
