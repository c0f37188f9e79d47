//! TCP as the users of a stack see it: one set of names for the express lane and the host stack.

use std::net::SocketAddrV4;

use barewire_driver::TxQueue;

use super::{Context, Event};
use crate::host::{self, SocketId};
use crate::tcp::{
    Delegated, Message, Parked, SessionId, TcpEnd, TcpError, TcpOptions, TcpReport, TcpState, TcpStats, TcpUsage,
};

/// Who carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lane {
    /// The express lane: our own TCP, for order entry.
    #[default]
    Express,
    /// smoltcp, which knows none of [`TcpOptions`].
    Host,
}

/// Names a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpId {
    /// Of the express lane.
    Express(SessionId),
    /// Of the host stack.
    Host(SocketId),
}

/// Names a TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId {
    /// Its lane.
    pub lane: Lane,
    /// Its port.
    pub port: u16,
}

impl<T: TxQueue> Context<T> {
    /// Waits for connections on `port`; each comes as [`Event::Accepted`].
    pub fn tcp_listen(&mut self, lane: Lane, port: u16, options: &TcpOptions) -> Result<ListenerId, TcpError> {
        if self.tcp.is_listening(port) || self.host.is_listening(port) {
            return Err(TcpError::PortInUse(port));
        }
        match lane {
            Lane::Express => self.tcp.listen(port, options)?,
            Lane::Host => self.host.listen(port)?,
        }
        Ok(ListenerId { lane, port })
    }

    /// Waits no more. Connections that were accepted stay.
    pub fn tcp_unlisten(&mut self, listener: ListenerId) {
        match listener.lane {
            Lane::Express => self.tcp.unlisten(listener.port),
            Lane::Host => {
                self.chore();
                self.host.unlisten(listener.port);
            }
        }
    }

    /// Opens a connection; [`Event::Tcp`] tells when it is established, or will not be.
    pub fn tcp_connect(&mut self, lane: Lane, remote: SocketAddrV4, options: &TcpOptions) -> Result<TcpId, TcpError> {
        match lane {
            Lane::Express => {
                let station = super::station(&self.neighbours, *remote.ip());
                let id = self.tcp.connect(self.now, &mut self.tx, remote, station, options)?;
                self.committed = true;
                self.chore();
                Ok(TcpId::Express(id))
            }
            Lane::Host => {
                self.chore();
                self.host.connect(remote).map(TcpId::Host)
            }
        }
    }

    /// Queues as much of `bytes` as there is room for, and says how much. It is in the ring when this returns and leaves at the next
    /// [`Context::flush`]. After [`TcpError::NoRoom`], [`Event::Tcp`] tells when there is some.
    pub fn tcp_send(&mut self, id: TcpId, bytes: &[u8]) -> Result<usize, TcpError> {
        self.committed = true;
        match id {
            TcpId::Express(id) => self.tcp.send(self.now, &mut self.tx, id, bytes),
            TcpId::Host(id) => {
                self.chore();
                self.host.send(self.now, id, bytes, &mut self.tx)
            }
        }
    }

    /// Queues `bytes`, all or nothing; in the express lane they are one segment.
    #[inline]
    pub fn tcp_send_message(&mut self, id: TcpId, bytes: &[u8]) -> Result<(), TcpError> {
        match id {
            TcpId::Express(id) => {
                self.committed = true;
                self.tcp.send_message(self.now, &mut self.tx, id, bytes)
            }
            TcpId::Host(id) => {
                let room = self.host.room(id);
                if room < bytes.len() {
                    return Err(TcpError::NoRoom { room });
                }
                self.committed = true;
                self.chore();
                self.host.send(self.now, id, bytes, &mut self.tx).map(drop)
            }
        }
    }

    /// Hands what has arrived to `take`, piece by piece; it says how much of each it took, and the rest stays.
    pub fn tcp_receive(&mut self, id: TcpId, mut take: impl FnMut(&[u8]) -> usize) -> Result<(), TcpError> {
        match id {
            TcpId::Express(id) => {
                loop {
                    let bytes = self.tcp.peek(id);
                    let (all, taken) = (bytes.len(), if bytes.is_empty() { 0 } else { take(bytes).min(bytes.len()) });
                    self.tcp.consume(id, taken);
                    if taken < all || all == 0 {
                        break;
                    }
                }
                let state = self.tcp.state(id);
                if state == TcpState::Closed { Err(TcpError::NotOpen(state)) } else { Ok(()) }
            }
            TcpId::Host(id) => {
                self.chore();
                self.host.receive(id, take)
            }
        }
    }

    /// The next bytes in order, in the buffer that the device wrote; as far as one segment goes. Empty when there are none.
    #[inline]
    pub fn tcp_peek(&mut self, id: TcpId) -> &[u8] {
        match id {
            TcpId::Express(id) => self.tcp.peek(id),
            TcpId::Host(id) => self.host.peek(id),
        }
    }

    /// Marks the next `bytes` as read.
    #[inline]
    pub fn tcp_consume(&mut self, id: TcpId, bytes: usize) {
        match id {
            TcpId::Express(id) => self.tcp.consume(id, bytes),
            TcpId::Host(id) => {
                self.chore();
                self.host.consume(id, bytes);
            }
        }
    }

    /// The connection's state.
    pub fn tcp_state(&mut self, id: TcpId) -> TcpState {
        match id {
            TcpId::Express(id) => self.tcp.state(id),
            TcpId::Host(id) => self.host.state(id),
        }
    }

    /// How the connection ended, where it did not end in order. The host stack does not say.
    pub fn tcp_end(&self, id: TcpId) -> Option<TcpEnd> {
        match id {
            TcpId::Express(id) => self.tcp.end(id),
            TcpId::Host(_) => None,
        }
    }

    /// Bytes that were sent or queued and are not acknowledged.
    pub fn tcp_unacknowledged(&mut self, id: TcpId) -> usize {
        match id {
            TcpId::Express(id) => self.tcp.unacknowledged(id),
            TcpId::Host(id) => self.host.unacknowledged(id),
        }
    }

    /// Bytes that could be queued now.
    pub fn tcp_room(&mut self, id: TcpId) -> usize {
        match id {
            TcpId::Express(id) => self.tcp.room(id),
            TcpId::Host(id) => self.host.room(id),
        }
    }

    /// Sends no more after what is queued (FIN).
    pub fn tcp_close(&mut self, id: TcpId) {
        self.committed = true;
        match id {
            TcpId::Express(id) => self.tcp.close(self.now, &mut self.tx, id),
            TcpId::Host(id) => {
                self.chore();
                self.host.close(id);
            }
        }
    }

    /// Ends the connection at once (RST).
    pub fn tcp_abort(&mut self, id: TcpId) {
        self.committed = true;
        match id {
            TcpId::Express(id) => self.tcp.abort(self.now, &mut self.tx, id),
            TcpId::Host(id) => {
                self.chore();
                self.host.abort(id);
            }
        }
    }

    /// Gives the connection up: it closes if it has not, ends by itself, and its place becomes free for another. A connection that nobody
    /// releases keeps its place.
    pub fn tcp_release(&mut self, id: TcpId) {
        self.committed = true;
        match id {
            TcpId::Express(id) => self.tcp.release(self.now, &mut self.tx, id),
            TcpId::Host(id) => {
                self.chore();
                self.host.release(id);
            }
        }
    }

    /// Changes how a session behaves from now on: time-outs, delays, keepalive. What was agreed with the peer stays.
    pub fn tcp_set_options(&mut self, id: TcpId, options: &TcpOptions) -> Result<(), TcpError> {
        self.tcp.set_options(self.now, express(id)?, options);
        Ok(())
    }

    /// What a session tells about itself. `None` for the host stack, and for a session that is gone.
    pub fn tcp_report(&self, id: TcpId) -> Option<TcpReport> {
        self.tcp.report(express(id).ok()?)
    }

    /// Counters of the express lane.
    pub fn tcp_stats(&self) -> TcpStats {
        self.tcp.stats()
    }

    /// What the express lane holds now.
    pub fn tcp_usage(&self) -> TcpUsage {
        self.tcp.usage()
    }

    /// A message with room for `len` bytes of payload, to be written in the buffer that it is sent from. All of it could be sent now.
    #[inline]
    pub fn tcp_reserve(&mut self, id: TcpId, len: u16) -> Result<Message, TcpError> {
        self.tcp.reserve(self.now, &mut self.tx, express(id)?, len)
    }

    /// Queues the first `len` bytes of a message; they leave at the next [`Context::flush`]. When it fails, the message comes back.
    #[inline]
    pub fn tcp_commit(&mut self, message: Message, len: u16) -> Result<(), (TcpError, Message)> {
        self.committed = true;
        self.tcp.commit(self.now, &mut self.tx, message, len)
    }

    /// Parks the first `len` bytes of a message until [`Context::tcp_release_parked`]. Several may be parked on a session.
    pub fn tcp_park(&mut self, message: Message, len: u16) -> Result<Parked, (TcpError, Message)> {
        self.tcp.park(message, len)
    }

    /// Queues a parked message, and voids all others that are parked on its session.
    #[inline]
    pub fn tcp_release_parked(&mut self, parked: Parked) -> Result<(), (TcpError, Parked)> {
        self.committed = true;
        self.tcp.release_parked(self.now, &mut self.tx, parked)
    }

    /// Walks the way that `payload` would go up to the queue, and sends nothing: keeps code and data of a rare send in the caches.
    #[inline]
    pub fn tcp_warm(&mut self, id: TcpId, payload: &[u8]) -> Result<(), TcpError> {
        self.tcp.warm(self.now, &mut self.tx, express(id)?, payload)
    }

    /// Hands out the headers of the next segment, for `len` bytes that somebody else sends. Until that is completed or cancelled, the
    /// session sends no data of its own.
    pub fn tcp_delegate(&mut self, id: TcpId, len: u16) -> Result<Delegated, TcpError> {
        self.tcp.delegate(self.now, &mut self.tx, express(id)?, len)
    }

    /// The segment was sent with `payload`; the session answers for its arrival.
    pub fn tcp_delegate_complete(&mut self, delegated: Delegated, payload: &[u8]) -> Result<(), (TcpError, Delegated)> {
        self.committed = true;
        self.tcp.delegate_complete(self.now, &mut self.tx, delegated, payload)
    }

    /// The segment was not sent.
    pub fn tcp_delegate_cancel(&mut self, delegated: Delegated) {
        self.committed = true;
        self.tcp.delegate_cancel(self.now, &mut self.tx, delegated);
    }

    /// Tells the user what there is to tell about session `index` of the express lane.
    #[inline(never)]
    pub(super) fn tell(&mut self, index: u32, handler: &mut impl FnMut(&mut Self, Event<'_>)) {
        let Some(news) = self.tcp.news(index) else { return };
        let id = TcpId::Express(news.id);
        if let Some(port) = news.accepted {
            handler(self, Event::Accepted { listener: ListenerId { lane: Lane::Express, port }, id });
        }
        handler(self, Event::Tcp(id));
    }

    pub(super) fn tell_host(&mut self, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        let mut after = 0;
        while let Some((index, news)) = self.host.next_event(after) {
            let id = TcpId::Host(news.id);
            if let Some(port) = news.accepted {
                handler(self, Event::Accepted { listener: ListenerId { lane: Lane::Host, port }, id });
            }
            handler(self, Event::Tcp(id));
            after = index + 1;
        }
        self.host.sweep();
    }
}

#[inline]
fn express(id: TcpId) -> Result<SessionId, TcpError> {
    match id {
        TcpId::Express(id) => Ok(id),
        TcpId::Host(_) => Err(TcpError::HostLane),
    }
}

impl From<host::State> for TcpState {
    fn from(state: host::State) -> Self {
        match state {
            host::State::Closed => Self::Closed,
            host::State::Listen => Self::Listen,
            host::State::SynSent => Self::SynSent,
            host::State::SynReceived => Self::SynReceived,
            host::State::Established => Self::Established,
            host::State::FinWait1 => Self::FinWait1,
            host::State::FinWait2 => Self::FinWait2,
            host::State::CloseWait => Self::CloseWait,
            host::State::Closing => Self::Closing,
            host::State::LastAck => Self::LastAck,
            host::State::TimeWait => Self::TimeWait,
        }
    }
}
