//! Virtio over PCI (virtio 1.2, 4.1): where the structures lie, and access to them. What the device says of places is checked once, here.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::regs::Register;
use crate::bus::{Bus, Width, config};
use crate::error::Error;
use crate::mmio::{self, Mmio, MmioError};

/// The virtio structures of a device.
pub struct Transport {
    /// The device's address on its bus, for messages.
    pub address: String,
    /// Common configuration (4.1.4.3).
    pub common: Window,
    /// Device configuration (4.1.4.6).
    pub device: Window,
    /// ISR status (4.1.4.5).
    pub isr: Window,
    notify: Window,
    /// Bytes from one doorbell to the next (4.1.4.4).
    multiplier: u32,
}

impl Transport {
    /// Finds the structures by the capability list of the device on `bus`.
    ///
    /// # Errors
    /// When one is missing, leaves its BAR, or the list does not end.
    pub fn find(bus: &dyn Bus) -> Result<Self, Error> {
        let capabilities = Capabilities::read(bus)?;
        let find = |kind, least| capabilities.window(bus, kind, least);
        let (notify, at) = find(Kind::Notify, 2)?;
        Ok(Self {
            address: bus.address(),
            common: find(Kind::Common, super::regs::COMMON_LEN)?.0,
            // The MAC and the status are there with any feature set that is accepted (5.1.4).
            device: find(Kind::Device, 8)?.0,
            isr: find(Kind::Isr, 1)?.0,
            notify,
            multiplier: bus.config_read(at + 16, Width::Dword)?,
        })
    }

    /// The doorbell of `queue`, which the device placed at `notify_off` (4.1.4.4).
    ///
    /// # Errors
    /// When it lies outside the structure.
    pub fn doorbell(&self, queue: u16, notify_off: u16) -> Result<Doorbell, Error> {
        let place = u64::from(notify_off) * u64::from(self.multiplier);
        let offset = u32::try_from(place).ok().filter(|offset| self.notify.holds(*offset, Width::Word));
        let offset = offset.ok_or_else(|| Error::DeviceFault {
            address: self.address.clone(),
            what: "queue_notify_off",
            value: place,
            limit: "the doorbell must lie inside the notify structure, at an even place",
        })?;
        Ok(Doorbell { register: self.notify.mmio.doorbell(self.notify.offset + offset, Width::Word), queue })
    }
}

/// Rings for one queue (4.1.5.2).
pub struct Doorbell {
    register: mmio::Doorbell,
    queue: u16,
}

impl Doorbell {
    /// Tells the device to look at the available ring.
    #[inline]
    pub fn ring(&self) {
        self.register.ring(self.queue.into());
    }
}

/// One structure in its BAR.
#[derive(Clone)]
pub struct Window {
    mmio: Mmio,
    offset: u32,
    len: u32,
}

impl Window {
    /// Reads `register`; one that lies outside the structure reads all ones.
    pub fn read(&self, register: Register) -> u32 {
        if !self.holds(register.offset, register.width) {
            return register.width.mask();
        }
        self.mmio.read(self.offset + register.offset, register.width)
    }

    /// Writes `register`; one that lies outside the structure is dropped.
    pub fn write(&self, register: Register, value: u32) {
        if self.holds(register.offset, register.width) {
            self.mmio.write(self.offset + register.offset, register.width, value);
        }
    }

    /// Writes a 64-bit register, whose low half is `register`, in two halves (4.1.3.1).
    pub fn write_wide(&self, register: Register, value: u64) {
        self.write(register, value as u32);
        self.write(Register { offset: register.offset + 4, ..register }, (value >> 32) as u32);
    }

    /// Reads `register` until `done` holds, for at most `limit`.
    ///
    /// # Errors
    /// As [`Mmio::wait_for`].
    pub fn wait(
        &self,
        register: Register,
        what: &'static str,
        limit: Duration,
        done: impl Fn(u32) -> bool,
    ) -> Result<u32, MmioError> {
        self.mmio.wait_for(register.name, (self.offset + register.offset, register.width), what, limit, done)
    }

    /// The error that the device does not answer any more.
    pub fn gone(&self, register: Register) -> MmioError {
        MmioError::Gone { register: register.name, offset: self.offset + register.offset }
    }

    fn holds(&self, offset: u32, width: Width) -> bool {
        let bytes = u32::from(width.bytes());
        offset <= self.len && bytes <= self.len - offset && (self.offset + offset).is_multiple_of(bytes)
    }
}

/// Structure types (4.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Common => "VIRTIO_PCI_CAP_COMMON_CFG",
            Self::Notify => "VIRTIO_PCI_CAP_NOTIFY_CFG",
            Self::Isr => "VIRTIO_PCI_CAP_ISR_CFG",
            Self::Device => "VIRTIO_PCI_CAP_DEVICE_CFG",
        }
    }
}

/// The places in configuration space of the vendor capabilities: structure type and offset.
struct Capabilities(Vec<(u8, u16)>);

impl Capabilities {
    /// Walks the list (PCI Local Bus 3.0, 6.7).
    fn read(bus: &dyn Bus) -> Result<Self, Error> {
        const VENDOR_SPECIFIC: u8 = 0x09;
        /// Capabilities that fit in 192 bytes at four each; a longer list is a loop.
        const MOST: usize = 48;
        let mut found = Vec::new();
        if bus.config_read(config::STATUS, Width::Word)? & config::STATUS_CAPABILITIES == 0 {
            return Ok(Self(found));
        }
        let mut at = bus.config_read(config::CAPABILITIES, Width::Byte)? as u16 & 0xFC;
        for _ in 0..MOST {
            // The list ends at zero; anything else below the header's end is no capability.
            if at < 0x40 {
                return Ok(Self(found));
            }
            let header = bus.config_read(at, Width::Dword)?;
            let [id, next, _len, kind] = header.to_le_bytes();
            if id == VENDOR_SPECIFIC {
                found.push((kind, at));
            }
            at = u16::from(next & 0xFC);
        }
        Err(Error::DeviceFault {
            address: bus.address(),
            what: "capability list",
            value: at.into(),
            limit: "it must end after at most 48 entries",
        })
    }

    /// Opens the first structure of `kind` with at least `least` bytes, and tells where its capability is. The first is the one the device
    /// prefers (4.1.4.2).
    fn window(&self, bus: &dyn Bus, kind: Kind, least: u32) -> Result<(Window, u16), Error> {
        let found = self.0.iter().find(|(other, _)| *other == kind as u8);
        let &(_, at) = found.ok_or_else(|| Error::MissingFeature {
            address: bus.address(),
            feature: kind.name(),
            follows: "it is no modern virtio device; with QEMU, say disable-legacy=on,disable-modern=off",
        })?;
        let bar = bus.config_read(at + 4, Width::Byte)? as u8;
        let offset = bus.config_read(at + 8, Width::Dword)?;
        let len = bus.config_read(at + 12, Width::Dword)?;
        let mmio = bus.bar(bar)?;
        let end = u64::from(offset) + u64::from(len);
        if len < least || end > u64::from(mmio.len()) {
            return Err(Error::DeviceFault {
                address: bus.address(),
                what: kind.name(),
                value: end,
                limit: "the structure must have its registers and lie inside its BAR",
            });
        }
        Ok((Window { mmio, offset, len }, at))
    }
}
