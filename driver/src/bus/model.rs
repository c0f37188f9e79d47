//! Device models in this process, and the small interface by which a model presents itself.
//!
//! A model sees its host through [`Host`]: DMA by I/O virtual address, and interrupts. It knows nothing of the driver.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::{Bus, BusError, Width};
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

    /// When the frame that starts at `descriptor` arrived; read after its done bit.
    #[inline]
    pub fn get(&self, descriptor: u32) -> Nanos {
        self.0.get(descriptor as usize).map_or(0, |stamp| stamp.load(Ordering::Relaxed))
    }
}

/// What a device can do to its host: read and write mapped memory, and raise interrupts.
#[derive(Default)]
pub struct Host {
    mappings: RwLock<Vec<Mapping>>,
    vectors: Mutex<Vec<Option<OwnedFd>>>,
}

struct Mapping {
    iova: u64,
    region: Arc<Region>,
}

/// A device touched an address that is not mapped: what an IOMMU would refuse.
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
        let vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(event)) = vectors.get(usize::from(vector)) {
            // A full counter (EAGAIN) already means "pending"; there is nobody to tell of anything else.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    /// Maps `region` at `iova`. The reason says what is in the way.
    pub fn map(&self, iova: u64, region: &Arc<Region>) -> Result<(), &'static str> {
        let end = iova.checked_add(region.len() as u64).ok_or("the range wraps around")?;
        let mut mappings = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
        if mappings.iter().any(|m| m.iova < end && iova < m.iova + m.region.len() as u64) {
            return Err("it overlaps a mapping");
        }
        mappings.push(Mapping { iova, region: Arc::clone(region) });
        Ok(())
    }

    /// Unmaps what was mapped at `iova`; waits for DMA in flight. Says whether there was such a mapping.
    pub fn unmap(&self, iova: u64) -> bool {
        let mut mappings = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
        let before = mappings.len();
        mappings.retain(|m| m.iova != iova);
        mappings.len() != before
    }

    /// Sets or clears the eventfd of `vector`.
    pub fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) {
        let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::from(vector);
        if vectors.len() <= at {
            vectors.resize_with(at + 1, || None);
        }
        vectors[at] = event;
    }
}

/// A span of DMA: reads and writes by I/O virtual address.
pub struct Dma<'a>(RwLockReadGuard<'a, Vec<Mapping>>);

impl Dma<'_> {
    /// Copies `into.len()` bytes from host memory.
    pub fn read(&self, iova: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let (region, offset) = self.find(iova, into.len())?;
        region.read(offset, into);
        Ok(())
    }

    /// Copies `from` into host memory.
    pub fn write(&self, iova: u64, from: &[u8]) -> Result<(), DmaFault> {
        let (region, offset) = self.find(iova, from.len())?;
        region.write(offset, from);
        Ok(())
    }

    /// Views `count` 64-bit words (a power of two) at `iova`, which must be 8-byte aligned, as descriptor memory.
    pub fn words(&self, iova: u64, count: usize) -> Result<RegionWords<'_>, DmaFault> {
        let fault = DmaFault { iova, len: count.saturating_mul(8) };
        let (region, offset) = self.find(iova, fault.len)?;
        region.words(offset, count).ok_or(fault)
    }

    fn find(&self, iova: u64, len: usize) -> Result<(&Region, usize), DmaFault> {
        let fault = DmaFault { iova, len };
        let end = iova.checked_add(len as u64).ok_or(fault)?;
        let holds = |m: &&Mapping| m.iova <= iova && end <= m.iova + m.region.len() as u64;
        let mapping = self.0.iter().find(holds).ok_or(fault)?;
        Ok((&mapping.region, (iova - mapping.iova) as usize))
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
}

/// One BAR of a model.
struct Bar {
    model: Arc<dyn DeviceModel>,
    index: u8,
}

impl Registers for Bar {
    fn read32(&self, offset: u32) -> u32 {
        self.model.register_read(self.index, offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.model.register_write(self.index, offset, value);
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
        if self.host.unmap(iova) {
            return Ok(());
        }
        Err(BusError::Map { address: self.address(), iova, len: region.len(), reason: "nothing is mapped there" })
    }

    fn interrupt_vectors(&self) -> u16 {
        self.model.interrupt_vectors()
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
