//! A received frame as the parser of the device sees it (datasheet 7.1.2): IPv4 and IPv6 without extension headers, TCP and UDP.

/// An IP packet inside a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    /// IPv4; if not, IPv6.
    pub ipv4: bool,
    /// The IP header with its options.
    pub header: &'a [u8],
    /// Source and destination address, one behind the other.
    pub addresses: &'a [u8],
    /// The transport protocol's number.
    pub protocol: u8,
    /// Part of a fragmented packet: the transport header is not looked at.
    pub fragment: bool,
    /// What the IP header carries, by its own length.
    pub payload: &'a [u8],
}

/// Transport protocols that the device knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl<'a> Packet<'a> {
    /// The packet in `frame`, tagged or not; `None` for anything else or anything cut.
    pub fn parse(frame: &'a [u8], tagged: bool) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(if tagged { 18 } else { 14 })?;
        match ethernet.last_chunk::<2>()? {
            [0x08, 0x00] => Self::ipv4(packet),
            [0x86, 0xDD] => Self::ipv6(packet),
            _ => None,
        }
    }

    fn ipv4(packet: &'a [u8]) -> Option<Self> {
        let ip = packet.first_chunk::<20>()?;
        let (header_len, total) = (usize::from(ip[0] & 0xF) * 4, usize::from(u16::from_be_bytes([ip[2], ip[3]])));
        if ip[0] >> 4 != 4 || header_len < 20 {
            return None;
        }
        Some(Self {
            ipv4: true,
            header: packet.get(..header_len)?,
            addresses: &packet[12..20],
            protocol: ip[9],
            fragment: u16::from_be_bytes([ip[6], ip[7]]) & 0x3FFF != 0,
            payload: packet.get(header_len..total)?,
        })
    }

    fn ipv6(packet: &'a [u8]) -> Option<Self> {
        let ip = packet.first_chunk::<40>()?;
        let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        (ip[0] >> 4 == 6).then_some(Self {
            ipv4: false,
            header: &packet[..40],
            addresses: &packet[8..40],
            protocol: ip[6],
            fragment: false,
            payload: packet.get(40..40 + len)?,
        })
    }

    /// The transport protocol, where its header is whole.
    pub fn transport(&self) -> Option<Transport> {
        match self.protocol {
            _ if self.fragment => None,
            6 if self.payload.len() >= 20 => Some(Transport::Tcp),
            17 if self.payload.len() >= 8 => Some(Transport::Udp),
            _ => None,
        }
    }
}
