//! The driver's ring code against the model's descriptor code, under every interleaving and every value that the memory
//! model allows.
//!
//! Both are generic over [`Words`]; here the words, and the tail, are loom's atomics, with the orderings that the
//! driver's doorbell and the model's register file use. Buffers are loom cells: loom fails when two accesses to one are
//! not ordered. No build flag is needed.
#![forbid(unsafe_code)]

use std::panic::catch_unwind;
use std::sync::atomic::Ordering;

use barewire_driver::ring::{Indices, Words, post, take_done};
use barewire_models::ixgbe82599::desc::{DONE, Received, fetch, write_back};
use barewire_netstack::ipc::{Found, LINE, LINE_PAYLOAD, Lines, lines_of};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::thread;

/// DD of a transmit descriptor, in the second word (82599 datasheet 7.2.3.2.4).
const TRANSMIT_DONE: u64 = 1 << 32;

/// An ordering taken away, to see loom miss it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weakened {
    Nothing,
    /// The driver looks at the done bit without acquire.
    DoneLoad,
    /// The device sets the done bit without release.
    DoneStore,
    /// The driver rings the doorbell without release.
    TailStore,
    /// The device reads the tail without acquire.
    TailLoad,
}

struct LoomWords {
    words: Vec<AtomicU64>,
    weakened: Weakened,
}

impl Words for LoomWords {
    fn load(&self, index: usize, order: Ordering) -> u64 {
        let order = if self.weakened == Weakened::DoneLoad { Ordering::Relaxed } else { order };
        self.words[index % self.words.len()].load(order)
    }

    fn store(&self, index: usize, value: u64, order: Ordering) {
        let order = if self.weakened == Weakened::DoneStore { Ordering::Relaxed } else { order };
        self.words[index % self.words.len()].store(value, order);
    }
}

/// What driver and device share.
struct Shared {
    words: LoomWords,
    tail: AtomicU32,
    /// Buffer `n` has the address `n + 1`: zero, which a device finds that reads a descriptor too early, is no address.
    buffers: Vec<UnsafeCell<()>>,
}

impl Shared {
    fn new(size: u32, weakened: Weakened) -> Arc<Self> {
        let words = (0..size * 2).map(|_| AtomicU64::new(0)).collect();
        let buffers = (0..size).map(|_| UnsafeCell::new(())).collect();
        Arc::new(Self { words: LoomWords { words, weakened }, tail: AtomicU32::new(0), buffers })
    }

    fn ring_doorbell(&self, tail: u32) {
        let order = if self.words.weakened == Weakened::TailStore { Ordering::Relaxed } else { Ordering::Release };
        self.tail.store(tail, order);
    }

    /// The device's side of the doorbell: runs `descriptor` for `count` descriptors as the tail lets it.
    fn run_device(&self, size: u32, count: u32, mut descriptor: impl FnMut(u32, [u64; 2])) {
        let order = if self.words.weakened == Weakened::TailLoad { Ordering::Relaxed } else { Ordering::Acquire };
        let (mut head, mut done) = (0, 0);
        while done < count {
            let tail = self.tail.load(order);
            if tail == head {
                thread::yield_now();
            }
            while head != tail {
                descriptor(head, fetch(&self.words, head));
                head = (head + 1) % size;
                done += 1;
            }
        }
    }

    fn take(&self, slot: u32, done: u64) -> [u64; 2] {
        loop {
            if let Some(words) = take_done(&self.words, slot, done) {
                return words;
            }
            thread::yield_now();
        }
    }

    fn buffer(&self, address: u64) -> &UnsafeCell<()> {
        let buffer = address.checked_sub(1).and_then(|index| self.buffers.get(index as usize));
        buffer.expect("the device read a descriptor before it was written")
    }

    fn write(&self, address: u64) {
        self.buffer(address).with_mut(|_| ());
    }

    fn read(&self, address: u64) {
        self.buffer(address).with(|_| ());
    }
}

/// Every execution with at most this many forced switches: what finds ordering mistakes at this size, in seconds.
fn explore(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

/// The device fills buffers; the driver reads each and refills its descriptor, as the receive half does: the tail stays
/// one slot behind.
fn receive(size: u32, frames: u32, weakened: Weakened) {
    explore(move || {
        let shared = Shared::new(size, weakened);
        let device = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut number = 0;
                shared.run_device(size, frames, |slot, [address, _]| {
                    shared.write(address);
                    number += 1;
                    write_back(&shared.words, slot, Received::default().words(number, true));
                });
            }
        });
        let refill = |slot| post(&shared.words, slot, [u64::from(slot) + 1, 0]);
        (0..size).for_each(refill);
        shared.ring_doorbell(size - 1);
        for number in 1..=frames {
            let slot = (number - 1) % size;
            let [_, status] = shared.take(slot, u64::from(DONE));
            assert_eq!((status >> 32) as u32, number, "a frame is lost, or taken twice");
            shared.read(u64::from(slot) + 1);
            refill(slot);
            shared.ring_doorbell(slot);
        }
        device.join().expect("the device ends");
    });
}

/// The driver fills buffers; the device reads each and reports it; the driver fills it again.
fn transmit(size: u32, frames: u32, weakened: Weakened) {
    explore(move || {
        let mut ring = Indices::new(size).expect("a power of two");
        let shared = Shared::new(size, weakened);
        let device = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut number = 0;
                shared.run_device(size, frames, |slot, [address, second]| {
                    shared.read(address);
                    number += 1;
                    assert_eq!(second, number, "a frame is skipped, or sent twice");
                    write_back(&shared.words, slot, [address, second | TRANSMIT_DONE]);
                });
            }
        });
        for number in 1..=u64::from(frames) {
            if !ring.has_room(1) {
                shared.take(ring.head(), TRANSMIT_DONE);
                ring.advance_head();
            }
            let address = u64::from(ring.tail()) + 1;
            shared.write(address);
            post(&shared.words, ring.tail(), [address, number]);
            ring.advance_tail();
            shared.ring_doorbell(ring.tail());
        }
        device.join().expect("the device ends");
    });
}

/// Messages of `len` bytes through a ring of `count` lines between two processes: each arrives whole, once and in order.
fn messages(count: u64, messages: u64, len: usize, weakened: Weakened) {
    explore(move || {
        let words = (0..count as usize * LINE).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new((LoomWords { words, weakened }, AtomicU64::new(0)));
        let writer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let (words, head) = &*shared;
                let mut tail = 0;
                for number in 1..=messages {
                    while tail + lines_of(len) - head.load(Ordering::Acquire) > count {
                        thread::yield_now();
                    }
                    Lines::new(words, count).write(tail, &vec![number as u8; len]);
                    tail += lines_of(len);
                }
            }
        });
        let (words, head) = &*shared;
        let mut next = 0;
        for number in 1..=messages {
            let lines = Lines::new(words, count);
            while lines.look(next, len as u16) == Found::Nothing {
                thread::yield_now();
            }
            let mut message = vec![0; len];
            assert_eq!(lines.look(next, len as u16), Found::Message(len as u16));
            assert!(lines.read(next, &mut message), "a line of another message");
            assert!(message.iter().all(|byte| u64::from(*byte) == number), "a message is lost, or not whole");
            next += lines_of(len);
            head.store(next, Ordering::Release);
        }
        writer.join().expect("the writer ends");
    });
}

#[test]
fn messages_between_processes_arrive_whole_and_in_order() {
    messages(2, 3, 16, Weakened::Nothing);
    messages(2, 2, LINE_PAYLOAD + 8, Weakened::Nothing);
    for weakened in [Weakened::DoneLoad, Weakened::DoneStore] {
        assert!(catch_unwind(|| messages(2, 2, 16, weakened)).is_err(), "{weakened:?}");
    }
}

#[test]
fn receive_ring_orders_every_access() {
    receive(2, 3, Weakened::Nothing);
    receive(4, 5, Weakened::Nothing);
}

#[test]
fn transmit_ring_orders_every_access() {
    transmit(2, 3, Weakened::Nothing);
    transmit(4, 5, Weakened::Nothing);
}

#[test]
fn every_weakened_ordering_is_caught() {
    for weakened in [Weakened::DoneLoad, Weakened::DoneStore, Weakened::TailStore, Weakened::TailLoad] {
        assert!(catch_unwind(|| receive(2, 3, weakened)).is_err(), "receive, {weakened:?}");
        assert!(catch_unwind(|| transmit(2, 3, weakened)).is_err(), "transmit, {weakened:?}");
    }
}
