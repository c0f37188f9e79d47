//! The feed's process: two lines and recovery in, one gapless sequence of messages out.

use barewire_driver::clock::Nanos;
use barewire_driver::ixgbe::Tx;
use barewire_netstack::ipc::Writer;
use barewire_netstack::{Context, Datagram, TcpId};
use zerocopy::IntoBytes;

use super::message::{FromFeed, LONGEST, feed as kind, with_body};
use super::{Frame, Home, Stop, send};
use crate::feed::arbiter::Source;
use crate::feed::handler::{Handler, Update};
use crate::market::figures::{EndFigures, FeedFigures};
use crate::market::hosts::{FeedPorts, Follower};
use crate::market::{Config, Error, Spans};

/// How often the strategy is told how the feed stands, when nothing else is said.
const STATE_INTERVAL: Nanos = 25_000_000;

/// Hands on what the feed says.
struct Relay {
    feed: Handler,
    out: Out,
    ring_wait: Spans,
}

/// The way to the strategy.
struct Out {
    ring: Writer,
    /// When something was last heard.
    heard: Nanos,
    is_stale: bool,
    /// The ring is of no use any more.
    failure: Option<Error>,
}

impl Out {
    fn say(&mut self, kind: u8, seen: Nanos, number: u64, is_late: bool, body: &[u8]) {
        let Self { ring, heard, is_stale, failure } = self;
        let header = FromFeed {
            seen,
            heard: *heard,
            number,
            kind,
            is_late: is_late.into(),
            is_stale: (*is_stale).into(),
            padding: [0; 5],
        };
        let mut buffer = [0; LONGEST];
        // What is longer than every message of ITCH goes without its body, and counts as malformed.
        let message = with_body(&mut buffer, &header, body).unwrap_or(header.as_bytes());
        if let Err(error) = send(ring, message) {
            failure.get_or_insert(error);
        }
    }

    fn update(&mut self, now: Nanos, update: Update<'_>) {
        match update {
            Update::Message(message) => self.say(kind::MESSAGE, now, message.number, message.is_late, message.bytes),
            Update::Reset => self.say(kind::RESET, now, 0, false, &[]),
            Update::Snapshot(bytes) => self.say(kind::SNAPSHOT, now, 0, false, bytes),
            Update::Complete(next) => self.say(kind::COMPLETE, now, next, false, &[]),
        }
    }
}

impl Relay {
    fn packet(&mut self, now: Nanos, source: Source, packet: &[u8]) {
        let Self { feed, out, .. } = self;
        (out.heard, out.is_stale) = (now, feed.stale_since().is_some());
        feed.receive(now, source, packet, |message| out.update(now, Update::Message(message)));
    }

    fn state(&mut self, now: Nanos, kind: u8) {
        self.out.is_stale = self.feed.stale_since().is_some();
        self.out.say(kind, now, 0, false, &[]);
    }
}

impl Follower for Relay {
    fn on_datagram(&mut self, _: &mut Context<Tx>, now: Nanos, source: Source, datagram: &Datagram<'_>) {
        self.packet(now, source, datagram.payload);
        if let Some(arrived) = datagram.meta.timestamp() {
            self.ring_wait.record(now.saturating_sub(arrived.ns));
        }
    }

    fn on_answer(&mut self, _: &mut Context<Tx>, now: Nanos, packet: &[u8]) {
        self.packet(now, Source::Recovery, packet);
    }

    fn on_snapshot(&mut self, _: &mut Context<Tx>, now: Nanos, bytes: &[u8]) {
        let Self { feed, out, .. } = self;
        feed.snapshot(now, bytes, |update| out.update(now, update));
    }

    fn on_stream(&mut self, _: &mut Context<Tx>, _: TcpId) {}

    fn on_data(&mut self, _: &mut Context<Tx>, _: TcpId, _: &[u8]) {}

    fn feed(&mut self) -> &mut Handler {
        &mut self.feed
    }
}

/// Runs until the feed is over.
pub(super) fn run(mut frame: Frame, config: &Config) -> Result<Home, Error> {
    let (buses, clock) = (frame.buses()?, frame.clock.clone());
    let ring = Frame::writer(&frame.plan.places.messages)?;
    let mut ports = FeedPorts::open(config, clock.clone(), &buses)?;
    let out = Out { ring, heard: clock.now(), is_stale: false, failure: None };
    let mut relay = Relay { feed: Handler::new(buses.len()), out, ring_wait: Spans::default() };
    let stopped = follow(&mut frame, &mut ports, &mut relay)?;
    let mut home = Home { stopped, ..Home::default() };
    home.figures.feed = FeedFigures::of(&relay.feed);
    home.figures.ring_wait = relay.ring_wait.quantiles();
    home.figures.ends = ports.finish()?.iter().map(EndFigures::from).collect();
    Ok(home)
}

fn follow(frame: &mut Frame, ports: &mut FeedPorts, relay: &mut Relay) -> Result<Option<Stop>, Error> {
    let mut next_state = 0;
    loop {
        let now = frame.clock.now();
        let frames = ports.poll(now, relay)?;
        if frames == 0 || relay.feed.stale_since().is_some() {
            ports.recover(now, relay);
        }
        if relay.feed.has_ended() {
            relay.state(now, kind::END);
        } else if now >= next_state {
            next_state = now + STATE_INTERVAL;
            relay.state(now, kind::STATE);
        }
        if let Some(error) = relay.out.failure.take() {
            return Err(error);
        }
        if relay.feed.has_ended() {
            return Ok(None);
        }
        if let Err(stop) = frame.turn(now, frames > 0) {
            return Ok(Some(stop));
        }
    }
}
