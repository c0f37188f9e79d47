//! Who is at the other end of a ring, and whether he lives.

use std::process;

/// A process, told from others that had or will have its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub id: u32,
    /// When it was started, in clock ticks since the machine was (proc(5), `stat`, field 22).
    pub started: u64,
}

/// The other end of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Nobody has come.
    Absent,
    /// At work.
    Alive(Process),
    /// Has left in order.
    Left(Process),
    /// Has died without leaving.
    Died(Process),
}

impl Process {
    /// This process.
    pub fn this() -> std::io::Result<Self> {
        let id = process::id();
        let started =
            start_of(id).ok_or_else(|| std::io::Error::other("/proc does not tell when this process began"))?;
        Ok(Self { id, started })
    }

    /// Whether it lives. Asks the kernel: not for the hot path.
    pub fn is_alive(self) -> bool {
        start_of(self.id) == Some(self.started)
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.id)
    }
}

/// When process `id` was started; `None` for one that is not there, or only waits for its parent to notice its end.
fn start_of(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    const BETWEEN: usize = 18;
    let started = fields.nth(BETWEEN)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn processes_live_and_die_and_numbers_alone_do_not_count() {
        let this = Process::this().unwrap();
        assert!(this.is_alive());
        assert!(!Process { started: this.started + 1, ..this }.is_alive());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let other = Process { id: child.id(), started: start_of(child.id()).unwrap() };
        assert!(other.is_alive());
        child.kill().unwrap();
        // It is dead at once, though its parent has not waited for it.
        while other.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!other.is_alive());
    }
}
