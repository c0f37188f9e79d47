//! The counters of allocations and system calls, switched together.
#![forbid(unsafe_code)]

use std::cell::Cell;

use super::{alloc, syscalls};

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

/// Switches counting on this thread on or off; says what it was.
pub fn set(on: bool) -> bool {
    if on {
        alloc::watch();
        syscalls::watch();
    } else {
        syscalls::unwatch();
        alloc::unwatch();
    }
    ON.replace(on)
}

/// Runs `work` with counting on or off; afterwards it is as it was.
pub fn during<R>(on: bool, work: impl FnOnce() -> R) -> R {
    let was = set(on);
    let result = work();
    set(was);
    result
}
