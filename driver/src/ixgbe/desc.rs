//! Descriptor layouts: 16 bytes, two 64-bit words (82599 datasheet 7.1.6 and 7.2.3).
#![forbid(unsafe_code)]

use std::num::NonZeroU16;

use crate::frame::Known;
use crate::pool::BUFFER_LEN;
use crate::port::{ChecksumOffload, TxMeta};

/// A receive descriptor that gives the buffer at `iova` to the device; the write-back will cover both words.
#[inline]
pub fn receive(iova: u64) -> [u64; 2] {
    [iova, 0]
}

/// What the device wrote over a receive descriptor (7.1.6.2).
#[derive(Debug, Clone, Copy)]
pub struct ReceiveWriteBack(pub [u64; 2]);

impl ReceiveWriteBack {
    /// The done bit, in the second word.
    pub const DONE: u64 = 1;
    /// Done, and the frame ends here.
    const WHOLE: u64 = Self::DONE | Self::END_OF_PACKET;
    const END_OF_PACKET: u64 = 1 << 1;
    const VLAN_TAKEN: u64 = 1 << 3;
    const L4_CHECKED: u64 = 1 << 5;
    const IP_CHECKED: u64 = 1 << 6;
    const L4_ERROR: u64 = 1 << 30;
    const IP_ERROR: u64 = 1 << 31;
    const TYPE_UDP: u64 = 1 << 9;

    /// Whether the frame ends in this buffer.
    #[inline]
    pub fn is_last(self) -> bool {
        self.0[1] & Self::END_OF_PACKET != 0
    }

    /// Bytes written into the buffer.
    #[inline]
    pub fn len(self) -> u16 {
        (self.0[1] >> 32) as u16
    }

    /// Whether a tag was taken out, and whether there is a hash: RSS type 0 is none.
    #[inline]
    pub fn known(self) -> Known {
        let mut known = Known::empty();
        known.set(Known::VLAN, self.0[1] & Self::VLAN_TAKEN != 0);
        known.set(Known::RSS_HASH, self.0[0] & 0xF != 0);
        known
    }

    /// The 802.1Q tag that was taken out, if one was.
    #[inline]
    pub fn tag(self) -> u16 {
        (self.0[1] >> 48) as u16
    }

    /// The RSS hash, if there is one.
    #[inline]
    pub fn hash(self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// Bytes of a frame that is whole in one buffer, in a length that is possible; `last` is the second word. One comparison for all of it: moved to
    /// the length's end and less what they must be, the lower bits borrow from nothing only where all are set and the length is not zero.
    #[inline]
    pub fn whole_len(last: u64) -> Option<NonZeroU16> {
        const FIELDS: u64 = 0xFFFF << 32 | ReceiveWriteBack::WHOLE;
        const ONE_BYTE: u64 = 1 << 32 | ReceiveWriteBack::WHOLE;
        let beyond_one = (last & FIELDS).rotate_left(32).wrapping_sub(ONE_BYTE.rotate_left(32));
        (beyond_one < BUFFER_LEN as u64).then_some(NonZeroU16::MIN.saturating_add(beyond_one as u16))
    }

    /// Bytes written into the buffer, where that is possible at all: 1 to `buffer_len`.
    #[inline]
    pub fn sound_len(self, buffer_len: u16) -> Option<NonZeroU16> {
        NonZeroU16::new(self.len()).filter(|len| len.get() <= buffer_len)
    }

    /// What the device says of the checksums.
    #[inline]
    pub fn verdict(self) -> Verdict {
        let bits = self.0[1] & (Self::IP_CHECKED | Self::L4_CHECKED | Self::IP_ERROR | Self::L4_ERROR);
        match bits {
            Self::BOTH_CHECKED => Verdict::Good,
            Self::ONLY_L4_BAD if self.0[0] & Self::TYPE_UDP != 0 => Verdict::BadUdp,
            _ if bits & (Self::IP_ERROR | Self::L4_ERROR) != 0 => Verdict::Bad,
            _ => Verdict::Unchecked,
        }
    }

    const ONLY_L4_BAD: u64 = Self::BOTH_CHECKED | Self::L4_ERROR;
    const BOTH_CHECKED: u64 = Self::IP_CHECKED | Self::L4_CHECKED;
}

/// The device's word on checksums, before its known mistake is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// IP and transport checksums are right.
    Good,
    /// One is wrong.
    Bad,
    /// UDP's is said to be wrong, which the 82599 also says when it is zero, that is: absent.
    BadUdp,
    /// Not both were looked at.
    Unchecked,
}

/// What a context descriptor tells the device about the frames after it (7.2.3.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context([u64; 2]);

impl Context {
    const TYPE_CONTEXT: u64 = 2 << 20;
    const EXTENDED: u64 = 1 << 29;
    const IPV4: u64 = 1 << 10;
    const L4_TCP: u64 = 1 << 11;

    /// The context that `meta` needs; `None` when the frame is complete as it is.
    #[inline]
    pub fn needed(meta: &TxMeta) -> Option<Self> {
        if meta.checksum == ChecksumOffload::None && meta.vlan.is_none() {
            return None;
        }
        let vlan = u64::from(meta.vlan.unwrap_or(0));
        let lens = u64::from(meta.l3_len & 0x1FF) | u64::from(meta.l2_len & 0x7F) << 9 | vlan << 16;
        let kind = match meta.checksum {
            ChecksumOffload::None => 0,
            ChecksumOffload::Ipv4 | ChecksumOffload::Ipv4Udp => Self::IPV4,
            ChecksumOffload::Ipv4Tcp => Self::IPV4 | Self::L4_TCP,
        };
        Some(Self([lens, kind | Self::TYPE_CONTEXT | Self::EXTENDED]))
    }

    /// The descriptor.
    #[inline]
    pub fn words(self) -> [u64; 2] {
        self.0
    }
}

/// The done bit of a transmit descriptor, in the second word.
pub const TRANSMIT_DONE: u64 = 1 << 32;

/// What a frame asks for beside its length, in one word: frames of the same shape need the same context, and descriptors that differ in
/// length only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape(u64);

impl Shape {
    /// The shape that `meta` asks for.
    #[inline]
    pub fn of(meta: &TxMeta) -> Self {
        let vlan = meta.vlan.map_or(0, |tag| u64::from(tag) | 1 << 16);
        Self(vlan << 32 | u64::from(meta.l3_len) << 16 | u64::from(meta.l2_len) << 8 | meta.checksum as u64)
    }
}

/// The second word of a data descriptor (7.2.3.2.4) without its lengths.
#[derive(Debug, Clone, Copy)]
pub struct Template(u64);

impl Template {
    /// For frames of `meta`'s shape.
    pub fn new(meta: &TxMeta, with_context: bool) -> Self {
        Self(transmit(0, &TxMeta { len: 0, ..*meta }, with_context)[1])
    }

    /// The descriptor of a frame of `len` bytes.
    #[inline]
    pub fn descriptor(self, iova: u64, len: u16) -> [u64; 2] {
        [iova, self.0 | u64::from(len) | u64::from(len) << PAYLEN_SHIFT]
    }
}

const PAYLEN_SHIFT: u32 = 46;

/// A data descriptor for a whole frame (7.2.3.2.4).
fn transmit(iova: u64, meta: &TxMeta, with_context: bool) -> [u64; 2] {
    const TYPE_DATA: u64 = 3 << 20;
    const END_OF_PACKET: u64 = 1 << 24;
    const INSERT_FCS: u64 = 1 << 25;
    const REPORT_STATUS: u64 = 1 << 27;
    const EXTENDED: u64 = 1 << 29;
    const INSERT_VLAN: u64 = 1 << 30;
    const CHECK_CONTEXT: u64 = 1 << 39;
    const INSERT_IP_CHECKSUM: u64 = 1 << 40;
    const INSERT_L4_CHECKSUM: u64 = 1 << 41;
    let len = u64::from(meta.len);
    let mut word = len | TYPE_DATA | END_OF_PACKET | INSERT_FCS | REPORT_STATUS | EXTENDED | len << PAYLEN_SHIFT;
    if with_context {
        word |= CHECK_CONTEXT;
    }
    if meta.vlan.is_some() {
        word |= INSERT_VLAN;
    }
    word |= match meta.checksum {
        ChecksumOffload::None => 0,
        ChecksumOffload::Ipv4 => INSERT_IP_CHECKSUM,
        ChecksumOffload::Ipv4Udp | ChecksumOffload::Ipv4Tcp => INSERT_IP_CHECKSUM | INSERT_L4_CHECKSUM,
    };
    [iova, word]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_back_fields_sit_where_the_datasheet_says() {
        let back = ReceiveWriteBack([0xDEAD_BEEF_0000_0211, 0x0064_05DC_0000_006B]);
        assert!(back.is_last());
        assert_eq!((back.len(), back.tag(), back.hash()), (1500, 100, 0xDEAD_BEEF));
        assert_eq!(back.known(), Known::VLAN | Known::RSS_HASH);
        assert_eq!(ReceiveWriteBack([0xDEAD_BEEF_0000_0210, 0x0064_05DC_0000_0063]).known(), Known::empty());
        assert_eq!(back.verdict(), Verdict::Good);
    }

    #[test]
    fn write_back_errors_make_the_verdict() {
        let verdict = |first, second| ReceiveWriteBack([first, second]).verdict();
        assert_eq!(verdict(0, 1 << 6 | 1 << 31), Verdict::Bad);
        assert_eq!(verdict(1 << 8, 1 << 5 | 1 << 6 | 1 << 30), Verdict::Bad);
        assert_eq!(verdict(1 << 9, 1 << 5 | 1 << 6 | 1 << 30), Verdict::BadUdp);
        assert_eq!(verdict(0, 1 << 6), Verdict::Unchecked);
        assert_eq!(verdict(0, 0), Verdict::Unchecked);
    }

    #[test]
    fn whole_frames_are_done_end_here_and_have_a_possible_length() {
        for other in [0, !(0xFFFF << 32 | 0b11)] {
            for status in 0..4 {
                for len in [0, 1, 2, 2047, 2048, 2049, 0xFFFF] {
                    let whole = (status == 0b11 && (1..=2048).contains(&len)).then_some(len as u16);
                    let found = ReceiveWriteBack::whole_len(other | len << 32 | status);
                    assert_eq!(found.map(NonZeroU16::get), whole, "{other:#x}, {status}, {len}");
                }
            }
        }
    }

    #[test]
    fn transmit_words_carry_length_twice_and_ask_for_a_report() {
        let meta = TxMeta { len: 60, ..TxMeta::default() };
        assert_eq!(transmit(0x1000, &meta, false), [0x1000, 60 << 46 | 0x2B30_003C]);
        assert!(Context::needed(&meta).is_none());
    }

    #[test]
    fn context_of_a_tagged_tcp_frame() {
        let meta = TxMeta { len: 60, checksum: ChecksumOffload::Ipv4Tcp, l2_len: 14, l3_len: 20, vlan: Some(7) };
        let context = Context::needed(&meta).unwrap().words();
        assert_eq!(context, [7 << 16 | 14 << 9 | 20, 0x2020_0000 | 1 << 10 | 1 << 11]);
        assert_eq!(transmit(0, &meta, true)[1] >> 39 & 0x7, 0b111);
        assert_eq!(Template::new(&meta, true).descriptor(0x1000, 60), transmit(0x1000, &meta, true));
    }

    #[test]
    fn shapes_differ_where_descriptors_do() {
        let meta = TxMeta { len: 60, checksum: ChecksumOffload::Ipv4Tcp, l2_len: 14, l3_len: 20, vlan: None };
        assert_eq!(Shape::of(&meta), Shape::of(&TxMeta { len: 61, ..meta }));
        for other in [
            TxMeta { checksum: ChecksumOffload::Ipv4, ..meta },
            TxMeta { l2_len: 18, ..meta },
            TxMeta { l3_len: 24, ..meta },
            TxMeta { vlan: Some(0), ..meta },
            TxMeta { vlan: Some(7), ..meta },
        ] {
            assert_ne!(Shape::of(&meta), Shape::of(&other), "{other:?}");
        }
    }
}
