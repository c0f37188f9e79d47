//! Runs an activity on the port that was named; on a model, with a far end of its own on the other model.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::clock::{Clock, Nanos, epoch};
use barewire_driver::{MacAddress, PortConfig};
use barewire_models::wire::{Delivery, Wire, WireConfig};
use barewire_models::{Ixgbe82599, PortId};
use barewire_netstack::TcpConfig;
use serde_json::{Map, Value, json};

use super::Error;
use super::args::NetArgs;
use super::session::{Activity, Ended, Session, Setup, Stop};
use crate::port::{self, Place, Reached, UsePort};

/// The stations of a trial (locally administered addresses).
const MACS: [MacAddress; 2] = [MacAddress([0x02, 0, 0, 0, 0, 1]), MacAddress([0x02, 0, 0, 0, 0, 2])];
/// How long the far end may go on when the near one is over.
const GRACE: Nanos = 3_000_000_000;

/// The far end of a trial.
pub(super) struct Far<A> {
    /// Its address.
    pub ip: Ipv4Addr,
    /// It comes to an end by itself.
    pub lasts: bool,
    /// What it does.
    pub activity: A,
}

/// What came of it.
pub(super) struct Outcome {
    pub report: Map<String, Value>,
    pub failure: Option<String>,
}

/// Runs `near` on the port that `net` names, and `far` opposite where that is a model.
pub(super) fn run<A: Activity, B: Activity + Send>(
    net: &NetArgs,
    measure: bool,
    near: A,
    far: Far<B>,
) -> Result<Outcome, Error> {
    let stop = Stop::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second signal does not wait for anything.
        let second = signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop.signal));
        second.and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop.signal))).map_err(Error::Signals)?;
    }
    let clock = Clock::calibrated();
    let since_1970 = epoch(&clock);
    let frames = near.frames();
    let mut port = net.port.clone();
    (port.config.kept_frames, port.config.retained_frames) = (frames, frames);
    let setup = Setup {
        name: net.port.place.to_string(),
        identity: barewire_netstack::Config {
            gateway: net.gateway,
            tcp: TcpConfig { sent_segments: frames, kept_segments: frames, ..TcpConfig::default() },
            ..barewire_netstack::Config::new(MACS[0], net.ip.0, net.ip.1, since_1970)
        },
        idle: net.idle.into(),
        limit: net.seconds.map(|seconds| u64::from(seconds) * 1_000_000_000),
        clock,
        epoch: since_1970,
        measure,
        stop,
        up: matches!(net.port.place, Place::Model).then(Arc::default),
    };
    let session = Session { setup: setup.clone(), activity: near };
    let ended = match port.reach()? {
        Reached::Trial => return on_models(port.config, &setup, session, far),
        Reached::Device(bus) => port::open(bus, port.config, session)??,
        Reached::Tap(port) => session.with(port)?,
    };
    Ok(outcome(&setup, ended))
}

fn on_models<A: Activity, B: Activity + Send>(
    config: PortConfig,
    setup: &Setup,
    near: Session<A>,
    far: Far<B>,
) -> Result<Outcome, Error> {
    let models = MACS.map(|mac| Ixgbe82599::new(mac, setup.clock.clone()));
    let [a, b] = &models;
    let stations = [a.clone() as Arc<dyn barewire_models::Mac>, b.clone()];
    let wire = Wire::join(setup.clock.clone(), &stations, WireConfig::perfect(Delivery::Immediate));
    // A perfect wire breaks no rule.
    let wire = wire.map_err(|error| Error::Output(std::io::Error::other(error)))?;
    for (model, port) in models.iter().zip(0..) {
        model.connect(wire.clone(), PortId(port));
    }
    let bus = |model: &Arc<Ixgbe82599>| -> Arc<dyn Bus> { Arc::new(ModelBus::new(model.clone())) };
    let mut other = setup.clone();
    other.identity.ip = far.ip;
    other.stop.partner = Arc::default();
    (other.name, other.measure) = (format!("{} (far end)", setup.name), false);
    let partner = Arc::clone(&other.stop.partner);
    let (near_bus, far_bus) = (bus(a), bus(b));
    thread::scope(|scope| {
        let session = Session { setup: other.clone(), activity: far.activity };
        let theirs = scope.spawn(move || port::open(far_bus, config, session)?);
        let ours = port::open(near_bus, config, near).map_err(Error::from).flatten();
        let end = setup.clock.now() + GRACE;
        while far.lasts && ours.is_ok() && !theirs.is_finished() && setup.clock.now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        partner.store(true, Ordering::Relaxed);
        let theirs = theirs.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut outcome = outcome(setup, ours?);
        outcome.report.insert("far".to_owned(), Value::Object(self::outcome(&other, theirs?).report));
        Ok(outcome)
    })
}

fn outcome<A: Activity>(setup: &Setup, ended: Ended<A>) -> Outcome {
    let (found, failure) = ended.activity.report(ended.seconds);
    let mut report = Map::new();
    report.insert("port".to_owned(), setup.name.clone().into());
    report.insert("mac".to_owned(), ended.mac.to_string().into());
    report.insert("ip".to_owned(), setup.identity.ip.to_string().into());
    if let Value::Object(found) = found {
        report.extend(found);
    }
    report.insert("seconds".to_owned(), ended.seconds.into());
    report.insert("resets".to_owned(), ended.resets.into());
    report.insert("idle".to_owned(), setup.idle.name().into());
    if let Some(wake_up) = ended.wake_up {
        report.insert("wake_up_ns".to_owned(), json!(wake_up));
    }
    let (stack, drops, port) = (ended.stack, ended.stack.drops, ended.port);
    let frames = json!({
        "received": stack.frames, "retransmits": stack.retransmits, "igmp_sent": stack.igmp_sent,
        "device_received": port.rx_frames, "device_sent": port.tx_frames, "device_missed": port.rx_missed,
        "no_buffer": drops.no_buffer, "bad_checksum": drops.bad_checksum, "truncated": drops.truncated,
    });
    report.insert("frames".to_owned(), frames);
    Outcome { report, failure }
}
