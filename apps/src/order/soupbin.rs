//! SoupBinTCP 4.1: packets of a length, a type and a payload on a TCP stream, with login, heartbeats and sequenced delivery.

use arrayvec::ArrayVec;
use barewire_driver::clock::Nanos;

/// A packet's length field counts the type and the payload.
const LENGTH: usize = 2;
/// The longest payload that is read, in bytes; OUCH needs far less.
const MAX_PAYLOAD: usize = 4096;
/// Silence after which a heartbeat is due (section 2.1.2, 2.2.5).
pub const HEARTBEAT: Nanos = 1_000_000_000;
/// Silence after which the other side is taken for dead.
pub const TIMEOUT: Nanos = 15_000_000_000;

/// A small packet that is written apart from the stream.
pub type Control = ArrayVec<u8, 64>;

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A length of zero leaves no room for the type.
    #[error("packet has length zero")]
    Empty,
    /// A length beyond what any message needs.
    #[error("packet claims {0} bytes")]
    TooLong(usize),
}

/// A packet, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The type's letter.
    pub kind: u8,
    /// What follows.
    pub payload: &'a [u8],
}

/// Types, by who sends them.
pub mod kind {
    /// Free text, either way.
    pub const DEBUG: u8 = b'+';
    /// Client: login request.
    pub const LOGIN_REQUEST: u8 = b'L';
    /// Client: a message that is not repeated after a reconnect.
    pub const UNSEQUENCED: u8 = b'U';
    /// Client: heartbeat.
    pub const CLIENT_HEARTBEAT: u8 = b'R';
    /// Client: logout request.
    pub const LOGOUT: u8 = b'O';
    /// Server: login accepted.
    pub const LOGIN_ACCEPTED: u8 = b'A';
    /// Server: login rejected.
    pub const LOGIN_REJECTED: u8 = b'J';
    /// Server: a numbered message.
    pub const SEQUENCED: u8 = b'S';
    /// Server: heartbeat.
    pub const SERVER_HEARTBEAT: u8 = b'H';
    /// Server: nothing follows.
    pub const END_OF_SESSION: u8 = b'Z';
}

/// Splits the first packet off; `None` when it is not complete.
pub fn split(bytes: &[u8]) -> Result<Option<(Packet<'_>, &[u8])>, Error> {
    let Some((len, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes(*len));
    if len > MAX_PAYLOAD + 1 {
        return Err(Error::TooLong(len));
    }
    if len == 0 {
        return Err(Error::Empty);
    }
    let Some((packet, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    Ok(packet.split_first().map(|(kind, payload)| (Packet { kind: *kind, payload }, rest)))
}

/// Puts packets together from a stream that is cut anywhere.
#[derive(Debug, Default)]
pub struct Assembler(Vec<u8>);

impl Assembler {
    /// Takes the next bytes of the stream and calls `packet` for each that is complete.
    ///
    /// # Errors
    /// When the stream makes no sense any more; the connection should be ended.
    pub fn feed(&mut self, bytes: &[u8], mut packet: impl FnMut(Packet<'_>)) -> Result<(), Error> {
        let mut held = std::mem::take(&mut self.0);
        let mut rest = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            held.as_slice()
        };
        while let Some((first, after)) = split(rest)? {
            packet(first);
            rest = after;
        }
        let kept = rest.to_vec();
        held.clear();
        self.0 = kept;
        Ok(())
    }
}

/// A packet of fixed text.
fn control(kind: u8, fields: &[(&str, usize, bool)]) -> Control {
    let mut packet = Control::new();
    let len: usize = fields.iter().map(|(_, width, _)| width).sum();
    // The longest, a login request, has 49 bytes: pushes cannot fail.
    packet.extend((1 + len as u16).to_be_bytes());
    packet.push(kind);
    for (text, width, right) in fields {
        let text = &text.as_bytes()[..text.len().min(*width)];
        let blanks = std::iter::repeat_n(b' ', width - text.len());
        if *right {
            packet.extend(blanks);
            packet.extend(text.iter().copied());
        } else {
            packet.extend(text.iter().copied());
            packet.extend(blanks);
        }
    }
    packet
}

/// Appends a packet around `payload` to `out`.
pub fn wrap(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u16 + 1).to_be_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("").trim()
}

/// Silence on both directions of a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Quiet {
    sent: Nanos,
    heard: Nanos,
}

impl Quiet {
    fn deadline(self) -> Nanos {
        (self.sent + HEARTBEAT).min(self.heard + TIMEOUT)
    }
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Login is on its way.
    #[default]
    LoggingIn,
    /// Messages flow.
    Active,
    /// Over: rejected, timed out, logged out or ended.
    Ended,
}

/// What a client learns from a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    /// The session is open; the next sequenced message has this number.
    Accepted {
        /// Its number.
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
    /// A packet that a server does not send, or not in this state.
    Unexpected(u8),
}

/// The client's side of a session.
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
        let client = Self { state: State::LoggingIn, quiet: Quiet { sent: now, heard: now }, next_sequence };
        (client, control(kind::LOGIN_REQUEST, &fields))
    }

    /// The state.
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a packet from the server.
    pub fn receive<'a>(&mut self, now: Nanos, packet: Packet<'a>) -> ClientEvent<'a> {
        self.quiet.heard = now;
        match (packet.kind, self.state) {
            (kind::LOGIN_ACCEPTED, State::LoggingIn) => {
                self.state = State::Active;
                self.next_sequence =
                    packet.payload.get(10..30).and_then(|number| text(number).parse().ok()).unwrap_or(1);
                ClientEvent::Accepted { next_sequence: self.next_sequence }
            }
            (kind::LOGIN_REJECTED, State::LoggingIn) => {
                self.state = State::Ended;
                ClientEvent::Rejected(packet.payload.first().copied().unwrap_or(b'?'))
            }
            (kind::SEQUENCED, State::Active) => {
                let number = self.next_sequence;
                self.next_sequence = number.wrapping_add(1);
                ClientEvent::Message(number, packet.payload)
            }
            (kind::END_OF_SESSION, _) => {
                self.state = State::Ended;
                ClientEvent::Ended
            }
            (kind::SERVER_HEARTBEAT | kind::DEBUG, _) => ClientEvent::Nothing,
            (other, _) => ClientEvent::Unexpected(other),
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

fn poll(state: &mut State, quiet: &mut Quiet, now: Nanos, heartbeat: u8) -> Option<Control> {
    if *state == State::Ended {
        return None;
    }
    if now >= quiet.heard + TIMEOUT {
        *state = State::Ended;
        return None;
    }
    (now >= quiet.sent + HEARTBEAT).then(|| {
        quiet.sent = now;
        control(heartbeat, &[])
    })
}

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
        /// The first message wanted.
        next_sequence: u64,
    },
    /// A message.
    Message(&'a [u8]),
    /// The client leaves.
    Logout,
    /// A heartbeat or free text.
    Nothing,
    /// A packet that a client does not send, or not in this state, or a login that is too short.
    Unexpected(u8),
}

/// The server's side of a session.
#[derive(Debug, Default)]
pub struct Server {
    state: State,
    quiet: Quiet,
}

impl Server {
    /// Waits for a login on a fresh connection.
    pub fn new(now: Nanos) -> Self {
        Self { state: State::LoggingIn, quiet: Quiet { sent: now, heard: now } }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a packet from the client.
    pub fn receive<'a>(&mut self, now: Nanos, packet: Packet<'a>) -> ServerEvent<'a> {
        self.quiet.heard = now;
        match (packet.kind, self.state) {
            (kind::LOGIN_REQUEST, State::LoggingIn) => match packet.payload {
                fields if fields.len() == 46 => ServerEvent::Login {
                    user: text(&fields[..6]),
                    password: text(&fields[6..16]),
                    session: text(&fields[16..26]),
                    next_sequence: text(&fields[26..]).parse().unwrap_or(1),
                },
                _ => ServerEvent::Unexpected(packet.kind),
            },
            (kind::UNSEQUENCED, State::Active) => ServerEvent::Message(packet.payload),
            (kind::LOGOUT, _) => {
                self.state = State::Ended;
                ServerEvent::Logout
            }
            (kind::CLIENT_HEARTBEAT | kind::DEBUG, _) => ServerEvent::Nothing,
            (other, _) => ServerEvent::Unexpected(other),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(bytes: &[u8]) -> Packet<'_> {
        split(bytes).unwrap().unwrap().0
    }

    fn open() -> (Client, Server) {
        let (mut client, request) = Client::login(0, "TRADER", "SECRET", "", 1);
        let mut server = Server::new(0);
        let expected = ServerEvent::Login { user: "TRADER", password: "SECRET", session: "", next_sequence: 1 };
        assert_eq!(server.receive(0, packet(&request)), expected);
        let accepted = server.accept(0, "S1", 1);
        assert_eq!(client.receive(0, packet(&accepted)), ClientEvent::Accepted { next_sequence: 1 });
        (client, server)
    }

    #[test]
    fn login_opens_and_messages_are_numbered() {
        let (mut client, mut server) = open();
        let mut bytes = Vec::new();
        wrap(kind::SEQUENCED, b"one", &mut bytes);
        assert_eq!(client.receive(1, packet(&bytes)), ClientEvent::Message(1, b"one"));
        assert_eq!(client.receive(1, packet(&bytes)), ClientEvent::Message(2, b"one"));
        bytes[2] = kind::UNSEQUENCED;
        assert_eq!(server.receive(1, packet(&bytes)), ServerEvent::Message(b"one"));
        assert_eq!(server.receive(1, packet(&client.logout())), ServerEvent::Logout);
        assert_eq!((client.state(), server.state()), (State::Ended, State::Ended));
    }

    #[test]
    fn login_rejected_ends() {
        let (mut client, _) = Client::login(0, "X", "Y", "", 1);
        let rejected = Server::new(0).reject("A");
        assert_eq!(client.receive(0, packet(&rejected)), ClientEvent::Rejected(b'A'));
        assert_eq!(client.state(), State::Ended);
    }

    #[test]
    fn silence_brings_a_heartbeat_and_then_the_end() {
        let (mut client, mut server) = open();
        assert_eq!(client.poll(HEARTBEAT - 1), None);
        let beat = client.poll(HEARTBEAT).unwrap();
        assert_eq!(server.receive(HEARTBEAT, packet(&beat)), ServerEvent::Nothing);
        assert_eq!(client.deadline(), Some(2 * HEARTBEAT));
        assert_eq!(client.poll(TIMEOUT), None);
        assert_eq!((client.state(), client.deadline()), (State::Ended, None));
        assert_eq!(server.poll(TIMEOUT).map(|beat| beat[2]), Some(kind::SERVER_HEARTBEAT));
    }

    #[test]
    fn message_before_login_is_unexpected() {
        let mut bytes = Vec::new();
        wrap(kind::UNSEQUENCED, b"x", &mut bytes);
        assert_eq!(Server::new(0).receive(0, packet(&bytes)), ServerEvent::Unexpected(kind::UNSEQUENCED));
        wrap(kind::LOGIN_REQUEST, b"short", &mut bytes);
        assert_eq!(Server::new(0).receive(0, packet(&bytes[4..])), ServerEvent::Unexpected(kind::LOGIN_REQUEST));
    }

    #[test]
    fn nonsense_lengths_are_errors() {
        assert_eq!(split(&[0, 0, 1]), Err(Error::Empty));
        assert_eq!(split(&[0xFF, 0xFF, 1]), Err(Error::TooLong(0xFFFF)));
        assert_eq!(split(&[0]), Ok(None));
    }

    proptest! {
        #[test]
        fn assembler_finds_the_same_packets_however_the_stream_is_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..20), cuts in prop::collection::vec(1usize..9, 200)) {
            let mut stream = Vec::new();
            payloads.iter().for_each(|payload| wrap(kind::SEQUENCED, payload, &mut stream));
            let (mut assembler, mut got, mut rest) = (Assembler::default(), Vec::new(), &stream[..]);
            for cut in cuts.into_iter().cycle() {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                assembler.feed(now, |packet| got.push(packet.payload.to_vec())).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, payloads);
        }
    }
}
