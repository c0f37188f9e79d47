//! The ports by which a host follows the feed: lines in, and what recovery asks for out.

use std::net::SocketAddrV4;
use std::sync::Arc;

use arrayvec::ArrayVec;
use barewire_driver::Port;
use barewire_driver::bus::Bus;
use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::ixgbe::{self, Tx};
use barewire_netstack::{Context, Datagram, Event, Lane, ReceiverId, TcpId, TcpOptions, TcpState, UdpId};

use super::{End, EndStats, FEEDS, REREQUESTS, SNAPSHOTS, exchange_ip, trader_ip};
use crate::feed::arbiter::Source;
use crate::feed::handler::{Action, Handler};
use crate::market::{Config, Error};

/// Descriptors of the receive rings: at the default rate they hold what a stall of 50 ms leaves, one message a frame.
const FEED_RING: u32 = 4096;
/// The lines of the feed.
const LINES: [Source; 2] = [Source::A, Source::B];

/// Whoever is told what arrives. Contexts are those of the first port, by which orders leave.
pub trait Follower {
    /// A datagram of a line; `now` is the stamp of the poll that saw it.
    fn on_datagram(&mut self, cx: &mut Context<Tx>, now: Nanos, source: Source, datagram: &Datagram<'_>);

    /// A packet with which a re-request server answered.
    fn on_answer(&mut self, cx: &mut Context<Tx>, now: Nanos, packet: &[u8]);

    /// Bytes of a snapshot server's stream.
    fn on_snapshot(&mut self, cx: &mut Context<Tx>, now: Nanos, bytes: &[u8]);

    /// Something has happened on a connection of the follower's own.
    fn on_stream(&mut self, cx: &mut Context<Tx>, id: TcpId);

    /// What is lent of a connection of the follower's own.
    fn on_data(&mut self, cx: &mut Context<Tx>, id: TcpId, data: &[u8]);

    /// The feed.
    fn feed(&mut self) -> &mut Handler;
}

/// One port, with what arrives there.
pub(super) struct FeedEnd {
    pub(super) end: End,
    /// The lines that arrive here.
    feeds: ArrayVec<(ReceiverId, Source), 2>,
    /// Where re-request servers answer.
    answers: UdpId,
}

impl FeedEnd {
    /// Opens the port on `wire` and joins those of the feed's lines that arrive there.
    pub(super) fn open(config: &Config, clock: &Clock, bus: &Arc<dyn Bus>, wire: usize) -> Result<Self, Error> {
        let ring = ixgbe::Config { rx_descriptors: FEED_RING, ..ixgbe::Config::default() };
        let mut end = End::open(bus, trader_ip(wire), config.seed ^ 1, ring)?;
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

    /// The line that `receiver` receives.
    #[inline]
    pub(super) fn line(feeds: &[(ReceiverId, Source)], receiver: ReceiverId) -> Option<Source> {
        feeds.iter().find(|(known, _)| *known == receiver).map(|(_, source)| *source)
    }

    /// Polls the port, and hands every datagram of a line to `take`.
    #[inline]
    pub(super) fn poll_lines(&mut self, now: Nanos, mut take: impl FnMut(Source, &[u8])) -> Result<u32, Error> {
        let Self { end, feeds, .. } = self;
        Ok(end.stack.poll(now, |_, event| {
            if let Event::Multicast { receiver, datagram } = event
                && let Some(source) = Self::line(feeds, receiver)
            {
                take(source, datagram.payload);
            }
        })?)
    }
}

/// A connection to a snapshot server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Snapshot {
    server: usize,
    id: TcpId,
}

/// The ports of the feed.
pub struct FeedPorts {
    clock: Clock,
    /// The port that orders leave by, if any do.
    first: FeedEnd,
    /// The port of the feed's second line, where that is another one and polled here.
    second: Option<FeedEnd>,
    snapshot: Option<Snapshot>,
}

impl FeedPorts {
    /// Opens a port on each of `buses`, one for each wire, and joins the feed.
    pub fn open(config: &Config, clock: Clock, buses: &[Arc<dyn Bus>]) -> Result<Self, Error> {
        let first = FeedEnd::open(config, &clock, &buses[0], 0)?;
        let second = buses.get(1).map(|bus| FeedEnd::open(config, &clock, bus, 1)).transpose()?;
        Ok(Self { clock, first, second, snapshot: None })
    }

    /// What the first port sends with.
    #[inline]
    pub fn context(&mut self, now: Nanos) -> &mut Context<Tx> {
        self.first.end.stack.context(now)
    }

    /// One turn; returns the number of frames.
    #[inline]
    pub fn poll<F: Follower>(&mut self, now: Nanos, follower: &mut F) -> Result<u32, Error> {
        let mut frames = self.poll_first(now, follower)?;
        if self.second.is_some() {
            frames += self.poll_second(follower)?;
        }
        Ok(frames)
    }

    #[inline]
    fn poll_first<F: Follower>(&mut self, now: Nanos, follower: &mut F) -> Result<u32, Error> {
        let Self { first: FeedEnd { end, feeds, .. }, snapshot, .. } = self;
        Ok(end.stack.poll(now, |cx, event| match event {
            Event::Multicast { receiver, datagram } => {
                if let Some(source) = FeedEnd::line(feeds, receiver) {
                    follower.on_datagram(cx, now, source, &datagram);
                }
            }
            Event::TcpData { id, data } => follower.on_data(cx, id, data),
            Event::Accepted { .. } => {}
            Event::Tcp(id) => {
                follower.on_stream(cx, id);
                if let Some(bytes) = download(snapshot, Snapshot { server: 0, id }, follower.feed(), cx) {
                    follower.on_snapshot(cx, now, &bytes);
                }
            }
        })?)
    }

    /// The second port's frames have a time stamp of their own: those of the first have taken time.
    #[inline]
    fn poll_second<F: Follower>(&mut self, follower: &mut F) -> Result<u32, Error> {
        let Self { clock, first, second: Some(FeedEnd { end, feeds, .. }), snapshot } = self else { return Ok(0) };
        let now = clock.now();
        let orders = &mut first.end.stack;
        Ok(end.stack.poll(now, |cx, event| match event {
            Event::Multicast { receiver, datagram } => {
                if let Some(source) = FeedEnd::line(feeds, receiver) {
                    follower.on_datagram(orders.context(now), now, source, &datagram);
                }
            }
            Event::TcpData { .. } | Event::Accepted { .. } => {}
            Event::Tcp(id) => {
                if let Some(bytes) = download(snapshot, Snapshot { server: 1, id }, follower.feed(), cx) {
                    follower.on_snapshot(orders.context(now), now, &bytes);
                }
            }
        })?)
    }

    /// Takes the answers of re-request servers, and asks for what is missing.
    #[cold]
    pub fn recover<F: Follower>(&mut self, now: Nanos, follower: &mut F) {
        let mut answer = [0; 1500];
        for server in 0..2 {
            while let Some(len) = self.end(server).and_then(|end| end.receive(now, &mut answer)) {
                follower.on_answer(self.context(now), now, &answer[..len]);
            }
        }
        while let Some(action) = follower.feed().poll(now) {
            match action {
                Action::Request { server, packet } => {
                    let Some(FeedEnd { end, answers, .. }) = self.end(server) else { continue };
                    let to = SocketAddrV4::new(exchange_ip(server), REREQUESTS);
                    let cx = end.stack.context(now);
                    // Without room the request is lost, and will be sent again.
                    let _ = cx.udp_send(*answers, to, &packet);
                    cx.flush();
                }
                Action::Connect { server } => {
                    let Some(FeedEnd { end, .. }) = self.end(server) else { continue };
                    let to = SocketAddrV4::new(exchange_ip(server), SNAPSHOTS);
                    let cx = end.stack.context(now);
                    let opened = cx.tcp_connect(Lane::Express, to, &TcpOptions::default());
                    cx.flush();
                    match opened {
                        Ok(id) => self.snapshot = Some(Snapshot { server, id }),
                        Err(error) => {
                            log::warn!("snapshot: {error}");
                            follower.feed().disconnected(now);
                        }
                    }
                }
            }
        }
        if let Some(Snapshot { server, id }) = self.snapshot
            && let Some(FeedEnd { end, .. }) = self.end(server)
        {
            let (cx, feed) = (end.stack.context(now), follower.feed());
            if let Some(heartbeat) = feed.on_time(now) {
                // Without room the connection is busy enough not to need one.
                let _ = cx.tcp_send_message(id, &heartbeat);
            }
            if matches!(cx.tcp_state(id), TcpState::Closed | TcpState::CloseWait) && feed.is_snapshot_running() {
                feed.disconnected(now);
            }
            let is_over = !feed.is_snapshot_running();
            if is_over {
                cx.tcp_release(id);
            }
            cx.flush();
            if is_over {
                self.snapshot = None;
            }
        }
    }

    /// The port through which `server` is reached.
    fn end(&mut self, server: usize) -> Option<&mut FeedEnd> {
        if server == 0 { Some(&mut self.first) } else { self.second.as_mut() }
    }

    /// When the next turn is needed at the latest.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let second = self.second.as_ref().and_then(|second| second.end.stack.next_deadline(now));
        [self.first.end.stack.next_deadline(now), second].into_iter().flatten().min()
    }

    /// Closes the ports; what was counted remains.
    pub fn finish(self) -> Result<Vec<EndStats>, Error> {
        [Some(self.first), self.second].into_iter().flatten().map(|end| end.end.close()).collect()
    }
}

impl FeedEnd {
    /// Copies an answer of the re-request server; says how long it is.
    fn receive(&mut self, now: Nanos, answer: &mut [u8]) -> Option<usize> {
        let Self { end, answers, .. } = self;
        let mut len = 0;
        let found = end.stack.context(now).udp_receive(*answers, |bytes, _| {
            len = bytes.len().min(answer.len());
            answer[..len].copy_from_slice(&bytes[..len]);
        });
        found.then_some(len)
    }
}

/// Something has happened on connection `here`: logs in where it is established, and returns what of the snapshot has arrived.
#[cold]
fn download(snapshot: &Option<Snapshot>, here: Snapshot, feed: &mut Handler, cx: &mut Context<Tx>) -> Option<Vec<u8>> {
    if *snapshot != Some(here) {
        return None;
    }
    if cx.tcp_state(here.id) == TcpState::Established && !feed.is_connected() {
        let login = feed.connected(cx.now());
        // A fresh connection has room for a login; without one, the server's silence ends the session.
        let _ = cx.tcp_send_message(here.id, &login);
    }
    let mut bytes = Vec::new();
    let read = cx.tcp_receive(here.id, |arrived| {
        bytes.extend_from_slice(arrived);
        arrived.len()
    });
    if read.is_err() && bytes.is_empty() {
        feed.disconnected(cx.now());
    }
    Some(bytes).filter(|bytes| !bytes.is_empty())
}
