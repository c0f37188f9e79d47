//! Watches at the exchange whether an order breaks a limit. It shares no code with the trader's limits: it knows the engine's own books, positions
//! and live orders, and the bytes that arrived.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use barewire::digest::Side;
use barewire::exchange::Exchange;
use barewire::market::hosts::Seen;
use barewire::order::ouch::Inbound;
use barewire::trade::limits::Limits;
use barewire_driver::clock::Nanos;

/// From the trader's release to the exchange, at most: the wire, and a poll at each end.
const TRANSIT: Nanos = 3_000;
/// What the price collar is measured in: a hundredth of a percent of twice the middle.
const COLLAR_UNIT: u64 = 20_000;

/// What was wrong with an order. The names are those of the refusals that should have stopped it.
pub type Violation = &'static str;

/// Best bid and offer at a time.
type Quote = (Nanos, [Option<u32>; 2]);

/// The judge of everything that arrives.
pub struct Oracle {
    limits: Limits,
    stocks: u16,
    /// By stock: what the trader may have taken for the top of its book, oldest first.
    quotes: Vec<VecDeque<Quote>>,
    halted_since: BTreeMap<u16, Nanos>,
    /// When nothing of the feed arrived.
    pub dead: Option<Range<Nanos>>,
    /// When orders arrived.
    arrivals: Vec<Nanos>,
    /// Since when the kill switch is pressed.
    pub killed_since: Option<Nanos>,
    /// When the cancel of all orders arrived.
    pub mass_cancels: Vec<Nanos>,
    /// Orders that arrived.
    pub orders: u64,
    /// What was found.
    pub violations: BTreeSet<Violation>,
}

impl Oracle {
    pub fn new(limits: Limits, stocks: u16, dead: Option<Range<Nanos>>) -> Self {
        Self {
            limits,
            stocks,
            quotes: vec![VecDeque::new(); usize::from(stocks)],
            halted_since: BTreeMap::new(),
            dead,
            arrivals: Vec::new(),
            killed_since: None,
            mass_cancels: Vec::new(),
            orders: 0,
            violations: BTreeSet::new(),
        }
    }

    /// Looks at the exchange's books; to be called whenever they may have changed.
    pub fn look(&mut self, now: Nanos, exchange: &Exchange) {
        for (locate, quotes) in (1..=self.stocks).zip(&mut self.quotes) {
            let best = exchange.best(locate);
            if quotes.back().is_none_or(|(_, last)| *last != best) {
                quotes.push_back((now, best));
            }
            // The one that was current when the oldest book that may be used was read stays.
            let oldest = now.saturating_sub(self.limits.book_age + TRANSIT);
            while quotes.get(1).is_some_and(|(since, _)| *since < oldest) {
                quotes.pop_front();
            }
            if !exchange.is_halted(locate) {
                self.halted_since.remove(&locate);
            } else {
                self.halted_since.entry(locate).or_insert(now);
            }
        }
    }

    /// Takes a message before the engine does.
    pub fn judge(&mut self, seen: &Seen<'_>) {
        self.look(seen.now, seen.exchange);
        match Inbound::parse(seen.message).unwrap() {
            Inbound::EnterOrder(order, _) => {
                self.orders += 1;
                let locate = (1..=self.stocks).find(|locate| seen.exchange.symbol(*locate) == order.symbol).unwrap();
                let side = if &order.side.0 == b"B" { Side::Buy } else { Side::Sell };
                let (price, shares) = (u32::try_from(order.price.get()).unwrap(), order.quantity.get());
                self.judge_order(seen, locate, side, price, shares);
            }
            Inbound::MassCancelRequest(..) => self.mass_cancels.push(seen.now),
            Inbound::CancelOrderRequest(..) | Inbound::AccountQueryRequest(..) => {}
            other => panic!("the trader sends no {other:?}"),
        }
    }

    fn judge_order(&mut self, seen: &Seen<'_>, locate: u16, side: Side, price: u32, shares: u32) {
        let Seen { now, account, exchange, .. } = *seen;
        let limits = self.limits;
        let live: Vec<_> = exchange.live_orders(account).collect();
        let mut found = |is_broken: bool, violation: Violation| {
            if is_broken {
                self.violations.insert(violation);
            }
        };
        found(shares == 0 || shares > limits.order_shares, "shares");
        found(u64::from(price) * u64::from(shares) > limits.order_notional, "notional");
        found(live.len() as u64 >= u64::from(limits.open_orders), "open_orders");
        let same_side =
            live.iter().filter(|order| order.1 == locate && order.2 == side).map(|order| i64::from(order.4));
        let sign = if side == Side::Buy { 1 } else { -1 };
        let worst = sign * exchange.position(account, locate) + same_side.sum::<i64>() + i64::from(shares);
        found(worst > i64::from(limits.position_shares), "position");
        let meets = live.iter().any(|order| {
            let is_in_reach = if side == Side::Buy { order.3 <= price } else { order.3 >= price };
            order.1 == locate && order.2 != side && is_in_reach
        });
        found(meets, "self_match");
        found(self.killed_since.is_some_and(|since| now > since + TRANSIT), "killed");
        let is_dead =
            self.dead.as_ref().is_some_and(|dead| now > dead.start + limits.book_age + TRANSIT && now < dead.end);
        found(is_dead, "stale_book");
        found(self.halted_since.get(&locate).is_some_and(|since| now > since + limits.book_age + TRANSIT), "halted");
        // The dearest and the cheapest middle that the trader can have seen bound what it may pay and take.
        let tops = self.quotes[usize::from(locate) - 1]
            .iter()
            .filter_map(|(_, [bid, offer])| Some([u64::from((*bid)?), u64::from((*offer)?)]));
        let tops: Vec<_> = tops.collect();
        let bound = |least: bool| {
            let extreme = |side: usize| {
                let prices = tops.iter().map(|top| top[side]);
                if least { prices.min() } else { prices.max() }
            };
            Some(extreme(0)? + extreme(1)?)
        };
        let bps = u64::from(limits.collar_bps);
        let outside = match side {
            Side::Buy => bound(false).is_none_or(|middle| u64::from(price) * COLLAR_UNIT > middle * (10_000 + bps)),
            Side::Sell => bound(true).is_none_or(|middle| u64::from(price) * COLLAR_UNIT < middle * (10_000 - bps)),
        };
        found(outside, "collar");
        self.arrivals.push(now);
        // In any span there is a burst, and an order for each interval.
        let interval = 1_000_000_000 / u64::from(limits.orders_per_second);
        let is_too_fast = (1..).zip(self.arrivals.iter().rev()).any(|(count, first): (u64, &Nanos)| {
            count > u64::from(limits.burst) + (now.saturating_sub(*first) + TRANSIT) / interval
        });
        if is_too_fast {
            self.violations.insert("rate");
        }
    }
}
