//! From a datagram to an order: the hot path of the trader, from t0 to t4.

use std::sync::Arc;

use barewire_driver::TxQueue;
use barewire_driver::clock::{Clock, Nanos};
use barewire_netstack::{Context, Datagram, TcpId};

use super::entry::Entry;
use super::kill::KillSwitch;
use super::limits::{Limits, Refusal};
use super::link::OrderLink;
use super::orders::Orders;
use super::risk::Market;
use super::strategy::{Intent, Strategy, Top};
use super::view::View;
use crate::feed::arbiter::{Sequenced, Source};
use crate::feed::book::Capacity;
use crate::feed::handler::{Handler, Update};
use crate::market::compare::Points;
use crate::market::schedule::Phases;
use crate::market::{PhaseSpans, Spans};
use crate::order::session::Session;

/// The stations of a tick between t0 and the doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// t1: the message is in sequence.
    Sequenced,
    /// t2: the book has it.
    Applied,
    /// t3: an order is decided, within limits, and written.
    Encoded,
    /// t4: its segment is in the ring; the doorbell follows.
    Committed,
}

/// Watches ticks pass. The trader of a market watches nothing, by `()`, which costs nothing.
pub trait Probe {
    /// A tick has come to `stage`.
    fn mark(&mut self, stage: Stage);
}

impl Probe for () {
    #[inline(always)]
    fn mark(&mut self, _: Stage) {}
}

/// The trader: feed to order.
pub struct Trader<P = ()> {
    feed: Handler,
    desk: Desk<P>,
}

/// Everything behind the sequence check.
struct Desk<P> {
    probe: P,
    clock: Clock,
    view: View,
    strategy: Strategy,
    entry: Entry,
    /// When something was last heard of the feed.
    heard: Nanos,
    /// Whether messages behind the last one applied are known to be missing.
    is_stale: bool,
    moved: Option<u16>,
    phases: Phases,
    tick_to_trade: PhaseSpans,
    ring_wait: Spans,
}

impl Trader {
    /// A trader with empty books. `points` says where books are compared.
    pub fn new(clock: Clock, capacity: Capacity, points: Arc<Points>) -> Self {
        Self::watched(clock, capacity, points, ())
    }
}

impl<P: Probe> Trader<P> {
    /// As [`Trader::new`], under the eyes of `probe`.
    pub fn watched(clock: Clock, capacity: Capacity, points: Arc<Points>, probe: P) -> Self {
        let desk = Desk {
            probe,
            clock,
            view: View::new(capacity, points),
            strategy: Strategy::default(),
            entry: Entry::new(),
            heard: 0,
            is_stale: false,
            moved: None,
            phases: Phases::default(),
            tick_to_trade: PhaseSpans::default(),
            ring_wait: Spans::default(),
        };
        Self { feed: Handler::new(1), desk }
    }

    /// What the feed misses is asked of `servers` servers in turn, where otherwise it is of one.
    #[must_use]
    pub fn recovering_from(self, servers: usize) -> Self {
        Self { feed: Handler::new(servers), ..self }
    }

    /// Orders are measured by the phase of the message that led to them.
    #[must_use]
    pub fn in_phases(mut self, phases: Phases) -> Self {
        self.desk.phases = phases;
        self
    }

    /// Holds orders against `limits` from here on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.desk.entry.risk.set_limits(limits);
    }

    /// Stops when `kill` is pressed.
    #[must_use]
    pub fn stopped_by(mut self, kill: KillSwitch) -> Self {
        self.desk.entry.risk.set_kill_switch(kill);
        self
    }

    /// Takes an exchange that is silent for `patience` for dead.
    #[must_use]
    pub fn with_patience(mut self, patience: Nanos) -> Self {
        self.desk.entry.link = OrderLink::new(patience);
        self
    }

    /// Takes a datagram of one of the feed's lines. `t0` is the stamp of the poll that saw it; orders leave through `cx` before this returns.
    #[inline]
    pub fn on_datagram<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, source: Source, datagram: &Datagram<'_>) {
        self.on_packet(cx, t0, source, datagram.payload);
        if let Some(arrived) = datagram.meta.timestamp() {
            self.desk.ring_wait.record(t0.saturating_sub(arrived.ns));
        }
    }

    /// Takes a packet of one of the feed's lines that came by another way, or with which a re-request server answered.
    #[inline]
    pub fn on_packet<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, source: Source, packet: &[u8]) {
        let Self { feed, desk } = self;
        desk.heard = t0;
        desk.view.look_ahead(packet);
        feed.receive(t0, source, packet, |message| desk.message(cx, t0, message));
    }

    /// Takes bytes of the snapshot server's stream, and with the last of them what was held back meanwhile.
    pub fn on_snapshot<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, bytes: &[u8]) {
        let Self { feed, desk } = self;
        feed.snapshot(t0, bytes, |update| desk.update(cx, t0, update));
    }

    /// Since when the books are not up to date.
    #[inline]
    pub fn stale_since(&self) -> Option<Nanos> {
        self.feed.stale_since()
    }

    /// Whether a connection to the exchange is to be opened: [`Trader::connecting`] says that it is, [`Trader::disconnected`] that it cannot be.
    pub fn connect_due(&mut self, now: Nanos) -> bool {
        self.desk.entry.link.connect_due(now)
    }

    /// A connection to the exchange is being opened.
    pub fn connecting(&mut self, id: TcpId) {
        self.desk.entry.link.connecting(id);
    }

    /// No connection can be opened.
    pub fn disconnected(&mut self, now: Nanos) {
        self.desk.entry.link.disconnected(now);
    }

    /// Something has happened on the connection to the exchange.
    pub fn on_stream<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        self.desk.entry.on_stream(cx, id);
    }

    /// Takes what is lent of the connection to the exchange.
    #[inline]
    pub fn on_data<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId, data: &[u8]) {
        self.desk.entry.on_data(cx, id, data);
    }

    /// Writes the orders that the next tick may want, and parks them on the session; logs refusals. For when there is nothing else to do. Only the
    /// express lane can park.
    pub fn prepare<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        self.desk.prepare(cx);
    }

    /// What is due on the order session: heartbeats, what follows a reconnect, what follows a press of the kill switch.
    pub fn on_time<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        self.desk.entry.pump(cx);
    }

    /// When [`Trader::on_time`] has something to do, or a connection is to be opened.
    #[inline]
    pub fn deadline(&self) -> Option<Nanos> {
        self.desk.entry.deadline()
    }

    /// An order from elsewhere than the strategy: it is held against the same limits. Returns its number.
    ///
    /// # Errors
    /// What it breaks.
    pub fn submit<T: TxQueue>(&mut self, cx: &mut Context<T>, intent: &Intent) -> Result<u32, Refusal> {
        self.desk.is_stale = self.feed.stale_since().is_some();
        let now = cx.now();
        let top = self.desk.view.top(intent.stock);
        self.desk.order(cx, now, intent, top).map(|(number, _)| number)
    }

    /// Asks the exchange to end an order of ours.
    ///
    /// # Errors
    /// When the session cannot carry the request.
    pub fn cancel<T: TxQueue>(&mut self, cx: &mut Context<T>, number: u32) -> Result<(), Refusal> {
        self.desk.entry.link.cancel(cx, number)
    }

    /// Logs out and closes the connection.
    pub fn log_out<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        self.desk.entry.link.log_out(cx);
    }

    /// The order session.
    pub fn session(&self) -> &Session {
        self.desk.entry.link.session()
    }

    /// The watcher.
    pub fn probe(&mut self) -> &mut P {
        &mut self.desk.probe
    }

    /// The feed.
    #[inline]
    pub fn feed(&self) -> &Handler {
        &self.feed
    }

    /// The same, for whoever moves its bytes.
    #[inline]
    pub fn feed_mut(&mut self) -> &mut Handler {
        &mut self.feed
    }

    /// The orders and their outcomes.
    pub fn orders(&self) -> &Orders {
        &self.desk.entry.risk.orders
    }

    /// ITCH messages applied.
    pub fn ticks(&self) -> u64 {
        self.desk.view.ticks()
    }

    /// The books.
    pub fn view(&self) -> &View {
        &self.desk.view
    }

    /// The line to the exchange.
    pub fn link(&self) -> &OrderLink {
        &self.desk.entry.link
    }

    /// Tick to order, t4 - t0; one for every order sent.
    pub fn tick_to_trade(&self) -> &PhaseSpans {
        &self.desk.tick_to_trade
    }

    /// From the device's write of a frame to t0; one for every datagram.
    pub fn ring_wait(&self) -> &Spans {
        &self.desk.ring_wait
    }
}

impl<P: Probe> Desk<P> {
    #[inline]
    fn message<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, sequenced: Sequenced<'_>) {
        self.probe.mark(Stage::Sequenced);
        self.is_stale = sequenced.is_late;
        let Some(changed) = self.view.tick(sequenced.bytes) else { return };
        self.probe.mark(Stage::Applied);
        self.moved = changed.or(self.moved);
        // Nobody is asked about a book that is known to be out of date.
        if let Some((intent, top)) = self.decide(changed.filter(|_| !sequenced.is_late)) {
            // A refusal is counted, and costs nothing but the order.
            if let Ok((_, t4)) = self.order(cx, t0, &intent, top) {
                // Messages are numbered from one, and planned from zero.
                let phase = self.phases.of(sequenced.number.wrapping_sub(1));
                self.tick_to_trade.record(phase, t4.saturating_sub(t0));
            }
        }
        self.view.reached(sequenced.number);
    }

    #[cold]
    fn update<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, update: Update<'_>) {
        match update {
            Update::Message(message) => self.message(cx, t0, message),
            Update::Reset => self.view.reset(),
            Update::Snapshot(bytes) => _ = self.view.apply(bytes),
            Update::Complete(next) => self.view.resume(next),
        }
    }

    #[inline]
    fn decide(&mut self, changed: Option<u16>) -> Option<(Intent, Top)> {
        let awake = self.strategy.is_awake();
        let stock = changed.filter(|_| awake)?;
        let top = self.view.top(stock);
        Some((self.strategy.decide(stock, &top)?, top))
    }

    /// Releases an order in a stock whose best prices are `top`, if nothing stands in its way. Returns its number and t4.
    #[inline]
    fn order<T: TxQueue>(
        &mut self,
        cx: &mut Context<T>,
        now: Nanos,
        intent: &Intent,
        top: Top,
    ) -> Result<(u32, Nanos), Refusal> {
        let stock = self.view.stock(intent.stock);
        let market = Market { now, top, heard: self.heard, is_stale: self.is_stale, is_halted: stock.is_halted };
        self.entry.order(cx, intent, stock.symbol, &market, &self.clock, &mut self.probe)
    }

    #[cold]
    fn prepare<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        self.entry.log_refusals();
        let Some(stock) = self.moved else { return };
        self.entry.prepare(cx, Strategy::candidates(stock, &self.view.top(stock)), self.view.stock(stock).symbol);
    }
}
