//! Measurements of the hot paths: nanoseconds here, instructions under callgrind, each beside what it is to be compared with.

pub mod cold;
pub mod count;
pub mod probe;

use std::io::{self, Write};

use crate::args::BenchArgs;

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

/// What can be measured.
const LIST: [(&str, &str); 0] = [];

/// Runs what `args` ask for.
pub fn run(args: &BenchArgs, out: &mut impl Write) -> Result<(), Error> {
    if args.list {
        for (name, what) in LIST {
            writeln!(out, "{name:<8} {what}")?;
        }
        return Ok(());
    }
    Err(Error::Unknown(args.name.clone().unwrap_or_default()))
}
