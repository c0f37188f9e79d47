//! The states of a connection and how one leads to another (RFC 9293, 3.3.2, figure 5).

/// The states of a connection, in the RFC's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum TcpState {
    /// No connection.
    #[default]
    Closed,
    /// Waiting for a connection request. Listeners of the express lane are no sessions; only the host stack's sockets are ever here.
    Listen,
    /// A connection request was sent.
    SynSent,
    /// A request was received and sent; the acknowledgement is waited for.
    SynReceived,
    /// Open: data can go both ways.
    Established,
    /// Closed on this side; its FIN is not acknowledged.
    FinWait1,
    /// Closed on this side, and the other knows; its FIN is waited for.
    FinWait2,
    /// The other side has closed; this one may still send.
    CloseWait,
    /// Both sides have closed at once; the acknowledgement is waited for.
    Closing,
    /// Both sides have closed, this one last; the acknowledgement is waited for.
    LastAck,
    /// Waiting until no segment of the connection can be on its way any more.
    TimeWait,
}

/// What moves a connection from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The user's active OPEN.
    ActiveOpen,
    /// A SYN, without an acknowledgement of ours.
    Syn,
    /// A SYN that acknowledges ours.
    SynAck,
    /// Our SYN is acknowledged.
    AckOfSyn,
    /// The user's CLOSE; a FIN is sent.
    Close,
    /// The other side's FIN, in order.
    Fin,
    /// Our FIN is acknowledged.
    AckOfFin,
    /// Two maximum segment lifetimes have passed.
    Timeout,
}

use Cause::{AckOfFin, AckOfSyn, ActiveOpen, Close, Fin, Syn, SynAck, Timeout};
use TcpState::{
    CloseWait, Closed, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynReceived, SynSent, TimeWait,
};

/// The diagram of RFC 9293 as a table. A reset, an abort and giving up lead from everywhere to CLOSED and are not listed.
const TRANSITIONS: &[(TcpState, Cause, TcpState)] = &[
    (Closed, ActiveOpen, SynSent),
    (Listen, Syn, SynReceived),
    (SynSent, Syn, SynReceived), // simultaneous open (MUST-10)
    (SynSent, SynAck, Established),
    (SynSent, Close, Closed),
    (SynReceived, AckOfSyn, Established),
    (SynReceived, Close, FinWait1),
    (SynReceived, Fin, CloseWait),
    (Established, Close, FinWait1),
    (Established, Fin, CloseWait),
    (CloseWait, Close, LastAck),
    (FinWait1, AckOfFin, FinWait2),
    (FinWait1, Fin, Closing),
    (FinWait2, Fin, TimeWait),
    (Closing, AckOfFin, TimeWait),
    (LastAck, AckOfFin, Closed),
    (TimeWait, Timeout, Closed),
];

impl TcpState {
    /// Where `cause` leads from here; `None` where it leads nowhere.
    pub(super) fn after(self, cause: Cause) -> Option<Self> {
        TRANSITIONS.iter().find(|(from, by, _)| (*from, *by) == (self, cause)).map(|(.., to)| *to)
    }

    /// Both ends know each other's sequence numbers (RFC 9293, 3.5.3).
    #[inline]
    pub fn is_synchronized(self) -> bool {
        self as u8 >= Established as u8
    }

    /// This side may send data (RFC 9293, 3.10.2).
    #[inline]
    pub fn may_send(self) -> bool {
        matches!(self, Established | CloseWait)
    }

    /// The other side may still send data.
    #[inline]
    pub fn may_receive(self) -> bool {
        matches!(self, SynReceived | Established | FinWait1 | FinWait2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_can_be_reached_and_left() {
        let mut reached = vec![Closed, Listen];
        while let Some((.., to)) =
            TRANSITIONS.iter().find(|(from, _, to)| reached.contains(from) && !reached.contains(to))
        {
            reached.push(*to);
        }
        assert_eq!(reached.len(), 11);
        assert!(reached.iter().all(|state| TRANSITIONS.iter().any(|(from, ..)| from == state)));
    }

    #[test]
    fn no_cause_leads_two_ways() {
        for (index, (from, by, _)) in TRANSITIONS.iter().enumerate() {
            assert!(TRANSITIONS[index + 1..].iter().all(|other| (other.0, other.1) != (*from, *by)), "{from:?} {by:?}");
        }
        assert_eq!(Closed.after(Fin), None);
    }
}
