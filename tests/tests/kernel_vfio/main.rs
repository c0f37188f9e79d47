//! Our drivers through the kernel's VFIO, in Linux guests behind an emulated IOMMU, with Linux's own drivers as their peers.
#![forbid(unsafe_code)]

mod faults;
mod input;
mod traffic;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barewire_tests::guest::{Guest, Output, barewire};
use serde_json::Value;

/// The Linux that drives the other end and VFIO.
const LINUX: &str = "6.12";
/// Functions of the guests' scripts.
const COMMON: &str = include_str!("common.sh");

/// Guests one after another: each has two processors to emulate.
static ALONE: Mutex<()> = Mutex::new(());

/// The turn to run a guest, and one behind an IOMMU, to live for `limit` at most, with `barewire` in it and [`COMMON`] as `/common.sh`.
fn guest(limit: Duration) -> (MutexGuard<'static, ()>, Guest) {
    let turn = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let guest = Guest::new(LINUX, limit).iommu().cpus(2).memory_mib(1024);
    (turn, guest.barewire(barewire()).file("/common.sh", COMMON))
}

/// What a guest's script told: lines of a name, a tab and JSON, or plain text.
struct Told {
    facts: HashMap<String, Value>,
    end: String,
}

impl Told {
    fn by(output: &Output) -> Self {
        let fact = |line: &str| {
            let (name, value) = line.split_once('\t')?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            Some((name.to_owned(), value))
        };
        let last: Vec<_> = output.stderr.lines().rev().take(8).collect();
        let end = format!("exit status {}: {}", output.status, last.into_iter().rev().collect::<Vec<_>>().join(" | "));
        Self { facts: output.stdout.lines().filter_map(fact).collect(), end }
    }

    /// The fact `name`, or how the script ended without telling it.
    fn fact(&self, name: &str) -> Result<&Value, String> {
        self.facts.get(name).ok_or_else(|| format!("the guest does not tell '{name}'; {}", self.end))
    }
}
