//! Numbered datagrams to a group: sent on an open loop, received and counted.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};

use barewire_driver::TxQueue;
use barewire_driver::clock::Nanos;
use barewire_netstack::{Context, Event, ReceiverId, Route};
use serde_json::{Value, json};

use super::Error;
use super::args::StreamArgs;
use super::session::{Activity, Identity, Turn};
use crate::market::Spans;

const SECOND: Nanos = 1_000_000_000;
/// Number and time of sending, nanoseconds since 1970, both 64 bits, big-endian.
const STAMPS: u16 = 16;
const MAX_PAYLOAD: u16 = 1472;
/// Numbers that a receiver tells apart: a bit each.
const MOST: u64 = 1 << 27;
/// How long nothing may arrive after the first datagram before the stream counts as over.
const QUIET: Nanos = 2 * SECOND;
/// Datagrams in one turn, at most: the ring and the far end must keep up.
const BURST: u32 = 32;
/// A sender gives the receivers' membership this long to reach switches.
const SETTLE: Nanos = SECOND / 5;

fn check(args: &StreamArgs) -> Result<(), Error> {
    let refuse = |what, allowed| Err(Error::Input { what, allowed });
    if !args.group.ip().is_multicast() || args.group.port() == 0 {
        return refuse("the group", "must be a multicast address and a port, such as 239.1.1.1:5000");
    }
    if !(1..=MOST).contains(&args.count) {
        return refuse("--count", "takes 1 to 134217728 datagrams");
    }
    if !(1..=SECOND).contains(&args.rate) {
        return refuse("--rate", "takes 1 to 1000000000 datagrams a second");
    }
    if !(STAMPS..=MAX_PAYLOAD).contains(&args.size) {
        return refuse("--size", "takes 16 to 1472 bytes");
    }
    Ok(())
}

/// Sends.
pub(super) struct Send {
    group: SocketAddrV4,
    source: Ipv4Addr,
    count: u64,
    rate: u64,
    size: u16,
    /// What makes our time the time since 1970.
    epoch: Nanos,
    route: Option<Route>,
    start: Nanos,
    sent: u64,
    /// From the intended to the real time of sending.
    lag: Spans,
}

impl Send {
    pub fn new(args: &StreamArgs, source: Ipv4Addr) -> Result<Self, Error> {
        check(args)?;
        let StreamArgs { group, count, rate, size, .. } = *args;
        Ok(Self { group, source, count, rate, size, epoch: 0, route: None, start: 0, sent: 0, lag: Spans::default() })
    }

    fn due(&self) -> Nanos {
        self.start + (u128::from(self.sent) * u128::from(SECOND) / u128::from(self.rate)) as Nanos
    }
}

impl Activity for Send {
    fn start<T: TxQueue>(&mut self, cx: &mut Context<T>, identity: &Identity) -> Result<(), Error> {
        let source = SocketAddrV4::new(self.source, self.group.port());
        self.route = Some(Route::new(identity.mac, source, self.group, 1, None));
        self.epoch = identity.epoch;
        self.start = cx.now() + SETTLE;
        Ok(())
    }

    fn event<T: TxQueue>(&mut self, _: &mut Context<T>, _: Event<'_>) {}

    fn turn<T: TxQueue>(&mut self, cx: &mut Context<T>) -> Result<Turn, Error> {
        let Some(route) = &self.route else { return Ok(Turn::Done) };
        let now = cx.now();
        for _ in 0..BURST {
            let due = self.due();
            if self.sent == self.count {
                return Ok(Turn::Done);
            }
            if due > now {
                return Ok(Turn::Wait(Some(due)));
            }
            // No buffer or no descriptor: the device is behind; the datagram stays due.
            let Ok(mut datagram) = cx.datagram(route) else { break };
            let Some(payload) = datagram.payload_mut().get_mut(..self.size.into()) else { break };
            payload.fill(0);
            payload[..8].copy_from_slice(&self.sent.to_be_bytes());
            payload[8..16].copy_from_slice(&(now + self.epoch).to_be_bytes());
            if cx.send(datagram, self.size).is_err() {
                break;
            }
            self.lag.record(now - due);
            self.sent += 1;
        }
        Ok(Turn::Wait(Some(now)))
    }

    fn report(&self, seconds: f64) -> (Value, Option<String>) {
        let report = json!({
            "role": "send", "group": self.group.to_string(), "size": self.size, "sent": self.sent,
            "datagrams_per_second": self.sent as f64 / seconds.max(1e-9),
            "schedule_lag_ns": self.lag.quantiles(),
        });
        let short = self.sent < self.count;
        (report, short.then(|| format!("ended after {} of {} datagrams", self.sent, self.count)))
    }
}

/// Receives.
pub(super) struct Receive {
    group: SocketAddrV4,
    wanted: u64,
    epoch: Nanos,
    receiver: Option<ReceiverId>,
    /// A bit for every number that has arrived.
    seen: Vec<u64>,
    received: u64,
    duplicates: u64,
    /// Numbers that came after a higher one.
    late: u64,
    /// Places where the next number was not the one expected.
    gaps: u64,
    next: u64,
    /// Datagrams that are none of a sender's.
    strange: u64,
    first: Option<Nanos>,
    last: Nanos,
    latency: Spans,
}

impl Receive {
    pub fn new(args: &StreamArgs) -> Result<Self, Error> {
        check(args)?;
        Ok(Self {
            group: args.group,
            wanted: args.count,
            epoch: 0,
            receiver: None,
            seen: vec![0; args.count.div_ceil(64) as usize],
            received: 0,
            duplicates: 0,
            late: 0,
            gaps: 0,
            next: 0,
            strange: 0,
            first: None,
            last: 0,
            latency: Spans::default(),
        })
    }

    fn take(&mut self, now: Nanos, payload: &[u8]) {
        let stamps =
            payload.split_first_chunk::<8>().and_then(|(number, rest)| Some((number, rest.first_chunk::<8>()?)));
        let numbered = stamps.map(|(number, sent)| (u64::from_be_bytes(*number), u64::from_be_bytes(*sent)));
        let Some((number, sent)) = numbered.filter(|(number, _)| *number < self.wanted) else {
            self.strange += 1;
            return;
        };
        self.first.get_or_insert(now);
        self.last = now;
        let (word, bit) = (&mut self.seen[(number / 64) as usize], 1 << (number % 64));
        if *word & bit != 0 {
            self.duplicates += 1;
            return;
        }
        *word |= bit;
        self.received += 1;
        // Zero where it came in the middle of the poll, or the sender's clock is ahead of ours.
        self.latency.record((now + self.epoch).saturating_sub(sent));
        if number < self.next {
            self.late += 1;
        } else {
            self.gaps += u64::from(number > self.next);
            self.next = number + 1;
        }
    }
}

impl Activity for Receive {
    fn start<T: TxQueue>(&mut self, cx: &mut Context<T>, identity: &Identity) -> Result<(), Error> {
        self.epoch = identity.epoch;
        self.receiver = Some(cx.join(*self.group.ip(), self.group.port(), None)?);
        Ok(())
    }

    fn event<T: TxQueue>(&mut self, cx: &mut Context<T>, event: Event<'_>) {
        if let Event::Multicast { datagram, .. } = event {
            self.take(cx.now(), datagram.payload);
        }
    }

    fn turn<T: TxQueue>(&mut self, cx: &mut Context<T>) -> Result<Turn, Error> {
        let over = self.first.map(|_| self.last + QUIET);
        let ended = self.received == self.wanted || over.is_some_and(|over| cx.now() >= over);
        Ok(if ended { Turn::Done } else { Turn::Wait(over) })
    }

    fn end<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        if let Some(receiver) = self.receiver.take() {
            cx.leave(receiver);
        }
    }

    fn report(&self, _: f64) -> (Value, Option<String>) {
        let span = self.last.saturating_sub(self.first.unwrap_or(self.last));
        let missing = self.wanted - self.received;
        let report = json!({
            "role": "receive", "group": self.group.to_string(), "wanted": self.wanted, "received": self.received,
            "missing": missing, "gaps": self.gaps, "late": self.late, "duplicates": self.duplicates,
            "strange": self.strange,
            "datagrams_per_second": self.received.saturating_sub(1) as f64 * 1e9 / span.max(1) as f64,
            "latency_ns": self.latency.quantiles(),
        });
        (report, (missing > 0).then(|| format!("{missing} of {} datagrams did not arrive", self.wanted)))
    }
}
