//! Loss without blocks (RFC 6582), the tail's (RFC 8985, 7), and what the congestion window makes of it (RFC 5681).

use super::peer::{Peer, SYN_OPTIONS};
use super::*;

const NO_SACK: &str = "mss 1000, ws 0";
const RTT: Nanos = 10 * MILLISECOND;

/// A connection with a round trip of 10 ms.
fn connected(options: &TcpOptions, syn_options: &str) -> Peer {
    let mut peer = Peer::called(options);
    peer.wait(RTT);
    peer.send(&format!("SA 0 ack 1 win 65535 <{syn_options}>"));
    peer.expect(&["A 1 ack 1"]);
    peer
}

/// The same, with `segments` on their way.
fn sending(segments: u32, syn_options: &str) -> Peer {
    let mut peer = connected(&TcpOptions { peer_ack_delay: 0, ..TcpOptions::default() }, syn_options);
    assert_eq!(peer.write(segments * 1000), Ok(segments as usize * 1000));
    peer.sent();
    peer
}

/// What an expected segment acknowledges makes room for whoever answers it; what follows from it waits until the answer has left.
#[test]
fn acknowledgement_makes_room_before_it_is_worked_off() {
    let mut peer = sending(10, "mss 1000, sackok, ws 0");
    peer.wait(RTT + MILLISECOND);
    let (now, id, before) = (peer.now, peer.id, peer.report());
    assert_eq!((peer.end.tcp.room(id), before.in_flight, before.unacknowledged_segments), (0, 10_000, 10));
    peer.end.medium.arrive(peer.frame("A 1 ack 3001"));
    let End { tcp, pair: QueuePair { rx, tx }, .. } = &mut peer.end;
    let polled = rx.poll(1, |frame| {
        let segment = wire::see_tcp(frame.bytes()).unwrap();
        let session = tcp.find_session(&segment).unwrap();
        assert_eq!(tcp.receive_expected(now, tx, session, &segment), Some(id));
        tcp.keep_lent(now, tx, session, 0, frame);
        // As the answer's writer finds it: three segments' room, and nothing learned yet.
        let report = tcp.report(id).unwrap();
        assert_eq!((tcp.room(id), report.in_flight, report.unacknowledged_segments), (3000, 7000, 7));
        assert_eq!((report.srtt, report.congestion_window), (before.srtt, before.congestion_window));
        assert_eq!(tcp.send_message(now, tx, id, &[7; 1000]), Ok(()));
        assert_eq!(tcp.room(id), 2000);
        assert_eq!(tcp.deadline(now), Some(now), "somebody has to work it off");
    });
    assert_eq!(polled, Ok(1));
    peer.end.tcp.catch_up(now, &mut peer.end.pair.tx);
    peer.end.check();
    let report = peer.report();
    assert_eq!((report.in_flight, report.unacknowledged_segments, peer.end.tcp.room(id)), (8000, 8, 5000));
    assert_eq!((report.srtt > before.srtt, report.congestion_window), (true, Some(13_000)));
    assert!(peer.end.tcp.deadline(now).is_some_and(|due| due > now));
}

/// Three duplicates, not two (RFC 5681, 3.2); each partial acknowledgement shows the next loss (RFC 6582, 3.2).
#[test]
fn newreno_repairs_loss_by_loss() {
    let mut peer = sending(8, NO_SACK);
    peer.wait(RTT);
    peer.send("A 1 ack 1001");
    peer.send("A 1 ack 1001");
    peer.send("A 1 ack 1001");
    peer.expect(&[]);
    peer.send("A 1 ack 1001");
    peer.expect(&["PA 1001:2001 ack 1"]);
    assert_eq!((peer.report().slow_start_threshold, peer.report().retransmits.recovery), (3500, 1));
    // Further ones repeat nothing.
    peer.send("A 1 ack 1001");
    peer.send("A 1 ack 1001");
    peer.expect(&[]);
    peer.wait(RTT);
    peer.send("A 1 ack 4001");
    peer.expect(&["PA 4001:5001 ack 1"]);
    peer.send("A 1 ack 4001");
    peer.send("A 1 ack 4001");
    peer.send("A 1 ack 4001");
    peer.expect(&[]);
    peer.wait(RTT);
    peer.send("A 1 ack 8001");
    assert_eq!((peer.report().congestion_window, peer.report().retransmits.recovery), (Some(2000), 2));
    peer.finish();
}

/// What changes the window, carries text, or repeats nothing outstanding is no duplicate (RFC 5681, 2).
#[test]
fn only_duplicates_are_duplicates() {
    let mut peer = sending(4, NO_SACK);
    peer.wait(RTT);
    for _ in 0..3 {
        for text in ["A 1 ack 1 win 60000", "A 1 ack 1 win 65535", "PA n:n+1 ack 1", "A n-1 ack 1", "A n ack -99"] {
            peer.send(text);
        }
    }
    peer.sent();
    assert_eq!(peer.report().retransmits, Default::default());
    peer.send("A n ack 4001");
    for _ in 0..5 {
        peer.send("A n ack 4001");
    }
    peer.expect(&[]);
    peer.write(1000).unwrap();
    peer.expect(&["PA 4001:5001 ack 4"]);
    peer.finish();
}

/// After a time-out without blocks everything is sent again, in slow start, and each once (RFC 5681, 3.1; RFC 6298, 5.4).
#[test]
fn time_out_begins_slow_start() {
    let mut peer = sending(8, NO_SACK);
    peer.wait_for_segment(SECOND);
    peer.expect(&["PA 1:1001 ack 1"]);
    let report = peer.report();
    assert_eq!((report.congestion_window, report.slow_start_threshold, report.lost_segments), (Some(1000), 4000, 7));
    peer.wait(RTT);
    peer.send("A 1 ack 1001");
    peer.expect(&["PA 1001:2001 ack 1", "PA 2001:3001 ack 1"]);
    peer.wait(RTT);
    peer.send("A 1 ack 2001");
    peer.expect(&["PA 3001:4001 ack 1", "PA 4001:5001 ack 1"]);
    peer.send("A 1 ack 3001");
    peer.expect(&["PA 5001:6001 ack 1", "PA 6001:7001 ack 1"]);
    peer.wait(RTT);
    peer.send("A 1 ack 7001");
    peer.expect(&["PA 7001:8001 ack 1"]);
    peer.send("A 1 ack 8001");
    assert_eq!((peer.report().retransmits.timeout, peer.report().retransmits.recovery), (8, 0));
    peer.finish();
}

/// A second time-out of the same segment halves nothing again (RFC 5681, 3.1).
#[test]
fn threshold_is_halved_once_for_a_segment() {
    let mut peer = sending(8, NO_SACK);
    for _ in 0..5 {
        peer.wait_for_segment(100 * SECOND);
        peer.expect(&["PA 1:1001 ack 1"]);
        assert_eq!(peer.report().slow_start_threshold, 4000);
    }
    peer.finish();
}

/// Ten segments at first (RFC 6928); one more for each acknowledgement in slow start, one a round trip beyond the threshold; none where the
/// window was not used.
#[test]
fn congestion_window_grows_by_the_book() {
    let mut peer = connected(&TcpOptions::default(), NO_SACK);
    assert_eq!(peer.report().congestion_window, Some(10_000));
    assert_eq!(peer.write(20_000), Ok(10_000));
    peer.send("A 1 ack 1001");
    assert_eq!(peer.report().congestion_window, Some(11_000));
    peer.send("A 1 ack 10001");
    assert_eq!(peer.report().congestion_window, Some(19_000));
    peer.write(20_000).unwrap();
    peer.send("A 1 ack 10101");
    assert_eq!(peer.report().congestion_window, Some(19_100));
    // An older one says nothing; what ends within a segment counts by its bytes, and of more than eight segments no more counts (RFC 9406, 4.2).
    peer.send("A 1 ack 10001");
    peer.send("A 1 ack 17901");
    assert_eq!(peer.report().congestion_window, Some(26_900));
    peer.send(&format!("A 1 ack {}", peer.written + 1));
    let window = peer.report().congestion_window;
    assert_eq!(window, Some(34_900));
    // Little is on its way: nothing is learned.
    for _ in 0..20 {
        peer.write(100).unwrap();
        peer.send(&format!("A 1 ack {}", peer.written + 1));
    }
    assert_eq!(peer.report().congestion_window, window);
    peer.finish();
    // Congestion avoidance: after a loss.
    let mut peer = sending(10, NO_SACK);
    peer.wait_for_segment(SECOND);
    peer.send("A 1 ack 10001");
    assert_eq!(peer.report().slow_start_threshold, 5000);
    peer.sent();
    while peer.report().congestion_window < Some(5000) {
        let room = peer.end.tcp.room(peer.id) as u32;
        peer.write(room).unwrap();
        peer.send(&format!("A 1 ack {}", peer.written + 1));
    }
    for window in [5200, 5392, 5577] {
        let room = peer.end.tcp.room(peer.id) as u32;
        peer.write(room).unwrap();
        peer.send("A n ack u+1000");
        assert_eq!(peer.report().congestion_window, Some(window));
    }
    peer.finish();
}

/// Acknowledgements that come in a row, before the user can send more, open the window as if he had sent in between.
#[test]
fn acknowledgements_in_a_row_all_open_the_window() {
    let mut peer = connected(&TcpOptions::default(), NO_SACK);
    assert_eq!(peer.write(20_000), Ok(10_000));
    let acks: Vec<_> = (1..=5).map(|ack| format!("A 1 ack {}", ack * 2000 + 1)).collect();
    peer.send_all(&acks.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(peer.report().congestion_window, Some(20_000));
    // What is sent then and leaves room opens nothing.
    peer.write(10_000).unwrap();
    peer.send("A 1 ack 20001");
    assert_eq!(peer.report().congestion_window, Some(20_000));
    peer.finish();
}

/// Off where nobody else is in the way: the peer's window is the only one.
#[test]
fn without_congestion_control_the_peers_window_is_the_limit() {
    let mut peer = connected(&TcpOptions { congestion: false, ..TcpOptions::default() }, "mss 1460, ws 0");
    // Full segments.
    assert_eq!(peer.write(70_000), Ok(44 * 1460));
    peer.wait_for_segment(SECOND);
    peer.sent();
    assert_eq!(peer.report().congestion_window, None);
    peer.finish();
}

/// An acknowledgement of what came before does not put the probe off.
#[test]
fn probe_of_a_tail_counts_from_the_last_send() {
    let mut peer = sending(4, "mss 1000, sackok, ws 0");
    peer.wait(RTT);
    peer.send("A 1 ack 2001");
    peer.expect_in_time("PA 3001:4001 ack 1", &[10]);
    peer.finish();
}

/// What was only overtaken leaves the tail to be probed, not to the time-out.
#[test]
fn tail_is_probed_after_reordering() {
    let mut peer = sending(4, "mss 1000, sackok, ws 0");
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:2001>");
    peer.expect(&[]);
    peer.send("A 1 ack 2001");
    peer.expect_in_time("PA 3001:4001 ack 1", &[10]);
    assert_eq!(peer.report().retransmits.probe, 1);
    peer.finish();
}

/// Two round trips after the last segment (RFC 8985, 7.2); the wait for a delayed acknowledgement only for one that is alone.
#[test]
fn tail_is_probed_after_two_round_trips() {
    let options = TcpOptions { peer_ack_delay: 40 * MILLISECOND, ..TcpOptions::default() };
    let mut peer = connected(&options, SYN_OPTIONS);
    peer.write(1000).unwrap();
    peer.expect(&["PA 1:1001 ack 1"]);
    peer.expect_in_time("PA 1:1001 ack 1", &[60]);
    // One probe, then the time-out.
    peer.expect_in_time("PA 1:1001 ack 1", &[200]);
    assert_eq!((peer.report().retransmits.probe, peer.report().retransmits.timeout), (1, 1));
    peer.finish();
    let mut peer = connected(&options, SYN_OPTIONS);
    peer.write(2000).unwrap();
    peer.sent();
    peer.expect_in_time("PA 1461:2001 ack 1", &[20]);
    peer.finish();
}

/// Sends in a row do not put the probe off beyond the time-out of the first.
#[test]
fn steady_sends_do_not_put_the_probe_off() {
    let mut peer = connected(&TcpOptions { peer_ack_delay: 0, ..TcpOptions::default() }, SYN_OPTIONS);
    let start = peer.now;
    while peer.report().retransmits == Default::default() {
        peer.write(1).unwrap();
        peer.wait(10 * MILLISECOND);
        assert!(peer.now - start <= 210 * MILLISECOND);
    }
    peer.finish();
}

/// The answer to a probe that repaired nothing costs nothing (RFC 8985, 7.4.2).
#[test]
fn needless_probe_does_not_close_the_window() {
    for answers in [
        // The peer had the segment and says so; or says nothing new twice; or the acknowledgement was only late, then the copy came.
        &["A 1 ack 1001 <sack 1:1001>"][..],
        &["A 1 ack 1001", "A 1 ack 1001"],
        &["A 1 ack 1001", "A 1 ack 1001 <sack 1:1001>"],
    ] {
        let mut peer = sending(1, SYN_OPTIONS);
        peer.wait_for_segment(SECOND);
        peer.expect(&["PA 1:1001 ack 1"]);
        peer.wait(RTT);
        for answer in answers {
            peer.send(answer);
        }
        peer.write(10).unwrap();
        peer.expect(&["PA 1001:1011 ack 1"]);
        peer.wait(RTT);
        peer.send("A 1 ack 1011");
        let report = peer.report();
        assert_eq!((report.congestion_window, report.slow_start_threshold), (Some(14_600), u32::MAX), "{answers:?}");
        peer.finish();
    }
}

/// One that repaired a loss halves the window once that is clear.
#[test]
fn probe_that_repairs_a_loss_halves_the_window() {
    let mut peer = sending(1, SYN_OPTIONS);
    peer.wait_for_segment(SECOND);
    peer.wait(RTT);
    peer.send("A 1 ack 1001");
    assert_eq!(peer.report().congestion_window, Some(14_600));
    peer.write(10).unwrap();
    peer.wait(RTT);
    peer.send("A 1 ack 1011");
    assert_eq!((peer.report().congestion_window, peer.report().slow_start_threshold), (Some(7300), 7300));
    peer.finish();
}

/// The probe shows by its blocks what is missing before the tail.
#[test]
fn probe_uncovers_a_loss_before_it() {
    let mut peer = sending(3, "mss 1000, sackok, ws 0");
    peer.wait_for_segment(SECOND);
    peer.expect(&["PA 2001:3001 ack 1"]);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 2001:3001>");
    peer.wait_for_segment(5 * MILLISECOND).expect("without a time-out");
    peer.expect(&["PA 1:1001 ack 1", "PA 1001:2001 ack 1"]);
    assert_eq!(peer.report().retransmits.timeout, 0);
    peer.send("A 1 ack 3001");
    peer.finish();
}

/// A lost FIN is repeated as data is.
#[test]
fn lost_fin_is_probed() {
    let mut peer = connected(&TcpOptions { peer_ack_delay: 0, ..TcpOptions::default() }, SYN_OPTIONS);
    peer.write(10).unwrap();
    peer.close();
    peer.expect(&["PA 1:11 ack 1", "FA 11 ack 1"]);
    peer.expect_in_time("FA 11 ack 1", &[20]);
    assert_eq!(peer.wait_for_segment(SECOND), Some(200 * MILLISECOND));
    peer.expect(&["PA 1:11 ack 1", "FA 11 ack 1"]);
    peer.send("A 1 ack 12");
    assert_eq!(peer.state(), TcpState::FinWait2);
    peer.finish();
}
