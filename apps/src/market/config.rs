//! What a market run is asked to do.
#![forbid(unsafe_code)]

use super::Error;

/// Messages a second that the exchange publishes unless asked otherwise.
///
/// With one message a datagram, the least the exchange bundles, 50 ms of it are 4,000 frames: what the trader's receive ring of 4,096 descriptors
/// holds while a busy desktop or a continuous-integration machine takes the trader's core away.
pub const DEFAULT_RATE: u64 = 80_000;

/// Stocks where nothing else is asked for.
pub const DEFAULT_STOCKS: u16 = 100;

/// ITCH messages of a run unless asked otherwise: five seconds at [`DEFAULT_RATE`].
pub const DEFAULT_TICKS: u64 = 400_000;

/// How a market runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Seeds the synthetic participants and the wire. The same seed gives the same market.
    pub seed: u64,
    /// ITCH messages that the exchange publishes: 1,000 to 1,000,000,000.
    pub ticks: u64,
    /// Messages a second, open loop: 1,000 to 10,000,000.
    pub rate: u64,
    /// One thread and virtual time instead of two busy threads.
    pub simulated: bool,
    /// Stocks that are traded.
    pub stocks: u16,
    /// The share of feed frames that the wire loses, 0 to 1.
    pub loss: f64,
    /// The share of TCP frames that the wire loses, in both directions, 0 to 0.9.
    pub tcp_loss: f64,
    /// The cores of exchange and trader, in this order; empty leaves the choice to the operating system.
    pub cores: Vec<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            ticks: DEFAULT_TICKS,
            rate: DEFAULT_RATE,
            simulated: false,
            stocks: DEFAULT_STOCKS,
            loss: 0.0,
            tcp_loss: 0.0,
            cores: Vec::new(),
        }
    }
}

impl Config {
    /// Checks every value against what is allowed.
    ///
    /// # Errors
    /// [`Error::Config`] with the flag and what it allows.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |flag, allowed| Err(Error::Config { flag, allowed });
        // Written so that NaN is refused.
        let is_share = |value: f64, most: f64| (0.0..=most).contains(&value);
        if !(1_000..=1_000_000_000).contains(&self.ticks) {
            return refuse("--ticks", "1000 to 1000000000");
        }
        if !(1_000..=10_000_000).contains(&self.rate) {
            return refuse("--rate", "1000 to 10000000 messages a second");
        }
        if !(1..=8_000).contains(&self.stocks) || u64::from(self.stocks) * 2 > self.ticks {
            return refuse("--stocks", "1 to 8000, and at most half of --ticks, for every stock is announced first");
        }
        if !is_share(self.loss, 1.0) {
            return refuse("--loss", "0 to 1");
        }
        if !is_share(self.tcp_loss, 0.9) {
            return refuse("--tcp-loss", "0 to 0.9");
        }
        if !matches!(self.cores.len(), 0 | 2) {
            return refuse("--cores", "two cores, the exchange's and the trader's");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_config_is_allowed() {
        assert!(Config::default().check().is_ok());
    }

    #[test]
    fn values_out_of_range_name_their_flag() {
        let refused = |config: Config| config.check().unwrap_err().to_string();
        let base = Config::default;
        assert!(refused(Config { ticks: 0, ..base() }).contains("--ticks"));
        assert!(refused(Config { rate: 0, ..base() }).contains("--rate"));
        assert!(refused(Config { loss: 1.1, ..base() }).contains("--loss"));
        assert!(refused(Config { loss: f64::NAN, ..base() }).contains("--loss"));
        assert!(refused(Config { tcp_loss: -0.1, ..base() }).contains("--tcp-loss"));
        assert!(refused(Config { cores: vec![1], ..base() }).contains("--cores"));
    }
}
