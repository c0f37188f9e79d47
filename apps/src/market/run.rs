//! Runs the market: two busy threads in real time, or one thread in virtual time.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use barewire_driver::clock::{Clock, Nanos, SimulatedClock};
use barewire_models::wire::{Delivery, Impairment, Match, Wire, WireConfig};
use barewire_models::{Ixgbe82599, PortId};
use barewire_netstack::placement::{self, Idle};

use super::hosts::{ExchangeHost, ExchangeOutcome, FEED, MACS, Shared, TraderHost, TraderOutcome};
use super::report::{Outcome, Report};
use super::{Config, Error};

/// The time a frame takes on the simulated wire.
const LATENCY: Nanos = 1_000;
/// How much longer than planned a concurrent run may take before it is given up.
const GRACE: Nanos = 60_000_000_000;
/// Virtual time in which a simulated run must be over: TCP backs off to a minute a segment, and orders must all be answered.
const VIRTUAL_LIMIT: Nanos = 24 * 3_600 * 1_000_000_000;

/// Runs the market of `config` to its end.
///
/// # Errors
/// When the configuration is out of range, a port does not come up, a device breaks its contract, or the run does not end in time.
pub fn run(config: &Config) -> Result<Report, Error> {
    config.check()?;
    let simulated = config.simulated.then(SimulatedClock::default);
    let clock = simulated.clone().map_or_else(Clock::calibrated, Clock::Simulated);
    let models = MACS.map(|mac| Ixgbe82599::new(mac, clock.clone()));
    let wire = wire(config, &clock, &models)?;
    let shared = Arc::new(Shared::default());
    let started = std::time::Instant::now();
    let (exchange, trader) = match simulated {
        Some(time) => simulate(config, &time, &shared, &models, &wire)?,
        None => race(config, &clock, &shared, &models)?,
    };
    let wall_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Report::new(&Outcome { config, exchange: &exchange, trader: &trader, models: &models, wire: &wire, wall_ns }))
}

fn wire(config: &Config, clock: &Clock, models: &[Arc<Ixgbe82599>; 2]) -> Result<Arc<Wire>, Error> {
    let delivery = if config.simulated { Delivery::Simulated { latency_ns: LATENCY } } else { Delivery::Immediate };
    let impairments = vec![
        Impairment { loss: config.loss, ..Impairment::new("feed", Match::Group(*FEED.ip())) },
        Impairment { loss: config.tcp_loss, ..Impairment::new("orders", Match::Tcp) },
    ];
    // A perfect wire has no rules, and takes no lock.
    let impaired = config.loss > 0.0 || config.tcp_loss > 0.0;
    let impairments = if impaired { impairments } else { Vec::new() };
    let [exchange, trader] = models;
    let stations = [exchange.clone() as Arc<dyn barewire_models::Mac>, trader.clone()];
    let wire = Wire::join(
        clock.clone(),
        &stations,
        WireConfig { seed: config.seed, impairments, ..WireConfig::perfect(delivery) },
    )?;
    for (model, port) in models.iter().zip(0..) {
        model.connect(wire.clone(), PortId(port));
    }
    Ok(wire)
}

type Finished = (ExchangeOutcome, TraderOutcome);

/// One thread: time jumps from event to event.
fn simulate(
    config: &Config,
    time: &SimulatedClock,
    shared: &Arc<Shared>,
    [exchange, trader]: &[Arc<Ixgbe82599>; 2],
    wire: &Wire,
) -> Result<Finished, Error> {
    let clock = Clock::Simulated(time.clone());
    let mut exchange = ExchangeHost::open(config, Arc::clone(shared), Arc::clone(exchange))?;
    let mut trader = TraderHost::open(config, clock, Arc::clone(shared), Arc::clone(trader))?;
    while !shared.is_over() {
        let now = time.now();
        if now > VIRTUAL_LIMIT {
            return Err(Error::Stalled { seconds: VIRTUAL_LIMIT / 1_000_000_000 });
        }
        wire.run_until(now);
        exchange.poll(now)?;
        trader.poll(now)?;
        let due = [wire.next_event(), exchange.next_deadline(now), trader.next_deadline(now)];
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
            self.0.failed.store(true, Ordering::Release);
        }
    }
}

/// Two threads, each busy with its own port. What one sends is written into the other's memory by the sender's thread.
fn race(
    config: &Config,
    clock: &Clock,
    shared: &Arc<Shared>,
    [exchange, trader]: &[Arc<Ixgbe82599>; 2],
) -> Result<Finished, Error> {
    const BUSY: usize = 2;
    let idle = Idle::for_threads(BUSY);
    let planned = config.ticks.saturating_mul(1_000_000_000) / config.rate;
    let limit = clock.now().saturating_add(planned).saturating_add(GRACE);
    let place =
        |thread: usize| config.cores.get(thread).map_or(Ok(()), |core| placement::pin(*core).map_err(Error::Placement));
    let watch = |now: Nanos| {
        let stalled = Error::Stalled { seconds: limit / 1_000_000_000 };
        if now < limit { Ok(()) } else { Err(stalled) }
    };
    thread::scope(|scope| {
        let exchange = scope.spawn(|| {
            let mut departure = Departure(shared, false);
            place(0)?;
            let mut host = ExchangeHost::open(config, Arc::clone(shared), Arc::clone(exchange))?;
            while !shared.is_over() {
                let now = clock.now();
                host.poll(now)?;
                watch(now)?;
                if idle == Idle::Yield {
                    idle.wait();
                }
            }
            departure.1 = true;
            host.finish()
        });
        let trader = || {
            let mut departure = Departure(shared, false);
            place(1)?;
            let mut host = TraderHost::open(config, clock.clone(), Arc::clone(shared), Arc::clone(trader))?;
            while !shared.is_over() {
                let now = clock.now();
                if host.poll(now)? == 0 {
                    idle.wait();
                }
                watch(now)?;
            }
            departure.1 = true;
            host.finish()
        };
        // The trader stays on the calling thread.
        let trader = trader();
        let exchange = exchange.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((exchange?, trader?))
    })
}
