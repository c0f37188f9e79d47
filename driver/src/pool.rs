//! Packet buffers: a fixed pool in DMA memory, its size a sum of named consumers.
//!
//! A pool belongs to one queue pair and one thread. Reference counts and the free list live outside DMA memory, where no device
//! can reach them. A buffer has one count for its handle and one for every descriptor that points at it; it is free when all are gone.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

use crate::dma::{DmaAllocator, DmaError, DmaMemory};

/// How many buffers a pool has, and for whom.
#[derive(Debug, Clone, Default)]
pub struct PoolPlan(Vec<(&'static str, u32)>);

impl PoolPlan {
    /// Adds a consumer that holds at most `buffers` at a time.
    #[must_use]
    pub fn consumer(mut self, name: &'static str, buffers: u32) -> Self {
        self.0.push((name, buffers));
        self
    }

    /// The sum.
    pub fn buffers(&self) -> u32 {
        self.0.iter().fold(0, |sum, (_, buffers)| sum.saturating_add(*buffers))
    }
}

/// Bytes of a buffer: the largest frame that one descriptor carries. Also what receive hardware may write.
pub const BUFFER_LEN: usize = 2048;

/// Names a buffer of one pool. Made by its pool only, so it is always in range there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BufferId(u32);

/// A pool of [`BUFFER_LEN`]-byte buffers. Cloning shares it; it cannot leave its thread.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    memory: DmaMemory,
    base: NonNull<u8>,
    references: Box<[Cell<u16>]>,
    free: Box<[Cell<BufferId>]>,
    available: Cell<usize>,
}

impl Pool {
    /// Allocates the buffers of `plan` for one device.
    pub fn new(allocator: &DmaAllocator, plan: &PoolPlan) -> Result<Self, DmaError> {
        let count = plan.buffers();
        let memory = allocator.allocate("packet buffers", count as usize * BUFFER_LEN)?;
        let base = memory.region().base();
        // The lowest index is on top: the first buffers taken are the first in memory.
        let free = (0..count).rev().map(|index| Cell::new(BufferId(index))).collect();
        let references = vec![Cell::new(0); count as usize].into_boxed_slice();
        Ok(Self(Rc::new(Inner { memory, base, references, free, available: Cell::new(count as usize) })))
    }

    /// Buffers that nobody holds.
    pub fn available(&self) -> usize {
        self.0.available.get()
    }

    /// All buffers, held or not.
    pub fn capacity(&self) -> usize {
        self.0.references.len()
    }

    /// Takes a buffer to write into; `None` when the pool is exhausted, which is back-pressure and not a fault.
    #[inline]
    pub fn take(&self) -> Option<Buffer> {
        let id = self.take_id()?;
        Some(Buffer { pool: self.clone(), id })
    }

    /// Takes a buffer with one reference.
    #[inline]
    pub(crate) fn take_id(&self) -> Option<BufferId> {
        let left = self.0.available.get().checked_sub(1)?;
        let id = self.0.free.get(left)?.get();
        self.0.available.set(left);
        self.count(id).set(1);
        Some(id)
    }

    /// Adds a holder.
    #[inline]
    pub(crate) fn retain(&self, id: BufferId) {
        let count = self.count(id);
        count.set(count.get().wrapping_add(1));
    }

    /// Takes a holder away; the last one frees the buffer.
    #[inline]
    pub(crate) fn release(&self, id: BufferId) {
        let count = self.count(id);
        let left = count.get().wrapping_sub(1);
        count.set(left);
        if left == 0 {
            let available = self.0.available.get();
            if let Some(slot) = self.0.free.get(available) {
                slot.set(id);
                self.0.available.set(available + 1);
            }
        }
    }

    /// The device's address of the buffer.
    #[inline]
    pub(crate) fn iova(&self, id: BufferId) -> u64 {
        self.0.memory.iova() + u64::from(id.0) * BUFFER_LEN as u64
    }

    /// The first `len` bytes of a buffer; a longer length is cut to the buffer.
    ///
    /// # Safety
    /// The buffer must not be writable by the device or through a [`Buffer`] while the slice lives.
    #[inline]
    pub(crate) unsafe fn bytes(&self, id: BufferId, len: u16) -> &[u8] {
        // SAFETY: the id is in range by construction and the length is cut to the buffer, so the slice is inside
        // `memory`, which `self` keeps alive; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.address(id).as_ptr(), usize::from(len).min(BUFFER_LEN)) }
    }

    #[inline]
    fn address(&self, id: BufferId) -> NonNull<u8> {
        // SAFETY: ids are below the capacity, and the memory holds `capacity * BUFFER_LEN` bytes.
        unsafe { self.0.base.add(id.0 as usize * BUFFER_LEN) }
    }

    #[inline]
    fn count(&self, id: BufferId) -> &Cell<u16> {
        // SAFETY: ids are below the capacity, which is the number of counts.
        unsafe { self.0.references.get_unchecked(id.0 as usize) }
    }
}

/// A writable buffer, held by nobody else. Dropped, it returns to its pool.
pub struct Buffer {
    pool: Pool,
    id: BufferId,
}

impl Buffer {
    /// Gives the reference to the caller, who passes it on to a descriptor.
    #[inline]
    pub(crate) fn into_id(self) -> BufferId {
        let id = self.id;
        self.pool.retain(id);
        id
    }

    /// Whether the buffer belongs to `pool`.
    #[inline]
    pub(crate) fn is_from(&self, pool: &Pool) -> bool {
        Rc::ptr_eq(&self.pool.0, &pool.0)
    }
}

impl Deref for Buffer {
    type Target = [u8; BUFFER_LEN];

    #[inline]
    fn deref(&self) -> &Self::Target {
        // SAFETY: in bounds as in `address`, any alignment will do for bytes; a `Buffer` is the only holder.
        unsafe { self.pool.address(self.id).cast::<[u8; BUFFER_LEN]>().as_ref() }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { self.pool.address(self.id).cast::<[u8; BUFFER_LEN]>().as_mut() }
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        self.pool.release(self.id);
    }
}

/// A buffer that was sent and is kept, readable, for sending it again.
pub struct Retained {
    pool: Pool,
    id: BufferId,
    len: u16,
}

impl Retained {
    /// Shares `id` (adds a reference for the handle) as a sent frame of `len` bytes.
    #[inline]
    pub(crate) fn new(pool: &Pool, id: BufferId, len: u16) -> Self {
        pool.retain(id);
        Self { pool: pool.clone(), id, len }
    }

    /// The buffer, for a descriptor that sends it again; the caller adds the descriptor's reference.
    #[inline]
    pub(crate) fn id(&self) -> BufferId {
        self.id
    }

    /// The bytes as they were sent.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: a transmit buffer is only read by the device, and `try_into_buffer` is the only way back to
        // writing; it consumes this handle.
        unsafe { self.pool.bytes(self.id, self.len) }
    }

    /// Makes the buffer writable again once the device has completed every send of it; until then gives the handle back.
    #[inline]
    pub fn try_into_buffer(self) -> Result<Buffer, Self> {
        if self.pool.count(self.id).get() != 1 {
            return Err(self);
        }
        self.pool.retain(self.id);
        Ok(Buffer { pool: self.pool.clone(), id: self.id })
    }

    /// Whether the handle belongs to `pool`.
    #[inline]
    pub(crate) fn is_from(&self, pool: &Pool) -> bool {
        Rc::ptr_eq(&self.pool.0, &pool.0)
    }
}

impl Drop for Retained {
    #[inline]
    fn drop(&mut self) {
        self.pool.release(self.id);
    }
}
