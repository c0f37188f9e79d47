//! Where threads run, and what a busy thread does when it has nothing to do.

use std::num::NonZero;
use std::str::FromStr;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A list of cores, written `0,2` or `1-3`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cores(pub Vec<usize>);

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no list of cores; write 0,1 or 0-3, each below {}", CpuSet::MAX_CPU);
        let number = |text: &str| text.parse().ok().filter(|core| *core < CpuSet::MAX_CPU).ok_or_else(bad);
        let mut cores = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => cores.extend(number(first)?..=number(last)?),
                None => cores.push(number(part)?),
            }
        }
        if cores.is_empty() { Err(bad()) } else { Ok(Self(cores)) }
    }
}

/// Binds the calling thread to `core`.
///
/// # Errors
/// One line that says which cores there are, when the core does not exist or is not allowed.
pub fn pin(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| match sched_getaffinity(None) {
        Ok(allowed) => {
            let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
            format!("core {core} cannot be used ({error}); this process may use {cores:?}")
        }
        Err(_) => format!("core {core} cannot be used ({error})"),
    })
}

/// Locks the process's memory, so that no page is ever missing on the hot path.
///
/// # Errors
/// One line with the command that raises the limit.
pub fn lock_memory() -> Result<(), String> {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
        .map_err(|error| format!("memory is not locked ({error}); raise the limit with `ulimit -l unlimited`"))
}

/// What a polling thread does after a poll that found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Polls again at once: a core for every busy thread.
    Spin,
    /// Lets another thread run first: fewer cores than busy threads.
    Yield,
}

impl Idle {
    /// The right one for `busy` threads on this machine.
    pub fn for_threads(busy: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        if cores < busy { Self::Yield } else { Self::Spin }
    }

    /// Does it.
    #[inline]
    pub fn wait(self) {
        match self {
            Self::Spin => std::hint::spin_loop(),
            Self::Yield => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_lists_and_spans_parse_and_nonsense_is_refused() {
        assert_eq!("0,2-4".parse(), Ok(Cores(vec![0, 2, 3, 4])));
        for bad in ["", "a", "1-", "99999", "3-1"] {
            assert!(bad.parse::<Cores>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pin_to_a_core_that_does_not_exist_names_those_that_do() {
        let error = pin(CpuSet::MAX_CPU - 1).unwrap_err();
        assert!(error.contains("may use ["), "{error}");
    }
}
