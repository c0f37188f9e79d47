//! The QEMU process: found, started, ended.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// The oldest QEMU with `-netdev stream`.
const OLDEST: (u32, u32) = (7, 2);
/// How long QEMU may take to end once it is told to.
const END_WAIT: Duration = Duration::from_secs(5);

/// Runs its arguments, and ends them when standard input closes: however this process ends, QEMU does not outlive it.
const GUARD: &str = r#"exec 3<&0
"$@" </dev/null 3<&- &
qemu=$!
{ cat <&3; kill -9 $qemu; } >/dev/null 2>&1 &
exec 3<&-
wait $qemu"#;

/// Finds a QEMU that has the accelerator: the one that `BAREWIRE_QEMU` names (`off` for none), or else `qemu-system-x86_64` on the path, or
/// else the one that `qemu/toolbox` unpacked. Looks once.
///
/// # Errors
/// Why there is none, in one line that says what would mend it.
pub fn find() -> Result<&'static Path, &'static str> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(search).as_deref().map_err(String::as_str)
}

fn search() -> Result<PathBuf, String> {
    let named = std::env::var_os("BAREWIRE_QEMU");
    let candidates = match &named {
        Some(name) if name == "off" => return Err("switched off by BAREWIRE_QEMU=off".to_owned()),
        Some(name) => vec![PathBuf::from(name)],
        None => [PathBuf::from("qemu-system-x86_64")].into_iter().chain(in_cache()).collect(),
    };
    let mut reasons = Vec::new();
    for path in candidates {
        match check(&path) {
            Ok(()) => return Ok(path),
            Err(reason) => reasons.push(format!("{}: {reason}", path.display())),
        }
    }
    Err(format!("{}; run qemu/toolbox, or set BAREWIRE_QEMU", reasons.join("; ")))
}

/// Where `qemu/toolbox` puts its QEMU.
fn in_cache() -> Option<PathBuf> {
    let folder = |variable, below: &str| std::env::var_os(variable).map(|path| PathBuf::from(path).join(below));
    let cache = folder("BAREWIRE_CACHE", "")
        .or_else(|| folder("XDG_CACHE_HOME", "barewire"))
        .or_else(|| folder("HOME", ".cache/barewire"))?;
    Some(cache.join("debian/qemu-system-x86_64"))
}

/// Whether `path` is a QEMU that will do; if not, why.
fn check(path: &Path) -> Result<(), String> {
    let output = Command::new(path).arg("--version").output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (major, minor) = version(&text).ok_or("it says no version")?;
    if (major, minor) < OLDEST {
        return Err(format!("version {major}.{minor}, at least {}.{} is needed", OLDEST.0, OLDEST.1));
    }
    match quits_at_once(path) {
        Ok(true) => Ok(()),
        // Debian 12, for one, does not ship the module.
        Ok(false) => Err(format!("version {major}.{minor} without the accelerator qtest")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether an empty machine with the accelerator starts, and ends when told to.
fn quits_at_once(qemu: &Path) -> std::io::Result<bool> {
    let mut command = Command::new(qemu);
    command.args(["-machine", "none", "-accel", "qtest", "-display", "none", "-nodefaults", "-monitor", "stdio"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A QEMU that has ended already does not read; its status tells.
        let _ = stdin.write_all(b"quit\n");
    }
    Ok(child.wait()?.success())
}

/// Major and minor of `QEMU emulator version 7.2.22 (...)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_once("version ")?.1.split(['.', ' ']).map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// A QEMU that ends when this is dropped.
pub struct Process(Child);

impl Process {
    /// Starts `qemu` with `arguments`.
    pub fn start(qemu: &Path, arguments: &[String]) -> std::io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD, "sh"]).arg(qemu).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map(Self)
    }

    /// Whether QEMU has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }

    /// What QEMU said last, if it ends by itself within `limit`.
    pub fn last_words(&mut self, limit: Duration) -> Option<String> {
        super::wait(limit, || self.has_ended().then_some(()))?;
        let mut text = String::new();
        // What cannot be read is missing from a message, no more.
        let _ = self.0.stderr.take()?.read_to_string(&mut text);
        Some(text.trim().replace('\n', "; "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if super::wait(END_WAIT, || self.has_ended().then_some(())).is_none() {
            log::warn!("QEMU (process {}) does not end", self.0.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn version_of_what_distributions_print() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.1.0"), Some((10, 1)));
        assert_eq!(version("cat (GNU coreutils) 9.1"), None);
    }

    #[test]
    fn dropped_process_is_gone_at_once() {
        let process = Process::start(Path::new("sleep"), &["60".to_owned()]).unwrap();
        let (guard, start) = (process.0.id(), Instant::now());
        drop(process);
        assert!(start.elapsed() < END_WAIT);
        assert!(!Path::new(&format!("/proc/{guard}")).exists());
    }

    #[test]
    fn process_that_ends_leaves_its_last_words() {
        let mut process = Process::start(Path::new("cat"), &["/nonexistent/file".to_owned()]).unwrap();
        let words = process.last_words(END_WAIT).unwrap();
        assert!(words.contains("/nonexistent/file"), "{words}");
    }
}
