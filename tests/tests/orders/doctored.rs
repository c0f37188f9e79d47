//! The judge is judged: streams of orders of which one breaks one limit. It must say which, whatever the trader would have let pass.
#![forbid(unsafe_code)]

use barewire::digest::Side;
use barewire::exchange::{Exchange, Outlet};
use barewire::fields::Alpha;
use barewire::market::hosts::Seen;
use barewire::order::gateway::AccountId;
use barewire::order::ouch::{Appendage, EnterOrder, Inbound};
use barewire::trade::limits::Limits;
use barewire_driver::clock::Nanos;

use super::oracle::{Oracle, Violation};

const ACCOUNT: AccountId = AccountId(0);
const STOCK: u16 = 2;
/// When the stream begins.
const NOON: Nanos = 1_000_000_000;
const MILLISECOND: Nanos = 1_000_000;
/// An order of 100 shares breaks none of them.
const WIDE: Limits = Limits {
    order_shares: 1_000,
    order_notional: u64::MAX,
    collar_bps: 1_000,
    open_orders: 10,
    position_shares: 2_000,
    orders_per_second: 1_000,
    burst: 10,
    book_age: MILLISECOND,
};

/// Nobody listens.
struct Nobody;

impl Outlet for Nobody {
    fn feed(&mut self, _: &[u8]) {}
    fn client(&mut self, _: AccountId, _: &[u8]) {}
}

/// An exchange with a book, and the judge in front of it.
struct Court {
    exchange: Exchange,
    oracle: Oracle,
    now: Nanos,
    number: u32,
    bid: u32,
    offer: u32,
}

impl Court {
    fn new(limits: Limits) -> Self {
        let mut exchange = Exchange::new(5, STOCK, 1);
        exchange.start(0, &mut Nobody);
        (0..1_000).for_each(|_| exchange.step(0, true, &mut Nobody));
        let [bid, offer] = exchange.best(STOCK).map(|price| price.expect("a book with two sides"));
        let mut oracle = Oracle::new(limits, STOCK, None);
        oracle.look(NOON, &exchange);
        Self { exchange, oracle, now: NOON, number: 0, bid, offer }
    }

    fn message(&mut self, side: Side, shares: u32, price: u32, time_in_force: &str) -> Vec<u8> {
        self.number += 1;
        let order = EnterOrder {
            message_type: Alpha::new("O"),
            user_ref_num: self.number.into(),
            side: Alpha::new(if side == Side::Buy { "B" } else { "S" }),
            quantity: shares.into(),
            symbol: self.exchange.symbol(STOCK),
            price: u64::from(price).into(),
            time_in_force: Alpha::new(time_in_force),
            display: Alpha::new("Y"),
            capacity: Alpha::new("P"),
            inter_market_sweep_eligibility: Alpha::new("N"),
            cross_type: Alpha::new("N"),
            cl_ord_id: Alpha::new(""),
        };
        let mut message = Vec::new();
        Inbound::EnterOrder(&order, Appendage::default()).write(&mut message);
        message
    }

    /// An order that arrives, is judged, and is taken.
    fn order(&mut self, side: Side, shares: u32, price: u32) {
        self.enter(side, shares, price, "0");
    }

    fn enter(&mut self, side: Side, shares: u32, price: u32, time_in_force: &str) {
        let message = self.message(side, shares, price, time_in_force);
        self.oracle.judge(&Seen { now: self.now, account: ACCOUNT, message: &message, exchange: &self.exchange });
        self.exchange.client(self.now, ACCOUNT, &message, &mut Nobody);
    }

    /// An order that breaks nothing by itself: it joins the best bid.
    fn bid(&mut self) {
        self.order(Side::Buy, 100, self.bid);
    }

    fn verdict(&self) -> Vec<Violation> {
        self.oracle.violations.iter().copied().collect()
    }
}

#[test]
fn orders_within_all_limits_are_passed() {
    let mut court = Court::new(WIDE);
    court.bid();
    court.order(Side::Sell, 100, court.offer);
    court.enter(Side::Buy, 100, court.offer - 1, "3");
    assert_eq!((court.verdict(), court.oracle.orders), (vec![], 3));
}

#[test]
fn size_and_value_beyond_the_limit_are_named() {
    for shares in [0, WIDE.order_shares + 1] {
        let mut court = Court::new(WIDE);
        court.order(Side::Buy, shares, court.bid);
        assert_eq!(court.verdict(), ["shares"], "{shares}");
    }
    let bid = Court::new(WIDE).bid;
    let mut court = Court::new(Limits { order_notional: u64::from(bid) * 100, ..WIDE });
    court.bid();
    assert_eq!(court.verdict(), [""; 0]);
    court.order(Side::Buy, 101, bid);
    assert_eq!(court.verdict(), ["notional"]);
}

#[test]
fn price_outside_the_collar_is_named_on_either_side() {
    for side in [Side::Buy, Side::Sell] {
        let mut court = Court::new(WIDE);
        let price = if side == Side::Buy { court.offer * 2 } else { court.bid / 2 };
        court.order(side, 100, price);
        assert_eq!(court.verdict(), ["collar"]);
    }
}

#[test]
fn one_open_order_too_many_is_named() {
    let mut court = Court::new(Limits { open_orders: 2, ..WIDE });
    court.bid();
    court.bid();
    assert_eq!(court.verdict(), [""; 0]);
    court.bid();
    assert_eq!(court.verdict(), ["open_orders"]);
}

#[test]
fn position_that_could_grow_too_large_is_named_whether_open_or_held() {
    let limits = Limits { position_shares: 150, ..WIDE };
    let mut court = Court::new(limits);
    court.bid();
    court.bid();
    assert_eq!(court.verdict(), ["position"]);
    let mut court = Court::new(limits);
    // The offer has a round lot at least.
    court.enter(Side::Buy, 100, court.offer, "3");
    assert_eq!((court.exchange.position(ACCOUNT, STOCK), court.verdict()), (100, vec![]));
    court.order(Side::Buy, 51, court.bid);
    assert_eq!(court.verdict(), ["position"]);
}

#[test]
fn order_that_would_meet_an_own_one_is_named() {
    for [resting, meeting] in [[Side::Buy, Side::Sell], [Side::Sell, Side::Buy]] {
        let mut court = Court::new(WIDE);
        let price = if resting == Side::Buy { court.bid } else { court.offer };
        court.order(resting, 100, price);
        assert_eq!(court.verdict(), [""; 0]);
        court.order(meeting, 100, price);
        assert_eq!(court.verdict(), ["self_match"]);
    }
}

#[test]
fn order_after_a_press_of_the_kill_switch_is_named() {
    let mut court = Court::new(WIDE);
    court.oracle.killed_since = Some(court.now);
    // It was on its way.
    court.bid();
    assert_eq!(court.verdict(), [""; 0]);
    court.now += MILLISECOND;
    court.bid();
    assert_eq!(court.verdict(), ["killed"]);
}

#[test]
fn order_on_a_book_that_is_too_old_is_named() {
    let mut court = Court::new(WIDE);
    court.oracle.dead = Some(NOON..NOON + 10 * MILLISECOND);
    court.now += MILLISECOND;
    court.bid();
    assert_eq!(court.verdict(), [""; 0]);
    court.now += MILLISECOND;
    court.bid();
    assert_eq!(court.verdict(), ["stale_book"]);
}

#[test]
fn order_in_a_halted_stock_is_named() {
    let mut court = Court::new(WIDE);
    court.exchange.halt(court.now, STOCK, &mut Nobody);
    court.bid();
    assert_eq!(court.verdict(), [""; 0]);
    court.now += 2 * MILLISECOND;
    court.bid();
    assert_eq!(court.verdict(), ["halted"]);
}

#[test]
fn orders_in_too_quick_succession_are_named() {
    let mut court = Court::new(Limits { burst: 2, ..WIDE });
    court.bid();
    court.bid();
    court.now += MILLISECOND;
    court.bid();
    assert_eq!(court.verdict(), [""; 0]);
    court.bid();
    assert_eq!(court.verdict(), ["rate"]);
}
