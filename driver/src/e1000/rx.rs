//! The receive half: polls the ring, lends frames, gives buffers back.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::desc::{self, Layout, ReceiveWriteBack, Verdict};
use super::regs::{Cause, ICR, IMS};
use crate::dma::{DmaWords, RegionWords};
use crate::frame::{Chain, Checksum, Frame, FrameMeta, Known, MAX_SEGMENTS, Segment};
use crate::mmio::{Doorbell, Mmio};
use crate::pool::{BUFFER_LEN, BufferId, Pool, PoolView};
use crate::port::{QueueFault, RxQueue};
use crate::ring;

/// Buffers given back before the tail register is written. Fewer doorbells cost less bus traffic; a device never waits for these, because
/// the ring is at least twice as long.
const DOORBELL_EVERY: u32 = 32;

/// What the port gives a receive queue to live with.
pub(super) struct Terms {
    pub(super) queue: u16,
    pub(super) layout: Layout,
    /// The longest frame to hand out, in bytes. These devices know no such limit of their own.
    pub(super) max_frame: u16,
    /// The interrupt cause of the queue.
    pub(super) cause: Cause,
    /// Counts frames that were longer; shared with the port.
    pub(super) too_long: Arc<AtomicU64>,
}

/// Receive queue.
///
/// A descriptor is refilled in its own slot as soon as its frame has been handed out, most often with the same buffer, and becomes the device's
/// when the tail passes it. The tail stays one slot behind, because a tail that equals the head means an empty ring.
pub struct Rx {
    pub(super) terms: Terms,
    words: DmaWords,
    /// The slot that the device fills next.
    next: u32,
    mask: u32,
    /// The longest frame that is handed out from one buffer, in bytes.
    longest_whole: u16,
    /// The rest of a frame that is too long is still to come.
    skipping: bool,
    /// The buffer behind each descriptor.
    buffers: Box<[Cell<BufferId>]>,
    pool: Pool,
    mmio: Mmio,
    tail: Doorbell,
    /// The slot up to which the device has been told of refilled descriptors.
    announced: u32,
    fault: Option<QueueFault>,
}

impl Rx {
    /// Fills a ring of `size` descriptors, a power of two, with buffers of `pool`; `None` when the pool has fewer. The device is told by
    /// [`Rx::announce`].
    pub(super) fn new(
        terms: Terms,
        size: u32,
        words: DmaWords,
        pool: Pool,
        (mmio, tail): (Mmio, Doorbell),
    ) -> Option<Self> {
        let mut buffers = Vec::with_capacity(size as usize);
        for slot in 0..size {
            let id = pool.take_id()?;
            ring::post(&words.view(), slot, desc::receive(pool.iova(id)));
            buffers.push(Cell::new(id));
        }
        let (buffers, mask) = (buffers.into_boxed_slice(), size.checked_sub(1)?);
        let longest_whole = terms.max_frame.min(BUFFER_LEN as u16);
        Some(Self {
            terms,
            words,
            next: 0,
            mask,
            longest_whole,
            skipping: false,
            buffers,
            pool,
            mmio,
            tail,
            announced: 0,
            fault: None,
        })
    }

    /// Writes the tail register: every refilled descriptor but the last is the device's.
    #[inline]
    pub(super) fn announce(&mut self) {
        self.announced = self.next;
        self.tail.ring(self.next.wrapping_sub(1) & self.mask);
    }

    /// Where the ring is, for the device.
    pub(super) fn words(&self) -> &DmaWords {
        &self.words
    }
}

/// The ring and its buffers, borrowed apart from the queue's state, so that a loop keeps in registers what does not change.
#[derive(Clone, Copy)]
struct View<'a> {
    words: RegionWords<'a>,
    mask: u32,
    buffers: &'a [Cell<BufferId>],
    pool: PoolView<'a>,
    layout: Layout,
}

/// A frame as the ring holds it.
struct Gathered<'a> {
    /// What was written over its last descriptor.
    back: ReceiveWriteBack,
    /// The first buffer, and the bytes in it.
    head: (&'a Cell<BufferId>, u16),
    /// The bytes of all buffers.
    total: u16,
}

/// What is at the head of the ring.
enum Found<'a> {
    Frame(Gathered<'a>),
    /// A buffer of a frame that is too long, and whether it is the last one. They go back one by one: there may be more than the ring holds.
    TooLong(&'a Cell<BufferId>, bool),
    /// A frame that the device has not written all of; it is looked at again.
    Unfinished,
}

impl<'a> View<'a> {
    #[inline]
    fn take_done(&self, slot: u32) -> Option<ReceiveWriteBack> {
        ring::take_done(&self.words, slot, self.layout.done()).map(|words| self.layout.read(words))
    }

    /// The frame at `slot`, where it is whole in one buffer and has at most `longest` bytes: the common case.
    #[inline]
    fn whole(&self, slot: u32, longest: u16) -> Option<Gathered<'a>> {
        let back = self.take_done(slot)?;
        let total = back.sound_len(longest).filter(|_| back.is_last())?;
        Some(Gathered { back, head: (self.buffers.get(slot as usize)?, total), total })
    }

    /// Looks at what is no such frame: gathers the buffers behind the first into `chain`.
    #[cold]
    fn gather(&self, terms: &Terms, skipping: bool, start: u32, chain: &mut Chain) -> Result<Found<'a>, QueueFault> {
        let impossible = |descriptor, field, value| QueueFault { queue: terms.queue, descriptor, field, value };
        let (mut first, mut total) = (None, 0u32);
        for ahead in 0..=MAX_SEGMENTS as u32 {
            let slot = (start + ahead) & self.mask;
            let Some(back) = self.take_done(slot) else {
                chain.clear();
                return Ok(Found::Unfinished);
            };
            let Some((len, buffer)) = back.sound_len(BUFFER_LEN as u16).zip(self.buffers.get(slot as usize)) else {
                return Err(impossible(slot, "LENGTH", back.len().into()));
            };
            total += u32::from(len);
            let head = *first.get_or_insert((buffer, len));
            if skipping || total > u32::from(terms.max_frame) {
                chain.clear();
                return Ok(Found::TooLong(head.0, ahead == 0 && back.is_last()));
            }
            // A frame of an allowed length can still be spread over too many buffers, but no device does that.
            if ahead > 0 && chain.try_push(Segment::new(buffer.get(), len)).is_err() {
                break;
            }
            if back.is_last() {
                return Ok(Found::Frame(Gathered { back, head, total: total as u16 }));
            }
        }
        Err(impossible(start, "EOP (missing), bytes so far", total.into()))
    }

    /// Gives the descriptor at `slot` a buffer; returns the slot after it.
    #[inline]
    fn refill(&self, slot: u32, id: BufferId) -> u32 {
        ring::post(&self.words, slot, desc::receive(self.pool.iova(id)));
        (slot + 1) & self.mask
    }

    /// Refills the descriptors of a chain behind its first one, from `slot` on; returns the slot after them.
    #[cold]
    fn refill_chain(&self, mut slot: u32, chain: &mut Chain) -> u32 {
        for segment in chain.drain(..) {
            let id = segment.buffer.get();
            if let Some(place) = self.buffers.get(slot as usize) {
                place.set(id);
            }
            slot = self.refill(slot, id);
        }
        slot
    }
}

/// What is known about a frame of `len` bytes that ends with `back`.
#[inline(always)]
fn meta(queue: u16, back: ReceiveWriteBack, len: u16) -> FrameMeta {
    let checksum = match back.verdict() {
        Verdict::Good => Checksum::Good,
        Verdict::Bad => Checksum::Bad,
        Verdict::Unchecked => Checksum::Unchecked,
    };
    let (vlan, rss_hash) = (back.vlan(), back.rss_hash());
    let mut known = Known::empty();
    known.set(Known::VLAN, vlan.is_some());
    known.set(Known::RSS_HASH, rss_hash.is_some());
    FrameMeta { len, queue, checksum, known, vlan: vlan.unwrap_or(0), rss_hash: rss_hash.unwrap_or(0), arrived: 0 }
}

impl RxQueue for Rx {
    #[inline]
    fn poll(&mut self, budget: u32, mut handler: impl FnMut(Frame<'_>)) -> Result<u32, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut chain = Chain::new();
        let mut frames = 0;
        let view = View {
            words: self.words.view(),
            mask: self.mask,
            buffers: &self.buffers,
            pool: self.pool.view(),
            layout: self.terms.layout,
        };
        // Dropped buffers count against the budget, not into the result: a flood of them must not hold the caller.
        for _ in 0..budget {
            let slot = self.next;
            let whole = if self.skipping { None } else { view.whole(slot, self.longest_whole) };
            let gathered = match whole {
                Some(gathered) => gathered,
                None => match view.gather(&self.terms, self.skipping, slot, &mut chain) {
                    Ok(Found::Frame(gathered)) => gathered,
                    Ok(Found::TooLong(buffer, is_last)) => {
                        if !self.skipping {
                            self.terms.too_long.fetch_add(1, Ordering::Relaxed);
                        }
                        self.skipping = !is_last;
                        self.next = view.refill(slot, buffer.get());
                        continue;
                    }
                    Ok(Found::Unfinished) => break,
                    Err(fault) => return Err(*self.fault.insert(fault)),
                },
            };
            let Gathered { back, head: (buffer, len), total } = gathered;
            let meta = meta(self.terms.queue, back, total);
            let rest = (!chain.is_empty()).then_some(&chain);
            // SAFETY: the device has set the done bit of every buffer, lengths are sound, and the buffers are posted below.
            unsafe {
                let bytes = view.pool.bytes(buffer.get(), len);
                Frame::lend(&self.pool, (buffer, bytes), rest, meta, &mut handler);
            }
            self.next = view.refill(slot, buffer.get());
            if !chain.is_empty() {
                self.next = view.refill_chain(self.next, &mut chain);
            }
            frames += 1;
        }
        if self.next.wrapping_sub(self.announced) & self.mask >= DOORBELL_EVERY {
            self.announce();
        }
        Ok(frames)
    }

    fn arm_interrupt(&mut self) {
        // What is pending is of frames that were polled, or will be before the caller sleeps.
        let cause = self.terms.cause.bits();
        self.mmio.write32(ICR.offset, cause);
        self.mmio.write32(IMS.offset, cause);
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
}
