//! Our drivers on QEMU's device models, without a guest. Each check is written once, for every NIC that claims what it needs.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use barewire_driver::bus::{Bus, InterruptKind, Width, config};
use barewire_driver::e1000::E1000;
use barewire_driver::virtio::VirtioNet;
use barewire_driver::{
    Checksum, ChecksumOffload, Error, FrameMeta, Link, MacAddress, Port, PortConfig, PortEvent, PortStats, QueuePair,
    RxQueue, TxMeta, TxQueue,
};
use barewire_models::qtest::{self, Cable, QtestBus};
use barewire_tests::{checks, rig::frame};

const MAC: MacAddress = MacAddress([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
const PEER: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 1]);
const GROUP: MacAddress = MacAddress([0x01, 0x00, 0x5E, 0x01, 0x02, 0x03]);

/// Far above what anything here takes; what does not come by then does not come.
const LIMIT: Duration = Duration::from_secs(10);

const SMALL: PortConfig = PortConfig {
    queues: 1,
    rx_descriptors: 64,
    tx_descriptors: 64,
    kept_frames: 8,
    retained_frames: 8,
    max_frame: 1518,
};

/// A NIC of QEMU and the driver for it.
trait Nic {
    /// What `-device` calls it.
    const DEVICE: &'static str;
    type Port: Port;
    fn open(bus: Arc<dyn Bus>, config: PortConfig) -> Result<Self::Port, Error>;
}

macro_rules! nics {
    ($($name:ident: $port:ident on $device:literal { $($check:ident)* })*) => {$(
        mod $name {
            use super::*;

            struct This;

            impl Nic for This {
                const DEVICE: &'static str = $device;
                type Port = $port;

                fn open(bus: Arc<dyn Bus>, config: PortConfig) -> Result<$port, Error> {
                    $port::open(bus, config)
                }
            }

            $(#[test]
            fn $check() {
                checks::check(&stringify!($name).replace('_', "-"), stringify!($check), super::$check::<This>);
            })*
        }
    )*};
}

nics! {
    e1000: E1000 on "e1000" {
        comes_up_with_its_address_and_link
        frames_pass_both_ways_over_many_ring_wraps
        groups_and_strangers_arrive_when_asked_for
        link_changes_are_noticed
        counters_count_each_frame_once
        works_again_after_close_and_reset
        works_again_after_being_dropped_at_work
        checksums_are_filled_in
        tags_are_inserted
        tags_are_taken_out
        long_frames_arrive_in_segments_and_longer_ones_not_at_all
        interrupt_wakes_a_sleeper
    }
    e1000_82545em: E1000 on "e1000-82545em" {
        comes_up_with_its_address_and_link
        frames_pass_both_ways_over_many_ring_wraps
    }
    e1000e: E1000 on "e1000e" {
        comes_up_with_its_address_and_link
        frames_pass_both_ways_over_many_ring_wraps
        groups_and_strangers_arrive_when_asked_for
        link_changes_are_noticed
        counters_count_each_frame_once
        counters_count_bytes_with_fcs
        works_again_after_close_and_reset
        works_again_after_being_dropped_at_work
        checksums_are_filled_in
        checksums_are_judged
        tags_are_inserted
        tags_are_taken_out
        long_frames_arrive_in_segments_and_longer_ones_not_at_all
        interrupt_wakes_a_sleeper
        two_queues_share_the_flows
    }
    virtio_net: VirtioNet on "virtio-net-pci,disable-legacy=on" {
        comes_up_with_its_address_and_link
        frames_pass_both_ways_over_many_ring_wraps
        groups_and_strangers_arrive_when_asked_for
        link_changes_are_noticed
        counters_count_each_frame_once
        counters_count_bytes_with_fcs
        works_again_after_close_and_reset
        works_again_after_being_dropped_at_work
        checksums_are_filled_in
        tags_are_inserted
        long_frames_arrive_in_segments_and_longer_ones_not_at_all
        interrupt_wakes_a_sleeper
    }
    // Without messages, control queue, merged buffers and link state; and with another ring layout on offer.
    virtio_net_plain: VirtioNet on "virtio-net-pci,vectors=0,ctrl_vq=off,mrg_rxbuf=off,status=off,packed=on" {
        comes_up_with_its_address_and_link
        frames_pass_both_ways_over_many_ring_wraps
        works_again_after_close_and_reset
        interrupt_wakes_a_sleeper
    }
}

barewire_tests::rows! {
    "QEMU devices":
    virtio_rings_are_cut_to_what_the_device_allows_and_its_address_can_be_changed
    bus_finds_the_function_and_its_registers
    device_that_qemu_does_not_know_is_named
}

/// A machine with `device`; `None`, and the reason noted, where there is no QEMU.
fn machine(device: &str) -> Option<(Arc<QtestBus>, Cable)> {
    match qtest::find() {
        Ok(qemu) => {
            let (bus, cable) = QtestBus::start(qemu, device, MAC).expect("QEMU starts");
            Some((Arc::new(bus), cable))
        }
        Err(reason) => {
            barewire_tests::skip(&format!("{device} through qtest"), reason);
            None
        }
    }
}

/// An open port with its link up, and the far end of its cable.
struct Station<P: Port> {
    queue: QueuePair<P::Rx, P::Tx>,
    port: P,
    cable: Cable,
    bus: Arc<QtestBus>,
}

impl<P: Port> Station<P> {
    fn open<N: Nic<Port = P>>(config: PortConfig) -> Option<Self> {
        let (bus, cable) = machine(N::DEVICE)?;
        let mut port = N::open(bus.clone(), config).expect("the device comes up");
        let queue = port.open_queue(0).expect("queue 0 opens");
        let mut station = Self { queue, port, cable, bus };
        station.await_link(true);
        Some(station)
    }

    /// Waits until the link is `up`; returns what was noticed meanwhile.
    fn await_link(&mut self, up: bool) -> Vec<PortEvent> {
        let (start, mut events) = (Instant::now(), Vec::new());
        while matches!(self.port.link().unwrap(), Link::Up { .. }) != up {
            assert!(start.elapsed() < LIMIT, "the link does not change");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.port.service(0, &mut |event| events.push(event)).unwrap();
        events
    }

    /// Sends `frame` at once.
    fn send(&mut self, frame: &[u8], meta: TxMeta) {
        let start = Instant::now();
        let mut buffer = loop {
            match self.queue.tx.reserve() {
                Ok(buffer) => break buffer,
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
            }
        };
        buffer[..frame.len()].copy_from_slice(frame);
        let meta = TxMeta { len: frame.len() as u16, ..meta };
        while let Err((error, back)) = self.queue.tx.commit(buffer, meta) {
            assert!(start.elapsed() < LIMIT, "{error}");
            buffer = back;
        }
        self.queue.tx.flush();
    }

    /// The next frame that the device put on the cable.
    fn sent(&mut self) -> Vec<u8> {
        self.cable.receive(LIMIT).expect("QEMU runs").expect("a frame leaves")
    }

    /// Sends `frames` to the device, and a last one to our own address; returns what arrived before that.
    fn arrivals(&mut self, frames: &[Vec<u8>]) -> Vec<(Vec<u8>, FrameMeta)> {
        let last = frame(MAC, PEER, &[0xEE; 46]);
        for bytes in frames.iter().chain([&last]) {
            self.cable.send(bytes).expect("QEMU runs");
        }
        let (start, mut arrived) = (Instant::now(), Vec::<(Vec<u8>, FrameMeta)>::new());
        while arrived.last().is_none_or(|(bytes, _)| *bytes != last) {
            assert!(start.elapsed() < LIMIT, "{} frames arrived, and not the last", arrived.len());
            self.queue
                .rx
                .poll(64, |frame| arrived.push((frame.segments().flatten().copied().collect(), *frame.meta())))
                .expect("no fault");
        }
        arrived.pop();
        arrived
    }
}

fn comes_up_with_its_address_and_link<N: Nic>() {
    let Some(station) = Station::open::<N>(SMALL) else { return };
    assert_eq!(station.port.mac(), MAC);
    assert!(matches!(station.port.link().unwrap(), Link::Up { .. }));
    let (bus, _cable) = machine("pcnet").unwrap();
    assert!(N::open(bus, SMALL).is_err(), "a device of another kind");
}

fn frames_pass_both_ways_over_many_ring_wraps<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    let numbered = |to, from, number: u32| {
        let len = (number * 37 % 1_450) as usize + 46;
        let mut payload = vec![number as u8; len];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        frame(to, from, &payload)
    };
    for burst in 0..20u32 {
        let numbers = burst * 20..(burst + 1) * 20;
        let sent: Vec<_> = numbers.map(|number| numbered(MAC, PEER, number)).collect();
        let arrived = station.arrivals(&sent);
        assert_eq!(arrived.len(), sent.len());
        for (sent, (bytes, meta)) in sent.iter().zip(&arrived) {
            assert_eq!((bytes, usize::from(meta.len), meta.queue), (sent, sent.len(), 0));
        }
        for bytes in &sent {
            station.send(bytes, TxMeta::default());
        }
        for bytes in &sent {
            assert_eq!(station.sent(), *bytes);
        }
    }
    station.send(&frame(PEER, MAC, &[1; 10]), TxMeta::default());
    let short = station.sent();
    assert_eq!(short[..24], frame(PEER, MAC, &[1; 10]));
}

fn groups_and_strangers_arrive_when_asked_for<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    let stranger = MacAddress([0x02, 0, 0, 0, 0, 9]);
    let to = |address| frame(address, PEER, &[7; 60]);
    let frames = [to(GROUP), to(stranger), to(MacAddress::BROADCAST)];
    let arrived = |station: &mut Station<N::Port>| {
        let arrived = station.arrivals(&frames).into_iter();
        arrived.map(|(bytes, _)| MacAddress(bytes[..6].try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(arrived(&mut station), [MacAddress::BROADCAST]);
    station.port.join_multicast(GROUP).unwrap();
    station.port.join_multicast(GROUP).unwrap();
    assert_eq!(arrived(&mut station), [GROUP, MacAddress::BROADCAST]);
    station.port.leave_multicast(GROUP).unwrap();
    assert_eq!(arrived(&mut station), [GROUP, MacAddress::BROADCAST]);
    station.port.leave_multicast(GROUP).unwrap();
    assert_eq!(arrived(&mut station), [MacAddress::BROADCAST]);
    station.port.set_promiscuous(true).unwrap();
    assert_eq!(arrived(&mut station), [GROUP, stranger, MacAddress::BROADCAST]);
    station.port.set_promiscuous(false).unwrap();
    assert_eq!(arrived(&mut station), [MacAddress::BROADCAST]);
    assert!(station.port.join_multicast(PEER).is_err());
}

fn link_changes_are_noticed<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    station.bus.set_link(false).unwrap();
    assert_eq!(station.await_link(false), [PortEvent::Link(Link::Down)]);
    station.bus.set_link(true).unwrap();
    let events = station.await_link(true);
    assert!(matches!(events[..], [PortEvent::Link(Link::Up { .. })]), "{events:?}");
    assert_eq!(station.arrivals(&[frame(MAC, PEER, &[5; 60])]).len(), 1);
}

fn counters_count_each_frame_once<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    for round in 1..4 {
        let stats = ten_in_and_five_out(&mut station);
        assert_eq!((stats.rx_frames, stats.tx_frames), (10 * round, 5 * round));
        assert_eq!((stats.rx_missed, stats.rx_crc_errors, stats.rx_length_errors), (0, 0, 0));
    }
}

/// Apart, because the 8254x models of QEMU 11 do not answer GORC and GOTC.
fn counters_count_bytes_with_fcs<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    for round in 1..4 {
        let stats = ten_in_and_five_out(&mut station);
        assert_eq!((stats.rx_bytes, stats.tx_bytes), ((9 * 204 + 64) * round, 5 * 204 * round));
    }
}

/// Nine frames of 200 bytes and one of 60 arrive, five of 200 leave.
fn ten_in_and_five_out<P: Port>(station: &mut Station<P>) -> PortStats {
    let bytes = frame(MAC, PEER, &[5; 186]);
    assert_eq!(station.arrivals(&vec![bytes.clone(); 9]).len(), 9);
    for _ in 0..5 {
        station.send(&bytes, TxMeta::default());
        station.sent();
    }
    station.port.stats()
}

fn works_again_after_close_and_reset<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    for round in 0..3 {
        assert!(station.port.reset().is_err(), "a queue is open");
        assert!(station.port.open_queue(0).is_err(), "it is open already");
        let bytes = frame(PEER, MAC, &[round; 60]);
        station.send(&bytes, TxMeta::default());
        let Station { queue, mut port, mut cable, bus } = station;
        port.close_queue(queue).unwrap();
        assert_eq!(cable.receive(LIMIT).unwrap().expect("what was committed leaves"), bytes);
        port.reset().unwrap();
        assert_eq!(port.mac(), MAC);
        let queue = port.open_queue(0).unwrap();
        station = Station { queue, port, cable, bus };
        station.await_link(true);
        assert_eq!(station.arrivals(&[frame(MAC, PEER, &[round; 60])]).len(), 1);
    }
}

fn works_again_after_being_dropped_at_work<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    for round in 0..3 {
        let bytes = frame(MAC, PEER, &[round; 60]);
        assert_eq!(station.arrivals(&vec![bytes.clone(); 40]).len(), 40);
        let Station { queue, port, mut cable, bus } = station;
        drop(queue);
        drop(port);
        // Nobody listens; the device must not write to where the rings were.
        cable.send(&bytes).unwrap();
        let mut port = N::open(bus.clone(), SMALL).unwrap();
        let queue = port.open_queue(0).unwrap();
        station = Station { queue, port, cable, bus };
        station.await_link(true);
    }
}

/// The Internet checksum of `bytes` (RFC 1071): zero where they hold a right one.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !((folded & 0xFFFF) + (folded >> 16)) as u16
}

const UDP: u8 = 17;
const TCP: u8 = 6;

/// A source port without a zero byte: a sum that takes in a byte too many shows.
const PORT: u16 = 0x1707;

/// Where the transport header begins, without tag and options.
const TRANSPORT: usize = 34;

/// The pseudo header of a packet of ours (RFC 768) before its transport part.
fn with_pseudo_header(bytes: &[u8]) -> Vec<u8> {
    let len = (bytes.len() - TRANSPORT) as u16;
    [&bytes[26..34], &[0, bytes[23]], &len.to_be_bytes(), &bytes[TRANSPORT..]].concat()
}

/// An IPv4 packet over `protocol` from `port`; `complete` with its checksums, otherwise as offload wants it: zero, and the pseudo header's sum.
fn packet(protocol: u8, port: u16, payload: &[u8], complete: bool) -> Vec<u8> {
    let (header, at) = if protocol == UDP { (8, 6) } else { (20, 16) };
    let total = (20 + header + payload.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let mut transport = vec![0; header];
    transport[..2].copy_from_slice(&port.to_be_bytes());
    transport[2..4].copy_from_slice(&[0, 9]);
    if protocol == UDP {
        transport[4..6].copy_from_slice(&(total - 20).to_be_bytes());
    } else {
        transport[12] = 5 << 4;
    }
    let mut bytes = [&PEER.0[..], &MAC.0, &[8, 0], &ip, &transport, payload].concat();
    let place = TRANSPORT + at;
    if complete {
        let sums = [(24, checksum(&bytes[14..TRANSPORT])), (place, checksum(&with_pseudo_header(&bytes)))];
        sums.iter().for_each(|(at, sum)| bytes[*at..at + 2].copy_from_slice(&sum.to_be_bytes()));
    } else {
        let pseudo = !checksum(&with_pseudo_header(&bytes)[..12]);
        bytes[place..place + 2].copy_from_slice(&pseudo.to_be_bytes());
    }
    bytes
}

fn checksums_are_filled_in<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    let offload = |checksum| TxMeta { checksum, l2_len: 14, l3_len: 20, ..TxMeta::default() };
    for (protocol, wanted) in [
        (UDP, ChecksumOffload::Ipv4Udp),
        (TCP, ChecksumOffload::Ipv4Tcp),
        (UDP, ChecksumOffload::Ipv4Udp),
        (UDP, ChecksumOffload::None),
        (TCP, ChecksumOffload::Ipv4),
        (TCP, ChecksumOffload::Ipv4Tcp),
    ] {
        for len in [18, 19, 1_000] {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let bytes = packet(protocol, PORT, &payload, false);
            station.send(&bytes, offload(wanted));
            let sent = station.sent();
            let (ip, transport) = (
                wanted != ChecksumOffload::None,
                matches!(wanted, ChecksumOffload::Ipv4Udp | ChecksumOffload::Ipv4Tcp),
            );
            assert_eq!(checksum(&sent[14..TRANSPORT]) == 0, ip, "{wanted:?}");
            assert_eq!(checksum(&with_pseudo_header(&sent)) == 0, transport, "{wanted:?} of {len} bytes");
            if transport {
                assert_eq!(sent, packet(protocol, PORT, &payload, true));
            }
        }
    }
}

fn to_us(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..6].copy_from_slice(&MAC.0);
    bytes
}

fn checksums_are_judged<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    let good = to_us(packet(UDP, PORT, b"eighteen bytes of.", true));
    let tcp = to_us(packet(TCP, PORT, b"eighteen bytes of.", true));
    let (mut bad_ip, mut bad_udp, mut no_udp) = (good.clone(), good.clone(), good.clone());
    bad_ip[24] ^= 1;
    bad_udp[50] ^= 1;
    no_udp[40..42].fill(0);
    let other = frame(MAC, PEER, &[1; 60]);
    let arrived = station.arrivals(&[good, tcp, bad_ip, bad_udp, other, no_udp]);
    let verdicts: Vec<_> = arrived.iter().map(|(_, meta)| meta.checksum).collect();
    let [sound @ .., without] = &verdicts[..] else { panic!("nothing arrived") };
    assert_eq!(sound, [Checksum::Good, Checksum::Good, Checksum::Bad, Checksum::Bad, Checksum::Unchecked]);
    assert_ne!(*without, Checksum::Bad, "a checksum of zero means that there is none");
}

fn tagged(bytes: &[u8]) -> Vec<u8> {
    [&bytes[..12], &[0x81, 0x00, 0x20, 0x64], &bytes[12..]].concat()
}

fn tags_are_inserted<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    let out = frame(PEER, MAC, &[7; 100]);
    station.send(&out, TxMeta { vlan: Some(0x2064), ..TxMeta::default() });
    assert_eq!(station.sent(), tagged(&out));
    let udp = packet(UDP, PORT, &[3; 100], false);
    let offload = TxMeta { checksum: ChecksumOffload::Ipv4Udp, l2_len: 14, l3_len: 20, ..TxMeta::default() };
    station.send(&udp, TxMeta { vlan: Some(0x2064), ..offload });
    assert_eq!(station.sent(), tagged(&packet(UDP, PORT, &[3; 100], true)));
}

fn tags_are_taken_out<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    let incoming = frame(MAC, PEER, &[8; 100]);
    let arrived = station.arrivals(&[tagged(&incoming), incoming.clone()]);
    let seen: Vec<_> = arrived.iter().map(|(bytes, meta)| (bytes, meta.vlan())).collect();
    assert_eq!(seen, [(&incoming, Some(0x2064)), (&incoming, None)]);
}

fn long_frames_arrive_in_segments_and_longer_ones_not_at_all<N: Nic>() {
    let config = PortConfig { max_frame: 9_000, ..SMALL };
    let Some(mut station) = Station::open::<N>(config) else { return };
    let of = |len: usize| frame(MAC, PEER, &(14..len).map(|n| n as u8).collect::<Vec<_>>());
    let frames: Vec<_> = [2_048, 2_049, 9_000, 9_001, 12_000, 16_000, 1_000].map(of).into();
    for round in 1..10 {
        let arrived = station.arrivals(&frames);
        let lens: Vec<_> = arrived.iter().map(|(bytes, _)| bytes.len()).collect();
        assert_eq!(lens, [2_048, 2_049, 9_000, 1_000]);
        assert!(arrived.iter().all(|(bytes, meta)| frames.contains(bytes) && usize::from(meta.len) == bytes.len()));
        assert_eq!(station.port.stats().rx_length_errors, 3 * round);
    }
    let pool = station.queue.rx.pool();
    assert_eq!(pool.capacity() - pool.available(), 64, "no buffer was lost");
}

fn interrupt_wakes_a_sleeper<N: Nic>() {
    let Some(mut station) = Station::open::<N>(SMALL) else { return };
    let interrupt = station.port.interrupt(0).unwrap();
    let short = Duration::from_millis(100);
    for round in 0..3 {
        // QEMU's 82574 sends a message again when its throttling interval ends, wanted or not.
        let mut woken = 0;
        loop {
            station.queue.rx.arm_interrupt();
            assert_eq!(station.queue.rx.poll(1, |_| {}).unwrap(), 0);
            if !interrupt.wait(short).unwrap() {
                break;
            }
            woken += 1;
            assert!(woken < 3, "round {round}: nothing has arrived");
        }
        station.cable.send(&frame(MAC, PEER, &[1; 60])).unwrap();
        assert!(interrupt.wait(LIMIT).unwrap(), "round {round}");
        assert_eq!(station.queue.rx.poll(8, |_| {}).unwrap(), 1);
    }
}

fn two_queues_share_the_flows<N: Nic>() {
    let Some(mut station) = Station::open::<N>(PortConfig { queues: 2, ..SMALL }) else { return };
    let mut second = station.port.open_queue(1).unwrap();
    let frames: Vec<_> = (0..32).map(|port| to_us(packet(TCP, port, &[4; 18], true))).collect();
    let mut here = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        for bytes in &frames {
            station.cable.send(bytes).unwrap();
        }
        let (start, mut seen) = (Instant::now(), 0);
        while seen < frames.len() as u32 {
            assert!(start.elapsed() < LIMIT, "{seen} frames arrived");
            let mut note = |queue: u16, frame: barewire_driver::Frame<'_>| {
                assert_eq!(frame.meta().queue, queue);
                here[usize::from(queue)].push((frame.bytes()[TRANSPORT + 1], frame.meta().rss_hash().expect("a hash")));
            };
            seen += station.queue.rx.poll(64, |frame| note(0, frame)).unwrap();
            seen += second.rx.poll(64, |frame| note(1, frame)).unwrap();
        }
    }
    for flows in &here {
        assert!(flows.len() >= 24, "one queue got {} of 64 frames", flows.len());
        let half = flows.len() / 2;
        assert_eq!(flows[..half], flows[half..], "a flow stays in its queue");
    }
    let bytes = frame(PEER, MAC, &[9; 60]);
    let mut buffer = second.tx.reserve().unwrap();
    buffer[..bytes.len()].copy_from_slice(&bytes);
    assert!(second.tx.commit(buffer, TxMeta { len: bytes.len() as u16, ..TxMeta::default() }).is_ok());
    second.tx.flush();
    assert_eq!(station.sent(), bytes);
    station.port.close_queue(second).unwrap();
    station.send(&bytes, TxMeta::default());
    assert_eq!(station.sent(), bytes, "closing one queue leaves the other at work");
}

fn virtio_rings_are_cut_to_what_the_device_allows_and_its_address_can_be_changed() {
    let Some((bus, cable)) = machine("virtio-net-pci,disable-legacy=on") else { return };
    let mut port = VirtioNet::open(bus.clone(), PortConfig::default()).unwrap();
    let queue = port.open_queue(0).unwrap();
    let mut station = Station { queue, port, cable, bus };
    let other = MacAddress([0x02, 0, 0, 0, 0, 0x77]);
    let frames = [frame(other, PEER, &[1; 60]), frame(MacAddress::BROADCAST, PEER, &[2; 60])];
    assert_eq!(station.arrivals(&frames).len(), 1);
    station.port.set_mac(other).unwrap();
    assert_eq!(station.port.mac(), other);
    station.port.set_promiscuous(true).unwrap();
    assert_eq!(station.arrivals(&frames).len(), 2);
    station.port.set_promiscuous(false).unwrap();
    frames.iter().for_each(|bytes| station.cable.send(bytes).unwrap());
    let (start, mut arrived) = (Instant::now(), 0);
    while arrived < 2 {
        assert!(start.elapsed() < LIMIT, "{arrived} of 2 frames arrived");
        arrived += station.queue.rx.poll(8, |_| {}).unwrap();
    }
    assert!(station.port.set_mac(GROUP).is_err());
}

fn bus_finds_the_function_and_its_registers() {
    for (device, id, kind) in [
        ("e1000", 0x100E, InterruptKind::IntX),
        ("e1000-82545em", 0x100F, InterruptKind::IntX),
        ("e1000e", 0x10D3, InterruptKind::MsiX),
    ] {
        let Some((bus, _cable)) = machine(device) else { return };
        assert_eq!(bus.config_read(config::VENDOR_ID, Width::Word).unwrap(), 0x8086);
        assert_eq!(bus.config_read(config::DEVICE_ID, Width::Word).unwrap(), id);
        assert_eq!(bus.config_read(config::DEVICE_ID, Width::Byte).unwrap(), id & 0xFF);
        assert_eq!((bus.interrupts().kind, bus.interrupts().vectors > 0), (kind, true));
        let ral = || {
            bus.config_write(config::COMMAND, Width::Word, config::COMMAND_MEMORY).unwrap();
            bus.bar(0).unwrap().read32(0x5400)
        };
        assert_eq!(ral(), u32::from_le_bytes([MAC.0[0], MAC.0[1], MAC.0[2], MAC.0[3]]));
        bus.reset().unwrap();
        assert_eq!(ral(), u32::from_le_bytes([MAC.0[0], MAC.0[1], MAC.0[2], MAC.0[3]]));
        assert!(bus.bar(5).is_err());
    }
}

fn device_that_qemu_does_not_know_is_named() {
    let Ok(qemu) = qtest::find() else { return };
    let start = Instant::now();
    let error = QtestBus::start(qemu, "no-such-nic", MAC).err().expect("no device").to_string();
    assert!(error.contains("no-such-nic") && error.contains("not a valid device model name"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}
