//! The market's feeds through everything that networks do: two impaired lines, lines that die for a while, snapshots.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use barewire::market::{Config, Rates, Report, run};

const MILLISECOND: u64 = 1_000_000;

/// A bad network: one frame in thirty does not arrive in order and whole.
const ROUGH: Rates = Rates { loss: 0.02, duplicate: 0.01, reorder: 0.01, corrupt: 0.005 };

fn rough(seed: u64, ticks: u64) -> Config {
    Config { seed, ticks, feed: ROUGH, orders: ROUGH, simulated: true, ..Config::default() }
}

/// A span in which both lines are dead.
fn dead(span: Range<u64>) -> [Option<Range<u64>>; 2] {
    [Some(span.clone()), Some(span)]
}

/// The feed came right, and every order has its place.
fn assert_survived(report: &Report) {
    let seed = report.seed;
    assert_eq!(report.gaps_unrecovered, 0, "seed {seed}");
    assert!(report.books_match, "seed {seed}: {} compared, {:?}", report.books_compared, report.recovery);
    assert_eq!(report.books_compared + report.books_passed_over, 100, "seed {seed}");
    assert_eq!(report.orders_decided, report.orders_sent + report.orders_refused, "seed {seed}");
    let answered = report.orders_accepted + report.orders_rejected + report.orders_lost;
    assert_eq!(report.orders_sent, answered, "seed {seed}");
    assert!(report.drops.values().all(|count| count == 0), "seed {seed}: {:?}", report.drops);
    let mut faults = report.feed_faults.as_object().unwrap().values();
    assert!(faults.all(|count| count == 0), "seed {seed}: {}", report.feed_faults);
}

fn count(report: &Report, path: &str, name: &str) -> f64 {
    report.impairments[path][name].as_u64().unwrap() as f64
}

/// The wires did to `path` what they were asked to, within four standard deviations.
fn assert_rates(report: &Report, path: &str) {
    let frames = count(report, path, "frames");
    let kept = frames - count(report, path, "lost");
    let found = [
        ("lost", frames, ROUGH.loss),
        ("duplicated", kept, ROUGH.duplicate),
        ("reordered", kept, ROUGH.reorder),
        ("corrupted", kept, ROUGH.corrupt),
    ];
    for (name, of, rate) in found {
        let (got, deviation) = (count(report, path, name), (of * rate * (1.0 - rate)).sqrt());
        assert!(frames > 0.0 && (got - of * rate).abs() <= 4.0 * deviation, "{path}: {name} {got} of {of}");
    }
}

#[test]
fn impaired_lines_are_arbitrated_and_recovered_and_the_counts_match_the_rates() {
    for ports in [2, 1] {
        let report = run(&Config { ports, ..rough(11, 200_000) }).unwrap();
        assert_survived(&report);
        assert_eq!((report.ticks, report.books_compared), (200_000, 100));
        assert!(report.gaps_detected > 0 && report.orders_sent > 100);
        for path in ["feed_a", "feed_b", "orders"] {
            assert_rates(&report, path);
        }
        let lost = |path| count(&report, path, "lost");
        assert_ne!(lost("feed_a"), lost("feed_b"), "one stream for both lines");
    }
}

/// Seeds 20 to 39 of the 200 have a span without feed, from some messages to more than can be asked for again one by one; in seeds 40 to 59 the
/// order session is cut.
#[test]
fn two_hundred_seeds_come_right_with_dead_feeds_and_cut_sessions_among_them() {
    const SEEDS: u64 = 200;
    const TICKS: u64 = 20_000;
    let [next, snapshots, requests, cuts] = [(); 4].map(|()| AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return;
            }
            let is_dead = (20..40).contains(&seed);
            let start = 20 * MILLISECOND + seed * MILLISECOND;
            let dead_feeds = if is_dead { dead(start..start + (seed - 18) * 5 * MILLISECOND) } else { [None, None] };
            let is_cut = (40..60).contains(&seed);
            let order_cuts = if is_cut { (1..50).map(|cut| cut * 40 * MILLISECOND).collect() } else { Vec::new() };
            let report = run(&Config { dead_feeds, order_cuts, stocks: 100, ..rough(seed, TICKS) }).unwrap();
            assert_survived(&report);
            if is_dead {
                assert!(
                    count(&report, "feed_a", "dead") > 0.0 && count(&report, "feed_b", "dead") > 0.0,
                    "seed {seed}"
                );
                assert!(report.messages_missing > 100, "seed {seed}");
            }
            // A cut that finds no connection cuts nothing.
            assert!(is_cut || report.order_cuts == 0, "seed {seed}");
            cuts.fetch_add(report.order_cuts, Ordering::Relaxed);
            let of = |name: &str| report.recovery[name].as_u64().unwrap();
            let was_passed_over = report.books_passed_over > 0;
            assert!(of("snapshots") > 0 || (!was_passed_over && report.ticks == TICKS), "seed {seed}");
            snapshots.fetch_add(of("snapshots"), Ordering::Relaxed);
            requests.fetch_add(of("requests"), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        (0..cores).for_each(|_| _ = scope.spawn(work));
    });
    let [snapshots, requests, cuts] = [snapshots, requests, cuts].map(AtomicU64::into_inner);
    println!("{SEEDS} seeds: {requests} requests, {snapshots} snapshots, {cuts} cuts of order sessions");
    assert!(cuts >= 20, "{cuts} cuts: too kind a test");
    assert!(snapshots >= 5 && requests >= SEEDS, "{requests} requests, {snapshots} snapshots: too kind a test");
}

#[test]
fn line_that_dies_is_named_and_the_other_carries_the_feed() {
    for (line, name) in ["a", "b"].into_iter().enumerate() {
        let mut dead_feeds = [None, None];
        dead_feeds[line] = Some(50 * MILLISECOND..u64::MAX);
        let config = Config { ticks: 20_000, simulated: true, dead_feeds, ..Config::default() };
        let report = run(&config).unwrap();
        assert_survived(&report);
        assert_eq!((report.gaps_detected, report.ticks), (0, 20_000));
        let silences = |name: &str| report.feed[name]["silences"].as_u64().unwrap();
        assert_eq!(silences("a") + silences("b"), 1);
        assert_eq!(silences(name), 1);
    }
}

#[test]
fn both_lines_dead_for_long_lead_to_a_snapshot_and_points_within_are_passed_over() {
    let span = dead(20 * MILLISECOND..120 * MILLISECOND);
    let report = run(&Config { ticks: 20_000, simulated: true, dead_feeds: span, ..Config::default() }).unwrap();
    assert_survived(&report);
    assert_eq!((report.recovery["snapshots"].as_u64(), report.recovery["requests"].as_u64()), (Some(1), Some(0)));
    assert!((20..60).contains(&report.books_passed_over), "{}", report.books_passed_over);
    assert!(report.ticks < 20_000 - 6_000);
}

#[test]
fn late_start_begins_with_a_snapshot() {
    let span = dead(0..80 * MILLISECOND);
    let report = run(&Config { dead_feeds: span, ..rough(3, 20_000) }).unwrap();
    assert_survived(&report);
    assert_eq!(report.recovery["snapshots"], 1);
    assert!(report.books_compared > 50 && report.orders_sent > 0, "{}", report.books_compared);
}

#[test]
fn same_seed_recovers_the_same_way() {
    let config = Config { dead_feeds: dead(30 * MILLISECOND..100 * MILLISECOND), ..rough(5, 20_000) };
    let reports = [(), ()].map(|()| {
        let mut report = serde_json::to_value(run(&config).unwrap()).unwrap();
        report.as_object_mut().unwrap().shift_remove("host");
        report.to_string()
    });
    assert_eq!(reports[0], reports[1]);
}
