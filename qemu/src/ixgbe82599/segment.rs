//! Segmentation (datasheet 7.2.4): one large TCP or UDP payload behind one header becomes frames of MSS bytes each.

use super::checksum::sum;
use super::desc::Context;
use super::regs::{RegisterFile, at};

/// Flags of a TCP header, in the word that holds its length too.
const FLAGS: usize = 12;

/// TCP flags that the first, the middle and the last segment may carry (DTXTCPFLGL, DTXTCPFLGH).
struct FlagMasks {
    first: u16,
    middle: u16,
    last: u16,
}

impl FlagMasks {
    fn read(regs: &RegisterFile) -> Self {
        // The data offset, the top four bits, is no flag.
        let keep = |mask: u32| mask as u16 & 0xFFF | 0xF000;
        let (low, high) = (regs.get(at::DTXTCPFLGL), regs.get(at::DTXTCPFLGH));
        Self { first: keep(low), middle: keep(low >> 16), last: keep(high) }
    }
}

/// Calls `emit` for each frame of `large`. `false` where the context does not fit it: nothing was emitted.
pub(super) fn segment(
    regs: &RegisterFile,
    large: &[u8],
    context: &Context,
    payload: u32,
    mut emit: impl FnMut(&mut Vec<u8>),
) -> bool {
    let (ip_at, l4_at) = (context.mac_len, context.mac_len + context.ip_len);
    let header_len = l4_at + context.l4_len;
    let least = match context.l4_type {
        0 => 8,
        1 => 20,
        _ => return false,
    };
    let ip_least = if context.ipv4 { 20 } else { 40 };
    let Some((header, data)) = large.split_at_checked(header_len) else { return false };
    let fits = ip_at >= 14 && context.ip_len >= ip_least && context.l4_len >= least && context.mss > 0;
    if !fits || data.len() != payload as usize || data.is_empty() {
        return false;
    }
    let masks = FlagMasks::read(regs);
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let sequence = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut frame = Vec::with_capacity(header_len + context.mss + 4);
    let count = data.len().div_ceil(context.mss);
    for (index, piece) in data.chunks(context.mss).enumerate() {
        let l4_bytes = (context.l4_len + piece.len()) as u16;
        frame.clear();
        frame.extend_from_slice(header);
        frame.extend_from_slice(piece);
        let mut put = |at: usize, value: u16| frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
        if context.ipv4 {
            put(ip_at + 2, context.ip_len as u16 + l4_bytes);
            put(ip_at + 4, word(ip_at + 4).wrapping_add(index as u16));
        } else {
            put(ip_at + 4, (context.ip_len - 40) as u16 + l4_bytes);
        }
        // Software left the length out of the pseudo-header's sum: it differs from segment to segment (7.2.4.6).
        let checksum_at = if context.l4_type == 1 {
            let next = sequence(l4_at + 4).wrapping_add((index * context.mss) as u32);
            put(l4_at + 4, (next >> 16) as u16);
            put(l4_at + 6, next as u16);
            let mask = if index + 1 == count {
                masks.last
            } else if index == 0 {
                masks.first
            } else {
                masks.middle
            };
            put(l4_at + FLAGS, word(l4_at + FLAGS) & mask);
            l4_at + 16
        } else {
            put(l4_at + 4, l4_bytes);
            l4_at + 6
        };
        put(checksum_at, sum(&l4_bytes.to_be_bytes(), word(checksum_at).into()));
        emit(&mut frame);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ixgbe82599::checksum;
    use crate::ixgbe82599::packet::Packet;

    fn large(payload: usize) -> (Vec<u8>, Context) {
        let mut frame = vec![0u8; 54];
        frame[12] = 8;
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0xFF, 0xFF, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34..50].copy_from_slice(&[0, 80, 0, 81, 0xFF, 0xFF, 0xFF, 0x00, 0, 0, 0, 1, 0x50, 0x19, 0x10, 0]);
        let pseudo = sum(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6], 0);
        frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
        frame.extend((0..payload).map(|n| n as u8));
        let context =
            Context { mac_len: 14, ip_len: 20, l4_len: 20, mss: 1000, ipv4: true, l4_type: 1, ..Context::default() };
        (frame, context)
    }

    #[test]
    fn segments_are_whole_packets_with_right_sums_in_sequence() {
        let (frame, context) = large(2500);
        let mut seen = Vec::new();
        let mut data = Vec::new();
        let done = segment(&RegisterFile::new(), &frame, &context, 2500, |frame| {
            assert!(checksum::insert(frame, &context, 3));
            let packet = Packet::parse(frame, false).unwrap();
            assert_eq!(checksum::inspect(Some(&packet)).errors, 0);
            let header = packet.payload;
            seen.push((u32::from_be_bytes(*header[4..].first_chunk().unwrap()), header[13]));
            data.extend_from_slice(&header[20..]);
        });
        assert!(done);
        // ACK on all, FIN and PSH on the last only.
        assert_eq!(seen, [(0xFFFF_FF00, 0x10), (0x0000_02E8, 0x10), (0x0000_06D0, 0x19)]);
        assert_eq!(data, frame[54..]);
    }

    #[test]
    fn segment_refuses_what_does_not_fit() {
        let (frame, context) = large(100);
        let regs = RegisterFile::new();
        for bad in [
            Context { mss: 0, ..context },
            Context { l4_len: 8, ..context },
            Context { ip_len: 19, ..context },
            Context { mac_len: 13, ..context },
            Context { l4_type: 2, ..context },
            Context { l4_len: 200, ..context },
        ] {
            assert!(!segment(&regs, &frame, &bad, 100, |_| panic!("emitted")));
        }
        assert!(!segment(&regs, &frame, &context, 99, |_| panic!("emitted")));
    }
}
