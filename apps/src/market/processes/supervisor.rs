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
    ended: Option<(ExitStatus, Instant)>,
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
        let mut is_killed = false;
        while self.0.iter().any(|part| part.ended.is_none()) {
            thread::sleep(WATCH);
            let now = Instant::now();
            if self.reap(now)? {
                failed.get_or_insert(now);
                // A part may have noticed a death, and ended, before the dead was looked at here: so all are looked at once more.
                self.reap(now)?;
                // One that failed by itself has left its rings in order, which nobody takes for its death.
                if !self.0.iter().any(Part::was_killed) {
                    self.tell();
                }
            }
            if shared.kill.is_pressed() && !is_killed {
                is_killed = true;
                self.press();
            }
            let waited = failed.map_or(Duration::ZERO, |since| now - since);
            if waited > Duration::from_nanos(NOTICE) || now > limit || shared.is_over() {
                self.tell();
            }
            if waited > Duration::from_nanos(2 * NOTICE) {
                for part in &mut self.0 {
                    part.child.kill().map_err(Error::Processes)?;
                }
            }
            if now > limit {
                failed.get_or_insert(now);
            }
        }
        self.home(failed)
    }

    /// Looks who has ended, and puts down `now` for when; returns whether one has failed.
    fn reap(&mut self, now: Instant) -> Result<bool, Error> {
        for part in self.0.iter_mut().filter(|part| part.ended.is_none()) {
            part.ended = part.child.try_wait().map_err(Error::Processes)?.map(|status| (status, now));
        }
        Ok(self.0.iter().any(|part| part.ended.is_some_and(|(status, _)| !status.success())))
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
    fn home(mut self, failed: Option<Instant>) -> Result<TraderFigures, Error> {
        let homes = self.0.iter_mut().map(Part::home).collect::<Vec<_>>();
        if failed.is_some() {
            return Err(self.obituary(&homes));
        }
        let mut all = TraderFigures::default();
        for (part, home) in self.0.iter().zip(homes) {
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
    fn obituary(&self, homes: &[Option<Home>]) -> Error {
        let failed = self.0.iter().filter(|part| part.ended.is_some_and(|(status, _)| !status.success()));
        // Of those seen at once it is the one without a code, which a signal ended: the others noticed.
        let Some(first) =
            failed.min_by_key(|part| (part.ended.map(|(_, at)| at), part.ended.and_then(|(status, _)| status.code())))
        else {
            return Error::Stalled { seconds: GRACE / 1_000_000_000 };
        };
        let (status, at) = first.ended.expect("it was found by its end");
        let how = match status.signal() {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("failed ({status})"),
        };
        let died = |home: &Home| matches!(&home.stopped, Some(Stop::Died { role, .. }) if *role == first.role.name());
        let noticed: Vec<_> = self
            .0
            .iter()
            .zip(homes)
            .filter(|(_, home)| home.as_ref().is_some_and(died))
            .filter_map(|(part, _)| Some((part.role.name(), part.ended?.1.saturating_duration_since(at).as_millis())))
            .collect();
        let by = match noticed.iter().map(|(_, after)| *after).max() {
            Some(last) => {
                let names: Vec<_> = noticed.iter().map(|(name, _)| *name).collect();
                format!("; {} noticed, and stopped in order within {last} ms", names.join(", "))
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

    /// What it said when it ended. It is shorter than a pipe is long, so it can be read afterwards.
    fn home(&mut self) -> Option<Home> {
        let mut said = Vec::new();
        self.child.stdout.take()?.read_to_end(&mut said).ok()?;
        serde_json::from_slice(&said).ok()
    }

    fn was_killed(&self) -> bool {
        self.ended.is_some_and(|(status, _)| status.signal().is_some())
    }

    fn error(&self, why: &str) -> Error {
        Error::Stopped { role: self.role.name(), why: why.to_owned() }
    }
}
