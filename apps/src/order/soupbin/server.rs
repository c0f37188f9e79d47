//! The server's side of one connection.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;

use super::packet::{control, kind, number, text};
use super::{Control, Packet, Quiet, State, poll};

/// What a server learns from a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerEvent<'a> {
    /// Somebody wants in: answer with [`Server::accept`] or [`Server::reject`].
    Login {
        /// The user.
        user: &'a str,
        /// The password.
        password: &'a str,
        /// The session, or blanks for the current one.
        session: &'a str,
        /// The first message wanted; zero for none but new ones.
        next_sequence: u64,
    },
    /// A message.
    Message(&'a [u8]),
    /// The client leaves.
    Logout,
    /// A heartbeat or free text.
    Nothing,
    /// A packet that a client does not send, or not in this state, or with a payload that its type does not have.
    Unexpected(u8),
}

/// The server's side of a connection.
#[derive(Debug, Default)]
pub struct Server {
    state: State,
    quiet: Quiet,
}

impl Server {
    /// Waits for a login on a fresh connection.
    pub fn new(now: Nanos) -> Self {
        Self { state: State::LoggingIn, quiet: Quiet::since(now) }
    }

    /// Bears the client's silence for `patience` instead of [`TIMEOUT`](super::TIMEOUT).
    #[must_use]
    pub fn with_patience(mut self, patience: Nanos) -> Self {
        self.quiet.patience = patience;
        self
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a packet from the client.
    pub fn receive<'a>(&mut self, now: Nanos, packet: Packet<'a>) -> ServerEvent<'a> {
        self.quiet.heard = now;
        match (packet.kind, self.state, packet.payload) {
            (kind::LOGIN_REQUEST, State::LoggingIn, fields) if fields.len() == 46 => {
                let text = |from: usize, to: usize| fields.get(from..to).and_then(text);
                let login = (text(0, 6), text(6, 16), text(16, 26), fields.get(26..).and_then(number));
                let (Some(user), Some(password), Some(session), Some(next_sequence)) = login else {
                    return ServerEvent::Unexpected(packet.kind);
                };
                ServerEvent::Login { user, password, session, next_sequence }
            }
            (kind::UNSEQUENCED, State::Active, message) => ServerEvent::Message(message),
            (kind::LOGOUT, _, []) => {
                self.state = State::Ended;
                ServerEvent::Logout
            }
            (kind::CLIENT_HEARTBEAT, _, []) | (kind::DEBUG, ..) => ServerEvent::Nothing,
            (other, ..) => ServerEvent::Unexpected(other),
        }
    }

    /// Opens the session; the next sequenced message will have `next_sequence`.
    pub fn accept(&mut self, now: Nanos, session: &str, next_sequence: u64) -> Control {
        (self.state, self.quiet.sent) = (State::Active, now);
        control(kind::LOGIN_ACCEPTED, &[(session, 10, true), (&next_sequence.to_string(), 20, true)])
    }

    /// Refuses: `A` not authorised, `S` no such session.
    pub fn reject(&mut self, reason: &str) -> Control {
        self.state = State::Ended;
        control(kind::LOGIN_REJECTED, &[(reason, 1, false)])
    }

    /// Notes that something was sent.
    pub fn sent(&mut self, now: Nanos) {
        self.quiet.sent = now;
    }

    /// A heartbeat, when one is due. A client that was silent too long ends the session.
    pub fn poll(&mut self, now: Nanos) -> Option<Control> {
        poll(&mut self.state, &mut self.quiet, now, kind::SERVER_HEARTBEAT)
    }

    /// When [`Server::poll`] has something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        (self.state != State::Ended).then(|| self.quiet.deadline())
    }

    /// Ends the session for good.
    pub fn end(&mut self) -> Control {
        self.state = State::Ended;
        control(kind::END_OF_SESSION, &[])
    }
}
