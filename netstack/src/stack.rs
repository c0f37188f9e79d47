//! One stack: a queue pair, the multicast lane, and the host stack for everything else.

use std::net::{Ipv4Addr, SocketAddrV4};

use barewire_driver::clock::Nanos;
use barewire_driver::{
    Checksum, Frame, FrameMeta, MAX_FRAME_LEN, MacAddress, QueueFault, QueuePair, RxQueue, TxError, TxMeta, TxQueue,
};

use crate::checksum::{pseudo_header, sum};
use crate::datagram::{Datagram, DatagramBuffer, Route};
use crate::demux::{Demux, JoinError, Key, ReceiverId};
use crate::host::{self, Host, TcpError, TcpId, TcpState, UdpId};
use crate::igmp::{self, Memberships, multicast_mac};
use crate::stats::StackStats;
use crate::wire::{self, Seen, Udp};

/// Frames taken from the ring in one poll, at most. The burst shares one time stamp.
const BURST: u32 = 32;
/// Receivers of multicast datagrams, at most.
const RECEIVERS: u16 = 1024;

/// Who the stack is.
#[derive(Debug, Clone)]
pub struct Config {
    /// The port's station address.
    pub mac: MacAddress,
    /// The host's address.
    pub ip: Ipv4Addr,
    /// How many leading bits of it name the network.
    pub prefix_len: u8,
    /// Where packets to other networks go.
    pub gateway: Option<Ipv4Addr>,
    /// How long an acknowledgement may wait for data to travel with, in nanoseconds; `None` sends it at once.
    pub ack_delay: Option<Nanos>,
    /// From this come initial sequence numbers, ports and the spread of IGMP reports.
    pub seed: u64,
}

/// What a poll found.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A datagram for a receiver, lent in place.
    Multicast {
        /// Whose it is.
        receiver: ReceiverId,
        /// The datagram.
        datagram: Datagram<'a>,
    },
    /// A TCP connection has data or changed its state.
    Tcp(TcpId),
}

/// A stack on one queue pair. Belongs to the thread that opened the pair.
pub struct Stack<R, T> {
    rx: R,
    cx: Context<T>,
}

/// The sending half of a stack and its sessions: what a handler may use while it is lent an event.
pub struct Context<T> {
    tx: T,
    config: Config,
    now: Nanos,
    lane: Demux,
    memberships: Memberships,
    host: Host,
    /// Something was committed since the last doorbell.
    committed: bool,
    scratch: Box<[u8]>,
    stats: StackStats,
}

impl<R: RxQueue, T: TxQueue> Stack<R, T> {
    /// Puts a stack on a queue pair.
    pub fn new(pair: QueuePair<R, T>, config: Config) -> Self {
        let QueuePair { rx, mut tx } = pair;
        let host = Host::new(&config, &mut tx);
        let cx = Context {
            tx,
            now: 0,
            lane: Demux::new(RECEIVERS),
            memberships: Memberships::new(config.seed),
            host,
            committed: false,
            scratch: vec![0; MAX_FRAME_LEN].into(),
            stats: StackStats::default(),
            config,
        };
        Self { rx, cx }
    }

    /// Takes one burst of frames, runs what is due, and rings the doorbell once if anything is to be sent. Returns the number of frames.
    ///
    /// # Errors
    /// When the device broke the contract of its descriptors.
    #[inline]
    pub fn poll(&mut self, now: Nanos, mut handler: impl FnMut(&mut Context<T>, Event<'_>)) -> Result<u32, QueueFault> {
        let Self { rx, cx } = self;
        cx.now = now;
        let frames = rx.poll(BURST, |frame| cx.receive(&frame, &mut handler))?;
        cx.stats.frames = cx.stats.frames.wrapping_add(u64::from(frames));
        cx.run_due(&mut handler);
        cx.flush();
        Ok(frames)
    }

    /// The sending half, outside of a poll. `now` becomes its time.
    pub fn context(&mut self, now: Nanos) -> &mut Context<T> {
        self.cx.now = now;
        &mut self.cx
    }

    /// When [`Stack::poll`] must be called even if no frame arrives.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let reports = self.cx.memberships.deadline();
        reports.into_iter().chain(self.cx.host.deadline(now)).min()
    }

    /// Counters.
    pub fn stats(&self) -> StackStats {
        self.cx.stats()
    }

    /// Gives the queues back, to be closed.
    pub fn into_queues(self) -> QueuePair<R, T> {
        QueuePair { rx: self.rx, tx: self.cx.tx }
    }
}

impl<T: TxQueue> Context<T> {
    /// The time of the poll that is running.
    #[inline]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Sends a frame to its lane or to the host stack.
    #[inline]
    fn receive(&mut self, frame: &Frame<'_>, handler: &mut impl FnMut(&mut Self, Event<'_>)) {
        if frame.is_chained() {
            return self.receive_slowly(frame, handler);
        }
        let bytes = frame.bytes();
        match wire::see(bytes) {
            Seen::Group { udp, vlan } => self.receive_group(&udp, vlan, frame.meta(), handler),
            seen => self.receive_other(seen, bytes, frame.meta(), handler),
        }
    }

    #[inline]
    fn receive_group(
        &mut self,
        udp: &Udp<'_>,
        vlan: Option<u16>,
        meta: &FrameMeta,
        handler: &mut impl FnMut(&mut Self, Event<'_>),
    ) {
        let key = Key::new(meta.vlan.or(vlan), *udp.destination.ip(), udp.destination.port());
        let Some(first) = self.lane.first(key) else {
            self.stats.drops.no_receiver = self.stats.drops.no_receiver.wrapping_add(1);
            return;
        };
        if meta.checksum != Checksum::Good && (meta.checksum == Checksum::Bad || !verify_udp(udp)) {
            self.stats.drops.bad_checksum = self.stats.drops.bad_checksum.wrapping_add(1);
            return;
        }
        let datagram = Datagram { source: udp.source, destination: udp.destination, meta, payload: udp.payload };
        let mut next = Some(first);
        while let Some(receiver) = next {
            next = self.lane.next(receiver);
            self.stats.lane_datagrams = self.stats.lane_datagrams.wrapping_add(1);
            handler(self, Event::Multicast { receiver, datagram });
        }
    }

    #[cold]
    fn receive_other(
        &mut self,
        seen: Seen<'_>,
        bytes: &[u8],
        meta: &FrameMeta,
        handler: &mut impl FnMut(&mut Self, Event<'_>),
    ) {
        let drops = &mut self.stats.drops;
        match seen {
            Seen::Igmp(message) => {
                if !self.memberships.receive(self.now, meta.vlan, message) {
                    drops.bad_igmp += 1;
                }
            }
            _ if meta.vlan.is_some() => drops.vlan += 1,
            Seen::Ipv4 if meta.checksum == Checksum::Bad => drops.bad_checksum += 1,
            Seen::Ipv4 if meta.checksum == Checksum::Unchecked && !host::verify(bytes) => drops.bad_checksum += 1,
            Seen::Ipv4 | Seen::Arp => self.receive_host(bytes, handler),
            Seen::Group { .. } => {}
            Seen::GroupFragment => drops.fragment += 1,
            Seen::Tagged => drops.vlan += 1,
            Seen::Truncated => drops.truncated += 1,
            Seen::Unknown => drops.unknown_protocol += 1,
        }
    }

    fn receive_host(&mut self, bytes: &[u8], handler: &mut impl FnMut(&mut Self, Event<'_>)) {
        self.stats.host_frames += 1;
        self.host.ingress(self.now, bytes, &mut self.tx);
        self.committed = true;
        self.tell_tcp(handler);
    }

    /// A frame in several buffers is copied into one first.
    #[cold]
    fn receive_slowly(&mut self, frame: &Frame<'_>, handler: &mut impl FnMut(&mut Self, Event<'_>)) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut len = 0usize;
        for segment in frame.segments() {
            match scratch.get_mut(len..len + segment.len()) {
                Some(room) => room.copy_from_slice(segment),
                None => {
                    self.stats.drops.oversized += 1;
                    self.scratch = scratch;
                    return;
                }
            }
            len += segment.len();
        }
        self.stats.host_copies += 1;
        let bytes = &scratch[..len];
        match wire::see(bytes) {
            Seen::Group { udp, vlan } => self.receive_group(&udp, vlan, frame.meta(), handler),
            seen => self.receive_other(seen, bytes, frame.meta(), handler),
        }
        self.scratch = scratch;
    }

    fn tell_tcp(&mut self, handler: &mut impl FnMut(&mut Self, Event<'_>)) {
        let mut after = 0;
        while let Some((index, id)) = self.host.next_event(after) {
            handler(self, Event::Tcp(id));
            after = index + 1;
        }
    }

    /// Timers and what the host stack has to send.
    #[inline]
    fn run_due(&mut self, handler: &mut impl FnMut(&mut Self, Event<'_>)) {
        if self.host.deadline(self.now).is_some_and(|deadline| deadline <= self.now) {
            self.host.egress(self.now, &mut self.tx);
            self.committed = true;
            self.tell_tcp(handler);
        }
        if self.memberships.deadline().is_some_and(|deadline| deadline <= self.now) {
            while let Some(message) = self.memberships.poll(self.now) {
                self.send_igmp(message);
            }
        }
    }

    fn send_igmp(&mut self, message: igmp::Message) {
        let frame = message.write(self.config.mac, self.config.ip);
        let Ok(mut buffer) = self.tx.reserve() else {
            self.stats.drops.no_buffer += 1;
            return;
        };
        buffer[..frame.len()].copy_from_slice(&frame);
        let meta = TxMeta { len: frame.len() as u16, vlan: message.vlan, ..TxMeta::default() };
        match self.tx.commit(buffer, meta) {
            Ok(()) => self.stats.igmp_sent += 1,
            Err(_) => self.stats.drops.no_buffer += 1,
        }
        self.committed = true;
    }

    /// Receives UDP to `group` and `port`, in VLAN `vlan` or untagged. Several receivers may join the same. Membership is reported in the
    /// next poll; the port's filter is the caller's: see [`Context::group_macs`].
    pub fn join(&mut self, group: Ipv4Addr, port: u16, vlan: Option<u16>) -> Result<ReceiverId, JoinError> {
        if !group.is_multicast() {
            return Err(JoinError::NotAGroup(group));
        }
        let id = self.lane.join(Key::new(vlan, group, port))?;
        self.memberships.join(self.now, group, vlan);
        Ok(id)
    }

    /// Ends a receiver. The last one of a group leaves it.
    pub fn leave(&mut self, id: ReceiverId) {
        if let Some(key) = self.lane.leave(id)
            && let Some(message) = self.memberships.leave(key.group(), key.vlan())
        {
            self.send_igmp(message);
        }
    }

    /// The group addresses that the port must let through, that of IGMP queries included.
    pub fn group_macs(&self) -> Vec<MacAddress> {
        let mut macs: Vec<_> = self.lane.keys().map(|key| multicast_mac(key.group())).collect();
        macs.push(multicast_mac(igmp::ALL_HOSTS));
        macs.sort_unstable();
        macs.dedup();
        macs
    }

    /// A datagram to be written in place.
    #[inline]
    pub fn datagram(&mut self, route: &Route) -> Result<DatagramBuffer, TxError> {
        Ok(DatagramBuffer::new(self.tx.reserve()?, route))
    }

    /// Queues a datagram with `len` bytes of payload; it leaves at the next [`Context::flush`].
    #[inline]
    pub fn send(&mut self, datagram: DatagramBuffer, len: u16) -> Result<(), TxError> {
        let (buffer, meta) = datagram.finish(len);
        self.committed = true;
        self.tx.commit(buffer, meta).map_err(|(error, _)| error)
    }

    /// Rings the doorbell for everything that was committed.
    #[inline]
    pub fn flush(&mut self) {
        if self.committed {
            self.committed = false;
            self.tx.flush();
        }
    }

    /// Waits for a connection on `port`.
    pub fn tcp_listen(&mut self, port: u16) -> Result<TcpId, TcpError> {
        self.host.listen(port)
    }

    /// Opens a connection; [`Event::Tcp`] tells when it is established.
    pub fn tcp_connect(&mut self, remote: SocketAddrV4) -> Result<TcpId, TcpError> {
        self.host.connect(remote)
    }

    /// Queues `bytes`, all or nothing. The segment is in the ring when this returns and leaves at the next [`Context::flush`].
    pub fn tcp_send(&mut self, id: TcpId, bytes: &[u8]) -> Result<(), TcpError> {
        self.committed = true;
        self.host.send(self.now, id, bytes, &mut self.tx)
    }

    /// Hands what has arrived to `take`, which says how much of it it took; the rest stays.
    pub fn tcp_receive(&mut self, id: TcpId, take: impl FnMut(&[u8]) -> usize) -> Result<(), TcpError> {
        self.host.receive(id, take)
    }

    /// The connection's state.
    pub fn tcp_state(&mut self, id: TcpId) -> TcpState {
        self.host.state(id)
    }

    /// Bytes that were queued and not acknowledged.
    pub fn tcp_unacknowledged(&mut self, id: TcpId) -> usize {
        self.host.unacknowledged(id)
    }

    /// Sends no more after what is queued (FIN).
    pub fn tcp_close(&mut self, id: TcpId) {
        self.host.close(id);
    }

    /// Ends the connection at once (RST).
    pub fn tcp_abort(&mut self, id: TcpId) {
        self.host.abort(id);
    }

    /// Opens a UDP socket of the host stack.
    pub fn udp_bind(&mut self, port: u16) -> Result<UdpId, TcpError> {
        self.host.bind(port)
    }

    /// Hands one datagram to `take`; says whether there was one.
    pub fn udp_receive(&mut self, id: UdpId, take: impl FnOnce(&[u8], SocketAddrV4)) -> bool {
        self.host.udp_receive(id, take)
    }

    /// Sends one datagram; it leaves at the next [`Context::flush`].
    pub fn udp_send(&mut self, id: UdpId, to: SocketAddrV4, bytes: &[u8]) -> Result<(), TcpError> {
        self.committed = true;
        self.host.udp_send(self.now, id, to, bytes, &mut self.tx)
    }

    /// Counters.
    pub fn stats(&self) -> StackStats {
        let mut stats = self.stats;
        stats.retransmits = self.host.adapter.retransmits;
        stats.drops.no_buffer += self.host.adapter.no_buffer;
        stats
    }
}

/// Checks a datagram in software, as RFC 768 and RFC 791 say; a UDP checksum of zero means none.
#[cold]
fn verify_udp(udp: &Udp<'_>) -> bool {
    let (source, destination) = (udp.source.ip().octets(), udp.destination.ip().octets());
    let pseudo = pseudo_header(source, destination, wire::UDP, udp.segment.len() as u16);
    sum(udp.header, 0) == 0xFFFF && (udp.checksum == 0 || sum(udp.segment, u32::from(pseudo)) == 0xFFFF)
}
