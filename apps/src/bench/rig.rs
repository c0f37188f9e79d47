//! What is measured: a port on an 82599 model behind a probe, and the far end of its wire.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::clock::Clock;
use barewire_driver::ixgbe::{Config, Ixgbe, Rx, Tx};
use barewire_driver::{MacAddress, Port, QueuePair};
use barewire_models::wire::{Delivery, Wire, WireConfig};
use barewire_models::{Ixgbe82599, PortId};
use barewire_netstack::{Route, Stack, TcpConfig};

use super::Error;
use super::probe::{Around, ProbeBus};
use crate::market::hosts::{FEED, MACS};

/// Rings that hold the largest burst many times, and are small enough to be flushed from the caches between rounds.
const RING: u32 = 256;
/// The far end's place on the wire.
const FAR: PortId = PortId(0);
/// The addresses of the far end and of the port that is measured.
pub const FAR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// As above.
pub const NEAR_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// One end.
pub struct End {
    /// The device.
    pub model: Arc<Ixgbe82599>,
    /// The control path.
    pub port: Ixgbe,
    /// Queue pair 0.
    pub pair: QueuePair<Rx, Tx>,
}

impl End {
    /// Opens the port of `model`, and its queue pair on the calling thread; `around` surrounds every register access.
    pub fn open(model: Arc<Ixgbe82599>, around: Option<Around>) -> Result<Self, Error> {
        let mut bus: Arc<dyn Bus> = Arc::new(ModelBus::new(model.clone()));
        if let Some(around) = around {
            bus = Arc::new(ProbeBus::new(bus, around));
        }
        let config = Config {
            rx_descriptors: RING,
            tx_descriptors: RING,
            kept_frames: 64,
            retained_frames: 256,
            ..Config::default()
        };
        let mut port = Ixgbe::open(bus, config).map_err(Error::failed)?;
        let pair = port.open_queue(0).map_err(Error::failed)?;
        Ok(Self { model, port, pair })
    }

    /// A stack on this end.
    pub fn stack(self, ip: Ipv4Addr) -> (Ixgbe, Stack<Rx, Tx>) {
        self.stack_with(ip, TcpConfig::default())
    }

    /// As [`End::stack`], with another size of the express lane for TCP.
    pub fn stack_with(self, ip: Ipv4Addr, tcp: TcpConfig) -> (Ixgbe, Stack<Rx, Tx>) {
        let config = barewire_netstack::Config { tcp, ..barewire_netstack::Config::new(self.port.mac(), ip, 24, 1) };
        (self.port, Stack::new(self.pair, config))
    }
}

/// Two ends and their wire.
pub struct Rig {
    /// The wire, for frames out of nowhere.
    pub wire: Arc<Wire>,
    /// The end that is measured.
    pub near: End,
    /// The other one.
    pub far: End,
}

impl Rig {
    /// Opens both ends; `around` surrounds every register access of the near one.
    pub fn open(clock: &Clock, around: Around) -> Result<Self, Error> {
        let (wire, [far, near]) = joined(clock)?;
        let mut rig = Self { wire, near: End::open(near, Some(around))?, far: End::open(far, None)? };
        rig.near.port.join_multicast(barewire_netstack::multicast_mac(*FEED.ip())).map_err(Error::failed)?;
        Ok(rig)
    }

    /// Sends `frame` from the far end's place.
    pub fn inject(&self, frame: &[u8]) {
        use barewire_models::Medium;
        self.wire.transmit(FAR, frame);
    }
}

/// Two devices on a wire: the far end's and the near one's.
pub fn models(clock: &Clock) -> Result<[Arc<Ixgbe82599>; 2], Error> {
    joined(clock).map(|(_, models)| models)
}

fn joined(clock: &Clock) -> Result<(Arc<Wire>, [Arc<Ixgbe82599>; 2]), Error> {
    let [far, near] = MACS[0].map(|mac| Ixgbe82599::new(mac, clock.clone()));
    let stations = [far.clone() as Arc<dyn barewire_models::Mac>, near.clone()];
    let config = WireConfig::perfect(Delivery::Immediate);
    let wire = Wire::join(clock.clone(), &stations, config).map_err(Error::failed)?;
    for (model, port) in [&far, &near].into_iter().zip(0..) {
        model.connect(wire.clone(), PortId(port));
    }
    Ok((wire, [far, near]))
}

/// The way of the feed's datagrams to `station`, which is the group's address unless they go to one host.
pub fn feed_route(from: &Ixgbe, station: Option<(MacAddress, Ipv4Addr)>) -> Route {
    use std::net::SocketAddrV4;
    let source = SocketAddrV4::new(FAR_IP, FEED.port());
    match station {
        None => Route::new(from.mac(), source, FEED, 1, None),
        Some((mac, ip)) => Route::to(mac, from.mac(), source, SocketAddrV4::new(ip, FEED.port()), 1, None),
    }
}
