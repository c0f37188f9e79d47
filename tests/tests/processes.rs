//! The market as five processes: it runs, and a process that is killed is noticed, named, and leaves nothing behind.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use barewire::market::processes::NOTICE;
use barewire_tests::program::barewire;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const ROLES: [&str; 4] = ["feed", "strategy", "risk", "gateway"];
/// Some times what it takes until all are at work.
const LIMIT: Duration = Duration::from_secs(30);

/// The market of `barewire demo --processes`, with a folder of its own for its sockets.
struct Market {
    child: Child,
    /// What it and its parts say, line by line, until the last of them ends.
    said: Receiver<String>,
    folder: PathBuf,
}

impl Market {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("barewire-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut command = Command::new(barewire());
        command.args(["demo", "--processes", "--json"]).args(arguments).env("TMPDIR", &folder);
        // Each part says when it is at work; risk would log every refusal beside.
        command.env("RUST_LOG", "barewire::market::processes=info,barewire::market::processes::risk=warn");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, said) = channel();
        // It ends with the market's last process, or when nobody listens any more.
        thread::spawn(move || stderr.lines().try_for_each(|line| sender.send(line.unwrap())));
        Self { child, said, folder }
    }

    /// The four processes that it has begun, by role, once all are at work.
    fn at_work(&mut self) -> Vec<(String, u32)> {
        let (start, mut parts, mut said) = (Instant::now(), Vec::<(String, u32)>::new(), Vec::new());
        while parts.len() < ROLES.len() {
            let line = self.said.recv_timeout(LIMIT.saturating_sub(start.elapsed())).unwrap_or_else(|error| {
                let (seen, unseen): (Vec<_>, Vec<_>) =
                    ROLES.into_iter().partition(|role| parts.iter().any(|(seen, _)| seen == role));
                let end = match error {
                    RecvTimeoutError::Timeout => format!("not all are at work after {LIMIT:?}"),
                    RecvTimeoutError::Disconnected => "the market ends before it began".to_owned(),
                };
                panic!("{end}: at work {seen:?}, not {unseen:?}; said: {said:#?}")
            });
            if let Some((role, rest)) = line.split_once(" at work (process ") {
                let role = role.rsplit_once("] ").unwrap().1.to_owned();
                parts.push((role, rest.trim_end_matches(')').parse().unwrap()));
            }
            said.push(line);
        }
        parts
    }

    /// Waits for the end: the exit status, and what was printed and said.
    fn end(mut self) -> (Option<i32>, String, String) {
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let err = self.said.iter().map(|line| line + "\n").collect();
        (self.child.wait().unwrap().code(), out, err)
    }
}

impl Drop for Market {
    fn drop(&mut self) {
        // It may have ended, which is what is wanted. If not, its parts are found while it is their parent; one that hangs outlives it.
        let parts = if let Ok(None) = self.child.try_wait() { children(self.child.id()) } else { Vec::new() };
        let _ = self.child.kill();
        let _ = self.child.wait();
        for part in parts {
            let _ = kill_process(part, Signal::KILL);
        }
        let left: Vec<_> =
            std::fs::read_dir(&self.folder).unwrap().filter_map(Result::ok).map(|entry| entry.path()).collect();
        std::fs::remove_dir_all(&self.folder).unwrap();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "files are left behind: {left:?}");
        }
    }
}

fn parent(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state comes before the parent.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The processes that `id` has begun.
fn children(id: u32) -> Vec<Pid> {
    let numbers =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|child| parent(*child) == Some(id)).filter_map(|child| Pid::from_raw(child as i32)).collect()
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
        let mut market = Market::start(victim, &["--ticks", "100000000"]);
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
