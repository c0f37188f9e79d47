//! Rings in shared memory: messages from one process to another, without a lock or a system call on their way.
//!
//! A ring has one reader and one writer, or one reader and several writers. Messages have any length up to the ring's limit; those of up to 56
//! bytes travel in one cache line. The memory is a sealed memfd, which nobody can cut short and which is gone with the last process that maps it;
//! another process opens it under [`Ring::address`], or is handed the file.
//!
//! The other end is hostile input: every number that is read from the memory is checked before it is used, and what makes no sense ends the ring
//! with an error. Payload is copied word by word, both ways, so that no reference covers what another process may write.
#![forbid(unsafe_code)]

mod lines;
mod peer;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use barewire_driver::dma::{DmaError, ImportError, Region, SharedWords};
use barewire_driver::ring::{SharedWrites, Words};

pub use lines::{Found, LINE, LINE_PAYLOAD, Lines, lines_of};
pub use peer::{Peer, Process};

/// The first word of a ring: what it is, and the version of its layout.
const MAGIC: u64 = u64::from_be_bytes(*b"BWRING\x00\x01");
/// Words of the header.
const HEADER: usize = 256;
/// Ends that a ring has places for: the reader, and the writers behind it.
const PLACES: usize = 16;

/// Words of the header. What different processes write lies in different lines.
mod at {
    pub const MAGIC: usize = 0;
    /// Lines, in the lower half; the largest message; how many writers there may be.
    pub const GEOMETRY: usize = 1;
    /// Where the next message goes: written by writers.
    pub const TAIL: usize = 2 * super::LINE;
    /// What the reader has done with.
    pub const HEAD: usize = 4 * super::LINE;
    /// A line for each place: process, its start, and whether it has left.
    pub const PLACES: usize = 8 * super::LINE;
}

/// States of a place, beside zero.
const TAKEN: u64 = 1;
const LEFT: u64 = 2;
const TAKING: u64 = 3;

/// The shape of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Lines of 64 bytes: a power of two from 2 to 2^24.
    pub lines: u32,
    /// The longest message, bytes; at most half of the ring.
    pub max_message: u16,
    /// Writers at the same time, 1 to 15.
    pub writers: u8,
}

impl Geometry {
    fn is_sound(self) -> bool {
        (2..=1 << 24).contains(&self.lines)
            && self.lines.is_power_of_two()
            && lines_of(self.max_message.into()) <= u64::from(self.lines) / 2
            && (1..PLACES as u8).contains(&self.writers)
    }

    fn word(self) -> u64 {
        u64::from(self.lines) | u64::from(self.max_message) << 32 | u64::from(self.writers) << 48
    }

    fn of_word(word: u64) -> Option<Self> {
        let geometry = Self { lines: word as u32, max_message: (word >> 32) as u16, writers: (word >> 48) as u8 };
        (word >> 56 == 0 && geometry.is_sound()).then_some(geometry)
    }

    fn bytes(self) -> usize {
        (HEADER + self.lines as usize * LINE) * 8
    }
}

/// Why there is no ring, or no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The shape makes no ring.
    #[error("a ring has 2 to 2^24 lines, a power of two, messages of at most half of it, and 1 to 15 writers")]
    Geometry,
    /// There is no memory for it.
    #[error(transparent)]
    Memory(#[from] DmaError),
    /// The memory of the other process cannot be used.
    #[error("not a ring: {0}")]
    Import(#[from] ImportError),
    /// There is nothing usable at that address.
    #[error("cannot open the ring {address}: {source}")]
    Address {
        /// The address.
        address: String,
        /// Why.
        source: ImportError,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was asked.
        what: String,
        /// The answer.
        source: std::io::Error,
    },
    /// The memory holds something else, or a ring of another version.
    #[error("the memory begins with {0:#018x}: no ring, or one of another version; run the same build on both ends")]
    Version(u64),
    /// Somebody is at this end already.
    #[error("this end of the ring is taken by {0}; stop it first")]
    Taken(Process),
    /// Whoever had this end has died: what he had begun is lost, and where the ring stands is not known.
    #[error("{0} died at this end of the ring; start both ends anew")]
    Died(Process),
    /// The memory holds what no end of the ring writes there.
    #[error("the ring was written over: {field} is {value:#x}; start both ends anew")]
    Corrupt {
        /// Which word.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// Why a message was not sent. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The reader is behind by a whole ring.
    #[error("the ring is full; the reader is too slow, or gone")]
    Full,
    /// Longer than the ring's messages are.
    #[error("a message holds up to {most} bytes")]
    TooLong {
        /// The limit.
        most: u16,
    },
    /// The ring is over.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// A ring, mapped. Takes part in nothing: see [`Ring::reader`] and [`Ring::writer`].
pub struct Ring {
    header: SharedWords,
    lines: SharedWords,
    geometry: Geometry,
}

impl Ring {
    /// Makes an empty ring.
    ///
    /// # Errors
    /// When the shape makes none, or there is no memory.
    pub fn create(geometry: Geometry) -> Result<Self, RingError> {
        if !geometry.is_sound() {
            return Err(RingError::Geometry);
        }
        let ring = Self::of(&Region::allocate("ring", geometry.bytes())?, geometry)?;
        ring.header.store(at::GEOMETRY, geometry.word(), Ordering::Relaxed);
        ring.header.store(at::MAGIC, MAGIC, Ordering::Release);
        Ok(ring)
    }

    /// Opens the ring that another process has under this [`Ring::address`].
    ///
    /// # Errors
    /// When there is none, or none of this version.
    pub fn open(address: &str) -> Result<Self, RingError> {
        let gone = |source| RingError::Address { address: address.to_owned(), source };
        Self::in_region(&Region::open(address).map_err(gone)?)
    }

    /// Takes the ring in a file that another process has handed over.
    ///
    /// # Errors
    /// When it holds none, or none of this version.
    pub fn attach(file: OwnedFd) -> Result<Self, RingError> {
        Self::in_region(&Region::import_all(file.into())?)
    }

    fn in_region(region: &Arc<Region>) -> Result<Self, RingError> {
        let words = SharedWords::new(region, 0, HEADER).ok_or(RingError::Version(0))?;
        let magic = words.load(at::MAGIC, Ordering::Acquire);
        if magic != MAGIC {
            return Err(RingError::Version(magic));
        }
        let word = words.load(at::GEOMETRY, Ordering::Relaxed);
        let corrupt = RingError::Corrupt { field: "the geometry", value: word };
        let geometry = Geometry::of_word(word).ok_or(corrupt)?;
        Self::of(region, geometry)
    }

    fn of(region: &Arc<Region>, geometry: Geometry) -> Result<Self, RingError> {
        let header = SharedWords::new(region, 0, HEADER);
        let lines = SharedWords::new(region, HEADER * 8, geometry.lines as usize * LINE);
        let short = RingError::Corrupt { field: "the geometry", value: geometry.word() };
        let (header, lines) = header.zip(lines).ok_or(short)?;
        Ok(Self { header, lines, geometry })
    }

    /// Under what another process of this user opens the ring, for as long as this one has it.
    pub fn address(&self) -> String {
        self.header.region().address()
    }

    /// Its shape.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Who reads it. Asks the kernel whether he lives: not for the hot path.
    pub fn reading(&self) -> Peer {
        self.peer(0)
    }

    /// Who writes it, at `place`, counted from zero, if the ring has one there. Asks the kernel likewise.
    pub fn writing(&self, place: u8) -> Option<Peer> {
        (place < self.geometry.writers).then(|| self.peer(usize::from(place) + 1))
    }

    /// Takes the reading end.
    ///
    /// # Errors
    /// When somebody has it, or has died with it.
    pub fn reader(self) -> Result<Reader, RingError> {
        self.take(0)?;
        let head = self.header.load(at::HEAD, Ordering::Relaxed);
        let buffer = vec![0; self.geometry.max_message.into()].into();
        Ok(Reader { next: head, told: head, ring: self, buffer })
    }

    /// Takes a writing end.
    ///
    /// # Errors
    /// When as many as there may be are alive.
    pub fn writer(self) -> Result<Writer, RingError> {
        let mut last = None;
        for place in 1..=usize::from(self.geometry.writers) {
            match self.take(place) {
                Ok(()) => {
                    let head = self.header.load(at::HEAD, Ordering::Acquire);
                    return Ok(Writer { place, head, ring: self });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(RingError::Geometry))
    }

    /// Who has a place, and its state.
    fn holder(&self, place: usize) -> (u64, Process) {
        let at = at::PLACES + place * LINE;
        let load = |word| self.header.load(at + word, Ordering::Acquire);
        (load(0), Process { id: load(1) as u32, started: load(2) })
    }

    fn take(&self, place: usize) -> Result<(), RingError> {
        let system = |source| RingError::System { what: "cannot take an end of the ring".into(), source };
        let this = Process::this().map_err(system)?;
        let at = at::PLACES + place * LINE;
        let (state, holder) = self.holder(place);
        if state == TAKEN && !holder.is_alive() {
            return Err(RingError::Died(holder));
        }
        // Of two that come at once, one has it.
        if state == TAKEN || self.header.compare_exchange(at, state, TAKING).is_err() {
            return Err(RingError::Taken(self.holder(place).1));
        }
        self.header.store(at + 1, this.id.into(), Ordering::Relaxed);
        self.header.store(at + 2, this.started, Ordering::Relaxed);
        self.header.store(at, TAKEN, Ordering::Release);
        Ok(())
    }

    fn leave(&self, place: usize) {
        self.header.store(at::PLACES + place * LINE, LEFT, Ordering::Release);
    }

    fn peer(&self, place: usize) -> Peer {
        match self.holder(place) {
            (TAKEN, holder) if holder.is_alive() => Peer::Alive(holder),
            (TAKEN, holder) => Peer::Died(holder),
            (LEFT, holder) => Peer::Left(holder),
            _ => Peer::Absent,
        }
    }

    #[inline]
    fn lines(&self) -> Lines<'_, SharedWords> {
        Lines::new(&self.lines, self.geometry.lines.into())
    }
}

/// A writing end.
pub struct Writer {
    ring: Ring,
    place: usize,
    /// The reader was at least here.
    head: u64,
}

impl Writer {
    /// Sends a message.
    ///
    /// # Errors
    /// When there is no room, the message is too long, or the ring was written over.
    #[inline]
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        let Geometry { max_message, writers, .. } = self.ring.geometry;
        if message.len() > max_message.into() {
            return Err(SendError::TooLong { most: max_message });
        }
        let lines = lines_of(message.len());
        loop {
            let tail = self.ring.header.load(at::TAIL, Ordering::Relaxed);
            let next = tail.wrapping_add(lines);
            if next.wrapping_sub(self.head) > self.ring.geometry.lines.into() {
                self.look_at_head()?;
                if next.wrapping_sub(self.head) > self.ring.geometry.lines.into() {
                    // Unless another writer has moved the tail, and the reader followed, since it was looked at.
                    if self.ring.header.load(at::TAIL, Ordering::Relaxed) != tail {
                        continue;
                    }
                    return Err(SendError::Full);
                }
            }
            if writers == 1 {
                self.ring.header.store(at::TAIL, next, Ordering::Relaxed);
            } else if self.ring.header.compare_exchange(at::TAIL, tail, next).is_err() {
                continue;
            }
            self.ring.lines().write(tail, message);
            return Ok(());
        }
    }

    #[cold]
    fn look_at_head(&mut self) -> Result<(), RingError> {
        // Acquire: what the reader has read of a line, it has read before it is written anew.
        let head = self.ring.header.load(at::HEAD, Ordering::Acquire);
        // Never behind what it was, nor beyond what was written.
        let tail = self.ring.header.load(at::TAIL, Ordering::Relaxed);
        if tail.wrapping_sub(head) > tail.wrapping_sub(self.head) {
            return Err(RingError::Corrupt { field: "the reader's place", value: head });
        }
        self.head = head;
        Ok(())
    }

    /// The reader. Asks the kernel whether it lives: not for the hot path.
    pub fn reader(&self) -> Peer {
        self.ring.reading()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ring.leave(self.place);
    }
}

/// The reading end.
pub struct Reader {
    ring: Ring,
    /// The line that is read next.
    next: u64,
    /// What the writers were told of.
    told: u64,
    buffer: Box<[u8]>,
}

impl Reader {
    /// Hands up to `budget` messages to `take`, in the order in which they were sent. Returns how many.
    ///
    /// # Errors
    /// When the ring was written over; it is over then.
    #[inline]
    pub fn poll(&mut self, budget: u32, mut take: impl FnMut(&[u8])) -> Result<u32, RingError> {
        let mut messages = 0;
        while messages < budget {
            let lines = self.ring.lines();
            let len = match lines.look(self.next, self.ring.geometry.max_message) {
                Found::Message(len) => len,
                Found::Nothing => break,
                Found::Garbage(value) => return Err(RingError::Corrupt { field: "a line's stamp", value }),
            };
            let Some(message) = self.buffer.get_mut(..len.into()) else { break };
            if !lines.read(self.next, message) {
                return Err(RingError::Corrupt { field: "a line's place", value: self.next });
            }
            self.next = self.next.wrapping_add(lines_of(len.into()));
            take(message);
            messages += 1;
        }
        // The writers' line is theirs until there is a good deal to tell: a message costs one transfer, not two.
        let lines = u64::from(self.ring.geometry.lines);
        if self.next != self.told && (messages == 0 || self.next.wrapping_sub(self.told) >= lines / 4) {
            self.told = self.next;
            self.ring.header.store(at::HEAD, self.next, Ordering::Release);
        }
        Ok(messages)
    }

    /// The writer at `place`, counted from zero, if the ring has one there. Asks the kernel whether it lives: not for the hot path.
    pub fn writer(&self, place: u8) -> Option<Peer> {
        self.ring.writing(place)
    }

    /// A writer that has died, if one has. What it had not finished stays unfinished: the ring may end there.
    pub fn dead_writer(&self) -> Option<Process> {
        (0..self.ring.geometry.writers).find_map(|place| match self.writer(place) {
            Some(Peer::Died(process)) => Some(process),
            _ => None,
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.ring.header.store(at::HEAD, self.next, Ordering::Release);
        self.ring.leave(0);
    }
}
