//! The exchange: a matching engine in price-time priority, with crosses and halts, with synthetic participants and with clients; it publishes ITCH
//! and serves OUCH.
//!
//! It keeps its own book, written apart from the feed's: ordered maps of queues, where clarity goes before speed. Everything it does follows
//! from its seed and from what clients send.
#![forbid(unsafe_code)]

mod accounts;
mod answers;
mod book;
mod cross;
mod day;
mod orders;
mod participants;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use accounts::Account;
use barewire_driver::clock::Nanos;
use book::{Place, Stock, TradingState};
use day::Phase;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::digest::{Digest, Side};
use crate::feed::itch::{self, Timestamp};
use crate::fields::Alpha;
use crate::order::gateway::AccountId;

/// A trading day begins at 9:30 here, in nanoseconds since midnight.
const OPENING: Nanos = 34_200 * 1_000_000_000;
/// The smallest price step, in 1/10,000 dollar.
const TICK: u32 = 100;
/// Messages that one event can make, at most, with some room, unless a client has more orders than that cancelled at once.
pub const LONGEST_EVENT: u64 = 64;

/// Where what the exchange says goes.
pub trait Outlet {
    /// An ITCH message for the feed.
    fn feed(&mut self, message: &[u8]);
    /// An OUCH message for a client.
    fn client(&mut self, account: AccountId, message: &[u8]);
}

/// What happened at the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// ITCH messages.
    pub messages: u64,
    /// Client orders accepted.
    pub accepted: u64,
    /// Client orders rejected.
    pub rejected: u64,
    /// Executions of client orders.
    pub fills: u64,
    /// Client messages that are no OUCH.
    pub malformed: u64,
    /// Client messages that are passed over: their number did not rise, or what they are about is no more.
    pub ignored: u64,
    /// Client orders taken away, wholly or in part, for any reason but an execution.
    pub cancelled: u64,
    /// Matches of two orders of one client that were prevented.
    pub self_matches: u64,
    /// Crosses.
    pub crosses: u64,
    /// Halts.
    pub halts: u64,
}

/// The exchange.
#[derive(Debug)]
pub struct Exchange {
    random: Pcg64Mcg,
    stocks: Vec<Stock>,
    symbols: HashMap<Alpha<8>, u16>,
    index: HashMap<u64, Place>,
    next_reference: u64,
    next_match: u64,
    accounts: Vec<Account>,
    phase: Phase,
    stats: Stats,
}

impl Exchange {
    /// An exchange of `stocks` stocks whose participants follow `seed`, with `accounts` accounts for clients.
    pub fn new(seed: u64, stocks: u16, accounts: u16) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let stocks: Vec<_> = (1..=stocks)
            .map(|number| Stock {
                symbol: Alpha::new(&symbol(number)),
                state: TradingState::PreOpen,
                bids: BTreeMap::new(),
                offers: BTreeMap::new(),
                references: Vec::new(),
                middle: random.random_range(1_000u32..30_000) * TICK,
            })
            .collect();
        let symbols = (1..).zip(&stocks).map(|(locate, stock)| (stock.symbol, locate)).collect();
        Self {
            random,
            stocks,
            symbols,
            index: HashMap::new(),
            next_reference: 1,
            next_match: 1,
            accounts: (0..accounts).map(|_| Account::default()).collect(),
            phase: Phase::Opening { next: 1 },
            stats: Stats::default(),
        }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn publish(&mut self, message: &[u8], out: &mut impl Outlet) {
        self.stats.messages += 1;
        out.feed(message);
    }

    /// The symbol of a stock; blank where there is none.
    pub fn symbol(&self, locate: u16) -> Alpha<8> {
        self.stock(locate).map_or(Alpha::new(""), |stock| stock.symbol)
    }

    fn stock(&self, locate: u16) -> Option<&Stock> {
        self.stocks.get(usize::from(locate).checked_sub(1)?)
    }

    /// Locate codes come from our own tables and count from one.
    fn stock_mut(&mut self, locate: u16) -> &mut Stock {
        &mut self.stocks[usize::from(locate) - 1]
    }

    /// The digest of the exchange's own book.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for (locate, stock) in (1..).zip(&self.stocks) {
            for (price, queue) in stock.bids.iter().rev() {
                queue.iter().for_each(|order| digest.order(locate, Side::Buy, *price, order.reference, order.shares));
            }
            for (price, queue) in &stock.offers {
                queue.iter().for_each(|order| digest.order(locate, Side::Sell, *price, order.reference, order.shares));
            }
        }
        digest
    }
}

fn stamp(now: Nanos) -> Timestamp {
    Timestamp::new(OPENING + now)
}

/// The entry of a stock in the day's directory.
fn directory(now: Nanos, locate: u16, symbol: Alpha<8>) -> itch::StockDirectory {
    itch::StockDirectory {
        message_type: Alpha::new("R"),
        stock_locate: locate.into(),
        tracking_number: 0.into(),
        timestamp: stamp(now),
        stock: symbol,
        market_category: Alpha::new("Q"),
        financial_status_indicator: Alpha::new("N"),
        round_lot_size: 100.into(),
        round_lots_only: Alpha::new("N"),
        issue_classification: Alpha::new("C"),
        issue_sub_type: Alpha::new("Z"),
        authenticity: Alpha::new("P"),
        short_sale_threshold_indicator: Alpha::new("N"),
        ipo_flag: Alpha::new("N"),
        luld_reference_price_tier: Alpha::new("1"),
        etp_flag: Alpha::new("N"),
        etp_leverage_factor: 0.into(),
        inverse_indicator: Alpha::new("N"),
    }
}

/// A stock's trading state.
fn trading_action(now: Nanos, locate: u16, symbol: Alpha<8>, state: &str, reason: &str) -> itch::StockTradingAction {
    itch::StockTradingAction {
        message_type: Alpha::new("H"),
        stock_locate: locate.into(),
        tracking_number: 0.into(),
        timestamp: stamp(now),
        stock: symbol,
        trading_state: Alpha::new(state),
        reserved: Alpha::new(""),
        reason: Alpha::new(reason),
    }
}

fn letter(side: Side) -> Alpha<1> {
    Alpha(if side == Side::Buy { *b"B" } else { *b"S" })
}

/// The symbol of stock number `number`: four letters, then the rest.
fn symbol(number: u16) -> String {
    let mut rest = u32::from(number);
    let mut letters = [b'A'; 4];
    for letter in letters.iter_mut().rev() {
        *letter = b'A' + (rest % 26) as u8;
        rest /= 26;
    }
    letters.iter().map(|letter| char::from(*letter)).collect()
}
