//! Exact match of a connection's addresses to its session, in constant time.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The other end and our port: with our only address, all that names a connection, in one word. The ports stand as they do in a segment
/// that comes from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Key(u64);

impl Key {
    /// The key of a connection from `remote` to our `port`.
    #[inline]
    pub fn new(remote: SocketAddrV4, port: u16) -> Self {
        Self(u64::from(remote.ip().to_bits()) << 32 | u64::from(remote.port()) << 16 | u64::from(port))
    }

    /// The key of the connection a segment belongs to: its source address and its two ports as one big-endian word.
    #[inline]
    pub fn of_segment(source: u32, ports: u32) -> Self {
        Self(u64::from(source) << 32 | u64::from(ports))
    }

    /// The other end.
    pub fn remote(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from_bits((self.0 >> 32) as u32), (self.0 >> 16) as u16)
    }

    /// Our port.
    pub fn local_port(self) -> u16 {
        self.0 as u16
    }

    #[inline]
    fn home(self, mask: usize) -> usize {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        (self.0.wrapping_mul(GOLDEN) >> 32) as usize & mask
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    key: Key,
    session: u32,
}

/// No session; a slot that holds it is empty.
const NONE: u32 = u32::MAX;

/// Open addressing with linear probing, at most half full. Removal closes the gap, so that there are no tombstones.
#[derive(Debug)]
pub(super) struct Table {
    slots: Box<[Slot]>,
    mask: usize,
}

impl Table {
    const fn slots(sessions: u32) -> usize {
        (sessions as usize * 2).next_power_of_two()
    }

    /// Bytes for `sessions` sessions.
    pub const fn memory_bytes(sessions: u32) -> usize {
        Self::slots(sessions) * size_of::<Slot>()
    }

    /// A table for up to `sessions` sessions.
    pub fn new(sessions: u32) -> Self {
        let slots = Self::slots(sessions);
        Self { slots: vec![Slot { key: Key::default(), session: NONE }; slots].into(), mask: slots - 1 }
    }

    /// Where `key` is, or the empty slot where it would be.
    #[inline]
    fn place(&self, key: Key) -> Option<(usize, Slot)> {
        let mut at = key.home(self.mask);
        loop {
            // At most half of the slots are taken, so an empty one ends every probe.
            let slot = *self.slots.get(at)?;
            if slot.key == key || slot.session == NONE {
                return Some((at, slot));
            }
            at = at.wrapping_add(1) & self.mask;
        }
    }

    /// The session of `key`.
    #[inline]
    pub fn find(&self, key: Key) -> Option<u32> {
        let (_, slot) = self.place(key)?;
        (slot.session != NONE).then_some(slot.session)
    }

    /// Enters a session. There is room for as many as the table was made for.
    pub fn insert(&mut self, key: Key, session: u32) {
        if let Some((at, _)) = self.place(key)
            && let Some(slot) = self.slots.get_mut(at)
        {
            *slot = Slot { key, session };
        }
    }

    /// Takes a session out.
    pub fn remove(&mut self, key: Key) {
        let mask = self.mask;
        let Some((mut gap, _)) = self.place(key) else { return };
        let mut at = gap;
        loop {
            at = at.wrapping_add(1) & mask;
            let Some(slot) = self.slots.get(at).copied().filter(|slot| slot.session != NONE) else { break };
            // A slot moves into the gap unless its home lies between the two.
            let from_home = at.wrapping_sub(slot.key.home(mask)) & mask;
            if from_home >= at.wrapping_sub(gap) & mask {
                if let Some(place) = self.slots.get_mut(gap) {
                    *place = slot;
                }
                gap = at;
            }
        }
        if let Some(slot) = self.slots.get_mut(gap) {
            *slot = Slot { key: Key::default(), session: NONE };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn table_behaves_as_a_map(steps in proptest::collection::vec((0u16..24, any::<bool>()), 0..300)) {
            // Few keys in a small table, so that probes run into each other.
            let (mut table, mut model) = (Table::new(12), HashMap::new());
            let key = |port| Key::new(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), port), 7);
            for (port, insert) in steps {
                if insert && (model.len() < 12 || model.contains_key(&port)) {
                    table.insert(key(port), port.into());
                    model.insert(port, u32::from(port));
                } else if model.remove(&port).is_some() {
                    table.remove(key(port));
                }
                for port in 0..24 {
                    prop_assert_eq!(table.find(key(port)), model.get(&port).copied());
                }
            }
        }
    }

    #[test]
    fn key_tells_its_parts_and_is_the_segments() {
        let key = Key::new("10.1.2.3:5000".parse().unwrap(), 80);
        assert_eq!((key.remote().to_string(), key.local_port()), ("10.1.2.3:5000".into(), 80));
        assert_eq!(Key::of_segment(0x0A01_0203, 5000 << 16 | 80), key);
    }
}
