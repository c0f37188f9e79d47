//! Checksums that a device leaves to the driver: the Internet checksum (RFC 1071), filled in where it belongs.
#![forbid(unsafe_code)]

use crate::port::{ChecksumOffload, TxMeta};

/// Where the transport checksum lies in its header.
pub fn transport_field(checksum: ChecksumOffload) -> Option<usize> {
    match checksum {
        ChecksumOffload::None | ChecksumOffload::Ipv4 => None,
        ChecksumOffload::Ipv4Udp => Some(6),
        ChecksumOffload::Ipv4Tcp => Some(16),
    }
}

/// Whether the fields that `meta` asks to fill in lie inside the frame.
#[inline]
pub fn fit(meta: &TxMeta) -> bool {
    if meta.checksum == ChecksumOffload::None {
        return true;
    }
    let (l2, l3) = (usize::from(meta.l2_len), usize::from(meta.l3_len));
    let end = transport_field(meta.checksum).map_or(0, |field| field + 2);
    l3 >= 20 && l2 + l3 + end <= usize::from(meta.len)
}

/// Fills in what `meta` asks for in the frame that `buffer` begins with: the IPv4 header's checksum, and the transport's where `transport` says
/// that nobody else does. The fields must [`fit`].
#[inline]
pub fn fill(buffer: &mut [u8], meta: &TxMeta, transport: bool) {
    if meta.checksum == ChecksumOffload::None {
        return;
    }
    let (l2, l3) = (usize::from(meta.l2_len), usize::from(meta.l3_len));
    if let Some(header) = buffer.get_mut(l2..l2 + l3) {
        put(header, 10, 0);
        let value = !fold(sum(header));
        put(header, 10, value);
    }
    if let Some(field) = transport_field(meta.checksum)
        && transport
        && let Some(segment) = buffer.get_mut(l2 + l3..usize::from(meta.len))
    {
        // The field holds the pseudo-header's sum, so that it is summed with the rest. UDP has no zero: it means "none" (RFC 768).
        let value = match !fold(sum(segment)) {
            0 if meta.checksum == ChecksumOffload::Ipv4Udp => 0xFFFF,
            value => value,
        };
        put(segment, field, value);
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Adds `bytes` as big-endian 16-bit numbers (RFC 1071); an odd last byte is the upper half of one.
pub fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |&byte| u64::from(byte) << 8);
    pairs.iter().fold(last, |sum, pair| sum + u64::from(u16::from_be_bytes(*pair)))
}

/// Folds a sum into 16 bits.
pub fn fold(sum: u64) -> u16 {
    // A frame's words sum to less than 2^32: two folds leave no carry.
    let sum = (sum & 0xFFFF) + (sum >> 16);
    ((sum & 0xFFFF) + (sum >> 16)) as u16
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A UDP datagram from 10.0.0.1 to 10.0.0.2 with its pseudo-header's sum in the checksum field.
    pub(crate) fn datagram() -> (Vec<u8>, TxMeta) {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 7, 0, 9, 0, 11, 0, 0, b'a', b'b', b'c']);
        let pseudo = fold(sum(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 11]));
        put(&mut frame, 40, pseudo);
        let meta = TxMeta { len: 45, checksum: ChecksumOffload::Ipv4Udp, l2_len: 14, l3_len: 20, ..TxMeta::default() };
        (frame, meta)
    }

    #[test]
    fn checksums_filled_in_sum_to_all_ones() {
        let (mut frame, meta) = datagram();
        fill(&mut frame, &meta, true);
        assert_eq!(fold(sum(&frame[14..34])), 0xFFFF);
        let pseudo = sum(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 11]);
        assert_eq!(fold(sum(&frame[34..]) + pseudo), 0xFFFF);
        // A device that fills in the transport's gets the field as it was.
        let (mut left, _) = datagram();
        let before = left[40..42].to_vec();
        fill(&mut left, &meta, false);
        assert_eq!((&left[40..42], &left[24..26]), (&before[..], &frame[24..26]));
    }

    #[test]
    fn checksums_that_leave_the_frame_do_not_fit() {
        let (_, meta) = datagram();
        assert!(fit(&meta));
        for bad in [
            TxMeta { len: 41, ..meta },
            TxMeta { l3_len: 19, ..meta },
            TxMeta { l3_len: u16::MAX, ..meta },
            TxMeta { l2_len: u8::MAX, ..meta },
        ] {
            assert!(!fit(&bad), "{bad:?}");
        }
    }
}
