//! The ixgbe driver on the 82599 model.
#![forbid(unsafe_code)]

mod hostile;
mod interrupts;
mod registers;
mod spread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use barewire_driver::bus::Bus;
use barewire_driver::bus::model::ModelBus;
use barewire_driver::clock::{Clock, SimulatedClock};
use barewire_driver::ixgbe::{Config, Ixgbe};
use barewire_driver::{
    Checksum, ChecksumOffload, Link, MacAddress, Port, PortEvent, RxQueue, TxError, TxMeta, TxQueue,
};
use barewire_models::wire::{Delivery, WireConfig};
use barewire_tests::rig::{Station, frame, mac, models, pair};

fn clock() -> Clock {
    Clock::Simulated(SimulatedClock::default())
}

const SMALL: Config =
    Config { queues: 1, rx_descriptors: 64, tx_descriptors: 64, kept_frames: 8, retained_frames: 8, max_frame: 9728 };

#[test]
fn open_reads_the_address_and_the_link() {
    let (near, _far) = pair(&clock(), SMALL);
    assert_eq!(near.port.mac(), mac(1));
    assert_eq!(near.port.link().unwrap(), Link::Up { speed_mbps: 10_000 });
}

#[test]
fn frames_arrive_whole_and_padded_over_many_ring_wraps() {
    let (mut near, mut far) = pair(&clock(), SMALL);
    for number in 0..1_000u32 {
        let len = (number * 37 % 1400) as usize + 4;
        let mut payload = vec![number as u8; len];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        let sent = frame(mac(2), mac(1), &payload);
        near.send(&sent, TxMeta::default());
        let received = far.received();
        assert_eq!(received.len(), 1);
        let bytes = &received[0].0;
        assert_eq!(bytes.len(), sent.len().max(60));
        assert_eq!(bytes[..sent.len()], sent);
    }
    let (sent, received) = (near.port.stats(), far.port.stats());
    assert_eq!((sent.tx_frames, received.rx_frames, received.rx_missed), (1_000, 1_000, 0));
    assert_eq!(sent.tx_bytes, received.rx_bytes);
}

#[test]
fn vlan_tag_is_inserted_on_the_wire_and_taken_out_again() {
    let (mut near, mut far) = pair(&clock(), SMALL);
    let sent = frame(mac(2), mac(1), &[7; 100]);
    near.send(&sent, TxMeta { vlan: Some(0x2064), ..TxMeta::default() });
    let received = far.received();
    assert_eq!((received[0].1.vlan(), &received[0].0), (Some(0x2064), &sent));
}

#[test]
fn jumbo_frame_arrives_in_segments() {
    let (near, far, wire) = models(&clock(), WireConfig::perfect(Delivery::Immediate));
    let (_near, mut far) = (Station::open(near, SMALL), Station::open(far, SMALL));
    let payload: Vec<u8> = (0..9_714u32).map(|n| n as u8).collect();
    let sent = frame(mac(2), mac(1), &payload);
    for _ in 0..100 {
        barewire_models::Medium::transmit(&*wire, barewire_models::PortId(0), &sent);
        let mut segments = 0;
        far.queue
            .rx
            .poll(8, |frame| {
                segments = frame.segments().count();
                assert_eq!(usize::from(frame.meta().len), sent.len());
                assert!(frame.segments().flatten().eq(sent.iter()));
            })
            .unwrap();
        assert_eq!(segments, 5);
    }
    barewire_models::Medium::transmit(&*wire, barewire_models::PortId(0), &frame(mac(2), mac(1), &[0; 9_715]));
    assert!(far.received().is_empty());
    assert_eq!(far.port.stats().rx_length_errors, 1);
}

fn udp(payload: &[u8], checksum: u16) -> Vec<u8> {
    let total = (28 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 0, 0, 0];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(payload);
    let mut bytes = [&mac(2).0[..], &mac(1).0, &[8, 0]].concat();
    bytes.extend(packet);
    bytes
}

#[test]
fn checksum_verdicts_and_offload() {
    let (mut near, mut far) = pair(&clock(), SMALL);
    let ip_only = TxMeta { checksum: ChecksumOffload::Ipv4, l2_len: 14, l3_len: 20, ..TxMeta::default() };
    let both = TxMeta { checksum: ChecksumOffload::Ipv4Udp, ..ip_only };
    // 10.0.0.1 + 10.0.0.2 + 17 + length 13, as the offload wants it.
    let pseudo = 0x0A00 + 1 + 0x0A00 + 2 + 17 + 13;
    near.send(&udp(b"ticks", pseudo), both);
    near.send(&udp(b"ticks", 0), ip_only);
    near.send(&udp(b"ticks", 0x1234), ip_only);
    near.send(&udp(b"ticks", 0), TxMeta::default());
    near.send(&frame(mac(2), mac(1), &[0; 60]), TxMeta::default());
    let verdicts: Vec<_> = far.received().into_iter().map(|(_, meta)| meta.checksum).collect();
    // The second is the erratum: no checksum, flagged by the device, found good by the driver.
    assert_eq!(verdicts, [Checksum::Good, Checksum::Good, Checksum::Bad, Checksum::Bad, Checksum::Unchecked]);
    assert_eq!(near.model.refusals().bad_context, 0);
}

#[test]
fn groups_arrive_only_when_joined_and_strangers_only_when_promiscuous() {
    let (mut near, mut far) = pair(&clock(), SMALL);
    let group = MacAddress([0x01, 0x00, 0x5E, 0x01, 0x02, 0x03]);
    let to_group = frame(group, mac(1), &[0; 46]);
    let to_stranger = frame(mac(9), mac(1), &[0; 46]);
    let mut arrivals = |far: &mut Station| {
        near.send(&to_group, TxMeta::default());
        near.send(&to_stranger, TxMeta::default());
        far.received().len()
    };
    assert_eq!(arrivals(&mut far), 0);
    far.port.join_multicast(group).unwrap();
    far.port.join_multicast(group).unwrap();
    assert_eq!(arrivals(&mut far), 1);
    far.port.leave_multicast(group).unwrap();
    assert_eq!(arrivals(&mut far), 1);
    far.port.leave_multicast(group).unwrap();
    assert_eq!(arrivals(&mut far), 0);
    far.port.set_promiscuous(true).unwrap();
    assert_eq!(arrivals(&mut far), 2);
}

#[test]
fn retained_frame_is_sent_again_and_writable_only_when_complete() {
    let (mut near, mut far) = pair(&clock(), SMALL);
    let tx = &mut near.queue.tx;
    let capacity = tx.pool().available();
    let mut buffer = tx.reserve().unwrap();
    buffer[..60].copy_from_slice(&frame(mac(2), mac(1), &[5; 46]));
    let meta = TxMeta { len: 60, ..TxMeta::default() };
    let retained = tx.commit_retained(buffer, meta).ok().unwrap();
    let retained = retained.try_into_buffer().err().expect("not complete: never flushed");
    tx.flush();
    tx.recommit(&retained, meta).unwrap();
    tx.flush();
    assert_eq!(retained.bytes()[14..60], [5; 46]);
    assert_eq!(tx.reclaim(), 2);
    let buffer = retained.try_into_buffer().ok().expect("complete");
    drop(buffer);
    assert_eq!(tx.pool().available(), capacity);
    assert_eq!(far.received().len(), 2);
}

#[test]
fn exhaustion_is_back_pressure_on_both_sides() {
    let (mut near, mut far) = pair(&clock(), SMALL);
    let tx = &mut near.queue.tx;
    let meta = TxMeta { len: 60, ..TxMeta::default() };
    let mut committed = 0;
    let error = loop {
        let buffer = tx.reserve().unwrap();
        match tx.commit(buffer, meta) {
            Ok(()) => committed += 1,
            Err((error, _buffer)) => break error,
        }
    };
    assert_eq!((committed, error), (62, TxError::RingFull));
    let parked: Vec<_> = std::iter::from_fn(|| tx.reserve().ok()).collect();
    assert_eq!(tx.reserve().err(), Some(TxError::PoolEmpty));
    drop(parked);
    tx.flush();
    let mut kept = Vec::new();
    for _ in 0..20 {
        near.send(&frame(mac(2), mac(1), &[1; 46]), TxMeta::default());
        far.queue.rx.poll(8, |frame| kept.extend(frame.take().ok())).unwrap();
    }
    // Eight for frames kept, 64 for the transmit ring that nobody uses, eight for retaining.
    assert!((20..=80).contains(&kept.len()), "{}", kept.len());
    drop(kept);
    let pool = far.queue.rx.pool();
    assert_eq!(pool.capacity() - pool.available(), 64);
}

#[test]
fn lengths_that_silicon_refuses_are_refused() {
    let (mut near, _far) = pair(&clock(), SMALL);
    for len in [0, 16, 2_049, u16::MAX] {
        let buffer = near.queue.tx.reserve().unwrap();
        let refused = near.queue.tx.commit(buffer, TxMeta { len, ..TxMeta::default() });
        assert_eq!(refused.err().map(|(error, _)| error), Some(TxError::BadLength));
    }
}

#[test]
fn link_change_is_noticed_once() {
    let (near, far, wire) = models(&clock(), WireConfig::perfect(Delivery::Immediate));
    let (mut near, _far) = (Station::open(near, SMALL), Station::open(far, SMALL));
    wire.set_carrier(false);
    let mut events = Vec::new();
    for now in 0..2 {
        near.port.service(now, &mut |event| events.push(event)).unwrap();
    }
    assert_eq!(events, [PortEvent::Link(Link::Down)]);
}

#[test]
fn reset_needs_closed_queues_and_the_port_works_again_after_it() {
    let (mut near, mut far) = pair(&clock(), SMALL);
    assert!(near.port.reset().is_err());
    let Station { model, mut port, queue } = near;
    port.close_queue(queue).unwrap();
    port.reset().unwrap();
    let queue = port.open_queue(0).unwrap();
    near = Station { model, port, queue };
    near.send(&frame(mac(2), mac(1), &[3; 46]), TxMeta::default());
    assert_eq!(far.received().len(), 1);
}

/// Ports come and go while the other end never stops sending: no DMA may reach memory that is gone.
#[test]
fn ten_thousand_ports_open_and_drop_under_flood() {
    let (near, far, wire) = models(&Clock::calibrated(), WireConfig::perfect(Delivery::Immediate));
    let stop = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let _keep = near;
            let bytes = frame(mac(2), mac(1), &[9; 200]);
            while !stop.load(Ordering::Relaxed) {
                barewire_models::Medium::transmit(&*wire, barewire_models::PortId(0), &bytes);
            }
        }
    });
    let bus: Arc<dyn Bus> = Arc::new(ModelBus::new(far.clone()));
    let mut port = Ixgbe::open(bus.clone(), SMALL).unwrap();
    let mut received = 0u64;
    for round in 0..10_000u32 {
        let mut queue = port.open_queue(0).unwrap();
        let poll = queue.rx.poll(64, |frame| assert_eq!(frame.bytes().get(14..18), Some(&[9; 4][..])));
        received += u64::from(poll.unwrap());
        if round % 64 == 0 {
            drop(queue);
            // Dropped, not closed: the memory is gone, and what the device still sends there must fault.
            drop(port);
            port = Ixgbe::open(bus.clone(), SMALL).unwrap();
            continue;
        }
        port.close_queue(queue).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    assert!(received > 0);
}
