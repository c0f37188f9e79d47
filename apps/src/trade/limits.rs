//! The limits that every order is held against at the moment it would leave: size, value, price collar, open orders, position, rate, the age of the
//! book, and no match with oneself.
//!
//! A refusal is typed, counted and kept for the log; it costs the order, never the session.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use serde::{Deserialize, Serialize};

use super::strategy::{Direction, Intent, Top};

/// What one trader may do. Prices are in the feed's unit, 1/10,000 of a dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most shares in one order.
    pub order_shares: u32,
    /// Most value of one order, in 1/10,000 of a dollar.
    pub order_notional: u64,
    /// How far a price may lie beyond the middle of the book, in hundredths of a percent.
    pub collar_bps: u32,
    /// Most orders that the exchange has not finished with.
    pub open_orders: u32,
    /// Most shares held or owed in one stock, counting what open orders could still add.
    pub position_shares: u32,
    /// Most orders a second, over time; at least one.
    pub orders_per_second: u32,
    /// Most orders at once, after a rest; at least one.
    pub burst: u32,
    /// For how long nothing may have been heard of the feed.
    pub book_age: Nanos,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            order_shares: 1_000,
            order_notional: 500_000 * 10_000,
            collar_bps: 200,
            open_orders: 64,
            position_shares: 2_000,
            orders_per_second: 100_000,
            burst: 64,
            book_age: 2_000_000_000,
        }
    }
}

/// Why an order that was decided did not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More shares than one order may have, or none.
    #[error("order size is zero or above the limit")]
    Shares,
    /// More value than one order may have.
    #[error("order value is above the limit")]
    Notional,
    /// The price lies too far beyond the middle of the book.
    #[error("price is outside the collar")]
    Collar,
    /// Too many orders are open.
    #[error("too many open orders")]
    OpenOrders,
    /// The position could grow beyond its limit.
    #[error("position limit")]
    Position,
    /// Too many orders in too short a time.
    #[error("order rate is above the limit")]
    Rate,
    /// The book is not up to date: messages are missing, or nothing was heard for too long.
    #[error("book is stale")]
    StaleBook,
    /// The stock is not traded.
    #[error("stock is halted")]
    Halted,
    /// It would meet an order of our own.
    #[error("order would meet an own order")]
    SelfMatch,
    /// The kill switch is pressed.
    #[error("kill switch is pressed")]
    Killed,
    /// There is no session to send it on.
    #[error("order session is not ready")]
    NoSession,
    /// TCP has no room for it.
    #[error("order session has no room to send")]
    BackPressure,
}

impl Refusal {
    /// How many reasons there are.
    pub const COUNT: usize = 12;

    /// All reasons, in the order of their counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Shares,
        Self::Notional,
        Self::Collar,
        Self::OpenOrders,
        Self::Position,
        Self::Rate,
        Self::StaleBook,
        Self::Halted,
        Self::SelfMatch,
        Self::Killed,
        Self::NoSession,
        Self::BackPressure,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shares => "shares",
            Self::Notional => "notional",
            Self::Collar => "collar",
            Self::OpenOrders => "open_orders",
            Self::Position => "position",
            Self::Rate => "rate",
            Self::StaleBook => "stale_book",
            Self::Halted => "halted",
            Self::SelfMatch => "self_match",
            Self::Killed => "killed",
            Self::NoSession => "no_session",
            Self::BackPressure => "back_pressure",
        }
    }
}

/// How often each [`Refusal`] happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Refusals([u64; Refusal::COUNT]);

impl Refusals {
    /// Counts one.
    #[inline]
    pub fn count(&mut self, reason: Refusal) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count = count.wrapping_add(1);
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Reason and count, for every reason.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().zip(self.0)
    }
}

/// What the trader has at risk in one stock, in shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exposure {
    /// Shares held; negative when owed.
    pub position: i64,
    /// Shares that open buy orders could still add.
    pub open_buy: u64,
    /// Shares that open sell orders could still take away.
    pub open_sell: u64,
    /// Buy orders that may rest in the book.
    pub resting_buys: u32,
    /// Sell orders that may rest in the book.
    pub resting_sells: u32,
}

impl Exposure {
    /// Shares of open orders and orders that may rest, on one side.
    #[inline]
    pub(super) fn side_mut(&mut self, is_sell: bool) -> (&mut u64, &mut u32) {
        match is_sell {
            true => (&mut self.open_sell, &mut self.resting_sells),
            false => (&mut self.open_buy, &mut self.resting_buys),
        }
    }

    /// The largest position, in absolute shares, once all that is open on `side` and `shares` more have executed.
    #[inline]
    fn worst(&self, side: Direction, shares: u32) -> i64 {
        let more = i64::from(shares);
        match side {
            Direction::Buy => self.position.wrapping_add_unsigned(self.open_buy).wrapping_add(more),
            Direction::Sell => self.position.wrapping_neg().wrapping_add_unsigned(self.open_sell).wrapping_add(more),
        }
    }
}

/// How things stand at the moment of release.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The time.
    pub now: Nanos,
    /// The stock's book, by its best prices.
    pub top: &'a Top,
    /// What is at risk in the stock, without the order.
    pub exposure: &'a Exposure,
    /// Orders that the exchange has not finished with, without this one.
    pub open_orders: u32,
    /// When something was last heard of the feed.
    pub heard: Nanos,
    /// Whether something of the feed is missing.
    pub is_stale: bool,
    /// Whether the stock is halted.
    pub is_halted: bool,
}

impl Limits {
    /// Passes the order, or says what it broke. Rate and own orders are not looked at.
    #[inline]
    pub fn check(&self, intent: &Intent, at: &Situation<'_>) -> Result<(), Refusal> {
        if at.is_stale || at.now.saturating_sub(at.heard) > self.book_age {
            return Err(Refusal::StaleBook);
        }
        if at.is_halted {
            return Err(Refusal::Halted);
        }
        if intent.shares == 0 || intent.shares > self.order_shares {
            return Err(Refusal::Shares);
        }
        // 32 by 32 bits: the product fits 64.
        if u64::from(intent.price).wrapping_mul(u64::from(intent.shares)) > self.order_notional {
            return Err(Refusal::Notional);
        }
        if !self.inside_collar(intent, at.top) {
            return Err(Refusal::Collar);
        }
        if at.open_orders >= self.open_orders {
            return Err(Refusal::OpenOrders);
        }
        if at.exposure.worst(intent.side, intent.shares) > i64::from(self.position_shares) {
            return Err(Refusal::Position);
        }
        Ok(())
    }

    /// Whether a buy is not too dear and a sale not too cheap, measured from the middle of the book. Without a middle, nothing is inside.
    #[inline]
    fn inside_collar(&self, intent: &Intent, top: &Top) -> bool {
        if top.bid.price == 0 || top.ask.price == 0 {
            return false;
        }
        // price <= (bid + ask) / 2 * (1 + bps / 10,000), without a division. All factors are below 2^34 and 2^15.
        let twice_middle = u64::from(top.bid.price).wrapping_add(u64::from(top.ask.price));
        let price = u64::from(intent.price).wrapping_mul(20_000);
        let bps = u64::from(self.collar_bps.min(10_000));
        match intent.side {
            Direction::Buy => price <= twice_middle.wrapping_mul(10_000u64.wrapping_add(bps)),
            Direction::Sell => price >= twice_middle.wrapping_mul(10_000u64.wrapping_sub(bps)),
        }
    }
}

/// A token bucket in nanoseconds: a token for every order, a new one every interval, at most a burst of them.
///
/// Instead of tokens it keeps the time at which the bucket would be full again (the generic cell rate algorithm, ITU-T I.371, annex A), so nothing
/// has to be refilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    interval: Nanos,
    /// How far ahead the time of being full may lie, for one more token to be there.
    slack: Nanos,
    full_at: Nanos,
}

impl Default for TokenBucket {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

impl TokenBucket {
    /// A full bucket for the rate and the burst of `limits`.
    pub fn new(limits: &Limits) -> Self {
        let interval = 1_000_000_000u64.div_ceil(u64::from(limits.orders_per_second.max(1)));
        Self { interval, slack: interval.saturating_mul(u64::from(limits.burst.max(1)) - 1), full_at: 0 }
    }

    /// Whether there is a token.
    #[inline]
    pub fn has_token(&self, now: Nanos) -> bool {
        self.full_at <= now.saturating_add(self.slack)
    }

    /// Takes one.
    #[inline]
    pub fn take(&mut self, now: Nanos) {
        self.full_at = self.full_at.max(now).saturating_add(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::strategy::Level;
    use super::*;

    const TOP: Top = Top { bid: Level { price: 99_0000, shares: 500 }, ask: Level { price: 101_0000, shares: 500 } };

    fn buy(price: u32, shares: u32) -> Intent {
        Intent { side: Direction::Buy, stock: 1, price, shares, rests: false }
    }

    fn sell(price: u32, shares: u32) -> Intent {
        Intent { side: Direction::Sell, ..buy(price, shares) }
    }

    const QUIET: Exposure = Exposure { position: 0, open_buy: 0, open_sell: 0, resting_buys: 0, resting_sells: 0 };
    const NOW: Nanos = 5_000_000_000;
    const CALM: Situation<'static> = Situation {
        now: NOW,
        top: &TOP,
        exposure: &QUIET,
        open_orders: 0,
        heard: NOW,
        is_stale: false,
        is_halted: false,
    };

    fn check_at(intent: Intent, at: Situation<'_>) -> Result<(), Refusal> {
        Limits::default().check(&intent, &at)
    }

    fn check(intent: Intent) -> Result<(), Refusal> {
        check_at(intent, CALM)
    }

    #[test]
    fn order_inside_every_limit_passes() {
        assert_eq!(check(buy(101_0000, 100)), Ok(()));
        assert_eq!(check(sell(99_0000, 100)), Ok(()));
    }

    #[test]
    fn order_of_no_or_too_many_shares_is_refused() {
        assert_eq!(check(buy(101_0000, 0)), Err(Refusal::Shares));
        assert_eq!(check(buy(101_0000, 1_001)), Err(Refusal::Shares));
    }

    #[test]
    fn order_of_too_much_value_is_refused() {
        let top = Top { bid: Level { price: 99_900_000, shares: 1 }, ask: Level { price: 100_000_000, shares: 1 } };
        let check = |shares| check_at(buy(100_000_000, shares), Situation { top: &top, ..CALM });
        assert_eq!(check(50), Ok(()));
        assert_eq!(check(51), Err(Refusal::Notional));
    }

    #[test]
    fn collar_bounds_only_the_dear_side() {
        assert_eq!(check(buy(102_0000, 100)), Ok(()));
        assert_eq!(check(buy(102_0001, 100)), Err(Refusal::Collar));
        assert_eq!(check(buy(1, 100)), Ok(()));
        assert_eq!(check(sell(98_0000, 100)), Ok(()));
        assert_eq!(check(sell(97_9999, 100)), Err(Refusal::Collar));
    }

    #[test]
    fn collar_at_the_highest_price_does_not_wrap() {
        let top = Top { bid: Level { price: u32::MAX, shares: 1 }, ask: Level { price: u32::MAX, shares: 1 } };
        let limits = Limits { order_notional: u64::MAX, ..Limits::default() };
        assert_eq!(limits.check(&buy(u32::MAX, 1), &Situation { top: &top, ..CALM }), Ok(()));
    }

    #[test]
    fn open_orders_at_the_limit_refuse_one_more() {
        let check = |open_orders| check_at(buy(101_0000, 1), Situation { open_orders, ..CALM });
        assert_eq!(check(63), Ok(()));
        assert_eq!(check(64), Err(Refusal::OpenOrders));
    }

    #[test]
    fn position_counts_what_is_open_on_the_same_side() {
        let exposure = Exposure { position: 1_500, open_buy: 400, ..QUIET };
        let check = |intent| check_at(intent, Situation { exposure: &exposure, ..CALM });
        assert_eq!(check(buy(101_0000, 100)), Ok(()));
        assert_eq!(check(buy(101_0000, 101)), Err(Refusal::Position));
        assert_eq!(check(sell(99_0000, 1_000)), Ok(()));
    }

    #[test]
    fn stale_silent_or_halted_book_refuses_everything() {
        let order = buy(101_0000, 1);
        assert_eq!(check_at(order, Situation { is_stale: true, ..CALM }), Err(Refusal::StaleBook));
        assert_eq!(check_at(order, Situation { is_halted: true, ..CALM }), Err(Refusal::Halted));
        let age = Limits::default().book_age;
        assert_eq!(check_at(order, Situation { heard: NOW - age, ..CALM }), Ok(()));
        assert_eq!(check_at(order, Situation { heard: NOW - age - 1, ..CALM }), Err(Refusal::StaleBook));
        // A clock that steps back makes nothing older.
        assert_eq!(check_at(order, Situation { now: 0, ..CALM }), Ok(()));
    }

    #[test]
    fn book_without_a_side_has_no_collar_to_be_inside_of() {
        let top = Top { ask: Level::default(), ..TOP };
        assert_eq!(check_at(sell(99_0000, 1), Situation { top: &top, ..CALM }), Err(Refusal::Collar));
    }

    #[test]
    fn bucket_gives_a_burst_and_then_one_token_an_interval() {
        let limits = Limits { orders_per_second: 1_000, burst: 3, ..Limits::default() };
        let mut bucket = TokenBucket::new(&limits);
        let mut take = |now| {
            let has = bucket.has_token(now);
            if has {
                bucket.take(now);
            }
            has
        };
        assert_eq!([0, 0, 0, 0].map(&mut take), [true, true, true, false]);
        assert_eq!([999_999, 1_000_000, 1_000_001].map(&mut take), [false, true, false]);
        assert_eq!([1_000_000_000; 4].map(&mut take), [true, true, true, false]);
        // A clock that steps back gives nothing away.
        assert!(!take(0));
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let mut refusals = Refusals::default();
        for reason in Refusal::ALL {
            refusals.count(reason);
        }
        refusals.count(Refusal::Collar);
        assert_eq!(refusals.total(), 1 + Refusal::COUNT as u64);
        for (reason, count) in refusals.iter() {
            assert_eq!(count, if reason == Refusal::Collar { 2 } else { 1 }, "{}", reason.name());
        }
    }

    /// Numbers at their ends, and near `near`.
    fn number(near: u32) -> impl Strategy<Value = u32> {
        prop_oneof![Just(0), Just(u32::MAX), any::<u32>(), near.saturating_sub(3)..near.saturating_add(3)]
    }

    /// The limits in numbers that have no end.
    fn check_slowly(limits: &Limits, intent: &Intent, at: &Situation<'_>) -> Result<(), Refusal> {
        let [price, shares, bid, ask] =
            [intent.price, intent.shares, at.top.bid.price, at.top.ask.price].map(i128::from);
        let sign = if intent.side == Direction::Buy { 1 } else { -1 };
        let open = if intent.side == Direction::Buy { at.exposure.open_buy } else { at.exposure.open_sell };
        let worst = sign * i128::from(at.exposure.position) + i128::from(open) + shares;
        let beyond =
            sign * (price * 20_000 - (bid + ask) * 10_000) > (bid + ask) * i128::from(limits.collar_bps.min(10_000));
        let broken = [
            (
                at.is_stale || i128::from(at.now) - i128::from(at.heard) > i128::from(limits.book_age),
                Refusal::StaleBook,
            ),
            (at.is_halted, Refusal::Halted),
            (shares == 0 || shares > limits.order_shares.into(), Refusal::Shares),
            (price * shares > limits.order_notional.into(), Refusal::Notional),
            (bid == 0 || ask == 0 || beyond, Refusal::Collar),
            (at.open_orders >= limits.open_orders, Refusal::OpenOrders),
            (worst > limits.position_shares.into(), Refusal::Position),
        ];
        broken.into_iter().find(|(is_broken, _)| *is_broken).map_or(Ok(()), |(_, refusal)| Err(refusal))
    }

    proptest! {
        #[test]
        fn prices_and_sizes_up_to_their_ends_are_judged_as_by_numbers_without_end(
            (price, shares, bid, ask) in (number(1_000), number(100), number(1_000), number(1_010)),
            (order_shares, notional, collar_bps, position_shares) in
                (number(100), prop_oneof![any::<u64>(), 99_000u64..101_000], number(100), number(500)),
            (position, open) in (prop_oneof![-600i64..600, -(1i64 << 62)..1 << 62], prop_oneof![0u64..600, 0u64..1 << 61]),
            (now, heard, book_age) in prop_oneof![any::<(u64, u64, u64)>(), (0u64..9, 0u64..9, 0u64..9)],
            is_buy: bool, open_orders in 0u32..3,
        ) {
            let level = |price| Level { price, shares: 1 };
            let top = Top { bid: level(bid), ask: level(ask) };
            let exposure = Exposure { position, open_buy: open, open_sell: open / 2, ..QUIET };
            let limits = Limits {
                order_shares, order_notional: notional, collar_bps, position_shares, book_age, open_orders: 2, ..Limits::default()
            };
            let intent = if is_buy { buy(price, shares) } else { sell(price, shares) };
            let at = Situation { now, heard, top: &top, exposure: &exposure, open_orders, ..CALM };
            prop_assert_eq!(limits.check(&intent, &at), check_slowly(&limits, &intent, &at));
        }

        #[test]
        fn bucket_gives_no_more_than_its_rate_wherever_the_clock_steps(
            times in prop::collection::vec(prop_oneof![0u64..10_000_000, any::<u64>()], 0..200), rate in 1u32..2_000, burst in 1u32..20,
        ) {
            let limits = Limits { orders_per_second: rate, burst, ..Limits::default() };
            let (mut bucket, mut given, mut latest) = (TokenBucket::new(&limits), 0u128, 0);
            for now in times {
                latest = latest.max(now);
                if bucket.has_token(now) {
                    bucket.take(now);
                    given += 1;
                }
                prop_assert!(given <= u128::from(burst) + u128::from(latest) * u128::from(rate) / 1_000_000_000);
            }
        }
    }
}
