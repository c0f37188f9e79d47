//! Packet buffers: a fixed pool in DMA memory, its size a sum of named consumers.
//!
//! A pool belongs to one queue pair and one thread. Reference counts and the free list live outside DMA memory, where no device
//! can reach them. Its handle and every descriptor that points at it hold a buffer; it is free when all have let go.

use std::cell::Cell;
use std::hint;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::rc::Rc;

use crate::dma::{DmaAllocator, DmaError, DmaMemory};
use crate::frame::{Frame, FrameMeta};

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

/// A buffer of one pool, or none, in four bytes. The number that means none is no buffer's: a pool has fewer.
#[derive(Clone, Copy)]
pub(crate) struct MaybeBuffer(u32);

impl MaybeBuffer {
    pub const NONE: Self = Self(u32::MAX);

    #[inline]
    pub fn get(self) -> Option<BufferId> {
        (self.0 != Self::NONE.0).then_some(BufferId(self.0))
    }
}

impl From<BufferId> for MaybeBuffer {
    #[inline]
    fn from(BufferId(number): BufferId) -> Self {
        Self(number)
    }
}

/// A pool of [`BUFFER_LEN`]-byte buffers. Cloning shares it; it cannot leave its thread.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    memory: DmaMemory,
    base: NonNull<u8>,
    /// The holders of each buffer but one.
    others: Box<[Cell<u16>]>,
    free: Box<[Cell<BufferId>]>,
    /// How many of `free` are; never more than it has.
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
        let others = vec![Cell::new(0); count as usize].into_boxed_slice();
        Ok(Self(Rc::new(Inner { memory, base, others, free, available: Cell::new(count as usize) })))
    }

    /// Buffers that nobody holds.
    pub fn available(&self) -> usize {
        self.0.available.get()
    }

    /// All buffers, held or not.
    pub fn capacity(&self) -> usize {
        self.0.others.len()
    }

    /// Takes a buffer to write into; `None` when the pool is exhausted, which is back-pressure and not a fault.
    #[inline]
    pub fn take(&self) -> Option<Buffer> {
        let id = self.take_id()?;
        Some(Buffer { pool: self.clone(), id: Cell::new(id) })
    }

    /// Takes a buffer with one holder.
    #[inline]
    pub(crate) fn take_id(&self) -> Option<BufferId> {
        let left = self.0.available.get().checked_sub(1)?;
        // SAFETY: `available` is at most the length of `free`, for only `release_all` raises it, by one where `free` has a place there.
        let id = unsafe { self.0.free.get_unchecked(left) }.get();
        self.0.available.set(left);
        Some(id)
    }

    /// Adds a holder.
    #[inline]
    pub(crate) fn retain(&self, id: BufferId) {
        let others = self.others(id);
        others.set(others.get().wrapping_add(1));
    }

    /// Takes a holder away; the last one frees the buffer.
    #[inline]
    pub(crate) fn release(&self, id: BufferId) {
        self.release_all(std::iter::once(id));
    }

    /// Takes one holder of each away.
    #[inline]
    pub(crate) fn release_all(&self, ids: impl Iterator<Item = BufferId>) {
        let free = &*self.0.free;
        // Counted here on the way; whoever looked for a buffer meanwhile would find none, rather than one that another has.
        let mut available = self.0.available.take();
        for id in ids {
            let others = self.others(id);
            if others.get() > 0 {
                others.set(others.get() - 1);
            } else if let Some(place) = free.get(available) {
                place.set(id);
                available += 1;
            }
        }
        self.0.available.set(available);
    }

    /// The device's address of the buffer.
    #[inline]
    pub(crate) fn iova(&self, id: BufferId) -> u64 {
        self.view().iova(id)
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

    /// Copies the first bytes of a buffer out, as a device's DMA read does; what is beyond the buffer stays as it was.
    pub(crate) fn copy_out(&self, id: BufferId, into: &mut [u8]) {
        let len = into.len().min(BUFFER_LEN);
        if let Some(into) = into.get_mut(..len) {
            self.0.memory.region().read(id.0 as usize * BUFFER_LEN, into);
        }
    }

    /// How many bytes of buffer `id` lie before `bytes`, which are some of it.
    pub(crate) fn start_of(&self, id: BufferId, bytes: &[u8]) -> u16 {
        bytes.as_ptr().addr().wrapping_sub(self.address(id).addr().get()) as u16
    }

    /// The buffers, borrowed: a loop over them keeps both base addresses in registers.
    #[inline]
    pub(crate) fn view(&self) -> PoolView<'_> {
        PoolView { base: self.0.base, iova: self.0.memory.iova(), pool: PhantomData }
    }

    #[inline]
    fn address(&self, id: BufferId) -> NonNull<u8> {
        // SAFETY: ids are below the capacity, and the memory holds `capacity * BUFFER_LEN` bytes.
        unsafe { self.0.base.add(id.0 as usize * BUFFER_LEN) }
    }

    #[inline]
    fn others(&self, id: BufferId) -> &Cell<u16> {
        // SAFETY: ids are below the capacity, which is the number of counts.
        unsafe { self.0.others.get_unchecked(id.0 as usize) }
    }
}

/// Where the buffers of a pool are, for us and for the device.
#[derive(Clone, Copy)]
pub(crate) struct PoolView<'a> {
    base: NonNull<u8>,
    iova: u64,
    pool: PhantomData<&'a Pool>,
}

impl<'a> PoolView<'a> {
    /// The device's address of the buffer.
    #[inline]
    pub fn iova(self, id: BufferId) -> u64 {
        self.iova + u64::from(id.0) * BUFFER_LEN as u64
    }

    /// The first `len` bytes of a buffer.
    ///
    /// # Safety
    /// `len` must be at most [`BUFFER_LEN`]; the buffer must not be writable by the device or through a [`Buffer`] while the slice lives.
    #[inline]
    pub unsafe fn bytes(self, id: BufferId, len: u16) -> &'a [u8] {
        // SAFETY: the id is in range by construction and the length by the caller's promise, so the slice is inside the pool's memory, which
        // the borrowed pool keeps alive; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(id.0 as usize * BUFFER_LEN), len.into()) }
    }
}

/// A writable buffer, held by nobody else. Dropped, it returns to its pool.
pub struct Buffer {
    pool: Pool,
    /// Changes only while the buffer is lent: see [`Buffer::lend`].
    id: Cell<BufferId>,
}

impl Buffer {
    /// Gives the reference to the caller, who has `pool` and passes it on to a descriptor. A buffer of another pool comes back.
    #[inline]
    pub(crate) fn into_id(self, pool: &Pool) -> Result<BufferId, Self> {
        if !self.is_from(pool) {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped and not used again, so the handle has one owner.
        let own = unsafe { ptr::read(&raw const this.pool) };
        // SAFETY: `own` and `pool` are two handles of the same pool. So the compiler sees that nothing is freed here.
        unsafe { hint::assert_unchecked(Rc::strong_count(&own.0) > 1) };
        drop(own);
        Ok(this.id.get())
    }

    /// Shares the buffer between a descriptor that sends its first `len` bytes and the handle that is returned.
    #[inline]
    pub(crate) fn into_retained(self, len: u16) -> Retained {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped and not used again, so the handle has one owner.
        let pool = unsafe { ptr::read(&raw const this.pool) };
        let id = this.id.get();
        // Besides the handle there is the descriptor.
        pool.others(id).set(1);
        Retained { pool, id, len }
    }

    /// Lends the first `meta.len` bytes as a received frame. If the handler takes it, a fresh buffer is here afterwards.
    #[inline]
    pub(crate) fn lend(&mut self, meta: FrameMeta, handler: impl FnOnce(Frame<'_>)) {
        // SAFETY: no device knows of the buffer, and `&mut self` keeps everybody else from writing to it while the frame lives.
        unsafe {
            let bytes = self.pool.bytes(self.id.get(), meta.len);
            Frame::lend(&self.pool, (&self.id, bytes), None, meta, handler);
        }
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
        unsafe { self.pool.address(self.id.get()).cast::<[u8; BUFFER_LEN]>().as_ref() }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { self.pool.address(self.id.get()).cast::<[u8; BUFFER_LEN]>().as_mut() }
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        self.pool.release(self.id.get());
    }
}

/// A buffer that was sent and is kept, readable, for sending it again.
pub struct Retained {
    pool: Pool,
    id: BufferId,
    len: u16,
}

impl Retained {
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
        if self.pool.others(self.id).get() != 0 {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped and not used again, so the handle has one owner.
        let pool = unsafe { ptr::read(&raw const this.pool) };
        Ok(Buffer { pool, id: Cell::new(this.id) })
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
