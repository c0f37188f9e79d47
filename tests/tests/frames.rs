//! A million broken, mutated and random frames at a port, between them good traffic: each one is counted somewhere, and
//! the good is undisturbed.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use barewire_driver::clock::{Clock, SimulatedClock};
use barewire_driver::ixgbe::{Config, Ixgbe, Rx, Tx};
use barewire_driver::{MAX_FRAME_LEN, Port};
use barewire_models::wire::{Delivery, Impairment, Match, Wire, WireConfig};
use barewire_models::{Ixgbe82599, Medium, PortId};
use barewire_netstack::{Context, Drops, Event, Lane, Route, Stack, TcpId, TcpOptions, TcpState, UdpId, multicast_mac};
use barewire_tests::rig::{Station, mac};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

const SEED: u64 = 82_599;
const FRAMES: u64 = 1_000_000;
/// Bad frames between two rounds of good ones; and now and then so many that the ring overflows.
const ROUND: u64 = 90;
const FLOOD: u64 = 1_500;

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 129, 0, 1), 26_400);
/// Frames to this group lose their FCS on the wire.
const NO_FCS: Ipv4Addr = Ipv4Addr::new(239, 129, 0, 9);
const ECHO: u16 = 7;
const LISTENING: u16 = 8;
const UDP_PORT: u16 = 9;

/// A good message: a number, and the same number scrambled, which no noise hits by chance.
fn good(number: u64) -> [u8; 24] {
    let mut bytes = [0x5A; 24];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..16].copy_from_slice(&(!number).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    bytes
}

/// Good messages of one kind, on their way and arrived.
#[derive(Default)]
struct Messages {
    sent: u64,
    arrived: u64,
}

impl Messages {
    fn next(&mut self) -> [u8; 24] {
        self.sent += 1;
        good(self.sent)
    }

    /// Counts a good message, which must be the one that is due; passes over noise.
    fn take(&mut self, bytes: &[u8]) {
        if bytes == good(self.arrived + 1) {
            self.arrived += 1;
        } else {
            let number = bytes.first_chunk().map_or(0, |number| u64::from_be_bytes(*number));
            assert!(bytes != good(number), "message {number} came instead of {}", self.arrived + 1);
        }
    }
}

/// Passes frames on, and remembers the last segment of the good connection, to be copied badly.
struct Tap {
    wire: Arc<Wire>,
    segment: Mutex<Vec<u8>>,
}

impl Medium for Tap {
    fn transmit(&self, from: PortId, frame: &[u8]) {
        if frame.get(23) == Some(&6) {
            frame.clone_into(&mut self.segment.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.wire.transmit(from, frame);
    }
}

fn sum(parts: &[&[u8]]) -> u16 {
    let mut total: u64 = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        total += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    }
    while total >> 16 != 0 {
        total = (total & 0xFFFF) + (total >> 16);
    }
    !(total as u16)
}

/// Makes bad frames, some of them by spoiling good ones.
struct Noise {
    random: Pcg64,
    tap: Arc<Tap>,
}

impl Noise {
    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.random.fill(&mut bytes[..]);
        bytes
    }

    fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())]
    }

    /// The next frame: of any length, and nothing that would only lie well (see [`is_forged`]).
    fn frame(&mut self) -> Vec<u8> {
        loop {
            let frame = match self.below(10) {
                0 => {
                    let len = self.below(1_600);
                    self.bytes(len)
                }
                1 => self.random_behind_ethernet(),
                2 | 3 => self.copied_segment(),
                _ => {
                    let frame = self.well_formed();
                    self.spoil(frame)
                }
            };
            if !is_forged(&frame) {
                return frame;
            }
        }
    }

    fn ethernet(&mut self, to: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
        let from = mac(self.one_of(&[1, 100, 101, 102, 103])).0;
        [&to[..], &from, &kind].concat()
    }

    fn random_behind_ethernet(&mut self) -> Vec<u8> {
        let to = self.one_of(&[mac(2).0, [0xFF; 6], multicast_mac(*GROUP.ip()).0]);
        let kind = self.one_of(&[[8, 0], [8, 6], [0x81, 0], [0x86, 0xDD], [0x88, 0xA8], [0x88, 0xCC]]);
        let len = 46 + self.below(200);
        let mut frame = self.ethernet(to, kind);
        frame.extend(self.bytes(len));
        if self.below(2) == 0 {
            frame[14] = 0x45;
        }
        frame
    }

    /// The last segment of the good connection: again, or with one byte behind the Ethernet header changed, which its
    /// checksums tell.
    fn copied_segment(&mut self) -> Vec<u8> {
        let mut frame = self.tap.segment.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let at = 14 + self.below(end - 14);
        frame[at] ^= self.random.random_range(0..=255u8);
        frame
    }

    fn ipv4(&mut self, protocol: u8, to: Ipv4Addr, options: &[u8], body: &[u8]) -> Vec<u8> {
        let ethernet = if to.is_multicast() { multicast_mac(to).0 } else { mac(2).0 };
        let from = if protocol == 6 { 100 } else { self.one_of(&[1, 100, 101, 102, 103]) };
        let mut frame = self.ethernet(ethernet, [8, 0]);
        let header_len = 20 + options.len();
        let total = ((header_len + body.len()) as u16).to_be_bytes();
        frame.extend([
            0x40 | (header_len / 4) as u8,
            0,
            total[0],
            total[1],
            0,
            1,
            0,
            0,
            64,
            protocol,
            0,
            0,
            10,
            0,
            0,
            from,
        ]);
        frame.extend(to.octets());
        frame.extend_from_slice(options);
        frame.extend_from_slice(body);
        fix_header(&mut frame);
        frame
    }

    fn with_checksum(
        &mut self,
        protocol: u8,
        to: Ipv4Addr,
        options: &[u8],
        mut body: Vec<u8>,
        field: usize,
    ) -> Vec<u8> {
        let mut frame = self.ipv4(protocol, to, options, &body);
        let pseudo = [&frame[26..34], &[0, protocol], &(body.len() as u16).to_be_bytes()].concat();
        let value = sum(&[&pseudo, &body]);
        body[field..field + 2].copy_from_slice(&value.to_be_bytes());
        let at = frame.len() - body.len();
        frame[at..].copy_from_slice(&body);
        frame
    }

    fn udp(&mut self, to: Ipv4Addr, port: u16, len: usize) -> Vec<u8> {
        let length = ((8 + len) as u16).to_be_bytes();
        let port = port.to_be_bytes();
        let mut body = vec![0x12, 0x34, port[0], port[1], length[0], length[1], 0, 0];
        body.extend(self.bytes(len));
        let options: &[u8] = self.one_of(&[&[], &[], &[1, 1, 1, 0], &[0x94, 4, 0, 0]]);
        if self.below(3) == 0 {
            self.ipv4(17, to, options, &body)
        } else {
            self.with_checksum(17, to, options, body, 6)
        }
    }

    fn tcp(&mut self) -> Vec<u8> {
        let source = self.random.random_range(1_024..40_000u16).to_be_bytes();
        let port = self.one_of(&[ECHO, LISTENING, 4_000]).to_be_bytes();
        let mut body = [&source[..], &port, &self.bytes(8)].concat();
        let flags = if self.below(2) == 0 { 2 } else { self.random.random_range(0..=63u8) };
        let words = self.random.random_range(0..16u8);
        body.extend([words << 4, flags, 0x20, 0, 0, 0, 0, 0]);
        let len = self.below(100);
        body.extend(self.bytes(len));
        self.with_checksum(6, FAR, &[], body, 16)
    }

    fn icmp(&mut self) -> Vec<u8> {
        let kind = self.one_of(&[8, 8, 0, 3, 5, 13]);
        let len = self.one_of(&[8, 56, 1_400, 4_000, 9_000]);
        let mut body = [&[kind, 0, 0, 0][..], &self.bytes(len)].concat();
        let value = sum(&[&body]);
        body[2..4].copy_from_slice(&value.to_be_bytes());
        self.ipv4(1, FAR, &[], &body)
    }

    fn igmp(&mut self) -> Vec<u8> {
        let group = self.one_of(&[Ipv4Addr::UNSPECIFIED, *GROUP.ip(), NO_FCS]).octets();
        let kind = self.one_of(&[0x11, 0x12, 0x16, 0x17, 0x22]);
        let mut body = [kind, self.random.random_range(0..=255u8), 0, 0, group[0], group[1], group[2], group[3]];
        let value = sum(&[&body]);
        body[2..4].copy_from_slice(&value.to_be_bytes());
        let to = self.one_of(&[Ipv4Addr::new(224, 0, 0, 1), *GROUP.ip()]);
        self.ipv4(2, to, &[0x94, 4, 0, 0], &body)
    }

    fn arp(&mut self) -> Vec<u8> {
        let number = self.one_of(&[100, 101, 102, 103]);
        let to = self.one_of(&[mac(2).0, [0xFF; 6]]);
        let operation = self.one_of(&[1, 2, 3]);
        let mut frame = self.ethernet(to, [8, 6]);
        frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(mac(number).0);
        frame.extend([10, 0, 0, number]);
        frame.extend(to);
        frame.extend(FAR.octets());
        frame
    }

    fn well_formed(&mut self) -> Vec<u8> {
        let len = self.below(600);
        match self.below(10) {
            0 => self.udp(*GROUP.ip(), GROUP.port(), len),
            1 => self.udp(*GROUP.ip(), 1, len),
            2 => self.udp(Ipv4Addr::new(239, 129, 0, 2), GROUP.port(), len),
            3 => self.udp(NO_FCS, GROUP.port(), len),
            4 => self.udp(FAR, UDP_PORT, len),
            5 => self.udp(FAR, 10, len),
            6 => self.tcp(),
            7 => self.icmp(),
            8 => self.igmp(),
            _ => self.arp(),
        }
    }

    fn spoil(&mut self, mut frame: Vec<u8>) -> Vec<u8> {
        match self.below(9) {
            0 => {}
            1 => frame.truncate(self.random.random_range(0..=frame.len())),
            2 => {
                frame.truncate(self.random.random_range(14..=frame.len()));
                frame.resize(frame.len().max(60), 0);
            }
            3 => {
                for _ in 0..self.random.random_range(1..5) {
                    let at = self.below(frame.len());
                    frame[at] ^= self.random.random_range(1..=255u8);
                }
            }
            // Trailers, and frames longer than any device takes.
            4 => {
                let len = self.below(MAX_FRAME_LEN + 1_000);
                frame.extend(self.bytes(len));
            }
            5 => {
                let tag = self.bytes(2);
                frame.splice(12..12, [0x81, 0, tag[0], tag[1]]);
            }
            6 => {
                frame.splice(12..12, [0x81, 0, 0, 5, 0x81, 0, 0, 6]);
            }
            // Fragments, lengths that do not fit, with the header's checksum right.
            7 if frame[12..14] == [8, 0] => {
                frame[20] = self.random.random_range(0..=255u8);
                frame[21] = self.random.random_range(0..=255u8);
                fix_header(&mut frame);
            }
            8 if frame[12..14] == [8, 0] => {
                let at = self.one_of(&[14, 16, 17, 38, 39]);
                frame[at] = self.random.random_range(0..=255u8);
                fix_header(&mut frame);
            }
            _ => {}
        }
        if self.below(4) != 0 {
            frame.resize(frame.len().max(60), 0);
        }
        frame
    }
}

/// Sets the IPv4 header's checksum.
fn fix_header(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0xF) * 4;
    let Some(header) = frame.get_mut(14..end.max(34)) else { return };
    header[10..12].fill(0);
    let value = sum(&[header]);
    header[10..12].copy_from_slice(&value.to_be_bytes());
}

/// ARP that puts another station in the place of the good one: nothing in ARP can tell, so it is no bad frame.
fn is_forged(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 6]) && frame.get(28..32) == Some(&NEAR.octets())
}

struct End {
    model: Arc<Ixgbe82599>,
    port: Ixgbe,
    stack: Stack<Rx, Tx>,
    udp: UdpId,
}

impl End {
    fn open(model: Arc<Ixgbe82599>, ip: Ipv4Addr) -> Self {
        let config = Config { max_frame: MAX_FRAME_LEN as u16, ..Config::default() };
        let Station { model, port, queue } = Station::open(model, config);
        let identity = barewire_netstack::Config::new(port.mac(), ip, 24, SEED);
        let mut stack = Stack::new(queue, identity);
        let udp = stack.context(0).udp_bind(UDP_PORT).expect("a port");
        Self { model, port, stack, udp }
    }
}

/// Both ends, and what they have sent each other.
struct Rig {
    clock: SimulatedClock,
    near: End,
    far: End,
    connection: TcpId,
    feed: Messages,
    datagrams: Messages,
    stream: VecDeque<u8>,
    echoes: Messages,
}

impl Rig {
    /// Polls both ends until neither has anything left.
    fn settle(&mut self) {
        loop {
            let now = self.clock.now();
            let Self { near, far, connection, feed, stream, .. } = self;
            let handled = far.stack.poll(now, |cx, event| match event {
                Event::Multicast { datagram, .. } => feed.take(datagram.payload),
                Event::Tcp(id) => answer(cx, id),
                Event::Accepted { .. } | Event::TcpData { .. } => {}
            });
            let answered = near.stack.poll(now, |cx, event| {
                if matches!(event, Event::Tcp(id) if id == *connection) {
                    let received = cx.tcp_receive(*connection, |bytes| {
                        stream.extend(bytes);
                        bytes.len()
                    });
                    received.expect("the connection is open");
                }
            });
            let udp = far.udp;
            while far.stack.context(now).udp_receive(udp, |bytes, _| self.datagrams.take(bytes)) {}
            if handled.expect("no fault") + answered.expect("no fault") == 0 {
                break;
            }
        }
        while self.stream.len() >= 24 {
            let message: Vec<_> = self.stream.drain(..24).collect();
            assert_eq!(message, good(self.echoes.arrived + 1), "the stream is damaged");
            self.echoes.take(&message);
        }
    }

    fn advance(&mut self, ns: u64) {
        self.clock.advance_to(self.clock.now() + ns);
    }

    /// A feed datagram, a UDP datagram and a message over TCP, which comes back.
    fn send_good(&mut self, route: &Route) {
        let now = self.clock.now();
        let cx = self.near.stack.context(now);
        let mut datagram = cx.datagram(route).expect("a buffer");
        datagram.payload_mut()[..24].copy_from_slice(&self.feed.next());
        cx.send(datagram, 24).expect("room");
        cx.udp_send(self.near.udp, SocketAddrV4::new(FAR, UDP_PORT), &self.datagrams.next()).expect("room");
        cx.tcp_send_message(self.connection, &self.echoes.next()).expect("room");
        cx.flush();
        self.settle();
        // Where noise has pushed the neighbour out of smoltcp's table, the answer waits for ARP; it must come
        // nevertheless.
        for _ in 0..5_000 {
            if self.echoes.arrived == self.echoes.sent {
                break;
            }
            self.advance(1_000_000);
            self.settle();
        }
        let arrived = [self.feed.arrived, self.datagrams.arrived, self.echoes.arrived];
        assert_eq!(arrived, [self.feed.sent, self.datagrams.sent, self.echoes.sent], "feed, UDP, TCP");
    }
}

fn answer(cx: &mut Context<Tx>, id: TcpId) {
    let mut bytes = Vec::new();
    let received = cx.tcp_receive(id, |arrived| {
        bytes.extend_from_slice(arrived);
        arrived.len()
    });
    if received.is_ok() && !bytes.is_empty() {
        cx.tcp_send_message(id, &bytes).expect("room");
    }
}

#[test]
fn a_million_bad_frames_are_counted_by_cause_and_disturb_nothing() {
    eprintln!("seed {SEED}");
    let clock = SimulatedClock::default();
    let no_fcs = Impairment { corrupt_fcs: 1.0, ..Impairment::new("no FCS", Match::Group(NO_FCS)) };
    let config = WireConfig { impairments: vec![no_fcs], ..WireConfig::perfect(Delivery::Immediate) };
    let (near, far, wire) = models_with_tap(&clock, config);
    let (mut near, mut far) = (End::open(near, NEAR), End::open(far, FAR));

    for port in [ECHO, LISTENING] {
        far.stack.context(0).tcp_listen(Lane::Host, port, &TcpOptions::default()).unwrap();
    }
    far.stack.context(0).join(*GROUP.ip(), GROUP.port(), None).unwrap();
    for group in far.stack.context(0).group_macs().into_iter().chain([multicast_mac(NO_FCS)]) {
        far.port.join_multicast(group).unwrap();
    }
    let connection =
        near.stack.context(0).tcp_connect(Lane::Host, SocketAddrV4::new(FAR, ECHO), &TcpOptions::default()).unwrap();
    let messages = Messages::default;
    let mut rig = Rig {
        clock,
        near,
        far,
        connection,
        feed: messages(),
        datagrams: messages(),
        stream: VecDeque::new(),
        echoes: messages(),
    };
    while rig.near.stack.context(rig.clock.now()).tcp_state(connection) != TcpState::Established {
        rig.advance(1_000_000);
        rig.settle();
    }

    let mut noise = Noise { random: Pcg64::seed_from_u64(SEED), tap: Arc::clone(&wire) };
    let route = Route::new(mac(1), SocketAddrV4::new(NEAR, 1), GROUP, 1, None);
    let (mut sent, mut rounds) = (0, 0);
    while sent < FRAMES {
        // Half of the time the port takes frames that are none of its business.
        if rounds == FRAMES / ROUND / 2 {
            rig.far.port.set_promiscuous(true).unwrap();
        }
        let burst = if rounds % 500 == 499 { FLOOD } else { ROUND }.min(FRAMES - sent);
        for _ in 0..burst {
            wire.wire.transmit(PortId(0), &noise.frame());
        }
        sent += burst;
        rounds += 1;
        rig.advance(burst * 1_000);
        rig.settle();
        rig.send_good(&route);
    }

    let (near, mut far) = (rig.near.port.stats(), rig.far);
    let (port, refused, stack) = (far.port.stats(), far.model.refusals(), far.stack.stats());
    eprintln!("{rounds} rounds, {} echoes\n{port:?}\n{refused:?}\n{stack:?}", rig.echoes.arrived);
    let by_device = port.rx_missed + port.rx_crc_errors + port.rx_length_errors + refused.filtered;
    assert_eq!(sent + near.tx_frames, port.rx_frames + by_device, "between wire and driver");
    assert_eq!(stack.frames, port.rx_frames, "between driver and stack");
    // Taken apart field by field: a cause that is added must be added here.
    let Drops {
        truncated,
        bad_checksum,
        fragment,
        no_receiver,
        vlan,
        unknown_protocol,
        oversized,
        no_buffer,
        bad_igmp,
    } = stack.drops;
    let by_stack = truncated + bad_checksum + fragment + no_receiver + vlan + unknown_protocol + oversized + bad_igmp;
    let delivered = stack.lane_datagrams + stack.host_frames + stack.igmp_received;
    assert_eq!(stack.frames, delivered + by_stack, "inside the stack");
    assert_eq!(no_buffer, 0);
    assert_eq!(wire.wire.stats()[0].1.corrupted, port.rx_crc_errors);
    let seen = [truncated, bad_checksum, fragment, no_receiver, vlan, unknown_protocol, bad_igmp, stack.igmp_received];
    let refused = [port.rx_missed, port.rx_crc_errors, port.rx_length_errors, refused.filtered];
    assert!(seen.iter().chain(&refused).all(|count| *count > 500), "too few of a kind: {seen:?} {refused:?}");
}

/// Two models on a wire, with a tap where the first one is plugged in.
fn models_with_tap(clock: &SimulatedClock, config: WireConfig) -> (Arc<Ixgbe82599>, Arc<Ixgbe82599>, Arc<Tap>) {
    let clock = Clock::Simulated(clock.clone());
    let (near, far) = (Ixgbe82599::new(mac(1), clock.clone()), Ixgbe82599::new(mac(2), clock.clone()));
    let wire = Wire::join(clock, &[near.clone(), far.clone()], config).expect("a valid wire");
    let tap = Arc::new(Tap { wire: wire.clone(), segment: Mutex::default() });
    near.connect(tap.clone(), PortId(0));
    far.connect(wire, PortId(1));
    (near, far, tap)
}
