//! Counters of a stack. Everything that is not delivered is counted under its cause.

/// Frames that went no further, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops {
    /// Shorter than its headers say.
    pub truncated: u64,
    /// A checksum is wrong.
    pub bad_checksum: u64,
    /// Multicast UDP in fragments.
    pub fragment: u64,
    /// UDP to a group, port or VLAN that nobody has joined.
    pub no_receiver: u64,
    /// A tagged frame that no lane took: the host stack has no VLANs.
    pub vlan: u64,
    /// Neither IPv4 nor ARP.
    pub unknown_protocol: u64,
    /// Longer than the host stack's largest frame.
    pub oversized: u64,
    /// The host stack had no buffer for an answer.
    pub no_buffer: u64,
    /// IGMP that makes no sense.
    pub bad_igmp: u64,
}

/// What a stack did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StackStats {
    /// Frames received.
    pub frames: u64,
    /// Datagrams delivered by the multicast lane.
    pub lane_datagrams: u64,
    /// Frames handed to the host stack.
    pub host_frames: u64,
    /// Of these, frames that were copied because they came in several buffers.
    pub host_copies: u64,
    /// TCP segments that were sent before, by either lane.
    pub retransmits: u64,
    /// IGMP messages received that made sense.
    pub igmp_received: u64,
    /// IGMP messages sent.
    pub igmp_sent: u64,
    /// What was not delivered.
    pub drops: Drops,
}
