//! Express lanes for trading traffic, and a host stack for the rest, on one queue pair.
//!
//! A frame that matches the multicast table goes straight to its receiver; everything else goes to smoltcp. One [`Stack`] belongs to one queue
//! pair and one thread. Time is a parameter, in nanoseconds; nothing here reads a clock.
#![forbid(unsafe_code)]

mod checksum;
mod datagram;
mod demux;
mod host;
mod igmp;
pub mod placement;
mod stack;
mod stats;
pub mod wire;

pub use datagram::{Datagram, DatagramBuffer, Route};
pub use demux::{JoinError, ReceiverId};
pub use host::{TcpError, TcpId, TcpState, UdpId};
pub use igmp::multicast_mac;
pub use stack::{Config, Context, Event, Stack};
pub use stats::{Drops, StackStats};
