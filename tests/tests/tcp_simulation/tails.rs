//! Lost tails, as order entry has them: some segments are sent, the last ones do not arrive, and nothing follows. A tail-loss probe (RFC 8985, 7)
//! leaves within two smoothed round trips plus the acknowledgement delay of the last send, and the whole tail is there within one and a half
//! round trips after that. Probes that are lost as well are told apart: the time-out is for them.

use std::net::SocketAddrV4;

use barewire_driver::clock::Nanos;
use barewire_netstack::{Event, Lane, TcpConfig, TcpId, TcpOptions};
use barewire_tests::network::{IPS, Network, Weather};
use rand::Rng;

const SEEDS: u64 = 2_000;
const PORT: u16 = 7000;
const MICROSECOND: Nanos = 1_000;
const MILLISECOND: Nanos = 1_000_000;
const SIZES: TcpConfig = TcpConfig { sessions: 2, half_open: 1, sent_segments: 32, kept_segments: 32 };
/// Requests and answers before the tail, by which round trips are measured.
const ROUNDS: usize = 20;
/// Segments of a tail, at most: four or fewer may be lost of each.
const LONGEST: usize = 8;
const MOST_LOST: usize = 4;

/// A connection between two hosts, with the sequence number that the tail begins with.
struct Tail {
    network: Network,
    ids: [TcpId; 2],
    options: TcpOptions,
}

/// What was seen of a tail, in nanoseconds.
#[derive(Debug)]
struct Seen {
    /// Two smoothed round trips as the sender measured them, plus the acknowledgement delay.
    allowed: Nanos,
    /// A round trip of this path.
    round_trip: Nanos,
    /// From the last send to the probe.
    probe: Nanos,
    /// From the probe to the arrival of the whole tail.
    whole: Nanos,
    is_probe_lost: bool,
}

/// The payload's length in a TCP frame without options of IPv4, and whether there is any.
fn payload_len(frame: &[u8]) -> usize {
    if frame.get(23) != Some(&6) {
        return 0;
    }
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    total - 20 - usize::from(frame[46] >> 4) * 4
}

impl Tail {
    fn open(seed: u64) -> Self {
        let mut network = Network::new(seed, SIZES, 64);
        let delay = network.random.random_range(5 * MICROSECOND..10 * MILLISECOND);
        // Round trips vary a little, so that the smoothed one is not exact.
        let jitter = if network.random.random() { delay / 10 } else { 0 };
        network.weather = Weather { delay, jitter, ..Weather::default() };
        let options = TcpOptions {
            congestion: network.random.random(),
            peer_ack_delay: if network.random.random() { 40 * MILLISECOND } else { 0 },
            ..TcpOptions::default()
        };
        // The receiver delays acknowledgements as long as the sender allows for, or not at all.
        let delays = TcpOptions { ack_delay: options.peer_ack_delay, ..options };
        let now = network.now;
        network.hosts[1].context(now).tcp_listen(Lane::Express, PORT, &delays).expect("a free port");
        let remote = SocketAddrV4::new(IPS[1], PORT);
        let near = network.hosts[0].context(now).tcp_connect(Lane::Express, remote, &options).expect("a session");
        let mut far = None;
        while far.is_none() {
            network.poll(
                |_, _, _| false,
                |_, _, event| {
                    if let Event::Accepted { id, .. } = event {
                        far = Some(id);
                    }
                },
            );
            assert!(far.is_some() || network.advance(), "no connection");
        }
        let ids = [near, far.expect("accepted")];
        let mut tail = Self { network, ids, options };
        (0..ROUNDS).for_each(|_| tail.round());
        tail
    }

    fn send(&mut self, host: usize, bytes: &[u8]) {
        let cx = self.network.hosts[host].context(self.network.now);
        cx.tcp_send_message(self.ids[host], bytes).expect("room");
        cx.flush();
    }

    /// Reads what has arrived at `host`.
    fn read(&mut self, host: usize) -> usize {
        let cx = self.network.hosts[host].context(self.network.now);
        let mut read = 0;
        let _ = cx.tcp_receive(self.ids[host], |bytes| {
            read += bytes.len();
            bytes.len()
        });
        read
    }

    /// A request, and an answer that acknowledges it.
    fn round(&mut self) {
        for from in 0..2 {
            self.send(from, &[0; 64]);
            while self.read(1 - from) == 0 {
                self.network.poll(|_, _, _| false, |_, _, _| {});
                assert!(self.network.advance(), "a message did not arrive");
                self.network.poll(|_, _, _| false, |_, _, _| {});
            }
        }
    }

    /// Sends a tail, loses the end of it, and sees what becomes of it.
    fn lose(mut self) -> Seen {
        let random = &mut self.network.random;
        let segments = random.random_range(1..=LONGEST);
        let lost = random.random_range(1..=segments.min(MOST_LOST));
        let is_probe_lost = random.random_bool(0.1);
        for segment in 0..segments {
            self.send(0, &[segment as u8; 100]);
        }
        // What overtakes a tail is no lost tail, and what comes back sooner than anything before is no answer to a probe (RFC 8985, 6.2).
        let weather = &mut self.network.weather;
        weather.delay += std::mem::take(&mut weather.jitter);
        let sent_at = self.network.now;
        let (mut sent, mut arrived, mut probed_at, mut round_trip) = (0, 0, None, 0);
        let arrived_at = loop {
            self.network.poll(
                |now, from, frame| {
                    if from != 0 || payload_len(frame) == 0 {
                        return false;
                    }
                    sent += 1;
                    let is_first_sending = sent <= segments;
                    if !is_first_sending && probed_at.is_none() {
                        probed_at = Some(now);
                        return is_probe_lost;
                    }
                    is_first_sending && sent > segments - lost
                },
                |_, _, _| {},
            );
            arrived += self.read(1);
            if probed_at.is_none() {
                let cx = self.network.hosts[0].context(self.network.now);
                round_trip = cx.tcp_report(self.ids[0]).expect("a session").srtt;
            }
            if arrived == segments * 100 {
                break self.network.now;
            }
            assert!(self.network.advance(), "{arrived} bytes of {segments} segments arrived");
        };
        let probed_at = probed_at.expect("the lost were sent again");
        Seen {
            allowed: 2 * round_trip + self.options.peer_ack_delay,
            round_trip: 2 * self.network.weather.delay,
            probe: probed_at - sent_at,
            whole: arrived_at - probed_at,
            is_probe_lost,
        }
    }
}

/// Percentiles of `values`, in hundredths of what each is measured against.
fn distribution(what: &str, mut hundredths: Vec<u64>) {
    hundredths.sort_unstable();
    let at = |part: f64| hundredths[((hundredths.len() - 1) as f64 * part) as usize] as f64 / 100.0;
    println!(
        "{what}: {} tails, p1 {:.2}, p50 {:.2}, p99 {:.2}, most {:.2}",
        hundredths.len(),
        at(0.01),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

#[test]
fn lost_tail_is_probed_and_repaired_in_time() {
    let tails: Vec<_> = (0..SEEDS).map(|seed| (seed, Tail::open(seed).lose())).collect();
    let (with_lost_probe, with_probe): (Vec<_>, Vec<_>) = tails.into_iter().partition(|(_, seen)| seen.is_probe_lost);
    let hundredths = |of: Nanos, by: Nanos| 100 * of / by;
    let all = with_probe.iter().chain(&with_lost_probe);
    distribution(
        "send to probe, in allowances of two round trips and the delay",
        all.clone().map(|(_, seen)| hundredths(seen.probe, seen.allowed)).collect(),
    );
    distribution(
        "probe to whole tail, in round trips",
        with_probe.iter().map(|(_, seen)| hundredths(seen.whole, seen.round_trip)).collect(),
    );
    distribution(
        "the same where the probe was lost",
        with_lost_probe.iter().map(|(_, seen)| hundredths(seen.whole, seen.round_trip)).collect(),
    );
    for (seed, seen) in all {
        assert!(seen.probe <= seen.allowed, "seed {seed}: the probe was late: {seen:?}");
        let is_whole = seen.whole <= seen.round_trip * 3 / 2;
        assert!(is_whole || seen.is_probe_lost, "seed {seed}: the tail was late: {seen:?}");
    }
}
