//! The hot path's three proofs: no allocation and no system call from t0 to t4 over a million ticks, and no way from the hot functions into a
//! panic. Each instrument is shown to catch a planted offence. The output says what was checked, and how.

#![forbid(unsafe_code)]

mod functions;
mod market;

use std::hint::black_box;
use std::io::Write;

use barewire_tests::proof::alloc::{self, CountingAllocator};
use barewire_tests::proof::panics::CallGraph;
use barewire_tests::proof::syscalls;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Straight to standard error: the test runner keeps back what `println` says.
macro_rules! say {
    ($($argument:tt)*) => {
        // Nothing is lost but the words.
        _ = writeln!(std::io::stderr(), $($argument)*)
    };
}

/// What a run of the market was seen to do: allocations and system calls.
fn watched(ticks: u64, offence: Option<fn()>) -> (market::Outcome, u64, u64) {
    let before = (alloc::calls(), syscalls::calls().0);
    let outcome = market::run(ticks, offence).unwrap();
    (outcome, alloc::calls() - before.0, syscalls::calls().0 - before.1)
}

/// One test: the kernel watches the system calls of one thread.
#[test]
fn a_million_ticks_allocate_nothing_and_make_no_system_call() {
    const TICKS: u64 = 1_000_000;
    const FEW: u64 = 20_000;
    let dispatch = syscalls::prepare();
    let (_, allocations, calls) = watched(FEW, Some(|| drop(black_box(Box::new(0u64)))));
    assert_eq!((allocations, calls), (2, 0), "a box made and dropped between t0 and t4 is not seen");
    if dispatch.is_ok() {
        let (_, allocations, calls) = watched(FEW, Some(|| _ = black_box(std::process::id())));
        assert_eq!((allocations, calls), (0, 1), "getpid between t0 and t4 is not seen");
    }

    let (outcome, allocations, calls) = watched(TICKS, None);
    let market::Outcome { ticks, orders, digests: [theirs, ours] } = outcome;
    say!("hot path, t0 to t4 of {ticks} ticks and {orders} orders:");
    say!("  allocations   {allocations}: a counting global allocator; a planted box is seen");
    match &dispatch {
        Ok(()) => say!("  system calls  {calls}: Syscall User Dispatch of the kernel; a planted getpid is seen"),
        Err(why) => barewire_tests::skip("system calls of the hot path", why),
    }
    say!("  excluded      the device model, inside register accesses");
    assert_eq!(ticks, TICKS);
    assert!(orders >= 1_000, "{orders} orders");
    assert!(theirs.len() == 100 && theirs == ours, "what was watched is no market: the books differ");
    assert_eq!((allocations, calls), (0, 0), "the last system call was number {}", syscalls::calls().1);
}

/// What the walk does not enter: smoltcp, which carries no order here, and membership reports, which leave every minute or so.
///
/// Of the express TCP these are what no expected segment reaches: timers that have expired, chores, segments that take the long way, text that its
/// reader left, listeners, ARP, the heap of deadlines, the end of a pool, and the growth of a list that has room for every session.
const EXCLUDED: [&str; 13] = [
    "7smoltcp",
    "17barewire_netstack4host",
    "9send_igmp",
    "10expire_due",
    "15refresh_station",
    "10run_chores",
    "3tcp3Tcp7receive",
    "9keep_rest",
    "8grow_one",
    "6timers6Timers",
    "14receive_listen",
    "11receive_arp",
    "9drop_slow",
];

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimised code: cargo test --release -p barewire-tests --test hotpath")]
fn hot_functions_reach_no_panic() {
    // The wrappers are in this program because their addresses are looked at.
    black_box((functions::ROOTS, functions::PLANTED));
    let calls = match CallGraph::of(&std::env::current_exe().unwrap()) {
        Ok(calls) => calls,
        Err(why) => return barewire_tests::skip("panics of the hot functions", &why),
    };
    let walk = |name: &str| {
        let symbols = calls.named(name);
        assert!(!symbols.is_empty(), "{name} is not in the program");
        symbols.into_iter().map(|symbol| calls.reach(symbol, &EXCLUDED).unwrap()).collect::<Vec<_>>()
    };
    let planted = walk(functions::PLANTED.0);
    assert!(planted.iter().any(|reach| !reach.panics.is_empty()), "an unchecked index is not seen");

    say!(
        "hot functions, machine code walked with objdump from each of them; an unchecked index that was planted is seen:"
    );
    let mut guilty = Vec::new();
    for (name, _) in functions::ROOTS {
        for reach in walk(name) {
            say!(
                "  {name:<28} {:>2} functions, {} panics; not entered: {} by name, {} through pointers",
                reach.functions,
                reach.panics.len(),
                reach.excluded.len(),
                reach.indirect
            );
            guilty.extend(reach.panics);
        }
    }
    say!(
        "  by name: smoltcp and the host stack around it, IGMP reports, timers and the long way of TCP; \
         through pointers: jump tables, emulated registers"
    );
    assert!(guilty.is_empty(), "callers first: {guilty:#?}");
}
