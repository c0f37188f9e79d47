//! The points at which the trader's book is held against the exchange's.
//!
//! Both hosts are in one process, so the exchange can name a point before its last message leaves, and the trader finds the name
//! there once that message has arrived. Each side takes its own digest of its own book; the digests meet when the run is over.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// How many points there are, spread evenly over the messages of a run.
pub const POINTS: usize = 100;

/// The points of one run, shared by the two hosts.
#[derive(Debug)]
pub struct Points {
    /// The sequence number of the last message before each point; zero until the exchange has named it.
    sequences: Box<[AtomicU64]>,
    /// How many points the trader has passed.
    passed: AtomicU64,
}

impl Default for Points {
    fn default() -> Self {
        Self { sequences: (0..POINTS).map(|_| AtomicU64::new(0)).collect(), passed: AtomicU64::new(0) }
    }
}

impl Points {
    /// Names point `index`: the book after message `sequence`. The exchange does so before that message leaves.
    pub fn name(&self, index: usize, sequence: u64) {
        if let Some(slot) = self.sequences.get(index) {
            slot.store(sequence, Ordering::Release);
        }
    }

    /// The sequence number of point `index`, once it is named.
    #[inline]
    pub fn sequence(&self, index: usize) -> Option<u64> {
        let sequence = self.sequences.get(index)?.load(Ordering::Acquire);
        (sequence != 0).then_some(sequence)
    }

    /// The trader has taken its digest at one more point.
    pub fn pass(&self) {
        self.passed.fetch_add(1, Ordering::Release);
    }

    /// How many points the trader has passed.
    pub fn passed(&self) -> usize {
        self.passed.load(Ordering::Acquire) as usize
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
        let points = Points::default();
        assert_eq!(points.sequence(3), None);
        points.name(3, 77);
        assert_eq!(points.sequence(3), Some(77));
        points.name(POINTS, 1);
        assert_eq!(points.sequence(POINTS), None);
    }
}
