//! The only place where real time is read on the way of a frame: the time-stamp counter, or a simulated clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds since the clock was made (real) or since the simulation began (simulated).
pub type Nanos = u64;

/// A clock that costs a counter read and a multiplication, or a load.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The CPU's invariant counter, calibrated against the operating system's monotonic clock.
    Counter(Counter),
    /// Virtual time: moves only when a [`SimulatedClock`] is told to.
    Simulated(SimulatedClock),
}

impl Clock {
    /// Calibrates the CPU's counter; takes about 20 ms.
    pub fn calibrated() -> Self {
        Self::Counter(Counter::calibrate())
    }

    /// The time now.
    #[inline]
    pub fn now(&self) -> Nanos {
        match self {
            Self::Counter(counter) => counter.now(),
            Self::Simulated(clock) => clock.now(),
        }
    }
}

/// What must be added to `clock` for the time since 1970 (UTC), by which hosts compare stamps as far as their clocks agree.
pub fn epoch(clock: &Clock) -> Nanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0).saturating_sub(clock.now())
}

/// The scale of the CPU's counter.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    origin: u64,
    /// Nanoseconds a tick, as a 32.32 fixed-point number.
    scale: u64,
}

impl Counter {
    fn calibrate() -> Self {
        // Two readings 20 ms apart: an error of one microsecond in either makes 0.01 %.
        let (start, first) = (Instant::now(), read_counter());
        std::thread::sleep(Duration::from_millis(20));
        let (elapsed, last) = (start.elapsed(), read_counter());
        let ticks = u128::from(last.wrapping_sub(first).max(1));
        let scale = (elapsed.as_nanos() << 32) / ticks;
        Self { origin: first, scale: u64::try_from(scale).unwrap_or(1 << 32) }
    }

    /// The scale as plain numbers, by which another process of this machine tells the same time.
    pub fn to_words(self) -> [u64; 2] {
        [self.origin, self.scale]
    }

    /// The scale that [`Counter::to_words`] told.
    pub fn from_words([origin, scale]: [u64; 2]) -> Self {
        Self { origin, scale }
    }

    #[inline]
    fn now(&self) -> Nanos {
        let ticks = read_counter().wrapping_sub(self.origin);
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64
    }
}

/// Virtual time, shared by everything in a simulation.
#[derive(Debug, Clone, Default)]
pub struct SimulatedClock(Arc<AtomicU64>);

impl SimulatedClock {
    /// The virtual time now.
    #[inline]
    pub fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves time forward to `to`; a time that has passed already changes nothing.
    pub fn advance_to(&self, to: Nanos) {
        self.0.fetch_max(to, Ordering::Relaxed);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read_counter() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 and has no effect but its result.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn read_counter() -> u64 {
    let ticks: u64;
    // SAFETY: CNTVCT_EL0 is readable from user space on Linux and has no effect but its result.
    unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibrated_clock_follows_monotonic_time() {
        let clock = Clock::calibrated();
        let (start, first) = (Instant::now(), clock.now());
        std::thread::sleep(Duration::from_millis(50));
        let (elapsed, by_counter) = (start.elapsed().as_nanos() as u64, clock.now() - first);
        assert!(by_counter.abs_diff(elapsed) < elapsed / 5, "{by_counter} ns by counter, {elapsed} ns by the system");
    }

    #[test]
    fn simulated_clock_never_steps_back() {
        let clock = SimulatedClock::default();
        clock.advance_to(10);
        clock.advance_to(5);
        assert_eq!(clock.now(), 10);
    }
}
