//! Sequence numbers (RFC 9293, 3.4): 32 bits that wrap, compared by their distance.

use std::ops::{Add, Sub};

/// A sequence number. Comparison is only meaningful between numbers less than 2^31 apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Whether it comes before `other`.
    #[inline]
    pub fn before(self, other: Self) -> bool {
        (self - other) < 0
    }

    /// Whether it comes after `other`.
    #[inline]
    pub fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// Bytes from `earlier` to here; zero where `earlier` is none.
    #[inline]
    pub fn since(self, earlier: Self) -> u32 {
        u32::try_from(self - earlier).unwrap_or(0)
    }

    /// Bytes from `earlier` to here, where it may also lie behind: then it is more than any window.
    #[inline]
    pub fn ahead_of(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The later of two.
    #[inline]
    pub fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of two.
    #[inline]
    pub fn min(self, other: Self) -> Self {
        if other.before(self) { other } else { self }
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    #[inline]
    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    #[inline]
    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

impl Sub for Seq {
    type Output = i32;

    /// The signed distance.
    #[inline]
    fn sub(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let (before, after) = (Seq(0xFFFF_FFF0), Seq(0x10));
        assert!(before.before(after) && after.after(before) && !before.before(before));
        assert_eq!((after.since(before), before.since(after), before + 0x20), (0x20, 0, after));
        assert_eq!((after.ahead_of(before), before.ahead_of(after)), (0x20, u32::MAX - 0x1F));
        assert_eq!((before.max(after), before.min(after)), (after, before));
    }
}
