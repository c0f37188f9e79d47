//! What is done about loss: acknowledgements and their blocks, RACK and tail-loss probes (RFC 8985), the retransmission time-out
//! (RFC 6298), and the congestion window (RFC 5681, 6582, 6675).

use barewire_driver::TxQueue;
use barewire_driver::clock::Nanos;

use super::options::{Block, Options};
use super::report::{TcpEnd, TcpHappening};
use super::seq::Seq;
use super::session::{Flags, Marks, NEVER, Sent, Session, Shared, Waiting, Work};
use super::slab::Link;
use super::state::TcpState;

const SECOND: Nanos = 1_000_000_000;
/// The initial window, segments (RFC 6928).
const INITIAL_WINDOW: u32 = 10;
/// Duplicate acknowledgements, or segments held behind a gap, that mean loss and not reordering (RFC 5681, 3.2).
const DUP_THRESHOLD: u32 = 3;
/// How long data may stay unacknowledged (RFC 9293, 3.8.3, R2: SHLD-11), a SYN (MUST-23), and the answer to one.
const GIVE_UP: Nanos = 100 * SECOND;
const GIVE_UP_SYN: Nanos = 180 * SECOND;
const GIVE_UP_ANSWER: Nanos = 60 * SECOND;
/// How soon something is tried again that found the transmit queue full, or the pool empty.
const QUEUE_RETRY: Nanos = 100_000;
/// The time-out after one that hit a SYN (RFC 6298, 5.7).
const RTO_AFTER_SYN: Nanos = 3 * SECOND;
/// Recoveries for which a wider reordering window lasts (RFC 8985, 6.2, step 4).
const REORDERING_PERSISTS: u8 = 16;

/// Bytes that an acknowledgement adds to the window in slow start, at most, in segments (RFC 9406, 4.2: L without pacing).
const SLOW_START_LIMIT: u32 = 8;

/// A reduction of the window that may have been needless.
#[derive(Debug, Clone, Copy)]
struct Reduction {
    /// Window and threshold before it.
    cwnd: u32,
    ssthresh: u32,
    /// SND.UNA then.
    from: Seq,
    /// Segments sent again that the peer has not told to have had already.
    resent: u32,
}

/// What is known about loss on a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recovery {
    /// Slow start ends here (RFC 5681), bytes.
    pub ssthresh: u32,
    /// SND.NXT when the present recovery began; it ends when that is acknowledged.
    point: Option<Seq>,
    /// It was begun by the time-out.
    by_timeout: bool,
    /// The last reduction of the window, as long as everything that was sent again for it may turn out to have been needless.
    reduction: Option<Reduction>,
    /// What was sent before this was sent while the window was in use, however much of it several acknowledgements in a row have taken since.
    full_until: Seq,
    dup_acks: u32,
    sacked: u32,
    lost: u32,
    /// RACK.xmit_ts, RACK.end_seq, RACK.rtt: of the segment that was sent last among those delivered.
    rack_at: Nanos,
    rack_end: Seq,
    rack_rtt: Nanos,
    /// RACK.fack: the highest number delivered.
    highest: Seq,
    reordering_seen: bool,
    /// RACK.reo_wnd_mult, and recoveries until it is one again.
    reordering_factor: u8,
    reordering_persists: u8,
    /// RACK.dsack_round: the factor grows once until this is acknowledged.
    dsack_round: Option<Seq>,
    /// TLP.end_seq: a probe is under way until this is acknowledged.
    probe: Option<Seq>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self::new(Seq(0))
    }
}

impl Recovery {
    pub fn new(iss: Seq) -> Self {
        Self {
            ssthresh: u32::MAX,
            point: None,
            by_timeout: false,
            reduction: None,
            full_until: iss,
            dup_acks: 0,
            sacked: 0,
            lost: 0,
            rack_at: 0,
            rack_end: iss,
            rack_rtt: 0,
            highest: iss,
            reordering_seen: false,
            reordering_factor: 1,
            reordering_persists: 0,
            dsack_round: None,
            probe: None,
        }
    }

    /// Segments that the peer holds behind a gap, and segments thought lost and not sent again.
    #[cfg(test)]
    pub fn counts(&self) -> (u32, u32) {
        (self.sacked, self.lost)
    }

    /// Whether nothing is in doubt.
    fn is_calm(&self) -> bool {
        self.point.is_none() && self.dup_acks == 0 && self.sacked == 0 && self.lost == 0 && self.probe.is_none()
    }
}

impl Session {
    /// A segment was delivered (RFC 8985, 6.2, steps 2 and 3).
    fn delivered(&mut self, now: Nanos, sent_at: Nanos, end: Seq, was_resent: bool) {
        let (min_rtt, rack) = (self.cold.rtt.min, &mut self.cold.recovery);
        let rtt = now.saturating_sub(sent_at);
        if end.after(rack.highest) {
            rack.highest = end;
        } else if !was_resent && end.before(rack.highest) {
            rack.reordering_seen = true;
        }
        // An answer sooner than any before is one to the first transmission.
        if was_resent && rtt < min_rtt {
            return;
        }
        if sent_at > rack.rack_at || (sent_at == rack.rack_at && end.after(rack.rack_end)) {
            (rack.rack_at, rack.rack_end, rack.rack_rtt) = (sent_at, end, rtt);
        }
    }

    /// Sets the window before the first data (RFC 6928).
    pub fn open_congestion_window(&mut self) {
        self.cwnd = INITIAL_WINDOW * u32::from(self.mss);
        if self.cold.retransmits.syn > 0 {
            // A lost SYN is a sign of congestion (RFC 5681, 3.1), and that our time-out may be too short.
            self.cwnd = self.mss.into();
            self.cold.rtt.restart(RTO_AFTER_SYN, &self.cold.options);
        }
    }

    /// Everything before `ack`, which is beyond SND.UNA, has arrived, and nothing is in doubt. It makes room at once; the rest can wait until what
    /// answers the segment has left.
    #[inline(always)]
    pub fn note_acknowledgement<T>(&mut self, w: &mut Work<'_, T>, ack: Seq) {
        if self.flags.contains(Flags::ACKED) {
            // Each counts by itself.
            self.catch_up(w);
        }
        (self.cold.una_worked_off, self.snd_una) = (self.snd_una, ack);
        self.flags |= Flags::ACKED;
        self.fall_behind(w.lane);
    }

    /// Works off what was left for later: the acknowledgement that came, and the deadline of what was sent.
    #[inline]
    pub fn catch_up<T>(&mut self, w: &mut Work<'_, T>) {
        if self.flags.contains(Flags::BEHIND) {
            self.work_off(w);
        }
    }

    #[inline(never)]
    fn work_off<T>(&mut self, w: &mut Work<'_, T>) {
        let is_acked = self.flags.contains(Flags::ACKED);
        self.flags -= Flags::BEHIND | Flags::ACKED;
        if is_acked {
            let ack = std::mem::replace(&mut self.snd_una, self.cold.una_worked_off);
            self.acknowledge_expected(w, ack);
        } else if !self.sent_first.is_none() {
            self.expect_acknowledgement(w);
        }
    }

    /// Takes in that everything before `ack`, which is beyond SND.UNA, has arrived, while nothing is in doubt.
    #[inline(always)]
    fn acknowledge_expected<T>(&mut self, w: &mut Work<'_, T>, ack: Seq) {
        let (first, was_in_flight) = (self.snd_una, self.in_flight);
        let plain = |sent: &Sent| sent.marks.is_empty() && !sent.end().after(ack);
        let mut last = None;
        while self.snd_una != ack
            && let Some(sent) = w.lane.sent.pop_if(&mut self.sent_first, plain)
        {
            self.in_flight = self.in_flight.wrapping_sub(sent.payload.into());
            self.snd_una = sent.end();
            last = Some(sent.sent_at);
        }
        if let Some(sent_at) = last {
            // They arrived in the order in which they were sent: the last says it all.
            let (rtt, end, rack) = (w.now.saturating_sub(sent_at), self.snd_una, &mut self.cold.recovery);
            (rack.highest, rack.rack_at, rack.rack_end, rack.rack_rtt) = (end, sent_at, end, rtt);
            self.measured(w.now, sent_at);
        }
        if self.snd_una != ack {
            // What is left of it: part of a segment, or one that was sent again.
            self.snd_una = first;
            return self.acknowledge(w, ack, None);
        }
        self.cold.stalled_since = w.now;
        if self.flags.contains(Flags::CONGESTION) {
            self.grow(ack.since(first), was_in_flight);
        }
        self.expect_next(w);
    }

    /// Takes in that everything before `ack`, which is beyond SND.UNA, has arrived; `echo` is the timestamp that it answers.
    #[cold]
    fn acknowledge<T>(&mut self, w: &mut Work<'_, T>, ack: Seq, echo: Option<u32>) {
        let acked = ack.since(self.snd_una);
        self.snd_una = ack;
        let was_in_flight = self.in_flight;
        let mut sample = None;
        // What arrived with a segment that was sent again may have waited for it: only that segment's own time counts, where a timestamp tells it.
        let (mut is_repaired, mut repaired, mut needless) = (false, None, false);
        while let Some(sent) = w.lane.sent.pop_if(&mut self.sent_first, |sent| !sent.end().after(ack)) {
            let (sent_at, end, marks, len) = (sent.sent_at, sent.end(), sent.marks, sent.len());
            if marks.intersects(Marks::SACKED | Marks::LOST) {
                self.uncount(marks);
            } else {
                self.in_flight = self.in_flight.wrapping_sub(len);
            }
            if marks.contains(Marks::RESENT) {
                is_repaired = true;
                let clock = self.timestamp(sent_at);
                repaired = Some(sent_at).filter(|_| echo == Some(clock)).or(repaired);
                // What answers an earlier transmission has found the segment there before it was sent again (RFC 3522, 3.2).
                needless |= echo.is_some_and(|echo| (echo.wrapping_sub(clock) as i32) < 0);
            } else if !marks.contains(Marks::SACKED) {
                sample = Some(sent_at);
            }
            if !marks.contains(Marks::SACKED) {
                self.delivered(w.now, sent_at, end, marks.contains(Marks::RESENT));
            }
        }
        if let Some(sent_at) = if is_repaired { repaired } else { sample } {
            self.measured(w.now, sent_at);
        }
        if needless {
            // One proof is enough (RFC 4015, 3): what overtook this one made the others look lost.
            self.was_needless(w, u32::MAX);
            self.widen_reordering();
        }
        self.cold.stalled_since = w.now;
        if self.flags.contains(Flags::CONGESTION) {
            self.grow(acked, was_in_flight);
        }
        self.expect_next(w);
    }

    /// After an acknowledgement: waits for that of what is still outstanding.
    #[inline]
    fn expect_next<T>(&mut self, w: &mut Work<'_, T>) {
        if self.sent_first.is_none() {
            self.sent_last = Link::NONE;
            (self.cold.waiting, self.cold.rtx_due) = (Waiting::Nothing, NEVER);
        } else {
            self.cold.waiting = Waiting::Nothing;
            self.expect_acknowledgement(w);
            let is_older = w.lane.sent.get(self.sent_last).is_some_and(|last| last.sent_at < w.now);
            if is_older && self.cold.waiting == Waiting::Probe {
                self.hasten_probe(w);
            }
        }
    }

    /// What is left was not sent now: its probe counts from the last send, where RFC 8985, 7.2, begins anew with each acknowledgement, so that a
    /// lost tail takes no longer because something before it arrived. A little is left for acknowledgements that follow closely.
    #[cold]
    fn hasten_probe<T>(&mut self, w: &mut Work<'_, T>) {
        let Some(last) = w.lane.sent.get(self.sent_last) else { return };
        let elapsed = w.now.saturating_sub(last.sent_at);
        let due = self.cold.rtx_due.saturating_sub(elapsed).max(w.now.saturating_add(self.cold.rtt.srtt / 4));
        self.cold.rtx_due = self.cold.rtx_due.min(due);
        self.arm(w.lane, self.cold.rtx_due);
    }

    /// The segment that was sent at `sent_at` is answered, and no other transmission of it (MUST-18). Only that ends the back-off (RFC 6298, 5).
    #[inline]
    fn measured(&mut self, now: Nanos, sent_at: Nanos) {
        self.cold.rtt.sample(now.saturating_sub(sent_at), &self.cold.options);
        self.cold.backoff = 0;
    }

    #[cold]
    fn uncount(&mut self, marks: Marks) {
        let recovery = &mut self.cold.recovery;
        recovery.sacked -= u32::from(marks.contains(Marks::SACKED));
        recovery.lost -= u32::from(marks.contains(Marks::LOST));
    }

    /// Slow start and congestion avoidance (RFC 5681, 3.1: MUST-19), only where the window was in use (RFC 7661).
    #[inline]
    fn grow(&mut self, acked: u32, was_in_flight: u32) {
        let (mss, recovery) = (u32::from(self.mss), &mut self.cold.recovery);
        if was_in_flight + 2 * mss >= self.cwnd {
            recovery.full_until = self.snd_nxt;
        } else if self.snd_una.after(recovery.full_until) {
            return;
        }
        if recovery.point.is_some() && !recovery.by_timeout {
            return;
        }
        let more = if self.cwnd < recovery.ssthresh {
            // After a time-out an acknowledgement may cover what arrived long ago (RFC 3465, 2.3).
            let most = if recovery.by_timeout { mss } else { SLOW_START_LIMIT * mss };
            acked.min(most).min(recovery.ssthresh - self.cwnd)
        } else {
            (u64::from(mss) * u64::from(acked.min(self.cwnd)) / u64::from(self.cwnd.max(1))).max(1) as u32
        };
        self.cwnd = self.cwnd.saturating_add(more).min(1 << 30);
    }

    /// Waits for what was just sent to be acknowledged (RFC 6298, 5.1; RFC 8985, 7.2).
    #[inline]
    fn expect_acknowledgement<T>(&mut self, w: &mut Work<'_, T>) {
        let rtt = &self.cold.rtt;
        if self.flags & (Flags::SACK | Flags::TROUBLE) == Flags::SACK && rtt.probe > 0 {
            let alone = self.sent_first == self.sent_last;
            let probe = w.now.saturating_add(if alone { rtt.probe_alone } else { rtt.probe });
            self.cold.waiting = Waiting::Probe;
            // Not after the time-out: each send would move it further away.
            self.cold.rtx_due = probe.min(self.cold.stalled_since.saturating_add(rtt.rto));
        } else if !matches!(self.cold.waiting, Waiting::Timeout | Waiting::Reordering | Waiting::Queue) {
            self.wait_for_timeout(w);
        }
        self.arm(w.lane, self.cold.rtx_due);
    }

    #[cold]
    pub fn wait_for_timeout<T>(&mut self, w: &Work<'_, T>) {
        self.cold.waiting = Waiting::Timeout;
        self.back_off(w);
    }

    /// Waits to ask whether the peer's window has opened: first after the time-out, then ever longer (SHLD-29, SHLD-30).
    #[cold]
    pub fn wait_for_window<T>(&mut self, w: &Work<'_, T>) {
        self.cold.waiting = Waiting::Window;
        self.back_off(w);
    }

    /// What was to be sent found no room, here: again soon, which does not count as a loss.
    #[cold]
    pub fn wait_for_queue<T>(&mut self, w: &Work<'_, T>) {
        self.cold.waiting = Waiting::Queue;
        self.cold.rtx_due = w.now.saturating_add(QUEUE_RETRY);
    }

    /// The deadline is the time-out, unless the connection is given up before.
    fn back_off<T>(&mut self, w: &Work<'_, T>) {
        let timeout = self.cold.rtt.backed_off(self.cold.backoff, &self.cold.options);
        let give_up = self.give_up_at(w.lane).max(w.now.saturating_add(1));
        self.cold.rtx_due = w.now.saturating_add(timeout).min(give_up);
    }

    /// When the connection will have been stuck for too long: R2 of RFC 9293, 3.8.3 (MUST-20, MUST-21). A peer that answers may keep its window
    /// closed for as long as it wants (MUST-37, SHLD-17).
    pub fn give_up_at(&self, lane: &Shared) -> Nanos {
        let limit = self.cold.options.user_timeout.unwrap_or(match self.state {
            TcpState::SynSent => GIVE_UP_SYN,
            TcpState::SynReceived => GIVE_UP_ANSWER,
            _ => GIVE_UP,
        });
        let edge = self.snd_una + self.snd_wnd;
        let is_closed = match lane.sent.get(self.sent_first) {
            Some(sent) => sent.end().after(edge),
            None => self.cold.waiting == Waiting::Window,
        };
        let since = if is_closed { self.cold.stalled_since.max(self.cold.heard_at) } else { self.cold.stalled_since };
        since.saturating_add(limit)
    }

    /// Whether segments are predictable again.
    pub fn judge(&mut self) {
        let trouble = !self.cold.recovery.is_calm() || self.cold.out_of_order > 0 || self.cold.fin.is_some();
        // What fills a gap that an acknowledgement has shown may bring a window that is older than the one it brought.
        self.flags.set(Flags::TROUBLE, trouble || self.snd_wl1.after(self.rcv_nxt));
    }

    /// An acknowledgement that is not the predicted one. `repeats` says that it acknowledges what the last one did, changes nothing else, and has
    /// no text: while something is outstanding, a duplicate acknowledgement (RFC 5681, 2).
    pub fn reconsider<T: TxQueue>(&mut self, w: &mut Work<'_, T>, ack: Seq, options: &Options, repeats: bool) {
        let (advances, sack) = (ack.after(self.snd_una), &options.sack[..]);
        if advances {
            self.acknowledge(w, ack, options.timestamps.map(|(_, echo)| echo));
            self.cold.recovery.dup_acks = 0;
        }
        let dsack = self.take_blocks(w, ack, sack);
        if repeats && !self.sent_first.is_none() && !self.flags.contains(Flags::SACK) {
            self.cold.recovery.dup_acks += 1;
        }
        self.end_probe(w, ack, dsack || (repeats && sack.is_empty()));
        let is_partial = self.end_recovery(w, ack, advances);
        let begun = self.detect(w);
        self.resend_lost(w, begun || is_partial);
        self.judge();
        // What has to be waited for may be something else now.
        match (self.cold.waiting, self.flags.contains(Flags::TROUBLE)) {
            (Waiting::Probe, true) => self.wait_for_timeout(w),
            (Waiting::Timeout, false) if advances => self.expect_next(w),
            _ => {}
        }
        self.arm(w.lane, self.cold.rtx_due);
    }

    /// Marks what the blocks cover. Says whether they tell of something that arrived twice (RFC 2883).
    fn take_blocks<T>(&mut self, w: &mut Work<'_, T>, ack: Seq, sack: &[Block]) -> bool {
        if !self.flags.contains(Flags::SACK) {
            return false;
        }
        let (mut twice, mut newest) = (false, None);
        for (index, &(start, end)) in sack.iter().enumerate() {
            let within = |other: &Block| !start.before(other.0) && !end.after(other.1);
            if !start.before(end) || end.after(self.snd_nxt) || start.before(self.snd_una - self.cold.max_wnd) {
                w.lane.stats.bad_sacks += 1;
                continue;
            }
            if index == 0 && (!end.after(ack) || sack.get(1).is_some_and(within)) {
                twice = true;
                if self.cold.recovery.reduction.is_some_and(|reduction| !start.before(reduction.from)) {
                    self.was_needless(w, end.since(start).div_ceil(u32::from(self.mss).max(1)));
                }
                continue;
            }
            if !start.before(self.snd_una) {
                self.mark_sacked(w, (start, end), &mut newest);
            }
        }
        // Of what is told only now, the rest may have been told before by an acknowledgement that was lost.
        if let Some((sent_at, false)) = newest {
            self.measured(w.now, sent_at);
        }
        if twice {
            self.widen_reordering();
        }
        twice
    }

    /// Marks what a block covers. `newest`: when the last of it was sent that had not been marked, and whether that was again.
    fn mark_sacked<T>(&mut self, w: &mut Work<'_, T>, (start, end): Block, newest: &mut Option<(Nanos, bool)>) {
        let mut link = self.sent_first;
        while let Some(sent) = w.lane.sent.get_mut(link) {
            if !sent.seq.before(end) {
                break;
            }
            if !sent.seq.before(start) && !sent.end().after(end) && !sent.marks.contains(Marks::SACKED) {
                let (sent_at, last, marks, len) = (sent.sent_at, sent.end(), sent.marks, sent.len());
                sent.marks = (marks | Marks::SACKED) - Marks::LOST;
                if marks.contains(Marks::LOST) {
                    self.cold.recovery.lost -= 1;
                } else {
                    self.in_flight = self.in_flight.wrapping_sub(len);
                }
                self.cold.recovery.sacked += 1;
                *newest = (*newest).max(Some((sent_at, marks.contains(Marks::RESENT))));
                self.delivered(w.now, sent_at, last, marks.contains(Marks::RESENT));
            }
            link = w.lane.sent.next(link);
        }
    }

    /// Something was sent twice that had only been late: the reordering window grows, once a round trip (RFC 8985, 6.2, step 4).
    fn widen_reordering(&mut self) {
        let recovery = &mut self.cold.recovery;
        if recovery.dsack_round.is_none_or(|round| !self.snd_una.before(round)) {
            recovery.dsack_round = Some(self.snd_nxt);
            recovery.reordering_factor = recovery.reordering_factor.saturating_add(1);
            recovery.reordering_persists = REORDERING_PERSISTS;
        }
    }

    /// The peer had some of what was sent again already. When that is so of all of it nothing was lost, and the window becomes what it was
    /// (RFC 3708, 3.3; RFC 4015, 3.2).
    fn was_needless<T>(&mut self, w: &mut Work<'_, T>, segments: u32) {
        let recovery = &mut self.cold.recovery;
        let Some(reduction) = recovery.reduction.as_mut().filter(|reduction| reduction.resent > 0) else { return };
        reduction.resent = reduction.resent.saturating_sub(segments);
        if reduction.resent == 0 {
            self.cwnd = self.cwnd.max(reduction.cwnd);
            recovery.ssthresh = recovery.ssthresh.max(reduction.ssthresh);
            (recovery.point, recovery.reduction) = (None, None);
            self.cold.log.note(w.now, TcpHappening::Recovered);
        }
    }

    /// A probe's answer (RFC 8985, 7.4.2): when the peer acknowledges what was sent after the probe, and has not said that it had the segment
    /// already, the probe has repaired a loss.
    fn end_probe<T>(&mut self, w: &mut Work<'_, T>, ack: Seq, had_it: bool) {
        let Some(end) = self.cold.recovery.probe.filter(|end| !ack.before(*end)) else { return };
        if had_it || ack.after(end) {
            self.cold.recovery.probe = None;
        }
        if !had_it && ack.after(end) {
            self.reduce(w, self.cwnd);
            self.cwnd = self.cold.recovery.ssthresh;
        }
    }

    /// Halves the threshold (RFC 5681, 3.1, equation 4).
    fn reduce<T>(&mut self, w: &mut Work<'_, T>, flight: u32) {
        let flight = flight.min(self.cwnd);
        self.cold.recovery.ssthresh = (flight / 2).max(2 * u32::from(self.mss));
        self.cold.log.note(w.now, TcpHappening::Recovery(self.in_flight));
    }

    /// Ends recovery when all that was outstanding at its beginning has arrived; without blocks, a partial acknowledgement points at the
    /// next loss (RFC 6582, 3.2): says whether it does.
    fn end_recovery<T>(&mut self, w: &mut Work<'_, T>, ack: Seq, advances: bool) -> bool {
        let mss = u32::from(self.mss);
        let Some(point) = self.cold.recovery.point else { return false };
        if !ack.before(point) {
            let recovery = &mut self.cold.recovery;
            if !recovery.by_timeout {
                self.cwnd = recovery.ssthresh.min(self.in_flight.max(mss) + mss).max(mss);
            }
            (recovery.point, recovery.by_timeout, recovery.dup_acks) = (None, false, 0);
            recovery.reordering_persists = recovery.reordering_persists.saturating_sub(1);
            if recovery.reordering_persists == 0 {
                recovery.reordering_factor = 1;
            }
            self.cold.log.note(w.now, TcpHappening::Recovered);
            return false;
        }
        let is_partial = advances && !self.cold.recovery.by_timeout && !self.flags.contains(Flags::SACK);
        if is_partial {
            self.mark_lost(w, self.sent_first);
        }
        is_partial
    }

    fn mark_lost<T>(&mut self, w: &mut Work<'_, T>, link: Link) {
        if let Some(sent) = w.lane.sent.get_mut(link).filter(|sent| sent.is_in_flight()) {
            sent.marks |= Marks::LOST;
            self.in_flight = self.in_flight.wrapping_sub(sent.len());
            self.cold.recovery.lost += 1;
        }
    }

    /// RACK.reo_wnd (RFC 8985, 6.2, step 4).
    fn reordering_window(&self) -> Nanos {
        let recovery = &self.cold.recovery;
        if !recovery.reordering_seen && (recovery.point.is_some() || recovery.sacked >= DUP_THRESHOLD) {
            return 0;
        }
        let rtt = &self.cold.rtt;
        (u64::from(recovery.reordering_factor) * (rtt.min.min(SECOND) / 4)).min(rtt.srtt)
    }

    /// Finds out what is lost, and begins recovery if something is (RFC 8985, 6.2, step 5; RFC 6582 without blocks): says whether it did.
    fn detect<T>(&mut self, w: &mut Work<'_, T>) -> bool {
        let recovery = &self.cold.recovery;
        let (at, end, lost) = (recovery.rack_at, recovery.rack_end, recovery.lost);
        if self.flags.contains(Flags::SACK) {
            let allowance = recovery.rack_rtt.saturating_add(self.reordering_window());
            let is_before = |sent: &Sent| sent.sent_at < at || (sent.sent_at == at && sent.end().before(end));
            // Without a sign of trouble nothing that was sent before is still outstanding, and there is nothing to walk over.
            let doubtful = recovery.sacked > 0 || recovery.lost > 0 || recovery.point.is_some();
            let (mut link, mut wait) = (if doubtful { self.sent_first } else { Link::NONE }, 0);
            while let Some(sent) = w.lane.sent.get(link) {
                if sent.is_in_flight() && is_before(sent) {
                    let due = sent.sent_at.saturating_add(allowance);
                    if due <= w.now {
                        self.mark_lost(w, link);
                    } else {
                        wait = wait.max(due - w.now);
                    }
                }
                link = w.lane.sent.next(link);
            }
            if wait > 0 {
                (self.cold.waiting, self.cold.rtx_due) = (Waiting::Reordering, w.now.saturating_add(wait));
            } else if self.cold.waiting == Waiting::Reordering {
                self.wait_for_timeout(w);
            }
        } else if recovery.dup_acks == DUP_THRESHOLD && recovery.point.is_none() {
            self.mark_lost(w, self.sent_first);
        }
        let begins = self.cold.recovery.lost > lost && self.cold.recovery.point.is_none();
        if begins {
            let (cwnd, ssthresh, from) = (self.cwnd, self.cold.recovery.ssthresh, self.snd_una);
            self.cold.recovery.reduction = Some(Reduction { cwnd, ssthresh, from, resent: 0 });
            self.reduce(w, self.snd_nxt.since(self.snd_una));
            self.cwnd = self.cold.recovery.ssthresh;
            self.cold.recovery.point = Some(self.snd_nxt);
        }
        begins
    }

    /// Sends lost segments again, as far as the congestion window allows, and the peer's where it has shrunk (SHLD-16); the first of a recovery in
    /// any case (RFC 6675, 5, step 4.3).
    fn resend_lost<T: TxQueue>(&mut self, w: &mut Work<'_, T>, mut unlimited: bool) {
        unlimited |= !self.flags.contains(Flags::CONGESTION);
        let mut link = self.sent_first;
        while self.cold.recovery.lost > 0 {
            let Some(sent) = w.lane.sent.get(link) else { break };
            let next = w.lane.sent.next(link);
            if sent.marks.contains(Marks::LOST) {
                let fits = self.in_flight == 0 || self.in_flight + sent.len() <= self.cwnd;
                let is_beyond = sent.end().after(self.snd_una + self.snd_wnd) && link != self.sent_first;
                if !(fits || unlimited) || is_beyond {
                    break;
                }
                if !self.resend(w, link) {
                    self.wait_for_queue(w);
                    break;
                }
                unlimited = !self.flags.contains(Flags::CONGESTION);
                self.cold.recovery.lost -= 1;
                let (stats, session) = (&mut w.lane.stats.retransmits, &mut self.cold.retransmits);
                if self.cold.recovery.by_timeout {
                    (stats.timeout, session.timeout) = (stats.timeout + 1, session.timeout + 1);
                } else {
                    (stats.recovery, session.recovery) = (stats.recovery + 1, session.recovery + 1);
                    if let Some(reduction) = &mut self.cold.recovery.reduction {
                        reduction.resent += 1;
                    }
                }
            }
            link = next;
        }
    }

    /// The retransmission deadline has come.
    pub fn overdue<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        if self.cold.waiting != Waiting::Reordering && w.now >= self.give_up_at(w.lane) {
            w.lane.stats.timeouts += 1;
            return self.fail(w, TcpEnd::TimedOut);
        }
        let waiting = std::mem::take(&mut self.cold.waiting);
        self.cold.rtx_due = NEVER;
        match waiting {
            Waiting::Nothing => {}
            Waiting::Probe => self.probe_tail(w),
            Waiting::Timeout if self.state.is_synchronized() => self.time_out(w),
            Waiting::Timeout => {
                self.cold.backoff = self.cold.backoff.saturating_add(1);
                if !self.flags.contains(Flags::UNRESOLVED) {
                    w.lane.stats.retransmits.syn += 1;
                    self.cold.retransmits.syn += 1;
                }
                self.send_syn(w);
            }
            Waiting::Window => self.probe_window(w),
            Waiting::Queue if !self.state.is_synchronized() => self.send_syn(w),
            // Nothing is lost: a user waits, and is looked after when the poll ends.
            Waiting::Queue if self.sent_first.is_none() => self.attend(w.lane),
            Waiting::Queue | Waiting::Reordering => {
                self.wait_for_timeout(w);
                let begun = self.detect(w);
                self.resend_lost(w, begun || waiting == Waiting::Queue);
                self.judge();
            }
        }
    }

    /// Asks whether the window has opened (RFC 9293, 3.8.6.1: MUST-35), for as long as somebody wants to know. Where it is open, but for less than
    /// was to be sent, that little may be sent now.
    fn probe_window<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        if !self.flags.contains(Flags::BLOCKED) {
            return;
        }
        if !self.ask(w) {
            self.cold.waiting = Waiting::Window;
            self.cold.rtx_due = w.now.saturating_add(QUEUE_RETRY);
            return;
        }
        self.cold.backoff = self.cold.backoff.saturating_add(1);
        self.wait_for_window(w);
        if self.room() > 0 {
            self.cold.is_forced = true;
            self.unblock(w);
        }
    }

    /// Sends the last segment once more, so that its acknowledgement shows what is missing before it (RFC 8985, 7.3).
    fn probe_tail<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        if !self.resend(w, self.sent_last) {
            self.cold.waiting = Waiting::Probe;
            self.cold.rtx_due = w.now.saturating_add(QUEUE_RETRY);
            return;
        }
        self.cold.recovery.probe = Some(self.snd_nxt);
        self.cold.log.note(w.now, TcpHappening::Probe);
        w.lane.stats.retransmits.probe += 1;
        self.cold.retransmits.probe += 1;
        self.judge();
        self.wait_for_timeout(w);
    }

    /// The time-out (RFC 6298, 5.4 to 5.6; RFC 5681, 3.1).
    fn time_out<T: TxQueue>(&mut self, w: &mut Work<'_, T>) {
        let rto = self.cold.rtt.backed_off(self.cold.backoff, &self.cold.options);
        self.cold.log.note(w.now, TcpHappening::Timeout((rto / 1000).min(u32::MAX.into()) as u32));
        // Once for a segment, however often the time-out strikes (RFC 5681, 3.1).
        let (is_repeated, first) = (self.cold.recovery.by_timeout, w.lane.sent.get(self.sent_first));
        if !(is_repeated && first.is_some_and(|sent| sent.marks.contains(Marks::RESENT))) {
            self.reduce(w, self.snd_nxt.since(self.snd_una));
        }
        self.cold.backoff = self.cold.backoff.saturating_add(1);
        // A peer that holds the first outstanding segment and does not acknowledge it has changed its mind (RFC 2018, 8).
        let reneged = w.lane.sent.get(self.sent_first).is_some_and(|sent| sent.marks.contains(Marks::SACKED));
        let allowance = self.cold.recovery.rack_rtt.saturating_add(self.reordering_window());
        let mut link = self.sent_first;
        while let Some(sent) = w.lane.sent.get_mut(link) {
            if reneged && sent.marks.contains(Marks::SACKED) {
                sent.marks -= Marks::SACKED;
                self.in_flight += sent.len();
                self.cold.recovery.sacked -= 1;
            }
            // With blocks to tell, only what has been on its way for longer than others took (RFC 8985, 6.3).
            let is_late = sent.sent_at.saturating_add(allowance) <= w.now;
            if is_late || link == self.sent_first || !self.flags.contains(Flags::SACK) {
                self.mark_lost(w, link);
            }
            link = w.lane.sent.next(link);
        }
        self.cwnd = self.mss.into();
        let recovery = &mut self.cold.recovery;
        (recovery.point, recovery.by_timeout, recovery.reduction) = (Some(self.snd_nxt), true, None);
        (recovery.dup_acks, recovery.probe) = (0, None);
        self.wait_for_timeout(w);
        self.resend_lost(w, true);
        self.judge();
    }
}
