//! The `barewire` program: reads the command line, runs one command, and says how it ended.
//!
//! Exit status: 0 done, 1 failed at run time, 2 the input or the command line is at fault. Results go to standard output, everything else to
//! standard error.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use barewire::args::{Cli, Command, DemoArgs};
use barewire::{bench, decode, market, replay};
use clap::Parser;

/// How a command ended when not well.
enum Failure {
    /// The input or the command line is at fault: exit status 2.
    Input(String),
    /// Something failed at run time: exit status 1.
    Run(String),
    /// Nobody reads the output any more: that is no failure.
    Closed,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Run(format!("output: {error}")),
        }
    }
}

impl From<decode::Error> for Failure {
    fn from(error: decode::Error) -> Self {
        match error {
            decode::Error::Output(error) => error.into(),
            decode::Error::Input(_) => Self::Input(error.to_string()),
            decode::Error::Run(_) => Self::Run(error.to_string()),
        }
    }
}

impl From<market::Error> for Failure {
    fn from(error: market::Error) -> Self {
        match error {
            market::Error::Config { .. } | market::Error::Placement(_) => Self::Input(error.to_string()),
            _ => Self::Run(error.to_string()),
        }
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Input(error)) => complain(&error, 2),
        Err(Failure::Run(error)) => complain(&error, 1),
    }
}

fn complain(error: &str, status: u8) -> ExitCode {
    eprintln!("barewire: {error}");
    ExitCode::from(status)
}

fn run(command: &Command) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match command {
        Command::Demo(args) => demo(args, &mut out)?,
        Command::Decode(args) => decode::run(&args.paths, args.protocol, args.json, &mut out)?,
        Command::Replay(args) => replay::run(&args.paths, args.json, &mut out)?,
        Command::Bench(args) => bench::run(args, &mut out).map_err(|error| match error {
            bench::Error::Unknown(_) => Failure::Input(error.to_string()),
            bench::Error::Output(error) => error.into(),
            other => Failure::Run(other.to_string()),
        })?,
    }
    out.flush()?;
    Ok(())
}

fn demo(args: &DemoArgs, out: &mut impl Write) -> Result<(), Failure> {
    let config = args.config()?;
    if !config.simulated {
        let planned = config.ticks / config.rate;
        eprintln!("exchange and trader run for about {} s ...", planned + 1);
    }
    let report = market::run(&config)?;
    if args.json {
        serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(())
}
