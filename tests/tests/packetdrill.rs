//! Scripts of packetdrill, written from the RFCs, on both TCP stacks.
//!
//! Those in `packetdrill/scripts/both` hold for either stack; those in `express` ask for what only the express lane does. A script may say how the
//! adapter is to be set up: `// so_flags: KEY=VALUE,...`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use barewire_tests::program;

/// packetdrill's `--local_ip`, and the others that go with it.
const LOCAL: &str = "192.168.0.1";
const ADDRESSES: [&str; 4] =
    ["--local_ip=192.168.0.1", "--gateway_ip=192.168.0.1", "--netmask_ip=255.255.0.0", "--remote_ip=192.0.2.1"];

/// packetdrill: the one that `PACKETDRILL` names, or one on the path.
fn packetdrill() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PACKETDRILL") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join("packetdrill")).find(|program| program.is_file())
}

fn scripts(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packetdrill/scripts").join(directory);
    let entries = directory.read_dir().expect("a directory of scripts");
    let mut scripts: Vec<_> = entries.map(|entry| entry.expect("an entry that is read").path()).collect();
    scripts.sort();
    scripts
}

/// Runs a script; what packetdrill says when it fails.
fn run(packetdrill: &Path, library: &Path, stack: &str, script: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(script).expect("a script that is read");
    let wanted = text.lines().find_map(|line| line.strip_prefix("// so_flags: "));
    let flags = format!("stack={stack},local={LOCAL}{}", wanted.map(|flags| format!(",{flags}")).unwrap_or_default());
    // packetdrill locks all memory, of which an ordinary user has little: stacks of threads are made small.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -s 512 && exec \"$0\" \"$@\""]).arg(packetdrill).args(ADDRESSES);
    command.arg(format!("--so_filename={}", library.display())).arg(format!("--so_flags={flags}")).arg(script);
    let output = command.output().map_err(|error| format!("sh: {error}"))?;
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

/// Runs all scripts of a directory on each of the stacks.
fn run_all(directory: &str, stacks: &[&str]) {
    let what = format!("packetdrill's scripts in tests/packetdrill/scripts/{directory}");
    let Some(packetdrill) = packetdrill() else {
        let why = "no packetdrill on the path; build it from github.com/google/packetdrill, or name it in PACKETDRILL";
        return barewire_tests::skip(&what, why);
    };
    let library = program::build(&["--package", "barewire-packetdrill"]).join("libbarewire_packetdrill.so");
    let scripts = scripts(directory);
    assert!(!scripts.is_empty(), "no scripts in {directory}");
    let mut failed = Vec::new();
    for (stack, script) in stacks.iter().flat_map(|stack| scripts.iter().map(move |script| (stack, script))) {
        match run(&packetdrill, &library, stack, script) {
            Ok(()) => {}
            Err(said) if said.contains("lockall") => {
                return barewire_tests::skip(&what, "packetdrill may not lock its memory; raise the limit (ulimit -l)");
            }
            Err(said) => failed.push(format!("{stack}, {}:\n{said}", script.display())),
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn what_any_tcp_does_holds_on_both_stacks() {
    run_all("both", &["express", "smoltcp"]);
}

#[test]
fn what_the_rfcs_ask_for_holds_on_the_express_lane() {
    run_all("express", &["express"]);
}

#[test]
fn a_script_that_asks_for_something_else_fails() {
    let Some(packetdrill) = packetdrill() else {
        return barewire_tests::skip(
            "a script of packetdrill that is wrong",
            "no packetdrill on the path, nor in PACKETDRILL",
        );
    };
    let library = program::build(&["--package", "barewire-packetdrill"]).join("libbarewire_packetdrill.so");
    let text = std::fs::read_to_string(&scripts("both")[0]).expect("a script that is read");
    let directory = tempfile::tempdir().expect("a directory");
    let wrong = directory.path().join("wrong.pkt");
    for (right, other) in [("ack 1\n", "ack 2\n"), ("= 0\n", "= 7\n")] {
        assert!(text.contains(right));
        std::fs::write(&wrong, text.replacen(right, other, 1)).expect("a script that is written");
        assert!(run(&packetdrill, &library, "express", &wrong).is_err(), "{other:?} passes");
    }
}
