//! Header views of the hot path: a frame is checked once, and read without further checks afterwards.

use std::net::{Ipv4Addr, SocketAddrV4};

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// IP protocol numbers (RFC 9293, 768, 792, 2236).
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP.
pub const ICMP: u8 = 1;
/// IGMP.
pub const IGMP: u8 = 2;

/// A frame, as far as the demultiplexer must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen<'a> {
    /// UDP to a group, whole, lengths checked. Checksums are not.
    Group {
        /// Where from, where to, and the payload.
        udp: Udp<'a>,
        /// The tag, where it was still in the frame.
        vlan: Option<u16>,
    },
    /// A fragment of something sent to a group.
    GroupFragment,
    /// IGMP, the message behind the IP header.
    Igmp(&'a [u8]),
    /// IPv4 for the host stack, untagged.
    Ipv4,
    /// ARP, untagged.
    Arp,
    /// A tagged frame that is not UDP to a group.
    Tagged,
    /// Lengths that do not fit the frame.
    Truncated,
    /// Something else.
    Unknown,
}

/// A UDP datagram inside a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp<'a> {
    /// The sender.
    pub source: SocketAddrV4,
    /// The group and port.
    pub destination: SocketAddrV4,
    /// The checksum field; zero means none.
    pub checksum: u16,
    /// The payload, without trailers.
    pub payload: &'a [u8],
    /// The IP header, for checking.
    pub header: &'a [u8],
    /// The UDP header and payload, for checking.
    pub segment: &'a [u8],
}

/// Looks at a frame.
#[inline]
pub fn see(frame: &[u8]) -> Seen<'_> {
    let Some((ethernet, packet)) = frame.split_first_chunk::<14>() else { return Seen::Truncated };
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        IPV4 => see_ipv4(packet, None),
        ARP => Seen::Arp,
        VLAN => see_tagged(packet),
        _ => Seen::Unknown,
    }
}

fn see_tagged(packet: &[u8]) -> Seen<'_> {
    let Some((tag, packet)) = packet.split_first_chunk::<4>() else { return Seen::Truncated };
    if u16::from_be_bytes([tag[2], tag[3]]) != IPV4 {
        return Seen::Tagged;
    }
    match see_ipv4(packet, Some(u16::from_be_bytes([tag[0], tag[1]]))) {
        Seen::Ipv4 => Seen::Tagged,
        seen => seen,
    }
}

#[inline]
fn see_ipv4(packet: &[u8], vlan: Option<u16>) -> Seen<'_> {
    let Some(fixed) = packet.first_chunk::<20>() else { return Seen::Truncated };
    let header_len = usize::from(fixed[0] & 0xF) << 2;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let Some((header, body)) = packet.get(..total).and_then(|packet| packet.split_at_checked(header_len)) else {
        return Seen::Truncated;
    };
    if fixed[0] >> 4 != 4 || header_len < 20 {
        return Seen::Truncated;
    }
    let destination = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    if !destination.is_multicast() {
        return Seen::Ipv4;
    }
    const FRAGMENT: u16 = 0x3FFF;
    match fixed[9] {
        UDP if u16::from_be_bytes([fixed[6], fixed[7]]) & FRAGMENT != 0 => Seen::GroupFragment,
        UDP => {
            let source = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
            see_udp(header, body, source, destination, vlan)
        }
        IGMP => Seen::Igmp(body),
        _ => Seen::Ipv4,
    }
}

#[inline]
fn see_udp<'a>(
    header: &'a [u8],
    body: &'a [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    vlan: Option<u16>,
) -> Seen<'a> {
    let Some(&[a, b, c, d, e, f, g, h]) = body.first_chunk::<8>() else { return Seen::Truncated };
    let Some(segment) = body.get(..usize::from(u16::from_be_bytes([e, f]))) else { return Seen::Truncated };
    let Some((_, payload)) = segment.split_first_chunk::<8>() else { return Seen::Truncated };
    let udp = Udp {
        source: SocketAddrV4::new(source, u16::from_be_bytes([a, b])),
        destination: SocketAddrV4::new(destination, u16::from_be_bytes([c, d])),
        checksum: u16::from_be_bytes([g, h]),
        payload,
        header,
        segment,
    };
    Seen::Group { udp, vlan }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram() -> Vec<u8> {
        let mut frame = vec![0u8; 14];
        frame[12] = 8;
        frame.extend([0x45, 0, 0, 33, 0, 0, 0, 0, 1, 17, 0, 0, 10, 0, 0, 1, 239, 1, 2, 3]);
        frame.extend([0x10, 0x00, 0x67, 0x6D, 0, 13, 0, 0]);
        frame.extend(b"ticks");
        frame
    }

    #[test]
    fn group_datagram_is_read_without_its_trailer() {
        let mut frame = datagram();
        frame.extend([0xEE; 13]);
        let Seen::Group { udp, vlan } = see(&frame) else { panic!("{:?}", see(&frame)) };
        assert_eq!((udp.payload, udp.destination.port(), vlan), (&b"ticks"[..], 0x676D, None));
    }

    #[test]
    fn tag_in_the_frame_is_read() {
        let mut frame = datagram();
        frame.splice(12..12, [0x81, 0x00, 0x20, 0x64]);
        let Seen::Group { vlan, .. } = see(&frame) else { panic!("not seen") };
        assert_eq!(vlan, Some(0x2064));
    }

    #[test]
    fn every_cut_is_truncated_and_nothing_panics() {
        let frame = datagram();
        for len in 0..frame.len() {
            assert_eq!(see(&frame[..len]), Seen::Truncated, "{len}");
        }
    }

    #[test]
    fn fragment_options_and_wrong_lengths() {
        let mut frame = datagram();
        frame[20] = 0x20;
        assert_eq!(see(&frame), Seen::GroupFragment);
        let mut frame = datagram();
        frame[39] = 7;
        assert_eq!(see(&frame), Seen::Truncated);
        let mut frame = datagram();
        frame[14] = 0x4F;
        assert_eq!(see(&frame), Seen::Truncated);
    }
}
