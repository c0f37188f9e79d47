#![forbid(unsafe_code)]

use crate::bus::BusError;
use crate::dma::DmaError;
use crate::mmio::MmioError;
use crate::port::QueueFault;
use crate::tap::TapError;

/// Why a control-path operation on a port failed. The message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The way to the device failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// DMA memory could not be had or mapped.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// A register did not answer as the datasheet says it must.
    #[error(transparent)]
    Register(#[from] MmioError),
    /// The operating system gave no eventfd.
    #[error("no eventfd for an interrupt: {0}; raise the limit with `ulimit -n`")]
    Event(std::io::Error),
    /// The device is not one that this driver knows.
    #[error(
        "{address}: device {vendor:04x}:{device:04x} is not supported by driver {driver}; see the NIC table in README.md"
    )]
    UnsupportedDevice {
        /// Bus address of the device.
        address: String,
        /// PCI vendor id.
        vendor: u16,
        /// PCI device id.
        device: u16,
        /// The driver that was asked.
        driver: &'static str,
    },
    /// The device lacks something that is asked of it.
    #[error("{address}: the device does not offer {feature}: {follows}")]
    MissingFeature {
        /// Bus address of the device.
        address: String,
        /// The specification's name of it.
        feature: &'static str,
        /// What that means, and what to do.
        follows: &'static str,
    },
    /// The device met an error of its own and says so, or was reset by somebody else.
    #[error("{address}: {register} reads {value:#x}: {meaning}; close the queues and reset the port")]
    NeedsReset {
        /// Bus address of the device.
        address: String,
        /// The register that says so.
        register: &'static str,
        /// What it read.
        value: u32,
        /// What that means.
        meaning: &'static str,
    },
    /// The device did not carry out a command.
    #[error("{address}: command {command} {outcome}; close the queues and reset the port")]
    Command {
        /// Bus address of the device.
        address: String,
        /// The specification's name of the command.
        command: &'static str,
        /// What came of it.
        outcome: &'static str,
    },
    /// There is no TAP interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// What frames pass through failed, or is gone; the queues have stopped.
    #[error("{address}: {reason}")]
    Lost {
        /// The port's address.
        address: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A queue was stopped because the device broke the contract of its descriptors.
    #[error(transparent)]
    Queue(#[from] QueueFault),
    /// A configuration value is outside what the device allows.
    #[error("{what} is {value}; {allowed}")]
    InvalidConfig {
        /// The name of the setting.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// What is allowed.
        allowed: String,
    },
    /// The device wrote a value that no working device writes; the queue has been stopped.
    #[error("{address}: {what} reads {value:#x}, which is impossible ({limit}); reset the device")]
    DeviceFault {
        /// Bus address of the device.
        address: String,
        /// The register or descriptor field.
        what: &'static str,
        /// What it held.
        value: u64,
        /// The bound it broke.
        limit: &'static str,
    },
}

impl Error {
    /// A value that cannot be, and what is allowed.
    pub(crate) fn refused(what: &'static str, value: u64, allowed: &str) -> Self {
        Self::InvalidConfig { what, value, allowed: allowed.to_owned() }
    }
}
