//! Device models that drivers take for hardware, and the wires between them.
//!
//! A model is transcribed from the datasheet, independently of the driver: a table shared with the driver would hide a shared mistake.
//! Towards the host it is a [`barewire_driver::bus::model::DeviceModel`]; towards the network it is a [`Mac`] on a [`Medium`].
#![forbid(unsafe_code)]

pub mod ixgbe82599;
mod medium;
pub mod pcap;
pub mod qtest;
pub mod vfio_user;
pub mod wire;

pub use ixgbe82599::Ixgbe82599;
pub use medium::{Fcs, Mac, Medium, PortId};
