//! The exchange: a matching engine in price-time priority, with synthetic participants, that publishes ITCH and serves OUCH.
//!
//! It keeps its own book, written apart from the feed's: ordered maps of queues, where clarity goes before speed. Everything it does follows
//! from its seed and from what clients send.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};

use barewire_driver::clock::Nanos;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use zerocopy::IntoBytes;

use crate::digest::{Digest, Side};
use crate::feed::itch::{self, Timestamp};
use crate::fields::Alpha;
use crate::order::ouch::{self, reject};

/// A trading day begins at 9:30 here, in nanoseconds since midnight.
const OPENING: Nanos = 34_200 * 1_000_000_000;
/// The smallest price step, in 1/10,000 dollar.
const TICK: u32 = 100;
/// Orders a side that the participants keep, roughly.
const DEPTH: usize = 24;
/// Messages that one event can make, at most, with some room: no event of several messages begins this close to the end of the feed.
pub const LONGEST_EVENT: u64 = 64;
/// The largest order that is accepted, shares.
const MAX_SHARES: u32 = 1_000_000;

/// Where what the exchange says goes.
pub trait Outlet {
    /// An ITCH message for the feed.
    fn feed(&mut self, message: &[u8]);
    /// An OUCH message for the client.
    fn client(&mut self, message: &[u8]);
}

/// An order in the book.
#[derive(Debug, Clone, Copy)]
struct Resting {
    reference: u64,
    shares: u32,
    /// The client's number, where it is the client's.
    client: Option<u32>,
}

type Queue = VecDeque<Resting>;

#[derive(Debug)]
struct Stock {
    symbol: Alpha<8>,
    bids: BTreeMap<u32, Queue>,
    offers: BTreeMap<u32, Queue>,
    /// The participants' orders, for picking one at random.
    references: Vec<u64>,
    middle: u32,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    locate: u16,
    side: Side,
    price: u32,
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
    last_user_ref: u32,
    is_open: bool,
    stats: Stats,
}

/// The way of an order from the outside into the book.
struct Taker {
    side: Side,
    price: u32,
    shares: u32,
    client: Option<u32>,
}

impl Exchange {
    /// An exchange of `stocks` stocks whose participants follow `seed`.
    pub fn new(seed: u64, stocks: u16) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let stocks: Vec<_> = (1..=stocks)
            .map(|number| Stock {
                symbol: Alpha::new(&symbol(number)),
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
            last_user_ref: 0,
            is_open: true,
            stats: Stats::default(),
        }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Rejects client orders from here on.
    pub fn close(&mut self) {
        self.is_open = false;
    }

    /// The beginning of the day: system events and the directory of stocks.
    pub fn start(&mut self, now: Nanos, out: &mut impl Outlet) {
        self.system_event(now, "O", out);
        for locate in 1..=self.stocks.len() as u16 {
            let directory = itch::StockDirectory {
                message_type: Alpha::new("R"),
                stock_locate: locate.into(),
                tracking_number: 0.into(),
                timestamp: stamp(now),
                stock: self.symbol(locate),
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
            };
            self.publish(directory.as_bytes(), out);
        }
        self.system_event(now, "Q", out);
    }

    fn system_event(&mut self, now: Nanos, code: &str, out: &mut impl Outlet) {
        let event = itch::SystemEvent {
            message_type: Alpha::new("S"),
            stock_locate: 0.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            event_code: Alpha::new(code),
        };
        self.publish(event.as_bytes(), out);
    }

    fn publish(&mut self, message: &[u8], out: &mut impl Outlet) {
        self.stats.messages += 1;
        out.feed(message);
    }

    fn symbol(&self, locate: u16) -> Alpha<8> {
        self.stock(locate).map_or(Alpha::new(""), |stock| stock.symbol)
    }

    fn stock(&self, locate: u16) -> Option<&Stock> {
        self.stocks.get(usize::from(locate).checked_sub(1)?)
    }

    /// Locate codes come from our own tables and count from one.
    fn stock_mut(&mut self, locate: u16) -> &mut Stock {
        &mut self.stocks[usize::from(locate) - 1]
    }

    /// One thing that one participant does: one message, or several where an order meets several others. With `single`, one message.
    pub fn step(&mut self, now: Nanos, single: bool, out: &mut impl Outlet) {
        let locate = self.random.random_range(1..=self.stocks.len() as u16);
        let side = if self.random.random::<bool>() { Side::Buy } else { Side::Sell };
        let live = self.stock_mut(locate).references.len();
        let roll = self.random.random_range(0..100u32);
        if live < DEPTH || (roll < 44 && live < 3 * DEPTH) {
            return self.quote(now, locate, side, out);
        }
        let pick = self.random.random_range(0..live as u32) as usize;
        let reference = self.stock_mut(locate).references[pick];
        match roll {
            44..72 => self.delete(now, reference, out),
            72..80 => self.shrink(now, reference, out),
            80..88 => self.replace(now, reference, out),
            88..90 => self.print(now, locate, out),
            90..100 if !single => {
                let shares = self.random.random_range(1..=6) * 50;
                let price = if side == Side::Buy { u32::MAX } else { 0 };
                self.take(now, locate, Taker { side, price, shares, client: None }, out);
            }
            _ => self.delete(now, reference, out),
        }
    }

    /// A price near the top of `side` that does not cross.
    fn passive_price(&mut self, locate: u16, side: Side) -> u32 {
        let away = self.random.random_range(1..=12u32) * TICK;
        let drift = self.random.random_range(0..3u32);
        let stock = self.stock_mut(locate);
        let bid = stock.bids.last_key_value().map(|(price, _)| *price);
        let offer = stock.offers.first_key_value().map(|(price, _)| *price);
        stock.middle = match (bid, offer) {
            (Some(bid), Some(offer)) => (bid / 2 + offer / 2) / TICK * TICK,
            _ => (stock.middle + drift * TICK).saturating_sub(TICK).max(50 * TICK),
        };
        let middle = stock.middle;
        match side {
            Side::Buy => {
                let price = middle.saturating_sub(away).max(TICK);
                offer.map_or(price, |offer| price.min(offer.saturating_sub(TICK)).max(TICK))
            }
            Side::Sell => bid.map_or(middle + away, |bid| (middle + away).max(bid + TICK)),
        }
    }

    fn quote(&mut self, now: Nanos, locate: u16, side: Side, out: &mut impl Outlet) {
        let price = self.passive_price(locate, side);
        let shares = self.random.random_range(1..=20) * 25;
        self.rest(now, locate, Taker { side, price, shares, client: None }, out);
    }

    /// Puts an order into the book and tells the feed. Returns its number.
    fn rest(&mut self, now: Nanos, locate: u16, order: Taker, out: &mut impl Outlet) -> u64 {
        let reference = self.enqueue(locate, &order);
        let is_attributed = reference.is_multiple_of(8);
        let add = itch::AddOrder {
            message_type: Alpha::new("A"),
            stock_locate: locate.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            order_reference_number: reference.into(),
            buy_sell_indicator: letter(order.side),
            shares: order.shares.into(),
            stock: self.symbol(locate),
            price: order.price.into(),
        };
        if is_attributed {
            let mut message = [0; size_of::<itch::AddOrderWithMpid>()];
            message[..size_of::<itch::AddOrder>()].copy_from_slice(add.as_bytes());
            message[0] = b'F';
            message[size_of::<itch::AddOrder>()..].copy_from_slice(b"BARE");
            self.publish(&message, out);
        } else {
            self.publish(add.as_bytes(), out);
        }
        reference
    }

    fn enqueue(&mut self, locate: u16, order: &Taker) -> u64 {
        let reference = self.next_reference;
        self.next_reference += 1;
        let stock = self.stock_mut(locate);
        let side = match order.side {
            Side::Buy => &mut stock.bids,
            Side::Sell => &mut stock.offers,
        };
        side.entry(order.price).or_default().push_back(Resting {
            reference,
            shares: order.shares,
            client: order.client,
        });
        if order.client.is_none() {
            stock.references.push(reference);
        }
        self.index.insert(reference, Place { locate, side: order.side, price: order.price });
        reference
    }

    /// Takes an order out of the book.
    fn dequeue(&mut self, reference: u64) -> Option<(Place, Resting)> {
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

    fn delete(&mut self, now: Nanos, reference: u64, out: &mut impl Outlet) {
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

    /// Half of an order goes.
    fn shrink(&mut self, now: Nanos, reference: u64, out: &mut impl Outlet) {
        let Some(order) = self.order_mut(reference) else { return };
        let cancelled = order.shares / 2;
        if cancelled == 0 {
            return self.delete(now, reference, out);
        }
        order.shares -= cancelled;
        let message = itch::OrderCancel {
            message_type: Alpha::new("X"),
            stock_locate: self.index[&reference].locate.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            order_reference_number: reference.into(),
            cancelled_shares: cancelled.into(),
        };
        self.publish(message.as_bytes(), out);
    }

    fn order_mut(&mut self, reference: u64) -> Option<&mut Resting> {
        let place = *self.index.get(&reference)?;
        let stock = self.stock_mut(place.locate);
        let side = match place.side {
            Side::Buy => &mut stock.bids,
            Side::Sell => &mut stock.offers,
        };
        side.get_mut(&place.price)?.iter_mut().find(|order| order.reference == reference)
    }

    fn replace(&mut self, now: Nanos, reference: u64, out: &mut impl Outlet) {
        let Some((place, order)) = self.dequeue(reference) else { return };
        let price = self.passive_price(place.locate, place.side);
        let new = self.enqueue(place.locate, &Taker { side: place.side, price, shares: order.shares, client: None });
        let message = itch::OrderReplace {
            message_type: Alpha::new("U"),
            stock_locate: place.locate.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            original_order_reference_number: reference.into(),
            new_order_reference_number: new.into(),
            shares: order.shares.into(),
            price: price.into(),
        };
        self.publish(message.as_bytes(), out);
    }

    /// A match with an order that the book never showed.
    fn print(&mut self, now: Nanos, locate: u16, out: &mut impl Outlet) {
        let shares = self.random.random_range(1..=10u32) * 100;
        let (symbol, middle) = (self.symbol(locate), self.stock_mut(locate).middle);
        let message = itch::Trade {
            message_type: Alpha::new("P"),
            stock_locate: locate.into(),
            tracking_number: 0.into(),
            timestamp: stamp(now),
            order_reference_number: 0.into(),
            buy_sell_indicator: Alpha::new("B"),
            shares: shares.into(),
            stock: symbol,
            price: middle.into(),
            match_number: self.matched().into(),
        };
        self.publish(message.as_bytes(), out);
    }

    fn matched(&mut self) -> u64 {
        let number = self.next_match;
        self.next_match += 1;
        number
    }

    /// Matches an incoming order with the other side, best price first, oldest first. Returns the shares that are left.
    fn take(&mut self, now: Nanos, locate: u16, taker: Taker, out: &mut impl Outlet) -> u32 {
        let mut left = taker.shares;
        // An event stays within LONGEST_EVENT messages: what a very large order cannot reach in as many matches stays unfilled.
        for _ in 0..LONGEST_EVENT / 2 {
            let stock = self.stock_mut(locate);
            let best = match taker.side {
                Side::Buy => stock.offers.first_entry().filter(|level| *level.key() <= taker.price),
                Side::Sell => stock.bids.last_entry().filter(|level| *level.key() >= taker.price),
            };
            let Some(mut level) = best.filter(|_| left > 0) else { break };
            let price = *level.key();
            let Some(resting) = level.get_mut().front_mut() else { break };
            let shares = left.min(resting.shares);
            left -= shares;
            resting.shares -= shares;
            let Resting { reference, shares: rest, client } = *resting;
            let number = self.matched();
            if rest == 0 {
                self.dequeue(reference);
            }
            self.executed(now, locate, reference, shares, number, out);
            for (owner, flag) in [(client, "A"), (taker.client, "R")] {
                if let Some(user_ref_num) = owner {
                    self.fill(now, user_ref_num, shares, price, flag, number, out);
                }
            }
        }
        left
    }

    fn executed(&mut self, now: Nanos, locate: u16, reference: u64, shares: u32, number: u64, out: &mut impl Outlet) {
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

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn fill(&mut self, now: Nanos, user: u32, shares: u32, price: u32, flag: &str, number: u64, out: &mut impl Outlet) {
        self.stats.fills += 1;
        let message = ouch::OrderExecuted {
            message_type: Alpha::new("E"),
            timestamp: (OPENING + now).into(),
            user_ref_num: user.into(),
            quantity: shares.into(),
            price: u64::from(price).into(),
            liquidity_flag: Alpha::new(flag),
            match_number: number.into(),
        };
        let mut bytes = [0; size_of::<ouch::OrderExecuted>() + 2];
        bytes[..size_of::<ouch::OrderExecuted>()].copy_from_slice(message.as_bytes());
        out.client(&bytes);
    }

    /// Takes an OUCH message from the client.
    pub fn client(&mut self, now: Nanos, message: &[u8], out: &mut impl Outlet) {
        match ouch::Inbound::parse(message) {
            Ok(ouch::Inbound::EnterOrder(order, _)) => self.enter(now, order, out),
            Ok(ouch::Inbound::CancelOrderRequest(cancel, _)) => {
                self.cancel(now, cancel.user_ref_num.get(), cancel.quantity.get(), out);
            }
            // Replacing and modifying are not offered yet; a message that is ignored must be told.
            Ok(ouch::Inbound::ReplaceOrderRequest(other, _)) => {
                self.refuse_cancel(now, other.orig_user_ref_num.get(), out)
            }
            Ok(ouch::Inbound::ModifyOrderRequest(other, _)) => self.refuse_cancel(now, other.user_ref_num.get(), out),
            Err(error) => {
                log::warn!("client message refused: {error}");
                self.stats.malformed += 1;
            }
        }
    }

    fn enter(&mut self, now: Nanos, order: &ouch::EnterOrder, out: &mut impl Outlet) {
        let user_ref = order.user_ref_num.get();
        match self.admit(order) {
            Err(reason) => {
                self.stats.rejected += 1;
                let message = ouch::Rejected {
                    message_type: Alpha::new("J"),
                    timestamp: (OPENING + now).into(),
                    user_ref_num: user_ref.into(),
                    reason: reason.into(),
                    cl_ord_id: order.cl_ord_id,
                };
                out.client(message.as_bytes());
            }
            Ok((locate, side, price)) => {
                self.last_user_ref = user_ref;
                self.stats.accepted += 1;
                self.accepted(now, order, out);
                let taker = Taker { side, price, shares: order.quantity.get(), client: Some(user_ref) };
                let left = self.take(now, locate, taker, out);
                if left == 0 {
                    return;
                }
                const IMMEDIATE_OR_CANCEL: [u8; 1] = *b"3";
                if order.time_in_force.0 == IMMEDIATE_OR_CANCEL {
                    self.canceled(now, user_ref, left, "I", out);
                } else {
                    self.rest(now, locate, Taker { side, price, shares: left, client: Some(user_ref) }, out);
                }
            }
        }
    }

    /// What the exchange asks of an order.
    fn admit(&self, order: &ouch::EnterOrder) -> Result<(u16, Side, u32), u16> {
        if !self.is_open {
            return Err(reject::CLOSED);
        }
        if order.user_ref_num.get() <= self.last_user_ref {
            return Err(reject::DUPLICATE);
        }
        let locate = *self.symbols.get(&order.symbol).ok_or(reject::UNKNOWN_SYMBOL)?;
        let side = match order.side.0 {
            [b'B'] => Side::Buy,
            [b'S' | b'T' | b'E'] => Side::Sell,
            _ => return Err(reject::INVALID_SIDE),
        };
        if !(1..=MAX_SHARES).contains(&order.quantity.get()) {
            return Err(reject::INVALID_QUANTITY);
        }
        // 199,999.9900 dollars is the highest price (OUCH 5.0, section 1.2).
        let price = u32::try_from(order.price.get()).map_err(|_| reject::INVALID_PRICE)?;
        if price == 0 || price > 1_999_999_900 || !price.is_multiple_of(TICK) {
            return Err(reject::INVALID_PRICE);
        }
        Ok((locate, side, price))
    }

    fn accepted(&mut self, now: Nanos, order: &ouch::EnterOrder, out: &mut impl Outlet) {
        let message = ouch::OrderAccepted {
            message_type: Alpha::new("A"),
            timestamp: (OPENING + now).into(),
            user_ref_num: order.user_ref_num,
            side: order.side,
            quantity: order.quantity,
            symbol: order.symbol,
            price: order.price,
            time_in_force: order.time_in_force,
            display: order.display,
            order_reference_number: self.next_reference.into(),
            capacity: order.capacity,
            inter_market_sweep_eligibility: order.inter_market_sweep_eligibility,
            cross_type: order.cross_type,
            order_state: Alpha::new("L"),
            cl_ord_id: order.cl_ord_id,
        };
        let mut bytes = [0; size_of::<ouch::OrderAccepted>() + 2];
        bytes[..size_of::<ouch::OrderAccepted>()].copy_from_slice(message.as_bytes());
        out.client(&bytes);
    }

    fn canceled(&mut self, now: Nanos, user_ref: u32, shares: u32, reason: &str, out: &mut impl Outlet) {
        let message = ouch::OrderCanceled {
            message_type: Alpha::new("C"),
            timestamp: (OPENING + now).into(),
            user_ref_num: user_ref.into(),
            quantity: shares.into(),
            reason: Alpha::new(reason),
        };
        out.client(message.as_bytes());
    }

    /// Reduces a client's order to `remain` shares.
    fn cancel(&mut self, now: Nanos, user_ref: u32, remain: u32, out: &mut impl Outlet) {
        let mine = |order: &&Resting| order.client == Some(user_ref);
        let found = self.stocks.iter().find_map(|stock| {
            let mut queues = stock.bids.values().chain(stock.offers.values());
            queues.find_map(|queue| queue.iter().find(mine).copied())
        });
        let Some(order) = found.filter(|_| self.is_open) else { return self.refuse_cancel(now, user_ref, out) };
        if remain == 0 {
            self.delete(now, order.reference, out);
            self.canceled(now, user_ref, order.shares, "U", out);
        } else if remain < order.shares {
            let cancelled = order.shares - remain;
            if let Some(order) = self.order_mut(order.reference) {
                order.shares = remain;
            }
            let message = itch::OrderCancel {
                message_type: Alpha::new("X"),
                stock_locate: self.index[&order.reference].locate.into(),
                tracking_number: 0.into(),
                timestamp: stamp(now),
                order_reference_number: order.reference.into(),
                cancelled_shares: cancelled.into(),
            };
            self.publish(message.as_bytes(), out);
            self.canceled(now, user_ref, cancelled, "U", out);
        }
    }

    fn refuse_cancel(&mut self, now: Nanos, user_ref: u32, out: &mut impl Outlet) {
        let message = ouch::CancelReject {
            message_type: Alpha::new("I"),
            timestamp: (OPENING + now).into(),
            user_ref_num: user_ref.into(),
        };
        out.client(message.as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::book::{Books, Capacity, Faults};
    use crate::feed::itch::Message;

    #[derive(Default)]
    struct Said {
        feed: Vec<Vec<u8>>,
        client: Vec<Vec<u8>>,
    }

    impl Outlet for Said {
        fn feed(&mut self, message: &[u8]) {
            self.feed.push(message.to_vec());
        }

        fn client(&mut self, message: &[u8]) {
            self.client.push(message.to_vec());
        }
    }

    fn run(seed: u64, steps: u64) -> (Exchange, Said) {
        let (mut exchange, mut said) = (Exchange::new(seed, 5), Said::default());
        exchange.start(0, &mut said);
        (0..steps).for_each(|step| exchange.step(step, false, &mut said));
        (exchange, said)
    }

    fn order(number: u32, side: &str, symbol: Alpha<8>, shares: u32, price: u64, time_in_force: &str) -> Vec<u8> {
        let order = ouch::EnterOrder {
            message_type: Alpha::new("O"),
            user_ref_num: number.into(),
            side: Alpha::new(side),
            quantity: shares.into(),
            symbol,
            price: price.into(),
            time_in_force: Alpha::new(time_in_force),
            display: Alpha::new("Y"),
            capacity: Alpha::new("P"),
            inter_market_sweep_eligibility: Alpha::new("N"),
            cross_type: Alpha::new("N"),
            cl_ord_id: Alpha::new("test"),
        };
        [order.as_bytes(), &[0, 0]].concat()
    }

    fn kinds(messages: &[Vec<u8>]) -> String {
        messages.iter().map(|message| char::from(message[0])).collect()
    }

    #[test]
    fn same_seed_says_the_same_and_another_does_not() {
        assert_eq!(run(3, 2_000).1.feed, run(3, 2_000).1.feed);
        assert_ne!(run(3, 2_000).1.feed, run(4, 2_000).1.feed);
    }

    #[test]
    fn feed_builds_the_exchanges_own_book_at_every_message_and_a_lost_message_shows() {
        for seed in 0..5 {
            let (mut exchange, mut said) = (Exchange::new(seed, 4), Said::default());
            let (mut books, mut lossy) = (Books::new(Capacity { orders: 4096 }), Books::new(Capacity { orders: 4096 }));
            exchange.start(0, &mut said);
            let mut dropped = false;
            for step in 0..3_000 {
                exchange.step(step, step % 5 == 0, &mut said);
                for bytes in said.feed.drain(..) {
                    let message = Message::parse(&bytes).unwrap();
                    books.apply(&message);
                    // One order that the lossy book never hears of.
                    if step >= 1_500 && !dropped && matches!(message, Message::AddOrder(_)) {
                        dropped = true;
                        assert_ne!(lossy.digest(), books.digest());
                    } else {
                        lossy.apply(&message);
                    }
                }
                assert_eq!(books.digest(), exchange.digest(), "seed {seed}, step {step}");
            }
            assert!(dropped);
            assert_eq!(books.faults(), Faults::default());
            assert!(books.digest().orders() > 50);
        }
    }

    #[test]
    fn book_is_never_crossed_and_single_steps_say_one_thing() {
        let (mut exchange, _) = run(9, 0);
        for step in 0..5_000 {
            let mut said = Said::default();
            exchange.step(step, true, &mut said);
            assert_eq!(said.feed.len(), 1);
            exchange.step(step, false, &mut said);
            assert!((said.feed.len() as u64) < LONGEST_EVENT);
            for stock in &exchange.stocks {
                let bid = stock.bids.last_key_value().map_or(0, |level| *level.0);
                let offer = stock.offers.first_key_value().map_or(u32::MAX, |level| *level.0);
                assert!(bid < offer, "{bid} {offer}");
            }
        }
    }

    #[test]
    fn client_order_takes_price_then_time_and_the_rest_is_cancelled() {
        let (mut exchange, _) = run(1, 0);
        let symbol = exchange.symbol(1);
        let mut said = Said::default();
        for (number, price) in [(1, 10_100), (2, 10_000), (3, 10_000)] {
            exchange.client(0, &order(number, "S", symbol, 100, price, "0"), &mut said);
        }
        said = Said::default();
        exchange.client(0, &order(4, "B", symbol, 250, 10_000, "3"), &mut said);
        // Accepted; two fills of 100 with both sides told; 50 cancelled, for 101.00 is too dear.
        assert_eq!((&*kinds(&said.client), &*kinds(&said.feed)), ("AEEEEC", "EE"));
        let user = |message: &[u8]| u32::from_be_bytes([message[9], message[10], message[11], message[12]]);
        assert_eq!(said.client.iter().map(|message| user(message)).collect::<Vec<_>>(), [4, 2, 4, 3, 4, 4]);
        assert_eq!(exchange.stats(), Stats { messages: 12, accepted: 4, rejected: 0, fills: 4, malformed: 0 });
    }

    #[test]
    fn resting_client_order_can_be_reduced_and_cancelled() {
        let (mut exchange, _) = run(1, 0);
        let (symbol, mut said) = (exchange.symbol(2), Said::default());
        exchange.client(0, &order(1, "B", symbol, 100, 5_000, "0"), &mut said);
        let cancel = |remain: u32| [&b"X"[..], &1u32.to_be_bytes(), &remain.to_be_bytes()].concat();
        exchange.client(0, &cancel(40), &mut said);
        exchange.client(0, &cancel(0), &mut said);
        exchange.client(0, &cancel(0), &mut said);
        assert_eq!((&*kinds(&said.client), &*kinds(&said.feed)), ("ACCI", "AXD"));
    }

    #[test]
    fn bad_orders_are_rejected_with_their_reason() {
        let (mut exchange, _) = run(1, 0);
        let symbol = exchange.symbol(1);
        let mut reason = |bytes: Vec<u8>| {
            let mut said = Said::default();
            exchange.client(0, &bytes, &mut said);
            said.client
                .first()
                .filter(|message| message[0] == b'J')
                .map(|message| u16::from_be_bytes([message[13], message[14]]))
        };
        assert_eq!(reason(order(1, "B", Alpha::new("NOSUCH"), 1, 100, "0")), Some(reject::UNKNOWN_SYMBOL));
        assert_eq!(reason(order(1, "B", symbol, 0, 100, "0")), Some(reject::INVALID_QUANTITY));
        assert_eq!(reason(order(1, "B", symbol, 1, 0, "0")), Some(reject::INVALID_PRICE));
        assert_eq!(reason(order(1, "B", symbol, 1, u64::MAX, "0")), Some(reject::INVALID_PRICE));
        assert_eq!(reason(order(1, "Q", symbol, 1, 100, "0")), Some(reject::INVALID_SIDE));
        assert_eq!(reason(order(5, "B", symbol, 1, 100, "3")), None);
        assert_eq!(reason(order(5, "B", symbol, 1, 100, "0")), Some(reject::DUPLICATE));
        exchange.close();
        let mut said = Said::default();
        exchange.client(0, &order(6, "B", symbol, 1, 100, "0"), &mut said);
        exchange.client(0, b"O", &mut said);
        assert_eq!((&*kinds(&said.client), exchange.stats().malformed), ("J", 1));
    }
}
