//! What a run of the market says when it is over.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use barewire_models::Ixgbe82599;
use barewire_models::wire::Wire;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::compare::POINTS;
use super::hosts::{ExchangeOutcome, TraderOutcome};
use super::{Config, Quantiles};

/// Everything a report is made from.
pub(super) struct Outcome<'a> {
    pub config: &'a Config,
    pub exchange: &'a ExchangeOutcome,
    pub trader: &'a TraderOutcome,
    pub models: &'a [Arc<Ixgbe82599>; 2],
    pub wire: &'a Wire,
    pub wall_ns: u64,
}

/// A run of the market. All but `host` follows from the seed in a simulated run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Whether time was virtual.
    pub simulated: bool,
    /// ITCH messages applied.
    pub ticks: u64,
    /// ITCH messages received.
    pub messages: u64,
    /// Packets of the feed that were sent.
    pub packets: u64,
    /// Orders the strategy wanted.
    pub orders_decided: u64,
    /// Orders that left.
    pub orders_sent: u64,
    /// Orders that did not.
    pub orders_refused: u64,
    /// Why.
    pub refusals: Map<String, Value>,
    /// Orders accepted by the exchange.
    pub orders_accepted: u64,
    /// Orders rejected by it.
    pub orders_rejected: u64,
    /// Executions.
    pub fills: u64,
    /// Holes in the feed's sequence.
    pub gaps_detected: u64,
    /// Holes that nothing filled; gap recovery is not built yet, so all of them.
    pub gaps_unrecovered: u64,
    /// Messages missing in them.
    pub messages_missing: u64,
    /// The trader's book equals the exchange's at every point of comparison.
    pub books_match: bool,
    /// Points at which both books were walked.
    pub books_compared: usize,
    /// Orders compared, over all points.
    pub book_orders_compared: u64,
    /// TCP segments sent again, by either side.
    pub retransmits: u64,
    /// What buses felt: counts by side.
    pub ledger: Map<String, Value>,
    /// What the wire did, by path.
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
    /// From the intended to the real time of an exchange event, ns.
    pub schedule_lag_ns: Quantiles,
    /// Time inside the transmit doorbells of both devices, ns: model, wire and the far end's DMA.
    pub doorbell_ns: u64,
    /// The run, ns.
    pub wall_ns: u64,
}

impl Report {
    pub(super) fn new(outcome: &Outcome<'_>) -> Self {
        let Outcome { config, exchange, trader, models, wire, wall_ns } = outcome;
        let (tally, feed) = (trader.trader.orders().tally, trader.trader.feed());
        let pairs = || exchange.digests.iter().zip(trader.trader.digests());
        let books_compared = pairs().count();
        let refusals = tally.refused.iter().map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
        let ledger = ["exchange", "trader"].into_iter().zip(models.iter()).map(|(side, model)| {
            let entries = model.ledger().entries().map(|(name, count)| (name.to_owned(), count.into())).collect();
            (side.to_owned(), Value::Object(entries))
        });
        let impairments = wire.stats().into_iter().map(|(path, stats)| {
            let stats = json!({
                "frames": stats.frames, "lost": stats.lost, "duplicated": stats.duplicated,
                "reordered": stats.reordered, "corrupted": stats.corrupted,
            });
            (path.to_owned(), stats)
        });
        Self {
            seed: config.seed,
            simulated: config.simulated,
            ticks: trader.trader.ticks(),
            messages: feed.messages + feed.duplicates,
            packets: exchange.packets,
            orders_decided: tally.decided,
            orders_sent: tally.sent,
            orders_refused: tally.refused.total(),
            refusals,
            orders_accepted: tally.accepted,
            orders_rejected: tally.rejected,
            fills: tally.fills,
            gaps_detected: feed.gaps,
            gaps_unrecovered: feed.gaps,
            messages_missing: feed.missing,
            books_match: books_compared == POINTS && pairs().all(|(theirs, ours)| theirs == ours),
            books_compared,
            book_orders_compared: pairs().map(|(theirs, ours)| theirs.orders().min(ours.orders())).sum(),
            retransmits: exchange.stack.retransmits + trader.stack.retransmits,
            ledger: ledger.collect(),
            impairments: impairments.collect(),
            host: Host {
                tick_to_trade_ns: trader.trader.tick_to_trade().quantiles(),
                ring_wait_ns: trader.trader.ring_wait().quantiles(),
                schedule_lag_ns: exchange.lag.quantiles(),
                doorbell_ns: models.iter().map(|model| model.doorbell_ns()).sum(),
                wall_ns: *wall_ns,
            },
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.host.wall_ns as f64 / 1e9;
        let time = if self.simulated { "virtual time" } else { "real time, two threads" };
        writeln!(f, "market, seed {}: {time}, {seconds:.1} s", self.seed)?;
        writeln!(f)?;
        writeln!(f, "  ticks applied       {:>12}", self.ticks)?;
        writeln!(
            f,
            "  orders              {:>12}   accepted {}, rejected {}, refused by limits {}",
            self.orders_sent, self.orders_accepted, self.orders_rejected, self.orders_refused
        )?;
        writeln!(f, "  fills               {:>12}", self.fills)?;
        writeln!(f, "  gaps                {:>12}   messages missing {}", self.gaps_detected, self.messages_missing)?;
        writeln!(f, "  TCP retransmits     {:>12}", self.retransmits)?;
        writeln!(f)?;
        writeln!(f, "  ns                       p50       p90       p99     p99.9        max")?;
        let rows = [
            ("tick to order", &self.host.tick_to_trade_ns),
            ("ring wait", &self.host.ring_wait_ns),
            ("schedule lag", &self.host.schedule_lag_ns),
        ];
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
