//! The receive half: polls the ring, lends frames, gives buffers back.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::desc::{self, ReceiveWriteBack, Verdict};
use super::regs::EIMS_EX;
use crate::bus::model::ArrivalStamps;
use crate::dma::{DmaRing, DmaWords, RingView};
use crate::frame::{Chain, Checksum, Frame, FrameMeta, Known, Segment};
use crate::mmio::{Doorbell, Mmio};
use crate::pool::{BUFFER_LEN, BufferId, Pool, PoolView};
use crate::port::{QueueFault, RxQueue};
use crate::ring;

/// Buffers given back before the tail register is written. Fewer doorbells cost less bus traffic; a device never waits for these, because
/// the ring is at least twice as long.
const DOORBELL_EVERY: u32 = 32;

/// Receive queue of an 82599.
///
/// A descriptor is refilled in its own slot as soon as its frame has been handed out, most often with the same buffer, and becomes the device's
/// when the tail passes it. The tail stays one slot behind, because a tail that equals the head means an empty ring.
pub struct Rx {
    pub(super) queue: u16,
    /// The descriptors, and the buffer behind each.
    ring: DmaRing<BufferId>,
    /// The descriptor that the device fills next, counted on and on.
    next: u32,
    pool: Pool,
    mmio: Mmio,
    tail: Doorbell,
    /// The descriptor up to which the device has been told of refilled descriptors.
    announced: u32,
    stamps: Option<Arc<ArrivalStamps>>,
    fault: Option<QueueFault>,
}

impl Rx {
    /// Fills a ring of `size` descriptors, a power of two, with buffers of `pool`; `None` when the pool has fewer. The device is told by
    /// [`Rx::announce`].
    pub(super) fn new(
        queue: u16,
        size: u32,
        words: DmaWords,
        pool: Pool,
        (mmio, tail): (Mmio, Doorbell),
        stamps: Option<Arc<ArrivalStamps>>,
    ) -> Option<Self> {
        let mut buffers = Vec::with_capacity(size as usize);
        for slot in 0..size {
            let id = pool.take_id()?;
            ring::post(&words.view(), slot, desc::receive(pool.iova(id)));
            buffers.push(id);
        }
        let ring = DmaRing::new(words, buffers)?;
        Some(Self { queue, ring, next: 0, pool, mmio, tail, announced: 0, stamps, fault: None })
    }

    /// Writes the tail register: every refilled descriptor but the last is the device's.
    #[inline]
    pub(super) fn announce(&mut self) {
        self.announced = self.next;
        self.tail.ring(self.ring.view().wrap(self.next.wrapping_sub(1)));
    }

    /// Where the ring is, for the device.
    pub(super) fn words(&self) -> &DmaWords {
        self.ring.words()
    }
}

/// The ring and its buffers, borrowed apart from the queue's state, so that a loop keeps in registers what does not change.
#[derive(Clone, Copy)]
struct View<'a> {
    ring: RingView<'a, BufferId>,
    pool: PoolView<'a>,
}

impl View<'_> {
    /// The frame of `len` bytes at `slot`, whole in one sound buffer: the common case. `last` is the second word of its descriptor.
    #[inline]
    fn whole(&self, slot: u32, last: u64, len: NonZeroU16) -> Gathered {
        let back = ReceiveWriteBack([ring::first_word(&self.ring, slot), last]);
        Gathered { back, first: len, total: len.get() }
    }

    /// Looks at what is no frame in one sound buffer: gathers the buffers behind the first into `chain`. `None` when the device has not written
    /// all of it yet; it is looked at again then.
    #[cold]
    fn gather(self, queue: u16, start: u32, chain: &mut Chain) -> Result<Option<Gathered>, QueueFault> {
        let impossible = |slot, field, value| QueueFault { queue, descriptor: self.ring.wrap(slot), field, value };
        let (mut first, mut total, mut slot) = (None, 0u16, start);
        loop {
            let Some(words) = ring::take_done(&self.ring, slot, ReceiveWriteBack::DONE) else {
                chain.clear();
                return Ok(None);
            };
            let back = ReceiveWriteBack(words);
            let Some(len) = back.sound_len(BUFFER_LEN as u16) else {
                return Err(impossible(slot, "PKT_LEN", back.len().into()));
            };
            total = total.saturating_add(len.get());
            let segment = Segment::new(self.ring.kept(slot).get(), len.get());
            if first.is_some() && chain.try_push(segment).is_err() {
                return Err(impossible(slot, "EOP (missing), bytes so far", total.into()));
            }
            let first = *first.get_or_insert(len);
            if back.is_last() {
                return Ok(Some(Gathered { back, first, total }));
            }
            slot = slot.wrapping_add(1);
        }
    }

    /// Gives the descriptor at `slot` a buffer; returns the slot after it.
    #[inline]
    fn refill(&self, slot: u32, id: BufferId) -> u32 {
        ring::post(&self.ring, slot, desc::receive(self.pool.iova(id)));
        slot.wrapping_add(1)
    }

    /// Refills the descriptors of a chain behind its first one, from `slot` on; returns the slot after them.
    #[cold]
    fn refill_chain(self, mut slot: u32, chain: &mut Chain) -> u32 {
        for segment in chain.drain(..) {
            let id = segment.buffer.get();
            self.ring.kept(slot).set(id);
            slot = self.refill(slot, id);
        }
        slot
    }
}

/// A frame as the ring holds it.
struct Gathered {
    /// What was written over its last descriptor.
    back: ReceiveWriteBack,
    /// The bytes in its first buffer.
    first: NonZeroU16,
    /// The bytes of all buffers.
    total: u16,
}

/// What is known about a frame of `len` bytes that begins with `first`, ends with `back` and arrived at `stamp`.
#[inline(always)]
fn meta(queue: u16, back: ReceiveWriteBack, len: u16, first: &[u8], stamp: Option<&AtomicU64>) -> FrameMeta {
    let checksum = match back.verdict() {
        Verdict::Good => Checksum::Good,
        Verdict::BadUdp => recheck_udp(first),
        Verdict::Bad => Checksum::Bad,
        Verdict::Unchecked => Checksum::Unchecked,
    };
    let (mut known, mut arrived) = (back.known(), 0);
    if let Some(stamp) = stamp {
        (known, arrived) = (known | Known::TIMESTAMP, stamp.load(Ordering::Relaxed));
    }
    FrameMeta { len, queue, checksum, known, vlan: back.tag(), rss_hash: back.hash(), arrived }
}

/// The 82599 flags a UDP checksum of zero as wrong, though over IPv4 it means "none" (RFC 768). Market data feeds send zero.
#[inline]
fn recheck_udp(frame: &[u8]) -> Checksum {
    const ETHERNET: usize = 14;
    const WITHOUT_OPTIONS: u8 = 0x45;
    let at = match frame.get(ETHERNET) {
        Some(&WITHOUT_OPTIONS) => ETHERNET + 20,
        Some(version_ihl) if version_ihl >> 4 == 4 => ETHERNET + usize::from(version_ihl & 0xF) * 4,
        _ => return Checksum::Bad,
    };
    if frame.get(at + 6..at + 8) == Some(&[0, 0]) { Checksum::Good } else { Checksum::Bad }
}

impl RxQueue for Rx {
    #[inline(always)]
    fn poll(&mut self, budget: u32, mut handler: impl FnMut(Frame<'_>)) -> Result<u32, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut chain = Chain::new();
        let mut left = budget;
        let view = View { ring: self.ring.view(), pool: self.pool.view() };
        while left > 0 {
            let slot = self.next;
            let last = ring::last_word(&view.ring, slot);
            let mut rest = None;
            let gathered = match ReceiveWriteBack::whole_len(last) {
                Some(len) => view.whole(slot, last, len),
                // Mostly so where a burst ends.
                None if last & ReceiveWriteBack::DONE == 0 => break,
                None => match view.gather(self.queue, slot, &mut chain) {
                    Ok(Some(gathered)) => {
                        rest = (!chain.is_empty()).then_some(&chain);
                        gathered
                    }
                    Ok(None) => break,
                    Err(fault) => return Err(*self.fault.insert(fault)),
                },
            };
            let (Gathered { back, first, total }, buffer) = (gathered, view.ring.kept(slot));
            let stamps = self.stamps.as_deref().map(ArrivalStamps::as_slice);
            let stamp = stamps.and_then(|stamps| stamps.get(view.ring.wrap(slot) as usize));
            // SAFETY: the device has set the done bit of every buffer, lengths are sound, and the buffers are posted below.
            unsafe {
                let bytes = view.pool.bytes(buffer.get(), first.get());
                let meta = meta(self.queue, back, total, bytes, stamp);
                Frame::lend(&self.pool, (buffer, bytes), rest, meta, &mut handler);
            }
            self.next = view.refill(slot, buffer.get());
            if rest.is_some() {
                self.next = view.refill_chain(self.next, &mut chain);
            }
            left -= 1;
        }
        if self.next.wrapping_sub(self.announced) >= DOORBELL_EVERY {
            self.announce();
        }
        Ok(budget - left)
    }

    /// A queue that has stopped stands at the descriptor that is at fault, which is done.
    #[inline(always)]
    fn is_quiet(&self) -> bool {
        !ring::is_done(&self.ring.view(), self.next, ReceiveWriteBack::DONE)
    }

    fn arm_interrupt(&mut self) {
        let half = self.queue / 32;
        self.mmio.write32(EIMS_EX.at(half), 1 << (self.queue % 32));
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recheck_udp_zero_is_none_and_anything_else_stays_bad() {
        let mut frame = [0u8; 60];
        frame[14] = 0x45;
        assert_eq!(recheck_udp(&frame), Checksum::Good);
        frame[41] = 1;
        assert_eq!(recheck_udp(&frame), Checksum::Bad);
        assert_eq!(recheck_udp(&frame[..40]), Checksum::Bad);
        frame[14] = 0x60;
        frame[41] = 0;
        assert_eq!(recheck_udp(&frame), Checksum::Bad, "IPv6 has no datagrams without checksum (RFC 8200, 8.1)");
        assert_eq!(recheck_udp(&[]), Checksum::Bad);
    }
}
