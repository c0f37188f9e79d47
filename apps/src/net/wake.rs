//! How long a thread that rests takes to notice that something happened.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use barewire_driver::bus::BusError;
use barewire_driver::clock::Clock;
use barewire_netstack::placement::Waiter;

use crate::market::{Quantiles, Spans};

/// Wake-ups that are measured.
const ROUNDS: u32 = 100;
/// Between two of them: long enough for the deepest rest a [`Waiter`] knows.
const APART: Duration = Duration::from_millis(1);

/// Measures [`ROUNDS`] wake-ups as they would come from the device: another thread notes the time and makes the event, on the eventfd of the
/// port's interrupt where the waiter sleeps on one. What the device and its interrupt take before that is not in it.
pub(super) fn measure(clock: &Clock, waiter: &mut Waiter) -> Result<Quantiles, BusError> {
    let event = match waiter {
        Waiter::Sleep { interrupt, .. } => interrupt.event().ok(),
        _ => None,
    };
    // Zero: nothing has happened.
    let (happened, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut spans = Spans::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                thread::sleep(APART);
                happened.store(clock.now().max(1), Ordering::Release);
                if let Some(event) = &event {
                    // A full counter wakes up as well.
                    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
                }
            }
        });
        let measured = (0..ROUNDS).try_for_each(|_| {
            let at = loop {
                match happened.swap(0, Ordering::Acquire) {
                    0 => waiter.rest(Duration::from_secs(1), || ())?,
                    at => break at,
                }
            };
            spans.record(clock.now().saturating_sub(at));
            waiter.busy();
            Ok(())
        });
        over.store(true, Ordering::Release);
        measured.map(|()| spans.quantiles())
    })
}
