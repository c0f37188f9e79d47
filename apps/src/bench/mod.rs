//! Measurements of the hot paths: nanoseconds here, instructions under callgrind, each beside what it is to be compared with.

pub mod cold;
pub mod count;
mod decode;
mod driver;
mod flow;
mod fold;
mod ipc;
pub mod kernel;
mod lines;
pub mod probe;
mod rig;
mod rr;
mod tick;

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use crate::args::BenchArgs;
use tick::Way;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such benchmark.
    #[error("no benchmark is called {0:?}; `barewire bench --list` names them")]
    Unknown(String),
    /// Output cannot be written.
    #[error("output: {0}")]
    Output(#[from] io::Error),
    /// Something the benchmark needs did not come up.
    #[error("{0}")]
    Run(String),
}

impl Error {
    fn failed(error: impl Display) -> Self {
        Self::Run(error.to_string())
    }

    fn full() -> Self {
        Self::Run("the datagram is full".into())
    }
}

/// What can be measured.
const LIST: [(&str, &str); 6] = [
    ("tick", "descriptor to doorbell: market data in, order out; warm and cold; against smoltcp's own sockets"),
    ("tcp-rr", "request and response of 64 bytes over TCP: express lane, smoltcp, and the kernel's sockets over veth"),
    (
        "driver",
        "the ixgbe driver alone: nanoseconds and instructions a frame, receive and transmit, bursts of 1, 8 and 32",
    ),
    ("lines", "two lines of a feed into one arbiter: by one core, and by two with a ring between them"),
    (
        "ipc",
        "messages between two processes: our rings, a pipe, a Unix socket, crate ipc-channel, and a bare cache line",
    ),
    (
        "decode",
        "ITCH messages a second, decoded beside crate itchy, and through books of 50,000 and a million live orders",
    ),
];

/// Runs what `args` ask for.
pub fn run(args: &BenchArgs, out: &mut impl Write) -> Result<(), Error> {
    if args.list {
        for (name, what) in LIST {
            writeln!(out, "{name:<8} {what}")?;
        }
        return Ok(());
    }
    if let Some(end) = &args.kernel {
        return kernel::run_end(end, out).map_err(Error::Run);
    }
    if !args.ipc.is_empty() {
        return ipc::run_end(&args.ipc);
    }
    if let Some(scenario) = &args.count {
        writeln!(out, "{}", counted(scenario)?)?;
        return Ok(());
    }
    match args.name.as_deref().unwrap_or_default() {
        "tick" => {
            let found = tick::run()?;
            let counts = [&found.express.instructions, &found.instructions_frame_to_receiver];
            print(args.json, &found, count::reason(counts), out)
        }
        "tcp-rr" => {
            let found = rr::run()?;
            let counts = [&found.express.instructions, &found.smoltcp.instructions];
            print(args.json, &found, count::reason(counts), out)
        }
        "driver" => {
            let found = driver::run()?;
            let reason = count::reason(found.receive.iter().chain(&found.transmit).map(|row| &row.instructions));
            print(args.json, &found, reason, out)
        }
        "lines" => {
            let found = lines::run()?;
            let counts = [&found.instructions_first, &found.instructions_ring];
            print(args.json, &found, count::reason(counts), out)
        }
        "ipc" => print(args.json, &ipc::run()?, None, out),
        "decode" => {
            let found = decode::run()?;
            print(args.json, &found, count::reason([&found.instructions]), out)
        }
        other => Err(Error::Unknown(other.to_owned())),
    }
}

/// Runs one counted scenario; returns its units.
fn counted(scenario: &str) -> Result<u64, Error> {
    let unknown = || Error::Unknown(scenario.to_owned());
    match scenario {
        "lane-32" => tick::counted_lane(),
        "decode" => Ok(decode::counted()),
        other => {
            if let Some(way) = Way::named(other) {
                return tick::counted(way);
            }
            if let Some(units) = rr::counted(other) {
                return units;
            }
            if let Some(units) = lines::counted(other) {
                return units;
            }
            let (name, burst) = other.split_once('-').ok_or_else(unknown)?;
            let burst = burst.parse().ok().filter(|burst| driver::BURSTS.contains(burst)).ok_or_else(unknown)?;
            if !matches!(name, "receive" | "transmit") {
                return Err(unknown());
            }
            driver::counted(name, burst)
        }
    }
}

/// Prints what was found: one JSON object, or a line a figure.
fn print(json: bool, found: &impl Serialize, reason: Option<String>, out: &mut impl Write) -> Result<(), Error> {
    let mut value = serde_json::to_value(found).map_err(io::Error::from)?;
    if let (Value::Object(object), Some(reason)) = (&mut value, reason) {
        object.insert("instructions_missing".into(), reason.into());
    }
    if json {
        writeln!(out, "{value}")?;
    } else {
        lines("", &value, out)?;
    }
    Ok(())
}

/// Figures by their path, one a line.
fn lines(path: &str, value: &Value, out: &mut impl Write) -> io::Result<()> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path} {name}") };
    match value {
        // A row's burst is in its path already.
        Value::Object(object) => {
            let mut figures = object.iter().filter(|(name, _)| *name != "burst");
            figures.try_for_each(|(name, value)| lines(&below(name), value, out))
        }
        Value::Array(rows) => rows.iter().try_for_each(|row| {
            let burst = row.get("burst").map_or_else(String::new, |burst| format!("burst {burst:>2}"));
            lines(&below(&burst), row, out)
        }),
        Value::Number(number) if number.is_f64() => {
            writeln!(out, "{path:<40} {:>16.1}", number.as_f64().unwrap_or_default())
        }
        other => writeln!(out, "{path:<40} {:>16}", other.to_string()),
    }
}

/// Says on standard error what is being measured now.
fn progress(what: &str) {
    eprintln!("measuring {what} ...");
}
