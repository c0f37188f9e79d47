//! The trader's own view of its orders: what is open, what it is exposed to, and the count of every outcome.
#![forbid(unsafe_code)]

use super::limits::{Exposure, Refusals};
use super::strategy::{Direction, Intent};

/// What became of the orders. Every order decided is sent or refused; every order sent is answered by acceptance or rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Orders that the strategy wanted.
    pub decided: u64,
    /// Orders that did not leave, by reason.
    pub refused: Refusals,
    /// Orders handed to TCP.
    pub sent: u64,
    /// Orders that the exchange accepted.
    pub accepted: u64,
    /// Orders that the exchange rejected.
    pub rejected: u64,
    /// Executions; an order may have several.
    pub fills: u64,
    /// Shares in those executions.
    pub filled_shares: u64,
    /// Answers that name no open order.
    pub strays: u64,
}

impl Tally {
    /// Orders sent that the exchange has neither accepted nor rejected.
    pub fn unanswered(&self) -> u64 {
        self.sent.saturating_sub(self.accepted.saturating_add(self.rejected))
    }
}

/// Slots for open orders, a power of two; many more than the limits let be open.
const SLOTS: usize = 1024;

/// Stock locate codes are 16 bits.
const STOCKS: usize = 1 << 16;

/// An order that may still execute.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    /// The order's number; zero marks a free slot.
    number: u32,
    stock: u16,
    is_sell: bool,
    shares: u32,
}

/// All orders of one session, in tables that never grow.
#[derive(Debug)]
pub struct Orders {
    open: Box<[Open]>,
    exposure: Box<[Exposure]>,
    open_count: u32,
    last_number: u32,
    /// What became of the orders.
    pub tally: Tally,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            open: vec![Open::default(); SLOTS].into_boxed_slice(),
            exposure: vec![Exposure::default(); STOCKS].into_boxed_slice(),
            open_count: 0,
            last_number: 0,
            tally: Tally::default(),
        }
    }
}

impl Orders {
    /// Orders that may still execute.
    #[inline]
    pub fn open_count(&self) -> u32 {
        self.open_count
    }

    /// What is at risk in a stock.
    #[inline]
    pub fn exposure(&self, stock: u16) -> Exposure {
        self.exposure.get(usize::from(stock)).copied().unwrap_or_default()
    }

    /// The number for the next order (OUCH 5.0, "UserRefNum": from 1, strictly ascending), or `None` where the slot for it
    /// is still taken by an order that was sent long ago.
    #[inline]
    pub fn next_number(&self) -> Option<u32> {
        let number = self.last_number.checked_add(1)?;
        let slot = self.open.get(number as usize % SLOTS)?;
        (slot.number == 0).then_some(number)
    }

    /// Notes that the order went out under `number`.
    #[inline]
    pub fn sent(&mut self, number: u32, intent: &Intent) {
        let is_sell = intent.side == Direction::Sell;
        if let Some(slot) = self.open.get_mut(number as usize % SLOTS) {
            *slot = Open { number, stock: intent.stock, is_sell, shares: intent.shares };
        }
        if let Some(exposure) = self.exposure.get_mut(usize::from(intent.stock)) {
            let open = if is_sell { &mut exposure.open_sell } else { &mut exposure.open_buy };
            *open = open.wrapping_add(u64::from(intent.shares));
        }
        self.last_number = number;
        self.open_count = self.open_count.wrapping_add(1);
        self.tally.sent = self.tally.sent.wrapping_add(1);
    }

    /// The exchange accepted the order.
    pub fn accepted(&mut self, number: u32) {
        if self.find(number).is_some() {
            self.tally.accepted += 1;
        } else {
            self.tally.strays += 1;
        }
    }

    /// The exchange rejected the order: it never was in the market.
    pub fn rejected(&mut self, number: u32) {
        if self.take_open(number, u32::MAX, false).is_some() {
            self.tally.rejected += 1;
        } else {
            self.tally.strays += 1;
        }
    }

    /// The order executed for `shares`.
    pub fn executed(&mut self, number: u32, shares: u32) {
        match self.take_open(number, shares, true) {
            Some(filled) => {
                self.tally.fills += 1;
                self.tally.filled_shares += u64::from(filled);
            }
            None => self.tally.strays += 1,
        }
    }

    /// The exchange took `shares` out of the order without executing them.
    pub fn cancelled(&mut self, number: u32, shares: u32) {
        if self.take_open(number, shares, false).is_none() {
            self.tally.strays += 1;
        }
    }

    fn find(&mut self, number: u32) -> Option<&mut Open> {
        self.open.get_mut(number as usize % SLOTS).filter(|slot| number != 0 && slot.number == number)
    }

    /// Takes up to `shares` out of an open order; frees its slot when none are left. Returns how many were taken.
    fn take_open(&mut self, number: u32, shares: u32, executed: bool) -> Option<u32> {
        let slot = self.find(number)?;
        let taken = shares.min(slot.shares);
        slot.shares -= taken;
        let Open { stock, is_sell, .. } = *slot;
        if slot.shares == 0 {
            *slot = Open::default();
            self.open_count = self.open_count.saturating_sub(1);
        }
        let exposure = self.exposure.get_mut(usize::from(stock))?;
        let (open, sign) = if is_sell { (&mut exposure.open_sell, -1) } else { (&mut exposure.open_buy, 1) };
        *open = open.saturating_sub(u64::from(taken));
        if executed {
            exposure.position += sign * i64::from(taken);
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(orders: &mut Orders, side: Direction, shares: u32) -> u32 {
        let number = orders.next_number().unwrap();
        orders.sent(number, &Intent { side, stock: 5, price: 100, shares });
        number
    }

    #[test]
    fn order_sent_is_open_until_executed_and_cancelled() {
        let mut orders = Orders::default();
        let number = sent(&mut orders, Direction::Buy, 100);
        assert_eq!(orders.exposure(5), Exposure { position: 0, open_buy: 100, open_sell: 0 });
        orders.accepted(number);
        orders.executed(number, 60);
        assert_eq!((orders.open_count(), orders.exposure(5).position), (1, 60));
        orders.cancelled(number, 40);
        assert_eq!((orders.open_count(), orders.exposure(5)), (0, Exposure { position: 60, ..Exposure::default() }));
        assert_eq!((orders.tally.fills, orders.tally.filled_shares, orders.tally.unanswered()), (1, 60, 0));
    }

    #[test]
    fn order_rejected_leaves_no_exposure() {
        let mut orders = Orders::default();
        let number = sent(&mut orders, Direction::Sell, 10);
        orders.rejected(number);
        assert_eq!((orders.open_count(), orders.exposure(5), orders.tally.rejected), (0, Exposure::default(), 1));
    }

    #[test]
    fn sale_executed_makes_the_position_negative() {
        let mut orders = Orders::default();
        let number = sent(&mut orders, Direction::Sell, 10);
        orders.executed(number, 10);
        assert_eq!(orders.exposure(5).position, -10);
    }

    #[test]
    fn answer_to_an_unknown_order_is_a_stray() {
        let mut orders = Orders::default();
        orders.accepted(1);
        orders.rejected(0);
        orders.executed(1025, 5);
        orders.cancelled(3, 5);
        assert_eq!(orders.tally, Tally { strays: 4, ..Tally::default() });
    }

    #[test]
    fn execution_beyond_the_order_is_cut_to_it() {
        let mut orders = Orders::default();
        let number = sent(&mut orders, Direction::Buy, 10);
        orders.executed(number, 1_000);
        assert_eq!((orders.exposure(5).position, orders.open_count()), (10, 0));
    }

    #[test]
    fn slot_still_taken_gives_no_number() {
        let mut orders = Orders::default();
        for _ in 0..SLOTS {
            sent(&mut orders, Direction::Buy, 1);
        }
        assert_eq!(orders.next_number(), None);
        orders.cancelled(1, 1);
        assert_eq!(orders.next_number(), Some(SLOTS as u32 + 1));
    }
}
