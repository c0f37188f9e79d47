//! The split virtqueue (virtio 1.2, 2.7): descriptor table, available ring, used ring. Free of the transport: who rings the
//! doorbell, and how, is the caller's affair.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::Ordering;

use crate::port::QueueFault;
use crate::ring::Words16;

/// Where the three parts lie in one piece of memory, in bytes.
///
/// The used ring begins four bytes before a multiple of eight, so that each of its elements is one 64-bit word and is loaded at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Descriptors in the table: a power of two up to 32,768.
    size: u16,
    /// Begin of the available ring, the "driver area".
    available: usize,
    /// Begin of the used ring, the "device area".
    used: usize,
}

impl Layout {
    /// The layout for `size` descriptors, a power of two up to 32,768 (2.7); `None` for any other.
    pub fn new(size: u16) -> Option<Self> {
        const CACHE_LINE: usize = 64;
        let descriptors = usize::from(size) * 16;
        // Flags, index, one entry a descriptor, and the event index that stays unused.
        let available = 6 + usize::from(size) * 2;
        size.is_power_of_two().then(|| Self {
            size,
            available: descriptors,
            used: (descriptors + available).next_multiple_of(CACHE_LINE) + 4,
        })
    }

    /// Descriptors in the table.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// 64-bit words of memory that hold everything, rounded up to a power of two.
    pub fn words(&self) -> usize {
        (self.used + 6 + usize::from(self.size) * 8).div_ceil(8).next_power_of_two()
    }

    /// The device's addresses of descriptor table, available ring and used ring, where the memory begins at `iova`.
    pub fn places(&self, iova: u64) -> [u64; 3] {
        [iova, iova + self.available as u64, iova + self.used as u64]
    }

    /// How many chains were ever made available, and how many used, both modulo 65,536: for a watchdog.
    pub fn progress(&self, words: &impl Words16) -> (u16, u16) {
        let index = |ring: usize| words.load16(ring / 2 + 1, Ordering::Relaxed);
        (index(self.available), index(self.used))
    }
}

/// An entry of the descriptor table (2.7.5).
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// The device's address of the bytes.
    pub iova: u64,
    /// How many there are.
    pub len: u32,
    /// Whether the device writes to them, or reads.
    pub device_writes: bool,
    /// The descriptor that goes on with the chain.
    pub next: Option<u16>,
}

impl Descriptor {
    fn words(self) -> [u64; 2] {
        const NEXT: u64 = 1 << 32;
        const WRITE: u64 = 1 << 33;
        let next = self.next.map_or(0, |next| NEXT | u64::from(next) << 48);
        [self.iova, u64::from(self.len) | next | if self.device_writes { WRITE } else { 0 }]
    }
}

/// A chain that the device is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The chain's first descriptor; the device held it until now.
    pub head: u16,
    /// Bytes the device claims to have written. Not checked: what is possible is known to the caller.
    pub len: u32,
}

/// The driver's end of a split virtqueue. Indices run freely and wrap at 65,536.
pub struct Split<W> {
    words: W,
    layout: Layout,
    queue: u16,
    /// Chains written to the available ring so far.
    offered: u16,
    /// How many of them the device was told of.
    published: u16,
    /// The device's used index when it was last looked at.
    seen: u16,
    /// Used chains taken so far.
    taken: u16,
    /// By descriptor: it heads a chain that the device holds. Lies where no device can reach it.
    held: Box<[Cell<bool>]>,
}

impl<W: Words16> Split<W> {
    /// An empty ring in `words`, which are zero and as many as `layout` asks for. `queue` names it in faults. The device is told not to interrupt.
    pub fn new(queue: u16, layout: Layout, words: W) -> Self {
        let held = vec![Cell::new(false); usize::from(layout.size)].into_boxed_slice();
        let mut ring = Self { words, layout, queue, offered: 0, published: 0, seen: 0, taken: 0, held };
        ring.set_interrupt(false);
        ring
    }

    /// Where the parts lie.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Chains that were offered and not taken back.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        self.offered.wrapping_sub(self.taken)
    }

    /// Writes entry `index` of the table, which the device must not hold.
    #[inline]
    pub fn describe(&mut self, index: u16, descriptor: Descriptor) {
        let at = usize::from(index & (self.layout.size - 1)) * 2;
        let [first, second] = descriptor.words();
        self.words.store(at, first, Ordering::Relaxed);
        self.words.store(at + 1, second, Ordering::Relaxed);
    }

    /// Gives the chain that begins at `head` to the device, which looks at it after [`Split::publish`] (2.7.13.1 and 2).
    #[inline]
    pub fn offer(&mut self, head: u16) {
        let slot = usize::from(self.offered & (self.layout.size - 1));
        self.words.store16(self.layout.available / 2 + 2 + slot, head, Ordering::Relaxed);
        if let Some(held) = self.held.get(usize::from(head)) {
            held.set(true);
        }
        self.offered = self.offered.wrapping_add(1);
    }

    /// Chains offered since the last [`Split::publish`].
    #[inline]
    pub fn unpublished(&self) -> u16 {
        self.offered.wrapping_sub(self.published)
    }

    /// Makes everything offered visible to the device (2.7.13.3). Says whether the doorbell must ring (2.7.10).
    #[inline]
    #[must_use = "the device may be asleep"]
    pub fn publish(&mut self) -> bool {
        const NO_NOTIFY: u16 = 1;
        if self.unpublished() == 0 {
            return false;
        }
        self.published = self.offered;
        self.words.store16(self.layout.available / 2 + 1, self.published, Ordering::Release);
        // The device clears its flag, then looks at the index once more; here the order is the reverse, so one of the two sees the other.
        self.words.full_barrier();
        self.words.load16(self.layout.used / 2, Ordering::Relaxed) & NO_NOTIFY == 0
    }

    /// How many used chains wait to be taken. Looks at the device's index only when those it knew of are taken, or are fewer than `wanted`.
    ///
    /// # Errors
    /// When the device claims to have used more than it was given.
    #[inline]
    pub fn ready(&mut self, wanted: u16) -> Result<u16, QueueFault> {
        let known = self.seen.wrapping_sub(self.taken);
        if known >= wanted {
            return Ok(known);
        }
        let index = self.words.load16(self.layout.used / 2 + 1, Ordering::Acquire);
        let ready = index.wrapping_sub(self.taken);
        if ready > self.published.wrapping_sub(self.taken) {
            return Err(self.fault("used idx", index.into()));
        }
        self.seen = index;
        Ok(ready)
    }

    /// The next used chain; one must be ready. It stays there until [`Split::take`].
    ///
    /// # Errors
    /// When the device names a chain that it does not hold.
    #[inline]
    pub fn peek(&self) -> Result<Used, QueueFault> {
        let element = self.layout.used.div_ceil(8) + usize::from(self.taken & (self.layout.size - 1));
        let word = self.words.load(element, Ordering::Relaxed);
        let (id, len) = (word as u32, (word >> 32) as u32);
        match self.held.get(id as usize) {
            Some(held) if held.get() => Ok(Used { head: id as u16, len }),
            _ => Err(self.fault("used id", id.into())),
        }
    }

    /// Takes the chain that [`Split::peek`] found.
    #[inline]
    pub fn take(&mut self, used: Used) {
        if let Some(held) = self.held.get(usize::from(used.head)) {
            held.set(false);
        }
        self.taken = self.taken.wrapping_add(1);
    }

    /// Asks the device to interrupt when it uses chains, or not to (2.7.7). A hint: it may do otherwise. What it used before it saw the hint
    /// raises nothing, so look once more.
    #[inline]
    pub fn set_interrupt(&mut self, on: bool) {
        const NO_INTERRUPT: u16 = 1;
        self.words.store16(self.layout.available / 2, if on { 0 } else { NO_INTERRUPT }, Ordering::Relaxed);
        if on {
            self.words.full_barrier();
        }
    }

    /// A fault at the used ring's next element.
    #[cold]
    pub fn fault(&self, field: &'static str, value: u64) -> QueueFault {
        let descriptor = u32::from(self.taken & (self.layout.size - 1));
        QueueFault { queue: self.queue, descriptor, field, value }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU16, AtomicU64};

    use proptest::prelude::*;

    use super::*;
    use crate::ring::Words;

    /// Ring memory of both ends. The two widths are kept apart: a place accessed in both would read zero.
    #[derive(Clone)]
    struct Memory(Rc<(Vec<AtomicU64>, Vec<AtomicU16>)>);

    impl Words for Memory {
        fn load(&self, index: usize, order: Ordering) -> u64 {
            self.0.0[index].load(order)
        }
        fn store(&self, index: usize, value: u64, order: Ordering) {
            self.0.0[index].store(value, order);
        }
    }

    impl Words16 for Memory {
        fn load16(&self, index: usize, order: Ordering) -> u16 {
            self.0.1[index].load(order)
        }
        fn store16(&self, index: usize, value: u16, order: Ordering) {
            self.0.1[index].store(value, order);
        }
        fn full_barrier(&self) {}
    }

    /// The device's end, written from the specification's words: indices and elements by their place in bytes (2.7.6 and 2.7.8).
    struct Device {
        memory: Memory,
        layout: Layout,
        available: u16,
        used: u16,
    }

    impl Device {
        fn half(&self, byte: usize) -> u16 {
            assert_eq!(byte % 2, 0);
            self.memory.load16(byte / 2, Ordering::Acquire)
        }

        fn set_half(&self, byte: usize, value: u16) {
            self.memory.store16(byte / 2, value, Ordering::Release);
        }

        /// The heads made available since the last time.
        fn collect(&mut self) -> Vec<u16> {
            let [_, ring, _] = self.layout.places(0).map(|place| place as usize);
            let mut heads = Vec::new();
            while self.available != self.half(ring + 2) {
                heads.push(self.half(ring + 4 + 2 * usize::from(self.available % self.layout.size)));
                self.available = self.available.wrapping_add(1);
            }
            heads
        }

        fn write_element(&self, slot: u16, id: u32, len: u32) {
            let byte = self.layout.places(0)[2] as usize + 4 + 8 * usize::from(slot % self.layout.size);
            assert_eq!(byte % 8, 0);
            self.memory.store(byte / 8, u64::from(id) | u64::from(len) << 32, Ordering::Relaxed);
        }

        fn set_index(&self, index: u16) {
            self.set_half(self.layout.places(0)[2] as usize + 2, index);
        }

        fn complete(&mut self, head: u16, len: u32) {
            self.write_element(self.used, head.into(), len);
            self.used = self.used.wrapping_add(1);
            self.set_index(self.used);
        }
    }

    fn pair(size: u16) -> (Split<Memory>, Device) {
        let layout = Layout::new(size).unwrap();
        let words = layout.words();
        let zeroes = ((0..words).map(|_| AtomicU64::new(0)), (0..words * 4).map(|_| AtomicU16::new(0)));
        let memory = Memory(Rc::new((zeroes.0.collect(), zeroes.1.collect())));
        let ring = Split::new(3, layout, memory.clone());
        (ring, Device { memory, layout, available: 0, used: 0 })
    }

    fn take(ring: &mut Split<Memory>) -> Result<Option<Used>, QueueFault> {
        if ring.ready(1)? == 0 {
            return Ok(None);
        }
        let used = ring.peek()?;
        ring.take(used);
        Ok(Some(used))
    }

    #[test]
    fn layout_parts_are_disjoint_aligned_and_inside() {
        for bits in 0..16 {
            let size = 1usize << bits;
            let layout = Layout::new(size as u16).unwrap();
            let [table, available, used] = layout.places(0).map(|place| place as usize);
            assert!(table + 16 * size <= available && available + 6 + 2 * size <= used);
            assert!(used + 6 + 8 * size <= layout.words() * 8);
            // 2.7: 16, 2 and 4; elements as whole words.
            assert_eq!((available % 2, used % 4, (used + 4) % 8), (0, 0, 0));
        }
        for size in [0, 3, 1000, u16::MAX] {
            assert_eq!(Layout::new(size), None);
        }
    }

    #[test]
    fn descriptor_words_as_the_device_reads_them() {
        let chained = Descriptor { iova: 0x1000, len: 12, device_writes: false, next: Some(5) };
        assert_eq!(chained.words(), [0x1000, 12 | 1 << 32 | 5 << 48]);
        let last = Descriptor { iova: 0x2000, len: 2048, device_writes: true, next: None };
        assert_eq!(last.words(), [0x2000, 2048 | 2 << 32]);
    }

    #[test]
    fn offered_chains_show_at_publish_and_come_back_in_any_order() {
        let (mut ring, mut device) = pair(8);
        (0..4).for_each(|head| ring.offer(head));
        assert!(device.collect().is_empty());
        assert!(ring.publish());
        assert_eq!(device.collect(), [0, 1, 2, 3]);
        assert!(!ring.publish(), "nothing new");
        [(2, 64), (0, 70), (3, 80)].into_iter().for_each(|(head, len)| device.complete(head, len));
        assert_eq!(ring.ready(4), Ok(3));
        let taken = std::iter::from_fn(|| take(&mut ring).unwrap());
        assert_eq!(taken.map(|used| (used.head, used.len)).collect::<Vec<_>>(), [(2, 64), (0, 70), (3, 80)]);
        assert_eq!(ring.in_flight(), 1);
        assert_eq!(ring.layout().progress(&device.memory), (4, 3));
    }

    #[test]
    fn indices_wrap_at_65536() {
        let (mut ring, mut device) = pair(4);
        for round in 0..70_000u32 {
            let head = (round % 4) as u16;
            ring.offer(head);
            assert!(ring.publish());
            assert_eq!(device.collect(), [head]);
            device.complete(head, round);
            assert_eq!(take(&mut ring), Ok(Some(Used { head, len: round })));
            assert_eq!(take(&mut ring), Ok(None));
        }
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn doorbell_and_interrupt_follow_the_flags() {
        let (mut ring, device) = pair(4);
        let [_, available, used] = device.layout.places(0).map(|place| place as usize);
        assert_eq!(device.half(available), 1, "no interrupts until asked for");
        ring.set_interrupt(true);
        assert_eq!(device.half(available), 0);
        device.set_half(used, 1);
        ring.offer(0);
        assert!(!ring.publish(), "the device is awake");
        device.set_half(used, 0);
        ring.offer(1);
        assert!(ring.publish());
    }

    #[test]
    fn impossible_index_and_ids_are_faults() {
        let fault = |field, value| Err(QueueFault { queue: 3, descriptor: 0, field, value });
        let (mut ring, device) = pair(4);
        ring.offer(1);
        assert!(ring.publish());
        ring.offer(2);
        device.set_index(2);
        assert_eq!(take(&mut ring), fault("used idx", 2), "only one was published");
        device.set_index(u16::MAX);
        assert_eq!(take(&mut ring), fault("used idx", 0xFFFF));
        device.set_index(1);
        for id in [0, 3, 4, 0x1_0001, u32::MAX] {
            device.write_element(0, id, 0);
            assert_eq!(take(&mut ring), fault("used id", id.into()));
        }
    }

    #[test]
    fn chain_used_twice_is_a_fault() {
        let (mut ring, mut device) = pair(4);
        [0, 1].into_iter().for_each(|head| ring.offer(head));
        assert!(ring.publish());
        device.complete(1, 0);
        device.complete(1, 0);
        assert_eq!(take(&mut ring), Ok(Some(Used { head: 1, len: 0 })));
        assert_eq!(take(&mut ring), Err(QueueFault { queue: 3, descriptor: 1, field: "used id", value: 1 }));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Offer,
        Publish,
        Take,
        Index(u16),
        Element(u16, u32, u32),
        /// What an honest device does.
        Complete,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Offer),
            Just(Step::Publish),
            Just(Step::Take),
            Just(Step::Complete),
            prop_oneof![0u16..12, any::<u16>()].prop_map(Step::Index),
            (0u16..8, prop_oneof![0u32..10, any::<u32>()], any::<u32>()).prop_map(|(a, b, c)| Step::Element(a, b, c)),
        ]
    }

    proptest! {
        /// Whatever a device writes, a chain comes back only while the device holds it, and once.
        #[test]
        fn hostile_device_never_gets_a_chain_taken_twice(steps in proptest::collection::vec(step(), 0..200)) {
            let (mut ring, mut device) = pair(8);
            let ours = RefCell::new((0..8u16).collect::<Vec<_>>());
            for step in steps {
                match step {
                    Step::Offer => if let Some(head) = ours.borrow_mut().pop() { ring.offer(head) },
                    Step::Publish => _ = ring.publish(),
                    Step::Take => match take(&mut ring) {
                        Ok(Some(used)) => {
                            prop_assert!(used.head < 8 && !ours.borrow().contains(&used.head));
                            ours.borrow_mut().push(used.head);
                        }
                        Ok(None) => {}
                        // A queue stops at its first fault.
                        Err(_) => return Ok(()),
                    },
                    Step::Index(index) => device.set_index(index),
                    Step::Element(slot, id, len) => device.write_element(slot, id, len),
                    Step::Complete => for head in device.collect() { device.complete(head, 1) },
                }
                prop_assert_eq!(usize::from(ring.in_flight()) + ours.borrow().len(), 8);
            }
        }
    }

    /// The ring against a device on another thread, under every interleaving and every value that the memory model allows.
    mod interleaved {
        use std::panic::catch_unwind;

        use loom::cell::UnsafeCell;
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicU16, AtomicU64, fence};
        use loom::thread;

        use super::*;

        /// An ordering taken away, to see loom miss it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Weakened {
            Nothing,
            /// Every store is relaxed: what the driver wrote may come after its index.
            Stores,
            /// Every load is relaxed: what the device wrote may be missed though its index is seen.
            Loads,
            Barrier,
        }

        #[derive(Clone)]
        struct Shared(Arc<Places>);

        struct Places {
            words: Vec<AtomicU64>,
            halves: Vec<AtomicU16>,
            weakened: Weakened,
            buffer: UnsafeCell<u32>,
        }

        const SIZE: u16 = 2;

        impl Shared {
            fn new(weakened: Weakened) -> Self {
                let words = Layout::new(SIZE).unwrap().words();
                Self(Arc::new(Places {
                    words: (0..words).map(|_| AtomicU64::new(0)).collect(),
                    halves: (0..words * 4).map(|_| AtomicU16::new(0)).collect(),
                    weakened,
                    buffer: UnsafeCell::new(0),
                }))
            }

            /// `order`, unless the half of the driver's orderings that it belongs to is taken away.
            fn order(&self, order: Ordering, half: Weakened) -> Ordering {
                if self.0.weakened == half { Ordering::Relaxed } else { order }
            }

            fn half(&self, byte: u64) -> &AtomicU16 {
                &self.0.halves[byte as usize / 2]
            }
        }

        impl Words for Shared {
            fn load(&self, index: usize, order: Ordering) -> u64 {
                self.0.words[index].load(self.order(order, Weakened::Loads))
            }
            fn store(&self, index: usize, value: u64, order: Ordering) {
                self.0.words[index].store(value, self.order(order, Weakened::Stores));
            }
        }

        impl Words16 for Shared {
            fn load16(&self, index: usize, order: Ordering) -> u16 {
                self.0.halves[index].load(self.order(order, Weakened::Loads))
            }
            fn store16(&self, index: usize, value: u16, order: Ordering) {
                self.0.halves[index].store(value, self.order(order, Weakened::Stores));
            }
            fn full_barrier(&self) {
                if self.0.weakened != Weakened::Barrier {
                    fence(Ordering::SeqCst);
                }
            }
        }

        /// The driver writes a buffer and offers it; the device reads it, writes to it and uses it; the driver reads it.
        fn pass_a_buffer(weakened: Weakened) {
            loom::model(move || {
                let shared = Shared::new(weakened);
                let [_, available, used] = Layout::new(SIZE).unwrap().places(0);
                let device = thread::spawn({
                    let shared = shared.clone();
                    move || {
                        while shared.half(available + 2).load(Ordering::Acquire) == 0 {
                            thread::yield_now();
                        }
                        let head = shared.half(available + 4).load(Ordering::Relaxed);
                        let iova = shared.0.words[usize::from(head) * 2].load(Ordering::Relaxed);
                        assert_eq!((head, iova), (1, 7), "the index came before what it speaks of");
                        // Loom fails where this access and another are not ordered.
                        shared.0.buffer.with_mut(|_| ());
                        shared.0.words[(used as usize + 4) / 8].store(1 | 99 << 32, Ordering::Relaxed);
                        shared.half(used + 2).store(1, Ordering::Release);
                    }
                });
                let mut ring = Split::new(0, Layout::new(SIZE).unwrap(), shared.clone());
                shared.0.buffer.with_mut(|_| ());
                ring.describe(1, Descriptor { iova: 7, len: 8, device_writes: true, next: None });
                ring.offer(1);
                let _ = ring.publish();
                while ring.ready(1).unwrap() == 0 {
                    thread::yield_now();
                }
                assert_eq!(ring.peek(), Ok(Used { head: 1, len: 99 }));
                shared.0.buffer.with(|_| ());
                device.join().unwrap();
            });
        }

        /// The device goes to sleep while the driver publishes: it sees the chain, or the doorbell rings (2.7.10).
        fn fall_asleep(weakened: Weakened) {
            loom::model(move || {
                let shared = Shared::new(weakened);
                let [_, available, used] = Layout::new(SIZE).unwrap().places(0);
                shared.half(used).store(1, Ordering::Relaxed);
                let device = thread::spawn({
                    let shared = shared.clone();
                    move || {
                        shared.half(used).store(0, Ordering::Relaxed);
                        fence(Ordering::SeqCst);
                        shared.half(available + 2).load(Ordering::Relaxed) == 1
                    }
                });
                let mut ring = Split::new(0, Layout::new(SIZE).unwrap(), shared);
                ring.offer(0);
                let rings = ring.publish();
                let sees = device.join().unwrap();
                assert!(rings || sees, "the device sleeps and nobody wakes it");
            });
        }

        #[test]
        fn ring_orders_every_access_and_never_loses_a_wakeup() {
            pass_a_buffer(Weakened::Nothing);
            fall_asleep(Weakened::Nothing);
        }

        #[test]
        fn every_weakened_ordering_is_caught() {
            assert!(catch_unwind(|| pass_a_buffer(Weakened::Stores)).is_err());
            assert!(catch_unwind(|| pass_a_buffer(Weakened::Loads)).is_err());
            assert!(catch_unwind(|| fall_asleep(Weakened::Barrier)).is_err());
        }
    }
}
