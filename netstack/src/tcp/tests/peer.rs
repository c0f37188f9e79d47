//! A peer that sends whatever a test says, to an end of ours, in virtual time.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::script::{Bases, Seg, stream};
use super::*;
use crate::tcp::TcpStats;
use crate::tcp::seq::Seq;
use crate::wire::flag;

pub const END: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The end's port: where it listens, or connects from.
pub const PORT: u16 = 7000;
pub const PEER_PORT: u16 = 50_000;
/// Where the peer's numbers begin: they wrap soon.
const PEER_ISS: u32 = u32::MAX - 2000;
/// What a peer's SYN says unless a test says otherwise.
pub const SYN_OPTIONS: &str = "mss 1460, sackok, ws 0";

/// The peer, and the end it talks to.
pub struct Peer {
    pub end: End,
    pub now: Nanos,
    pub id: SessionId,
    iss: u32,
    /// The end's initial sequence number, once it was seen.
    end_iss: u32,
    /// What the end sent and nobody expected yet, and when.
    sent: VecDeque<(Nanos, Seg)>,
    /// The right edge of the window that the end has told.
    edge: Option<Seq>,
    /// Bytes of the two streams that the end has been given to send, and that were read from it.
    pub written: u32,
    pub read: u32,
}

impl Peer {
    /// An end, and nothing between the two.
    pub fn new(config: TcpConfig) -> Self {
        Self::with_ring(config, 64)
    }

    /// An end with that many descriptors to send with.
    pub fn with_ring(config: TcpConfig, descriptors: u32) -> Self {
        let (end, id) = (End::with_ring(END, config, descriptors), SessionId { index: u32::MAX, generation: 0 });
        Self {
            end,
            now: 10 * SECOND,
            id,
            iss: PEER_ISS,
            end_iss: 0,
            sent: VecDeque::new(),
            edge: None,
            written: 0,
            read: 0,
        }
    }

    /// An end that listens.
    pub fn listening(options: &TcpOptions) -> Self {
        let mut peer = Self::new(TcpConfig::default());
        peer.end.tcp.listen(PORT, options).unwrap();
        peer
    }

    /// An end that has sent its SYN.
    pub fn called(options: &TcpOptions) -> Self {
        let mut peer = Self::new(TcpConfig::default());
        peer.id = peer.end.connect_from(peer.now, PORT, SocketAddrV4::new(PEER, PEER_PORT), options).unwrap();
        peer.poll();
        peer.expect(&["S 0"]);
        peer
    }

    /// A connection that the end opened; the peer's SYN says `syn_options`, its windows `window`.
    pub fn connected_with(options: &TcpOptions, syn_options: &str, window: u16) -> Self {
        let mut peer = Self::called(options);
        peer.wait(10 * MICROSECOND);
        peer.send(&format!("SA 0 ack 1 win {window} <{syn_options}>"));
        peer.expect(&["A 1 ack 1"]);
        peer
    }

    /// A connection that the end opened.
    pub fn connected() -> Self {
        Self::connected_with(&TcpOptions::default(), SYN_OPTIONS, 65_535)
    }

    /// A connection that the end accepted.
    pub fn accepted_with(options: &TcpOptions, syn_options: &str, window: u16) -> Self {
        let mut peer = Self::listening(options);
        peer.send(&format!("S 0 win {window} <{syn_options}>"));
        peer.expect(&["SA 0 ack 1"]);
        peer.wait(10 * MICROSECOND);
        peer.send(&format!("A 1 ack 1 win {window}"));
        peer.expect(&[]);
        peer.id = peer.end.accepted[0];
        peer
    }

    /// A connection that the end accepted.
    pub fn accepted() -> Self {
        Self::accepted_with(&TcpOptions::default(), SYN_OPTIONS, 65_535)
    }

    fn session(&self) -> Option<&crate::tcp::session::Session> {
        let tcp = &self.end.tcp;
        let index = tcp.find_key(SocketAddrV4::new(PEER, PEER_PORT), PORT).or_else(|| tcp.find(self.id))?;
        tcp.sessions.get(index as usize)
    }

    /// What numbers in a segment of the peer's count from, or in one of the end's.
    pub fn bases(&self, of_end: bool) -> Bases {
        let (from, to) = if of_end { (self.end_iss, self.iss) } else { (self.iss, self.end_iss) };
        let (n, m, u) = self.session().map_or((0, 0, 0), |s| (s.rcv_nxt.0, s.snd_nxt.0, s.snd_una.0));
        Bases { from, to, n, m, u }
    }

    pub fn poll(&mut self) {
        self.end.poll(self.now);
        self.end.check();
        for frame in self.end.medium.sent() {
            let segment = wire::see_tcp(&frame).expect("a segment");
            assert!(crate::host::verify(segment.packet), "a checksum is wrong");
            assert_eq!((segment.source, segment.destination), (END.to_bits(), PEER.to_bits()));
            assert_eq!(segment.ports, u32::from(PORT) << 16 | u32::from(PEER_PORT));
            if segment.flags & flag::SYN != 0 {
                self.end_iss = segment.seq;
            }
            let first = segment.seq.wrapping_sub(self.end_iss);
            for (at, byte) in segment.payload.iter().enumerate() {
                assert_eq!(*byte, stream(first.wrapping_add(at as u32)), "byte {at} from {first}");
            }
            self.check_edge(&segment);
            self.sent.push_back((self.now, Seg::of(&segment)));
        }
    }

    /// The right edge of the window never moves back (SHLD-14), but for what scaling cuts off.
    fn check_edge(&mut self, segment: &wire::Segment<'_>) {
        if segment.flags & (flag::SYN | flag::RST) != 0 {
            self.edge = None;
        } else if let Some(shift) = self.session().map(|session| session.rcv_shift) {
            let edge = Seq(segment.ack) + (u32::from(segment.window) << shift);
            let before = self.edge.unwrap_or(edge);
            assert!(before.since(edge) < 1 << shift, "the window shrinks by {}", before.since(edge));
            self.edge = Some(before.max(edge));
        }
    }

    /// Lets segments arrive, in one poll.
    pub fn send_all(&mut self, texts: &[&str]) {
        for text in texts {
            let frame = self.frame(text);
            self.end.medium.arrive(frame);
        }
        self.poll();
    }

    pub fn send(&mut self, text: &str) {
        self.send_all(&[text]);
    }

    /// The frame of a segment of the peer's.
    pub fn frame(&self, text: &str) -> Vec<u8> {
        let bases = self.bases(false);
        let macs = (mac(PEER).0, mac(END).0);
        Seg::parse(text, bases).frame(macs, (PEER.to_bits(), END.to_bits()), (PEER_PORT, PORT), bases)
    }

    /// What the end has sent, as text.
    pub fn sent(&mut self) -> Vec<String> {
        let bases = self.bases(true);
        self.sent.drain(..).map(|(_, seg)| seg.show(bases)).collect()
    }

    /// The next segment that the end has sent.
    pub fn next(&mut self) -> Option<Seg> {
        self.sent.pop_front().map(|(_, seg)| seg)
    }

    /// The end has sent this since it was last asked, and nothing else.
    #[track_caller]
    pub fn expect(&mut self, texts: &[&str]) {
        let bases = self.bases(true);
        let fits = texts.len() == self.sent.len()
            && texts.iter().zip(&self.sent).all(|(text, (_, seg))| seg.is_as(&Seg::parse(text, bases)));
        let sent = self.sent();
        assert!(fits, "expected {texts:?}\n    sent {sent:?}");
    }

    /// The time of the poll for something that is due; what is to be tried again at once waits for the next one.
    fn after(&self, due: Nanos) -> Nanos {
        if due > self.now { due } else { self.now + MICROSECOND }
    }

    /// Lets time pass, and what is due happen in it.
    pub fn wait(&mut self, time: Nanos) {
        let end = self.now + time;
        while let Some(due) = self.end.tcp.deadline(self.now).map(|due| self.after(due)).filter(|due| *due <= end) {
            self.now = due;
            self.poll();
        }
        self.now = end;
        self.poll();
    }

    /// Lets time pass until the end sends something, for `limit` at most; says how long it took.
    pub fn wait_for_segment(&mut self, limit: Nanos) -> Option<Nanos> {
        let start = self.now;
        while self.sent.is_empty() {
            let due = self.end.tcp.deadline(self.now).map(|due| self.after(due));
            self.now = due.filter(|due| *due <= start + limit)?;
            self.poll();
        }
        Some(self.now - start)
    }

    /// After how many milliseconds the end sends, each time; everything it sends is `text`.
    #[track_caller]
    pub fn expect_in_time(&mut self, text: &str, milliseconds: &[u64]) {
        for expected in milliseconds {
            let took = self.wait_for_segment(1000 * SECOND).unwrap_or_else(|| panic!("{text} is never sent"));
            assert_eq!((took / MILLISECOND, text), (*expected, text));
            self.expect(&[text]);
        }
    }

    /// Sends the next `len` bytes of the end's stream, and says how many were taken.
    pub fn write(&mut self, len: u32) -> Result<usize, TcpError> {
        let first = self.written + 1;
        let bytes: Vec<u8> = (first..first + len).map(stream).collect();
        let taken = self.end.send(self.now, self.id, &bytes);
        self.written += taken.as_ref().map_or(0, |taken| *taken as u32);
        self.poll();
        taken
    }

    /// Reads all there is, compares it to the peer's stream, and says how much it was.
    pub fn read(&mut self) -> usize {
        let bytes = self.end.read(self.id);
        for byte in &bytes {
            self.read += 1;
            assert_eq!(*byte, stream(self.read), "byte {} of the stream", self.read);
        }
        self.poll();
        bytes.len()
    }

    pub fn close(&mut self) {
        self.end.close(self.now, self.id);
        self.poll();
    }

    pub fn abort(&mut self) {
        self.end.abort(self.now, self.id);
        self.poll();
    }

    pub fn release(&mut self) {
        self.end.release(self.now, self.id);
        self.poll();
    }

    /// The state of the connection, whoever knows of it; LISTEN where there is none and somebody would answer.
    pub fn state_now(&self) -> TcpState {
        match self.session() {
            Some(session) => session.state,
            None if self.end.tcp.is_listening(PORT) => TcpState::Listen,
            None => TcpState::Closed,
        }
    }

    pub fn state(&self) -> TcpState {
        self.end.state(self.id)
    }

    pub fn report(&self) -> crate::tcp::TcpReport {
        self.end.tcp.report(self.id).expect("a session")
    }

    pub fn stats(&self) -> TcpStats {
        self.end.tcp.stats()
    }

    /// Gives the session up, lets all time pass, and sees that nothing is left.
    #[track_caller]
    pub fn finish(mut self) {
        self.end.medium.set_full(false);
        self.release();
        self.wait(1000 * SECOND);
        assert!(self.end.is_empty(), "something is left: {:?}", self.end.tcp.report(self.id));
    }
}

/// What differs between two states of the counters, segments apart.
pub fn count(before: &TcpStats, after: &TcpStats) -> Vec<String> {
    let mut counted = Vec::new();
    let mut put = |name: &str, before: u64, after: u64| match after - before {
        0 => {}
        1 => counted.push(name.into()),
        more => counted.push(format!("{name} {more}")),
    };
    macro_rules! each {
        ($($name:ident)*) => { $(put(stringify!($name), before.$name, after.$name);)* };
    }
    each!(resets timeouts blind_resets blind_syns bad_acks out_of_window challenges challenges_withheld bad_options
        bad_flags bad_sacks old_timestamps duplicate_bytes no_room unwanted_data syn_dropped half_open_evicted tx_busy
        urgent accepted opened);
    let (before, after) = (before.retransmits, after.retransmits);
    put("timeout", before.timeout, after.timeout);
    put("probe", before.probe, after.probe);
    put("recovery", before.recovery, after.recovery);
    put("syn", before.syn, after.syn);
    counted
}

impl Tcp {
    /// The session between `remote` and our `port`.
    pub(super) fn find_key(&self, remote: SocketAddrV4, port: u16) -> Option<u32> {
        let ports = u32::from(remote.port()) << 16 | u32::from(port);
        self.shared.table.find(crate::tcp::table::Key::of_segment(remote.ip().to_bits(), ports))
    }
}
