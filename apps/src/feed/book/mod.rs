//! Order books of all stocks, built from ITCH: price levels with their queues of orders.
//!
//! Everything lies in tables that are sized once. References lead to orders through a hash table of chains; an order names its level, its
//! neighbours in the level's queue, and the next order of its chain, by 32-bit indices, and fills half a cache line. Levels never move; what keeps
//! them in order is a `ladder` beside them, which the best price does not need. Applying a message allocates nothing and cannot panic; what does
//! not fit the book is counted by cause and leaves it as it was.
//!
//! With a million orders nearly every message misses the cache four times, each miss after the other. [`Books::prepare`] walks those ways for the
//! messages of a packet side by side, so that their misses overlap.

mod ahead;
mod ladder;
mod slab;

pub use ahead::WINDOW;
use barewire_driver::huge::HugeSlice;
use ladder::Ladders;
use slab::{NONE, Slab};

use super::itch::Message;
use crate::digest::{Digest, Side};

/// How much the books hold.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Live orders over all stocks.
    pub orders: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { orders: 1 << 20 }
    }
}

/// What did not fit, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// An order that is not in the book.
    pub unknown_order: u64,
    /// An order that is in the book already.
    pub known_order: u64,
    /// More shares executed or cancelled than there were; the order is gone.
    pub too_many_shares: u64,
    /// A side that is neither B nor S, or no shares at all.
    pub bad_order: u64,
    /// No room for another order, or for another price of it: then an order that it was to replace is gone.
    pub full: u64,
}

/// The best price of a side and what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Best {
    /// In 1/10,000 dollar; zero where the side is empty.
    pub price: u32,
    /// Shares at that price.
    pub shares: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Order {
    reference: u64,
    shares: u32,
    level: u32,
    older: u32,
    newer: u32,
    /// The next order of the same chain of the hash table.
    chained: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Level {
    shares: u64,
    price: u32,
    oldest: u32,
    newest: u32,
    side: u32,
}

/// The books of all stocks.
#[derive(Debug)]
pub struct Books {
    /// The first order of each chain.
    chains: HugeSlice<u32>,
    orders: Slab<Order>,
    levels: Slab<Level>,
    /// Two sides a stock, by stock locate.
    ladders: Ladders,
    faults: Faults,
}

/// Sides of all stocks: a locate code has 16 bits.
const SIDES: u32 = 2 << 16;
/// Chains in a cache line.
const LINE: usize = 16;
/// Orders of a chain at most: bounds what a message costs, whatever references the feed makes up.
const CHAIN: usize = 64;

impl Books {
    /// Empty books.
    pub fn new(capacity: Capacity) -> Self {
        let size = capacity.orders.clamp(1, 1 << 28);
        let order = Order { reference: 0, shares: 0, level: NONE, older: NONE, newer: NONE, chained: NONE };
        let level = Level { shares: 0, price: 0, oldest: NONE, newest: NONE, side: 0 };
        Self {
            // Two chains for three orders at least, which is one and a third orders a look-up.
            chains: HugeSlice::new((size as usize + size as usize / 2).next_power_of_two().max(LINE), NONE),
            orders: Slab::new(size, order),
            levels: Slab::new(size, level),
            // A leaf for each side in use, and for deep sides as many nodes as a half-full tree of all levels has, and half as many again.
            ladders: Ladders::new(SIDES as usize, size.min(SIDES) + size / 4),
            faults: Faults::default(),
        }
    }

    /// Bytes that the books occupy, whatever is in them.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.chains)
            + self.orders.memory_bytes()
            + self.levels.memory_bytes()
            + self.ladders.memory_bytes()
    }

    /// Bytes of them that were in use so far: what goes through the cache.
    pub fn working_set_bytes(&self) -> usize {
        size_of_val(&*self.chains)
            + self.orders.touched_bytes()
            + self.levels.touched_bytes()
            + self.ladders.touched_bytes()
    }

    /// Orders in all books.
    pub fn live_orders(&self) -> usize {
        self.orders.used()
    }

    /// What did not fit so far.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Applies a message. Returns the locate code of the stock whose book changed.
    #[inline]
    pub fn apply(&mut self, message: &Message<'_>) -> Option<u16> {
        match message {
            Message::AddOrder(m) => {
                let side = side_of(m.buy_sell_indicator.0);
                self.add(m.stock_locate.get(), side, m.order_reference_number.get(), m.shares.get(), m.price.get())
            }
            Message::AddOrderWithMpid(m) => {
                let side = side_of(m.buy_sell_indicator.0);
                self.add(m.stock_locate.get(), side, m.order_reference_number.get(), m.shares.get(), m.price.get())
            }
            Message::OrderExecuted(m) => self.reduce(m.order_reference_number.get(), m.executed_shares.get()),
            Message::OrderExecutedWithPrice(m) => self.reduce(m.order_reference_number.get(), m.executed_shares.get()),
            Message::OrderCancel(m) => self.reduce(m.order_reference_number.get(), m.cancelled_shares.get()),
            Message::OrderDelete(m) => self.delete(m.order_reference_number.get()),
            Message::OrderReplace(m) => self.replace(
                m.original_order_reference_number.get(),
                m.new_order_reference_number.get(),
                m.shares.get(),
                m.price.get(),
            ),
            _ => None,
        }
    }

    /// The best price of a side, without a search.
    #[inline]
    pub fn best(&self, locate: u16, side: Side) -> Best {
        let level = self.levels.get(self.ladders.best(side_index(locate, side)));
        level.map_or(Best::default(), |level| Best { price: level.price, shares: level.shares })
    }

    /// The levels of a side from the best on.
    pub fn depth(&self, locate: u16, side: Side) -> impl Iterator<Item = Best> {
        self.levels_of(side_index(locate, side)).map(|level| Best { price: level.price, shares: level.shares })
    }

    fn levels_of(&self, side: u32) -> impl Iterator<Item = &Level> {
        self.ladders.levels(side).filter_map(|level| self.levels.get(level))
    }

    /// The digest of all books.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for at in self.ladders.sides() {
            let (locate, side) = (locate_of(at), if at & 1 == 1 { Side::Sell } else { Side::Buy });
            for level in self.levels_of(at) {
                let oldest = self.orders.get(level.oldest);
                for order in std::iter::successors(oldest, |order| self.orders.get(order.newer)) {
                    digest.order(locate, side, level.price, order.reference, order.shares);
                }
            }
        }
        digest
    }

    #[inline]
    fn add(&mut self, locate: u16, side: Option<Side>, reference: u64, shares: u32, price: u32) -> Option<u16> {
        let Some(side) = side.filter(|_| shares > 0) else {
            self.faults.bad_order = self.faults.bad_order.wrapping_add(1);
            return None;
        };
        self.insert(side_index(locate, side), reference, shares, price)
    }

    #[inline]
    fn insert(&mut self, side: u32, reference: u64, shares: u32, price: u32) -> Option<u16> {
        match self.find(reference) {
            Found::Order(_) => self.known(),
            Found::Nothing if self.orders.left() > 0 => self.enter(side, reference, shares, price),
            Found::Nothing | Found::LongChain => self.full(),
        }
    }

    /// Enters an order that is not there yet and for which there is room.
    #[inline]
    fn enter(&mut self, side: u32, reference: u64, shares: u32, price: u32) -> Option<u16> {
        let Some(at) = self.level_at(side, price) else { return self.full() };
        let home = self.home(reference);
        let chain = self.chains.get_mut(home)?;
        let level = self.levels.get_mut(at)?;
        let older = level.newest;
        let index = self.orders.take(Order { reference, shares, level: at, older, newer: NONE, chained: *chain })?;
        *chain = index;
        level.newest = index;
        level.shares = level.shares.wrapping_add(u64::from(shares));
        match self.orders.get_mut(older) {
            Some(older) => older.newer = index,
            None => level.oldest = index,
        }
        Some(locate_of(side))
    }

    /// The level of `price`, made where there is none.
    #[inline]
    fn level_at(&mut self, side: u32, price: u32) -> Option<u32> {
        let key = key_of(side, price);
        let gap = match self.ladders.find(side, key) {
            Ok(found) => return Some(found),
            Err(gap) => gap,
        };
        let made = self.levels.take(Level { shares: 0, price, oldest: NONE, newest: NONE, side })?;
        let entered = self.ladders.insert(side, gap, key, made);
        if entered.is_none() {
            self.levels.give(made);
        }
        entered.map(|()| made)
    }

    #[inline]
    fn reduce(&mut self, reference: u64, shares: u32) -> Option<u16> {
        let Found::Order(place) = self.find(reference) else { return self.unknown() };
        let order = self.orders.get_mut(place.at)?;
        if shares < order.shares {
            order.shares = order.shares.wrapping_sub(shares);
            let level = self.levels.get_mut(order.level)?;
            level.shares = level.shares.wrapping_sub(u64::from(shares));
            return Some(locate_of(level.side));
        }
        if shares > order.shares {
            self.faults.too_many_shares = self.faults.too_many_shares.wrapping_add(1);
        }
        self.remove(place).map(locate_of)
    }

    #[inline]
    fn delete(&mut self, reference: u64) -> Option<u16> {
        match self.find(reference) {
            Found::Order(place) => self.remove(place).map(locate_of),
            _ => self.unknown(),
        }
    }

    #[inline]
    fn replace(&mut self, old: u64, new: u64, shares: u32, price: u32) -> Option<u16> {
        let Found::Order(place) = self.find(old) else { return self.unknown() };
        if shares == 0 {
            self.faults.bad_order = self.faults.bad_order.wrapping_add(1);
            return None;
        }
        match self.find(new) {
            Found::Order(_) if old != new => return self.known(),
            Found::LongChain => return self.full(),
            _ => {}
        }
        let side = self.remove(place)?;
        self.enter(side, new, shares, price).or(Some(locate_of(side)))
    }

    #[cold]
    fn unknown(&mut self) -> Option<u16> {
        self.faults.unknown_order = self.faults.unknown_order.wrapping_add(1);
        None
    }

    #[cold]
    fn known(&mut self) -> Option<u16> {
        self.faults.known_order = self.faults.known_order.wrapping_add(1);
        None
    }

    #[cold]
    fn full(&mut self) -> Option<u16> {
        self.faults.full = self.faults.full.wrapping_add(1);
        None
    }

    /// Takes an order out; returns its side.
    #[inline]
    fn remove(&mut self, Place { at, before }: Place) -> Option<u32> {
        let order = *self.orders.get(at)?;
        match self.orders.get_mut(before) {
            Some(before) => before.chained = order.chained,
            None => {
                let home = self.home(order.reference);
                *self.chains.get_mut(home)? = order.chained;
            }
        }
        let level = self.levels.get_mut(order.level)?;
        level.shares = level.shares.wrapping_sub(u64::from(order.shares));
        match self.orders.get_mut(order.older) {
            Some(older) => older.newer = order.newer,
            None => level.oldest = order.newer,
        }
        match self.orders.get_mut(order.newer) {
            Some(newer) => newer.older = order.older,
            None => level.newest = order.older,
        }
        let (side, is_empty) = (level.side, level.oldest == NONE);
        self.orders.give(at);
        if is_empty {
            self.drop_level(order.level);
        }
        Some(side)
    }

    /// Gives a level up that has no orders.
    fn drop_level(&mut self, at: u32) {
        if let Some(level) = self.levels.get(at) {
            self.ladders.remove(level.side, key_of(level.side, level.price));
            self.levels.give(at);
        }
    }

    /// The chain that a reference belongs to. References are handed out in order, so sixteen in a row share a cache line, and which
    /// one is a matter of the bits above.
    #[inline]
    fn home(&self, reference: u64) -> usize {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let line = (reference / LINE as u64).wrapping_mul(GOLDEN) >> 32;
        (line ^ (reference % LINE as u64)) as usize & self.chains.len().wrapping_sub(1)
    }

    /// The first order of the chain of `reference`.
    #[inline]
    fn chain(&self, reference: u64) -> u32 {
        self.chains.get(self.home(reference)).copied().unwrap_or(NONE)
    }

    #[inline]
    fn find(&self, reference: u64) -> Found {
        let mut place = Place { at: self.chain(reference), before: NONE };
        for _ in 0..CHAIN {
            match self.orders.get(place.at) {
                Some(order) if order.reference == reference => return Found::Order(place),
                Some(order) => place = Place { at: order.chained, before: place.at },
                None => return Found::Nothing,
            }
        }
        Found::LongChain
    }
}

/// An order, and the one before it in its chain.
#[derive(Clone, Copy)]
struct Place {
    at: u32,
    before: u32,
}

/// What a reference leads to.
enum Found {
    Order(Place),
    Nothing,
    /// Nothing, and there is no room for it: its chain is as long as chains may be.
    LongChain,
}

#[inline]
fn side_of([indicator]: [u8; 1]) -> Option<Side> {
    match indicator {
        b'B' => Some(Side::Buy),
        b'S' => Some(Side::Sell),
        _ => None,
    }
}

#[inline]
fn side_index(locate: u16, side: Side) -> u32 {
    u32::from(locate) << 1 | u32::from(side == Side::Sell)
}

#[inline]
fn locate_of(side: u32) -> u16 {
    (side >> 1) as u16
}

/// A price as [`Ladders`] orders it: the best one of its side is the smallest.
#[inline]
fn key_of(side: u32, price: u32) -> u32 {
    if side & 1 == 1 { price } else { !price }
}

#[cfg(test)]
mod tests;
