//! The re-request server: messages that were published, and the packets that answer requests for them.

use zerocopy::FromBytes;

use super::moldudp64::{Header, Packet, Session};
use super::window::Window;

/// Messages that are kept, at most: what a feed of 80,000 messages a second says in 1.6 s. 8 MiB.
pub const RETAINED: usize = 1 << 17;

/// Requests, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Answered with at least one message.
    pub answered: u64,
    /// Messages in the answers.
    pub messages: u64,
    /// Not a request, or one for no message.
    pub malformed: u64,
    /// For another session.
    pub other_session: u64,
    /// For messages that are not kept any more.
    pub too_old: u64,
    /// For messages that were not published yet.
    pub too_new: u64,
}

/// Keeps the latest messages of a session.
#[derive(Debug)]
pub struct Retransmitter {
    session: Session,
    kept: Window,
    /// The number of the next message.
    next: u64,
    stats: Stats,
}

impl Retransmitter {
    /// Keeps messages of `session`, from its first one on.
    pub fn new(session: Session) -> Self {
        Self { session, kept: Window::new(RETAINED), next: 1, stats: Stats::default() }
    }

    /// The next message was published. One that is longer than any of ITCH is not kept, and a request for it not answered.
    pub fn published(&mut self, message: &[u8]) {
        let _ = self.kept.put(self.next, message);
        self.next += 1;
    }

    /// Answers `request`: writes one packet into `buffer`, with as many of the messages as it holds, and returns its length in bytes. A request that
    /// cannot be answered is counted, and answered by silence: the client turns to another server or to a snapshot.
    pub fn answer(&mut self, request: &[u8], buffer: &mut [u8]) -> Option<usize> {
        let Ok(header) = Header::ref_from_bytes(request) else {
            self.stats.malformed += 1;
            return None;
        };
        let (first, count) = (header.sequence.get(), u64::from(header.count.get()));
        let refused = if header.session != self.session {
            Some(&mut self.stats.other_session)
        } else if first == 0 || count == 0 {
            Some(&mut self.stats.malformed)
        } else if first >= self.next {
            Some(&mut self.stats.too_new)
        } else if self.kept.get(first).is_none() {
            Some(&mut self.stats.too_old)
        } else {
            None
        };
        if let Some(counter) = refused {
            *counter += 1;
            return None;
        }
        let mut packet = Packet::begin(buffer, self.session, first)?;
        let end = self.next.min(first.saturating_add(count));
        for message in (first..end).map_while(|number| self.kept.get(number)) {
            if !packet.push(message) {
                break;
            }
        }
        self.stats.answered += 1;
        self.stats.messages += u64::from(packet.count());
        Some(packet.finish())
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::feed::arbiter::{Arbiter, Source};

    const SESSION: Session = *b"BAREWIRE01";

    fn request(session: Session, first: u64, count: u16) -> Vec<u8> {
        Header { session, sequence: first.into(), count: count.into() }.as_bytes().to_vec()
    }

    fn server(messages: u64) -> Retransmitter {
        let mut server = Retransmitter::new(SESSION);
        (1..=messages).for_each(|number| server.published(format!("message {number}").as_bytes()));
        server
    }

    #[test]
    fn request_is_answered_with_what_was_published() {
        let mut server = server(100);
        let mut buffer = [0; 1400];
        let len = server.answer(&request(SESSION, 40, 3), &mut buffer).unwrap();
        let mut expected = [0; 1400];
        let mut packet = Packet::begin(&mut expected, SESSION, 40).unwrap();
        assert!((40..43).all(|number| packet.push(format!("message {number}").as_bytes())));
        let expected_len = packet.finish();
        assert_eq!(buffer[..len], expected[..expected_len]);
    }

    #[test]
    fn answer_ends_where_the_packet_or_the_feed_does() {
        let mut server = server(100);
        let mut buffer = [0; 64];
        let len = server.answer(&request(SESSION, 1, 50), &mut buffer).unwrap();
        assert_eq!(Header::ref_from_prefix(&buffer[..len]).unwrap().0.count.get(), 4);
        let mut buffer = [0; 1400];
        let len = server.answer(&request(SESSION, 99, u16::MAX), &mut buffer).unwrap();
        assert_eq!(Header::ref_from_prefix(&buffer[..len]).unwrap().0.count.get(), 2);
    }

    #[test]
    fn what_cannot_be_answered_is_counted_by_cause() {
        let mut server = server(RETAINED as u64 + 10);
        let mut buffer = [0; 1400];
        let requests = [
            request(SESSION, 10, 1),
            request(SESSION, RETAINED as u64 + 11, 1),
            request(*b"OTHER00001", 50, 1),
            request(SESSION, 50, 0),
            request(SESSION, 0, 1),
            b"short".to_vec(),
            [request(SESSION, 50, 1), vec![0]].concat(),
        ];
        for request in requests {
            assert_eq!(server.answer(&request, &mut buffer), None);
        }
        let expected = Stats { too_old: 1, too_new: 1, other_session: 1, malformed: 4, ..Stats::default() };
        assert_eq!(server.stats(), expected);
        assert!(server.answer(&request(SESSION, 11, 1), &mut buffer).is_some());
        assert_eq!(server.answer(&request(SESSION, 11, 1), &mut buffer[..10]), None, "no room for a header");
    }

    proptest! {
        #[test]
        fn any_request_is_answered_in_sequence_or_by_silence(
            bytes in prop::collection::vec(any::<u8>(), 0..30), first in 0u64..60, count: u16, room in 0usize..300,
        ) {
            let mut server = server(50);
            let mut buffer = vec![0; room];
            let _ = server.answer(&bytes, &mut buffer);
            if let Some(len) = server.answer(&request(SESSION, first, count), &mut buffer) {
                let mut arbiter = Arbiter::default();
                arbiter.resume(0, first, |_| {});
                let mut next = first;
                arbiter.receive(0, Source::Recovery, &buffer[..len], |message| {
                    assert_eq!((message.number, message.bytes), (next, format!("message {next}").as_bytes()));
                    next += 1;
                });
                prop_assert!(next <= 51 && next - first <= u64::from(count));
            }
        }
    }
}
