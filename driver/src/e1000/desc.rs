//! Descriptor layouts: 16 bytes, two 64-bit words (SDM 3.2.3 and 3.3; 82574 7.1).
#![forbid(unsafe_code)]

use crate::port::{ChecksumOffload, TxMeta};

/// A receive descriptor that gives the buffer at `iova` to the device; the second word, where the done bit will be, is clear.
#[inline]
pub fn receive(iova: u64) -> [u64; 2] {
    [iova, 0]
}

/// How the device writes a receive descriptor back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// SDM 3.2.3: length, checksum, status, errors and tag in the second word; the address stays.
    Legacy,
    /// 82574, 7.1: the RSS hash in the first word; status and errors, length and tag in the second.
    Extended,
}

impl Layout {
    /// The done bit, in the second word.
    #[inline]
    pub fn done(self) -> u64 {
        match self {
            Self::Legacy => 1 << 32,
            Self::Extended => 1,
        }
    }

    /// Reads a descriptor. Status and error bits have the same order in both layouts, so that a legacy one is shuffled into an extended one.
    #[inline]
    pub fn read(self, words: [u64; 2]) -> ReceiveWriteBack {
        match self {
            Self::Extended => ReceiveWriteBack(words),
            Self::Legacy => {
                let [_, word] = words;
                let (status, errors, len) = (word >> 32 & 0xFF, word >> 40 & 0xFF, word & 0xFFFF);
                ReceiveWriteBack([0, status | errors << 24 | len << 32 | word & 0xFFFF << 48])
            }
        }
    }
}

/// What the device wrote over a receive descriptor, in the extended layout.
#[derive(Debug, Clone, Copy)]
pub struct ReceiveWriteBack([u64; 2]);

/// The device's word on checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// IP and transport checksums are right.
    Good,
    /// One is wrong.
    Bad,
    /// Not both were looked at.
    Unchecked,
}

impl ReceiveWriteBack {
    const END_OF_PACKET: u64 = 1 << 1;
    const IGNORE_CHECKSUMS: u64 = 1 << 2;
    const VLAN_TAKEN: u64 = 1 << 3;
    const L4_CHECKED: u64 = 1 << 5;
    const IP_CHECKED: u64 = 1 << 6;
    const L4_ERROR: u64 = 1 << 29;
    const IP_ERROR: u64 = 1 << 30;

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

    /// Bytes written into the buffer, where that is possible at all: 1 to `longest`.
    #[inline]
    pub fn sound_len(self, longest: u16) -> Option<u16> {
        let len = self.len();
        // Zero wraps around to the largest length, so one comparison refuses both ends.
        (len.wrapping_sub(1) < longest).then_some(len)
    }

    /// The 802.1Q tag that was taken out.
    #[inline]
    pub fn vlan(self) -> Option<u16> {
        (self.0[1] & Self::VLAN_TAKEN != 0).then_some((self.0[1] >> 48) as u16)
    }

    /// The RSS hash; absent for RSS type 0.
    #[inline]
    pub fn rss_hash(self) -> Option<u32> {
        (self.0[0] & 0xF != 0).then_some((self.0[0] >> 32) as u32)
    }

    /// What the device says of the checksums.
    #[inline]
    pub fn verdict(self) -> Verdict {
        const BOTH: u64 = ReceiveWriteBack::IP_CHECKED | ReceiveWriteBack::L4_CHECKED;
        let bits = self.0[1];
        if bits & Self::IGNORE_CHECKSUMS != 0 {
            Verdict::Unchecked
        } else if bits & (Self::IP_ERROR | Self::L4_ERROR) != 0 {
            Verdict::Bad
        } else if bits & BOTH == BOTH {
            Verdict::Good
        } else {
            Verdict::Unchecked
        }
    }
}

/// Commands, in bits 31:24 of the second word of every transmit descriptor (SDM 3.3.3, 3.3.6, 3.3.7).
const END_OF_PACKET: u64 = 1 << 24;
const INSERT_FCS: u64 = 1 << 25;
const REPORT_STATUS: u64 = 1 << 27;
const EXTENDED: u64 = 1 << 29;
const INSERT_VLAN: u64 = 1 << 30;

/// What a context descriptor tells the device about the frames after it: where checksums begin, end and go (SDM 3.3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context([u64; 2]);

impl Context {
    const TCP: u64 = 1 << 24;
    const IPV4: u64 = 1 << 25;

    /// The context that `meta` needs; `None` when the device computes no checksum.
    #[inline]
    pub fn needed(meta: &TxMeta) -> Option<Self> {
        // Bytes from the start of a header to its checksum.
        const IPV4_CHECKSUM: u64 = 10;
        let (in_transport, kind) = match meta.checksum {
            ChecksumOffload::None => return None,
            ChecksumOffload::Ipv4 | ChecksumOffload::Ipv4Udp => (6, Self::IPV4),
            ChecksumOffload::Ipv4Tcp => (16, Self::IPV4 | Self::TCP),
        };
        let ip = u64::from(meta.l2_len);
        let transport = ip + u64::from(meta.l3_len);
        // Where the IPv4 header ends, inclusive; the transport part ends with the frame (zero).
        let ip_end = transport.saturating_sub(1) & 0xFFFF;
        let byte = |offset: u64| offset & 0xFF;
        let places = byte(ip) | byte(ip + IPV4_CHECKSUM) << 8 | ip_end << 16;
        let places = places | byte(transport) << 32 | byte(transport + in_transport) << 40;
        Some(Self([places, kind | EXTENDED]))
    }

    /// The descriptor.
    #[inline]
    pub fn words(self) -> [u64; 2] {
        self.0
    }
}

/// The done bit of a transmit descriptor, in the second word.
pub const TRANSMIT_DONE: u64 = 1 << 32;

/// A descriptor for a whole frame: a data descriptor where the device fills checksums in (SDM 3.3.7), else a legacy one (3.3.3).
#[inline]
pub fn transmit(iova: u64, meta: &TxMeta) -> [u64; 2] {
    const TYPE_DATA: u64 = 1 << 20;
    const INSERT_IP_CHECKSUM: u64 = 1 << 40;
    const INSERT_L4_CHECKSUM: u64 = 1 << 41;
    let mut word = u64::from(meta.len) | END_OF_PACKET | INSERT_FCS | REPORT_STATUS;
    if let Some(tag) = meta.vlan {
        word |= INSERT_VLAN | u64::from(tag) << 48;
    }
    word |= match meta.checksum {
        ChecksumOffload::None => 0,
        ChecksumOffload::Ipv4 => TYPE_DATA | EXTENDED | INSERT_IP_CHECKSUM,
        ChecksumOffload::Ipv4Udp | ChecksumOffload::Ipv4Tcp => {
            TYPE_DATA | EXTENDED | INSERT_IP_CHECKSUM | INSERT_L4_CHECKSUM
        }
    };
    [iova, word]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_write_back_reads_as_an_extended_one() {
        // Tag 100, no errors, DD EOP VP TCPCS IPCS, checksum 0xABCD, 1,500 bytes.
        let legacy = Layout::Legacy.read([0x1000, 0x0064_006B_ABCD_05DC]);
        let extended = Layout::Extended.read([0, 0x0064_05DC_0000_006B]);
        for back in [legacy, extended] {
            assert_eq!((back.is_last(), back.sound_len(1500), back.sound_len(1499)), (true, Some(1500), None));
            assert_eq!((back.vlan(), back.rss_hash(), back.verdict()), (Some(100), None, Verdict::Good));
        }
        assert_eq!(Layout::Extended.read([0xDEAD_BEEF_0000_0001, 0]).rss_hash(), Some(0xDEAD_BEEF));
    }

    #[test]
    fn verdict_is_bad_on_any_error_unless_checksums_are_to_be_ignored() {
        let verdict = |word| Layout::Extended.read([0, word]).verdict();
        assert_eq!(verdict(1 << 5 | 1 << 6 | 1 << 29), Verdict::Bad);
        assert_eq!(verdict(1 << 6 | 1 << 30), Verdict::Bad);
        assert_eq!(verdict(1 << 6), Verdict::Unchecked);
        assert_eq!(verdict(1 << 2 | 1 << 5 | 1 << 6), Verdict::Unchecked);
        // The same bits in a legacy descriptor: status from bit 32 on, errors from bit 40 on.
        assert_eq!(Layout::Legacy.read([0, 1 << 45 | 1 << 37 | 1 << 38]).verdict(), Verdict::Bad);
    }

    #[test]
    fn complete_frame_goes_by_a_legacy_descriptor_with_its_tag() {
        let meta = TxMeta { len: 60, vlan: Some(7), ..TxMeta::default() };
        assert!(Context::needed(&meta).is_none());
        assert_eq!(transmit(0x1000, &meta), [0x1000, 0x0007_0000_4B00_003C]);
    }

    #[test]
    fn context_says_where_the_checksums_of_a_tcp_frame_are() {
        let meta = TxMeta { len: 60, checksum: ChecksumOffload::Ipv4Tcp, l2_len: 14, l3_len: 20, vlan: None };
        let [places, kind] = Context::needed(&meta).unwrap().words();
        assert_eq!(places.to_le_bytes(), [14, 24, 33, 0, 34, 50, 0, 0]);
        assert_eq!(kind, 0x2300_0000);
        assert_eq!(transmit(0, &meta)[1], 0x0000_0300_2B10_003C);
    }
}
