//! Memory that a device may reach: shared memfds, prefaulted, on huge pages where there are any, each at one I/O virtual address.

use std::cell::Cell;
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};

use crate::bus::{Bus, BusError};
use crate::mmio::dma_full_barrier;
use crate::ring::{SharedWrites, Words, Words16};

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

/// Why memory of another process was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The other process could cut the file short and make every access here a fault (SIGBUS).
    #[error("the memory is not sealed against shrinking; share a memfd with F_SEAL_SHRINK")]
    NotSealed,
    /// The range leaves the file.
    #[error("{len} bytes from {offset:#x} on leave the file of {size} bytes")]
    OutOfFile {
        /// Where the range begins.
        offset: u64,
        /// Its length in bytes.
        len: usize,
        /// The size of the file.
        size: u64,
    },
    /// The range does not begin at a page.
    #[error("offset {0:#x} is not a multiple of the page size")]
    Misaligned(u64),
    /// The operating system refused.
    #[error("the memory cannot be mapped: {0}")]
    System(#[from] std::io::Error),
}

/// Shared memory: a memfd, mapped and prefaulted. Another process may map the same bytes through [`Region::fd`].
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    file: File,
    page: usize,
    writable: bool,
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
            log::info!(
                "too few huge pages: DMA memory is on 4 KiB pages (more TLB misses, same behaviour); \
                 `sudo sysctl vm.nr_hugepages=16` reserves enough for a port"
            )
        });
        match Self::map(name, len, KIB_4, MemfdFlags::empty()) {
            Ok(region) => Ok(Arc::new(region)),
            Err(source) => Err(DmaError::Allocate { name, len, source }),
        }
    }

    fn map(name: &str, len: usize, page: usize, flags: MemfdFlags) -> std::io::Result<Self> {
        let len = len.max(1).checked_next_multiple_of(page).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create(format!("barewire {name}"), flags)?);
        ftruncate(&file, len as u64)?;
        // Whoever maps these bytes too can rely on them staying.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        let map = MmapOptions::new().len(len).populate().map_raw(&file)?;
        Ok(Self { map, file, page, writable: true })
    }

    /// Under what another process of this user finds the memory, for as long as this one has it: for [`Region::open`].
    pub fn address(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Maps all of the memory that another process has under this [`Region::address`].
    pub fn open(address: &str) -> Result<Arc<Self>, ImportError> {
        Self::import_all(File::options().read(true).write(true).open(address)?)
    }

    /// Maps all of the memory in a file. What lies on huge pages cannot be unmapped in part.
    pub fn import_all(file: File) -> Result<Arc<Self>, ImportError> {
        let size = file.metadata()?.len();
        Self::import(file.into(), 0, usize::try_from(size).unwrap_or(usize::MAX), true)
    }

    /// Maps `len` bytes, from `offset` on, of memory that another process shares: a memfd sealed against shrinking.
    pub fn import(fd: OwnedFd, offset: u64, len: usize, writable: bool) -> Result<Arc<Self>, ImportError> {
        let file = File::from(fd);
        if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
            return Err(ImportError::NotSealed);
        }
        let size = file.metadata()?.len();
        if len == 0 || offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(ImportError::OutOfFile { offset, len, size });
        }
        if !offset.is_multiple_of(KIB_4 as u64) {
            return Err(ImportError::Misaligned(offset));
        }
        let mut options = MmapOptions::new();
        options.offset(offset).len(len);
        let map = if writable { options.map_raw(&file)? } else { options.map_raw_read_only(&file)? };
        Ok(Arc::new(Self { map, file, page: KIB_4, writable }))
    }

    /// The size in bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether a device may write to it.
    pub fn is_writable(&self) -> bool {
        self.writable
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
    /// When the range leaves the region or the region is read-only: the caller translates addresses and has checked it.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let fits = self.writable && self.holds(offset, from.len());
        assert!(fits, "DMA write of {} bytes at {offset} leaves the region or what may be written of it", from.len());
        // SAFETY: as in `read`, with the roles exchanged.
        unsafe { self.base().as_ptr().add(offset).copy_from_nonoverlapping(from.as_ptr(), from.len()) }
    }

    /// Views `count` words, a power of two, at `offset`, a multiple of eight. `None` where that does not fit or may not be written.
    pub fn words(&self, offset: usize, count: usize) -> Option<RegionWords<'_>> {
        let aligned = count.is_power_of_two() && offset.is_multiple_of(8);
        let fits = aligned && self.writable && self.holds(offset, count.checked_mul(8)?);
        fits.then(|| RegionWords {
            // SAFETY: `holds` keeps the offset inside the mapping.
            base: unsafe { self.base().add(offset) }.cast(),
            mask: count - 1,
            region: PhantomData,
        })
    }

    fn holds(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }
}

/// Descriptor words inside a region. Indices wrap.
#[derive(Debug, Clone, Copy)]
pub struct RegionWords<'a> {
    base: NonNull<AtomicU64>,
    mask: usize,
    region: PhantomData<&'a Region>,
}

impl RegionWords<'_> {
    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: `Region::words` checked the whole span and its alignment; the mask keeps the index inside; the region is borrowed, so the
        // mapping lives; all parties access descriptor words as atomics of this width.
        unsafe { self.base.add(index & self.mask).as_ref() }
    }

    #[inline]
    fn word16(&self, index: usize) -> &AtomicU16 {
        // SAFETY: as in `word`, with four of these in each; which places are of this width is agreed with the device.
        unsafe { self.base.cast::<AtomicU16>().add(index & (self.mask * 4 + 3)).as_ref() }
    }
}

impl Words for RegionWords<'_> {
    #[inline]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.word(index).load(order)
    }

    #[inline]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.word(index).store(value, order);
    }
}

impl Words16 for RegionWords<'_> {
    #[inline]
    fn load16(&self, index: usize, order: Ordering) -> u16 {
        self.word16(index).load(order)
    }

    #[inline]
    fn store16(&self, index: usize, value: u16, order: Ordering) {
        self.word16(index).store(value, order);
    }

    #[inline]
    fn full_barrier(&self) {
        dma_full_barrier();
    }
}

/// Words with what holds the region that they lie in, for as long as they are there. Indices wrap.
#[derive(Debug, Clone)]
pub struct HeldWords<H> {
    /// The first word. The region that it lies in lives in `holder`.
    base: NonNull<AtomicU64>,
    mask: usize,
    holder: H,
}

// SAFETY: `base` points into the shared mapping that `holder` keeps and that no thread is tied to, which its two makers see to; it is
// accessed by atomics only.
unsafe impl<H: Send> Send for HeldWords<H> {}

impl<H> HeldWords<H> {
    /// The words, borrowed: a loop over them keeps base and mask in registers.
    #[inline]
    pub fn view(&self) -> RegionWords<'_> {
        RegionWords { base: self.base, mask: self.mask, region: PhantomData }
    }
}

impl<H> Words for HeldWords<H> {
    #[inline]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.view().load(index, order)
    }

    #[inline]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.view().store(index, value, order);
    }
}

/// Words that several parties write.
pub type SharedWords = HeldWords<Arc<Region>>;

// SAFETY: as for `Send`; atomics may be accessed by several threads at once.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// The `count` words, a power of two, at `offset`, a multiple of eight. `None` where that does not fit or may not be written.
    pub fn new(region: &Arc<Region>, offset: usize, count: usize) -> Option<Self> {
        let RegionWords { base, mask, .. } = region.words(offset, count)?;
        Some(Self { base, mask, holder: Arc::clone(region) })
    }

    /// The region that they lie in.
    pub fn region(&self) -> &Arc<Region> {
        &self.holder
    }
}

impl SharedWrites for SharedWords {
    #[inline]
    fn compare_exchange(&self, index: usize, current: u64, new: u64) -> Result<u64, u64> {
        self.view().word(index).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// Hands out memory to one device, each piece at an I/O virtual address of our choosing.
#[derive(Clone)]
pub struct DmaAllocator {
    /// `None` where there is no device.
    bus: Option<Arc<dyn Bus>>,
    next: Arc<AtomicU64>,
}

/// Addresses below are left free: a device that forgets to set an address must fault, not write.
const FIRST_IOVA: u64 = 0x10_0000;

impl DmaAllocator {
    /// An allocator for the device on `bus`. Make one a device.
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        Self { bus: Some(bus), next: Arc::new(AtomicU64::new(FIRST_IOVA)) }
    }

    /// An allocator for a port without a device: its memory is mapped nowhere, and its I/O virtual addresses are zero.
    pub fn unmapped() -> Self {
        Self { bus: None, next: Arc::default() }
    }

    /// Allocates and maps at least `len` bytes. The mapping ends when the memory is dropped.
    pub fn allocate(&self, name: &'static str, len: usize) -> Result<DmaMemory, DmaError> {
        let Some(bus) = &self.bus else {
            return Ok(DmaMemory { bus: None, region: Region::allocate(name, len)?, iova: 0 });
        };
        let (region, iova) = match bus.memory() {
            None => {
                let region = Region::allocate(name, len)?;
                let iova = self.reserve(&**bus, name, region.len(), region.page_size())?;
                (region, iova)
            }
            Some(memory) => {
                let refused = |source| DmaError::Allocate { name, len, source };
                let iova = self.reserve(&**bus, name, len.max(1).next_multiple_of(KIB_4), KIB_4)?;
                let memory = memory.try_clone_to_owned().map_err(refused)?;
                let region = Region::import(memory, iova, len, true).map_err(|e| refused(std::io::Error::other(e)))?;
                (region, iova)
            }
        };
        bus.dma_map(iova, &region)?;
        Ok(DmaMemory { bus: Some(Arc::clone(bus)), region, iova })
    }

    /// Takes the next free span. Addresses are never used twice: a late DMA of a dead mapping must fault.
    fn reserve(&self, bus: &dyn Bus, name: &'static str, len: usize, align: usize) -> Result<u64, DmaError> {
        let ranges = bus.iova_ranges();
        let place = |next: u64| {
            ranges.iter().find_map(|range| {
                let start = next.max(*range.start()).checked_next_multiple_of(align as u64)?;
                let last = start.checked_add(len as u64 - 1)?;
                (last <= *range.end()).then_some(start)
            })
        };
        let taken =
            self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| Some(place(next)? + len as u64));
        taken.ok().and_then(place).ok_or(DmaError::NoIova { name, len })
    }
}

/// Memory that one device can reach, from [`DmaMemory::iova`] on.
pub struct DmaMemory {
    bus: Option<Arc<dyn Bus>>,
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
        let RegionWords { base, mask, .. } = self.region.words(0, count)?;
        Some(DmaWords { base, mask, holder: self })
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        if let Some(bus) = &self.bus
            && let Err(error) = bus.dma_unmap(self.iova, &self.region)
        {
            log::warn!("{error}");
        }
    }
}

/// A descriptor ring's memory, owned.
pub type DmaWords = HeldWords<DmaMemory>;

impl DmaWords {
    /// The device's address of the first descriptor.
    pub fn iova(&self) -> u64 {
        self.holder.iova
    }

    /// The length in bytes, as length registers want it.
    pub fn byte_len(&self) -> usize {
        (self.mask + 1) * 8
    }
}

impl Words16 for DmaWords {
    #[inline]
    fn load16(&self, index: usize, order: Ordering) -> u16 {
        self.view().load16(index, order)
    }

    #[inline]
    fn store16(&self, index: usize, value: u16, order: Ordering) {
        self.view().store16(index, value, order);
    }

    #[inline]
    fn full_barrier(&self) {
        dma_full_barrier();
    }
}

/// The memory of a ring of 16-byte descriptors, and what the driver keeps for each of them. Indices wrap.
pub(crate) struct DmaRing<T> {
    words: DmaWords,
    /// As many as there are descriptors.
    kept: Box<[Cell<T>]>,
    /// One less than that.
    mask: usize,
}

impl<T> DmaRing<T> {
    /// A ring in `words` that keeps `kept`; `None` unless these are as many as there are descriptors.
    pub fn new(words: DmaWords, kept: impl IntoIterator<Item = T>) -> Option<Self> {
        let kept: Box<[_]> = kept.into_iter().map(Cell::new).collect();
        let mask = kept.len().checked_sub(1)?;
        (kept.len().is_power_of_two() && kept.len() * 16 == words.byte_len()).then_some(Self { words, kept, mask })
    }

    /// The memory.
    pub fn words(&self) -> &DmaWords {
        &self.words
    }

    /// The ring, borrowed: a loop over it keeps all of this in registers.
    #[inline]
    pub fn view(&self) -> RingView<'_, T> {
        let kept = NonNull::from(&*self.kept).cast();
        RingView { base: self.words.base, kept, mask: self.mask, ring: PhantomData }
    }
}

/// A ring, borrowed.
pub(crate) struct RingView<'a, T> {
    /// The first word.
    base: NonNull<AtomicU64>,
    /// What is kept for the first descriptor.
    kept: NonNull<Cell<T>>,
    /// One less than the number of descriptors.
    mask: usize,
    ring: PhantomData<&'a DmaRing<T>>,
}

impl<T> Clone for RingView<'_, T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RingView<'_, T> {}

impl<'a, T> RingView<'a, T> {
    /// The place in the ring that `index` wraps to.
    #[inline]
    pub fn wrap(self, index: u32) -> u32 {
        index & self.mask as u32
    }

    /// What is kept for the descriptor at `index`.
    #[inline]
    pub fn kept(self, index: u32) -> &'a Cell<T> {
        // SAFETY: `DmaRing::new` checked that there are as many as descriptors, whose number is that of the words by two; the mask keeps the
        // index below; the ring is borrowed, so they live.
        unsafe { self.kept.add(index as usize & self.mask).as_ref() }
    }

    #[inline]
    fn word(self, index: usize) -> &'a AtomicU64 {
        let (descriptor, word) = ((index / 2) & self.mask, index % 2);
        // SAFETY: the mask keeps the descriptor below their number, and each has two words; the ring is borrowed, so the mapping lives; all
        // parties access descriptor words as atomics of this width.
        unsafe { self.base.add(descriptor * 2 + word).as_ref() }
    }
}

impl<T> Words for RingView<'_, T> {
    #[inline]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.word(index).load(order)
    }

    #[inline]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.word(index).store(value, order);
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
    fn ring_wraps_and_keeps_one_thing_a_descriptor() {
        let words = || DmaAllocator::unmapped().allocate("test", 4096).unwrap().into_words(16).unwrap();
        for kept in [0, 4, 7, 9, 16] {
            assert!(DmaRing::new(words(), 0..kept).is_none(), "{kept}");
        }
        let ring = DmaRing::new(words(), 0..8).unwrap();
        let view = ring.view();
        crate::ring::post(&view, u32::MAX, [1, 2]);
        crate::ring::post(&view, 8, [3, 4]);
        assert_eq!([14, 15, 0, 1].map(|word| ring.words().load(word, Ordering::Relaxed)), [1, 2, 3, 4]);
        assert_eq!(
            [u32::MAX, 8, 7, 6].map(|at| (view.wrap(at), view.kept(at).get())),
            [(7, 7), (0, 0), (7, 7), (6, 6)]
        );
    }

    #[test]
    fn region_bytes_round_trip() {
        let region = Region::allocate("test", 1).unwrap();
        region.write(100, b"tick");
        let mut back = [0; 4];
        region.read(100, &mut back);
        assert_eq!(&back, b"tick");
    }

    #[test]
    fn import_shares_bytes_and_refuses_what_could_fault() {
        let region = Region::allocate("test", 8192).unwrap();
        let fd = || region.fd().try_clone_to_owned().unwrap();
        let page = region.page_size() as u64;
        if page == KIB_4 as u64 {
            region.write(KIB_4 + 100, b"tick");
            let view = Region::import(fd(), page, 200, false).unwrap();
            let mut back = [0; 4];
            view.read(100, &mut back);
            assert_eq!((&back, view.len(), view.words(0, 8).is_some()), (b"tick", 200, false));
        }
        let size = region.len();
        for (offset, len) in [(0, size + 1), (0, 0), (u64::MAX, 2), (8, 8)] {
            assert!(Region::import(fd(), offset, len, true).is_err(), "{offset} {len}");
        }
        let loose = memfd_create("loose", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&loose, 4096).unwrap();
        assert!(matches!(Region::import(loose, 0, 4096, true), Err(ImportError::NotSealed)));
    }
}
