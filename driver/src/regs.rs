//! A register is one typed item with the datasheet's name, place and section.
#![forbid(unsafe_code)]

/// A register, or a row of equal ones.
#[derive(Debug, Clone, Copy)]
pub struct Register {
    /// The datasheet's name.
    pub name: &'static str,
    /// Bytes into the BAR, of the first of the row.
    pub offset: u32,
    /// Bytes from one of the row to the next.
    pub stride: u32,
    /// The datasheet's section.
    pub section: &'static str,
}

impl Register {
    /// The place of number `index` of the row.
    #[inline]
    pub const fn at(&self, index: u16) -> u32 {
        self.offset + self.stride * index as u32
    }
}

/// Declares registers, one a line: `NAME = "name" @ offset + stride, "section";`, and the list `ALL` of them.
macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $text:literal @ $offset:literal $(+ $stride:literal)?, $section:literal;)*) => {
        $($(#[$doc])* pub const $name: Register =
            Register { name: $text, offset: $offset, stride: 0 $(+ $stride)?, section: $section };)*

        /// Every register of this file, for holding the list against another.
        pub const ALL: &[Register] = &[$($name),*];
    };
}
pub(crate) use registers;
