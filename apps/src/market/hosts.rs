//! The two hosts of the market, each on its own port: polled by a thread of their own, or stepped in virtual time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::ixgbe::{self, Ixgbe, Rx, Tx};
use barewire_driver::{MacAddress, Port, PortStats};
use barewire_models::Ixgbe82599;
use barewire_netstack::{Context, Event, ReceiverId, Route, Stack, StackStats, TcpId, TcpState};

use super::compare::{self, POINTS, Points};
use super::schedule::Schedule;
use super::{Config, Error, Spans};
use crate::digest::Digest;
use crate::exchange::{Exchange, LONGEST_EVENT, Outlet};
use crate::feed::book::Capacity;
use crate::feed::moldudp64::{Packet, Session};
use crate::order::soupbin::{self, Assembler, Server, ServerEvent, State, kind};
use crate::trade::trader::Trader;

/// The feed's group (RFC 2365: administratively scoped) and port.
pub const FEED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 129, 0, 1), 26_400);
/// Where the exchange takes orders.
pub const ORDERS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 26_401);
const TRADER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The exchange's and the trader's station addresses (locally administered).
pub const MACS: [MacAddress; 2] = [MacAddress([0x02, 0, 0, 0, 0, 1]), MacAddress([0x02, 0, 0, 0, 0, 2])];
const SESSION: Session = *b"BAREWIRE01";

/// Descriptors of the trader's receive ring: at the default rate they hold what a stall of 50 ms leaves, one message a frame.
const FEED_RING: u32 = 4096;
/// How long the exchange waits for the trader at a point of comparison before it goes on without it.
const COMPARE_WAIT: Nanos = 50_000_000;
/// How often the end of the session is told, and for how long before the trader gives up on hearing it.
const END_INTERVAL: Nanos = 1_000_000;
const END_WAIT: Nanos = 1_000_000_000;
/// Heartbeats of a quiet feed.
const FEED_HEARTBEAT: Nanos = 1_000_000_000;

/// What the two hosts know of each other outside the wire.
#[derive(Debug, Default)]
pub struct Shared {
    /// Where books are compared.
    pub points: Arc<Points>,
    /// When the last message was published; zero before.
    ended_at: AtomicU64,
    /// The trader has every answer.
    done: AtomicBool,
    /// One of the two has failed; the other must not wait for it.
    pub failed: AtomicBool,
}

impl Shared {
    /// Whether the run is over, well or not.
    pub fn is_over(&self) -> bool {
        self.done.load(Ordering::Acquire) || self.failed.load(Ordering::Acquire)
    }
}

fn open(
    model: Arc<Ixgbe82599>,
    ip: Ipv4Addr,
    seed: u64,
    config: ixgbe::Config,
) -> Result<(Ixgbe, Stack<Rx, Tx>), Error> {
    let bus: Arc<dyn Bus> = Arc::new(ModelBus::new(model));
    let mut port = Ixgbe::open(bus, config)?;
    let queue = port.open_queue(0)?;
    let identity =
        barewire_netstack::Config { mac: port.mac(), ip, prefix_len: 24, gateway: None, ack_delay: None, seed };
    Ok((port, Stack::new(queue, identity)))
}

/// The exchange's host.
pub struct ExchangeHost {
    port: Ixgbe,
    stack: Stack<Rx, Tx>,
    desk: ExchangeDesk,
}

struct ExchangeDesk {
    config: Config,
    shared: Arc<Shared>,
    exchange: Exchange,
    out: Outbox,
    route: Route,
    listener: TcpId,
    server: Server,
    assembler: Assembler,
    schedule: Option<Schedule>,
    /// The number of the next message.
    next_sequence: u64,
    digests: Vec<Digest>,
    /// Since when the trader is waited for.
    waiting: Option<Nanos>,
    last_packet: Nanos,
    lag: Spans,
    packets: u64,
}

/// What the exchange has said and not sent.
#[derive(Default)]
struct Outbox {
    /// Messages of the feed, each with its length before it.
    feed: Vec<u8>,
    feed_count: u64,
    client: Vec<u8>,
}

impl Outlet for Outbox {
    fn feed(&mut self, message: &[u8]) {
        self.feed.extend_from_slice(&(message.len() as u16).to_be_bytes());
        self.feed.extend_from_slice(message);
        self.feed_count += 1;
    }

    fn client(&mut self, message: &[u8]) {
        soupbin::wrap(kind::SEQUENCED, message, &mut self.client);
    }
}

impl ExchangeHost {
    /// Opens the exchange's port and listens.
    pub fn open(config: &Config, shared: Arc<Shared>, model: Arc<Ixgbe82599>) -> Result<Self, Error> {
        let (port, mut stack) = open(model, *ORDERS.ip(), config.seed, ixgbe::Config::default())?;
        let listener = stack.context(0).tcp_listen(ORDERS.port())?;
        let source = SocketAddrV4::new(*ORDERS.ip(), FEED.port());
        let desk = ExchangeDesk {
            exchange: Exchange::new(config.seed, config.stocks),
            config: config.clone(),
            shared,
            out: Outbox::default(),
            route: Route::new(port.mac(), source, FEED, 1, None),
            listener,
            server: Server::default(),
            assembler: Assembler::default(),
            schedule: None,
            next_sequence: 1,
            digests: Vec::with_capacity(POINTS),
            waiting: None,
            last_packet: 0,
            lag: Spans::default(),
            packets: 0,
        };
        Ok(Self { port, stack, desk })
    }

    /// One turn: orders in, what is due out.
    pub fn poll(&mut self, now: Nanos) -> Result<(), Error> {
        let Self { stack, desk, .. } = self;
        stack.poll(now, |cx, event| {
            if let Event::Tcp(id) = event {
                desk.on_stream(cx, id);
            }
        })?;
        let cx = stack.context(now);
        desk.answer(cx);
        desk.publish(cx, now);
        if let Some(heartbeat) = desk.server.poll(now).filter(|_| desk.schedule.is_some()) {
            // Without room the connection is busy enough not to need one.
            let _ = cx.tcp_send(desk.listener, &heartbeat);
        }
        cx.flush();
        Ok(())
    }

    /// When the next turn is needed at the latest.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let desk = &self.desk;
        let schedule = desk.schedule.map(|schedule| {
            if desk.published() < desk.config.ticks {
                schedule.due(desk.published())
            } else {
                desk.last_packet + END_INTERVAL
            }
        });
        let session = desk.server.deadline().filter(|_| desk.schedule.is_some());
        let due = [self.stack.next_deadline(now), schedule, session, desk.waiting.map(|since| since + COMPARE_WAIT)];
        due.into_iter().flatten().min()
    }

    /// Closes the port; what was counted remains.
    pub fn finish(self) -> Result<ExchangeOutcome, Error> {
        let Self { mut port, stack, desk } = self;
        let stats = stack.stats();
        port.close_queue(stack.into_queues())?;
        Ok(ExchangeOutcome {
            exchange: desk.exchange.stats(),
            digests: desk.digests,
            lag: desk.lag,
            stack: stats,
            packets: desk.packets,
        })
    }
}

/// What the exchange's host leaves.
pub struct ExchangeOutcome {
    /// The engine's counters.
    pub exchange: crate::exchange::Stats,
    /// Its book at the points of comparison.
    pub digests: Vec<Digest>,
    /// Intended to real time of sending.
    pub lag: Spans,
    /// The stack's counters.
    pub stack: StackStats,
    /// Packets of the feed.
    pub packets: u64,
}

impl ExchangeDesk {
    fn published(&self) -> u64 {
        self.next_sequence - 1
    }

    fn on_stream(&mut self, cx: &mut Context<Tx>, id: TcpId) {
        let now = cx.now();
        let Self { server, assembler, exchange, out, schedule, config, .. } = self;
        let mut replies = Vec::new();
        let read = cx.tcp_receive(id, |bytes| {
            let fed = assembler.feed(bytes, |packet| match server.receive(now, packet) {
                ServerEvent::Login { .. } => {
                    replies.extend_from_slice(&server.accept(now, "BAREWIRE01", 1));
                    if schedule.is_none() {
                        *schedule = Some(Schedule::new(now, config.rate));
                        exchange.start(now, out);
                    }
                }
                ServerEvent::Message(message) => exchange.client(now, message, out),
                ServerEvent::Logout | ServerEvent::Nothing => {}
                ServerEvent::Unexpected(kind) => {
                    log::warn!("unexpected packet of type {kind:#04x} on the order session")
                }
            });
            if let Err(error) = fed {
                log::warn!("order session: {error}");
            }
            bytes.len()
        });
        if read.is_err() || cx.tcp_state(id) == TcpState::CloseWait {
            cx.tcp_close(id);
        }
        if server.state() == State::LoggingIn
            && replies.is_empty()
            && cx.tcp_state(id) == TcpState::Established
            && schedule.is_none()
        {
            *server = Server::new(now);
        }
        self.out.client.splice(0..0, replies);
    }

    /// Sends what there is for the client, as far as there is room.
    fn answer(&mut self, cx: &mut Context<Tx>) {
        if !self.out.client.is_empty() && cx.tcp_send(self.listener, &self.out.client).is_ok() {
            self.server.sent(cx.now());
            self.out.client.clear();
        }
    }

    fn publish(&mut self, cx: &mut Context<Tx>, now: Nanos) {
        let Some(mut schedule) = self.schedule else { return };
        let ticks = self.config.ticks;
        if self.published() + self.out.feed_count >= ticks {
            self.drain(cx, now);
            return self.end(cx, now);
        }
        if let Some(since) = self.waiting {
            if self.shared.points.passed() < self.digests.len() && now < since + COMPARE_WAIT && !self.config.simulated
            {
                return self.drain(cx, now);
            }
            // The walk over the books is no tick: the open loop begins anew behind it.
            schedule.postpone(now - since);
            (self.schedule, self.waiting) = (Some(schedule), None);
        }
        // At most a datagram's worth a turn, so that orders are not kept waiting.
        const TURN: usize = 1200;
        let mut due = schedule.due(self.published() + self.out.feed_count);
        while due <= now && self.out.feed.len() < TURN && self.waiting.is_none() {
            let left = ticks - self.published() - self.out.feed_count;
            if left <= LONGEST_EVENT {
                self.exchange.close();
            }
            self.exchange.step(now, left <= LONGEST_EVENT, &mut self.out);
            self.lag.record(now - due);
            self.compare(now);
            if self.published() + self.out.feed_count >= ticks {
                break;
            }
            due = schedule.due(self.published() + self.out.feed_count);
        }
        self.drain(cx, now);
    }

    /// At a point of comparison: takes the digest, and names the point before its last message leaves.
    fn compare(&mut self, now: Nanos) {
        let said = self.published() + self.out.feed_count;
        if self.digests.len() < POINTS && said >= compare::due(self.digests.len(), self.config.ticks) {
            self.shared.points.name(self.digests.len(), said);
            self.digests.push(self.exchange.digest());
            self.waiting = Some(now);
        }
    }

    /// Sends the feed's messages, as many to a packet as fit.
    fn drain(&mut self, cx: &mut Context<Tx>, now: Nanos) {
        let mut sent = 0;
        while let Some((len, rest)) = self.out.feed.get(sent..).and_then(|rest| rest.split_first_chunk::<2>()) {
            let _ = (len, rest);
            let Ok(mut datagram) = cx.datagram(&self.route) else { break };
            let Some(mut packet) = Packet::begin(datagram.payload_mut(), SESSION, self.next_sequence) else { break };
            let mut end = sent;
            while let Some((len, rest)) = self.out.feed.get(end..).and_then(|rest| rest.split_first_chunk::<2>()) {
                let len = usize::from(u16::from_be_bytes(*len));
                let Some(message) = rest.get(..len) else { break };
                if !packet.push(message) {
                    break;
                }
                end += 2 + len;
            }
            let (count, len) = (u64::from(packet.count()), packet.finish());
            if cx.send(datagram, len as u16).is_err() {
                break;
            }
            cx.flush();
            sent = end;
            self.next_sequence += count;
            self.out.feed_count -= count;
            self.packets += 1;
            self.last_packet = now;
        }
        self.out.feed.drain(..sent);
        if now >= self.last_packet + FEED_HEARTBEAT {
            self.control(cx, now, false);
        }
    }

    /// Tells the end of the session, again and again until the trader is done.
    fn end(&mut self, cx: &mut Context<Tx>, now: Nanos) {
        if !self.out.feed.is_empty() {
            return;
        }
        let first = self.shared.ended_at.load(Ordering::Relaxed) == 0;
        if first {
            self.shared.ended_at.store(now.max(1), Ordering::Release);
        }
        if first || now >= self.last_packet + END_INTERVAL {
            self.control(cx, now, true);
        }
    }

    fn control(&mut self, cx: &mut Context<Tx>, now: Nanos, end: bool) {
        self.last_packet = now;
        let Ok(mut datagram) = cx.datagram(&self.route) else { return };
        let Some(packet) = Packet::begin(datagram.payload_mut(), SESSION, self.next_sequence) else { return };
        let len = if end { packet.end_session() } else { packet.finish() };
        if cx.send(datagram, len as u16).is_ok() {
            self.packets += 1;
        }
    }
}

/// The trader's host.
pub struct TraderHost {
    port: Ixgbe,
    stack: Stack<Rx, Tx>,
    trader: Trader,
    shared: Arc<Shared>,
    feed: ReceiverId,
    orders: TcpId,
}

impl TraderHost {
    /// Opens the trader's port, joins the feed and connects.
    pub fn open(config: &Config, clock: Clock, shared: Arc<Shared>, model: Arc<Ixgbe82599>) -> Result<Self, Error> {
        let ring = ixgbe::Config { rx_descriptors: FEED_RING, ..ixgbe::Config::default() };
        let (mut port, mut stack) = open(model, TRADER, config.seed ^ 1, ring)?;
        let cx = stack.context(clock.now());
        let feed = cx.join(*FEED.ip(), FEED.port(), None)?;
        for group in cx.group_macs() {
            port.join_multicast(group)?;
        }
        let orders = cx.tcp_connect(ORDERS)?;
        let trader = Trader::new(clock, Capacity::default(), Arc::clone(&shared.points));
        Ok(Self { port, stack, trader, shared, feed, orders })
    }

    /// One turn: feed and answers in, orders out.
    #[inline]
    pub fn poll(&mut self, now: Nanos) -> Result<u32, Error> {
        let Self { stack, trader, feed, orders, .. } = self;
        let frames = stack.poll(now, |cx, event| match event {
            Event::Multicast { receiver, datagram } if receiver == *feed => trader.on_datagram(cx, now, &datagram),
            Event::Multicast { .. } => {}
            Event::Tcp(id) if id == *orders && !trader.has_session() => trader.log_in(cx, id),
            Event::Tcp(id) => trader.on_stream(cx, id),
        })?;
        if trader.deadline().is_some_and(|deadline| deadline <= now) {
            trader.on_time(stack.context(now));
        }
        if frames == 0 {
            self.check_end(now);
        }
        Ok(frames)
    }

    /// The feed is over (or has been for so long that its end must have been lost), and every order has its answer.
    fn check_end(&mut self, now: Nanos) {
        let ended_at = self.shared.ended_at.load(Ordering::Acquire);
        let over = self.trader.feed_ended() || (ended_at != 0 && now > ended_at + END_WAIT);
        if over && self.trader.orders().tally.unanswered() == 0 && !self.shared.is_over() {
            let cx = self.stack.context(now);
            self.trader.log_out(cx);
            cx.flush();
            self.shared.done.store(true, Ordering::Release);
        }
    }

    /// When the next turn is needed at the latest.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let ended_at = self.shared.ended_at.load(Ordering::Acquire);
        let end = (ended_at != 0).then(|| (ended_at + END_WAIT + 1).max(now + END_INTERVAL));
        [self.stack.next_deadline(now), self.trader.deadline(), end].into_iter().flatten().min()
    }

    /// Closes the port; the trader with its counts remains.
    pub fn finish(self) -> Result<TraderOutcome, Error> {
        let Self { mut port, stack, trader, .. } = self;
        let stats = stack.stats();
        port.close_queue(stack.into_queues())?;
        Ok(TraderOutcome { trader, stack: stats, port: port.stats() })
    }
}

/// What the trader's host leaves.
pub struct TraderOutcome {
    /// The trader with its books and counts.
    pub trader: Trader,
    /// The stack's counters.
    pub stack: StackStats,
    /// The port's counters.
    pub port: PortStats,
}
