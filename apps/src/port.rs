//! From a port's URI to a port: the one place that names concrete drivers.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use barewire_driver::bus::sysfs::{PciAddress, SysfsError};
use barewire_driver::bus::vfio::{VfioBus, VfioError};
use barewire_driver::bus::vfio_user::VfioUserBus;
use barewire_driver::bus::{Bus, Width, config};
use barewire_driver::soft::SoftPort;
use barewire_driver::tap::{self, Tap, TapError};
use barewire_driver::{Port, PortConfig, e1000, ixgbe, virtio};

/// Why a port cannot be had. The message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not the form of a port's URI.
    #[error(
        "{0:?} names no port; write model:82599, vfio:0000:03:00.0, vfio-user:/path.sock or tap:NAME, with options as in ?queues=1&rxd=1024&txd=1024"
    )]
    Uri(String),
    /// No driver is for it.
    #[error("{address}: no driver for device {vendor:04x}:{device:04x}; `barewire devices` lists what is supported")]
    Unsupported {
        /// Bus address.
        address: String,
        /// PCI vendor id.
        vendor: u16,
        /// PCI device id.
        device: u16,
    },
    /// The kernel's VFIO did not give the device.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// The port did not come up, or failed later.
    #[error(transparent)]
    Driver(#[from] barewire_driver::Error),
}

impl Error {
    /// Whether what was asked for is at fault, and not what happened then.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Uri(_) | Self::Unsupported { .. } => true,
            Self::Vfio(VfioError::Sysfs(error)) => !matches!(error, SysfsError::File { .. }),
            Self::Driver(error) => matches!(
                error,
                barewire_driver::Error::InvalidConfig { .. } | barewire_driver::Error::Tap(TapError::Name { .. })
            ),
            Self::Vfio(_) => false,
        }
    }
}

/// Where a port's device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In this process: one of two model 82599 on a wire of their own, for trials.
    Model,
    /// Behind the kernel's VFIO.
    Vfio(PciAddress),
    /// In another process, behind a vfio-user socket.
    VfioUser(PathBuf),
    /// None: a TAP interface of the kernel of this machine.
    Tap(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => f.write_str("model:82599"),
            Self::Vfio(address) => write!(f, "vfio:{address}"),
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            Self::Tap(name) => write!(f, "tap:{name}"),
        }
    }
}

/// A port by its URI, such as `vfio:0000:03:00.0?rxd=512`.
#[derive(Debug, Clone)]
pub struct PortUri {
    /// Where its device is.
    pub place: Place,
    /// What it is opened with.
    pub config: PortConfig,
}

impl PortUri {
    /// Goes to where the port is.
    pub fn reach(&self) -> Result<Reached, Error> {
        Ok(match &self.place {
            Place::Model => Reached::Trial,
            Place::Vfio(address) => Reached::Device(Arc::new(VfioBus::open(*address)?)),
            Place::VfioUser(path) => {
                Reached::Device(Arc::new(VfioUserBus::connect(path).map_err(barewire_driver::Error::from)?))
            }
            Place::Tap(name) => Reached::Tap(tap::open(name, self.config)?),
        })
    }
}

/// What is where a port is.
pub enum Reached {
    /// Nothing: its device is a model that is still to be made, with a far end.
    Trial,
    /// A device, for [`open`].
    Device(Arc<dyn Bus>),
    /// The port.
    Tap(SoftPort<Tap>),
}

impl FromStr for PortUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || Error::Uri(text.to_owned()).to_string();
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let place = match place.split_once(':').ok_or_else(bad)? {
            ("model", "82599") => Place::Model,
            ("vfio", address) => Place::Vfio(address.parse().map_err(|error: SysfsError| error.to_string())?),
            ("vfio-user", path) if !path.is_empty() => Place::VfioUser(path.into()),
            ("tap", name) if !name.is_empty() => Place::Tap(name.to_owned()),
            _ => return Err(bad()),
        };
        let mut config = PortConfig::default();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(bad)?;
            let number = || value.parse::<u32>().map_err(|_| format!("{option:?}: the value must be a number"));
            match name {
                "queues" => config.queues = u16::try_from(number()?).unwrap_or(u16::MAX),
                "rxd" => config.rx_descriptors = number()?,
                "txd" => config.tx_descriptors = number()?,
                _ => return Err(format!("{name:?} is no option of a port; there are queues, rxd and txd")),
            }
        }
        Ok(Self { place, config })
    }
}

/// What is done with a port, whatever its driver: static dispatch from here on.
pub trait UsePort {
    /// What comes of it.
    type Output;

    /// Does it.
    fn with<P: Port>(self, port: P) -> Self::Output;
}

/// The drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Intel 82599.
    Ixgbe,
    /// Intel 82540EM, 82545EM and 82574L.
    E1000,
    /// virtio-net, of QEMU and other hypervisors.
    Virtio,
}

impl Driver {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ixgbe => "ixgbe",
            Self::E1000 => "e1000",
            Self::Virtio => "virtio",
        }
    }
}

/// The driver for a device and the name of the part.
pub fn part(vendor: u16, device: u16) -> Option<(Driver, &'static str)> {
    let families = [
        (Driver::Ixgbe, ixgbe::part(vendor, device)),
        (Driver::E1000, e1000::part(vendor, device)),
        (Driver::Virtio, virtio::part(vendor, device)),
    ];
    families.into_iter().find_map(|(driver, name)| Some((driver, name?)))
}

/// Opens the port of the device on `bus` with the driver that its ids call for.
pub fn open<V: UsePort>(bus: Arc<dyn Bus>, config: PortConfig, user: V) -> Result<V::Output, Error> {
    let id =
        |offset| Ok::<_, Error>(bus.config_read(offset, Width::Word).map_err(barewire_driver::Error::from)? as u16);
    let (vendor, device) = (id(config::VENDOR_ID)?, id(config::DEVICE_ID)?);
    let Some((driver, _)) = part(vendor, device) else {
        return Err(Error::Unsupported { address: bus.address(), vendor, device });
    };
    Ok(match driver {
        Driver::Ixgbe => user.with(ixgbe::Ixgbe::open(bus, config)?),
        Driver::E1000 => user.with(e1000::E1000::open(bus, config)?),
        Driver::Virtio => user.with(virtio::VirtioNet::open(bus, config)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_with_options_parses_and_nonsense_is_told() {
        let uri: PortUri = "vfio:0000:03:00.0?queues=2&rxd=512&txd=256".parse().unwrap();
        assert_eq!(uri.place.to_string(), "vfio:0000:03:00.0");
        assert_eq!((uri.config.queues, uri.config.rx_descriptors, uri.config.tx_descriptors), (2, 512, 256));
        assert_eq!("model:82599".parse::<PortUri>().unwrap().place, Place::Model);
        assert_eq!("vfio-user:/a:b.sock".parse::<PortUri>().unwrap().place, Place::VfioUser("/a:b.sock".into()));
        assert_eq!("tap:bw0?txd=64".parse::<PortUri>().unwrap().place.to_string(), "tap:bw0");
        for bad in [
            "",
            "vfio",
            "vfio-user:",
            "tap:",
            "vfio:x",
            "model:e1000",
            "vfio:03:00.0?rxd",
            "vfio:03:00.0?rxd=x",
            "model:82599?mtu=9",
        ] {
            assert!(bad.parse::<PortUri>().is_err(), "{bad}");
        }
    }
}
