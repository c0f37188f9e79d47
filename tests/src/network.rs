//! Stacks on queues in memory, joined by a network in virtual time with seeded mishaps. One thread; a seed repeats a run to the byte.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use barewire_driver::clock::Nanos;
use barewire_driver::pool::Pool;
use barewire_driver::soft::{FrameIo, Rx, SoftPort, Tx};
use barewire_driver::{Port, PortConfig, RxQueue};
use barewire_netstack::{Config, Context, Event, Stack, TcpConfig, TcpUsage};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::rig::mac;

/// The addresses of the two hosts.
pub const IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

/// Frames on their way into a host, and out of it.
#[derive(Clone, Default)]
pub struct Line(Arc<Mutex<Frames>>);

#[derive(Default)]
struct Frames {
    arriving: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

impl Line {
    fn with<R>(&self, what: impl FnOnce(&mut Frames) -> R) -> R {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The host will receive `frame`.
    pub fn arrive(&self, frame: Vec<u8>) {
        self.with(|frames| frames.arriving.push_back(frame));
    }

    /// What the host has sent since this was last asked.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.with(|frames| std::mem::take(&mut frames.sent))
    }
}

impl FrameIo for Line {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(self.with(|frames| frames.arriving.pop_front()).map(|frame| {
            buffer[..frame.len()].copy_from_slice(&frame);
            frame.len()
        }))
    }

    fn send(&self, frame: &[u8]) -> io::Result<bool> {
        self.with(|frames| frames.sent.push(frame.to_vec()));
        Ok(true)
    }
}

/// A stack over a line.
pub struct Host {
    /// The stack.
    pub stack: Stack<Rx<Line>, Tx<Line>>,
    /// Its line.
    pub line: Line,
    /// Its packet buffers.
    pool: Pool,
    _port: SoftPort<Line>,
}

impl Host {
    /// A host at `ip`, with a transmit ring of `tx_descriptors` and as many buffers as `tcp` may hold.
    ///
    /// # Panics
    /// When there is no memory for it.
    pub fn new(ip: Ipv4Addr, tcp: TcpConfig, tx_descriptors: u32) -> Self {
        let line = Line::default();
        let queues = PortConfig {
            tx_descriptors,
            kept_frames: tcp.kept_segments,
            retained_frames: tcp.sent_segments,
            ..PortConfig::default()
        };
        let mac = mac(ip.octets()[3]);
        let mut port = SoftPort::new("memory".into(), mac, line.clone(), queues).expect("a port in memory");
        let pair = port.open_queue(0).expect("its queue");
        let pool = pair.rx.pool().clone();
        let stack = Stack::new(pair, Config { tcp, ..Config::new(mac, ip, 24, 1) });
        Self { stack, line, pool, _port: port }
    }

    /// The sending half.
    pub fn context(&mut self, now: Nanos) -> &mut Context<Tx<Line>> {
        self.stack.context(now)
    }

    /// Packet buffers that somebody holds, beside the one that the queue receives into.
    pub fn buffers_held(&self) -> usize {
        self.pool.capacity() - self.pool.available() - 1
    }

    /// Fails unless the lane and the pool are as they were when the stack was made, and no timer runs.
    ///
    /// # Panics
    /// When something is left.
    pub fn assert_nothing_left(&mut self, now: Nanos) {
        assert_eq!(self.context(now).tcp_usage(), TcpUsage::default(), "the lane holds something");
        assert_eq!(self.buffers_held(), 0, "packet buffers are held");
        assert_eq!(self.stack.next_deadline(now), None, "a timer is left");
    }
}

/// How likely each mishap is, in thousandths, and how long frames take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// The frame vanishes.
    pub loss: u32,
    /// It arrives twice.
    pub duplicate: u32,
    /// It is held back by up to ten times the delay, so that later ones pass it.
    pub reorder: u32,
    /// A bit behind the Ethernet header changes: checksums must tell. TCP only, for ARP has none.
    pub corrupt: u32,
    /// How long every frame takes, nanoseconds.
    pub delay: Nanos,
    /// Up to so much more, nanoseconds.
    pub jitter: Nanos,
}

/// A frame on its way: when it is there, when it was sent among others, to which host, its bytes.
type Flight = Reverse<(Nanos, u64, usize, Vec<u8>)>;

/// Two hosts and what is between them.
pub struct Network {
    /// The hosts, at [`IPS`].
    pub hosts: [Host; 2],
    /// The time.
    pub now: Nanos,
    /// What the network does to frames.
    pub weather: Weather,
    /// Chance, for the network and whoever uses it.
    pub random: Pcg64Mcg,
    flights: BinaryHeap<Flight>,
    sequence: u64,
}

impl Network {
    /// Two new hosts.
    pub fn new(seed: u64, tcp: TcpConfig, tx_descriptors: u32) -> Self {
        Self {
            hosts: IPS.map(|ip| Host::new(ip, tcp, tx_descriptors)),
            now: 1_000_000_000,
            weather: Weather::default(),
            random: Pcg64Mcg::seed_from_u64(seed),
            flights: BinaryHeap::new(),
            sequence: 0,
        }
    }

    /// Whether something happens that happens so many times in a thousand.
    fn chance(&mut self, thousandths: u32) -> bool {
        self.random.random_range(0..1000) < thousandths
    }

    fn launch(&mut self, from: usize, mut frame: Vec<u8>) {
        let weather = self.weather;
        if self.chance(weather.loss) {
            return;
        }
        let copies = 1 + usize::from(self.chance(weather.duplicate));
        if self.chance(weather.corrupt) && frame.get(23) == Some(&6) {
            let at = self.random.random_range(14..frame.len());
            frame[at] ^= 1 << self.random.random_range(0..8u8);
        }
        for _ in 0..copies {
            let late = if self.chance(weather.reorder) { self.random.random_range(0..=10 * weather.delay) } else { 0 };
            let there = self.now + weather.delay + late + self.random.random_range(0..=weather.jitter);
            self.flights.push(Reverse((there, self.sequence, 1 - from, frame.clone())));
            self.sequence += 1;
        }
    }

    /// Polls both hosts, and puts what they sent on its way unless `take` keeps it. Events go to `handler`, with the number of the host.
    ///
    /// # Panics
    /// When a queue fails.
    pub fn poll(
        &mut self,
        mut take: impl FnMut(Nanos, usize, &[u8]) -> bool,
        mut handler: impl FnMut(usize, &mut Context<Tx<Line>>, Event<'_>),
    ) {
        for from in 0..2 {
            let Host { stack, line, .. } = &mut self.hosts[from];
            while stack.poll(self.now, |cx, event| handler(from, cx, event)).expect("memory has no faults") > 0 {}
            for frame in line.sent() {
                if !take(self.now, from, &frame) {
                    self.launch(from, frame);
                }
            }
        }
    }

    /// Goes to the time when the next thing happens, which is to be polled for then. `false` when nothing will happen any more.
    pub fn advance(&mut self) -> bool {
        let arrival = self.flights.peek().map(|Reverse((at, ..))| *at);
        let due = self.hosts.iter().filter_map(|host| host.stack.next_deadline(self.now)).min();
        let Some(next) = arrival.into_iter().chain(due).min() else { return false };
        self.now = self.now.max(next);
        while self.flights.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
            let Some(Reverse((_, _, to, frame))) = self.flights.pop() else { break };
            self.hosts[to].line.arrive(frame);
        }
        true
    }

    /// Lets everything happen that still will, at most until `end`.
    pub fn settle(&mut self, end: Nanos) {
        self.poll(|_, _, _| false, |_, _, _| {});
        while self.now < end && self.advance() {
            self.poll(|_, _, _| false, |_, _, _| {});
        }
    }
}
