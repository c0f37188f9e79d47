//! How messages lie in a ring of cache lines, and which word is written when. Generic over the words, so that the model checker runs it.
//!
//! A message takes one line or several. The first word of each line is its stamp: the line's number since the beginning, counted from one, and
//! the message's length. A reader that waits at a line knows by the stamp alone that the message is whole, and finds it in the same line: one
//! transfer between two cores carries both.

use std::sync::atomic::Ordering;

use barewire_driver::ring::Words;

/// Words of a line: 64 bytes, as x86-64 and most others transfer them.
pub const LINE: usize = 8;
/// Bytes of a message that the first line holds, and each further one.
pub const LINE_PAYLOAD: usize = (LINE - 1) * 8;

const LEN_BITS: u32 = 16;

/// The stamp of line `number` of a message of `len` bytes.
#[inline]
fn stamp(number: u64, len: u16) -> u64 {
    number.wrapping_add(1) << LEN_BITS | u64::from(len)
}

/// Lines that a message of `len` bytes takes.
#[inline]
pub const fn lines_of(len: usize) -> u64 {
    let lines = len.div_ceil(LINE_PAYLOAD);
    if lines == 0 { 1 } else { lines as u64 }
}

/// What a reader finds at a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet.
    Nothing,
    /// A message of so many bytes, whole.
    Message(u16),
    /// What no writer writes there.
    Garbage(u64),
}

/// The lines of a ring: a power of two.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'a, W> {
    words: &'a W,
    count: u64,
}

impl<'a, W: Words> Lines<'a, W> {
    /// The first `count` lines, a power of two, of `words`.
    #[inline]
    pub fn new(words: &'a W, count: u64) -> Self {
        Self { words, count }
    }

    #[inline]
    fn word(&self, number: u64) -> usize {
        (number & self.count.wrapping_sub(1)) as usize * LINE
    }

    /// Writes a message from line `number` on, which is free for as many lines as it takes. The stamp of the first line goes last.
    #[inline]
    pub fn write(&self, number: u64, message: &[u8]) {
        let len = message.len() as u16;
        let (head, tail) = message.split_at_checked(LINE_PAYLOAD).unwrap_or((message, &[]));
        for (line, part) in (number.wrapping_add(1)..).zip(tail.chunks(LINE_PAYLOAD)) {
            self.fill(line, part);
            self.words.store(self.word(line), stamp(line, len), Ordering::Relaxed);
        }
        self.fill(number, head);
        self.words.store(self.word(number), stamp(number, len), Ordering::Release);
    }

    #[inline]
    fn fill(&self, number: u64, part: &[u8]) {
        let at = self.word(number);
        let mut words = part.chunks_exact(8);
        let mut next = at;
        for word in &mut words {
            next += 1;
            self.words.store(next, word.try_into().map_or(0, u64::from_ne_bytes), Ordering::Relaxed);
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            self.words.store(next + 1, u64::from_ne_bytes(word), Ordering::Relaxed);
        }
    }

    /// What is at line `number`, where the reader has come to.
    #[inline]
    pub fn look(&self, number: u64, most: u16) -> Found {
        let found = self.words.load(self.word(number), Ordering::Acquire);
        if found >> LEN_BITS == number.wrapping_add(1) {
            let len = found as u16;
            return if len <= most { Found::Message(len) } else { Found::Garbage(found) };
        }
        // What was here a turn ago, or nothing in the first turn, is what a line holds until it is written anew.
        let before = (found >> LEN_BITS).wrapping_add(self.count);
        if found == 0 || before == number.wrapping_add(1) { Found::Nothing } else { Found::Garbage(found) }
    }

    /// Copies out the message of `message.len()` bytes that was found at line `number`. Says whether all its lines are what they should be.
    #[inline]
    #[must_use]
    pub fn read(&self, number: u64, message: &mut [u8]) -> bool {
        let len = message.len() as u16;
        for (line, part) in (number..).zip(message.chunks_mut(LINE_PAYLOAD)) {
            let at = self.word(line);
            if line != number && self.words.load(at, Ordering::Relaxed) != stamp(line, len) {
                return false;
            }
            for (word, to) in (at.wrapping_add(1)..).zip(part.chunks_mut(8)) {
                let bytes = self.words.load(word, Ordering::Relaxed).to_ne_bytes();
                to.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            }
        }
        true
    }
}
