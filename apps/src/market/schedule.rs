//! When the exchange publishes: an open loop, so that a slow receiver cannot slow its own examiner.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;

/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;

/// Intended times of messages at a constant rate.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Nanos,
    /// Messages a second, at least one.
    rate: u64,
}

impl Schedule {
    /// The first message is due at `start`; `rate` messages a second follow, at least one.
    pub fn new(start: Nanos, rate: u64) -> Self {
        Self { start, rate: rate.max(1) }
    }

    /// When message `index` (from 0) is due. Computed from the start each time, so that rounding does not add up.
    pub fn due(&self, index: u64) -> Nanos {
        self.start.saturating_add((u128::from(index) * SECOND / u128::from(self.rate)) as u64)
    }

    /// Moves all that is still due by `span`: time that was spent on something that is not part of the examination.
    pub fn postpone(&mut self, span: Nanos) {
        self.start = self.start.saturating_add(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_keep_the_rate_without_drift() {
        let schedule = Schedule::new(5, 3);
        assert_eq!(schedule.due(0), 5);
        assert_eq!(schedule.due(1), 5 + 333_333_333);
        assert_eq!(schedule.due(3_000_000_000), 5 + 1_000_000_000_000_000_000);
    }

    #[test]
    fn postponed_schedule_is_late_by_the_span() {
        let mut schedule = Schedule::new(5, 1_000);
        schedule.postpone(7);
        assert_eq!(schedule.due(2), 2_000_012);
    }
}
