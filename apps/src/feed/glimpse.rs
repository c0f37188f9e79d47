//! GLIMPSE 5.0: a snapshot of ITCH's books over SoupBinTCP.
//!
//! After the login come ITCH messages that build the books as they are now, and then one message of GLIMPSE's own, End of Snapshot: its type and the
//! number, in 20 digits, of the feed's message to go on from.

use barewire_driver::clock::Nanos;

use crate::order::soupbin::{self, Assembler, ClientEvent, Control, ServerEvent, State, kind};

/// The type of End of Snapshot.
pub const END_OF_SNAPSHOT: u8 = b'G';
/// Digits of its number.
const DIGITS: usize = 20;

/// What a client learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update<'a> {
    /// A message of the snapshot.
    Message(&'a [u8]),
    /// The snapshot is complete; the feed goes on with the message of this number.
    End(u64),
}

/// Why there is no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stream cannot be read on.
    #[error(transparent)]
    Stream(#[from] soupbin::Error),
    /// The login was refused.
    #[error("snapshot login rejected: {}", char::from(*.0))]
    Rejected(u8),
    /// The session ended, or fell silent, before the snapshot was complete.
    #[error("snapshot session ended early")]
    Ended,
    /// End of Snapshot carries no number.
    #[error("snapshot ends without a sequence number")]
    BadEnd,
}

/// The client's side of one snapshot.
#[derive(Debug)]
pub struct Client {
    session: soupbin::Client,
    assembler: Assembler,
    is_complete: bool,
}

impl Client {
    /// Asks for a snapshot on a fresh connection; the packet to send comes back with it.
    pub fn login(now: Nanos, user: &str, password: &str) -> (Self, Control) {
        let (session, request) = soupbin::Client::login(now, user, password, "", 1);
        (Self { session, assembler: Assembler::default(), is_complete: false }, request)
    }

    /// Takes the next bytes of the stream; `update` learns what is in them.
    ///
    /// # Errors
    /// When no snapshot will come of this connection any more. What was learned of it is void then.
    pub fn receive(&mut self, now: Nanos, bytes: &[u8], mut update: impl FnMut(Update<'_>)) -> Result<(), Error> {
        let Self { session, assembler, is_complete } = self;
        let mut outcome = Ok(());
        let read = assembler.feed(bytes, |packet| {
            if *is_complete || outcome.is_err() {
                return;
            }
            match session.receive(now, packet) {
                ClientEvent::Message(_, message) if message.first() == Some(&END_OF_SNAPSHOT) => match end(message) {
                    Some(number) => {
                        *is_complete = true;
                        update(Update::End(number));
                    }
                    None => outcome = Err(Error::BadEnd),
                },
                ClientEvent::Message(_, message) => update(Update::Message(message)),
                ClientEvent::Rejected(reason) => outcome = Err(Error::Rejected(reason)),
                ClientEvent::Ended => outcome = Err(Error::Ended),
                // What else a server may say does not change the snapshot.
                _ => {}
            }
        });
        outcome?;
        // What follows the end is of no interest.
        if !*is_complete {
            read?;
        }
        Ok(())
    }

    /// A heartbeat, when one is due.
    ///
    /// # Errors
    /// [`Error::Ended`] when the server was silent too long.
    pub fn poll(&mut self, now: Nanos) -> Result<Option<Control>, Error> {
        let heartbeat = self.session.poll(now);
        if self.session.state() == State::Ended && !self.is_complete { Err(Error::Ended) } else { Ok(heartbeat) }
    }

    /// When [`Client::poll`] has something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        self.session.deadline()
    }
}

/// The number in End of Snapshot: digits, padded with blanks on either side.
fn end(message: &[u8]) -> Option<u64> {
    let digits = message.get(1..)?.first_chunk::<DIGITS>().filter(|_| message.len() == 1 + DIGITS)?;
    std::str::from_utf8(digits).ok()?.trim().parse().ok().filter(|number| *number > 0)
}

/// The server's side of one snapshot.
#[derive(Debug)]
pub struct Server {
    session: soupbin::Server,
    assembler: Assembler,
    out: Vec<u8>,
}

impl Server {
    /// Waits for a login on a fresh connection.
    pub fn new(now: Nanos) -> Self {
        Self { session: soupbin::Server::new(now), assembler: Assembler::default(), out: Vec::new() }
    }

    /// Takes the next bytes of the stream. A login is answered with what `snapshot` says: it hands over the messages of the books one by one, and
    /// returns the number of the feed's next message.
    ///
    /// # Errors
    /// When the stream makes no sense; the connection should be ended.
    pub fn receive(
        &mut self,
        now: Nanos,
        bytes: &[u8],
        mut snapshot: impl FnMut(&mut dyn FnMut(&[u8])) -> u64,
    ) -> Result<(), soupbin::Error> {
        let Self { session, assembler, out } = self;
        assembler.feed(bytes, |packet| {
            if let ServerEvent::Login { .. } = session.receive(now, packet) {
                out.extend_from_slice(&session.accept(now, "", 1));
                let next = snapshot(&mut |message| soupbin::wrap(kind::SEQUENCED, message, out));
                let end = format!("{}{next:>DIGITS$}", char::from(END_OF_SNAPSHOT));
                soupbin::wrap(kind::SEQUENCED, end.as_bytes(), out);
                out.extend_from_slice(&session.end());
            }
        })
    }

    /// What is to be sent.
    pub fn pending(&self) -> &[u8] {
        &self.out
    }

    /// The first `count` bytes of [`Server::pending`] were sent.
    pub fn sent(&mut self, count: usize) {
        self.out.drain(..count.min(self.out.len()));
    }

    /// Gives a client up that has been connected for long and not logged in.
    pub fn on_time(&mut self, now: Nanos) {
        // Before the login there is nobody to send heartbeats to, and after it the session ends with the snapshot.
        let _ = self.session.poll(now);
    }

    /// Whether the connection has served its purpose.
    pub fn is_over(&self) -> bool {
        self.session.state() == State::Ended && self.out.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exchange(messages: &[Vec<u8>], next: u64, piece: usize) -> (Vec<Vec<u8>>, Option<u64>) {
        let (mut client, request) = Client::login(0, "TRADER", "SECRET");
        let mut server = Server::new(0);
        for part in request.chunks(piece) {
            let served = server.receive(0, part, |say| {
                messages.iter().for_each(|message| say(message));
                next
            });
            served.unwrap();
        }
        let (mut got, mut end) = (Vec::new(), None);
        while !server.pending().is_empty() {
            let part: Vec<u8> = server.pending().iter().copied().take(piece).collect();
            server.sent(part.len());
            let received = client.receive(0, &part, |update| match update {
                Update::Message(message) => got.push(message.to_vec()),
                Update::End(number) => end = Some(number),
            });
            received.unwrap();
        }
        assert!(server.is_over());
        (got, end)
    }

    fn end_with(message: &[u8]) -> Result<(), Error> {
        let (mut client, _) = Client::login(0, "TRADER", "SECRET");
        let mut bytes = soupbin::Server::new(0).accept(0, "", 1).to_vec();
        soupbin::wrap(kind::SEQUENCED, message, &mut bytes);
        client.receive(0, &bytes, |_| {})
    }

    #[test]
    fn refusals_and_early_ends_are_told_apart() {
        let (mut client, _) = Client::login(0, "TRADER", "SECRET");
        let rejected = soupbin::Server::new(0).reject("A");
        assert_eq!(client.receive(0, &rejected, |_| {}), Err(Error::Rejected(b'A')));
        let (mut client, _) = Client::login(0, "TRADER", "SECRET");
        let ended = soupbin::Server::new(0).end();
        assert_eq!(client.receive(0, &ended, |_| {}), Err(Error::Ended));
        let (mut client, _) = Client::login(0, "TRADER", "SECRET");
        assert_eq!(client.receive(0, &[0, 0], |_| {}), Err(Error::Stream(soupbin::Error::Empty)));
        assert_eq!(client.poll(soupbin::TIMEOUT), Err(Error::Ended));
    }

    #[test]
    fn client_that_never_logs_in_is_given_up() {
        let mut server = Server::new(5);
        server.on_time(5 + soupbin::TIMEOUT - 1);
        assert!(!server.is_over());
        server.on_time(5 + soupbin::TIMEOUT);
        assert!(server.is_over());
    }

    #[test]
    fn end_without_a_number_is_refused() {
        for end in [&b"G"[..], b"G                    ", b"G00000000000000000000", b"Gxxxxxxxxxxxxxxxxxxxx", b"G1"] {
            assert_eq!(end_with(end), Err(Error::BadEnd), "{end:?}");
        }
        assert_eq!(end_with(b"G                  17"), Ok(()));
    }

    proptest! {
        #[test]
        fn snapshot_arrives_however_the_stream_is_cut(
            messages in prop::collection::vec(prop::collection::vec(b'A'..=b'F', 1..50), 0..50), next in 1u64.., piece in 1usize..200,
        ) {
            prop_assert_eq!(exchange(&messages, next, piece), (messages.clone(), Some(next)));
        }

        #[test]
        fn both_ends_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Client::login(0, "TRADER", "SECRET").0.receive(0, &bytes, |_| {});
            let _ = Server::new(0).receive(0, &bytes, |_| 1);
        }
    }
}
