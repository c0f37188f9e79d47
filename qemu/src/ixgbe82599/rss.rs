//! Receive-side scaling (datasheet 7.1.2.8): a hash over addresses and ports picks a queue by a table.

use super::packet::{Packet, Transport};
use super::regs::{RegisterFile, at};

/// What the hash says of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread {
    /// RSS type of the descriptor (7.1.6.2).
    pub kind: u32,
    /// The hash.
    pub hash: u32,
    /// The queue.
    pub queue: u32,
}

/// Hashes `packet` as MRQC allows; `None` where RSS is off or the packet is of no kind that is enabled: queue 0.
pub(super) fn spread(regs: &RegisterFile, packet: &Packet<'_>) -> Option<Spread> {
    const MRQE: u32 = 0xF;
    const RSS: u32 = 1;
    let control = regs.get(at::MRQC);
    if control & MRQE != RSS {
        return None;
    }
    let transport = packet.transport();
    // 8.2.3.7.12: the field that enables a kind, and the kind's number; the transport's kind comes first.
    let with_ports = match (packet.ipv4, transport) {
        (true, Some(Transport::Tcp)) => Some((16, 1)),
        (false, Some(Transport::Tcp)) => Some((21, 3)),
        (true, Some(Transport::Udp)) => Some((22, 7)),
        (false, Some(Transport::Udp)) => Some((23, 8)),
        (_, None) => None,
    };
    let without = if packet.ipv4 { (17, 2) } else { (20, 5) };
    let enabled = |&(field, _): &(u32, u32)| control & 1 << field != 0;
    let (kind, ports) = match with_ports.filter(enabled) {
        Some((_, kind)) => (kind, &packet.payload[..4]),
        None => (Some(without).filter(enabled)?.1, &[][..]),
    };
    let key = |byte: usize| (regs.get(at::RSSRK + (byte as u32 & !3)) >> (8 * (byte & 3))) as u8;
    let hash = toeplitz(key, packet.addresses.iter().chain(ports).copied());
    let entry = hash & 0x7F;
    let queue = regs.get(at::RETA + (entry & !3)) >> (8 * (entry & 3)) & 0xF;
    Some(Spread { kind, hash, queue })
}

/// 7.1.2.8.1: for each bit of the input that is set, the 32 bits of the key that begin there.
fn toeplitz(key: impl Fn(usize) -> u8, input: impl Iterator<Item = u8>) -> u32 {
    let mut window = u32::from_be_bytes([key(0), key(1), key(2), key(3)]);
    let mut hash = 0;
    for (byte, next) in input.zip(4..) {
        let next = key(next);
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> bit & 1);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verification suite of the RSS specification (7.1.2.8.3).
    #[test]
    fn toeplitz_agrees_with_the_specifications_examples() {
        let key: [u8; 40] = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
            0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
            0xbe, 0xac, 0x01, 0xfa,
        ];
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 2794u16.to_be_bytes()[0], 2794u16.to_be_bytes()[1], 6, 230];
        assert_eq!(toeplitz(|n| key[n], input[..8].iter().copied()), 0x323e_8fc2);
        assert_eq!(toeplitz(|n| key[n], input.iter().copied()), 0x51cc_c178);
    }
}
