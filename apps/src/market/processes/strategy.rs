//! The strategy's process: messages in, the books, and orders that it wants out.

use std::sync::Arc;

use barewire_netstack::ipc::Writer;
use zerocopy::{FromBytes, IntoBytes};

use super::message::{FromFeed, Order, Want, feed as kind, want};
use super::{Frame, Home, Stop, send};
use crate::market::compare::Points;
use crate::market::figures::ViewFigures;
use crate::market::hosts;
use crate::market::schedule::{Phase, Phases};
use crate::market::{Config, Error};
use crate::trade::strategy::{Direction, Intent, Strategy};
use crate::trade::view::View;

/// Messages of one turn, at most.
const BURST: u32 = 64;

struct Mind {
    view: View,
    strategy: Strategy,
    phases: Phases,
    out: Writer,
    has_started: bool,
    has_ended: bool,
    failure: Option<Error>,
}

impl Mind {
    fn take(&mut self, bytes: &[u8]) {
        let Ok((header, body)) = FromFeed::read_from_prefix(bytes) else { return };
        match header.kind {
            kind::MESSAGE => self.message(&header, body),
            kind::RESET => self.view.reset(),
            kind::SNAPSHOT => _ = self.view.apply(body),
            kind::COMPLETE => self.view.resume(header.number),
            kind::STATE if !self.has_started => {
                self.has_started = true;
                self.say(&Want { kind: want::START, ..Want::default() });
            }
            kind::END => {
                self.has_ended = true;
                self.say(&Want { kind: want::END, ..Want::default() });
            }
            _ => {}
        }
    }

    fn message(&mut self, header: &FromFeed, body: &[u8]) {
        let Some(changed) = self.view.tick(body) else { return };
        let is_awake = self.strategy.is_awake();
        if let Some(stock) = changed.filter(|_| is_awake && header.is_late == 0)
            && let Some(intent) = self.strategy.decide(stock, &self.view.top(stock))
        {
            self.want(header, &intent);
        }
        self.view.reached(header.number);
    }

    fn want(&mut self, header: &FromFeed, intent: &Intent) {
        let (top, stock) = (self.view.top(intent.stock), self.view.stock(intent.stock));
        // Messages are numbered from one, and planned from zero.
        let phase = self.phases.of(header.number.wrapping_sub(1));
        let order = Order {
            symbol: stock.symbol.0,
            price: intent.price,
            shares: intent.shares,
            stock: intent.stock,
            is_sell: (intent.side == Direction::Sell).into(),
            rests: intent.rests.into(),
            is_burst: (phase == Phase::Burst).into(),
            padding: [0; 3],
        };
        self.say(&Want {
            seen: header.seen,
            heard: header.heard,
            bid_shares: top.bid.shares,
            ask_shares: top.ask.shares,
            bid: top.bid.price,
            ask: top.ask.price,
            order,
            kind: want::ORDER,
            is_stale: header.is_stale,
            is_halted: stock.is_halted.into(),
            padding: [0; 5],
        });
    }

    fn say(&mut self, want: &Want) {
        if let Err(error) = send(&mut self.out, want.as_bytes()) {
            self.failure.get_or_insert(error);
        }
    }
}

/// Runs until the feed is over.
pub(super) fn run(mut frame: Frame, config: &Config) -> Result<Home, Error> {
    let places = &frame.plan.places;
    let points = Points::open(&places.points).map_err(|error| Error::Processes(std::io::Error::other(error)))?;
    let mut messages = Frame::reader(&places.messages)?;
    let mut mind = Mind {
        view: View::new(hosts::books(config), Arc::new(points)),
        strategy: Strategy::default(),
        phases: Phases::new(config.rate, config.burst),
        out: Frame::writer(&places.wants)?,
        has_started: false,
        has_ended: false,
        failure: None,
    };
    let mut stopped: Option<Stop> = None;
    while !mind.has_ended && stopped.is_none() {
        let taken = messages.poll(BURST, |bytes| mind.take(bytes))?;
        if let Some(error) = mind.failure.take() {
            return Err(error);
        }
        stopped = frame.turn(frame.clock.now(), taken > 0).err();
    }
    let mut home = Home { stopped, ..Home::default() };
    home.figures.view = ViewFigures::of(&mind.view);
    Ok(home)
}
