//! SoupBinTCP 4.1: packets of a length, a type and a payload on a TCP stream, with login, heartbeats and sequenced delivery.
#![forbid(unsafe_code)]

mod client;
mod packet;
mod server;
#[cfg(test)]
mod tests;

use barewire_driver::clock::Nanos;
pub use client::{Client, ClientEvent};
use packet::control;
pub use packet::{Assembler, Control, Error, Packet, kind, split, wrap};
pub use server::{Server, ServerEvent};

/// The longest payload that is read, in bytes; OUCH needs far less.
const MAX_PAYLOAD: usize = 4096;
/// Silence after which a heartbeat is due (section 2.1.2, 2.2.5).
pub const HEARTBEAT: Nanos = 1_000_000_000;
/// Silence after which the other side is taken for dead, unless somebody knows better.
pub const TIMEOUT: Nanos = 15_000_000_000;

/// Silence on both directions of a connection.
#[derive(Debug, Clone, Copy)]
struct Quiet {
    sent: Nanos,
    heard: Nanos,
    patience: Nanos,
}

impl Default for Quiet {
    fn default() -> Self {
        Self::since(0)
    }
}

impl Quiet {
    fn since(now: Nanos) -> Self {
        Self { sent: now, heard: now, patience: TIMEOUT }
    }

    /// When the other side is taken for dead.
    fn end(self) -> Nanos {
        self.heard.saturating_add(self.patience)
    }

    /// When a heartbeat is due.
    fn heartbeat(self) -> Nanos {
        self.sent.saturating_add(HEARTBEAT)
    }

    fn deadline(self) -> Nanos {
        self.heartbeat().min(self.end())
    }
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Login is on its way.
    #[default]
    LoggingIn,
    /// Messages flow.
    Active,
    /// Over: rejected, timed out, logged out or ended.
    Ended,
}

fn poll(state: &mut State, quiet: &mut Quiet, now: Nanos, heartbeat: u8) -> Option<Control> {
    if *state == State::Ended {
        return None;
    }
    if now >= quiet.end() {
        *state = State::Ended;
        return None;
    }
    (now >= quiet.heartbeat()).then(|| {
        quiet.sent = now;
        control(heartbeat, &[])
    })
}
