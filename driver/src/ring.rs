//! Ring arithmetic and the ordering of descriptor words, written once for every driver.
//!
//! Who owns a descriptor is each driver's own predicate (a done bit, a phase, an index); what is common is here: free-running
//! indices over a power-of-two ring, and which word is read or written first. The code is generic over [`Words`], so that the
//! model checker runs exactly these functions on its own atomics.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

/// Memory of 64-bit descriptor words, shared with a device. Indices wrap, so that every access is in bounds.
pub trait Words {
    /// Loads word `index`.
    fn load(&self, index: usize, order: Ordering) -> u64;
    /// Stores word `index`.
    fn store(&self, index: usize, value: u64, order: Ordering);
}

/// Memory in which several parties write the same word.
pub trait SharedWrites: Words {
    /// Stores `new` in word `index` if it holds `current`, else tells what it holds. Orders both ways.
    fn compare_exchange(&self, index: usize, current: u64, new: u64) -> Result<u64, u64>;
}

/// Memory that holds 16-bit words too. A byte is accessed in one of the two widths only: the memory model leaves a mixture undefined.
pub trait Words16: Words {
    /// Loads 16-bit word `index`.
    fn load16(&self, index: usize, order: Ordering) -> u16;
    /// Stores 16-bit word `index`.
    fn store16(&self, index: usize, value: u16, order: Ordering);
    /// Orders every earlier store before every later load.
    fn full_barrier(&self);
}

/// Gives the 16-byte descriptor at `slot` to the device. The device looks at it only after the doorbell, which orders these stores.
#[inline]
pub fn post<W: Words>(words: &W, slot: u32, descriptor: [u64; 2]) {
    let at = slot as usize * 2;
    words.store(at, descriptor[0], Ordering::Relaxed);
    words.store(at + 1, descriptor[1], Ordering::Relaxed);
}

/// Takes the 16-byte descriptor at `slot` back if the device is done with it: all bits of `done` are set in the second word,
/// which the device writes last. Each word is loaded once, the one with the done bit first.
#[inline]
pub fn take_done<W: Words>(words: &W, slot: u32, done: u64) -> Option<[u64; 2]> {
    let last = last_word(words, slot);
    (last & done == done).then(|| [first_word(words, slot), last])
}

/// Whether the device is done with the descriptor at `slot`, as [`take_done`] sees it; for those of which nothing else matters.
#[inline]
pub fn is_done<W: Words>(words: &W, slot: u32, done: u64) -> bool {
    last_word(words, slot) & done == done
}

/// The second word of the descriptor at `slot`, which the device writes last. Where it tells that the device is done, all that was written
/// before is seen by loads after this one.
#[inline]
pub fn last_word<W: Words>(words: &W, slot: u32) -> u64 {
    words.load(slot as usize * 2 + 1, Ordering::Acquire)
}

/// The first word of the descriptor at `slot`, for those who know from [`last_word`] that the device is done with it.
#[inline]
pub fn first_word<W: Words>(words: &W, slot: u32) -> u64 {
    words.load(slot as usize * 2, Ordering::Relaxed)
}

/// The two ends of a descriptor ring: free-running counts, one added when the driver posts, one when it takes back.
///
/// A full ring would make the tail equal the head, which devices read as empty; so one descriptor always stays unposted.
#[derive(Debug, Clone, Copy)]
pub struct Indices {
    posted: u32,
    /// What `posted` is when the ring is full: `mask` more than were taken back.
    full: u32,
    mask: u32,
}

impl Indices {
    /// An empty ring of `size` descriptors. `size` must be a power of two from 2 to 65,536; the result says whether it was.
    pub fn new(size: u32) -> Option<Self> {
        ((2..=65_536).contains(&size) && size.is_power_of_two()).then(|| Self {
            posted: 0,
            full: size - 1,
            mask: size - 1,
        })
    }

    /// Descriptors in the ring.
    #[inline]
    pub fn size(&self) -> u32 {
        self.mask + 1
    }

    /// Descriptors that belong to the device, or that it has finished and the driver has not looked at.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.posted.wrapping_sub(self.taken())
    }

    /// Whether `count` descriptors may be posted now.
    #[inline]
    pub fn has_room(&self, count: u32) -> bool {
        self.full.wrapping_sub(self.posted) >= count
    }

    /// How many were posted, on and on: where indices wrap, the slot to post next.
    #[inline]
    pub fn posted(&self) -> u32 {
        self.posted
    }

    /// How many were taken back, on and on: where indices wrap, the slot to take back next.
    #[inline]
    pub fn taken(&self) -> u32 {
        self.full.wrapping_sub(self.mask)
    }

    /// The slot to post next. Also the value of the tail register: the first slot that is not the device's.
    #[inline]
    pub fn tail(&self) -> u32 {
        self.posted & self.mask
    }

    /// The slot to take back next.
    #[inline]
    pub fn head(&self) -> u32 {
        self.taken() & self.mask
    }

    /// The slot `ahead` places behind the head.
    #[inline]
    pub fn peek(&self, ahead: u32) -> u32 {
        self.taken().wrapping_add(ahead) & self.mask
    }

    /// Counts `count` descriptors as taken back: so many are in flight.
    #[inline]
    pub fn advance_head_by(&mut self, count: u32) {
        debug_assert!(count <= self.in_flight(), "took more than was posted");
        self.full = self.full.wrapping_add(count);
    }

    /// Counts one descriptor as posted.
    #[inline]
    pub fn advance_tail(&mut self) {
        debug_assert!(self.has_room(1), "posted into a full ring");
        self.posted = self.posted.wrapping_add(1);
    }

    /// Counts one descriptor as taken back.
    #[inline]
    pub fn advance_head(&mut self) {
        debug_assert!(self.in_flight() > 0, "took from an empty ring");
        self.full = self.full.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_size_not_a_power_of_two_refused() {
        for size in [0, 1, 3, 1000, 65_537, 131_072] {
            assert!(Indices::new(size).is_none(), "{size}");
        }
        assert_eq!(Indices::new(512).map(|ring| ring.size()), Some(512));
    }

    #[test]
    fn indices_wrap_keeps_one_slot_back() {
        let mut ring = Indices { posted: u32::MAX - 1, full: 1, mask: 3 };
        for _ in 0..3 {
            ring.advance_tail();
        }
        assert_eq!((ring.has_room(1), ring.in_flight()), (false, 3));
        ring.advance_head();
        assert_eq!((ring.has_room(1), ring.has_room(2), ring.head(), ring.tail()), (true, false, 3, 1));
    }
}
