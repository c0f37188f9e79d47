//! What must hold of an end between any two polls, whatever was sent to it and asked of it.

use super::*;
use crate::tcp::session::{Flags, Kept, Marks, NEVER, Sent, Session, Shared, Waiting};
use crate::tcp::slab::{Link, Slab};

impl End {
    /// Panics where something does not fit together.
    #[track_caller]
    pub fn check(&self) {
        let tcp = &self.tcp;
        let (mut sent, mut kept) = (0, 0);
        for (index, session) in tcp.sessions.iter().enumerate() {
            let is_vacant = tcp.vacant.contains(&(index as u32));
            if is_vacant {
                assert!((session.flags - Flags::QUEUED).is_empty() && session.state == TcpState::Closed);
                assert!(session.sent_first.is_none() && session.kept_first.is_none());
            }
            let is_listed = session.flags.contains(Flags::LISTED);
            assert_eq!(
                is_listed,
                !is_vacant && tcp.shared.table.find(session.key) == Some(index as u32),
                "table of {index}"
            );
            assert!(session.state != TcpState::Closed || !is_listed, "a closed session is in the table");
            sent += check_sent(session, &tcp.shared);
            kept += check_kept(session, &tcp.shared);
            if session.flags.contains(Flags::BEHIND) {
                let is_next = tcp.shared.behind == Some(index as u32) || session.flags.contains(Flags::QUEUED);
                assert!(is_next, "session {index} never catches up");
            } else if self.now < Nanos::MAX - 1000 * SECOND {
                check_timers(session, &tcp.shared);
            }
        }
        let (config, lane) = (&tcp.config, &tcp.shared);
        assert_eq!(config.sent_segments - lane.sent.available(), sent, "segments sent are lost");
        assert_eq!(config.kept_segments - lane.kept.available(), kept, "segments kept are lost");
    }
}

/// The nodes of a list; its last one must be the one that is known as such.
fn nodes<T>(slab: &Slab<T>, first: Link, last: Link) -> Vec<&T> {
    let list: Vec<_> = slab.list(first).collect();
    assert_eq!(list.last().map_or(Link::NONE, |(link, _)| *link), last, "end of a list");
    list.into_iter().map(|(_, item)| item).collect()
}

fn check_sent(session: &Session, lane: &Shared) -> u32 {
    let sent = nodes(&lane.sent, session.sent_first, session.sent_last);
    let mut end = session.snd_una;
    for (index, segment) in sent.iter().enumerate() {
        assert!(segment.seq == end || (index == 0 && segment.seq.before(end)), "a gap in what was sent");
        end = segment.end();
        assert!(end.after(session.snd_una), "an acknowledged segment is kept");
        assert!(!segment.marks.contains(Marks::SACKED | Marks::LOST), "both lost and there");
    }
    if !sent.is_empty() {
        assert_eq!(end, session.snd_nxt, "what was sent does not reach SND.NXT");
    }
    let count = |marks: Marks| sent.iter().filter(|segment| segment.marks.contains(marks)).count() as u32;
    let in_flight: u32 = sent.iter().filter(|segment| segment.is_in_flight()).map(|segment| Sent::len(segment)).sum();
    if session.state != TcpState::Closed {
        assert_eq!(session.cold.recovery.counts(), (count(Marks::SACKED), count(Marks::LOST)), "counts of recovery");
        assert_eq!(session.in_flight, in_flight, "bytes in flight");
        assert!(!sent.is_empty() || !session.state.is_synchronized() || session.snd_una == session.snd_nxt);
        assert!(!session.state.is_synchronized() || session.cwnd >= session.mss.into(), "no congestion window");
    }
    sent.len() as u32
}

fn check_kept(session: &Session, lane: &Shared) -> u32 {
    let kept = nodes(&lane.kept, session.kept_first, session.kept_last);
    for pair in kept.windows(2) {
        assert!(!pair[0].end().after(pair[1].seq), "kept segments overlap");
    }
    let (readable, waiting): (Vec<&Kept>, Vec<&Kept>) =
        kept.iter().partition(|segment| !segment.end().after(session.rcv_nxt));
    let bytes = |list: &[&Kept]| list.iter().map(|segment| u32::from(segment.len)).sum::<u32>();
    assert_eq!((session.readable, session.cold.out_of_order), (bytes(&readable), bytes(&waiting)), "bytes kept");
    assert!(kept.iter().all(|segment| segment.len > 0 && segment.bytes().len() == usize::from(segment.len)));
    assert!(waiting.iter().all(|segment| segment.seq.after(session.rcv_nxt)), "what is in order was not taken");
    assert!(!session.rcv_edge.before(session.rcv_nxt), "the window was overrun");
    kept.len() as u32
}

/// Whatever is outstanding is waited for, and whatever is waited for will come.
fn check_timers(session: &Session, lane: &Shared) {
    let cold = &session.cold;
    let due = cold.rtx_due.min(cold.ack_due).min(cold.idle_due);
    assert!(due == NEVER || cold.scheduled <= due, "a deadline at {due} is not in the heap");
    assert!(cold.scheduled == NEVER || lane.timers.next().is_some_and(|next| next <= cold.scheduled));
    assert_eq!(cold.waiting == Waiting::Nothing, cold.rtx_due == NEVER, "{:?} until {}", cold.waiting, cold.rtx_due);
    let outstanding =
        !session.sent_first.is_none() || matches!(session.state, TcpState::SynSent | TcpState::SynReceived);
    assert!(!outstanding || cold.rtx_due != NEVER, "nobody waits for what is outstanding");
    if session.state == TcpState::Closed {
        assert_eq!((due, cold.waiting), (NEVER, Waiting::Nothing), "a closed session waits");
    }
    if session.state == TcpState::TimeWait {
        assert!(cold.idle_due != NEVER, "TIME-WAIT has no end");
    }
}
