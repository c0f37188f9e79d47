//! TCP options (RFC 9293, 3.1: MUST-4; RFC 2018; RFC 7323): read once, leniently; written in the order that other stacks do.

use arrayvec::ArrayVec;

use super::seq::Seq;

mod kind {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const MSS: u8 = 2;
    pub const WINDOW_SCALE: u8 = 3;
    pub const SACK_PERMITTED: u8 = 4;
    pub const SACK: u8 = 5;
    pub const TIMESTAMPS: u8 = 8;
}

/// The largest shift of a window (RFC 7323, 2.3).
pub(super) const MAX_SHIFT: u8 = 14;
/// Bytes of options in a header, at most.
pub(super) const MAX_LEN: usize = 40;
/// Bytes of a timestamps option with the padding that aligns it (RFC 7323, appendix A).
pub(super) const TIMESTAMPS_LEN: usize = 12;

/// A block of a selective acknowledgement: from its first byte to the one after its last.
pub type Block = (Seq, Seq);

/// Blocks that fit beside nothing else.
pub(super) const MAX_BLOCKS: usize = 4;

/// What a segment's options say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    /// Maximum segment size, bytes of payload.
    pub mss: Option<u16>,
    /// Window scale. A shift beyond 14 counts as 14 (RFC 7323, 2.3).
    pub window_scale: Option<u8>,
    /// Selective acknowledgements are welcome.
    pub sack_permitted: bool,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// Blocks received out of order.
    pub sack: ArrayVec<Block, MAX_BLOCKS>,
    /// A length does not fit; what came before it counts (MUST-7: no option may break us).
    pub is_malformed: bool,
}

/// The timestamps of a header that has nothing else, as other stacks lay it out: the case worth being fast for.
#[inline]
pub(super) fn plain_timestamps(options: &[u8]) -> Option<(u32, u32)> {
    let [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10, a, b, c, d, e, f, g, h] = *options else { return None };
    Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
}

impl Options {
    /// Reads a header's options, those of any segment (MUST-5), wherever they begin (MUST-64). Unknown ones are passed over by their length (MUST-6).
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        while let Some((&kind, rest)) = bytes.split_first() {
            match kind {
                kind::END => break,
                kind::NOP => bytes = rest,
                _ => {
                    let len = rest.first().map_or(0, |len| usize::from(*len));
                    let Some((option, rest)) = bytes.split_at_checked(len).filter(|_| len >= 2) else {
                        options.is_malformed = true;
                        break;
                    };
                    options.read(kind, option.get(2..).unwrap_or_default());
                    bytes = rest;
                }
            }
        }
        options
    }

    fn read(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (kind::MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (kind::WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(MAX_SHIFT)),
            (kind::SACK_PERMITTED, []) => self.sack_permitted = true,
            (kind::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                self.timestamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
            }
            (kind::SACK, blocks) if blocks.len() % 8 == 0 => {
                for block in blocks.as_chunks::<8>().0.iter().take(MAX_BLOCKS) {
                    let [a, b, c, d, e, f, g, h] = *block;
                    // A header has no room for more, in however many options they come.
                    let _ = self
                        .sack
                        .try_push((Seq(u32::from_be_bytes([a, b, c, d])), Seq(u32::from_be_bytes([e, f, g, h]))));
                }
            }
            (kind::MSS | kind::WINDOW_SCALE | kind::SACK_PERMITTED | kind::TIMESTAMPS | kind::SACK, _) => {
                self.is_malformed = true;
            }
            _ => {}
        }
    }

    /// Writes them, each but the padding with its length (MUST-68), padded to whole words.
    pub fn write(&self) -> ArrayVec<u8, MAX_LEN> {
        let mut out = ArrayVec::new();
        // What is asked for fits: at most MSS, SACK-permitted, timestamps and scale (20), or timestamps and three blocks (40).
        let mut put = |bytes: &[u8]| {
            let _ = out.try_extend_from_slice(bytes);
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[kind::MSS, 4, a, b]);
        }
        match (self.sack_permitted, self.timestamps) {
            (true, Some(_)) => put(&[kind::SACK_PERMITTED, 2]),
            (true, None) => put(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]),
            (false, Some(_)) => put(&[kind::NOP, kind::NOP]),
            (false, None) => {}
        }
        if let Some((value, echo)) = self.timestamps {
            put(&[kind::TIMESTAMPS, 10]);
            put(&value.to_be_bytes());
            put(&echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            put(&[kind::NOP, kind::WINDOW_SCALE, 3, shift]);
        }
        if !self.sack.is_empty() {
            let room = if self.timestamps.is_some() { 3 } else { MAX_BLOCKS };
            let blocks = &self.sack[..self.sack.len().min(room)];
            put(&[kind::NOP, kind::NOP, kind::SACK, 2 + 8 * blocks.len() as u8]);
            for (start, end) in blocks {
                put(&start.0.to_be_bytes());
                put(&end.0.to_be_bytes());
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            mss in proptest::option::of(any::<u16>()), window_scale in proptest::option::of(0..=MAX_SHIFT),
            sack_permitted in any::<bool>(), timestamps in proptest::option::of(any::<(u32, u32)>()),
        ) {
            let options = Options { mss, window_scale, sack_permitted, timestamps, ..Options::default() };
            let bytes = options.write();
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert_eq!(Options::parse(&bytes), options);
        }

        #[test]
        fn blocks_are_read_as_written(blocks in proptest::collection::vec(any::<(u32, u32)>(), 1..=4), with_time in any::<bool>()) {
            let sack = blocks.iter().map(|(a, b)| (Seq(*a), Seq(*b))).take(if with_time { 3 } else { 4 }).collect();
            let options = Options { sack, timestamps: with_time.then_some((1, 2)), ..Options::default() };
            prop_assert_eq!(Options::parse(&options.write()), options);
        }

        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..=40)) {
            Options::parse(&bytes);
        }
    }

    #[test]
    fn unknown_options_are_passed_over_and_broken_lengths_end_the_list() {
        let options = Options::parse(&[1, 254, 4, 9, 9, 2, 4, 5, 0xB4, 0, 3, 3, 7]);
        assert_eq!((options.mss, options.window_scale, options.is_malformed), (Some(1460), None, false));
        assert!(Options::parse(&[2, 0]).is_malformed && Options::parse(&[2, 1]).is_malformed);
        assert!(Options::parse(&[8, 10, 0]).is_malformed && Options::parse(&[2]).is_malformed);
        assert_eq!(Options::parse(&[3, 3, 99]).window_scale, Some(MAX_SHIFT));
    }

    #[test]
    fn plain_timestamps_are_what_parse_finds() {
        let bytes = Options { timestamps: Some((7, 9)), ..Options::default() }.write();
        assert_eq!(plain_timestamps(&bytes), Some((7, 9)));
        assert_eq!(plain_timestamps(&bytes[..11]), None);
    }
}
