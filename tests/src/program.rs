//! The `barewire` program, as a process of its own.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Builds `what`, in Cargo's words, in the profile of the test that asks. Returns the directory that it is built in.
pub fn build(what: &[&str]) -> PathBuf {
    // target/<profile>/deps/<test>
    let test = std::env::current_exe().expect("a test knows its path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps");
    let target = profile.parent().expect("target/<profile>");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--quiet"]).args(what).arg("--target-dir").arg(target);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().is_ok_and(|status| status.success()), "{what:?} does not build");
    profile.to_owned()
}

/// The program, built in the profile of the test that asks.
pub fn barewire() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build(&["--package", "barewire", "--bin", "barewire"]).join("barewire"))
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    /// The exit status.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `barewire` with `arguments` to its end.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    let output = Command::new(barewire()).args(arguments).env_remove("RUST_LOG").output();
    let Output { status, stdout, stderr } = output.expect("barewire starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Ran { status: status.code(), out: text(stdout), err: text(stderr) }
}

/// A process that ends with the test.
pub struct Running(Child);

impl Running {
    /// Starts `barewire` with `args`.
    pub fn start<S: AsRef<OsStr>>(args: &[S]) -> Self {
        let child = Command::new(barewire()).args(args).stdin(Stdio::null()).spawn();
        Self(child.expect("barewire starts"))
    }

    /// Starts any program.
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        command.spawn().map(Self)
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        // It may be gone already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to end, and waits for its exit status: `None` after `limit`, or when a signal ended it.
    pub fn terminate(&mut self, limit: Duration) -> Option<i32> {
        let id = self.0.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status();
        assert!(asked.is_ok_and(|status| status.success()), "no process {id}");
        self.wait(limit)
    }

    /// Waits for its exit status: `None` after `limit`, or when a signal ended it.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.0.try_wait().expect("it is our child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
