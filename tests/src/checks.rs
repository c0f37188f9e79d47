//! Checks that are rows of a table: what was shown, on which NIC.
#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write;
use std::panic;

/// The checks on one NIC. Each is noted as soon as it is over, in the file named by `BAREWIRE_CHECKS`, of which `tests/run --qemu` makes its
/// table; all of them run, and [`Checks::finish`] fails if one did.
#[derive(Debug)]
pub struct Checks {
    nic: String,
    failed: Vec<String>,
}

impl Checks {
    /// No checks so far on `nic`, which is the table's first column.
    pub fn of(nic: &str) -> Self {
        Self { nic: nic.to_owned(), failed: Vec::new() }
    }

    /// Notes that `what` was shown, with a figure or two; or that it was not, and what was seen instead.
    pub fn note(&mut self, what: &str, outcome: Result<String, String>) {
        let (verdict, detail) = match &outcome {
            Ok(detail) => ("passed", detail),
            Err(detail) => ("FAILED", detail),
        };
        row(&self.nic, what, verdict, detail);
        if let Err(detail) = outcome {
            self.failed.push(format!("{what}: {detail}"));
        }
    }

    /// Notes that `what` cannot be tried here.
    pub fn skip(&self, what: &str, why: &str) {
        row(&self.nic, what, "skipped", why);
        crate::skip(&format!("{}: {what}", self.nic), why);
    }

    /// The end.
    ///
    /// # Panics
    /// When a check failed.
    pub fn finish(self) {
        assert!(self.failed.is_empty(), "{}:\n{}", self.nic, self.failed.join("\n"));
    }
}

thread_local! {
    /// Why something was skipped on this thread, which is one test's.
    static SKIPPED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes that the test of this thread skips something, and why.
pub(crate) fn skipped(why: &str) {
    SKIPPED.set(Some(why.to_owned()));
}

/// Runs `test` as the one check `what` on `nic`: it passed, was skipped if it called [`crate::skip`], or failed with the message of its panic,
/// which goes on. [`rows!`](crate::rows) makes tests of it.
pub fn check(nic: &str, what: &str, test: fn()) {
    SKIPPED.take();
    let outcome = panic::catch_unwind(test);
    match (&outcome, SKIPPED.take()) {
        (Ok(()), None) => row(nic, what, "passed", ""),
        (Ok(()), Some(why)) => row(nic, what, "skipped", &why),
        (Err(panic), _) => row(nic, what, "FAILED", message(panic.as_ref())),
    }
    if let Err(panic) = outcome {
        panic::resume_unwind(panic);
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

/// Makes a test of every function named, in a module `rows`; each is a row of the table, under the NIC named and by the function's name.
#[macro_export]
macro_rules! rows {
    ($nic:literal: $($check:ident)*) => {
        mod rows {$(
            #[test]
            fn $check() {
                $crate::checks::check($nic, stringify!($check), super::$check);
            }
        )*}
    };
}

fn row(nic: &str, what: &str, verdict: &str, detail: &str) {
    // Functions are named with underscores.
    let what = what.replace('_', " ");
    let line = [nic, &what, verdict, detail].map(|cell| cell.replace(['\t', '\n'], " ")).join("\t");
    eprintln!("{line}");
    let Some(path) = std::env::var_os("BAREWIRE_CHECKS") else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    // In one piece: other tests write there too.
    if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
        eprintln!("the check could not be noted: {error}");
    }
}
