//! The feed handler: two lines, re-request servers and snapshots in; one gapless sequence of messages out.
//!
//! It does no input or output of its own. Packets and the time go in; messages, and what is to be asked of whom, come out.

use barewire_driver::clock::Nanos;
use zerocopy::IntoBytes;

use super::arbiter::{Arbiter, SILENCE, Sequenced, Source};
use super::glimpse::{self, Client};
use super::moldudp64::{HEADER, Header};
use super::recovery::{self, Recovery};
use crate::order::soupbin::Control;

/// How often silent lines are looked for.
const WATCH: Nanos = 25_000_000;

/// What becomes of the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update<'a> {
    /// The feed's next message.
    Message(Sequenced<'a>),
    /// Forget everything: a snapshot begins.
    Reset,
    /// A message of the snapshot, which has no number.
    Snapshot(&'a [u8]),
    /// The snapshot is complete. The feed goes on with this number.
    Complete(u64),
}

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send this request to a re-request server.
    Request {
        /// The server, counted from zero.
        server: usize,
        /// A MoldUDP64 request packet.
        packet: [u8; HEADER],
    },
    /// Connect to a snapshot server; [`Handler::connected`] when that is done, [`Handler::disconnected`] when it fails.
    Connect {
        /// The server, counted from zero.
        server: usize,
    },
}

/// The feed of one session.
#[derive(Debug)]
pub struct Handler {
    arbiter: Arbiter,
    recovery: Recovery,
    snapshot: Option<Client>,
    /// The books were told to forget everything, for the snapshot that is on its way.
    is_reset: bool,
    /// When silent lines are looked for next; `None` before the first packet.
    watch: Option<Nanos>,
    silent_since: Option<Nanos>,
}

impl Handler {
    /// A feed from its first message on, with `servers` servers to recover from.
    pub fn new(servers: usize) -> Self {
        Self {
            arbiter: Arbiter::default(),
            recovery: Recovery::new(servers),
            snapshot: None,
            is_reset: false,
            watch: None,
            silent_since: None,
        }
    }

    /// Takes a packet that arrived at `now`: calls `message` with every message whose turn has come.
    #[inline]
    pub fn receive(&mut self, now: Nanos, source: Source, packet: &[u8], message: impl FnMut(Sequenced<'_>)) {
        self.arbiter.receive(now, source, packet, message);
    }

    /// Since when the books are not up to date: messages are missing, a snapshot is on its way, or all lines are silent.
    #[inline]
    pub fn stale_since(&self) -> Option<Nanos> {
        self.arbiter.gap_since().or(self.silent_since)
    }

    /// What is to be sent at `now`, one thing at a time; `None` when nothing is left.
    pub fn poll(&mut self, now: Nanos) -> Option<Action> {
        self.watch(now);
        match self.recovery.poll(now, &self.arbiter)? {
            recovery::Action::Request { server, first, count } => {
                // A gap is only seen once a packet has told the session.
                let session = self.arbiter.session()?;
                let header = Header { session, sequence: first.into(), count: count.into() };
                let mut packet = [0; HEADER];
                header.write_to(&mut packet).ok()?;
                Some(Action::Request { server, packet })
            }
            recovery::Action::Snapshot { server } => {
                self.arbiter.suspend(now);
                Some(Action::Connect { server })
            }
        }
    }

    fn watch(&mut self, now: Nanos) {
        let due = *self.watch.get_or_insert(now);
        if now < due {
            return;
        }
        self.watch = Some(now.saturating_add(WATCH));
        self.arbiter.watch(now);
        let heard = [Source::A, Source::B].map(|source| self.arbiter.line(source).0).into_iter().flatten().max();
        self.silent_since = heard.filter(|heard| now.saturating_sub(*heard) >= SILENCE && !self.has_ended());
    }

    /// When [`Handler::poll`] or [`Handler::on_time`] has something to do, as things stand.
    pub fn deadline(&self) -> Option<Nanos> {
        let snapshot = self.snapshot.as_ref().and_then(Client::deadline);
        [self.recovery.deadline(&self.arbiter), snapshot, self.watch].into_iter().flatten().min()
    }

    /// The connection to the snapshot server is established: send what comes back.
    pub fn connected(&mut self, now: Nanos) -> Control {
        let (client, request) = Client::login(now, "TRADER", "barewire");
        (self.snapshot, self.is_reset) = (Some(client), false);
        request
    }

    /// Whether a snapshot session is open.
    pub fn is_connected(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Whether a connection to a snapshot server is wanted.
    pub fn is_snapshot_running(&self) -> bool {
        self.recovery.is_snapshot_running()
    }

    /// Takes bytes of the snapshot server's stream; `update` learns what they do to the books. Returns whether the connection is still needed.
    pub fn snapshot(&mut self, now: Nanos, bytes: &[u8], mut update: impl FnMut(Update<'_>)) -> bool {
        let Some(client) = &mut self.snapshot else { return false };
        let mut end = None;
        if !std::mem::replace(&mut self.is_reset, true) {
            update(Update::Reset);
        }
        let received = client.receive(now, bytes, |news| match news {
            glimpse::Update::Message(message) => update(Update::Snapshot(message)),
            glimpse::Update::End(next) => end = Some(next),
        });
        if let Err(error) = received {
            log::warn!("{error}; another snapshot will be fetched");
            self.disconnected(now);
            return false;
        }
        let Some(next) = end else { return true };
        self.snapshot = None;
        self.recovery.snapshot_done();
        update(Update::Complete(next));
        self.arbiter.resume(now, next, |message| update(Update::Message(message)));
        false
    }

    /// The connection to the snapshot server is gone, or was never made.
    pub fn disconnected(&mut self, now: Nanos) {
        self.snapshot = None;
        if self.recovery.is_snapshot_running() {
            self.recovery.snapshot_failed(now);
        }
    }

    /// A heartbeat for the snapshot server, when one is due. A server that is silent too long is given up: then [`Handler::is_connected`] no more.
    pub fn on_time(&mut self, now: Nanos) -> Option<Control> {
        match self.snapshot.as_mut()?.poll(now) {
            Ok(heartbeat) => heartbeat,
            Err(error) => {
                log::warn!("{error}; another snapshot will be fetched");
                self.disconnected(now);
                None
            }
        }
    }

    /// Whether the session has ended, and every message of it was passed on.
    pub fn has_ended(&self) -> bool {
        self.arbiter.has_ended()
    }

    /// The merged lines.
    pub fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }

    /// What recovery did.
    pub fn recovery(&self) -> recovery::Stats {
        self.recovery.stats()
    }
}

#[cfg(test)]
mod tests;
