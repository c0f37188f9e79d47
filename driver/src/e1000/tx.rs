//! The transmit half: queues frames, rings the doorbell once, takes buffers back.
#![forbid(unsafe_code)]

use std::cell::Cell;

use super::desc::{self, Context, TRANSMIT_DONE};
use crate::dma::DmaWords;
use crate::mmio::Doorbell;
use crate::pool::{BUFFER_LEN, Buffer, BufferId, Pool, Retained};
use crate::port::{TxError, TxMeta, TxQueue};
use crate::ring::{self, Indices};

/// The shortest frame the device takes, in bytes before padding; shorter ones can stall the 82574.
const MIN_FRAME_LEN: u16 = 17;

/// What stands behind a descriptor.
#[derive(Clone, Copy)]
enum Slot {
    /// A context; finished when the frame after it is, for the device reports none of its own.
    Context,
    /// A frame.
    Frame(BufferId),
}

/// Transmit queue.
pub struct Tx {
    ring: Indices,
    words: DmaWords,
    slots: Box<[Cell<Slot>]>,
    pool: Pool,
    tail: Doorbell,
    announced: u32,
    /// The context the device holds: posted again only when a frame needs another.
    context: Option<Context>,
}

impl Tx {
    pub(super) fn new(ring: Indices, words: DmaWords, pool: Pool, tail: Doorbell) -> Self {
        let slots = vec![Cell::new(Slot::Context); ring.size() as usize].into_boxed_slice();
        Self { ring, words, slots, pool, tail, announced: 0, context: None }
    }

    /// Where the ring is, for the device.
    pub(super) fn words(&self) -> &DmaWords {
        &self.words
    }

    /// Descriptors that the device has not finished, or that nobody has taken back.
    pub(super) fn in_flight(&self) -> u32 {
        self.ring.in_flight()
    }

    /// Frees every buffer that a stopped queue still holds.
    pub(super) fn abandon(&mut self) {
        while self.ring.in_flight() > 0 {
            self.finish_head();
        }
    }

    #[inline]
    fn post(&mut self, descriptor: [u64; 2], slot: Slot) {
        let tail = self.ring.tail();
        ring::post(&self.words.view(), tail, descriptor);
        if let Some(place) = self.slots.get(tail as usize) {
            place.set(slot);
        }
        self.ring.advance_tail();
    }

    /// Queues a frame; the descriptor takes over one reference to `id`.
    #[inline]
    fn queue_frame(&mut self, id: BufferId, meta: &TxMeta) {
        let context = Context::needed(meta);
        if let Some(wanted) = context
            && self.context != context
        {
            self.post(wanted.words(), Slot::Context);
            self.context = context;
        }
        self.post(desc::transmit(self.pool.iova(id), meta), Slot::Frame(id));
    }

    /// Whether a frame with `meta` can be queued now.
    #[inline]
    fn admit(&mut self, meta: &TxMeta) -> Result<(), TxError> {
        if meta.len < MIN_FRAME_LEN || usize::from(meta.len) > BUFFER_LEN {
            return Err(TxError::BadLength);
        }
        // Two: a context may go before the frame.
        if !self.ring.has_room(2) {
            self.reclaim();
            if !self.ring.has_room(2) {
                return Err(TxError::RingFull);
            }
        }
        Ok(())
    }

    #[inline]
    fn finish_head(&mut self) {
        if let Some(Slot::Frame(id)) = self.slots.get(self.ring.head() as usize).map(Cell::get) {
            self.pool.release(id);
        }
        self.ring.advance_head();
    }
}

impl TxQueue for Tx {
    #[inline]
    fn reserve(&mut self) -> Result<Buffer, TxError> {
        if let Some(buffer) = self.pool.take() {
            return Ok(buffer);
        }
        self.reclaim();
        self.pool.take().ok_or(TxError::PoolEmpty)
    }

    #[inline]
    fn commit(&mut self, buffer: Buffer, meta: TxMeta) -> Result<(), (TxError, Buffer)> {
        if let Err(error) = self.admit(&meta) {
            return Err((error, buffer));
        }
        let id = buffer.into_id(&self.pool).map_err(|buffer| (TxError::ForeignBuffer, buffer))?;
        self.queue_frame(id, &meta);
        Ok(())
    }

    #[inline]
    fn commit_retained(&mut self, buffer: Buffer, meta: TxMeta) -> Result<Retained, (TxError, Buffer)> {
        if !buffer.is_from(&self.pool) {
            return Err((TxError::ForeignBuffer, buffer));
        }
        if let Err(error) = self.admit(&meta) {
            return Err((error, buffer));
        }
        let retained = buffer.into_retained(meta.len);
        self.queue_frame(retained.id(), &meta);
        Ok(retained)
    }

    #[inline]
    fn recommit(&mut self, frame: &Retained, meta: TxMeta) -> Result<(), TxError> {
        if !frame.is_from(&self.pool) {
            return Err(TxError::ForeignBuffer);
        }
        self.admit(&meta)?;
        self.pool.retain(frame.id());
        self.queue_frame(frame.id(), &meta);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) {
        let tail = self.ring.tail();
        if tail != self.announced {
            self.announced = tail;
            self.tail.ring(tail);
        }
    }

    #[inline]
    fn reclaim(&mut self) -> u32 {
        let before = self.ring.in_flight();
        while self.ring.in_flight() > 0 {
            let is_context = matches!(self.slots.get(self.ring.head() as usize).map(Cell::get), Some(Slot::Context));
            let frame = self.ring.peek(u32::from(is_context));
            if ring::take_done(&self.words.view(), frame, TRANSMIT_DONE).is_none() {
                break;
            }
            if is_context {
                self.finish_head();
            }
            self.finish_head();
        }
        before - self.ring.in_flight()
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
}
