//! From a datagram to an order: the hot path of the trader, from t0 to t4.

use std::sync::Arc;

use arrayvec::ArrayVec;
use barewire_driver::TxQueue;
use barewire_driver::clock::{Clock, Nanos};
use barewire_netstack::{Context, Datagram, TcpId};

use super::entry::Entry;
use super::kill::KillSwitch;
use super::limits::{Limits, Refusal, Situation};
use super::orders::Orders;
use super::strategy::{Intent, Level, Strategy, Top};
use crate::digest::{Digest, Side};
use crate::feed::arbiter::{Sequenced, Source};
use crate::feed::book::{Best, Books, Capacity, WINDOW};
use crate::feed::handler::{self, Handler, Update};
use crate::feed::itch::Message;
use crate::feed::moldudp64;
use crate::fields::Alpha;
use crate::market::compare::{POINTS, Points};
use crate::market::schedule::Phases;
use crate::market::{PhaseSpans, Spans};
use crate::order::session::Session;
use crate::order::soupbin::Control;

/// Messages of the feed that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bad {
    /// ITCH that does not parse.
    pub feed: u64,
    /// OUCH or SoupBinTCP that does not parse.
    pub orders: u64,
}

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

/// What the feed tells of a stock beside its book.
#[derive(Debug, Clone, Copy)]
struct Stock {
    symbol: Alpha<8>,
    is_halted: bool,
}

/// Everything behind the sequence check.
struct Desk<P> {
    probe: P,
    clock: Clock,
    capacity: Capacity,
    books: Books,
    stocks: Box<[Stock]>,
    strategy: Strategy,
    entry: Entry,
    /// When something was last heard of the feed.
    heard: Nanos,
    /// Whether messages behind the last one applied are known to be missing.
    is_stale: bool,
    moved: Option<u16>,
    ticks: u64,
    malformed: u64,
    phases: Phases,
    tick_to_trade: PhaseSpans,
    ring_wait: Spans,
    points: Arc<Points>,
    digests: ArrayVec<Option<Digest>, POINTS>,
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
            capacity,
            books: Books::new(capacity),
            stocks: vec![Stock { symbol: Alpha::new(""), is_halted: false }; 1 << 16].into(),
            strategy: Strategy::default(),
            entry: Entry::new(),
            heard: 0,
            is_stale: false,
            moved: None,
            ticks: 0,
            malformed: 0,
            phases: Phases::default(),
            tick_to_trade: PhaseSpans::default(),
            ring_wait: Spans::default(),
            points,
            digests: ArrayVec::new(),
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
        self.desk.entry.set_limits(limits);
    }

    /// Stops when `kill` is pressed.
    #[must_use]
    pub fn stopped_by(mut self, kill: KillSwitch) -> Self {
        self.desk.entry.set_kill_switch(kill);
        self
    }

    /// Takes an exchange that is silent for `patience` for dead.
    #[must_use]
    pub fn with_patience(mut self, patience: Nanos) -> Self {
        self.desk.entry.set_patience(patience);
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
        if desk.books.is_beyond_caches() {
            desk.look_ahead(packet);
        }
        feed.receive(t0, source, packet, |message| desk.message(cx, t0, message));
    }

    /// Takes bytes of the snapshot server's stream, and with the last of them what was held back meanwhile.
    pub fn on_snapshot<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, bytes: &[u8]) {
        let Self { feed, desk } = self;
        feed.snapshot(t0, bytes, |update| desk.update(cx, t0, update));
    }

    /// What the feed wants to be sent, one thing at a time; `None` when nothing is left.
    pub fn poll_feed(&mut self, now: Nanos) -> Option<handler::Action> {
        self.feed.poll(now)
    }

    /// The connection to the snapshot server is established; the login to send comes back.
    pub fn open_snapshot(&mut self, now: Nanos) -> Control {
        self.feed.connected(now)
    }

    /// Whether a login to the snapshot server was sent.
    pub fn is_snapshot_open(&self) -> bool {
        self.feed.is_connected()
    }

    /// Whether the connection to the snapshot server is still needed.
    pub fn is_snapshot_wanted(&self) -> bool {
        self.feed.is_snapshot_running()
    }

    /// A heartbeat for the snapshot server, when one is due.
    pub fn snapshot_heartbeat(&mut self, now: Nanos) -> Option<Control> {
        self.feed.on_time(now)
    }

    /// The connection to the snapshot server is gone, or was never made.
    pub fn snapshot_gone(&mut self, now: Nanos) {
        self.feed.disconnected(now);
    }

    /// Since when the books are not up to date.
    #[inline]
    pub fn stale_since(&self) -> Option<Nanos> {
        self.feed.stale_since()
    }

    /// Whether a connection to the exchange is to be opened: [`Trader::connecting`] says that it is, [`Trader::disconnected`] that it cannot be.
    pub fn connect_due(&mut self, now: Nanos) -> bool {
        self.desk.entry.connect_due(now)
    }

    /// A connection to the exchange is being opened.
    pub fn connecting(&mut self, id: TcpId) {
        self.desk.entry.connecting(id);
    }

    /// No connection can be opened.
    pub fn disconnected(&mut self, now: Nanos) {
        self.desk.entry.disconnected(now);
    }

    /// Something has happened on the connection to the exchange.
    pub fn on_stream<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        let was_ready = self.desk.entry.session().is_ready();
        self.desk.entry.on_stream(cx, id);
        if !was_ready {
            self.desk.place_earlier();
        }
    }

    /// Takes what is lent of the connection to the exchange.
    #[inline]
    pub fn on_data<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId, data: &[u8]) {
        let was_ready = self.desk.entry.session().is_ready();
        self.desk.entry.on_data(cx, id, data);
        if !was_ready {
            self.desk.place_earlier();
        }
    }

    /// Writes the orders that the next tick may want, and parks them on the session; logs refusals. For when there is nothing else to do. Only the express
    /// lane can park.
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
        self.desk.order(cx, now, intent).map(|(number, _)| number)
    }

    /// Asks the exchange to end an order of ours.
    ///
    /// # Errors
    /// When the session cannot carry the request.
    pub fn cancel<T: TxQueue>(&mut self, cx: &mut Context<T>, number: u32) -> Result<(), Refusal> {
        self.desk.entry.cancel(cx, number)
    }

    /// Logs out and closes the connection.
    pub fn log_out<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        self.desk.entry.log_out(cx);
    }

    /// The order session.
    pub fn session(&self) -> &Session {
        self.desk.entry.session()
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

    /// The orders and their outcomes.
    pub fn orders(&self) -> &Orders {
        &self.desk.entry.orders
    }

    /// ITCH messages applied.
    pub fn ticks(&self) -> u64 {
        self.desk.ticks
    }

    /// Messages that came to nothing.
    pub fn bad(&self) -> Bad {
        Bad { feed: self.desk.malformed, orders: self.desk.entry.malformed }
    }

    /// The books.
    pub fn books(&self) -> &Books {
        &self.desk.books
    }

    /// The digests taken at the points of comparison; `None` where a snapshot passed one over.
    pub fn digests(&self) -> &[Option<Digest>] {
        &self.desk.digests
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
    /// Has the books bring to the cache what the messages of a packet will touch, if there are several.
    fn look_ahead(&self, packet: &[u8]) {
        let messages = moldudp64::messages(packet).filter_map(|bytes| Message::parse(bytes).ok());
        let messages: ArrayVec<_, WINDOW> = messages.take(WINDOW).collect();
        if messages.len() > 1 {
            self.books.prepare(messages.iter());
        }
    }

    #[inline]
    fn message<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, sequenced: Sequenced<'_>) {
        self.probe.mark(Stage::Sequenced);
        self.is_stale = sequenced.is_late;
        let Some(changed) = self.apply(sequenced.bytes) else { return };
        self.ticks = self.ticks.wrapping_add(1);
        self.probe.mark(Stage::Applied);
        self.moved = changed.or(self.moved);
        // Nobody is asked about a book that is known to be out of date.
        if let Some(intent) = self.decide(changed.filter(|_| !sequenced.is_late)) {
            // A refusal is counted, and costs nothing but the order.
            if let Ok((_, t4)) = self.order(cx, t0, &intent) {
                // Messages are numbered from one, and planned from zero.
                let phase = self.phases.of(sequenced.number.wrapping_sub(1));
                self.tick_to_trade.record(phase, t4.saturating_sub(t0));
            }
        }
        if self.points.sequence(self.digests.len()).is_some_and(|point| sequenced.number >= point) {
            self.compare();
        }
    }

    /// Applies a message; says which stock's book changed, if any. `None` when it is no message.
    #[inline]
    fn apply(&mut self, bytes: &[u8]) -> Option<Option<u16>> {
        let Ok(message) = Message::parse(bytes) else {
            self.malformed = self.malformed.wrapping_add(1);
            return None;
        };
        let changed = self.books.apply(&message);
        match message {
            Message::StockDirectory(directory) => {
                if let Some(stock) = self.stocks.get_mut(usize::from(directory.stock_locate.get())) {
                    stock.symbol = directory.stock;
                }
                if self.entry.orders.is_unplaced() {
                    self.entry.orders.place(directory.stock, directory.stock_locate.get());
                }
            }
            Message::StockTradingAction(action) => {
                if let Some(stock) = self.stocks.get_mut(usize::from(action.stock_locate.get())) {
                    // Halted or paused; quotation only.
                    stock.is_halted = matches!(&action.trading_state.0, b"H" | b"P" | b"Q");
                }
            }
            _ => {}
        }
        Some(changed)
    }

    /// The stocks that the feed has named take over what an earlier life of the trader left in them.
    #[cold]
    fn place_earlier(&mut self) {
        let Self { stocks, entry, .. } = self;
        if entry.orders.is_unplaced() {
            (0..=u16::MAX).zip(stocks).for_each(|(locate, stock)| entry.orders.place(stock.symbol, locate));
        }
    }

    #[cold]
    fn update<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, update: Update<'_>) {
        match update {
            Update::Message(message) => self.message(cx, t0, message),
            Update::Reset => self.books = Books::new(self.capacity),
            Update::Snapshot(bytes) => _ = self.apply(bytes),
            Update::Complete(next) => self.resumed(next),
        }
    }

    /// The books are as they are before message `next`: points of comparison before that were passed over.
    fn resumed(&mut self, next: u64) {
        while let Some(point) = self.points.sequence(self.digests.len()).filter(|point| *point < next) {
            if point.wrapping_add(1) == next {
                self.compare();
            } else {
                self.pass(None);
            }
        }
    }

    #[inline]
    fn decide(&mut self, changed: Option<u16>) -> Option<Intent> {
        let awake = self.strategy.is_awake();
        let stock = changed.filter(|_| awake)?;
        self.strategy.decide(stock, &self.top(stock))
    }

    #[inline]
    fn top(&self, stock: u16) -> Top {
        let level = |best: Best| Level { price: best.price, shares: best.shares };
        Top { bid: level(self.books.best(stock, Side::Buy)), ask: level(self.books.best(stock, Side::Sell)) }
    }

    /// Releases an order, if nothing stands in its way. Returns its number and t4.
    #[inline]
    fn order<T: TxQueue>(&mut self, cx: &mut Context<T>, now: Nanos, intent: &Intent) -> Result<(u32, Nanos), Refusal> {
        let top = self.top(intent.stock);
        let unknown = Stock { symbol: Alpha([b' '; 8]), is_halted: true };
        let stock = self.stocks.get(usize::from(intent.stock)).copied().unwrap_or(unknown);
        let exposure = self.entry.orders.exposure(intent.stock);
        let at = Situation {
            now,
            top: &top,
            exposure: &exposure,
            open_orders: self.entry.orders.open_count(),
            heard: self.heard,
            is_stale: self.is_stale,
            is_halted: stock.is_halted,
        };
        self.entry.order(cx, intent, stock.symbol, &at, &self.clock, &mut self.probe)
    }

    #[cold]
    fn prepare<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        self.entry.log_refusals();
        let Some(stock) = self.moved else { return };
        let Some(symbol) = self.stocks.get(usize::from(stock)).map(|stock| stock.symbol) else { return };
        self.entry.prepare(cx, Strategy::candidates(stock, &self.top(stock)), symbol);
    }

    #[cold]
    fn compare(&mut self) {
        self.pass(Some(self.books.digest()));
    }

    #[cold]
    fn pass(&mut self, digest: Option<Digest>) {
        // There are as many points as places.
        let _ = self.digests.try_push(digest);
        self.points.pass();
    }
}
