//! Opening and closing in every order (RFC 9293, 3.5 and 3.6).

use super::peer::{PEER, PEER_PORT, PORT, Peer, SYN_OPTIONS};
use super::*;
use crate::tcp::{TcpEnd, TcpError};

/// Figure 7: both SYNs cross (MUST-10); with data in both directions afterwards.
#[test]
fn both_ends_open_at_once() {
    for syn in ["SA 0 ack 1", "A 1 ack 1"] {
        let mut peer = Peer::called(&TcpOptions::default());
        peer.send(&format!("S 0 win 1000 <{SYN_OPTIONS}>"));
        peer.expect(&["SA 0 ack 1 <mss 1460, sackok, ws 1>"]);
        assert_eq!(peer.state(), TcpState::SynReceived);
        peer.send(&format!("{syn} win 2000 <{SYN_OPTIONS}>"));
        assert_eq!((peer.state(), peer.report().send_window), (TcpState::Established, 2000));
        peer.expect(&[]);
        peer.send("PA 1:6 ack 1 win 2000");
        peer.expect(&["A 1 ack 6"]);
        assert_eq!((peer.read(), peer.write(10)), (5, Ok(10)));
        peer.expect(&["PA 1:11 ack 6"]);
        peer.finish();
    }
}

/// The answer is repeated until the other half comes.
#[test]
fn lost_half_of_a_simultaneous_open_is_repeated() {
    let mut peer = Peer::called(&TcpOptions::default());
    peer.send(&format!("S 0 <{SYN_OPTIONS}>"));
    peer.expect(&["SA 0 ack 1"]);
    peer.expect_in_time("SA 0 ack 1", &[1000, 2000]);
    peer.send(&format!("S 0 <{SYN_OPTIONS}>"));
    peer.expect(&["SA 0 ack 1"]);
    peer.send("A 1 ack 1");
    assert_eq!(peer.state(), TcpState::Established);
    peer.finish();
}

/// Closed while the handshake is not through: the FIN follows it.
#[test]
fn close_in_syn_received_waits_for_the_connection() {
    let mut peer = Peer::called(&TcpOptions::default());
    peer.send("S 0 win 1000 <mss 1460, sackok, ws 4>");
    peer.expect(&["SA 0 ack 1"]);
    peer.close();
    assert_eq!(peer.write(1), Err(TcpError::NotOpen(TcpState::FinWait1)));
    peer.expect_in_time("SA 0 ack 1", &[1000]);
    peer.send("A 1 ack 1 win 1000");
    peer.expect(&["FA 1 ack 1"]);
    assert_eq!((peer.state(), peer.report().send_window), (TcpState::FinWait1, 16_000));
    peer.finish();
}

/// Each order in which the two FINs and their acknowledgements can go, and the states on the way (figures 5, 12 and 13).
#[test]
fn every_order_of_closing_ends_in_order() {
    use TcpState::{CloseWait, Closed, Closing, FinWait1, FinWait2, LastAck, TimeWait};
    let orders: [&[(&str, TcpState, &[&str])]; 7] = [
        &[("close", FinWait1, &["FA 1 ack 1"]), ("A 1 ack 2", FinWait2, &[]), ("FA 1 ack 2", TimeWait, &["A 2 ack 2"])],
        &[("close", FinWait1, &["FA 1 ack 1"]), ("FA 1 ack 2", TimeWait, &["A 2 ack 2"])],
        &[("close", FinWait1, &["FA 1 ack 1"]), ("FA 1 ack 1", Closing, &["A 2 ack 2"]), ("A 2 ack 2", TimeWait, &[])],
        &[("FA 1 ack 1", CloseWait, &["A 1 ack 2"]), ("close", LastAck, &["FA 1 ack 2"]), ("A 2 ack 2", Closed, &[])],
        // The FIN comes before the data that it ends.
        &[
            ("FA 11 ack 1", TcpState::Established, &["A 1 ack 1"]),
            ("A 6:11 ack 1", TcpState::Established, &["A 1 ack 1"]),
            ("A 1:6 ack 1", CloseWait, &["A 1 ack 12"]),
            ("close", LastAck, &["FA 1 ack 12"]),
            ("A 12 ack 2", Closed, &[]),
        ],
        &[
            ("close", FinWait1, &["FA 1 ack 1"]),
            ("FA 6 ack 2", FinWait2, &["A 2 ack 1"]),
            ("A 1:6 ack 2", TimeWait, &["A 2 ack 7"]),
        ],
        // Half closed: data goes on in the other direction.
        &[
            ("close", FinWait1, &["FA 1 ack 1"]),
            ("PA 1:6 ack 1", FinWait1, &["A 2 ack 6"]),
            ("PA 6:11 ack 2", FinWait2, &["A 2 ack 11"]),
            ("PFA 11:16 ack 2", TimeWait, &["A 2 ack 17"]),
        ],
    ];
    for steps in orders {
        for mut peer in [Peer::accepted(), Peer::connected()] {
            for (step, state, sent) in steps {
                if *step == "close" {
                    peer.close()
                } else {
                    peer.send(step)
                }
                peer.expect(sent);
                assert_eq!(peer.state(), *state, "{step}");
            }
            peer.read();
            peer.wait(61 * SECOND);
            assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (Closed, None));
            // Closing again says nothing; sending says where it is.
            peer.close();
            peer.expect(&[]);
            assert_eq!(peer.write(1), Err(TcpError::NotOpen(Closed)));
            peer.finish();
        }
    }
}

/// Half closed from there: what is sent from here still goes, and is repeated.
#[test]
fn half_closed_connection_carries_on() {
    let mut peer = Peer::accepted();
    peer.send("FA 1 ack 1");
    peer.expect(&["A 1 ack 2"]);
    for at in 0..10 {
        peer.write(100).unwrap();
        peer.expect(&[&format!("PA {}:{} ack 2", at * 100 + 1, at * 100 + 101)]);
        peer.wait_for_segment(100 * SECOND).unwrap();
        peer.expect(&[&format!("PA {}:{} ack 2", at * 100 + 1, at * 100 + 101)]);
        peer.send(&format!("A 2 ack {}", at * 100 + 101));
    }
    peer.close();
    peer.expect(&["FA 1001 ack 2"]);
    peer.send("A 2 ack 1002");
    assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, None));
    peer.finish();
}

/// What was received in order can be read after the connection has ended in order; after a reset it cannot (RFC 9293, 3.10.7.4).
#[test]
fn data_outlives_an_orderly_end_only() {
    let mut peer = Peer::accepted();
    peer.send("PFA 1:6 ack 1");
    peer.close();
    peer.send("A 7 ack 2");
    assert_eq!((peer.state(), peer.read()), (TcpState::Closed, 5));
    peer.finish();
    let mut peer = Peer::accepted();
    peer.send("PA 1:6 ack 1");
    peer.send("R 6");
    assert_eq!((peer.state(), peer.read(), peer.end.tcp.end(peer.id)), (TcpState::Closed, 0, Some(TcpEnd::Reset)));
    peer.finish();
}

/// The user's ABORT (3.10.5): a reset where the peer has to know, silence where all is over.
#[test]
fn abort_resets_what_is_open() {
    for (steps, sent) in [
        (&[][..], &["RA 1 ack 1"][..]),
        (&["FA 1 ack 1"], &["RA 1 ack 2"]),
        (&["close"], &["RA 2 ack 1"]),
        (&["close", "A 1 ack 2"], &["RA 2 ack 1"]),
        (&["close", "FA 1 ack 1"], &[]),
        (&["FA 1 ack 1", "close"], &[]),
        (&["close", "FA 1 ack 2"], &[]),
    ] {
        let mut peer = Peer::accepted();
        for step in steps {
            if *step == "close" { peer.close() } else { peer.send(step) }
        }
        peer.sent();
        peer.abort();
        peer.expect(sent);
        assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, Some(TcpEnd::Aborted)));
        peer.finish();
    }
    let mut peer = Peer::called(&TcpOptions::default());
    peer.abort();
    peer.expect(&[]);
    peer.finish();
}

/// Given up with data unread, or with more to come: the peer hears that it was lost (SHLD-3). What needs no more than its end, ends in order.
#[test]
fn release_ends_as_it_should() {
    for (steps, sent, then) in [
        (&["PA 1:6 ack 1"][..], &["RA 1 ack 6"][..], &[][..]),
        (&["PFA 1:6 ack 1"], &["RA 1 ack 7"], &[]),
        (&["close", "PA 1:6 ack 2"], &["RA 2 ack 6"], &[]),
        (&[], &["FA 1 ack 1"], &["PA 1:6 ack 1 -> RA 2 ack 1"]),
        (&[], &["FA 1 ack 1"], &["FA 1 ack 2 -> A 2 ack 2", "FA 1 ack 2 -> A 2 ack 2"]),
        (&["FA 1 ack 1"], &["FA 1 ack 2"], &["A 2 ack 2 -> "]),
        // All has been said; what is unread is nobody's any more, but the peer is not reset for it.
        (&["close", "PFA 1:6 ack 1"], &[], &["A 7 ack 2 -> "]),
        (&["PFA 1:6 ack 1", "close"], &[], &["A 7 ack 2 -> "]),
        (&["close", "PFA 1:6 ack 2"], &[], &["FA 6 ack 2 -> A 2 ack 7"]),
    ] {
        let mut peer = Peer::accepted();
        for step in steps {
            if *step == "close" { peer.close() } else { peer.send(step) }
        }
        peer.sent();
        peer.release();
        peer.expect(sent);
        for step in then {
            let (segment, answer) = step.split_once(" -> ").unwrap();
            peer.send(segment);
            peer.expect(&[answer][..usize::from(!answer.is_empty())]);
        }
        peer.end.news.clear();
        peer.wait(200 * SECOND);
        assert!(peer.end.is_empty(), "{steps:?} {then:?}");
        assert_eq!(peer.end.news, [], "nobody hears of what was released");
    }
}

/// A reset that answers our challenge ends TIME-WAIT, as RFC 9293 has it; anything less exact does not.
#[test]
fn time_wait_ends_by_an_exact_reset_only() {
    let mut peer = Peer::accepted();
    peer.close();
    peer.send("FA 1 ack 2");
    for text in ["R 1", "R 3", "R 60000", "RA 1 ack 2"] {
        peer.send(text);
        assert_eq!(peer.state(), TcpState::TimeWait, "{text}");
    }
    peer.send("R 2");
    assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, None));
    peer.finish();
}

/// A newer SYN reopens (MAY-2): by its timestamp where both have some (SHLD-4; RFC 6191), else by its number.
#[test]
fn newer_syn_reopens_from_time_wait() {
    let stamped = TcpOptions { timestamps: true, ..TcpOptions::default() };
    for (is_stamped, syn, reopens) in [
        (false, "S n+1", true),
        (false, "S n+1 <mss 1460, ts 1 0>", true),
        (false, "S n", false),
        (false, "S n-1000", false),
        (false, "SF n+1", false),
        (true, "S n+1 <mss 1460, ts 101 0>", true),
        (true, "S n-1000 <mss 1460, ts 101 0>", true),
        (true, "S n+1 <mss 1460, ts 100 0>", true),
        (true, "S n-1 <mss 1460, ts 100 0>", false),
        (true, "S n+1 <mss 1460, ts 99 0>", false),
        (true, "S n+1", true),
        (true, "S n-1", false),
    ] {
        for is_released in [false, true] {
            let (options, ts) = if is_stamped { (stamped, "<ts 100 0>") } else { (TcpOptions::default(), "") };
            let mut peer = Peer::listening(&options);
            peer.send(&format!("S 0 {ts}"));
            peer.send(&format!("A 1 ack 1 {ts}"));
            peer.id = peer.end.accepted[0];
            if is_released {
                peer.release()
            } else {
                peer.close()
            };
            peer.send(&format!("FA 1 ack 2 {ts}"));
            assert_eq!(peer.state(), TcpState::TimeWait);
            let (last, before) = (peer.bases(true).m, peer.bases(true).from);
            peer.sent();
            peer.end.news.clear();
            peer.send(syn);
            let answer = peer.next().filter(|answer| answer.flags & crate::wire::flag::SYN != 0);
            assert_eq!(answer.is_some(), reopens, "{is_stamped} {syn}");
            assert_eq!(peer.bases(true).from != before, reopens);
            if let Some(answer) = answer {
                // Beyond all numbers of the old connection.
                assert!((answer.seq.wrapping_sub(last) as i32) > 0, "{} after {last}", answer.seq);
                assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, None));
                assert_eq!(peer.end.news.contains(&peer.id), !is_released);
                peer.send(&format!("A n ack m {}", ts.replace("100", "200")));
                assert_eq!(peer.end.accepted.len(), 2, "{syn}");
                let (old, new) = (peer.id, peer.end.accepted[1]);
                peer.id = new;
                peer.abort();
                peer.end.release(peer.now, old);
            }
            peer.finish();
        }
    }
}

/// Where numbers have run ahead of the clock, the new connection begins beyond them all the same.
#[test]
fn reopened_connection_begins_beyond_numbers_that_ran_ahead_of_the_clock() {
    let mut peer = Peer::accepted();
    while peer.written < 200_000 {
        let room = peer.end.tcp.room(peer.id) as u32;
        peer.write(room).unwrap();
        peer.send("A n ack m");
    }
    peer.close();
    peer.send("FA 1 ack m");
    peer.sent();
    let last = peer.bases(true).m;
    peer.send("S n+1");
    let iss = peer.next().unwrap().seq;
    assert!((1..1 << 20).contains(&iss.wrapping_sub(last)), "{iss} after {last}");
    peer.finish();
}

/// TIME-WAIT of an end that opened has no listener behind it: it stays.
#[test]
fn nothing_reopens_where_nobody_listens() {
    let mut peer = Peer::connected();
    peer.close();
    peer.send("FA 1 ack 2");
    peer.sent();
    peer.send("S n+1000");
    peer.expect(&["A 2 ack 2"]);
    let again = peer.end.connect_from(peer.now, PORT, SocketAddrV4::new(PEER, PEER_PORT), &TcpOptions::default());
    assert_eq!((again, peer.state()), (Err(TcpError::PortInUse(PORT)), TcpState::TimeWait));
    peer.finish();
}
