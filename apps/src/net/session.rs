//! One port, one stack, one activity: from bring-up to release, however it ends.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::{Link, MacAddress, Port, PortEvent, QueuePair, TxQueue};
use barewire_netstack::placement::{Idle, Waiter};
use barewire_netstack::{Config, Context, Event, Stack, StackStats};

use super::{Error, wake};
use crate::market::Quantiles;
use crate::port::{self, UsePort};

const SECOND: Nanos = 1_000_000_000;
/// How often the port is serviced.
const SERVICE_EVERY: Nanos = 10_000_000;
/// A port that needs a reset again within this time is not mended by resets.
const RESET_LASTS: Nanos = 10 * SECOND;
/// How long a link may take to come up: auto-negotiation and a switch's spanning tree.
const LINK_WAIT: Nanos = 15 * SECOND;

/// What is done on a port. Protocol side only: it sees the stack and the time, no clock and no driver.
pub(super) trait Activity {
    /// Frames that it keeps, and that it has on their way, at most: buffers beyond those of the rings.
    fn frames(&self) -> u32 {
        256
    }

    /// Begins.
    fn start<T: TxQueue>(&mut self, cx: &mut Context<T>, identity: &Identity) -> Result<(), Error>;

    /// Takes what arrived.
    fn event<T: TxQueue>(&mut self, cx: &mut Context<T>, event: Event<'_>);

    /// Sends what is due, after every poll.
    fn turn<T: TxQueue>(&mut self, cx: &mut Context<T>) -> Result<Turn, Error>;

    /// Takes leave of the network, whether it is over or only stopped.
    fn end<T: TxQueue>(&mut self, cx: &mut Context<T>) {
        let _ = cx;
    }

    /// What was found, and why it is no success.
    fn report(&self, seconds: f64) -> (serde_json::Value, Option<String>);
}

/// What an activity knows of where it runs.
pub(super) struct Identity {
    /// The port's station address.
    pub mac: MacAddress,
    /// What must be added to our time for the time since 1970, by which hosts compare stamps as far as their clocks agree.
    pub epoch: Nanos,
}

/// What an activity wants after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// To be called again when something arrives, and at this time at the latest.
    Wait(Option<Nanos>),
    /// Nothing: it is over.
    Done,
}

/// Says that it is time to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    /// A signal has arrived.
    pub signal: Arc<AtomicBool>,
    /// The other side of a trial is over.
    pub partner: Arc<AtomicBool>,
}

impl Stop {
    fn requested(&self) -> bool {
        self.signal.load(Ordering::Relaxed) || self.partner.load(Ordering::Relaxed)
    }
}

/// What a session is opened with.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// The port's name in messages.
    pub name: String,
    /// Who the stack is; its station address is the port's.
    pub identity: Config,
    /// What to do while nothing arrives.
    pub idle: Idle,
    /// The clock, which both sides of a trial share.
    pub clock: Clock,
    /// What must be added to it for the time since 1970.
    pub epoch: Nanos,
    /// When to end at the latest.
    pub limit: Option<Nanos>,
    /// Measure how long it takes to wake up.
    pub measure: bool,
    /// When to end early.
    pub stop: Stop,
    /// Sides of a trial whose ports are up; the first frame waits for both. `None` where there is one side only.
    pub up: Option<Arc<AtomicU32>>,
}

/// What a session leaves.
pub(super) struct Ended<A> {
    pub activity: A,
    pub mac: MacAddress,
    pub stack: StackStats,
    pub port: barewire_driver::PortStats,
    /// From the link's coming up to the end, in seconds.
    pub seconds: f64,
    pub wake_up: Option<Quantiles>,
    /// How often the port had to be reset on the way.
    pub resets: u32,
}

/// Runs `activity` on a port.
pub(super) struct Session<A> {
    pub setup: Setup,
    pub activity: A,
}

impl<A: Activity> UsePort for Session<A> {
    type Output = Result<Ended<A>, Error>;

    fn with<P: Port>(self, port: P) -> Self::Output {
        let Self { mut setup, activity } = self;
        setup.identity.mac = port.mac();
        Running { port, setup, activity, begun: None, wake_up: None, resets: Resets::default() }.run()
    }
}

/// The resets so far.
#[derive(Default)]
struct Resets {
    count: u32,
    last: Option<Nanos>,
}

struct Running<P, A> {
    port: P,
    setup: Setup,
    activity: A,
    /// When the link had come up and the activity began.
    begun: Option<Nanos>,
    wake_up: Option<Quantiles>,
    resets: Resets,
}

impl<P: Port, A: Activity> Running<P, A> {
    fn run(mut self) -> Result<Ended<A>, Error> {
        let queue = self.port.open_queue(0).map_err(|error| self.failed(error))?;
        let mut stack = Stack::new(queue, self.setup.identity.clone());
        let result = loop {
            match self.serve(&mut stack) {
                Err(fault) if fault.asks_for_reset() && self.may_reset() => {
                    log::warn!("{fault}: this is done now");
                    stack = stack.exchange_queues(|pair| self.reset(pair))?;
                }
                Err(fault) if fault.asks_for_reset() => {
                    break Err(Error::Incurable { fault: fault.into(), seconds: RESET_LASTS / SECOND });
                }
                result => break result,
            }
        };
        let stats = stack.stats();
        let closed = self.port.close_queue(stack.into_queues()).map_err(|error| self.failed(error));
        // What ended the session matters more than that a device which is gone cannot be closed in order.
        result?;
        closed?;
        let now = self.setup.clock.now();
        Ok(Ended {
            port: self.port.stats(),
            activity: self.activity,
            mac: self.setup.identity.mac,
            stack: stats,
            seconds: (now - self.begun.unwrap_or(now)) as f64 / 1e9,
            wake_up: self.wake_up,
            resets: self.resets.count,
        })
    }

    /// Runs the activity on open queues: from where it was, after a reset.
    fn serve(&mut self, stack: &mut Stack<P::Rx, P::Tx>) -> Result<(), Error> {
        let (idle, port) = (self.setup.idle, &mut self.port);
        let mut waiter = Waiter::new(idle, || port.interrupt(0)).map_err(|error| self.failed(error))?;
        if self.begun.is_none() {
            if self.setup.measure {
                let measured = wake::measure(&self.setup.clock, &mut waiter);
                self.wake_up = Some(measured.map_err(|error| self.failed(error.into()))?);
            }
            self.wait_for_link()?;
            self.meet();
            self.begin(stack)?;
        }
        self.drive(stack, &mut waiter)
    }

    fn may_reset(&self) -> bool {
        self.resets.last.is_none_or(|last| self.setup.clock.now().saturating_sub(last) >= RESET_LASTS)
    }

    /// Closes the queues, resets the port, and opens them anew.
    fn reset(&mut self, pair: QueuePair<P::Rx, P::Tx>) -> Result<QueuePair<P::Rx, P::Tx>, Error> {
        if let Err(error) = self.port.close_queue(pair) {
            log::warn!("{}: {error}", self.setup.name);
        }
        self.port.reset().map_err(|error| self.failed(error))?;
        self.resets = Resets { count: self.resets.count + 1, last: Some(self.setup.clock.now()) };
        self.port.open_queue(0).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: barewire_driver::Error) -> Error {
        match error {
            barewire_driver::Error::Register(source) => Error::Gone { port: self.setup.name.clone(), source },
            error => port::Error::from(error).into(),
        }
    }

    fn wait_for_link(&mut self) -> Result<(), Error> {
        let clock = self.setup.clock.clone();
        let end = clock.now() + LINK_WAIT;
        while self.port.link().map_err(|error| self.failed(error))? == Link::Down && !self.setup.stop.requested() {
            if clock.now() > end {
                return Err(Error::NoLink { port: self.setup.name.clone(), seconds: LINK_WAIT / SECOND });
            }
            self.service(clock.now())?;
            std::thread::sleep(Duration::from_nanos(SERVICE_EVERY));
        }
        Ok(())
    }

    /// Waits for the other side of a trial, which may have failed.
    fn meet(&self) {
        let Some(up) = &self.setup.up else { return };
        up.fetch_add(1, Ordering::Relaxed);
        let end = self.setup.clock.now() + SECOND;
        while up.load(Ordering::Relaxed) < 2 && self.setup.clock.now() < end {
            std::thread::yield_now();
        }
    }

    fn service(&mut self, now: Nanos) -> Result<(), Error> {
        let (mut removed, mut stuck, name) = (false, None, &self.setup.name);
        let served = self.port.service(now, &mut |event| match event {
            PortEvent::RemovalRequested => removed = true,
            PortEvent::Link(Link::Down) => log::warn!("{name}: link down"),
            PortEvent::Link(Link::Up { speed_mbps: 0 }) => log::warn!("{name}: link up"),
            PortEvent::Link(Link::Up { speed_mbps }) => log::warn!("{name}: link up, {speed_mbps} Mb/s"),
            PortEvent::TransmitStuck { queue } => stuck = Some(queue),
            event => log::warn!("{name}: {event:?}"),
        });
        // A device that is about to go may answer no more.
        if removed {
            return Err(Error::Removed(self.setup.name.clone()));
        }
        served.map_err(|error| self.failed(error))?;
        match stuck {
            Some(queue) => Err(Error::Stuck { port: self.setup.name.clone(), queue }),
            None => Ok(()),
        }
    }

    /// Begins the activity.
    fn begin(&mut self, stack: &mut Stack<P::Rx, P::Tx>) -> Result<(), Error> {
        let now = self.setup.clock.now();
        self.begun = Some(now);
        let cx = stack.context(now);
        let identity = Identity { mac: self.setup.identity.mac, epoch: self.setup.epoch };
        self.activity.start(cx, &identity)?;
        for group in cx.group_macs() {
            self.port.join_multicast(group).map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn drive(&mut self, stack: &mut Stack<P::Rx, P::Tx>, waiter: &mut Waiter) -> Result<(), Error> {
        let clock = self.setup.clock.clone();
        let mut service_at = clock.now();
        let begun = self.begun.unwrap_or(service_at);
        let end = self.setup.limit.map_or(Nanos::MAX, |limit| begun.saturating_add(limit));
        let ended = loop {
            let now = clock.now();
            if now >= service_at {
                self.service(now)?;
                service_at = now + SERVICE_EVERY;
            }
            let frames = self.poll(stack, now)?;
            let cx = stack.context(now);
            let turn = self.activity.turn(cx);
            cx.flush();
            let due = match turn {
                Ok(Turn::Wait(due)) if !self.setup.stop.requested() && now < end => due,
                other => break other.map(drop),
            };
            if frames > 0 {
                waiter.busy();
                continue;
            }
            let due = [due, stack.next_deadline(now), Some(service_at), Some(end)].into_iter().flatten().min();
            let limit = due.unwrap_or(now).saturating_sub(now);
            if limit > 0 {
                let rested = stack.rest(waiter, Duration::from_nanos(limit));
                rested.map_err(|error| self.failed(error.into()))?;
            }
        };
        let now = clock.now();
        self.activity.end(stack.context(now));
        self.poll(stack, now)?;
        ended
    }

    fn poll(&mut self, stack: &mut Stack<P::Rx, P::Tx>, now: Nanos) -> Result<u32, Error> {
        let activity = &mut self.activity;
        let polled = stack.poll(now, |cx, event| activity.event(cx, event));
        polled.map_err(|source| Error::Queue { port: self.setup.name.clone(), source })
    }
}
