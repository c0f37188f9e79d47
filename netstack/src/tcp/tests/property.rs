//! Anything may be asked of a lane and anything may arrive: nothing panics, nothing is lost from the books, no byte is wrong, and in the end
//! nothing is left.

use std::collections::HashMap;

use proptest::prelude::*;

use super::peer::{END, PORT};
use super::script::{Bases, Seg, stream};
use super::*;
use crate::tcp::table::Key;
use crate::tcp::{Delegated, Keepalive, Message, Parked};

/// Peers that send, each with one port.
const PEERS: u16 = 3;

/// A number of a segment: a place, and a distance from it.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// RCV.NXT and SND.NXT.
    Next(i32),
    /// SND.UNA, and the right edge of our window.
    Edge(i32),
    Any(u32),
    /// The end of a segment that is outstanding.
    Sent(u8),
}

#[derive(Debug, Clone)]
enum Step {
    Segment { peer: u16, flags: u8, seq: Place, ack: Place, len: u32, window: u16, options: Vec<u8> },
    Wait(Nanos),
    Listen,
    Unlisten,
    Connect { peer: u16, is_resolved: bool, options: u8 },
    Resolve,
    Send { id: u8, len: u32 },
    Read { id: u8, len: usize },
    Close { id: u8 },
    Abort { id: u8 },
    Release { id: u8 },
    SetOptions { id: u8, options: u8 },
    Reserve { id: u8, len: u16 },
    Commit { len: u16 },
    Park { len: u16 },
    ReleaseParked { at: u8 },
    Forget { at: u8 },
    Delegate { id: u8, len: u16 },
    Complete { is_right: bool },
    Cancel,
    Warm { id: u8, len: usize },
    Full(bool),
}

fn places() -> impl Strategy<Value = Place> {
    prop_oneof![
        20 => Just(Place::Next(0)),
        10 => (-20i32..20).prop_map(Place::Next),
        3 => (-3000i32..10_000).prop_map(Place::Next),
        6 => Just(Place::Edge(0)),
        6 => (-20i32..3000).prop_map(Place::Edge),
        1 => any::<u32>().prop_map(Place::Any),
        6 => any::<u8>().prop_map(Place::Sent),
    ]
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let words = proptest::collection::vec(any::<[u8; 4]>(), 0..=10).prop_map(|words| words.concat());
    let blocks = proptest::collection::vec((-50i32..500, 0i32..500), 1..=4);
    prop_oneof![
        8 => Just(vec![]),
        2 => Just(vec![2, 4, 5, 0xB4, 1, 1, 4, 2, 1, 3, 3, 2]),
        1 => any::<u32>().prop_map(|value| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &[0; 4]].concat()),
        // Blocks are found when they are sent.
        8 => blocks.prop_map(|blocks| {
            let mut bytes = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
            bytes.extend(blocks.iter().flat_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()].concat()));
            bytes
        }),
        1 => words,
    ]
}

fn segments() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        20 => Just(wire::flag::ACK),
        20 => Just(wire::flag::ACK | wire::flag::PSH),
        4 => Just(wire::flag::SYN),
        2 => Just(wire::flag::SYN | wire::flag::ACK),
        2 => Just(wire::flag::FIN | wire::flag::ACK),
        1 => Just(wire::flag::RST),
        1 => any::<u8>(),
    ];
    let len = prop_oneof![4 => Just(0u32), 4 => 1u32..20, 1 => 1400u32..1500];
    let window = prop_oneof![3 => Just(0xFFFF), 1 => Just(0), 1 => 0u16..3000];
    (0..PEERS, flags, places(), places(), len, window, options()).prop_map(
        |(peer, flags, seq, ack, len, window, options)| Step::Segment { peer, flags, seq, ack, len, window, options },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    let waits = prop_oneof![4 => 0..1_000_000u64, 4 => 1..3 * SECOND, 1 => Just(100 * SECOND)];
    prop_oneof![
        60 => segments(),
        10 => waits.prop_map(Step::Wait),
        1 => Just(Step::Listen),
        1 => Just(Step::Unlisten),
        2 => (0..PEERS, any::<bool>(), any::<u8>()).prop_map(|(peer, is_resolved, options)| Step::Connect { peer, is_resolved, options }),
        1 => Just(Step::Resolve),
        20 => (any::<u8>(), 0u32..6000).prop_map(|(id, len)| Step::Send { id, len }),
        10 => (any::<u8>(), 0usize..2000).prop_map(|(id, len)| Step::Read { id, len }),
        1 => any::<u8>().prop_map(|id| Step::Close { id }),
        1 => any::<u8>().prop_map(|id| Step::Abort { id }),
        1 => any::<u8>().prop_map(|id| Step::Release { id }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(id, options)| Step::SetOptions { id, options }),
        3 => (any::<u8>(), 0u16..1500).prop_map(|(id, len)| Step::Reserve { id, len }),
        2 => (0u16..1500).prop_map(|len| Step::Commit { len }),
        2 => (0u16..1500).prop_map(|len| Step::Park { len }),
        2 => any::<u8>().prop_map(|at| Step::ReleaseParked { at }),
        1 => any::<u8>().prop_map(|at| Step::Forget { at }),
        1 => (any::<u8>(), 0u16..1500).prop_map(|(id, len)| Step::Delegate { id, len }),
        1 => any::<bool>().prop_map(|is_right| Step::Complete { is_right }),
        1 => Just(Step::Cancel),
        1 => (any::<u8>(), 0usize..1500).prop_map(|(id, len)| Step::Warm { id, len }),
        1 => any::<bool>().prop_map(Step::Full),
    ]
}

fn session_options(choice: u8) -> TcpOptions {
    let has = |bit: u8| choice >> bit & 1 != 0;
    let keepalive = Keepalive { idle: 5 * SECOND, interval: SECOND, probes: 2 };
    TcpOptions {
        timestamps: has(0),
        congestion: has(1),
        ack_delay: if has(2) { 40 * MILLISECOND } else { 0 },
        keepalive: has(3).then_some(keepalive),
        user_timeout: has(4).then_some(20 * SECOND),
        receive_window: if has(5) { 1 << 20 } else { 5000 },
        mss: if has(6) { 1460 } else { 536 },
        rto_min: if has(7) { MILLISECOND } else { SECOND },
        ..TcpOptions::default()
    }
}

struct World {
    end: End,
    now: Nanos,
    ids: Vec<SessionId>,
    messages: Vec<(Message, Vec<u8>)>,
    parked: Vec<(Parked, Vec<u8>)>,
    delegated: Vec<Delegated>,
    /// What each session was given to send, and its initial sequence number.
    written: HashMap<SessionId, (u32, Vec<u8>)>,
    /// A number for the next byte that is written.
    count: u8,
}

impl World {
    fn new() -> Self {
        let config = TcpConfig { sessions: 6, half_open: 2, sent_segments: 16, kept_segments: 24 };
        let end = End::with_ring(END, config, 16);
        let (messages, parked, delegated) = (Vec::new(), Vec::new(), Vec::new());
        Self { end, now: SECOND, ids: Vec::new(), messages, parked, delegated, written: HashMap::new(), count: 0 }
    }

    /// A connection with each peer.
    fn open(&mut self, choice: u8) {
        self.end.tcp.listen(PORT, &session_options(choice)).unwrap();
        let timestamps = [1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        for peer in 0..PEERS {
            let mut options = vec![2, 4, 5, 0xB4, 1, 1, 4, 2, 1, 3, 3, 2];
            if choice & 1 != 0 && peer == 0 {
                options.extend(timestamps);
            }
            let seq = Place::Any(u32::from(peer) * 0x7FFF_FFF0);
            self.segment(peer, wire::flag::SYN, (seq, Place::Any(0)), 0, 0xFFFF, options);
            let options = if choice & 1 != 0 && peer == 0 { timestamps.to_vec() } else { vec![] };
            self.segment(peer, wire::flag::ACK, (Place::Next(0), Place::Next(0)), 0, 0xFFFF, options);
        }
        assert_eq!(self.ids.len(), usize::from(PEERS));
    }

    fn remote(peer: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 50_000 + peer)
    }

    fn id(&self, id: u8) -> SessionId {
        let nobody = SessionId { index: 3, generation: 12_345 };
        // Mostly one of the last.
        let last = self.ids.len().saturating_sub(if id < 192 { 3 } else { self.ids.len() });
        let ids = &self.ids[last..];
        if ids.is_empty() { nobody } else { ids[usize::from(id) % ids.len()] }
    }

    /// New bytes to write.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len)
            .map(|_| {
                self.count = self.count.wrapping_mul(5).wrapping_add(1);
                self.count
            })
            .collect()
    }

    fn wrote(&mut self, id: SessionId, bytes: &[u8]) {
        let iss = self.end.tcp.session(id).expect("a session that sends").cold.iss.0;
        self.written.entry(id).or_insert((iss, Vec::new())).1.extend(bytes);
    }

    fn poll(&mut self) {
        self.end.poll(self.now);
        self.end.check();
        self.ids.append(&mut self.end.accepted);
        self.end.news.clear();
        for frame in self.end.medium.sent() {
            let segment = wire::see_tcp(&frame).expect("a segment");
            assert!(crate::host::verify(segment.packet), "a checksum is wrong");
            let is_written = |(iss, written): &(u32, Vec<u8>)| {
                let at = segment.seq.wrapping_sub(*iss).wrapping_sub(1) as usize;
                written.get(at..at + segment.payload.len()) == Some(segment.payload)
            };
            assert!(segment.payload.is_empty() || self.written.values().any(is_written), "a byte that nobody wrote");
        }
    }

    fn wait(&mut self, time: Nanos) {
        let end = self.now + time;
        if time > MILLISECOND {
            // Where the way out is blocked there is always something to be tried again.
            self.end.medium.set_full(false);
        }
        while let Some(due) = self.end.tcp.deadline(self.now).filter(|due| *due <= end) {
            self.now = due.max(self.now + 50 * MICROSECOND);
            self.poll();
        }
        self.now = self.now.max(end);
        self.poll();
    }

    fn segment(&mut self, peer: u16, flags: u8, places: (Place, Place), len: u32, window: u16, mut options: Vec<u8>) {
        let remote = Self::remote(peer);
        let session = self
            .end
            .tcp
            .shared
            .table
            .find(Key::new(remote, PORT))
            .and_then(|at| self.end.tcp.sessions.get(at as usize));
        let (n, edge, m, u) = session.map_or((0, 0, 0, 0), |s| (s.rcv_nxt.0, s.rcv_edge.0, s.snd_nxt.0, s.snd_una.0));
        let sent: Vec<_> = session.map_or(vec![], |session| {
            let list = self.end.tcp.shared.sent.list(session.sent_first);
            list.map(|(_, sent)| (sent.seq.0, sent.end().0)).collect()
        });
        let number = |place, next: u32, edge: u32| match place {
            Place::Next(by) => next.wrapping_add(by as u32),
            Place::Edge(by) => edge.wrapping_add(by as u32),
            Place::Any(number) => number,
            Place::Sent(at) => sent.get(usize::from(at) % sent.len().max(1)).map_or(next, |(_, end)| *end),
        };
        if options.get(2) == Some(&5) {
            for block in options[4..].as_chunks_mut::<8>().0 {
                let [first, second] =
                    [0, 4].map(|at| i32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
                // Segments that are outstanding, mostly.
                let (start, end) = match sent.len() {
                    len if len > 0 && first >= 50 => {
                        let at = first as usize % len;
                        (sent[at].0, sent[(at + second as usize % 4).min(len - 1)].1)
                    }
                    _ => (u.wrapping_add(first as u32), u.wrapping_add(second as u32)),
                };
                block[..4].copy_from_slice(&start.to_be_bytes());
                block[4..].copy_from_slice(&end.to_be_bytes());
            }
        }
        let (seq, ack) = (number(places.0, n, edge), number(places.1, m, u));
        let seg = Seg { flags, seq, len, ack, window: Some(window), options: Some(options), is_false: false };
        let ips = (remote.ip().to_bits(), END.to_bits());
        let frame = seg.frame((mac(*remote.ip()).0, mac(END).0), ips, (remote.port(), PORT), Bases::default());
        self.end.medium.arrive(frame);
        self.poll();
    }

    /// Reads up to `len` bytes, each of which must be its number's.
    fn read(&mut self, id: SessionId, len: usize) {
        let Some(session) = self.end.tcp.session(id) else { return assert!(self.end.tcp.peek(id).is_empty()) };
        // A FIN that was taken has a number too.
        let first = self.end.tcp.shared.kept.get(session.kept_first).map_or(0, |kept| kept.seq.0);
        let bytes = self.end.tcp.peek(id);
        for (at, byte) in bytes.iter().enumerate() {
            assert_eq!(*byte, stream(first.wrapping_add(at as u32)), "a wrong byte");
        }
        let len = len.min(bytes.len());
        self.end.tcp.consume(id, len);
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Segment { peer, flags, seq, ack, len, window, options } => {
                self.segment(peer, flags, (seq, ack), len, window, options);
            }
            Step::Wait(time) => self.wait(time),
            Step::Listen => drop(self.end.tcp.listen(PORT, &session_options(now as u8))),
            Step::Unlisten => self.end.tcp.unlisten(PORT),
            Step::Connect { peer, is_resolved, options } => {
                let (remote, End { tcp, pair, .. }) = (Self::remote(peer), &mut self.end);
                let station = is_resolved.then(|| mac(*remote.ip()));
                self.ids
                    .extend(tcp.connect_from(now, &mut pair.tx, PORT, remote, station, &session_options(options)).ok());
            }
            Step::Resolve => self.end.tcp.resolve(now, &mut self.end.pair.tx, |ip| Some(mac(ip))),
            Step::Send { id, len } => {
                let (id, bytes) = (self.id(id), self.bytes(len as usize));
                if let Ok(taken) = self.end.send(now, id, &bytes)
                    && taken > 0
                {
                    self.wrote(id, &bytes[..taken]);
                }
            }
            Step::Read { id, len } => self.read(self.id(id), len),
            Step::Close { id } => self.end.close(now, self.id(id)),
            Step::Abort { id } => self.end.abort(now, self.id(id)),
            Step::Release { id } => self.end.release(now, self.id(id)),
            Step::SetOptions { id, options } => self.end.tcp.set_options(now, self.id(id), &session_options(options)),
            Step::Reserve { id, len } => {
                // As many as the pool has buffers for.
                if self.messages.len() + self.parked.len() > 32 {
                    drop((self.messages.pop(), self.parked.pop()));
                }
                let id = self.id(id);
                if let Ok(mut message) = self.end.tcp.reserve(now, &mut self.end.pair.tx, id, len) {
                    let bytes = self.bytes(len.into());
                    message.payload_mut().copy_from_slice(&bytes);
                    self.messages.push((message, bytes));
                }
            }
            Step::Commit { len } => {
                let Some((message, bytes)) = self.messages.pop() else { return };
                let id = message.session();
                match self.end.tcp.commit(now, &mut self.end.pair.tx, message, len) {
                    Ok(()) => self.wrote(id, &bytes[..len.into()]),
                    Err((_, message)) => self.messages.push((message, bytes)),
                }
            }
            Step::Park { len } => {
                let Some((message, mut bytes)) = self.messages.pop() else { return };
                match self.end.tcp.park(message, len) {
                    Ok(parked) => {
                        bytes.truncate(len.into());
                        self.parked.push((parked, bytes));
                    }
                    Err((_, message)) => self.messages.push((message, bytes)),
                }
            }
            Step::ReleaseParked { at } if !self.parked.is_empty() => {
                let (parked, bytes) = self.parked.swap_remove(usize::from(at) % self.parked.len());
                let id = parked.session();
                match self.end.tcp.release_parked(now, &mut self.end.pair.tx, parked) {
                    Ok(()) => self.wrote(id, &bytes),
                    Err((_, parked)) => self.parked.push((parked, bytes)),
                }
            }
            Step::Forget { at } => {
                if at % 2 == 0 {
                    drop(self.messages.pop())
                } else {
                    drop(self.parked.pop())
                }
            }
            Step::Delegate { id, len } => {
                let id = self.id(id);
                self.delegated.extend(self.end.tcp.delegate(now, &mut self.end.pair.tx, id, len).ok());
            }
            Step::Complete { is_right } => {
                let Some(delegated) = self.delegated.pop() else { return };
                let bytes = self.bytes(usize::from(delegated.len()) + usize::from(!is_right));
                let id = delegated.session();
                match self.end.tcp.delegate_complete(now, &mut self.end.pair.tx, delegated, &bytes) {
                    Ok(()) => self.wrote(id, &bytes),
                    Err((_, delegated)) => self.delegated.push(delegated),
                }
            }
            Step::Cancel => {
                let Some(delegated) = self.delegated.pop() else { return };
                self.end.tcp.delegate_cancel(now, &mut self.end.pair.tx, delegated);
            }
            Step::Warm { id, len } => {
                let id = self.id(id);
                let _ = self.end.tcp.warm(now, &mut self.end.pair.tx, id, &vec![0; len]);
            }
            Step::Full(is_full) => self.end.medium.set_full(is_full),
            Step::ReleaseParked { .. } => {}
        }
        self.end.pair.tx.flush();
        self.poll();
    }

    fn finish(mut self) {
        self.end.medium.set_full(false);
        self.end.tcp.unlisten(PORT);
        self.messages.clear();
        self.parked.clear();
        self.delegated.clear();
        for id in std::mem::take(&mut self.ids) {
            self.end.release(self.now, id);
        }
        self.wait(1000 * SECOND);
        // Accepted at the last moment.
        for id in std::mem::take(&mut self.ids) {
            self.end.release(self.now, id);
        }
        self.wait(1000 * SECOND);
        assert!(self.end.is_empty(), "something is left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_breaks_the_lane(choice: u8, steps in proptest::collection::vec(steps(), 1..200)) {
        let mut world = World::new();
        world.open(choice);
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
