//! A trader in the simulated market that is asked for anything: orders beyond every limit, while prices move, feeds and sessions die and the kill
//! switch is pressed. What arrives at the exchange is judged there.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use barewire::exchange::Exchange;
use barewire::market::hosts::{ExchangeHost, Shared, TraderHost};
use barewire::market::network::Network;
use barewire::market::{Config, Progress};
use barewire::order::session::Phase;
use barewire::trade::kill::KillSwitch;
use barewire::trade::limits::Limits;
use barewire::trade::strategy::{Direction, Intent};
use barewire_driver::clock::{Clock, Nanos, SimulatedClock};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::oracle::Oracle;

const STOCKS: u16 = 3;
/// Markets with limits of their own, and at most as many with each limit lifted.
const MARKETS: u32 = 40;
/// The trader asks for orders until here, and the market is over soon after 100 ms.
const END_OF_ACTS: Nanos = 150_000_000;
/// Narrow, so that random orders find each of them.
const LIMITS: Limits = Limits {
    order_shares: 400,
    order_notional: 40_000 * 10_000,
    collar_bps: 100,
    open_orders: 12,
    position_shares: 900,
    orders_per_second: 20_000,
    burst: 6,
    book_age: 200_000,
};

/// What a run came to.
#[derive(Default)]
struct Outcome {
    violations: Vec<&'static str>,
    orders: u64,
    refused: Vec<&'static str>,
    presses: u64,
    /// Orders that were released after a press, before its reset.
    released_after_press: u64,
    /// Polls of the trader from a press until its cancel of all orders had arrived at the exchange.
    polls_to_cancel: Vec<u64>,
    cuts: u64,
    lost: u64,
    fills: u64,
}

/// A market of 100 ms and what happens in it.
#[derive(Debug, Clone)]
struct Market {
    seed: u64,
    /// What the trader's orders are judged by.
    limits: Limits,
    /// When nothing of the feed arrives.
    dead: Range<Nanos>,
    /// When the order sessions are reset.
    cuts: Vec<Nanos>,
    /// For how long the kill switch is left alone, and then pressed.
    presses: Vec<(Nanos, Nanos)>,
}

fn limits() -> impl Strategy<Value = Limits> {
    let size = (50u32..1_000, 5_000u64..80_000, 20u32..300);
    let stock = (1u32..24, 100u32..2_000);
    let time = (2_000u32..100_000, 1u32..16, 50_000u64..2_000_000);
    (size, stock, time).prop_map(|(size, stock, time)| Limits {
        order_shares: size.0,
        order_notional: size.1 * 10_000,
        collar_bps: size.2,
        open_orders: stock.0,
        position_shares: stock.1,
        orders_per_second: time.0,
        burst: time.1,
        book_age: time.2,
    })
}

fn market(limits: impl Strategy<Value = Limits>) -> impl Strategy<Value = Market> {
    let dead = (20_000_000u64..80_000_000, 1_000_000u64..8_000_000).prop_map(|(start, length)| start..start + length);
    let cuts = prop::collection::btree_set(2_000_000u64..95_000_000, 3..=6);
    let presses = prop::collection::vec((100_000u64..40_000_000, 10_000u64..5_000_000), 0..8);
    let parts = (any::<u64>(), limits, dead, cuts, presses);
    parts.prop_map(|(seed, limits, dead, cuts, presses)| Market {
        seed,
        limits,
        dead,
        cuts: cuts.into_iter().collect(),
        presses,
    })
}

/// Draws the same markets every time.
fn runner() -> TestRunner {
    let config =
        ProptestConfig { cases: MARKETS, failure_persistence: None, max_shrink_iters: 64, ..Default::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

/// Runs a market whose trader has `given` limits.
fn run(market: &Market, given: Limits) -> Outcome {
    let Market { seed, limits, dead, cuts, presses } = market.clone();
    let mut random = Pcg64Mcg::seed_from_u64(seed ^ 0x0DDE);
    const TICKS: u64 = 8_000;
    const RATE: u64 = 80_000;
    let config = Config {
        seed,
        ticks: TICKS,
        rate: RATE,
        stocks: STOCKS,
        simulated: true,
        dead_feeds: [Some(dead.clone()), Some(dead.clone())],
        order_cuts: cuts,
        ..Config::default()
    };
    let time = SimulatedClock::default();
    let clock = Clock::Simulated(time.clone());
    let network = Network::new(&config, &clock).unwrap();
    let shared = Arc::new(Shared::new(Progress::default(), KillSwitch::default()).unwrap());
    let oracle = Rc::new(RefCell::new(Oracle::new(limits, STOCKS, Some(dead))));
    let mut exchange = ExchangeHost::open(&config, Arc::clone(&shared), &network.side(0)).unwrap();
    let judge = Rc::clone(&oracle);
    exchange.set_witness(Box::new(move |seen| judge.borrow_mut().judge(&seen)));
    let mut trader = TraderHost::open(&config, clock, Arc::clone(&shared), &network.side(1)).unwrap();
    trader.with_trader(0, |trader, _| trader.set_limits(given));
    let mut outcome = Outcome::default();
    let mut live: Vec<u32> = Vec::new();
    let (mut polls, mut pressed_at, mut next_act) = (0u64, None::<u64>, 0);
    // When the switch is pressed or reset next.
    let spans = presses.into_iter().scan(0, |time, (rest, length)| {
        let start = *time + rest;
        *time = start + length;
        Some([start, *time])
    });
    let mut presses = spans.flatten().peekable();
    while !shared.is_over() {
        let now = time.now();
        assert!(now < 100_000_000_000, "seed {seed}: the market does not end");
        network.run_until(now);
        exchange.poll(now).unwrap();
        oracle.borrow_mut().look(now, exchange.exchange());
        trader.poll(now).unwrap();
        polls += 1;
        if let Some(at) = pressed_at
            && oracle.borrow().mass_cancels.len() as u64 > outcome.polls_to_cancel.len() as u64
        {
            outcome.polls_to_cancel.push(polls - at);
        }
        if presses.next_if(|due| *due <= now).is_some() {
            if pressed_at.is_none() {
                outcome.presses += 1;
                pressed_at = Some(polls);
                oracle.borrow_mut().killed_since = Some(now);
                shared.kill.press();
            } else {
                pressed_at = None;
                oracle.borrow_mut().killed_since = None;
                // A cancel that did not arrive yet, for the session was down, is not waited for.
                let missing = oracle.borrow().mass_cancels.len();
                outcome.polls_to_cancel.resize(missing, 0);
                shared.kill.reset();
            }
        }
        if now >= next_act && now < END_OF_ACTS {
            next_act = now + random.random_range(5_000..60_000);
            match random.random_range(0..100) {
                0..10 if !live.is_empty() => {
                    let number = live.swap_remove(random.random_range(0..live.len()));
                    // Without a session there is nothing to be cancelled.
                    let _ = trader.with_trader(now, |trader, cx| trader.cancel(cx, number));
                }
                roll => {
                    let count = if roll > 95 { 12 } else { 1 };
                    for _ in 0..count {
                        let intent = intent(&mut random, exchange.exchange());
                        if let Ok(number) = trader.with_trader(now, |trader, cx| trader.submit(cx, &intent)) {
                            live.push(number);
                            outcome.released_after_press += u64::from(pressed_at.is_some());
                        }
                    }
                }
            }
        }
        let act = (now < END_OF_ACTS).then_some(next_act);
        let press = presses.peek().copied();
        let due = [network.next_event(), exchange.next_deadline(now), trader.next_deadline(now), act, press];
        time.advance_to(due.into_iter().flatten().min().unwrap_or(now).max(now + 1));
    }
    assert!(matches!(trader.trader().session().phase(), Phase::Over(_)), "seed {seed}");
    let tally = trader.trader().orders().tally;
    assert_eq!(tally.unanswered(), 0, "seed {seed}: {tally:?}");
    assert_eq!(tally.strays, 0, "seed {seed}: {tally:?}");
    let engine = exchange.exchange().stats();
    assert_eq!((tally.accepted, tally.rejected), (engine.accepted, engine.rejected), "seed {seed}");
    let oracle = oracle.borrow();
    assert_eq!(oracle.orders, engine.accepted + engine.rejected, "seed {seed}");
    assert_eq!(oracle.orders + tally.lost, tally.sent, "seed {seed}");
    outcome.violations = oracle.violations.iter().copied().collect();
    outcome.orders = oracle.orders;
    outcome.refused = tally.refused.iter().filter(|(_, count)| *count > 0).map(|(reason, _)| reason.name()).collect();
    outcome.cuts = trader.trader().session().stats().cuts;
    (outcome.lost, outcome.fills) = (tally.lost, tally.fills);
    outcome
}

/// An order that breaks no limit, or one or several of them.
fn intent(random: &mut Pcg64Mcg, exchange: &Exchange) -> Intent {
    let stock = random.random_range(1..=STOCKS);
    let [bid, offer] = exchange.best(stock).map(|price| price.unwrap_or(100_000));
    let middle = i64::from(bid / 2 + offer / 2);
    let away = if random.random_range(0..4) == 0 { middle / 20 } else { middle / 90 };
    let price = (middle + random.random_range(-away..=away)).max(100) / 100 * 100;
    let shares = match random.random_range(0..10) {
        0 => 0,
        1 => random.random_range(401..5_000),
        _ => random.random_range(1..=400),
    };
    let side = if random.random() { Direction::Buy } else { Direction::Sell };
    Intent { side, stock, price: price as u32, shares, rests: random.random_range(0..3) > 0 }
}

#[test]
fn no_order_that_breaks_a_limit_reaches_the_exchange() {
    let total = RefCell::new((Outcome::default(), BTreeSet::new(), 0));
    let judged = runner().run(&market(limits()), |market| {
        let outcome = run(&market, market.limits);
        prop_assert_eq!(outcome.violations, [""; 0]);
        prop_assert_eq!(outcome.released_after_press, 0);
        let (total, refused, slowest) = &mut *total.borrow_mut();
        refused.extend(outcome.refused);
        *slowest = outcome.polls_to_cancel.iter().copied().max().unwrap_or(0).max(*slowest);
        total.orders += outcome.orders;
        total.presses += outcome.presses;
        total.cuts += outcome.cuts;
        total.lost += outcome.lost;
        total.fills += outcome.fills;
        Ok(())
    });
    if let Err(error) = judged {
        match error {
            TestError::Fail(reason, market) => panic!("{reason}: {market:?}"),
            TestError::Abort(reason) => panic!("{reason}"),
        }
    }
    let (Outcome { orders, presses, cuts, lost, fills, .. }, refused, slowest) = total.into_inner();
    println!(
        "{MARKETS} markets: {orders} orders at the exchange, {fills} executions, {cuts} cuts, {lost} orders lost to them"
    );
    println!(
        "kill switch: {presses} presses; orders released after one: 0; polls until all is cancelled at the exchange: at most {slowest}"
    );
    println!("refused for: {refused:?}");
    assert!(orders > 1_000 && presses > 40 && cuts > 80 && fills > 100);
    for reason in [
        "shares",
        "notional",
        "collar",
        "open_orders",
        "position",
        "rate",
        "stale_book",
        "halted",
        "self_match",
        "killed",
        "no_session",
    ] {
        assert!(refused.contains(reason), "nothing was refused for {reason}");
    }
}

/// Each limit in turn is lifted: the oracle must see what then arrives.
#[test]
fn limit_that_is_lifted_is_missed_at_the_exchange() {
    let lifted = [
        ("shares", Limits { order_shares: u32::MAX, ..LIMITS }),
        ("notional", Limits { order_notional: u64::MAX, ..LIMITS }),
        ("collar", Limits { collar_bps: 5_000, ..LIMITS }),
        ("open_orders", Limits { open_orders: 64, position_shares: 9_000, ..LIMITS }),
        ("position", Limits { position_shares: 9_000, ..LIMITS }),
        ("rate", Limits { burst: 1_000, ..LIMITS }),
        ("stale_book", Limits { book_age: Nanos::MAX, ..LIMITS }),
    ];
    for (name, limits) in lifted {
        let (mut runner, market) = (runner(), market(Just(LIMITS)));
        let mut draw = || market.new_tree(&mut runner).unwrap().current();
        let seen = (0..MARKETS).any(|_| run(&draw(), limits).violations.contains(&name));
        assert!(seen, "the oracle does not see orders that break {name}");
    }
}
