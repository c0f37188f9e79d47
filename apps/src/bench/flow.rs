//! ITCH as a busy day makes it: a stream of messages over many stocks, from a seed, with a given number of orders alive.
#![forbid(unsafe_code)]

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use zerocopy::IntoBytes;

use crate::feed::itch::{self, Timestamp};
use crate::fields::Alpha;

/// The smallest price step, in 1/10,000 dollar.
const TICK: u32 = 100;
/// The middle of every book, so that nothing crosses.
const MIDDLE: u32 = 100 * 10_000;

/// Messages, each behind its length in two bytes, as MoldUDP64 blocks are.
#[derive(Default)]
pub struct Stream {
    /// The blocks.
    pub bytes: Vec<u8>,
    /// How many.
    pub messages: u64,
}

impl Stream {
    fn push(&mut self, message: &[u8]) {
        self.bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(message);
        self.messages += 1;
    }

    /// Calls `each` for every message.
    #[inline]
    pub fn for_each<'s>(&'s self, mut each: impl FnMut(&'s [u8])) {
        let mut rest = self.bytes.as_slice();
        while let Some((len, after)) = rest.split_first_chunk::<2>() {
            let Some((message, after)) = after.split_at_checked(u16::from_be_bytes(*len).into()) else { return };
            each(message);
            rest = after;
        }
    }
}

#[derive(Clone, Copy)]
struct Live {
    reference: u64,
    locate: u16,
    shares: u32,
}

/// The participants of all stocks together.
pub struct Flow {
    random: Pcg64Mcg,
    stocks: u16,
    live: Vec<Live>,
    next_reference: u64,
    now: u64,
}

impl Flow {
    /// Nobody has an order yet.
    pub fn new(seed: u64, stocks: u16) -> Self {
        const OPENING: u64 = 34_200 * 1_000_000_000;
        Self { random: Pcg64Mcg::seed_from_u64(seed), stocks, live: Vec::new(), next_reference: 1, now: OPENING }
    }

    /// Adds orders until `live` are in the books.
    pub fn fill(&mut self, live: usize, to: &mut Stream) {
        while self.live.len() < live {
            self.add(to);
        }
    }

    /// `messages` more that keep the number of live orders about where it is: additions and deletions in equal parts, the rest executions,
    /// cancellations, replacements and a few trades. Every live order is as likely as any other to be meant, which is harder on caches than a
    /// market, where most orders die young.
    pub fn run(&mut self, messages: u64, to: &mut Stream) {
        let (level, end) = (self.live.len(), to.messages + messages);
        while to.messages < end {
            let roll = self.random.random_range(0..100u32);
            match roll {
                _ if self.live.len() < level => self.add(to),
                0..40 => self.delete(to),
                40..60 => self.add(to),
                60..75 => self.replace(to),
                75..89 => self.execute(to),
                89 => self.trade(to),
                _ => self.cancel(to),
            }
        }
    }

    fn stamp(&mut self) -> Timestamp {
        self.now += 100;
        Timestamp::new(self.now)
    }

    /// Ticks away from the middle: half of all orders at the best price, a quarter one behind it, and so on, at most 31.
    fn away(&mut self) -> u32 {
        self.random.random::<u32>().trailing_zeros().min(31)
    }

    fn price(&mut self, side: u8) -> u32 {
        let away = (self.away() + 1) * TICK;
        if side == b'B' { MIDDLE - away } else { MIDDLE + away }
    }

    fn add(&mut self, to: &mut Stream) {
        let locate = self.random.random_range(1..=self.stocks);
        // The side is in the reference, so that a replacement stays on it.
        let reference = self.next_reference;
        self.next_reference += 1;
        let side = side_of(reference);
        let shares = self.random.random_range(1..=20u32) * 100;
        let message = itch::AddOrder {
            message_type: Alpha::new("A"),
            stock_locate: locate.into(),
            tracking_number: 0.into(),
            timestamp: self.stamp(),
            order_reference_number: reference.into(),
            buy_sell_indicator: Alpha([side]),
            shares: shares.into(),
            stock: Alpha::new("BAREWIRE"),
            price: self.price(side).into(),
        };
        // One in 32 tells whose it is: the same message, and the participant behind it.
        if self.random.random_range(0..32u32) == 0 {
            let order = itch::AddOrder { message_type: Alpha::new("F"), ..message };
            to.push(&[order.as_bytes(), b"WIRE"].concat());
        } else {
            to.push(message.as_bytes());
        }
        self.live.push(Live { reference, locate, shares });
    }

    /// A match with an order that no book shows.
    fn trade(&mut self, to: &mut Stream) {
        let message = itch::Trade {
            message_type: Alpha::new("P"),
            stock_locate: self.random.random_range(1..=self.stocks).into(),
            tracking_number: 0.into(),
            timestamp: self.stamp(),
            order_reference_number: 0.into(),
            buy_sell_indicator: Alpha::new("B"),
            shares: 100.into(),
            stock: Alpha::new("BAREWIRE"),
            price: MIDDLE.into(),
            match_number: self.now.into(),
        };
        to.push(message.as_bytes());
    }

    /// An order at random, taken out of the list of those alive.
    fn pick(&mut self) -> Live {
        let at = self.random.random_range(0..self.live.len() as u64) as usize;
        self.live.swap_remove(at)
    }

    fn delete(&mut self, to: &mut Stream) {
        let order = self.pick();
        let message = itch::OrderDelete {
            message_type: Alpha::new("D"),
            stock_locate: order.locate.into(),
            tracking_number: 0.into(),
            timestamp: self.stamp(),
            order_reference_number: order.reference.into(),
        };
        to.push(message.as_bytes());
    }

    fn replace(&mut self, to: &mut Stream) {
        let order = self.pick();
        // References alternate between the sides: the next one of the same side.
        let reference = self.next_reference + u64::from(side_of(self.next_reference) != side_of(order.reference));
        self.next_reference = reference + 1;
        let message = itch::OrderReplace {
            message_type: Alpha::new("U"),
            stock_locate: order.locate.into(),
            tracking_number: 0.into(),
            timestamp: self.stamp(),
            original_order_reference_number: order.reference.into(),
            new_order_reference_number: reference.into(),
            shares: order.shares.into(),
            price: self.price(side_of(reference)).into(),
        };
        to.push(message.as_bytes());
        self.live.push(Live { reference, ..order });
    }

    fn execute(&mut self, to: &mut Stream) {
        let order = self.pick();
        let executed = order.shares.min(100);
        let message = itch::OrderExecuted {
            message_type: Alpha::new("E"),
            stock_locate: order.locate.into(),
            tracking_number: 0.into(),
            timestamp: self.stamp(),
            order_reference_number: order.reference.into(),
            executed_shares: executed.into(),
            match_number: order.reference.into(),
        };
        // One in 32 at a price of its own: the same message, with that behind it.
        if self.random.random_range(0..32u32) == 0 {
            let order = itch::OrderExecuted { message_type: Alpha::new("C"), ..message };
            to.push(&[order.as_bytes(), b"Y", &MIDDLE.to_be_bytes()].concat());
        } else {
            to.push(message.as_bytes());
        }
        self.keep(order, executed);
    }

    fn cancel(&mut self, to: &mut Stream) {
        let order = self.pick();
        let cancelled = order.shares / 2;
        let message = itch::OrderCancel {
            message_type: Alpha::new("X"),
            stock_locate: order.locate.into(),
            tracking_number: 0.into(),
            timestamp: self.stamp(),
            order_reference_number: order.reference.into(),
            cancelled_shares: cancelled.into(),
        };
        to.push(message.as_bytes());
        self.keep(order, cancelled);
    }

    fn keep(&mut self, order: Live, gone: u32) {
        let shares = order.shares - gone;
        if shares > 0 {
            self.live.push(Live { shares, ..order });
        }
    }
}

fn side_of(reference: u64) -> u8 {
    if reference.is_multiple_of(2) { b'B' } else { b'S' }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::book::{Books, Capacity, Faults};
    use crate::feed::itch::Message;

    #[test]
    fn flow_fits_the_books_and_keeps_its_level() {
        let mut flow = Flow::new(1, 50);
        let mut stream = Stream::default();
        flow.fill(2_000, &mut stream);
        flow.run(20_000, &mut stream);
        let mut books = Books::new(Capacity { orders: 4_096 });
        stream.for_each(|bytes| {
            books.apply(&Message::parse(bytes).unwrap());
        });
        assert_eq!(books.faults(), Faults::default());
        assert_eq!(books.live_orders(), flow.live.len());
        assert!(flow.live.len().abs_diff(2_000) <= 10, "{}", flow.live.len());
    }
}
