//! Crosses: all interest in a stock meets at one moment and one price.
//!
//! The continuous book takes no part: what meets are the orders that clients have entered for the cross, and orders that the participants
//! make up for it.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use rand::Rng;
use zerocopy::IntoBytes;

use super::accounts::Owner;
use super::answers::Fill;
use super::{Exchange, Outlet, TICK, stamp};
use crate::digest::Side;
use crate::feed::itch;
use crate::fields::Alpha;
use crate::order::gateway::AccountId;

/// Orders a side that the participants bring.
const PARTICIPANTS: u32 = 6;

/// Which cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CrossType {
    Opening,
    Closing,
    Halt,
}

impl CrossType {
    /// The letter in ITCH and OUCH, which is the liquidity flag of its executions too.
    pub(super) fn letter(self) -> &'static str {
        match self {
            Self::Opening => "O",
            Self::Closing => "C",
            Self::Halt => "H",
        }
    }

    /// The cross that an order is for: none, where it is for the continuous market.
    pub(super) fn parse(letter: Alpha<1>) -> Option<Option<Self>> {
        match &letter.0 {
            b"N" => Some(None),
            b"O" => Some(Some(Self::Opening)),
            b"C" => Some(Some(Self::Closing)),
            b"H" => Some(Some(Self::Halt)),
            _ => None,
        }
    }
}

/// An order in a cross.
#[derive(Debug, Clone, Copy)]
struct Interest {
    side: Side,
    price: u32,
    shares: u32,
    owner: Option<Owner>,
}

impl Interest {
    /// Whether it would be executed at `price`.
    fn accepts(&self, price: u32) -> bool {
        match self.side {
            Side::Buy => self.price >= price,
            Side::Sell => self.price <= price,
        }
    }
}

/// Shares on both sides that would be executed at `price`.
fn volume(interests: &[Interest], price: u32) -> [u64; 2] {
    [Side::Buy, Side::Sell].map(|side| {
        let accepts = |interest: &&Interest| interest.side == side && interest.accepts(price);
        interests.iter().filter(accepts).map(|interest| u64::from(interest.shares)).sum()
    })
}

/// The price at which most shares meet; of several, that with the smallest imbalance, then the nearest to `middle`, then the lowest.
fn clearing_price(interests: &[Interest], middle: u32) -> u32 {
    let candidates =
        interests.iter().map(|interest| interest.price).filter(|price| (1..=super::orders::MAX_PRICE).contains(price));
    let rank = |price: &u32| {
        let [buy, sell] = volume(interests, *price);
        (std::cmp::Reverse(buy.min(sell)), buy.abs_diff(sell), price.abs_diff(middle), *price)
    };
    candidates.chain([middle]).min_by_key(rank).unwrap_or(middle)
}

impl Exchange {
    /// Holds a cross, and cancels what clients' orders for it are left with.
    pub(super) fn cross(&mut self, now: Nanos, locate: u16, kind: CrossType, out: &mut impl Outlet) {
        let mut interests = self.client_interest(locate, kind);
        let middle = self.stock_mut(locate).middle;
        for _ in 0..PARTICIPANTS {
            for side in [Side::Buy, Side::Sell] {
                let away = self.random.random_range(0..=8u32) * TICK;
                let shares = self.random.random_range(1..=20) * 100;
                // Buyers would rather pay more than miss the cross, and sellers rather take less.
                let price = if side == Side::Buy { middle + away } else { middle.saturating_sub(away).max(TICK) };
                interests.push(Interest { side, price, shares, owner: None });
            }
        }
        let price = clearing_price(&interests, middle);
        let [buy, sell] = volume(&interests, price);
        let paired = buy.min(sell);
        let number = self.matched();
        self.stats.crosses += 1;
        let message = itch::CrossTrade {
            message_type: Alpha::new("Q"),
            stock_locate: locate.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            shares: paired.into(),
            stock: self.symbol(locate),
            cross_price: price.into(),
            match_number: number.into(),
            cross_type: Alpha::new(kind.letter()),
        };
        self.publish(message.as_bytes(), out);
        for side in [Side::Buy, Side::Sell] {
            let mut side: Vec<_> =
                interests.iter().filter(|interest| interest.side == side && interest.accepts(price)).copied().collect();
            // The keenest first; of equals, the earlier, and clients' orders stand before those of the participants.
            side.sort_by_key(|interest| std::cmp::Reverse(interest.price.abs_diff(price)));
            let mut left = paired;
            for interest in side {
                let shares = u64::from(interest.shares).min(left) as u32;
                left -= u64::from(shares);
                if let Some(owner) = interest.owner.filter(|_| shares > 0) {
                    self.fill(now, owner, &Fill { shares, price, liquidity: kind.letter(), number }, out);
                }
            }
        }
        self.stock_mut(locate).middle = (price / TICK * TICK).max(TICK);
        self.cancel_where(now, None, "T", out, |order| order.locate == locate && order.cross == Some(kind));
    }

    fn client_interest(&self, locate: u16, kind: CrossType) -> Vec<Interest> {
        let all = (0..).map(AccountId).zip(&self.accounts);
        let orders = all.flat_map(|(account, known)| known.orders.iter().map(move |order| (account, order)));
        let waits = orders.filter(|(_, (_, order))| order.locate == locate && order.cross == Some(kind));
        waits
            .map(|(account, (user_ref, order))| Interest {
                side: order.side(),
                price: order.price,
                shares: order.open,
                owner: Some(Owner { account, user_ref: *user_ref }),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest(side: Side, price: u32, shares: u32) -> Interest {
        Interest { side, price, shares, owner: None }
    }

    #[test]
    fn price_pairs_most_shares_then_least_imbalance_then_nearest_the_middle() {
        use Side::{Buy, Sell};
        let one_price =
            [interest(Buy, 102, 100), interest(Buy, 101, 300), interest(Sell, 100, 100), interest(Sell, 101, 200)];
        assert_eq!(clearing_price(&one_price, 90), 101);
        assert_eq!(volume(&one_price, 101), [400, 300]);
        let balanced = [interest(Buy, 105, 100), interest(Sell, 95, 100), interest(Buy, 95, 50)];
        assert_eq!(clearing_price(&balanced, 101), 101);
        assert_eq!(clearing_price(&[interest(Buy, 99, 10), interest(Sell, 101, 10)], 100), 100);
        let market = [interest(Buy, u32::MAX, 10), interest(Sell, 0, 10)];
        assert_eq!(clearing_price(&market, 100), 100);
    }
}
