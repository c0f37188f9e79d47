//! ICMP echo (RFC 792): requests on an open loop, and the host that answers them.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use barewire_driver::TxQueue;
use barewire_driver::clock::Nanos;
use barewire_netstack::{Context, Echo, Event, PingId};
use serde_json::{Value, json};

use super::Error;
use super::args::PingArgs;
use super::session::{Activity, Identity, Turn};
use crate::market::Spans;

/// How long an answer is waited for.
const WAIT: Nanos = 2_000_000_000;
const MAX_PAYLOAD: u16 = 1472;

/// The host stack answers by itself.
pub(super) struct Answer;

impl Activity for Answer {
    fn start<T: TxQueue>(&mut self, _: &mut Context<T>, _: &Identity) -> Result<(), Error> {
        Ok(())
    }

    fn event<T: TxQueue>(&mut self, _: &mut Context<T>, _: Event<'_>) {}

    fn turn<T: TxQueue>(&mut self, _: &mut Context<T>) -> Result<Turn, Error> {
        Ok(Turn::Wait(None))
    }

    fn report(&self, _: f64) -> (Value, Option<String>) {
        (json!({ "role": "answer" }), None)
    }
}

/// Sends requests and takes the time of their answers.
pub(super) struct Ping {
    target: Ipv4Addr,
    payload: Vec<u8>,
    interval: Nanos,
    id: Option<PingId>,
    /// When each request was sent; taken away by its answer.
    sent: Vec<Option<Nanos>>,
    count: u16,
    next: Nanos,
    received: u64,
    /// Answers with other bytes, from others, or for the second time.
    strange: u64,
    round_trips: Spans,
}

impl Ping {
    pub fn new(target: Ipv4Addr, args: &PingArgs) -> Result<Self, Error> {
        let refuse = |what, allowed| Err(Error::Input { what, allowed });
        if args.size > MAX_PAYLOAD {
            return refuse("--size", "takes 0 to 1472 bytes");
        }
        if args.count == 0 {
            return refuse("--count", "takes 1 to 65535 requests");
        }
        if target.is_multicast() || target.is_broadcast() || target.is_unspecified() {
            return refuse("the target", "must be one host's address");
        }
        Ok(Self {
            target,
            payload: (0..args.size).map(|at| at as u8).collect(),
            interval: u64::from(args.interval_ms) * 1_000_000,
            id: None,
            sent: Vec::with_capacity(args.count.into()),
            count: args.count,
            next: 0,
            received: 0,
            strange: 0,
            round_trips: Spans::default(),
        })
    }

    fn take(&mut self, now: Nanos, from: Ipv4Addr, echo: Echo<'_>) {
        let expected = from == self.target && echo.payload == self.payload;
        match self.sent.get_mut(usize::from(echo.sequence)).and_then(Option::take).filter(|_| expected) {
            Some(sent) => {
                self.received += 1;
                self.round_trips.record(now.saturating_sub(sent));
            }
            None => self.strange += 1,
        }
    }
}

impl Activity for Ping {
    fn start<T: TxQueue>(&mut self, cx: &mut Context<T>, identity: &Identity) -> Result<(), Error> {
        let [.., a, b] = identity.mac.0;
        self.id = Some(cx.ping_open(u16::from_be_bytes([a, b]))?);
        self.next = cx.now();
        Ok(())
    }

    fn event<T: TxQueue>(&mut self, _: &mut Context<T>, _: Event<'_>) {}

    fn turn<T: TxQueue>(&mut self, cx: &mut Context<T>) -> Result<Turn, Error> {
        let Some(id) = self.id else { return Ok(Turn::Done) };
        let now = cx.now();
        while cx.ping_receive(id, |from, echo| self.take(now, from, echo)) {}
        let sequence = self.sent.len() as u16;
        if sequence < self.count {
            if now >= self.next {
                let echo = Echo { sequence, payload: &self.payload };
                // No room: as lost as on the wire, and counted so.
                let queued = cx.ping_send(id, self.target, echo).is_ok();
                self.sent.push(queued.then_some(now));
                self.next = now + self.interval;
            }
            return Ok(Turn::Wait(Some(self.next)));
        }
        let give_up = self.next.saturating_sub(self.interval) + WAIT;
        let waiting = self.sent.iter().any(Option::is_some) && now < give_up;
        Ok(if waiting { Turn::Wait(Some(give_up)) } else { Turn::Done })
    }

    fn report(&self, seconds: f64) -> (Value, Option<String>) {
        let sent = self.sent.len() as u64;
        let report = json!({
            "role": "request", "target": self.target.to_string(), "size": self.payload.len(),
            "sent": sent, "received": self.received, "lost": sent - self.received, "strange": self.strange,
            "requests_per_second": sent as f64 / seconds.max(1e-9),
            "round_trip_ns": self.round_trips.quantiles(),
        });
        let silent = sent > 0 && self.received == 0;
        (report, silent.then(|| format!("{}: no answer to {sent} requests", self.target)))
    }
}
