//! The exchange's process: hosts the device models, begins the other four, and watches over them.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use barewire_driver::clock::Clock;
use barewire_models::Ixgbe82599;
use barewire_models::vfio_user::Server;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Pid, Signal, kill_process};

use super::{Home, NOTICE, Plan, Rings, Role, Stop};
use crate::market::figures::TraderFigures;
use crate::market::hosts::{Progress, Shared};
use crate::market::network::Network;
use crate::market::report::{Outcome, Report};
use crate::market::run::{GRACE, exchange};
use crate::market::{Config, Error};
use crate::trade::kill::KillSwitch;

/// How often the processes are looked after.
const WATCH: Duration = Duration::from_millis(1);

/// Runs the market of `config` as five processes: this one, and four of this program that are begun with `arguments`, the command line of this one.
///
/// # Errors
/// When a process cannot be begun, or stops before the market is over.
pub fn run(config: &Config, progress: &Progress, kill: &KillSwitch, arguments: &[OsString]) -> Result<Report, Error> {
    config.check()?;
    let clock = Clock::calibrated();
    let Clock::Counter(counter) = clock.clone() else { unreachable!("a calibrated clock counts") };
    let network = Network::new(config, &clock)?;
    let shared = Arc::new(Shared::new(progress.clone(), kill.clone())?);
    let rings = Rings::create()?;
    let places = rings.places(shared.points.address());
    let folder = Folder::create().map_err(Error::Processes)?;
    let stop =
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| Error::Processes(error.into()))?;
    let serve = |name: String, model: &Arc<Ixgbe82599>| {
        let path = folder.0.join(name);
        let stop = stop.try_clone().map_err(Error::Processes)?;
        Ok::<_, Error>((Server::bind(&path, model.clone(), stop)?, path))
    };
    let feed = network.models(1).enumerate().map(|(wire, model)| serve(format!("feed-{wire}"), model));
    let (mut servers, feed): (Vec<_>, Vec<_>) = feed.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let gateway = network.gateway().map(|model| serve("gateway".to_owned(), model)).transpose()?;
    let (server, gateway): (Vec<_>, Vec<_>) = gateway.into_iter().unzip();
    servers.extend(server);
    let plan = |role| Plan {
        places: places.clone(),
        sockets: match role {
            Role::Feed => feed.clone(),
            Role::Gateway => gateway.clone(),
            Role::Strategy | Role::Risk => Vec::new(),
        },
        clock: counter.to_words(),
    };
    let started = Instant::now();
    let (exchanged, ended) = thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| server.run());
        }
        let exchange = scope.spawn(|| exchange(config, &clock, &shared, &network, super::BUSY));
        let ended = Parts::begin(arguments, plan).and_then(|parts| parts.watch(config, &shared));
        match ended {
            Ok(_) => shared.finish(),
            Err(_) => shared.fail(),
        }
        let exchanged = exchange.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // It cannot be full: nobody else writes.
        let _ = rustix::io::write(&stop, &1u64.to_ne_bytes());
        (exchanged, ended)
    });
    // What became of the processes is what there is to say, where they have failed.
    let trader = ended?;
    let wall_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let exchange = exchanged?;
    Ok(Report::new(&Outcome { config, exchange: &exchange, trader: &trader, network: &network, wall_ns }))
}

/// A folder of this run, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn create() -> std::io::Result<Self> {
        let base = std::env::temp_dir();
        let mut number = 0;
        loop {
            let path = base.join(format!("barewire-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                // Of an earlier process with this one's number.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing can be done about a folder that stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process of the market. It is ended when this is dropped.
struct Part {
    role: Role,
    child: Child,
    ended: Option<End>,
}

/// How a part ended.
struct End {
    at: Instant,
    status: ExitStatus,
    /// What it said last.
    home: Option<Home>,
}

impl End {
    /// Whose death it noticed, for which it ended.
    fn noticed(&self) -> Option<&str> {
        match &self.home.as_ref()?.stopped {
            Some(Stop::Died { role, .. }) => Some(role),
            Some(Stop::Told) | None => None,
        }
    }

    /// Whether it was killed, or failed by itself.
    fn is_failure(&self) -> bool {
        !self.status.success() && self.noticed().is_none()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // One that has ended takes no harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Parts(Vec<Part>);

impl Parts {
    fn begin(arguments: &[OsString], plan: impl Fn(Role) -> Plan) -> Result<Self, Error> {
        let mut parts = Vec::new();
        for role in Role::ALL {
            parts.push(Part::begin(role, arguments, &plan(role)).map_err(Error::Processes)?);
        }
        Ok(Self(parts))
    }

    /// Waits for all to end. Where one ends before its time, the others have [`NOTICE`] to notice; then they are told to, and at last ended.
    fn watch(mut self, config: &Config, shared: &Shared) -> Result<TraderFigures, Error> {
        let planned = Duration::from_nanos(config.ticks.saturating_mul(1_000_000_000) / config.rate);
        let limit = Instant::now() + planned + Duration::from_nanos(GRACE);
        let mut failed: Option<Instant> = None;
        let (mut is_killed, mut is_late) = (false, false);
        while self.0.iter().any(|part| part.ended.is_none()) {
            thread::sleep(WATCH);
            let now = Instant::now();
            for part in self.0.iter_mut().filter(|part| part.ended.is_none()) {
                part.look(now).map_err(Error::Processes)?;
            }
            let early = || self.0.iter().filter_map(|part| part.ended.as_ref()).filter(|end| !end.status.success());
            failed = early().map(|end| end.at).min();
            // One that failed by itself has left its rings in order, which nobody takes for its death.
            if early().any(|end| end.is_failure() && end.status.signal().is_none()) {
                self.tell();
            }
            if shared.kill.is_pressed() && !is_killed {
                is_killed = true;
                self.press();
            }
            is_late |= now > limit;
            let waited = failed.map_or(Duration::ZERO, |since| now - since);
            if waited > Duration::from_nanos(NOTICE) || is_late || shared.is_over() {
                self.tell();
            }
            if waited > Duration::from_nanos(2 * NOTICE) {
                for part in &mut self.0 {
                    part.child.kill().map_err(Error::Processes)?;
                }
            }
        }
        self.home(is_late || failed.is_some())
    }

    /// Ends the standard input of all.
    fn tell(&mut self) {
        self.0.iter_mut().for_each(|part| drop(part.child.stdin.take()));
    }

    /// Has risk press the kill switch.
    fn press(&self) {
        let risk = self.0.iter().find(|part| part.role == Role::Risk);
        if let Some(id) = risk.and_then(|part| Pid::from_raw(part.child.id() as i32)) {
            // One that has ended has no orders to stop.
            let _ = kill_process(id, Signal::USR1);
        }
    }

    /// What they counted, or what became of them.
    fn home(self, has_failed: bool) -> Result<TraderFigures, Error> {
        if has_failed {
            return Err(self.obituary());
        }
        let mut all = TraderFigures::default();
        for mut part in self.0 {
            let home = part.ended.take().and_then(|end| end.home);
            let figures = home.ok_or_else(|| part.error("ended without a word"))?.figures;
            all.ends.extend(figures.ends);
            match part.role {
                Role::Feed => (all.feed, all.ring_wait) = (figures.feed, figures.ring_wait),
                Role::Strategy => all.view = figures.view,
                Role::Risk => all.tally = figures.tally,
                Role::Gateway => (all.link, all.tick_to_trade) = (figures.link, figures.tick_to_trade),
            }
        }
        Ok(all)
    }

    /// Who ended before the market did, how, and who noticed.
    fn obituary(&self) -> Error {
        let ends = || self.0.iter().filter_map(|part| Some((part, part.ended.as_ref()?)));
        let Some((first, end)) = ends().filter(|(_, end)| end.is_failure()).min_by_key(|(_, end)| end.at) else {
            return Error::Stalled { seconds: GRACE / 1_000_000_000 };
        };
        let how = match end.status.signal() {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("failed ({})", end.status),
        };
        let noticed: Vec<_> = ends().filter(|(_, end)| end.noticed() == Some(first.role.name())).collect();
        let by = match noticed.iter().map(|(_, other)| other.at.saturating_duration_since(end.at)).max() {
            Some(last) => {
                let names: Vec<_> = noticed.iter().map(|(part, _)| part.role.name()).collect();
                format!("; {} noticed, and stopped in order within {} ms", names.join(", "), last.as_millis())
            }
            None => String::new(),
        };
        first.error(&format!("process {} {how}{by}", first.child.id()))
    }
}

impl Part {
    fn begin(role: Role, arguments: &[OsString], plan: &Plan) -> std::io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).arg("--part").arg(role.name());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        if let Some(stdin) = &mut child.stdin {
            stdin.write_all(&line)?;
        }
        Ok(Self { role, child, ended: None })
    }

    /// Looks whether it has ended, and takes what it said last. That is shorter than a pipe is long, so it can be read afterwards.
    fn look(&mut self, now: Instant) -> std::io::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let mut said = Vec::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_end(&mut said)?;
        }
        self.ended = Some(End { at: now, status, home: serde_json::from_slice(&said).ok() });
        Ok(())
    }

    fn error(&self, why: &str) -> Error {
        Error::Stopped { role: self.role.name(), why: why.to_owned() }
    }
}
