//! Histograms that are sized before the run, and their summary.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest span that is told apart: anything longer counts as this.
const LONGEST: Nanos = 100_000_000_000;

/// Spans of time in nanoseconds, to three digits. Its memory is taken when it is made: recording never allocates.
#[derive(Debug, Clone)]
pub struct Spans(Histogram<u64>);

impl Default for Spans {
    fn default() -> Self {
        // The bounds are constants that the constructor accepts: 1 <= low, 2 * low <= high, at most five digits.
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("constant bounds are valid"))
    }
}

impl Spans {
    /// Records one span.
    #[inline]
    pub fn record(&mut self, span: Nanos) {
        self.0.saturating_record(span);
    }

    /// The summary.
    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            count: self.0.len(),
            p50: self.0.value_at_quantile(0.5),
            p90: self.0.value_at_quantile(0.9),
            p99: self.0.value_at_quantile(0.99),
            p999: self.0.value_at_quantile(0.999),
            max: self.0.max(),
        }
    }
}

/// A distribution of nanoseconds in six numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
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
    fn span_beyond_the_longest_is_kept_as_the_longest() {
        let mut spans = Spans::default();
        spans.record(u64::MAX);
        assert_eq!(spans.quantiles().count, 1);
    }
}
