//! Order books of all stocks, built from ITCH: price levels with their queues of orders.
//!
//! Everything lies in three slabs that are sized once: orders, levels, and a hash table from order references to orders. A side is a chain of
//! levels from the best price on, a level a chain of orders from the oldest on; links are 32-bit indices. Applying a message allocates nothing
//! and cannot panic; what does not fit the book is counted by cause and leaves it as it was.

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
    /// No room for another order.
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

/// No index.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Order {
    reference: u64,
    shares: u32,
    level: u32,
    older: u32,
    newer: u32,
    side_index: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Level {
    shares: u64,
    price: u32,
    oldest: u32,
    newest: u32,
    better: u32,
    worse: u32,
}

/// Where a reference is kept: linear probing, at most half full.
#[derive(Debug, Clone, Copy)]
struct Slot {
    reference: u64,
    order: u32,
}

/// A slab: indices that are free form a stack.
#[derive(Debug)]
struct Slab<T> {
    items: Box<[T]>,
    free: Box<[u32]>,
    left: usize,
}

impl<T: Copy> Slab<T> {
    fn new(size: u32, empty: T) -> Self {
        Self { items: vec![empty; size as usize].into(), free: (0..size).rev().collect(), left: size as usize }
    }

    #[inline]
    fn take(&mut self, item: T) -> Option<u32> {
        let left = self.left.checked_sub(1)?;
        let index = *self.free.get(left)?;
        *self.items.get_mut(index as usize)? = item;
        self.left = left;
        Some(index)
    }

    #[inline]
    fn give(&mut self, index: u32) {
        if let Some(place) = self.free.get_mut(self.left) {
            *place = index;
            self.left = self.left.wrapping_add(1);
        }
    }

    #[inline]
    fn get(&self, index: u32) -> Option<&T> {
        self.items.get(index as usize)
    }

    #[inline]
    fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.items.get_mut(index as usize)
    }
}

/// The books of all stocks.
#[derive(Debug)]
pub struct Books {
    orders: Slab<Order>,
    levels: Slab<Level>,
    table: Box<[Slot]>,
    /// The best level of each side, two a stock, by stock locate.
    best: Box<[u32]>,
    faults: Faults,
}

/// Sides of all stocks: a locate code has 16 bits.
const SIDES: usize = 2 << 16;

impl Books {
    /// Empty books.
    pub fn new(capacity: Capacity) -> Self {
        let size = capacity.orders.clamp(1, 1 << 28);
        let order = Order { reference: 0, shares: 0, level: NONE, older: NONE, newer: NONE, side_index: 0 };
        let level = Level { shares: 0, price: 0, oldest: NONE, newest: NONE, better: NONE, worse: NONE };
        let slots = (size as usize * 2).next_power_of_two();
        Self {
            orders: Slab::new(size, order),
            levels: Slab::new(size, level),
            table: vec![Slot { reference: 0, order: NONE }; slots].into(),
            best: vec![NONE; SIDES].into(),
            faults: Faults::default(),
        }
    }

    /// Bytes that the books occupy, whatever is in them.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.orders.items)
            + size_of_val(&*self.orders.free)
            + size_of_val(&*self.levels.items)
            + size_of_val(&*self.levels.free)
            + size_of_val(&*self.table)
            + size_of_val(&*self.best)
    }

    /// Orders in all books.
    pub fn live_orders(&self) -> usize {
        self.orders.items.len() - self.orders.left
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
        let level = self.best.get(side_index(locate, side) as usize).and_then(|level| self.levels.get(*level));
        level.map_or(Best::default(), |level| Best { price: level.price, shares: level.shares })
    }

    /// The levels of a side from the best on.
    pub fn depth(&self, locate: u16, side: Side) -> impl Iterator<Item = Best> {
        self.chain(side_index(locate, side)).map(|level| Best { price: level.price, shares: level.shares })
    }

    fn chain(&self, side: u32) -> impl Iterator<Item = &Level> {
        let first = self.best.get(side as usize).and_then(|level| self.levels.get(*level));
        std::iter::successors(first, |level| self.levels.get(level.worse))
    }

    /// The digest of all books.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for locate in 0..=u16::MAX {
            for side in [Side::Buy, Side::Sell] {
                for level in self.chain(side_index(locate, side)) {
                    let oldest = self.orders.get(level.oldest);
                    for order in std::iter::successors(oldest, |order| self.orders.get(order.newer)) {
                        digest.order(locate, side, level.price, order.reference, order.shares);
                    }
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
        let Err(slot) = self.find(reference) else {
            self.faults.known_order = self.faults.known_order.wrapping_add(1);
            return None;
        };
        let order = Order { reference, shares, level: NONE, older: NONE, newer: NONE, side_index: side };
        let Some(index) = self.orders.take(order) else {
            self.faults.full = self.faults.full.wrapping_add(1);
            return None;
        };
        // There are as many levels as orders, so a level is always free when an order was.
        let at = self.level_at(side, price)?;
        let level = self.levels.get_mut(at)?;
        let older = level.newest;
        level.newest = index;
        level.shares = level.shares.wrapping_add(u64::from(shares));
        if older == NONE {
            level.oldest = index;
        } else if let Some(older) = self.orders.get_mut(older) {
            older.newer = index;
        }
        let order = self.orders.get_mut(index)?;
        order.level = at;
        order.older = older;
        *self.table.get_mut(slot)? = Slot { reference, order: index };
        Some(locate_of(side))
    }

    /// The level of `price`, made where there is none: a walk from the best price on, which is where orders come and go.
    #[inline]
    fn level_at(&mut self, side: u32, price: u32) -> Option<u32> {
        let is_sell = side & 1 == 1;
        let (mut better, mut at) = (NONE, *self.best.get(side as usize)?);
        while let Some(level) = self.levels.get(at) {
            if level.price == price {
                return Some(at);
            }
            if (price < level.price) == is_sell {
                break;
            }
            (better, at) = (at, level.worse);
        }
        let made = self.levels.take(Level { shares: 0, price, oldest: NONE, newest: NONE, better, worse: at })?;
        if let Some(worse) = self.levels.get_mut(at) {
            worse.better = made;
        }
        match self.levels.get_mut(better) {
            Some(better) => better.worse = made,
            None => *self.best.get_mut(side as usize)? = made,
        }
        Some(made)
    }

    #[inline]
    fn reduce(&mut self, reference: u64, shares: u32) -> Option<u16> {
        let Ok(slot) = self.find(reference) else { return self.unknown() };
        let index = self.table.get(slot)?.order;
        let order = self.orders.get_mut(index)?;
        if shares < order.shares {
            order.shares = order.shares.wrapping_sub(shares);
            let (level, side) = (order.level, order.side_index);
            let level = self.levels.get_mut(level)?;
            level.shares = level.shares.wrapping_sub(u64::from(shares));
            return Some(locate_of(side));
        }
        if shares > order.shares {
            self.faults.too_many_shares = self.faults.too_many_shares.wrapping_add(1);
        }
        self.remove(slot).map(locate_of)
    }

    #[inline]
    fn delete(&mut self, reference: u64) -> Option<u16> {
        match self.find(reference) {
            Ok(slot) => self.remove(slot).map(locate_of),
            Err(_) => self.unknown(),
        }
    }

    #[inline]
    fn replace(&mut self, old: u64, new: u64, shares: u32, price: u32) -> Option<u16> {
        let Ok(slot) = self.find(old) else { return self.unknown() };
        if shares == 0 {
            self.faults.bad_order = self.faults.bad_order.wrapping_add(1);
            return None;
        }
        if old != new && self.find(new).is_ok() {
            self.faults.known_order = self.faults.known_order.wrapping_add(1);
            return None;
        }
        let side = self.remove(slot)?;
        self.insert(side, new, shares, price)
    }

    #[cold]
    fn unknown(&mut self) -> Option<u16> {
        self.faults.unknown_order = self.faults.unknown_order.wrapping_add(1);
        None
    }

    /// Takes the order in table slot `slot` out; returns its side.
    #[inline]
    fn remove(&mut self, slot: usize) -> Option<u32> {
        let index = self.table.get(slot)?.order;
        let order = *self.orders.get(index)?;
        match self.orders.get_mut(order.older) {
            Some(older) => older.newer = order.newer,
            None => self.levels.get_mut(order.level)?.oldest = order.newer,
        }
        match self.orders.get_mut(order.newer) {
            Some(newer) => newer.older = order.older,
            None => self.levels.get_mut(order.level)?.newest = order.older,
        }
        let level = self.levels.get_mut(order.level)?;
        level.shares = level.shares.wrapping_sub(u64::from(order.shares));
        if level.oldest == NONE {
            let (better, worse) = (level.better, level.worse);
            if let Some(worse) = self.levels.get_mut(worse) {
                worse.better = better;
            }
            match self.levels.get_mut(better) {
                Some(better) => better.worse = worse,
                None => *self.best.get_mut(order.side_index as usize)? = worse,
            }
            self.levels.give(order.level);
        }
        self.orders.give(index);
        self.vacate(slot);
        Some(order.side_index)
    }

    #[inline]
    fn home(&self, reference: u64) -> usize {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        (reference.wrapping_mul(GOLDEN) >> 32) as usize & self.mask()
    }

    #[inline]
    fn mask(&self) -> usize {
        self.table.len().wrapping_sub(1)
    }

    /// The slot of `reference`, or the empty one where it would go.
    #[inline]
    fn find(&self, reference: u64) -> Result<usize, usize> {
        let mut at = self.home(reference);
        // At most half of the slots are taken, so an empty one ends every probe.
        loop {
            match self.table.get(at) {
                Some(slot) if slot.order == NONE => return Err(at),
                Some(slot) if slot.reference == reference => return Ok(at),
                Some(_) => at = at.wrapping_add(1) & self.mask(),
                None => return Err(0),
            }
        }
    }

    /// Empties a slot and moves later ones of its cluster up, so that probes need no tombstones.
    #[inline]
    fn vacate(&mut self, mut hole: usize) {
        let mask = self.mask();
        let mut at = hole;
        loop {
            at = at.wrapping_add(1) & mask;
            let Some(&slot) = self.table.get(at) else { return };
            if slot.order == NONE {
                break;
            }
            // It may move up when its home is not between the hole and where it is.
            let distance = at.wrapping_sub(self.home(slot.reference)) & mask;
            if distance >= at.wrapping_sub(hole) & mask {
                if let Some(place) = self.table.get_mut(hole) {
                    *place = slot;
                }
                hole = at;
            }
        }
        if let Some(place) = self.table.get_mut(hole) {
            place.order = NONE;
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        Add(u16, Side, u64, u32, u32),
        Reduce(u64, u32),
        Delete(u64),
        Replace(u64, u64, u32, u32),
    }

    type Levels = BTreeMap<u32, Vec<(u64, u32)>>;

    /// A book as one would write it without a thought for speed.
    #[derive(Default)]
    struct Naive(BTreeMap<(u16, Side), Levels>);

    impl Naive {
        fn find(&mut self, reference: u64) -> Option<((u16, Side), u32, usize)> {
            self.0.iter().find_map(|(side, levels)| {
                levels.iter().find_map(|(price, queue)| {
                    Some((*side, *price, queue.iter().position(|order| order.0 == reference)?))
                })
            })
        }

        fn remove(&mut self, reference: u64) -> Option<(u16, Side)> {
            let (side, price, at) = self.find(reference)?;
            let levels = self.0.get_mut(&side)?;
            let queue = levels.get_mut(&price)?;
            queue.remove(at);
            if queue.is_empty() {
                levels.remove(&price);
            }
            Some(side)
        }

        fn apply(&mut self, act: &Act) {
            match *act {
                Act::Add(locate, side, reference, shares, price) => {
                    if shares > 0 && self.find(reference).is_none() {
                        self.0.entry((locate, side)).or_default().entry(price).or_default().push((reference, shares));
                    }
                }
                Act::Reduce(reference, shares) => {
                    let Some((side, price, at)) = self.find(reference) else { return };
                    let order = &mut self.0.get_mut(&side).unwrap().get_mut(&price).unwrap()[at];
                    if shares < order.1 {
                        order.1 -= shares;
                    } else {
                        self.remove(reference);
                    }
                }
                Act::Delete(reference) => _ = self.remove(reference),
                Act::Replace(old, new, shares, price) => {
                    if shares > 0 && self.find(old).is_some() && (old == new || self.find(new).is_none()) {
                        let side = self.remove(old).unwrap();
                        self.0.entry(side).or_default().entry(price).or_default().push((new, shares));
                    }
                }
            }
        }

        fn digest(&self) -> Digest {
            let mut digest = Digest::default();
            for ((locate, side), levels) in &self.0 {
                let prices: Vec<_> = match side {
                    Side::Buy => levels.iter().rev().collect(),
                    Side::Sell => levels.iter().collect(),
                };
                for (price, queue) in prices {
                    queue
                        .iter()
                        .for_each(|(reference, shares)| digest.order(*locate, *side, *price, *reference, *shares));
                }
            }
            digest
        }
    }

    fn act() -> impl Strategy<Value = Act> {
        let side = prop_oneof![Just(Side::Buy), Just(Side::Sell)];
        let (reference, shares, price) = (0u64..40, 0u32..8, 95u32..105);
        prop_oneof![
            4 => (0u16..3, side, reference.clone(), shares.clone(), price.clone()).prop_map(|(l, s, r, n, p)| Act::Add(l, s, r, n, p)),
            2 => (reference.clone(), shares.clone()).prop_map(|(r, n)| Act::Reduce(r, n)),
            1 => reference.clone().prop_map(Act::Delete),
            1 => (reference.clone(), reference, shares, price).prop_map(|(o, r, n, p)| Act::Replace(o, r, n, p)),
        ]
    }

    fn perform(books: &mut Books, act: &Act) {
        match *act {
            Act::Add(locate, side, reference, shares, price) => {
                books.add(locate, Some(side), reference, shares, price);
            }
            Act::Reduce(reference, shares) => _ = books.reduce(reference, shares),
            Act::Delete(reference) => _ = books.delete(reference),
            Act::Replace(old, new, shares, price) => _ = books.replace(old, new, shares, price),
        }
    }

    proptest! {
        #[test]
        fn books_equal_naive_books_after_every_message(acts in prop::collection::vec(act(), 0..200)) {
            let (mut books, mut naive) = (Books::new(Capacity { orders: 64 }), Naive::default());
            for act in &acts {
                perform(&mut books, act);
                naive.apply(act);
                prop_assert_eq!(books.digest(), naive.digest(), "after {:?}", act);
                let best = naive.0.get(&(1, Side::Buy)).and_then(|levels| levels.last_key_value());
                prop_assert_eq!(books.best(1, Side::Buy).price, best.map_or(0, |(price, _)| *price));
                let shares = best.map_or(0, |(_, queue)| queue.iter().map(|order| u64::from(order.1)).sum());
                prop_assert_eq!(books.best(1, Side::Buy).shares, shares);
            }
        }
    }

    #[test]
    fn full_books_refuse_and_recover() {
        let mut books = Books::new(Capacity { orders: 2 });
        for reference in 0..3 {
            books.add(1, Some(Side::Buy), reference, 1, 100);
        }
        assert_eq!((books.faults().full, books.live_orders()), (1, 2));
        books.delete(0);
        assert_eq!(books.add(1, Some(Side::Buy), 9, 1, 101), Some(1));
        assert_eq!(books.best(1, Side::Buy).price, 101);
        assert_eq!(books.depth(1, Side::Buy).map(|level| level.price).collect::<Vec<_>>(), [101, 100]);
    }

    #[test]
    fn faults_are_counted_by_cause() {
        let mut books = Books::new(Capacity { orders: 8 });
        books.delete(5);
        books.add(1, Some(Side::Buy), 5, 10, 100);
        books.add(1, Some(Side::Sell), 5, 10, 100);
        books.add(1, None, 6, 10, 100);
        books.reduce(5, 11);
        let expected = Faults { unknown_order: 1, known_order: 1, too_many_shares: 1, bad_order: 1, full: 0 };
        assert_eq!((books.faults(), books.live_orders()), (expected, 0));
    }
}
