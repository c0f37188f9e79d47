//! The market as five processes: it runs, and a process that is killed is noticed, named, and leaves nothing behind.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use barewire::market::processes::NOTICE;
use barewire_tests::program::barewire;
use serde_json::Value;

/// Some times what anything takes here.
const LIMIT: Duration = Duration::from_secs(120);
const ROLES: [&str; 4] = ["feed", "strategy", "risk", "gateway"];

/// The market of `barewire demo --processes`, with a folder of its own for its sockets.
struct Market {
    child: Child,
    folder: PathBuf,
}

impl Market {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("barewire-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut command = Command::new(barewire());
        command.args(["demo", "--processes", "--json"]).args(arguments).env("TMPDIR", &folder).env_remove("RUST_LOG");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, folder }
    }

    /// The processes that it has begun, by role.
    fn parts(&self) -> Vec<(String, u32)> {
        let is_part = |id: &u32| parent(*id) == Some(self.child.id());
        processes().into_iter().filter(is_part).filter_map(|id| Some((role(id)?, id))).collect()
    }

    /// All four, once there are all of them and orders are on their way.
    fn at_work(&self) -> Vec<(String, u32)> {
        let start = Instant::now();
        loop {
            let parts = self.parts();
            // The gateway maps its port's rings and its own when it is at work.
            if parts.len() == ROLES.len() && parts.iter().all(|(_, id)| shared_memory(*id) > 0) {
                return parts;
            }
            assert!(start.elapsed() < LIMIT, "the processes do not come up: {parts:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end: the exit status, and what was printed and said.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), out, err)
    }
}

impl Drop for Market {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let left: Vec<_> =
            std::fs::read_dir(&self.folder).unwrap().filter_map(Result::ok).map(|entry| entry.path()).collect();
        std::fs::remove_dir_all(&self.folder).unwrap();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "files are left behind: {left:?}");
        }
    }
}

fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state comes before the parent.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn role(id: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    words.find(|word| *word == b"--part")?;
    Some(String::from_utf8_lossy(words.next()?).into_owned())
}

/// How many pieces of our shared memory a process has mapped.
fn shared_memory(id: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).unwrap_or_default();
    maps.lines().filter(|line| line.contains("/memfd:barewire")).count()
}

fn names(folder: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(folder).unwrap().filter_map(Result::ok).map(|entry| entry.path()).collect()
}

#[test]
fn market_of_five_processes_runs_to_its_end_with_books_equal_and_every_order_accounted_for() {
    let market = Market::start("whole", &["--seed", "3", "--ticks", "40000", "--rate", "20000", "--loss", "0.01"]);
    let (status, out, err) = market.end();
    assert_eq!(status, Some(0), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    assert_eq!((&report["processes"], &report["books_match"]), (&true.into(), &true.into()), "{report}");
    assert_eq!((count("ticks"), count("gaps_unrecovered")), (40_000, 0), "{report}");
    assert!(count("gaps_detected") > 0 && count("orders_sent") > 0, "{report}");
    assert_eq!(count("orders_decided"), count("orders_sent") + count("orders_refused"), "{report}");
    assert_eq!(
        count("orders_sent"),
        count("orders_accepted") + count("orders_rejected") + count("orders_lost"),
        "{report}"
    );
}

#[test]
fn killed_process_is_noticed_and_named_and_leaves_nothing_behind() {
    let shared = names(Path::new("/dev/shm"));
    for victim in ROLES {
        let market = Market::start(victim, &["--ticks", "100000000"]);
        let parts = market.at_work();
        let id = parts.iter().find(|(role, _)| role == victim).unwrap().1;
        let killed = Instant::now();
        assert!(Command::new("kill").args(["-9", &id.to_string()]).status().unwrap().success());
        let (status, out, err) = market.end();
        let took = killed.elapsed();
        assert_eq!((status, &*out), (Some(1), ""), "{victim}: {err}");
        // Each of the others names it, and so does the exchange's process, with how long they took.
        let said = |line: String| assert!(err.lines().any(|said| said.starts_with(&line)), "{victim}: {line} in {err}");
        let others: Vec<_> = ROLES.into_iter().filter(|role| *role != victim).collect();
        for other in &others {
            said(format!("barewire: {other}: {victim} (process {id}) has died"));
        }
        let all = others.join(", ");
        said(format!(
            "barewire: {victim}: process {id} was killed by signal 9; {all} noticed, and stopped in order within "
        ));
        let within = err.rsplit_once("within ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(within.is_some_and(|ms| ms * 1_000_000 <= NOTICE), "{victim}: {err}");
        println!("{victim} killed: the others stopped within {} ms, all was over after {took:?}", within.unwrap());
        for (role, id) in parts {
            assert_ne!(parent(id), Some(std::process::id()), "{role} goes on without its market");
            assert_eq!(shared_memory(id), 0, "{role} goes on");
        }
    }
    // Memory of rings and devices has no name: it is gone with the last that maps it.
    assert_eq!(names(Path::new("/dev/shm")), shared);
}
