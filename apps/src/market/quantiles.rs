//! Histograms that are sized before the run, and their summary.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use serde::{Deserialize, Serialize};

use super::schedule::Phase;

/// The longest span that is told apart: anything longer counts as this.
const LONGEST: Nanos = 100_000_000_000;

/// Buckets of each power of two, as a power of two: 1,024 keep three digits.
const STEPS_LOG2: u32 = 10;

/// Spans of time in nanoseconds, to three digits. Its memory is taken when it is made: recording never allocates and cannot panic, for it is part
/// of the hot path.
#[derive(Debug, Clone)]
pub struct Spans {
    buckets: Box<[u64]>,
    count: u64,
    max: Nanos,
}

impl Default for Spans {
    fn default() -> Self {
        Self { buckets: vec![0; bucket(LONGEST) + 1].into(), count: 0, max: 0 }
    }
}

/// The bucket of `span`: spans below 2,048 ns have one each, and every further power of two is divided into 1,024.
#[inline]
fn bucket(span: Nanos) -> usize {
    let shift = (span | 1).ilog2().saturating_sub(STEPS_LOG2);
    ((u64::from(shift) << STEPS_LOG2) + (span >> shift)) as usize
}

/// The longest span in `bucket`.
fn longest_in(bucket: usize) -> Nanos {
    let bucket = bucket as u64;
    let shift = (bucket >> STEPS_LOG2).saturating_sub(1);
    let step = bucket - (shift << STEPS_LOG2);
    ((step + 1) << shift) - 1
}

impl Spans {
    /// Records one span.
    #[inline]
    pub fn record(&mut self, span: Nanos) {
        let span = span.min(LONGEST);
        if let Some(count) = self.buckets.get_mut(bucket(span)) {
            *count = count.wrapping_add(1);
        }
        self.count = self.count.wrapping_add(1);
        self.max = self.max.max(span);
    }

    /// The spans of all of `parts`.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.buckets.iter_mut().zip(&part.buckets).for_each(|(sum, count)| *sum += count);
            all.count += part.count;
            all.max = all.max.max(part.max);
        }
        all
    }

    /// The summary.
    pub fn quantiles(&self) -> Quantiles {
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|share| self.quantile(share));
        Quantiles { count: self.count, p50, p90, p99, p999, max: self.max }
    }

    /// The shortest span that is not exceeded by `share` of all, to three digits.
    fn quantile(&self, share: f64) -> Nanos {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted.max(1)
        });
        found.map_or(0, |bucket| longest_in(bucket).min(self.max))
    }
}

/// Spans in calm and in bursts, apart.
#[derive(Debug, Clone, Default)]
pub struct PhaseSpans {
    calm: Spans,
    burst: Spans,
}

impl PhaseSpans {
    /// Records one span.
    #[inline]
    pub fn record(&mut self, phase: Phase, span: Nanos) {
        match phase {
            Phase::Calm => self.calm.record(span),
            Phase::Burst => self.burst.record(span),
        }
    }

    /// The spans of one phase.
    pub fn of(&self, phase: Phase) -> &Spans {
        match phase {
            Phase::Calm => &self.calm,
            Phase::Burst => &self.burst,
        }
    }

    /// All of them.
    pub fn all(&self) -> Spans {
        Spans::merged([&self.calm, &self.burst])
    }
}

/// A distribution of nanoseconds in six numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many spans were recorded.
    pub count: u64,
    /// The median.
    pub p50: Nanos,
    /// The 90th percentile.
    pub p90: Nanos,
    /// The 99th percentile.
    pub p99: Nanos,
    /// The 99.9th percentile.
    pub p999: Nanos,
    /// The longest.
    pub max: Nanos,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_nothing_are_zero() {
        assert_eq!(Spans::default().quantiles(), Quantiles::default());
    }

    #[test]
    fn quantiles_are_within_three_digits() {
        let mut spans = Spans::default();
        (1..=1_000).for_each(|span| spans.record(span * 1_000));
        let quantiles = spans.quantiles();
        assert_eq!(quantiles.count, 1_000);
        assert!(quantiles.p50.abs_diff(500_000) <= 1_000, "{quantiles:?}");
        assert!(quantiles.p999.abs_diff(999_000) <= 1_000, "{quantiles:?}");
        assert!(quantiles.max.abs_diff(1_000_000) <= 1_000, "{quantiles:?}");
    }

    #[test]
    fn every_span_lies_in_its_bucket_and_the_next_bucket_follows() {
        for span in (0..5_000).chain((12..36).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 12_345])) {
            let longest = longest_in(bucket(span));
            assert!(span <= longest && longest - span <= span >> STEPS_LOG2, "{span} in a bucket up to {longest}");
            assert_eq!(bucket(longest + 1), bucket(span) + 1);
        }
    }

    #[test]
    fn merged_spans_count_what_their_parts_do() {
        let (mut few, mut many) = (Spans::default(), Spans::default());
        few.record(5);
        (0..3).for_each(|_| many.record(70_000));
        let quantiles = Spans::merged([&few, &many]).quantiles();
        assert_eq!((quantiles.count, quantiles.p50, quantiles.max), (4, 70_000, 70_000));
    }

    #[test]
    fn span_beyond_the_longest_is_kept_as_the_longest() {
        let mut spans = Spans::default();
        spans.record(u64::MAX);
        assert_eq!(spans.quantiles().count, 1);
    }
}
