//! Deadlines of sessions in a heap of fixed size: the earliest is on top, and one session has at most one.

use barewire_driver::clock::Nanos;

#[derive(Debug, Clone, Copy)]
struct Entry {
    deadline: Nanos,
    session: u32,
}

/// No place in the heap.
const ABSENT: u32 = u32::MAX;

/// The heap. What runs per segment only looks at the top; a deadline that moves further away is left where it is until it comes up.
#[derive(Debug)]
pub(super) struct Timers {
    heap: Vec<Entry>,
    /// Where each session is in the heap.
    places: Box<[u32]>,
}

impl Timers {
    /// Bytes for `sessions` deadlines.
    pub const fn memory_bytes(sessions: u32) -> usize {
        sessions as usize * (size_of::<Entry>() + size_of::<u32>())
    }

    /// A heap for the deadlines of sessions below `sessions`.
    pub fn new(sessions: u32) -> Self {
        Self { heap: Vec::with_capacity(sessions as usize), places: vec![ABSENT; sessions as usize].into() }
    }

    /// The earliest deadline.
    #[inline]
    pub fn next(&self) -> Option<Nanos> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// Sessions that have a deadline.
    pub fn len(&self) -> u32 {
        self.heap.len() as u32
    }

    /// Takes the session whose deadline has come.
    #[inline]
    pub fn pop(&mut self, now: Nanos) -> Option<u32> {
        let top = self.heap.first().filter(|entry| entry.deadline <= now)?.session;
        self.remove(top);
        Some(top)
    }

    /// Sets or moves the session's deadline.
    pub fn set(&mut self, session: u32, deadline: Nanos) {
        let Some(place) = self.places.get(session as usize).copied() else { return };
        let at = if place == ABSENT {
            // There is room for every session.
            self.heap.push(Entry { deadline, session });
            self.heap.len() - 1
        } else {
            place as usize
        };
        if let Some(entry) = self.heap.get_mut(at) {
            entry.deadline = deadline;
        }
        self.note(at);
        self.down(at);
        self.up(at);
    }

    /// Forgets the session's deadline.
    pub fn remove(&mut self, session: u32) {
        let Some(place) = self.places.get_mut(session as usize) else { return };
        let at = std::mem::replace(place, ABSENT) as usize;
        if at < self.heap.len() {
            self.heap.swap_remove(at);
            self.note(at);
            self.down(at);
            self.up(at);
        }
    }

    fn deadline(&self, at: usize) -> Option<Nanos> {
        self.heap.get(at).map(|entry| entry.deadline)
    }

    fn note(&mut self, at: usize) {
        if let Some(entry) = self.heap.get(at)
            && let Some(place) = self.places.get_mut(entry.session as usize)
        {
            *place = at as u32;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.note(a);
        self.note(b);
    }

    fn up(&mut self, mut at: usize) {
        while at > 0 && at < self.heap.len() && self.deadline(at) < self.deadline((at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn down(&mut self, mut at: usize) {
        loop {
            let children = [2 * at + 1, 2 * at + 2].into_iter().filter(|child| *child < self.heap.len());
            let Some(least) = children.min_by_key(|child| self.deadline(*child)) else { return };
            if self.deadline(at) <= self.deadline(least) {
                return;
            }
            self.swap(at, least);
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn heap_behaves_as_a_sorted_map(steps in proptest::collection::vec((0u32..16, proptest::option::of(0u64..50)), 0..200)) {
            let (mut timers, mut model) = (Timers::new(16), BTreeMap::new());
            for (session, deadline) in steps {
                match deadline {
                    Some(deadline) => {
                        timers.set(session, deadline);
                        model.insert(session, deadline);
                    }
                    None => {
                        timers.remove(session);
                        model.remove(&session);
                    }
                }
                prop_assert_eq!(timers.next(), model.values().min().copied());
            }
            while let Some(session) = timers.pop(25) {
                let deadline = model.remove(&session).unwrap();
                prop_assert!(deadline <= 25 && model.values().all(|other| *other >= deadline));
            }
            prop_assert!(model.values().all(|deadline| *deadline > 25));
        }
    }
}
