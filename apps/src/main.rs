//! The `barewire` program: reads the command line, runs one command, and says how it ended.
//!
//! Exit status: 0 done, 1 failed at run time, 2 the input or the command line is at fault. Results go to standard output, everything else to
//! standard error.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use barewire::args::{Cli, Command, DemoArgs, Refusal};
use barewire::market::processes;
use barewire::trade::kill::KillSwitch;
use barewire::{bench, decode, devices, market, model, net, replay};
use barewire_driver::bus::sysfs::{Sysfs, SysfsError};

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

impl From<devices::Error> for Failure {
    fn from(error: devices::Error) -> Self {
        match error {
            devices::Error::Output(error) => error.into(),
            devices::Error::Sysfs(SysfsError::File { .. } | SysfsError::Refused { .. }) => Self::Run(error.to_string()),
            devices::Error::Sysfs(_) => Self::Input(error.to_string()),
        }
    }
}

impl From<net::Error> for Failure {
    fn from(error: net::Error) -> Self {
        match error {
            net::Error::Output(error) => error.into(),
            _ if error.is_input() => Self::Input(error.to_string()),
            _ => Self::Run(error.to_string()),
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

impl From<model::Error> for Failure {
    fn from(error: model::Error) -> Self {
        match error {
            model::Error::System(_) => Self::Run(error.to_string()),
            _ => Self::Input(error.to_string()),
        }
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Refusal::Help(help)) => help.exit(),
        Err(Refusal::Line(line)) => return complain(&line, 2),
    };
    match run(&cli.command) {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Input(error)) => complain(&error, 2),
        Err(Failure::Run(error)) => complain(&error, 1),
    }
}

fn complain(error: &str, status: u8) -> ExitCode {
    tell(&format!("barewire: {error}"));
    ExitCode::from(status)
}

/// A line on standard error, unless nobody reads it any more.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Does `work`, and tells on standard error how far it is: once a second, from the second second on.
fn while_telling<R>(how_far: impl Fn() -> String + Send, work: impl FnOnce() -> R) -> R {
    const INTERVAL: Duration = Duration::from_secs(1);
    thread::scope(|scope| {
        let (_working, done) = mpsc::channel::<()>();
        scope.spawn(move || {
            let waits = || done.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout);
            if waits() {
                while waits() {
                    tell(&how_far());
                }
            }
        });
        work()
    })
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
        Command::Model(args) => model::run(&args.config())?,
        Command::Devices(args) => devices::list(&Sysfs::default(), args.json, &mut out)?,
        Command::Bind(args) => devices::bind(&Sysfs::default(), args.address, args.force, &mut out)?,
        Command::Unbind(args) => devices::unbind(&Sysfs::default(), args.address, args.force, &mut out)?,
        Command::Ping(args) => net::ping(args, &mut out)?,
        Command::Listen(args) => net::listen(args, &mut out)?,
        Command::Connect(args) => net::connect(args, &mut out)?,
        Command::Multicast(args) => net::multicast(args, &mut out)?,
    }
    out.flush()?;
    Ok(())
}

fn demo(args: &DemoArgs, out: &mut impl Write) -> Result<(), Failure> {
    let config = args.config()?;
    if let Some(role) = args.part {
        return Ok(processes::part(role, &config, args.kill_file.as_deref(), out)?);
    }
    let (progress, kill) = (market::Progress::default(), KillSwitch::default());
    kill.press_on_signal().map_err(|error| Failure::Run(format!("SIGUSR1: {error}")))?;
    let watch = args.kill_file.as_deref().map(|path| kill.press_on_file(path)).transpose();
    let _watch = watch.map_err(|error| Failure::Input(format!("--kill-file: {error}")))?;
    let report = while_telling(
        || format!("{} of {} ticks", progress.ticks(), config.ticks),
        || match config.processes {
            true => processes::run(&config, &progress, &kill, &std::env::args_os().skip(1).collect::<Vec<_>>()),
            false => market::run_watched(&config, &progress, &kill),
        },
    )?;
    if args.json {
        serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(())
}
