//! The trader's own view of its orders: what is open, what it is exposed to, and the count of every outcome.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

pub use super::earlier::AcceptedOrder;
use super::earlier::Earlier;
use super::limits::{Exposure, Refusal, Refusals};
use super::strategy::{Direction, Intent};
use crate::fields::Alpha;
use crate::order::ouch::Outbound;

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
    /// Orders that the exchange accepted from an earlier life of the trader.
    pub earlier: u64,
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
    Accepted(AcceptedOrder),
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
            Outbound::OrderAccepted(m, _) => Self::Accepted(AcceptedOrder::of(m)),
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
    earlier: Earlier,
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
            earlier: Earlier::default(),
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
            Answer::Accepted(order) if self.is_earlier(order.number) => self.inherit(order),
            // It never was in the market.
            Answer::Rejected { number } if self.is_earlier(number) => {}
            Answer::Accepted(order) => self.accepted(order.number),
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

    /// Whether `number` was neither used here nor settled, so that an answer to it is one to an order of an earlier life.
    fn is_earlier(&self, number: u32) -> bool {
        number > self.last_number
    }

    /// The exchange accepted an order of an earlier life. It is open like any other, in a stock that [`Orders::place`] will tell.
    fn inherit(&mut self, order: AcceptedOrder) {
        self.tally.earlier += 1;
        if order.shares > 0 {
            self.earlier.add(order);
            self.open_count = self.open_count.wrapping_add(1);
        }
    }

    /// Whether something of an earlier life waits for its stock.
    #[inline]
    pub fn is_unplaced(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// The feed calls the stock with `symbol` by `stock`, which takes over what an earlier life left in it.
    #[cold]
    pub fn place(&mut self, symbol: Alpha<8>, stock: u16) {
        let Self { open, exposure, open_count, earlier, tally, .. } = self;
        let Some(exposure) = exposure.get_mut(usize::from(stock)) else { return };
        let position = earlier.give(symbol, |order| {
            let AcceptedOrder { number, is_sell, price, shares, rests, .. } = order;
            let Some(slot) = open.get_mut(number as usize % SLOTS).filter(|slot| slot.number == 0) else {
                log::warn!("order {number} of an earlier life finds no place; the position is to be checked");
                (*open_count, tally.strays) = (open_count.saturating_sub(1), tally.strays.saturating_add(1));
                return;
            };
            *slot = Open { number, stock, is_sell, price, shares, rests, is_accepted: true };
            let (open, resting) = exposure.side_mut(is_sell);
            (*open, *resting) = (open.wrapping_add(shares.into()), resting.wrapping_add(rests.into()));
        });
        exposure.position = exposure.position.wrapping_add(position);
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

    /// The exchange has said everything it had to say, and would take number `next` now: orders with that number and higher ones that it has said
    /// nothing about are lost.
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
        let Some(slot) = self.find(number) else {
            let (taken, is_over) = self.earlier.take(number, shares, executed)?;
            self.open_count = self.open_count.saturating_sub(is_over.into());
            return Some(taken);
        };
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::order::ouch::OrderAccepted;

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

    /// What the exchange says of a purchase of 100 in an earlier life.
    fn accepted_earlier(number: u32, symbol: &str, time_in_force: &str) -> OrderAccepted {
        OrderAccepted {
            message_type: Alpha::new("A"),
            timestamp: 0.into(),
            user_ref_num: number.into(),
            side: Alpha::new("B"),
            quantity: 100.into(),
            symbol: Alpha::new(symbol),
            price: 100.into(),
            time_in_force: Alpha::new(time_in_force),
            display: Alpha::new("Y"),
            order_reference_number: 0.into(),
            capacity: Alpha::new("P"),
            inter_market_sweep_eligibility: Alpha::new("N"),
            cross_type: Alpha::new("N"),
            order_state: Alpha::new("L"),
            cl_ord_id: Alpha::new(""),
        }
    }

    #[test]
    fn orders_of_an_earlier_life_are_open_and_held_once_their_stock_is_known() {
        let mut orders = Orders::default();
        let earlier = [(1, "WIRE", "0"), (2, "BARE", "0"), (3, "WIRE", "3")];
        for accepted in earlier.map(|(number, symbol, tif)| accepted_earlier(number, symbol, tif)) {
            orders.answer(Answer::Accepted(AcceptedOrder::of(&accepted)));
        }
        orders.executed(1, 30);
        orders.executed(2, 100);
        orders.executed(3, 60);
        orders.cancelled(3, 40);
        orders.settle(5);
        assert_eq!((orders.open_count(), orders.next_number(), orders.exposure(5)), (1, Some(5), Exposure::default()));
        orders.place(Alpha::new("WIRE"), 5);
        let exposure = Exposure { position: 90, open_buy: 70, resting_buys: 1, ..Exposure::default() };
        assert_eq!(
            (orders.exposure(5), orders.open(1), orders.is_unplaced()),
            (exposure, Some((Direction::Buy, 70)), true)
        );
        assert!(orders.meets_own(&Intent { side: Direction::Sell, stock: 5, price: 100, shares: 1, rests: false }));
        orders.cancelled(1, 70);
        orders.place(Alpha::new("BARE"), 6);
        assert_eq!((orders.exposure(5).position, orders.exposure(6).position, orders.open_count()), (90, 100, 0));
        assert_eq!(
            (orders.is_unplaced(), orders.tally.strays, orders.tally.earlier, orders.tally.unanswered()),
            (false, 0, 3, 0)
        );
        // What was not settled then cannot be of an earlier life now.
        orders.answer(Answer::Accepted(AcceptedOrder::of(&accepted_earlier(4, "WIRE", "0"))));
        assert_eq!(orders.tally.strays, 1);
    }

    /// What an exchange may say, to which order, about how many shares.
    type Said = (u8, u32, u32);

    fn said() -> impl Strategy<Value = Said> {
        let number = prop_oneof![8 => 0u32..12, 1 => any::<u32>(), 1 => (0u32..12).prop_map(|low| low + SLOTS as u32)];
        (0u8..6, number, prop_oneof![0u32..60, Just(u32::MAX)])
    }

    proptest! {
        /// Answers that repeat, jump, come too early, too late or twice, for more shares than there are: what is open and held is what a list says.
        #[test]
        fn answers_of_all_kinds_leave_orders_and_exposure_in_agreement(answers in prop::collection::vec(said(), 0..200)) {
            let (mut orders, mut position, mut strays) = (Orders::default(), 0i64, 0);
            // By number: whether it sells, what is open, whether it is accepted.
            let mut list = BTreeMap::<u32, (bool, u32, bool)>::new();
            for (what, number, shares) in answers {
                let known = list.get_mut(&number);
                match what {
                    0 | 1 => {
                        let side = if what == 0 { Direction::Buy } else { Direction::Sell };
                        if list.len() < 12 {
                            let number = sent(&mut orders, side, 50);
                            list.insert(number, (what == 1, 50, false));
                        }
                        continue;
                    }
                    2 => {
                        orders.accepted(number);
                        strays += u64::from(known.as_ref().is_none_or(|order| order.2));
                        known.into_iter().for_each(|order| order.2 = true);
                    }
                    3 => {
                        orders.rejected(number);
                        strays += u64::from(list.remove(&number).is_none());
                    }
                    _ => {
                        strays += u64::from(known.is_none());
                        if let Some((is_sell, open, _)) = known {
                            let taken = shares.min(*open);
                            *open -= taken;
                            if what == 4 {
                                position += if *is_sell { -i64::from(taken) } else { i64::from(taken) };
                            }
                        }
                        if what == 4 { orders.executed(number, shares) } else { orders.cancelled(number, shares) }
                        list.retain(|_, order| order.1 > 0);
                    }
                }
                let on = |sells: bool| list.values().filter(move |order| order.0 == sells);
                let open = |sells: bool| on(sells).map(|order| u64::from(order.1)).sum::<u64>();
                let exposure = Exposure {
                    position,
                    open_buy: open(false),
                    open_sell: open(true),
                    resting_buys: on(false).count() as u32,
                    resting_sells: on(true).count() as u32,
                };
                prop_assert_eq!(orders.exposure(5), exposure);
                prop_assert_eq!((orders.open_count() as usize, orders.tally.strays), (list.len(), strays));
            }
        }
    }
}
