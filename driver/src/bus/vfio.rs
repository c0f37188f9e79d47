//! A physical function behind the kernel's VFIO: the IOMMU holds its DMA within what was mapped. Needs no root once the group's file
//! belongs to the user.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::sysfs::{PciAddress, Sysfs, SysfsError, VFIO_DRIVER};
use super::{Bus, BusError, InterruptKind, Interrupts, Width};
use crate::dma::Region;
use crate::mmio::{Mmio, Registers};
use crate::vfio_kernel::{CONFIG, Container, Device, Group, Irq, Span};

/// Why the kernel's VFIO did not give or do what was asked. The message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioError {
    /// The device is not there, not bound, or not alone in its group.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// A file below `/dev/vfio` cannot be opened.
    #[error("{address}: {}: {source}; {remedy}", path.display())]
    Open {
        /// The device.
        address: PciAddress,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
        /// What to do.
        remedy: String,
    },
    /// The kernel's VFIO has no IOMMU of the kind that every PC and server has.
    #[error("{0}: the kernel's VFIO has no type-1 IOMMU; run `modprobe vfio_iommu_type1`")]
    NoType1(PciAddress),
    /// Mapped memory counts as locked, and there may not be so much.
    #[error(
        "{address}: {needed_kib} KiB of DMA memory must be locked, the limit is {limit_kib} KiB; \
         run `sudo prlimit --pid $$ --memlock=unlimited` in this shell and try again"
    )]
    Memlock {
        /// The device.
        address: PciAddress,
        /// What would be locked, KiB.
        needed_kib: u64,
        /// What may be, KiB.
        limit_kib: u64,
    },
    /// The function has no reset of its own.
    #[error("{0}: the device cannot be reset on its own; close the port and open it again")]
    NoReset(PciAddress),
    /// The kernel refused.
    #[error("{address}: cannot {what}: {source}; `dmesg | tail` may say why")]
    Call {
        /// The device.
        address: PciAddress,
        /// What was asked.
        what: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// A PCI function that vfio-pci has. Dropped, together with what was opened through it, it is reset and free again.
pub struct VfioBus {
    address: PciAddress,
    config: Span,
    ranges: Vec<RangeInclusive<u64>>,
    interrupts: Interrupts,
    /// Message vectors have been taken from the kernel.
    vectors_taken: Mutex<bool>,
    request: OwnedFd,
    removal: AtomicBool,
    /// Bytes that are mapped.
    mapped: AtomicU64,
    // Closed in this order: a container with a device in it stays.
    device: Arc<Device>,
    _group: Group,
    container: Container,
}

impl VfioBus {
    /// Opens the device at `address` on this machine.
    ///
    /// # Errors
    /// When it is not there, vfio-pci does not have it, its group is not viable or in use, or a file may not be opened.
    pub fn open(address: PciAddress) -> Result<Self, VfioError> {
        Self::open_in(&Sysfs::default(), address)
    }

    /// As [`VfioBus::open`], in another tree.
    pub fn open_in(sysfs: &Sysfs, address: PciAddress) -> Result<Self, VfioError> {
        let found = sysfs.device(address)?;
        let group_number = sysfs.viable_group(&found)?;
        if found.driver.as_deref() != Some(VFIO_DRIVER) {
            return Err(SysfsError::NotBound { address, driver: found.driver }.into());
        }
        let container = open_file(address, sysfs.container_file(), Container::open)?;
        let group = open_file(address, sysfs.group_file(group_number), Group::open)?;
        let asked = |what| move |source| VfioError::Call { address, what, source };
        if !container.is_usable().map_err(asked("ask for the kind of IOMMU"))? {
            return Err(VfioError::NoType1(address));
        }
        if !group.is_viable().map_err(asked("ask for the state of the group"))? {
            let busy = io::ErrorKind::ResourceBusy.into();
            return Err(asked("use its IOMMU group, which holds a device that the kernel uses")(busy));
        }
        group.join(&container).map_err(asked("put the group into a container"))?;
        container.set_iommu().map_err(asked("switch translation on"))?;
        let name = CString::new(address.to_string()).unwrap_or_default();
        let device = Arc::new(group.device(&name).map_err(asked("open the device"))?);
        let ranges = container.iova_ranges().map_err(asked("ask for the usable addresses"))?;
        let interrupts = interrupts(&device).map_err(asked("ask for the interrupts"))?;
        let request = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| asked("watch for removal")(error.into()))?;
        if device.interrupts(Irq::Request).is_ok_and(|count| count > 0) {
            device.set_events(Irq::Request, 0, &[Some(request.as_fd())]).map_err(asked("watch for removal"))?;
        }
        Ok(Self {
            address,
            config: device.span(CONFIG).map_err(asked("find configuration space"))?,
            ranges: ranges.unwrap_or_else(smallest_ranges),
            interrupts,
            vectors_taken: Mutex::new(false),
            request,
            removal: AtomicBool::new(false),
            mapped: AtomicU64::new(0),
            device,
            _group: group,
            container,
        })
    }

    fn refused(&self, what: &'static str) -> impl FnOnce(io::Error) -> BusError {
        let address = self.address;
        move |source| VfioError::Call { address, what, source }.into()
    }

    fn not_mapped(&self, iova: u64, region: &Region, reason: &'static str) -> BusError {
        BusError::Map { address: self.address.to_string(), iova, len: region.len(), reason }
    }

    /// Where `width` bytes of configuration space are in the device's file.
    fn config_place(&self, offset: u16, width: Width) -> Option<u64> {
        let (offset, bytes) = (u64::from(offset), u64::from(width.bytes()));
        (offset % bytes == 0 && offset + bytes <= self.config.size).then_some(self.config.offset + offset)
    }
}

fn open_file<T>(
    address: PciAddress,
    path: PathBuf,
    open: fn(&std::path::Path) -> io::Result<T>,
) -> Result<T, VfioError> {
    open(&path).map_err(|source| {
        let file = path.display();
        let remedy = match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NODEV) => "run `modprobe vfio-pci`".to_owned(),
            Some(Errno::ACCESS | Errno::PERM) => format!("run `sudo chown $USER {file}`"),
            Some(Errno::BUSY) => format!("another process has it; `fuser -v {file}` names it"),
            _ => "`dmesg | tail` may say why".to_owned(),
        };
        VfioError::Open { address, path, source, remedy }
    })
}

/// Messages where there are any, else the line.
fn interrupts(device: &Device) -> io::Result<Interrupts> {
    let count = |irq| device.interrupts(irq).map(|count| u16::try_from(count).unwrap_or(u16::MAX));
    Ok(match count(Irq::MsiX)? {
        0 => Interrupts { kind: InterruptKind::IntX, vectors: count(Irq::IntX)? },
        vectors => Interrupts { kind: InterruptKind::MsiX, vectors },
    })
}

/// What the narrowest IOMMU translates, 39 bits, less the window of interrupt messages (Intel VT-d 3.14, PCI host address width).
fn smallest_ranges() -> Vec<RangeInclusive<u64>> {
    vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 39) - 1]
}

impl Bus for VfioBus {
    fn address(&self) -> String {
        self.address.to_string()
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        // Beyond configuration space, all ones: what the bus answers.
        let Some(place) = self.config_place(offset, width) else { return Ok(width.mask()) };
        let mut bytes = [0; 4];
        let read = self.device.read(place, &mut bytes[..usize::from(width.bytes())]);
        read.map_err(self.refused("read configuration space"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        let Some(place) = self.config_place(offset, width) else { return Ok(()) };
        let written = self.device.write(place, &value.to_le_bytes()[..usize::from(width.bytes())]);
        written.map_err(self.refused("write configuration space"))
    }

    fn bar(&self, index: u8) -> Result<Mmio, BusError> {
        let no_bar = || BusError::NoBar { address: self.address.to_string(), bar: index };
        let is_bar = u32::from(index) < CONFIG - 1;
        let span = is_bar.then(|| self.device.span(index.into())).ok_or_else(no_bar)?;
        let span = span.map_err(self.refused("find a BAR"))?;
        let len = u32::try_from(span.size).unwrap_or(u32::MAX);
        if len == 0 {
            return Err(no_bar());
        }
        let map = |area: &Range<u64>| {
            let len = u32::try_from(area.end - area.start).unwrap_or(u32::MAX);
            self.device.map(span.offset + area.start, len).map_err(self.refused("map a BAR"))
        };
        if let [area] = &span.mappable[..]
            && *area == (0..span.size)
        {
            return map(area);
        }
        let areas = span.mappable.iter().map(|area| Ok((area.start as u32..area.end as u32, map(area)?)));
        let areas = areas.collect::<Result<_, BusError>>()?;
        let pieces = Pieces { device: Arc::clone(&self.device), offset: span.offset, areas };
        Ok(Mmio::emulated(Arc::new(pieces), len))
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.ranges.clone()
    }

    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        let len = region.len() as u64;
        self.container.map(iova, region).map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::NOMEM) => self.no_memory(len, source),
            Some(Errno::EXIST) => self.not_mapped(iova, region, "it overlaps a mapping"),
            Some(Errno::INVAL) => self.not_mapped(iova, region, "it leaves the ranges that the IOMMU translates"),
            _ => self.refused("map memory")(source),
        })?;
        self.mapped.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        match self.container.unmap(iova, region.len()).map_err(self.refused("unmap memory"))? {
            0 => Err(self.not_mapped(iova, region, "nothing is mapped there")),
            unmapped => {
                self.mapped.fetch_sub(unmapped, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn interrupts(&self) -> Interrupts {
        self.interrupts
    }

    fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) -> Result<(), BusError> {
        let no_vector = |available| BusError::NoVector { address: self.address.to_string(), vector, available };
        let Interrupts { kind, vectors } = self.interrupts;
        if vector >= vectors {
            return Err(no_vector(vectors));
        }
        let irq = match kind {
            InterruptKind::MsiX => Irq::MsiX,
            InterruptKind::IntX => Irq::IntX,
        };
        let mut taken = self.vectors_taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !*taken {
            // Kernels before 6.5 cannot add vectors later: the first time, all are taken, silent.
            let silent = vec![None; vectors.into()];
            let short = match kind {
                InterruptKind::MsiX => self.device.set_events(irq, 0, &silent),
                InterruptKind::IntX => Ok(0),
            };
            let available = short.map_err(self.refused("take the interrupt vectors"))?;
            if available > 0 {
                return Err(no_vector(available as u16));
            }
            *taken = true;
        }
        let set = self.device.set_events(irq, vector.into(), &[event.as_ref().map(OwnedFd::as_fd)]);
        set.map(drop).map_err(self.refused("set an interrupt"))
    }

    fn unmask_interrupt(&self, _: u16) -> Result<(), BusError> {
        match self.interrupts.kind {
            InterruptKind::MsiX => Ok(()),
            InterruptKind::IntX => self.device.unmask(Irq::IntX).map_err(self.refused("unmask the interrupt")),
        }
    }

    fn removal_requested(&self) -> bool {
        // The kernel asks again every while; one time is enough.
        if rustix::io::read(&self.request, &mut [0u8; 8]).is_ok() {
            self.removal.store(true, Ordering::Relaxed);
        }
        self.removal.load(Ordering::Relaxed)
    }

    fn reset(&self) -> Result<(), BusError> {
        if !self.device.can_reset().map_err(self.refused("ask for a reset"))? {
            return Err(VfioError::NoReset(self.address).into());
        }
        self.device.reset().map_err(self.refused("reset the device"))
    }
}

impl VfioBus {
    /// The kernel has no memory for a mapping: nearly always because too much would be locked.
    fn no_memory(&self, len: u64, source: io::Error) -> BusError {
        let needed = self.mapped.load(Ordering::Relaxed) + len;
        match getrlimit(Resource::Memlock).current {
            Some(limit) if limit < needed => {
                let (needed_kib, limit_kib) = (needed.div_ceil(1024), limit / 1024);
                VfioError::Memlock { address: self.address, needed_kib, limit_kib }.into()
            }
            _ => self.refused("map memory")(source),
        }
    }
}

/// A BAR of which not all can be mapped, because the table of message vectors lies in it or it is smaller than a page: what cannot goes
/// through the kernel.
struct Pieces {
    device: Arc<Device>,
    /// Where the BAR begins in the device's file.
    offset: u64,
    areas: Vec<(Range<u32>, Mmio)>,
}

impl Pieces {
    fn area(&self, offset: u32) -> Option<(u32, &Mmio)> {
        let (range, mmio) = self.areas.iter().find(|(range, _)| range.contains(&offset))?;
        Some((offset - range.start, mmio))
    }
}

impl Registers for Pieces {
    fn read(&self, offset: u32, width: Width) -> u32 {
        if let Some((offset, mmio)) = self.area(offset) {
            return mmio.read(offset, width);
        }
        let mut bytes = [0; 4];
        match self.device.read(self.offset + u64::from(offset), &mut bytes[..usize::from(width.bytes())]) {
            Ok(()) => u32::from_le_bytes(bytes),
            // What the bus answers for a device that is gone.
            Err(_) => width.mask(),
        }
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        match self.area(offset) {
            Some((offset, mmio)) => mmio.write(offset, width, value),
            // A write that reaches nobody is lost, as on the bus.
            None => {
                let bytes = value.to_le_bytes();
                let _ = self.device.write(self.offset + u64::from(offset), &bytes[..usize::from(width.bytes())]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(driver: Option<&str>) -> (tempfile::TempDir, Sysfs) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/bus/pci/devices/0000:03:00.0");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, value) in [("vendor", "0x8086\n"), ("device", "0x10d3\n"), ("class", "0x020000\n")] {
            std::fs::write(folder.join(name), value).unwrap();
        }
        if let Some(driver) = driver {
            std::os::unix::fs::symlink(root.path().join(driver), folder.join("driver")).unwrap();
            std::os::unix::fs::symlink(root.path().join("groups/7"), folder.join("iommu_group")).unwrap();
        }
        let sysfs = Sysfs::new(root.path());
        (root, sysfs)
    }

    fn refusal(sysfs: &Sysfs) -> String {
        let error = VfioBus::open_in(sysfs, "03:00.0".parse().unwrap()).err().expect("nothing to open");
        error.to_string()
    }

    #[test]
    fn open_says_what_is_missing_and_the_command_that_mends_it() {
        let (_root, sysfs) = tree(None);
        assert!(refusal(&sysfs).contains("is in no IOMMU group"), "{}", refusal(&sysfs));
        let (_root, sysfs) = tree(Some("e1000e"));
        let said = "0000:03:00.0 is bound to driver e1000e; run `barewire bind 0000:03:00.0`";
        assert_eq!(refusal(&sysfs), said);
        let (root, sysfs) = tree(Some(VFIO_DRIVER));
        assert!(refusal(&sysfs).ends_with("run `modprobe vfio-pci`"), "{}", refusal(&sysfs));
        std::fs::create_dir_all(root.path().join("dev/vfio")).unwrap();
        std::fs::write(root.path().join("dev/vfio/vfio"), "").unwrap();
        std::fs::write(root.path().join("dev/vfio/7"), "").unwrap();
        // Plain files answer no call.
        assert!(refusal(&sysfs).contains("cannot ask for the kind of IOMMU"), "{}", refusal(&sysfs));
    }

    #[test]
    fn pieces_read_the_same_bytes_mapped_or_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..0x3000u32).map(|at| (at / 7) as u8).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let device = Arc::new(Device::open(file.path()).unwrap());
        let middle = device.map(0x1000, 0x1000).unwrap();
        let pieces = Pieces { device, offset: 0, areas: vec![(0x1000..0x2000, middle)] };
        let mmio = Mmio::emulated(Arc::new(pieces), 0x3000);
        for at in [0usize, 0xFFC, 0x1000, 0x1FFC, 0x2000, 0x2FFC] {
            let there = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(mmio.read32(at as u32), there, "{at:#x}");
            mmio.write(at as u32 + 2, Width::Byte, 0xA5);
        }
        let now = std::fs::read(file.path()).unwrap();
        assert!([2, 0xFFE, 0x1002, 0x1FFE, 0x2002, 0x2FFE].iter().all(|&at| now[at] == 0xA5));
        assert_eq!(mmio.read32(0x3000), u32::MAX);
    }
}
