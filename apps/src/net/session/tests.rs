//! A session on a device that stops sending.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::OnceLock;

use barewire_driver::PortConfig;
use barewire_driver::bus::model::{ArrivalStamps, DeviceModel, Host, ModelBus};
use barewire_driver::bus::{Bus, Width};
use barewire_models::wire::{Delivery, Wire, WireConfig};
use barewire_models::{Ixgbe82599, Mac, PortId};
use barewire_netstack::Lane;

use super::*;
use crate::net::args::Role;
use crate::net::tcp::{Plan, Transfer};

const CTRL: u32 = 0x0000;
const TDT: u32 = 0x6018;
const RST: u32 = 1 << 26;

/// An 82599 that stops sending after some doorbells, until it is reset; `relapses` says whether it then stops again.
struct Halting {
    inner: Arc<Ixgbe82599>,
    doorbells: AtomicU32,
    relapses: bool,
    /// Where the driver set the tail that the device does not look at.
    tail: OnceLock<AtomicU32>,
    resets: AtomicU32,
}

const DOORBELLS: u32 = 6;

impl Halting {
    fn is_halted(&self) -> bool {
        let ill = self.relapses || self.resets.load(Ordering::Relaxed) < 2;
        ill && self.doorbells.load(Ordering::Relaxed) > DOORBELLS
    }
}

impl DeviceModel for Halting {
    fn name(&self) -> &'static str {
        "halting"
    }
    fn attach(&self, host: Arc<Host>) {
        self.inner.attach(host);
    }
    fn config_read(&self, offset: u16, width: Width) -> u32 {
        self.inner.config_read(offset, width)
    }
    fn config_write(&self, offset: u16, width: Width, value: u32) {
        self.inner.config_write(offset, width, value);
    }
    fn bar_sizes(&self) -> [u32; 6] {
        self.inner.bar_sizes()
    }
    fn register_read(&self, bar: u8, offset: u32) -> u32 {
        match self.tail.get() {
            Some(tail) if offset == TDT && self.is_halted() => tail.load(Ordering::Relaxed),
            _ => self.inner.register_read(bar, offset),
        }
    }
    fn register_write(&self, bar: u8, offset: u32, value: u32) {
        if offset == CTRL && value & RST != 0 {
            self.resets.fetch_add(1, Ordering::Relaxed);
            self.doorbells.store(0, Ordering::Relaxed);
        }
        if offset == TDT {
            self.doorbells.fetch_add(1, Ordering::Relaxed);
            self.tail.get_or_init(AtomicU32::default).store(value, Ordering::Relaxed);
            if self.is_halted() {
                return;
            }
        }
        self.inner.register_write(bar, offset, value);
    }
    fn interrupt_vectors(&self) -> u16 {
        self.inner.interrupt_vectors()
    }
    fn reset(&self) {
        self.inner.reset();
    }
    fn arrival_stamps(&self, queue: u16) -> Option<Arc<ArrivalStamps>> {
        self.inner.arrival_stamps(queue)
    }
}

const BYTES: u64 = 2_000_000;

/// Sends from the halting device to a sound one; returns both ends.
fn transfer(lane: Lane, relapses: bool) -> [Result<Ended<Transfer>, Error>; 2] {
    let clock = Clock::calibrated();
    let macs = [MacAddress([2, 0, 0, 0, 0, 1]), MacAddress([2, 0, 0, 0, 0, 2])];
    let models = macs.map(|mac| Ixgbe82599::new(mac, clock.clone()));
    let stations = models.clone().map(|model| model as Arc<dyn Mac>);
    let wire = Wire::join(clock.clone(), &stations, WireConfig::perfect(Delivery::Immediate)).unwrap();
    models.iter().zip(0..).for_each(|(model, port)| model.connect(wire.clone(), PortId(port)));
    let [near, far] = models;
    let halting = Halting {
        inner: near,
        doorbells: AtomicU32::new(0),
        relapses,
        tail: OnceLock::new(),
        resets: AtomicU32::new(0),
    };
    let server = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7000);
    let over = Arc::<AtomicBool>::default();
    let setup = |name: &str, last: u8| Setup {
        name: name.to_owned(),
        identity: Config::new(macs[0], Ipv4Addr::new(10, 0, 0, last), 24, last.into()),
        idle: Idle::Yield,
        clock: clock.clone(),
        epoch: 0,
        limit: Some(60 * SECOND),
        measure: false,
        stop: Stop { partner: Arc::clone(&over), ..Stop::default() },
        up: None,
    };
    let plan = Plan { role: Role::Source, bytes: BYTES, size: 1024, window: 256 << 10, lane };
    let sink = Transfer::listen(server, plan.other()).unwrap();
    let source = Transfer::connect(server, plan).unwrap();
    let (sink, source) =
        (Session { setup: setup("far", 2), activity: sink }, Session { setup: setup("near", 1), activity: source });
    let open = |bus: Arc<dyn Bus>, session| port::open(bus, PortConfig::default(), session).unwrap();
    std::thread::scope(|scope| {
        let far = scope.spawn(move || open(Arc::new(ModelBus::new(far)), sink));
        let near = open(Arc::new(ModelBus::new(Arc::new(halting))), source);
        if near.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        [near, far.join().unwrap()]
    })
}

#[test]
fn stuck_queue_is_reset_and_the_connection_goes_on() {
    for lane in [Lane::Express, Lane::Host] {
        let [near, far] = transfer(lane, false).map(Result::unwrap);
        assert_eq!((near.resets, far.resets), (1, 0));
        let [near, far] = [near, far].map(|ended| ended.activity.report(ended.seconds).0);
        assert_eq!((&near["complete"], &far["bytes_received"]), (&true.into(), &BYTES.into()));
        assert_eq!(near["sha256_sent"], far["sha256_received"]);
    }
}

#[test]
fn queue_that_is_stuck_again_right_after_a_reset_ends_the_session() {
    let [near, _] = transfer(Lane::Express, true);
    let error = near.err().expect("it cannot be mended");
    assert!(matches!(&error, Error::Incurable { .. }) && !error.is_input(), "{error}");
    let said = error.to_string();
    assert!(said.starts_with("near: transmit queue 0 has frames to send and does not move"), "{said}");
}
