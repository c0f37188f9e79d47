//! The gateway's process: orders that passed the limits in, the order session, and what the exchange says out.

use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::ixgbe;
use barewire_netstack::ipc::Writer;
use barewire_netstack::{Event, Lane, TcpId, TcpState};
use zerocopy::{FromBytes, IntoBytes};

use super::message::{Instruction, News, instruction, news};
use super::{Frame, Home, Stop, send};
use crate::fields::Alpha;
use crate::market::figures::{EndFigures, LinkFigures, PhaseFigures};
use crate::market::hosts::{End, GATEWAY_IP, ORDERS, PATIENCE, order_session};
use crate::market::schedule::Phase;
use crate::market::{Config, Error, PhaseSpans};
use crate::trade::limits::Refusal;
use crate::trade::link::OrderLink;
use crate::trade::orders::Answer;

/// Instructions of one turn, at most.
const BURST: u32 = 64;
/// How long the close of the connection is waited for.
const CLOSE_WAIT: Nanos = 1_000_000_000;

struct Gateway {
    clock: Clock,
    lane: Lane,
    end: End,
    link: OrderLink,
    out: Out,
    has_started: bool,
    has_logged_out: bool,
    tick_to_trade: PhaseSpans,
}

/// The way back to risk.
struct Out {
    ring: Writer,
    epoch: u32,
    is_ready: bool,
    failure: Option<Error>,
}

impl Out {
    fn say(&mut self, news: &News) {
        if let Err(error) = send(&mut self.ring, news.as_bytes()) {
            self.failure.get_or_insert(error);
        }
    }

    fn answer(&mut self, answer: Answer) {
        let (kind, number, shares) = match answer {
            Answer::Accepted { number } => (news::ACCEPTED, number, 0),
            Answer::Rejected { number } => (news::REJECTED, number, 0),
            Answer::Executed { number, shares } => (news::EXECUTED, number, shares),
            Answer::Cancelled { number, shares } => (news::CANCELLED, number, shares),
            Answer::Settled { next } => (news::SETTLED, next, 0),
        };
        self.say(&News { kind, number, shares, ..News::default() });
    }

    /// The session is ready for orders, or is not. What was meant for an earlier epoch is not sent: its orders count as lost.
    fn ready(&mut self, is_ready: bool) {
        if is_ready != self.is_ready {
            self.is_ready = is_ready;
            self.epoch += u32::from(is_ready);
            let kind = if is_ready { news::READY } else { news::DOWN };
            self.say(&News { kind, epoch: self.epoch, ..News::default() });
        }
    }
}

impl Gateway {
    fn poll(&mut self, now: Nanos) -> Result<u32, Error> {
        let Self { end, link, out, .. } = self;
        let frames = end.stack.poll(now, |cx, event| match event {
            Event::TcpData { id, data } => link.on_data(cx, id, data, |answer| out.answer(answer)),
            Event::Tcp(id) => link.on_stream(cx, id, |answer| out.answer(answer)),
            Event::Multicast { .. } | Event::Accepted { .. } => {}
        })?;
        if self.has_started && !self.has_logged_out {
            self.serve(now);
        }
        Ok(frames)
    }

    /// Opens the connection where that is due, and sends what the session has to send.
    fn serve(&mut self, now: Nanos) {
        let Self { end, link, out, lane, .. } = self;
        let cx = end.stack.context(now);
        if link.connect_due(now) {
            match cx.tcp_connect(*lane, ORDERS, &order_session()) {
                Ok(id) => link.connecting(id),
                Err(error) => {
                    log::warn!("order session: {error}");
                    link.disconnected(now);
                }
            }
        }
        link.pump(cx);
        cx.flush();
        out.ready(link.session().is_ready());
    }

    fn instruct(&mut self, now: Nanos, bytes: &[u8]) {
        let Ok(instructed) = Instruction::read_from_bytes(bytes) else { return };
        match instructed.kind {
            instruction::START => self.has_started = true,
            instruction::ORDER => self.order(now, &instructed),
            instruction::CANCEL_ALL => {
                let cx = self.end.stack.context(now);
                self.link.cancel_all(cx, instructed.number);
                cx.flush();
            }
            _ => self.has_logged_out = true,
        }
    }

    fn order(&mut self, now: Nanos, instructed: &Instruction) {
        let Self { clock, end, link, out, tick_to_trade, .. } = self;
        let Instruction { seen, order, number, epoch, .. } = *instructed;
        let sent = match epoch == out.epoch {
            true => {
                let (cx, symbol) = (end.stack.context(now), Alpha(order.symbol));
                link.send(cx, number, &order.intent(), symbol, clock, &mut ())
            }
            false => Err(Refusal::NoSession),
        };
        match sent {
            Ok(sent) => {
                let phase = if order.is_burst != 0 { Phase::Burst } else { Phase::Calm };
                tick_to_trade.record(phase, sent.at.saturating_sub(seen));
            }
            Err(reason) => out.say(&News { number, kind: news::UNSENT, reason: reason as u8, ..News::default() }),
        }
    }

    /// Logs out, and waits for the connection to close.
    fn close(&mut self) -> Result<(), Error> {
        let now = self.clock.now();
        let cx = self.end.stack.context(now);
        let connection = self.link.log_out(cx);
        cx.flush();
        let Some(id) = connection else { return Ok(()) };
        while !self.is_closed(id) && self.clock.now() < now + CLOSE_WAIT {
            self.poll(self.clock.now())?;
            std::thread::yield_now();
        }
        Ok(())
    }

    fn is_closed(&mut self, id: TcpId) -> bool {
        let cx = self.end.stack.context(self.clock.now());
        matches!(cx.tcp_state(id), TcpState::Closed | TcpState::TimeWait)
    }
}

/// Runs until it is told to log out; also where another process has died.
pub(super) fn run(mut frame: Frame, config: &Config) -> Result<Home, Error> {
    let buses = frame.buses()?;
    let places = &frame.plan.places;
    let mut orders = Frame::reader(&places.orders)?;
    let out = Out { ring: Frame::writer(&places.news)?, epoch: 0, is_ready: false, failure: None };
    let bus = buses.first().ok_or_else(|| Error::Processes(std::io::Error::other("the gateway has no port")))?;
    let mut gateway = Gateway {
        clock: frame.clock.clone(),
        lane: config.trader_tcp,
        end: End::open(bus, GATEWAY_IP, config.seed ^ 2, ixgbe::Config::default())?,
        link: OrderLink::new(PATIENCE),
        out,
        has_started: false,
        has_logged_out: false,
        tick_to_trade: PhaseSpans::default(),
    };
    let mut stopped: Option<Stop> = None;
    while !gateway.has_logged_out && stopped.is_none() {
        let now = frame.clock.now();
        let frames = gateway.poll(now)?;
        let taken = orders.poll(BURST, |bytes| gateway.instruct(now, bytes))?;
        if let Some(error) = gateway.out.failure.take() {
            return Err(error);
        }
        stopped = frame.turn(now, frames + taken > 0).err();
    }
    gateway.close()?;
    let mut home = Home { stopped, ..Home::default() };
    home.figures.link = LinkFigures::of(&gateway.link);
    home.figures.tick_to_trade = PhaseFigures::from(&gateway.tick_to_trade);
    home.figures.ends = vec![EndFigures::from(&gateway.end.close()?)];
    Ok(home)
}
