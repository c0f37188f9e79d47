//! Configuration space (datasheet 9.3): identity, BARs, and the PM, MSI, MSI-X and PCIe capabilities.

use barewire_driver::bus::Width;

/// BAR 0, registers: 512 KiB (9.3.6.1).
pub(super) const REGISTERS: (u8, u32) = (0, 512 << 10);
/// BAR 4, the MSI-X table and its pending bits. The table belongs to the host's side of the bus, which decides where messages go.
pub(super) const MSIX: (u8, u32) = (4, 16 << 10);
/// Vectors of the MSI-X table.
pub(super) const MSIX_VECTORS: u16 = 64;

const COMMAND: usize = 0x04;
const BARS: std::ops::Range<usize> = 0x10..0x28;
const PM: usize = 0x40;
const MSI: usize = 0x50;
const MSIX_CAPABILITY: usize = 0x70;
const PCIE: usize = 0xA0;

/// The space, and which bits of it software may change.
pub(super) struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
}

impl ConfigSpace {
    /// After power-on.
    pub fn new() -> Self {
        let mut space = Self { bytes: [0; 256], writable: [0; 256] };
        // 8086:10FB, an Ethernet controller with a capability list.
        space.put(0x00, &[0x86, 0x80, 0xFB, 0x10, 0, 0, 0x10, 0, 0x01, 0, 0, 0x02]);
        space.put(0x2C, &[0x86, 0x80, 0x03, 0x00]);
        space.put(0x34, &[PM as u8]);
        space.put(0x3D, &[1]);
        space.allow(COMMAND, &[0x47, 0x05]);
        space.allow(0x0C, &[0xFF]);
        space.allow(0x3C, &[0xFF]);
        for (bar, size) in [REGISTERS, MSIX] {
            // 64 bits wide, memory.
            let at = BARS.start + usize::from(bar) * 4;
            space.put(at, &[0x04]);
            space.allow(at, &(!(u64::from(size) - 1)).to_le_bytes());
        }
        space.put(PM, &[0x01, MSI as u8, 0x03, 0x00]);
        space.allow(PM + 4, &[0x03, 0x01]);
        // One message, 64-bit address.
        space.put(MSI, &[0x05, MSIX_CAPABILITY as u8, 0x80, 0x00]);
        space.allow(MSI + 2, &[0x01]);
        space.allow(MSI + 4, &[0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
        // The table at 0, the pending bits at 0x2000 of its BAR.
        space.put(MSIX_CAPABILITY, &[0x11, PCIE as u8, (MSIX_VECTORS - 1) as u8, 0x00]);
        space.put(MSIX_CAPABILITY + 4, &[MSIX.0, 0, 0, 0, MSIX.0, 0x20, 0, 0]);
        space.allow(MSIX_CAPABILITY + 3, &[0xC0]);
        // An endpoint with function-level reset, x8 at 5 GT/s.
        space.put(PCIE, &[0x10, 0x00, 0x02, 0x00]);
        space.put(PCIE + 0x04, &0x1000_8CC2u32.to_le_bytes());
        space.put(PCIE + 0x0C, &0x0003_F482u32.to_le_bytes());
        space.put(PCIE + 0x12, &0x1082u16.to_le_bytes());
        space.allow(PCIE + 0x08, &[0xFF, 0x7F]);
        space.allow(PCIE + 0x10, &[0xC3, 0x00]);
        space
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }

    /// Reads; what is not there is zero.
    pub fn read(&self, offset: u16, width: Width) -> u32 {
        let byte = |at: u16| u32::from(self.bytes.get(usize::from(at)).copied().unwrap_or(0));
        (0..width.bytes()).rev().fold(0, |value, n| value << 8 | byte(offset.saturating_add(n)))
    }

    /// Writes; bits that are not writable keep their value. A BAR of all ones reads as its size thereby.
    pub fn write(&mut self, offset: u16, width: Width, value: u32) {
        let bytes = value.to_le_bytes();
        let places = self.bytes.iter_mut().zip(&self.writable).skip(offset.into());
        for ((byte, writable), value) in places.zip(&bytes[..width.bytes().into()]) {
            *byte = *byte & !writable | value & writable;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_of_all_ones_reads_its_size_and_identity_stays() {
        let mut space = ConfigSpace::new();
        for at in (0..=0xFF).step_by(4) {
            space.write(at, Width::Dword, u32::MAX);
        }
        assert_eq!(space.read(0x10, Width::Dword), !(REGISTERS.1 - 1) | 4);
        assert_eq!(space.read(0x14, Width::Dword), u32::MAX);
        assert_eq!(space.read(0x20, Width::Dword), !(MSIX.1 - 1) | 4);
        assert_eq!(space.read(0x18, Width::Dword), 0);
        assert_eq!(space.read(0x00, Width::Dword), 0x10FB_8086);
        assert_eq!(space.read(0xFFF, Width::Dword), 0);
    }

    #[test]
    fn capability_list_ends() {
        let space = ConfigSpace::new();
        let mut ids = Vec::new();
        let mut at = space.read(0x34, Width::Byte) as u16;
        while at != 0 {
            ids.push(space.read(at, Width::Byte));
            at = space.read(at + 1, Width::Byte) as u16;
        }
        assert_eq!(ids, [0x01, 0x05, 0x11, 0x10]);
    }
}
