//! The checksum engines (datasheet 7.1.11, 7.2.5): recognise a frame on receive, fill in sums on transmit.

use super::desc::{Context, Received};
use super::packet::{Packet, Transport};

const PTYPE_IPV4: u32 = 1 << 4;
const PTYPE_IPV6: u32 = 1 << 6;
const PTYPE_TCP: u32 = 1 << 8;
const PTYPE_UDP: u32 = 1 << 9;
const STATUS_UDPCS: u32 = 1 << 4;
const STATUS_L4I: u32 = 1 << 5;
const STATUS_IPCS: u32 = 1 << 6;
const ERROR_L4E: u32 = 1 << 30;
const ERROR_IPE: u32 = 1 << 31;

/// The ones' complement sum of 16-bit big-endian words, folded.
pub fn sum(bytes: &[u8], start: u32) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut total = u64::from(start);
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    if let [last] = rest {
        total += u64::from(u16::from_be_bytes([*last, 0]));
    }
    while total >> 16 != 0 {
        total = (total & 0xFFFF) + (total >> 16);
    }
    total as u16
}

/// What the receive engine writes about a packet, or about a frame that holds none.
pub(super) fn inspect(packet: Option<&Packet<'_>>) -> Received {
    let mut seen = Received::default();
    let Some(packet) = packet else { return seen };
    if packet.ipv4 {
        seen.packet_type = PTYPE_IPV4;
        seen.status = STATUS_IPCS;
        if sum(packet.header, 0) != 0xFFFF {
            seen.errors |= ERROR_IPE;
        }
    } else {
        seen.packet_type = PTYPE_IPV6;
    }
    match packet.transport() {
        Some(Transport::Tcp) => {
            seen.packet_type |= PTYPE_TCP;
            seen.status |= STATUS_L4I;
        }
        Some(Transport::Udp) => {
            seen.packet_type |= PTYPE_UDP;
            // The erratum: a UDP checksum of zero, "none", is checked all the same, and found wrong.
            seen.status |= STATUS_L4I | STATUS_UDPCS;
        }
        None => return seen,
    }
    let pseudo = u32::from(sum(packet.addresses, 0)) + u32::from(packet.protocol) + packet.payload.len() as u32;
    if sum(packet.payload, pseudo) != 0xFFFF {
        seen.errors |= ERROR_L4E;
    }
    seen
}

/// Fills in what POPTS asks for; `false` when the frame is too short for what the context claims.
///
/// The transport field holds the pseudo-header's sum, put there by software (7.2.5.2).
pub fn insert(frame: &mut [u8], context: &Context, options: u8) -> bool {
    let ip_at = context.mac_len;
    let l4_at = ip_at + context.ip_len;
    if options & 1 != 0 && context.ipv4 {
        let Some(header) = frame.get_mut(ip_at..l4_at).filter(|header| header.len() >= 20) else { return false };
        header[10..12].fill(0);
        let value = !sum(header, 0);
        header[10..12].copy_from_slice(&value.to_be_bytes());
    }
    if options & 2 != 0 {
        let at = match context.l4_type {
            0 => 6,
            1 => 16,
            _ => return false,
        };
        let Some(segment) = frame.get_mut(l4_at..).filter(|segment| segment.len() >= at + 2) else { return false };
        // Silicon sums from the transport header to the end of the packet as the IP length gives it: trailers are software's mistake.
        let mut value = !sum(segment, 0);
        if context.l4_type == 0 && value == 0 {
            value = 0xFFFF;
        }
        segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(checksum: bool) -> Vec<u8> {
        let mut frame = vec![0u8; 14 + 20 + 8 + 5];
        frame[12] = 8;
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34..42].copy_from_slice(&[0, 1, 0, 2, 0, 13, 0, 0]);
        frame[42..].copy_from_slice(b"ticks");
        let pseudo = sum(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 13], 0);
        frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
        let context = Context { ip_len: 20, mac_len: 14, ipv4: true, ..Context::default() };
        assert!(insert(&mut frame, &context, 3));
        if !checksum {
            frame[40..42].fill(0);
        }
        frame
    }

    fn inspect(frame: &[u8]) -> Received {
        super::inspect(Packet::parse(frame, false).as_ref())
    }

    #[test]
    fn inspect_finds_inserted_sums_right() {
        let seen = inspect(&udp(true));
        assert_eq!((seen.errors, seen.status), (0, STATUS_IPCS | STATUS_L4I | STATUS_UDPCS));
    }

    #[test]
    fn inspect_udp_zero_is_flagged_as_silicon_does() {
        assert_eq!(inspect(&udp(false)).errors, ERROR_L4E);
    }

    #[test]
    fn inspect_damage_is_flagged() {
        let mut frame = udp(true);
        frame[44] ^= 1;
        assert_eq!(inspect(&frame).errors, ERROR_L4E);
        frame[26] ^= 1;
        assert_eq!(inspect(&frame).errors & ERROR_IPE, ERROR_IPE);
        for len in 0..frame.len() {
            inspect(&frame[..len]);
        }
    }
}
