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
    /// The payload, without trailers.
    pub payload: &'a [u8],
    /// The IP packet, without trailers.
    pub packet: &'a [u8],
}

/// The word behind the addresses, of which the type of service may be anything: EtherType, version and header length. What counts, and what it is.
const IPV4_PLAIN: (u32, u32) = (0xFFFF_FF00, 0x0800_4500);
/// The word with flags, fragment offset, time to live and protocol: what counts in a packet that is no fragment, as its protocol's number.
const WHOLE: u32 = 0x3FFF_00FF;

/// The words of a frame behind the station addresses, each loaded at once: three up to the IPv4 header's checksum, and those from the source address
/// on. `None` in a frame that is shorter.
#[inline(always)]
fn words<const N: usize>(frame: &[u8]) -> Option<([u32; 3], [u32; N])> {
    let (_addresses, rest) = frame.split_first_chunk::<12>()?;
    let (head, rest) = rest.split_first_chunk::<14>()?;
    let head = head.as_chunks().0.first_chunk::<3>()?;
    let rest = rest.as_chunks().0.first_chunk::<N>()?;
    Some((head.map(u32::from_be_bytes), rest.map(u32::from_be_bytes)))
}

/// The datagram in a frame as feeds send it: UDP over IPv4 to a group, untagged, without options, whole. `None` is no judgement: [`see`] looks
/// at everything.
#[inline(always)]
pub fn see_plain_group(frame: &[u8]) -> Option<Udp<'_>> {
    let ([first, second, third], [source, group, ports, length]) = words(frame)?;
    if first & IPV4_PLAIN.0 != IPV4_PLAIN.1 || third & WHOLE != u32::from(UDP) || group >> 28 != 0xE {
        return None;
    }
    let packet = frame.get(14..14 + (second >> 16) as usize)?;
    Some(Udp {
        source: SocketAddrV4::new(Ipv4Addr::from_bits(source), (ports >> 16) as u16),
        destination: SocketAddrV4::new(Ipv4Addr::from_bits(group), ports as u16),
        payload: packet.get(28..20 + (length >> 16) as usize)?,
        packet,
    })
}

/// The bits of a TCP header's flags (RFC 9293, 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 1 << 1;
    /// Reset the connection.
    pub const RST: u8 = 1 << 2;
    /// Push function.
    pub const PSH: u8 = 1 << 3;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 1 << 4;
    /// The urgent pointer counts.
    pub const URG: u8 = 1 << 5;
}

/// A TCP segment inside a frame. Lengths are checked; checksums are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The sender's address.
    pub source: u32,
    /// The receiver's address.
    pub destination: u32,
    /// Source port and destination port.
    pub ports: u32,
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK.
    pub ack: u32,
    /// The low eight bits of the flags: see [`flag`].
    pub flags: u8,
    /// SEG.WND, as it stands there.
    pub window: u16,
    /// The options.
    pub options: &'a [u8],
    /// The text.
    pub payload: &'a [u8],
    /// Where the text is in the frame.
    pub payload_at: u16,
    /// The IP packet, without trailers.
    pub packet: &'a [u8],
}

impl Segment<'_> {
    /// The receiver's port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        self.ports as u16
    }
}

/// Where the text is in a frame with a [`see_plain_tcp`] segment: behind Ethernet, IPv4 and TCP.
pub const PLAIN_TEXT_AT: u16 = 14 + 20 + 20;

/// The TCP segment in a frame as nearly all come: over IPv4, neither with options, untagged, whole. `None` is no judgement: [`see_tcp`] looks closer.
#[inline(always)]
pub fn see_plain_tcp(frame: &[u8]) -> Option<Segment<'_>> {
    let ([first, second, third], [source, destination, ports, seq, ack, last, _urgent]) = words(frame)?;
    if first & IPV4_PLAIN.0 != IPV4_PLAIN.1 || third & WHOLE != u32::from(TCP) || last >> 28 != 5 {
        return None;
    }
    let end = 14 + (second >> 16) as usize;
    Some(Segment {
        source,
        destination,
        ports,
        seq,
        ack,
        flags: (last >> 16) as u8,
        window: last as u16,
        options: &[],
        payload: frame.get(usize::from(PLAIN_TEXT_AT)..end)?,
        payload_at: PLAIN_TEXT_AT,
        packet: frame.get(14..end)?,
    })
}

/// The TCP segment in an untagged frame, with IP options or without. `None` where there is none, or only a part of one.
pub fn see_tcp(frame: &[u8]) -> Option<Segment<'_>> {
    let (ethernet, packet) = frame.split_first_chunk::<14>()?;
    let ip = packet.first_chunk::<20>()?;
    let is_ipv4 = u16::from_be_bytes([ethernet[12], ethernet[13]]) == IPV4 && ip[0] >> 4 == 4;
    let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & FRAGMENT != 0;
    if !is_ipv4 || is_fragment || ip[9] != TCP {
        return None;
    }
    let packet = packet.get(..usize::from(u16::from_be_bytes([ip[2], ip[3]])))?;
    let header_len = usize::from(ip[0] & 0xF) * 4;
    let tcp = packet.get(header_len..).filter(|_| header_len >= 20)?;
    #[rustfmt::skip]
    let [
        p0, p1, p2, p3, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, w0, w1, _, _, _, _,
    ] = *tcp.first_chunk::<20>()?;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *ip;
    let start = usize::from(offset >> 4) * 4;
    Some(Segment {
        source: u32::from_be_bytes([s0, s1, s2, s3]),
        destination: u32::from_be_bytes([d0, d1, d2, d3]),
        ports: u32::from_be_bytes([p0, p1, p2, p3]),
        seq: u32::from_be_bytes([q0, q1, q2, q3]),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        flags,
        window: u16::from_be_bytes([w0, w1]),
        options: tcp.get(20..start)?,
        payload: tcp.get(start..)?,
        payload_at: (14 + header_len + start) as u16,
        packet,
    })
}

/// Flags and offset of a fragment (RFC 791, 3.1): more fragments, or not the first.
const FRAGMENT: u16 = 0x3FFF;

/// Looks at a frame.
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

fn see_ipv4(packet: &[u8], vlan: Option<u16>) -> Seen<'_> {
    let Some(fixed) = packet.first_chunk::<20>() else { return Seen::Truncated };
    let header_len = usize::from(fixed[0] & 0xF) << 2;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let Some((packet, body)) = packet.get(..total).and_then(|packet| Some((packet, packet.get(header_len..)?))) else {
        return Seen::Truncated;
    };
    if fixed[0] >> 4 != 4 || header_len < 20 {
        return Seen::Truncated;
    }
    let destination = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    if !destination.is_multicast() {
        return Seen::Ipv4;
    }
    match fixed[9] {
        UDP if u16::from_be_bytes([fixed[6], fixed[7]]) & FRAGMENT != 0 => Seen::GroupFragment,
        UDP => {
            let source = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
            see_udp(packet, body, source, destination, vlan)
        }
        IGMP => Seen::Igmp(body),
        _ => Seen::Ipv4,
    }
}

fn see_udp<'a>(
    packet: &'a [u8],
    body: &'a [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    vlan: Option<u16>,
) -> Seen<'a> {
    let Some(&[a, b, c, d, e, f, ..]) = body.first_chunk::<8>() else { return Seen::Truncated };
    let Some(payload) = body.get(8..usize::from(u16::from_be_bytes([e, f]))) else { return Seen::Truncated };
    let udp = Udp {
        source: SocketAddrV4::new(source, u16::from_be_bytes([a, b])),
        destination: SocketAddrV4::new(destination, u16::from_be_bytes([c, d])),
        payload,
        packet,
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
    fn plain_group_sees_what_see_sees_and_nothing_else() {
        let mut frame = datagram();
        frame.extend([0xEE; 13]);
        let Seen::Group { udp, .. } = see(&frame) else { panic!("not seen") };
        assert_eq!(see_plain_group(&frame), Some(udp));
        // One byte after another is wrong; whatever is still plain must be the same to both.
        for at in 0..42 {
            for flip in [1, 0x10, 0x80, 0xFF] {
                let mut other = frame.clone();
                other[at] ^= flip;
                if let Some(plain) = see_plain_group(&other) {
                    assert_eq!(see(&other), Seen::Group { udp: plain, vlan: None }, "byte {at} ^ {flip:#x}");
                }
            }
        }
        for len in 0..datagram().len() {
            assert_eq!(see_plain_group(&frame[..len]), None, "{len}");
        }
    }

    fn segment() -> Vec<u8> {
        let mut frame = vec![0u8; 14];
        frame[12] = 8;
        frame.extend([0x45, 0, 0, 49, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x10, 0x00, 0x00, 0x50, 0, 0, 0, 1, 0, 0, 0, 2, 0x60, 0x18, 0x12, 0x34, 0, 0, 0, 0, 1, 1, 1, 0]);
        frame.extend(b"order");
        frame
    }

    #[test]
    fn segment_is_read_and_the_plain_view_agrees() {
        let mut frame = segment();
        frame.extend([0xEE; 9]);
        let seen = see_tcp(&frame).expect("a segment");
        assert_eq!((seen.source, seen.destination), (0x0A00_0001, 0x0A00_0002));
        assert_eq!((seen.ports, seen.destination_port(), seen.seq, seen.ack), (0x1000_0050, 80, 1, 2));
        assert_eq!((seen.flags, seen.window, seen.payload_at), (flag::ACK | flag::PSH, 0x1234, 58));
        assert_eq!((seen.options, seen.payload), (&[1, 1, 1, 0][..], &b"order"[..]));
        // With options it is not plain; without, both agree, whatever else is in it.
        assert_eq!(see_plain_tcp(&frame), None);
        (frame[46], frame[17]) = (0x50, 45);
        frame.drain(54..58);
        assert!(see_plain_tcp(&frame).is_some_and(|plain| plain.payload == b"order"));
        let whole = segment().len() - 4;
        for at in 0..whole {
            for flip in [1, 0x10, 0x80, 0xFF] {
                let mut other = frame.clone();
                other[at] ^= flip;
                if let Some(plain) = see_plain_tcp(&other) {
                    assert_eq!(see_tcp(&other), Some(plain), "byte {at} ^ {flip:#x}");
                }
            }
        }
        for len in 0..whole {
            assert_eq!((see_tcp(&frame[..len]), see_plain_tcp(&frame[..len])), (None, None), "{len}");
        }
        // The same behind IP options.
        let mut with_options = segment();
        with_options[14] = 0x46;
        with_options[17] += 4;
        with_options.splice(34..34, [1, 1, 1, 0]);
        assert_eq!(see_tcp(&with_options).map(|seen| (seen.payload, seen.payload_at)), Some((&b"order"[..], 62)));
        assert_eq!(see_plain_tcp(&with_options), None);
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
