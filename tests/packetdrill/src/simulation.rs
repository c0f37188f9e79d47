//! Virtual time, and calls that wait for something to happen in it.
//!
//! packetdrill runs a script on one thread, which moves the clock, and calls that the script expects to block on another. A waiting thread really
//! sleeps, which is how packetdrill sees that its call blocks. After every change it looks whether its wait is over, and the clock stands until it
//! has; and when it is, until the thread has read the clock: the instant of its return.
#![forbid(unsafe_code)]

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use barewire_driver::clock::Nanos;
use rustix::io::Errno;

use crate::wire::Sent;
use crate::world::World;

/// How far the clock runs in search of something to happen, at most: further than keepalive's two hours, and not for ever, as there are stacks that
/// never give up.
const PATIENCE: Nanos = 3 * 3600 * 1_000_000_000;
/// How often something else may happen on the way.
const STEPS: u32 = 100_000;
/// What reading the clock costs: packetdrill spins on it to let time pass.
const CLOCK_READ: Nanos = 1_000;

/// A world with a clock.
pub struct Simulation {
    state: Mutex<State>,
    changed: Condvar,
    /// The thread that runs the script.
    script: ThreadId,
}

struct State {
    world: World,
    /// Counts what happened.
    changes: u64,
    waiting: Vec<Waiting>,
    /// Threads whose wait is over and that did not read the clock yet.
    returning: Vec<ThreadId>,
}

struct Waiting {
    thread: ThreadId,
    /// The changes that it knows of.
    seen: u64,
    deadline: Option<Nanos>,
}

type Guard<'a> = MutexGuard<'a, State>;

impl Simulation {
    /// A simulation whose script runs on this thread.
    pub fn new(world: World) -> Self {
        let state = State { world, changes: 0, waiting: Vec::new(), returning: Vec::new() };
        Self { state: Mutex::new(state), changed: Condvar::new(), script: thread::current().id() }
    }

    /// The world once every other thread knows its state.
    fn settled(&self) -> Guard<'_> {
        self.settle(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn settle<'a>(&'a self, guard: Guard<'a>) -> Guard<'a> {
        let me = thread::current().id();
        self.wait_while(guard, |state| !state.is_settled(me))
    }

    fn wait_while<'a>(&'a self, guard: Guard<'a>, condition: impl FnMut(&mut State) -> bool) -> Guard<'a> {
        self.changed.wait_while(guard, condition).unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a call has led to, and lets others know.
    fn change(&self, state: &mut State) {
        state.world.settle();
        state.changes += 1;
        self.changed.notify_all();
    }

    /// A call that does not wait.
    pub fn call<T>(&self, call: impl FnOnce(&mut World) -> T) -> T {
        let mut state = self.settled();
        let result = call(&mut state.world);
        self.change(&mut state);
        result
    }

    /// A call that is tried until it gives something, `limit` has passed, or it fails.
    ///
    /// # Errors
    /// The call's. EAGAIN when `limit` has passed. EDEADLK when nothing happens that the script's thread could wait for.
    pub fn wait<T>(
        &self,
        limit: Option<Nanos>,
        mut attempt: impl FnMut(&mut World) -> Result<Option<T>, Errno>,
    ) -> Result<T, Errno> {
        let mut state = self.settled();
        let deadline = limit.map(|limit| state.world.now().saturating_add(limit));
        let first = attempt(&mut state.world);
        self.change(&mut state);
        if let Some(result) = first.transpose() {
            return result;
        }
        let me = thread::current().id();
        if me == self.script {
            return self.wait_on_script(state, deadline, attempt);
        }
        let seen = state.changes - 1;
        state.waiting.push(Waiting { thread: me, seen, deadline });
        loop {
            state = self.wait_while(state, |state| state.seen(me) == state.changes);
            let outcome = attempt(&mut state.world);
            let outcome = outcome.transpose().or_else(|| state.is_late(deadline).then_some(Err(Errno::AGAIN)));
            let Some(result) = outcome else {
                state.see(me);
                self.changed.notify_all();
                continue;
            };
            state.waiting.retain(|waiting| waiting.thread != me);
            state.returning.push(me);
            self.change(&mut state);
            return result;
        }
    }

    /// Waits on the thread that moves the clock: it moves on to whatever happens next.
    fn wait_on_script<'a, T>(
        &'a self,
        mut state: Guard<'a>,
        deadline: Option<Nanos>,
        mut attempt: impl FnMut(&mut World) -> Result<Option<T>, Errno>,
    ) -> Result<T, Errno> {
        let last = state.world.now().saturating_add(PATIENCE);
        for _ in 0..STEPS {
            state = self.settle(state);
            if state.is_late(deadline) {
                return Err(Errno::AGAIN);
            }
            let next = state.next_deadline().into_iter().chain(deadline).min();
            let Some(next) = next.filter(|next| *next <= last) else { break };
            state.world.advance(next);
            let outcome = attempt(&mut state.world);
            self.change(&mut state);
            if let Some(result) = outcome.transpose() {
                return result;
            }
        }
        Err(Errno::DEADLK)
    }

    /// Reads the clock, in nanoseconds.
    pub fn read_clock(&self) -> Nanos {
        let me = thread::current().id();
        let mut state = self.settled();
        state.returning.retain(|thread| *thread != me);
        self.changed.notify_all();
        let now = state.world.now();
        self.run(state, now + CLOCK_READ);
        now
    }

    /// Lets `span` nanoseconds pass.
    pub fn sleep(&self, span: Nanos) {
        let state = self.settled();
        let until = state.world.now().saturating_add(span);
        self.run(state, until);
    }

    /// Runs what is due until `until`, in order.
    fn run<'a>(&'a self, mut state: Guard<'a>, until: Nanos) {
        loop {
            state = self.settle(state);
            let Some(next) = state.next_deadline().filter(|next| *next <= until) else {
                state.world.advance(until);
                return;
            };
            state.world.advance(next);
            self.change(&mut state);
        }
    }

    /// The next packet that the stack sends. Time passes until there is one; `None` when there will be none.
    pub fn next_sent(&self) -> Option<Sent> {
        let mut state = self.settled();
        let last = state.world.now().saturating_add(PATIENCE);
        for _ in 0..STEPS {
            if let Some(sent) = state.world.next_sent() {
                return Some(sent);
            }
            let next = state.next_deadline().filter(|next| *next <= last)?;
            state.world.advance(next);
            self.change(&mut state);
            state = self.settle(state);
        }
        None
    }
}

impl State {
    /// Whether every thread but `me` has looked at the last change, and none of those whose wait is over is still on its way back.
    fn is_settled(&self, me: ThreadId) -> bool {
        self.returning.iter().all(|thread| *thread == me)
            && self.waiting.iter().all(|waiting| waiting.seen == self.changes)
    }

    /// The change that a waiting thread knows of.
    fn seen(&self, thread: ThreadId) -> u64 {
        self.waiting.iter().find(|waiting| waiting.thread == thread).map_or(self.changes, |waiting| waiting.seen)
    }

    fn see(&mut self, thread: ThreadId) {
        let changes = self.changes;
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.thread == thread) {
            waiting.seen = changes;
        }
    }

    fn is_late(&self, deadline: Option<Nanos>) -> bool {
        deadline.is_some_and(|deadline| deadline <= self.world.now())
    }

    /// When something happens next: in the stack, or because somebody waits no longer.
    fn next_deadline(&self) -> Option<Nanos> {
        let waiting = self.waiting.iter().filter_map(|waiting| waiting.deadline);
        self.world.next_deadline().into_iter().chain(waiting).min()
    }
}

#[cfg(test)]
mod tests;
