//! The host stack: smoltcp behind a device of one frame. ARP, ICMP echo, UDP and TCP that no express lane carries.

use std::net::{Ipv4Addr, SocketAddrV4};

use barewire_driver::clock::Nanos;
use barewire_driver::pool::Buffer;
use barewire_driver::{ChecksumOffload, TxMeta, TxQueue};
use smoltcp::iface::{Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint,
};

use crate::checksum::{pseudo_header, sum};
use crate::stack::Config;
use crate::tcp::{TcpError, TcpState};
use crate::wire;

/// The largest IP packet, bytes.
const MTU: usize = 1500;
/// Room of a TCP socket each way, bytes.
const TCP_BUFFER: usize = 64 << 10;
/// Room of a UDP socket each way, bytes and datagrams.
const UDP_BUFFER: (usize, usize) = (64 << 10, 64);
/// Room of an echo client each way, bytes and messages.
const PING_BUFFER: (usize, usize) = (16 << 10, 16);
/// The ports of outgoing connections: below the dynamic ones (RFC 6335, 6), which are the express lane's.
const FIRST_PORT: u16 = 32_768;
const LAST_PORT: u16 = 49_151;

/// Names a TCP socket of the host stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(SocketHandle);

/// Names a UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpId(SocketHandle);

/// Names an ICMP echo client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingId(SocketHandle, u16);

/// An ICMP echo message, request or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Its number.
    pub sequence: u16,
    /// What it carries, at most 1,472 bytes.
    pub payload: &'a [u8],
}

/// smoltcp's states of a connection.
pub(crate) use smoltcp::socket::tcp::State;

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
    /// Something was sent, and `deadline` is from before that.
    stale: bool,
    deadline: Option<Nanos>,
}

struct Tracked {
    id: SocketId,
    state: State,
    /// The port it was made to listen on, until it is accepted.
    listener: Option<u16>,
    /// Its user has given it up.
    is_released: bool,
}

/// What the user is to hear of a socket.
pub(crate) struct News {
    pub id: SocketId,
    /// The port of the listener that has just accepted it.
    pub accepted: Option<u16>,
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
            next_port: FIRST_PORT + (config.seed % 8192) as u16,
            adapter,
            dirty: true,
            stale: false,
            deadline: None,
        }
    }

    /// Feeds one frame in; answers are committed to `tx`. With `transmit` and `reschedule` all of smoltcp that a poll can reach: never inlined, so
    /// that the proofs of the hot path can tell it by its name.
    #[inline(never)]
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
        if self.stale && !self.dirty {
            self.reschedule(now);
        }
        if self.dirty || self.deadline.is_some_and(|deadline| deadline <= now) {
            self.transmit(now, tx);
            self.reschedule(now);
        }
    }

    /// Sends at once. When to come back is found out after the doorbell, in [`Host::egress`].
    #[inline(never)]
    fn transmit(&mut self, now: Nanos, tx: &mut impl TxQueue) {
        let mut device = OneFrame { frame: None, tx, adapter: &mut self.adapter };
        self.interface.poll_egress(instant(now), &mut device, &mut self.sockets);
        self.stale = true;
    }

    #[inline(never)]
    fn reschedule(&mut self, now: Nanos) {
        let next = self.interface.poll_at(instant(now), &self.sockets);
        self.deadline = next.map(|next| Nanos::try_from(next.total_micros()).unwrap_or(0).saturating_mul(1000));
        (self.dirty, self.stale) = (false, false);
    }

    /// When smoltcp wants to be called again.
    pub fn deadline(&self, now: Nanos) -> Option<Nanos> {
        if self.dirty || self.stale { Some(now) } else { self.deadline }
    }

    /// The next connection that has data, or whose state is not what it was.
    pub fn next_event(&mut self, after: usize) -> Option<(usize, News)> {
        for index in after..self.tcp.len() {
            let tracked = &mut self.tcp[index];
            let socket = self.sockets.get::<tcp::Socket>(tracked.id.0);
            let (state, was, id) = (socket.state(), tracked.state, tracked.id);
            if !socket.can_recv() && state == was {
                continue;
            }
            tracked.state = state;
            let listener = tracked.listener;
            if was == State::Listen
                && state != was
                && let Some(port) = listener
            {
                // The socket has become a connection; another one listens in its place.
                let _ = self.listen(port);
            }
            let opens = matches!(state, State::Established | State::CloseWait);
            if listener.is_some() && !opens {
                continue;
            }
            self.tcp[index].listener = None;
            return Some((index, News { id, accepted: listener }));
        }
        None
    }

    /// Removes sockets that are over and that nobody holds.
    pub fn sweep(&mut self) {
        let Self { tcp, sockets, .. } = self;
        tcp.retain(|tracked| {
            let state = sockets.get::<tcp::Socket>(tracked.id.0).state();
            let is_over = matches!(state, State::Closed) && (tracked.is_released || tracked.listener.is_some());
            if is_over {
                sockets.remove(tracked.id.0);
            }
            !is_over
        });
    }

    fn add_tcp(&mut self, listener: Option<u16>) -> SocketId {
        let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(self.ack_delay);
        let id = SocketId(self.sockets.add(socket));
        self.tcp.push(Tracked { id, state: State::Closed, listener, is_released: false });
        id
    }

    fn tcp(&mut self, id: SocketId) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(id.0)
    }

    /// Whether `id` still names a socket: one that was released and is over does not.
    fn find(&mut self, id: SocketId) -> Option<&mut tcp::Socket<'static>> {
        self.tcp.iter().any(|tracked| tracked.id == id).then(|| self.sockets.get_mut(id.0))
    }

    /// Whether a socket listens on `port`.
    pub fn is_listening(&self, port: u16) -> bool {
        self.tcp.iter().any(|tracked| tracked.listener == Some(port) && tracked.state == State::Listen)
    }

    pub fn listen(&mut self, port: u16) -> Result<(), TcpError> {
        let id = self.add_tcp(Some(port));
        if self.tcp(id).listen(port).is_err() {
            self.tcp.pop();
            self.sockets.remove(id.0);
            return Err(TcpError::BadAddress);
        }
        if let Some(tracked) = self.tcp.last_mut() {
            tracked.state = State::Listen;
        }
        Ok(())
    }

    pub fn unlisten(&mut self, port: u16) {
        let Self { tcp, sockets, .. } = self;
        for tracked in tcp.iter().filter(|tracked| tracked.listener == Some(port)) {
            sockets.get_mut::<tcp::Socket>(tracked.id.0).abort();
        }
        self.dirty = true;
        self.sweep();
    }

    pub fn connect(&mut self, remote: SocketAddrV4) -> Result<SocketId, TcpError> {
        let port = self.next_port;
        self.next_port = if port >= LAST_PORT { FIRST_PORT } else { port + 1 };
        let id = self.add_tcp(None);
        let remote = IpEndpoint::new(IpAddress::Ipv4(*remote.ip()), remote.port());
        let socket = self.sockets.get_mut::<tcp::Socket>(id.0);
        if socket.connect(self.interface.context(), remote, port).is_err() {
            self.tcp.pop();
            self.sockets.remove(id.0);
            return Err(TcpError::BadAddress);
        }
        self.dirty = true;
        Ok(id)
    }

    /// Bytes that could be queued.
    #[cold]
    pub fn room(&mut self, id: SocketId) -> usize {
        let Some(socket) = self.find(id).filter(|socket| socket.may_send()) else { return 0 };
        socket.send_capacity().saturating_sub(socket.send_queue())
    }

    #[cold]
    pub fn send(&mut self, now: Nanos, id: SocketId, bytes: &[u8], tx: &mut impl TxQueue) -> Result<usize, TcpError> {
        let Some(socket) = self.find(id) else { return Err(TcpError::NotOpen(TcpState::Closed)) };
        if !socket.may_send() {
            return Err(TcpError::NotOpen(socket.state().into()));
        }
        let sent = socket.send_slice(bytes).map_err(|_| TcpError::NoRoom { room: 0 })?;
        if sent == 0 && !bytes.is_empty() {
            return Err(TcpError::NoRoom { room: 0 });
        }
        self.transmit(now, tx);
        Ok(sent)
    }

    pub fn receive(&mut self, id: SocketId, mut take: impl FnMut(&[u8]) -> usize) -> Result<(), TcpError> {
        self.dirty = true;
        let Some(socket) = self.find(id) else { return Err(TcpError::NotOpen(TcpState::Closed)) };
        while socket.can_recv() {
            let taken = socket.recv(|bytes| {
                let taken = take(bytes).min(bytes.len());
                (taken, taken)
            });
            match taken {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return Err(TcpError::NotOpen(socket.state().into())),
            }
        }
        Ok(())
    }

    pub fn peek(&mut self, id: SocketId) -> &[u8] {
        match self.find(id) {
            Some(socket) if socket.can_recv() => socket.peek(TCP_BUFFER).unwrap_or_default(),
            _ => &[],
        }
    }

    pub fn consume(&mut self, id: SocketId, bytes: usize) {
        self.dirty = true;
        if let Some(socket) = self.find(id).filter(|socket| socket.can_recv()) {
            // Reading cannot fail where there is something to read.
            let _ = socket.recv(|waiting| (bytes.min(waiting.len()), ()));
        }
    }

    pub fn state(&mut self, id: SocketId) -> TcpState {
        self.find(id).map_or(TcpState::Closed, |socket| socket.state().into())
    }

    pub fn unacknowledged(&mut self, id: SocketId) -> usize {
        self.find(id).map_or(0, |socket| socket.send_queue())
    }

    pub fn close(&mut self, id: SocketId) {
        if let Some(socket) = self.find(id) {
            socket.close();
        }
        self.dirty = true;
    }

    pub fn abort(&mut self, id: SocketId) {
        if let Some(socket) = self.find(id) {
            socket.abort();
        }
        self.dirty = true;
    }

    pub fn release(&mut self, id: SocketId) {
        self.close(id);
        if let Some(tracked) = self.tcp.iter_mut().find(|tracked| tracked.id == id) {
            tracked.is_released = true;
        }
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
        self.transmit(now, tx);
        Ok(())
    }

    pub fn ping_open(&mut self, identifier: u16) -> Result<PingId, TcpError> {
        let (bytes, packets) = PING_BUFFER;
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; packets], vec![0; bytes]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(identifier)).map_err(|_| TcpError::BadAddress)?;
        Ok(PingId(self.sockets.add(socket), identifier))
    }

    pub fn ping_send(
        &mut self,
        now: Nanos,
        PingId(id, ident): PingId,
        to: Ipv4Addr,
        echo: Echo<'_>,
        tx: &mut impl TxQueue,
    ) -> Result<(), TcpError> {
        let request = Icmpv4Repr::EchoRequest { ident, seq_no: echo.sequence, data: echo.payload };
        let socket = self.sockets.get_mut::<icmp::Socket>(id);
        let room = socket.send(request.buffer_len(), to.into()).map_err(|_| TcpError::NoRoom { room: 0 })?;
        request.emit(&mut Icmpv4Packet::new_unchecked(room), &ChecksumCapabilities::default());
        self.transmit(now, tx);
        Ok(())
    }

    pub fn ping_receive(&mut self, PingId(id, _): PingId, take: impl FnOnce(Ipv4Addr, Echo<'_>)) -> bool {
        // What is no answer to an echo of ours is an error about one: the caller's timeout covers it.
        while let Ok((bytes, IpAddress::Ipv4(from))) = self.sockets.get_mut::<icmp::Socket>(id).recv() {
            let Ok(packet) = Icmpv4Packet::new_checked(bytes) else { continue };
            if let Ok(Icmpv4Repr::EchoReply { seq_no, data, .. }) =
                Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default())
            {
                take(from, Echo { sequence: seq_no, payload: data });
                return true;
            }
        }
        false
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

/// Checks in software what the device did not: the IP header, and TCP's or UDP's sum where the packet is whole. A UDP checksum of zero means
/// none (RFC 768).
#[cold]
pub(crate) fn verify(packet: &[u8]) -> bool {
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
