//! The trader's host: feed and answers in, orders and requests for what was missed out.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use barewire_driver::Port;
use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::ixgbe::{self, Tx};
use barewire_models::Ixgbe82599;
use barewire_netstack::{Context, Event, Lane, ReceiverId, TcpId, TcpOptions, TcpState, UdpId};

use super::{
    END_INTERVAL, END_WAIT, End, EndStats, FEEDS, ORDERS, PATIENCE, REREQUESTS, SNAPSHOTS, Shared, exchange_ip,
    order_session, trader_ip,
};
use crate::feed::arbiter::Source;
use crate::feed::book::Capacity;
use crate::feed::handler::Action;
use crate::feed::ring::Reader;
use crate::market::schedule::Phases;
use crate::market::{Config, Error};
use crate::trade::trader::Trader;

/// Descriptors of the trader's receive rings: at the default rate they hold what a stall of 50 ms leaves, one message a frame.
const FEED_RING: u32 = 4096;
/// Live orders that a stock has, at most, with room: the participants keep fewer than 100.
const ORDERS_A_STOCK: u32 = 256;
/// How long a gap that is open at the end of the session is worked on before it counts as unrecovered.
const LAST_RECOVERY: Nanos = 60_000_000_000;
/// The lines of the feed.
const LINES: [Source; 2] = [Source::A, Source::B];

/// The trader's host.
pub struct TraderHost {
    clock: Clock,
    /// The port that orders leave by.
    first: TraderEnd,
    /// The port of the feed's second line, where that is another one and polled here.
    second: Option<TraderEnd>,
    /// The second line, where another core polls it.
    ring: Option<Reader>,
    trader: Trader,
    shared: Arc<Shared>,
    lane: Lane,
    snapshot: Option<Snapshot>,
}

/// One of the trader's ports.
pub(super) struct TraderEnd {
    pub(super) end: End,
    /// The lines that arrive here.
    pub(super) feeds: ArrayVec<(ReceiverId, Source), 2>,
    /// Where re-request servers answer.
    answers: UdpId,
}

/// A connection to a snapshot server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Snapshot {
    server: usize,
    id: TcpId,
}

impl TraderEnd {
    /// Opens the port on `wire` and joins those of `lines` that arrive there.
    pub(super) fn open(config: &Config, clock: &Clock, model: &Arc<Ixgbe82599>, wire: usize) -> Result<Self, Error> {
        let ring = ixgbe::Config { rx_descriptors: FEED_RING, ..ixgbe::Config::default() };
        let mut end = End::open(Arc::clone(model), trader_ip(wire), config.seed ^ 1, ring)?;
        let cx = end.stack.context(clock.now());
        let here = LINES.into_iter().zip(FEEDS).enumerate().filter(|(line, _)| line % config.ports == wire);
        let feeds = here.map(|(_, (source, feed))| Ok((cx.join(*feed.ip(), feed.port(), None)?, source)));
        let feeds = feeds.collect::<Result<_, Error>>()?;
        let answers = cx.udp_bind(REREQUESTS)?;
        for group in cx.group_macs() {
            end.port.join_multicast(group)?;
        }
        Ok(Self { end, feeds, answers })
    }
}

/// The line that `receiver` receives.
#[inline]
pub(super) fn line(feeds: &ArrayVec<(ReceiverId, Source), 2>, receiver: ReceiverId) -> Option<Source> {
    feeds.iter().find(|(known, _)| *known == receiver).map(|(_, source)| *source)
}

impl TraderHost {
    /// Opens the trader's ports, one on each of `models`, joins the feed and connects.
    pub fn open(config: &Config, clock: Clock, shared: Arc<Shared>, models: &[Arc<Ixgbe82599>]) -> Result<Self, Error> {
        let first = TraderEnd::open(config, &clock, &models[0], 0)?;
        let second = models.get(1).map(|model| TraderEnd::open(config, &clock, model, 1)).transpose()?;
        let capacity = Capacity { orders: u32::from(config.stocks) * ORDERS_A_STOCK };
        let trader = Trader::new(clock.clone(), capacity, Arc::clone(&shared.points));
        let trader = trader.recovering_from(models.len()).in_phases(Phases::new(config.rate, config.burst));
        let trader = trader.with_patience(PATIENCE).stopped_by(shared.kill.clone());
        let mut host =
            Self { clock, first, second, ring: None, trader, shared, lane: config.trader_tcp, snapshot: None };
        host.connect(host.clock.now());
        Ok(host)
    }

    /// Opens the connection to the exchange, when that is due.
    #[cold]
    fn connect(&mut self, now: Nanos) {
        let Self { first, trader, lane, .. } = self;
        if !trader.connect_due(now) {
            return;
        }
        let cx = first.end.stack.context(now);
        match cx.tcp_connect(*lane, ORDERS, &order_session()) {
            Ok(id) => trader.connecting(id),
            Err(error) => {
                log::warn!("order session: {error}");
                trader.disconnected(now);
            }
        }
        cx.flush();
    }

    /// Takes the second line from `ring`, into which another core puts it.
    #[must_use]
    pub fn reading(self, ring: Reader) -> Self {
        Self { ring: Some(ring), ..self }
    }

    /// The trader.
    pub fn trader(&self) -> &Trader {
        &self.trader
    }

    /// Hands the trader to `act`, with the port that orders leave by.
    pub fn with_trader<R>(&mut self, now: Nanos, act: impl FnOnce(&mut Trader, &mut Context<Tx>) -> R) -> R {
        let Self { first, trader, .. } = self;
        act(trader, first.end.stack.context(now))
    }

    /// One turn: feed and answers in, orders out.
    #[inline]
    pub fn poll(&mut self, now: Nanos) -> Result<u32, Error> {
        let mut frames = self.poll_first(now)?;
        if self.second.is_some() {
            frames += self.poll_second()?;
        }
        if self.ring.is_some() {
            frames += self.poll_ring(now)?;
        }
        if self.trader.deadline().is_some_and(|deadline| deadline <= now) {
            self.connect(now);
            let cx = self.first.end.stack.context(now);
            self.trader.on_time(cx);
            cx.flush();
        }
        if frames == 0 || self.trader.feed().stale_since().is_some() {
            self.recover(now);
        }
        if frames == 0 {
            self.trader.prepare(self.first.end.stack.context(now));
            self.check_end(now);
        }
        Ok(frames)
    }

    #[inline]
    fn poll_first(&mut self, now: Nanos) -> Result<u32, Error> {
        let Self { first: TraderEnd { end, feeds, .. }, trader, snapshot, .. } = self;
        Ok(end.stack.poll(now, |cx, event| match event {
            Event::Multicast { receiver, datagram } => {
                if let Some(source) = line(feeds, receiver) {
                    trader.on_datagram(cx, now, source, &datagram);
                }
            }
            Event::TcpData { id, data } => trader.on_data(cx, id, data),
            Event::Accepted { .. } => {}
            Event::Tcp(id) => {
                trader.on_stream(cx, id);
                if let Some(bytes) = download(snapshot, Snapshot { server: 0, id }, trader, cx) {
                    trader.on_snapshot(cx, now, &bytes);
                }
            }
        })?)
    }

    /// The second port's frames have a time stamp of their own: those of the first have taken time.
    #[inline]
    fn poll_second(&mut self) -> Result<u32, Error> {
        let Self { clock, first, second: Some(TraderEnd { end, feeds, .. }), trader, snapshot, .. } = self else {
            return Ok(0);
        };
        let now = clock.now();
        let orders = &mut first.end.stack;
        Ok(end.stack.poll(now, |cx, event| match event {
            Event::Multicast { receiver, datagram } => {
                if let Some(source) = line(feeds, receiver) {
                    trader.on_datagram(orders.context(now), now, source, &datagram);
                }
            }
            Event::TcpData { .. } | Event::Accepted { .. } => {}
            Event::Tcp(id) => {
                if let Some(bytes) = download(snapshot, Snapshot { server: 1, id }, trader, cx) {
                    trader.on_snapshot(orders.context(now), now, &bytes);
                }
            }
        })?)
    }

    /// Takes what another core has seen. An order's time begins where that core saw its tick.
    #[inline]
    fn poll_ring(&mut self, now: Nanos) -> Result<u32, Error> {
        /// Packets of one turn, at most: as many as a poll takes from a NIC's ring.
        const BURST: u32 = 32;
        let Self { first, ring: Some(ring), trader, .. } = self else { return Ok(0) };
        let cx = first.end.stack.context(now);
        Ok(ring.poll(BURST, |seen, source, packet| trader.on_packet(cx, seen, source, packet))?)
    }

    /// Takes the answers of re-request servers, and asks for what is missing.
    #[cold]
    fn recover(&mut self, now: Nanos) {
        let Self { first, second, trader, snapshot, .. } = self;
        let mut answer = [0; 1500];
        for server in 0..2 {
            while let Some(len) = end(first, second, server).and_then(|end| receive(end, now, &mut answer)) {
                trader.on_packet(first.end.stack.context(now), now, Source::Recovery, &answer[..len]);
            }
        }
        while let Some(action) = trader.poll_feed(now) {
            match action {
                Action::Request { server, packet } => {
                    let Some(TraderEnd { end, answers, .. }) = end(first, second, server) else { continue };
                    let to = SocketAddrV4::new(exchange_ip(server), REREQUESTS);
                    let cx = end.stack.context(now);
                    // Without room the request is lost, and will be sent again.
                    let _ = cx.udp_send(*answers, to, &packet);
                    cx.flush();
                }
                Action::Connect { server } => {
                    let Some(TraderEnd { end, .. }) = end(first, second, server) else { continue };
                    let to = SocketAddrV4::new(exchange_ip(server), SNAPSHOTS);
                    let cx = end.stack.context(now);
                    match cx.tcp_connect(Lane::Express, to, &TcpOptions::default()) {
                        Ok(id) => *snapshot = Some(Snapshot { server, id }),
                        Err(error) => {
                            log::warn!("snapshot: {error}");
                            trader.snapshot_gone(now);
                        }
                    }
                    cx.flush();
                }
            }
        }
        if let Some(Snapshot { server, id }) = *snapshot
            && let Some(TraderEnd { end, .. }) = end(first, second, server)
        {
            let cx = end.stack.context(now);
            if let Some(heartbeat) = trader.snapshot_heartbeat(now) {
                // Without room the connection is busy enough not to need one.
                let _ = cx.tcp_send_message(id, &heartbeat);
            }
            if matches!(cx.tcp_state(id), TcpState::Closed | TcpState::CloseWait) && trader.is_snapshot_wanted() {
                trader.snapshot_gone(now);
            }
            if !trader.is_snapshot_wanted() {
                cx.tcp_release(id);
                *snapshot = None;
            }
            cx.flush();
        }
    }

    /// The feed is over (or has been for so long that its end must have been lost), and every order has its answer.
    fn check_end(&mut self, now: Nanos) {
        let ended_at = self.shared.ended_at.load(Ordering::Acquire);
        let patience = if self.trader.feed().arbiter().gap_since().is_some() { LAST_RECOVERY } else { END_WAIT };
        let over = self.trader.feed().has_ended() || (ended_at != 0 && now > ended_at + patience);
        if over && self.trader.orders().tally.unanswered() == 0 && !self.shared.is_over() {
            let cx = self.first.end.stack.context(now);
            self.trader.log_out(cx);
            cx.flush();
            self.shared.done.store(true, Ordering::Release);
        }
    }

    /// When the next turn is needed at the latest.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let ended_at = self.shared.ended_at.load(Ordering::Acquire);
        let end = (ended_at != 0).then(|| (ended_at + END_WAIT + 1).max(now + END_INTERVAL));
        let second = self.second.as_ref().and_then(|second| second.end.stack.next_deadline(now));
        let due = [self.first.end.stack.next_deadline(now), second, self.trader.deadline(), end];
        due.into_iter().chain([self.trader.feed().deadline()]).flatten().min()
    }

    /// Closes the ports; the trader with its counts remains.
    pub fn finish(self) -> Result<TraderOutcome, Error> {
        let Self { first, second, trader, .. } = self;
        let ends = [Some(first), second].into_iter().flatten().map(|end| end.end.close());
        Ok(TraderOutcome { trader, ring_drops: 0, ends: ends.collect::<Result<_, _>>()? })
    }
}

/// The port through which `server` is reached.
fn end<'a>(first: &'a mut TraderEnd, second: &'a mut Option<TraderEnd>, server: usize) -> Option<&'a mut TraderEnd> {
    if server == 0 { Some(first) } else { second.as_mut() }
}

/// Copies an answer of the re-request server; says how long it is.
fn receive(TraderEnd { end, answers, .. }: &mut TraderEnd, now: Nanos, answer: &mut [u8]) -> Option<usize> {
    let mut len = 0;
    let found = end.stack.context(now).udp_receive(*answers, |bytes, _| {
        len = bytes.len().min(answer.len());
        answer[..len].copy_from_slice(&bytes[..len]);
    });
    found.then_some(len)
}

/// Something has happened on connection `here`: logs in where it is established, and returns what of the snapshot has arrived.
#[cold]
fn download(snapshot: &Option<Snapshot>, here: Snapshot, trader: &mut Trader, cx: &mut Context<Tx>) -> Option<Vec<u8>> {
    if *snapshot != Some(here) {
        return None;
    }
    if cx.tcp_state(here.id) == TcpState::Established && !trader.is_snapshot_open() {
        let login = trader.open_snapshot(cx.now());
        // A fresh connection has room for a login; without one, the server's silence ends the session.
        let _ = cx.tcp_send_message(here.id, &login);
    }
    let mut bytes = Vec::new();
    let read = cx.tcp_receive(here.id, |arrived| {
        bytes.extend_from_slice(arrived);
        arrived.len()
    });
    if read.is_err() && bytes.is_empty() {
        trader.snapshot_gone(cx.now());
    }
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

/// What the trader's host leaves.
pub struct TraderOutcome {
    /// The trader with its books and counts.
    pub trader: Trader,
    /// Packets for which the ring between two cores had no room.
    pub ring_drops: u64,
    /// The ports' counters.
    pub ends: Vec<EndStats>,
}
