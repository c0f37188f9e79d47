use crate::bus::BusError;
use crate::dma::DmaError;
use crate::mmio::MmioError;

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
    /// A configuration value is outside what the device allows.
    #[error("{what} is {value}; {allowed}")]
    InvalidConfig {
        /// The name of the setting.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
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
