use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::feed::glimpse::Server;
use crate::feed::moldudp64::{Packet, Session};
use crate::feed::recovery::{ATTEMPTS, GRACE, MOST_MISSING};
use crate::feed::retransmission::Retransmitter;

const SESSION: Session = *b"BAREWIRE01";
const STEP: Nanos = 20_000;

/// What a server does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    /// Never answers.
    IsDeaf,
    /// Answers with messages that are further on, which leaves the gap and makes another.
    AnswersWithAGap,
    /// Answers a request with at most one message.
    IsStingy,
    /// Answers with bytes that are no packet.
    Babbles,
}

/// A book of one number: that of the last message it has seen. It knows at once when one is left out.
#[derive(Debug, Default)]
struct Book {
    last: Option<u64>,
    is_void: bool,
    applied: u64,
    resets: u64,
}

impl Book {
    fn update(&mut self, update: Update<'_>) {
        match update {
            Update::Message(message) => self.message(message),
            Update::Reset => (self.last, self.is_void, self.resets) = (None, true, self.resets + 1),
            Update::Snapshot(bytes) => self.last = Some(std::str::from_utf8(bytes).unwrap().parse().unwrap()),
            Update::Complete(next) => {
                assert_eq!(self.last.map(|last| last + 1), Some(next));
                self.is_void = false;
            }
        }
    }

    fn message(&mut self, message: Sequenced<'_>) {
        assert!(!self.is_void);
        assert_eq!((message.number, message.bytes), (self.last.unwrap_or(0) + 1, &*text(message.number)));
        self.last = Some(message.number);
        self.applied += 1;
    }
}

fn text(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn packet(first: u64, count: u64, ends: bool) -> Vec<u8> {
    let mut buffer = vec![0; 1400];
    let mut packet = Packet::begin(&mut buffer, SESSION, first).unwrap();
    assert!((first..first + count).all(|number| packet.push(&text(number))));
    let len = if ends { packet.end_session() } else { packet.finish() };
    buffer.truncate(len);
    buffer
}

/// An exchange with its servers, a feed handler, and a network between them.
struct Rig {
    now: Nanos,
    published: u64,
    server: Retransmitter,
    moods: Vec<Mood>,
    handler: Handler,
    book: Book,
    answers: VecDeque<Vec<u8>>,
    /// Snapshot connections that break before their end.
    breaks: u32,
    requests: u64,
}

impl Rig {
    fn new(moods: &[Mood]) -> Self {
        Self {
            now: 1,
            published: 0,
            server: Retransmitter::new(SESSION),
            moods: moods.to_vec(),
            handler: Handler::new(moods.len()),
            book: Book::default(),
            answers: VecDeque::new(),
            breaks: 0,
            requests: 0,
        }
    }

    /// Publishes `count` messages; each line brings them or not.
    fn publish(&mut self, count: u64, lines: [bool; 2]) {
        let bytes = packet(self.published + 1, count, false);
        (1..=count).for_each(|number| self.server.published(&text(self.published + number)));
        self.published += count;
        for (source, _) in [Source::A, Source::B].into_iter().zip(lines).filter(|(_, brings)| *brings) {
            self.handler.receive(self.now, source, &bytes, |message| self.book.message(message));
        }
    }

    fn answer(&mut self, server: usize, request: &[u8]) {
        self.requests += 1;
        let mut buffer = vec![0; 1400];
        let mut request = request.to_vec();
        match self.moods[server] {
            Mood::Answers => {}
            Mood::IsDeaf => return,
            Mood::AnswersWithAGap => request[17] = request[17].wrapping_add(3),
            Mood::IsStingy => request[18..].copy_from_slice(&[0, 1]),
            Mood::Babbles => return self.answers.push_back(b"I am no packet at all".to_vec()),
        }
        if let Some(len) = self.server.answer(&request, &mut buffer) {
            self.answers.push_back(buffer[..len].to_vec());
        }
    }

    fn snapshot(&mut self) {
        let request = self.handler.connected(self.now);
        let mut server = Server::new(self.now);
        let published = self.published;
        let served = server.receive(self.now, &request, |say| {
            say(&text(published));
            published + 1
        });
        served.unwrap();
        let broken = self.breaks > 0;
        self.breaks = self.breaks.saturating_sub(1);
        for piece in server.pending().chunks(7).take(if broken { 8 } else { usize::MAX }) {
            if !self.handler.snapshot(self.now, piece, |update| self.book.update(update)) {
                return;
            }
        }
        self.handler.disconnected(self.now);
    }

    fn step(&mut self) {
        self.now += STEP;
        for answer in std::mem::take(&mut self.answers) {
            self.handler.receive(self.now, Source::Recovery, &answer, |message| self.book.message(message));
        }
        while let Some(action) = self.handler.poll(self.now) {
            match action {
                Action::Request { server, packet } => self.answer(server, &packet),
                Action::Connect { .. } => self.snapshot(),
            }
        }
        assert!(self.handler.deadline().is_none_or(|deadline| deadline > self.now), "a deadline stays in the past");
    }

    /// Tells the end of the session and waits for the handler to have everything, for at most this many steps.
    fn drain(&mut self, steps: u32) -> u32 {
        for step in 0..steps {
            let end = packet(self.published + 1, 0, true);
            self.handler.receive(self.now, Source::B, &end, |message| self.book.message(message));
            self.step();
            // What somebody claimed beyond the end is still looked for.
            if self.handler.has_ended() && self.handler.stale_since().is_none() {
                assert_eq!(self.book.last, Some(self.published));
                return step;
            }
        }
        panic!("not recovered: {:?} of {}, {:?}", self.book.last, self.published, self.handler.recovery());
    }
}

#[test]
fn gap_is_asked_for_after_the_grace_and_the_book_is_stale_meanwhile() {
    let mut rig = Rig::new(&[Mood::Answers]);
    rig.publish(1, [true, true]);
    rig.publish(2, [false, false]);
    assert_eq!(rig.handler.stale_since(), None);
    rig.publish(1, [true, false]);
    let since = rig.now;
    while rig.requests == 0 {
        assert_eq!((rig.handler.stale_since(), rig.book.last), (Some(since), Some(1)));
        rig.step();
    }
    assert!(rig.now - since >= GRACE);
    rig.step();
    assert_eq!((rig.handler.stale_since(), rig.book.last, rig.requests), (None, Some(4), 1));
}

#[test]
fn gap_that_the_other_line_fills_in_time_asks_nobody() {
    let mut rig = Rig::new(&[Mood::Answers]);
    rig.publish(1, [true, true]);
    let late = packet(2, 1, false);
    rig.publish(1, [false, false]);
    rig.publish(1, [true, true]);
    rig.handler.receive(rig.now + 1, Source::B, &late, |message| rig.book.message(message));
    (0..20).for_each(|_| rig.step());
    assert_eq!((rig.requests, rig.book.last), (0, Some(3)));
}

#[test]
fn server_that_is_deaf_is_passed_over_and_asked_less_and_less() {
    let mut rig = Rig::new(&[Mood::IsDeaf, Mood::Answers]);
    rig.publish(1, [true, true]);
    rig.publish(1, [false, false]);
    rig.publish(1, [true, true]);
    rig.drain(200);
    assert_eq!((rig.requests, rig.handler.recovery().repeated, rig.book.resets), (2, 1, 0));
    let mut rig = Rig::new(&[Mood::IsDeaf]);
    rig.publish(1, [true, true]);
    rig.publish(1, [false, false]);
    rig.publish(1, [true, true]);
    let steps = rig.drain(100_000);
    assert_eq!((rig.requests, rig.book.resets), (u64::from(ATTEMPTS), 1));
    // Doubled patience: 1 + 2 + 4 ... ms.
    assert!(u64::from(steps) * STEP > ((1 << ATTEMPTS) - 2) * 1_000_000, "{steps}");
    assert_eq!(rig.handler.recovery().exhausted, 1);
}

#[test]
fn gap_that_is_too_large_leads_to_a_snapshot_at_once() {
    let mut rig = Rig::new(&[Mood::Answers]);
    rig.publish(1, [true, true]);
    for _ in 0..=MOST_MISSING / 10 {
        rig.publish(10, [false, false]);
    }
    rig.publish(1, [true, true]);
    rig.step();
    assert_eq!((rig.requests, rig.book.resets, rig.book.last), (0, 1, Some(rig.published)));
    assert_eq!((rig.handler.stale_since(), rig.handler.arbiter().stats().snapshots), (None, 1));
    rig.publish(1, [false, true]);
    assert_eq!(rig.book.last, Some(rig.published));
}

#[test]
fn snapshot_that_breaks_off_is_fetched_again() {
    let mut rig = Rig::new(&[Mood::Answers, Mood::Answers]);
    rig.breaks = 3;
    (0..600).for_each(|_| rig.publish(10, [false, false]));
    rig.publish(1, [true, true]);
    rig.drain(10_000);
    let stats = rig.handler.recovery();
    assert_eq!((stats.snapshots, stats.snapshots_failed, rig.book.resets), (4, 3, 4));
}

#[test]
fn claim_of_a_distant_message_costs_one_snapshot_and_no_more() {
    let mut rig = Rig::new(&[Mood::Answers]);
    rig.publish(1, [true, true]);
    let claim = packet(1 << 50, 1, false);
    rig.handler.receive(rig.now, Source::A, &claim, |message| rig.book.message(message));
    assert!(rig.handler.stale_since().is_some());
    rig.step();
    rig.publish(1, [true, true]);
    assert_eq!((rig.handler.stale_since(), rig.book.last, rig.book.resets), (None, Some(2), 1));
    rig.drain(10);
}

#[test]
fn silence_of_both_lines_makes_the_book_stale() {
    let mut rig = Rig::new(&[Mood::Answers]);
    rig.step();
    rig.publish(1, [true, true]);
    let heard = rig.now;
    while rig.now < heard + SILENCE + WATCH {
        rig.step();
    }
    assert_eq!(rig.handler.stale_since(), Some(heard));
    rig.publish(1, [true, true]);
    (0..WATCH / STEP + 1).for_each(|_| rig.step());
    assert_eq!(rig.handler.stale_since(), None);
}

#[test]
fn clock_that_steps_back_stops_nothing() {
    let mut rig = Rig::new(&[Mood::Answers]);
    rig.now = 1 << 40;
    rig.publish(1, [true, true]);
    rig.publish(1, [false, false]);
    rig.publish(1, [true, true]);
    rig.step();
    rig.now -= 1 << 20;
    rig.drain(1_000);
}

fn mood() -> impl Strategy<Value = Mood> {
    prop_oneof![
        Just(Mood::Answers),
        Just(Mood::IsDeaf),
        Just(Mood::AnswersWithAGap),
        Just(Mood::IsStingy),
        Just(Mood::Babbles),
    ]
}

/// What nobody should say, and what clocks should not do.
#[derive(Debug, Clone)]
enum Nonsense {
    /// A header alone: any first number, any count.
    Claim(u64, u16),
    /// What exists, cut off.
    Cut(usize),
    /// What exists, from another session.
    OtherSession,
    /// What was said long ago.
    Repeat(u64),
    /// The clock steps back.
    Back(Nanos),
}

fn nonsense() -> impl Strategy<Value = Nonsense> {
    let number = prop_oneof![0u64..500, any::<u64>(), (0u64..100).prop_map(|back| u64::MAX - back)];
    let count = prop_oneof![0u16..30, Just(u16::MAX), any::<u16>()];
    prop_oneof![
        (number, count).prop_map(|(first, count)| Nonsense::Claim(first, count)),
        (0usize..40).prop_map(Nonsense::Cut),
        Just(Nonsense::OtherSession),
        (0u64..400).prop_map(Nonsense::Repeat),
        (0u64..1 << 21).prop_map(Nonsense::Back),
    ]
}

impl Rig {
    fn suffer(&mut self, nonsense: &Nonsense) {
        let (published, mut bytes) = (self.published, packet(self.published + 1, 3, false));
        match *nonsense {
            Nonsense::Claim(first, count) => {
                bytes.truncate(HEADER);
                bytes[10..18].copy_from_slice(&first.to_be_bytes());
                bytes[18..].copy_from_slice(&count.to_be_bytes());
            }
            Nonsense::Cut(len) => {
                self.publish(3, [false, false]);
                bytes.truncate(len);
            }
            Nonsense::OtherSession => bytes[0] ^= 1,
            Nonsense::Repeat(back) => {
                let first = published.saturating_sub(back).max(1);
                bytes = packet(first, (published + 1).saturating_sub(first).min(20), false);
            }
            Nonsense::Back(span) => self.now = self.now.saturating_sub(span),
        }
        if !matches!(nonsense, Nonsense::Back(_)) {
            self.handler.receive(self.now, Source::A, &bytes, |message| self.book.message(message));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_said_and_wherever_the_clock_steps_the_book_is_intact_or_stale_and_comes_right(
        moods in prop::collection::vec(mood(), 1..4),
        steps in prop::collection::vec((nonsense(), 1u64..25, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let mut rig = Rig::new(&moods);
        rig.now = 1 << 40;
        rig.publish(1, [true, true]);
        for (nonsense, count, a, b) in steps {
            rig.suffer(&nonsense);
            prop_assert!(!rig.book.is_void && rig.book.last.map(|last| last + 1) == Some(rig.handler.arbiter().next_sequence()));
            prop_assert!(rig.handler.stale_since().is_some() == (rig.handler.arbiter().missing() > 0));
            rig.publish(count, [a, b]);
            rig.step();
        }
        rig.drain(200_000);
        let stats = rig.handler.arbiter().stats();
        prop_assert_eq!(stats.messages, rig.book.applied);
    }

    #[test]
    fn whatever_is_lost_and_however_servers_behave_the_book_comes_right(
        moods in prop::collection::vec(mood(), 1..4), breaks in 0u32..3,
        packets in prop::collection::vec((1u64..25, 0u32..100, 0u32..100), 1..300), loss in 0u32..60,
    ) {
        let mut rig = Rig::new(&moods);
        rig.breaks = breaks;
        for (count, a, b) in packets {
            rig.publish(count, [a >= loss, b >= loss]);
            rig.step();
        }
        rig.drain(200_000);
        let arbiter = rig.handler.arbiter();
        prop_assert_eq!(arbiter.stats().messages, rig.book.applied);
        if rig.book.resets == 0 {
            prop_assert_eq!(rig.book.applied, rig.published);
        }
    }
}
