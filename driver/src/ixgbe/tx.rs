//! The transmit half: queues frames, rings the doorbell once, takes buffers back.
#![forbid(unsafe_code)]

use std::cell::Cell;

use super::desc::{Context, Shape, TRANSMIT_DONE, Template};
use crate::dma::DmaWords;
use crate::mmio::Doorbell;
use crate::pool::{BUFFER_LEN, Buffer, BufferId, Pool, Retained};
use crate::port::{TxError, TxMeta, TxQueue};
use crate::ring::{self, Indices};

/// The shortest frame the device takes, in bytes before padding; shorter ones can stall it (82599 datasheet 7.2.1.1).
const MIN_FRAME_LEN: u16 = 17;

/// Descriptors in flight from which on taking them back is worth the while.
const WORTH_RECLAIMING: u32 = 32;

/// What stands behind a descriptor.
#[derive(Clone, Copy)]
enum Slot {
    /// A context; finished when the frame after it is, for the device reports none of its own.
    Context,
    /// A frame.
    Frame(BufferId),
}

/// Transmit queue of an 82599.
pub struct Tx {
    pub(super) queue: u16,
    ring: Indices,
    words: DmaWords,
    slots: Box<[Cell<Slot>]>,
    pool: Pool,
    tail: Doorbell,
    announced: u32,
    /// The context the device holds: posted again only when a frame needs another.
    context: Option<Context>,
    /// Of the last frame.
    shape: Shape,
    template: Template,
}

impl Tx {
    pub(super) fn new(queue: u16, ring: Indices, words: DmaWords, pool: Pool, tail: Doorbell) -> Self {
        let slots = vec![Cell::new(Slot::Context); ring.size() as usize].into_boxed_slice();
        let (plain, announced, context) = (TxMeta::default(), 0, None);
        let (shape, template) = (Shape::of(&plain), Template::new(&plain, false));
        Self { queue, ring, words, slots, pool, tail, announced, context, shape, template }
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
    #[inline(always)]
    fn queue_frame(&mut self, id: BufferId, meta: &TxMeta) {
        let shape = Shape::of(meta);
        if shape != self.shape {
            self.reshape(meta, shape);
        }
        self.post(self.template.descriptor(self.pool.iova(id), meta.len), Slot::Frame(id));
    }

    /// The frame asks for something else than the last one.
    #[cold]
    fn reshape(&mut self, meta: &TxMeta, shape: Shape) {
        let context = Context::needed(meta);
        if let Some(wanted) = context
            && self.context != context
        {
            self.post(wanted.words(), Slot::Context);
            self.context = context;
        }
        (self.shape, self.template) = (shape, Template::new(meta, context.is_some()));
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
        if !buffer.is_from(&self.pool) {
            return Err((TxError::ForeignBuffer, buffer));
        }
        if let Err(error) = self.admit(&meta) {
            return Err((error, buffer));
        }
        self.queue_frame(buffer.into_id(), &meta);
        Ok(())
    }

    #[inline(always)]
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

    #[inline(never)]
    fn reclaim(&mut self) -> u32 {
        // What does not change while buffers are released, in places of its own.
        let (words, slots, ring) = (self.words.view(), &*self.slots, self.ring);
        let mut finished = 0;
        for ahead in 0..ring.in_flight() {
            let slot = ring.peek(ahead);
            let Some(Slot::Frame(id)) = slots.get(slot as usize).map(Cell::get) else { continue };
            if !ring::is_done(&words, slot, TRANSMIT_DONE) {
                break;
            }
            self.pool.release(id);
            finished = ahead.wrapping_add(1);
        }
        self.ring.advance_head_by(finished);
        finished
    }

    #[inline]
    fn tidy(&mut self) {
        if self.ring.in_flight() >= WORTH_RECLAIMING {
            self.reclaim();
        }
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
}
