//! Any bytes as ITCH, and messages about few orders, into books: what reads is written again as it was, and the books stay those of somebody who
//! keeps a list, whatever orders come, go and are made up. What does not fit is counted and changes nothing.
#![no_main]
#![forbid(unsafe_code)]

use std::cell::RefCell;

use barewire::digest::{Digest, Side};
use barewire::feed::book::{Best, Books, Capacity, Faults};
use barewire::feed::itch::{Message, TYPES};
use barewire_fuzz::Bytes;
use libfuzzer_sys::fuzz_target;

/// Orders that the books hold.
const ORDERS: usize = 24;
/// Orders that messages speak of, some more than there is room for.
const REFERENCES: u8 = 40;
/// Stocks.
const STOCKS: u8 = 3;

thread_local! {
    /// Empty before and after every input.
    static BOOKS: RefCell<Books> = RefCell::new(Books::new(Capacity { orders: ORDERS as u32 }));
}

/// An order in the list, which is in the order of arrival.
#[derive(Debug, Clone, Copy)]
struct Order {
    reference: u64,
    locate: u16,
    side: Side,
    price: u32,
    shares: u32,
}

/// Books as a list.
#[derive(Default)]
struct List(Vec<Order>, Faults);

impl List {
    fn at(&mut self, reference: u64) -> Option<usize> {
        let at = self.0.iter().position(|order| order.reference == reference);
        self.1.unknown_order += u64::from(at.is_none());
        at
    }

    fn has(&self, reference: u64) -> bool {
        self.0.iter().any(|order| order.reference == reference)
    }

    fn add(&mut self, order: Order, side: u8) {
        if !matches!(side, b'B' | b'S') || order.shares == 0 {
            self.1.bad_order += 1;
        } else if self.has(order.reference) {
            self.1.known_order += 1;
        } else if self.0.len() == ORDERS {
            self.1.full += 1;
        } else {
            self.0.push(order);
        }
    }

    fn reduce(&mut self, reference: u64, shares: u32) {
        let Some(at) = self.at(reference) else { return };
        self.1.too_many_shares += u64::from(shares > self.0[at].shares);
        self.0[at].shares = self.0[at].shares.saturating_sub(shares);
        self.0.retain(|order| order.shares > 0);
    }

    fn replace(&mut self, old: u64, new: u64, shares: u32, price: u32) {
        let Some(at) = self.at(old) else { return };
        if shares == 0 {
            self.1.bad_order += 1;
        } else if old != new && self.has(new) {
            self.1.known_order += 1;
        } else {
            let order = self.0.remove(at);
            self.0.push(Order { reference: new, shares, price, ..order });
        }
    }

    fn apply(&mut self, message: &Message<'_>) {
        let side = |letter| if letter == b'S' { Side::Sell } else { Side::Buy };
        match message {
            Message::AddOrder(m) => {
                let [letter] = m.buy_sell_indicator.0;
                let (reference, locate) = (m.order_reference_number.get(), m.stock_locate.get());
                let (price, shares) = (m.price.get(), m.shares.get());
                self.add(Order { reference, locate, side: side(letter), price, shares }, letter);
            }
            Message::AddOrderWithMpid(m) => {
                let [letter] = m.buy_sell_indicator.0;
                let (reference, locate) = (m.order_reference_number.get(), m.stock_locate.get());
                let (price, shares) = (m.price.get(), m.shares.get());
                self.add(Order { reference, locate, side: side(letter), price, shares }, letter);
            }
            Message::OrderExecuted(m) => self.reduce(m.order_reference_number.get(), m.executed_shares.get()),
            Message::OrderExecutedWithPrice(m) => self.reduce(m.order_reference_number.get(), m.executed_shares.get()),
            Message::OrderCancel(m) => self.reduce(m.order_reference_number.get(), m.cancelled_shares.get()),
            Message::OrderDelete(m) => {
                if let Some(at) = self.at(m.order_reference_number.get()) {
                    self.0.remove(at);
                }
            }
            Message::OrderReplace(m) => self.replace(
                m.original_order_reference_number.get(),
                m.new_order_reference_number.get(),
                m.shares.get(),
                m.price.get(),
            ),
            _ => {}
        }
    }

    /// The orders of a side, best price first, oldest first.
    fn side(&self, locate: u16, side: Side) -> Vec<Order> {
        let mut orders: Vec<_> =
            self.0.iter().copied().filter(|order| (order.locate, order.side) == (locate, side)).collect();
        orders.sort_by_key(|order| if side == Side::Buy { !order.price } else { order.price });
        orders
    }

    fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for locate in 0..STOCKS.into() {
            for side in [Side::Buy, Side::Sell] {
                for order in self.side(locate, side) {
                    digest.order(locate, side, order.price, order.reference, order.shares);
                }
            }
        }
        digest
    }
}

/// A number of which the low byte matters most.
fn few(bytes: &mut Bytes<'_>) -> u32 {
    match bytes.byte() {
        255 => u32::MAX,
        254 => bytes.u32(),
        low => u32::from(low % 16),
    }
}

/// A message about few orders: its length is right, nearly always.
fn message(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let &(kind, len) = match bytes.byte() {
        letter @ 0..200 => {
            let letter = b"AAAFECXDDU"[usize::from(letter % 10)];
            TYPES.iter().find(|(kind, _)| *kind == letter).expect("a type of ITCH")
        }
        other => &TYPES[usize::from(other) % TYPES.len()],
    };
    // All of them begin with type, locate, tracking number and time, and those about orders go on with the reference.
    let mut message = vec![kind, 0, bytes.byte() % STOCKS, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend(u64::from(bytes.byte() % REFERENCES).to_be_bytes());
    match kind {
        b'A' | b'F' => {
            message.push(*b"BSBSBS\0b".get(usize::from(bytes.byte() % 16)).unwrap_or(&b'B'));
            message.extend(few(bytes).to_be_bytes());
            message.extend(b"STOCK   ");
            message.extend(few(bytes).to_be_bytes());
        }
        b'U' => {
            message.extend(u64::from(bytes.byte() % REFERENCES).to_be_bytes());
            message.extend(few(bytes).to_be_bytes());
            message.extend(few(bytes).to_be_bytes());
        }
        _ => message.extend(few(bytes).to_be_bytes()),
    }
    message.resize(len, 0);
    if bytes.byte() == 255 {
        message.resize(bytes.byte().into(), 0);
    }
    message
}

fn take(books: &mut Books, list: &mut List, bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else {
        let known = bytes.first().and_then(|first| TYPES.iter().find(|(kind, _)| kind == first));
        return assert!(known.is_none_or(|(_, len)| *len != bytes.len()));
    };
    assert_eq!(message.as_bytes(), bytes);
    books.prepare([message].iter());
    let (before, changed) = (list.0.len(), books.apply(&message));
    list.apply(&message);
    assert!(changed.is_some() || list.0.len() == before);
    assert_eq!(books.live_orders(), list.0.len());
    for (locate, side) in changed.into_iter().flat_map(|locate| [(locate, Side::Buy), (locate, Side::Sell)]) {
        let orders = list.side(locate, side);
        let levels = orders.chunk_by(|one, other| one.price == other.price).map(|level| Best {
            price: level[0].price,
            shares: level.iter().map(|order| u64::from(order.shares)).sum(),
        });
        let levels: Vec<_> = levels.collect();
        assert_eq!(books.best(locate, side), levels.first().copied().unwrap_or_default());
        assert!(books.depth(locate, side).eq(levels));
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::parse(data) {
        assert_eq!(message.as_bytes(), data);
    }
    BOOKS.with_borrow_mut(|books| {
        let (bytes, mut list, before) = (&mut Bytes(data), List::default(), books.faults());
        while !bytes.0.is_empty() {
            let message = message(bytes);
            take(books, &mut list, &message);
        }
        assert_eq!(books.digest(), list.digest());
        let (faults, expected) = (books.faults(), list.1);
        assert_eq!(faults.unknown_order - before.unknown_order, expected.unknown_order);
        assert_eq!(faults.known_order - before.known_order, expected.known_order);
        assert_eq!(faults.too_many_shares - before.too_many_shares, expected.too_many_shares);
        assert_eq!(faults.bad_order - before.bad_order, expected.bad_order);
        assert_eq!(faults.full - before.full, expected.full);
        for order in list.0.clone() {
            let mut delete = [0; 19];
            delete[0] = b'D';
            delete[11..].copy_from_slice(&order.reference.to_be_bytes());
            take(books, &mut list, &delete);
        }
        assert_eq!(books.live_orders(), 0);
    });
});
