//! Receive-side scaling: flows stay in their queues, and every queue gets some.

use std::sync::Arc;

use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::ixgbe::{Config, Ixgbe};
use barewire_driver::{MacAddress, Port, RxQueue};
use barewire_models::wire::{Delivery, WireConfig};
use barewire_models::{Medium, PortId};
use barewire_tests::rig::{mac, models};

use super::{SMALL, clock};

/// UDP over IPv4 or IPv6, from port `port`.
fn udp(to: MacAddress, ipv4: bool, port: u16) -> Vec<u8> {
    let mut bytes = [&to.0[..], &mac(1).0].concat();
    if ipv4 {
        bytes.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    } else {
        bytes.extend([0x86, 0xDD, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        bytes.extend([0xFD; 32]);
    }
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 7, 0, 8, 0, 0]);
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

#[test]
fn flows_stay_in_their_queues_and_every_queue_gets_some() {
    const MRQC: u32 = 0x5818;
    const RETA: u32 = 0x5C00;
    const RSSRK: u32 = 0x5C80;
    const RSS_UDP: u32 = 1 | 1 << 22 | 1 << 23;
    let (_near, far, wire) = models(&clock(), WireConfig::perfect(Delivery::Immediate));
    let bus: Arc<dyn Bus> = Arc::new(ModelBus::new(far));
    let registers = bus.bar(0).unwrap();
    let mut port = Ixgbe::open(bus, Config { queues: 4, ..SMALL }).unwrap();
    let mut queues: Vec<_> = (0..4).map(|queue| port.open_queue(queue).unwrap()).collect();
    (0..10).for_each(|n| registers.write32(RSSRK + 4 * n, 0x6D5A_56DA_u32.rotate_left(n * 3)));
    (0..32).for_each(|n| registers.write32(RETA + 4 * n, 0x0302_0100));
    let mut arrivals = |enabled: u32| {
        registers.write32(MRQC, enabled);
        let mut seen = Vec::new();
        for (ipv4, port) in [true, false].into_iter().flat_map(|ipv4| (0..64).map(move |port| (ipv4, port))) {
            for _ in 0..2 {
                wire.transmit(PortId(0), &udp(mac(2), ipv4, port));
            }
            let mut hash = None;
            let counts: Vec<_> = queues
                .iter_mut()
                .map(|queue| queue.rx.poll(8, |frame| hash = frame.meta().rss_hash()).unwrap())
                .collect();
            let queue = counts.iter().position(|&count| count == 2).unwrap_or_else(|| panic!("{counts:?}"));
            assert_eq!(counts.iter().sum::<u32>(), 2);
            assert!(hash.is_none_or(|hash| hash as usize % 4 == queue));
            seen.push((queue, hash.is_some()));
        }
        seen
    };
    assert!(arrivals(0).iter().all(|&seen| seen == (0, false)), "without RSS there is queue 0");
    let spread = arrivals(RSS_UDP);
    for queue in 0..4 {
        let flows = spread.iter().filter(|&&seen| seen == (queue, true)).count();
        assert!((16..=48).contains(&flows), "queue {queue} has {flows} of 128 flows");
    }
}
