//! What a market run is asked to do.
#![forbid(unsafe_code)]

use std::ops::Range;

use barewire_driver::clock::Nanos;
use barewire_netstack::Lane;

use super::Error;
use super::schedule::{Burst, PERIOD};

/// Messages a second that the exchange publishes unless asked otherwise.
///
/// With one message a datagram, the least the exchange bundles, 50 ms of it are 4,000 frames: what the trader's receive ring of 4,096 descriptors
/// holds while a busy desktop or a continuous-integration machine takes the trader's core away.
pub const DEFAULT_RATE: u64 = 80_000;

/// Stocks where nothing else is asked for.
pub const DEFAULT_STOCKS: u16 = 400;

/// ITCH messages of a run unless asked otherwise: five seconds at [`DEFAULT_RATE`].
pub const DEFAULT_TICKS: u64 = 400_000;

/// How likely each mishap is on a path, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// A frame vanishes.
    pub loss: f64,
    /// It arrives twice.
    pub duplicate: f64,
    /// It is overtaken by later ones. In simulated runs only.
    pub reorder: f64,
    /// It is damaged, and dropped by the MAC that receives it.
    pub corrupt: f64,
}

impl Rates {
    /// Nothing but loss.
    pub fn losing(loss: f64) -> Self {
        Self { loss, ..Self::default() }
    }

    fn is_perfect(&self) -> bool {
        *self == Self::default()
    }
}

/// How a market runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Seeds the synthetic participants and the wire. The same seed gives the same market.
    pub seed: u64,
    /// ITCH messages that the exchange publishes: 1,000 to 1,000,000,000.
    pub ticks: u64,
    /// Messages a second, open loop: 1,000 to 10,000,000.
    pub rate: u64,
    /// Bursts, one every 100 ms, each at most 50 ms long.
    pub burst: Option<Burst>,
    /// One thread and virtual time instead of two busy threads.
    pub simulated: bool,
    /// Five processes instead of two busy threads.
    pub processes: bool,
    /// Stocks that are traded.
    pub stocks: u16,
    /// Ports of each host: 2, one for each line of the feed, or 1 for both. Orders pass through the first.
    pub ports: usize,
    /// Cores of the trader that receive: 1 polls all ports and arbitrates, 2 are one for each port, and the second hands its line to the first by a
    /// ring.
    pub feed_cores: usize,
    /// What happens to each line of the feed, and to what is asked for again.
    pub feed: Rates,
    /// What happens to TCP, in both directions. Loss may be at most 0.9.
    pub orders: Rates,
    /// A span of each line, in nanoseconds of the run, in which nothing of it arrives. In simulated runs only.
    pub dead_feeds: [Option<Range<Nanos>>; 2],
    /// Times of the run, rising, at which the exchange resets all order connections. In simulated runs only.
    pub order_cuts: Vec<Nanos>,
    /// Who carries the order session at the trader's end, and at the exchange's.
    pub trader_tcp: Lane,
    /// As above.
    pub exchange_tcp: Lane,
    /// The cores of exchange, trader and the trader's second line, in this order; empty leaves the choice to the operating system.
    pub cores: Vec<usize>,
}

/// Stocks of a market of `ticks` messages where nobody chooses: each takes a few messages to be announced, opened and closed.
pub fn default_stocks(ticks: u64) -> u16 {
    u16::try_from(ticks / 4).map_or(DEFAULT_STOCKS, |most| most.clamp(1, DEFAULT_STOCKS))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            ticks: DEFAULT_TICKS,
            rate: DEFAULT_RATE,
            burst: None,
            simulated: false,
            processes: false,
            stocks: DEFAULT_STOCKS,
            ports: 2,
            feed_cores: 1,
            feed: Rates::default(),
            orders: Rates::default(),
            dead_feeds: [None, None],
            order_cuts: Vec::new(),
            trader_tcp: Lane::Express,
            exchange_tcp: Lane::Express,
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
        let is_allowed =
            |burst: Burst| (1_000..=10_000_000).contains(&burst.rate) && (1_000..=PERIOD / 2).contains(&burst.length);
        if !self.burst.is_none_or(is_allowed) {
            return refuse("--burst", "1000 to 10000000 messages a second, and 1us to 50ms");
        }
        if !(1..=8_000).contains(&self.stocks) || u64::from(self.stocks) * 4 > self.ticks {
            return refuse(
                "--stocks",
                "1 to 8000, and at most a quarter of --ticks, for every stock is announced, opened and closed",
            );
        }
        if !(1..=2).contains(&self.ports) {
            return refuse("--ports", "1 or 2");
        }
        if !(1..=2).contains(&self.feed_cores) || (self.feed_cores == 2 && (self.simulated || self.ports == 1)) {
            return refuse("--feed-cores", "1 or 2, and 2 neither with --simulated nor with --ports 1");
        }
        if self.processes && (self.simulated || self.feed_cores == 2 || !self.cores.is_empty()) {
            return refuse("--processes", "neither --simulated nor --feed-cores 2 nor --cores beside it");
        }
        for rates in [&self.feed, &self.orders] {
            for (flag, rate) in
                [("--duplicate", rates.duplicate), ("--reorder", rates.reorder), ("--corrupt", rates.corrupt)]
            {
                if !is_share(rate, 0.5) {
                    return refuse(flag, "0 to 0.5");
                }
            }
            if rates.reorder > 0.0 && !self.simulated {
                return refuse("--reorder", "effect in simulated time only; add --simulated");
            }
        }
        if !is_share(self.feed.loss, 1.0) {
            return refuse("--loss", "0 to 1");
        }
        if !is_share(self.orders.loss, 0.9) {
            return refuse("--tcp-loss", "0 to 0.9, as --loss does where --tcp-loss is not given");
        }
        if !self.cores.is_empty() && self.cores.len() != 1 + self.feed_cores {
            return refuse("--cores", "two cores, the exchange's and the trader's, or a third with --feed-cores 2");
        }
        Ok(())
    }
}

impl Config {
    /// Whether anything happens to any frame.
    pub(super) fn is_impaired(&self) -> bool {
        let is_dead = self.dead_feeds.iter().any(Option::is_some);
        is_dead || !self.feed.is_perfect() || !self.orders.is_perfect()
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
        let burst = |rate, length| Config { burst: Some(Burst { rate, length }), ..base() };
        assert!(refused(burst(0, 2_000_000)).contains("--burst"));
        assert!(refused(burst(1_000_000, 60_000_000)).contains("--burst"));
        assert!(burst(1_000_000, 2_000_000).check().is_ok());
        assert!(refused(Config { ports: 3, ..base() }).contains("--ports"));
        assert!(refused(Config { feed: Rates::losing(1.1), ..base() }).contains("--loss"));
        assert!(refused(Config { feed: Rates::losing(f64::NAN), ..base() }).contains("--loss"));
        assert!(refused(Config { orders: Rates::losing(-0.1), ..base() }).contains("--tcp-loss"));
        let reorder = Rates { reorder: 0.1, ..Rates::default() };
        assert!(refused(Config { feed: reorder, ..base() }).contains("--simulated"));
        assert!(Config { feed: reorder, simulated: true, ..base() }.check().is_ok());
        assert!(refused(Config { cores: vec![1], ..base() }).contains("--cores"));
        assert!(refused(Config { processes: true, simulated: true, ..base() }).contains("--processes"));
        assert!(refused(Config { feed_cores: 2, simulated: true, ..base() }).contains("--feed-cores"));
        assert!(refused(Config { feed_cores: 2, cores: vec![0, 1], ..base() }).contains("--cores"));
    }
}
