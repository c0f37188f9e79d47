//! What was won stays won: instruction counts and bus costs, which do not depend on the machine's mood, each below a ceiling.
//!
//! The figures are those that `barewire bench` prints, from an optimised build: `tests/run` runs this file with `--release`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;

use barewire_tests::skip;
use serde_json::Value;

/// A benchmark's figure, as a path into its JSON, and the most it may be. Raise one only with the reason in the commit.
const CEILINGS: [(&str, &str, f64); 14] = [
    // Aim, and reached: 40 a frame at bursts of 32.
    ("driver", "/receive/0/instructions", 92.0),
    ("driver", "/receive/1/instructions", 44.0),
    ("driver", "/receive/2/instructions", 39.0),
    ("driver", "/transmit/0/instructions", 163.0),
    ("driver", "/transmit/2/instructions", 88.0),
    // Aim: 60. It is what the lane takes less what the driver takes alone, which builds no metadata where nobody asks for it.
    ("tick", "/instructions_frame_to_receiver", 160.0),
    // Two lines are merged, the book is laid out for millions of orders, and nine limits act at release.
    ("tick", "/express/instructions", 1_650.0),
    ("tick", "/prepared/instructions", 1_640.0),
    // Aims: 700, and 250 of them on the way from a segment to the doorbell of its answer.
    ("tcp-rr", "/express/instructions", 2_340.0),
    ("tcp-rr", "/latency_path_instructions", 795.0),
    // One for the order; the receive ring's tail moves every 32 frames.
    ("tick", "/ledger/doorbells", 1.3),
    ("tick", "/ledger/register_reads", 0.0),
    ("tick", "/ledger/descriptor_fetches", 1.1),
    ("tick", "/ledger/write_backs", 1.1),
];

fn bench(name: &str) -> Value {
    // Two up from `target/release/deps/ceilings-...`: where the program of the same profile is.
    let folder: PathBuf = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().into();
    let built = Command::new(env!("CARGO")).args(["build", "--release", "--locked", "-q", "-p", "barewire"]).status();
    assert!(built.unwrap().success(), "the program does not build");
    let output = Command::new(folder.join("barewire")).args(["bench", name, "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "the ceilings hold for optimised builds; tests/run adds --release")]
fn figures_stay_below_their_ceilings() {
    let mut over = Vec::new();
    for name in ["driver", "tick", "tcp-rr"] {
        let found = bench(name);
        if let Some(reason) = found.get("instructions_missing") {
            skip(&format!("instruction ceilings of bench {name}"), reason.as_str().unwrap_or_default());
        }
        for (_, path, ceiling) in CEILINGS.iter().filter(|(bench, ..)| *bench == name) {
            let figure = found.pointer(path).unwrap_or_else(|| panic!("bench {name} prints no {path}"));
            // Null where there is no valgrind, which was told above.
            if let Some(figure) = figure.as_f64() {
                println!("{name} {path}: {figure:.1} of {ceiling}");
                if figure > *ceiling {
                    over.push(format!("bench {name}: {path} is {figure}, the ceiling is {ceiling}"));
                }
            }
        }
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}
