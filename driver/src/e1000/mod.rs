//! Intel's gigabit NICs before the 82575: one driver, the parts as data. The same rooms as every driver: regs, desc, init, rx, tx, control.
//!
//! Sources: the PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (317453, "SDM") for the 8254x, and the 82574 GbE
//! Controller Family datasheet ("82574") for what that part adds.

mod control;
mod desc;
mod init;
pub mod regs;
mod rx;
mod tx;

pub use control::E1000;
pub use rx::Rx;
pub use tx::Tx;

use crate::frame::MAX_FRAME_LEN;
use crate::port::PortLimits;

pub use crate::port::PortConfig as Config;

/// Intel's PCI vendor id.
const INTEL: u16 = 0x8086;

/// A part, by what this driver must know of it.
#[derive(Debug)]
struct Part {
    /// PCI device id.
    device: u16,
    name: &'static str,
    /// What the 82574 has and the 8254x lack: the reset handshake of PCI Express, extended receive descriptors, RSS over two queues, and MSI-X.
    is_82574: bool,
    limits: PortLimits,
}

/// Rings hold whole cache lines of descriptors up to 64 KiB (SDM 13.4.27); the shortest here leave the driver room to batch doorbells.
const RING: (u32, u32) = (64, 4096);

const fn pci(device: u16, name: &'static str) -> Part {
    Part { device, name, is_82574: false, limits: PortLimits { queues: 1, ring: RING, max_frame: MAX_FRAME_LEN } }
}

/// The family.
const PARTS: [Part; 3] = [
    pci(0x100E, "82540EM"),
    pci(0x100F, "82545EM"),
    Part {
        device: 0x10D3,
        name: "82574L",
        is_82574: true,
        // The longest frame is 9,234 bytes with its FCS.
        limits: PortLimits { queues: 2, ring: RING, max_frame: 9230 },
    },
];

/// The name of the part with these PCI ids, if this driver knows it.
pub fn part(vendor: u16, device: u16) -> Option<&'static str> {
    PARTS.iter().find(|part| vendor == INTEL && part.device == device).map(|part| part.name)
}
