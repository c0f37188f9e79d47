//! The exchange's host: orders in, what is due out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use barewire_driver::bus::Bus;
use barewire_driver::clock::Nanos;
use barewire_driver::ixgbe::{self, Tx};
use barewire_netstack::{Context, Event, TcpId};

use super::orders::OrderDesk;
use super::publisher::Publisher;
use super::services::Services;
use super::{ACCOUNTS, END_INTERVAL, End, EndStats, ORDERS, Shared, exchange_ip, order_session};
use crate::digest::Digest;
use crate::exchange::{Exchange, Outlet};
use crate::feed::retransmission;
use crate::market::compare::{self, POINTS};
use crate::market::schedule::Schedule;
use crate::market::{Config, Error, PhaseSpans};
use crate::order::gateway::{AccountId, Logs, Request};

/// How long the exchange waits for the trader at a point of comparison before it goes on without it.
const COMPARE_WAIT: Nanos = 50_000_000;

/// The exchange's host.
pub struct ExchangeHost {
    ends: Vec<End>,
    services: Vec<Services>,
    desk: Desk,
}

/// A client's message, before the engine takes it.
pub struct Seen<'a> {
    /// When it arrived.
    pub now: Nanos,
    /// Whose it is.
    pub account: AccountId,
    /// OUCH.
    pub message: &'a [u8],
    /// The engine.
    pub exchange: &'a Exchange,
}

/// Whoever is shown what clients send.
pub type Witness = Box<dyn FnMut(Seen<'_>)>;

struct Desk {
    config: Config,
    shared: Arc<Shared>,
    exchange: Exchange,
    publisher: Publisher,
    orders: OrderDesk,
    schedule: Option<Schedule>,
    digests: Vec<Digest>,
    /// How many of the cuts of the order connections are done.
    cuts: usize,
    /// Since when the trader is waited for.
    waiting: Option<Nanos>,
    lags: PhaseSpans,
    witness: Option<Witness>,
}

/// Where the engine's words go.
struct Outlets<'a> {
    publisher: &'a mut Publisher,
    logs: &'a mut Logs,
}

impl Outlet for Outlets<'_> {
    fn feed(&mut self, message: &[u8]) {
        self.publisher.push(message);
    }

    fn client(&mut self, account: AccountId, message: &[u8]) {
        self.logs.say(account, message);
    }
}

impl ExchangeHost {
    /// Opens the exchange's ports, one on each of `buses`, and listens. Orders come to the first.
    pub fn open(config: &Config, shared: Arc<Shared>, buses: &[Arc<dyn Bus>]) -> Result<Self, Error> {
        let open = |(wire, bus): (usize, &Arc<dyn Bus>)| {
            End::open(bus, exchange_ip(wire), config.seed, ixgbe::Config::default())
        };
        let mut ends = buses.iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
        ends[0].stack.context(0).tcp_listen(config.exchange_tcp, ORDERS.port(), &order_session())?;
        let services = ends.iter_mut().map(|end| Services::open(end.stack.context(0)));
        let services = services.collect::<Result<_, _>>()?;
        let desk = Desk {
            exchange: Exchange::new(config.seed, config.stocks, ACCOUNTS.len() as u16),
            config: config.clone(),
            shared,
            publisher: Publisher::new(&ends),
            orders: OrderDesk::default(),
            schedule: None,
            digests: Vec::with_capacity(POINTS),
            cuts: 0,
            waiting: None,
            lags: PhaseSpans::default(),
            witness: None,
        };
        Ok(Self { ends, services, desk })
    }

    /// Shows `witness` every message of a client.
    pub fn set_witness(&mut self, witness: Witness) {
        self.desk.witness = Some(witness);
    }

    /// The engine.
    pub fn exchange(&self) -> &Exchange {
        &self.desk.exchange
    }

    /// One turn: orders in, what is due out.
    pub fn poll(&mut self, now: Nanos) -> Result<(), Error> {
        let Self { ends, services, desk } = self;
        for (end, services) in ends.iter_mut().zip(services) {
            end.stack.poll(now, |cx, event| match event {
                Event::Accepted { listener, id } if listener.port == ORDERS.port() => desk.orders.accepted(cx, id),
                Event::Accepted { id, .. } => services.accepted(cx, id),
                Event::Tcp(id) => {
                    if !services.on_stream(cx, id, |say| desk.snapshot(now, say)) {
                        desk.on_stream(cx, id);
                    }
                }
                Event::Multicast { .. } | Event::TcpData { .. } => {}
            })?;
            services.serve(end.stack.context(now), desk.publisher.retransmitter());
        }
        desk.cut(ends[0].stack.context(now), now);
        desk.answer(ends[0].stack.context(now), now);
        desk.publish(ends, now);
        ends.iter_mut().for_each(|end| end.stack.context(now).flush());
        Ok(())
    }

    /// Resets all order connections, at which what is open of their orders is cancelled.
    pub fn close_sessions(&mut self, now: Nanos) {
        let Self { ends, desk, .. } = self;
        let (orders, serve) = desk.orders(now);
        let cx = ends[0].stack.context(now);
        orders.cut(cx, serve);
        cx.flush();
    }

    /// When the next turn is needed at the latest.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let desk = &self.desk;
        let schedule = desk.schedule.map(|schedule| {
            if desk.publisher.published() < desk.config.ticks {
                schedule.due(desk.publisher.published())
            } else {
                desk.publisher.last_packet() + END_INTERVAL
            }
        });
        let waiting = desk.waiting.map(|since| since + COMPARE_WAIT);
        let due = [schedule, desk.orders.deadline(), waiting, desk.next_cut()];
        due.into_iter().chain(self.ends.iter().map(|end| end.stack.next_deadline(now))).flatten().min()
    }

    /// Closes the ports; what was counted remains.
    pub fn finish(self) -> Result<ExchangeOutcome, Error> {
        let Self { ends, mut desk, .. } = self;
        Ok(ExchangeOutcome {
            exchange: desk.exchange.stats(),
            digests: desk.digests,
            lags: desk.lags,
            ends: ends.into_iter().map(End::close).collect::<Result<_, _>>()?,
            packets: desk.publisher.packets(),
            retransmissions: desk.publisher.retransmitter().stats(),
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
    pub lags: PhaseSpans,
    /// The ports' counters.
    pub ends: Vec<EndStats>,
    /// Packets of the feed, each sent on both lines.
    pub packets: u64,
    /// What became of re-requests.
    pub retransmissions: retransmission::Stats,
}

impl Desk {
    /// Says the books; returns the number of the feed's next message.
    fn snapshot(&mut self, now: Nanos, say: &mut dyn FnMut(&[u8])) -> u64 {
        self.exchange.snapshot(now, say);
        self.publisher.said() + 1
    }

    /// The order sessions, and what is to be done with what clients want.
    fn orders(&mut self, now: Nanos) -> (&mut OrderDesk, impl FnMut(AccountId, Request<'_>, &mut Logs)) {
        let Self { orders, exchange, publisher, schedule, config, witness, .. } = self;
        let serve = move |account: AccountId, request: Request<'_>, logs: &mut Logs| {
            let out = &mut Outlets { publisher, logs };
            match request {
                // The day begins with the first client.
                Request::LoggedIn if schedule.is_none() => {
                    *schedule = Some(Schedule::new(now, config.rate, config.burst));
                    exchange.start(now, out);
                }
                Request::LoggedIn => {}
                Request::Message(message) => {
                    if let Some(witness) = witness {
                        witness(Seen { now, account, message, exchange });
                    }
                    exchange.client(now, account, message, out);
                }
                Request::Left => exchange.disconnected(now, account, out),
            }
        };
        (orders, serve)
    }

    fn on_stream(&mut self, cx: &mut Context<Tx>, id: TcpId) {
        let (orders, serve) = self.orders(cx.now());
        orders.on_stream(cx, id, serve);
    }

    /// When the order connections are reset next.
    fn next_cut(&self) -> Option<Nanos> {
        self.config.order_cuts.get(self.cuts).copied()
    }

    fn cut(&mut self, cx: &mut Context<Tx>, now: Nanos) {
        while self.next_cut().is_some_and(|cut| cut <= now) {
            self.cuts += 1;
            let (orders, serve) = self.orders(now);
            orders.cut(cx, serve);
        }
    }

    fn answer(&mut self, cx: &mut Context<Tx>, now: Nanos) {
        let (orders, serve) = self.orders(now);
        orders.answer(cx, now, serve);
    }

    fn publish(&mut self, ends: &mut [End], now: Nanos) {
        let Some(mut schedule) = self.schedule else { return };
        let ticks = self.config.ticks;
        if self.publisher.said() >= ticks {
            // Nothing is held back any more for the last comparison; a wait left standing would be a deadline in the past for ever.
            self.waiting = None;
            self.drain(ends, now);
            return self.end(ends, now);
        }
        if let Some(since) = self.waiting {
            if self.shared.points.passed() < self.digests.len() && now < since + COMPARE_WAIT && !self.config.simulated
            {
                return self.drain(ends, now);
            }
            // The walk over the books is no tick: the open loop begins anew behind it.
            schedule.postpone(now - since);
            (self.schedule, self.waiting) = (Some(schedule), None);
        }
        // At most a datagram's worth a turn, so that orders are not kept waiting.
        const TURN: usize = 1200;
        let mut due = schedule.due(self.publisher.said());
        while due <= now && self.publisher.waiting() < TURN && self.waiting.is_none() {
            let (left, phase) = (ticks - self.publisher.said(), schedule.phase(self.publisher.said()));
            let is_late = left <= self.exchange.closing_messages();
            if is_late {
                self.exchange.close();
            }
            let out = &mut Outlets { publisher: &mut self.publisher, logs: self.orders.logs() };
            self.exchange.step(now, is_late, out);
            self.lags.record(phase, now - due);
            self.compare(now);
            if self.publisher.said() >= ticks {
                break;
            }
            due = schedule.due(self.publisher.said());
        }
        self.drain(ends, now);
    }

    /// At a point of comparison: takes the digest, and names the point before its last message leaves.
    fn compare(&mut self, now: Nanos) {
        let said = self.publisher.said();
        if self.digests.len() < POINTS && said >= compare::due(self.digests.len(), self.config.ticks) {
            self.shared.points.name(self.digests.len(), said);
            self.digests.push(self.exchange.digest());
            self.waiting = Some(now);
        }
    }

    fn drain(&mut self, ends: &mut [End], now: Nanos) {
        self.publisher.drain(ends, now);
        self.shared.progress.0.store(self.publisher.published(), Ordering::Relaxed);
    }

    /// Tells the end of the session, again and again until the trader is done.
    fn end(&mut self, ends: &mut [End], now: Nanos) {
        if self.publisher.waiting() > 0 {
            return;
        }
        let first = self.shared.ended_at.load(Ordering::Relaxed) == 0;
        if first {
            self.shared.ended_at.store(now.max(1), Ordering::Release);
        }
        if first || now >= self.publisher.last_packet() + END_INTERVAL {
            self.publisher.end(ends, now);
        }
    }
}
