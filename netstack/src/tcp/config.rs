//! What a lane and a session are made with.

use barewire_driver::clock::Nanos;

use super::session::{Kept, Sent, Session};
use super::slab::Slab;
use super::table::Table;
use super::timers::Timers;

const MILLISECOND: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MILLISECOND;

/// Sizes of the express lane. All its memory is allocated when the stack is made.
#[derive(Debug, Clone, Copy)]
pub struct TcpConfig {
    /// Connections at a time, those in TIME-WAIT included.
    pub sessions: u32,
    /// Of these, connections that were asked for by a peer and are not acknowledged yet. The oldest gives way.
    pub half_open: u32,
    /// Segments of all sessions that are sent and not acknowledged. No more than the port retains (`PortConfig::retained_frames`).
    pub sent_segments: u32,
    /// Segments of all sessions that wait to be read or for what is missing before them. No more than the port keeps
    /// (`PortConfig::kept_frames`).
    pub kept_segments: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self { sessions: 64, half_open: 16, sent_segments: 256, kept_segments: 256 }
    }
}

impl TcpConfig {
    /// Bytes of memory that the lane will take, packet buffers not counted: those are the port's.
    pub const fn memory_bytes(&self) -> usize {
        self.sessions as usize * size_of::<Session>()
            + Table::memory_bytes(self.sessions)
            + Timers::memory_bytes(self.sessions)
            + Slab::<Sent>::memory_bytes(self.sent_segments)
            + Slab::<Kept>::memory_bytes(self.kept_segments)
    }
}

/// When a connection that nothing passes over is asked whether it still stands (RFC 9293, 3.8.4; a choice, MUST-24,
/// and off unless wanted, MUST-25).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, in nanoseconds (MUST-26, MUST-27).
    pub idle: Nanos,
    /// Between probes, in nanoseconds.
    pub interval: Nanos,
    /// Probes without an answer before the connection is given up: one that was lost means nothing (MUST-29).
    pub probes: u16,
}

/// How one session behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// Bytes that may wait to be read, at most. What does not fit 16 bits is told by window scaling (RFC 7323).
    pub receive_window: u32,
    /// The largest payload to receive in a segment, and to send, bytes.
    pub mss: u16,
    /// Sends and asks for timestamps (RFC 7323): 12 bytes a segment, worth it on paths with much in flight.
    pub timestamps: bool,
    /// Keeps to a congestion window (RFC 5681, 6582). Off for a cross-connect, where nobody else is in the way.
    pub congestion: bool,
    /// How long an acknowledgement may wait for data to travel with, in nanoseconds, less than half a second (MUST-40); zero sends it with the
    /// poll that saw the segment.
    pub ack_delay: Nanos,
    /// How long the peer lets acknowledgements wait, in nanoseconds: the allowance of a tail-loss probe (RFC 8985, 7.2).
    pub peer_ack_delay: Nanos,
    /// Floor of the retransmission time-out, in nanoseconds.
    pub rto_min: Nanos,
    /// Ceiling of it, in nanoseconds.
    pub rto_max: Nanos,
    /// The time-out before anything was measured, in nanoseconds (RFC 6298, 2.1).
    pub rto_initial: Nanos,
    /// Probes of silent connections.
    pub keepalive: Option<Keepalive>,
    /// How long data may stay unacknowledged before the connection is given up (RFC 9293, 3.8.3), in nanoseconds. `None`: 100 seconds
    /// (SHLD-11), and three minutes for a SYN (MUST-23).
    pub user_timeout: Option<Nanos>,
    /// How long a closed connection waits for stray segments: twice the maximum segment lifetime, in nanoseconds (MUST-13).
    pub time_wait: Nanos,
}

impl Default for TcpOptions {
    /// For order entry on a local network; acknowledgements travel with the poll.
    fn default() -> Self {
        Self {
            receive_window: 64 << 10,
            mss: 1460,
            timestamps: false,
            congestion: true,
            ack_delay: 0,
            peer_ack_delay: 40 * MILLISECOND,
            rto_min: 200 * MILLISECOND,
            rto_max: 60 * SECOND,
            rto_initial: SECOND,
            keepalive: None,
            user_timeout: None,
            time_wait: 60 * SECOND,
        }
    }
}

impl TcpOptions {
    /// The shift that tells the receive window in 16 bits (RFC 7323, 2.2).
    pub(super) fn window_shift(&self) -> u8 {
        let bits = 32 - (self.receive_window >> 16).leading_zeros();
        (bits as u8).min(super::options::MAX_SHIFT)
    }
}
