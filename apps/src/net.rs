//! Commands on one port: `ping`, `listen`, `connect` and `multicast`.
#![forbid(unsafe_code)]

pub mod args;
mod multicast;
mod ping;
mod report;
mod session;
mod tcp;
mod trial;
mod wake;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::port;
use args::{ConnectArgs, ListenArgs, MulticastArgs, MulticastCommand, NetArgs, PingArgs};
use trial::{Far, Outcome};

/// Why a command did not end well. The message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that was asked for is not allowed.
    #[error("{what} {allowed}")]
    Input {
        /// The flag or argument.
        what: &'static str,
        /// What it allows.
        allowed: &'static str,
    },
    /// The port cannot be had.
    #[error(transparent)]
    Port(#[from] port::Error),
    /// The device does not answer any more.
    #[error("{port}: {source}")]
    Gone {
        /// The port.
        port: String,
        /// What was noticed.
        source: barewire_driver::mmio::MmioError,
    },
    /// Somebody wants the device back, such as a hot-unplug.
    #[error("{0}: the device is being removed; it has been released")]
    Removed(String),
    /// A device broke the contract of its descriptors.
    #[error("{port}: {source}")]
    Queue {
        /// The port.
        port: String,
        /// What it wrote.
        source: barewire_driver::QueueFault,
    },
    /// Frames do not leave, though there is a link.
    #[error("{port}: transmit queue {queue} has frames to send and does not move; close the queues and reset the port")]
    Stuck {
        /// The port.
        port: String,
        /// The queue.
        queue: u16,
    },
    /// A reset did not help for long.
    #[error(
        "{fault}: this was done less than {seconds} s ago and did not help; suspect the device, `dmesg | tail` may tell of faults of its DMA"
    )]
    Incurable {
        /// What happened again.
        fault: Box<Error>,
        /// How long a reset must help.
        seconds: u64,
    },
    /// No carrier.
    #[error("{port}: no link within {seconds} s; is the cable in, and the far end up?")]
    NoLink {
        /// The port.
        port: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A group was not joined.
    #[error(transparent)]
    Join(#[from] barewire_netstack::JoinError),
    /// A connection was not begun.
    #[error(transparent)]
    Tcp(#[from] barewire_netstack::TcpError),
    /// Nobody answered.
    #[error("{peer}: no answer within {seconds} s; is the address right, and does somebody listen there?")]
    NoAnswer {
        /// Who was asked.
        peer: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The connection ended before everything was transferred.
    #[error("the connection was reset after {sent} bytes sent and {received} received")]
    Reset {
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// Nothing moves any more.
    #[error("no progress for {seconds} s after {sent} bytes sent and {received} received")]
    Stalled {
        /// How long.
        seconds: u64,
        /// Bytes sent.
        sent: u64,
        /// Bytes received.
        received: u64,
    },
    /// The signal handlers cannot be set.
    #[error("signals: {0}")]
    Signals(io::Error),
    /// The output's side.
    #[error(transparent)]
    Output(#[from] io::Error),
    /// The command ran, and what it found is no success; it has been printed.
    #[error("{0}")]
    Unsuccessful(String),
}

impl Error {
    /// Whether closing the queues and resetting the port may put it right.
    fn asks_for_reset(&self) -> bool {
        use barewire_driver::Error as Driver;
        match self {
            Self::Stuck { .. } | Self::Queue { .. } => true,
            Self::Port(port::Error::Driver(error)) => {
                matches!(error, Driver::NeedsReset { .. } | Driver::DeviceFault { .. } | Driver::Queue(_))
            }
            _ => false,
        }
    }

    /// Whether what was asked for is at fault, and not what happened then.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Input { .. } | Self::Join(_) | Self::Tcp(_) => true,
            Self::Port(error) => error.is_input(),
            _ => false,
        }
    }
}

/// Sends echo requests and answers them; without a target, only answers.
pub fn ping(args: &PingArgs, out: &mut impl Write) -> Result<(), Error> {
    let outcome = match args.target {
        Some(target) => {
            let far = Far { ip: target, lasts: false, activity: ping::Answer };
            trial::run(&args.net, true, ping::Ping::new(target, args)?, far)?
        }
        None => {
            let far = Far { ip: neighbour(&args.net), lasts: true, activity: ping::Ping::new(args.net.ip.0, args)? };
            trial::run(&args.net, true, ping::Answer, far)?
        }
    };
    finish("ping", &args.net, outcome, out)
}

/// Waits for a TCP connection and serves it.
pub fn listen(args: &ListenArgs, out: &mut impl Write) -> Result<(), Error> {
    let here = SocketAddrV4::new(args.net.ip.0, args.at);
    let plan =
        tcp::Plan { role: args.role, bytes: args.bytes, size: args.size, window: args.window, lane: args.tcp.into() };
    let near = tcp::Transfer::listen(here, plan)?;
    let activity = tcp::Transfer::connect(here, plan.other())?;
    let far = Far { ip: neighbour(&args.net), lasts: true, activity };
    finish("listen", &args.net, trial::run(&args.net, false, near, far)?, out)
}

/// Opens a TCP connection and uses it.
pub fn connect(args: &ConnectArgs, out: &mut impl Write) -> Result<(), Error> {
    let plan =
        tcp::Plan { role: args.role, bytes: args.bytes, size: args.size, window: args.window, lane: args.tcp.into() };
    let near = tcp::Transfer::connect(args.peer, plan)?;
    let activity = tcp::Transfer::listen(args.peer, plan.other())?;
    let far = Far { ip: *args.peer.ip(), lasts: true, activity };
    finish("connect", &args.net, trial::run(&args.net, false, near, far)?, out)
}

/// Sends numbered datagrams to a group, or receives them and counts what is missing.
pub fn multicast(args: &MulticastArgs, out: &mut impl Write) -> Result<(), Error> {
    let (net, outcome) = match &args.command {
        MulticastCommand::Send(args) => {
            let activity = multicast::Receive::new(args)?;
            let far = Far { ip: neighbour(&args.net), lasts: true, activity };
            (&args.net, trial::run(&args.net, false, multicast::Send::new(args, args.net.ip.0)?, far)?)
        }
        MulticastCommand::Receive(args) => {
            let activity = multicast::Send::new(args, neighbour(&args.net))?;
            let far = Far { ip: neighbour(&args.net), lasts: true, activity };
            (&args.net, trial::run(&args.net, false, multicast::Receive::new(args)?, far)?)
        }
    };
    finish("multicast", net, outcome, out)
}

/// Another host's address in the same network, for the far end of a trial.
fn neighbour(net: &NetArgs) -> Ipv4Addr {
    Ipv4Addr::from_bits(net.ip.0.to_bits() ^ 3)
}

fn finish(command: &str, net: &NetArgs, outcome: Outcome, out: &mut impl Write) -> Result<(), Error> {
    report::print(command, net.json, &outcome.report, out)?;
    out.flush()?;
    outcome.failure.map_or(Ok(()), |failure| Err(Error::Unsuccessful(failure)))
}
