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

use crate::frame::MAX_FRAME_LEN;
use crate::port::PortLimits;

pub use crate::port::PortConfig as Config;

/// Intel's PCI vendor id.
const INTEL: u16 = 0x8086;

/// The family as data: PCI device id and name (82599 datasheet 9.3.3).
const DEVICES: [(u16, &str); 4] = [
    (0x10FB, "82599 SFI/SFP+"),
    (0x10F8, "82599 backplane"),
    (0x154D, "82599 SFP+ dual port"),
    (0x1557, "82599EN SFP+"),
];

/// What the family allows: 128 queues of which 64 with an interrupt of their own (datasheet 1.3), rings by 8.2.3.8.3.
const LIMITS: PortLimits = PortLimits { queues: 64, ring: (64, 4096), max_frame: MAX_FRAME_LEN };

/// The name of the part with these PCI ids, if this driver knows it.
pub fn part(vendor: u16, device: u16) -> Option<&'static str> {
    let named = |(id, name): &(u16, &'static str)| (vendor == INTEL && *id == device).then_some(*name);
    DEVICES.iter().find_map(named)
}
