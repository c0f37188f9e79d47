//! The points at which the trader's book is held against the exchange's.
//!
//! Both look at one piece of shared memory, so the exchange can name a point before its last message leaves, and the trader finds the name
//! there once that message has arrived. Each side takes its own digest of its own book; the digests meet when the run is over.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use barewire_driver::dma::{DmaError, ImportError, Region, SharedWords};
use barewire_driver::ring::Words;

/// How many points there are, spread evenly over the messages of a run.
pub const POINTS: usize = 100;

/// Words of the shared memory.
const WORDS: usize = 128;
/// The word that counts the points that the trader has passed. Words before it are the points.
const PASSED: usize = WORDS - 1;

/// The points of one run: for each, the sequence number of the last message before it; zero until the exchange has named it.
#[derive(Debug)]
pub struct Points(SharedWords);

impl Points {
    /// None is named yet.
    ///
    /// # Errors
    /// When there is no memory to share.
    pub fn new() -> Result<Self, DmaError> {
        let region = Region::allocate("points", WORDS * 8)?;
        Ok(Self(SharedWords::new(&region, 0, WORDS).expect("a fresh region holds what it was made for")))
    }

    /// Those of another process, under their [`Points::address`].
    ///
    /// # Errors
    /// When there are none.
    pub fn open(address: &str) -> Result<Self, ImportError> {
        let region = Region::open(address)?;
        let (len, size) = (WORDS * 8, region.len() as u64);
        let words = SharedWords::new(&region, 0, WORDS);
        words.map(Self).ok_or(ImportError::OutOfFile { offset: 0, len, size })
    }

    /// Under what another process finds them.
    pub fn address(&self) -> String {
        self.0.region().address()
    }

    /// Names point `index`: the book after message `sequence`. The exchange does so before that message leaves.
    pub fn name(&self, index: usize, sequence: u64) {
        if index < POINTS {
            self.0.store(index, sequence, Ordering::Release);
        }
    }

    /// The sequence number of point `index`, once it is named.
    #[inline]
    pub fn sequence(&self, index: usize) -> Option<u64> {
        let sequence = if index < POINTS { self.0.load(index, Ordering::Acquire) } else { 0 };
        (sequence != 0).then_some(sequence)
    }

    /// The trader has taken its digest at one more point.
    pub fn pass(&self) {
        // Nobody else writes it.
        let passed = self.0.load(PASSED, Ordering::Relaxed);
        self.0.store(PASSED, passed.wrapping_add(1), Ordering::Release);
    }

    /// How many points the trader has passed.
    pub fn passed(&self) -> usize {
        self.0.load(PASSED, Ordering::Acquire) as usize
    }
}

/// When point `index` is due, in messages published, of `ticks`.
pub fn due(index: usize, ticks: u64) -> u64 {
    (u128::from(ticks) * (index as u128 + 1) / POINTS as u128) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_spread_evenly_and_end_with_the_run() {
        assert_eq!(due(0, 1_000_000), 10_000);
        assert_eq!(due(POINTS - 1, 1_000_000), 1_000_000);
        assert_eq!(due(POINTS - 1, 1_234), 1_234);
    }

    #[test]
    fn point_is_unknown_until_it_is_named() {
        let points = Points::new().unwrap();
        assert_eq!(points.sequence(3), None);
        points.name(3, 77);
        assert_eq!(points.sequence(3), Some(77));
        points.name(POINTS, 1);
        assert_eq!(points.sequence(POINTS), None);
    }

    #[test]
    fn points_are_seen_from_elsewhere() {
        let here = Points::new().unwrap();
        let there = Points::open(&here.address()).unwrap();
        here.name(7, 99);
        there.pass();
        assert_eq!((there.sequence(7), here.passed()), (Some(99), 1));
    }
}
