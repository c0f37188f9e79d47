//! What the lane counts, and what a session tells about itself while it runs.

use std::net::SocketAddrV4;

use barewire_driver::clock::Nanos;

use super::state::TcpState;

/// Counters of the express lane. Everything that a hostile or broken peer can send ends under a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpStats {
    /// Segments for a session or a listener.
    pub segments_received: u64,
    /// Segments sent, retransmissions included.
    pub segments_sent: u64,
    /// Segments sent again, by cause.
    pub retransmits: Retransmits,
    /// Connections that a listener accepted.
    pub accepted: u64,
    /// Connections that were opened from here.
    pub opened: u64,
    /// Connections that ended by a reset of the peer's.
    pub resets: u64,
    /// Connections given up because nothing was acknowledged, or nothing came, for too long.
    pub timeouts: u64,
    /// Resets outside the window, or in it but not at its edge (RFC 5961, 3.2).
    pub blind_resets: u64,
    /// SYNs on a connection that stands (RFC 5961, 4.2).
    pub blind_syns: u64,
    /// Acknowledgements of what was never sent, or of what is too long ago (RFC 5961, 5.2).
    pub bad_acks: u64,
    /// Segments outside the receive window (RFC 9293, 3.10.7.4, first).
    pub out_of_window: u64,
    /// Challenge acknowledgements sent (RFC 5961).
    pub challenges: u64,
    /// Challenge acknowledgements not sent, because there were too many in a second (RFC 5961, 7).
    pub challenges_withheld: u64,
    /// Segments with options whose lengths do not fit.
    pub bad_options: u64,
    /// Segments without ACK, or with flags that make no sense together.
    pub bad_flags: u64,
    /// Selective acknowledgements of what is not outstanding.
    pub bad_sacks: u64,
    /// Segments without a timestamp, or with one that is older than the connection's (RFC 7323, 3.2 and 5.3).
    pub old_timestamps: u64,
    /// Bytes that had arrived before.
    pub duplicate_bytes: u64,
    /// Segments that were dropped because nothing more can be kept.
    pub no_room: u64,
    /// Data for a session that nobody reads any more; it was reset.
    pub unwanted_data: u64,
    /// SYNs that found no free session.
    pub syn_dropped: u64,
    /// Half-open connections that gave way to newer ones.
    pub half_open_evicted: u64,
    /// Segments that no buffer or descriptor was left for; sent later, or by the peer's retransmission.
    pub tx_busy: u64,
    /// Urgent data, which is read as any other (RFC 9293, 3.8.5).
    pub urgent: u64,
}

/// Segments sent again, by what made us think they were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retransmits {
    /// The time-out (RFC 6298).
    pub timeout: u64,
    /// A tail-loss probe (RFC 8985, 7).
    pub probe: u64,
    /// What was sent later has arrived (RFC 8985, 6), or duplicate acknowledgements (RFC 6582).
    pub recovery: u64,
    /// A SYN.
    pub syn: u64,
}

impl Retransmits {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.timeout + self.probe + self.recovery + self.syn
    }
}

/// How a connection ended that did not end in order; its user is told (MUST-12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TcpEnd {
    /// The peer answered the request with a reset.
    #[error("connection refused")]
    Refused,
    /// The peer reset the connection.
    #[error("connection reset by the peer")]
    Reset,
    /// Nothing was acknowledged for too long.
    #[error("connection timed out")]
    TimedOut,
    /// It was aborted from here.
    #[error("connection aborted from here")]
    Aborted,
}

/// Something that happened to a session, none of it on its hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpHappening {
    /// The state changed to this one.
    State(TcpState),
    /// The retransmission time-out struck; it had been this long, in microseconds.
    Timeout(u32),
    /// A tail-loss probe was sent.
    Probe,
    /// Loss recovery began with this many bytes in flight.
    Recovery(u32),
    /// Loss recovery ended.
    Recovered,
    /// The peer's window closed.
    WindowClosed,
    /// A zero window or a silent connection was probed.
    Asked,
    /// The peer's window opened to this many bytes.
    WindowOpened(u32),
    /// A challenge acknowledgement was sent (RFC 5961).
    Challenged,
    /// A segment could not be kept.
    Dropped,
}

/// What a session remembers: its last hundred events.
pub(super) const LOG: usize = 100;

/// A ring of events.
#[derive(Debug, Clone)]
pub(super) struct Log {
    entries: [(Nanos, TcpHappening); LOG],
    next: u16,
    filled: u16,
}

impl Default for Log {
    fn default() -> Self {
        Self { entries: [(0, TcpHappening::Probe); LOG], next: 0, filled: 0 }
    }
}

impl Log {
    pub fn note(&mut self, now: Nanos, what: TcpHappening) {
        if let Some(entry) = self.entries.get_mut(usize::from(self.next)) {
            *entry = (now, what);
        }
        self.next = (self.next + 1) % LOG as u16;
        self.filled = (self.filled + 1).min(LOG as u16);
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (Nanos, TcpHappening)> {
        let start = usize::from(self.next) + LOG - usize::from(self.filled);
        (0..usize::from(self.filled)).map(move |index| self.entries[(start + index) % LOG])
    }
}

/// What a session says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpReport {
    /// The other end.
    pub remote: SocketAddrV4,
    /// Our port.
    pub local_port: u16,
    /// The state.
    pub state: TcpState,
    /// How it ended, where it did not end in order.
    pub end: Option<TcpEnd>,
    /// The largest payload that is sent in a segment, bytes.
    pub mss: u16,
    /// Smoothed round-trip time, in nanoseconds; zero before one was measured.
    pub srtt: Nanos,
    /// Its variation, in nanoseconds.
    pub rttvar: Nanos,
    /// The smallest round-trip time seen, in nanoseconds.
    pub min_rtt: Nanos,
    /// The retransmission time-out, without back-off, in nanoseconds.
    pub rto: Nanos,
    /// How often it has been doubled since a round trip was last measured.
    pub backoff: u8,
    /// The congestion window, bytes; `None` where there is none.
    pub congestion_window: Option<u32>,
    /// Its threshold, bytes.
    pub slow_start_threshold: u32,
    /// The peer's window, bytes.
    pub send_window: u32,
    /// The window that the peer was told, bytes.
    pub receive_window: u32,
    /// Bytes sent and not acknowledged.
    pub unacknowledged: u32,
    /// Of these, bytes thought to be on their way.
    pub in_flight: u32,
    /// Segments sent and not acknowledged.
    pub unacknowledged_segments: u32,
    /// Segments thought lost and not sent again.
    pub lost_segments: u32,
    /// Segments that the peer holds behind a gap.
    pub sacked_segments: u32,
    /// Bytes that can be read.
    pub unread: u32,
    /// Bytes that wait for what is missing before them.
    pub out_of_order: u32,
    /// Bytes of payload that were sent, each counted once.
    pub bytes_sent: u64,
    /// Bytes of payload that were received in order.
    pub bytes_received: u64,
    /// Segments sent again.
    pub retransmits: Retransmits,
    /// Its last hundred events, oldest first.
    pub log: Vec<(Nanos, TcpHappening)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keeps_the_last_hundred_in_order() {
        let mut log = Log::default();
        assert_eq!(log.iter().count(), 0);
        for now in 0..250 {
            log.note(now, TcpHappening::Timeout(now as u32));
        }
        let kept: Vec<_> = log.iter().map(|(now, _)| now).collect();
        assert_eq!(kept, (150..250).collect::<Vec<_>>());
    }
}
