//! The market as five processes: the exchange, which hosts the device models, and the trader in four: feed, strategy, risk and gateway.
//!
//! ```text
//! exchange ==wire==> feed --messages--> strategy --wants--> risk --orders--> gateway ==wire==> exchange
//!                                                              <---news----
//! ```
//!
//! The exchange process serves a model 82599 by vfio-user for each port of the trader, and makes the rings in shared memory that join the other
//! four. Each of those holds one part of the trader: the same code that the trader in one process is made of.
//!
//! Every part looks every [`LOOK`] whether the others live. One that has died is named, and the market stops in order: the gateway logs out, at which
//! the exchange cancels what is open, and every process ends. The rings and the devices' memory are memfds, gone with the last process.
#![forbid(unsafe_code)]

mod feed;
mod gateway;
mod message;
mod risk;
mod strategy;
mod supervisor;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barewire_driver::bus::Bus;
use barewire_driver::bus::vfio_user::VfioUserBus;
use barewire_driver::clock::{Clock, Counter, Nanos};
use barewire_netstack::ipc::{Geometry, Peer, Process, Reader, Ring, SendError, Writer};
use barewire_netstack::placement::{Idle, Waiter};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::figures::TraderFigures;
use super::{Config, Error};
use message::LONGEST;

pub use supervisor::run;

/// How often a process looks whether the others live.
pub const LOOK: Nanos = 10_000_000;
/// By when all have noticed a death and stopped; who has not is told to, and ended at last.
pub const NOTICE: Nanos = 1_000_000_000;
/// Busy threads of all five processes.
const BUSY: usize = 5;

/// The processes beside the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Role {
    /// Arbitrates the lines, and recovers what is missing.
    Feed,
    /// Keeps the books, and decides.
    Strategy,
    /// Holds orders against limits, and counts what is open.
    Risk,
    /// Has the order session.
    Gateway,
}

impl Role {
    /// In the order of a tick's way.
    const ALL: [Self; 4] = [Self::Feed, Self::Strategy, Self::Risk, Self::Gateway];

    fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Strategy => "strategy",
            Self::Risk => "risk",
            Self::Gateway => "gateway",
        }
    }
}

/// Where the processes meet: addresses of shared memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Places {
    /// Feed to strategy.
    messages: String,
    /// Strategy to risk.
    wants: String,
    /// Risk to gateway.
    orders: String,
    /// Gateway to risk.
    news: String,
    /// Where books are compared.
    points: String,
}

/// What a process is told by the exchange's, on its standard input, beside the command line. The end of that input is the end of the market.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    places: Places,
    /// The sockets of its ports, by wire.
    sockets: Vec<PathBuf>,
    /// All processes have one clock: the scale of its [`Counter`].
    clock: [u64; 2],
}

/// What a process says when it ends, on its standard output.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Home {
    /// What this part counted; the rest is empty.
    figures: TraderFigures,
    /// Why it ended before the market did.
    stopped: Option<Stop>,
}

/// Why a part stops before the market is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
enum Stop {
    /// Another part has died.
    #[error("{role} (process {process}) has died")]
    Died { role: String, process: u32 },
    /// The exchange's process says so, or is gone.
    #[error("the exchange's process has stopped the market, or is gone")]
    Told,
}

/// The rings, as the exchange's process makes them.
struct Rings {
    messages: Ring,
    wants: Ring,
    orders: Ring,
    news: Ring,
}

impl Rings {
    fn create() -> Result<Self, Error> {
        // Between feed and strategy there is room for what the books' walk at a point of comparison holds up.
        let ring = |lines| Ring::create(Geometry { lines, max_message: LONGEST as u16, writers: 1 });
        Ok(Self { messages: ring(1 << 16)?, wants: ring(1 << 10)?, orders: ring(1 << 10)?, news: ring(1 << 10)? })
    }

    fn places(&self, points: String) -> Places {
        Places {
            messages: self.messages.address(),
            wants: self.wants.address(),
            orders: self.orders.address(),
            news: self.news.address(),
            points,
        }
    }
}

/// What all parts have: a clock, an eye on the others, and something to do when there is nothing to do.
struct Frame {
    role: Role,
    clock: Clock,
    plan: Plan,
    /// The exchange's process has stopped the market, or is gone.
    told: Arc<AtomicBool>,
    /// The rings at whose ends all four are.
    ends: [Ring; 2],
    next_look: Nanos,
    waiter: Waiter,
}

impl Frame {
    /// Reads the plan from standard input, and keeps listening there.
    fn read(role: Role) -> Result<Self, Error> {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(Error::Processes)?;
        let plan: Plan = serde_json::from_str(&line).map_err(|error| Error::Processes(error.into()))?;
        let told = Arc::new(AtomicBool::new(false));
        let listening = Arc::clone(&told);
        std::thread::spawn(move || {
            // Nothing more is said: this returns when the input ends.
            let _ = std::io::stdin().lock().read_line(&mut String::new());
            listening.store(true, Ordering::Release);
        });
        let ends = [Ring::open(&plan.places.messages)?, Ring::open(&plan.places.orders)?];
        let waiter = if Idle::for_threads(BUSY) == Idle::Spin { Waiter::Spin } else { Waiter::Pause { empty: 0 } };
        let clock = Clock::Counter(Counter::from_words(plan.clock));
        Ok(Self { role, clock, plan, told, ends, next_look: 0, waiter })
    }

    fn reader(address: &str) -> Result<Reader, Error> {
        Ok(Ring::open(address)?.reader()?)
    }

    fn writer(address: &str) -> Result<Writer, Error> {
        Ok(Ring::open(address)?.writer()?)
    }

    /// The buses to this part's ports.
    fn buses(&self) -> Result<Vec<Arc<dyn Bus>>, Error> {
        let connect = |path: &PathBuf| {
            let bus = VfioUserBus::connect(path).map_err(barewire_driver::Error::from)?;
            Ok(Arc::new(bus) as Arc<dyn Bus>)
        };
        self.plan.sockets.iter().map(connect).collect()
    }

    /// The end of a turn that found something to do, or did not: looks at the others when that is due, and rests.
    #[inline]
    fn turn(&mut self, now: Nanos, is_busy: bool) -> Result<(), Stop> {
        if now >= self.next_look {
            self.look(now)?;
        }
        if is_busy {
            self.waiter.busy();
        } else {
            // Neither spinning nor napping can fail.
            let _ = self.waiter.rest(Duration::from_nanos(LOOK), || {});
        }
        Ok(())
    }

    #[cold]
    fn look(&mut self, now: Nanos) -> Result<(), Stop> {
        if self.next_look == 0 {
            log::info!("{} at work (process {})", self.role.name(), std::process::id());
        }
        self.next_look = now + LOOK;
        let [messages, orders] = &self.ends;
        let parts = [messages.writing(0), Some(messages.reading()), orders.writing(0), Some(orders.reading())];
        for (role, peer) in Role::ALL.into_iter().zip(parts) {
            if let Some(Peer::Died(Process { id, .. })) = peer {
                return Err(Stop::Died { role: role.name().to_owned(), process: id });
            }
        }
        if self.told.load(Ordering::Acquire) { Err(Stop::Told) } else { Ok(()) }
    }
}

/// Sends, and waits where there is no room; gives up with a reader that is gone, which the next look tells.
fn send(writer: &mut Writer, message: &[u8]) -> Result<(), Error> {
    /// Tries between two questions to the kernel.
    const TRIES: u32 = 1_000;
    loop {
        for _ in 0..TRIES {
            match writer.send(message) {
                Ok(()) => return Ok(()),
                Err(SendError::Full) => std::thread::yield_now(),
                Err(SendError::Ring(error)) => return Err(error.into()),
                Err(error) => return Err(Error::Processes(std::io::Error::other(error))),
            }
        }
        if matches!(writer.reader(), Peer::Died(_) | Peer::Left(_)) {
            return Ok(());
        }
    }
}

/// Runs one of the parts to the end of the market; `out` is told what it counted.
///
/// # Errors
/// When another part has died, the market was stopped, or this part fails.
pub fn part(role: Role, config: &Config, kill_file: Option<&Path>, out: &mut impl Write) -> Result<(), Error> {
    let frame = Frame::read(role)?;
    let home = match role {
        Role::Feed => feed::run(frame, config)?,
        Role::Strategy => strategy::run(frame, config)?,
        Role::Risk => risk::run(frame, kill_file)?,
        Role::Gateway => gateway::run(frame, config)?,
    };
    serde_json::to_writer(&mut *out, &home).map_err(|error| Error::Processes(error.into()))?;
    out.flush().map_err(Error::Processes)?;
    match home.stopped {
        Some(stop) => Err(Error::Stopped { role: role.name(), why: stop.to_string() }),
        None => Ok(()),
    }
}
