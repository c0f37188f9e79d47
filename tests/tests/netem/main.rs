//! Express TCP with Linux's through loss, reordering, duplication, corruption and delay, beside Linux with Linux through the same: in a guest, for
//! the host's kernel may have no netem. Prints a table of medians.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::Duration;

use barewire_tests::guest::{Guest, Output, barewire, example, qemu};
use serde_json::Value;

/// Asks for the test, which takes minutes a row. `tests/run --netem` sets it.
const WANTED: &str = "BAREWIRE_NETEM";
/// For one row: nine transfers and a boot.
const LIMIT: Duration = Duration::from_secs(900);
const COMMON: &str = include_str!("../kernel_vfio/common.sh");
const SCRIPT: &str = include_str!("netem.sh");
const ROUNDS: usize = 3;
/// How many times Linux's time we may take.
const ALLOWED: f64 = 2.0;

/// A kind of trouble: its name, what netem is told for both ways, and bytes for which Linux with Linux takes some seconds. The path is slow enough
/// for its delay or rate, and not the emulated processor, to be what limits.
type Row = (&'static str, &'static str, u64);

const ROWS: &[Row] = &[
    ("loss 1 %", "delay 10ms loss 1%", 4 << 20),
    ("loss 5 %", "delay 10ms loss 5%", 1 << 20),
    ("loss 20 %", "delay 10ms loss 20%", 256 << 10),
    ("reordering", "delay 20ms reorder 25%", 4 << 20),
    ("duplication", "delay 10ms rate 4mbit duplicate 10%", 2 << 20),
    ("corruption", "delay 10ms corrupt 1%", 4 << 20),
    ("delay 100 ms", "delay 100ms", 16 << 20),
];

/// The seconds of one transfer, by the clock of who received, if both ends have the same bytes.
fn seconds(facts: &HashMap<&str, Value>, name: &str, bytes: u64) -> Result<f64, String> {
    let end = |side: &str| facts.get(&*format!("{name} {side}")).ok_or(format!("{name}: the {side} tells nothing"));
    let (source, sink) = (end("source")?, end("sink")?);
    let figure = |end: &Value, linux: &str, ours: &str| end.get(linux).or(end.get(ours)).cloned().unwrap_or_default();
    let sent = (figure(source, "bytes", "bytes_sent"), figure(source, "sha256", "sha256_sent"));
    let received = (figure(sink, "bytes", "bytes_received"), figure(sink, "sha256", "sha256_received"));
    if sent != received || sent.0 != bytes {
        return Err(format!("{name}: sent {sent:?}, received {received:?}"));
    }
    let speed = |speed: &Value| speed.as_f64().map(|speed| bytes as f64 / 1e6 / speed);
    let linux = sink["seconds"].as_f64().or_else(|| speed(&sink["megabytes_per_second"]));
    linux.ok_or(format!("{name}: no time is told"))
}

fn median(facts: &HashMap<&str, Value>, name: &str, bytes: u64) -> Result<f64, String> {
    let rounds = (1..=ROUNDS).map(|round| seconds(facts, &format!("{name} {round}"), bytes));
    let mut rounds = rounds.collect::<Result<Vec<_>, _>>()?;
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

/// The medians: Linux to Linux, Linux to us, us to Linux. Every transfer must be complete and equal.
fn judge(output: &Output, bytes: u64) -> Result<[f64; 3], String> {
    let lines = output.stdout.lines().filter_map(|line| line.split_once('\t'));
    let facts = lines.filter_map(|(name, value)| Some((name, serde_json::from_str(value).ok()?))).collect();
    let medians = ["linux", "in", "out"].map(|name| median(&facts, name, bytes));
    let [Ok(linux), Ok(received), Ok(sent)] = medians else {
        let wrong: Vec<_> = medians.into_iter().filter_map(Result::err).collect();
        return Err(format!("{}; {}", wrong.join("; "), output.stderr.trim_end()));
    };
    Ok([linux, received, sent])
}

/// Runs `row` in a guest of its own; its line of the table, and whether it is as it should be.
fn run((name, netem, bytes): Row) -> Result<(), String> {
    let guest = Guest::new("6.12", LIMIT).cpus(2).memory_mib(768).barewire(barewire()).file("/common.sh", COMMON);
    let guest = guest.copy(&example("linux_peer"), "/bin/linux_peer").file("/netem.sh", SCRIPT);
    let output = guest.run(&format!("sh /netem.sh {bytes} {netem}"));
    let [linux, received, sent] = judge(&output, bytes).map_err(|reason| format!("{name}: {reason}"))?;
    let [from, to] = [received / linux, sent / linux];
    let kib = bytes >> 10;
    eprintln!("{name:<13}{kib:>9} KiB{linux:>9.2} s{received:>9.2} s{from:>6.2}{sent:>9.2} s{to:>6.2}");
    if from.max(to) > ALLOWED {
        return Err(format!(
            "{name}: more than {ALLOWED} times as long as Linux: {from:.2} from Linux, {to:.2} to Linux"
        ));
    }
    Ok(())
}

#[test]
fn transfers_through_trouble_are_complete_and_within_twice_linux_s_time() {
    let what = "express TCP with Linux through netem";
    let Some(wanted) = std::env::var_os(WANTED) else {
        return barewire_tests::skip(what, "it takes minutes; tests/run --netem runs it");
    };
    if let Err(reason) = qemu() {
        return barewire_tests::skip(what, reason);
    }
    let wanted = wanted.to_string_lossy();
    eprintln!("medians of {ROUNDS}      bytes   Linux-Linux   Linux-us ratio  us-Linux ratio");
    let rows = ROWS.iter().filter(|(name, ..)| *wanted == *"all" || name.contains(&*wanted));
    let failed: Vec<_> = rows.filter_map(|row| run(*row).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
