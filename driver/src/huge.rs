//! Tables that no cache holds: slices of a size fixed once, on huge pages where the system grants them, with prefetch.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use memmap2::MmapMut;

/// Bytes of a cache line.
const LINE: usize = 64;
/// What any mapping begins at a multiple of.
const PAGE: usize = 4096;

/// A slice on memory of its own: written once at the start, so that no access later finds a page missing, and with transparent huge pages
/// asked for, so that few accesses miss the TLB.
#[derive(Debug)]
pub struct HugeSlice<T> {
    /// Never null, which spares every access a comparison.
    first: NonNull<T>,
    len: usize,
    /// Where the items are.
    _map: MmapMut,
}

// SAFETY: the slice owns its items and its mapping, as a boxed slice does its allocation.
unsafe impl<T: Send> Send for HugeSlice<T> {}
// SAFETY: as for `Send`; a shared slice only lends shared references.
unsafe impl<T: Sync> Sync for HugeSlice<T> {}

impl<T: Copy> HugeSlice<T> {
    /// `len` times `item`. Like any other allocation it ends the process where there is no memory.
    pub fn new(len: usize, item: T) -> Self {
        const { assert!(align_of::<T>() <= PAGE) };
        let Ok(layout) = Layout::array::<T>(len) else { handle_alloc_error(Layout::new::<T>()) };
        let Ok(mut map) = MmapMut::map_anon(layout.size().max(1)) else { handle_alloc_error(layout) };
        // Only a wish: a system without transparent huge pages refuses it, and the slice works all the same.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let Some(first) = NonNull::new(map.as_mut_ptr().cast::<T>()) else { handle_alloc_error(layout) };
        for index in 0..len {
            // SAFETY: the mapping has room for `len` items (`layout`), begins at a page, and so is aligned for `T` (asserted above).
            unsafe { first.add(index).write(item) };
        }
        Self { first, len, _map: map }
    }
}

impl<T> HugeSlice<T> {
    /// Asks for an item to be brought to the cache, without waiting for it. One that is not there is passed over.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        if let Some(item) = self.get(index) {
            let first = (&raw const *item).cast::<u8>();
            for offset in (0..size_of::<T>()).step_by(LINE) {
                prefetch(first.wrapping_add(offset));
            }
        }
    }
}

impl<T> Deref for HugeSlice<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote `len` items there, which are `Copy` and therefore never dropped; the mapping lives as long as `self`.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for HugeSlice<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

#[inline(always)]
fn prefetch(address: *const u8) {
    // SAFETY: PREFETCHT0 and PRFM read nothing that the program can see and do not fault, whatever the address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_holds_what_it_was_made_of_and_takes_more() {
        for len in [0, 1, 1000, (4 << 20) / 8] {
            let mut slice = HugeSlice::new(len, 7u64);
            assert_eq!(slice.iter().filter(|item| **item == 7).count(), len);
            if let Some(last) = slice.last_mut() {
                *last = 8;
            }
            assert_eq!(slice.iter().sum::<u64>(), len as u64 * 7 + u64::from(len > 0));
        }
    }

    #[test]
    fn prefetch_of_what_is_not_there_is_passed_over() {
        let slice = HugeSlice::new(2, [1u8; 200]);
        [0, 1, 2, usize::MAX].into_iter().for_each(|index| slice.prefetch(index));
        assert_eq!(slice[1], [1; 200]);
    }
}
