//! The trader's host: feed and answers in, orders and requests for what was missed out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use barewire_driver::bus::Bus;
use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::ixgbe::Tx;
use barewire_netstack::{Context, Datagram, Lane, TcpId};

use super::feed::{FeedPorts, Follower};
use super::{END_INTERVAL, END_WAIT, ORDERS, PATIENCE, Shared, books, order_session};
use crate::feed::arbiter::Source;
use crate::feed::handler::Handler;
use crate::feed::ring::Reader;
use crate::market::figures::{EndFigures, FeedFigures, LinkFigures, TraderFigures, ViewFigures};
use crate::market::schedule::Phases;
use crate::market::{Config, Error};
use crate::trade::trader::Trader;

/// How long a gap that is open at the end of the session is worked on before it counts as unrecovered.
const LAST_RECOVERY: Nanos = 60_000_000_000;

impl Follower for Trader {
    #[inline]
    fn on_datagram(&mut self, cx: &mut Context<Tx>, now: Nanos, source: Source, datagram: &Datagram<'_>) {
        Trader::on_datagram(self, cx, now, source, datagram);
    }

    fn on_answer(&mut self, cx: &mut Context<Tx>, now: Nanos, packet: &[u8]) {
        self.on_packet(cx, now, Source::Recovery, packet);
    }

    fn on_snapshot(&mut self, cx: &mut Context<Tx>, now: Nanos, bytes: &[u8]) {
        Trader::on_snapshot(self, cx, now, bytes);
    }

    fn on_stream(&mut self, cx: &mut Context<Tx>, id: TcpId) {
        Trader::on_stream(self, cx, id);
    }

    #[inline]
    fn on_data(&mut self, cx: &mut Context<Tx>, id: TcpId, data: &[u8]) {
        Trader::on_data(self, cx, id, data);
    }

    fn feed(&mut self) -> &mut Handler {
        self.feed_mut()
    }
}

/// The trader's host.
pub struct TraderHost {
    clock: Clock,
    /// The port that orders leave by is the first.
    ports: FeedPorts,
    /// The second line, where another core polls it.
    ring: Option<Reader>,
    trader: Trader,
    shared: Arc<Shared>,
    lane: Lane,
}

impl TraderHost {
    /// Opens the trader's ports, one on each of `buses`, joins the feed and connects.
    pub fn open(config: &Config, clock: Clock, shared: Arc<Shared>, buses: &[Arc<dyn Bus>]) -> Result<Self, Error> {
        let ports = FeedPorts::open(config, clock.clone(), buses)?;
        let trader = Trader::new(clock.clone(), books(config), Arc::clone(&shared.points));
        let trader = trader.recovering_from(buses.len()).in_phases(Phases::new(config.rate, config.burst));
        let trader = trader.with_patience(PATIENCE).stopped_by(shared.kill.clone());
        let mut host = Self { clock, ports, ring: None, trader, shared, lane: config.trader_tcp };
        host.connect(host.clock.now());
        Ok(host)
    }

    /// Opens the connection to the exchange, when that is due.
    #[cold]
    fn connect(&mut self, now: Nanos) {
        let Self { ports, trader, lane, .. } = self;
        if !trader.connect_due(now) {
            return;
        }
        let cx = ports.context(now);
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
        let Self { ports, trader, .. } = self;
        act(trader, ports.context(now))
    }

    /// One turn: feed and answers in, orders out.
    #[inline]
    pub fn poll(&mut self, now: Nanos) -> Result<u32, Error> {
        let mut frames = self.ports.poll(now, &mut self.trader)?;
        if self.ring.is_some() {
            frames += self.poll_ring(now)?;
        }
        if self.trader.deadline().is_some_and(|deadline| deadline <= now) {
            self.connect(now);
            let cx = self.ports.context(now);
            self.trader.on_time(cx);
            cx.flush();
        }
        if frames == 0 || self.trader.feed().stale_since().is_some() {
            self.ports.recover(now, &mut self.trader);
        }
        if frames == 0 {
            self.trader.prepare(self.ports.context(now));
            self.check_end(now);
        }
        Ok(frames)
    }

    /// Takes what another core has seen. An order's time begins where that core saw its tick.
    #[inline]
    fn poll_ring(&mut self, now: Nanos) -> Result<u32, Error> {
        /// Packets of one turn, at most: as many as a poll takes from a NIC's ring.
        const BURST: u32 = 32;
        let Self { ports, ring: Some(ring), trader, .. } = self else { return Ok(0) };
        let cx = ports.context(now);
        Ok(ring.poll(BURST, |seen, source, packet| trader.on_packet(cx, seen, source, packet))?)
    }

    /// The feed is over (or has been for so long that its end must have been lost), and every order has its answer.
    fn check_end(&mut self, now: Nanos) {
        let ended_at = self.shared.ended_at.load(Ordering::Acquire);
        let patience = if self.trader.feed().arbiter().gap_since().is_some() { LAST_RECOVERY } else { END_WAIT };
        let over = self.trader.feed().has_ended() || (ended_at != 0 && now > ended_at + patience);
        if over && self.trader.orders().tally.unanswered() == 0 && !self.shared.is_over() {
            let cx = self.ports.context(now);
            self.trader.log_out(cx);
            cx.flush();
            self.shared.finish();
        }
    }

    /// When the next turn is needed at the latest.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let ended_at = self.shared.ended_at.load(Ordering::Acquire);
        let end = (ended_at != 0).then(|| (ended_at + END_WAIT + 1).max(now + END_INTERVAL));
        let due = [self.ports.next_deadline(now), self.trader.deadline(), end, self.trader.feed().deadline()];
        due.into_iter().flatten().min()
    }

    /// Closes the ports; what was counted remains.
    pub fn finish(self) -> Result<TraderFigures, Error> {
        let Self { ports, trader, .. } = self;
        let ends = ports.finish()?;
        Ok(TraderFigures {
            feed: FeedFigures::of(trader.feed()),
            view: ViewFigures::of(trader.view()),
            tally: trader.orders().tally,
            link: LinkFigures::of(trader.link()),
            tick_to_trade: trader.tick_to_trade().into(),
            ring_wait: trader.ring_wait().quantiles(),
            ring_drops: 0,
            ends: ends.iter().map(EndFigures::from).collect(),
        })
    }
}
