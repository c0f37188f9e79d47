//! One connection: what it knows, and what its user asks of it. How it answers segments is in `input`, how it sends in `output`, and
//! what it does about loss in `recovery`.

use arrayvec::ArrayVec;
use barewire_driver::clock::Nanos;
use barewire_driver::pool::{Buffer, Retained};
use barewire_driver::{MacAddress, OwnedFrame};
use bitflags::bitflags;

use super::config::TcpOptions;
use super::options::{Block, MAX_BLOCKS};
use super::recovery::Recovery;
use super::report::{Log, Retransmits, TcpEnd, TcpHappening, TcpReport};
use super::rtt::Rtt;
use super::seq::Seq;
use super::slab::{Link, Slab};
use super::state::{Cause, TcpState};
use super::table::{Key, Table};
use super::timers::Timers;
use super::{TcpStats, output};

/// A deadline that never comes.
pub(super) const NEVER: Nanos = Nanos::MAX;

/// A segment that was sent and is not acknowledged.
pub(super) struct Sent {
    /// Its first sequence number.
    pub seq: Seq,
    /// Bytes of payload.
    pub payload: u16,
    /// What is known about it.
    pub marks: Marks,
    /// When it was sent last.
    pub sent_at: Nanos,
    /// The frame.
    pub frame: SentFrame,
}

impl Sent {
    /// The sequence number after its last.
    #[inline]
    pub fn end(&self) -> Seq {
        self.seq + self.len()
    }

    /// The sequence space it takes.
    #[inline]
    pub fn len(&self) -> u32 {
        u32::from(self.payload) + u32::from(self.marks.contains(Marks::FIN))
    }

    /// Whether it is thought to be on its way.
    #[inline]
    pub fn is_in_flight(&self) -> bool {
        !self.marks.intersects(Marks::SACKED | Marks::LOST)
    }
}

/// Where a sent segment's bytes are.
pub(super) enum SentFrame {
    /// In the buffer it was sent from; the device may still read it.
    Retained(Retained),
    /// In a buffer that was not sent from here: somebody else sent the bytes.
    Unsent(Buffer),
    /// Nowhere, for the moment in which it is sent again.
    Moving,
}

bitflags! {
    /// What is known about a sent segment.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Marks: u8 {
        /// The peer holds it behind a gap.
        const SACKED = 1;
        /// Thought lost, and not sent again since.
        const LOST = 1 << 1;
        /// Sent more than once.
        const RESENT = 1 << 2;
        /// Carries our FIN.
        const FIN = 1 << 3;
    }

    /// What a session is in the middle of. Hot: checked with one look.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        /// The peer understands selective acknowledgements.
        const SACK = 1;
        /// Both ends send timestamps.
        const TIMESTAMPS = 1 << 1;
        /// Something came that must be acknowledged.
        const ACK_DUE = 1 << 2;
        /// The acknowledgement may not wait.
        const ACK_NOW = 1 << 3;
        /// Something waits behind a gap, or what was sent is in doubt: no segment is predictable.
        const TROUBLE = 1 << 4;
        /// The user was told that there is no room, and wants to hear when there is.
        const BLOCKED = 1 << 5;
        /// The user has given the session up; it ends by itself.
        const RELEASED = 1 << 6;
        /// In the list of what is to be looked at when the poll ends.
        const QUEUED = 1 << 7;
        /// A FIN is to follow what was sent, and could not be sent yet.
        const FIN_WANTED = 1 << 8;
        /// Somebody else is sending for this session.
        const DELEGATED = 1 << 9;
        /// There is something to tell the user.
        const NEWS = 1 << 10;
        /// The congestion window limits.
        const CONGESTION = 1 << 11;
        /// Opened by a peer and open now, but its user has not heard of it.
        const UNACCEPTED = 1 << 12;
        /// Opened by a peer, and nobody's yet.
        const PASSIVE = 1 << 13;
        /// In the table of connections.
        const LISTED = 1 << 14;
        /// The next hop is not known; nothing can be sent.
        const UNRESOLVED = 1 << 15;
        /// What came of the last segments, sent or received, is not worked off yet: see [`Session::catch_up`].
        const BEHIND = 1 << 16;
        /// SND.UNA has moved, and the list of what was sent has not followed. Nothing was in doubt then.
        const ACKED = 1 << 17;
    }
}

/// A segment that was received and not read.
pub(super) struct Kept {
    /// Sequence number of its first byte that counts.
    pub seq: Seq,
    /// Where that byte is in the frame.
    pub start: u16,
    /// Bytes that count.
    pub len: u16,
    /// The frame, in the buffer that the device wrote.
    pub frame: OwnedFrame,
}

impl Kept {
    #[inline]
    pub fn end(&self) -> Seq {
        self.seq + u32::from(self.len)
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let start = usize::from(self.start);
        self.frame.bytes().get(start..start + usize::from(self.len)).unwrap_or_default()
    }
}

/// What sessions share.
pub(super) struct Shared {
    pub table: Table,
    pub sent: Slab<Sent>,
    pub kept: Slab<Kept>,
    pub timers: Timers,
    pub stats: TcpStats,
    /// Sessions to be looked at when the poll ends. As many as there are fit in.
    pub attention: Vec<u32>,
    /// The first session that is behind with its work; others are among those to be looked at.
    pub behind: Option<u32>,
}

/// What a session works with.
pub(super) struct Work<'a, T> {
    pub now: Nanos,
    pub tx: &'a mut T,
    pub lane: &'a mut Shared,
}

/// What the retransmission deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Waiting {
    /// Nothing is outstanding.
    #[default]
    Nothing,
    /// The tail may be lost (RFC 8985, 7).
    Probe,
    /// The retransmission time-out.
    Timeout,
    /// Whether what is behind a gap was only reordered (RFC 8985, 6.2).
    Reordering,
    /// The peer's window is closed (RFC 9293, 3.8.6.1).
    Window,
    /// A buffer or a descriptor, for what could not be sent.
    Queue,
}

/// A connection. The first two cache lines are all that an ordinary segment touches, each way.
#[repr(C, align(64))]
pub(super) struct Session {
    // What a segment is held against.
    pub key: Key,
    /// SND.UNA, SND.NXT, SND.WND (scaled, and never negative: MUST-1), RCV.NXT (RFC 9293, 3.3.1).
    pub snd_una: Seq,
    pub snd_nxt: Seq,
    pub snd_wnd: u32,
    pub rcv_nxt: Seq,
    /// The right edge of the window that was told.
    pub rcv_edge: Seq,
    /// RCV.NXT as it was last told.
    pub rcv_told: Seq,
    /// SND.WL1, SND.WL2.
    pub snd_wl1: Seq,
    pub snd_wl2: Seq,
    /// Bytes that may be in flight, and that are.
    pub cwnd: u32,
    pub in_flight: u32,
    pub flags: Flags,
    /// The largest payload to send.
    pub mss: u16,
    pub state: TcpState,
    pub snd_shift: u8,
    pub rcv_shift: u8,
    /// Bytes of the headers of a data segment.
    pub header_len: u8,

    // What a segment is made from, and kept in.
    /// Ethernet, IPv4 and the ports, ready but for lengths.
    pub headers: [u8; output::PREPARED],
    /// The sum over the addresses and the protocol of the pseudo-header.
    pub pseudo: u16,
    pub sent_first: Link,
    pub sent_last: Link,
    pub kept_first: Link,
    pub kept_last: Link,
    /// Bytes in order that were not read.
    pub readable: u32,
    /// Of [`TcpOptions::receive_window`].
    pub capacity: u32,

    pub cold: Cold,
}

const _: () = assert!(std::mem::offset_of!(Session, cold) <= 128, "hot state takes two cache lines");

/// What a session needs now and then.
pub(super) struct Cold {
    pub index: u32,
    pub generation: u32,
    pub options: TcpOptions,
    pub iss: Seq,
    pub irs: Seq,
    /// The largest window the peer ever had (MAX.SND.WND of RFC 5961, 5.2; Max(SND.WND) of RFC 9293, 3.8.6.2.1).
    pub max_wnd: u32,
    /// No better window has come for so long that a small one is used (RFC 9293, 3.8.6.2.1, rule 4).
    pub is_forced: bool,
    /// What the user waits for is not the peer's window, but a place in the lane's list of sent segments.
    pub is_starved: bool,
    /// The listener it came from.
    pub listener: Option<u16>,
    pub end: Option<TcpEnd>,
    pub rtt: Rtt,
    /// SND.UNA as the list of what was sent knows it, while that has not followed.
    pub una_worked_off: Seq,
    pub backoff: u8,
    /// What the retransmission deadline is for, and when it is.
    pub waiting: Waiting,
    pub rtx_due: Nanos,
    pub ack_due: Nanos,
    /// RCV.NXT when the acknowledgement began to wait.
    pub ack_waits_at: Seq,
    /// Keepalive, TIME-WAIT.
    pub idle_due: Nanos,
    /// What the heap of timers holds.
    pub scheduled: Nanos,
    /// When what is outstanding first was, or the window closed: the user time-out counts from here.
    pub stalled_since: Nanos,
    pub heard_at: Nanos,
    pub keepalives: u16,
    pub recovery: Recovery,
    /// Our clock's offset in timestamps; the peer's last (TS.Recent), and when it came.
    pub ts_offset: u32,
    pub ts_recent: u32,
    pub ts_recent_at: Nanos,
    /// The peer's FIN, also when it came too early.
    pub fin: Option<Seq>,
    /// Bytes behind a gap.
    pub out_of_order: u32,
    /// Where the pieces that came last begin, newest first; and what arrived twice (RFC 2883).
    pub recent: ArrayVec<Seq, MAX_BLOCKS>,
    pub twice: Option<Block>,
    /// Counts what is parked: those of an older batch are void.
    pub batch: u32,
    /// The second of the last challenge, and how many there were in it.
    pub challenges: (u64, u8),
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: Retransmits,
    pub log: Log,
}

/// Where a new session begins.
pub(super) struct Birth {
    pub key: Key,
    pub iss: Seq,
    pub options: TcpOptions,
    pub listener: Option<u16>,
    pub ts_offset: u32,
    pub now: Nanos,
}

impl Session {
    /// A slot without a connection.
    pub fn vacant(index: u32) -> Self {
        let options = TcpOptions::default();
        Self {
            key: Key::default(),
            snd_una: Seq(0),
            snd_nxt: Seq(0),
            snd_wnd: 0,
            rcv_nxt: Seq(0),
            rcv_edge: Seq(0),
            rcv_told: Seq(0),
            snd_wl1: Seq(0),
            snd_wl2: Seq(0),
            cwnd: 0,
            in_flight: 0,
            flags: Flags::empty(),
            mss: 0,
            state: TcpState::Closed,
            snd_shift: 0,
            rcv_shift: 0,
            header_len: output::HEADERS as u8,
            headers: [0; output::PREPARED],
            pseudo: 0,
            sent_first: Link::NONE,
            sent_last: Link::NONE,
            kept_first: Link::NONE,
            kept_last: Link::NONE,
            readable: 0,
            capacity: 0,
            cold: Cold {
                index,
                generation: 0,
                options,
                iss: Seq(0),
                irs: Seq(0),
                max_wnd: 0,
                is_forced: false,
                is_starved: false,
                listener: None,
                end: None,
                rtt: Rtt::new(&options),
                una_worked_off: Seq(0),
                backoff: 0,
                waiting: Waiting::Nothing,
                rtx_due: NEVER,
                ack_due: NEVER,
                ack_waits_at: Seq(0),
                idle_due: NEVER,
                scheduled: NEVER,
                stalled_since: 0,
                heard_at: 0,
                keepalives: 0,
                recovery: Recovery::default(),
                ts_offset: 0,
                ts_recent: 0,
                ts_recent_at: 0,
                fin: None,
                out_of_order: 0,
                recent: ArrayVec::new(),
                twice: None,
                batch: 0,
                challenges: (0, 0),
                bytes_sent: 0,
                bytes_received: 0,
                retransmits: Retransmits::default(),
                log: Log::default(),
            },
        }
    }

    /// Makes a vacant slot a connection that has sent and received nothing.
    pub fn begin(&mut self, birth: Birth, addresses: output::Addresses) {
        let (index, generation) = (self.cold.index, self.cold.generation);
        *self = Self::vacant(index);
        let Birth { key, iss, options, listener, ts_offset, now } = birth;
        self.key = key;
        (self.snd_una, self.snd_nxt) = (iss, iss);
        self.mss = options.mss.clamp(64, output::MAX_MSS);
        self.capacity = options.receive_window.clamp(u32::from(self.mss), 1 << 30);
        self.rcv_shift = options.window_shift();
        self.flags.set(Flags::CONGESTION, options.congestion);
        self.headers = addresses.headers(key);
        self.pseudo = addresses.pseudo(key);
        let cold = &mut self.cold;
        (cold.generation, cold.iss, cold.listener, cold.ts_offset) = (generation, iss, listener, ts_offset);
        cold.options = options;
        cold.rtt = Rtt::new(&options);
        cold.recovery = Recovery::new(iss);
        (cold.heard_at, cold.stalled_since) = (now, now);
    }

    /// Sends to another station from now on.
    pub fn set_station(&mut self, mac: MacAddress) {
        if let Some(destination) = self.headers.first_chunk_mut::<6>() {
            *destination = mac.0;
        }
    }

    /// Moves along the diagram. `false` where `cause` leads nowhere from here.
    pub fn step<T>(&mut self, w: &mut Work<'_, T>, cause: Cause) -> bool {
        let Some(to) = self.state.after(cause) else { return false };
        self.enter(w, to);
        true
    }

    fn enter<T>(&mut self, w: &mut Work<'_, T>, to: TcpState) {
        self.state = to;
        self.cold.log.note(w.now, TcpHappening::State(to));
        self.flags |= Flags::NEWS;
        self.attend(w.lane);
        match to {
            TcpState::TimeWait => {
                self.stop_retransmitting();
                self.cold.idle_due = w.now.saturating_add(self.cold.options.time_wait);
                self.arm(w.lane, self.cold.idle_due);
            }
            TcpState::FinWait2 => self.linger(w),
            TcpState::Closed => {
                self.unlist(w.lane);
                self.stop_retransmitting();
                w.lane.sent.clear(&mut self.sent_first);
                self.sent_last = Link::NONE;
                self.in_flight = 0;
                // What came in order may still be read, unless nobody will.
                if self.flags.contains(Flags::RELEASED) || self.cold.end.is_some() {
                    self.forget_received(w.lane);
                }
                (self.cold.ack_due, self.cold.idle_due) = (NEVER, NEVER);
                self.flags -= Flags::ACK_DUE | Flags::ACK_NOW | Flags::FIN_WANTED | Flags::BLOCKED | Flags::DELEGATED;
            }
            _ => {}
        }
    }

    /// In FIN-WAIT-2, where nothing is left to be sent again, nobody waits for ever for a peer that is gone: what is released waits as long as in
    /// TIME-WAIT.
    pub fn linger<T>(&mut self, w: &mut Work<'_, T>) {
        if self.state == TcpState::FinWait2 && self.flags.contains(Flags::RELEASED) {
            self.cold.idle_due = w.now.saturating_add(self.cold.options.time_wait);
            self.arm(w.lane, self.cold.idle_due);
        }
    }

    /// Leaves the table: what comes from there now is for somebody else.
    pub fn unlist(&mut self, lane: &mut Shared) {
        if self.flags.contains(Flags::LISTED) {
            self.flags -= Flags::LISTED;
            lane.table.remove(self.key);
        }
    }

    /// Frees everything that was received and not read.
    pub fn forget_received(&mut self, lane: &mut Shared) {
        lane.kept.clear(&mut self.kept_first);
        self.kept_last = Link::NONE;
        self.readable = 0;
        self.cold.out_of_order = 0;
    }

    /// Ends without order.
    pub fn fail<T>(&mut self, w: &mut Work<'_, T>, end: TcpEnd) {
        self.cold.end = Some(end);
        self.enter(w, TcpState::Closed);
    }

    fn stop_retransmitting(&mut self) {
        (self.cold.waiting, self.cold.rtx_due) = (Waiting::Nothing, NEVER);
    }

    /// Has the session looked at when the poll ends.
    #[inline]
    pub fn attend(&mut self, lane: &mut Shared) {
        if !self.flags.contains(Flags::QUEUED) {
            self.flags |= Flags::QUEUED;
            lane.attention.push(self.cold.index);
        }
    }

    /// Leaves what need not be done before the doorbell for after it.
    #[inline]
    pub fn fall_behind(&mut self, lane: &mut Shared) {
        if !self.flags.contains(Flags::BEHIND) {
            self.flags |= Flags::BEHIND;
            if *lane.behind.get_or_insert(self.cold.index) != self.cold.index {
                self.attend(lane);
            }
        }
    }

    /// Has the session woken up at `due` at the latest.
    #[inline]
    pub fn arm(&mut self, lane: &mut Shared, due: Nanos) {
        if due < self.cold.scheduled {
            self.cold.scheduled = due;
            lane.timers.set(self.cold.index, due);
        }
    }

    /// After the heap has let go of the session: its next deadline.
    pub fn rearm(&mut self, lane: &mut Shared) {
        self.cold.scheduled = NEVER;
        let due = self.cold.rtx_due.min(self.cold.ack_due).min(self.cold.idle_due);
        self.arm(lane, due);
    }

    /// Bytes that may be sent now: what the peer's window, shrunk though it may be (SHLD-15), and the congestion window leave.
    #[inline]
    pub fn room(&self) -> u32 {
        let window = (self.snd_una + self.snd_wnd).since(self.snd_nxt);
        if !self.flags.contains(Flags::CONGESTION) {
            return window;
        }
        window.min(self.cwnd.saturating_sub(self.flight()))
    }

    /// Bytes in flight, also where the list of what was sent has not followed.
    #[inline]
    fn flight(&self) -> u32 {
        let is_behind = self.flags.contains(Flags::ACKED);
        if is_behind { self.snd_nxt.since(self.snd_una) } else { self.in_flight }
    }

    /// How many of `wanted` bytes go into the next segment, if there is room for them: as large ones as can be (SHLD-28), and no silly ones
    /// (RFC 9293, 3.8.6.2.1: MUST-38). What fits is never held back for more to come: there is no Nagle (MUST-17).
    pub fn portion(&self, wanted: usize) -> u16 {
        let whole = wanted.min(self.mss.into()) as u32;
        let part = whole.min(self.room());
        let is_silly = part < whole && part < self.cold.max_wnd / 2 && !self.cold.is_forced;
        if is_silly || part == 0 { whole as u16 } else { part as u16 }
    }

    /// The next bytes in order, as far as one frame goes.
    #[inline]
    pub fn peek<'a>(&self, lane: &'a Shared) -> &'a [u8] {
        if self.readable == 0 {
            return &[];
        }
        lane.kept.get(self.kept_first).map_or(&[], Kept::bytes)
    }

    /// Marks `bytes` as read. Tells the peer of the room when it is worth it (RFC 9293, 3.8.6.2.2).
    #[inline]
    pub fn consume(&mut self, lane: &mut Shared, bytes: u32) {
        let read = bytes.min(self.readable);
        self.readable -= read;
        // What is lent has not been kept.
        if !self.kept_first.is_none() {
            self.free_read(lane, read);
        }
        let told = self.rcv_edge.since(self.rcv_nxt);
        if told < self.capacity / 2 && self.state.may_receive() {
            self.offer_window(lane);
        }
    }

    fn free_read(&mut self, lane: &mut Shared, mut left: u32) {
        while left > 0 {
            let Some(kept) = lane.kept.get_mut(self.kept_first) else { break };
            if u32::from(kept.len) > left {
                kept.start = kept.start.wrapping_add(left as u16);
                kept.len = kept.len.wrapping_sub(left as u16);
                kept.seq = kept.seq + left;
                break;
            }
            left -= u32::from(kept.len);
            let next = lane.kept.next(self.kept_first);
            lane.kept.remove(self.kept_first);
            self.kept_first = next;
            if next.is_none() {
                self.kept_last = Link::NONE;
            }
        }
    }

    #[cold]
    fn offer_window(&mut self, lane: &mut Shared) {
        let told = self.rcv_edge.since(self.rcv_nxt);
        let gained = self.window_now(lane).saturating_sub(told);
        if gained >= (self.capacity / 2).min(2 * u32::from(self.mss)) {
            self.flags |= Flags::ACK_DUE | Flags::ACK_NOW;
            self.attend(lane);
        }
    }

    /// Bytes that could be taken now: what was promised is kept even when memory has become scarce (RFC 9293, 3.8.6: SHLD-14).
    pub fn window_now(&self, lane: &Shared) -> u32 {
        let memory = lane.kept.available().saturating_mul(u32::from(self.mss));
        self.capacity.saturating_sub(self.readable).min(memory)
    }

    /// The blocks to tell the peer of: what arrived twice first (RFC 2883, 4), then those that something was added to last, then the others
    /// (RFC 2018, 4).
    pub fn blocks(&self, lane: &Shared) -> ArrayVec<Block, MAX_BLOCKS> {
        let mut blocks: ArrayVec<Block, MAX_BLOCKS> = self.cold.twice.into_iter().collect();
        let twice = blocks.len();
        for seq in &self.cold.recent {
            let block = self.gaps(lane).find(|block| !seq.before(block.0) && seq.before(block.1));
            let _ = block.map(|block| blocks.try_push(block));
        }
        for block in self.gaps(lane) {
            if !blocks.iter().skip(twice).any(|told| *told == block) && blocks.try_push(block).is_err() {
                break;
            }
        }
        blocks
    }

    /// What is kept behind gaps, as blocks without one.
    pub fn gaps(&self, lane: &Shared) -> impl Iterator<Item = Block> {
        let mut kept = lane.kept.list(self.kept_first).map(|(_, kept)| (kept.seq, kept.end())).peekable();
        let first = self.rcv_nxt;
        std::iter::from_fn(move || {
            let (start, mut end) = kept.find(|(_, end)| end.after(first))?;
            while let Some((_, next)) = kept.next_if(|(start, _)| *start == end) {
                end = next;
            }
            Some((start, end))
        })
    }

    /// What there is to tell about the session.
    pub fn report(&self, lane: &Shared) -> TcpReport {
        let cold = &self.cold;
        let sent = || lane.sent.list(self.sent_first).filter(|(_, sent)| sent.end().after(self.snd_una));
        let marked = |mark| sent().filter(|(_, sent)| sent.marks.contains(mark)).count() as u32;
        TcpReport {
            remote: self.key.remote(),
            local_port: self.key.local_port(),
            state: self.state,
            end: cold.end,
            mss: self.mss,
            srtt: cold.rtt.srtt,
            rttvar: cold.rtt.rttvar,
            min_rtt: if cold.rtt.srtt == 0 { 0 } else { cold.rtt.min },
            rto: cold.rtt.rto,
            backoff: cold.backoff,
            congestion_window: self.flags.contains(Flags::CONGESTION).then_some(self.cwnd),
            slow_start_threshold: cold.recovery.ssthresh,
            send_window: self.snd_wnd,
            receive_window: self.rcv_edge.since(self.rcv_nxt),
            unacknowledged: self.snd_nxt.since(self.snd_una),
            in_flight: self.flight(),
            unacknowledged_segments: sent().count() as u32,
            lost_segments: marked(Marks::LOST),
            sacked_segments: marked(Marks::SACKED),
            unread: self.readable,
            out_of_order: cold.out_of_order,
            bytes_sent: cold.bytes_sent,
            bytes_received: cold.bytes_received,
            retransmits: cold.retransmits,
            log: cold.log.iter().collect(),
        }
    }
}
