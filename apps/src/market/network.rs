//! The devices of both hosts, and the wires between them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use barewire_driver::MacAddress;
use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::clock::{Clock, Nanos};
use barewire_models::wire::{Delivery, Impairment, Match, PathStats, Wire, WireConfig, WireError};
use barewire_models::{Ixgbe82599, Mac, PortId};

use super::config::{Config, Rates};
use super::hosts::{FEEDS, GATEWAY_MAC, MACS};

/// The time a frame takes on a simulated wire.
const LATENCY: Nanos = 1_000;
/// What tells the seeds of two wires apart.
const ANOTHER_WIRE: u64 = 0xD1B5_4A32_D192_ED03;
/// Names of what passes: feeds by line, requests for what was missed and their answers by wire, and TCP, orders and snapshots alike.
const FEED_PATHS: [&str; 2] = ["feed_a", "feed_b"];
const RECOVERY_PATHS: [&str; 2] = ["recovery_a", "recovery_b"];
const TCP_PATHS: [&str; 2] = ["orders", "snapshots_b"];

/// The market's network: a wire for each pair of ports.
pub struct Network {
    /// The exchange's device and the trader's, by wire; on the first, where the gateway is a process of its own, that one's.
    models: Vec<Vec<Arc<Ixgbe82599>>>,
    wires: Vec<Arc<Wire>>,
}

impl Network {
    /// Joins the ports that `config` asks for.
    ///
    /// # Errors
    /// When a wire cannot be as asked.
    pub fn new(config: &Config, clock: &Clock) -> Result<Self, WireError> {
        let model = |mac| Ixgbe82599::new(mac, clock.clone());
        let models: Vec<_> =
            (0..config.ports).map(|wire| stations(config, wire).map(model).collect::<Vec<_>>()).collect();
        let wires = models.iter().enumerate().map(|(port, models)| wire(config, clock, port, models));
        let wires = wires.collect::<Result<_, _>>()?;
        Ok(Self { models, wires })
    }

    /// The devices of the exchange's side (0) or the trader's (1), by wire.
    pub fn models(&self, side: usize) -> impl Iterator<Item = &Arc<Ixgbe82599>> {
        self.models.iter().map(move |models| &models[side])
    }

    /// The gateway's device, where it has one of its own.
    pub fn gateway(&self) -> Option<&Arc<Ixgbe82599>> {
        self.models[0].get(2)
    }

    /// Where a driver finds them.
    pub fn side(&self, side: usize) -> Vec<Arc<dyn Bus>> {
        self.models(side).map(|model| Arc::new(ModelBus::new(model.clone())) as Arc<dyn Bus>).collect()
    }

    /// When something arrives next, on simulated wires.
    pub fn next_event(&self) -> Option<Nanos> {
        self.wires.iter().filter_map(|wire| wire.next_event()).min()
    }

    /// Delivers everything that is due at `now`.
    pub fn run_until(&self, now: Nanos) {
        self.wires.iter().for_each(|wire| wire.run_until(now));
    }

    /// What happened to frames, by path.
    pub fn stats(&self) -> impl Iterator<Item = (&'static str, PathStats)> {
        self.wires.iter().flat_map(|wire| wire.stats())
    }
}

/// The station addresses on a wire.
fn stations(config: &Config, wire: usize) -> impl Iterator<Item = MacAddress> {
    MACS[wire].into_iter().chain((config.processes && wire == 0).then_some(GATEWAY_MAC))
}

/// The wire of port number `port`. Its impairments draw from streams of its own.
fn wire(config: &Config, clock: &Clock, port: usize, models: &[Arc<Ixgbe82599>]) -> Result<Arc<Wire>, WireError> {
    let delivery = if config.simulated { Delivery::Simulated { latency_ns: LATENCY } } else { Delivery::Immediate };
    let impair = |rates: &Rates, path, what| Impairment {
        loss: rates.loss,
        duplicate: rates.duplicate,
        reorder: rates.reorder,
        corrupt_fcs: rates.corrupt,
        ..Impairment::new(path, what)
    };
    let mut impairments = Vec::new();
    // A perfect wire has no rules, and takes no lock.
    if config.is_impaired() {
        for (line, (feed, path)) in FEEDS.iter().zip(FEED_PATHS).enumerate() {
            if line % config.ports == port {
                let dead = config.dead_feeds[line].clone();
                impairments.push(Impairment { dead, ..impair(&config.feed, path, Match::Group(*feed.ip())) });
            }
        }
        impairments.push(impair(&config.orders, TCP_PATHS[port], Match::Tcp));
        impairments.push(impair(&config.feed, RECOVERY_PATHS[port], Match::Unicast));
    }
    let seed = config.seed ^ ANOTHER_WIRE.wrapping_mul(port as u64);
    let stations: Vec<_> = models.iter().map(|model| Arc::clone(model) as Arc<dyn Mac>).collect();
    let wire = Wire::join(clock.clone(), &stations, WireConfig { seed, impairments, ..WireConfig::perfect(delivery) })?;
    for (model, port) in models.iter().zip(0..) {
        model.connect(wire.clone(), PortId(port));
    }
    Ok(wire)
}
