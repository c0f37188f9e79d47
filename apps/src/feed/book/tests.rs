//! The books against naive ones.

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
            levels
                .iter()
                .find_map(|(price, queue)| Some((*side, *price, queue.iter().position(|order| order.0 == reference)?)))
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
                queue.iter().for_each(|(reference, shares)| digest.order(*locate, *side, *price, *reference, *shares));
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

proptest! {
    #[test]
    fn deep_books_equal_naive_books(prices in prop::collection::vec((any::<bool>(), any::<bool>(), 0u32..600), 0..1500)) {
        let (mut books, mut naive) = (Books::new(Capacity { orders: 2048 }), Naive::default());
        for (number, (is_sell, is_deletion, price)) in prices.into_iter().enumerate() {
            let side = if is_sell { Side::Sell } else { Side::Buy };
            let act = match is_deletion {
                true => Act::Delete(u64::from(price)),
                false => Act::Add(7, side, number as u64, 1, price),
            };
            perform(&mut books, &act);
            naive.apply(&act);
        }
        prop_assert_eq!(books.digest(), naive.digest());
        let depth = books.depth(7, Side::Sell).map(|level| (level.price, level.shares));
        let levels = naive.0.get(&(7, Side::Sell)).into_iter().flatten();
        prop_assert!(depth.eq(levels.map(|(price, queue)| (*price, queue.len() as u64))));
    }

    #[test]
    fn looking_ahead_takes_any_message(
        messages in prop::collection::vec((prop::sample::select(b"AFECXDU".as_slice()), any::<[u8; 40]>()), 0..40)
    ) {
        let mut books = Books::new(Capacity { orders: 64 });
        let messages: Vec<_> = messages
            .into_iter()
            .map(|(kind, mut bytes)| {
                bytes[0] = kind;
                // Few references, so that some are known.
                bytes[11..18].fill(0);
                let (_, len) = crate::feed::itch::TYPES.iter().find(|(known, _)| *known == kind).unwrap();
                bytes[..*len].to_vec()
            })
            .collect();
        let messages: Vec<_> = messages.iter().map(|bytes| Message::parse(bytes).unwrap()).collect();
        for at in 0..messages.len() {
            books.look_ahead(messages[at..].iter());
            books.apply(&messages[at]);
        }
    }
}

#[test]
fn chain_too_long_is_full_and_recovers() {
    let mut books = Books::new(Capacity { orders: 1000 });
    let same = (0..).filter(|reference| books.home(*reference) == 5);
    let references: Vec<u64> = same.take(CHAIN + 1).collect();
    for reference in &references {
        books.add(1, Some(Side::Buy), *reference, 1, 100);
    }
    assert_eq!((books.faults().full, books.live_orders()), (1, CHAIN));
    books.delete(references[CHAIN / 2]);
    assert_eq!(books.add(1, Some(Side::Buy), references[CHAIN], 1, 100), Some(1));
    references.iter().rev().for_each(|reference| _ = books.delete(*reference));
    assert_eq!((books.faults().unknown_order, books.live_orders()), (1, 0));
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
