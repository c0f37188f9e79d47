//! What the tests that cross crates share.

pub mod checks;
pub mod guest;
pub mod models;
pub mod network;
pub mod program;
pub mod proof;
pub mod rig;

/// Reports that `what` was not tested, and why: on standard error, and to the file named by `BAREWIRE_SKIPS`, which `tests/run` lists at its end.
pub fn skip(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}: {why}");
    checks::skipped(why);
    if let Some(path) = std::env::var_os("BAREWIRE_SKIPS") {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{what}: {why}")) {
            eprintln!("the skip could not be noted: {error}");
        }
    }
}
