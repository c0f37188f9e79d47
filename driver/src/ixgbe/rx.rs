//! The receive half: polls the ring, lends frames, gives buffers back.

use std::cell::Cell;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::desc::{self, ReceiveWriteBack, Verdict};
use crate::bus::model::ArrivalStamps;
use crate::dma::DmaWords;
use crate::frame::{Checksum, ClockDomain, Frame, FrameMeta, MAX_SEGMENTS, Segment, Timestamp};
use crate::mmio::Mmio;
use crate::pool::{BUFFER_LEN, BufferId, Pool};
use crate::port::{QueueFault, RxQueue};
use crate::ring::{self, Indices};

/// Buffers given back before the tail register is written. Fewer doorbells cost less bus traffic; a device never waits for these, because
/// the ring is at least twice as long.
const DOORBELL_EVERY: u32 = 32;

/// Receive queue of an 82599.
pub struct Rx {
    pub(super) queue: u16,
    pub(super) ring: Indices,
    words: DmaWords,
    /// The buffer behind each descriptor.
    buffers: Box<[Cell<BufferId>]>,
    pool: Pool,
    mmio: Mmio,
    tail_register: u32,
    /// Buffers given back since the last doorbell.
    unannounced: u32,
    stamps: Option<Arc<ArrivalStamps>>,
    fault: Option<QueueFault>,
}

impl Rx {
    /// Fills a ring with buffers of `pool`; `None` when the pool has fewer than the ring needs. The device is told by [`Rx::announce`].
    pub(super) fn new(
        queue: u16,
        mut ring: Indices,
        words: DmaWords,
        pool: Pool,
        (mmio, tail_register): (Mmio, u32),
        stamps: Option<Arc<ArrivalStamps>>,
    ) -> Option<Self> {
        let mut buffers = Vec::with_capacity(ring.size() as usize);
        while ring.free() > 0 {
            let id = pool.take_id()?;
            ring::post(&words, ring.tail(), desc::receive(pool.iova(id)));
            buffers.push(Cell::new(id));
            ring.advance_tail();
        }
        // The one slot that is never posted holds a name that is overwritten before it is read.
        buffers.push(buffers.first()?.clone());
        let buffers = buffers.into_boxed_slice();
        Some(Self { queue, ring, words, buffers, pool, mmio, tail_register, unannounced: 0, stamps, fault: None })
    }

    /// Writes the tail register: everything posted so far is the device's.
    #[inline]
    pub(super) fn announce(&mut self) {
        self.unannounced = 0;
        self.mmio.doorbell32(self.tail_register, self.ring.tail());
    }

    /// Where the ring is, for the device.
    pub(super) fn words(&self) -> &DmaWords {
        &self.words
    }

    /// Puts `id` into the next free slot.
    #[inline]
    fn post(&mut self, id: BufferId) {
        let tail = self.ring.tail();
        ring::post(&self.words, tail, desc::receive(self.pool.iova(id)));
        if let Some(slot) = self.buffers.get(tail as usize) {
            slot.set(id);
        }
        self.ring.advance_tail();
        self.unannounced += 1;
    }

    /// One buffer as the device filled it, or what is impossible about it.
    #[inline]
    fn segment(&self, slot: u32, back: ReceiveWriteBack) -> Result<Segment, QueueFault> {
        let len = back.len();
        match self.buffers.get(slot as usize) {
            Some(buffer) if len != 0 && usize::from(len) <= BUFFER_LEN => Ok(Segment { buffer: buffer.clone(), len }),
            _ => Err(self.impossible(slot, "PKT_LEN", u64::from(len))),
        }
    }

    #[cold]
    fn impossible(&self, descriptor: u32, field: &'static str, value: u64) -> QueueFault {
        QueueFault { queue: self.queue, descriptor, field, value }
    }

    #[inline]
    fn meta(&self, slot: u32, back: ReceiveWriteBack, len: u16, first: &Segment) -> FrameMeta {
        let checksum = match back.verdict() {
            Verdict::Good => Checksum::Good,
            Verdict::Bad => Checksum::Bad,
            Verdict::Unchecked => Checksum::Unchecked,
            // SAFETY: the device is done with the buffer, and it is posted again only after the handler's return.
            Verdict::BadUdp => recheck_udp(unsafe { self.pool.bytes(first.buffer.get(), first.len) }),
        };
        FrameMeta {
            len,
            queue: self.queue,
            checksum,
            vlan: back.vlan(),
            rss_hash: back.rss_hash(),
            timestamp: self
                .stamps
                .as_deref()
                .map(|stamps| Timestamp { ns: stamps.get(slot), domain: ClockDomain::Process }),
        }
    }

    /// Lends a frame that fills several buffers. `None` when the device has not written all of it yet; it is looked at again then.
    fn poll_chain(&mut self, handler: &mut impl FnMut(Frame<'_>)) -> Result<Option<()>, QueueFault> {
        let first_slot = self.ring.head();
        let mut segments: ArrayVec<Segment, MAX_SEGMENTS> = ArrayVec::new();
        let mut len = 0u16;
        let last = loop {
            let ahead = segments.len() as u32;
            let slot = self.ring.peek(ahead);
            if ahead >= self.ring.in_flight() {
                return Ok(None);
            }
            let Some(words) = ring::take_done(&self.words, slot, ReceiveWriteBack::DONE) else { return Ok(None) };
            let back = ReceiveWriteBack(words);
            let segment = self.segment(slot, back)?;
            len = len.saturating_add(segment.len);
            if segments.try_push(segment).is_err() {
                return Err(self.impossible(slot, "EOP (missing), bytes so far", u64::from(len)));
            }
            if back.is_last() {
                break back;
            }
        };
        if let Some((head, rest)) = segments.split_first() {
            let meta = self.meta(first_slot, last, len, head);
            // SAFETY: the device has set the done bit of every buffer, and they are posted below.
            handler(unsafe { Frame::new(&self.pool, head, rest, &meta) });
        }
        for segment in &segments {
            self.ring.advance_head();
            self.post(segment.buffer.get());
        }
        Ok(Some(()))
    }
}

/// The 82599 flags a UDP checksum of zero as wrong, though it means "none" (RFC 768). Market data feeds send zero.
fn recheck_udp(frame: &[u8]) -> Checksum {
    const ETHERNET: usize = 14;
    let header = frame.get(ETHERNET).map_or(0, |version_ihl| usize::from(version_ihl & 0xF) * 4);
    let at = ETHERNET + header + 6;
    if frame.get(at..at + 2) == Some(&[0, 0]) { Checksum::Good } else { Checksum::Bad }
}

impl RxQueue for Rx {
    #[inline]
    fn poll(&mut self, budget: u32, mut handler: impl FnMut(Frame<'_>)) -> Result<u32, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut frames = 0;
        while frames < budget {
            let slot = self.ring.head();
            let Some(words) = ring::take_done(&self.words, slot, ReceiveWriteBack::DONE) else { break };
            let back = ReceiveWriteBack(words);
            if back.is_last() {
                let segment = match self.segment(slot, back) {
                    Ok(segment) => segment,
                    Err(fault) => return Err(*self.fault.insert(fault)),
                };
                let meta = self.meta(slot, back, segment.len, &segment);
                // SAFETY: the device has set the done bit of this buffer, and it is posted below.
                handler(unsafe { Frame::new(&self.pool, &segment, &[], &meta) });
                self.ring.advance_head();
                self.post(segment.buffer.get());
            } else {
                match self.poll_chain(&mut handler) {
                    Ok(Some(())) => {}
                    Ok(None) => break,
                    Err(fault) => return Err(*self.fault.insert(fault)),
                }
            }
            frames += 1;
        }
        if self.unannounced >= DOORBELL_EVERY {
            self.announce();
        }
        Ok(frames)
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
        assert_eq!(recheck_udp(&[]), Checksum::Bad);
    }
}
