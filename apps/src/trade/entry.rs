//! Order entry: limits at the moment of release, and the line that orders leave by.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use barewire_driver::TxQueue;
use barewire_driver::clock::{Clock, Nanos};
use barewire_netstack::{Context, TcpId};

use super::limits::Refusal;
use super::link::OrderLink;
use super::risk::{Market, Risk};
use super::strategy::Intent;
use super::trader::Probe;
use crate::fields::Alpha;
use crate::order::soupbin;

/// Refusals that wait to be logged; more of them at once are only counted.
const LOGGED: usize = 32;

/// The trader's desk for orders.
pub(super) struct Entry {
    pub(super) risk: Risk,
    pub(super) link: OrderLink,
    refused: ArrayVec<(Intent, Refusal), LOGGED>,
}

impl Entry {
    pub(super) fn new() -> Self {
        Self { risk: Risk::default(), link: OrderLink::new(soupbin::TIMEOUT), refused: ArrayVec::new() }
    }

    /// An order is wanted: it leaves, or is refused; both are counted. Returns its number and t4.
    #[inline]
    pub(super) fn order<T: TxQueue, P: Probe>(
        &mut self,
        cx: &mut Context<T>,
        intent: &Intent,
        symbol: Alpha<8>,
        market: &Market,
        clock: &Clock,
        probe: &mut P,
    ) -> Result<(u32, Nanos), Refusal> {
        let tally = &mut self.risk.orders.tally;
        tally.decided = tally.decided.wrapping_add(1);
        let released = self.release(cx, intent, symbol, market, clock, probe);
        if let Err(reason) = released {
            self.risk.orders.tally.refused.count(reason);
            // Without a place it is only counted.
            let _ = self.refused.try_push((*intent, reason));
        }
        released
    }

    /// Limits, encode, send. Whatever stands in the way is a refusal, and nothing has left.
    #[inline]
    fn release<T: TxQueue, P: Probe>(
        &mut self,
        cx: &mut Context<T>,
        intent: &Intent,
        symbol: Alpha<8>,
        market: &Market,
        clock: &Clock,
        probe: &mut P,
    ) -> Result<(u32, Nanos), Refusal> {
        let number = self.risk.admit(intent, market)?;
        let sent = self.link.send(cx, number, intent, symbol, clock, probe)?;
        self.risk.released(market.now, number, intent);
        let tally = &mut self.risk.orders.tally;
        tally.prepared = tally.prepared.wrapping_add(u64::from(sent.is_prepared));
        Ok((number, sent.at))
    }

    /// Writes the orders in `wanted` and parks them on the session.
    #[cold]
    pub(super) fn prepare<T: TxQueue>(&mut self, cx: &mut Context<T>, wanted: [Intent; 2], symbol: Alpha<8>) {
        if let Some(number) = self.risk.orders.next_number().filter(|_| !self.risk.is_killed()) {
            self.link.prepare(cx, number, wanted, symbol);
        }
    }

    /// Something has happened on the connection.
    pub(super) fn on_stream<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        let Self { risk, link, .. } = self;
        link.on_stream(cx, id, |answer| risk.orders.answer(answer));
        self.pump(cx);
    }

    /// Takes what is lent of the connection.
    #[inline]
    pub(super) fn on_data<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId, data: &[u8]) {
        let Self { risk, link, .. } = self;
        link.on_data(cx, id, data, |answer| risk.orders.answer(answer));
        self.pump(cx);
    }

    /// Sends what the session has to send, and what follows a press of the kill switch.
    pub(super) fn pump<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        if self.deadline().is_none_or(|deadline| deadline > cx.now()) {
            return;
        }
        if self.risk.is_kill_due() {
            self.link.forget();
            if let Some(number) = self.risk.serve_kill() {
                self.link.cancel_all(cx, number);
            }
        }
        self.link.pump(cx);
    }

    /// Logs what was refused since the last time; for when there is nothing else to do.
    #[cold]
    pub(super) fn log_refusals(&mut self) {
        for (intent, reason) in self.refused.drain(..) {
            log::info!("order refused: {reason}: {intent:?}");
        }
    }

    /// When [`Entry::pump`] has something to do.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Nanos> {
        if self.risk.is_kill_due() { Some(0) } else { self.link.deadline() }
    }
}
