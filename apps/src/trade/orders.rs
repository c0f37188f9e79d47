//! The trader's own view of its orders: what is open, what it is exposed to, and the count of every outcome.
#![forbid(unsafe_code)]

use super::limits::{Exposure, Refusal, Refusals};
use super::strategy::{Direction, Intent};
use crate::order::ouch::Outbound;
use serde::{Deserialize, Serialize};

/// What became of the orders. Every order decided is sent or refused; every order sent is accepted, rejected, or known to be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Orders that the strategy wanted.
    pub decided: u64,
    /// Orders that did not leave, by reason.
    pub refused: Refusals,
    /// Orders handed to TCP.
    pub sent: u64,
    /// Of these, orders that had been written and parked before they were wanted.
    pub prepared: u64,
    /// Orders that the exchange accepted.
    pub accepted: u64,
    /// Orders that the exchange rejected.
    pub rejected: u64,
    /// Executions; an order may have several.
    pub fills: u64,
    /// Shares in those executions.
    pub filled_shares: u64,
    /// Orders that never reached the exchange: a cut took them.
    pub lost: u64,
    /// Answers that name no open order.
    pub strays: u64,
}

impl Tally {
    /// Orders sent of which nothing is known.
    pub fn unanswered(&self) -> u64 {
        self.sent.saturating_sub(self.accepted.saturating_add(self.rejected).saturating_add(self.lost))
    }
}

/// What the exchange says of our orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has the order.
    Accepted {
        /// The order.
        number: u32,
    },
    /// It does not take the order.
    Rejected {
        /// The order.
        number: u32,
    },
    /// Shares of the order are executed.
    Executed {
        /// The order.
        number: u32,
        /// How many.
        shares: u32,
    },
    /// Shares of the order are taken out without an execution.
    Cancelled {
        /// The order.
        number: u32,
        /// How many.
        shares: u32,
    },
    /// After a cut: it has said everything that it had to say, and would take number `next` now.
    Settled {
        /// The number.
        next: u32,
    },
}

impl Answer {
    /// What a message says of an order, if anything that changes it.
    pub fn of(message: &Outbound<'_>) -> Option<Self> {
        Some(match message {
            Outbound::OrderAccepted(m, _) => Self::Accepted { number: m.user_ref_num.get() },
            Outbound::Rejected(m, _) => Self::Rejected { number: m.user_ref_num.get() },
            Outbound::OrderExecuted(m, _) => Self::Executed { number: m.user_ref_num.get(), shares: m.quantity.get() },
            Outbound::OrderCanceled(m, _) => Self::Cancelled { number: m.user_ref_num.get(), shares: m.quantity.get() },
            Outbound::AiqCanceled(m, _) => {
                Self::Cancelled { number: m.user_ref_num.get(), shares: m.decrement_shares.get() }
            }
            Outbound::BrokenTrade(m, _) => {
                let (trade, order) = (m.match_number, m.user_ref_num);
                log::warn!("trade {trade} of order {order} is broken; the position is to be checked");
                return None;
            }
            _ => return None,
        })
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
    price: u32,
    shares: u32,
    /// Whether it may rest in the book.
    rests: bool,
    /// Whether the exchange has accepted it.
    is_accepted: bool,
}

impl Open {
    /// Whether this order, resting in the book, and one of the other side at `price` would meet.
    fn meets(&self, intent: &Intent) -> bool {
        let is_other_side = self.is_sell == (intent.side == Direction::Buy);
        let is_in_reach = if self.is_sell { self.price <= intent.price } else { self.price >= intent.price };
        self.number != 0 && self.rests && self.stock == intent.stock && is_other_side && is_in_reach
    }
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
            let &Intent { stock, price, shares, rests, .. } = intent;
            *slot = Open { number, stock, is_sell, price, shares, rests, is_accepted: false };
        }
        if let Some(exposure) = self.exposure.get_mut(usize::from(intent.stock)) {
            let (open, resting) = exposure.side_mut(is_sell);
            *open = open.wrapping_add(u64::from(intent.shares));
            *resting = resting.wrapping_add(u32::from(intent.rests));
        }
        self.last_number = number;
        self.open_count = self.open_count.wrapping_add(1);
        self.tally.sent = self.tally.sent.wrapping_add(1);
    }

    /// Takes what the exchange says.
    pub fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Accepted { number } => self.accepted(number),
            Answer::Rejected { number } => self.rejected(number),
            Answer::Executed { number, shares } => self.executed(number, shares),
            Answer::Cancelled { number, shares } => self.cancelled(number, shares),
            Answer::Settled { next } => {
                let before = self.tally.lost;
                self.settle(next);
                let lost = self.tally.lost.saturating_sub(before);
                log::info!("order session: settled, {lost} orders lost, the next number is {next}");
            }
        }
    }

    /// The order did not leave after all, for `reason`. One that is not open any more counts already.
    pub fn unsent(&mut self, number: u32, reason: Refusal) {
        if self.take_open(number, u32::MAX, false).is_some() {
            self.tally.sent -= 1;
            self.tally.refused.count(reason);
        }
    }

    /// The exchange accepted the order.
    pub fn accepted(&mut self, number: u32) {
        match self.find(number).filter(|open| !open.is_accepted) {
            Some(open) => {
                open.is_accepted = true;
                self.tally.accepted += 1;
            }
            None => self.tally.strays += 1,
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

    /// Uses a number up for a request that is no order.
    pub fn take_number(&mut self) -> Option<u32> {
        let number = self.last_number.checked_add(1)?;
        self.last_number = number;
        Some(number)
    }

    /// The exchange has said everything it had to say, and would take number `next` now: orders with that number and higher ones that it has said nothing
    /// about are lost.
    pub fn settle(&mut self, next: u32) {
        for at in 0..SLOTS {
            let Some(&Open { number, is_accepted, .. }) = self.open.get(at) else { break };
            if number >= next.max(1) && !is_accepted {
                self.take_open(number, u32::MAX, false);
                self.tally.lost += 1;
            }
        }
        // Numbers below are used up, whoever used them.
        self.last_number = self.last_number.max(next.saturating_sub(1));
    }

    /// Whether an order would meet one of our own that may rest in the book.
    #[inline]
    pub fn meets_own(&self, intent: &Intent) -> bool {
        let exposure = self.exposure(intent.stock);
        let others = if intent.side == Direction::Buy { exposure.resting_sells } else { exposure.resting_buys };
        others > 0 && self.open.iter().any(|open| open.meets(intent))
    }

    /// The shares of an open order, and its side.
    pub fn open(&self, number: u32) -> Option<(Direction, u32)> {
        let slot = self.open.get(number as usize % SLOTS).filter(|slot| number != 0 && slot.number == number)?;
        Some((if slot.is_sell { Direction::Sell } else { Direction::Buy }, slot.shares))
    }

    fn find(&mut self, number: u32) -> Option<&mut Open> {
        self.open.get_mut(number as usize % SLOTS).filter(|slot| number != 0 && slot.number == number)
    }

    /// Takes up to `shares` out of an open order; frees its slot when none are left. Returns how many were taken.
    fn take_open(&mut self, number: u32, shares: u32, executed: bool) -> Option<u32> {
        let slot = self.find(number)?;
        let taken = shares.min(slot.shares);
        slot.shares -= taken;
        let Open { stock, is_sell, rests, .. } = *slot;
        let is_over = slot.shares == 0;
        if is_over {
            *slot = Open::default();
            self.open_count = self.open_count.saturating_sub(1);
        }
        let exposure = self.exposure.get_mut(usize::from(stock))?;
        let (open, resting) = exposure.side_mut(is_sell);
        *open = open.saturating_sub(u64::from(taken));
        *resting = resting.saturating_sub(u32::from(is_over && rests));
        if executed {
            let signed = if is_sell { -i64::from(taken) } else { i64::from(taken) };
            exposure.position = exposure.position.wrapping_add(signed);
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(orders: &mut Orders, side: Direction, shares: u32) -> u32 {
        let number = orders.next_number().unwrap();
        orders.sent(number, &Intent { side, stock: 5, price: 100, shares, rests: true });
        number
    }

    #[test]
    fn order_sent_is_open_until_executed_and_cancelled() {
        let mut orders = Orders::default();
        let number = sent(&mut orders, Direction::Buy, 100);
        assert_eq!(orders.exposure(5), Exposure { open_buy: 100, resting_buys: 1, ..Exposure::default() });
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

    #[test]
    fn settling_loses_what_the_exchange_never_saw_and_keeps_the_rest() {
        let mut orders = Orders::default();
        let numbers = [100, 200, 300, 400].map(|shares| sent(&mut orders, Direction::Buy, shares));
        orders.accepted(numbers[0]);
        orders.rejected(numbers[1]);
        orders.settle(numbers[2]);
        assert_eq!((orders.tally.lost, orders.tally.unanswered(), orders.open_count()), (2, 0, 1));
        assert_eq!(orders.exposure(5), Exposure { open_buy: 100, resting_buys: 1, ..Exposure::default() });
        // What is lost stays lost, and its numbers are not used again.
        orders.accepted(numbers[3]);
        assert_eq!((orders.tally.strays, orders.next_number()), (1, Some(numbers[3] + 1)));
        orders.settle(100);
        assert_eq!(orders.next_number(), Some(100));
    }

    #[test]
    fn own_order_is_met_at_its_price_and_only_while_it_rests() {
        let mut orders = Orders::default();
        let number = sent(&mut orders, Direction::Sell, 10);
        let buy = |price| Intent { side: Direction::Buy, stock: 5, price, shares: 1, rests: false };
        assert_eq!([99, 100, 101].map(|price| orders.meets_own(&buy(price))), [false, true, true]);
        assert!(
            !orders.meets_own(&Intent { stock: 6, ..buy(100) })
                && !orders.meets_own(&Intent { side: Direction::Sell, ..buy(100) })
        );
        orders.executed(number, 10);
        assert!(!orders.meets_own(&buy(100)));
    }
}
