//! The host stack: smoltcp behind a device of one frame. ARP, ICMP echo, UDP and TCP that no express lane carries.

use std::net::SocketAddrV4;

use barewire_driver::clock::Nanos;
use barewire_driver::pool::Buffer;
use barewire_driver::{ChecksumOffload, TxMeta, TxQueue};
use smoltcp::iface::{Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use crate::checksum::{pseudo_header, sum};
use crate::stack::Config;
use crate::wire;

/// The largest IP packet, bytes.
const MTU: usize = 1500;
/// Room of a TCP socket each way, bytes.
const TCP_BUFFER: usize = 64 << 10;
/// Room of a UDP socket each way, bytes and datagrams.
const UDP_BUFFER: (usize, usize) = (64 << 10, 64);
/// The first port of outgoing connections (RFC 6335, 6: dynamic ports).
const FIRST_DYNAMIC_PORT: u16 = 49_152;

/// Names a TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpId(SocketHandle);

/// Names a UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpId(SocketHandle);

/// The states of a connection (RFC 9293, 3.3.2).
pub use smoltcp::socket::tcp::State as TcpState;

/// Why a TCP operation was not done. Nothing was sent; the connection is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TcpError {
    /// The send buffer has not enough room for all of it.
    #[error("send buffer has {room} bytes free; send less, or wait for acknowledgements")]
    NoRoom {
        /// Bytes free.
        room: usize,
    },
    /// The connection cannot send or receive in its state.
    #[error("connection is not open for this")]
    NotOpen,
    /// The port is zero or the address is no host's.
    #[error("address or port cannot be used for a connection")]
    BadAddress,
}

/// smoltcp with its sockets and what surrounds it.
pub(crate) struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    tcp: Vec<Tracked>,
    ack_delay: Option<Duration>,
    next_port: u16,
    pub adapter: Adapter,
    /// Something happened that can make smoltcp want to send.
    dirty: bool,
    deadline: Option<Nanos>,
}

struct Tracked {
    id: TcpId,
    state: TcpState,
}

/// What the one-frame device counts.
#[derive(Default)]
pub(crate) struct Adapter {
    flows: Vec<Flow>,
    pub retransmits: u64,
    pub no_buffer: u64,
}

/// The highest sequence number sent on a connection.
struct Flow {
    ports: [u8; 4],
    peer: [u8; 4],
    sent: u32,
}

/// Flows that are remembered for counting retransmissions; a trading host has a handful.
const FLOWS: usize = 64;

fn instant(now: Nanos) -> Instant {
    Instant::from_micros(i64::try_from(now / 1000).unwrap_or(i64::MAX))
}

impl Host {
    pub fn new(config: &Config, tx: &mut impl TxQueue) -> Self {
        let mut adapter = Adapter::default();
        let mut settings = smoltcp::iface::Config::new(HardwareAddress::Ethernet(EthernetAddress(config.mac.0)));
        settings.random_seed = config.seed;
        let mut interface =
            Interface::new(settings, &mut OneFrame { frame: None, tx, adapter: &mut adapter }, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The table holds two addresses; this is the first.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(config.ip), config.prefix_len));
        });
        if let Some(gateway) = config.gateway {
            // The table holds four routes; this is the first.
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            tcp: Vec::new(),
            ack_delay: config.ack_delay.map(|delay| Duration::from_micros(delay / 1000)),
            next_port: FIRST_DYNAMIC_PORT + (config.seed % 8192) as u16,
            adapter,
            dirty: true,
            deadline: None,
        }
    }

    /// Feeds one frame in; answers are committed to `tx`.
    pub fn ingress(&mut self, now: Nanos, frame: &[u8], tx: &mut impl TxQueue) {
        let mut device = OneFrame { frame: Some(frame), tx, adapter: &mut self.adapter };
        let result = self.interface.poll_ingress_single(instant(now), &mut device, &mut self.sockets);
        if device.frame.is_some() {
            self.adapter.no_buffer += 1;
        }
        // Acknowledged data may make room for more even when no socket's state changed.
        let _: PollIngressSingleResult = result;
        self.dirty = true;
    }

    /// Sends what is due, if anything can be.
    pub fn egress(&mut self, now: Nanos, tx: &mut impl TxQueue) {
        if !self.dirty && self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.egress_now(now, tx);
    }

    fn egress_now(&mut self, now: Nanos, tx: &mut impl TxQueue) {
        let at = instant(now);
        let mut device = OneFrame { frame: None, tx, adapter: &mut self.adapter };
        self.interface.poll_egress(at, &mut device, &mut self.sockets);
        let next = self.interface.poll_at(at, &self.sockets);
        self.deadline = next.map(|next| Nanos::try_from(next.total_micros()).unwrap_or(0).saturating_mul(1000));
        self.dirty = false;
    }

    /// When smoltcp wants to be called again.
    pub fn deadline(&self, now: Nanos) -> Option<Nanos> {
        if self.dirty { Some(now) } else { self.deadline }
    }

    /// The next connection that has data, or whose state is not what it was.
    pub fn next_event(&mut self, after: usize) -> Option<(usize, TcpId)> {
        for (index, tracked) in self.tcp.iter_mut().enumerate().skip(after) {
            let socket = self.sockets.get::<tcp::Socket>(tracked.id.0);
            let state = socket.state();
            if socket.can_recv() || state != tracked.state {
                tracked.state = state;
                return Some((index, tracked.id));
            }
        }
        None
    }

    fn add_tcp(&mut self) -> TcpId {
        let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(self.ack_delay);
        let id = TcpId(self.sockets.add(socket));
        self.tcp.push(Tracked { id, state: TcpState::Closed });
        id
    }

    fn tcp(&mut self, id: TcpId) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(id.0)
    }

    pub fn listen(&mut self, port: u16) -> Result<TcpId, TcpError> {
        let id = self.add_tcp();
        self.tcp(id).listen(port).map_err(|_| TcpError::BadAddress)?;
        Ok(id)
    }

    pub fn connect(&mut self, remote: SocketAddrV4) -> Result<TcpId, TcpError> {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_DYNAMIC_PORT);
        let id = self.add_tcp();
        let remote = IpEndpoint::new(IpAddress::Ipv4(*remote.ip()), remote.port());
        let socket = self.sockets.get_mut::<tcp::Socket>(id.0);
        socket.connect(self.interface.context(), remote, port).map_err(|_| TcpError::BadAddress)?;
        self.dirty = true;
        Ok(id)
    }

    pub fn send(&mut self, now: Nanos, id: TcpId, bytes: &[u8], tx: &mut impl TxQueue) -> Result<(), TcpError> {
        let socket = self.tcp(id);
        let room = socket.send_capacity().saturating_sub(socket.send_queue());
        if !socket.may_send() {
            return Err(TcpError::NotOpen);
        }
        if room < bytes.len() {
            return Err(TcpError::NoRoom { room });
        }
        socket.send_slice(bytes).map_err(|_| TcpError::NotOpen)?;
        self.egress_now(now, tx);
        Ok(())
    }

    pub fn receive(&mut self, id: TcpId, mut take: impl FnMut(&[u8]) -> usize) -> Result<(), TcpError> {
        self.dirty = true;
        let socket = self.tcp(id);
        while socket.can_recv() {
            let taken = socket.recv(|bytes| {
                let taken = take(bytes).min(bytes.len());
                (taken, taken)
            });
            match taken {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return Err(TcpError::NotOpen),
            }
        }
        Ok(())
    }

    pub fn state(&mut self, id: TcpId) -> TcpState {
        self.tcp(id).state()
    }

    pub fn unacknowledged(&mut self, id: TcpId) -> usize {
        self.tcp(id).send_queue()
    }

    pub fn close(&mut self, id: TcpId) {
        self.tcp(id).close();
        self.dirty = true;
    }

    pub fn abort(&mut self, id: TcpId) {
        self.tcp(id).abort();
        self.dirty = true;
    }

    pub fn bind(&mut self, port: u16) -> Result<UdpId, TcpError> {
        let (bytes, packets) = UDP_BUFFER;
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; packets], vec![0; bytes]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(IpListenEndpoint::from(port)).map_err(|_| TcpError::BadAddress)?;
        Ok(UdpId(self.sockets.add(socket)))
    }

    pub fn udp_receive(&mut self, id: UdpId, take: impl FnOnce(&[u8], SocketAddrV4)) -> bool {
        let Ok((bytes, from)) = self.sockets.get_mut::<udp::Socket>(id.0).recv() else { return false };
        let IpAddress::Ipv4(ip) = from.endpoint.addr;
        take(bytes, SocketAddrV4::new(ip, from.endpoint.port));
        true
    }

    pub fn udp_send(
        &mut self,
        now: Nanos,
        id: UdpId,
        to: SocketAddrV4,
        bytes: &[u8],
        tx: &mut impl TxQueue,
    ) -> Result<(), TcpError> {
        let to = IpEndpoint::new(IpAddress::Ipv4(*to.ip()), to.port());
        let socket = self.sockets.get_mut::<udp::Socket>(id.0);
        socket.send_slice(bytes, to).map_err(|_| TcpError::NoRoom { room: 0 })?;
        self.egress_now(now, tx);
        Ok(())
    }
}

/// A device that holds at most one received frame, and writes what is sent into DMA buffers.
struct OneFrame<'a, T> {
    frame: Option<&'a [u8]>,
    tx: &'a mut T,
    adapter: &'a mut Adapter,
}

struct RxToken<'a>(&'a [u8]);

struct TxToken<'a, T> {
    buffer: Buffer,
    tx: &'a mut T,
    adapter: &'a mut Adapter,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl<T: TxQueue> phy::TxToken for TxToken<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        // smoltcp keeps to the device's MTU, which is smaller than a buffer.
        let frame = &mut self.buffer[..len];
        let result = f(frame);
        self.adapter.count_retransmit(frame);
        let meta = TxMeta { len: len as u16, ..prepare(frame) };
        if self.tx.commit(self.buffer, meta).is_err() {
            self.adapter.no_buffer += 1;
        }
        result
    }
}

impl<T: TxQueue> Device for OneFrame<'_, T> {
    type RxToken<'b>
        = RxToken<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = TxToken<'b, T>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_, T>)> {
        let buffer = self.tx.reserve().ok()?;
        let frame = self.frame.take()?;
        Some((RxToken(frame), TxToken { buffer, tx: self.tx, adapter: self.adapter }))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_, T>> {
        let buffer = self.tx.reserve().ok()?;
        Some(TxToken { buffer, tx: self.tx, adapter: self.adapter })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        // Ethernet header included, FCS not.
        capabilities.max_transmission_unit = MTU + 14;
        capabilities.max_burst_size = None;
        // Received frames have been checked by the device or by `verify`; those sent are finished by the device.
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        capabilities
    }
}

/// Sets the pseudo-header's sum where the device finishes a checksum, and says which.
fn prepare(frame: &mut [u8]) -> TxMeta {
    let none = TxMeta::default();
    let Some((ethernet, packet)) = frame.split_first_chunk_mut::<14>() else { return none };
    if u16::from_be_bytes([ethernet[12], ethernet[13]]) != wire::IPV4 {
        return none;
    }
    let Some((ip, segment)) = packet.split_first_chunk_mut::<20>() else { return none };
    let (field, checksum) = match ip[9] {
        wire::TCP => (16, ChecksumOffload::Ipv4Tcp),
        wire::UDP => (6, ChecksumOffload::Ipv4Udp),
        _ => return TxMeta { checksum: ChecksumOffload::Ipv4, l2_len: 14, l3_len: 20, ..none },
    };
    let [.., a, b, c, d, e, f, g, h] = *ip;
    let sum = pseudo_header([a, b, c, d], [e, f, g, h], ip[9], segment.len() as u16);
    if let Some(place) = segment.get_mut(field..field + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    TxMeta { checksum, l2_len: 14, l3_len: 20, ..none }
}

/// Checks in software what the device did not: the IP header, and TCP's or UDP's sum where the packet is whole.
pub(crate) fn verify(frame: &[u8]) -> bool {
    let Some(packet) = frame.get(14..) else { return false };
    let Some(ip) = packet.first_chunk::<20>() else { return false };
    let header_len = usize::from(ip[0] & 0xF) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let Some((header, segment)) = packet.get(..total).and_then(|packet| packet.split_at_checked(header_len)) else {
        return false;
    };
    if sum(header, 0) != 0xFFFF {
        return false;
    }
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3FFF != 0;
    let no_udp_sum = ip[9] == wire::UDP && segment.get(6..8) == Some(&[0, 0]);
    if fragment || no_udp_sum || !matches!(ip[9], wire::TCP | wire::UDP) {
        return true;
    }
    let [.., a, b, c, d, e, f, g, h] = *ip;
    sum(segment, u32::from(pseudo_header([a, b, c, d], [e, f, g, h], ip[9], segment.len() as u16))) == 0xFFFF
}

impl Adapter {
    /// Counts a TCP segment that occupies sequence space (RFC 9293, 3.4) of which all was sent before.
    fn count_retransmit(&mut self, frame: &[u8]) {
        const SYN_FIN: u8 = 0b11;
        let Some((headers, payload)) = frame.split_first_chunk::<54>() else { return };
        if headers[12..14] != [8, 0] || headers[23] != wire::TCP {
            return;
        }
        let options = (usize::from(headers[46] >> 4) * 4).saturating_sub(20);
        let flags = (headers[47] & SYN_FIN).count_ones();
        let len = payload.len().saturating_sub(options) as u32 + flags;
        if len == 0 {
            return;
        }
        let sequence = u32::from_be_bytes([headers[38], headers[39], headers[40], headers[41]]);
        let end = sequence.wrapping_add(len);
        let ports = [headers[34], headers[35], headers[36], headers[37]];
        let peer = [headers[30], headers[31], headers[32], headers[33]];
        let room = self.flows.len() < FLOWS;
        match self.flows.iter_mut().find(|flow| flow.ports == ports && flow.peer == peer) {
            Some(flow) if (end.wrapping_sub(flow.sent) as i32) <= 0 => self.retransmits += 1,
            Some(flow) => flow.sent = end,
            None if room => self.flows.push(Flow { ports, peer, sent: end }),
            None => {}
        }
    }
}
