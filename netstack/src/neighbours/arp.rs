//! ARP packets in Ethernet frames (RFC 826).

use std::net::Ipv4Addr;

use barewire_driver::MacAddress;

use crate::wire;

/// Bytes of a frame that carries ARP for IPv4 over Ethernet, without padding.
pub const FRAME_LEN: usize = 42;

/// `ar$hrd` Ethernet, `ar$pro` IPv4, and the lengths of both addresses.
const FOR_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// `ares_op$REQUEST`.
const REQUEST: [u8; 2] = [0, 1];

/// What is read of an ARP packet. Merging needs neither the operation nor the target ("Packet Reception").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The station that the frame was sent to.
    pub to: MacAddress,
    /// `ar$sha`.
    pub sender: MacAddress,
    /// `ar$spa`.
    pub sender_ip: Ipv4Addr,
}

/// Reads the ARP packet in an untagged frame; `None` when it is none for IPv4 over Ethernet, or its sender is no single station.
pub fn parse(frame: &[u8]) -> Option<Packet> {
    let (to, rest) = frame.split_first_chunk::<6>()?;
    let (_from, rest) = rest.split_first_chunk::<6>()?;
    let (&ether_type, rest) = rest.split_first_chunk::<2>()?;
    let (&kind, rest) = rest.split_first_chunk::<6>()?;
    let (_operation, rest) = rest.split_first_chunk::<2>()?;
    let &[a, b, c, d, e, f, g, h, i, j, ..] = rest.first_chunk::<20>()?;
    let (to, sender) = (MacAddress(*to), MacAddress([a, b, c, d, e, f]));
    let is_sound = u16::from_be_bytes(ether_type) == wire::ARP && kind == FOR_IPV4;
    (is_sound && is_station(sender)).then_some(Packet { to, sender, sender_ip: Ipv4Addr::new(g, h, i, j) })
}

/// Whether an address is a single station's.
pub fn is_station(mac: MacAddress) -> bool {
    !mac.is_group() && mac.0 != [0; 6]
}

/// A frame to `to` that asks who has `target`, from station `mac` with address `ip`. `ar$tha` may be anything and is zero.
pub fn request(to: MacAddress, mac: MacAddress, ip: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME_LEN] {
    let (ours, theirs) = (ip.octets(), target.octets());
    let parts: [&[u8]; 9] =
        [&to.0, &mac.0, &wire::ARP.to_be_bytes(), &FOR_IPV4, &REQUEST, &mac.0, &ours, &[0; 6], &theirs];
    let mut frame = [0; FRAME_LEN];
    frame.iter_mut().zip(parts.into_iter().flatten()).for_each(|(place, byte)| *place = *byte);
    frame
}
