//! Two ends of our own on a wire with a delay, that may lose.

use super::*;
use crate::tcp::TcpEnd;

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORT: u16 = 7000;

/// A frame on its way: when it is there, and to which end.
type Flight = (Nanos, usize, Vec<u8>);

/// Given the end a frame comes from, and the frame.
type Passes = Box<dyn FnMut(usize, &[u8]) -> bool>;

pub(super) struct Pair {
    pub ends: [End; 2],
    pub now: Nanos,
    pub delay: Nanos,
    flights: Vec<Flight>,
    /// Decides what becomes of the frame with this number: `false` loses it.
    pub passes: Passes,
}

impl Pair {
    pub fn new(config: TcpConfig) -> Self {
        let ends = [A, B].map(|ip| End::new(ip, config));
        let now = SECOND;
        Self { ends, now, delay: 10 * MICROSECOND, flights: Vec::new(), passes: Box::new(|_, _| true) }
    }

    /// Polls both ends and puts what they send on the wire.
    fn poll(&mut self) {
        for from in 0..2 {
            self.ends[from].poll(self.now);
            self.ends[from].check();
            for frame in self.ends[from].medium.sent() {
                if (self.passes)(from, &frame) {
                    self.flights.push((self.now + self.delay, 1 - from, frame));
                }
            }
        }
    }

    /// Goes on to what happens next. `false` when nothing will.
    fn step(&mut self) -> bool {
        self.poll();
        let arrival = self.flights.iter().map(|(at, ..)| *at).min();
        let due = self.ends.iter().filter_map(|end| end.tcp.deadline(self.now)).min();
        let Some(next) = arrival.into_iter().chain(due).min() else { return false };
        self.now = next.max(self.now);
        let (there, flying) = std::mem::take(&mut self.flights).into_iter().partition(|(at, ..)| *at <= self.now);
        self.flights = flying;
        let there: Vec<Flight> = there;
        for (_, to, frame) in there {
            self.ends[to].medium.arrive(frame);
        }
        self.poll();
        true
    }

    fn run(&mut self, what: &str, mut until: impl FnMut(&mut Self) -> bool) {
        for _ in 0..1_000_000 {
            if until(self) {
                return;
            }
            assert!(self.step(), "{what}: nothing will happen any more");
        }
        panic!("{what}: still not");
    }

    pub fn open(&mut self, options: &TcpOptions) -> [SessionId; 2] {
        self.ends[1].tcp.listen(PORT, options).unwrap();
        let a = self.ends[0].connect(self.now, SocketAddrV4::new(B, PORT), options);
        self.run("open", |pair| !pair.ends[1].accepted.is_empty());
        let b = self.ends[1].accepted[0];
        assert_eq!((self.ends[0].state(a), self.ends[1].state(b)), (TcpState::Established, TcpState::Established));
        [a, b]
    }

    /// Sends `len` bytes from one end to the other and compares them.
    pub fn transfer(&mut self, from: usize, ids: [SessionId; 2], len: usize) {
        let data: Vec<u8> = (0..len).map(|n| (n * n / 251) as u8).collect();
        let (mut sent, mut received) = (0, Vec::new());
        self.run("transfer", |pair| {
            match pair.ends[from].send(pair.now, ids[from], &data[sent..(sent + 20_000).min(len)]) {
                Ok(more) => sent += more,
                Err(TcpError::NoRoom { .. } | TcpError::TooManySegments) => {}
                Err(error) => panic!("{error} after {sent}"),
            }
            received.extend(pair.ends[1 - from].read(ids[1 - from]));
            received.len() == len
        });
        assert!(received == data);
    }

    /// Closes both, one after the other, and waits until nothing is left.
    pub fn finish(&mut self, ids: [SessionId; 2]) {
        for (end, id) in ids.into_iter().enumerate() {
            let now = self.now;
            self.ends[end].read(id);
            self.ends[end].close(now, id);
            self.ends[end].release(now, id);
        }
        while self.step() {}
        assert!(self.ends.iter_mut().all(End::is_empty), "something is left");
    }
}

#[test]
fn connection_opens_carries_both_ways_and_leaves_nothing() {
    let mut pair = Pair::new(TcpConfig::default());
    let ids = pair.open(&TcpOptions::default());
    pair.transfer(0, ids, 300_000);
    pair.transfer(1, ids, 300_000);
    let report = pair.ends[0].tcp.report(ids[0]).unwrap();
    assert_eq!((report.bytes_sent, report.bytes_received), (300_000, 300_000));
    assert!(report.srtt >= 20 * MICROSECOND && report.srtt < 30 * MICROSECOND, "{report:?}");
    assert_eq!(report.retransmits, Default::default());
    pair.finish(ids);
}

#[test]
fn every_tenth_frame_lost_both_ways_and_all_arrives() {
    for options in [
        TcpOptions::default(),
        TcpOptions { timestamps: true, receive_window: 1 << 20, ..TcpOptions::default() },
        TcpOptions { congestion: false, rto_min: MILLISECOND, ..TcpOptions::default() },
    ] {
        let mut pair = Pair::new(TcpConfig::default());
        let ids = pair.open(&options);
        let mut count = 0u32;
        pair.passes = Box::new(move |_, _| {
            count += 1;
            !count.is_multiple_of(10)
        });
        pair.transfer(0, ids, 1_000_000);
        pair.transfer(1, ids, 1_000_000);
        pair.finish(ids);
    }
}

#[test]
fn lost_tail_is_probed_within_two_round_trips() {
    let mut pair = Pair::new(TcpConfig::default());
    let ids = pair.open(&TcpOptions { peer_ack_delay: 0, ..TcpOptions::default() });
    pair.transfer(0, ids, 10_000);
    let start = pair.now;
    let mut dropped = false;
    pair.passes =
        Box::new(move |from, frame| !(from == 0 && frame.len() > 60 && !std::mem::replace(&mut dropped, true)));
    pair.transfer(0, ids, 100);
    assert!(pair.now - start < 100 * MICROSECOND, "{} ns", pair.now - start);
    assert_eq!(pair.ends[0].tcp.report(ids[0]).unwrap().retransmits.probe, 1);
    pair.passes = Box::new(|_, _| true);
    pair.finish(ids);
}

#[test]
fn peer_that_falls_silent_is_given_up_in_time() {
    let mut pair = Pair::new(TcpConfig::default());
    let ids = pair.open(&TcpOptions { user_timeout: Some(5 * SECOND), ..TcpOptions::default() });
    pair.passes = Box::new(|_, _| false);
    let now = pair.now;
    pair.ends[0].send(now, ids[0], b"hello").unwrap();
    pair.run("time-out", |pair| pair.ends[0].state(ids[0]) == TcpState::Closed);
    assert_eq!(pair.ends[0].tcp.end(ids[0]), Some(TcpEnd::TimedOut));
    assert!((4 * SECOND..7 * SECOND).contains(&(pair.now - now)), "{}", pair.now - now);
}

/// Who finds all of the lane's segments taken by others hears when some have come free, though nothing of its own is on the way.
#[test]
fn user_hears_when_segments_come_free() {
    let mut pair = Pair::new(TcpConfig { sent_segments: 4, ..TcpConfig::default() });
    let ids = pair.open(&TcpOptions::default());
    let other = pair.ends[0].connect(pair.now, SocketAddrV4::new(B, PORT), &TcpOptions::default());
    pair.run("open", |pair| pair.ends[1].accepted.len() == 2);
    let now = pair.now;
    for _ in 0..4 {
        pair.ends[0].send(now, ids[0], b"one").unwrap();
    }
    assert_eq!(pair.ends[0].send(now, other, b"x"), Err(TcpError::TooManySegments));
    pair.ends[0].news.clear();
    pair.run("news", |pair| pair.ends[0].news.contains(&other));
    assert!(pair.now - now <= 200 * MICROSECOND, "{} ns", pair.now - now);
    assert_eq!(pair.ends[0].send(pair.now, other, b"x"), Ok(1));
    let (now, accepted) = (pair.now, pair.ends[1].accepted[1]);
    pair.ends[0].release(now, other);
    pair.ends[1].release(now, accepted);
    pair.finish(ids);
}
