//! Intel 82599 (datasheet 331520). The same rooms as every driver: regs, desc, init, rx, tx, control.

mod control;
mod desc;
mod init;
pub mod regs;
mod rx;
mod tx;

pub use control::Ixgbe;
pub use rx::Rx;
pub use tx::Tx;

use crate::error::Error;
use crate::frame::MAX_FRAME_LEN;

/// Intel's PCI vendor id.
const INTEL: u16 = 0x8086;

/// The family as data: PCI device id and name (82599 datasheet 9.3.3).
const DEVICES: [(u16, &str); 4] = [
    (0x10FB, "82599 SFI/SFP+"),
    (0x10F8, "82599 backplane"),
    (0x154D, "82599 SFP+ dual port"),
    (0x1557, "82599EN SFP+"),
];

/// What a port is opened with.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Queue pairs that may be opened, 1 to 64.
    pub queues: u16,
    /// Descriptors of a receive ring: a power of two, 64 to 4,096.
    pub rx_descriptors: u32,
    /// Descriptors of a transmit ring: a power of two, 64 to 4,096.
    pub tx_descriptors: u32,
    /// Received frames that handlers may keep at a time, in buffers.
    pub kept_frames: u32,
    /// Sent frames that may be retained or parked at a time, in buffers.
    pub retained_frames: u32,
    /// The longest frame to receive, in bytes without FCS: 64 to 9,728.
    pub max_frame: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            kept_frames: 256,
            retained_frames: 256,
            max_frame: 1522,
        }
    }
}

impl Config {
    fn bad_ring(what: &'static str, value: u32) -> Error {
        Error::InvalidConfig {
            what,
            value: u64::from(value),
            allowed: "a ring has a power of two from 64 to 4096 descriptors",
        }
    }

    fn check(&self) -> Result<(), Error> {
        let rings = [("receive ring", self.rx_descriptors), ("transmit ring", self.tx_descriptors)];
        if let Some((what, size)) = rings.into_iter().find(|(_, n)| !(64..=4096).contains(n) || !n.is_power_of_two()) {
            return Err(Self::bad_ring(what, size));
        }
        let refuse = |what, value: u64, allowed| Err(Error::InvalidConfig { what, value, allowed });
        match self {
            c if !(1..=64).contains(&c.queues) => {
                refuse("queues", u64::from(c.queues), "1 to 64 queue pairs are allowed")
            }
            c if !(64..=MAX_FRAME_LEN).contains(&usize::from(c.max_frame)) => {
                refuse("max_frame", u64::from(c.max_frame), "64 to 9728 bytes are allowed")
            }
            c if c.kept_frames > 1 << 16 || c.retained_frames > 1 << 16 => refuse(
                "kept or retained frames",
                u64::from(c.kept_frames.max(c.retained_frames)),
                "at most 65536 are allowed",
            ),
            _ => Ok(()),
        }
    }
}
