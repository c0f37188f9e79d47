//! Floods of SYNs and of ARP requests from addresses that nobody has: a session that stands is not disturbed, what is held is bounded, and each
//! stranger is counted under its name.

use std::net::{Ipv4Addr, SocketAddrV4};

use barewire_driver::clock::Nanos;
use barewire_driver::soft::Tx;
use barewire_netstack::wire::flag;
use barewire_netstack::{Context, Event, Lane, TcpConfig, TcpId, TcpOptions, TcpState};
use barewire_tests::network::{IPS, Line, Network, Weather};
use barewire_tests::rig::mac;

const PORT: u16 = 7000;
const MICROSECOND: Nanos = 1000;
const FRAMES: u32 = 100_000;
/// Strangers between two messages of the session.
const BETWEEN: u32 = 10;
const SIZES: TcpConfig = TcpConfig { sessions: 40, half_open: 8, sent_segments: 32, kept_segments: 32 };

/// The sum of RFC 1071 over `parts`, complemented.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut total = 0u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while total >> 16 != 0 {
        total = (total & 0xFFFF) + (total >> 16);
    }
    (!(total as u16)).to_be_bytes()
}

/// A host on the link, of which there are many.
fn stranger(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 10)) + number % 240)
}

/// A SYN to the listener, from another port and address each time.
fn syn(number: u32) -> Vec<u8> {
    let (from, to, port) = (stranger(number).octets(), IPS[1].octets(), (1024 + number % 60_000) as u16);
    let mut frame =
        [&mac(2).0[..], &mac(9).0, &[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0], &from, &to].concat();
    let sum = checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum);
    frame.extend([port.to_be_bytes(), PORT.to_be_bytes()].concat());
    frame.extend(number.wrapping_mul(0x9E37_79B9).to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, flag::SYN, 0xFF, 0xFF, 0, 0, 0, 0]);
    let sum = checksum(&[&from, &to, &[0, 6, 0, 20], &frame[34..54]]);
    frame[50..52].copy_from_slice(&sum);
    frame.resize(60, 0);
    frame
}

/// A stranger asks for the host's station address (RFC 826).
fn arp(number: u32) -> Vec<u8> {
    let station = [2, 9, 9, 9, (number >> 8) as u8, number as u8];
    let head = [&[0xFF; 6][..], &station, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    let mut frame = [&head[..], &station, &stranger(number).octets(), &[0; 6], &IPS[1].octets()].concat();
    frame.resize(60, 0);
    frame
}

/// A session in use, between the frames of strangers.
struct Session {
    network: Network,
    ids: [TcpId; 2],
    /// Messages that arrived at the flooded host.
    arrived: u64,
}

impl Session {
    fn open() -> Self {
        let mut network = Network::new(1, SIZES, 64);
        network.weather = Weather { delay: 10 * MICROSECOND, ..Weather::default() };
        let (now, options) = (network.now, TcpOptions::default());
        network.hosts[1].context(now).tcp_listen(Lane::Express, PORT, &options).expect("a free port");
        let remote = SocketAddrV4::new(IPS[1], PORT);
        let near = network.hosts[0].context(now).tcp_connect(Lane::Express, remote, &options).expect("a session");
        let mut far = None;
        while far.is_none() {
            let accept = |_: usize, _: &mut Context<Tx<Line>>, event: Event<'_>| {
                if let Event::Accepted { id, .. } = event {
                    far = Some(id);
                }
            };
            network.poll(|_, _, _| false, accept);
            assert!(far.is_some() || network.advance(), "no connection");
        }
        Self { network, ids: [near, far.expect("accepted")], arrived: 0 }
    }

    /// What the session has not to do with leaves the flooded host and arrives nowhere.
    fn poll(&mut self) {
        let is_ours = |frame: &[u8]| frame[..6] == mac(1).0 || frame[..6] == mac(2).0;
        self.network.poll(|_, _, frame| !is_ours(frame), |_, _, _| {});
    }

    /// Sends a message through `FRAMES` frames of a flood, again and again; each arrives before the next, and none is sent twice.
    fn flood(&mut self, frame: fn(u32) -> Vec<u8>) {
        let mut messages = 0;
        for number in 0..FRAMES {
            self.network.hosts[1].line.arrive(frame(number));
            if number % BETWEEN == 0 {
                let cx = self.network.hosts[0].context(self.network.now);
                cx.tcp_send_message(self.ids[0], &number.to_be_bytes()).expect("room");
                cx.flush();
                messages += 1;
            }
            self.poll();
            // The half-open give way by their number, and not by their age.
            self.network.now += MICROSECOND;
            if number % BETWEEN == BETWEEN - 1 {
                let end = self.network.now + 30 * MICROSECOND;
                while self.network.now < end && self.network.advance() {
                    self.poll();
                }
                let cx = self.network.hosts[1].context(self.network.now);
                let mut read = Vec::new();
                cx.tcp_receive(self.ids[1], |bytes| {
                    read.extend_from_slice(bytes);
                    bytes.len()
                })
                .expect("it is open");
                assert_eq!(read, (number + 1 - BETWEEN).to_be_bytes(), "the session was disturbed");
                self.arrived += 1;
                let usage = self.network.hosts[1].context(self.network.now).tcp_usage();
                assert!(usage.sessions <= 1 + SIZES.half_open, "{usage:?}");
            }
        }
        assert_eq!(self.arrived, messages);
        for (host, id) in self.network.hosts.iter_mut().zip(self.ids) {
            let cx = host.context(self.network.now);
            assert_eq!(cx.tcp_state(id), TcpState::Established);
            assert_eq!(cx.tcp_report(id).expect("a session").retransmits.total(), 0, "the session had to repeat");
        }
    }
}

#[test]
fn syn_flood_disturbs_nobody() {
    let mut session = Session::open();
    session.flood(syn);
    let stats = session.network.hosts[1].context(session.network.now).tcp_stats();
    println!("{FRAMES} SYNs: {} half-open gave way, {} found no session", stats.half_open_evicted, stats.syn_dropped);
    assert_eq!(stats.accepted, 1);
    assert!(stats.half_open_evicted + stats.syn_dropped + u64::from(SIZES.half_open) >= u64::from(FRAMES));
}

#[test]
fn arp_flood_disturbs_nobody() {
    let mut session = Session::open();
    session.flood(arp);
    let host = &mut session.network.hosts[1];
    let held = host.buffers_held();
    let neighbours = host.context(session.network.now).neighbours().stats();
    println!("{FRAMES} ARP requests: {held} buffers held, {neighbours:?}");
    assert!(held <= 1, "{held} buffers are held");
    let known =
        (0..240).filter(|number| host.context(session.network.now).neighbours().lookup(stranger(*number)).is_some());
    assert_eq!(known.count(), 0, "strangers fill the table");
    assert!(host.stack.stats().host_frames >= u64::from(FRAMES), "ARP is the host stack's");
}
