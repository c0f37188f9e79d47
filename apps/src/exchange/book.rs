//! The book: price levels of queues, and the matching of orders in price-time priority.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use barewire_driver::clock::Nanos;
use zerocopy::IntoBytes;

use super::accounts::Owner;
use super::answers::Fill;
use super::{Exchange, LONGEST_EVENT, Outlet, letter, stamp};
use crate::digest::Side;
use crate::feed::itch;
use crate::fields::Alpha;

/// An order in the book.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resting {
    pub(super) reference: u64,
    pub(super) shares: u32,
    /// Whose it is, where it is a client's.
    pub(super) owner: Option<Owner>,
}

pub(super) type Queue = VecDeque<Resting>;

/// Whether a stock is traded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TradingState {
    /// Not yet: its opening cross is to come.
    PreOpen,
    Trading,
    Halted,
}

#[derive(Debug)]
pub(super) struct Stock {
    pub(super) symbol: Alpha<8>,
    pub(super) state: TradingState,
    pub(super) bids: BTreeMap<u32, Queue>,
    pub(super) offers: BTreeMap<u32, Queue>,
    /// The participants' orders, for picking one at random.
    pub(super) references: Vec<u64>,
    pub(super) middle: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) locate: u16,
    pub(super) side: Side,
    pub(super) price: u32,
}

/// The way of an order from the outside into the book.
pub(super) struct Taker {
    pub(super) reference: u64,
    pub(super) side: Side,
    pub(super) price: u32,
    pub(super) shares: u32,
    pub(super) owner: Option<Owner>,
}

impl Exchange {
    /// A number for an order.
    pub(super) fn new_reference(&mut self) -> u64 {
        let reference = self.next_reference;
        self.next_reference += 1;
        reference
    }

    /// Puts an order into the book and tells the feed.
    pub(super) fn rest(&mut self, now: Nanos, locate: u16, order: Taker, out: &mut impl Outlet) {
        let reference = order.reference;
        self.enqueue(locate, &order);
        let is_attributed = reference.is_multiple_of(8);
        let add = add_order(now, locate, self.symbol(locate), order.side, order.price, reference, order.shares);
        if is_attributed {
            let mut message = [0; size_of::<itch::AddOrderWithMpid>()];
            message[..size_of::<itch::AddOrder>()].copy_from_slice(add.as_bytes());
            message[0] = b'F';
            message[size_of::<itch::AddOrder>()..].copy_from_slice(b"BARE");
            self.publish(&message, out);
        } else {
            self.publish(add.as_bytes(), out);
        }
    }

    pub(super) fn enqueue(&mut self, locate: u16, order: &Taker) {
        let reference = order.reference;
        let stock = self.stock_mut(locate);
        let side = match order.side {
            Side::Buy => &mut stock.bids,
            Side::Sell => &mut stock.offers,
        };
        side.entry(order.price).or_default().push_back(Resting { reference, shares: order.shares, owner: order.owner });
        if order.owner.is_none() {
            stock.references.push(reference);
        }
        self.index.insert(reference, Place { locate, side: order.side, price: order.price });
    }

    /// Takes an order out of the book.
    pub(super) fn dequeue(&mut self, reference: u64) -> Option<(Place, Resting)> {
        let place = self.index.remove(&reference)?;
        let stock = self.stock_mut(place.locate);
        let side = match place.side {
            Side::Buy => &mut stock.bids,
            Side::Sell => &mut stock.offers,
        };
        let queue = side.get_mut(&place.price)?;
        let order = queue.remove(queue.iter().position(|order| order.reference == reference)?)?;
        if queue.is_empty() {
            side.remove(&place.price);
        }
        if let Some(at) = stock.references.iter().position(|known| *known == reference) {
            stock.references.swap_remove(at);
        }
        Some((place, order))
    }

    pub(super) fn order_mut(&mut self, reference: u64) -> Option<&mut Resting> {
        let place = *self.index.get(&reference)?;
        let stock = self.stock_mut(place.locate);
        let side = match place.side {
            Side::Buy => &mut stock.bids,
            Side::Sell => &mut stock.offers,
        };
        side.get_mut(&place.price)?.iter_mut().find(|order| order.reference == reference)
    }

    pub(super) fn matched(&mut self) -> u64 {
        let number = self.next_match;
        self.next_match += 1;
        number
    }

    /// Whether an order would meet another.
    pub(super) fn crosses(&self, locate: u16, side: Side, price: u32) -> bool {
        self.stock(locate).is_some_and(|stock| match side {
            Side::Buy => stock.offers.first_key_value().is_some_and(|(offer, _)| *offer <= price),
            Side::Sell => stock.bids.last_key_value().is_some_and(|(bid, _)| *bid >= price),
        })
    }

    /// Matches an incoming order with the other side, best price first, oldest first. Returns the shares that are left.
    ///
    /// Two orders of one client do not match: both lose the shares that would have been executed.
    pub(super) fn take(&mut self, now: Nanos, locate: u16, taker: &Taker, out: &mut impl Outlet) -> u32 {
        let mut left = taker.shares;
        // An event stays within LONGEST_EVENT messages: what a very large order cannot reach in as many matches stays unfilled.
        for _ in 0..LONGEST_EVENT / 2 {
            if left == 0 || !self.crosses(locate, taker.side, taker.price) {
                break;
            }
            let stock = self.stock_mut(locate);
            let best = match taker.side {
                Side::Buy => stock.offers.first_entry(),
                Side::Sell => stock.bids.last_entry(),
            };
            let Some(level) = best else { break };
            let price = *level.key();
            let Some(&Resting { reference, shares, owner }) = level.get().front() else { break };
            let shares = left.min(shares);
            left -= shares;
            let clients =
                [(owner, "A"), (taker.owner, "R")].into_iter().filter_map(|(owner, flag)| Some((owner?, flag)));
            if owner.is_some_and(|owner| taker.owner.is_some_and(|taker| taker.account == owner.account)) {
                self.stats.self_matches += 1;
                self.reduce(now, reference, shares, out);
                for (owner, liquidity) in clients {
                    self.prevented(now, owner, &Fill { shares, price, liquidity, number: 0 }, out);
                }
                continue;
            }
            let number = self.matched();
            self.shrink_to_match(reference, shares);
            self.executed(now, locate, reference, shares, number, out);
            for (owner, liquidity) in clients {
                self.fill(now, owner, &Fill { shares, price, liquidity, number }, out);
            }
        }
        left
    }

    /// The best prices of a stock: bid and offer, where there are any.
    pub fn best(&self, locate: u16) -> [Option<u32>; 2] {
        self.stock(locate).map_or([None; 2], |stock| {
            [stock.bids.last_key_value(), stock.offers.first_key_value()].map(|level| level.map(|(price, _)| *price))
        })
    }

    /// Takes executed shares out of an order, and it out of the book with the last of them.
    fn shrink_to_match(&mut self, reference: u64, shares: u32) {
        let Some(order) = self.order_mut(reference) else { return };
        order.shares -= shares;
        if order.shares == 0 {
            self.dequeue(reference);
        }
    }

    /// Takes shares out of an order without an execution, and tells the feed.
    pub(super) fn reduce(&mut self, now: Nanos, reference: u64, shares: u32, out: &mut impl Outlet) {
        let Some(order) = self.order_mut(reference) else { return };
        if order.shares <= shares {
            return self.delete(now, reference, out);
        }
        order.shares -= shares;
        let message = itch::OrderCancel {
            message_type: Alpha::new("X"),
            stock_locate: self.index[&reference].locate.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            order_reference_number: reference.into(),
            cancelled_shares: shares.into(),
        };
        self.publish(message.as_bytes(), out);
    }

    /// Takes an order out of the book, and tells the feed.
    pub(super) fn delete(&mut self, now: Nanos, reference: u64, out: &mut impl Outlet) {
        if let Some((place, _)) = self.dequeue(reference) {
            let message = itch::OrderDelete {
                message_type: Alpha::new("D"),
                stock_locate: place.locate.into(),
                tracking_number: 0.into(),
                timestamp: stamp(now),
                order_reference_number: reference.into(),
            };
            self.publish(message.as_bytes(), out);
        }
    }

    /// Puts `new` into the book in the place of the order `reference`, at the end of its queue, and tells the feed.
    pub(super) fn exchange(&mut self, now: Nanos, reference: u64, new: &Taker, out: &mut impl Outlet) {
        let Some((place, _)) = self.dequeue(reference) else { return };
        self.enqueue(place.locate, new);
        let message = itch::OrderReplace {
            message_type: Alpha::new("U"),
            stock_locate: place.locate.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            original_order_reference_number: reference.into(),
            new_order_reference_number: new.reference.into(),
            shares: new.shares.into(),
            price: new.price.into(),
        };
        self.publish(message.as_bytes(), out);
    }

    pub(super) fn executed(
        &mut self,
        now: Nanos,
        locate: u16,
        reference: u64,
        shares: u32,
        number: u64,
        out: &mut impl Outlet,
    ) {
        let message = itch::OrderExecuted {
            message_type: Alpha::new("E"),
            stock_locate: locate.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            order_reference_number: reference.into(),
            executed_shares: shares.into(),
            match_number: number.into(),
        };
        self.publish(message.as_bytes(), out);
    }
}

/// An order, given by its number and its shares, as the feed tells of it.
pub(super) fn add_order(
    now: Nanos,
    locate: u16,
    symbol: Alpha<8>,
    side: Side,
    price: u32,
    reference: u64,
    shares: u32,
) -> itch::AddOrder {
    itch::AddOrder {
        message_type: Alpha::new("A"),
        stock_locate: locate.into(),
        tracking_number: 0.into(),
        timestamp: stamp(now),
        order_reference_number: reference.into(),
        buy_sell_indicator: letter(side),
        shares: shares.into(),
        stock: symbol,
        price: price.into(),
    }
}
