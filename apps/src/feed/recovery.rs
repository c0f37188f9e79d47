//! Gap recovery: what to ask whom, and when.
//!
//! A gap first waits for the other line. Then its messages are asked for, piece by piece, from re-request servers in turn (MoldUDP64 1.0, "Request
//! Packet"); what is not answered is asked again with doubled patience. Where that leads nowhere, or too much is missing, a snapshot is wanted.

use arrayvec::ArrayVec;
use barewire_driver::clock::Nanos;
use serde::{Deserialize, Serialize};

use super::arbiter::Arbiter;

/// How long a gap waits for the other line, or for a packet that was overtaken, before anything is asked for.
pub const GRACE: Nanos = 100_000;
/// Messages of one request: as many of ITCH's longest as one packet holds.
pub const REQUEST_MESSAGES: u64 = 24;
/// Requests that may be unanswered at a time.
pub const IN_FLIGHT: usize = 8;
/// The least time between two requests: servers are shared.
pub const PACE: Nanos = 5_000;
/// How long a request waits for its answer at first; every repetition doubles it.
pub const PATIENCE: Nanos = 1_000_000;
/// How often a request is sent before a snapshot is wanted instead.
pub const ATTEMPTS: u32 = 8;
/// More missing messages than this are not asked for one by one.
pub const MOST_MISSING: u64 = 4_096;
/// The pause after a snapshot that failed, at first; every further failure doubles it, up to 64 times.
pub const SNAPSHOT_PAUSE: Nanos = 10_000_000;

/// What recovery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Requests sent, repetitions included.
    pub requests: u64,
    /// Of these, repetitions.
    pub repeated: u64,
    /// Requests that were given up after [`ATTEMPTS`].
    pub exhausted: u64,
    /// Snapshots begun.
    pub snapshots: u64,
    /// Snapshots that did not come to their end.
    pub snapshots_failed: u64,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask `server` for `count` messages from number `first` on.
    Request {
        /// The server, counted from zero.
        server: usize,
        /// The first message.
        first: u64,
        /// How many.
        count: u16,
    },
    /// Fetch a snapshot from `server`.
    Snapshot {
        /// The server, counted from zero.
        server: usize,
    },
}

/// A request that is not answered, or not wholly.
#[derive(Debug, Clone, Copy)]
struct Asked {
    first: u64,
    end: u64,
    due: Nanos,
    attempts: u32,
}

/// Where a snapshot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    NotWanted,
    /// Wanted, from this time on.
    Wanted(Nanos),
    Running,
}

/// Decides what is asked of servers.
#[derive(Debug)]
pub struct Recovery {
    /// How many servers there are, at least one.
    servers: usize,
    /// Whose turn it is.
    turn: usize,
    asked: ArrayVec<Asked, IN_FLIGHT>,
    /// Messages before this number are here or asked for.
    asked_to: u64,
    /// No request before this time.
    paced: Nanos,
    snapshot: Snapshot,
    failures: u32,
    stats: Stats,
}

impl Recovery {
    /// Recovery from `servers` servers, each of which takes requests and gives snapshots.
    pub fn new(servers: usize) -> Self {
        Self {
            servers: servers.max(1),
            turn: 0,
            asked: ArrayVec::new(),
            asked_to: 0,
            paced: 0,
            snapshot: Snapshot::NotWanted,
            failures: 0,
            stats: Stats::default(),
        }
    }

    /// What is to be done at `now`, one thing at a time; `None` when nothing is left.
    pub fn poll(&mut self, now: Nanos, arbiter: &Arbiter) -> Option<Action> {
        match self.snapshot {
            Snapshot::Running => return None,
            Snapshot::Wanted(from) if now < from => return None,
            Snapshot::Wanted(_) => return Some(self.begin_snapshot()),
            Snapshot::NotWanted => {}
        }
        let Some(since) = arbiter.gap_since() else {
            self.asked.clear();
            self.asked_to = 0;
            return None;
        };
        if arbiter.missing() > MOST_MISSING || arbiter.is_overrun() {
            return Some(self.begin_snapshot());
        }
        self.strike_out(arbiter);
        if now < since.saturating_add(GRACE) || now < self.paced {
            return None;
        }
        let overdue = self.asked.iter().position(|asked| asked.due <= now);
        if overdue.and_then(|at| self.asked.get(at)).is_some_and(|asked| asked.attempts >= ATTEMPTS) {
            self.stats.exhausted += 1;
            return Some(self.begin_snapshot());
        }
        let at = match overdue {
            Some(at) => at,
            None => self.ask_more(arbiter)?,
        };
        self.request(at, now)
    }

    /// Takes what has arrived off the list.
    fn strike_out(&mut self, arbiter: &Arbiter) {
        self.asked.retain(|asked| match arbiter.first_missing(asked.first, u64::MAX) {
            Some((first, _)) if first < asked.end => {
                if first > asked.first {
                    // The server is there; it sends less at a time than was asked for.
                    (asked.first, asked.attempts) = (first, 0);
                }
                true
            }
            _ => false,
        });
    }

    /// Puts the next messages that nobody was asked for on the list; says where.
    fn ask_more(&mut self, arbiter: &Arbiter) -> Option<usize> {
        let (first, end) = arbiter.first_missing(self.asked_to, REQUEST_MESSAGES)?;
        self.asked.try_push(Asked { first, end, due: 0, attempts: 0 }).ok()?;
        self.asked_to = end;
        self.asked.len().checked_sub(1)
    }

    fn request(&mut self, at: usize, now: Nanos) -> Option<Action> {
        let server = self.next_server();
        let asked = self.asked.get_mut(at)?;
        self.stats.requests += 1;
        self.stats.repeated += u64::from(asked.attempts > 0);
        asked.due = now.saturating_add(PATIENCE << asked.attempts);
        asked.attempts += 1;
        self.paced = now.saturating_add(PACE);
        let count = u16::try_from(asked.end - asked.first).unwrap_or(u16::MAX);
        Some(Action::Request { server, first: asked.first, count })
    }

    fn begin_snapshot(&mut self) -> Action {
        self.asked.clear();
        self.asked_to = 0;
        self.snapshot = Snapshot::Running;
        self.stats.snapshots += 1;
        Action::Snapshot { server: self.next_server() }
    }

    fn next_server(&mut self) -> usize {
        let server = self.turn;
        self.turn = (self.turn + 1) % self.servers;
        server
    }

    /// Whether a snapshot is on its way.
    pub fn is_snapshot_running(&self) -> bool {
        self.snapshot == Snapshot::Running
    }

    /// The snapshot is here.
    pub fn snapshot_done(&mut self) {
        (self.snapshot, self.failures) = (Snapshot::NotWanted, 0);
    }

    /// The snapshot broke off; another is fetched after a pause.
    pub fn snapshot_failed(&mut self, now: Nanos) {
        self.stats.snapshots_failed += 1;
        self.snapshot = Snapshot::Wanted(now.saturating_add(SNAPSHOT_PAUSE << self.failures.min(6)));
        self.failures = self.failures.saturating_add(1);
    }

    /// When [`Recovery::poll`] has something to do, as things stand.
    pub fn deadline(&self, arbiter: &Arbiter) -> Option<Nanos> {
        match self.snapshot {
            Snapshot::Running => return None,
            Snapshot::Wanted(from) => return Some(from),
            Snapshot::NotWanted => {}
        }
        let begin = arbiter.gap_since()?.saturating_add(GRACE).max(self.paced);
        let is_more = !self.asked.is_full() && arbiter.first_missing(self.asked_to, 1).is_some();
        let overdue = self.asked.iter().map(|asked| asked.due).min();
        if is_more { Some(begin) } else { overdue.map(|due| due.max(begin)) }
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
