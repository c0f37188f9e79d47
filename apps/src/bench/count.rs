//! Instruction counts by callgrind: the program runs itself under valgrind and counts only what lies inside [`measured`].
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Serialize, Serializer};

/// The steady state is long enough that one round more or less does not show.
pub const ROUNDS: u32 = 10_000;

static COUNTING: AtomicBool = AtomicBool::new(false);

/// Runs `work` with counting on. Callgrind toggles at the entry and the exit of this very function, hence no inlining.
#[inline(never)]
pub fn measured(work: &mut dyn FnMut()) {
    COUNTING.store(true, Ordering::Relaxed);
    work();
    COUNTING.store(false, Ordering::Relaxed);
    // Keeps the body from becoming a tail call, which callgrind would take for an early exit.
    black_box(());
}

/// Runs `work` uncounted where counting is on: device models stand where hardware will be.
pub fn uncounted(work: &mut dyn FnMut()) {
    if COUNTING.load(Ordering::Relaxed) { excluded(work) } else { work() }
}

#[inline(never)]
fn excluded(work: &mut dyn FnMut()) {
    work();
    black_box(());
}

/// Instructions a unit, or the reason why there is no number.
#[derive(Debug, Clone, PartialEq)]
pub struct Count(Result<f64, String>);

impl Count {
    /// The number.
    pub fn value(&self) -> Option<f64> {
        self.0.as_ref().ok().copied()
    }

    /// This count less what `part` of it takes.
    pub fn less(&self, part: &Self) -> Self {
        Self(match (&self.0, &part.0) {
            (Ok(all), Ok(part)) => Ok(all - part),
            (Err(reason), _) | (_, Err(reason)) => Err(reason.clone()),
        })
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Ok(value) => f.pad(&format!("{value:.1}")),
            Err(_) => f.pad("-"),
        }
    }
}

/// A number, or `null`; [`reason`] tells why.
impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().map(|value| (value * 10.0).round() / 10.0).serialize(serializer)
    }
}

/// Why counts are missing: nothing where none is.
pub fn reason<'a>(counts: impl IntoIterator<Item = &'a Count>) -> Option<String> {
    counts.into_iter().find_map(|count| count.0.clone().err())
}

/// Counts the instructions of one scenario (`barewire bench --count NAME`), divided by the units that it reports.
pub fn instructions(scenario: &str) -> Count {
    Count(callgrind(scenario))
}

fn callgrind(scenario: &str) -> Result<f64, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find the program itself: {error}"))?;
    let scratch = std::env::temp_dir().join(format!("barewire-callgrind-{}-{scenario}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*bench::count::measured*"])
        .arg("--toggle-collect=*bench::count::excluded*")
        .arg(format!("--callgrind-out-file={}", scratch.display()))
        .arg(program)
        .args(["bench", "--count", scenario])
        .output();
    let _ = std::fs::remove_file(&scratch);
    let output = output.map_err(|error| format!("valgrind does not start ({error}); install the package valgrind"))?;
    let (told, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("the run under valgrind failed: {}", log.lines().last().unwrap_or("no message")));
    }
    let units: f64 = told.trim().parse().map_err(|_| format!("scenario {scenario} reported no units"))?;
    let collected = log.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
    match collected {
        Some(count) if count > 0.0 && units > 0.0 => Ok(count / units),
        _ => Err("callgrind collected nothing; was the program stripped of its symbols?".into()),
    }
}
