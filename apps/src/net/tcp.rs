//! One TCP connection: echo, sink or source, with everything that passes hashed.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::net::SocketAddrV4;

use barewire_driver::TxQueue;
use barewire_driver::clock::Nanos;
use barewire_netstack::{Context, Event, Lane, ListenerId, TcpError, TcpId, TcpOptions, TcpState};
use rand::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Error;
use super::args::Role;
use super::session::{Activity, Identity, Turn};
use crate::market::Spans;

const SECOND: Nanos = 1_000_000_000;
/// How long an answer to SYN is waited for.
const CONNECT_WAIT: Nanos = 10 * SECOND;
/// How long nothing may move: TCP backs off for longer on a link that is down for a while.
const STALL: Nanos = 60 * SECOND;
/// How long the peer may take to close its half when ours is done.
const CLOSE_WAIT: Nanos = SECOND;
/// How long the acknowledgement of our FIN is waited for when the peer's is here: its first repetitions take seconds on a path that loses much.
const LAST_WAIT: Nanos = 20 * SECOND;
/// Bytes that a source hands over at a time, and that an echo holds at most.
const CHUNK: usize = 16 << 10;
/// A window is to hold as many segments of so many bytes; there are larger ones.
const SMALL_SEGMENT: u32 = 1024;

#[derive(Debug, Clone, Copy)]
enum Side {
    Listen,
    Connect,
}

/// A connection's bytes in one direction.
#[derive(Default)]
struct Tally {
    bytes: u64,
    hash: Sha256,
}

impl Tally {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn hex(&self) -> String {
        self.hash.clone().finalize().iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// What is done with a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub role: Role,
    /// Bytes that a source, or the client of an echo, sends.
    pub bytes: u64,
    /// Bytes of a message for echo.
    pub size: u16,
    /// Bytes that may be on their way, each way.
    pub window: u32,
    pub lane: Lane,
}

impl Plan {
    /// What the other end does.
    pub fn other(self) -> Self {
        Self { role: self.role.other(), ..self }
    }
}

/// Files rather than orders: a window for a path with some delay.
fn options(receive_window: u32) -> TcpOptions {
    TcpOptions { receive_window, timestamps: true, ..TcpOptions::default() }
}

/// A connection and what is done with it.
pub(super) struct Transfer {
    side: Side,
    /// The listener.
    address: SocketAddrV4,
    role: Role,
    /// Bytes that a source, or the client of an echo, sends.
    wanted: u64,
    /// Bytes of a message for echo.
    size: usize,
    window: u32,
    random: Pcg64Mcg,
    lane: Lane,
    listener: Option<ListenerId>,
    id: Option<TcpId>,
    state: TcpState,
    /// What is to be sent next.
    pending: Vec<u8>,
    sent: Tally,
    received: Tally,
    /// When the message that is under way was sent.
    asked: Option<Nanos>,
    round_trips: Spans,
    begun: Option<Nanos>,
    /// When something moved last, and how much was there then.
    moved: (Nanos, u64, usize),
    complete: bool,
}

impl Transfer {
    /// Waits on the port of `address`.
    pub fn listen(address: SocketAddrV4, plan: Plan) -> Result<Self, Error> {
        Self::new(Side::Listen, address, plan)
    }

    /// Connects to `address`.
    pub fn connect(address: SocketAddrV4, plan: Plan) -> Result<Self, Error> {
        Self::new(Side::Connect, address, plan)
    }

    fn new(side: Side, address: SocketAddrV4, plan: Plan) -> Result<Self, Error> {
        let Plan { role, bytes: wanted, size, window, lane } = plan;
        let size = usize::from(size);
        if !(1..=CHUNK).contains(&size) {
            return Err(Error::Input { what: "--size", allowed: "takes 1 to 16384 bytes" });
        }
        Ok(Self {
            side,
            address,
            role,
            wanted,
            size,
            window,
            random: Pcg64Mcg::seed_from_u64(wanted),
            lane,
            listener: None,
            id: None,
            state: TcpState::Closed,
            pending: Vec::with_capacity(CHUNK),
            sent: Tally::default(),
            received: Tally::default(),
            asked: None,
            round_trips: Spans::default(),
            begun: None,
            moved: (0, 0, 0),
            complete: false,
        })
    }

    /// Takes what has arrived. What it means that the connection is closed, its state says.
    fn receive<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) {
        let echoes = self.role == Role::Echo && matches!(self.side, Side::Listen);
        let Self { pending, received, .. } = self;
        let _ = cx.tcp_receive(id, |bytes| {
            let room = if echoes { CHUNK.saturating_sub(pending.len()) } else { bytes.len() };
            let taken = &bytes[..room.min(bytes.len())];
            received.add(taken);
            if echoes {
                pending.extend_from_slice(taken);
            }
            taken.len()
        });
    }

    /// What is to be sent next, if nothing is.
    fn prepare(&mut self, now: Nanos) {
        let left = usize::try_from(self.wanted - self.sent.bytes).unwrap_or(usize::MAX);
        let len = match (self.role, self.side) {
            _ if !self.pending.is_empty() => return,
            (Role::Source, _) => left.min(CHUNK),
            (Role::Echo, Side::Connect) => {
                if self.received.bytes < self.sent.bytes {
                    return;
                }
                if let Some(asked) = self.asked.take() {
                    self.round_trips.record(now.saturating_sub(asked));
                }
                left.min(self.size)
            }
            (Role::Sink, _) | (Role::Echo, Side::Listen) => return,
        };
        self.pending.resize(len, 0);
        self.random.fill_bytes(&mut self.pending);
    }

    fn send<T: TxQueue>(&mut self, cx: &mut Context<T>, id: TcpId) -> Result<(), Error> {
        loop {
            self.prepare(cx.now());
            if self.pending.is_empty() {
                return Ok(());
            }
            match cx.tcp_send(id, &self.pending) {
                Ok(sent) => {
                    self.asked.get_or_insert(cx.now());
                    self.sent.add(&self.pending[..sent]);
                    self.pending.drain(..sent);
                }
                // Acknowledgements make room, for the peer and in the ring.
                Err(TcpError::NoRoom { .. } | TcpError::TooManySegments | TcpError::Busy(_)) => return Ok(()),
                Err(_) => return Err(self.reset()),
            }
        }
    }

    /// Whether all that this side has to send was sent, and nothing more is expected before it closes.
    fn is_over(&self, state: TcpState) -> bool {
        match (self.role, self.side) {
            (Role::Source, _) => self.sent.bytes == self.wanted,
            (Role::Echo, Side::Connect) => self.received.bytes == self.wanted,
            (Role::Sink, _) | (Role::Echo, Side::Listen) => state == TcpState::CloseWait && self.pending.is_empty(),
        }
    }

    fn reset(&self) -> Error {
        Error::Reset { sent: self.sent.bytes, received: self.received.bytes }
    }

    /// When something moved last.
    fn watch(&mut self, now: Nanos, unacknowledged: usize) -> Nanos {
        let passed = self.sent.bytes + self.received.bytes;
        if (passed, unacknowledged) != (self.moved.1, self.moved.2) {
            self.moved = (now, passed, unacknowledged);
        }
        self.moved.0
    }

    /// Not connected yet.
    fn begin(&mut self, now: Nanos, state: TcpState) -> Result<bool, Error> {
        match (state, self.side) {
            (TcpState::Listen | TcpState::SynReceived, Side::Listen) => return Ok(false),
            (TcpState::SynSent, _) if now < self.moved.0 + CONNECT_WAIT => return Ok(false),
            (TcpState::SynSent | TcpState::Closed, _) => {
                let seconds = (now - self.moved.0).div_ceil(SECOND);
                return Err(Error::NoAnswer { peer: self.address.to_string(), seconds });
            }
            _ => {}
        }
        self.begun = Some(now);
        self.moved.0 = now;
        Ok(true)
    }
}

impl Activity for Transfer {
    fn frames(&self) -> u32 {
        self.window / SMALL_SEGMENT
    }

    fn start<T: TxQueue>(&mut self, cx: &mut Context<T>, _: &Identity) -> Result<(), Error> {
        self.moved.0 = cx.now();
        let options = options(self.window);
        match self.side {
            Side::Listen => self.listener = Some(cx.tcp_listen(self.lane, self.address.port(), &options)?),
            Side::Connect => self.id = Some(cx.tcp_connect(self.lane, self.address, &options)?),
        }
        Ok(())
    }

    fn event<T: TxQueue>(&mut self, cx: &mut Context<T>, event: Event<'_>) {
        if let Event::Accepted { id, listener } = event
            && self.id.is_none()
        {
            // One connection is served.
            self.id = Some(id);
            cx.tcp_unlisten(listener);
        }
    }

    fn turn<T: TxQueue>(&mut self, cx: &mut Context<T>) -> Result<Turn, Error> {
        let Some(id) = self.id else { return Ok(Turn::Wait(None)) };
        let (now, mut state) = (cx.now(), cx.tcp_state(id));
        if self.begun.is_none() && !self.begin(now, state)? {
            return Ok(Turn::Wait(None));
        }
        self.receive(cx, id);
        if matches!(state, TcpState::Established | TcpState::CloseWait) {
            self.send(cx, id)?;
            if self.is_over(state) {
                cx.tcp_close(id);
                // The express lane has sent its FIN by now, and one poll can bring the answer: LAST-ACK must have been seen.
                state = cx.tcp_state(id);
            }
        }
        // RFC 9293, 3.3.2: from these states on the peer has everything.
        let acknowledged = matches!(state, TcpState::FinWait2 | TcpState::TimeWait);
        let closed = state == TcpState::Closed;
        self.complete |= acknowledged || closed && self.state == TcpState::LastAck;
        if closed && !self.complete {
            return Err(self.reset());
        }
        // Closing may have changed it, and its end may be the next thing that is seen.
        self.state = cx.tcp_state(id);
        let quiet = now - self.watch(now, cx.tcp_unacknowledged(id));
        if closed || state == TcpState::TimeWait {
            return Ok(Turn::Done);
        }
        let half = match state {
            TcpState::FinWait2 => Some(CLOSE_WAIT),
            TcpState::LastAck => Some(LAST_WAIT),
            _ => None,
        };
        if half.is_some_and(|most| quiet > most) {
            self.complete = true;
            return Ok(Turn::Done);
        }
        if quiet > STALL {
            let (sent, received) = (self.sent.bytes, self.received.bytes);
            return Err(Error::Stalled { seconds: STALL / SECOND, sent, received });
        }
        Ok(Turn::Wait(Some(self.moved.0 + half.unwrap_or(STALL) + 1)))
    }

    fn end<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        if let Some(id) = self.id.filter(|_| !self.complete) {
            cx.tcp_abort(id);
        }
    }

    fn report(&self, _: f64) -> (Value, Option<String>) {
        let span = self.begun.map_or(0, |begun| self.moved.0.saturating_sub(begun));
        let bytes = self.sent.bytes + self.received.bytes;
        let mut report = json!({
            "role": match self.role { Role::Echo => "echo", Role::Sink => "sink", Role::Source => "source" },
            "address": self.address.to_string(), "complete": self.complete,
            "bytes_sent": self.sent.bytes, "sha256_sent": self.sent.hex(),
            "bytes_received": self.received.bytes, "sha256_received": self.received.hex(),
            "megabytes_per_second": bytes as f64 * 1e3 / span.max(1) as f64,
        });
        if self.role == Role::Echo && matches!(self.side, Side::Connect) {
            report["round_trip_ns"] = json!(self.round_trips.quantiles());
        }
        let differs = self.role == Role::Echo && self.sent.hex() != self.received.hex();
        let failure = match () {
            () if self.begun.is_none() => Some("ended before a connection was there".to_owned()),
            () if !self.complete => Some("ended before everything was transferred".to_owned()),
            () if differs => Some("what came back is not what was sent".to_owned()),
            () => None,
        };
        (report, failure)
    }
}
