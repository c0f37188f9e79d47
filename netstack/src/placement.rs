//! Where threads run, and what a busy thread does when it has nothing to do.

use std::num::NonZero;
use std::str::FromStr;
use std::time::Duration;

use barewire_driver::bus::BusError;
use barewire_driver::interrupt::Interrupt;
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

/// What a polling thread does while nothing arrives. From top to bottom it costs less of the CPU and wakes up later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Polls again at once: a core for every busy thread.
    Spin,
    /// Lets another thread run first: fewer cores than busy threads.
    Yield,
    /// Polls on for [`SPINS`] times, then naps for [`NAP`] between polls.
    Pause,
    /// Sleeps until the device interrupts.
    Sleep,
}

/// Empty polls before [`Idle::Pause`] begins to nap: about 100 us.
pub const SPINS: u32 = 1_000;
/// How long [`Idle::Pause`] naps. The timer slack of an ordinary thread adds as much again.
pub const NAP: Duration = Duration::from_micros(50);

impl Idle {
    /// The right one for `busy` threads on this machine.
    pub fn for_threads(busy: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        if cores < busy { Self::Yield } else { Self::Spin }
    }

    /// The name that a person gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Yield => "yield",
            Self::Pause => "pause",
            Self::Sleep => "sleep",
        }
    }
}

/// Rests between empty polls, as an [`Idle`] says.
pub enum Waiter {
    /// As [`Idle::Spin`].
    Spin,
    /// As [`Idle::Yield`].
    Yield,
    /// As [`Idle::Pause`].
    Pause {
        /// Empty polls in a row.
        empty: u32,
    },
    /// As [`Idle::Sleep`].
    Sleep {
        /// What wakes up.
        interrupt: Interrupt,
        /// The queue is to interrupt, and has been polled once since.
        armed: bool,
    },
}

impl Waiter {
    /// Rests as `idle` says; `interrupt` makes the interrupt where one is needed.
    pub fn new<E>(idle: Idle, interrupt: impl FnOnce() -> Result<Interrupt, E>) -> Result<Self, E> {
        Ok(match idle {
            Idle::Spin => Self::Spin,
            Idle::Yield => Self::Yield,
            Idle::Pause => Self::Pause { empty: 0 },
            Idle::Sleep => Self::Sleep { interrupt: interrupt()?, armed: false },
        })
    }

    /// A poll found something.
    #[inline]
    pub fn busy(&mut self) {
        match self {
            Self::Spin | Self::Yield => {}
            Self::Pause { empty } => *empty = 0,
            Self::Sleep { armed, .. } => *armed = false,
        }
    }

    /// A poll found nothing: rests, at most for `limit` and usually less. Poll again whatever comes of it. `arm` makes the queue interrupt
    /// when a frame arrives; the sleep begins only if the poll after it is empty too, because a frame that was there before raises none.
    #[inline]
    pub fn rest(&mut self, limit: Duration, arm: impl FnOnce()) -> Result<(), BusError> {
        match self {
            Self::Spin => std::hint::spin_loop(),
            Self::Yield => std::thread::yield_now(),
            Self::Pause { empty } if *empty < SPINS => {
                *empty += 1;
                std::hint::spin_loop();
            }
            Self::Pause { .. } => std::thread::sleep(NAP.min(limit)),
            Self::Sleep { armed, .. } if !*armed => {
                arm();
                *armed = true;
            }
            Self::Sleep { interrupt, armed } => {
                interrupt.wait(limit)?;
                *armed = false;
            }
        }
        Ok(())
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
