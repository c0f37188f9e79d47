//! Passive open: listeners, and what RFC 9293, 3.10.7.2 says a segment does to them.

use barewire_driver::clock::Nanos;
use barewire_driver::{MacAddress, TxQueue};

use super::options::Options;
use super::output::{Addresses, Header, send_stray};
use super::seq::Seq;
use super::session::{Birth, Flags, Work};
use super::state::{Cause, TcpState};
use super::table::Key;
use super::{SessionId, Tcp, TcpError, TcpOptions, is_host, with};
use crate::wire::{Segment, flag};

/// How far a reopened connection's numbers are beyond the old one's, where the clock has not gone that far.
const REOPENING_GAP: u32 = 1 << 16;

/// Somebody waits for connections on a port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listener {
    port: u16,
    options: TcpOptions,
}

impl Tcp {
    /// Waits for connections on `port`, whatever connections there are or are about to be on it (RFC 9293, 3.9.1.1: MUST-41, MUST-42).
    pub fn listen(&mut self, port: u16, options: &TcpOptions) -> Result<(), TcpError> {
        if port == 0 {
            return Err(TcpError::BadAddress);
        }
        if self.listener(port).is_some() {
            return Err(TcpError::PortInUse(port));
        }
        self.listeners.push(Listener { port, options: *options });
        Ok(())
    }

    /// Waits no more. Connections that were accepted stay; those that were only asked for are forgotten.
    pub fn unlisten(&mut self, port: u16) {
        self.listeners.retain(|listener| listener.port != port);
        self.forget_opened();
        for _ in 0..self.half_open.len() {
            let Some(id) = self.half_open.pop_front() else { break };
            if self.session(id).is_some_and(|session| session.cold.listener == Some(port)) {
                self.free(id.index);
            } else {
                self.half_open.push_back(id);
            }
        }
    }

    /// Whether somebody listens on `port`. Listeners are few.
    #[inline]
    pub fn is_listening(&self, port: u16) -> bool {
        self.listener(port).is_some()
    }

    pub(super) fn listener(&self, port: u16) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.port == port)
    }

    /// A segment for a listener that belongs to no session. `station` is where the frame came from.
    #[cold]
    pub fn receive_listen<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, segment: &Segment<'_>, station: MacAddress) {
        let stats = &mut self.shared.stats;
        stats.segments_received += 1;
        let key = Key::of_segment(segment.source, segment.ports);
        // Nothing that claims to come from no host gets an answer (MUST-63), and nothing that went to all of them (MUST-57).
        let remote = key.remote();
        if !is_host(*remote.ip()) || *remote.ip() == self.ip || remote.port() == 0 || station.is_group() {
            stats.bad_flags += 1;
            return;
        }
        match segment.flags & (flag::RST | flag::ACK | flag::SYN | flag::FIN) {
            flags if flags & flag::RST != 0 => stats.blind_resets += 1,
            flags if flags & flag::ACK != 0 => {
                stats.bad_acks += 1;
                let addresses = Addresses { macs: (self.mac, station), ip: self.ip.to_bits() };
                let header = Header { seq: Seq(segment.ack), ack: Seq(0), flags: flag::RST, window: 0 };
                let w = &mut Work { now, tx, lane: &mut self.shared };
                send_stray(w, addresses, key, header);
            }
            flag::SYN => self.answer_syn(now, tx, segment, station, key),
            _ => stats.bad_flags += 1,
        }
    }

    fn answer_syn<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, segment: &Segment<'_>, station: MacAddress, key: Key) {
        let Some(options) = self.listener(key.local_port()).map(|listener| listener.options) else { return };
        let last = self.end_old(now, tx, key);
        self.bound_half_open();
        let Some(index) = self.vacancy() else {
            self.shared.stats.syn_dropped += 1;
            return;
        };
        // Beyond all numbers of an old connection (RFC 9293, 3.6.1).
        let iss = self.initial_sequence(now, key);
        let iss = last.filter(|last| !iss.after(*last)).map_or(iss, |last| last + REOPENING_GAP);
        let birth = Birth {
            key,
            iss,
            options,
            listener: Some(key.local_port()),
            ts_offset: self.hash("timestamps", key) as u32,
            now,
        };
        self.begin(index, birth, station);
        self.half_open.push_back(self.id(index));
        let parsed = Options::parse(segment.options);
        self.shared.stats.bad_options += u64::from(parsed.is_malformed);
        with!(self, index, now, tx, |session, w| {
            session.take_syn(w, segment, &parsed);
            session.flags |= Flags::PASSIVE;
            session.state = TcpState::SynReceived;
            session.send_syn(w);
        });
    }

    /// Half-open connections are bounded, and the oldest gives way: a flood of SYNs touches nothing else.
    fn bound_half_open(&mut self) {
        self.forget_opened();
        while self.half_open.len() >= self.config.half_open.max(1) as usize
            && let Some(SessionId { index, .. }) = self.half_open.pop_front()
        {
            self.shared.stats.half_open_evicted += 1;
            self.free(index);
        }
    }

    /// Leaves only those in the list that are half open.
    fn forget_opened(&mut self) {
        let Self { half_open, sessions, .. } = self;
        half_open.retain(|SessionId { index, generation }| {
            let session = sessions.get(*index as usize).filter(|session| session.cold.generation == *generation);
            session.is_some_and(|session| session.state == TcpState::SynReceived)
        });
    }

    /// Whether a segment of a session in TIME-WAIT begins a new connection (RFC 9293, 3.6.1: MAY-2): a SYN that is newer than all of the old
    /// one, by its timestamp where there is one (SHLD-4; RFC 6191, 2), else by its number. It is for [`Tcp::receive_listen`] then.
    #[cold]
    pub fn reopens(&self, index: u32, segment: &Segment<'_>) -> bool {
        const KIND: u8 = flag::SYN | flag::ACK | flag::RST | flag::FIN;
        let Some(session) = self.sessions.get(index as usize) else { return false };
        if session.state != TcpState::TimeWait || segment.flags & KIND != flag::SYN {
            return false;
        }
        let timestamps =
            Options::parse(segment.options).timestamps.filter(|_| session.flags.contains(Flags::TIMESTAMPS));
        let newer = match timestamps {
            Some((value, _)) if value != session.cold.ts_recent => Seq(value).after(Seq(session.cold.ts_recent)),
            _ => Seq(segment.seq).after(session.rcv_nxt),
        };
        newer && self.is_listening(session.key.local_port())
    }

    /// Ends the session that a SYN [reopens](Tcp::reopens), if there is one, and says which numbers it used last.
    fn end_old<T: TxQueue>(&mut self, now: Nanos, tx: &mut T, key: Key) -> Option<Seq> {
        let index = self.shared.table.find(key)?;
        let session = self.sessions.get(index as usize)?;
        let (last, is_released) = (session.snd_nxt, session.flags.contains(Flags::RELEASED));
        if is_released {
            self.free(index);
        } else {
            // Its user still holds it, and will hear that it is over.
            with!(self, index, now, tx, |session, w| session.step(w, Cause::Timeout));
        }
        Some(last)
    }
}
