//! The transmit half: queues frames, finishes and sends them at the doorbell, takes buffers back.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{FrameIo, HEADER_LEN};
use crate::checksum;
use crate::counters::Counters;
use crate::pool::{BUFFER_LEN, Buffer, BufferId, Pool, Retained};
use crate::port::{TxError, TxMeta, TxQueue};
use crate::ring::Indices;

/// The shortest frame on Ethernet, in bytes without FCS.
const MIN_FRAME_LEN: usize = 60;
/// Both Ethernet addresses: a tag goes behind them (IEEE 802.1Q, 9.3).
const ADDRESSES_LEN: usize = 12;
const TAG_LEN: usize = 4;
const TPID: u16 = 0x8100;

/// What the control path knows of a queue pair.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub counters: Counters<String>,
    /// Frames flushed and frames gone, both counted on and on.
    pub flushed: AtomicU32,
    pub gone: AtomicU32,
}

/// A frame in the ring, and how it is to be sent.
type Slot = Cell<Option<(BufferId, TxMeta)>>;

/// What both queues work on: the frames to send, as a ring of descriptors is to a device, and the way out. The receive queue moves it on too, as
/// a device goes on by itself.
///
/// From the ring's head on there are frames that have left, then frames that wait for room, then frames that were not flushed.
pub(super) struct Outbox<I> {
    io: Arc<I>,
    pool: Pool,
    ring: Cell<Indices>,
    slots: Box<[Slot]>,
    left: Cell<u32>,
    waiting: Cell<u32>,
    shared: Arc<Shared>,
}

impl<I: FrameIo> Outbox<I> {
    pub fn new(io: Arc<I>, pool: Pool, ring: Indices, shared: Arc<Shared>) -> Self {
        let slots = vec![Cell::new(None); ring.size() as usize].into_boxed_slice();
        Self { io, pool, ring: Cell::new(ring), slots, left: Cell::new(0), waiting: Cell::new(0), shared }
    }

    #[inline]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    #[inline]
    pub fn counters(&self) -> &Counters<String> {
        &self.shared.counters
    }

    /// Copies the next frame into `buffer`; `None` also when that failed, now or before.
    #[inline]
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        if self.is_stopped() {
            return None;
        }
        self.io.receive(buffer).unwrap_or_else(|error| {
            self.stop(&error);
            None
        })
    }

    /// Sends what was flushed, as far as there is room.
    #[inline]
    pub fn send(&self) {
        while self.waiting.get() > 0 && !self.is_stopped() {
            let slot = self.ring.get().peek(self.left.get());
            let Some((id, meta)) = self.slots.get(slot as usize).and_then(Cell::get) else { return };
            match self.send_one(id, &meta) {
                Ok(None) => return,
                Ok(Some(len)) => {
                    self.left.set(self.left.get() + 1);
                    self.waiting.set(self.waiting.get() - 1);
                    self.shared.counters.sent(1, len as u64);
                    self.shared.gone.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.stop(&error),
            }
        }
    }

    /// Finishes a copy of the frame and sends it. Returns how many bytes left; `None` when there is no room. The buffer stays as it was committed, as
    /// it does under a device, so that a retained frame can be sent with other terms.
    fn send_one(&self, id: BufferId, meta: &TxMeta) -> io::Result<Option<usize>> {
        let mut room = [0; TAG_LEN + BUFFER_LEN];
        let len = usize::from(meta.len);
        let (_, frame) = room.split_at_mut(TAG_LEN);
        if let Some(frame) = frame.get_mut(..len) {
            self.pool.copy_out(id, frame);
            checksum::fill(frame, meta, true);
        }
        let (start, len) = match meta.vlan {
            None => (TAG_LEN, len),
            Some(tag) => {
                if let Some(head) = room.first_chunk_mut::<{ ADDRESSES_LEN + TAG_LEN }>() {
                    head.rotate_left(TAG_LEN);
                    let [.., a, b, c, d] = head;
                    [[*a, *b], [*c, *d]] = [TPID.to_be_bytes(), tag.to_be_bytes()];
                }
                (0, len + TAG_LEN)
            }
        };
        // The room behind the frame is zero: the padding.
        let len = len.max(MIN_FRAME_LEN);
        let frame = room.get(start..start + len).unwrap_or_default();
        Ok(self.io.send(frame)?.then_some(len))
    }

    /// Queues a frame that was admitted; the slot takes over one reference to `id`.
    #[inline]
    fn post(&self, id: BufferId, meta: TxMeta) {
        let mut ring = self.ring.get();
        if let Some(slot) = self.slots.get(ring.tail() as usize) {
            slot.set(Some((id, meta)));
        }
        ring.advance_tail();
        self.ring.set(ring);
    }

    #[inline]
    fn reclaim(&self) -> u32 {
        self.send();
        let left = self.left.take();
        self.release(left);
        left
    }

    /// Takes `count` frames off the head.
    fn release(&self, count: u32) {
        let mut ring = self.ring.get();
        for _ in 0..count {
            if let Some((id, _)) = self.slots.get(ring.head() as usize).and_then(Cell::take) {
                self.pool.release(id);
            }
            ring.advance_head();
        }
        self.ring.set(ring);
    }

    fn is_stopped(&self) -> bool {
        self.shared.counters.fault.get().is_some()
    }

    #[cold]
    fn stop(&self, error: &io::Error) {
        // Nobody comes here twice.
        let _ = self.shared.counters.fault.set(error.to_string());
    }
}

/// Transmit queue.
pub struct Tx<I> {
    outbox: Rc<Outbox<I>>,
    unflushed: u32,
}

impl<I: FrameIo> Tx<I> {
    pub(super) fn new(outbox: Rc<Outbox<I>>) -> Self {
        Self { outbox, unflushed: 0 }
    }

    /// Whether something waits for room, and may still find it.
    pub(super) fn is_waiting(&self) -> bool {
        self.outbox.waiting.get() > 0 && !self.is_stopped()
    }

    /// Whether nothing is sent or received any more, because that has failed.
    pub(super) fn is_stopped(&self) -> bool {
        self.outbox.is_stopped()
    }

    /// Frees every buffer that the queue still holds; returns how many never left.
    pub(super) fn abandon(&mut self) -> u32 {
        let held = self.outbox.ring.get().in_flight();
        self.outbox.release(held);
        let never_left = held - self.outbox.left.take();
        self.outbox.waiting.set(0);
        never_left
    }

    /// Whether a frame with `meta` can be queued now.
    #[inline]
    fn admit(&self, meta: &TxMeta) -> Result<(), TxError> {
        if meta.len < HEADER_LEN || usize::from(meta.len) > BUFFER_LEN || !checksum::fit(meta) {
            return Err(TxError::BadLength);
        }
        if self.is_stopped() {
            return Err(TxError::Stopped);
        }
        if !self.outbox.ring.get().has_room(1) {
            self.outbox.reclaim();
            if !self.outbox.ring.get().has_room(1) {
                return Err(TxError::RingFull);
            }
        }
        Ok(())
    }

    #[inline]
    fn queue_frame(&mut self, id: BufferId, meta: TxMeta) {
        self.outbox.post(id, meta);
        self.unflushed += 1;
    }
}

impl<I: FrameIo> TxQueue for Tx<I> {
    #[inline]
    fn reserve(&mut self) -> Result<Buffer, TxError> {
        if let Some(buffer) = self.outbox.pool.take() {
            return Ok(buffer);
        }
        self.outbox.reclaim();
        self.outbox.pool.take().ok_or(TxError::PoolEmpty)
    }

    #[inline]
    fn commit(&mut self, buffer: Buffer, meta: TxMeta) -> Result<(), (TxError, Buffer)> {
        if let Err(error) = self.admit(&meta) {
            return Err((error, buffer));
        }
        let id = buffer.into_id(&self.outbox.pool).map_err(|buffer| (TxError::ForeignBuffer, buffer))?;
        self.queue_frame(id, meta);
        Ok(())
    }

    #[inline]
    fn commit_retained(&mut self, buffer: Buffer, meta: TxMeta) -> Result<Retained, (TxError, Buffer)> {
        if !buffer.is_from(&self.outbox.pool) {
            return Err((TxError::ForeignBuffer, buffer));
        }
        if let Err(error) = self.admit(&meta) {
            return Err((error, buffer));
        }
        let retained = buffer.into_retained(meta.len);
        self.queue_frame(retained.id(), meta);
        Ok(retained)
    }

    #[inline]
    fn recommit(&mut self, frame: &Retained, meta: TxMeta) -> Result<(), TxError> {
        if !frame.is_from(&self.outbox.pool) {
            return Err(TxError::ForeignBuffer);
        }
        self.admit(&meta)?;
        self.outbox.pool.retain(frame.id());
        self.queue_frame(frame.id(), meta);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) {
        let frames = std::mem::take(&mut self.unflushed);
        if frames > 0 {
            self.outbox.waiting.set(self.outbox.waiting.get() + frames);
            self.outbox.shared.flushed.fetch_add(frames, Ordering::Relaxed);
            self.outbox.send();
        }
    }

    #[inline]
    fn reclaim(&mut self) -> u32 {
        self.outbox.reclaim()
    }

    fn pool(&self) -> &Pool {
        &self.outbox.pool
    }
}
