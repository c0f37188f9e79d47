//! What POSIX puts on top of a TCP stack.
#![forbid(unsafe_code)]

mod connection;
mod options;

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use barewire_driver::clock::Nanos;
use barewire_netstack::{ListenerId, TcpId, TcpState};
use rustix::io::Errno;

use crate::stack::Tcp;
pub use connection::Connection;
pub use options::Options;

/// A socket that a descriptor stands for.
#[derive(Default)]
pub struct Socket {
    /// Whether calls fail with EAGAIN instead of waiting (O_NONBLOCK).
    pub nonblocking: bool,
    /// What was set by setsockopt.
    pub options: Options,
    /// What went wrong and nobody was told yet (SO_ERROR).
    pub error: Option<Errno>,
    /// The port it was bound to.
    pub port: Option<u16>,
    /// What became of it.
    pub role: Role,
    /// Counts what edge-triggered epoll tells of: arrivals, room to send, errors.
    pub edges: u64,
}

/// What became of a socket.
#[derive(Default)]
pub enum Role {
    /// Neither listening nor connected.
    #[default]
    Idle,
    /// Listening.
    Listener(Listener),
    /// Connected, or on the way there, or over.
    Connection(Connection),
}

/// A listening socket.
pub struct Listener {
    /// Its name in the stack.
    pub id: ListenerId,
    /// Established connections that nobody accepted.
    pub ready: VecDeque<(TcpId, SocketAddrV4)>,
}

impl Role {
    /// The connection of a connected socket.
    pub fn connection(&mut self) -> Result<&mut Connection, Errno> {
        match self {
            Self::Connection(connection) => Ok(connection),
            Self::Idle | Self::Listener(_) => Err(Errno::NOTCONN),
        }
    }
}

impl Socket {
    /// Does what is to be done at `now`, or after the stack may have changed.
    pub fn attend(&mut self, stack: &mut Tcp, now: Nanos) {
        let edge = match &mut self.role {
            Role::Idle => false,
            Role::Listener(listener) => {
                let before = listener.ready.len();
                listener.ready.extend(std::iter::from_fn(|| stack.accept(listener.id)));
                listener.ready.len() > before
            }
            Role::Connection(connection) => {
                connection.attend(stack, &self.options, now);
                let failure = connection.failure(stack);
                self.error = failure.or(self.error);
                let edge = connection.edge(stack, &self.options);
                edge || failure.is_some()
            }
        };
        self.edges += u64::from(edge);
    }

    /// When [`Socket::attend`] must be called even if nothing happens.
    pub fn deadline(&self) -> Option<Nanos> {
        match &self.role {
            Role::Connection(connection) => connection.deadline(),
            Role::Idle | Role::Listener(_) => None,
        }
    }
}

/// Whether a connection in `state` is still being established.
pub fn is_connecting(state: TcpState) -> bool {
    matches!(state, TcpState::SynSent | TcpState::SynReceived)
}

/// Whether nothing more will arrive in `state`.
pub fn is_at_end(state: TcpState) -> bool {
    matches!(state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing | TcpState::TimeWait | TcpState::Closed)
}
