//! One connection: what was written and the stack has not taken yet, Nagle's algorithm, and the end of each half.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use barewire_driver::clock::Nanos;
use barewire_netstack::{TcpEnd, TcpId, TcpState};
use rustix::io::Errno;

use super::{Options, is_at_end, is_connecting};
use crate::stack::Tcp;

/// How long TCP_CORK and MSG_MORE may hold bytes back, in nanoseconds (Linux, tcp(7)).
const CORK_LIMIT: Nanos = 200_000_000;

/// A connection as its socket sees it.
pub struct Connection {
    /// Its name in the stack.
    pub id: TcpId,
    /// Whether reading was shut down.
    pub is_read_shut: bool,
    /// Whether connect() has said that it is established.
    pub is_told: bool,
    /// Received, looked at (MSG_PEEK) and not read.
    peeked: VecDeque<u8>,
    /// Written and not taken by the stack.
    held: VecDeque<u8>,
    /// The stack had no room for what is held.
    is_blocked: bool,
    /// Bytes that the stack took.
    taken: u64,
    /// Where in the stream the last segment ends that was smaller than it could be.
    small_until: u64,
    /// More was announced (MSG_MORE): what fills no segment waits for it.
    more: bool,
    /// When what waits because of TCP_CORK or MSG_MORE waits no longer.
    corked_until: Option<Nanos>,
    fin: Fin,
    has_failed: bool,
    seen: Seen,
}

/// The end of the sending half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fin {
    /// More may be written.
    Open,
    /// It follows what is held.
    Wanted,
    /// The stack has it.
    Given,
}

/// What was there to be noticed.
#[derive(Default, PartialEq, Eq)]
struct Seen {
    readable: usize,
    is_writable: bool,
    is_at_end: bool,
}

impl Connection {
    /// A connection that the stack has.
    pub fn new(id: TcpId) -> Self {
        Self {
            id,
            is_read_shut: false,
            is_told: false,
            peeked: VecDeque::new(),
            held: VecDeque::new(),
            is_blocked: false,
            taken: 0,
            small_until: 0,
            more: false,
            corked_until: None,
            fin: Fin::Open,
            has_failed: false,
            seen: Seen::default(),
        }
    }

    /// Bytes that can be read.
    pub fn readable(&self, stack: &mut Tcp) -> usize {
        self.peeked.len() + stack.readable(self.id)
    }

    /// Copies received bytes into `buffer`, and says how many. With `peek` they can be read again; the stack lends no more than a segment
    /// at a time, so they wait here.
    pub fn read(&mut self, stack: &mut Tcp, buffer: &mut [u8], peek: bool) -> usize {
        let known = self.peeked.len();
        if known < buffer.len() && (peek || known > 0) {
            self.peeked.resize(buffer.len(), 0);
            let more = stack.read(self.id, &mut self.peeked.make_contiguous()[known..]);
            self.peeked.truncate(known + more);
        }
        if !peek && known == 0 {
            return stack.read(self.id, buffer);
        }
        let read = self.peeked.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.peeked.make_contiguous()[..read]);
        if !peek {
            self.peeked.drain(..read);
        }
        read
    }

    /// Whether nothing more may be written.
    pub fn is_write_shut(&self) -> bool {
        self.fin != Fin::Open
    }

    /// Bytes written that the stack has not taken.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Bytes written that the peer has not acknowledged.
    pub fn queued(&self, stack: &mut Tcp) -> usize {
        self.held.len() + stack.unacknowledged(self.id)
    }

    /// Room in the send buffer, in bytes.
    pub fn room(&self, stack: &mut Tcp, options: &Options) -> usize {
        options.send_buffer.saturating_sub(self.queued(stack))
    }

    /// Whether poll() calls it writable: a third of the buffer is free, and little enough waits unsent (TCP_NOTSENT_LOWAT).
    pub fn is_writable(&self, stack: &mut Tcp, options: &Options) -> bool {
        let (room, unsent_low) = (self.room(stack, options), options.unsent_low as usize);
        let little_unsent = unsent_low == 0 || self.held.len() < unsent_low;
        room > 0 && room >= options.send_buffer / 3 && little_unsent
    }

    /// Takes bytes to send; the caller has seen that there is room. `more` announces that others follow at once.
    pub fn write(&mut self, stack: &mut Tcp, options: &Options, bytes: &[u8], more: bool) {
        self.held.extend(bytes);
        self.more = more;
        self.pump(stack, options, false);
    }

    /// Writes no more; FIN follows what is held.
    pub fn shut_write(&mut self, stack: &mut Tcp, options: &Options) {
        if self.fin == Fin::Open {
            self.fin = Fin::Wanted;
            self.pump(stack, options, false);
        }
    }

    /// Does what is due at `now`.
    pub fn attend(&mut self, stack: &mut Tcp, options: &Options, now: Nanos) {
        self.pump(stack, options, self.corked_until.is_some_and(|until| until <= now));
        let is_corked = !self.held.is_empty() && (self.more || options.cork);
        self.corked_until = is_corked.then(|| self.corked_until.unwrap_or(now + CORK_LIMIT));
    }

    /// When [`Connection::attend`] must be called even if nothing happens.
    pub fn deadline(&self) -> Option<Nanos> {
        self.corked_until
    }

    /// Gives the stack what it takes, and may have by Nagle's algorithm (RFC 9293, 3.7.4) in Minshall's form: of two segments that are not full,
    /// the second waits until the first is acknowledged. The end of the stream waits for nothing.
    ///
    /// With `push`, what is corked does not wait.
    pub fn pump(&mut self, stack: &mut Tcp, options: &Options, push: bool) {
        let state = stack.state(self.id);
        if is_connecting(state) || self.fin == Fin::Given || (self.is_blocked && stack.room(self.id) == 0) {
            return;
        }
        let size = stack.segment_size(self.id).max(1);
        while !self.held.is_empty() {
            let acknowledged = self.taken - (stack.unacknowledged(self.id) as u64).min(self.taken);
            let is_corked = (self.more || options.cork) && !push;
            let is_held = is_corked || (!options.no_delay && self.small_until > acknowledged);
            let full = self.held.len() / size * size;
            let ready = if self.fin == Fin::Open && is_held { full } else { self.held.len() };
            if ready == 0 {
                return;
            }
            let taken = stack.send(self.id, &self.held.make_contiguous()[..ready]);
            self.is_blocked = taken < ready;
            if taken == 0 {
                return;
            }
            self.held.drain(..taken);
            self.taken += taken as u64;
            if taken == ready && ready > full {
                self.small_until = self.taken;
            }
        }
        if self.fin == Fin::Wanted {
            self.fin = Fin::Given;
            stack.close(self.id);
        }
    }

    /// Whether the peer has acknowledged everything, FIN included.
    pub fn is_acknowledged(&self, stack: &mut Tcp) -> bool {
        self.held.is_empty()
            && matches!(stack.state(self.id), TcpState::FinWait2 | TcpState::TimeWait | TcpState::Closed)
    }

    /// The error that the connection ended with, once.
    pub fn failure(&mut self, stack: &Tcp) -> Option<Errno> {
        let end = stack.end(self.id).filter(|_| !self.has_failed)?;
        self.has_failed = true;
        self.held.clear();
        match end {
            TcpEnd::Refused => Some(Errno::CONNREFUSED),
            TcpEnd::Reset => Some(Errno::CONNRESET),
            TcpEnd::TimedOut => Some(Errno::TIMEDOUT),
            TcpEnd::Aborted => None,
        }
    }

    /// Whether something has come up since the last time that edge-triggered epoll tells of.
    pub fn edge(&mut self, stack: &mut Tcp, options: &Options) -> bool {
        let state = stack.state(self.id);
        let now = Seen {
            readable: self.readable(stack),
            is_writable: !is_connecting(state) && self.is_writable(stack, options),
            is_at_end: is_at_end(state),
        };
        let before = std::mem::replace(&mut self.seen, now);
        let now = &self.seen;
        now.readable > before.readable
            || (now.is_writable && !before.is_writable)
            || (now.is_at_end && !before.is_at_end)
    }

    /// Looks after a connection that no descriptor stands for any more. Returns whether there is more to do.
    pub fn attend_orphan(&mut self, stack: &mut Tcp, options: &Options) -> bool {
        self.pump(stack, options, false);
        let state = stack.state(self.id);
        if self.fin == Fin::Given || state == TcpState::Closed {
            // The stack knows by itself what to do from here on.
            stack.release(self.id);
            return false;
        }
        if stack.readable(self.id) > 0 {
            // Nobody will read it, and the peer is to know (RFC 9293, 3.6.1).
            stack.abort(self.id);
        }
        true
    }
}
