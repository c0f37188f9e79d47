//! The two hosts of the market, each on its own ports: polled by a thread of their own, or stepped in virtual time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use barewire_driver::bus::Bus;
use barewire_driver::clock::Nanos;
use barewire_driver::ixgbe::{self, Ixgbe, Rx, Tx};
use barewire_driver::{MacAddress, Port, PortStats};
use barewire_netstack::{Stack, StackStats, TcpOptions};

use super::compare::Points;
use super::{Config, Error};
use crate::feed::book::Capacity;
use crate::fields::Alpha;
use crate::order::gateway::Credentials;
use crate::trade::kill::KillSwitch;

mod exchange;
mod feed;
mod line;
mod orders;
mod publisher;
mod services;
mod trader;

pub use exchange::{ExchangeHost, ExchangeOutcome, Seen, Witness};
pub use feed::{FeedPorts, Follower};
pub use line::LineHost;
pub use trader::TraderHost;

/// The groups (RFC 2365: administratively scoped) and the port of the feed's two lines.
pub const FEEDS: [SocketAddrV4; 2] = [FEED, SocketAddrV4::new(Ipv4Addr::new(239, 129, 1, 1), 26_400)];
/// The first line.
pub const FEED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 129, 0, 1), 26_400);
/// Where the exchange takes orders.
pub const ORDERS: SocketAddrV4 = SocketAddrV4::new(exchange_ip(0), 26_401);
/// The port of the exchange's re-request servers, one at each of its addresses.
const REREQUESTS: u16 = 26_402;
/// The port of its snapshot servers, likewise.
const SNAPSHOTS: u16 = 26_403;
/// The exchange's and the trader's station addresses (locally administered), by wire.
pub const MACS: [[MacAddress; 2]; 2] = [
    [MacAddress([0x02, 0, 0, 0, 0, 1]), MacAddress([0x02, 0, 0, 0, 0, 2])],
    [MacAddress([0x02, 0, 0, 0, 1, 1]), MacAddress([0x02, 0, 0, 0, 1, 2])],
];

/// The exchange's address on a wire.
const fn exchange_ip(wire: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, wire as u8, 1)
}

/// The trader's address on a wire.
const fn trader_ip(wire: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, wire as u8, 2)
}

/// The address of the gateway, where that is a process of its own, on the first wire; and its station address.
pub const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// As above.
pub const GATEWAY_MAC: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 3]);

/// How often the end of the session is told, and for how long before the trader gives up on hearing it.
const END_INTERVAL: Nanos = 1_000_000;
const END_WAIT: Nanos = 1_000_000_000;
/// Who may log in at the exchange; the first is the trader.
pub const ACCOUNTS: [Credentials; 2] = [
    Credentials { user: Alpha(*b"TRADER"), password: Alpha(*b"barewire  ") },
    Credentials { user: Alpha(*b"SECOND"), password: Alpha(*b"barewire  ") },
];
/// An order session is not given up while the market runs, however bad its path is: there is nobody to open another.
pub(super) const PATIENCE: Nanos = 24 * 3600 * 1_000_000_000;

/// What the two hosts know of each other outside the wire.
#[derive(Debug)]
pub struct Shared {
    /// Where books are compared.
    pub points: Arc<Points>,
    /// When the last message was published; zero before.
    ended_at: AtomicU64,
    /// The trader has every answer.
    done: AtomicBool,
    /// One of the two has failed; the other must not wait for it.
    failed: AtomicBool,
    /// How far the exchange is.
    progress: Progress,
    /// Stops the trader's orders.
    pub kill: KillSwitch,
}

/// How far a run is; clones look at the same run.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// ITCH messages published.
    pub fn ticks(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Nothing is known yet; `progress` will be. `kill` stops the trader's orders.
    ///
    /// # Errors
    /// When there is no memory to share.
    pub fn new(progress: Progress, kill: KillSwitch) -> Result<Self, Error> {
        let points = Arc::new(Points::new().map_err(barewire_driver::Error::from)?);
        let (done, failed) = (AtomicBool::default(), AtomicBool::default());
        Ok(Self { points, ended_at: AtomicU64::default(), done, failed, progress, kill })
    }

    /// The trader has every answer, and has gone.
    pub fn finish(&self) {
        self.done.store(true, Ordering::Release);
    }

    /// Somebody has failed; nobody must wait for him.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the run is over, well or not.
    pub fn is_over(&self) -> bool {
        self.done.load(Ordering::Acquire) || self.failed.load(Ordering::Acquire)
    }
}

/// A port with its stack.
pub(super) struct End {
    port: Ixgbe,
    pub(super) stack: Stack<Rx, Tx>,
}

impl End {
    /// Opens the port on `bus`, with a stack at `ip`.
    pub(super) fn open(bus: &Arc<dyn Bus>, ip: Ipv4Addr, seed: u64, config: ixgbe::Config) -> Result<Self, Error> {
        let mut port = Ixgbe::open(Arc::clone(bus), config)?;
        let queue = port.open_queue(0)?;
        let identity = barewire_netstack::Config::new(port.mac(), ip, 24, seed);
        Ok(Self { port, stack: Stack::new(queue, identity) })
    }

    /// Closes the port; what was counted remains.
    pub(super) fn close(self) -> Result<EndStats, Error> {
        let Self { mut port, stack } = self;
        let stats = stack.stats();
        port.close_queue(stack.into_queues())?;
        Ok(EndStats { stack: stats, port: port.stats() })
    }
}

/// What a port and its stack counted.
#[derive(Debug, Clone, Copy)]
pub struct EndStats {
    /// The stack.
    pub stack: StackStats,
    /// The device.
    pub port: PortStats,
}

/// Room for the books of all stocks.
pub(super) fn books(config: &Config) -> Capacity {
    /// Live orders that a stock has, at most, with room: the participants keep fewer than 100.
    const ORDERS_A_STOCK: u32 = 256;
    Capacity { orders: u32::from(config.stocks) * ORDERS_A_STOCK }
}

/// What an order session asks of TCP.
pub(super) fn order_session() -> TcpOptions {
    TcpOptions { user_timeout: Some(PATIENCE), ..TcpOptions::default() }
}
