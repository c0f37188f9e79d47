//! The checks that every order passes before it may leave: size, value, price collar, open orders, position.
//!
//! A refusal is typed and counted; it costs the order, never the session.
#![forbid(unsafe_code)]

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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            order_shares: 1_000,
            order_notional: 500_000 * 10_000,
            collar_bps: 200,
            open_orders: 64,
            position_shares: 2_000,
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
    /// There is no session to send it on.
    #[error("order session is not logged in")]
    NoSession,
    /// TCP has no room for it.
    #[error("order session has no room to send")]
    BackPressure,
}

impl Refusal {
    /// How many reasons there are.
    pub const COUNT: usize = 7;

    /// All reasons, in the order of their counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Shares,
        Self::Notional,
        Self::Collar,
        Self::OpenOrders,
        Self::Position,
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
            Self::NoSession => "no_session",
            Self::BackPressure => "back_pressure",
        }
    }
}

/// How often each [`Refusal`] happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
}

impl Exposure {
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

impl Limits {
    /// Passes the order, or says what it broke. `open_orders` and `exposure` are as they stand without it.
    #[inline]
    pub fn check(&self, intent: &Intent, top: &Top, exposure: &Exposure, open_orders: u32) -> Result<(), Refusal> {
        if intent.shares == 0 || intent.shares > self.order_shares {
            return Err(Refusal::Shares);
        }
        // 32 by 32 bits: the product fits 64.
        if u64::from(intent.price).wrapping_mul(u64::from(intent.shares)) > self.order_notional {
            return Err(Refusal::Notional);
        }
        if !self.inside_collar(intent, top) {
            return Err(Refusal::Collar);
        }
        if open_orders >= self.open_orders {
            return Err(Refusal::OpenOrders);
        }
        if exposure.worst(intent.side, intent.shares) > i64::from(self.position_shares) {
            return Err(Refusal::Position);
        }
        Ok(())
    }

    /// Whether a buy is not too dear and a sale not too cheap, measured from the middle of the book.
    #[inline]
    fn inside_collar(&self, intent: &Intent, top: &Top) -> bool {
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

#[cfg(test)]
mod tests {
    use super::super::strategy::Level;
    use super::*;

    const TOP: Top = Top { bid: Level { price: 99_0000, shares: 500 }, ask: Level { price: 101_0000, shares: 500 } };

    fn buy(price: u32, shares: u32) -> Intent {
        Intent { side: Direction::Buy, stock: 1, price, shares }
    }

    fn sell(price: u32, shares: u32) -> Intent {
        Intent { side: Direction::Sell, ..buy(price, shares) }
    }

    fn check(intent: Intent) -> Result<(), Refusal> {
        Limits::default().check(&intent, &TOP, &Exposure::default(), 0)
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
        let check = |shares| Limits::default().check(&buy(100_000_000, shares), &top, &Exposure::default(), 0);
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
        assert_eq!(limits.check(&buy(u32::MAX, 1), &top, &Exposure::default(), 0), Ok(()));
    }

    #[test]
    fn open_orders_at_the_limit_refuse_one_more() {
        let check = |open| Limits::default().check(&buy(101_0000, 1), &TOP, &Exposure::default(), open);
        assert_eq!(check(63), Ok(()));
        assert_eq!(check(64), Err(Refusal::OpenOrders));
    }

    #[test]
    fn position_counts_what_is_open_on_the_same_side() {
        let exposure = Exposure { position: 1_500, open_buy: 400, open_sell: 0 };
        let check = |intent| Limits::default().check(&intent, &TOP, &exposure, 0);
        assert_eq!(check(buy(101_0000, 100)), Ok(()));
        assert_eq!(check(buy(101_0000, 101)), Err(Refusal::Position));
        assert_eq!(check(sell(99_0000, 1_000)), Ok(()));
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let mut refusals = Refusals::default();
        for reason in Refusal::ALL {
            refusals.count(reason);
        }
        refusals.count(Refusal::Collar);
        assert_eq!(refusals.total(), 8);
        for (reason, count) in refusals.iter() {
            assert_eq!(count, if reason == Refusal::Collar { 2 } else { 1 }, "{}", reason.name());
        }
    }
}
