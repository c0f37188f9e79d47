//! Every state met by every kind of segment: SEGMENT ARRIVES (RFC 9293, 3.10.7), with RFC 5961.
//!
//! The table is written from the RFCs. In it `n` is RCV.NXT, `m` SND.NXT and `u` SND.UNA, as they were before the segment.

use super::peer::{Peer, count};
use super::script::Seg;
use super::*;
use crate::wire::flag;
use TcpState::{CloseWait, Closed, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynSent, TimeWait};

/// SYN-RECEIVED remembers where it came from (MUST-11): the state after a passive OPEN, and after an active one.
const PASSIVE: (TcpState, bool) = (TcpState::SynReceived, true);
const ACTIVE: (TcpState, bool) = (TcpState::SynReceived, false);

const fn all<const N: usize>(states: [TcpState; N]) -> [(TcpState, bool); N] {
    let mut all = [(Closed, false); N];
    let mut at = 0;
    while at < N {
        all[at].0 = states[at];
        at += 1;
    }
    all
}

type States = &'static [(TcpState, bool)];

const LISTEN: States = &all([Listen]);
const SYN_SENT: States = &all([SynSent]);
const SYN_RECEIVED: States = &[PASSIVE, ACTIVE];
const SYN_RECEIVED_PASSIVE: States = &[PASSIVE];
const SYN_RECEIVED_ACTIVE: States = &[ACTIVE];
const ESTABLISHED: States = &all([Established]);
const FIN_WAIT_1: States = &all([FinWait1]);
const FIN_WAIT_2: States = &all([FinWait2]);
const CLOSE_WAIT: States = &all([CloseWait]);
const CLOSING: States = &all([Closing]);
const LAST_ACK: States = &all([LastAck]);
const TIME_WAIT: States = &all([TimeWait]);
/// The synchronized states.
const SYNCHRONIZED: States = &all([Established, FinWait1, FinWait2, CloseWait, Closing, LastAck, TimeWait]);
const SYNCHRONIZED_BUT_TIME_WAIT: States = &all([Established, FinWait1, FinWait2, CloseWait, Closing, LastAck]);
/// All states that know both sequence numbers' beginnings.
const NUMBERED: States = &[
    PASSIVE,
    ACTIVE,
    (Established, false),
    (FinWait1, false),
    (FinWait2, false),
    (CloseWait, false),
    (Closing, false),
    (LastAck, false),
    (TimeWait, false),
];
/// States in which the peer may still send.
const RECEIVING: States = &all([Established, FinWait1, FinWait2]);
/// States in which the peer has sent its FIN.
const FINISHED: States = &all([CloseWait, Closing, LastAck, TimeWait]);

/// Where a segment leads: the state stays, or is this one.
const STAYS: Option<TcpState> = None;
const fn to(state: TcpState) -> Option<TcpState> {
    Some(state)
}

/// In these states, this segment: the next state, what is sent, what is counted.
type Row = (States, &'static str, Option<TcpState>, &'static [&'static str], &'static str);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // LISTEN (3.10.7.2). First a RST, which is ignored; second an ACK, which is reset; third a SYN; fourth anything else.
    (LISTEN, "R 5",              STAYS, &[], "blind_resets"),
    (LISTEN, "RA 5 ack 9",       STAYS, &[], "blind_resets"),
    (LISTEN, "SR 5",             STAYS, &[], "blind_resets"),
    (LISTEN, "A 5 ack 9",        STAYS, &["R 9"], "bad_acks"),
    (LISTEN, "SA 5 ack 9",       STAYS, &["R 9"], "bad_acks"),
    (LISTEN, "FA 5 ack 9",       STAYS, &["R 9"], "bad_acks"),
    (LISTEN, "PA 5:10 ack 9",    STAYS, &["R 9"], "bad_acks"),
    (LISTEN, "S 0",              to(TcpState::SynReceived), &["SA 0 ack 1"], ""),
    (LISTEN, "SP 0:5",           to(TcpState::SynReceived), &["SA 0 ack 1"], ""),
    (LISTEN, "SU 0",             to(TcpState::SynReceived), &["SA 0 ack 1"], ""),
    (LISTEN, "SF 0",             STAYS, &[], "bad_flags"), // a departure: SYN and FIN at once is no opening
    (LISTEN, "F 5",              STAYS, &[], "bad_flags"),
    (LISTEN, "P 5:10",           STAYS, &[], "bad_flags"),
    (LISTEN, "- 5",              STAYS, &[], "bad_flags"),

    // SYN-SENT (3.10.7.3). First the ACK.
    (SYN_SENT, "A 0 ack 0",      STAYS, &["R 0"], "bad_acks"),
    (SYN_SENT, "A 0 ack 2",      STAYS, &["R 2"], "bad_acks"),
    (SYN_SENT, "SA 0 ack 2",     STAYS, &["R 2"], "bad_acks"),
    (SYN_SENT, "PA 7:9 ack 2",   STAYS, &["R 2"], "bad_acks"),
    (SYN_SENT, "RA 0 ack 2",     STAYS, &[], "bad_acks"),
    // Second the RST.
    (SYN_SENT, "RA 0 ack 1",     to(Closed), &[], "resets"),
    (SYN_SENT, "RA 77 ack 1",    to(Closed), &[], "resets"),
    (SYN_SENT, "R 0",            STAYS, &[], "blind_resets"),
    (SYN_SENT, "SR 0",           STAYS, &[], "blind_resets"),
    // Fourth the SYN.
    (SYN_SENT, "SA 0 ack 1",     to(Established), &["A 1 ack 1"], ""),
    (SYN_SENT, "SPA 0:5 ack 1",  to(Established), &["A 1 ack 6"], ""),
    (SYN_SENT, "SFA 0 ack 1",    to(CloseWait), &["A 1 ack 2"], ""),
    (SYN_SENT, "SPFA 0:5 ack 1", to(CloseWait), &["A 1 ack 7"], ""),
    (SYN_SENT, "S 0",            to(TcpState::SynReceived), &["SA 0 ack 1"], ""),
    (SYN_SENT, "SP 0:5",         to(TcpState::SynReceived), &["SA 0 ack 1"], ""),
    (SYN_SENT, "SF 0",           to(TcpState::SynReceived), &["SA 0 ack 1"], ""),
    // Fifth, neither SYN nor RST.
    (SYN_SENT, "A 0 ack 1",      STAYS, &[], "bad_flags"),
    (SYN_SENT, "PA 0:5 ack 1",   STAYS, &[], "bad_flags"),
    (SYN_SENT, "FA 0 ack 1",     STAYS, &[], "bad_flags"),
    (SYN_SENT, "F 0",            STAYS, &[], "bad_flags"),
    (SYN_SENT, "P 0:5",          STAYS, &[], "bad_flags"),
    (SYN_SENT, "- 0",            STAYS, &[], "bad_flags"),

    // Other states (3.10.7.4). First the sequence number: what is not in the window is answered with where we are, unless it is a RST.
    (NUMBERED, "A n-1 ack m",             STAYS, &["A m ack n"], "out_of_window, challenges"),
    (NUMBERED, "A n+70000 ack m",         STAYS, &["A m ack n"], "out_of_window, challenges"),
    (NUMBERED, "PA n-5:n ack m",          STAYS, &["A m ack n <sack n-5:n>"], "out_of_window, duplicate_bytes 5"),
    (NUMBERED, "PA n+70000:n+70005 ack m", STAYS, &["A m ack n"], "out_of_window"),
    (NUMBERED, "FA n-1 ack m",            STAYS, &["A m ack n"], "out_of_window"),
    (NUMBERED, "P n-5:n",                 STAYS, &["A m ack n <sack n-5:n>"], "out_of_window, duplicate_bytes 5"),
    (NUMBERED, "R n-1",                   STAYS, &[], "out_of_window, blind_resets"),
    (NUMBERED, "RA n-1 ack m",            STAYS, &[], "out_of_window, blind_resets"),
    (NUMBERED, "R n+70000",               STAYS, &[], "out_of_window, blind_resets"),
    (NUMBERED, "R n-5:n+5",               STAYS, &[], "blind_resets"),

    // Second the RST: exactly at RCV.NXT, or in the window (RFC 5961, 3.2).
    (NUMBERED, "R n+1",                   STAYS, &["A m ack n"], "blind_resets, challenges"),
    (NUMBERED, "RA n+65000 ack m",        STAYS, &["A m ack n"], "blind_resets, challenges"),
    (NUMBERED, "SR n+1",                  STAYS, &["A m ack n"], "blind_resets, challenges"),
    (SYN_RECEIVED_PASSIVE, "R n",         to(Listen), &[], "resets"),
    (SYN_RECEIVED_PASSIVE, "RA n ack m",  to(Listen), &[], "resets"),
    (SYN_RECEIVED_ACTIVE, "R n",          to(Closed), &[], "resets"),
    (SYN_RECEIVED_ACTIVE, "RA n ack m",   to(Closed), &[], "resets"),
    (SYNCHRONIZED, "R n",                 to(Closed), &[], "resets"),
    (SYNCHRONIZED, "RA n ack m",          to(Closed), &[], "resets"),
    (SYNCHRONIZED, "RA n ack m+70000",    to(Closed), &[], "resets"),
    (SYNCHRONIZED, "RA n:n+20 ack m",     to(Closed), &[], "resets"), // it may say why (SHLD-2)

    // Fourth the SYN. In SYN-RECEIVED the one that is known has lost its answer; another one leads back to LISTEN.
    (SYN_RECEIVED, "S n-1",                STAYS, &["SA 0 ack n"], "syn"),
    (SYN_RECEIVED, "S n+70000",            STAYS, &["A m ack n"], "blind_syns, out_of_window, challenges"),
    (SYN_RECEIVED_PASSIVE, "S n+10",       to(Listen), &[], "blind_syns"),
    (SYN_RECEIVED_PASSIVE, "SA n+10 ack m", to(Listen), &[], "blind_syns"),
    (SYN_RECEIVED_PASSIVE, "SA n-1 ack m", STAYS, &["A m ack n"], "blind_syns, out_of_window, challenges"),
    (SYN_RECEIVED_ACTIVE, "S n+10",        STAYS, &["A m ack n"], "blind_syns, challenges"),
    (SYN_RECEIVED_ACTIVE, "SA n+10 ack m", STAYS, &["A m ack n"], "blind_syns, challenges"),
    (SYN_RECEIVED_ACTIVE, "SA n-1 ack m",  to(Established), &[], ""), // figure 7 of 3.5
    // A challenge in all synchronized states, wherever it stands (RFC 5961, 4.2); but a new SYN reopens from TIME-WAIT (MAY-2).
    (SYNCHRONIZED_BUT_TIME_WAIT, "S n+10", STAYS, &["A m ack n"], "blind_syns, challenges"),
    (SYNCHRONIZED_BUT_TIME_WAIT, "S n+70000", STAYS, &["A m ack n"], "blind_syns, out_of_window, challenges"),
    (TIME_WAIT, "S n+10",                  to(TcpState::SynReceived), &["SA 0 ack n+11"], ""),
    (TIME_WAIT, "S n+70000",               to(TcpState::SynReceived), &["SA 0 ack n+70001"], ""),
    (SYNCHRONIZED, "S n-1",                STAYS, &["A m ack n"], "blind_syns, out_of_window, challenges"),
    (SYNCHRONIZED, "SA n+10 ack m",        STAYS, &["A m ack n"], "blind_syns, challenges"),
    (SYNCHRONIZED, "SA n-1 ack m",         STAYS, &["A m ack n"], "blind_syns, out_of_window, challenges"),

    // Fifth the ACK: without it, nothing.
    (NUMBERED, "- n",                      STAYS, &[], "bad_flags"),
    (NUMBERED, "P n:n+5",                  STAYS, &[], "bad_flags"),
    (NUMBERED, "F n",                      STAYS, &[], "bad_flags"),
    // Of what was never sent, or too long ago: reset before there is a connection, else a challenge (RFC 5961, 5.2).
    (SYN_RECEIVED, "A n ack m+1",          STAYS, &["R m+1"], "bad_acks"),
    (SYN_RECEIVED, "A n ack u",            STAYS, &["R u"], "bad_acks"),
    (SYN_RECEIVED, "A n ack u-70000",      STAYS, &["R u-70000"], "bad_acks"),
    (SYN_RECEIVED, "PA n:n+5 ack m+1",     STAYS, &["R m+1"], "bad_acks"),
    (SYNCHRONIZED, "A n ack m+1",          STAYS, &["A m ack n"], "bad_acks, challenges"),
    (SYNCHRONIZED, "PA n:n+5 ack m+1",     STAYS, &["A m ack n"], "bad_acks, challenges"),
    (SYNCHRONIZED, "A n ack u-70000",      STAYS, &["A m ack n"], "bad_acks, challenges"),
    (SYNCHRONIZED, "PA n:n+5 ack u-70000", STAYS, &["A m ack n"], "bad_acks, challenges"),
    // An old one says nothing.
    (SYNCHRONIZED, "A n ack u-5",          STAYS, &[], ""),
    (SYNCHRONIZED, "A n ack u",            STAYS, &[], ""),
    // Of everything that was sent.
    (SYN_RECEIVED_PASSIVE, "A n ack m",    to(Established), &[], "accepted"),
    (SYN_RECEIVED_ACTIVE, "A n ack m",     to(Established), &[], ""),
    (ESTABLISHED, "A n ack m",             STAYS, &[], ""),
    (FIN_WAIT_1, "A n ack m",              to(FinWait2), &[], ""),
    (FIN_WAIT_2, "A n ack m",              STAYS, &[], ""),
    (CLOSE_WAIT, "A n ack m",              STAYS, &[], ""),
    (CLOSING, "A n ack m",                 to(TimeWait), &[], ""),
    (LAST_ACK, "A n ack m",                to(Closed), &[], ""),
    (TIME_WAIT, "A n ack m",               STAYS, &[], ""),
    // Ahead of a gap: in the window, and as good.
    (FIN_WAIT_1, "A n+9 ack m",            to(FinWait2), &[], ""),
    (CLOSING, "A n+9 ack m",               to(TimeWait), &[], ""),

    // Sixth the URG bit: the text behind it is text.
    (RECEIVING, "UPA n:n+5 ack u",         STAYS, &["A m ack n+5"], "urgent"),
    (FINISHED, "UA n ack u",               STAYS, &[], "urgent"),

    // Seventh the text: in order, of both sides of RCV.NXT, out of order (SHLD-31, MAY-13).
    (SYN_RECEIVED_PASSIVE, "PA n:n+5 ack m", to(Established), &["A m ack n+5"], "accepted"),
    (SYN_RECEIVED_ACTIVE, "PA n:n+5 ack m", to(Established), &["A m ack n+5"], ""),
    (RECEIVING, "PA n:n+5 ack u",          STAYS, &["A m ack n+5"], ""),
    (RECEIVING, "PA n-5:n+5 ack u",        STAYS, &["A m ack n+5 <sack n-5:n>"], "duplicate_bytes 5"),
    (RECEIVING, "PA n+5:n+10 ack u",       STAYS, &["A m ack n <sack n+5:n+10>"], ""),
    (FIN_WAIT_1, "PA n:n+5 ack m",         to(FinWait2), &["A m ack n+5"], ""),
    (FINISHED, "PA n:n+5 ack u",           STAYS, &[], ""),

    // Eighth the FIN.
    (SYN_RECEIVED_PASSIVE, "FA n ack m",   to(CloseWait), &["A m ack n+1"], "accepted"),
    (SYN_RECEIVED_ACTIVE, "FA n ack m",    to(CloseWait), &["A m ack n+1"], ""),
    (ESTABLISHED, "FA n ack u",            to(CloseWait), &["A m ack n+1"], ""),
    (ESTABLISHED, "PFA n:n+5 ack u",       to(CloseWait), &["A m ack n+6"], ""),
    (FIN_WAIT_1, "FA n ack u",             to(Closing), &["A m ack n+1"], ""),
    (FIN_WAIT_1, "PFA n:n+5 ack u",        to(Closing), &["A m ack n+6"], ""),
    (FIN_WAIT_1, "FA n ack m",             to(TimeWait), &["A m ack n+1"], ""),
    (FIN_WAIT_2, "FA n ack m",             to(TimeWait), &["A m ack n+1"], ""),
    (FIN_WAIT_2, "PFA n:n+5 ack m",        to(TimeWait), &["A m ack n+6"], ""),
    (RECEIVING, "FA n+5 ack u",            STAYS, &["A m ack n"], ""),
    (RECEIVING, "PFA n+5:n+9 ack u",       STAYS, &["A m ack n <sack n+5:n+9>"], ""),
    (CLOSE_WAIT, "FA n ack u",             STAYS, &[], ""),
    (CLOSING, "FA n ack u",                STAYS, &[], ""),
    (LAST_ACK, "FA n ack u",               STAYS, &[], ""),
    (TIME_WAIT, "FA n ack m",              STAYS, &["A m ack n"], ""),
];

/// An end in a state, with something outstanding where that can be.
fn peer_in(state: (TcpState, bool)) -> Peer {
    let mut peer = match state {
        (Listen, _) => return Peer::listening(&TcpOptions::default()),
        (SynSent, _) => return Peer::called(&TcpOptions::default()),
        PASSIVE => {
            let mut peer = Peer::listening(&TcpOptions::default());
            peer.send("S 0 <mss 1460, sackok, ws 0>");
            peer.expect(&["SA 0 ack 1"]);
            return peer;
        }
        ACTIVE => {
            let mut peer = Peer::called(&TcpOptions::default());
            peer.send("S 0 <mss 1460, sackok, ws 0>");
            peer.expect(&["SA 0 ack 1"]);
            return peer;
        }
        _ => Peer::accepted(),
    };
    let steps: &[&str] = match state.0 {
        Established => &["write"],
        FinWait1 => &["close"],
        FinWait2 => &["close", "A 1 ack 2"],
        CloseWait => &["FA 1 ack 1", "write"],
        Closing => &["close", "FA 1 ack 1"],
        LastAck => &["FA 1 ack 1", "close"],
        TimeWait => &["close", "FA 1 ack 2"],
        _ => unreachable!(),
    };
    for step in steps {
        match *step {
            "write" => drop(peer.write(10).unwrap()),
            "close" => peer.close(),
            segment => peer.send(segment),
        }
    }
    peer.sent();
    assert_eq!(peer.state_now(), state.0);
    peer
}

#[test]
fn every_state_answers_every_segment_as_the_rfcs_say() {
    let mut wrong = Vec::new();
    for (states, segment, next, sent, counted) in TABLE {
        for state in *states {
            let mut peer = peer_in(*state);
            let (stats, mut bases) = (peer.stats(), peer.bases(true));
            peer.send(segment);
            if peer.bases(true).from != bases.from {
                // A new connection counts from a new beginning.
                bases.from = peer.bases(true).from;
            }
            let expected: Vec<Seg> = sent.iter().map(|text| Seg::parse(text, bases)).collect();
            let answers: Vec<Seg> = std::iter::from_fn(|| peer.next()).collect();
            let fits = answers.len() == expected.len() && answers.iter().zip(&expected).all(|(a, b)| a.is_as(b));
            let mut names = count(&stats, &peer.stats());
            names.sort_unstable();
            let mut expected_names: Vec<_> = counted.split(", ").filter(|name| !name.is_empty()).collect();
            expected_names.sort_unstable();
            let now = peer.state_now();
            if !fits || now != next.unwrap_or(state.0) || names != expected_names {
                let answers: Vec<_> = answers.iter().map(|seg| seg.show(bases)).collect();
                let expected = format!("{:?}, {sent:?}, {counted}", next.unwrap_or(state.0));
                wrong.push(format!("{state:?} {segment}: {now:?}, {answers:?}, {names:?}; expected {expected}"));
            }
            peer.end.check();
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

/// No state and no kind of segment is left out: with and without each flag that counts, before, in, across and behind the window.
#[test]
fn the_table_leaves_out_no_kind() {
    let has = |states: &[(TcpState, bool)], is_kind: &dyn Fn(&Seg) -> bool| {
        states.iter().all(|state| {
            TABLE.iter().any(|(of, segment, ..)| {
                of.contains(state)
                    && is_kind(&Seg::parse(segment, super::script::Bases { n: 1_000_000, ..Default::default() }))
            })
        })
    };
    let kinds: [u8; 8] = [
        flag::RST,
        flag::RST | flag::ACK,
        flag::SYN,
        flag::SYN | flag::ACK,
        flag::ACK,
        0,
        flag::FIN,
        flag::FIN | flag::ACK,
    ];
    for kind in kinds {
        let is_kind = |seg: &Seg| seg.flags & !(flag::PSH | flag::URG) == kind;
        assert!(has(NUMBERED, &is_kind) && has(LISTEN, &is_kind) && has(SYN_SENT, &is_kind), "{kind:#x}");
    }
    let places: [&dyn Fn(&Seg) -> bool; 4] = [
        &|seg| seg.seq < 1_000_000,
        &|seg| seg.seq == 1_000_000 && seg.len == 0,
        &|seg| seg.seq == 1_000_000 && seg.len > 0,
        &|seg| seg.seq > 1_050_000,
    ];
    for (index, place) in places.into_iter().enumerate() {
        assert!(has(NUMBERED, place), "place {index}");
    }
}
