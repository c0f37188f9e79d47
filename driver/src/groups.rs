//! Group addresses that a port receives, counted, and the hash that Intel's NICs filter them by.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::error::Error;
use crate::port::MacAddress;

/// 32-bit words of the multicast hash table.
pub const HASH_WORDS: u16 = 128;

/// How often each group was joined.
#[derive(Debug, Default)]
pub struct Groups(BTreeMap<MacAddress, u32>);

impl Groups {
    /// Counts one more holder of `group`. Says whether it is the first.
    ///
    /// # Errors
    /// When the address is not a group's.
    pub fn join(&mut self, group: MacAddress) -> Result<bool, Error> {
        if !group.is_group() {
            let value = group.0.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            return Err(Error::refused("multicast address", value, "the group bit must be set"));
        }
        let joins = self.0.entry(group).or_default();
        *joins += 1;
        Ok(*joins == 1)
    }

    /// Counts one holder of `group` less. Says whether it was the last.
    pub fn leave(&mut self, group: MacAddress) -> bool {
        let Some(joins) = self.0.get_mut(&group) else { return false };
        *joins -= 1;
        *joins == 0 && self.0.remove(&group).is_some()
    }

    /// The groups that somebody holds.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MacAddress> {
        self.0.keys().copied()
    }

    /// The hash table of an Intel NIC with the multicast offset at zero: one bit for address bits 47:36.
    pub fn hash_table(&self) -> [u32; HASH_WORDS as usize] {
        let mut table = [0; HASH_WORDS as usize];
        for group in self.0.keys() {
            let [.., e, f] = group.0;
            let hash = usize::from(e >> 4) | usize::from(f) << 4;
            table[hash >> 5] |= 1 << (hash & 31);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address bits 47:36 are 0x6F0: the last byte, and the high nibble of the one before.
    const GROUP: MacAddress = MacAddress([0x01, 0x00, 0x5E, 0x36, 0x0C, 0x6F]);

    #[test]
    fn groups_hash_by_address_bits_47_to_36() {
        let mut groups = Groups::default();
        groups.join(GROUP).unwrap();
        let table = groups.hash_table();
        assert_eq!(table[0x6F0 >> 5], 1 << (0x6F0 & 31));
        assert_eq!(table.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
    }

    #[test]
    fn groups_joined_twice_are_left_twice() {
        let mut groups = Groups::default();
        assert!(groups.join(GROUP).unwrap());
        assert!(!groups.join(GROUP).unwrap());
        assert!(!groups.leave(GROUP));
        assert!(groups.leave(GROUP));
        assert!(!groups.leave(GROUP));
        assert!(groups.join(MacAddress([2; 6])).is_err());
    }
}
