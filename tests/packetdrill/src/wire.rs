//! The wire between packetdrill, which knows raw IP packets, and a stack, which knows Ethernet frames.
//!
//! On this wire every address is a neighbour: whoever is asked for by ARP (RFC 826) answers at once, and asks for the stack before it sends
//! its first packet. Segments that are longer than a frame are cut as a NIC with segmentation offload would.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use barewire_driver::MacAddress;
use barewire_driver::clock::Nanos;
use barewire_driver::soft::FrameIo;

/// The largest IP packet, in bytes.
pub const MTU: usize = 1500;
/// The station address of the stack.
pub const STACK_MAC: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 1]);
/// The station address of everybody else.
const PEER_MAC: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 2]);

const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const TCP: u8 = 6;
/// How an ARP packet for IPv4 over Ethernet begins.
const ARP_REQUEST: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];
const ARP_ANSWER: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 2];

/// Why a packet cannot be put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is longer than the MTU, and no TCP segment.
    TooLong,
    /// It is no IPv4 packet.
    NotIpv4,
}

/// A packet that the stack sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Nanos,
    /// From the IP header on.
    pub packet: Vec<u8>,
}

#[derive(Default)]
struct Queues {
    now: Nanos,
    /// Who has asked for the stack.
    senders: BTreeSet<Ipv4Addr>,
    to_stack: VecDeque<Vec<u8>>,
    from_stack: VecDeque<Sent>,
}

/// The wire; clones are the same one.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<Queues>>);

impl Wire {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what the stack sends was sent at `now`.
    pub fn set_time(&self, now: Nanos) {
        self.queues().now = now;
    }

    /// Sends an IPv4 packet to the stack.
    pub fn inject(&self, packet: &[u8]) -> Result<(), Refused> {
        let header = packet.first_chunk::<20>().filter(|header| header[0] >> 4 == 4).ok_or(Refused::NotIpv4)?;
        let [.., a, b, c, d, e, f, g, h] = *header;
        let packets = if packet.len() > MTU { cut(packet).ok_or(Refused::TooLong)? } else { vec![packet.to_vec()] };
        let mut queues = self.queues();
        if queues.senders.insert([a, b, c, d].into()) {
            let question = [&ARP_REQUEST[..], &PEER_MAC.0, &[a, b, c, d], &[0; 6], &[e, f, g, h]].concat();
            queues.to_stack.push_back(frame(MacAddress::BROADCAST, ARP, &question));
        }
        queues.to_stack.extend(packets.iter().map(|packet| frame(STACK_MAC, IPV4, packet)));
        Ok(())
    }

    /// The next packet that the stack sent.
    pub fn next_sent(&self) -> Option<Sent> {
        self.queues().from_stack.pop_front()
    }

    /// Whether frames wait for the stack.
    pub fn has_arrivals(&self) -> bool {
        !self.queues().to_stack.is_empty()
    }

    /// Who sent the TCP segment that the stack receives next.
    pub fn next_sender(&self) -> Option<SocketAddrV4> {
        let queues = self.queues();
        let packet = queues.to_stack.iter().find(|frame| frame.get(12..ETHERNET) == Some(&IPV4))?.get(ETHERNET..)?;
        let (ip, segment) = packet.split_at_checked(usize::from(packet.first()? & 0xF) * 4)?;
        let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
        let port = u16::from_be_bytes(segment.get(..2)?.try_into().ok()?);
        (*ip.get(9)? == TCP).then(|| SocketAddrV4::new(source.into(), port))
    }
}

/// The stack's end.
impl FrameIo for Wire {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(frame) = self.queues().to_stack.pop_front() else { return Ok(None) };
        let len = frame.len().min(buffer.len());
        buffer[..len].copy_from_slice(&frame[..len]);
        Ok(Some(len))
    }

    fn send(&self, frame: &[u8]) -> io::Result<bool> {
        let Some((header, body)) = frame.split_at_checked(ETHERNET) else { return Ok(true) };
        let mut queues = self.queues();
        match [header[12], header[13]] {
            ARP => queues.to_stack.extend(arp_answer(body)),
            // packetdrill checks the IP header's checksum and leaves TCP's alone.
            IPV4 if !tcp_checksum_is_right(body) => {
                eprintln!("barewire-packetdrill: the stack sent a segment with a wrong TCP checksum; it is lost");
            }
            IPV4 => {
                let at = queues.now;
                let total = body.get(2..4).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
                // Without the padding of short frames.
                let packet = body.get(..total).unwrap_or(body).to_vec();
                queues.from_stack.push_back(Sent { at, packet });
            }
            _ => {}
        }
        Ok(true)
    }
}

fn frame(to: MacAddress, ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &PEER_MAC.0, &ethertype, payload].concat()
}

/// The answer to an ARP request.
fn arp_answer(request: &[u8]) -> Option<Vec<u8>> {
    let (fixed, addresses) = request.split_first_chunk()?;
    let (sender, target) = addresses.get(..20)?.split_at(10);
    let (asked, asking) = (&target[6..], &sender[6..]);
    // An address that is asked for by its owner is announced, or probed for.
    let is_question = *fixed == ARP_REQUEST && asked != asking && asking != Ipv4Addr::UNSPECIFIED.octets();
    let answer = || [&ARP_ANSWER[..], &PEER_MAC.0, asked, sender].concat();
    is_question.then(|| frame(STACK_MAC, ARP, &answer()))
}

/// Cuts a TCP segment into such as fit the MTU: the first keeps CWR, the last FIN and PSH.
fn cut(packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    const FIN_PSH: u8 = 0x09;
    const CWR: u8 = 0x80;
    let ip_len = usize::from(packet.first()? & 0xF) * 4;
    let offset = usize::from(packet.get(ip_len + 12)? >> 4) * 4;
    let (headers, payload) = packet.split_at_checked(ip_len + offset).filter(|_| packet[9] == TCP)?;
    let size = MTU.checked_sub(headers.len()).filter(|size| *size > 0 && ip_len >= 20 && offset >= 20)?;
    let sequence = u32::from_be_bytes(headers[ip_len + 4..ip_len + 8].try_into().ok()?);
    let count = payload.len().div_ceil(size);
    let segment = |(index, piece): (usize, &[u8])| {
        let mut cut = [headers, piece].concat();
        let sequence = sequence.wrapping_add((index * size) as u32);
        cut[2..4].copy_from_slice(&((headers.len() + piece.len()) as u16).to_be_bytes());
        cut[ip_len + 4..ip_len + 8].copy_from_slice(&sequence.to_be_bytes());
        let (not_first, not_last) = (index > 0, index + 1 < count);
        cut[ip_len + 13] &= !(if not_first { CWR } else { 0 } | if not_last { FIN_PSH } else { 0 });
        finish(&mut cut, ip_len);
        cut
    };
    Some(payload.chunks(size).enumerate().map(segment).collect())
}

/// Fills in the checksums of a TCP segment in an IPv4 packet.
pub fn finish(packet: &mut [u8], ip_len: usize) {
    let (ip, segment) = packet.split_at_mut(ip_len);
    ip[10..12].fill(0);
    let sum = !ones_complement_sum(&[ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    segment[16..18].fill(0);
    let sum = !ones_complement_sum(&[&pseudo_header(ip, segment), segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
}

fn pseudo_header(ip: &[u8], segment: &[u8]) -> Vec<u8> {
    [&ip[12..20], &[0, TCP], &(segment.len() as u16).to_be_bytes()].concat()
}

/// Whether the checksum of a TCP segment in an IPv4 packet is right (RFC 9293, 3.1); other packets have none.
fn tcp_checksum_is_right(packet: &[u8]) -> bool {
    let Some(ip) = packet.first_chunk::<20>() else { return true };
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let Some(segment) = packet.get(usize::from(ip[0] & 0xF) * 4..total) else { return true };
    if ip[9] != TCP {
        return true;
    }
    ones_complement_sum(&[&pseudo_header(ip, segment), segment]) == 0xFFFF
}

/// The Internet checksum's sum (RFC 1071) over parts, of which all but the last have an even length.
fn ones_complement_sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN from 192.168.0.1:8080 to 192.0.2.1:40000, checksum included.
    fn segment() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0, 192, 168, 0, 1, 192, 0, 2, 1];
        packet.extend([0x1F, 0x90, 0x9C, 0x40, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xFF, 0xFF, 0, 0, 0, 0]);
        finish(&mut packet, 20);
        packet
    }

    fn send(wire: &Wire, ethertype: [u8; 2], body: &[u8]) {
        let mut frame = [&PEER_MAC.0[..], &STACK_MAC.0, &ethertype, body].concat();
        frame.resize(frame.len().max(60), 0);
        assert!(wire.send(&frame).is_ok_and(|sent| sent));
    }

    fn receive(wire: &Wire) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let len = wire.receive(&mut buffer).expect("no error").expect("a frame");
        buffer[..len].to_vec()
    }

    #[test]
    fn sent_packet_loses_its_ethernet_header_and_padding_and_is_stamped() {
        let wire = Wire::default();
        wire.set_time(7);
        send(&wire, IPV4, &segment());
        assert_eq!(wire.next_sent(), Some(Sent { at: 7, packet: segment() }));
        assert_eq!(wire.next_sent(), None);
    }

    #[test]
    fn segment_with_a_wrong_checksum_is_lost() {
        let (wire, mut damaged) = (Wire::default(), segment());
        damaged[25] ^= 1;
        send(&wire, IPV4, &damaged);
        assert_eq!(wire.next_sent(), None);
    }

    #[test]
    fn injected_packet_arrives_as_a_frame_and_its_sender_is_known() {
        let wire = Wire::default();
        wire.inject(&segment()).expect("an IPv4 packet");
        assert_eq!(wire.next_sender(), Some("192.168.0.1:8080".parse().expect("an address")));
        let question = receive(&wire);
        assert_eq!((&question[20..22], &question[28..32]), (&[0, 1][..], &[192, 168, 0, 1][..]));
        let frame = receive(&wire);
        assert_eq!((&frame[..6], &frame[12..14], &frame[14..]), (&STACK_MAC.0[..], &IPV4[..], &segment()[..]));
        assert_eq!((wire.next_sender(), wire.has_arrivals()), (None, false));
    }

    #[test]
    fn other_than_ipv4_of_the_mtu_is_refused() {
        let wire = Wire::default();
        assert_eq!(wire.inject(&[0x60; 40]), Err(Refused::NotIpv4));
        assert_eq!(wire.inject(&[]), Err(Refused::NotIpv4));
        assert_eq!(wire.inject(&[0x45; MTU + 1]), Err(Refused::TooLong));
    }

    #[test]
    fn long_segment_is_cut_and_only_its_last_piece_ends_the_stream() {
        let wire = Wire::default();
        let mut long = [segment(), (0..4000u16).map(|byte| byte as u8).collect()].concat();
        long[33] = 0x19;
        wire.inject(&long).expect("a segment that can be cut");
        receive(&wire);
        let mut payload = Vec::new();
        for (sequence, flags, len) in [(1, 0x10, 1460), (1461, 0x10, 1460), (2921, 0x19, 1080)] {
            let frame = receive(&wire);
            let packet = &frame[ETHERNET..];
            assert_eq!(u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]), sequence);
            assert_eq!((packet[33], packet.len()), (flags, 40 + len));
            assert!(tcp_checksum_is_right(packet) && ones_complement_sum(&[&packet[..20]]) == 0xFFFF);
            payload.extend_from_slice(&packet[40..]);
        }
        assert_eq!(payload, long[40..]);
        assert!(!wire.has_arrivals());
    }

    #[test]
    fn every_address_but_the_stacks_own_answers_arp() {
        let wire = Wire::default();
        let request = |asked: [u8; 4]| {
            send(&wire, ARP, &[&ARP_REQUEST[..], &STACK_MAC.0, &[192, 168, 0, 1], &[0; 6], &asked].concat());
        };
        request([192, 168, 0, 1]);
        assert!(!wire.has_arrivals());
        request([192, 0, 2, 1]);
        let answer = receive(&wire);
        assert_eq!(answer[20..22], [0, 2]);
        assert_eq!(answer[22..32], [&PEER_MAC.0[..], &[192, 0, 2, 1]].concat());
        assert_eq!(answer[32..42], [&STACK_MAC.0[..], &[192, 168, 0, 1]].concat());
    }
}
