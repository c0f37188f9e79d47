//! The express lane for TCP (RFC 9293): order-entry sessions that neither copy nor allocate, sans-IO, in nanoseconds.
//!
//! `session` is what a connection knows; `input` takes segments in, `output` sends, `recovery` deals with loss; `state` is the RFC's
//! diagram. This module is the lane around the sessions: it finds, opens and ends them, and runs their timers.

mod config;
mod input;
mod listen;
mod options;
mod output;
mod parked;
mod recovery;
mod report;
mod rtt;
mod seq;
mod session;
mod slab;
mod state;
mod table;
mod timers;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddrV4};

use barewire_driver::clock::Nanos;
use barewire_driver::pool::Buffer;
use barewire_driver::{Frame, MacAddress, TxError, TxQueue};

pub use config::{Keepalive, TcpConfig, TcpOptions};
pub use parked::{Delegated, Parked};
pub use report::{Retransmits, TcpEnd, TcpHappening, TcpReport, TcpStats};
pub use state::TcpState;
pub use usage::TcpUsage;

use crate::wire::{Segment, flag};
use listen::Listener;
use output::Addresses;
use seq::Seq;
use session::{Birth, Flags, NEVER, SentFrame, Session, Shared, Waiting, Work};
use slab::Slab;
use state::Cause;
use table::{Key, Table};
use timers::Timers;

/// Where our own ports come from (RFC 6335, 6: dynamic ports).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// The shortest time between keepalive probes, in nanoseconds.
const SHORTEST_INTERVAL: Nanos = 1_000_000;

/// The longest an acknowledgement may wait, in nanoseconds (RFC 9293, 3.8.6.3: MUST-40).
const LONGEST_ACK_DELAY: Nanos = 499_000_000;

/// Names a session of the express lane. Of one that is over, everything says that it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId {
    index: u32,
    generation: u32,
}

/// Why a TCP operation was not done. Nothing was sent; the connection is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The peer's window, the congestion window or the send buffer has not enough room.
    #[error("there is room for {room} bytes now; send less, or wait for the event that says there is more")]
    NoRoom {
        /// Bytes that could be sent.
        room: usize,
    },
    /// The connection cannot send or receive in its state.
    #[error("connection is {0:?}, and not open for this")]
    NotOpen(TcpState),
    /// The port is zero or the address is no host's.
    #[error("address or port cannot be used for a connection")]
    BadAddress,
    /// Somebody listens there already.
    #[error("port {0} has a listener already")]
    PortInUse(u16),
    /// Every port of ours is taken towards this address.
    #[error("no port is left for a connection to this address; close some")]
    NoPort,
    /// Every session is in use.
    #[error("all {0} sessions are in use; release closed ones, or configure more")]
    NoSession(u32),
    /// No payload, or more than a segment holds.
    #[error("a segment holds 1 to {most} bytes of payload")]
    BadLength {
        /// The largest payload.
        most: u16,
    },
    /// Too many segments wait for their acknowledgement.
    #[error("all retained segments are in use; wait for acknowledgements, or configure more")]
    TooManySegments,
    /// The queue did not take the frame.
    #[error(transparent)]
    Busy(TxError),
    /// A sibling of this parked message was released, or its session is over.
    #[error("the parked message is void: a sibling was released, or the session is over")]
    Voided,
    /// Somebody else is sending for this session.
    #[error("a delegated send is under way; complete or cancel it first")]
    Delegated,
    /// Only the express lane can do this.
    #[error("the host stack cannot do this; open the connection in the express lane")]
    HostLane,
}

/// A payload being written, behind its headers, in the buffer it will be sent from.
pub struct Message {
    pub(crate) session: SessionId,
    buffer: Buffer,
    header_len: u8,
    room: u16,
}

impl Message {
    /// The room for the payload.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.header_len);
        self.buffer.get_mut(start..start + usize::from(self.room)).unwrap_or_default()
    }

    /// The session it is for.
    pub fn session(&self) -> SessionId {
        self.session
    }
}

/// What the user is to hear of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct News {
    pub id: SessionId,
    /// The port of the listener that has just accepted it.
    pub accepted: Option<u16>,
}

/// The lane.
pub(crate) struct Tcp {
    config: TcpConfig,
    mac: MacAddress,
    ip: Ipv4Addr,
    secret: u64,
    sessions: Box<[Session]>,
    vacant: Vec<u32>,
    listeners: Vec<Listener>,
    half_open: VecDeque<SessionId>,
    /// Sessions whose next hop is not resolved.
    unresolved: Vec<u32>,
    shared: Shared,
}

/// A session that is not behind and what it works with, borrowed apart.
macro_rules! with {
    ($lane:ident, $index:expr, $now:expr, $tx:expr, |$session:ident, $work:ident| $body:expr) => {{
        let Tcp { sessions, shared, .. } = &mut *$lane;
        sessions.get_mut($index as usize).map(|$session| {
            let $work = &mut Work { now: $now, tx: $tx, lane: shared };
            $session.catch_up($work);
            $body
        })
    }};
}
use with;

impl Tcp {
    pub fn new(config: TcpConfig, mac: MacAddress, ip: Ipv4Addr, secret: u64) -> Self {
        let sessions = config.sessions;
        Self {
            config,
            mac,
            ip,
            secret,
            sessions: (0..sessions).map(Session::vacant).collect(),
            vacant: (0..sessions).rev().collect(),
            listeners: Vec::new(),
            half_open: VecDeque::with_capacity(config.half_open.max(1) as usize),
            unresolved: Vec::with_capacity(sessions as usize),
            shared: Shared {
                table: Table::new(sessions),
                sent: Slab::new(config.sent_segments),
                kept: Slab::new(config.kept_segments),
                timers: Timers::new(sessions),
                stats: TcpStats::default(),
                attention: Vec::with_capacity(sessions as usize),
                behind: None,
            },
        }
    }

    pub fn stats(&self) -> TcpStats {
        self.shared.stats
    }

    /// Copies what was sent and not acknowledged into buffers of `tx`, for the queue it left by is gone. Its timers send it again.
    pub fn move_sent(&mut self, tx: &mut impl TxQueue) {
        for sent in self.shared.sent.items_mut() {
            // A pool that has too few leaves the segment where it cannot be sent again; its session gives up in time.
            let Ok(mut buffer) = tx.reserve() else { return };
            match &sent.frame {
                SentFrame::Retained(retained) => buffer[..retained.bytes().len()].copy_from_slice(retained.bytes()),
                SentFrame::Unsent(unsent) => *buffer = **unsent,
                SentFrame::Moving => continue,
            }
            sent.frame = SentFrame::Unsent(buffer);
        }
    }

    /// What nobody outside can know (RFC 6528, 3; RFC 6056, 3.3.3; RFC 7323, 5.4).
    fn hash(&self, what: &str, key: Key) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.secret, what, self.ip, key).hash(&mut hasher);
        hasher.finish()
    }

    /// An initial sequence number: a clock of 4 microseconds and a secret of the connection's own (RFC 6528, 3: MUST-8, MUST-9,
    /// SHLD-1).
    fn initial_sequence(&self, now: Nanos, key: Key) -> Seq {
        Seq(((now / 4000) as u32).wrapping_add(self.hash("sequence", key) as u32))
    }

    #[inline]
    fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(id.index as usize).filter(|session| session.cold.generation == id.generation)
    }

    #[inline]
    fn find(&self, id: SessionId) -> Option<u32> {
        self.session(id).map(|_| id.index)
    }

    fn id(&self, index: u32) -> SessionId {
        let generation = self.sessions.get(index as usize).map_or(0, |session| session.cold.generation);
        SessionId { index, generation }
    }

    /// Whether a segment from there is this lane's business.
    #[inline]
    pub fn find_session(&self, segment: &Segment<'_>) -> Option<u32> {
        self.shared.table.find(Key::of_segment(segment.source, segment.ports))
    }

    /// Takes in a segment of session `index` if it is what was expected next, and says whose it is. What it carries is lent to its reader, and
    /// [`Tcp::keep_lent`] must follow. `None` when [`Tcp::receive`] must look at it.
    #[inline(always)]
    pub fn receive_expected<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        index: u32,
        segment: &Segment<'_>,
    ) -> Option<SessionId> {
        let Self { sessions, shared, .. } = self;
        let session = sessions.get_mut(index as usize)?;
        if !session.receive_expected(&mut Work { now, tx, lane: shared }, segment) {
            return None;
        }
        shared.stats.segments_received = shared.stats.segments_received.wrapping_add(1);
        Some(SessionId { index, generation: session.cold.generation })
    }

    /// Keeps what was lent by [`Tcp::receive_expected`], `len` bytes of text, and not read. Says whether there is something to tell.
    #[inline(always)]
    pub fn keep_lent<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, index: u32, len: u16, frame: Frame<'_>) -> bool {
        let Self { sessions, shared, .. } = self;
        let Some(session) = sessions.get_mut(index as usize) else { return false };
        session.keep_lent(&mut Work { now, tx, lane: shared }, len, frame);
        session.flags.contains(Flags::NEWS)
    }

    /// Takes in any segment of session `index`.
    #[cold]
    pub fn receive<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, index: u32, segment: &Segment<'_>, frame: Frame<'_>) {
        if segment.flags & flag::SYN != 0 && self.reopens(index, segment) {
            return self.receive_listen(now, tx, segment, source_of(frame.bytes()));
        }
        self.shared.stats.segments_received = self.shared.stats.segments_received.wrapping_add(1);
        with!(self, index, now, tx, |session, w| session.receive(w, segment, frame));
    }

    /// What the user is to hear of session `index`, once.
    #[inline]
    pub fn news(&mut self, index: u32) -> Option<News> {
        let session = self.sessions.get_mut(index as usize)?;
        if !session.flags.contains(Flags::NEWS) {
            return None;
        }
        session.flags -= Flags::NEWS;
        if session.flags.intersects(Flags::RELEASED | Flags::PASSIVE) {
            return None;
        }
        let accepted = session.cold.listener.filter(|_| session.flags.contains(Flags::UNACCEPTED));
        session.flags -= Flags::UNACCEPTED;
        let id = SessionId { index, generation: session.cold.generation };
        if accepted.is_some() {
            self.shared.stats.accepted += 1;
        }
        Some(News { id, accepted })
    }

    /// Takes a free session; one that only waits for its time to be over gives way.
    fn vacancy(&mut self) -> Option<u32> {
        if let Some(index) = self.vacant.pop() {
            return Some(index);
        }
        let waits = |session: &&Session| session.state == TcpState::TimeWait && session.flags.contains(Flags::RELEASED);
        let oldest = self.sessions.iter().filter(waits).min_by_key(|session| session.cold.idle_due)?.cold.index;
        self.free(oldest);
        self.vacant.pop()
    }

    /// Makes a session's slot vacant.
    fn free(&mut self, index: u32) {
        let Self { sessions, shared, vacant, .. } = self;
        let Some(session) = sessions.get_mut(index as usize) else { return };
        session.unlist(shared);
        shared.timers.remove(index);
        shared.sent.clear(&mut session.sent_first);
        session.forget_received(shared);
        let (generation, queued) = (session.cold.generation.wrapping_add(1), session.flags & Flags::QUEUED);
        *session = Session::vacant(index);
        (session.cold.generation, session.flags) = (generation, queued);
        vacant.push(index);
        self.unresolved.retain(|other| *other != index);
    }

    fn begin(&mut self, index: u32, birth: Birth, station: MacAddress) {
        let addresses = Addresses { macs: (self.mac, station), ip: self.ip.to_bits() };
        self.shared.table.insert(birth.key, index);
        if let Some(session) = self.sessions.get_mut(index as usize) {
            let queued = session.flags & Flags::QUEUED;
            session.begin(birth, addresses);
            session.flags |= Flags::LISTED | queued;
        }
    }

    /// Opens a connection to `remote`, whose next hop is `station`; while that is unknown, the SYN waits for [`Tcp::resolve`].
    pub fn connect<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        remote: SocketAddrV4,
        station: Option<MacAddress>,
        options: &TcpOptions,
    ) -> Result<SessionId, TcpError> {
        let port = self.free_port(remote).ok_or(TcpError::NoPort)?;
        self.connect_from(now, tx, port, remote, station, options)
    }

    /// As [`Tcp::connect`], from a port of the caller's choosing.
    pub fn connect_from<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        port: u16,
        remote: SocketAddrV4,
        station: Option<MacAddress>,
        options: &TcpOptions,
    ) -> Result<SessionId, TcpError> {
        if !is_host(*remote.ip()) || remote.port() == 0 || *remote.ip() == self.ip || port == 0 {
            return Err(TcpError::BadAddress);
        }
        let key = Key::new(remote, port);
        if self.shared.table.find(key).is_some() {
            return Err(TcpError::PortInUse(port));
        }
        let index = self.vacancy().ok_or(TcpError::NoSession(self.config.sessions))?;
        let birth = Birth {
            key,
            iss: self.initial_sequence(now, key),
            options: *options,
            listener: None,
            ts_offset: self.hash("timestamps", key) as u32,
            now,
        };
        self.begin(index, birth, station.unwrap_or(MacAddress([0; 6])));
        self.shared.stats.opened += 1;
        if station.is_none() {
            self.unresolved.push(index);
        }
        with!(self, index, now, tx, |session, w| {
            session.flags.set(Flags::UNRESOLVED, station.is_none());
            session.step(w, Cause::ActiveOpen);
            session.flags -= Flags::NEWS;
            session.send_syn(w);
        });
        Ok(self.id(index))
    }

    /// A port of ours that no connection to `remote` and no listener uses (RFC 6056, 3.3.3).
    fn free_port(&self, remote: SocketAddrV4) -> Option<u16> {
        let count = u32::from(DYNAMIC_PORTS.end() - DYNAMIC_PORTS.start()) + 1;
        let offset = (self.hash("port", Key::new(remote, 0)).wrapping_add(self.shared.stats.opened)) as u32 % count;
        (0..count)
            .map(|step| DYNAMIC_PORTS.start() + ((offset + step) % count) as u16)
            .find(|port| self.shared.table.find(Key::new(remote, *port)).is_none() && self.listener(*port).is_none())
    }

    /// Sends the SYNs whose next hop has become known.
    pub fn resolve<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, station: impl Fn(Ipv4Addr) -> Option<MacAddress>) {
        let mut at = 0;
        while let Some(index) = self.unresolved.get(at).copied() {
            let session = self.sessions.get(index as usize).filter(|session| session.state == TcpState::SynSent);
            let Some(remote) = session.map(|session| *session.key.remote().ip()) else {
                self.unresolved.swap_remove(at);
                continue;
            };
            let Some(mac) = station(remote) else {
                at += 1;
                continue;
            };
            self.unresolved.swap_remove(at);
            with!(self, index, now, tx, |session, w| {
                session.flags -= Flags::UNRESOLVED;
                session.set_station(mac);
                session.cold.stalled_since = now;
                session.cold.backoff = 0;
                session.send_syn(w);
            });
        }
    }

    /// Sends to the station that the session's next hop has now, where that is known. Says whether it was asked for and is not.
    #[cold]
    pub fn refresh_station(&mut self, index: u32, station: impl FnOnce(Ipv4Addr) -> Option<MacAddress>) -> bool {
        let Some(session) = self.sessions.get_mut(index as usize).filter(|session| session.cold.backoff > 0) else {
            return false;
        };
        let station = station(*session.key.remote().ip());
        if let Some(mac) = station {
            session.set_station(mac);
        }
        station.is_none()
    }

    /// Whether a session waits for its next hop.
    #[inline]
    pub fn is_resolving(&self) -> bool {
        !self.unresolved.is_empty()
    }

    /// The earliest deadline.
    #[inline]
    pub fn deadline(&self, now: Nanos) -> Option<Nanos> {
        let is_idle = self.shared.attention.is_empty() && self.shared.behind.is_none();
        if is_idle { self.shared.timers.next() } else { Some(now) }
    }

    /// Whether a timer has expired, or a session wants to be looked at.
    #[inline(always)]
    pub fn is_due(&self, now: Nanos) -> bool {
        !self.shared.attention.is_empty() || self.shared.timers.next().is_some_and(|due| due <= now)
    }

    /// Works off what the sessions have left until the doorbell had been rung.
    #[inline]
    pub fn catch_up<T: TxQueue>(&mut self, now: Nanos, tx: &mut T) {
        if let Some(index) = self.shared.behind.take() {
            with!(self, index, now, tx, |_session, _w| ());
        }
    }

    /// Runs one session's timers that are due; says whose.
    #[inline]
    pub fn expire<T: TxQueue>(&mut self, now: Nanos, tx: &mut T) -> Option<u32> {
        if self.shared.timers.next()? > now {
            return None;
        }
        self.expire_due(now, tx)
    }

    #[cold]
    fn expire_due<T: TxQueue>(&mut self, now: Nanos, tx: &mut T) -> Option<u32> {
        let index = self.shared.timers.pop(now)?;
        with!(self, index, now, tx, |session, w| {
            if session.cold.ack_due <= now {
                session.cold.ack_due = NEVER;
                session.flags |= Flags::ACK_NOW;
                session.attend(w.lane);
            }
            if session.cold.rtx_due <= now {
                session.overdue(w);
            }
            if session.cold.idle_due <= now {
                session.idle(w);
            }
            session.rearm(w.lane);
        });
        Some(index)
    }

    /// The next session to be looked at now that the poll ends: acknowledgements that found nothing to travel with, and what else is
    /// left over. Returns it once it is settled.
    #[inline]
    pub fn settle<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, left: &mut usize) -> Option<u32> {
        *left = left.checked_sub(1)?;
        // First come, first served; what asks to be looked at again comes behind and has to wait for the next poll.
        let index = self.shared.attention.get(*left).copied()?;
        self.shared.attention.swap_remove(*left);
        let done = with!(self, index, now, tx, |session, w| session.settle(w)).unwrap_or(false);
        if done {
            self.retire(index);
        }
        Some(index)
    }

    /// How many sessions want to be looked at.
    #[inline]
    pub fn attention(&self) -> usize {
        self.shared.attention.len()
    }

    /// A closed session that nobody holds any more leaves.
    #[cold]
    fn retire(&mut self, index: u32) {
        let Some(session) = self.sessions.get(index as usize) else { return };
        self.unresolved.retain(|other| *other != index);
        if session.flags.intersects(Flags::RELEASED | Flags::PASSIVE) {
            self.free(index);
        }
    }

    /// A message for session `id` with room for `len` bytes of payload, all of which could be sent now.
    #[inline]
    pub fn reserve<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        id: SessionId,
        len: u16,
    ) -> Result<Message, TcpError> {
        let index = self.find(id).ok_or(TcpError::NotOpen(TcpState::Closed))?;
        with!(self, index, now, tx, |session, w| {
            session.may_send(w, len)?;
            let mut buffer = w.tx.reserve().map_err(TcpError::Busy)?;
            session.prepare(&mut buffer);
            Ok(Message { session: id, buffer, header_len: session.header_len, room: len })
        })
        .unwrap_or(Err(TcpError::NotOpen(TcpState::Closed)))
    }

    /// Sends the first `len` bytes of a message's payload.
    #[inline]
    pub fn commit<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        message: Message,
        len: u16,
    ) -> Result<(), (TcpError, Message)> {
        let Message { session: id, buffer, header_len, room } = message;
        let Some(index) = self.find(id) else {
            return Err((TcpError::NotOpen(TcpState::Closed), Message { session: id, buffer, header_len, room }));
        };
        let Self { sessions, shared, .. } = self;
        let Some(session) = sessions.get_mut(index as usize) else {
            return Err((TcpError::NotOpen(TcpState::Closed), Message { session: id, buffer, header_len, room }));
        };
        if len > room {
            return Err((TcpError::BadLength { most: room }, Message { session: id, buffer, header_len, room }));
        }
        let w = &mut Work { now, tx, lane: shared };
        session
            .send(w, buffer, len)
            .map_err(|(error, buffer)| (error, Message { session: id, buffer, header_len, room }))
    }

    /// Sends `message` as one segment, copied once.
    #[inline]
    pub fn send_message<T: TxQueue>(
        &mut self,
        now: Nanos,
        tx: &mut T,
        id: SessionId,
        message: &[u8],
    ) -> Result<(), TcpError> {
        let Self { sessions, shared, .. } = self;
        let session = sessions.get_mut(id.index as usize);
        let Some(session) = session.filter(|session| session.cold.generation == id.generation) else {
            return Err(TcpError::NotOpen(TcpState::Closed));
        };
        session.send_message(&mut Work { now, tx, lane: shared }, message)
    }

    /// Sends as much of `bytes` as can be sent now, copied once; says how much.
    pub fn send<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, id: SessionId, bytes: &[u8]) -> Result<usize, TcpError> {
        self.find(id).ok_or(TcpError::NotOpen(TcpState::Closed))?;
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let len = self.session(id).map_or(0, |session| session.portion(rest.len()));
            let chunk = rest.get(..usize::from(len)).unwrap_or_default();
            match self.send_message(now, tx, id, chunk) {
                Ok(()) => sent += usize::from(len),
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    /// The next bytes in order, as far as one segment goes.
    #[inline]
    pub fn peek(&self, id: SessionId) -> &[u8] {
        self.session(id).map_or(&[], |session| session.peek(&self.shared))
    }

    /// Marks `bytes` as read.
    #[inline]
    pub fn consume(&mut self, id: SessionId, bytes: usize) {
        if let Some(index) = self.find(id)
            && let Some(session) = self.sessions.get_mut(index as usize)
        {
            session.consume(&mut self.shared, bytes.min(u32::MAX as usize) as u32);
        }
    }

    pub fn state(&self, id: SessionId) -> TcpState {
        self.session(id).map_or(TcpState::Closed, |session| session.state)
    }

    pub fn end(&self, id: SessionId) -> Option<TcpEnd> {
        self.session(id)?.cold.end
    }

    pub fn unacknowledged(&self, id: SessionId) -> usize {
        self.session(id).map_or(0, |session| session.snd_nxt.since(session.snd_una) as usize)
    }

    /// Bytes that could be sent now.
    pub fn room(&self, id: SessionId) -> usize {
        self.session(id).filter(|session| session.state.may_send()).map_or(0, |session| session.room() as usize)
    }

    pub fn report(&self, id: SessionId) -> Option<TcpReport> {
        Some(self.session(id)?.report(&self.shared))
    }

    pub fn close<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, id: SessionId) {
        if let Some(index) = self.find(id) {
            with!(self, index, now, tx, |session, w| session.close(w));
        }
    }

    pub fn abort<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, id: SessionId) {
        if let Some(index) = self.find(id) {
            with!(self, index, now, tx, |session, w| session.abort(w));
        }
    }

    /// Gives the session up: it closes if it has not, ends by itself, and its place becomes free.
    pub fn release<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, id: SessionId) {
        if let Some(index) = self.find(id) {
            with!(self, index, now, tx, |session, w| session.release(w));
        }
    }

    /// Changes how a session behaves from now on: time-outs, delays, keepalive. What was agreed with the peer stays.
    pub fn set_options(&mut self, now: Nanos, id: SessionId, options: &TcpOptions) {
        if let Some(index) = self.find(id)
            && let Some(session) = self.sessions.get_mut(index as usize)
        {
            session.catch_up(&mut Work { now, tx: &mut (), lane: &mut self.shared });
            session.set_options(&mut self.shared, now, options);
        }
    }
}

impl Session {
    /// Keepalive, or the end of TIME-WAIT, or of waiting for a FIN on behalf of nobody.
    fn idle<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        self.cold.idle_due = NEVER;
        if self.state == TcpState::TimeWait {
            self.step(w, Cause::Timeout);
            return;
        }
        if self.flags.contains(Flags::RELEASED) {
            w.lane.stats.timeouts += 1;
            self.send_reset(w);
            return self.fail(w, TcpEnd::TimedOut);
        }
        let Some(keepalive) = self.cold.options.keepalive else { return };
        let silent = w.now.saturating_sub(self.cold.heard_at);
        if silent < keepalive.idle {
            self.cold.keepalives = 0;
            self.cold.idle_due = self.cold.heard_at.saturating_add(keepalive.idle);
        } else if self.cold.keepalives >= keepalive.probes {
            w.lane.stats.timeouts += 1;
            self.send_reset(w);
            self.fail(w, TcpEnd::TimedOut);
        } else {
            // Without text (SHLD-12), and not while data is outstanding: its retransmission asks louder (RFC 9293, 3.8.4).
            if self.sent_first.is_none() && self.ask(w) {
                self.cold.keepalives += 1;
            }
            self.cold.idle_due = w.now.saturating_add(keepalive.interval.max(SHORTEST_INTERVAL));
        }
    }

    /// What is left to do when the poll ends. Says whether the session is closed.
    #[inline]
    fn settle<T: TxQueue>(&mut self, w: &mut Work<'_, T>) -> bool {
        self.flags -= Flags::QUEUED;
        if self.state == TcpState::Closed {
            return true;
        }
        if self.flags.contains(Flags::ACK_DUE) {
            self.settle_ack(w);
        }
        if self.flags.intersects(Flags::FIN_WANTED | Flags::BLOCKED) {
            self.settle_blocked(w);
        }
        false
    }

    #[cold]
    fn settle_blocked<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        self.try_fin(w);
        if !self.flags.contains(Flags::BLOCKED) || self.cold.waiting != Waiting::Nothing {
            return;
        }
        // All that was sent is acknowledged: nothing that comes by itself will say that there is room.
        if !self.cold.is_starved {
            // Only a probe will tell (RFC 9293, 3.8.6.1: MUST-36). The user time-out counts from here, however long nothing was heard before.
            self.cold.stalled_since = w.now;
            self.wait_for_window(w);
        } else if w.lane.sent.available() == 0 {
            self.wait_for_queue(w);
        } else {
            self.unblock(w);
        }
        self.arm(w.lane, self.cold.rtx_due);
    }

    fn settle_ack<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        // One for all that a poll brought (MUST-58, MUST-59, SHLD-18); where it may wait, for at least every second full segment (RFC 9293, 3.8.6.3:
        // SHLD-19), not behind the second of any size, and within half a second (MUST-40).
        let delay = self.cold.options.ack_delay.min(LONGEST_ACK_DELAY);
        let full = self.rcv_nxt.since(self.rcv_told) >= 2 * u32::from(self.mss);
        let second = self.cold.ack_due != NEVER && self.cold.ack_waits_at != self.rcv_nxt;
        if delay == 0 || full || second || self.flags.contains(Flags::ACK_NOW) {
            if !self.send_ack(w) {
                self.attend(w.lane);
            }
        } else if self.cold.ack_due == NEVER {
            (self.cold.ack_due, self.cold.ack_waits_at) = (w.now.saturating_add(delay), self.rcv_nxt);
            self.arm(w.lane, self.cold.ack_due);
        }
    }

    /// The user's ABORT (RFC 9293, 3.10.5).
    fn abort<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        match self.state {
            TcpState::Closed | TcpState::Listen => return,
            TcpState::SynSent | TcpState::Closing | TcpState::LastAck | TcpState::TimeWait => {}
            _ => self.send_reset(w),
        }
        self.fail(w, TcpEnd::Aborted);
    }

    fn release<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        self.flags |= Flags::RELEASED;
        self.attend(w.lane);
        let is_open = self.state.may_receive() || self.state == TcpState::CloseWait;
        if is_open && (self.readable > 0 || self.flags.contains(Flags::DELEGATED)) {
            // Data was received that nobody will ever read (SHLD-3; RFC 2525, 2.17), or it is not known what was sent.
            self.abort(w);
        }
        self.forget_received(w.lane);
        self.close(w);
        if self.state != TcpState::TimeWait {
            self.cold.idle_due = NEVER;
        }
        self.linger(w);
    }

    fn set_options(&mut self, lane: &mut Shared, now: Nanos, options: &TcpOptions) {
        let agreed = self.cold.options;
        self.cold.options = TcpOptions {
            mss: agreed.mss,
            timestamps: agreed.timestamps,
            receive_window: agreed.receive_window,
            ..*options
        };
        self.flags.set(Flags::CONGESTION, options.congestion);
        if self.is_kept_alive() {
            self.cold.keepalives = 0;
            self.cold.idle_due = options.keepalive.map_or(NEVER, |keepalive| now.saturating_add(keepalive.idle));
            self.arm(lane, self.cold.idle_due);
        }
        if self.cold.waiting != Waiting::Nothing {
            self.cold.rtx_due = self.cold.rtx_due.min(self.give_up_at(lane).max(now));
            self.arm(lane, self.cold.rtx_due);
        }
    }
}

/// The station that sent a frame.
#[cold]
fn source_of(frame: &[u8]) -> MacAddress {
    let source = frame.get(6..12).and_then(|source| source.try_into().ok());
    MacAddress(source.unwrap_or_default())
}

/// Whether an address can be one host's (MUST-46, MUST-63; RFC 1122, 3.2.1.3).
fn is_host(ip: Ipv4Addr) -> bool {
    !(ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified() || ip.is_loopback())
}
