//! The feed handler between two lines, re-request servers and snapshot servers that lose, repeat, cut, lie and fall silent, while the clock steps
//! back and forth. What the books are told is in sequence, each message as it was published; a message that is known to exist and not there makes
//! them stale; and once everybody is honest again they come right.
#![no_main]
#![forbid(unsafe_code)]

use barewire::feed::arbiter::{HOLD_BACK, Sequenced, Source};
use barewire::feed::glimpse::Server;
use barewire::feed::handler::{Action, Handler, Update};
use barewire::feed::recovery::REQUEST_MESSAGES;
use barewire_driver::clock::Nanos;
use barewire_fuzz::Bytes;
use barewire_fuzz::feed::{MOST, SESSION, damage, end_of_session, number, packet, text};
use libfuzzer_sys::fuzz_target;

/// Steps until everything is there again, at most.
const PATIENCE: u32 = 20_000;

/// Books of one number: that of the last message.
#[derive(Default)]
struct Book {
    last: u64,
    /// A snapshot is on its way.
    is_void: bool,
    applied: u64,
    resets: u64,
}

impl Book {
    fn message(&mut self, message: Sequenced<'_>) {
        assert!(!self.is_void, "message {} before the snapshot is complete", message.number);
        assert_eq!((message.number, message.bytes), (self.last + 1, &text(message.number)[..]));
        self.last += 1;
        self.applied += 1;
    }

    fn update(&mut self, update: Update<'_>) {
        match update {
            Update::Message(message) => self.message(message),
            Update::Reset => (self.is_void, self.resets) = (true, self.resets + 1),
            Update::Snapshot(bytes) => {
                self.last = u64::from_be_bytes(bytes.try_into().expect("a message as the server said it"))
            }
            Update::Complete(next) => {
                assert!(self.is_void && next == self.last + 1);
                self.is_void = false;
            }
        }
    }
}

struct Rig {
    now: Nanos,
    handler: Handler,
    book: Book,
    /// Messages that exist.
    published: u64,
    /// The number after the last that a packet has told of since the last snapshot.
    told: u64,
    /// The same since the beginning.
    said: u64,
    /// Answers on their way.
    answers: Vec<Vec<u8>>,
}

impl Rig {
    fn receive(&mut self, source: Source, packet: &[u8]) {
        let Self { now, handler, book, published, told, said, .. } = self;
        handler.receive(*now, source, packet, |message| book.message(message));
        *published = book.last.max(*published);
        if let Some((header, _)) = packet.split_first_chunk::<20>()
            && header[..10] == SESSION
        {
            let first = header[10..18].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            let count = u16::from_be_bytes([header[18], header[19]]);
            let end = first.checked_add(if count == u16::MAX { 0 } else { count.into() });
            *told = end.filter(|_| first > 0).unwrap_or(0).max(*told);
            *said = (*said).max(*told);
        }
    }

    /// Does what is due; `answer` makes an answer to a request for so many messages from a number on, or does not.
    fn poll(&mut self, mut answer: impl FnMut(u64, u64) -> Option<Vec<u8>>) {
        let mut polls = 0;
        while let Some(action) = self.handler.poll(self.now) {
            polls += 1;
            assert!(polls < 16, "it does not come to an end");
            let Action::Request { packet, .. } = action else { continue };
            let (first, count) = packet[10..].split_at(8);
            let first = first.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            let count = u64::from(u16::from_be_bytes([count[0], count[1]]));
            let next = self.handler.arbiter().next_sequence();
            assert!((1..=REQUEST_MESSAGES).contains(&count) && first >= next);
            assert!(first + count <= next + HOLD_BACK as u64);
            self.answers.extend(answer(first, count));
        }
        let _ = self.handler.on_time(self.now);
        assert!(self.handler.deadline().is_none_or(|deadline| deadline > self.now), "a deadline stays in the past");
    }

    /// A snapshot server's stream, up to `most` bytes of it, behind `before`.
    fn snapshot(&mut self, before: &[u8], piece: usize, most: usize) {
        if !self.handler.is_snapshot_running() {
            return;
        }
        let Self { now, handler, book, published, told, .. } = self;
        let mut server = Server::new(*now);
        let served = server.receive(*now, &handler.connected(*now), |say| {
            say(&text(*published));
            *published + 1
        });
        served.expect("a login that makes sense");
        let stream = [before, server.pending()].concat();
        for part in stream[..most.min(stream.len())].chunks(piece) {
            if !handler.snapshot(*now, part, |update| book.update(update)) {
                break;
            }
        }
        if handler.is_snapshot_running() {
            handler.disconnected(*now);
        } else {
            *told = 0;
        }
        *published = book.last.max(*published);
    }

    fn check(&self) {
        let (arbiter, next) = (self.handler.arbiter(), self.handler.arbiter().next_sequence());
        let is_stale = self.handler.stale_since().is_some();
        if self.handler.is_snapshot_running() || self.book.is_void {
            return assert!(is_stale, "void books are taken for current ones");
        }
        assert_eq!(self.book.last + 1, next);
        assert!(is_stale || self.told <= next, "messages to before {} exist, {next} is next", self.told);
        assert_eq!(arbiter.gap_since().is_some(), arbiter.missing() > 0);
        let stats = arbiter.stats();
        assert_eq!(stats.messages, self.book.applied);
        let brought: u64 = Source::ALL.iter().map(|source| arbiter.source_stats(*source).messages).sum();
        assert!(brought >= stats.messages, "more than was brought");
        if stats.snapshots == 0 {
            assert!(arbiter.missing() > 0 || brought == stats.messages, "something is held back for nothing");
        }
    }

    /// Everybody is honest from here on: what a packet has told of exists by now, or a message that is held would wait for ever.
    fn come_right(mut self) {
        self.published = self.published.max(self.said.saturating_sub(1));
        for _ in 0..PATIENCE {
            self.now = self.now.max(self.handler.deadline().unwrap_or(0)) + 1000;
            for answer in std::mem::take(&mut self.answers) {
                self.receive(Source::Recovery, &answer);
            }
            let end = end_of_session(self.published + 1);
            self.receive(Source::B, &end);
            // What was said by anybody exists by now.
            let mut published = self.published;
            self.poll(|first, count| {
                published = published.max(first + count - 1);
                Some(packet(first, count))
            });
            self.published = published;
            self.snapshot(&[], 1000, 1000);
            self.check();
            if self.handler.has_ended() && self.handler.stale_since().is_none() {
                return assert_eq!(self.book.last, self.published);
            }
        }
        panic!("not recovered: {} of {}, {:?}", self.book.last, self.published, self.handler);
    }
}

/// A packet of messages that exist, or of the next.
fn publish(bytes: &mut Bytes<'_>, rig: &mut Rig) -> Vec<u8> {
    let count = u64::from(bytes.byte() % MOST);
    let back = bytes.byte();
    let first = match back {
        0..192 => rig.published + 1,
        _ => rig.published.saturating_sub(back.into()).max(1),
    };
    rig.published = rig.published.max(first + count - 1);
    packet(first, count)
}

fuzz_target!(|data: &[u8]| {
    let bytes = &mut Bytes(data);
    let handler = Handler::new(usize::from(bytes.byte() % 3));
    let mut rig =
        Rig { now: 1 << 40, handler, book: Book::default(), published: 0, told: 0, said: 0, answers: Vec::new() };
    // The session is the first that is heard of.
    rig.receive(Source::A, &packet(1, 0));
    while !bytes.0.is_empty() {
        let source = Source::ALL[usize::from(bytes.byte() % 3)];
        match bytes.byte() {
            // On both lines, on one, or lost.
            how @ 0..80 => {
                let packet = publish(bytes, &mut rig);
                if how & 1 == 0 {
                    rig.receive(Source::A, &packet);
                }
                if how & 2 == 0 {
                    rig.receive(Source::B, &packet);
                }
            }
            80..112 => {
                let mut packet = publish(bytes, &mut rig);
                damage(bytes, &mut packet);
                rig.receive(source, &packet);
            }
            112..128 => {
                let first = number(bytes, rig.handler.arbiter().next_sequence());
                let mut packet = packet(first, u64::from(bytes.byte() % MOST));
                damage(bytes, &mut packet);
                rig.receive(source, &packet);
            }
            128..136 => {
                let next = number(bytes, rig.published + 1);
                rig.receive(source, &end_of_session(next));
            }
            136..144 => rig.receive(source, &bytes.some(19)),
            144..176 => {
                let mood = bytes.byte();
                let byte = u64::from(bytes.byte());
                rig.poll(|first, count| match mood {
                    0..96 => Some(packet(first, count)),
                    96..128 => Some(packet(first, 1)),
                    // Another gap.
                    128..160 => Some(packet(first + byte, count.min(MOST.into()))),
                    160..192 => Some(packet(first.saturating_sub(byte).max(1), count)),
                    _ => None,
                });
            }
            176..208 => {
                for answer in std::mem::take(&mut rig.answers) {
                    rig.receive(Source::Recovery, &answer);
                }
            }
            208..216 => {
                let before = if bytes.byte() < 64 { bytes.some(20) } else { Vec::new() };
                let (piece, most) = (1 + usize::from(bytes.byte()), usize::from(bytes.byte()));
                rig.snapshot(&before, piece, most);
            }
            216..248 => rig.now += u64::from(bytes.u16()) << (bytes.byte() % 24),
            // Not far: what is waited for is waited for that much longer.
            _ => rig.now = rig.now.saturating_sub(u64::from(bytes.u16()) << (bytes.byte() % 8)),
        }
        rig.check();
    }
    rig.come_right();
});
