//! What a run of the market says when it is over.
#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::compare::POINTS;
use super::figures::{EndFigures, PhaseFigures, TraderFigures};
use super::hosts::ExchangeOutcome;
use super::network::Network;
use super::{Config, Quantiles};
use crate::feed::arbiter::Source;

/// Everything a report is made from.
pub(super) struct Outcome<'a> {
    pub config: &'a Config,
    pub exchange: &'a ExchangeOutcome,
    pub trader: &'a TraderFigures,
    pub network: &'a Network,
    pub wall_ns: u64,
}

/// A run of the market. All but `host` follows from the seed in a simulated run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Whether time was virtual.
    pub simulated: bool,
    /// ITCH messages published.
    pub ticks_offered: u64,
    /// ITCH messages applied.
    pub ticks: u64,
    /// ITCH messages received: on both lines, and when they were asked for again.
    pub messages: u64,
    /// Packets of the feed that were sent, each on both lines.
    pub packets: u64,
    /// Frames and messages that our own queues could not take, by cause.
    pub drops: Map<String, Value>,
    /// Orders the strategy wanted.
    pub orders_decided: u64,
    /// Orders that left.
    pub orders_sent: u64,
    /// Of these, orders that were written and parked before they were wanted.
    pub orders_prepared: u64,
    /// Orders that did not.
    pub orders_refused: u64,
    /// Why.
    pub refusals: Map<String, Value>,
    /// Orders accepted by the exchange.
    pub orders_accepted: u64,
    /// Orders rejected by it.
    pub orders_rejected: u64,
    /// Orders that a cut of the session took on their way.
    pub orders_lost: u64,
    /// How often the order connection was lost and came back.
    pub order_cuts: u64,
    /// Executions.
    pub fills: u64,
    /// Holes in the feed's sequence.
    pub gaps_detected: u64,
    /// Holes that nothing filled.
    pub gaps_unrecovered: u64,
    /// Messages missing in them.
    pub messages_missing: u64,
    /// What each line of the feed brought, and recovery.
    pub feed: Map<String, Value>,
    /// Packets of the feed that made no sense, by cause.
    pub feed_faults: Value,
    /// What was asked for, and what came of it.
    pub recovery: Value,
    /// The trader's book equals the exchange's at every point of comparison that it came to.
    pub books_match: bool,
    /// Points at which both books were walked.
    pub books_compared: usize,
    /// Points that lie in a gap which a snapshot filled.
    pub books_passed_over: usize,
    /// Orders compared, over all points.
    pub book_orders_compared: u64,
    /// TCP segments sent again, by either side.
    pub retransmits: u64,
    /// What buses felt: counts by side.
    pub ledger: Map<String, Value>,
    /// What the wires did, by path: the feed's two lines, orders (all TCP of the first wire), and what was asked for again.
    pub impairments: Map<String, Value>,
    /// What was measured by a real clock (virtual in simulated runs).
    pub host: Host,
}

/// The part of a report that no seed reproduces.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// From the stamp of the poll that saw the tick to the store of the doorbell, ns.
    pub tick_to_trade_ns: Quantiles,
    /// From the device's write of the frame to that stamp, ns.
    pub ring_wait_ns: Quantiles,
    /// How much later than the other line each brought its copy, ns.
    pub line_lag_ns: [Quantiles; 2],
    /// From the intended to the real time of an exchange event, ns.
    pub schedule_lag_ns: Quantiles,
    /// The same, apart: in calm and in bursts, where there are bursts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<PhaseReports>,
    /// Time inside the transmit doorbells of both devices, ns: model, wire and the far end's DMA.
    pub doorbell_ns: u64,
    /// The run, ns.
    pub wall_ns: u64,
}

/// What was measured in either phase.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReports {
    /// Between bursts.
    pub calm: PhaseReport,
    /// In bursts.
    pub burst: PhaseReport,
}

/// What was measured in one phase.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReport {
    /// From the stamp of the poll that saw the tick to the store of the doorbell, ns.
    pub tick_to_trade_ns: Quantiles,
    /// From the intended to the real time of an exchange event, ns.
    pub schedule_lag_ns: Quantiles,
}

impl Report {
    pub(super) fn new(outcome: &Outcome<'_>) -> Self {
        let Outcome { config, exchange, trader, network, wall_ns } = outcome;
        let (tally, recovery, feed) = (&trader.tally, &trader.feed.recovery, &trader.feed.merged);
        let sources = || Source::ALL.into_iter().zip(trader.feed.sources);
        let digests = &trader.view.digests;
        let pairs = || exchange.digests.iter().zip(digests).filter_map(|(theirs, ours)| Some((theirs, ours.as_ref()?)));
        let (books_compared, passed_over) = (pairs().count(), digests.iter().filter(|ours| ours.is_none()).count());
        let refusals = tally.refused.iter().map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
        let impairments = network.stats().map(|(path, stats)| {
            let stats = json!({
                "frames": stats.frames, "lost": stats.lost, "duplicated": stats.duplicated,
                "reordered": stats.reordered, "corrupted": stats.corrupted, "dead": stats.dead,
            });
            (path.to_owned(), stats)
        });
        let lines = sources().map(|(source, stats)| {
            let (packets, messages, duplicates) = (stats.packets, stats.messages, stats.duplicates);
            let brought = json!({ "packets": packets, "messages": messages, "duplicates": duplicates });
            let mut brought = brought.as_object().cloned().unwrap_or_default();
            if source != Source::Recovery {
                brought.insert("absent".to_owned(), stats.absent.into());
                brought.insert("silences".to_owned(), stats.silences.into());
            }
            (source.name().to_owned(), Value::Object(brought))
        });
        let answers = exchange.retransmissions;
        Self {
            seed: config.seed,
            simulated: config.simulated,
            ticks_offered: exchange.exchange.messages,
            ticks: trader.view.ticks,
            messages: sources().map(|(_, stats)| stats.messages + stats.duplicates).sum(),
            packets: exchange.packets,
            drops: drops(trader),
            orders_decided: tally.decided,
            orders_sent: tally.sent,
            orders_prepared: tally.prepared,
            orders_refused: tally.refused.total(),
            refusals,
            orders_accepted: tally.accepted,
            orders_rejected: tally.rejected,
            orders_lost: tally.lost,
            order_cuts: trader.link.cuts,
            fills: tally.fills,
            gaps_detected: feed.gaps,
            gaps_unrecovered: trader.feed.holes,
            messages_missing: feed.missing,
            feed: lines.collect(),
            feed_faults: json!({
                "truncated": feed.truncated, "bad_blocks": feed.bad_blocks, "bad_sequence": feed.bad_sequence,
                "other_session": feed.other_session, "bad_messages": trader.view.malformed,
            }),
            recovery: json!({
                "requests": recovery.requests, "repeated": recovery.repeated, "exhausted": recovery.exhausted,
                "answered": answers.answered, "answered_messages": answers.messages, "too_old": answers.too_old,
                "snapshots": feed.snapshots, "snapshots_failed": recovery.snapshots_failed,
            }),
            books_match: books_compared > 0
                && books_compared + passed_over == POINTS
                && pairs().all(|(theirs, ours)| theirs == ours),
            books_compared,
            books_passed_over: passed_over,
            book_orders_compared: pairs().map(|(theirs, ours)| theirs.orders().min(ours.orders())).sum(),
            retransmits: exchange
                .ends
                .iter()
                .map(EndFigures::from)
                .chain(trader.ends.iter().copied())
                .map(|end| end.retransmits)
                .sum(),
            ledger: ["exchange", "trader"].into_iter().zip(0..).map(|(side, at)| ledger(network, side, at)).collect(),
            impairments: impairments.collect(),
            host: Host {
                tick_to_trade_ns: trader.tick_to_trade.all,
                ring_wait_ns: trader.ring_wait,
                line_lag_ns: trader.feed.line_lag_ns,
                schedule_lag_ns: exchange.lags.all().quantiles(),
                phases: config.burst.map(|_| {
                    let (ticks, lags) = (trader.tick_to_trade, PhaseFigures::from(&exchange.lags));
                    PhaseReports {
                        calm: PhaseReport { tick_to_trade_ns: ticks.calm, schedule_lag_ns: lags.calm },
                        burst: PhaseReport { tick_to_trade_ns: ticks.burst, schedule_lag_ns: lags.burst },
                    }
                }),
                doorbell_ns: [0, 1].map(|side| doorbell_ns(network, side)).iter().sum(),
                wall_ns: *wall_ns,
            },
        }
    }
}

/// What the queues between the wires and the books had no room for.
fn drops(trader: &TraderFigures) -> Map<String, Value> {
    let sum = |count: fn(&EndFigures) -> u64| trader.ends.iter().map(count).sum::<u64>();
    let drops = [
        ("ring_full", sum(|end| end.ring_full)),
        ("no_buffer", sum(|end| end.no_buffer)),
        ("line_ring_full", trader.ring_drops),
        ("hold_back_full", trader.feed.merged.not_held),
    ];
    drops.into_iter().map(|(cause, count)| (cause.to_owned(), count.into())).collect()
}

/// What the buses of one side felt, over all of its ports.
fn ledger(network: &Network, side: &str, at: usize) -> (String, Value) {
    let mut sums = Map::new();
    for model in network.models(at) {
        for (name, count) in model.ledger().entries() {
            let sum = sums.get(name).and_then(Value::as_u64).unwrap_or(0) + count;
            sums.insert(name.to_owned(), sum.into());
        }
    }
    (side.to_owned(), Value::Object(sums))
}

fn doorbell_ns(network: &Network, side: usize) -> u64 {
    network.models(side).map(|model| model.doorbell_ns()).sum()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.host.wall_ns as f64 / 1e9;
        let time = if self.simulated { "virtual time" } else { "real time, two threads" };
        writeln!(f, "market, seed {}: {time}, {seconds:.1} s", self.seed)?;
        writeln!(f)?;
        let dropped: u64 = self.drops.values().filter_map(Value::as_u64).sum();
        writeln!(
            f,
            "  ticks applied       {:>12}   offered {}, dropped by our own queues {dropped}",
            self.ticks, self.ticks_offered
        )?;
        writeln!(
            f,
            "  orders              {:>12}   prepared {}, accepted {}, rejected {}, refused by limits {}",
            self.orders_sent, self.orders_prepared, self.orders_accepted, self.orders_rejected, self.orders_refused
        )?;
        writeln!(f, "  fills               {:>12}", self.fills)?;
        writeln!(
            f,
            "  gaps                {:>12}   messages missing {}, gaps unrecovered {}",
            self.gaps_detected, self.messages_missing, self.gaps_unrecovered
        )?;
        writeln!(f, "  TCP retransmits     {:>12}", self.retransmits)?;
        writeln!(f)?;
        writeln!(f, "  ns                       p50       p90       p99     p99.9        max")?;
        let mut rows = vec![
            ("tick to order", &self.host.tick_to_trade_ns),
            ("ring wait", &self.host.ring_wait_ns),
            ("schedule lag", &self.host.schedule_lag_ns),
        ];
        if let Some(PhaseReports { calm, burst }) = &self.host.phases {
            rows.extend([
                ("tick, calm", &calm.tick_to_trade_ns),
                ("tick, burst", &burst.tick_to_trade_ns),
                ("lag, calm", &calm.schedule_lag_ns),
                ("lag, burst", &burst.schedule_lag_ns),
            ]);
        }
        for (name, q) in rows {
            writeln!(f, "  {name:<16} {:>11} {:>9} {:>9} {:>9} {:>10}", q.p50, q.p90, q.p99, q.p999, q.max)?;
        }
        writeln!(f)?;
        writeln!(f, "  a tick costs the bus       exchange    trader")?;
        let per_tick = |side: &str, name: &str| {
            let count = self.ledger.get(side).and_then(|side| side.get(name)).and_then(Value::as_u64).unwrap_or(0);
            count as f64 / self.ticks.max(1) as f64
        };
        for name in ["doorbells", "register_reads", "descriptor_fetches", "write_backs", "bytes_read", "bytes_written"]
        {
            writeln!(f, "  {name:<24} {:>10.3} {:>9.3}", per_tick("exchange", name), per_tick("trader", name))?;
        }
        writeln!(f)?;
        let verdict = if self.books_match { "equal" } else { "NOT EQUAL" };
        write!(f, "  books {verdict} at {} points, {} orders compared", self.books_compared, self.book_orders_compared)
    }
}
