//! Exact match of VLAN, group and port to receivers, in constant time.

use std::net::Ipv4Addr;

/// Names a receiver of multicast datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReceiverId(u16);

/// Why a group was not joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The address is none of 224.0.0.0/4.
    #[error("{0} is no multicast address; 224.0.0.0 to 239.255.255.255 are")]
    NotAGroup(Ipv4Addr),
    /// Every place for a receiver is taken.
    #[error("all {0} receivers are in use; leave one, or configure more")]
    Full(usize),
}

/// What a receiver joined: VLAN id (12 bits and a bit that says there is one), group and port in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The key of a VLAN (priority bits do not matter), group and port.
    #[inline]
    pub fn new(vlan: Option<u16>, group: Ipv4Addr, port: u16) -> Self {
        let vlan = vlan.map_or(0, |tag| u64::from(tag & 0xFFF) | 0x1000);
        Self(vlan << 48 | u64::from(group.to_bits()) << 16 | u64::from(port))
    }

    /// The group.
    pub fn group(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.0 >> 16) as u32)
    }

    /// The VLAN id.
    pub fn vlan(self) -> Option<u16> {
        (self.0 >> 60 & 1 == 1).then_some((self.0 >> 48 & 0xFFF) as u16)
    }

    /// No group: what an empty slot holds.
    const NONE: Self = Self(0);

    #[inline]
    fn home(self, mask: usize) -> usize {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        (self.0.wrapping_mul(GOLDEN) >> 32) as usize & mask
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    key: Key,
    /// The first receiver of this key.
    first: u16,
}

#[derive(Debug, Clone, Copy)]
struct Receiver {
    /// [`Key::NONE`] where there is no receiver.
    key: Key,
    /// The next receiver of the same key, or [`LAST`].
    next: u16,
}

/// The end of a chain. No receiver has this number.
const LAST: u16 = u16::MAX;

/// The table: open addressing at most half full, so that a probe ends soon. Several receivers of one key form a chain.
#[derive(Debug)]
pub struct Demux {
    slots: Box<[Slot]>,
    receivers: Box<[Receiver]>,
}

impl Demux {
    /// A table for up to `receivers` receivers.
    pub fn new(receivers: u16) -> Self {
        let slots = (usize::from(receivers) * 2).next_power_of_two();
        let (slot, receiver) = (Slot { key: Key::NONE, first: LAST }, Receiver { key: Key::NONE, next: LAST });
        Self { slots: vec![slot; slots].into(), receivers: vec![receiver; receivers.into()].into() }
    }

    /// Adds a receiver of `key`, which names a group.
    pub fn join(&mut self, key: Key) -> Result<ReceiverId, JoinError> {
        let full = JoinError::Full(self.receivers.len());
        let index = self.receivers.iter().position(|receiver| receiver.key == Key::NONE).ok_or(full)?;
        self.receivers[index].key = key;
        self.rebuild();
        Ok(ReceiverId(index as u16))
    }

    /// Removes a receiver; returns what it had joined.
    pub fn leave(&mut self, id: ReceiverId) -> Option<Key> {
        let receiver = self.receivers.get_mut(usize::from(id.0)).filter(|receiver| receiver.key != Key::NONE)?;
        let key = std::mem::replace(&mut receiver.key, Key::NONE);
        self.rebuild();
        Some(key)
    }

    /// Control path: with the table built anew, removal needs no tombstones and lookup no special case.
    fn rebuild(&mut self) {
        self.slots.fill(Slot { key: Key::NONE, first: LAST });
        let mask = self.slots.len() - 1;
        // Backwards, so that a chain runs in the order of joining.
        for index in (0..self.receivers.len()).rev() {
            let receiver = &mut self.receivers[index];
            if receiver.key == Key::NONE {
                continue;
            }
            let mut at = receiver.key.home(mask);
            while ![receiver.key, Key::NONE].contains(&self.slots[at].key) {
                at = (at + 1) & mask;
            }
            receiver.next = self.slots[at].first;
            self.slots[at] = Slot { key: receiver.key, first: index as u16 };
        }
    }

    /// The first receiver of `key`.
    #[inline]
    pub fn first(&self, key: Key) -> Option<ReceiverId> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = key.home(mask);
        // At most half of the slots are taken, so an empty one ends every probe.
        while let Some(slot) = self.slots.get(at) {
            if slot.key == key {
                return Some(ReceiverId(slot.first));
            }
            if slot.key == Key::NONE {
                return None;
            }
            at = at.wrapping_add(1) & mask;
        }
        None
    }

    /// The receiver after `id` of the same key.
    #[inline]
    pub fn next(&self, id: ReceiverId) -> Option<ReceiverId> {
        let next = self.receivers.get(usize::from(id.0))?.next;
        (next != LAST).then_some(ReceiverId(next))
    }

    /// What has been joined, once for every receiver.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.receivers.iter().map(|receiver| receiver.key).filter(|key| *key != Key::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &Demux, key: Key) -> Vec<u16> {
        std::iter::successors(table.first(key), |id| table.next(*id)).map(|id| id.0).collect()
    }

    #[test]
    fn receivers_of_one_group_form_a_chain_and_others_are_apart() {
        let mut table = Demux::new(4);
        let key = |vlan, port| Key::new(vlan, Ipv4Addr::new(239, 1, 1, 1), port);
        let first = table.join(key(None, 5)).unwrap();
        table.join(key(Some(7), 5)).unwrap();
        table.join(key(None, 5)).unwrap();
        assert_eq!(chain(&table, key(None, 5)), [0, 2]);
        assert_eq!(chain(&table, key(Some(0x7007), 5)), [1]);
        assert!(chain(&table, key(None, 6)).is_empty());
        assert_eq!(table.leave(first).map(Key::vlan), Some(None));
        assert_eq!(chain(&table, key(None, 5)), [2]);
    }

    #[test]
    fn full_table_says_so_and_every_key_is_found() {
        let mut table = Demux::new(512);
        let keys: Vec<_> = (0..512u32).map(|n| Key::new(None, Ipv4Addr::from_bits(0xEF00_0000 + n * 256), 1)).collect();
        for key in &keys {
            table.join(*key).unwrap();
        }
        assert_eq!(table.join(keys[0]), Err(JoinError::Full(512)));
        assert!(keys.iter().all(|key| chain(&table, *key).len() == 1));
        assert_eq!(table.first(Key::new(None, Ipv4Addr::LOCALHOST, 1)), None);
    }
}
