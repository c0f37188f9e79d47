//! Counts what the allocator is asked for while a thread is under watch.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting. A test binary installs it as its global allocator.
pub struct CountingAllocator;

fn count() {
    if WATCHED.get() {
        CALLS.set(CALLS.get() + 1);
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator, which upholds the contract; counting touches
// only thread-local cells that need no allocation (const-initialised, no destructor).
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Begins (or goes on) counting on this thread.
pub fn watch() {
    WATCHED.set(true);
}

/// Stops counting on this thread.
pub fn unwatch() {
    WATCHED.set(false);
}

/// Allocations, reallocations and frees counted on this thread so far.
pub fn calls() -> u64 {
    CALLS.get()
}
