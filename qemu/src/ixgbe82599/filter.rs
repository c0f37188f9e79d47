//! Which frames the MAC takes (datasheet 7.1.1).

use super::regs::{RegisterFile, at};

/// Whether some address filter takes a frame to `destination`.
pub fn takes_address(regs: &RegisterFile, destination: [u8; 6]) -> bool {
    const MPE: u32 = 1 << 8;
    const UPE: u32 = 1 << 9;
    const BAM: u32 = 1 << 10;
    let control = regs.get(at::FCTRL);
    if destination == [0xFF; 6] {
        return control & (BAM | MPE) != 0;
    }
    let group = destination[0] & 1 == 1;
    if control & if group { MPE } else { UPE } != 0 {
        return true;
    }
    exact(regs, destination) || (group && hashed(regs, destination))
}

/// One of the receive addresses (8.2.3.7.8).
fn exact(regs: &RegisterFile, destination: [u8; 6]) -> bool {
    const VALID: u32 = 1 << 31;
    let [a, b, c, d, e, f] = destination;
    let (low, high) = (u32::from_le_bytes([a, b, c, d]), u32::from(u16::from_le_bytes([e, f])));
    (0..16).any(|n| {
        let found = regs.get(at::RAL + 8 * n + 4);
        found & VALID != 0 && found & 0xFFFF == high && regs.get(at::RAL + 8 * n) == low
    })
}

/// The multicast hash table (7.1.1.1.2): twelve address bits, which ones by MCSTCTRL.MO.
fn hashed(regs: &RegisterFile, destination: [u8; 6]) -> bool {
    const MFE: u32 = 1 << 2;
    let control = regs.get(at::MCSTCTRL);
    if control & MFE == 0 {
        return false;
    }
    let top = u32::from(destination[4]) | u32::from(destination[5]) << 8;
    let shift = match control & 3 {
        0 => 4,
        1 => 3,
        2 => 2,
        _ => 0,
    };
    let hash = (top >> shift) & 0xFFF;
    regs.get(at::MTA + 4 * (hash >> 5)) & 1 << (hash & 31) != 0
}

/// Whether the VLAN filter, where it is on, holds the frame's VLAN (7.1.1.2).
pub fn takes_vlan(regs: &RegisterFile, tag: Option<u16>) -> bool {
    const VFE: u32 = 1 << 30;
    let Some(tag) = tag else { return true };
    let id = u32::from(tag & 0xFFF);
    regs.get(at::VLNCTRL) & VFE == 0 || regs.get(at::VFTA + 4 * (id >> 5)) & 1 << (id & 31) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_taken_by_hash_only_when_the_filter_is_on() {
        let regs = RegisterFile::new();
        let group = [0x01, 0x00, 0x5E, 0x36, 0x0C, 0x6F];
        let hash = 0x6F0;
        regs.set(at::MTA + 4 * (hash >> 5), 1 << (hash & 31));
        assert!(!takes_address(&regs, group));
        regs.set(at::MCSTCTRL, 1 << 2);
        assert!(takes_address(&regs, group));
        assert!(!takes_address(&regs, [0x01, 0x00, 0x5E, 0x36, 0x0C, 0x70]));
    }
}
