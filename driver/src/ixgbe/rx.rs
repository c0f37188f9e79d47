//! The receive half: polls the ring, lends frames, gives buffers back.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;

use super::desc::{self, ReceiveWriteBack, Verdict};
use super::regs::EIMS_EX;
use crate::bus::model::ArrivalStamps;
use crate::dma::{DmaWords, RegionWords};
use crate::frame::{Checksum, Frame, FrameMeta, Known, MAX_SEGMENTS, Segment};
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
    words: DmaWords,
    /// The slot that the device fills next.
    next: u32,
    mask: u32,
    /// The buffer behind each descriptor.
    buffers: Box<[Cell<BufferId>]>,
    pool: Pool,
    mmio: Mmio,
    tail: Doorbell,
    /// The slot up to which the device has been told of refilled descriptors.
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
            buffers.push(Cell::new(id));
        }
        let (buffers, mask) = (buffers.into_boxed_slice(), size.checked_sub(1)?);
        Some(Self { queue, words, next: 0, mask, buffers, pool, mmio, tail, announced: 0, stamps, fault: None })
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
}

impl<'a> View<'a> {
    /// The frame at `slot`, where it is whole in one sound buffer: the common case.
    #[inline]
    fn whole(&self, slot: u32) -> Option<Gathered<'a>> {
        let back = ReceiveWriteBack(ring::take_done(&self.words, slot, ReceiveWriteBack::WHOLE)?);
        let total = back.sound_len(BUFFER_LEN as u16)?;
        Some(Gathered { back, head: (self.buffers.get(slot as usize)?, total), total })
    }

    /// Whether the device has written to `slot` at all: mostly not, where a burst ends.
    #[inline]
    fn is_done(&self, slot: u32) -> bool {
        ring::is_done(&self.words, slot, ReceiveWriteBack::DONE)
    }

    /// Looks at what is no frame in one sound buffer: gathers the buffers behind the first into `chain`. `None` when the device has not written
    /// all of it yet; it is looked at again then.
    #[cold]
    fn gather(self, queue: u16, start: u32, chain: &mut Chain) -> Result<Option<Gathered<'a>>, QueueFault> {
        let impossible = |descriptor, field, value| QueueFault { queue, descriptor, field, value };
        let (mut first, mut total, mut slot) = (None, 0u16, start);
        loop {
            let Some(words) = ring::take_done(&self.words, slot, ReceiveWriteBack::DONE) else {
                chain.clear();
                return Ok(None);
            };
            let (back, buffer) = (ReceiveWriteBack(words), self.buffers.get(slot as usize));
            let Some((len, buffer)) = back.sound_len(BUFFER_LEN as u16).zip(buffer) else {
                return Err(impossible(slot, "PKT_LEN", back.len().into()));
            };
            total = total.saturating_add(len);
            let is_first = first.is_none();
            let head = *first.get_or_insert((buffer, len));
            if !is_first && chain.try_push(Segment::new(buffer.get(), len)).is_err() {
                return Err(impossible(slot, "EOP (missing), bytes so far", total.into()));
            }
            if back.is_last() {
                return Ok(Some(Gathered { back, head, total }));
            }
            slot = (slot + 1) & self.mask;
        }
    }

    /// Gives the descriptor at `slot` a buffer; returns the slot after it.
    #[inline]
    fn refill(&self, slot: u32, id: BufferId) -> u32 {
        ring::post(&self.words, slot, desc::receive(self.pool.iova(id)));
        (slot + 1) & self.mask
    }

    /// Refills the descriptors of a chain behind its first one, from `slot` on; returns the slot after them.
    #[cold]
    fn refill_chain(self, mut slot: u32, chain: &mut Chain) -> u32 {
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

/// The buffers of a chained frame behind the first.
type Chain = ArrayVec<Segment, { MAX_SEGMENTS - 1 }>;

/// A frame as the ring holds it.
struct Gathered<'a> {
    /// What was written over its last descriptor.
    back: ReceiveWriteBack,
    /// The first buffer, and the bytes in it.
    head: (&'a Cell<BufferId>, u16),
    /// The bytes of all buffers.
    total: u16,
}

/// The arrival stamps by slot; none where the bus keeps none.
#[inline]
fn stamps(stamps: Option<&Arc<ArrivalStamps>>) -> &[AtomicU64] {
    stamps.map_or(&[], |stamps| stamps.as_slice())
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
        let mut frames = 0;
        let view = View { words: self.words.view(), mask: self.mask, buffers: &self.buffers, pool: self.pool.view() };
        let stamps = stamps(self.stamps.as_ref());
        while frames < budget {
            let slot = self.next;
            let gathered = match view.whole(slot) {
                Some(gathered) => gathered,
                None if !view.is_done(slot) => break,
                None => match view.gather(self.queue, slot, &mut chain) {
                    Ok(Some(gathered)) => gathered,
                    Ok(None) => break,
                    Err(fault) => return Err(*self.fault.insert(fault)),
                },
            };
            let Gathered { back, head: (buffer, len), total } = gathered;
            // SAFETY: the device has set the done bit of every buffer, lengths are sound, and the buffers are posted below.
            unsafe {
                let bytes = view.pool.bytes(buffer.get(), len);
                let meta = meta(self.queue, back, total, bytes, stamps.get(slot as usize));
                Frame::lend(&self.pool, (buffer, bytes), &chain, meta, &mut handler);
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

    /// A queue that has stopped stands at the descriptor that is at fault, which is done.
    #[inline(always)]
    fn is_quiet(&self) -> bool {
        !ring::is_done(&self.words, self.next, ReceiveWriteBack::DONE)
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
