//! The instruments of the hot-path proofs: allocations, system calls, panics. Each is shown to catch a planted offence.

pub mod alloc;
pub mod panics;
pub mod syscalls;
pub mod watch;
