//! MoldUDP64 1.0: sequenced messages in UDP packets.
//!
//! A downstream packet is a header (session 10, sequence number 8, message count 2 bytes) and blocks of a two-byte length and a message. A count
//! of zero is a heartbeat, 0xFFFF the end of the session.

use zerocopy::byteorder::big_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a packet's header.
pub const HEADER: usize = 20;
/// The message count that ends a session.
pub const END_OF_SESSION: u16 = 0xFFFF;

/// A session's name: ten bytes, filled up with blanks.
pub type Session = [u8; 10];

/// The header of a downstream packet; a request packet has the same layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The session the sequence number belongs to.
    pub session: Session,
    /// The number of the first message, or the next one in a heartbeat.
    pub sequence: U64,
    /// How many messages follow.
    pub count: U16,
}

/// The messages of a packet, as far as they are whole, whatever their numbers are.
#[inline]
pub fn messages(packet: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut blocks = packet.get(HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (len, rest) = blocks.split_first_chunk::<2>()?;
        let (message, rest) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
        blocks = rest;
        Some(message)
    })
}

/// What was received and what was wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packets with a header.
    pub packets: u64,
    /// Messages passed on.
    pub messages: u64,
    /// Messages that had been passed on before.
    pub duplicates: u64,
    /// Holes in the sequence.
    pub gaps: u64,
    /// Messages missing in them.
    pub missing: u64,
    /// Packets shorter than a header.
    pub truncated: u64,
    /// Message blocks that go beyond their packet; the rest of the packet is given up.
    pub bad_blocks: u64,
    /// Packets whose numbers go beyond 64 bits.
    pub bad_sequence: u64,
    /// Packets of another session than the one that runs.
    pub other_session: u64,
    /// Heartbeats.
    pub heartbeats: u64,
}

/// A hole in the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first message missing.
    pub from: u64,
    /// The first message after the hole.
    pub to: u64,
}

/// The receiving end of one session: passes every message on once, in the order of arrival, and notices what is missing.
#[derive(Debug, Default)]
pub struct Receiver {
    session: Option<Session>,
    /// The number of the next message; zero before the first packet.
    next: u64,
    ended: bool,
    last_gap: Option<Gap>,
    stats: Stats,
}

impl Receiver {
    /// Takes the session from the first packet that arrives, and the sequence from there.
    pub fn joining() -> Self {
        Self::default()
    }

    /// Expects the session from its first message on: what is missed at the start is a gap.
    pub fn from_start() -> Self {
        Self { next: 1, ..Self::default() }
    }

    /// Takes a packet apart: calls `message` with the number and the bytes of every message that is new.
    #[inline]
    pub fn receive<'p>(&mut self, packet: &'p [u8], mut message: impl FnMut(u64, &'p [u8])) {
        let Ok((header, mut blocks)) = Header::ref_from_prefix(packet) else {
            self.stats.truncated = self.stats.truncated.wrapping_add(1);
            return;
        };
        self.stats.packets = self.stats.packets.wrapping_add(1);
        if self.session != Some(header.session) && !self.enter(header) {
            return;
        }
        let (mut sequence, count) = (header.sequence.get(), header.count.get());
        let is_empty = count == 0 || count == END_OF_SESSION;
        if !is_empty && sequence.checked_add(count.into()).is_none() {
            self.stats.bad_sequence = self.stats.bad_sequence.wrapping_add(1);
            return;
        }
        if sequence != self.next {
            self.jump(sequence);
        }
        if is_empty {
            self.ended = count == END_OF_SESSION;
            self.stats.heartbeats = self.stats.heartbeats.wrapping_add(1);
            return;
        }
        for _ in 0..count {
            let block = blocks
                .split_first_chunk::<2>()
                .and_then(|(len, rest)| rest.split_at_checked(u16::from_be_bytes(*len).into()));
            let Some((bytes, rest)) = block else {
                self.stats.bad_blocks = self.stats.bad_blocks.wrapping_add(1);
                return;
            };
            blocks = rest;
            if sequence >= self.next {
                self.next = sequence.wrapping_add(1);
                self.stats.messages = self.stats.messages.wrapping_add(1);
                message(sequence, bytes);
            } else {
                self.stats.duplicates = self.stats.duplicates.wrapping_add(1);
            }
            sequence = sequence.wrapping_add(1);
        }
    }

    /// A session that is not ours: the first one is entered, any other counted and left alone.
    #[cold]
    fn enter(&mut self, header: &Header) -> bool {
        if self.session.is_some() {
            self.stats.other_session += 1;
            return false;
        }
        self.session = Some(header.session);
        if self.next == 0 {
            self.next = header.sequence.get();
        }
        true
    }

    /// The packet does not begin with the next message: a gap, or a repetition.
    #[cold]
    fn jump(&mut self, sequence: u64) {
        if let Some(missing) = sequence.checked_sub(self.next) {
            self.last_gap = Some(Gap { from: self.next, to: sequence });
            self.stats.gaps += 1;
            self.stats.missing = self.stats.missing.saturating_add(missing);
            self.next = sequence;
        }
    }

    /// The number of the next message that is expected.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Whether the session has been ended by its publisher.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The latest hole.
    pub fn last_gap(&self) -> Option<Gap> {
        self.last_gap
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

/// Writes one downstream packet into a buffer that it will be sent from.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    len: usize,
    count: u16,
}

impl<'a> Packet<'a> {
    /// Begins a packet whose first message has number `sequence`; `None` when the buffer holds no header.
    pub fn begin(buffer: &'a mut [u8], session: Session, sequence: u64) -> Option<Self> {
        let header = Header { session, sequence: sequence.into(), count: 0.into() };
        header.write_to_prefix(buffer).ok()?;
        Some(Self { buffer, len: HEADER, count: 0 })
    }

    /// Appends a message; `false`, and nothing happens, when it does not fit.
    #[must_use]
    pub fn push(&mut self, message: &[u8]) -> bool {
        let Ok(len) = u16::try_from(message.len()) else { return false };
        let Some(room) = self.buffer.get_mut(self.len..self.len + 2 + message.len()) else { return false };
        if self.count == END_OF_SESSION - 1 {
            return false;
        }
        room[..2].copy_from_slice(&len.to_be_bytes());
        room[2..].copy_from_slice(message);
        self.len += 2 + message.len();
        self.count += 1;
        true
    }

    /// How many messages are in it.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Finishes the packet; without messages it is a heartbeat. Returns its length in bytes.
    pub fn finish(self) -> usize {
        let count = self.count;
        self.end(count)
    }

    /// Finishes a packet that ends the session.
    pub fn end_session(self) -> usize {
        self.end(END_OF_SESSION)
    }

    fn end(self, count: u16) -> usize {
        self.buffer[HEADER - 2..HEADER].copy_from_slice(&count.to_be_bytes());
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SESSION: Session = *b"barewire01";

    fn packet(session: Session, sequence: u64, messages: &[&[u8]]) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let mut packet = Packet::begin(&mut buffer, session, sequence).unwrap();
        for message in messages {
            assert!(packet.push(message));
        }
        let len = packet.finish();
        buffer.truncate(len);
        buffer
    }

    fn receive(receiver: &mut Receiver, packet: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut got = Vec::new();
        receiver.receive(packet, |sequence, bytes| got.push((sequence, bytes.to_vec())));
        got
    }

    #[test]
    fn packets_in_order_pass_on_every_message() {
        let mut receiver = Receiver::from_start();
        assert_eq!(receive(&mut receiver, &packet(SESSION, 1, &[b"a", b"bc"])).len(), 2);
        assert_eq!(receive(&mut receiver, &packet(SESSION, 3, &[b"d"])), [(3, b"d".to_vec())]);
        assert_eq!((receiver.next_sequence(), receiver.stats().gaps), (4, 0));
    }

    #[test]
    fn gap_is_named_and_what_follows_is_passed_on() {
        let mut receiver = Receiver::from_start();
        assert_eq!(receive(&mut receiver, &packet(SESSION, 5, &[b"e"])).len(), 1);
        assert_eq!(receiver.last_gap(), Some(Gap { from: 1, to: 5 }));
        assert_eq!((receiver.stats().gaps, receiver.stats().missing), (1, 4));
        receive(&mut receiver, &packet(SESSION, 9, &[]));
        assert_eq!((receiver.last_gap(), receiver.next_sequence()), (Some(Gap { from: 6, to: 9 }), 9));
    }

    #[test]
    fn repetition_is_dropped_and_an_overlap_passes_only_the_new_part() {
        let mut receiver = Receiver::from_start();
        receive(&mut receiver, &packet(SESSION, 1, &[b"a", b"b"]));
        assert!(receive(&mut receiver, &packet(SESSION, 1, &[b"a"])).is_empty());
        assert_eq!(receive(&mut receiver, &packet(SESSION, 2, &[b"b", b"c"])), [(3, b"c".to_vec())]);
        assert_eq!(receiver.stats().duplicates, 2);
    }

    #[test]
    fn other_session_in_mid_stream_changes_nothing() {
        let mut receiver = Receiver::joining();
        receive(&mut receiver, &packet(SESSION, 7, &[b"a"]));
        assert!(receive(&mut receiver, &packet(*b"otherother", 8, &[b"x"])).is_empty());
        assert_eq!((receiver.stats().other_session, receiver.next_sequence()), (1, 8));
    }

    #[test]
    fn end_of_session_is_told() {
        let mut receiver = Receiver::joining();
        let mut buffer = [0; HEADER];
        let len = Packet::begin(&mut buffer, SESSION, 1).unwrap().end_session();
        receive(&mut receiver, &buffer[..len]);
        assert!(receiver.has_ended());
    }

    #[test]
    fn cut_packets_are_counted_at_every_length() {
        let whole = packet(SESSION, 1, &[b"one", b"two"]);
        for len in 0..whole.len() {
            let mut receiver = Receiver::from_start();
            receive(&mut receiver, &whole[..len]);
            let stats = receiver.stats();
            assert_eq!(stats.truncated + stats.bad_blocks, 1, "{len}");
        }
    }

    #[test]
    fn sequence_beyond_64_bits_is_counted_and_never_begins_anew() {
        let mut receiver = Receiver::joining();
        let end = u64::MAX - 1;
        assert_eq!(receive(&mut receiver, &packet(SESSION, end, &[b"a"])), [(end, b"a".to_vec())]);
        assert!(receive(&mut receiver, &packet(SESSION, u64::MAX, &[b"b"])).is_empty());
        assert!(receive(&mut receiver, &packet(SESSION, 1, &[b"c"])).is_empty());
        assert_eq!((receiver.stats().bad_sequence, receiver.next_sequence()), (1, u64::MAX));
    }

    proptest! {
        #[test]
        fn receiver_never_panics_and_passes_on_no_message_twice(packets in prop::collection::vec(
            (0u64..50, prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 0..5)), 0..40)) {
            let mut receiver = Receiver::from_start();
            let mut seen = std::collections::HashSet::new();
            for (sequence, messages) in packets {
                let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
                for (number, _) in receive(&mut receiver, &packet(SESSION, sequence, &messages)) {
                    prop_assert!(seen.insert(number));
                }
            }
        }

        #[test]
        fn receiver_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            receive(&mut Receiver::from_start(), &bytes);
        }
    }
}
