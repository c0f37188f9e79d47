//! Counts system calls while a thread is under watch, by the kernel's own hand.
//!
//! Syscall User Dispatch (Linux 5.11, `Documentation/admin-guide/syscall-user-dispatch.rst`): while a selector byte says "block", every system
//! call of the thread raises SIGSYS instead. Turning the watch on and off is a store to that byte, so it disturbs nothing.

use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
const DISPATCH_ON: libc::c_ulong = 1;
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

static SELECTOR: AtomicU8 = AtomicU8::new(ALLOW);
static CALLS: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);

/// The handler lets the thread run on unwatched: the count is what matters, and returning needs `rt_sigreturn`.
extern "C" fn on_sigsys(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SELECTOR.store(ALLOW, Ordering::Relaxed);
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the kernel passes a valid siginfo; for SIGSYS the call's number is the 32-bit field at byte 24
    // (sigaction(2): si_call_addr at 16, si_syscall at 24).
    let number = unsafe { info.cast::<u8>().add(24).cast::<i32>().read() };
    LAST.store(u64::from(number.unsigned_abs()), Ordering::Relaxed);
}

/// Prepares the calling thread for [`watch`]. One thread of the process may do so.
///
/// # Errors
/// The reason, where the kernel has no Syscall User Dispatch.
pub fn prepare() -> Result<(), String> {
    // SAFETY: `on_sigsys` is async-signal-safe (atomics only); the structure is fully initialised by zeroing.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigsys as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut())
    };
    if installed != 0 {
        return Err(format!("no handler for SIGSYS: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: the selector is a static, so it outlives the thread; an empty allowed range is valid.
    let set = unsafe {
        libc::prctl(
            PR_SET_SYSCALL_USER_DISPATCH,
            DISPATCH_ON,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            SELECTOR.as_ptr(),
        )
    };
    if set != 0 {
        return Err(format!("no Syscall User Dispatch (Linux 5.11, x86-64): {}", std::io::Error::last_os_error()));
    }
    Ok(())
}

/// Begins (or goes on) counting.
#[inline]
pub fn watch() {
    SELECTOR.store(BLOCK, Ordering::Relaxed);
}

/// Stops counting.
#[inline]
pub fn unwatch() {
    SELECTOR.store(ALLOW, Ordering::Relaxed);
}

/// System calls counted so far, and the number of the last one.
pub fn calls() -> (u64, u64) {
    (CALLS.load(Ordering::Relaxed), LAST.load(Ordering::Relaxed))
}
