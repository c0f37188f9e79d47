//! Runs the market: two busy threads in real time, or one thread in virtual time.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::thread;

use barewire_driver::clock::{Clock, Nanos, SimulatedClock};
use barewire_netstack::placement::{self, Idle};

use super::figures::TraderFigures;
use super::hosts::{ExchangeHost, ExchangeOutcome, LineHost, Progress, Shared, TraderHost};
use super::network::Network;
use super::report::{Outcome, Report};
use super::{Config, Error};
use crate::feed::ring;
use crate::trade::kill::KillSwitch;

/// How much longer than planned a concurrent run may take before it is given up.
pub(super) const GRACE: Nanos = 60_000_000_000;
/// Virtual time in which a simulated run must be over: TCP backs off to a minute a segment, and orders must all be answered.
const VIRTUAL_LIMIT: Nanos = 24 * 3_600 * 1_000_000_000;

/// Runs the market of `config` to its end.
///
/// # Errors
/// When the configuration is out of range, a port does not come up, a device breaks its contract, or the run does not end in time.
pub fn run(config: &Config) -> Result<Report, Error> {
    run_watched(config, &Progress::default(), &KillSwitch::default())
}

/// As [`run`]; `progress` can be looked at from another thread meanwhile, and `kill` pressed.
///
/// # Errors
/// As [`run`].
pub fn run_watched(config: &Config, progress: &Progress, kill: &KillSwitch) -> Result<Report, Error> {
    config.check()?;
    let simulated = config.simulated.then(SimulatedClock::default);
    let clock = simulated.clone().map_or_else(Clock::calibrated, Clock::Simulated);
    let network = Network::new(config, &clock)?;
    let shared = Arc::new(Shared::new(progress.clone(), kill.clone())?);
    let started = std::time::Instant::now();
    let (exchange, trader) = match simulated {
        Some(time) => simulate(config, &time, &shared, &network)?,
        None => race(config, &clock, &shared, &network)?,
    };
    let wall_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Report::new(&Outcome { config, exchange: &exchange, trader: &trader, network: &network, wall_ns }))
}

type Finished = (ExchangeOutcome, TraderFigures);

/// One thread: time jumps from event to event.
fn simulate(
    config: &Config,
    time: &SimulatedClock,
    shared: &Arc<Shared>,
    network: &Network,
) -> Result<Finished, Error> {
    let clock = Clock::Simulated(time.clone());
    let mut exchange = ExchangeHost::open(config, Arc::clone(shared), &network.side(0))?;
    let mut trader = TraderHost::open(config, clock, Arc::clone(shared), &network.side(1))?;
    while !shared.is_over() {
        let now = time.now();
        if now > VIRTUAL_LIMIT {
            return Err(Error::Stalled { seconds: VIRTUAL_LIMIT / 1_000_000_000 });
        }
        network.run_until(now);
        exchange.poll(now)?;
        trader.poll(now)?;
        let due = [network.next_event(), exchange.next_deadline(now), trader.next_deadline(now)];
        let next = due.into_iter().flatten().min().unwrap_or(now);
        time.advance_to(next.max(now + 1));
    }
    Ok((exchange.finish()?, trader.finish()?))
}

/// Tells the other host that this one is gone, however it goes.
struct Departure<'a>(&'a Shared, bool);

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fail();
        }
    }
}

/// What a thread came to; its panic goes on here.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// How long a concurrent run of `config` may take from now on.
fn limit(config: &Config, clock: &Clock) -> Nanos {
    let planned = config.ticks.saturating_mul(1_000_000_000) / config.rate;
    clock.now().saturating_add(planned).saturating_add(GRACE)
}

/// Whether the time is up.
fn watch(now: Nanos, limit: Nanos) -> Result<(), Error> {
    if now < limit { Ok(()) } else { Err(Error::Stalled { seconds: limit / 1_000_000_000 }) }
}

/// Binds the calling thread, the one of this number, to the core that was asked for.
fn place(config: &Config, thread: usize) -> Result<(), Error> {
    config.cores.get(thread).map_or(Ok(()), |core| placement::pin(*core).map_err(Error::Placement))
}

/// The exchange's thread: busy with its own ports, beside others until there are `busy` of them.
pub(super) fn exchange(
    config: &Config,
    clock: &Clock,
    shared: &Arc<Shared>,
    network: &Network,
    busy: usize,
) -> Result<ExchangeOutcome, Error> {
    let mut departure = Departure(shared, false);
    place(config, 0)?;
    let (idle, limit) = (Idle::for_threads(busy), limit(config, clock));
    let mut host = ExchangeHost::open(config, Arc::clone(shared), &network.side(0))?;
    while !shared.is_over() {
        let now = clock.now();
        host.poll(now)?;
        watch(now, limit)?;
        if idle == Idle::Yield {
            thread::yield_now();
        }
    }
    // A client that is gone without a word leaves no order behind.
    host.close_sessions(clock.now());
    departure.1 = true;
    host.finish()
}

/// Two threads, each busy with its own ports, and a third where the second line has a core to itself. What one sends is written into the other's
/// memory by the sender's thread.
fn race(config: &Config, clock: &Clock, shared: &Arc<Shared>, network: &Network) -> Result<Finished, Error> {
    let idle = Idle::for_threads(1 + config.feed_cores);
    let limit = limit(config, clock);
    let buses = network.side(1);
    thread::scope(|scope| {
        let exchange = scope.spawn(|| exchange(config, clock, shared, network, 1 + config.feed_cores));
        let rest = || match idle {
            Idle::Yield => thread::yield_now(),
            _ => std::hint::spin_loop(),
        };
        let (writer, reader) = (config.feed_cores == 2).then(ring::ring).transpose()?.unzip();
        let second = writer.zip(buses.get(1)).map(|(writer, bus)| {
            scope.spawn(move || {
                let mut departure = Departure(shared, false);
                place(config, 2)?;
                let mut host = LineHost::open(config, clock, bus, writer)?;
                while !shared.is_over() {
                    if host.poll(clock.now())? == 0 {
                        rest();
                    }
                }
                departure.1 = true;
                host.finish()
            })
        });
        let trader = || {
            let mut departure = Departure(shared, false);
            place(config, 1)?;
            let polled = &buses[..if second.is_some() { 1 } else { buses.len() }];
            let host = TraderHost::open(config, clock.clone(), Arc::clone(shared), polled)?;
            let mut host = match reader {
                Some(reader) => host.reading(reader),
                None => host,
            };
            while !shared.is_over() {
                let now = clock.now();
                if host.poll(now)? == 0 {
                    rest();
                }
                watch(now, limit)?;
            }
            departure.1 = true;
            host.finish()
        };
        // The trader stays on the calling thread.
        let trader = trader();
        let (exchange, second) = (joined(exchange), second.map(joined).transpose());
        let mut trader = trader?;
        if let Some((end, drops)) = second? {
            trader.ends.push((&end).into());
            trader.ring_drops = drops;
        }
        Ok((exchange?, trader))
    })
}
