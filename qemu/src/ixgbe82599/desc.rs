//! Descriptors as the device sees them (datasheet 7.1.6, 7.2.3), over any [`Words`], so that a model checker can run them.

use std::sync::atomic::Ordering;

use barewire_driver::ring::Words;

/// Reads the descriptor at `slot`. The tail register, read before with acquire, orders this after the driver's stores.
pub fn fetch<W: Words>(words: &W, slot: u32) -> [u64; 2] {
    let at = slot as usize * 2;
    [words.load(at, Ordering::Relaxed), words.load(at + 1, Ordering::Relaxed)]
}

/// Writes the descriptor at `slot` back: the word with the done bit last, with release, so that whoever sees it sees all before it.
pub fn write_back<W: Words>(words: &W, slot: u32, descriptor: [u64; 2]) {
    let at = slot as usize * 2;
    words.store(at, descriptor[0], Ordering::Relaxed);
    words.store(at + 1, descriptor[1], Ordering::Release);
}

/// Fields of a receive write-back (7.1.6.2).
#[derive(Debug, Clone, Copy, Default)]
pub struct Received {
    /// Packet type bits, as they stand in bits 16:4 of the first word.
    pub packet_type: u32,
    /// Extended status, bits 19:0, without DD and EOP.
    pub status: u32,
    /// Extended errors, bits 31:20.
    pub errors: u32,
    /// The tag that was taken out.
    pub vlan: u16,
    /// RSS type, bits 3:0 of the first word.
    pub rss_type: u32,
    /// The RSS hash.
    pub rss_hash: u32,
}

/// DD.
pub const DONE: u32 = 1;
/// EOP.
pub const END_OF_PACKET: u32 = 1 << 1;

impl Received {
    /// The two words for a buffer of `len` bytes, the last of its frame or not.
    pub fn words(self, len: u16, last: bool) -> [u64; 2] {
        // Status, errors and tag are valid in the last descriptor of a frame only.
        if !last {
            return [0, u64::from(DONE) | u64::from(len) << 32];
        }
        let low = self.status | self.errors | DONE | END_OF_PACKET;
        let kinds = u64::from(self.packet_type | self.rss_type);
        [kinds | u64::from(self.rss_hash) << 32, u64::from(low) | u64::from(len) << 32 | u64::from(self.vlan) << 48]
    }
}

/// An advanced transmit descriptor, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// Lengths and kinds for the frames that follow (7.2.3.2.3).
    Context(Context),
    /// A piece of a frame (7.2.3.2.4).
    Data(Data),
    /// What the device has no meaning for.
    Unknown,
}

/// A context descriptor's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// Bytes of the IP header.
    pub ip_len: usize,
    /// Bytes before it.
    pub mac_len: usize,
    /// The tag to insert.
    pub vlan: u16,
    /// IPv4 rather than IPv6.
    pub ipv4: bool,
    /// 0 UDP, 1 TCP, 2 SCTP.
    pub l4_type: u8,
    /// Bytes of the transport header, for segmentation.
    pub l4_len: usize,
    /// Payload bytes of a segment.
    pub mss: usize,
    /// Which of the queue's two contexts this is (IDX).
    pub index: usize,
}

/// A data descriptor's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// Where the bytes are.
    pub address: u64,
    /// How many.
    pub len: u16,
    /// DCMD and the rest of the low half of the second word.
    pub command: u32,
    /// POPTS: bit 0 IP checksum, bit 1 transport checksum.
    pub options: u8,
    /// Which context the options are about (IDX). CC, which asks for more checks of it, makes no difference here.
    pub context: usize,
    /// PAYLEN: the length of the whole frame, or of its payload if it is to be segmented.
    pub payload: u32,
}

/// DCMD bits as they stand in the second word's low half.
pub mod command {
    /// Last piece of the frame.
    pub const EOP: u32 = 1 << 24;
    /// Append the FCS.
    pub const IFCS: u32 = 1 << 25;
    /// Report status.
    pub const RS: u32 = 1 << 27;
    /// An advanced or context descriptor.
    pub const DEXT: u32 = 1 << 29;
    /// Insert the context's tag.
    pub const VLE: u32 = 1 << 30;
    /// Segment.
    pub const TSE: u32 = 1 << 31;
}

impl Transmit {
    /// Takes two words apart.
    pub fn parse([first, second]: [u64; 2]) -> Self {
        let low = second as u32;
        if low & command::DEXT == 0 {
            return Self::Unknown;
        }
        match (low >> 20) & 0xF {
            2 => Self::Context(Context {
                ip_len: (first & 0x1FF) as usize,
                mac_len: (first >> 9 & 0x7F) as usize,
                vlan: (first >> 16) as u16,
                ipv4: low & 1 << 10 != 0,
                l4_type: (low >> 11 & 3) as u8,
                l4_len: (second >> 40 & 0xFF) as usize,
                mss: (second >> 48) as usize,
                index: (second >> 36 & 1) as usize,
            }),
            3 => Self::Data(Data {
                address: first,
                len: low as u16,
                command: low,
                options: (second >> 40 & 0x3F) as u8,
                context: (second >> 36 & 1) as usize,
                payload: (second >> 46) as u32,
            }),
            _ => Self::Unknown,
        }
    }
}
