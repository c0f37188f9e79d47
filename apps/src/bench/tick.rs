//! `bench tick`: from a descriptor that is done to the doorbell of the order it leads to.
//!
//! A round is one datagram with one message, already in the ring, that makes the trader send an order. It is measured from right before the poll
//! to the store of the doorbell; what the device does there is not counted. The exchange's answers are taken between rounds.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::hint::black_box;
use std::net::SocketAddrV4;
use std::sync::Arc;

use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::ixgbe::{Ixgbe, Rx, Tx};
use barewire_driver::{FrameMeta, Port};
use barewire_models::Ixgbe82599;
use barewire_netstack::{Context, Datagram, Event, Lane, Route, Stack, TcpId, TcpOptions, UdpId};
use serde::Serialize;
use zerocopy::IntoBytes;

use super::cold::Cold;
use super::count::{self, Count, ROUNDS, uncounted};
use super::probe::Around;
use super::rig::{FAR_IP, NEAR_IP, Rig, feed_route};
use super::{Error, progress};
use crate::exchange::{Exchange, Outlet};
use crate::feed::arbiter::Source;
use crate::feed::book::Capacity;
use crate::feed::itch::{self, Timestamp};
use crate::feed::moldudp64::{Packet, Session};
use crate::fields::Alpha;
use crate::market::compare::Points;
use crate::market::hosts::{FEED, ORDERS};
use crate::market::{Quantiles, Spans};
use crate::order::gateway::AccountId;
use crate::order::soupbin::{self, Assembler, Server, ServerEvent, kind};
use crate::trade::limits::Limits;
use crate::trade::strategy::QUIET_TICKS;
use crate::trade::trader::{Probe, Stage, Trader};

/// Measured rounds with a cold cache: each one flushes everything first.
const COLD_ROUNDS: u32 = 300;
const SESSION: Session = *b"BAREWIRE01";

/// Who carries feed and orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The express lanes.
    Express,
    /// The express lanes, with the order parked before the tick.
    Prepared,
    /// The feed by the multicast lane, orders by smoltcp.
    SmoltcpTcp,
    /// Both by smoltcp: the feed's datagrams go to the host's own address, to a UDP socket.
    Smoltcp,
}

impl Way {
    const ALL: [Self; 4] = [Self::Express, Self::Prepared, Self::SmoltcpTcp, Self::Smoltcp];

    fn scenario(self) -> &'static str {
        match self {
            Self::Express => "tick-express",
            Self::Prepared => "tick-prepared",
            Self::SmoltcpTcp => "tick-smoltcp-tcp",
            Self::Smoltcp => "tick-smoltcp",
        }
    }

    /// The way of a counted scenario.
    pub fn named(scenario: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.scenario() == scenario)
    }

    fn tcp(self) -> Lane {
        match self {
            Self::Express | Self::Prepared => Lane::Express,
            Self::SmoltcpTcp | Self::Smoltcp => Lane::Host,
        }
    }
}

/// Figures of one way.
#[derive(Debug, Serialize)]
pub struct Variant {
    /// The median, nanoseconds.
    pub ns_p50: Nanos,
    /// The 99th percentile.
    pub ns_p99: Nanos,
    /// The median with every cache line flushed before each round.
    pub cold_ns_p50: Nanos,
    /// Its 99th percentile.
    pub cold_ns_p99: Nanos,
    /// Instructions from the poll to the doorbell.
    pub instructions: Count,
}

/// Medians of the stages, nanoseconds, from a run of its own: the stamps cost time themselves.
#[derive(Debug, Serialize)]
pub struct Stages {
    /// t0 to t1: descriptor, demultiplexer, MoldUDP64.
    pub receive: Nanos,
    /// t1 to t2: ITCH and book.
    pub book: Nanos,
    /// t2 to t3: decision, limits, OUCH.
    pub decide: Nanos,
    /// t3 to t4: TCP and descriptor.
    pub send: Nanos,
}

/// What an order costs the bus of the trader's device: counts a round.
#[derive(Debug, Serialize)]
pub struct OrderLedger {
    /// Doorbells rung.
    pub doorbells: f64,
    /// Registers read.
    pub register_reads: f64,
    /// Descriptors the device fetched.
    pub descriptor_fetches: f64,
    /// Descriptors it wrote back.
    pub write_backs: f64,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Tick {
    /// By the express lanes.
    pub express: Variant,
    /// By the express lanes, with the order parked before the tick.
    pub prepared: Variant,
    /// The feed by the multicast lane, orders by smoltcp's TCP.
    pub smoltcp_tcp: Variant,
    /// Both by smoltcp's sockets.
    pub smoltcp: Variant,
    /// smoltcp's TCP to the express lane, median to median, warm: above 1 the lane is faster.
    pub ratio: f64,
    /// smoltcp's TCP to an order that was parked.
    pub ratio_prepared: f64,
    /// Both of smoltcp's sockets to both lanes.
    pub ratio_both: f64,
    /// As `ratio`, by instructions; these do not depend on the machine's mood.
    pub ratio_instructions: Option<f64>,
    /// Where the time goes, by the express lanes.
    pub stages: Stages,
    /// From the frame that the driver lends to the multicast receiver: demultiplexing and checks, instructions.
    pub instructions_frame_to_receiver: Count,
    /// A whole order's bus costs, the tick's frame included.
    pub ledger: OrderLedger,
}

/// Runs the benchmark.
pub fn run() -> Result<Tick, Error> {
    let [express, prepared, smoltcp_tcp, smoltcp] = measure()?;
    let ratio = |theirs: &Variant, ours: &Variant| theirs.ns_p50 as f64 / ours.ns_p50.max(1) as f64;
    let counts = smoltcp_tcp.instructions.value().zip(express.instructions.value());
    progress("stages and counts");
    Ok(Tick {
        ratio: ratio(&smoltcp_tcp, &express),
        ratio_prepared: ratio(&smoltcp_tcp, &prepared),
        ratio_both: ratio(&smoltcp, &express),
        ratio_instructions: counts.map(|(theirs, ours)| theirs / ours),
        stages: stages()?,
        instructions_frame_to_receiver: count::instructions("lane-32").less(&count::instructions("receive-32")),
        ledger: ledger()?,
        express,
        prepared,
        smoltcp_tcp,
        smoltcp,
    })
}

/// All ways in turn, so that a change of the machine's mood meets each of them.
fn measure() -> Result<[Variant; 4], Error> {
    const TURN: u32 = 1_000;
    let mut ways = Vec::new();
    for way in Way::ALL {
        ways.push((Rounds::open(way, note_doorbell, ())?, Spans::default(), Spans::default()));
    }
    progress("warm rounds");
    for _ in 0..ROUNDS / TURN {
        for (rounds, warm, _) in &mut ways {
            for _ in 0..TURN {
                warm.record(rounds.timed(None)?);
            }
        }
    }
    progress("cold rounds");
    let caches = Cold::survey().map_err(Error::failed)?;
    for _ in 0..COLD_ROUNDS {
        for (rounds, _, cold) in &mut ways {
            cold.record(rounds.timed(Some(&caches))?);
        }
    }
    let mut found = ways.iter().map(|(_, warm, cold)| (warm.quantiles(), cold.quantiles()));
    Ok(Way::ALL.map(|way| {
        let (warm, cold): (Quantiles, Quantiles) = found.next().unwrap_or_default();
        Variant {
            ns_p50: warm.p50,
            ns_p99: warm.p99,
            cold_ns_p50: cold.p50,
            cold_ns_p99: cold.p99,
            instructions: count::instructions(way.scenario()),
        }
    }))
}

/// The counted scenario of `way`; returns the rounds.
pub fn counted(way: Way) -> Result<u64, Error> {
    let mut rounds = Rounds::open(way, uncounted, ())?;
    for _ in 0..ROUNDS {
        rounds.prepare()?;
        let mut polled = Ok(());
        count::measured(&mut || polled = rounds.poll());
        polled?;
        rounds.settle()?;
    }
    Ok(rounds.number)
}

/// The counted scenario of the lane alone: bursts of 32 datagrams to a receiver that only looks; returns the frames.
pub fn counted_lane() -> Result<u64, Error> {
    const BURST: u64 = 32;
    let rig = Rig::open(&Clock::calibrated(), uncounted)?;
    let ((_near_port, mut near), (far_port, mut far)) = (rig.near.stack(NEAR_IP), rig.far.stack(FAR_IP));
    near.context(0).join(*FEED.ip(), FEED.port(), None).map_err(Error::failed)?;
    near.poll(0, |_, _| {}).map_err(Error::failed)?;
    let route = feed_route(&far_port, None);
    let mut frames = 0;
    for now in 1..=u64::from(ROUNDS) {
        for _ in 0..BURST {
            let datagram = far.context(now).datagram(&route).map_err(Error::failed)?;
            far.context(now).send(datagram, 40).map_err(Error::failed)?;
        }
        far.poll(now, |_, _| {}).map_err(Error::failed)?;
        let mut polled = Ok(0);
        count::measured(&mut || {
            polled = near.poll(now, |_, event| {
                if let Event::Multicast { datagram, .. } = event {
                    black_box(datagram.payload.first());
                }
            });
        });
        frames += u64::from(polled.map_err(Error::failed)?);
    }
    Ok(frames)
}

fn stages() -> Result<Stages, Error> {
    let mut rounds = Rounds::open(Way::Express, note_doorbell, Watch::default())?;
    let mut spans: [Spans; 4] = Default::default();
    for _ in 0..ROUNDS {
        rounds.prepare()?;
        rounds.trader.probe().0 = [0; 4];
        let start = now();
        rounds.poll()?;
        let marks = rounds.trader.probe().0;
        for ((span, from), to) in spans.iter_mut().zip([start].into_iter().chain(marks)).zip(marks) {
            span.record(to.saturating_sub(from));
        }
        rounds.settle()?;
    }
    let [receive, book, decide, send] = spans.map(|span| span.quantiles().p50);
    Ok(Stages { receive, book, decide, send })
}

fn ledger() -> Result<OrderLedger, Error> {
    let mut rounds = Rounds::open(Way::Express, note_doorbell, ())?;
    let mut sums = [0u64; 4];
    for _ in 0..ROUNDS {
        rounds.prepare()?;
        let before = rounds.model.ledger();
        rounds.poll()?;
        let after = rounds.model.ledger();
        let spent = [
            after.doorbells - before.doorbells,
            after.register_reads - before.register_reads,
            after.descriptor_fetches - before.descriptor_fetches,
            after.write_backs - before.write_backs,
        ];
        sums.iter_mut().zip(spent).for_each(|(sum, spent)| *sum += spent);
        rounds.settle()?;
    }
    let [doorbells, register_reads, descriptor_fetches, write_backs] = sums.map(|sum| sum as f64 / f64::from(ROUNDS));
    Ok(OrderLedger { doorbells, register_reads, descriptor_fetches, write_backs })
}

thread_local! {
    static CLOCK: Clock = Clock::calibrated();
    /// When the first register was touched since this was last zero.
    static DOORBELL: Cell<Nanos> = const { Cell::new(0) };
}

fn now() -> Nanos {
    CLOCK.with(Clock::now)
}

fn note_doorbell(access: &mut dyn FnMut()) {
    if DOORBELL.get() == 0 {
        DOORBELL.set(now());
    }
    access();
}

/// Takes a stamp at every stage.
#[derive(Default)]
struct Watch([Nanos; 4]);

impl Probe for Watch {
    fn mark(&mut self, stage: Stage) {
        if let Some(mark) = self.0.get_mut(stage as usize) {
            *mark = now();
        }
    }
}

/// The trader on the port that is measured, and an exchange that answers.
struct Rounds<P> {
    way: Way,
    near: Stack<Rx, Tx>,
    trader: Trader<P>,
    udp: Option<UdpId>,
    model: Arc<Ixgbe82599>,
    far: Stack<Rx, Tx>,
    desk: Desk,
    route: Route,
    next_sequence: u64,
    number: u64,
    /// Ports are closed when they go.
    _ports: (Ixgbe, Ixgbe),
}

/// The exchange's end of the order session.
struct Desk {
    client: Option<TcpId>,
    server: Server,
    assembler: Assembler,
    exchange: Exchange,
    out: Answers,
}

#[derive(Default)]
struct Answers(Vec<u8>);

impl Outlet for Answers {
    /// The feed of this market is made by the rounds themselves.
    fn feed(&mut self, _: &[u8]) {}

    fn client(&mut self, _: AccountId, message: &[u8]) {
        soupbin::wrap(kind::SEQUENCED, message, &mut self.0);
    }
}

impl<P: Probe> Rounds<P> {
    /// Both ends up, logged in, with a book that leans one way, so that every awake tick is an order.
    fn open(way: Way, around: Around, probe: P) -> Result<Self, Error> {
        let clock = CLOCK.with(Clone::clone);
        let rig = Rig::open(&clock, around)?;
        let model = Arc::clone(&rig.near.model);
        let ((near_port, mut near), (far_port, mut far)) = (rig.near.stack(NEAR_IP), rig.far.stack(FAR_IP));
        let cx = near.context(now());
        let mut udp = None;
        let station = match way {
            Way::Express | Way::Prepared | Way::SmoltcpTcp => {
                cx.join(*FEED.ip(), FEED.port(), None).map_err(Error::failed)?;
                None
            }
            Way::Smoltcp => {
                udp = Some(cx.udp_bind(FEED.port()).map_err(Error::failed)?);
                Some((near_port.mac(), NEAR_IP))
            }
        };
        let route = feed_route(&far_port, station);
        let orders = cx.tcp_connect(way.tcp(), ORDERS, &TcpOptions::default()).map_err(Error::failed)?;
        let listener = far.context(now()).tcp_listen(way.tcp(), ORDERS.port(), &TcpOptions::default());
        listener.map_err(Error::failed)?;
        let desk = Desk {
            client: None,
            server: Server::new(now()),
            assembler: Assembler::default(),
            exchange: Exchange::new(1, 1, 1),
            out: Answers::default(),
        };
        let points = Arc::new(Points::new().map_err(Error::failed)?);
        let mut trader = Trader::watched(clock, Capacity { orders: 1024 }, points, probe);
        // Each round sends an order, as often as the machine can.
        trader.set_limits(Limits { orders_per_second: u32::MAX, ..Limits::default() });
        if trader.connect_due(now()) {
            trader.connecting(orders);
        }
        let ports = (near_port, far_port);
        let mut rounds =
            Self { way, near, trader, udp, model, far, desk, route, next_sequence: 1, number: 0, _ports: ports };
        for _ in 0..100 {
            rounds.settle()?;
        }
        rounds.open_book()?;
        // The caches and smoltcp's tables are warm after a thousand.
        for _ in 0..1_000 {
            rounds.timed(None)?;
        }
        Ok(rounds)
    }

    fn open_book(&mut self) -> Result<(), Error> {
        let mut messages: Vec<Vec<u8>> = Vec::new();
        let mut directory = Directory::default();
        self.desk.exchange.start(0, &mut directory);
        while !self.desk.exchange.is_open() {
            self.desk.exchange.step(0, true, &mut directory);
        }
        messages.append(&mut directory.0);
        messages.push(add(1, b'B', 400, 1_000_000).as_bytes().to_vec());
        messages.push(add(2, b'S', 60, 1_000_100).as_bytes().to_vec());
        self.send(&messages)?;
        self.poll()?;
        self.settle()
    }

    /// Sends `messages` in one datagram.
    fn send(&mut self, messages: &[impl AsRef<[u8]>]) -> Result<(), Error> {
        let cx = self.far.context(now());
        let mut datagram = cx.datagram(&self.route).map_err(Error::failed)?;
        let mut packet = Packet::begin(datagram.payload_mut(), SESSION, self.next_sequence).ok_or(Error::full())?;
        for message in messages {
            if !packet.push(message.as_ref()) {
                return Err(Error::full());
            }
        }
        self.next_sequence += messages.len() as u64;
        let len = packet.finish();
        cx.send(datagram, len as u16).map_err(Error::failed)?;
        cx.flush();
        Ok(())
    }

    /// Ticks that only wake the strategy, then the one that counts, left in the ring.
    fn prepare(&mut self) -> Result<(), Error> {
        const A_DATAGRAM: usize = 80;
        let filler = [itch::SystemEvent {
            message_type: Alpha::new("S"),
            stock_locate: 0.into(),
            tracking_number: 0.into(),
            timestamp: Timestamp::new(0),
            event_code: Alpha::new("Q"),
        }; A_DATAGRAM]
            .map(|event| event.as_bytes().to_vec());
        let mut left = QUIET_TICKS as usize - 1;
        while left > 0 {
            let some = left.min(A_DATAGRAM);
            self.send(&filler[..some])?;
            self.poll()?;
            left -= some;
        }
        self.number += 1;
        let reference = 10 + self.number / 2;
        let message = if self.number % 2 == 1 {
            add(reference, b'B', 1, 990_000).as_bytes().to_vec()
        } else {
            delete(reference - 1).as_bytes().to_vec()
        };
        if self.way == Way::Prepared {
            self.trader.prepare(self.near.context(now()));
        }
        self.send(&[message])
    }

    /// What is measured.
    #[inline(never)]
    fn poll(&mut self) -> Result<(), Error> {
        let Self { near, trader, udp, .. } = self;
        let t0 = now();
        let polled = near.poll(t0, |cx, event| match event {
            Event::Multicast { datagram, .. } => trader.on_datagram(cx, t0, Source::A, &datagram),
            Event::Tcp(id) => trader.on_stream(cx, id),
            Event::TcpData { id, data } => trader.on_data(cx, id, data),
            Event::Accepted { .. } => {}
        });
        if let Some(udp) = *udp {
            receive_udp(near.context(t0), udp, trader, t0);
        }
        polled.map(drop).map_err(Error::failed)
    }

    /// The exchange takes the order and answers; the trader takes the answer.
    fn settle(&mut self) -> Result<(), Error> {
        for _ in 0..2 {
            let Self { far, desk, .. } = self;
            far.poll(now(), |cx, event| match event {
                Event::Accepted { id, .. } => desk.client = Some(id),
                Event::Tcp(id) => desk.on_stream(cx, id),
                Event::Multicast { .. } | Event::TcpData { .. } => {}
            })
            .map_err(Error::failed)?;
            desk.answer(far.context(now()));
            self.poll()?;
        }
        Ok(())
    }

    /// One round; returns its time.
    fn timed(&mut self, cold: Option<&Cold>) -> Result<Nanos, Error> {
        self.prepare()?;
        if let Some(cold) = cold {
            cold.flush();
        }
        let sent = self.trader.orders().tally.sent;
        DOORBELL.set(0);
        let start = now();
        self.poll()?;
        let rang = DOORBELL.get();
        if self.trader.orders().tally.sent != sent + 1 {
            return Err(Error::Run(format!("round {} sent no order", self.number)));
        }
        self.settle()?;
        Ok(rang.saturating_sub(start))
    }
}

/// The feed by way of smoltcp's UDP socket.
fn receive_udp<P: Probe>(cx: &mut Context<Tx>, udp: UdpId, trader: &mut Trader<P>, t0: Nanos) {
    // smoltcp lends the datagram from the socket, which the context owns; a copy on the stack lets the trader send meanwhile.
    let mut copy = [0u8; 1500];
    loop {
        let mut len = 0;
        let found = cx.udp_receive(udp, |bytes, _| {
            len = bytes.len().min(copy.len());
            copy[..len].copy_from_slice(&bytes[..len]);
        });
        if !found {
            return;
        }
        let meta = FrameMeta::default();
        let source = SocketAddrV4::new(FAR_IP, FEED.port());
        let destination = SocketAddrV4::new(NEAR_IP, FEED.port());
        trader.on_datagram(cx, t0, Source::A, &Datagram { source, destination, meta: &meta, payload: &copy[..len] });
    }
}

impl Desk {
    fn on_stream(&mut self, cx: &mut Context<Tx>, id: TcpId) {
        let now = cx.now();
        let Self { server, assembler, exchange, out, .. } = self;
        let mut accepted = None;
        let read = cx.tcp_receive(id, |bytes| {
            let fed = assembler.feed(bytes, |packet| match server.receive(now, packet) {
                ServerEvent::Login { .. } => accepted = Some(server.accept(now, "BAREWIRE01", 1)),
                ServerEvent::Message(message) => exchange.client(now, AccountId(0), message, out),
                _ => {}
            });
            if let Err(error) = fed {
                log::warn!("order session: {error}");
            }
            bytes.len()
        });
        if let Err(error) = read {
            log::warn!("order session: {error}");
        }
        self.out.0.extend(accepted.into_iter().flatten());
    }

    fn answer(&mut self, cx: &mut Context<Tx>) {
        if let Some(client) = self.client.filter(|_| !self.out.0.is_empty())
            && let Ok(sent) = cx.tcp_send(client, &self.out.0)
        {
            self.out.0.drain(..sent);
        }
        cx.flush();
    }
}

#[derive(Default)]
struct Directory(Vec<Vec<u8>>);

impl Outlet for Directory {
    fn feed(&mut self, message: &[u8]) {
        self.0.push(message.to_vec());
    }

    fn client(&mut self, _: AccountId, _: &[u8]) {}
}

fn add(reference: u64, side: u8, shares: u32, price: u32) -> itch::AddOrder {
    itch::AddOrder {
        message_type: Alpha::new("A"),
        stock_locate: 1.into(),
        tracking_number: 0.into(),
        timestamp: Timestamp::new(0),
        order_reference_number: reference.into(),
        buy_sell_indicator: Alpha([side]),
        shares: shares.into(),
        stock: Alpha::new("AAAB"),
        price: price.into(),
    }
}

fn delete(reference: u64) -> itch::OrderDelete {
    itch::OrderDelete {
        message_type: Alpha::new("D"),
        stock_locate: 1.into(),
        tracking_number: 0.into(),
        timestamp: Timestamp::new(0),
        order_reference_number: reference.into(),
    }
}
