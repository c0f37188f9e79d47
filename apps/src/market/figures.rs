//! What the trader's parts counted: plain data, for the report, and for the way home from a process of their own.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::hosts::EndStats;
use super::{PhaseSpans, Quantiles, Spans};
use crate::digest::Digest;
use crate::feed::arbiter::{self, Source, SourceStats};
use crate::feed::handler::Handler;
use crate::feed::recovery;
use crate::market::schedule::Phase;
use crate::trade::link::OrderLink;
use crate::trade::orders::Tally;
use crate::trade::view::View;

/// What a port and its stack counted, as far as the report has room for it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct EndFigures {
    /// Frames that found no descriptor.
    pub ring_full: u64,
    /// Frames that found no buffer.
    pub no_buffer: u64,
    /// TCP segments sent again.
    pub retransmits: u64,
}

impl From<&EndStats> for EndFigures {
    fn from(EndStats { stack, port }: &EndStats) -> Self {
        Self { ring_full: port.rx_missed, no_buffer: stack.drops.no_buffer, retransmits: stack.retransmits }
    }
}

/// The feed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FeedFigures {
    /// The merged lines.
    pub merged: arbiter::Stats,
    /// Each source, in the order of [`Source::ALL`].
    pub sources: [SourceStats; 3],
    /// Holes that nothing filled.
    pub holes: u64,
    /// What was asked for.
    pub recovery: recovery::Stats,
    /// How much later than the other line each brought its copy, ns.
    pub line_lag_ns: [Quantiles; 2],
}

impl FeedFigures {
    /// Those of `feed`.
    pub fn of(feed: &Handler) -> Self {
        let arbiter = feed.arbiter();
        Self {
            merged: arbiter.stats(),
            sources: Source::ALL.map(|source| arbiter.source_stats(source)),
            holes: arbiter.holes(),
            recovery: feed.recovery(),
            line_lag_ns: [Source::A, Source::B].map(|line| arbiter.lag(line).map(Spans::quantiles).unwrap_or_default()),
        }
    }
}

/// The books.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ViewFigures {
    /// Messages applied.
    pub ticks: u64,
    /// Messages that do not parse.
    pub malformed: u64,
    /// The digests at the points of comparison; `None` where a snapshot passed one over.
    pub digests: Vec<Option<Digest>>,
}

impl ViewFigures {
    /// Those of `view`.
    pub fn of(view: &View) -> Self {
        Self { ticks: view.ticks(), malformed: view.malformed(), digests: view.digests().to_vec() }
    }
}

/// The order session.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct LinkFigures {
    /// How often the connection was lost and came back.
    pub cuts: u64,
    /// Packets and messages that make no sense.
    pub malformed: u64,
}

impl LinkFigures {
    /// Those of `link`.
    pub fn of(link: &OrderLink) -> Self {
        Self { cuts: link.session().stats().cuts, malformed: link.malformed() }
    }
}

/// Spans by phase.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct PhaseFigures {
    /// All of them.
    pub all: Quantiles,
    /// Between bursts.
    pub calm: Quantiles,
    /// In bursts.
    pub burst: Quantiles,
}

impl From<&PhaseSpans> for PhaseFigures {
    fn from(spans: &PhaseSpans) -> Self {
        let of = |phase| spans.of(phase).quantiles();
        Self { all: spans.all().quantiles(), calm: of(Phase::Calm), burst: of(Phase::Burst) }
    }
}

/// Everything.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TraderFigures {
    /// The feed.
    pub feed: FeedFigures,
    /// The books.
    pub view: ViewFigures,
    /// The orders.
    pub tally: Tally,
    /// The order session.
    pub link: LinkFigures,
    /// Tick to order, ns.
    pub tick_to_trade: PhaseFigures,
    /// From the device's write of a frame to the poll that saw it, ns.
    pub ring_wait: Quantiles,
    /// Packets for which the ring between two cores had no room.
    pub ring_drops: u64,
    /// The ports.
    pub ends: Vec<EndFigures>,
}
