//! Slots of one kind, all allocated at the start and handed out by index.

use barewire_driver::huge::HugeSlice;

/// No index.
pub const NONE: u32 = u32::MAX;

/// A slab. What was given back last is taken first: it is in the cache.
#[derive(Debug)]
pub struct Slab<T> {
    items: HugeSlice<T>,
    free: HugeSlice<u32>,
    free_len: usize,
    /// Slots from here on were never taken.
    fresh: u32,
}

impl<T: Copy> Slab<T> {
    /// `size` slots.
    pub fn new(size: u32, empty: T) -> Self {
        let size = size as usize;
        Self { items: HugeSlice::new(size, empty), free: HugeSlice::new(size, NONE), free_len: 0, fresh: 0 }
    }

    /// Puts `item` into a free slot; `None` where there is none.
    #[inline]
    pub fn take(&mut self, item: T) -> Option<u32> {
        let reused = self.free_len.checked_sub(1);
        let index = match reused {
            Some(top) => *self.free.get(top)?,
            None => self.fresh,
        };
        *self.items.get_mut(index as usize)? = item;
        match reused {
            Some(top) => self.free_len = top,
            None => self.fresh = self.fresh.wrapping_add(1),
        }
        Some(index)
    }

    /// Takes a slot back that [`Slab::take`] gave.
    #[inline]
    pub fn give(&mut self, index: u32) {
        if let Some(place) = self.free.get_mut(self.free_len) {
            *place = index;
            self.free_len = self.free_len.wrapping_add(1);
        }
    }

    /// What is in a slot.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.items.get(index as usize)
    }

    /// As [`Slab::get`], to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.items.get_mut(index as usize)
    }

    /// Asks for a slot to be brought to the cache.
    #[inline]
    pub fn prefetch(&self, index: u32) {
        self.items.prefetch(index as usize);
    }

    /// Slots that are taken.
    #[inline]
    pub fn used(&self) -> usize {
        (self.fresh as usize).wrapping_sub(self.free_len)
    }

    /// Slots that are free.
    #[inline]
    pub fn left(&self) -> usize {
        self.items.len().wrapping_sub(self.used())
    }

    /// Bytes allocated.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.items) + size_of_val(&*self.free)
    }

    /// Slots that were ever taken.
    #[inline]
    pub fn touched(&self) -> usize {
        self.fresh as usize
    }

    /// Bytes of the slots that were ever taken.
    pub fn touched_bytes(&self) -> usize {
        self.touched() * size_of::<T>()
    }
}
