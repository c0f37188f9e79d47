//! Round-trip times and the retransmission time-out (RFC 6298), in nanoseconds.

use barewire_driver::clock::Nanos;

use super::config::TcpOptions;

/// The clock's granularity G (RFC 6298, 2.3), and the shortest time-out.
const GRANULARITY: Nanos = 1000;

/// The longest round trip that is measured, about a day.
const LONGEST: Nanos = 1 << 46;

/// What was measured, and what follows from it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rtt {
    /// Smoothed round-trip time; zero before the first measurement.
    pub srtt: Nanos,
    /// Its variation.
    pub rttvar: Nanos,
    /// The smallest seen.
    pub min: Nanos,
    /// The time-out, without back-off.
    pub rto: Nanos,
    /// How long after a send the tail is thought lost (RFC 8985, 7.2); zero before the first measurement.
    pub probe: Nanos,
    /// The same where one segment alone is outstanding, whose acknowledgement the peer may delay; not after the time-out.
    pub probe_alone: Nanos,
}

impl Rtt {
    /// Nothing measured (RFC 6298, 2.1).
    pub fn new(options: &TcpOptions) -> Self {
        Self {
            srtt: 0,
            rttvar: 0,
            min: Nanos::MAX,
            rto: bounded(options.rto_initial, options),
            probe: 0,
            probe_alone: 0,
        }
    }

    /// A measurement (RFC 6298, 2.2 and 2.3). Karn's rule is the caller's: never of a segment that was sent twice (MUST-18).
    #[inline]
    pub fn sample(&mut self, rtt: Nanos, options: &TcpOptions) {
        // A time of zero would look as if nothing had been measured; with one that is bounded, no sum below overflows.
        let rtt = rtt.clamp(1, LONGEST);
        if self.srtt == 0 {
            self.srtt = rtt;
            self.rttvar = rtt / 2;
        } else {
            let error = self.srtt.abs_diff(rtt);
            self.rttvar = towards(self.rttvar, error, 2);
            self.srtt = towards(self.srtt, rtt, 3);
        }
        self.min = self.min.min(rtt);
        self.rto = bounded(self.srtt.wrapping_add(self.rttvar.wrapping_mul(4).max(GRANULARITY)), options);
        self.probe = self.srtt.wrapping_mul(2);
        self.probe_alone = self.probe.saturating_add(options.peer_ack_delay).min(self.rto);
    }

    /// Begins data transmission with a longer time-out than was measured or assumed (RFC 6298, 5.7).
    pub fn restart(&mut self, rto: Nanos, options: &TcpOptions) {
        self.rto = bounded(rto, options);
    }

    /// The time-out after `backoff` doublings (RFC 6298, 5.5).
    pub fn backed_off(&self, backoff: u8, options: &TcpOptions) -> Nanos {
        bounded(self.rto.saturating_mul(1 << backoff.min(20)), options)
    }
}

/// A `1 / 2^shift` of the way from one time to another; both are far below 2^63.
#[inline]
fn towards(from: Nanos, to: Nanos, shift: u32) -> Nanos {
    from.wrapping_add((to.wrapping_sub(from) as i64 >> shift) as u64)
}

/// A time-out within its bounds (RFC 6298, 2.4 and 2.5); never zero, whatever the bounds are.
#[inline]
fn bounded(rto: Nanos, options: &TcpOptions) -> Nanos {
    rto.max(options.rto_min).min(options.rto_max).max(GRANULARITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimator_follows_rfc_6298() {
        let options = TcpOptions { rto_min: 1000, ..TcpOptions::default() };
        let mut rtt = Rtt::new(&options);
        assert_eq!(rtt.rto, 1_000_000_000);
        rtt.sample(800_000, &options);
        assert_eq!((rtt.srtt, rtt.rttvar, rtt.rto), (800_000, 400_000, 2_400_000));
        rtt.sample(1_600_000, &options);
        assert_eq!((rtt.srtt, rtt.rttvar, rtt.min), (900_000, 500_000, 800_000));
        assert_eq!(rtt.backed_off(3, &options), rtt.rto * 8);
        assert_eq!(rtt.backed_off(60, &options), options.rto_max);
    }

    #[test]
    fn bounds_that_make_no_sense_make_no_panic_and_no_zero() {
        let options = TcpOptions { rto_min: 5_000_000, rto_max: 0, ..TcpOptions::default() };
        let mut rtt = Rtt::new(&options);
        assert_eq!((rtt.rto, rtt.backed_off(9, &options)), (GRANULARITY, GRANULARITY));
        rtt.sample(Nanos::MAX, &options);
        rtt.sample(0, &options);
        assert_eq!(rtt.rto, GRANULARITY);
    }
}
