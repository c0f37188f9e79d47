//! Multicast datagrams: received in place, and written in place behind prepared headers.

use std::net::{Ipv4Addr, SocketAddrV4};

use barewire_driver::pool::{BUFFER_LEN, Buffer};
use barewire_driver::{ChecksumOffload, FrameMeta, MacAddress, TxMeta};

use crate::igmp::multicast_mac;
use crate::wire::UDP;

/// Ethernet, IPv4 without options, UDP.
pub(crate) const HEADERS: usize = 14 + 20 + 8;

/// A datagram that a receiver is lent for the time of its call.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// The sender.
    pub source: SocketAddrV4,
    /// The group and port.
    pub destination: SocketAddrV4,
    /// What is known about the frame.
    pub meta: &'a FrameMeta,
    /// The payload, in the buffer that the device wrote.
    pub payload: &'a [u8],
}

/// Where multicast datagrams go, with their headers prepared.
#[derive(Debug, Clone)]
pub struct Route {
    headers: [u8; HEADERS],
    vlan: Option<u16>,
}

impl Route {
    /// Datagrams from `source` to `group`. UDP checksums are left out (zero), as market data feeds do; the time to live is `ttl` hops.
    pub fn new(mac: MacAddress, source: SocketAddrV4, group: SocketAddrV4, ttl: u8, vlan: Option<u16>) -> Self {
        Self::to(multicast_mac(*group.ip()), mac, source, group, ttl, vlan)
    }

    /// As [`Route::new`], to a station whose address is known.
    pub fn to(
        station: MacAddress,
        mac: MacAddress,
        source: SocketAddrV4,
        destination: SocketAddrV4,
        ttl: u8,
        vlan: Option<u16>,
    ) -> Self {
        const DONT_FRAGMENT: u8 = 0x40;
        let mut headers = [0; HEADERS];
        headers[0..6].copy_from_slice(&station.0);
        headers[6..12].copy_from_slice(&mac.0);
        headers[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        headers[20] = DONT_FRAGMENT;
        headers[22] = ttl;
        headers[23] = UDP;
        headers[26..30].copy_from_slice(&source.ip().octets());
        headers[30..34].copy_from_slice(&destination.ip().octets());
        headers[34..36].copy_from_slice(&source.port().to_be_bytes());
        headers[36..38].copy_from_slice(&destination.port().to_be_bytes());
        Self { headers, vlan }
    }

    /// The group.
    pub fn group(&self) -> Ipv4Addr {
        let [.., a, b, c, d, _, _, _, _, _, _, _, _] = self.headers;
        Ipv4Addr::new(a, b, c, d)
    }
}

/// A datagram being written, in the buffer that it will be sent from.
pub struct DatagramBuffer {
    buffer: Buffer,
    vlan: Option<u16>,
}

impl DatagramBuffer {
    #[inline]
    pub(crate) fn new(mut buffer: Buffer, route: &Route) -> Self {
        if let Some(headers) = buffer.first_chunk_mut::<HEADERS>() {
            *headers = route.headers;
        }
        Self { buffer, vlan: route.vlan }
    }

    /// The room for the payload: what an Ethernet frame of 1,500 bytes leaves.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        const MTU_END: usize = 14 + 1500;
        const _: () = assert!(MTU_END <= BUFFER_LEN);
        self.buffer.get_mut(HEADERS..MTU_END).unwrap_or_default()
    }

    /// Fills in the lengths for a payload of `len` bytes and says how to send it.
    #[inline]
    pub(crate) fn finish(mut self, len: u16) -> (Buffer, TxMeta) {
        if let Some(headers) = self.buffer.first_chunk_mut::<HEADERS>() {
            let (udp, ip) = (len.wrapping_add(8), len.wrapping_add(28));
            [headers[16], headers[17]] = ip.to_be_bytes();
            [headers[38], headers[39]] = udp.to_be_bytes();
        }
        let meta = TxMeta {
            len: len.wrapping_add(HEADERS as u16),
            checksum: ChecksumOffload::Ipv4,
            l2_len: 14,
            l3_len: 20,
            vlan: self.vlan,
        };
        (self.buffer, meta)
    }
}
