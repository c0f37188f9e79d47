//! The synthetic participants: what they do follows from the exchange's seed.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use rand::Rng;
use zerocopy::IntoBytes;

use super::book::{Resting, Taker, TradingState};
use super::{Exchange, Outlet, TICK, stamp};
use crate::digest::Side;
use crate::feed::itch;
use crate::fields::Alpha;

/// Orders a side that the participants keep, roughly.
const DEPTH: usize = 24;
/// One step in so many halts a stock that is traded.
const HALT_ODDS: u32 = 8192;
/// One step in so many that come upon a halted stock resumes it.
const RESUME_ODDS: u32 = 4;

impl Exchange {
    /// One thing that one participant does, or the next cross of the day: one message, or several where an order meets several others. With `single`,
    /// one message.
    pub fn step(&mut self, now: Nanos, single: bool, out: &mut impl Outlet) {
        if self.cross_next(now, out) {
            return;
        }
        let locate = self.random.random_range(1..=self.stocks.len() as u16);
        let locate = match self.awake(now, locate, single, out) {
            Some(locate) => locate,
            None => return,
        };
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
            72..80 => self.halve(now, reference, out),
            80..88 => self.replace(now, reference, out),
            88..90 => self.print(now, locate, out),
            90..100 if !single => {
                let shares = self.random.random_range(1..=6) * 50;
                let price = if side == Side::Buy { u32::MAX } else { 0 };
                let taker = Taker { reference: self.new_reference(), side, price, shares, owner: None };
                self.take(now, locate, &taker, out);
            }
            _ => self.delete(now, reference, out),
        }
    }

    /// The stock itself, where it is traded, or the next one that is. Now and then it is halted instead, or resumed, and that was the step.
    fn awake(&mut self, now: Nanos, locate: u16, single: bool, out: &mut impl Outlet) -> Option<u16> {
        let roll = self.random.random_range(0..HALT_ODDS);
        let is_halted = self.stock(locate)?.state == TradingState::Halted;
        if is_halted && roll < HALT_ODDS / RESUME_ODDS && !single {
            self.resume(now, locate, out);
            return None;
        }
        if !is_halted && roll == 0 && !single {
            self.halt(now, locate, out);
            return None;
        }
        let count = self.stocks.len() as u16;
        let next = (0..count).map(|step| (locate - 1 + step) % count + 1);
        let traded = next
            .into_iter()
            .find(|locate| self.stock(*locate).is_some_and(|stock| stock.state == TradingState::Trading));
        if traded.is_none() {
            self.resume_without_cross(now, locate, out);
        }
        traded
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
        let order = Taker { reference: self.new_reference(), side, price, shares, owner: None };
        self.rest(now, locate, order, out);
    }

    /// Half of an order goes.
    fn halve(&mut self, now: Nanos, reference: u64, out: &mut impl Outlet) {
        let Some(order) = self.order_mut(reference) else { return };
        let goes = if order.shares < 2 { order.shares } else { order.shares / 2 };
        self.reduce(now, reference, goes, out);
    }

    fn replace(&mut self, now: Nanos, reference: u64, out: &mut impl Outlet) {
        let Some(&place) = self.index.get(&reference) else { return };
        let Some(&mut Resting { shares, .. }) = self.order_mut(reference) else { return };
        let price = self.passive_price(place.locate, place.side);
        let new = Taker { reference: self.new_reference(), side: place.side, price, shares, owner: None };
        self.exchange(now, reference, &new, out);
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
}
