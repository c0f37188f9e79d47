//! What a rule does to the frames it matches: each rule draws from a random stream of its own, so that traffic elsewhere changes nothing.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::ops::Range;

use barewire_driver::clock::Nanos;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::medium::PortId;

/// Which frames a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Every frame.
    All,
    /// TCP over IPv4, tagged or not.
    Tcp,
    /// IPv4 to this group, tagged or not.
    Group(Ipv4Addr),
    /// UDP over IPv4 to one host, tagged or not.
    Unicast,
}

impl Match {
    /// Whether `frame` is meant.
    pub fn takes(self, frame: &[u8]) -> bool {
        let packet = match frame.get(12..14) {
            Some([0x08, 0x00]) => frame.get(14..),
            Some([0x81, 0x00]) if frame.get(16..18) == Some(&[0x08, 0x00]) => frame.get(18..),
            _ => None,
        };
        let header = packet.and_then(|packet| packet.first_chunk::<20>());
        match (self, header) {
            (Self::All, _) => true,
            (Self::Tcp, Some(header)) => header[9] == 6,
            (Self::Group(group), Some(header)) => header[16..20] == group.octets(),
            (Self::Unicast, Some(header)) => header[9] == 17 && header[16] < 224,
            (_, None) => false,
        }
    }
}

/// A rule: which frames, and how likely each mishap is (0 to 1).
#[derive(Debug, Clone)]
pub struct Impairment {
    /// The name under which it is reported.
    pub path: &'static str,
    /// Frames sent by this station; `None` for all stations.
    pub from: Option<PortId>,
    /// Which of them.
    pub what: Match,
    /// The frame vanishes.
    pub loss: f64,
    /// The frame arrives twice.
    pub duplicate: f64,
    /// The frame is held back by [`Impairment::hold_ns`], so that later ones pass it. Simulated wires only.
    pub reorder: f64,
    /// A byte of the frame changes on the way and the FCS no longer fits: the MAC drops it.
    pub corrupt_fcs: f64,
    /// A byte behind the Ethernet header changes and the FCS is made to fit: only checksums higher up can tell.
    pub corrupt_payload: f64,
    /// How long a reordered frame is held, nanoseconds.
    pub hold_ns: Nanos,
    /// A span in which every frame vanishes, in nanoseconds of the wire's clock.
    pub dead: Option<Outage>,
}

impl Impairment {
    /// A rule that does nothing yet.
    pub fn new(path: &'static str, what: Match) -> Self {
        Self {
            path,
            from: None,
            what,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            corrupt_fcs: 0.0,
            corrupt_payload: 0.0,
            hold_ns: 50_000,
            dead: None,
        }
    }

    /// The first probability that is none.
    pub(super) fn bad_probability(&self) -> Option<f64> {
        let all = [self.loss, self.duplicate, self.reorder, self.corrupt_fcs, self.corrupt_payload];
        all.into_iter().find(|p| !(0.0..=1.0).contains(p))
    }
}

/// What a rule did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathStats {
    /// Frames that matched, but for those of a dead span.
    pub frames: u64,
    /// Frames that vanished in a dead span.
    pub dead: u64,
    /// Of the others, lost.
    pub lost: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Corrupted, in either way.
    pub corrupted: u64,
}

/// What becomes of one frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fate {
    pub lost: bool,
    pub copies: u8,
    pub held_ns: Nanos,
    /// The byte to change, and how.
    pub damage: Option<(usize, u8)>,
    pub bad_fcs: bool,
}

/// A rule at work.
pub(super) struct Rule {
    pub impairment: Impairment,
    pub stats: PathStats,
    random: Pcg64Mcg,
}

impl Rule {
    /// Rule number `index` of a wire with `seed`.
    pub fn new(impairment: Impairment, seed: u64, index: u64) -> Self {
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let random = Pcg64Mcg::seed_from_u64(seed ^ (index + 1).wrapping_mul(GOLDEN));
        Self { impairment, stats: PathStats::default(), random }
    }

    pub fn takes(&self, from: PortId, frame: &[u8]) -> bool {
        self.impairment.from.is_none_or(|port| port == from) && self.impairment.what.takes(frame)
    }

    /// Draws the fate of a frame of `len` bytes that is sent at `now`. Every draw is made for every frame, so that one rate does not shift another's
    /// stream.
    pub fn draw(&mut self, now: Nanos, len: usize) -> Fate {
        const ETHERNET: usize = 14;
        let rule = &self.impairment;
        if rule.dead.as_ref().is_some_and(|span| span.contains(&now)) {
            self.stats.dead += 1;
            return Fate { lost: true, ..Fate::default() };
        }
        let mut chance = |p: f64| self.random.random::<f64>() < p;
        let (lost, twice, held) = (chance(rule.loss), chance(rule.duplicate), chance(rule.reorder));
        let (bad_fcs, bad_payload) = (chance(rule.corrupt_fcs), chance(rule.corrupt_payload));
        let place = ETHERNET + self.random.random_range(0..u32::MAX) as usize % len.saturating_sub(ETHERNET).max(1);
        let flip = 1u8 << self.random.random_range(0..8u8);
        let stats = &mut self.stats;
        stats.frames += 1;
        if lost {
            stats.lost += 1;
            return Fate { lost, ..Fate::default() };
        }
        stats.duplicated += u64::from(twice);
        stats.reordered += u64::from(held);
        stats.corrupted += u64::from(bad_fcs || bad_payload);
        Fate {
            lost,
            copies: 1 + u8::from(twice),
            held_ns: if held { rule.hold_ns } else { 0 },
            damage: (bad_fcs || bad_payload).then_some((place, flip)),
            bad_fcs,
        }
    }
}

/// A span in which the link is down, in nanoseconds of the wire's clock.
pub type Outage = Range<Nanos>;
