//! How much of what the lane was made with is in use.

use super::Tcp;

/// What the express lane holds now, in the units of [`TcpConfig`](super::TcpConfig). A lane whose connections are all over and released holds
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpUsage {
    /// Connections, those in TIME-WAIT and those that are over and not released included.
    pub sessions: u32,
    /// Segments that are sent and not acknowledged.
    pub sent_segments: u32,
    /// Segments that wait to be read, or for what is missing before them.
    pub kept_segments: u32,
    /// Sessions that a timer runs for.
    pub timers: u32,
}

impl Tcp {
    pub fn usage(&self) -> TcpUsage {
        let (config, lane) = (&self.config, &self.shared);
        TcpUsage {
            sessions: config.sessions - self.vacant.len() as u32,
            sent_segments: config.sent_segments - lane.sent.available(),
            kept_segments: config.kept_segments - lane.kept.available(),
            timers: lane.timers.len(),
        }
    }
}
