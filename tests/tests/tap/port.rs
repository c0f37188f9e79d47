//! The port itself, under the test's own hands.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use barewire_driver::soft::{Config, SoftPort};
use barewire_driver::tap::{self, Tap};
use barewire_driver::{ChecksumOffload, Link, MacAddress, Port, PortEvent, RxQueue, TxMeta, TxQueue};

use super::linux::{add_tap, eventually, in_own_network, ip, station, sum};
use super::{LIMIT, LINUX, OURS};

fn open() -> SoftPort<Tap> {
    tap::open("bw0", Config::default()).unwrap()
}

fn parse(station: &str) -> MacAddress {
    let bytes: Vec<u8> = station.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    MacAddress(bytes.try_into().unwrap())
}

/// UDP from us to Linux, with everything in it but the checksums: the pseudo-header's sum stands in UDP's.
fn datagram(from: MacAddress, to: MacAddress, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16 + 8).to_be_bytes();
    let total = (payload.len() as u16 + 28).to_be_bytes();
    let pseudo = sum(&[&OURS.octets()[..], &LINUX.octets(), &[0, 17], &len].concat()).to_be_bytes();
    let ip = [&[0x45, 0], &total[..], &[0, 0, 0, 0, 64, 17, 0, 0], &OURS.octets(), &LINUX.octets()].concat();
    let udp = [&[0, 9], &port.to_be_bytes()[..], &len, &pseudo].concat();
    [&to.0[..], &from.0, &[8, 0], &ip, &udp, payload].concat()
}

#[test]
fn linux_accepts_the_checksums_that_are_finished_on_the_way_out() {
    in_own_network("checksums of a TAP port", || {
        add_tap("bw0", LINUX);
        let mut port = open();
        let mut pair = port.open_queue(0).unwrap();
        let theirs = parse(&station("bw0"));
        assert_ne!(port.mac(), theirs);
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let to = socket.local_addr().unwrap().port();
        // Odd and even lengths, padded and not.
        for len in [0, 1, 17, 18, 64, 1471, 1472] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8 ^ 0x5A).collect();
            let frame = datagram(port.mac(), theirs, to, &payload);
            let mut buffer = pair.tx.reserve().unwrap();
            buffer[..frame.len()].copy_from_slice(&frame);
            let meta = TxMeta {
                len: frame.len() as u16,
                checksum: ChecksumOffload::Ipv4Udp,
                l2_len: 14,
                l3_len: 20,
                vlan: None,
            };
            assert!(pair.tx.commit(buffer, meta).is_ok());
            pair.tx.flush();
            let mut received = [0; 2048];
            let (len, from) = socket.recv_from(&mut received).expect("Linux takes it");
            assert_eq!((&received[..len], from), (&payload[..], SocketAddrV4::new(OURS, 9).into()));
        }
        port.close_queue(pair).unwrap();
    });
}

#[test]
fn interrupt_comes_with_a_frame_and_stays_until_it_is_received() {
    in_own_network("interrupts of a TAP port", || {
        add_tap("bw0", LINUX);
        let mut port = open();
        let mut pair = port.open_queue(0).unwrap();
        ip(&format!("neighbour add {OURS} lladdr {} dev bw0", port.mac()));
        let interrupt = port.interrupt(0).unwrap();
        // What Linux sends by itself when an interface comes up.
        eventually("silence", || {
            pair.rx.poll(u32::MAX, |_| {}).unwrap();
            (!interrupt.wait(Duration::from_millis(200)).unwrap()).then_some(())
        });
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        socket.send_to(b"tick", (OURS, 9)).unwrap();
        pair.rx.arm_interrupt();
        assert!(interrupt.wait(LIMIT).unwrap() && interrupt.wait(Duration::ZERO).unwrap());
        let mut payloads = Vec::new();
        pair.rx.poll(u32::MAX, |frame| payloads.push(frame.bytes()[42..46].to_vec())).unwrap();
        assert_eq!(payloads, [b"tick"]);
        assert!(!interrupt.wait(Duration::ZERO).unwrap());
        rustix::io::write(interrupt.event().unwrap(), &1u64.to_ne_bytes()).unwrap();
        assert!(interrupt.wait(LIMIT).unwrap() && !interrupt.wait(Duration::ZERO).unwrap());
    });
}

#[test]
fn frames_wait_while_the_interface_is_down() {
    in_own_network("a TAP port without link", || {
        add_tap("bw0", LINUX);
        let mut port = open();
        let mut pair = port.open_queue(0).unwrap();
        let socket = UdpSocket::bind((LINUX, 0)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let notice = |port: &mut SoftPort<Tap>| {
            let mut events = Vec::new();
            port.service(0, &mut |event| events.push(event)).unwrap();
            events
        };
        assert_eq!(notice(&mut port), []);
        ip("link set bw0 down");
        assert_eq!(notice(&mut port), [PortEvent::Link(Link::Down)]);
        let to = socket.local_addr().unwrap().port();
        for number in 0..3 {
            let frame = datagram(port.mac(), parse(&station("bw0")), to, &[number; 20]);
            let mut buffer = pair.tx.reserve().unwrap();
            buffer[..frame.len()].copy_from_slice(&frame);
            let checksum = ChecksumOffload::Ipv4Udp;
            let meta = TxMeta { len: frame.len() as u16, checksum, l2_len: 14, l3_len: 20, vlan: None };
            assert!(pair.tx.commit(buffer, meta).is_ok());
            pair.tx.flush();
        }
        assert_eq!((port.stats().tx_frames, pair.tx.reclaim()), (0, 0));
        ip("link set bw0 up");
        assert_eq!(notice(&mut port), [PortEvent::Link(Link::Up { speed_mbps: 0 })]);
        pair.rx.poll(1, |_| {}).unwrap();
        for number in 0..3 {
            let mut payload = [0; 64];
            assert_eq!(socket.recv(&mut payload).unwrap(), 20);
            assert_eq!(payload[0], number, "in order");
        }
        assert_eq!((port.stats().tx_frames, pair.tx.reclaim()), (3, 3));
    });
}

#[test]
fn two_ports_on_two_interfaces_have_different_addresses() {
    in_own_network("addresses of TAP ports", || {
        add_tap("bw0", LINUX);
        add_tap("bw1", Ipv4Addr::new(10, 9, 1, 1));
        let macs = ["bw0", "bw1"].map(|name| tap::open(name, Config::default()).unwrap().mac());
        assert_ne!(macs[0], macs[1]);
        assert!(macs.iter().all(|mac| !mac.is_group() && mac.0[0] & 2 == 2), "locally administered");
        assert_eq!(open().mac(), macs[0], "the same again");
    });
}
