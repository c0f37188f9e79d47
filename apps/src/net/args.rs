//! Flags of the commands on one port.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use barewire_netstack::Lane;
use barewire_netstack::placement::Idle;
use clap::{Args, Subcommand, ValueEnum, value_parser};

use crate::port::PortUri;

/// A host's address and the length of its network's prefix, written `10.0.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(pub Ipv4Addr, pub u8);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
            let address: Ipv4Addr = address.parse().ok()?;
            let is_host = !address.is_multicast() && !address.is_unspecified() && !address.is_broadcast();
            is_host.then_some(Self(address, prefix))
        };
        parse().ok_or_else(|| format!("{text:?} is no host's address with prefix; write 10.0.0.1/24"))
    }
}

/// What a port does while nothing arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IdleChoice {
    /// Poll again at once; needs a core of its own.
    Spin,
    /// Let other threads run between polls.
    Yield,
    /// Spin for about 100 us, then nap for 50 us between polls.
    Pause,
    /// Sleep until the device interrupts.
    Sleep,
}

impl From<IdleChoice> for Idle {
    fn from(choice: IdleChoice) -> Self {
        match choice {
            IdleChoice::Spin => Self::Spin,
            IdleChoice::Yield => Self::Yield,
            IdleChoice::Pause => Self::Pause,
            IdleChoice::Sleep => Self::Sleep,
        }
    }
}

/// Flags of every command on a port.
#[derive(Debug, Clone, Args)]
pub struct NetArgs {
    /// The port: vfio:0000:03:00.0, vfio-user:/path.sock, tap:NAME, or model:82599 for a trial whose far end runs in this process.
    #[arg(long, value_name = "URI")]
    pub port: PortUri,
    /// Our address and the length of the network's prefix.
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub ip: Host,
    /// Where packets to other networks go.
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<Ipv4Addr>,
    /// What to do while nothing arrives.
    #[arg(long, value_enum, default_value_t = IdleChoice::Spin)]
    pub idle: IdleChoice,
    /// End after this many seconds, whatever has happened until then.
    #[arg(long, value_name = "N")]
    pub seconds: Option<u32>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `ping`.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// Who is asked; without it, only answer.
    pub target: Option<Ipv4Addr>,
    /// Requests to send.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub count: u16,
    /// Milliseconds from one request to the next.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub interval_ms: u32,
    /// Bytes of payload.
    #[arg(long, value_name = "N", default_value_t = 56)]
    pub size: u16,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub net: NetArgs,
}

/// What is done with a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// The listener gives back what it gets; the other side sends message by message and waits for each.
    Echo,
    /// Take everything.
    Sink,
    /// Send pseudo-random bytes, then close.
    Source,
}

impl Role {
    /// What the peer does.
    pub fn other(self) -> Self {
        match self {
            Self::Echo => Self::Echo,
            Self::Sink => Self::Source,
            Self::Source => Self::Sink,
        }
    }
}

/// Flags of `listen`.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// The TCP port to listen on.
    pub at: u16,
    /// What to do with the connection.
    #[arg(long, value_enum, default_value_t = Role::Echo)]
    pub role: Role,
    /// Bytes that a source sends.
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    pub bytes: u64,
    /// Bytes of a message (in a trial: of the far end's).
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub size: u16,
    /// Who carries the connection.
    #[arg(long, value_name = "LANE", default_value = "express")]
    pub tcp: TcpLane,
    /// Bytes that may be on their way, each: a path's rate times its round trip, for as much can pass in a round trip.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 10, value_parser = value_parser!(u32).range(4096..=64 << 20))]
    pub window: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub net: NetArgs,
}

/// TCP implementations that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TcpLane {
    /// The express lane.
    Express,
    /// The host stack.
    Smoltcp,
}

impl From<TcpLane> for Lane {
    fn from(lane: TcpLane) -> Self {
        match lane {
            TcpLane::Express => Self::Express,
            TcpLane::Smoltcp => Self::Host,
        }
    }
}

/// Flags of `connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The listener's address and port.
    pub peer: SocketAddrV4,
    /// What to do with the connection.
    #[arg(long, value_enum, default_value_t = Role::Echo)]
    pub role: Role,
    /// Bytes to send, as a source or for echo.
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    pub bytes: u64,
    /// Bytes of a message for echo.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub size: u16,
    /// Who carries the connection.
    #[arg(long, value_name = "LANE", default_value = "express")]
    pub tcp: TcpLane,
    /// Bytes that may be on their way, each: a path's rate times its round trip, for as much can pass in a round trip.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 10, value_parser = value_parser!(u32).range(4096..=64 << 20))]
    pub window: u32,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub net: NetArgs,
}

/// Flags of `multicast`.
#[derive(Debug, Args)]
pub struct MulticastArgs {
    /// Which way.
    #[command(subcommand)]
    pub command: MulticastCommand,
}

/// Which way datagrams go.
#[derive(Debug, Subcommand)]
pub enum MulticastCommand {
    /// Send numbered datagrams to a group.
    Send(StreamArgs),
    /// Join a group and count what arrives and what is missing.
    Receive(StreamArgs),
}

/// Flags of both ways of `multicast`.
#[derive(Debug, Args)]
pub struct StreamArgs {
    /// The group and UDP port.
    pub group: SocketAddrV4,
    /// Datagrams to send, or to wait for.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub count: u64,
    /// Datagrams a second, open loop.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub rate: u64,
    /// Bytes of payload; the first 16 are the number and the time of sending.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub size: u16,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub net: NetArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_with_prefix_parses_and_nonsense_is_refused() {
        assert_eq!("10.0.0.1/24".parse(), Ok(Host(Ipv4Addr::new(10, 0, 0, 1), 24)));
        for bad in ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/0", "239.0.0.1/24", "x/24", ""] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }
}
