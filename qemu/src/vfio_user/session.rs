//! What a vfio-user client may do to a device: commands in, answers out, no sockets.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use barewire_driver::bus::model::{Line, ModelBus};
use barewire_driver::bus::vfio_user::protocol::{
    CONFIG_REGION, Errno, IrqAction, IrqData, Place, Reply, Request, SetIrqs, VERSION, irq,
};
use barewire_driver::bus::{Bus, Width};
use barewire_driver::dma::{ImportError, Region};

/// Regions that are counted: BARs, the expansion ROM, configuration space, VGA (VFIO).
const REGIONS: u32 = 9;
/// Interrupt indices that are counted: INTx, MSI, MSI-X, errors, requests (VFIO).
const IRQS: u32 = 5;
/// Extended configuration space (PCI Express 7.2).
const CONFIG_SIZE: u64 = 4096;
/// Mappings that a client may have; Linux allows a process about as many.
const MAPPINGS: usize = 32_768;

/// One client on one device.
pub(super) struct Session<'a> {
    bus: &'a ModelBus,
    greeted: bool,
    /// Mappings with memory behind them.
    backed: usize,
    /// Ranges that the client has no memory for, such as ROMs: known, so that they can be unmapped, and nothing else.
    unbacked: BTreeMap<u64, u64>,
    /// What the last read returned.
    data: Vec<u8>,
}

impl<'a> Session<'a> {
    /// A client that has not said anything yet.
    pub fn new(bus: &'a ModelBus) -> Self {
        Self { bus, greeted: false, backed: 0, unbacked: BTreeMap::new(), data: Vec::new() }
    }

    /// Does what is asked.
    ///
    /// # Errors
    /// The error to answer with; the device is as it was.
    pub fn handle(&mut self, request: &Request<'_>, fds: Vec<OwnedFd>) -> Result<Reply<'_>, Errno> {
        match *request {
            Request::Version { version } => {
                self.greeted = version.0 == VERSION.0;
                return if self.greeted { Ok(Reply::Version) } else { Err(Errno::INVALID) };
            }
            _ if !self.greeted => return Err(Errno::INVALID),
            _ => {}
        }
        match *request {
            Request::Version { .. } => Ok(Reply::Version),
            Request::DmaMap { writable, offset, iova, size } => {
                self.map(writable, offset, iova, size, fds).map(|()| Reply::Done)
            }
            Request::DmaUnmap { all, iova, size } => {
                self.unmap(all, iova, size).map(|()| Reply::Unmapped { iova, size })
            }
            Request::DeviceInfo => Ok(Reply::Device { regions: REGIONS, irqs: IRQS }),
            Request::RegionInfo { index } if index < REGIONS => {
                Ok(Reply::Region { index, size: self.region_size(index) })
            }
            Request::IrqInfo { index } if index < IRQS => Ok(Reply::Irq { index, count: self.irq_count(index) }),
            Request::RegionInfo { .. } | Request::IrqInfo { .. } => Err(Errno::INVALID),
            Request::SetIrqs(irqs) => self.set_irqs(&irqs, fds).map(|()| Reply::Done),
            Request::RegionRead { place } => {
                self.read(place)?;
                Ok(Reply::Read { place, data: &self.data })
            }
            Request::RegionWrite { place, data } => self.write(place, data).map(|()| Reply::Written { place }),
            Request::Reset => self.bus.reset().map(|()| Reply::Done).map_err(|_| Errno::INVALID),
        }
    }

    fn map(&mut self, writable: bool, offset: u64, iova: u64, size: u64, mut fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let end = iova.checked_add(size).ok_or(Errno::INVALID)?;
        if self.backed + self.unbacked.len() >= MAPPINGS {
            return Err(Errno::NO_SPACE);
        }
        let before = self.unbacked.range(..end).next_back();
        if before.is_some_and(|(&start, &len)| start + len > iova) {
            return Err(Errno::EXISTS);
        }
        match (fds.pop(), fds.is_empty()) {
            (Some(fd), true) => {
                let len = usize::try_from(size).map_err(|_| Errno::INVALID)?;
                let region = Region::import(fd, offset, len, writable).map_err(|error| {
                    log::warn!("a client's mapping at {iova:#x} is refused: {error}");
                    if matches!(error, ImportError::System(_)) { Errno::NO_SPACE } else { Errno::INVALID }
                })?;
                self.bus.host().map(iova, &region).map_err(|_| Errno::EXISTS)?;
                self.backed += 1;
            }
            (None, _) => {
                if self.bus.host().is_mapped(iova, size) {
                    return Err(Errno::EXISTS);
                }
                self.unbacked.insert(iova, size);
            }
            (Some(_), false) => return Err(Errno::INVALID),
        }
        Ok(())
    }

    fn unmap(&mut self, all: bool, iova: u64, size: u64) -> Result<(), Errno> {
        let (iova, size) = if all { (0, u64::MAX) } else { (iova, size) };
        let end = iova.checked_add(size).ok_or(Errno::INVALID)?;
        let inside = |(&start, &len): (&u64, &u64)| start >= iova && start + len <= end;
        let known = self.unbacked.range(iova..end).filter(|&range| inside(range)).count();
        let unmapped = self.bus.host().unmap(iova, size).map_err(|_| Errno::INVALID)?;
        self.backed = self.backed.saturating_sub(unmapped);
        self.unbacked.retain(|start, len| !inside((start, len)));
        if all || unmapped + known > 0 { Ok(()) } else { Err(Errno::NOT_FOUND) }
    }

    fn region_size(&self, index: u32) -> u64 {
        match index {
            CONFIG_REGION => CONFIG_SIZE,
            bar => self.bus.model().bar_sizes().get(bar as usize).copied().unwrap_or(0).into(),
        }
    }

    fn irq_count(&self, index: u32) -> u32 {
        match index {
            irq::INTX | irq::MSI | irq::ERROR => 1,
            irq::MSIX => self.bus.model().interrupt_vectors().into(),
            _ => 0,
        }
    }

    /// Cuts a place into the widest aligned accesses, in order, after checking it against its region.
    fn accesses(&self, place: Place) -> Result<impl Iterator<Item = (usize, u32, Width)> + use<>, Errno> {
        let end = place.offset.checked_add(place.count.into()).ok_or(Errno::INVALID)?;
        if end > self.region_size(place.region) {
            return Err(Errno::INVALID);
        }
        let (start, count) = (place.offset as u32, place.count);
        let mut done = 0;
        Ok(std::iter::from_fn(move || {
            let (at, left) = (start + done, count - done);
            let width = match (at & 3, left) {
                (_, 0) => return None,
                (0, 4..) => Width::Dword,
                (0 | 2, 2..) => Width::Word,
                _ => Width::Byte,
            };
            let index = done as usize;
            done += u32::from(width.bytes());
            Some((index, at, width))
        }))
    }

    fn read(&mut self, place: Place) -> Result<(), Errno> {
        let accesses = self.accesses(place)?;
        let mut data = std::mem::take(&mut self.data);
        data.clear();
        let window = self.window(place.region)?;
        for (_, at, width) in accesses {
            let value = match &window {
                Some(registers) => registers.read(at, width),
                None => self.bus.config_read(at as u16, width).map_err(|_| Errno::INVALID)?,
            };
            data.extend_from_slice(&value.to_le_bytes()[..width.bytes().into()]);
        }
        self.data = data;
        Ok(())
    }

    fn write(&self, place: Place, data: &[u8]) -> Result<(), Errno> {
        let window = self.window(place.region)?;
        for (index, at, width) in self.accesses(place)? {
            let bytes = &data[index..index + usize::from(width.bytes())];
            let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            match &window {
                Some(registers) => registers.write(at, width, value),
                None => self.bus.config_write(at as u16, width, value).map_err(|_| Errno::INVALID)?,
            }
        }
        Ok(())
    }

    /// The registers of a BAR; `None` for configuration space.
    fn window(&self, region: u32) -> Result<Option<barewire_driver::mmio::Mmio>, Errno> {
        match region {
            CONFIG_REGION => Ok(None),
            bar => self.bus.bar(bar as u8).map(Some).map_err(|_| Errno::INVALID),
        }
    }

    fn set_irqs(&self, irqs: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let SetIrqs { index, start, count, action, data } = *irqs;
        let available = self.irq_count(index);
        if available == 0 || start + count > available {
            return Err(Errno::INVALID);
        }
        let host = self.bus.host();
        let set = |number: u32, event: Option<OwnedFd>| match index {
            irq::MSIX => host.set_interrupt(number as u16, event),
            irq::MSI => host.set_line(Line::Msi, event),
            irq::INTX => host.set_line(Line::IntX, event),
            // A model has no errors to tell of; its client may wait for them all the same.
            _ => {}
        };
        let chosen = |number: u32| match data {
            IrqData::Bool(bytes) => bytes.get((number - start) as usize).is_some_and(|&byte| byte != 0),
            _ => true,
        };
        let numbers = start..start + count;
        match (action, data) {
            (IrqAction::Trigger, IrqData::EventFd) => {
                if !fds.is_empty() && fds.len() != count as usize {
                    return Err(Errno::INVALID);
                }
                let mut events = fds.into_iter();
                numbers.for_each(|number| set(number, events.next()));
            }
            // VFIO's way to turn an index off.
            (IrqAction::Trigger, IrqData::None) if count == 0 => (0..available).for_each(|number| set(number, None)),
            (IrqAction::Trigger, _) => numbers.filter(|&number| chosen(number)).for_each(|number| match index {
                irq::MSIX => host.interrupt(number as u16),
                irq::MSI => host.trigger_line(Line::Msi),
                irq::INTX => host.trigger_line(Line::IntX),
                _ => {}
            }),
            (IrqAction::Mask | IrqAction::Unmask, IrqData::None | IrqData::Bool(_)) if index == irq::INTX => {
                numbers.filter(|&number| chosen(number)).for_each(|_| host.mask_line(action == IrqAction::Mask));
            }
            _ => return Err(Errno::INVALID),
        }
        Ok(())
    }
}

impl Drop for Session<'_> {
    /// The client is gone: the device stops, and reaches nothing of it any more.
    fn drop(&mut self) {
        if let Err(error) = self.bus.reset() {
            log::warn!("{error}");
        }
        self.bus.host().clear();
    }
}
