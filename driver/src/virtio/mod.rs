//! Virtio network devices over PCI (OASIS virtio 1.2), modern interface, split virtqueues, one queue pair. The same rooms as every driver: pci
//! and regs, split and desc, init, rx, tx, control; and commands, the control queue.
//!
//! Features that are accepted where they are offered, and what is done without them: mergeable receive buffers (frames longer than one
//! buffer are refused), transmit checksums (filled in here), receive checksum verdicts (unchecked), link status (always up), filters by
//! command (they stay open). Faults name virtqueues by the specification's numbers: 0 receive, 1 transmit, 2 control.

mod commands;
mod control;
mod desc;
mod init;
mod pci;
mod regs;
mod rx;
mod split;
#[cfg(test)]
mod tests;
mod tx;

pub use control::VirtioNet;
pub use rx::Rx;
pub use tx::Tx;

use crate::frame::MAX_FRAME_LEN;
use crate::port::PortLimits;

pub use crate::port::PortConfig as Config;

/// The PCI vendor id of virtio (4.1.2).
const VIRTIO: u16 = 0x1AF4;

/// PCI device ids of a network device: modern, and transitional (4.1.2), which has the modern interface too.
const DEVICES: [(u16, &str); 2] = [(0x1041, "virtio-net"), (0x1000, "virtio-net, transitional")];

/// The name of the part with these PCI ids, if this driver knows it.
pub fn part(vendor: u16, device: u16) -> Option<&'static str> {
    let named = |(id, name): &(u16, &'static str)| (vendor == VIRTIO && *id == device).then_some(*name);
    DEVICES.iter().find_map(named)
}

/// What the specification allows (2.7): the device may allow less, and then the rings are shorter.
const LIMITS: PortLimits = PortLimits { queues: 1, ring: (64, 32_768), max_frame: MAX_FRAME_LEN };
