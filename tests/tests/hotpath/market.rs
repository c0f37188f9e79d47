//! A market in one thread whose trader is watched from t0 to t4.
//!
//! The exchange is the demo's own. Between it and the trader there is a junction instead of a wire: it holds market data back, so that everything
//! else (answers, ARP, the session's beginning and end) is delivered and done before the watch begins.
#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::{Arc, Mutex};

use barewire::bench::probe::ProbeBus;
use barewire::digest::Digest;
use barewire::feed::arbiter::Source;
use barewire::feed::book::Capacity;
use barewire::market::hosts::{ExchangeHost, FEEDS, MACS, ORDERS, Shared};
use barewire::market::{Config, Progress};
use barewire::trade::kill::KillSwitch;
use barewire::trade::trader::Trader;
use barewire_driver::Port;
use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::clock::Clock;
use barewire_driver::ixgbe::{self, Ixgbe, Rx, Tx};
use barewire_models::wire::Match;
use barewire_models::{Fcs, Ixgbe82599, Mac, Medium, PortId};
use barewire_netstack::{Event, Lane, ReceiverId, Stack, TcpOptions};
use barewire_tests::proof::watch;

/// What the watched run came to.
pub struct Outcome {
    /// ITCH messages applied.
    pub ticks: u64,
    /// Orders sent.
    pub orders: u64,
    /// The exchange's books at the points of comparison, and the trader's.
    pub digests: [Vec<Digest>; 2],
}

/// Holds frames until somebody delivers them.
#[derive(Default)]
struct Junction {
    feed: Mutex<Vec<Vec<u8>>>,
    rest: Mutex<Vec<(PortId, Vec<u8>)>>,
}

impl Medium for Junction {
    fn transmit(&self, from: PortId, frame: &[u8]) {
        if from == PortId(0) && FEEDS.iter().any(|feed| Match::Group(*feed.ip()).takes(frame)) {
            self.feed.lock().unwrap().push(frame.to_vec());
        } else {
            self.rest.lock().unwrap().push((from, frame.to_vec()));
        }
    }
}

/// The device is at work: what it does is not the hot path's.
fn device(access: &mut dyn FnMut()) {
    watch::during(false, access);
}

/// The trader's host.
struct Near {
    port: Ixgbe,
    stack: Stack<Rx, Tx>,
    trader: Trader,
    lines: [(ReceiverId, Source); 2],
    clock: Clock,
    /// Runs once, at the first tick behind the middle of the run.
    offence: Option<fn()>,
    middle: u64,
}

impl Near {
    fn open(model: Arc<Ixgbe82599>, clock: &Clock, shared: &Shared, ticks: u64) -> Result<Self, Box<dyn Error>> {
        let bus: Arc<dyn Bus> = Arc::new(ProbeBus::new(Arc::new(ModelBus::new(model)), device));
        let mut port = Ixgbe::open(bus, ixgbe::Config { rx_descriptors: 4096, ..ixgbe::Config::default() })?;
        let queue = port.open_queue(0)?;
        let identity = barewire_netstack::Config::new(port.mac(), [10, 0, 0, 2].into(), 24, 1);
        let mut stack = Stack::new(queue, identity);
        let cx = stack.context(clock.now());
        let [a, b] = FEEDS.map(|feed| cx.join(*feed.ip(), feed.port(), None));
        let lines = [(a?, Source::A), (b?, Source::B)];
        for group in cx.group_macs() {
            port.join_multicast(group)?;
        }
        let orders = cx.tcp_connect(Lane::Express, ORDERS, &TcpOptions::default())?;
        let mut trader = Trader::new(clock.clone(), Capacity::default(), Arc::clone(&shared.points));
        if trader.connect_due(clock.now()) {
            trader.connecting(orders);
        }
        Ok(Self { port, stack, trader, lines, clock: clock.clone(), offence: None, middle: ticks / 2 })
    }

    /// One turn, as the demo's trader takes it.
    fn poll(&mut self) -> Result<u32, Box<dyn Error>> {
        let Self { stack, trader, lines, clock, offence, middle, .. } = self;
        let t0 = clock.now();
        Ok(stack.poll(t0, |cx, event| match event {
            Event::Multicast { receiver, datagram } => {
                let source = if receiver == lines[0].0 { lines[0].1 } else { lines[1].1 };
                trader.on_datagram(cx, t0, source, &datagram);
                if trader.ticks() > *middle
                    && let Some(offence) = offence.take()
                {
                    offence();
                }
            }
            Event::Tcp(id) => trader.on_stream(cx, id),
            Event::TcpData { id, data } => trader.on_data(cx, id, data),
            Event::Accepted { .. } => {}
        })?)
    }
}

/// Runs a market of `ticks` messages and watches the trader; an `offence` is committed in the middle of it.
pub fn run(ticks: u64, offence: Option<fn()>) -> Result<Outcome, Box<dyn Error>> {
    let clock = Clock::calibrated();
    // The exchange is not to wait for a trader on another thread.
    let config = Config { ticks, rate: 10_000_000, simulated: true, ports: 1, ..Config::default() };
    let shared = Arc::new(Shared::new(Progress::default(), KillSwitch::default())?);
    let models = MACS[0].map(|mac| Ixgbe82599::new(mac, clock.clone()));
    let junction = Arc::new(Junction::default());
    for (model, port) in models.iter().zip(0..) {
        model.connect(junction.clone(), PortId(port));
    }
    let bus: Arc<dyn Bus> = Arc::new(ModelBus::new(models[0].clone()));
    let mut exchange = ExchangeHost::open(&config, Arc::clone(&shared), &[bus])?;
    let mut near = Near::open(Arc::clone(&models[1]), &clock, &shared, ticks)?;
    near.offence = offence;
    while !near.trader.feed().has_ended() || near.trader.orders().tally.unanswered() > 0 {
        exchange.poll(clock.now())?;
        for (from, frame) in junction.rest.lock().unwrap().drain(..) {
            models[1 - usize::from(from.0)].receive(&frame, Fcs::Good);
        }
        // Answers, and then what is to be said to them.
        while near.poll()? > 0 {}
        near.poll()?;
        let now = clock.now();
        near.trader.on_time(near.stack.context(now));
        for frame in junction.feed.lock().unwrap().drain(..) {
            models[1].receive(&frame, Fcs::Good);
        }
        watch::set(true);
        let polled = near.poll();
        watch::set(false);
        polled?;
    }
    let Near { mut port, stack, trader, .. } = near;
    port.close_queue(stack.into_queues())?;
    let digests = [exchange.finish()?.digests, trader.view().digests().iter().copied().flatten().collect()];
    Ok(Outcome { ticks: trader.ticks(), orders: trader.orders().tally.sent, digests })
}
