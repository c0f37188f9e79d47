//! Two 82599 models on a wire, each with our driver on it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::clock::Clock;
use barewire_driver::ixgbe::{Config, Ixgbe, Rx, Tx};
use barewire_driver::{MacAddress, Port, QueuePair, RxQueue, TxMeta, TxQueue};
use barewire_models::wire::{Delivery, Wire, WireConfig};
use barewire_models::{Ixgbe82599, PortId};

/// A port with its model and its open queue pair.
pub struct Station {
    /// The device.
    pub model: Arc<Ixgbe82599>,
    /// The control path.
    pub port: Ixgbe,
    /// Queue 0.
    pub queue: QueuePair<Rx, Tx>,
}

/// Station address number `n`.
pub fn mac(n: u8) -> MacAddress {
    MacAddress([0x02, 0, 0, 0, 0, n])
}

/// Models 1 and 2 joined by a wire.
pub fn models(clock: &Clock, wire: WireConfig) -> (Arc<Ixgbe82599>, Arc<Ixgbe82599>, Arc<Wire>) {
    let (near, far) = (Ixgbe82599::new(mac(1), clock.clone()), Ixgbe82599::new(mac(2), clock.clone()));
    let wire = Wire::join(clock.clone(), &[near.clone(), far.clone()], wire).expect("a valid wire");
    near.connect(wire.clone(), PortId(0));
    far.connect(wire.clone(), PortId(1));
    (near, far, wire)
}

impl Station {
    /// Opens `model` and its queue 0.
    pub fn open(model: Arc<Ixgbe82599>, config: Config) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(ModelBus::new(model.clone()));
        let mut port = Ixgbe::open(bus, config).expect("the model comes up");
        let queue = port.open_queue(0).expect("queue 0 opens");
        Self { model, port, queue }
    }

    /// Sends `frame` at once.
    pub fn send(&mut self, frame: &[u8], meta: TxMeta) {
        let mut buffer = self.queue.tx.reserve().expect("a buffer");
        buffer[..frame.len()].copy_from_slice(frame);
        let meta = TxMeta { len: frame.len() as u16, ..meta };
        assert!(self.queue.tx.commit(buffer, meta).is_ok(), "the ring is full");
        self.queue.tx.flush();
    }

    /// Everything that has arrived, with its metadata.
    pub fn received(&mut self) -> Vec<(Vec<u8>, barewire_driver::FrameMeta)> {
        let mut frames = Vec::new();
        let poll = self
            .queue
            .rx
            .poll(u32::MAX, |frame| frames.push((frame.segments().flatten().copied().collect(), *frame.meta())));
        poll.expect("no fault");
        frames
    }
}

/// Two stations on a perfect immediate wire.
pub fn pair(clock: &Clock, config: Config) -> (Station, Station) {
    let (near, far, _) = models(clock, WireConfig::perfect(Delivery::Immediate));
    (Station::open(near, config), Station::open(far, config))
}

/// An Ethernet frame with `payload`, of a type that no stack knows.
pub fn frame(to: MacAddress, from: MacAddress, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xB5], payload].concat()
}
