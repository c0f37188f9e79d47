//! Messages by their sequence number, as many as the window is wide.
//!
//! Room for all of them is taken once. A number has one place, its remainder by the window's width, so that finding a message is one look.

/// The longest message that is kept, in bytes. ITCH 5.0's longest has 50.
pub const LONGEST: usize = 55;

/// One message with its number; a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Slot {
    /// Zero where there is no message: numbers count from one.
    number: u64,
    len: u8,
    bytes: [u8; LONGEST],
}

const EMPTY: Slot = Slot { number: 0, len: 0, bytes: [0; LONGEST] };

/// A window of messages.
#[derive(Debug)]
pub struct Window {
    slots: Box<[Slot]>,
}

impl Window {
    /// An empty window of `width` messages, rounded up to a power of two; 64 bytes each.
    pub fn new(width: usize) -> Self {
        Self { slots: vec![EMPTY; width.next_power_of_two()].into() }
    }

    /// How many messages fit.
    #[inline]
    pub fn width(&self) -> u64 {
        self.slots.len() as u64
    }

    #[inline]
    fn place(&self, number: u64) -> usize {
        number as usize & self.slots.len().wrapping_sub(1)
    }

    /// Message `number`.
    #[inline]
    pub fn get(&self, number: u64) -> Option<&[u8]> {
        let slot = self.slots.get(self.place(number)).filter(|slot| slot.number == number && number != 0)?;
        slot.bytes.get(..usize::from(slot.len))
    }

    /// Puts message `number` into its place, over whatever was there. `false`, and nothing happens, when it is longer than [`LONGEST`] or its
    /// number is zero.
    #[inline]
    #[must_use]
    pub fn put(&mut self, number: u64, message: &[u8]) -> bool {
        let place = self.place(number);
        let Some(slot) = self.slots.get_mut(place).filter(|_| number != 0) else { return false };
        let Some(bytes) = slot.bytes.get_mut(..message.len()) else { return false };
        bytes.copy_from_slice(message);
        (slot.number, slot.len) = (number, message.len() as u8);
        true
    }

    /// Takes message `number` out and hands it to `take`; says whether it was there.
    #[inline]
    pub fn take(&mut self, number: u64, take: impl FnOnce(&[u8])) -> bool {
        let place = self.place(number);
        let Some(slot) = self.slots.get_mut(place).filter(|slot| slot.number == number && number != 0) else {
            return false;
        };
        slot.number = 0;
        take(slot.bytes.get(..usize::from(slot.len)).unwrap_or_default());
        true
    }

    /// Numbers of all messages, in no order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().map(|slot| slot.number).filter(|number| *number != 0)
    }

    /// Takes everything out whose number `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.slots.iter_mut().filter(|slot| !keep(slot.number)).for_each(|slot| slot.number = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_found_until_it_is_taken_or_overwritten() {
        let mut window = Window::new(4);
        assert!(window.put(5, b"five") && window.put(6, b""));
        assert_eq!((window.get(5), window.get(6), window.get(1)), (Some(&b"five"[..]), Some(&b""[..]), None));
        assert!(window.put(9, b"nine"));
        assert_eq!((window.get(5), window.get(9)), (None, Some(&b"nine"[..])));
        assert!(window.take(9, |bytes| assert_eq!(bytes, b"nine")));
        assert!(!window.take(9, |_| unreachable!()));
        assert_eq!(window.numbers().collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn what_cannot_be_kept_changes_nothing() {
        let mut window = Window::new(2);
        assert!(window.put(1, b"one"));
        assert!(!window.put(3, &[0; LONGEST + 1]) && !window.put(0, b"zero"));
        assert_eq!((window.get(1), window.get(0)), (Some(&b"one"[..]), None));
        assert!(window.put(u64::MAX, &[7; LONGEST]));
        assert_eq!(window.get(u64::MAX), Some(&[7; LONGEST][..]));
    }
}
