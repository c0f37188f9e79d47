//! Line arbitration: the two lines of one MoldUDP64 session, and what recovery brings, become one sequence.
//!
//! The first copy of a message wins and every later one is counted. Messages are passed on in order: what is ahead of a gap is held back, in a
//! window of fixed size, until the gap is filled or a snapshot makes it irrelevant.

use barewire_driver::clock::Nanos;
use serde::{Deserialize, Serialize};
use zerocopy::FromBytes;

use super::moldudp64::{END_OF_SESSION, Header, Session};
use super::window::Window;
use crate::market::Spans;

/// Messages that are held back behind a gap, at most: what a feed of a million messages a second says in 16 ms. 1 MiB.
pub const HOLD_BACK: usize = 1 << 14;
/// Packets whose arrival is remembered for the second copy's lag.
const ARRIVALS: usize = 1 << 12;
/// A line from which nothing came for so long is silent: heartbeats come every second (MoldUDP64 1.0, "Heartbeats").
pub const SILENCE: Nanos = 3_000_000_000;
/// A line that is so many messages behind the other is silent too, for a busy feed need not be waited for.
pub const SILENT_BEHIND: u64 = 4_096;

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The feed's first line.
    A,
    /// The feed's second line.
    B,
    /// A re-request server's answer.
    Recovery,
}

impl Source {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::Recovery];

    /// The name under which it is reported.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Recovery => "recovery",
        }
    }
}

/// A message whose turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequenced<'a> {
    /// Its number.
    pub number: u64,
    /// The message.
    pub bytes: &'a [u8],
    /// Later messages are known to exist: what is built from this one is not up to date.
    pub is_late: bool,
}

/// What one source brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceStats {
    /// Packets with a header.
    pub packets: u64,
    /// Messages that it was the first to bring.
    pub messages: u64,
    /// Messages that had been there before.
    pub duplicates: u64,
    /// Messages that it left out, or brought out of order.
    pub absent: u64,
    /// How often it fell silent.
    pub silences: u64,
}

/// What was received and what was wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Messages passed on.
    pub messages: u64,
    /// Holes in the merged sequence.
    pub gaps: u64,
    /// Messages missing in them when they were noticed.
    pub missing: u64,
    /// Packets shorter than a header.
    pub truncated: u64,
    /// Message blocks that go beyond their packet; the rest of the packet is given up.
    pub bad_blocks: u64,
    /// Packets whose numbers begin at zero or go beyond 64 bits.
    pub bad_sequence: u64,
    /// Packets of another session than the one that runs.
    pub other_session: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Messages ahead of a gap that were not held back: too far ahead, or longer than any message of ITCH. They are missing from then on.
    pub not_held: u64,
    /// Snapshots that replaced what was missing.
    pub snapshots: u64,
}

/// The state of one source.
#[derive(Debug, Default)]
struct Line {
    stats: SourceStats,
    /// When it was heard last; `None` before.
    heard: Option<Nanos>,
    /// The number after the highest that it told.
    end: u64,
    is_silent: bool,
}

/// When the first copy of a packet arrived.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    number: u64,
    at: Nanos,
    source: Source,
}

/// Merges the sources of one session.
#[derive(Debug)]
pub struct Arbiter {
    session: Option<Session>,
    /// The number of the next message to pass on; zero before the session is known.
    next: u64,
    /// The number after the last message known to exist, at least `next`.
    end: u64,
    /// The number after the session's last message, once that is told.
    session_end: Option<u64>,
    /// Messages between `next` and `end` that are here.
    held: Window,
    held_count: u64,
    /// A snapshot is on its way: nothing is passed on, and the window keeps what came last.
    is_suspended: bool,
    gap_since: Option<Nanos>,
    arrivals: Box<[Arrival]>,
    lines: [Line; 3],
    lags: [Spans; 2],
    stats: Stats,
}

impl Default for Arbiter {
    /// Expects a session from its first message on: what was missed at the start is a gap.
    fn default() -> Self {
        let nothing = Arrival { number: 0, at: 0, source: Source::A };
        Self {
            session: None,
            next: 1,
            end: 1,
            session_end: None,
            held: Window::new(HOLD_BACK),
            held_count: 0,
            is_suspended: false,
            gap_since: None,
            arrivals: vec![nothing; ARRIVALS].into(),
            lines: Default::default(),
            lags: Default::default(),
            stats: Stats::default(),
        }
    }
}

/// Splits the first message block off.
#[inline]
fn split_block(blocks: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = blocks.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*len).into())
}

#[inline]
fn count_one(count: &mut u64) {
    *count = count.wrapping_add(1);
}

impl Arbiter {
    /// Takes a packet that arrived at `now`: calls `message` with every message whose turn has come.
    #[inline]
    pub fn receive(&mut self, now: Nanos, source: Source, packet: &[u8], mut message: impl FnMut(Sequenced<'_>)) {
        let Ok((header, blocks)) = Header::ref_from_prefix(packet) else { return count_one(&mut self.stats.truncated) };
        if self.session != Some(header.session) && !self.enter(header) {
            return;
        }
        let (first, count) = (header.sequence.get(), header.count.get());
        let messages = if count == END_OF_SESSION { 0 } else { u64::from(count) };
        let Some(end) = first.checked_add(messages).filter(|_| first != 0) else {
            return count_one(&mut self.stats.bad_sequence);
        };
        self.hear(now, source, first, end);
        if first == self.next && self.next == self.end && messages > 0 && !self.is_suspended {
            self.arrived(now, source, first);
            self.pass_on(source, count, blocks, &mut message);
        } else if end <= self.next && messages > 0 && !self.is_suspended {
            self.repeated(now, source, first, messages);
        } else {
            self.receive_apart(now, source, header, blocks, &mut message);
        }
    }

    /// A session that is not ours: the first one is entered, any other counted and left alone.
    #[cold]
    fn enter(&mut self, header: &Header) -> bool {
        if self.session.is_some() {
            count_one(&mut self.stats.other_session);
            return false;
        }
        self.session = Some(header.session);
        true
    }

    /// A source has told of the numbers from `first` to before `end`.
    #[inline]
    fn hear(&mut self, now: Nanos, source: Source, first: u64, end: u64) {
        let Some(line) = self.lines.get_mut(source as usize) else { return };
        line.heard = Some(now);
        count_one(&mut line.stats.packets);
        if first > line.end && line.end != 0 {
            line.stats.absent = line.stats.absent.saturating_add(first.wrapping_sub(line.end));
        }
        line.end = line.end.max(end);
    }

    #[inline]
    fn arrived(&mut self, now: Nanos, source: Source, number: u64) {
        if let Some(arrival) = self.arrivals.get_mut(number as usize % ARRIVALS) {
            *arrival = Arrival { number, at: now, source };
        }
    }

    /// The common case: the packet is next, and nothing is held back.
    #[inline]
    fn pass_on(&mut self, source: Source, count: u16, mut blocks: &[u8], message: &mut impl FnMut(Sequenced<'_>)) {
        let first = self.next;
        for _ in 0..count {
            let Some((bytes, rest)) = split_block(blocks) else {
                count_one(&mut self.stats.bad_blocks);
                break;
            };
            blocks = rest;
            let number = self.next;
            // The last number of the packet was seen to fit.
            self.next = number.wrapping_add(1);
            message(Sequenced { number, bytes, is_late: false });
        }
        self.end = self.next;
        let passed = self.next.wrapping_sub(first);
        self.stats.messages = self.stats.messages.wrapping_add(passed);
        if let Some(line) = self.lines.get_mut(source as usize) {
            line.stats.messages = line.stats.messages.wrapping_add(passed);
        }
    }

    /// A packet that brings nothing new, as every second copy.
    #[inline]
    fn repeated(&mut self, now: Nanos, source: Source, first: u64, messages: u64) {
        if let Some(line) = self.lines.get_mut(source as usize) {
            line.stats.duplicates = line.stats.duplicates.wrapping_add(messages);
        }
        let arrival = self.arrivals.get(first as usize % ARRIVALS).filter(|arrival| arrival.number == first);
        if let Some(arrival) = arrival.filter(|arrival| arrival.source != source)
            && let Some(lag) = self.lags.get_mut(source as usize)
        {
            lag.record(now.saturating_sub(arrival.at));
        }
    }

    /// Everything else: a gap, what fills one, overlaps, heartbeats, the end of the session.
    #[cold]
    #[inline(never)]
    fn receive_apart(
        &mut self,
        now: Nanos,
        source: Source,
        header: &Header,
        mut blocks: &[u8],
        message: &mut dyn FnMut(Sequenced<'_>),
    ) {
        let (mut number, count) = (header.sequence.get(), header.count.get());
        if count == END_OF_SESSION && number >= self.next {
            self.session_end = Some(number);
        }
        if number > self.end && !self.is_suspended {
            count_one(&mut self.stats.gaps);
            self.stats.missing = self.stats.missing.saturating_add(number.wrapping_sub(self.end));
            self.end = number;
            self.gap_since.get_or_insert(now);
        }
        if count == 0 || count == END_OF_SESSION {
            return count_one(&mut self.stats.heartbeats);
        }
        self.arrived_first(now, source, number);
        for _ in 0..count {
            let Some((bytes, rest)) = split_block(blocks) else {
                count_one(&mut self.stats.bad_blocks);
                break;
            };
            blocks = rest;
            self.place(source, number, bytes, message);
            number = number.wrapping_add(1);
        }
        self.settle();
    }

    /// Notes the arrival of a packet that may or may not have been here.
    fn arrived_first(&mut self, now: Nanos, source: Source, number: u64) {
        if number >= self.next && self.held.get(number).is_none() {
            self.arrived(now, source, number);
        }
    }

    /// Passes a message on, holds it back, or counts it as one that was here.
    fn place(&mut self, source: Source, number: u64, bytes: &[u8], message: &mut dyn FnMut(Sequenced<'_>)) {
        let Some(line) = self.lines.get_mut(source as usize) else { return };
        let is_here = self.held.get(number).is_some();
        if is_here || (number < self.next && !self.is_suspended) {
            return count_one(&mut line.stats.duplicates);
        }
        if number == self.next && !self.is_suspended {
            count_one(&mut line.stats.messages);
            self.next = number.wrapping_add(1);
            count_one(&mut self.stats.messages);
            message(Sequenced { number, bytes, is_late: self.next < self.end });
            self.end = self.end.max(self.next);
            return self.release(message);
        }
        self.end = self.end.max(number.wrapping_add(1));
        let fits = self.is_suspended || number.wrapping_sub(self.next) < self.held.width();
        if fits && self.held.put(number, bytes) {
            count_one(&mut line.stats.messages);
            self.held_count = self.held_count.wrapping_add(1);
        } else {
            count_one(&mut self.stats.not_held);
        }
    }

    /// Passes on what was held back and is next.
    fn release(&mut self, message: &mut dyn FnMut(Sequenced<'_>)) {
        while self.held_count > 0 {
            let (number, after, end) = (self.next, self.next.wrapping_add(1), self.end);
            if !self.held.take(number, |bytes| message(Sequenced { number, bytes, is_late: after < end })) {
                return;
            }
            self.next = after;
            self.held_count = self.held_count.saturating_sub(1);
            count_one(&mut self.stats.messages);
        }
    }

    fn settle(&mut self) {
        if self.next == self.end && !self.is_suspended {
            self.gap_since = None;
        }
    }

    /// Nothing is passed on until [`Arbiter::resume`]: a snapshot is on its way, and the book is void. The window keeps what arrives last.
    pub fn suspend(&mut self, now: Nanos) {
        self.is_suspended = true;
        self.gap_since.get_or_insert(now);
    }

    /// The snapshot ended before message `next`: goes on from there with what was held back, through `message`. What else was claimed to exist is
    /// forgotten, for it may never have.
    pub fn resume(&mut self, now: Nanos, next: u64, mut message: impl FnMut(Sequenced<'_>)) {
        let window = next..next.saturating_add(self.held.width());
        self.held.retain(|number| window.contains(&number));
        self.held_count = self.held.numbers().count() as u64;
        self.end = self.held.numbers().max().map_or(next, |last| last.saturating_add(1));
        (self.next, self.is_suspended) = (next, false);
        count_one(&mut self.stats.snapshots);
        self.release(&mut message);
        self.gap_since = (self.next < self.end).then_some(now);
        if self.gap_since.is_some() {
            self.stats.gaps += self.holes();
            self.stats.missing = self.stats.missing.saturating_add(self.missing());
        }
    }

    /// Looks for lines that have fallen silent, or speak again; each is named once.
    pub fn watch(&mut self, now: Nanos) {
        let end = self.lines.iter().map(|line| line.end).max().unwrap_or(0);
        for source in [Source::A, Source::B] {
            let Some(line) = self.lines.get_mut(source as usize) else { continue };
            // A line that was never heard has been silent since the first packet of the other one, which its lag tells.
            let is_quiet = line.heard.is_some_and(|heard| now.saturating_sub(heard) >= SILENCE);
            let is_silent = is_quiet || end.saturating_sub(line.end) > SILENT_BEHIND;
            if is_silent && !line.is_silent {
                line.stats.silences += 1;
                log::warn!("feed line {} has fallen silent; its next message is {}", source.name(), line.end.max(1));
            } else if line.is_silent && !is_silent {
                log::info!("feed line {} speaks again", source.name());
            }
            line.is_silent = is_silent;
        }
    }

    /// The session, once a packet has told it.
    pub fn session(&self) -> Option<Session> {
        self.session
    }

    /// The number of the next message to be passed on.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Whether the session has been ended by its publisher, and every message of it was passed on.
    pub fn has_ended(&self) -> bool {
        !self.is_suspended && self.session_end.is_some_and(|end| self.next >= end)
    }

    /// Since when messages are missing.
    #[inline]
    pub fn gap_since(&self) -> Option<Nanos> {
        self.gap_since
    }

    /// Messages that are known to exist and are not here.
    pub fn missing(&self) -> u64 {
        self.end.saturating_sub(self.next).saturating_sub(self.held_count)
    }

    /// Whether messages are known to exist that the window is too narrow to hold.
    pub fn is_overrun(&self) -> bool {
        self.end.saturating_sub(self.next) >= self.held.width()
    }

    /// The first run of messages from number `from` on that are not here, at most `most` of them; as far as the window goes.
    pub fn first_missing(&self, from: u64, most: u64) -> Option<(u64, u64)> {
        let limit = self.end.min(self.next.saturating_add(self.held.width()));
        let first = (from.max(self.next)..limit).find(|number| self.held.get(*number).is_none())?;
        let most = limit.min(first.saturating_add(most));
        let end = (first..most).find(|number| self.held.get(*number).is_some()).unwrap_or(most);
        Some((first, end))
    }

    /// Holes that are open.
    pub fn holes(&self) -> u64 {
        let mut from = self.next;
        let mut holes = 0;
        while let Some((_, end)) = self.first_missing(from, u64::MAX) {
            holes += 1;
            from = end;
        }
        holes
    }

    /// When a line was heard last, and whether it has fallen silent.
    pub fn line(&self, source: Source) -> (Option<Nanos>, bool) {
        self.lines.get(source as usize).map_or((None, false), |line| (line.heard, line.is_silent))
    }

    /// What `source` brought.
    pub fn source_stats(&self, source: Source) -> SourceStats {
        self.lines.get(source as usize).map_or(SourceStats::default(), |line| line.stats)
    }

    /// How much later than the first copy the second came, where `source` brought the second; `None` for recovery.
    pub fn lag(&self, source: Source) -> Option<&Spans> {
        self.lags.get(source as usize)
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}

#[cfg(test)]
mod tests;
