//! Device models in this process, and the small interface by which a model presents itself.
//!
//! A model sees its host through [`Host`]: DMA by I/O virtual address, and interrupts. It knows nothing of the driver.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::{Bus, BusError, InterruptKind, Interrupts, Width};
use crate::clock::Nanos;
use crate::dma::{Region, RegionWords};
use crate::mmio::{Mmio, Registers};

/// A device as its bus sees it. Every method may be called from any thread.
pub trait DeviceModel: Send + Sync {
    /// A short name for addresses and logs, such as `82599`.
    fn name(&self) -> &'static str;

    /// Connects the model to the memory and the interrupts of its host; called once, before anything else.
    fn attach(&self, host: Arc<Host>);

    /// Reads configuration space; offsets that hold nothing read zero.
    fn config_read(&self, offset: u16, width: Width) -> u32;

    /// Writes configuration space; read-only bits keep their value.
    fn config_write(&self, offset: u16, width: Width, value: u32);

    /// The size of each BAR in bytes; zero where there is none.
    fn bar_sizes(&self) -> [u32; 6];

    /// Reads a 32-bit register of a BAR.
    fn register_read(&self, bar: u8, offset: u32) -> u32;

    /// Writes a 32-bit register of a BAR. A doorbell runs the device on the caller's thread.
    fn register_write(&self, bar: u8, offset: u32, value: u32);

    /// How many MSI-X vectors there are.
    fn interrupt_vectors(&self) -> u16;

    /// Function-level reset. Returns only when no DMA is in flight.
    fn reset(&self);

    /// When frames reached receive ring `queue`; kept beside the device's state, because an 82599 has no such register.
    fn arrival_stamps(&self, queue: u16) -> Option<Arc<ArrivalStamps>>;
}

/// The times at which a model wrote frames into a receive ring, by descriptor index.
#[derive(Debug)]
pub struct ArrivalStamps(Box<[AtomicU64]>);

impl ArrivalStamps {
    /// Stamps for a ring of up to `size` descriptors.
    pub fn new(size: u32) -> Self {
        Self((0..size).map(|_| AtomicU64::new(0)).collect())
    }

    /// Notes the arrival of a frame that starts at `descriptor`; the model calls this before it sets the done bit.
    #[inline]
    pub fn set(&self, descriptor: u32, at: Nanos) {
        if let Some(stamp) = self.0.get(descriptor as usize) {
            stamp.store(at, Ordering::Relaxed);
        }
    }

    /// The stamps: when the frame that starts at a descriptor arrived. To be read after its done bit.
    #[inline]
    pub fn as_slice(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// What a device can do to its host: read and write mapped memory, and raise interrupts.
#[derive(Default)]
pub struct Host {
    /// Ascending by address, disjoint.
    mappings: RwLock<Vec<Mapping>>,
    signals: Mutex<Signals>,
}

struct Mapping {
    iova: u64,
    region: Arc<Region>,
}

impl Mapping {
    fn end(&self) -> u64 {
        self.iova + self.region.len() as u64
    }
}

/// Where interrupts go: eventfds, as VFIO counts them.
#[derive(Default)]
struct Signals {
    msix: Vec<Option<OwnedFd>>,
    line: LineSignal,
}

#[derive(Default)]
struct LineSignal {
    msi: Option<OwnedFd>,
    intx: Option<OwnedFd>,
    asserted: bool,
    intx_masked: bool,
}

/// The single interrupt of a device whose MSI-X is not in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// INTA#, level triggered: masks itself when it fires, until [`Host::mask_line`] says otherwise.
    IntX,
    /// One message, on the rising edge.
    Msi,
}

/// A device touched an address that is not mapped, or not for that: what an IOMMU would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("DMA of {len} bytes at IOVA {iova:#x} is outside every mapping")]
pub struct DmaFault {
    /// The address the device asked for.
    pub iova: u64,
    /// The length in bytes.
    pub len: usize,
}

impl Host {
    /// Begins a span of DMA. Mappings cannot go away while the guard lives; do not hold it while delivering to another device.
    pub fn dma(&self) -> Dma<'_> {
        Dma(self.mappings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Raises MSI-X `vector`; nothing happens where no eventfd is set.
    pub fn interrupt(&self, vector: u16) {
        if let Some(event) = self.signals().msix.get(usize::from(vector)) {
            fire(event);
        }
    }

    /// Sets or clears the eventfd of MSI-X `vector`.
    pub fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) {
        let vectors = &mut self.signals().msix;
        let at = usize::from(vector);
        if vectors.len() <= at {
            vectors.resize_with(at + 1, || None);
        }
        vectors[at] = event;
    }

    /// Whether the host takes MSI-X messages; if not, a device has one interrupt for everything: [`Host::drive_line`].
    pub fn takes_messages(&self) -> bool {
        self.signals().msix.iter().any(Option::is_some)
    }

    /// Says whether the device has an unmasked cause. Fires on the rising edge (MSI), or while high and not masked (INTx).
    pub fn drive_line(&self, asserted: bool) {
        let line = &mut self.signals().line;
        if asserted && !line.asserted {
            fire(&line.msi);
        }
        line.asserted = asserted;
        line.fire_intx();
    }

    /// Masks INTx, or lets it fire again.
    pub fn mask_line(&self, masked: bool) {
        let line = &mut self.signals().line;
        line.intx_masked = masked;
        line.fire_intx();
    }

    /// Sets or clears the eventfd of the single interrupt.
    pub fn set_line(&self, kind: Line, event: Option<OwnedFd>) {
        let line = &mut self.signals().line;
        match kind {
            Line::Msi => line.msi = event,
            Line::IntX => {
                line.intx = event;
                line.intx_masked = false;
                line.fire_intx();
            }
        }
    }

    /// Adds one to the eventfd of the single interrupt, whatever the device's state.
    pub fn trigger_line(&self, kind: Line) {
        let line = &self.signals().line;
        fire(match kind {
            Line::Msi => &line.msi,
            Line::IntX => &line.intx,
        });
    }

    /// Maps `region` at `iova`. The reason says what is in the way.
    pub fn map(&self, iova: u64, region: &Arc<Region>) -> Result<(), &'static str> {
        let end = iova.checked_add(region.len() as u64).ok_or("the range wraps around")?;
        let mut mappings = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
        let at = mappings.partition_point(|mapping| mapping.iova < iova);
        let overlaps = at > 0 && mappings[at - 1].end() > iova || mappings.get(at).is_some_and(|next| next.iova < end);
        if overlaps {
            return Err("it overlaps a mapping");
        }
        mappings.insert(at, Mapping { iova, region: Arc::clone(region) });
        Ok(())
    }

    /// Whether any of `len` bytes from `iova` on is mapped.
    pub fn is_mapped(&self, iova: u64, len: u64) -> bool {
        let mappings = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
        let end = iova.saturating_add(len);
        let last = mappings.partition_point(|mapping| mapping.iova < end);
        last.checked_sub(1).is_some_and(|at| mappings[at].end() > iova)
    }

    /// Unmaps everything inside `len` bytes from `iova` on; waits for DMA in flight. Returns how many mappings went. The range must not
    /// cut a mapping in two; the reason says so.
    pub fn unmap(&self, iova: u64, len: u64) -> Result<usize, &'static str> {
        let end = iova.checked_add(len).ok_or("the range wraps around")?;
        let mut mappings = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
        let first = mappings.partition_point(|mapping| mapping.end() <= iova);
        let last = mappings.partition_point(|mapping| mapping.iova < end);
        match mappings.get(first..last) {
            Some([]) | None => Ok(0),
            Some([only @ .., edge]) if only.first().unwrap_or(edge).iova < iova || edge.end() > end => {
                Err("it would cut a mapping in two")
            }
            Some(inside) => {
                let count = inside.len();
                mappings.drain(first..last);
                Ok(count)
            }
        }
    }

    /// Takes everything back that the host gave: mappings and eventfds. Waits for DMA in flight.
    pub fn clear(&self) {
        self.mappings.write().unwrap_or_else(PoisonError::into_inner).clear();
        *self.signals() = Signals::default();
    }

    fn signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineSignal {
    fn fire_intx(&mut self) {
        if self.asserted && !self.intx_masked && self.intx.is_some() {
            self.intx_masked = true;
            fire(&self.intx);
        }
    }
}

fn fire(event: &Option<OwnedFd>) {
    if let Some(event) = event {
        // A full counter (EAGAIN) already means "pending"; there is nobody to tell of anything else.
        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
    }
}

/// A span of DMA: reads and writes by I/O virtual address.
pub struct Dma<'a>(RwLockReadGuard<'a, Vec<Mapping>>);

impl Dma<'_> {
    /// Copies `into.len()` bytes from host memory. They may lie in several mappings, one behind the other.
    pub fn read(&self, iova: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < into.len() {
            let (region, offset, len) = self.piece(iova, done, into.len())?;
            region.read(offset, &mut into[done..done + len]);
            done += len;
        }
        Ok(())
    }

    /// Copies `from` into host memory. It may lie in several mappings, one behind the other; what lies before a fault is written.
    pub fn write(&self, iova: u64, from: &[u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < from.len() {
            let (region, offset, len) = self.piece(iova, done, from.len())?;
            if !region.is_writable() {
                return Err(DmaFault { iova, len: from.len() });
            }
            region.write(offset, &from[done..done + len]);
            done += len;
        }
        Ok(())
    }

    /// Views `count` 64-bit words (a power of two) at `iova`, which must be 8-byte aligned, as descriptor memory. They must lie in one
    /// writable mapping.
    pub fn words(&self, iova: u64, count: usize) -> Result<RegionWords<'_>, DmaFault> {
        let fault = DmaFault { iova, len: count.saturating_mul(8) };
        let (region, offset, _) = self.piece(iova, 0, fault.len)?;
        region.words(offset, count).ok_or(fault)
    }

    /// Where byte `done` of a span of `len` bytes lies, and how many of its bytes follow there.
    #[inline]
    fn piece(&self, iova: u64, done: usize, len: usize) -> Result<(&Region, usize, usize), DmaFault> {
        let fault = DmaFault { iova, len };
        let start = iova.checked_add(done as u64).ok_or(fault)?;
        let after = self.0.partition_point(|mapping| mapping.iova <= start);
        let mapping = after.checked_sub(1).and_then(|at| self.0.get(at)).ok_or(fault)?;
        let offset = (start - mapping.iova) as usize;
        let room = mapping.region.len().checked_sub(offset).filter(|room| *room > 0).ok_or(fault)?;
        Ok((&mapping.region, offset, room.min(len - done)))
    }
}

/// A bus with one device model on it, in this process.
pub struct ModelBus {
    model: Arc<dyn DeviceModel>,
    host: Arc<Host>,
}

impl ModelBus {
    /// Plugs `model` in.
    pub fn new(model: Arc<dyn DeviceModel>) -> Self {
        let host = Arc::new(Host::default());
        model.attach(Arc::clone(&host));
        Self { model, host }
    }

    /// The memory and the interrupts that the model reaches.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The model.
    pub fn model(&self) -> &Arc<dyn DeviceModel> {
        &self.model
    }
}

/// One BAR of a model.
struct Bar {
    model: Arc<dyn DeviceModel>,
    index: u8,
}

impl Registers for Bar {
    #[inline]
    fn read(&self, offset: u32, width: Width) -> u32 {
        let dword = self.model.register_read(self.index, offset & !3);
        dword >> (8 * (offset & 3)) & width.mask()
    }

    #[inline]
    fn write(&self, offset: u32, width: Width, value: u32) {
        // Registers of these devices are 32 bits wide; what a narrower write does to one is not defined, so it does nothing.
        if width == Width::Dword {
            self.model.register_write(self.index, offset, value);
        }
    }
}

impl Bus for ModelBus {
    fn address(&self) -> String {
        format!("model:{}", self.model.name())
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        Ok(self.model.config_read(offset, width))
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        self.model.config_write(offset, width, value);
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<Mmio, BusError> {
        match self.model.bar_sizes().get(usize::from(index)) {
            Some(&len) if len > 0 => Ok(Mmio::emulated(Arc::new(Bar { model: Arc::clone(&self.model), index }), len)),
            _ => Err(BusError::NoBar { address: self.address(), bar: index }),
        }
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        // What an IOMMU with a 39-bit address width leaves on x86-64: all but the interrupt window.
        vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 39) - 1]
    }

    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        self.host.map(iova, region).map_err(|reason| BusError::Map {
            address: self.address(),
            iova,
            len: region.len(),
            reason,
        })
    }

    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        let reason = match self.host.unmap(iova, region.len() as u64) {
            Ok(0) => "nothing is mapped there",
            Ok(_) => return Ok(()),
            Err(reason) => reason,
        };
        Err(BusError::Map { address: self.address(), iova, len: region.len(), reason })
    }

    fn interrupts(&self) -> Interrupts {
        Interrupts { kind: InterruptKind::MsiX, vectors: self.model.interrupt_vectors() }
    }

    fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) -> Result<(), BusError> {
        let available = self.model.interrupt_vectors();
        if vector >= available {
            return Err(BusError::NoVector { address: self.address(), vector, available });
        }
        self.host.set_interrupt(vector, event);
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        self.model.reset();
        Ok(())
    }

    fn arrival_stamps(&self, queue: u16) -> Option<Arc<ArrivalStamps>> {
        self.model.arrival_stamps(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    fn host(places: &[u64]) -> Host {
        let host = Host::default();
        for &iova in places {
            let region = Region::allocate("test", 4096).unwrap();
            let len = region.len() as u64;
            host.map(iova * len, &region).unwrap();
        }
        host
    }

    fn page() -> u64 {
        Region::allocate("test", 4096).unwrap().len() as u64
    }

    #[test]
    fn dma_crosses_from_mapping_to_mapping_and_faults_in_the_gap() {
        let (host, page) = (host(&[4, 2, 1]), page());
        let dma = host.dma();
        dma.write(2 * page - 2, b"tick").unwrap();
        let mut back = [0; 4];
        dma.read(2 * page - 2, &mut back).unwrap();
        assert_eq!(&back, b"tick");
        for iova in [0, page - 1, 3 * page - 3, 5 * page, u64::MAX - 1] {
            assert!(dma.read(iova, &mut back).is_err(), "{iova:#x}");
        }
        assert!(dma.words(2 * page - 8, 2).is_err());
    }

    #[test]
    fn unmap_takes_whole_mappings_only() {
        let (host, page) = (host(&[1, 2, 4]), page());
        assert!(host.unmap(page + 8, page).is_err());
        assert!(host.unmap(page, page + 1).is_err());
        assert_eq!(host.unmap(0, page), Ok(0));
        assert_eq!(host.unmap(page, 2 * page), Ok(2));
        assert_eq!(host.unmap(0, u64::MAX), Ok(1));
        assert!(host.unmap(8, u64::MAX).is_err());
    }

    fn event() -> (OwnedFd, OwnedFd) {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        (event.try_clone().unwrap(), event)
    }

    fn count(event: &OwnedFd) -> u64 {
        let mut value = [0; 8];
        rustix::io::read(event, &mut value).map_or(0, |_| u64::from_ne_bytes(value))
    }

    #[test]
    fn line_masks_itself_and_fires_again_while_high() {
        let host = Host::default();
        let (given, kept) = event();
        host.set_line(Line::IntX, Some(given));
        host.drive_line(true);
        host.drive_line(true);
        assert_eq!(count(&kept), 1);
        host.mask_line(false);
        assert_eq!(count(&kept), 1);
        host.drive_line(false);
        host.mask_line(false);
        assert_eq!(count(&kept), 0);
    }

    #[test]
    fn message_fires_on_the_rising_edge() {
        let host = Host::default();
        let (given, kept) = event();
        host.set_line(Line::Msi, Some(given));
        for level in [true, true, false, true] {
            host.drive_line(level);
        }
        assert_eq!(count(&kept), 2);
    }
}
