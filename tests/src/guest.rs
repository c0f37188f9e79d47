//! Linux guests in QEMU, by the launcher `qemu/guest`, and QEMU's monitor.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{LazyLock, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

fn tool(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu").join(name))
}

/// Runs `qemu/toolbox` with `arguments`; what it printed, or the last line of its complaint.
fn toolbox(arguments: &[&str]) -> Result<String, String> {
    let output = tool("toolbox").args(arguments).output().map_err(|error| format!("qemu/toolbox: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(complaint.lines().last().unwrap_or("qemu/toolbox failed without a word").to_owned())
}

/// The QEMU that the toolbox has, or the reason why there is none. Downloads nothing.
pub fn qemu() -> Result<&'static Path, &'static str> {
    static QEMU: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        let paths = toolbox(&["--check"])?;
        paths.lines().find_map(|line| line.strip_prefix("qemu=")).map(PathBuf::from).ok_or(paths.clone())
    });
    QEMU.as_deref().map_err(String::as_str)
}

/// `barewire` as a static binary for guests, built on first use.
///
/// # Panics
/// When it does not build.
pub fn barewire() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built(&["--barewire"]))
}

/// The example `name` of this crate as a static binary for guests.
///
/// # Panics
/// When it does not build.
pub fn example(name: &str) -> PathBuf {
    built(&["--example", name])
}

fn built(arguments: &[&str]) -> PathBuf {
    toolbox(arguments).map(PathBuf::from).unwrap_or_else(|reason| panic!("{reason}"))
}

/// A guest to be: the options of `qemu/guest`.
pub struct Guest {
    command: Command,
    folder: TempDir,
}

/// How a guest ended.
#[derive(Debug)]
pub struct Output {
    /// Exit status of the command, or 124 when the time limit struck, or 125 when the guest died.
    pub status: i32,
    /// What the command wrote to its standard output.
    pub stdout: String,
    /// What the command wrote to its standard error, and the launcher's complaints.
    pub stderr: String,
    /// The log of the guest's kernel.
    pub log: String,
}

impl Guest {
    /// A guest that runs Linux `version`, `"6.1"` or `"6.12"`, and lives for `limit` at most.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    pub fn new(version: &str, limit: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = tool("guest");
        // The launcher's files lie in our folder and go with it, even when the launcher is killed.
        command.env("TMPDIR", folder.path()).args(["--linux", version, "--limit", &limit.as_secs().to_string()]);
        command.args(["--barewire", "none"]);
        Self { command, folder }
    }

    fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.arg(name).arg(value);
        self
    }

    /// Adds a NIC: `e1000`, `e1000e`, `virtio-net`, each with an optional `@HUB`, or `vfio-user:SOCKET`.
    pub fn nic(self, nic: &str) -> Self {
        self.option("--nic", nic)
    }

    /// Puts an emulated Intel IOMMU before the NICs.
    pub fn iommu(mut self) -> Self {
        self.command.arg("--iommu");
        self
    }

    /// Gives the guest `mib` MiB of memory in place of 512.
    pub fn memory_mib(self, mib: u32) -> Self {
        self.option("--memory", mib.to_string())
    }

    /// Gives the guest `cpus` processors in place of one.
    pub fn cpus(self, cpus: u32) -> Self {
        self.option("--cpus", cpus.to_string())
    }

    /// Reserves `pages` hugepages of 2 MiB.
    pub fn hugepages(self, pages: u32) -> Self {
        self.option("--hugepages", pages.to_string())
    }

    /// Loads a module of Linux that no present device asks for.
    pub fn module(self, name: &str) -> Self {
        self.option("--module", name)
    }

    /// Puts the static binary `path` into the guest as `/bin/barewire`; [`barewire()`] builds one.
    pub fn barewire(self, path: &Path) -> Self {
        self.option("--barewire", path)
    }

    /// Puts `content` into the guest as the file `path`.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let staged = self.folder.path().join(path.replace('/', "_"));
        std::fs::write(&staged, content).expect("a temporary file");
        self.copy(&staged, path)
    }

    /// Puts the file `host` of this machine into the guest as the file `path`, with the same permissions.
    pub fn copy(self, host: &Path, path: &str) -> Self {
        let option = format!("{}:{path}", host.display());
        self.option("--file", option)
    }

    /// One more argument for QEMU itself.
    pub fn qemu(self, argument: &str) -> Self {
        self.option("--qemu", argument)
    }

    /// Boots, runs `script` with the guest's shell, and waits for the end.
    pub fn run(self, script: &str) -> Output {
        self.start(script).wait()
    }

    /// Boots and lets `script` run while the caller watches its output and works QEMU's monitor.
    ///
    /// # Panics
    /// When the launcher does not start.
    pub fn start(mut self, script: &str) -> Running {
        self.command.arg("--log").arg(self.folder.path().join("kernel.log"));
        self.command.arg("--qmp").arg(self.folder.path().join("qmp"));
        self.command.args(["--", "sh", "-c", script]);
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut launcher = self.command.spawn().expect("qemu/guest starts");
        let (stdout, mut stderr) = launcher.stdout.take().zip(launcher.stderr.take()).expect("both are piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let (mut stdout, mut line) = (BufReader::new(stdout), Vec::new());
            while stdout.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                // Nobody listens any more once the guest was dropped.
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        });
        let stderr = thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came until the pipe broke is all there is to tell.
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Running { launcher, lines, seen: String::new(), stderr: Some(stderr), folder: self.folder }
    }
}

/// A guest at work. It ends when dropped.
pub struct Running {
    launcher: Child,
    lines: Receiver<String>,
    seen: String,
    stderr: Option<JoinHandle<String>>,
    folder: TempDir,
}

impl Running {
    /// Waits until a line of the command's output contains `text`, and returns that line, or `None` when the guest ended before.
    pub fn wait_for(&mut self, text: &str) -> Option<String> {
        while let Ok(line) = self.lines.recv() {
            self.seen.push_str(&line);
            if line.contains(text) {
                return Some(line);
            }
        }
        None
    }

    /// QEMU's monitor, where the NICs are `nic0`, `nic1` and so on. The guest must have shown a line of output.
    pub fn qmp(&self) -> io::Result<Qmp> {
        Qmp::connect(&self.folder.path().join("qmp"), Duration::from_secs(10))
    }

    /// Waits for the end of the guest, which its time limit bounds.
    ///
    /// # Panics
    /// When the launcher cannot be waited for.
    pub fn wait(mut self) -> Output {
        self.seen.extend(self.lines.iter());
        let status = self.launcher.wait().expect("the launcher is our child");
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let log = std::fs::read(self.folder.path().join("kernel.log")).unwrap_or_default();
        Output {
            status: status.code().unwrap_or(125),
            stdout: std::mem::take(&mut self.seen),
            stderr,
            log: String::from_utf8_lossy(&log).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The launcher's children die with it. It is gone already when the guest was waited for.
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

/// A client of QEMU's monitor (QMP): commands one at a time, events kept until asked for.
pub struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<Value>,
    limit: Duration,
}

impl Qmp {
    /// Connects to the monitor at `socket`; every answer must come within `limit`.
    pub fn connect(socket: &Path, limit: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut qmp = Self { stream: BufReader::new(stream), events: Vec::new(), limit };
        qmp.receive()?; // The greeting.
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn receive(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU closed its monitor"));
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Executes `command` and returns its result. An error of QEMU's is an error here, in its words.
    pub fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}")?;
        loop {
            let mut answer = self.receive()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
            self.events.push(answer);
        }
    }

    /// Takes the link of NIC `nic` (`nic0`, ...) up or down.
    pub fn set_link(&mut self, nic: &str, up: bool) -> io::Result<()> {
        self.execute("set_link", json!({ "name": nic, "up": up })).map(drop)
    }

    /// Pulls NIC `nic` out of its slot and waits until the guest let go of it.
    pub fn remove(&mut self, nic: &str) -> io::Result<()> {
        self.execute("device_del", json!({ "id": nic }))?;
        self.event(|event| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == nic).map(drop)
    }

    /// Waits for an event that `matches`, those that came before included.
    pub fn event(&mut self, matches: impl Fn(&Value) -> bool) -> io::Result<Value> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.events.iter().position(&matches) {
                return Ok(self.events.remove(at));
            }
            if start.elapsed() > self.limit {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "QEMU did not send the event waited for"));
            }
            let event = self.receive()?;
            self.events.push(event);
        }
    }
}
