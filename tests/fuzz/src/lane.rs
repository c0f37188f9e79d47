//! A stack with sessions of the express lane, whose peers are the fuzzer's.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use barewire_driver::clock::Nanos;
use barewire_driver::pool::Pool;
use barewire_driver::soft::{FrameIo, Rx, SoftPort, Tx};
use barewire_driver::{MacAddress, Port, PortConfig, RxQueue};
use barewire_netstack::wire::flag;
use barewire_netstack::{Config, Context, Event, Lane, Stack, TcpConfig, TcpId, TcpOptions, TcpUsage};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket};

/// The stack's address.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The address of all peers.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Where the stack listens.
pub const PORT: u16 = 7000;
/// Peers that have a connection each.
pub const PEERS: u16 = 3;
/// The port of the first peer.
pub const FIRST_PEER: u16 = 50_000;

const NEAR_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const FAR_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
const SIZES: TcpConfig = TcpConfig { sessions: 6, half_open: 2, sent_segments: 16, kept_segments: 24 };
const SECOND: Nanos = 1_000_000_000;

/// Frames on their way into the stack, and the last that came out.
#[derive(Clone, Default)]
pub struct Line(Arc<Mutex<(VecDeque<Vec<u8>>, Vec<u8>)>>);

impl FrameIo for Line {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let frame = self.0.lock().unwrap_or_else(PoisonError::into_inner).0.pop_front();
        Ok(frame.map(|frame| {
            buffer[..frame.len()].copy_from_slice(&frame);
            frame.len()
        }))
    }

    fn send(&self, frame: &[u8]) -> io::Result<bool> {
        frame.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).1);
        Ok(true)
    }
}

/// A segment to the stack, without addresses and checksum.
#[derive(Debug, Default)]
pub struct Segment<'a> {
    /// The source port.
    pub from: u16,
    /// The destination port.
    pub to: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags of the TCP header.
    pub flags: u8,
    /// The window, unscaled.
    pub window: u16,
    /// Options, at most 40 bytes; filled up to a multiple of four.
    pub options: &'a [u8],
    /// Text.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// As a frame with right checksums. The TCP header is put together here: no builder takes flags and options that make no sense.
    pub fn frame(&self) -> Vec<u8> {
        let options_len = self.options.len().min(40).next_multiple_of(4);
        let mut segment = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        segment.extend([self.seq.to_be_bytes(), self.ack.to_be_bytes()].concat());
        segment.extend([((20 + options_len) << 2) as u8, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.options[..self.options.len().min(40)]);
        segment.resize(20 + options_len, 0);
        segment.extend(self.payload);
        TcpPacket::new_unchecked(&mut segment).fill_checksum(&FAR.into(), &NEAR.into());
        let mut frame = [&NEAR_MAC.0[..], &FAR_MAC.0, &[8, 0], &[0; 20], &segment].concat();
        let ip = Ipv4Repr {
            src_addr: FAR,
            dst_addr: NEAR,
            next_header: IpProtocol::Tcp,
            payload_len: segment.len(),
            hop_limit: 64,
        };
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &ChecksumCapabilities::default());
        frame
    }
}

/// Where a session stands, as its peer sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer {
    /// Its next number.
    pub seq: u32,
    /// The stack's next number.
    pub ack: u32,
}

/// The stack.
pub struct Bench {
    /// The stack itself.
    pub stack: Stack<Rx<Line>, Tx<Line>>,
    /// The time.
    pub now: Nanos,
    /// The sessions that there were.
    pub ids: Vec<TcpId>,
    line: Line,
    pool: Pool,
    _port: SoftPort<Line>,
}

impl Bench {
    /// A stack that listens with `options`.
    pub fn new(options: &TcpOptions) -> Self {
        let line = Line::default();
        let queues = PortConfig {
            tx_descriptors: 32,
            kept_frames: SIZES.kept_segments,
            retained_frames: SIZES.sent_segments,
            ..PortConfig::default()
        };
        let mut port = SoftPort::new("memory".into(), NEAR_MAC, line.clone(), queues).expect("a port");
        let pair = port.open_queue(0).expect("its queue");
        let pool = pair.rx.pool().clone();
        let mut stack = Stack::new(pair, Config { tcp: SIZES, ..Config::new(NEAR_MAC, NEAR, 24, 1) });
        let cx = stack.context(SECOND);
        cx.neighbours().set_static(FAR, FAR_MAC).expect("another host");
        cx.tcp_listen(Lane::Express, PORT, options).expect("a free port");
        Self { stack, now: SECOND, ids: Vec::new(), line, pool, _port: port }
    }

    /// The sending half.
    pub fn context(&mut self) -> &mut Context<Tx<Line>> {
        self.stack.context(self.now)
    }

    /// Takes in `frame`.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.line.0.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(frame);
        self.poll();
    }

    /// Does what is due. What is lent is not read.
    pub fn poll(&mut self) {
        let Self { stack, ids, now, .. } = self;
        let mut note = |_: &mut Context<Tx<Line>>, event: Event<'_>| {
            if let Event::Accepted { id, .. } = event {
                ids.push(id);
            }
        };
        while stack.poll(*now, &mut note).expect("memory has no faults") > 0 {}
    }

    /// The numbers of the last segment that was sent.
    fn sent(&self) -> Peer {
        let line = self.line.0.lock().unwrap_or_else(PoisonError::into_inner);
        let word = |at: usize| {
            line.1.get(at..at + 4).map_or(0, |word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        };
        Peer { seq: word(42), ack: word(38).wrapping_add(1) }
    }

    /// Opens a connection from `from`, with `options` in its SYN and in the segment that ends the handshake.
    pub fn open(&mut self, from: u16, options: [&[u8]; 2]) -> Peer {
        let seq = u32::from(from) << 16;
        let syn = Segment {
            from,
            to: PORT,
            seq,
            flags: flag::SYN,
            window: 0xFFFF,
            options: options[0],
            ..Segment::default()
        };
        self.receive(syn.frame());
        let peer = self.sent();
        let Peer { seq, ack } = peer;
        let ack =
            Segment { from, to: PORT, seq, ack, flags: flag::ACK, window: 0xFFFF, options: options[1], payload: &[] };
        self.receive(ack.frame());
        peer
    }

    /// Lets `time` pass, at most a thousand deadlines of it.
    pub fn wait(&mut self, time: Nanos) {
        let end = self.now.saturating_add(time);
        for _ in 0..1000 {
            let Some(due) = self.stack.next_deadline(self.now).filter(|due| *due <= end) else { break };
            self.now = self.now.max(due).max(self.now + 1000);
            self.poll();
        }
        self.now = self.now.max(end);
        self.poll();
    }

    /// Gives everything up: nothing may be left then.
    ///
    /// # Panics
    /// When something is.
    pub fn finish(mut self) {
        for _ in 0..2 {
            // What is accepted at the last moment is given up in the second round.
            for id in std::mem::take(&mut self.ids) {
                self.context().tcp_abort(id);
                self.context().tcp_release(id);
            }
            self.wait(1000 * SECOND);
        }
        assert_eq!(self.context().tcp_usage(), TcpUsage::default(), "the lane holds something");
        assert_eq!(self.pool.available() + 1, self.pool.capacity(), "packet buffers are held");
    }

    /// Where `port` of the peers' host is.
    pub fn remote(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(FAR, port)
    }
}

/// Options that a byte chooses.
pub fn options(choice: u8) -> TcpOptions {
    let has = |bit: u8| choice >> bit & 1 != 0;
    TcpOptions {
        timestamps: has(0),
        congestion: has(1),
        ack_delay: if has(2) { SECOND / 25 } else { 0 },
        user_timeout: has(3).then_some(20 * SECOND),
        receive_window: if has(4) { 1 << 20 } else { 5000 },
        mss: if has(5) { 1460 } else { 536 },
        rto_min: if has(6) { SECOND / 1000 } else { SECOND },
        time_wait: SECOND,
        ..TcpOptions::default()
    }
}
