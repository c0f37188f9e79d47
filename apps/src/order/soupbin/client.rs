//! The client's side of one connection.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;

use super::packet::{control, kind, name, number};
use super::{Control, Packet, Quiet, State, poll};
use crate::fields::Alpha;

/// What a client learns from a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    /// The session is open.
    Accepted {
        /// Its name.
        session: Alpha<10>,
        /// The number of the message that comes next.
        next_sequence: u64,
    },
    /// The login is refused: A not authorised, S no such session.
    Rejected(u8),
    /// A numbered message.
    Message(u64, &'a [u8]),
    /// Nothing more will come.
    Ended,
    /// A heartbeat or free text.
    Nothing,
    /// A packet that a server does not send, or not in this state, or with a payload that its type does not have.
    Unexpected(u8),
}

/// The client's side of a connection.
#[derive(Debug, Default)]
pub struct Client {
    state: State,
    quiet: Quiet,
    next_sequence: u64,
}

impl Client {
    /// Begins a session on a fresh connection; the packet to send comes back with it. A `session` of blanks asks for the current one.
    pub fn login(now: Nanos, user: &str, password: &str, session: &str, next_sequence: u64) -> (Self, Control) {
        let number = next_sequence.to_string();
        let fields = [(user, 6, false), (password, 10, false), (session, 10, true), (&*number, 20, true)];
        let client = Self { state: State::LoggingIn, quiet: Quiet::since(now), next_sequence };
        (client, control(kind::LOGIN_REQUEST, &fields))
    }

    /// Bears the server's silence for `patience` instead of [`TIMEOUT`](super::TIMEOUT).
    #[must_use]
    pub fn with_patience(mut self, patience: Nanos) -> Self {
        self.quiet.patience = patience;
        self
    }

    /// The state.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a packet from the server.
    pub fn receive<'a>(&mut self, now: Nanos, packet: Packet<'a>) -> ClientEvent<'a> {
        self.quiet.heard = now;
        match (packet.kind, self.state, packet.payload) {
            (kind::LOGIN_ACCEPTED, State::LoggingIn, fields) if fields.len() == 30 => {
                let (session, sequence) = fields.split_at(10);
                let (Some(session), Some(next_sequence)) = (name(session), number(sequence)) else {
                    return ClientEvent::Unexpected(packet.kind);
                };
                self.state = State::Active;
                self.next_sequence = next_sequence;
                ClientEvent::Accepted { session, next_sequence }
            }
            (kind::LOGIN_REJECTED, State::LoggingIn, &[reason]) => {
                self.state = State::Ended;
                ClientEvent::Rejected(reason)
            }
            (kind::SEQUENCED, State::Active, message) => {
                let number = self.next_sequence;
                self.next_sequence = number.wrapping_add(1);
                ClientEvent::Message(number, message)
            }
            (kind::END_OF_SESSION, _, []) => {
                self.state = State::Ended;
                ClientEvent::Ended
            }
            (kind::SERVER_HEARTBEAT, _, []) | (kind::DEBUG, ..) => ClientEvent::Nothing,
            (other, ..) => ClientEvent::Unexpected(other),
        }
    }

    /// Notes that something was sent, which spares a heartbeat.
    #[inline]
    pub fn sent(&mut self, now: Nanos) {
        self.quiet.sent = now;
    }

    /// A heartbeat, when one is due. A server that was silent too long ends the session.
    pub fn poll(&mut self, now: Nanos) -> Option<Control> {
        poll(&mut self.state, &mut self.quiet, now, kind::CLIENT_HEARTBEAT)
    }

    /// When [`Client::poll`] has something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        (self.state != State::Ended).then(|| self.quiet.deadline())
    }

    /// Ends the session; send what comes back and close.
    pub fn logout(&mut self) -> Control {
        self.state = State::Ended;
        control(kind::LOGOUT, &[])
    }
}
