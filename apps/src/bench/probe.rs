//! A bus that tells when the device is at work: what happens inside a register access is the device's time, not ours.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use barewire_driver::bus::{Bus, BusError, Interrupts, Width};
use barewire_driver::dma::Region;
use barewire_driver::mmio::{Mmio, Registers};

/// Runs a register access, with whatever has to surround it.
pub type Around = fn(&mut dyn FnMut());

/// Another bus, with every register access going through an [`Around`], and without arrival stamps: no 82599 on a real bus has them.
pub struct ProbeBus {
    inner: Arc<dyn Bus>,
    around: Around,
}

impl ProbeBus {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Bus>, around: Around) -> Self {
        Self { inner, around }
    }
}

struct Probe {
    inner: Mmio,
    around: Around,
}

impl Registers for Probe {
    fn read(&self, offset: u32, width: Width) -> u32 {
        let mut value = 0;
        (self.around)(&mut || value = self.inner.read(offset, width));
        value
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        (self.around)(&mut || self.inner.write(offset, width, value));
    }
}

impl Bus for ProbeBus {
    fn address(&self) -> String {
        self.inner.address()
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        self.inner.config_read(offset, width)
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        self.inner.config_write(offset, width, value)
    }

    fn bar(&self, index: u8) -> Result<Mmio, BusError> {
        let inner = self.inner.bar(index)?;
        let len = inner.len();
        Ok(Mmio::emulated(Arc::new(Probe { inner, around: self.around }), len))
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.inner.iova_ranges()
    }

    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        self.inner.dma_map(iova, region)
    }

    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        self.inner.dma_unmap(iova, region)
    }

    fn interrupts(&self) -> Interrupts {
        self.inner.interrupts()
    }

    fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) -> Result<(), BusError> {
        self.inner.set_interrupt(vector, event)
    }

    fn reset(&self) -> Result<(), BusError> {
        self.inner.reset()
    }
}
