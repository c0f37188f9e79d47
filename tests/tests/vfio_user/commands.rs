//! `barewire` and `barewire`, each on a model of a third process's: the commands on ports, as an ordinary user.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use barewire_tests::models::{LIMIT, eventually};
use barewire_tests::program::{self, Running};
use serde_json::Value;
use tempfile::TempDir;

barewire_tests::rows! {
    "82599 model":
    commands_ping_over_vfio_user
    commands_carry_32_mib_of_tcp_each_way_over_vfio_user
    commands_carry_100_000_datagrams_over_vfio_user
}

/// Nobody, who owns nothing.
const USER: u32 = 65_534;
const BYTES: u64 = 32 << 20;
const DATAGRAMS: u64 = 100_000;

/// The two ends: each a socket, and the last part of an address.
const A: (&str, u8) = ("a", 1);
const B: (&str, u8) = ("b", 2);

/// Two models in one process, and a folder with their sockets and a program that the user may run.
struct Bench {
    folder: TempDir,
    _models: Running,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Copied by a process of its own: what is open for writing here is so in every child that another test starts just then, and cannot be run.
        let copied = Command::new("cp").arg(program::barewire()).arg(folder.path().join("barewire")).status();
        assert!(copied.is_ok_and(|status| status.success()));
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(USER), Some(USER)).unwrap();
        }
        let path = |socket: &str| folder.path().join(socket);
        let mut model = command(&folder, "model 82599");
        for socket in ["a", "b"] {
            model.arg("--socket").arg(path(socket));
        }
        let models = Running::spawn(&mut model).unwrap();
        eventually("listening", || ["a", "b"].iter().all(|socket| path(socket).exists()));
        Self { folder, _models: models }
    }

    /// A command on the model `socket`, with the address 10.0.0.`host`.
    fn on(&self, (socket, host): (&str, u8), arguments: &str) -> Command {
        let mut command = command(&self.folder, arguments);
        command.arg("--port").arg(format!("vfio-user:{}?rxd=4096", self.folder.path().join(socket).display()));
        command.args(["--ip", &format!("10.0.0.{host}/24"), "--json", "--seconds", "60", "--idle", "pause"]);
        command
    }

    /// Runs a command to its end; its report, if it succeeds.
    fn run(&self, end: (&str, u8), arguments: &str) -> Option<Value> {
        let output = self.on(end, arguments).stderr(Stdio::null()).output().expect("barewire starts");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Starts a command at the end `a`, to run beside one at `b`.
    fn start_at_a(&self, arguments: &str) -> Running {
        let out = File::create(self.folder.path().join("a.json")).unwrap();
        Running::spawn(self.on(A, arguments).stdout(out)).unwrap()
    }

    /// Waits for what was started at `a`; its report.
    fn ended_at_a(&self, mut process: Running) -> Value {
        assert_eq!(process.wait(LIMIT), Some(0));
        serde_json::from_slice(&std::fs::read(self.folder.path().join("a.json")).unwrap()).expect("JSON")
    }

    /// Waits until what was started at `a` answers `b`.
    fn meet(&self) {
        eventually("an answer", || self.run(B, "ping 10.0.0.1 --count 1").is_some());
    }
}

/// The program, run by an ordinary user even where the tests are root's.
fn command(folder: &TempDir, arguments: &str) -> Command {
    let mut command = Command::new(folder.path().join("barewire"));
    command.args(arguments.split_whitespace()).stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(USER).gid(USER);
    }
    command
}

fn commands_ping_over_vfio_user() {
    let bench = Bench::new();
    let mut answering = bench.start_at_a("ping");
    bench.meet();
    let report = bench.run(B, "ping 10.0.0.1 --count 50 --interval-ms 10").expect("answers");
    assert_eq!(["sent", "received", "lost", "strange"].map(|name| report[name].as_u64().unwrap()), [50, 50, 0, 0]);
    assert_eq!(answering.terminate(LIMIT), Some(0));
}

fn commands_carry_32_mib_of_tcp_each_way_over_vfio_user() {
    let bench = Bench::new();
    for (listener, connector) in [("sink", "source"), ("source", "sink")] {
        let listening = bench.start_at_a(&format!("listen 7000 --role {listener} --bytes {BYTES}"));
        let near =
            bench.run(B, &format!("connect 10.0.0.1:7000 --role {connector} --bytes {BYTES}")).expect("a transfer");
        let far = bench.ended_at_a(listening);
        let (source, sink) = if connector == "source" { (near, far) } else { (far, near) };
        assert_eq!((&source["bytes_sent"], &sink["bytes_received"]), (&BYTES.into(), &BYTES.into()));
        assert_eq!(source["sha256_sent"], sink["sha256_received"]);
    }
}

fn commands_carry_100_000_datagrams_over_vfio_user() {
    let bench = Bench::new();
    let receiving = bench.start_at_a(&format!("multicast receive 239.1.1.1:5000 --count {DATAGRAMS}"));
    bench.meet();
    let sent =
        bench.run(B, &format!("multicast send 239.1.1.1:5000 --count {DATAGRAMS} --rate 10000")).expect("all are sent");
    let report = bench.ended_at_a(receiving);
    assert_eq!((&sent["sent"], &report["received"]), (&DATAGRAMS.into(), &DATAGRAMS.into()));
    assert_eq!((&report["duplicates"], &report["strange"]), (&0.into(), &0.into()));
}
