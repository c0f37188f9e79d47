//! The header before every frame (virtio 1.2, 5.1.6).
#![forbid(unsafe_code)]

use crate::checksum::{fold, sum, transport_field};
use crate::frame::Checksum;
use crate::port::TxMeta;

/// Bytes of the header with VIRTIO_F_VERSION_1.
pub const HEADER_LEN: u16 = 12;

/// The transport checksum is to be filled in, or was not.
const NEEDS_CSUM: u8 = 1;
/// The device has checked the transport checksum.
const DATA_VALID: u8 = 2;

const ETHERNET_LEN: usize = 14;

/// What the device says of a received frame (5.1.6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveHeader {
    flags: u8,
    /// Buffers that the frame fills.
    pub buffers: u16,
}

impl ReceiveHeader {
    /// The header and what follows; `None` where there is not all of it.
    #[inline]
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[flags, .., low, high], frame) = bytes.split_first_chunk::<{ HEADER_LEN as usize }>()?;
        Some((Self { flags, buffers: u16::from_le_bytes([low, high]) }, frame))
    }

    /// The verdict on `frame`, its first segment. The device looks at the transport checksum only, so the IPv4 header's is summed here. One that
    /// was never filled in ([`NEEDS_CSUM`]) comes from this same host: nothing can have corrupted it (5.1.6.4.2).
    #[inline]
    pub fn verdict(self, frame: &[u8]) -> Checksum {
        if self.flags & (NEEDS_CSUM | DATA_VALID) == 0 {
            return Checksum::Unchecked;
        }
        match frame.get(12..16) {
            Some(&[0x08, 0x00, version_ihl, _]) => {
                let header = frame.get(ETHERNET_LEN..ETHERNET_LEN + usize::from(version_ihl & 0xF) * 4);
                if header.is_some_and(|header| fold(sum(header)) == 0xFFFF) { Checksum::Good } else { Checksum::Bad }
            }
            Some([0x86, 0xDD, ..]) => Checksum::Good,
            _ => Checksum::Unchecked,
        }
    }
}

/// The header of a frame to send, as two words; the device reads the first [`HEADER_LEN`] bytes (5.1.6.2). `shift` is how many bytes are put in
/// before the IP header.
#[inline]
pub fn transmit_header(meta: &TxMeta, shift: u16) -> [u64; 2] {
    let Some(field) = transport_field(meta.checksum) else { return [0, 0] };
    let start = u64::from(u16::from(meta.l2_len) + meta.l3_len + shift);
    // flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers.
    [u64::from(NEEDS_CSUM) | start << 48, field as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{self, tests::datagram};
    use crate::port::ChecksumOffload;

    #[test]
    fn header_names_the_field_and_moves_with_a_tag() {
        let (_, meta) = datagram();
        assert_eq!(transmit_header(&meta, 0), [1 | 34 << 48, 6]);
        assert_eq!(transmit_header(&meta, 4), [1 | 38 << 48, 6]);
        assert_eq!(transmit_header(&TxMeta { checksum: ChecksumOffload::Ipv4, ..meta }, 0), [0, 0]);
    }

    #[test]
    fn verdict_needs_the_flag_and_a_right_ip_header() {
        let (mut frame, meta) = datagram();
        checksum::fill(&mut frame, &meta, true);
        let verdict = |flags, frame: &[u8]| ReceiveHeader { flags, buffers: 1 }.verdict(frame);
        assert_eq!(verdict(0, &frame), Checksum::Unchecked);
        assert_eq!(verdict(DATA_VALID, &frame), Checksum::Good);
        assert_eq!(verdict(NEEDS_CSUM, &frame), Checksum::Good);
        assert_eq!(verdict(DATA_VALID, &frame[..30]), Checksum::Bad);
        frame[16] ^= 1;
        assert_eq!(verdict(DATA_VALID, &frame), Checksum::Bad);
        assert_eq!(verdict(DATA_VALID, &[0; 60]), Checksum::Unchecked);
        assert_eq!(verdict(DATA_VALID, &[]), Checksum::Unchecked);
    }
}
