//! When the exchange publishes: an open loop, so that a slow receiver cannot slow its own examiner.
#![forbid(unsafe_code)]

use std::str::FromStr;

use barewire_driver::clock::Nanos;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// From the start of a burst to that of the next.
pub const PERIOD: Nanos = 100_000_000;

/// Spans of a higher rate, one every [`PERIOD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// Messages a second.
    pub rate: u64,
    /// How long it lasts, in nanoseconds.
    pub length: Nanos,
}

impl FromStr for Burst {
    type Err = String;

    /// Reads such as `1000000/s:2ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || format!("{text:?} is no burst; write messages a second and a length, such as 1000000/s:2ms");
        let (rate, length) = text.split_once("/s:").ok_or_else(refusal)?;
        let (number, unit) = length.split_at(length.find(|c: char| !c.is_ascii_digit()).ok_or_else(refusal)?);
        let unit = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            _ => return Err(refusal()),
        };
        let length = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(refusal)?;
        Ok(Self { rate: rate.parse().map_err(|_| refusal())?, length })
    }
}

/// What the exchange is doing when a message is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It publishes at its ordinary rate.
    Calm,
    /// It bursts.
    Burst,
}

/// Which messages belong to bursts: every period has its calm ones first.
#[derive(Debug, Clone, Copy)]
pub struct Phases {
    /// Messages of a period before its burst.
    calm: u64,
    /// Messages of a period, at least one.
    all: u64,
}

impl Default for Phases {
    /// No bursts.
    fn default() -> Self {
        Self { calm: 1, all: 1 }
    }
}

impl Phases {
    /// Those of a schedule.
    pub fn new(rate: u64, burst: Option<Burst>) -> Self {
        let Some(Burst { rate: high, length }) = burst else { return Self::default() };
        let calm = count(PERIOD.saturating_sub(length), rate).max(1);
        Self { calm, all: calm.saturating_add(count(length, high)) }
    }

    /// The phase of message `index` (from 0).
    #[inline]
    pub fn of(self, index: u64) -> Phase {
        let within = index.checked_rem(self.all).unwrap_or(0);
        if within < self.calm { Phase::Calm } else { Phase::Burst }
    }
}

/// Messages in `span` at `rate` a second.
fn count(span: Nanos, rate: u64) -> u64 {
    (u128::from(span) * u128::from(rate) / u128::from(SECOND)) as u64
}

/// Intended times of messages at a constant rate, or at two rates by turns.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Nanos,
    /// Messages a second, at least one.
    rate: u64,
    burst: Option<Burst>,
    phases: Phases,
}

impl Schedule {
    /// The first message is due at `start`; `rate` messages a second follow, at least one, with `burst` at the end of every [`PERIOD`].
    pub fn new(start: Nanos, rate: u64, burst: Option<Burst>) -> Self {
        Self { start, rate: rate.max(1), burst, phases: Phases::new(rate, burst) }
    }

    /// When message `index` (from 0) is due. Computed from the start each time, so that rounding does not add up.
    pub fn due(&self, index: u64) -> Nanos {
        let Some(Burst { rate, length }) = self.burst else {
            return self.start.saturating_add(span(index, self.rate));
        };
        let (period, within) = (index / self.phases.all, index % self.phases.all);
        let offset = match within.checked_sub(self.phases.calm) {
            None => span(within, self.rate),
            Some(within) => PERIOD.saturating_sub(length).saturating_add(span(within, rate)),
        };
        self.start.saturating_add(period.saturating_mul(PERIOD)).saturating_add(offset)
    }

    /// The phase of message `index`.
    pub fn phase(&self, index: u64) -> Phase {
        self.phases.of(index)
    }

    /// Moves all that is still due by `span`: time that was spent on something that is not part of the examination.
    pub fn postpone(&mut self, span: Nanos) {
        self.start = self.start.saturating_add(span);
    }
}

/// How long `messages` messages take at `rate` a second.
fn span(messages: u64, rate: u64) -> Nanos {
    (u128::from(messages) * u128::from(SECOND) / u128::from(rate.max(1))) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Burst = Burst { rate: 1_000_000, length: 2_000_000 };

    #[test]
    fn due_times_keep_the_rate_without_drift() {
        let schedule = Schedule::new(5, 3, None);
        assert_eq!(schedule.due(0), 5);
        assert_eq!(schedule.due(1), 5 + 333_333_333);
        assert_eq!(schedule.due(3_000_000_000), 5 + 1_000_000_000_000_000_000);
    }

    #[test]
    fn postponed_schedule_is_late_by_the_span() {
        let mut schedule = Schedule::new(5, 1_000, None);
        schedule.postpone(7);
        assert_eq!(schedule.due(2), 2_000_012);
    }

    #[test]
    fn burst_comes_at_the_end_of_every_period_with_as_many_messages_as_asked_for() {
        let schedule = Schedule::new(1_000, 80_000, Some(BURST));
        let mut bursts = [0; 3];
        let mut last = 0;
        for index in 0..3 * (7_840 + 2_000) {
            let due = schedule.due(index) - 1_000;
            assert!(due >= last);
            last = due;
            let in_burst = due % PERIOD >= PERIOD - BURST.length;
            assert_eq!(schedule.phase(index) == Phase::Burst, in_burst, "message {index} at {due}");
            bursts[(due / PERIOD) as usize] += u32::from(in_burst);
        }
        assert_eq!(bursts, [2_000; 3]);
    }

    #[test]
    fn without_bursts_all_is_calm() {
        assert!((0..10_000).all(|index| Phases::default().of(index) == Phase::Calm));
    }

    #[test]
    fn burst_is_read_as_it_is_written() {
        assert_eq!("1000000/s:2ms".parse(), Ok(BURST));
        assert_eq!("5/s:30us".parse(), Ok(Burst { rate: 5, length: 30_000 }));
        for text in [
            "",
            "1000000",
            "1000000/s",
            "1000000/s:",
            "1000000/s:2",
            "1000000/s:2s",
            "x/s:2ms",
            "-1/s:2ms",
            "1/s:99999999999999999999ms",
            "1/s:18446744073709551615ms",
        ] {
            assert!(text.parse::<Burst>().unwrap_err().contains("1000000/s:2ms"), "{text}");
        }
    }
}
