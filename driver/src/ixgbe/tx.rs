//! The transmit half: queues frames, rings the doorbell once, takes buffers back.
#![forbid(unsafe_code)]

use std::iter;

use super::desc::{Context, Shape, TRANSMIT_DONE, Template};
use crate::dma::{DmaRing, DmaWords, RingView};
use crate::mmio::Doorbell;
use crate::pool::{BUFFER_LEN, Buffer, BufferId, MaybeBuffer, Pool, Retained};
use crate::port::{TxError, TxMeta, TxQueue};
use crate::ring::{self, Indices};

/// The shortest frame the device takes, in bytes before padding; shorter ones can stall it (82599 datasheet 7.2.1.1).
const MIN_FRAME_LEN: u16 = 17;

/// Descriptors in flight from which on taking them back is worth the while.
const WORTH_RECLAIMING: u32 = 32;

/// Transmit queue of an 82599.
pub struct Tx {
    pub(super) queue: u16,
    indices: Indices,
    /// The descriptors, and the buffer behind each. Behind a context is none; it is finished when the frame after it is, for the device does not
    /// report it.
    ring: DmaRing<MaybeBuffer>,
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
    /// A queue over a ring of `size` descriptors, a power of two; `None` where it is not.
    pub(super) fn new(queue: u16, size: u32, words: DmaWords, pool: Pool, tail: Doorbell) -> Option<Self> {
        let indices = Indices::new(size)?;
        let ring = DmaRing::new(words, (0..size).map(|_| MaybeBuffer::NONE))?;
        let (plain, announced, context) = (TxMeta::default(), 0, None);
        let (shape, template) = (Shape::of(&plain), Template::new(&plain, false));
        Some(Self { queue, indices, ring, pool, tail, announced, context, shape, template })
    }

    /// Where the ring is, for the device.
    pub(super) fn words(&self) -> &DmaWords {
        self.ring.words()
    }

    /// Descriptors that the device has not finished, or that nobody has taken back.
    pub(super) fn in_flight(&self) -> u32 {
        self.indices.in_flight()
    }

    /// Frees every buffer that a stopped queue still holds.
    pub(super) fn abandon(&mut self) {
        self.take_back(|_, _| true);
    }

    #[inline]
    fn post(&mut self, descriptor: [u64; 2], buffer: MaybeBuffer) {
        let (ring, at) = (self.ring.view(), self.indices.posted());
        ring::post(&ring, at, descriptor);
        ring.kept(at).set(buffer);
        self.indices.advance_tail();
    }

    /// Frees the buffers of frames for as long as `is_finished` says so of their descriptors. Returns the number of descriptors.
    #[inline]
    fn take_back(&mut self, is_finished: impl Fn(RingView<'_, MaybeBuffer>, u32) -> bool) -> u32 {
        let (ring, posted) = (self.ring.view(), self.indices.posted());
        let mut next = self.indices.taken();
        let frames = iter::from_fn(|| {
            let mut at = next;
            while at != posted {
                if let Some(id) = ring.kept(at).get().get() {
                    let is_finished = is_finished(ring, at);
                    return is_finished.then(|| {
                        next = at.wrapping_add(1);
                        id
                    });
                }
                at = at.wrapping_add(1);
            }
            None
        });
        self.pool.release_all(frames);
        let count = next.wrapping_sub(self.indices.taken());
        self.indices.advance_head_by(count);
        count
    }

    /// Queues a frame; the descriptor takes over one reference to `id`.
    #[inline(always)]
    fn queue_frame(&mut self, id: BufferId, meta: &TxMeta) {
        let shape = Shape::of(meta);
        if shape != self.shape {
            self.reshape(*meta, shape);
        }
        self.post(self.template.descriptor(self.pool.iova(id), meta.len), id.into());
    }

    /// The frame asks for something else than the last one.
    #[cold]
    fn reshape(&mut self, meta: TxMeta, shape: Shape) {
        let context = Context::needed(&meta);
        if let Some(wanted) = context
            && self.context != context
        {
            self.post(wanted.words(), MaybeBuffer::NONE);
            self.context = context;
        }
        (self.shape, self.template) = (shape, Template::new(&meta, context.is_some()));
    }

    /// Whether a frame with `meta` can be queued now.
    #[inline]
    fn admit(&mut self, meta: &TxMeta) -> Result<(), TxError> {
        if meta.len < MIN_FRAME_LEN || usize::from(meta.len) > BUFFER_LEN {
            return Err(TxError::BadLength);
        }
        // Two: a context may go before the frame.
        if self.indices.has_room(2) || self.make_room(2) { Ok(()) } else { Err(TxError::RingFull) }
    }

    /// Takes back what is finished. Returns whether there is room for `count` descriptors then.
    #[cold]
    fn make_room(&mut self, count: u32) -> bool {
        self.reclaim();
        self.indices.has_room(count)
    }

    /// As [`TxQueue::reserve`], where the pool has no buffer.
    #[cold]
    fn reserve_reclaimed(&mut self) -> Result<Buffer, TxError> {
        self.reclaim();
        self.pool.take().ok_or(TxError::PoolEmpty)
    }
}

impl TxQueue for Tx {
    #[inline(always)]
    fn reserve(&mut self) -> Result<Buffer, TxError> {
        match self.pool.take() {
            Some(buffer) => Ok(buffer),
            None => self.reserve_reclaimed(),
        }
    }

    #[inline(always)]
    fn commit(&mut self, buffer: Buffer, meta: TxMeta) -> Result<(), (TxError, Buffer)> {
        if let Err(error) = self.admit(&meta) {
            return Err((error, buffer));
        }
        let id = buffer.into_id(&self.pool).map_err(|buffer| (TxError::ForeignBuffer, buffer))?;
        self.queue_frame(id, &meta);
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
        let tail = self.indices.tail();
        if tail != self.announced {
            self.announced = tail;
            self.tail.ring(tail);
        }
    }

    #[inline(never)]
    fn reclaim(&mut self) -> u32 {
        self.take_back(|ring, at| ring::is_done(&ring, at, TRANSMIT_DONE))
    }

    #[inline]
    fn tidy(&mut self) {
        if self.indices.in_flight() >= WORTH_RECLAIMING {
            self.reclaim();
        }
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
}
