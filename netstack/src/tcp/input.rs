//! A segment arrives (RFC 9293, 3.10.7), with the precautions of RFC 5961.

use barewire_driver::{Frame, TxQueue};

use super::options::{Block, MAX_BLOCKS, Options, plain_timestamps};
use super::report::{TcpEnd, TcpHappening};
use super::seq::Seq;
use super::session::{Flags, Kept, NEVER, Session, Waiting, Work};
use super::slab::Link;
use super::state::{Cause, TcpState};
use crate::wire::{PLAIN_TEXT_AT, Segment, flag};

/// The peer does not scale windows.
pub(super) const NO_SHIFT: u8 = 0xFF;

/// Challenges a session sends in a second, at most (RFC 5961, 7).
const CHALLENGES: u8 = 10;
/// One in so many of the segments that all sessions keep is for what comes in order: no peer takes the others' room with pieces behind gaps.
const IN_ORDER_SHARE: u32 = 4;
/// Timestamps older than this say nothing any more (RFC 7323, 5.5).
const TIMESTAMPS_LAST: u64 = 24 * 24 * 3600 * 1_000_000_000;

/// What of a segment's payload is inside the window.
struct Text {
    seq: Seq,
    /// Where it starts in the frame.
    start: u16,
    len: u16,
}

impl Session {
    /// Takes in a segment that is what was expected next, as most are. What it carries counts as received then; it lies in the frame, and either it
    /// is all read at once or [`Session::keep_lent`] keeps it. `false` when [`Session::receive`] must look at the segment, and nothing has changed.
    #[inline(always)]
    pub fn receive_expected<T: TxQueue>(&mut self, w: &mut Work<'_, T>, segment: &Segment<'_>) -> bool {
        let (seq, ack, len) = (Seq(segment.seq), Seq(segment.ack), segment.payload.len() as u32);
        let acked = ack.ahead_of(self.snd_una);
        // Header prediction: an open connection without trouble, the next bytes, nothing but ACK and PSH, an acknowledgement that can be, and
        // something that it moves.
        let expected = self.state == TcpState::Established
            && segment.flags & !flag::PSH == flag::ACK
            && !self.flags.intersects(Flags::TROUBLE | Flags::TIMESTAMPS | Flags::RELEASED)
            && segment.options.is_empty()
            && seq == self.rcv_nxt
            && len <= self.rcv_edge.since(seq)
            && acked <= self.snd_nxt.ahead_of(self.snd_una)
            && len | acked > 0
            // What was not read yet comes first.
            && self.kept_first.is_none();
        if !expected {
            return false;
        }
        self.cold.heard_at = w.now;
        if acked > 0 {
            self.note_acknowledgement(w, ack);
        }
        let window = u32::from(segment.window) << (self.snd_shift & 15);
        (self.snd_wl1, self.snd_wl2) = (seq, ack);
        if window != self.snd_wnd {
            self.set_window(w, window);
        }
        if self.flags.contains(Flags::BLOCKED) {
            self.unblock(w);
        }
        if len > 0 {
            self.rcv_nxt = self.rcv_nxt + len;
            self.readable = len;
            self.cold.bytes_received = self.cold.bytes_received.wrapping_add(len.into());
            self.flags |= Flags::ACK_DUE;
        }
        true
    }

    /// After [`Session::receive_expected`] and whoever has read what it lent, `len` bytes: keeps the rest, the last of the segment's text.
    #[inline]
    pub fn keep_lent<T: TxQueue>(&mut self, w: &mut Work<'_, T>, len: u16, frame: Frame<'_>) {
        if self.readable > 0 {
            self.keep_rest(w, len, &mut Some(frame));
        }
        if self.flags.contains(Flags::ACK_DUE) {
            self.attend(w.lane);
        }
    }

    #[cold]
    fn keep_rest<T: TxQueue>(&mut self, w: &mut Work<'_, T>, len: u16, frame: &mut Option<Frame<'_>>) {
        let Some(frame) = frame.take() else { return };
        let rest = self.readable;
        let read = len.saturating_sub(rest.min(0xFFFF) as u16);
        let (seq, start) = (self.rcv_nxt - rest, PLAIN_TEXT_AT.saturating_add(read));
        let kept = match frame.take() {
            Ok(frame) => w.lane.kept.insert_with(|| Kept { seq, start, len: rest as u16, frame }),
            Err(_) => None,
        };
        let Some(link) = kept else {
            // As if it had not come: it was not acknowledged, and comes again.
            self.rcv_nxt = seq;
            self.cold.bytes_received -= u64::from(rest);
            self.readable = 0;
            return self.no_room_for(w);
        };
        (self.kept_first, self.kept_last) = (link, link);
        self.flags |= Flags::NEWS | Flags::ACK_DUE;
        self.attend(w.lane);
    }

    /// Bytes that cannot be kept are not acknowledged: the peer sends them again.
    #[cold]
    fn no_room_for<T>(&mut self, w: &mut Work<'_, T>) {
        w.lane.stats.no_room += 1;
        self.cold.log.note(w.now, TcpHappening::Dropped);
        self.flags |= Flags::ACK_DUE | Flags::ACK_NOW;
        self.attend(w.lane);
    }

    fn set_window<T>(&mut self, w: &mut Work<'_, T>, window: u32) {
        if window == 0 {
            self.cold.log.note(w.now, TcpHappening::WindowClosed);
        } else if self.snd_wnd == 0 {
            self.cold.log.note(w.now, TcpHappening::WindowOpened(window));
        }
        self.snd_wnd = window;
        self.cold.max_wnd = self.cold.max_wnd.max(window);
        if self.cold.waiting == Waiting::Window && self.room() > 0 {
            (self.cold.waiting, self.cold.backoff) = (Waiting::Nothing, 0);
            self.cold.rtx_due = NEVER;
        }
    }

    #[cold]
    pub fn unblock<T>(&mut self, w: &mut Work<'_, T>) {
        if self.room() > 0 {
            self.cold.is_starved = false;
            self.flags -= Flags::BLOCKED;
            self.flags |= Flags::NEWS;
        }
        // Where there is still none, somebody has to watch the window when the poll ends.
        self.attend(w.lane);
    }

    /// Takes in any segment for this connection, in the RFC's order.
    #[cold]
    #[inline(never)]
    pub fn receive<T: TxQueue>(&mut self, w: &mut Work<'_, T>, segment: &Segment<'_>, frame: Frame<'_>) {
        let options = match plain_timestamps(segment.options) {
            Some(timestamps) => Options { timestamps: Some(timestamps), ..Options::default() },
            None => Options::parse(segment.options),
        };
        if options.is_malformed {
            w.lane.stats.bad_options += 1;
        }
        if segment.flags & flag::URG != 0 {
            w.lane.stats.urgent += 1;
        }
        match self.state {
            TcpState::Closed | TcpState::Listen => {}
            TcpState::SynSent => self.receive_syn_sent(w, segment, &options, frame),
            _ => self.receive_synchronized(w, segment, &options, frame),
        }
    }

    /// What the peer's SYN says; ours has been sent or is to be.
    pub fn take_syn<T>(&mut self, w: &mut Work<'_, T>, segment: &Segment<'_>, options: &Options) {
        let seq = Seq(segment.seq);
        (self.cold.irs, self.rcv_nxt) = (seq, seq + 1);
        self.rcv_edge = self.rcv_nxt;
        self.rcv_told = self.rcv_nxt;
        // Without the option, 536 bytes (MUST-15).
        let peer_mss = options.mss.unwrap_or(536).max(64);
        self.flags.set(Flags::SACK, options.sack_permitted);
        match options.window_scale {
            Some(shift) => self.snd_shift = shift,
            None => {
                (self.snd_shift, self.rcv_shift) = (NO_SHIFT, 0);
                self.capacity = self.capacity.min(0xFFFF);
            }
        }
        // Asked for by whoever opens; we answer it where we are asked, if it was not wished away here.
        if let Some((value, _)) = options.timestamps.filter(|_| self.cold.options.timestamps) {
            self.flags |= Flags::TIMESTAMPS;
            (self.cold.ts_recent, self.cold.ts_recent_at) = (value, w.now);
        }
        self.mss = self.mss.min(peer_mss);
        if self.flags.contains(Flags::TIMESTAMPS) {
            // The option is part of what a segment may hold (RFC 9293, 3.7.1: MUST-16; RFC 6691).
            self.mss -= super::options::TIMESTAMPS_LEN as u16;
            self.header_len = (super::output::HEADERS + super::options::TIMESTAMPS_LEN) as u8;
        }
        // The window of a SYN is never scaled (RFC 7323, 2.2).
        self.snd_wnd = segment.window.into();
        self.cold.max_wnd = self.snd_wnd;
        self.snd_wl1 = seq;
    }

    /// Our SYN was acknowledged: the connection is open.
    fn open<T: TxQueue>(&mut self, w: &mut Work<'_, T>, segment: &Segment<'_>, cause: Cause) {
        let ack = Seq(segment.ack);
        self.snd_una = self.cold.iss + 1;
        if self.cold.retransmits.syn == 0 {
            // Karn (MUST-18): only when the SYN was sent once.
            self.cold.rtt.sample(w.now.saturating_sub(self.cold.stalled_since), &self.cold.options);
        }
        self.open_congestion_window();
        (self.cold.backoff, self.cold.stalled_since) = (0, w.now);
        (self.cold.waiting, self.cold.rtx_due) = (Waiting::Nothing, NEVER);
        (self.snd_wl1, self.snd_wl2) = (Seq(segment.seq), ack);
        let is_syn = segment.flags & flag::SYN != 0;
        let shift = if is_syn || self.snd_shift == NO_SHIFT { 0 } else { self.snd_shift };
        self.set_window(w, u32::from(segment.window) << shift);
        if self.snd_shift == NO_SHIFT {
            self.snd_shift = 0;
        }
        self.step(w, cause);
        if self.cold.listener.is_some() {
            self.flags = (self.flags | Flags::UNACCEPTED) - Flags::PASSIVE;
        }
        self.keep_alive(w);
        // The SYN's deadline is over; an idle session is to cost nothing, not even once.
        w.lane.timers.remove(self.cold.index);
        self.rearm(w.lane);
    }

    /// Whether silence is a reason to ask: both ends are there, and somebody cares.
    pub fn is_kept_alive(&self) -> bool {
        self.state.is_synchronized() && self.state != TcpState::TimeWait && !self.flags.contains(Flags::RELEASED)
    }

    /// Starts the wait for silence anew.
    fn keep_alive<T>(&mut self, w: &mut Work<'_, T>) {
        if let Some(keepalive) = self.cold.options.keepalive.filter(|_| self.is_kept_alive()) {
            self.cold.keepalives = 0;
            self.cold.idle_due = w.now.saturating_add(keepalive.idle);
            self.arm(w.lane, self.cold.idle_due);
        }
    }

    /// RFC 9293, 3.10.7.3.
    fn receive_syn_sent<T: TxQueue>(
        &mut self,
        w: &mut Work<'_, T>,
        segment: &Segment<'_>,
        options: &Options,
        frame: Frame<'_>,
    ) {
        let (ack, flags) = (Seq(segment.ack), segment.flags);
        let has_ack = flags & flag::ACK != 0;
        if has_ack && ack != self.cold.iss + 1 {
            w.lane.stats.bad_acks += 1;
            if flags & flag::RST == 0 {
                self.send_reset_at(w, ack);
            }
            return;
        }
        if flags & flag::RST != 0 {
            if has_ack {
                w.lane.stats.resets += 1;
                self.fail(w, TcpEnd::Refused);
            } else {
                w.lane.stats.blind_resets += 1;
            }
            return;
        }
        if flags & flag::SYN == 0 {
            w.lane.stats.bad_flags += 1;
            return;
        }
        self.cold.heard_at = w.now;
        self.take_syn(w, segment, options);
        if has_ack {
            self.open(w, segment, Cause::SynAck);
            self.flags |= Flags::ACK_DUE | Flags::ACK_NOW;
            self.rcv_edge = self.rcv_nxt;
            self.rcv_edge = self.rcv_nxt + self.window_now(w.lane).min(0xFFFF);
            self.take_text(w, segment, frame);
        } else {
            // Both opened at once (MUST-10). Data of this SYN comes again.
            self.step(w, Cause::Syn);
            self.send_syn(w);
        }
        self.attend(w.lane);
    }

    /// RFC 9293, 3.10.7.4.
    fn receive_synchronized<T: TxQueue>(
        &mut self,
        w: &mut Work<'_, T>,
        segment: &Segment<'_>,
        options: &Options,
        frame: Frame<'_>,
    ) {
        let (seq, flags) = (Seq(segment.seq), segment.flags);
        let has = |bit| flags & bit != 0;
        if self.state == TcpState::SynReceived && has(flag::SYN) && !has(flag::RST | flag::ACK) && seq == self.cold.irs
        {
            // The answer to this SYN was lost. With the first one's time in the next, the peer would take how long it has waited for a round trip.
            if options.timestamps.is_some_and(|(value, _)| !Seq(value).before(Seq(self.cold.ts_recent))) {
                self.note_timestamp(w, seq, options);
            }
            w.lane.stats.retransmits.syn += 1;
            self.cold.retransmits.syn += 1;
            self.send_syn(w);
            return;
        }
        if !has(flag::RST) && !self.check_timestamps(w, options) {
            return;
        }
        if !self.is_acceptable(segment) {
            return self.refuse(w, segment, options);
        }
        if has(flag::RST) {
            return self.receive_reset(w, seq);
        }
        if has(flag::SYN) && !self.is_other_half(segment) {
            w.lane.stats.blind_syns += 1;
            if self.state == TcpState::SynReceived && self.cold.listener.is_some() {
                // The peer has begun anew: back to LISTEN (MUST-11). Nobody has heard of the session.
                return self.fail(w, TcpEnd::Reset);
            }
            return self.challenge(w);
        }
        if !has(flag::ACK) {
            w.lane.stats.bad_flags += 1;
            return;
        }
        if !self.receive_ack(w, segment, options) {
            return;
        }
        self.cold.heard_at = w.now;
        if self.flags.contains(Flags::BLOCKED) {
            self.unblock(w);
        }
        self.try_fin(w);
        if self.flags.contains(Flags::ACK_NOW) && !segment.payload.is_empty() {
            // The segment before it in this poll was out of order: each is answered (RFC 5681, 4.2), for the peer may count the answers, and they get
            // lost as well.
            self.send_ack(w);
        }
        self.take_text(w, segment, frame);
        self.keep_alive(w);
        self.judge();
    }

    /// PAWS (RFC 7323, 5.3): a segment from before the last one's time is an old duplicate. `false` when it is to go no further.
    fn check_timestamps<T: TxQueue>(&mut self, w: &mut Work<'_, T>, options: &Options) -> bool {
        if !self.flags.contains(Flags::TIMESTAMPS) {
            return true;
        }
        // Without the option where it was agreed on: dropped (RFC 7323, 3.2).
        let Some((value, _)) = options.timestamps else {
            w.lane.stats.old_timestamps += 1;
            return false;
        };
        let is_old = Seq(value).before(Seq(self.cold.ts_recent));
        if is_old && w.now.saturating_sub(self.cold.ts_recent_at) < TIMESTAMPS_LAST {
            w.lane.stats.old_timestamps += 1;
            self.challenge(w);
            return false;
        }
        true
    }

    /// TS.Recent is taken from a segment that is where the last acknowledgement was (RFC 7323, 4.3), once it has passed every check: one that
    /// was made up would make old duplicates of all that follow.
    fn note_timestamp<T>(&mut self, w: &Work<'_, T>, seq: Seq, options: &Options) {
        if let Some((value, _)) = options.timestamps.filter(|_| self.flags.contains(Flags::TIMESTAMPS))
            && !seq.after(self.rcv_told)
        {
            (self.cold.ts_recent, self.cold.ts_recent_at) = (value, w.now);
        }
    }

    /// The other half of a simultaneous open: its SYN is known, its acknowledgement is not (RFC 9293, figure 7).
    fn is_other_half(&self, segment: &Segment<'_>) -> bool {
        self.state == TcpState::SynReceived
            && self.cold.listener.is_none()
            && segment.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN | flag::ACK
            && Seq(segment.seq) == self.cold.irs
    }

    /// The first check: whether the segment has anything in the window (RFC 9293, table 6).
    fn is_acceptable(&self, segment: &Segment<'_>) -> bool {
        let (seq, window) = (Seq(segment.seq), self.rcv_edge.since(self.rcv_nxt));
        let syn_fin = u32::from(segment.flags & flag::SYN != 0) + u32::from(segment.flags & flag::FIN != 0);
        let len = segment.payload.len() as u32 + syn_fin;
        if window == 0 {
            // Acknowledgements and resets count even when nothing more fits (MUST-66).
            return seq == self.rcv_nxt;
        }
        let in_window = |seq: Seq| !seq.before(self.rcv_nxt) && seq.before(self.rcv_edge);
        self.is_other_half(segment) || in_window(seq) || (len > 0 && in_window(seq + (len - 1)))
    }

    /// An unacceptable segment is answered with where we are, unless it is a reset.
    fn refuse<T: TxQueue>(&mut self, w: &mut Work<'_, T>, segment: &Segment<'_>, options: &Options) {
        let (seq, len) = (Seq(segment.seq), segment.payload.len() as u32);
        w.lane.stats.out_of_window += 1;
        if segment.flags & flag::RST != 0 {
            w.lane.stats.blind_resets += 1;
            return;
        }
        if segment.flags & flag::SYN != 0 {
            w.lane.stats.blind_syns += 1;
            return self.challenge(w);
        }
        if self.state == TcpState::TimeWait && segment.flags & flag::FIN != 0 && seq + len + 1 == self.rcv_nxt {
            // Our last acknowledgement was lost: the wait begins anew.
            self.cold.idle_due = w.now.saturating_add(self.cold.options.time_wait);
        }
        if len == 0 && segment.flags & flag::FIN == 0 {
            // Two ends that disagree must not answer each other for ever.
            return self.challenge(w);
        }
        if !(seq + len).after(self.rcv_nxt) && len > 0 {
            w.lane.stats.duplicate_bytes += u64::from(len);
            self.cold.twice.get_or_insert((seq, seq + len));
        }
        let fin = u32::from(segment.flags & flag::FIN != 0);
        if seq + len + fin == self.rcv_nxt && self.is_possible(Seq(segment.ack)) {
            // The last segment again: its acknowledgement was lost. With the first transmission's time in the next, the peer would measure how long
            // it has waited, and wait longer from then on.
            self.note_timestamp(w, seq, options);
        }
        self.flags |= Flags::ACK_DUE | Flags::ACK_NOW;
        self.attend(w.lane);
    }

    /// Whether an acknowledgement of the peer's can say this (RFC 5961, 5.2).
    fn is_possible(&self, ack: Seq) -> bool {
        !ack.after(self.snd_nxt) && !ack.before(self.snd_una - self.cold.max_wnd)
    }

    /// RFC 5961, 3.2: only a reset that is exactly where the next byte is counts; it may carry text (SHLD-2).
    fn receive_reset<T: TxQueue>(&mut self, w: &mut Work<'_, T>, seq: Seq) {
        if seq != self.rcv_nxt {
            w.lane.stats.blind_resets += 1;
            // One whose text alone reaches into the window is outside it.
            if seq.after(self.rcv_nxt) {
                self.challenge(w);
            }
            return;
        }
        w.lane.stats.resets += 1;
        match self.state {
            TcpState::SynReceived if self.cold.listener.is_none() => self.fail(w, TcpEnd::Refused),
            // Everything was over already.
            TcpState::TimeWait => {
                self.step(w, Cause::Timeout);
            }
            _ => self.fail(w, TcpEnd::Reset),
        }
    }

    /// Tells a peer that may be none where we are (RFC 5961, 3 to 5), so often and no more.
    pub fn challenge<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        let second = w.now / 1_000_000_000;
        if self.cold.challenges.0 != second {
            self.cold.challenges = (second, 0);
        }
        if self.cold.challenges.1 >= CHALLENGES {
            w.lane.stats.challenges_withheld += 1;
            return;
        }
        self.cold.challenges.1 += 1;
        w.lane.stats.challenges += 1;
        self.cold.log.note(w.now, TcpHappening::Challenged);
        self.send_ack(w);
    }

    /// The fifth check. `false` when the segment is to go no further.
    fn receive_ack<T: TxQueue>(&mut self, w: &mut Work<'_, T>, segment: &Segment<'_>, options: &Options) -> bool {
        let (seq, ack) = (Seq(segment.seq), Seq(segment.ack));
        if self.state == TcpState::SynReceived {
            if !ack.after(self.snd_una) || ack.after(self.snd_nxt) {
                w.lane.stats.bad_acks += 1;
                self.send_reset_at(w, ack);
                return false;
            }
            self.open(w, segment, Cause::AckOfSyn);
        }
        if !self.is_possible(ack) {
            w.lane.stats.bad_acks += 1;
            self.challenge(w);
            return false;
        }
        self.note_timestamp(w, seq, options);
        let window = u32::from(segment.window) << (self.snd_shift & 15);
        let unmoved = ack == self.snd_una;
        let repeats = unmoved
            && segment.payload.is_empty()
            && segment.flags & (flag::SYN | flag::FIN) == 0
            && window == self.snd_wnd;
        let newer = self.snd_wl1.before(seq) || (self.snd_wl1 == seq && !ack.before(self.snd_wl2));
        if newer && !ack.before(self.snd_una) && segment.flags & flag::SYN == 0 {
            (self.snd_wl1, self.snd_wl2) = (seq, ack);
            if window != self.snd_wnd {
                self.set_window(w, window);
            }
        }
        // One that is older than the last may still bring blocks.
        self.reconsider(w, ack.max(self.snd_una), options, repeats);
        // Nothing is sent after a FIN, so our FIN is acknowledged when everything is.
        if self.snd_una == self.snd_nxt && self.state.after(Cause::AckOfFin).is_some() {
            self.step(w, Cause::AckOfFin);
        }
        self.state != TcpState::Closed
    }

    /// The seventh and eighth check: the segment's text, and its FIN.
    fn take_text<T: TxQueue>(&mut self, w: &mut Work<'_, T>, segment: &Segment<'_>, frame: Frame<'_>) {
        let has_fin = segment.flags & flag::FIN != 0;
        let syn = u32::from(segment.flags & flag::SYN != 0);
        let seq = Seq(segment.seq) + syn;
        let end = seq + segment.payload.len() as u32;
        if segment.payload.is_empty() && !has_fin {
            return;
        }
        if !self.state.may_receive() {
            if has_fin && self.state == TcpState::TimeWait {
                self.cold.idle_due = w.now.saturating_add(self.cold.options.time_wait);
                self.flags |= Flags::ACK_DUE | Flags::ACK_NOW;
                self.attend(w.lane);
            }
            return;
        }
        if self.flags.contains(Flags::RELEASED) && end.after(self.rcv_nxt) && !segment.payload.is_empty() {
            // Nobody is there to read it (RFC 9293, 3.6.1: SHLD-3).
            w.lane.stats.unwanted_data += 1;
            self.send_reset(w);
            return self.fail(w, TcpEnd::Aborted);
        }
        let text = self.trim(w, segment, seq, end);
        if text.len > 0 {
            self.insert(w, text, frame);
        }
        self.flags |= Flags::ACK_DUE;
        // Out of order (MAY-13), a gap filled, or some of it here before, for its acknowledgement may have been lost: at once (RFC 5681, 4.2).
        let is_orderly = self.cold.out_of_order == 0 && self.cold.twice.is_none();
        if !is_orderly || self.flags.contains(Flags::TROUBLE) || self.rcv_edge == self.rcv_nxt {
            self.flags |= Flags::ACK_NOW;
        }
        self.attend(w.lane);
        // The first FIN counts, unless there is data beyond it.
        let is_last = w.lane.kept.get(self.kept_last).is_none_or(|kept| !kept.end().after(end));
        if has_fin && is_last && !end.after(self.rcv_edge) {
            self.cold.fin.get_or_insert(end);
        }
        if self.cold.fin == Some(self.rcv_nxt) {
            self.receive_fin(w);
        }
    }

    /// Cuts off what came before, and what is beyond the window.
    fn trim<T>(&mut self, w: &mut Work<'_, T>, segment: &Segment<'_>, seq: Seq, end: Seq) -> Text {
        let first = seq.max(self.rcv_nxt);
        let limit = self.cold.fin.map_or(self.rcv_edge, |fin| fin.min(self.rcv_edge));
        let last = end.min(limit);
        let cut = first.since(seq);
        if cut > 0 {
            w.lane.stats.duplicate_bytes += u64::from(cut.min(end.since(seq)));
            // The first of a segment's duplicates is told (RFC 2883, 4).
            self.cold.twice.get_or_insert((seq, first.min(end)));
        }
        Text { seq: first, start: segment.payload_at + cut.min(0xFFFF) as u16, len: last.since(first) as u16 }
    }

    /// Enters text where it belongs, also what is out of order (SHLD-31). What is there already stays (first come, first kept), except that a segment
    /// that a newer one wholly covers gives way.
    fn insert<T: TxQueue>(&mut self, w: &mut Work<'_, T>, mut text: Text, frame: Frame<'_>) {
        if text.seq.after(self.rcv_nxt) && w.lane.kept.available() <= w.lane.kept.capacity() / IN_ORDER_SHARE {
            return self.no_room_for(w);
        }
        let first = text.seq;
        let (mut before, mut after) = (Link::NONE, self.kept_first);
        while let Some(kept) = w.lane.kept.get(after)
            && !kept.seq.after(text.seq)
        {
            (before, after) = (after, w.lane.kept.next(after));
        }
        if let Some(kept) = w.lane.kept.get(before) {
            let overlap = kept.end().since(text.seq).min(text.len.into()) as u16;
            if overlap > 0 {
                w.lane.stats.duplicate_bytes += u64::from(overlap);
                self.cold.twice.get_or_insert((text.seq, text.seq + u32::from(overlap)));
            }
            text = Text { seq: text.seq + u32::from(overlap), start: text.start + overlap, len: text.len - overlap };
        }
        while let Some(kept) = w.lane.kept.get(after).filter(|_| text.len > 0) {
            let end = text.seq + u32::from(text.len);
            if !kept.seq.before(end) {
                break;
            }
            let overlap = end.min(kept.end()).since(kept.seq);
            w.lane.stats.duplicate_bytes += u64::from(overlap);
            self.cold.twice.get_or_insert((kept.seq, kept.seq + overlap));
            if kept.end().after(end) {
                text.len = kept.seq.since(text.seq) as u16;
                break;
            }
            let covered = after;
            after = w.lane.kept.next(after);
            self.cold.out_of_order -= u32::from(w.lane.kept.remove(covered).map_or(0, |kept| kept.len));
            if before.is_none() {
                self.kept_first = after;
            } else {
                w.lane.kept.set_next(before, after);
            }
        }
        if text.len == 0 {
            // The block that holds it already is told next to what came twice (RFC 2883, 4).
            return self.note_recent(w, first);
        }
        let kept = match frame.take() {
            Ok(frame) => w.lane.kept.insert_with(|| Kept { seq: text.seq, start: text.start, len: text.len, frame }),
            Err(_) => None,
        };
        let Some(link) = kept else {
            if after.is_none() {
                self.kept_last = before;
            }
            return self.no_room_for(w);
        };
        w.lane.kept.set_next(link, after);
        if before.is_none() {
            self.kept_first = link;
        } else {
            w.lane.kept.set_next(before, link);
        }
        if after.is_none() {
            self.kept_last = link;
        }
        self.cold.out_of_order += u32::from(text.len);
        self.join_up(w, link);
        self.note_recent(w, text.seq);
    }

    /// The block that `seq` is in now was added to last (RFC 2018, 4).
    fn note_recent<T>(&mut self, w: &Work<'_, T>, seq: Seq) {
        let is_in = |block: Block, seq: Seq| !seq.before(block.0) && seq.before(block.1);
        let block = self.gaps(w.lane).find(|block| is_in(*block, seq));
        if let Some(block) = block {
            self.cold.recent.retain(|seq| !is_in(block, *seq));
            self.cold.recent.truncate(MAX_BLOCKS - 1);
            let _ = self.cold.recent.try_insert(0, seq);
        }
    }

    /// Moves RCV.NXT over what is in order now, from `link` on.
    fn join_up<T>(&mut self, w: &mut Work<'_, T>, mut link: Link) {
        while let Some(kept) = w.lane.kept.get(link)
            && kept.seq == self.rcv_nxt
        {
            let len = u32::from(kept.len);
            self.rcv_nxt = self.rcv_nxt + len;
            self.readable += len;
            self.cold.out_of_order -= len;
            self.cold.bytes_received += u64::from(len);
            self.flags |= Flags::NEWS;
            link = w.lane.kept.next(link);
        }
    }

    /// The peer has nothing more to send.
    fn receive_fin<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        self.rcv_nxt = self.rcv_nxt + 1;
        self.rcv_edge = self.rcv_edge.max(self.rcv_nxt);
        self.cold.fin = None;
        self.flags |= Flags::ACK_DUE | Flags::ACK_NOW;
        self.step(w, Cause::Fin);
    }
}
