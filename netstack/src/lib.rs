//! Express lanes for trading traffic, and a host stack for the rest, on one queue pair.
//!
//! A frame that matches the multicast table or a TCP session goes straight to its receiver; everything else goes to smoltcp. One [`Stack`] belongs to
//! one queue pair and one thread. Time is a parameter, in nanoseconds; nothing here reads a clock.
#![forbid(unsafe_code)]

mod checksum;
mod datagram;
mod demux;
mod host;
mod igmp;
pub mod ipc;
pub mod neighbours;
pub mod placement;
mod stack;
mod stats;
mod tcp;
pub mod wire;

pub use datagram::{Datagram, DatagramBuffer, Route};
pub use demux::{JoinError, ReceiverId};
pub use host::{Echo, PingId, SocketId, UdpId};
pub use igmp::multicast_mac;
pub use neighbours::Neighbours;
pub use stack::{Config, Context, Event, Lane, ListenerId, Stack, TcpId};
pub use stats::{Drops, StackStats};
pub use tcp::{
    Delegated, Keepalive, Message, Parked, Retransmits, SessionId, TcpConfig, TcpEnd, TcpError, TcpHappening,
    TcpOptions, TcpReport, TcpState, TcpStats, TcpUsage,
};
