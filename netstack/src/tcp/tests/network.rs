//! Two ends of our own over a network that loses, doubles, delays and reorders: every stream arrives whole, in order, and ends.

use proptest::prelude::*;

use super::*;

const PORT: u16 = 7000;
const IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

/// What the network does, in percent, and how long it takes.
#[derive(Debug, Clone, Copy)]
struct Weather {
    loss: u32,
    doubles: u32,
    delay: Nanos,
    jitter: Nanos,
}

#[derive(Debug, Clone, Copy)]
struct Behaviour {
    options: TcpOptions,
    /// Bytes that each end sends, and how many it writes and reads at a time.
    bytes: [usize; 2],
    write: usize,
    read: usize,
    /// The order of closing.
    first_closer: usize,
}

fn weather() -> impl Strategy<Value = Weather> {
    let delays = prop_oneof![1_000u64..100_000, 1_000_000u64..50_000_000];
    (0u32..25, 0u32..20, delays, prop_oneof![Just(0), 1u64..20_000_000])
        .prop_map(|(loss, doubles, delay, jitter)| Weather { loss, doubles, delay, jitter })
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let options = (any::<[bool; 3]>(), 536u16..1460, 2000u32..200_000, prop_oneof![Just(0), Just(40 * MILLISECOND)]);
    let options = options.prop_map(|([timestamps, congestion, is_quick], mss, receive_window, ack_delay)| TcpOptions {
        timestamps,
        congestion,
        mss,
        receive_window,
        ack_delay,
        rto_min: if is_quick { MILLISECOND } else { 200 * MILLISECOND },
        user_timeout: Some(100_000 * SECOND),
        ..TcpOptions::default()
    });
    (options, [0usize..60_000, 0usize..60_000], 1usize..5000, 1usize..5000, 0usize..2)
        .prop_map(|(options, bytes, write, read, first_closer)| Behaviour { options, bytes, write, read, first_closer })
}

struct Network {
    ends: [End; 2],
    now: Nanos,
    weather: Weather,
    /// Frames on their way: when each is there, and to which end.
    flights: Vec<(Nanos, usize, Vec<u8>)>,
    random: u64,
}

impl Network {
    fn new(weather: Weather, seed: u64) -> Self {
        let config = TcpConfig { sessions: 4, sent_segments: 128, kept_segments: 128, ..TcpConfig::default() };
        let ends = IPS.map(|ip| End::with_ring(ip, config, 128));
        Self { ends, now: SECOND, weather, flights: Vec::new(), random: seed | 1 }
    }

    /// A number below `limit` (xorshift).
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if limit == 0 { 0 } else { self.random % limit }
    }

    fn poll(&mut self) {
        for from in 0..2 {
            self.ends[from].poll(self.now);
            self.ends[from].check();
            for frame in self.ends[from].medium.sent() {
                let copies = 1 + u64::from(self.below(100) < self.weather.doubles.into());
                for _ in 0..copies {
                    if self.below(100) >= self.weather.loss.into() {
                        let there = self.now + self.weather.delay + self.below(self.weather.jitter);
                        self.flights.push((there, 1 - from, frame.clone()));
                    }
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
        for at in (0..self.flights.len()).rev() {
            if self.flights[at].0 <= self.now {
                let (_, to, frame) = self.flights.swap_remove(at);
                self.ends[to].medium.arrive(frame);
            }
        }
        self.poll();
        true
    }

    fn transfer(&mut self, ids: [SessionId; 2], behaviour: &Behaviour) {
        let data = behaviour.bytes.map(|len| (0..len).map(|n| (n * n / 251 + n) as u8).collect::<Vec<_>>());
        let (mut sent, mut received, mut is_closed) = ([0; 2], [vec![], vec![]], [false; 2]);
        for _ in 0..2_000_000 {
            for (end, id) in ids.into_iter().enumerate() {
                let rest = &data[end][sent[end]..];
                match self.ends[end].send(self.now, id, &rest[..rest.len().min(behaviour.write)]) {
                    Ok(more) => sent[end] += more,
                    Err(TcpError::NoRoom { .. } | TcpError::TooManySegments | TcpError::Busy(_)) => {}
                    Err(TcpError::NotOpen(_)) if is_closed[end] => {}
                    Err(error) => panic!("{error} after {}", sent[end]),
                }
                let bytes = self.ends[end].tcp.peek(id);
                let len = bytes.len().min(behaviour.read);
                received[end].extend_from_slice(&bytes[..len]);
                self.ends[end].tcp.consume(id, len);
                let is_turn = end == behaviour.first_closer || is_closed[1 - end];
                if sent[end] == data[end].len() && is_turn && !is_closed[end] {
                    is_closed[end] = true;
                    self.ends[end].close(self.now, id);
                }
            }
            let is_over = |end: &End, id| matches!(end.state(id), TcpState::TimeWait | TcpState::Closed);
            let is_read = [0, 1].iter().all(|end| self.ends[*end].tcp.peek(ids[*end]).is_empty());
            if is_over(&self.ends[0], ids[0]) && is_over(&self.ends[1], ids[1]) && is_read {
                break;
            }
            assert!(self.step() || !is_read, "nothing will happen any more, after {sent:?}");
        }
        assert!(received[0] == data[1] && received[1] == data[0], "{} of {}", received[1].len(), data[0].len());
        for (end, id) in ids.into_iter().enumerate() {
            assert_eq!(self.ends[end].tcp.end(id), None, "it ended in order");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn streams_survive_any_network(weather in weather(), behaviour in behaviour(), seed: u64) {
        let mut network = Network::new(weather, seed);
        network.ends[1].tcp.listen(PORT, &behaviour.options).unwrap();
        let a = network.ends[0].connect(network.now, SocketAddrV4::new(IPS[1], PORT), &behaviour.options);
        while network.ends[1].accepted.is_empty() {
            prop_assert!(network.step());
        }
        let b = network.ends[1].accepted[0];
        while network.ends[0].state(a) == TcpState::SynSent {
            prop_assert!(network.step());
        }
        network.transfer([a, b], &behaviour);
        let now = network.now;
        network.ends[0].release(now, a);
        network.ends[1].release(now, b);
        network.ends[1].tcp.unlisten(PORT);
        while network.step() {}
        prop_assert!(network.ends.iter_mut().all(End::is_empty), "something is left");
    }
}
