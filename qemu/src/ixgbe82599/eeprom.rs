//! The EEPROM (datasheet 6): the station address, what drivers look up at probe, and a checksum that they verify.

/// Words, as EEC says (8.2.3.2.1: size code 4).
const WORDS: usize = 1024;

/// EEPROM contents, in 16-bit words. What is not there reads all ones, as an erased part does: absent pointers among it.
pub(super) struct Eeprom(Box<[u16]>);

/// Where the checksum stands, and what words 0 to 0x3F sum to with it (6.2.6: 0xBABA). Sections named by words 3 to 0x0E would count too.
const CHECKSUM_WORD: usize = 0x3F;
const CHECKSUM: u16 = 0xBABA;
/// The pointer to the firmware's section, and where its patch configuration and that one's version stand.
const FIRMWARE: (usize, u16) = (0x0F, 0x100);
const PATCH: (usize, u16) = (0x104, 0x110);
const PATCH_VERSION: (usize, u16) = (0x117, 6);
/// The board's part number.
const PART_NUMBER: usize = 0x15;
/// What to write into the analog part for each kind of SFP+ module: pairs of kind and section, then all ones.
const MODULES: (usize, u16) = (0x2B, 0x200);
const MODULE_KINDS: u16 = 13;
const MODULE_SECTION: u16 = 0x240;
/// Any module is allowed, no FCoE, and the cage's pins are not crossed.
const CAPABILITIES: (usize, u16) = (0x2C, 1 | 1 << 1 | 1 << 7);

impl Eeprom {
    pub fn new(mac: [u8; 6]) -> Self {
        let mut words = vec![0xFFFF; WORDS].into_boxed_slice();
        for (word, pair) in words.iter_mut().zip(mac.as_chunks::<2>().0) {
            *word = u16::from_le_bytes(*pair);
        }
        for (at, value) in [FIRMWARE, PATCH, PATCH_VERSION, MODULES, CAPABILITIES] {
            words[at] = value;
        }
        words[PART_NUMBER..PART_NUMBER + 2].copy_from_slice(&[0x8259, 0x9001]);
        let list = usize::from(MODULES.1) + 1;
        for (kind, pair) in (0..MODULE_KINDS).zip(words[list..].chunks_exact_mut(2)) {
            pair.copy_from_slice(&[kind, MODULE_SECTION]);
        }
        // One value for the core, then the end.
        let section = usize::from(MODULE_SECTION);
        words[section..section + 2].copy_from_slice(&[1, 0]);
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
