//! The checksum engines (datasheet 7.1.11, 7.2.5): recognise a frame on receive, fill in sums on transmit.

use super::desc::{Context, Received};

const PTYPE_IPV4: u32 = 1 << 4;
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

/// What the receive engine writes about a frame whose tag, if any, has been taken out.
pub fn inspect(frame: &[u8]) -> Received {
    let mut seen = Received::default();
    let Some((ip, header, payload)) = ipv4(frame) else { return seen };
    seen.packet_type = PTYPE_IPV4;
    seen.status = STATUS_IPCS;
    if sum(header, 0) != 0xFFFF {
        seen.errors |= ERROR_IPE;
    }
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3FFF != 0;
    if fragment {
        return seen;
    }
    let pseudo = pseudo_header(ip, payload.len());
    match ip[9] {
        6 if payload.len() >= 20 => {
            seen.packet_type |= PTYPE_TCP;
            seen.status |= STATUS_L4I;
        }
        17 if payload.len() >= 8 => {
            seen.packet_type |= PTYPE_UDP;
            // The erratum: a UDP checksum of zero, "none", is checked all the same, and found wrong.
            seen.status |= STATUS_L4I | STATUS_UDPCS;
        }
        _ => return seen,
    }
    if sum(payload, pseudo) != 0xFFFF {
        seen.errors |= ERROR_L4E;
    }
    seen
}

/// The fixed part of the IPv4 header, the whole header, and the payload by the total length; `None` for anything else or anything cut.
fn ipv4(frame: &[u8]) -> Option<(&[u8; 20], &[u8], &[u8])> {
    let (ethernet, packet) = frame.split_at_checked(14)?;
    if ethernet.get(12..14)? != [8, 0] {
        return None;
    }
    let ip = packet.first_chunk::<20>()?;
    let (header_len, total) = (usize::from(ip[0] & 0xF) * 4, usize::from(u16::from_be_bytes([ip[2], ip[3]])));
    if ip[0] >> 4 != 4 || header_len < 20 {
        return None;
    }
    Some((ip, packet.get(..header_len)?, packet.get(header_len..total)?))
}

fn pseudo_header(ip: &[u8; 20], payload: usize) -> u32 {
    u32::from(sum(&ip[12..20], 0)) + u32::from(ip[9]) + payload as u32
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
        let pseudo = pseudo_header(frame[14..34].first_chunk().unwrap(), 13);
        frame[40..42].copy_from_slice(&sum(&[], pseudo).to_be_bytes());
        let context = Context { ip_len: 20, mac_len: 14, ipv4: true, ..Context::default() };
        assert!(insert(&mut frame, &context, 3));
        if !checksum {
            frame[40..42].fill(0);
        }
        frame
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
