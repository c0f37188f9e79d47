//! What the fuzz targets share.
#![forbid(unsafe_code)]

pub mod feed;
pub mod lane;

/// The fuzzer's bytes, read one after another; zeroes follow the last one. Small choices take a byte each, so that a changed byte changes one.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    /// A choice of two.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([(); 2].map(|()| self.byte()))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte()))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// Up to `most` bytes, as many as the next one says.
    pub fn some(&mut self, most: u8) -> Vec<u8> {
        (0..self.byte() % most).map(|_| self.byte()).collect()
    }
}
