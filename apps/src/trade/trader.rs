//! From a datagram to an order: the hot path of the trader, from t0 to t4.

use std::sync::Arc;

use barewire_driver::TxQueue;
use barewire_driver::clock::{Clock, Nanos};
use barewire_netstack::{Context, Datagram, TcpId};
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::U16;

use super::limits::{Limits, Refusal};
use super::orders::Orders;
use super::strategy::{Direction, Intent, Level, Strategy, Top};
use crate::digest::{Digest, Side};
use crate::feed::book::{Best, Books, Capacity};
use crate::feed::itch::Message;
use crate::feed::moldudp64;
use crate::fields::{Alpha, record};
use crate::market::Spans;
use crate::market::compare::Points;
use crate::order::ouch::{EnterOrder, Outbound};
use crate::order::soupbin::{self, Assembler, Client, ClientEvent, State};

record! {
    /// An order as it goes on the stream: SoupBinTCP header, OUCH Enter Order, no options. Prepared once, filled in for each order.
    EnterPacket {
        /// Bytes after the length.
        length: U16,
        /// Unsequenced data.
        packet_type: Alpha<1>,
        /// The order.
        order: EnterOrder,
        /// Bytes of options.
        appendage_length: U16,
    }
}

impl crate::fields::Field for EnterOrder {
    type Shown = Self;
    fn shown(&self) -> Self {
        *self
    }
}

impl EnterPacket {
    /// Everything that does not change from order to order: principal, immediate or cancel, continuous market.
    fn template() -> Self {
        let order = EnterOrder {
            message_type: Alpha::new("O"),
            user_ref_num: 0.into(),
            side: Alpha::new("B"),
            quantity: 0.into(),
            symbol: Alpha::new(""),
            price: 0.into(),
            time_in_force: Alpha::new("3"),
            display: Alpha::new("Y"),
            capacity: Alpha::new("P"),
            inter_market_sweep_eligibility: Alpha::new("N"),
            cross_type: Alpha::new("N"),
            cl_ord_id: Alpha::new("barewire"),
        };
        let length = (size_of::<Self>() - 2) as u16;
        Self { length: length.into(), packet_type: Alpha::new("U"), order, appendage_length: 0.into() }
    }

    /// Fills an order in (OUCH encode).
    #[inline]
    pub fn fill(&mut self, number: u32, intent: &Intent, symbol: Alpha<8>) {
        let order = &mut self.order;
        order.user_ref_num.set(number);
        order.side = Alpha([if intent.side == Direction::Buy { b'B' } else { b'S' }]);
        order.quantity.set(intent.shares);
        order.symbol = symbol;
        order.price.set(u64::from(intent.price));
    }
}

/// Messages of the feed that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bad {
    /// ITCH that does not parse.
    pub feed: u64,
    /// OUCH or SoupBinTCP that does not parse.
    pub orders: u64,
}

/// The trader: feed to order.
pub struct Trader {
    receiver: moldudp64::Receiver,
    desk: Desk,
}

/// Everything behind the sequence check.
struct Desk {
    clock: Clock,
    books: Books,
    symbols: Box<[Alpha<8>]>,
    strategy: Strategy,
    limits: Limits,
    orders: Orders,
    packet: EnterPacket,
    session: Option<(TcpId, Client)>,
    assembler: Assembler,
    ticks: u64,
    bad: Bad,
    tick_to_trade: Spans,
    ring_wait: Spans,
    points: Arc<Points>,
    digests: Vec<Digest>,
}

impl Trader {
    /// A trader with empty books. `points` says where books are compared.
    pub fn new(clock: Clock, capacity: Capacity, points: Arc<Points>) -> Self {
        let desk = Desk {
            clock,
            books: Books::new(capacity),
            symbols: vec![Alpha::new(""); 1 << 16].into(),
            strategy: Strategy::default(),
            limits: Limits::default(),
            orders: Orders::default(),
            packet: EnterPacket::template(),
            session: None,
            assembler: Assembler::default(),
            ticks: 0,
            bad: Bad::default(),
            tick_to_trade: Spans::default(),
            ring_wait: Spans::default(),
            points,
            digests: Vec::with_capacity(crate::market::compare::POINTS),
        };
        Self { receiver: moldudp64::Receiver::from_start(), desk }
    }

    /// Takes a datagram of the feed. `t0` is the stamp of the poll that saw it; orders leave before this returns.
    #[inline]
    pub fn on_datagram<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, datagram: &Datagram<'_>) {
        let Self { receiver, desk } = self;
        receiver.receive(datagram.payload, |sequence, bytes| desk.message(cx, t0, sequence, bytes));
        if let Some(arrived) = datagram.meta.timestamp {
            desk.ring_wait.record(t0.saturating_sub(arrived.ns));
        }
    }

    /// The connection is established: logs in.
    pub fn log_in<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        let (client, request) = Client::login(cx.now(), "TRADER", "barewire", "", 1);
        if cx.tcp_send(id, &request).is_ok() {
            self.desk.session = Some((id, client));
        }
    }

    /// Whether a login was sent.
    pub fn has_session(&self) -> bool {
        self.desk.session.is_some()
    }

    /// Takes what has arrived on the order session.
    pub fn on_stream<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        let now = cx.now();
        let Desk { session, assembler, orders, bad, .. } = &mut self.desk;
        let Some((_, client)) = session else { return };
        let read = cx.tcp_receive(id, |bytes| {
            let fed = assembler.feed(bytes, |packet| {
                if let ClientEvent::Message(_, message) = client.receive(now, packet) {
                    match Outbound::parse(message) {
                        Ok(message) => book_answer(orders, &message),
                        Err(_) => bad.orders += 1,
                    }
                }
            });
            bad.orders += u64::from(fed.is_err());
            bytes.len()
        });
        bad.orders += u64::from(read.is_err());
    }

    /// Heartbeats.
    pub fn on_time<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        if let Some((id, client)) = &mut self.desk.session
            && let Some(heartbeat) = client.poll(cx.now())
            && cx.tcp_send(*id, &heartbeat).is_err()
        {
            log::warn!("no room for a heartbeat on the order session");
        }
    }

    /// When [`Trader::on_time`] has something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        self.desk.session.as_ref().and_then(|(_, client)| client.deadline())
    }

    /// Logs out and closes the connection.
    pub fn log_out<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        if let Some((id, client)) = &mut self.desk.session {
            // The close ends the session all the same where there is no room for the logout.
            let _ = cx.tcp_send(*id, &client.logout());
            cx.tcp_close(*id);
        }
    }

    /// Whether the feed has ended.
    pub fn feed_ended(&self) -> bool {
        self.receiver.has_ended()
    }

    /// What the feed's receiver counted.
    pub fn feed(&self) -> moldudp64::Stats {
        self.receiver.stats()
    }

    /// The orders and their outcomes.
    pub fn orders(&self) -> &Orders {
        &self.desk.orders
    }

    /// ITCH messages applied.
    pub fn ticks(&self) -> u64 {
        self.desk.ticks
    }

    /// Messages that came to nothing.
    pub fn bad(&self) -> Bad {
        self.desk.bad
    }

    /// The books.
    pub fn books(&self) -> &Books {
        &self.desk.books
    }

    /// The digests taken at the points of comparison.
    pub fn digests(&self) -> &[Digest] {
        &self.desk.digests
    }

    /// Tick to order, t4 - t0; one for every order sent.
    pub fn tick_to_trade(&self) -> &Spans {
        &self.desk.tick_to_trade
    }

    /// From the device's write of a frame to t0; one for every datagram.
    pub fn ring_wait(&self) -> &Spans {
        &self.desk.ring_wait
    }
}

impl Desk {
    #[inline]
    fn message<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, sequence: u64, bytes: &[u8]) {
        let Ok(message) = Message::parse(bytes) else {
            self.bad.feed = self.bad.feed.wrapping_add(1);
            return;
        };
        self.ticks = self.ticks.wrapping_add(1);
        let changed = self.books.apply(&message);
        if let Message::StockDirectory(directory) = message
            && let Some(symbol) = self.symbols.get_mut(usize::from(directory.stock_locate.get()))
        {
            *symbol = directory.stock;
        }
        if let Some(intent) = self.decide(changed) {
            self.order(cx, t0, &intent);
        }
        if self.points.sequence(self.digests.len()).is_some_and(|point| sequence >= point) {
            self.compare();
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

    #[inline]
    fn order<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, intent: &Intent) {
        self.orders.tally.decided = self.orders.tally.decided.wrapping_add(1);
        if let Err(reason) = self.release(cx, t0, intent) {
            self.orders.tally.refused.count(reason);
        }
    }

    /// Limits, encode, send. Whatever stands in the way is a refusal, and nothing has left.
    #[inline]
    fn release<T: TxQueue>(&mut self, cx: &mut Context<T>, t0: Nanos, intent: &Intent) -> Result<(), Refusal> {
        let exposure = self.orders.exposure(intent.stock);
        self.limits.check(intent, &self.top(intent.stock), &exposure, self.orders.open_count())?;
        let Some((id, client)) = self.session.as_mut().filter(|(_, client)| client.state() == State::Active) else {
            return Err(Refusal::NoSession);
        };
        let number = self.orders.next_number().ok_or(Refusal::OpenOrders)?;
        let symbol = self.symbols.get(usize::from(intent.stock)).copied().ok_or(Refusal::NoSession)?;
        self.packet.fill(number, intent, symbol);
        cx.tcp_send(*id, self.packet.as_bytes()).map_err(|_| Refusal::BackPressure)?;
        let t4 = self.clock.now();
        cx.flush();
        client.sent(t4);
        self.tick_to_trade.record(t4.saturating_sub(t0));
        self.orders.sent(number, intent);
        Ok(())
    }

    #[cold]
    fn compare(&mut self) {
        self.digests.push(self.books.digest());
        self.points.pass();
    }
}

fn book_answer(orders: &mut Orders, message: &Outbound<'_>) {
    match message {
        Outbound::OrderAccepted(m, _) => orders.accepted(m.user_ref_num.get()),
        Outbound::Rejected(m, _) => orders.rejected(m.user_ref_num.get()),
        Outbound::OrderExecuted(m, _) => orders.executed(m.user_ref_num.get(), m.quantity.get()),
        Outbound::OrderCanceled(m, _) => orders.cancelled(m.user_ref_num.get(), m.quantity.get()),
        _ => {}
    }
}

/// The type of an unsequenced packet, which [`EnterPacket`] spells as text.
const _: () = assert!(soupbin::kind::UNSEQUENCED == b'U');
