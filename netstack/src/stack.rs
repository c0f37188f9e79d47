//! One stack: a queue pair, the lanes for multicast and for TCP, and the host stack for everything else.

mod tcp;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use barewire_driver::bus::BusError;
use barewire_driver::clock::Nanos;
use barewire_driver::{
    Checksum, Frame, FrameMeta, MAX_FRAME_LEN, MacAddress, QueueFault, QueuePair, RxQueue, TxError, TxMeta, TxQueue,
};

use crate::datagram::{Datagram, DatagramBuffer, Route};
use crate::demux::{Demux, JoinError, Key, ReceiverId};
use crate::host::{self, Echo, Host, PingId, UdpId};
use crate::igmp::{self, Memberships, multicast_mac};
use crate::neighbours::Neighbours;
use crate::placement::Waiter;
use crate::stats::StackStats;
use crate::tcp::{Tcp, TcpConfig, TcpError};
use crate::wire::{self, Seen, Segment, Udp};

pub use tcp::{Lane, ListenerId, TcpId};

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
    /// From this come initial sequence numbers, ports and the spread of IGMP reports. Nobody else should know it.
    pub seed: u64,
    /// Sizes of the express lane for TCP.
    pub tcp: TcpConfig,
}

impl Config {
    /// A host with an address in a network of `prefix_len` bits; everything else as most want it.
    pub fn new(mac: MacAddress, ip: Ipv4Addr, prefix_len: u8, seed: u64) -> Self {
        Self { mac, ip, prefix_len, gateway: None, ack_delay: None, seed, tcp: TcpConfig::default() }
    }
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
    /// A listener has accepted a connection. What arrived with it comes as [`Event::Tcp`].
    Accepted {
        /// The listener.
        listener: ListenerId,
        /// The connection.
        id: TcpId,
    },
    /// The next bytes of a TCP connection, lent in place. What is not marked as read by [`Context::tcp_consume`] meanwhile is kept, and
    /// [`Event::Tcp`] follows. Only the express lane lends, and only what comes in order; who does not care for this event misses nothing.
    TcpData {
        /// The connection.
        id: TcpId,
        /// The bytes, in the buffer that the device wrote.
        data: &'a [u8],
    },
    /// A TCP connection has data to be read, has room again, or changed its state.
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
    neighbours: Arc<Neighbours>,
    tcp: Tcp,
    host: Host,
    /// When [`Context::run_chores`] has something to do at the latest.
    chores_due: Nanos,
    /// Something was committed since the last doorbell.
    committed: bool,
    scratch: Box<[u8]>,
    stats: StackStats,
}

impl<R: RxQueue, T: TxQueue> Stack<R, T> {
    /// Puts a stack on a queue pair, with neighbours of its own.
    pub fn new(pair: QueuePair<R, T>, config: Config) -> Self {
        let neighbours = Arc::new(Neighbours::new(&config));
        Self::with_neighbours(pair, config, neighbours)
    }

    /// Puts a stack on one of a port's queue pairs, with the neighbours that all of them share.
    pub fn with_neighbours(pair: QueuePair<R, T>, config: Config, neighbours: Arc<Neighbours>) -> Self {
        let QueuePair { rx, mut tx } = pair;
        let host = Host::new(&config, &mut tx);
        let cx = Context {
            tx,
            now: 0,
            lane: Demux::new(RECEIVERS),
            memberships: Memberships::new(config.seed),
            neighbours,
            tcp: Tcp::new(config.tcp, config.mac, config.ip, config.seed),
            host,
            chores_due: 0,
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
    #[inline(always)]
    pub fn poll(&mut self, now: Nanos, handler: impl FnMut(&mut Context<T>, Event<'_>)) -> Result<u32, QueueFault> {
        if self.rx.is_quiet() {
            // What was sent is cleared up while there is nothing else to do, and not before the next order.
            self.cx.tx.tidy();
            if !self.cx.is_due(now) {
                self.cx.flush();
                self.cx.catch_up(now);
                return Ok(0);
            }
        }
        self.poll_busy(now, handler)
    }

    #[inline(never)]
    fn poll_busy(
        &mut self,
        now: Nanos,
        mut handler: impl FnMut(&mut Context<T>, Event<'_>),
    ) -> Result<u32, QueueFault> {
        let frames = self.poll_frames(now, &mut handler)?;
        self.poll_due(now, handler);
        if frames == 0 {
            self.cx.tx.tidy();
        }
        Ok(frames)
    }

    /// The first half of [`Stack::poll`]: frames, the answers that handlers give, and the doorbell.
    ///
    /// # Errors
    /// When the device broke the contract of its descriptors.
    #[inline]
    pub fn poll_frames(
        &mut self,
        now: Nanos,
        mut handler: impl FnMut(&mut Context<T>, Event<'_>),
    ) -> Result<u32, QueueFault> {
        let Self { rx, cx } = self;
        cx.now = now;
        let frames = rx.poll(BURST, |frame| cx.receive(frame, &mut handler))?;
        if frames > 0 {
            cx.stats.frames = cx.stats.frames.wrapping_add(u64::from(frames));
            cx.flush();
        }
        Ok(frames)
    }

    /// The second half: acknowledgements that found nothing to travel with, timers, and what sessions have left for after the doorbell. What must be
    /// fast has left by then.
    #[inline(always)]
    pub fn poll_due(&mut self, now: Nanos, mut handler: impl FnMut(&mut Context<T>, Event<'_>)) {
        if self.cx.is_due(now) {
            self.cx.now = now;
            self.cx.run_due(&mut handler);
            self.cx.flush();
        }
        self.cx.catch_up(now);
    }

    /// The sending half, outside of a poll. `now` becomes its time.
    pub fn context(&mut self, now: Nanos) -> &mut Context<T> {
        self.cx.now = now;
        &mut self.cx
    }

    /// When [`Stack::poll`] must be called even if no frame arrives.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        // Chores wait for their turn, also what another stack has asked of the neighbours they share.
        let chores = self.cx.next_chore(now).map(|due| due.max(self.cx.chores_due));
        self.cx.tcp.deadline(now).into_iter().chain(chores).min()
    }

    /// Rests after a poll that found nothing, at most for `limit`: see [`Waiter::rest`].
    #[inline]
    pub fn rest(&mut self, waiter: &mut Waiter, limit: Duration) -> Result<(), BusError> {
        waiter.rest(limit, || self.rx.arm_interrupt())
    }

    /// Counters.
    pub fn stats(&self) -> StackStats {
        self.cx.stats()
    }

    /// Puts the stack on other queues, as after a reset of the port: `exchange` closes the pair it is given and returns the new one. Connections
    /// and memberships go on; frames that were committed and had not left are lost, as they are on a wire. Buffers that were taken before, in
    /// messages and datagrams, belong to the old queues and are refused from here on.
    ///
    /// # Errors
    /// What `exchange` failed with; the stack is gone then, as its queues are.
    pub fn exchange_queues<E>(
        self,
        exchange: impl FnOnce(QueuePair<R, T>) -> Result<QueuePair<R, T>, E>,
    ) -> Result<Self, E> {
        let Self { rx, cx } = self;
        let QueuePair { rx, tx } = exchange(QueuePair { rx, tx: cx.tx })?;
        let mut cx = Context { tx, ..cx };
        cx.tcp.move_sent(&mut cx.tx);
        Ok(Self { rx, cx })
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

    /// Sends a frame to its lane or to the host stack. What feeds send goes the short way; everything else is looked at wholly.
    #[inline(always)]
    fn receive(&mut self, frame: Frame<'_>, handler: &mut impl FnMut(&mut Self, Event<'_>)) {
        match wire::see_plain_group(frame.bytes()) {
            Some(udp) if !frame.is_chained() => self.receive_group(&udp, None, *frame.meta(), handler),
            _ => {
                match wire::see_plain_tcp(frame.bytes()).and_then(|seen| Some((seen, self.tcp.find_session(&seen)?))) {
                    Some((segment, session)) => self.receive_tcp(frame, &segment, session, handler),
                    None => self.receive_any(&mut Some(frame), handler),
                }
            }
        }
    }

    /// A segment of a session of the express lane.
    #[inline(always)]
    fn receive_tcp(
        &mut self,
        frame: Frame<'_>,
        segment: &Segment<'_>,
        session: u32,
        handler: &mut impl FnMut(&mut Self, Event<'_>),
    ) {
        let meta = frame.meta();
        // MUST-3, by the device or here.
        let is_sound =
            meta.checksum == Checksum::Good || (meta.checksum == Checksum::Unchecked && host::verify(segment.packet));
        let is_plain = segment.destination == self.config.ip.to_bits() && meta.vlan().is_none() && !frame.is_chained();
        if !is_sound || !is_plain {
            return self.receive_any(&mut Some(frame), handler);
        }
        let Some(id) = self.tcp.receive_expected(self.now, &mut self.tx, session, segment) else {
            return self.receive_any(&mut Some(frame), handler);
        };
        self.committed = true;
        if !segment.payload.is_empty() {
            handler(self, Event::TcpData { id: TcpId::Express(id), data: segment.payload });
        }
        if self.tcp.keep_lent(self.now, &mut self.tx, session, segment.payload.len() as u16, frame) {
            self.tell(session, handler);
        }
    }

    /// Any frame. It is taken from where it lies: on the short ways it need not lie anywhere.
    #[cold]
    fn receive_any(&mut self, frame: &mut Option<Frame<'_>>, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        let Some(frame) = frame.take() else { return };
        let Some(frame) = self.receive_tcp_any(frame, handler) else { return };
        if frame.is_chained() {
            return self.receive_chained(&frame, handler);
        }
        self.receive_seen(frame.bytes(), frame.meta(), handler);
    }

    /// TCP for the express lane that comes in an uncommon form, or for a listener. Gives the frame back where it is neither.
    fn receive_tcp_any<'f>(
        &mut self,
        frame: Frame<'f>,
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) -> Option<Frame<'f>> {
        let Some(segment) = wire::see_tcp(frame.bytes()) else { return Some(frame) };
        let session = self.tcp.find_session(&segment);
        let is_ours = session.is_some() || self.tcp.is_listening(segment.destination_port());
        let meta = frame.meta();
        if !is_ours || segment.destination != self.config.ip.to_bits() || meta.vlan().is_some() {
            return Some(frame);
        }
        if meta.checksum != Checksum::Good && (meta.checksum == Checksum::Bad || !host::verify(segment.packet)) {
            self.stats.drops.bad_checksum += 1;
            return None;
        }
        let mut source = [0; 6];
        source.copy_from_slice(frame.bytes().get(6..12)?);
        match session.filter(|session| !self.tcp.reopens(*session, &segment)) {
            Some(session) => {
                self.tcp.receive(self.now, &mut self.tx, session, &segment, frame);
                self.tell(session, &mut |cx: &mut Self, event: Event<'_>| handler(cx, event));
            }
            None => self.tcp.receive_listen(self.now, &mut self.tx, &segment, MacAddress(source)),
        }
        self.committed = true;
        None
    }

    fn receive_seen(&mut self, bytes: &[u8], meta: &FrameMeta, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        match wire::see(bytes) {
            Seen::Group { udp, vlan } => {
                self.receive_group(&udp, vlan, *meta, &mut |cx: &mut Self, event: Event<'_>| handler(cx, event))
            }
            seen => self.receive_other(seen, bytes, meta, handler),
        }
    }

    #[inline(always)]
    fn receive_group(
        &mut self,
        udp: &Udp<'_>,
        vlan: Option<u16>,
        meta: FrameMeta,
        handler: &mut impl FnMut(&mut Self, Event<'_>),
    ) {
        let key = Key::new(meta.vlan().or(vlan), *udp.destination.ip(), udp.destination.port());
        let Some(first) = self.lane.first(key) else {
            self.stats.drops.no_receiver = self.stats.drops.no_receiver.wrapping_add(1);
            return;
        };
        if meta.checksum != Checksum::Good && (meta.checksum == Checksum::Bad || !host::verify(udp.packet)) {
            self.stats.drops.bad_checksum = self.stats.drops.bad_checksum.wrapping_add(1);
            return;
        }
        let datagram = Datagram { source: udp.source, destination: udp.destination, meta: &meta, payload: udp.payload };
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
        handler: &mut dyn FnMut(&mut Self, Event<'_>),
    ) {
        self.chore();
        let drops = &mut self.stats.drops;
        match seen {
            Seen::Igmp(message) => {
                if self.memberships.receive(self.now, meta.vlan(), message) {
                    self.stats.igmp_received += 1;
                } else {
                    drops.bad_igmp += 1;
                }
            }
            _ if meta.vlan().is_some() => drops.vlan += 1,
            Seen::Ipv4 if meta.checksum == Checksum::Bad => drops.bad_checksum += 1,
            Seen::Ipv4
                if meta.checksum == Checksum::Unchecked && !host::verify(bytes.get(14..).unwrap_or_default()) =>
            {
                drops.bad_checksum += 1
            }
            Seen::Arp => {
                self.neighbours.receive_arp(self.now, bytes);
                self.receive_host(bytes, handler);
            }
            Seen::Ipv4 => self.receive_host(bytes, handler),
            Seen::Group { .. } => {}
            Seen::GroupFragment => drops.fragment += 1,
            Seen::Tagged => drops.vlan += 1,
            Seen::Truncated => drops.truncated += 1,
            Seen::Unknown => drops.unknown_protocol += 1,
        }
    }

    fn receive_host(&mut self, bytes: &[u8], handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        self.stats.host_frames += 1;
        self.chore();
        self.host.ingress(self.now, bytes, &mut self.tx);
        self.committed = true;
        self.tell_host(handler);
    }

    /// A frame in several buffers is copied into one first.
    fn receive_chained(&mut self, frame: &Frame<'_>, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
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
        self.receive_seen(&scratch[..len], frame.meta(), handler);
        self.scratch = scratch;
    }

    /// Does what sessions have left for after the doorbell.
    #[inline(always)]
    fn catch_up(&mut self, now: Nanos) {
        self.tcp.catch_up(now, &mut self.tx);
    }

    /// Whether [`Context::run_due`] has anything to do.
    #[inline(always)]
    fn is_due(&self, now: Nanos) -> bool {
        self.chores_due <= now || self.tcp.is_due(now)
    }

    /// Timers and what the host stack has to send.
    #[inline(never)]
    fn run_due(&mut self, handler: &mut impl FnMut(&mut Self, Event<'_>)) {
        /// Sessions whose timers run in one poll, at most: a poll stays short.
        const EXPIRATIONS: u32 = 64;
        for _ in 0..EXPIRATIONS {
            let Some(session) = self.tcp.expire(self.now, &mut self.tx) else { break };
            // Something did not arrive: the next hop may have another station by now.
            if self.tcp.refresh_station(session, |ip| station(&self.neighbours, ip)) {
                self.chore();
            }
            self.committed = true;
            self.tell(session, handler);
        }
        let mut left = self.tcp.attention();
        while let Some(session) = self.tcp.settle(self.now, &mut self.tx, &mut left) {
            self.committed = true;
            self.tell(session, handler);
        }
        if self.chores_due <= self.now {
            self.run_chores(&mut |cx: &mut Self, event: Event<'_>| handler(cx, event));
        }
    }

    /// What does not lie on the way of any lane: the host stack, neighbours, memberships. Everything that can make them due sooner calls
    /// [`Context::chore`].
    #[cold]
    fn run_chores(&mut self, handler: &mut dyn FnMut(&mut Self, Event<'_>)) {
        /// Another stack of the port may have something to ask of the neighbours.
        const AT_LATEST: Nanos = 1_000_000;
        if self.host.deadline(self.now).is_some_and(|deadline| deadline <= self.now) {
            self.host.egress(self.now, &mut self.tx);
            self.committed = true;
            self.tell_host(handler);
        }
        let request = self.neighbours.next_deadline().is_some_and(|deadline| deadline <= self.now);
        if request || self.tcp.is_resolving() {
            self.resolve();
        }
        if self.memberships.deadline().is_some_and(|deadline| deadline <= self.now) {
            while let Some(message) = self.memberships.poll(self.now) {
                self.send_igmp(message);
            }
        }
        let due = self.next_chore(self.now).unwrap_or(Nanos::MAX);
        // A session that waits for its next hop is looked at in every poll.
        self.chores_due = if self.tcp.is_resolving() { 0 } else { due.min(self.now.saturating_add(AT_LATEST)) };
    }

    /// When the first chore is due.
    fn next_chore(&self, now: Nanos) -> Option<Nanos> {
        let due = [self.memberships.deadline(), self.host.deadline(now), self.neighbours.next_deadline()];
        due.into_iter().flatten().min()
    }

    /// Something happened that may be due at once.
    #[inline]
    fn chore(&mut self) {
        self.chores_due = 0;
    }

    /// Neighbours and routes, which all stacks of a port share.
    pub fn neighbours(&self) -> &Arc<Neighbours> {
        &self.neighbours
    }

    /// Asks for neighbours, and lets go what waited for them.
    #[cold]
    fn resolve(&mut self) {
        let Self { neighbours, tx, tcp, now, .. } = self;
        neighbours.poll(*now, |request| {
            let Ok(mut buffer) = tx.reserve() else { return false };
            let Some(room) = buffer.get_mut(..request.len()) else { return false };
            room.copy_from_slice(request);
            tx.commit(buffer, TxMeta { len: request.len() as u16, ..TxMeta::default() }).is_ok()
        });
        tcp.resolve(*now, tx, |ip| station(neighbours, ip));
        self.committed = true;
    }

    #[cold]
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
        self.chore();
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
        self.chore();
        self.host.udp_send(self.now, id, to, bytes, &mut self.tx)
    }

    /// Opens an ICMP echo client (RFC 792) with an identifier of its own; its requests go out and answers come back under it.
    pub fn ping_open(&mut self, identifier: u16) -> Result<PingId, TcpError> {
        self.host.ping_open(identifier)
    }

    /// Sends an echo request; it leaves at the next [`Context::flush`].
    pub fn ping_send(&mut self, id: PingId, to: Ipv4Addr, echo: Echo<'_>) -> Result<(), TcpError> {
        self.committed = true;
        self.chore();
        self.host.ping_send(self.now, id, to, echo, &mut self.tx)
    }

    /// Hands one answer, and who sent it, to `take`; says whether there was one.
    pub fn ping_receive(&mut self, id: PingId, take: impl FnOnce(Ipv4Addr, Echo<'_>)) -> bool {
        self.host.ping_receive(id, take)
    }

    /// Counters.
    pub fn stats(&self) -> StackStats {
        let mut stats = self.stats;
        stats.retransmits = self.host.adapter.retransmits + self.tcp.stats().retransmits.total();
        stats.drops.no_buffer += self.host.adapter.no_buffer;
        stats
    }
}

/// Where packets to `ip` are handed to, if that is known; else it is asked for.
fn station(neighbours: &Neighbours, ip: Ipv4Addr) -> Option<MacAddress> {
    let hop = neighbours.next_hop(ip);
    let station = neighbours.lookup(hop);
    if station.is_none() {
        neighbours.want(hop);
    }
    station
}
