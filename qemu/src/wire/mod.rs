//! The network between models: a cable of two ends or a switch of several, with seeded mishaps.

mod impair;
pub mod station;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use barewire_driver::clock::{Clock, Nanos};

use crate::medium::{Fcs, Mac, Medium, PortId};
use crate::pcap;
use impair::{Fate, Rule};

pub use impair::{Impairment, Match, Outage, PathStats};

/// Station addresses that a switch remembers; further ones are flooded.
const LEARNED: usize = 1024;

/// What a wire cannot be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A probability is outside 0 to 1.
    #[error("impairment of {path}: {value} is no probability; 0 to 1 is allowed")]
    Probability {
        /// The rule's name.
        path: &'static str,
        /// What was given.
        value: f64,
    },
    /// Frames cannot be held back on a wire that delivers at once.
    #[error("impairment of {path}: reordering, delay and outages need simulated time")]
    NeedsSimulation {
        /// The rule's name.
        path: &'static str,
    },
}

/// When frames arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At once, on the sender's thread.
    Immediate,
    /// This many nanoseconds later, when [`Wire::run_until`] gets there.
    Simulated {
        /// The time a frame takes.
        latency_ns: Nanos,
    },
}

/// How to make a wire.
#[derive(Debug, Clone)]
pub struct WireConfig {
    /// When frames arrive.
    pub delivery: Delivery,
    /// From this every rule's stream is derived.
    pub seed: u64,
    /// The mishaps. The first rule that matches a frame decides its fate.
    pub impairments: Vec<Impairment>,
    /// Spans without link. Simulated wires only.
    pub outages: Vec<Outage>,
}

impl WireConfig {
    /// A perfect wire.
    pub fn perfect(delivery: Delivery) -> Self {
        Self { delivery, seed: 0, impairments: Vec::new(), outages: Vec::new() }
    }
}

/// A wire with its stations. They hold the wire; the wire does not hold them.
pub struct Wire {
    clock: Clock,
    delivery: Delivery,
    stations: Vec<Weak<dyn Mac>>,
    rules: Box<[Mutex<Rule>]>,
    learned: Mutex<HashMap<[u8; 6], PortId>>,
    queue: Mutex<Queue>,
    recorder: Option<Mutex<pcap::Writer<Box<dyn Write + Send>>>>,
}

#[derive(Default)]
struct Queue {
    events: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    spare: Vec<Vec<u8>>,
}

/// Something that will happen; ordered by time, then by when it was decided.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Nanos,
    sequence: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Carrier(bool),
    Frame { from: PortId, bad_fcs: bool, bytes: Vec<u8> },
}

impl Wire {
    /// Joins `stations`; the first is [`PortId`] 0. Connect each model to its port afterwards.
    pub fn join(clock: Clock, stations: &[Arc<dyn Mac>], config: WireConfig) -> Result<Arc<Self>, WireError> {
        for rule in &config.impairments {
            let path = rule.path;
            if let Some(value) = rule.bad_probability() {
                return Err(WireError::Probability { path, value });
            }
            if rule.reorder > 0.0 && config.delivery == Delivery::Immediate {
                return Err(WireError::NeedsSimulation { path });
            }
        }
        if !config.outages.is_empty() && config.delivery == Delivery::Immediate {
            return Err(WireError::NeedsSimulation { path: "link" });
        }
        let rules = config.impairments.into_iter().zip(0..);
        let wire = Self {
            clock,
            delivery: config.delivery,
            stations: stations.iter().map(Arc::downgrade).collect(),
            rules: rules.map(|(rule, index)| Mutex::new(Rule::new(rule, config.seed, index))).collect(),
            learned: Mutex::default(),
            queue: Mutex::default(),
            recorder: None,
        };
        for outage in config.outages {
            wire.schedule(outage.start, What::Carrier(false));
            wire.schedule(outage.end, What::Carrier(true));
        }
        Ok(Arc::new(wire))
    }

    /// Records every frame as it is sent, before any mishap. Call it before the wire is shared.
    pub fn record(self: &mut Arc<Self>, to: Box<dyn Write + Send>) -> std::io::Result<()> {
        let writer = pcap::Writer::new(to)?;
        let wire = Arc::get_mut(self).ok_or_else(|| std::io::Error::other("the wire is shared already"))?;
        wire.recorder = Some(Mutex::new(writer));
        Ok(())
    }

    /// What each rule did, in the order they were given.
    pub fn stats(&self) -> Vec<(&'static str, PathStats)> {
        let rules = self.rules.iter().map(|rule| rule.lock().unwrap_or_else(PoisonError::into_inner));
        rules.map(|rule| (rule.impairment.path, rule.stats)).collect()
    }

    /// Raises or cuts the carrier at every station.
    pub fn set_carrier(&self, up: bool) {
        self.stations.iter().filter_map(Weak::upgrade).for_each(|station| station.set_carrier(up));
    }

    /// When the next frame or link change is due, on a simulated wire.
    pub fn next_event(&self) -> Option<Nanos> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.events.peek().map(|Reverse(event)| event.at)
    }

    /// Delivers everything that is due at `now`.
    pub fn run_until(&self, now: Nanos) {
        loop {
            let event = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                match queue.events.peek() {
                    Some(Reverse(event)) if event.at <= now => queue.events.pop(),
                    _ => None,
                }
            };
            match event {
                None => return,
                Some(Reverse(Event { what: What::Carrier(up), .. })) => self.set_carrier(up),
                Some(Reverse(Event { what: What::Frame { from, bad_fcs, bytes }, .. })) => {
                    self.deliver(from, &bytes, if bad_fcs { Fcs::Bad } else { Fcs::Good });
                    self.queue.lock().unwrap_or_else(PoisonError::into_inner).spare.push(bytes);
                }
            }
        }
    }

    fn schedule(&self, at: Nanos, what: What) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = queue.sequence;
        queue.sequence += 1;
        queue.events.push(Reverse(Event { at, sequence, what }));
    }

    /// Hands a frame to the station it is for, or to all others.
    fn deliver(&self, from: PortId, frame: &[u8], fcs: Fcs) {
        let known = if self.stations.len() > 2 { self.lookup(from, frame) } else { None };
        for (station, port) in self.stations.iter().zip(0..) {
            let wanted = PortId(port) != from && known.is_none_or(|known| known == PortId(port));
            if let Some(station) = wanted.then(|| station.upgrade()).flatten() {
                station.receive(frame, fcs);
            }
        }
    }

    /// Learns where the frame came from; says where its destination was seen.
    fn lookup(&self, from: PortId, frame: &[u8]) -> Option<PortId> {
        let destination = frame.first_chunk::<6>()?;
        let source = frame.get(6..)?.first_chunk::<6>()?;
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.len() < LEARNED || learned.contains_key(source) {
            learned.insert(*source, from);
        }
        learned.get(destination).copied()
    }

    fn send(&self, from: PortId, frame: &[u8], bad_fcs: bool, held_ns: Nanos) {
        match self.delivery {
            Delivery::Immediate => self.deliver(from, frame, if bad_fcs { Fcs::Bad } else { Fcs::Good }),
            Delivery::Simulated { latency_ns } => {
                let spare = self.queue.lock().unwrap_or_else(PoisonError::into_inner).spare.pop();
                let mut bytes = spare.unwrap_or_default();
                bytes.clear();
                bytes.extend_from_slice(frame);
                self.schedule(self.clock.now() + latency_ns + held_ns, What::Frame { from, bad_fcs, bytes });
            }
        }
    }

    fn fate(&self, from: PortId, frame: &[u8]) -> Option<Fate> {
        self.rules.iter().find_map(|rule| {
            let mut rule = rule.lock().unwrap_or_else(PoisonError::into_inner);
            rule.takes(from, frame).then(|| rule.draw(self.clock.now(), frame.len()))
        })
    }
}

impl Medium for Wire {
    fn transmit(&self, from: PortId, frame: &[u8]) {
        if let Some(recorder) = &self.recorder {
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = recorder.frame(self.clock.now(), frame) {
                log::warn!("recording stopped short: {error}");
            }
        }
        let Some(fate) = self.fate(from, frame) else { return self.send(from, frame, false, 0) };
        if fate.lost {
            return;
        }
        let damaged = fate.damage.map(|(place, flip)| {
            let mut bytes = frame.to_vec();
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= flip;
            }
            bytes
        });
        // Only the original is damaged or held; a duplicate is a clean copy that was already on its way.
        self.send(from, damaged.as_deref().unwrap_or(frame), fate.bad_fcs, fate.held_ns);
        for _ in 1..fate.copies {
            self.send(from, frame, false, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barewire_driver::clock::SimulatedClock;

    #[derive(Default)]
    struct Sink(Mutex<Vec<(Vec<u8>, bool)>>, Mutex<Vec<bool>>);

    impl Mac for Sink {
        fn receive(&self, frame: &[u8], fcs: Fcs) {
            self.0.lock().unwrap().push((frame.to_vec(), fcs == Fcs::Good));
        }

        fn set_carrier(&self, up: bool) {
            self.1.lock().unwrap().push(up);
        }
    }

    fn tcp(number: u32) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = 6;
        frame[40..44].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn rig(config: WireConfig) -> (SimulatedClock, Arc<Wire>, Arc<Sink>, Arc<Sink>) {
        let (clock, near, far) = (SimulatedClock::default(), Arc::new(Sink::default()), Arc::new(Sink::default()));
        let stations: [Arc<dyn Mac>; 2] = [near.clone(), far.clone()];
        let wire = Wire::join(Clock::Simulated(clock.clone()), &stations, config).unwrap();
        (clock, wire, near, far)
    }

    fn run(seed: u64, frames: u32) -> (Vec<(Vec<u8>, bool)>, PathStats) {
        let rule = Impairment {
            loss: 0.02,
            duplicate: 0.01,
            reorder: 0.03,
            corrupt_fcs: 0.005,
            ..Impairment::new("orders", Match::Tcp)
        };
        let delivery = Delivery::Simulated { latency_ns: 1_000 };
        let config = WireConfig { seed, impairments: vec![rule], ..WireConfig::perfect(delivery) };
        let (clock, wire, _near, far) = rig(config);
        for number in 0..frames {
            clock.advance_to(u64::from(number) * 500);
            wire.run_until(clock.now());
            wire.transmit(PortId(0), &tcp(number));
        }
        wire.run_until(u64::MAX);
        let received = std::mem::take(&mut *far.0.lock().unwrap());
        (received, wire.stats()[0].1)
    }

    #[test]
    fn wire_same_seed_same_run_and_other_seed_other_run() {
        assert_eq!(run(1, 5_000), run(1, 5_000));
        assert_ne!(run(1, 5_000).0, run(2, 5_000).0);
    }

    #[test]
    fn wire_rates_lie_within_four_sigma_and_counts_are_true() {
        let (received, stats) = run(7, 100_000);
        for (count, rate) in
            [(stats.lost, 0.02), (stats.duplicated, 0.0098), (stats.reordered, 0.0294), (stats.corrupted, 0.0049)]
        {
            let (mean, n) = (rate * 100_000.0, 100_000.0);
            let sigma = f64::sqrt(n * rate * (1.0 - rate));
            assert!((count as f64 - mean).abs() < 4.0 * sigma, "{count} for a rate of {rate}");
        }
        assert_eq!(received.len() as u64, stats.frames - stats.lost + stats.duplicated);
        assert_eq!(received.iter().filter(|(_, good)| !good).count() as u64, stats.corrupted);
        let numbers: Vec<_> = received.iter().map(|(frame, _)| frame[40..44].to_vec()).collect();
        assert!(!numbers.is_sorted(), "nothing was overtaken");
    }

    #[test]
    fn wire_other_traffic_does_not_shift_a_rules_stream() {
        let group = Impairment { loss: 0.5, ..Impairment::new("feed", Match::Group([239, 1, 1, 1].into())) };
        let orders = Impairment { loss: 0.5, ..Impairment::new("orders", Match::Tcp) };
        let config = WireConfig { impairments: vec![group, orders], ..WireConfig::perfect(Delivery::Immediate) };
        let kept = |noise: bool| {
            let (_clock, wire, _near, far) = rig(config.clone());
            let mut feed = tcp(0);
            feed[23] = 17;
            feed[30..34].copy_from_slice(&[239, 1, 1, 1]);
            for number in 0..1_000 {
                wire.transmit(PortId(0), &tcp(number));
                if noise {
                    wire.transmit(PortId(0), &feed);
                }
            }
            let received = std::mem::take(&mut *far.0.lock().unwrap());
            received.into_iter().filter(|(frame, _)| frame[23] == 6).collect::<Vec<_>>()
        };
        assert_eq!(kept(false), kept(true));
    }

    #[test]
    fn wire_dead_span_takes_every_frame_of_its_rule_and_no_other() {
        let dead = Impairment { dead: Some(10..20), ..Impairment::new("orders", Match::Tcp) };
        let config =
            WireConfig { impairments: vec![dead], ..WireConfig::perfect(Delivery::Simulated { latency_ns: 1 }) };
        let (clock, wire, _near, far) = rig(config);
        for now in 0..30 {
            clock.advance_to(now);
            wire.transmit(PortId(0), &tcp(now as u32));
            let mut unicast = tcp(now as u32);
            unicast[23] = 17;
            assert!(Match::Unicast.takes(&unicast) && !Match::Unicast.takes(&tcp(0)));
            wire.transmit(PortId(0), &unicast);
        }
        wire.run_until(u64::MAX);
        let received = far.0.lock().unwrap();
        let orders = received.iter().filter(|(frame, _)| frame[23] == 6).count();
        assert_eq!((orders, received.len() - orders), (20, 30));
        assert_eq!(wire.stats()[0].1, PathStats { frames: 20, dead: 10, ..PathStats::default() });
    }

    #[test]
    fn wire_outage_cuts_and_restores_the_carrier_in_time() {
        let config = WireConfig {
            outages: std::iter::once(10..20).collect(),
            ..WireConfig::perfect(Delivery::Simulated { latency_ns: 1 })
        };
        let (_clock, wire, near, _far) = rig(config);
        assert_eq!(wire.next_event(), Some(10));
        wire.run_until(15);
        assert_eq!(*near.1.lock().unwrap(), [false]);
        wire.run_until(20);
        assert_eq!(*near.1.lock().unwrap(), [false, true]);
    }

    #[test]
    fn wire_refuses_what_it_cannot_do() {
        let bad = Impairment { loss: 1.5, ..Impairment::new("feed", Match::All) };
        let late = Impairment { reorder: 0.1, ..Impairment::new("feed", Match::All) };
        for rule in [bad, late] {
            let config = WireConfig { impairments: vec![rule], ..WireConfig::perfect(Delivery::Immediate) };
            assert!(Wire::join(Clock::Simulated(SimulatedClock::default()), &[], config).is_err());
        }
    }

    #[test]
    fn wire_of_three_floods_until_it_has_learned() {
        let stations: Vec<Arc<Sink>> = (0..3).map(|_| Arc::default()).collect();
        let macs: Vec<Arc<dyn Mac>> = stations.iter().map(|s| s.clone() as Arc<dyn Mac>).collect();
        let config = WireConfig::perfect(Delivery::Immediate);
        let wire = Wire::join(Clock::Simulated(SimulatedClock::default()), &macs, config).unwrap();
        let frame = |to: u8, from: u8| [&[to; 6][..], &[from; 6], &[0; 48]].concat();
        wire.transmit(PortId(0), &frame(4, 2));
        wire.transmit(PortId(1), &frame(2, 4));
        let counts: Vec<_> = stations.iter().map(|s| s.0.lock().unwrap().len()).collect();
        assert_eq!(counts, [1, 1, 1]);
    }
}
