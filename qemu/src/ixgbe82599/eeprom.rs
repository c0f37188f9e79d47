//! The EEPROM (datasheet 6): the station address and a checksum that drivers verify.

/// EEPROM contents, in 16-bit words.
pub(super) struct Eeprom([u16; 64]);

/// Where the checksum stands, and what words 0 to 0x3F sum to with it (6.2.6: 0xBABA).
const CHECKSUM_WORD: usize = 0x3F;
const CHECKSUM: u16 = 0xBABA;
/// Pointers to sections that are not there (6.3).
const POINTERS: std::ops::Range<usize> = 0x03..0x0F;

impl Eeprom {
    pub fn new(mac: [u8; 6]) -> Self {
        let mut words = [0u16; 64];
        for (word, pair) in words.iter_mut().zip(mac.as_chunks::<2>().0) {
            *word = u16::from_le_bytes(*pair);
        }
        words[POINTERS].fill(0xFFFF);
        let sum = words[..CHECKSUM_WORD].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        words[CHECKSUM_WORD] = CHECKSUM.wrapping_sub(sum);
        Self(words)
    }

    /// An EERD write (8.2.3.2.2) answered: done, with the word asked for in the upper half.
    pub fn read(&self, command: u32) -> u32 {
        const START: u32 = 1;
        const DONE: u32 = 2;
        let address = (command >> 2) & 0x3FFF;
        let word = self.0.get(address as usize).copied().unwrap_or(0xFFFF);
        if command & START == 0 { command } else { (command & 0xFFFC) | DONE | u32::from(word) << 16 }
    }
}
