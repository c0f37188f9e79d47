//! The adapter without packetdrill: a peer of raw segments on the wire, and calls on two threads.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;

use barewire_netstack::Lane;

use super::*;
use crate::flags::Flags;
use crate::poll::Polled;
use crate::wire;

const LOCAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 0, 1), 8080);
const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 40_000);
const SECOND: Nanos = 1_000_000_000;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn simulation(lane: Lane) -> Simulation {
    let flags = Flags { lane, local: *LOCAL.ip(), timestamps: false };
    Simulation::new(World::new(&flags).expect("a stack"))
}

/// What a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    seq: u32,
    ack: u32,
    flags: u8,
    len: usize,
}

/// The other end of one connection.
struct Peer<'a> {
    simulation: &'a Simulation,
    /// What it sends next, and what it has received up to.
    seq: u32,
    ack: u32,
}

impl<'a> Peer<'a> {
    fn new(simulation: &'a Simulation) -> Self {
        Self { simulation, seq: 1000, ack: 0 }
    }

    fn send(&mut self, flags: u8, payload: &[u8]) {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
        packet.extend(PEER.ip().octets().iter().chain(&LOCAL.ip().octets()));
        packet.extend([PEER.port().to_be_bytes(), LOCAL.port().to_be_bytes()].concat());
        packet.extend([self.seq.to_be_bytes(), self.ack.to_be_bytes()].concat());
        packet.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
        packet.extend(payload);
        let total = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&total);
        wire::finish(&mut packet, 20);
        self.simulation.inject(&packet).expect("an IPv4 packet");
        self.seq += payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
    }

    /// The next segment of the stack's, and when it was sent.
    fn receive(&mut self) -> (Segment, Nanos) {
        let sent = self.simulation.next_sent().expect("a segment");
        let word = |at: usize| u32::from_be_bytes(sent.packet[at..at + 4].try_into().expect("four bytes"));
        let header_len = 20 + usize::from(sent.packet[32] >> 4) * 4;
        let segment =
            Segment { seq: word(24), ack: word(28), flags: sent.packet[33], len: sent.packet.len() - header_len };
        let len = segment.len as u32 + u32::from(segment.flags & (SYN | FIN) != 0);
        self.ack = segment.seq.wrapping_add(len);
        (segment, sent.at)
    }

    /// Opens the connection.
    fn connect(&mut self) {
        self.send(SYN, &[]);
        assert_eq!(self.receive().0.flags, SYN | ACK);
        self.send(ACK, &[]);
    }
}

/// A listening socket and one that it has accepted.
fn connected<'a>(simulation: &'a Simulation, peer: &mut Peer<'a>) -> (i32, i32) {
    let listener = simulation.socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP).expect("a socket");
    simulation.bind(listener, LOCAL).expect("a free port");
    simulation.listen(listener).expect("a listener");
    peer.connect();
    let (accepted, from) = simulation.accept(listener).expect("a connection");
    assert_eq!(from, PEER);
    (listener, accepted)
}

/// Lets other threads run until `count` of them wait.
fn await_waiting(simulation: &Simulation, count: usize) {
    while simulation.state.lock().expect("no panic").waiting.len() < count {
        thread::yield_now();
    }
}

fn now(simulation: &Simulation) -> Nanos {
    simulation.state.lock().expect("no panic").world.now()
}

#[test]
fn data_goes_both_ways_on_both_stacks() {
    for lane in [Lane::Express, Lane::Host] {
        let simulation = simulation(lane);
        let mut peer = Peer::new(&simulation);
        let (_, fd) = connected(&simulation, &mut peer);
        peer.send(ACK, b"request");
        assert_eq!(peer.receive().0.ack, peer.seq);
        let mut buffer = [0; 16];
        assert_eq!(simulation.receive(fd, &mut buffer, libc::MSG_PEEK), Ok(7));
        assert_eq!(simulation.receive(fd, &mut buffer, 0), Ok(7));
        assert_eq!(&buffer[..7], b"request");
        assert_eq!(simulation.transmit(fd, b"an answer", 0), Ok(9));
        assert_eq!(peer.receive().0.len, 9);
        peer.send(ACK | FIN, &[]);
        assert_eq!(peer.receive().0.ack, peer.seq);
        assert_eq!(simulation.receive(fd, &mut buffer, 0), Ok(0));
        simulation.close(fd).expect("an open socket");
        assert_eq!(peer.receive().0.flags & FIN, FIN);
    }
}

#[test]
fn blocked_call_returns_at_the_instant_of_the_segment() {
    let simulation = simulation(Lane::Express);
    let mut peer = Peer::new(&simulation);
    let (_, fd) = connected(&simulation, &mut peer);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let read = simulation.receive(fd, &mut [0; 16], 0);
            (read, simulation.read_clock())
        });
        await_waiting(&simulation, 1);
        simulation.sleep(SECOND);
        let sent_at = now(&simulation);
        peer.send(ACK, b"data");
        // The clock would run on at once; it waits for the reader.
        simulation.sleep(10 * SECOND);
        let (read, returned_at) = reader.join().expect("no panic");
        assert_eq!((read, returned_at), (Ok(4), sent_at));
    });
}

#[test]
fn blocked_call_returns_when_its_time_is_over() {
    let simulation = simulation(Lane::Express);
    let mut peer = Peer::new(&simulation);
    let (_, fd) = connected(&simulation, &mut peer);
    let begin = now(&simulation);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let ready = simulation.poll(&mut [Polled { fd, events: libc::POLLIN, ready: 0 }], 250);
            (ready, simulation.read_clock())
        });
        await_waiting(&simulation, 1);
        simulation.sleep(SECOND);
        assert_eq!(waiter.join().expect("no panic"), (Ok(0), begin + SECOND / 4));
    });
}

#[test]
fn call_that_waits_for_all_takes_what_comes() {
    let simulation = simulation(Lane::Express);
    let mut peer = Peer::new(&simulation);
    let (_, fd) = connected(&simulation, &mut peer);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buffer = [0; 8];
            let read = simulation.receive(fd, &mut buffer, libc::MSG_WAITALL);
            simulation.read_clock();
            (read, buffer)
        });
        await_waiting(&simulation, 1);
        peer.send(ACK, b"half");
        await_waiting(&simulation, 1);
        peer.send(ACK, b"full");
        assert_eq!(reader.join().expect("no panic"), (Ok(8), *b"halffull"));
    });
}

#[test]
fn scripts_own_thread_runs_the_clock_while_it_waits() {
    let simulation = simulation(Lane::Express);
    let begin = now(&simulation);
    let fd = simulation.socket(libc::AF_INET, libc::SOCK_STREAM, 0).expect("a socket");
    // Nobody answers the SYN (RFC 9293, MUST-23: three minutes).
    assert_eq!(simulation.connect(fd, PEER), Err(Errno::TIMEDOUT));
    assert_eq!((now(&simulation) - begin) / SECOND, 180);
}

#[test]
fn waiting_for_what_never_comes_ends() {
    let simulation = simulation(Lane::Express);
    let fd = simulation.socket(libc::AF_INET, libc::SOCK_STREAM, 0).expect("a socket");
    simulation.bind(fd, LOCAL).expect("a free port");
    simulation.listen(fd).expect("a listener");
    assert_eq!(simulation.accept(fd), Err(Errno::DEADLK));
    assert!(simulation.next_sent().is_none());
}

#[test]
fn timers_run_in_order_and_stamp_what_they_send() {
    let simulation = simulation(Lane::Express);
    let mut peer = Peer::new(&simulation);
    let (_, fd) = connected(&simulation, &mut peer);
    assert_eq!(simulation.transmit(fd, b"lost", 0), Ok(4));
    let (first, begin) = peer.receive();
    // All of it happens while the script sleeps.
    simulation.sleep(3600 * SECOND);
    let mut last = begin;
    for wait in [200, 400, 800, 1600] {
        let (again, at) = peer.receive();
        assert_eq!((again, (at - last) / 1_000_000), (first, wait));
        last = at;
    }
}

#[test]
fn reset_is_told_once() {
    for lane in [Lane::Express, Lane::Host] {
        let simulation = simulation(lane);
        let mut peer = Peer::new(&simulation);
        let (_, fd) = connected(&simulation, &mut peer);
        peer.send(RST | ACK, &[]);
        assert_eq!(simulation.receive(fd, &mut [0; 16], 0), Err(Errno::CONNRESET));
        assert_eq!(simulation.receive(fd, &mut [0; 16], 0), Ok(0));
        assert_eq!(simulation.transmit(fd, b"late", 0), Err(Errno::PIPE));
    }
}

#[test]
fn wrong_calls_fail_with_their_errors() {
    let simulation = simulation(Lane::Express);
    let fd = simulation.socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0).expect("a socket");
    let set = simulation.epoll_create().expect("a set");
    assert_eq!(simulation.socket(libc::AF_INET6, libc::SOCK_STREAM, 0), Err(Errno::AFNOSUPPORT));
    assert_eq!(simulation.socket(libc::AF_INET, libc::SOCK_DGRAM, 0), Err(Errno::PROTONOSUPPORT));
    assert_eq!(simulation.receive(fd, &mut [0; 16], 0), Err(Errno::NOTCONN));
    assert_eq!(simulation.receive(set, &mut [0; 16], 0), Err(Errno::NOTSOCK));
    assert_eq!(simulation.accept(fd), Err(Errno::INVAL));
    assert_eq!(simulation.bind(fd, SocketAddrV4::new(*PEER.ip(), 80)), Err(Errno::ADDRNOTAVAIL));
    assert_eq!(simulation.set_option(fd, libc::SOL_SOCKET, libc::SO_BROADCAST, &[0; 4]), Err(Errno::NOPROTOOPT));
    assert_eq!(simulation.set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &[0; 2]), Err(Errno::INVAL));
    assert_eq!(simulation.close(fd), Ok(()));
    assert_eq!(simulation.close(fd), Err(Errno::BADF));
    assert_eq!(simulation.receive(fd, &mut [0; 16], 0), Err(Errno::BADF));
}
