//! The kernel's VFIO (Linux `vfio.h`) as safe calls on its three kinds of file: container, group and device.
//!
//! Numbers and layouts come from crate `vfio-bindings`. Crate `vfio-ioctls` is not used: it forgets the operating system's answer where
//! [`crate::bus::vfio`] must tell a person what to do, does not read the usable address ranges, sets all vectors at once only, and panics
//! on release when the device's folder in `/sys` has gone, which is what a hot-unplug looks like.

use std::ffi::{CStr, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{offset_of, size_of};
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use memmap2::MmapOptions;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use vfio_bindings::bindings::vfio::*;

use crate::dma::Region;
use crate::mmio::Mmio;

/// Numbers of calls, counted from `VFIO_BASE`. Some are used once for each kind of file.
mod number {
    pub const GET_API_VERSION: u32 = 0;
    pub const CHECK_EXTENSION: u32 = 1;
    pub const SET_IOMMU: u32 = 2;
    pub const GROUP_GET_STATUS: u32 = 3;
    pub const GROUP_SET_CONTAINER: u32 = 4;
    pub const GROUP_GET_DEVICE_FD: u32 = 6;
    pub const DEVICE_GET_INFO: u32 = 7;
    pub const DEVICE_GET_REGION_INFO: u32 = 8;
    pub const DEVICE_GET_IRQ_INFO: u32 = 9;
    pub const DEVICE_SET_IRQS: u32 = 10;
    pub const DEVICE_RESET: u32 = 11;
    pub const IOMMU_GET_INFO: u32 = 12;
    pub const IOMMU_MAP_DMA: u32 = 13;
    pub const IOMMU_UNMAP_DMA: u32 = 14;
}

struct Call {
    number: u32,
    argument: *mut c_void,
}

// SAFETY: VFIO's calls carry neither size nor direction in their number; what `argument` must be is the promise made to `call`.
unsafe impl Ioctl for Call {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::none(VFIO_TYPE, (VFIO_BASE + self.number) as u8)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

/// # Safety
/// `argument` must be what call `number` wants on this kind of file: an integer, or the address of a structure that is valid for its time.
unsafe fn call(file: &File, number: u32, argument: *mut c_void) -> io::Result<IoctlOutput> {
    // SAFETY: the caller's promise.
    Ok(unsafe { ioctl(file, Call { number, argument }) }?)
}

/// # Safety
/// Call `number` must want a structure of type `T` on this kind of file.
unsafe fn call_with<T>(file: &File, number: u32, argument: &mut T) -> io::Result<IoctlOutput> {
    // SAFETY: the caller's promise; the structure is borrowed for the time of the call.
    unsafe { call(file, number, ptr::from_mut(argument).cast()) }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// What the kernel answers with: a fixed part that begins with its size, then perhaps a chain of capabilities.
struct Info(Vec<u8>);

impl Info {
    /// Asks for `argument`, whose fixed part has `fixed` bytes; once more where the kernel says that there is more to tell.
    ///
    /// # Safety
    /// Call `number` must take a structure that begins with its size, on this kind of file, and use no more of it than that size.
    unsafe fn get(file: &File, number: u32, fixed: usize, fields: &[u32]) -> io::Result<Self> {
        /// No device has so many capabilities.
        const MOST: usize = 64 << 10;
        let mut size = fixed;
        loop {
            let mut words = vec![0u64; size.div_ceil(8)];
            let head = std::iter::once(size as u32).chain(fields.iter().copied()).collect::<Vec<_>>();
            for (word, pair) in words.iter_mut().zip(head.chunks(2)) {
                let [low, high] = [pair[0], pair.get(1).copied().unwrap_or(0)].map(u32::to_ne_bytes);
                let [a, b, c, d] = low;
                let [e, f, g, h] = high;
                *word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
            }
            // SAFETY: the buffer has as many bytes as its first field says; the rest is the caller's promise.
            unsafe { call(file, number, words.as_mut_ptr().cast()) }?;
            let info = Self(words.iter().flat_map(|word| word.to_ne_bytes()).collect());
            let wanted = info.u32(0) as usize;
            if wanted <= size || wanted > MOST {
                return Ok(info);
            }
            size = wanted;
        }
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    /// The field at `at`; zero beyond the end.
    fn u32(&self, at: usize) -> u32 {
        self.bytes(at).map_or(0, u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        self.bytes(at).map_or(0, u64::from_ne_bytes)
    }

    /// Where capability `id` begins, in the chain whose first link is at `first`.
    fn capability(&self, first: u32, id: u32) -> Option<usize> {
        let mut at = first as usize;
        // Each link is at least eight bytes; a chain that is longer than the buffer runs in a circle.
        for _ in 0..self.0.len() / size_of::<vfio_info_cap_header>() {
            let found = self.bytes(at + offset_of!(vfio_info_cap_header, id)).map(u16::from_ne_bytes)?;
            if at == 0 || u32::from(found) == id {
                return (at != 0).then_some(at);
            }
            at = self.u32(at + offset_of!(vfio_info_cap_header, next)) as usize;
        }
        None
    }

    /// Pairs of 64-bit numbers, `count` of them from `at` on.
    fn pairs(&self, at: usize, count: u32) -> Vec<(u64, u64)> {
        let places = (0..count as usize).map(|index| at + index * 16).take_while(|at| at + 16 <= self.0.len());
        places.map(|at| (self.u64(at), self.u64(at + 8))).collect()
    }
}

/// A container: one I/O address space.
pub struct Container(File);

impl Container {
    /// Opens the container's file, normally `/dev/vfio/vfio`.
    pub fn open(path: &Path) -> io::Result<Self> {
        open(path).map(Self)
    }

    /// Whether the kernel speaks this version and has an IOMMU of the common kind.
    pub fn is_usable(&self) -> io::Result<bool> {
        // SAFETY: the first takes nothing, the second an integer.
        let (version, extension) = unsafe {
            (
                call(&self.0, number::GET_API_VERSION, ptr::null_mut())?,
                call(&self.0, number::CHECK_EXTENSION, integer(VFIO_TYPE1v2_IOMMU))?,
            )
        };
        Ok(version as u32 == VFIO_API_VERSION && extension == 1)
    }

    /// Switches translation on; a group must have been added.
    pub fn set_iommu(&self) -> io::Result<()> {
        // SAFETY: takes an integer.
        unsafe { call(&self.0, number::SET_IOMMU, integer(VFIO_TYPE1v2_IOMMU)) }.map(drop)
    }

    /// The addresses that can be mapped; `None` from kernels that do not tell (before 5.4).
    pub fn iova_ranges(&self) -> io::Result<Option<Vec<RangeInclusive<u64>>>> {
        // SAFETY: takes a `vfio_iommu_type1_info`.
        let info = unsafe { Info::get(&self.0, number::IOMMU_GET_INFO, size_of::<vfio_iommu_type1_info>(), &[])? };
        Ok(iova_ranges(&info))
    }

    /// Maps all of `region` at `iova`, for reading and writing.
    pub fn map(&self, iova: u64, region: &Region) -> io::Result<()> {
        let mut map = vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: region.base().as_ptr() as u64,
            iova,
            size: region.len() as u64,
        };
        // SAFETY: takes this structure. The kernel pins the pages, so that the device cannot reach any others even if the region goes away;
        // that its bytes change at any time is what a region is made for.
        unsafe { call_with(&self.0, number::IOMMU_MAP_DMA, &mut map) }.map(drop)
    }

    /// Unmaps what was mapped at `iova`. Returns how many bytes that were.
    pub fn unmap(&self, iova: u64, len: usize) -> io::Result<u64> {
        let mut unmap = vfio_iommu_type1_dma_unmap {
            argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
            iova,
            size: len as u64,
            ..Default::default()
        };
        // SAFETY: takes this structure.
        unsafe { call_with(&self.0, number::IOMMU_UNMAP_DMA, &mut unmap) }?;
        Ok(unmap.size)
    }
}

fn integer(value: u32) -> *mut c_void {
    ptr::without_provenance_mut(value as usize)
}

fn iova_ranges(info: &Info) -> Option<Vec<RangeInclusive<u64>>> {
    let first = info.u32(offset_of!(vfio_iommu_type1_info, cap_offset));
    if info.u32(offset_of!(vfio_iommu_type1_info, flags)) & VFIO_IOMMU_INFO_CAPS == 0 {
        return None;
    }
    let at = info.capability(first, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)?;
    let count = info.u32(at + offset_of!(vfio_iommu_type1_info_cap_iova_range, nr_iovas));
    let ranges = info.pairs(at + offset_of!(vfio_iommu_type1_info_cap_iova_range, iova_ranges), count);
    Some(ranges.into_iter().map(|(start, end)| start..=end).collect())
}

/// An IOMMU group.
pub struct Group(File);

impl Group {
    /// Opens the group's file, such as `/dev/vfio/7`. Only one process can.
    pub fn open(path: &Path) -> io::Result<Self> {
        open(path).map(Self)
    }

    /// Whether every device of the group is out of the kernel's hands.
    pub fn is_viable(&self) -> io::Result<bool> {
        let mut status = vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, flags: 0 };
        // SAFETY: takes this structure.
        unsafe { call_with(&self.0, number::GROUP_GET_STATUS, &mut status) }?;
        Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
    }

    /// Puts the group into `container`.
    pub fn join(&self, container: &Container) -> io::Result<()> {
        let mut file: c_int = container.0.as_raw_fd();
        // SAFETY: takes the address of a descriptor.
        unsafe { call_with(&self.0, number::GROUP_SET_CONTAINER, &mut file) }.map(drop)
    }

    /// Opens the device named `name` in this group.
    pub fn device(&self, name: &CStr) -> io::Result<Device> {
        // SAFETY: takes a string that ends with a zero, which it only reads.
        let file = unsafe { call(&self.0, number::GROUP_GET_DEVICE_FD, name.as_ptr().cast_mut().cast()) }?;
        // SAFETY: the call's answer is a descriptor that belongs to nobody else.
        Ok(Device(unsafe { File::from_raw_fd(file) }))
    }
}

/// A part of a device: a BAR or configuration space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it begins in the device's file.
    pub offset: u64,
    /// Its length in bytes; zero where the device has no such part.
    pub size: u64,
    /// What of it can be mapped, in bytes from its beginning.
    pub mappable: Vec<Range<u64>>,
}

/// The kinds of interrupt, by VFIO's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Irq {
    /// The line INTA#.
    IntX = VFIO_PCI_INTX_IRQ_INDEX,
    /// Messages.
    MsiX = VFIO_PCI_MSIX_IRQ_INDEX,
    /// Somebody wants the device back.
    Request = VFIO_PCI_REQ_IRQ_INDEX,
}

/// Configuration space's index among the device's parts.
pub const CONFIG: u32 = VFIO_PCI_CONFIG_REGION_INDEX;

/// An open device. Closing it resets the function and ends its DMA.
pub struct Device(File);

impl Device {
    /// A file that stands for a device.
    #[cfg(test)]
    pub fn open(path: &Path) -> io::Result<Self> {
        open(path).map(Self)
    }

    /// Whether the function can be reset on its own.
    pub fn can_reset(&self) -> io::Result<bool> {
        // SAFETY: takes a `vfio_device_info`.
        let info = unsafe { Info::get(&self.0, number::DEVICE_GET_INFO, size_of::<vfio_device_info>(), &[])? };
        Ok(info.u32(offset_of!(vfio_device_info, flags)) & VFIO_DEVICE_FLAGS_RESET != 0)
    }

    /// Resets the function. Its DMA has ended when this returns.
    pub fn reset(&self) -> io::Result<()> {
        // SAFETY: takes nothing.
        unsafe { call(&self.0, number::DEVICE_RESET, ptr::null_mut()) }.map(drop)
    }

    /// Where part `index` of the device is.
    pub fn span(&self, index: u32) -> io::Result<Span> {
        let fixed = size_of::<vfio_region_info>();
        // SAFETY: takes a `vfio_region_info`, whose second and third fields are flags and index.
        let info = unsafe { Info::get(&self.0, number::DEVICE_GET_REGION_INFO, fixed, &[0, index])? };
        Ok(span(&info))
    }

    /// Reads from the device's file.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }

    /// Writes to the device's file.
    pub fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.0.write_all_at(from, offset)
    }

    /// Maps `len` bytes of registers from `offset` of the device's file on, both multiples of the page size.
    pub fn map(&self, offset: u64, len: u32) -> io::Result<Mmio> {
        let map = MmapOptions::new().offset(offset).len(len as usize).map_raw(&self.0)?;
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the mapping has this many bytes, begins on a page, and lives as long as its owner, which holds the device open.
        Ok(unsafe { Mmio::mapped(base, len, Arc::new(map)) })
    }

    /// How many interrupts of a kind there are.
    pub fn interrupts(&self, irq: Irq) -> io::Result<u32> {
        let mut info =
            vfio_irq_info { argsz: size_of::<vfio_irq_info>() as u32, index: irq as u32, ..Default::default() };
        // SAFETY: takes this structure.
        unsafe { call_with(&self.0, number::DEVICE_GET_IRQ_INFO, &mut info) }?;
        Ok(info.count)
    }

    /// Connects interrupts from `start` on to eventfds, or to nothing. The kernel keeps hold of the events itself. Returns how many vectors
    /// it could have had where it had too few, else zero.
    pub fn set_events(&self, irq: Irq, start: u32, events: &[Option<BorrowedFd<'_>>]) -> io::Result<u32> {
        const NONE: c_int = -1;
        let files = events.iter().map(|event| event.map_or(NONE, |event| event.as_fd().as_raw_fd()).cast_unsigned());
        self.set(irq, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, start, events.len() as u32, files)
    }

    /// Lets the line interrupt fire again.
    pub fn unmask(&self, irq: Irq) -> io::Result<()> {
        self.set(irq, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1, std::iter::empty()).map(drop)
    }

    fn set(&self, irq: Irq, flags: u32, start: u32, count: u32, data: impl Iterator<Item = u32>) -> io::Result<u32> {
        let mut words: Vec<u32> = [0, flags, irq as u32, start, count].into_iter().chain(data).collect();
        words[0] = size_of_val(&words[..]) as u32;
        // SAFETY: takes a `vfio_irq_set`, five words and as many descriptors as its count says, none where the flags say no data.
        unsafe { call(&self.0, number::DEVICE_SET_IRQS, words.as_mut_ptr().cast()) }.map(|out| out.unsigned_abs())
    }
}

fn span(info: &Info) -> Span {
    let size = info.u64(offset_of!(vfio_region_info, size));
    let flags = info.u32(offset_of!(vfio_region_info, flags));
    let first =
        if flags & VFIO_REGION_INFO_FLAG_CAPS != 0 { info.u32(offset_of!(vfio_region_info, cap_offset)) } else { 0 };
    let mappable = match info.capability(first, VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
        _ if flags & VFIO_REGION_INFO_FLAG_MMAP == 0 => Vec::new(),
        None => std::iter::once(0..size).collect(),
        Some(at) => {
            let count = info.u32(at + offset_of!(vfio_region_info_cap_sparse_mmap, nr_areas));
            let areas = info.pairs(at + offset_of!(vfio_region_info_cap_sparse_mmap, areas), count);
            let within =
                |(start, len): (u64, u64)| Some(start..start.checked_add(len)?).filter(|area| area.end <= size);
            areas.into_iter().filter_map(within).collect()
        }
    };
    Span { offset: info.u64(offset_of!(vfio_region_info, offset)), size, mappable }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32-bit fields, in this machine's order of bytes.
    fn info(words: &[u32]) -> Info {
        Info(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }

    #[test]
    fn address_ranges_are_found_behind_another_capability() {
        // Size, flags (page sizes and capabilities), page sizes, first capability at 24; migration at 24, ranges at 48.
        let head = [96, 3, 0x1000, 0, 24, 0];
        let migration = [2 | 1 << 16, 48, 0, 0, 0, 0];
        let ranges = [1 | 1 << 16, 0, 2, 0, 0, 0, 0xFEDF_FFFF, 0, 0xFEF0_0000, 0, u32::MAX, 0x7F];
        let words = [&head[..], &migration, &ranges].concat();
        let expected = vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 39) - 1];
        assert_eq!(iova_ranges(&info(&words)), Some(expected));
        assert_eq!(iova_ranges(&info(&[&[24, 1][..], &words[2..]].concat())), None, "no capabilities");
    }

    #[test]
    fn capability_chain_that_runs_in_a_circle_or_out_of_the_buffer_ends() {
        let circle = [32, 2, 0, 0, 24, 0, 9, 24];
        assert_eq!(iova_ranges(&info(&circle)), None);
        assert_eq!(iova_ranges(&info(&[32, 2, 0, 0, 4000, 0, 9, 24])), None);
        let cut = [64, 2, 0, 0, 24, 0, 1, 0, 1_000_000, 0, 1, 0, 2, 0];
        assert_eq!(iova_ranges(&info(&cut)), Some(vec![1..=2]), "what is there of a list that claims more");
    }

    #[test]
    fn bar_maps_whole_in_areas_or_not_at_all() {
        let (map, caps) = (VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_CAPS);
        let region = |flags, areas: &[u32]| {
            let words = [&[88, flags, 3, 32, 0x4000, 0, 0, 3][..], &[1 | 1 << 16, 0, 2, 0], areas].concat();
            span(&info(&words))
        };
        let whole = std::iter::once(0..0x4000).collect();
        assert_eq!(region(map, &[]), Span { offset: 3 << 32, size: 0x4000, mappable: whole });
        assert_eq!(region(caps, &[]).mappable, []);
        let sparse = region(map | caps, &[0, 0, 0x1000, 0, 0x3000, 0, 0x1000, 0]).mappable;
        assert_eq!(sparse, [0..0x1000, 0x3000..0x4000]);
        let wild = region(map | caps, &[0x3000, 0, 0x2000, 0, u32::MAX, u32::MAX, 2, 0]).mappable;
        assert_eq!(wild, [], "areas beyond the BAR");
    }
}
