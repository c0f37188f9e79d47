//! Selective acknowledgements, told and heard (RFC 2018, RFC 2883), and what they say about loss (RFC 8985, 6).

use super::peer::Peer;
use super::*;

const OPTIONS: &str = "mss 1000, sackok, ws 0";
const RTT: Nanos = 10 * MILLISECOND;

/// A connection with a round trip of 10 ms, `segments` full segments on their way, and the peer's window open.
fn sending(segments: u32) -> Peer {
    sending_with(segments, true)
}

fn sending_with(segments: u32, congestion: bool) -> Peer {
    let mut peer = Peer::called(&TcpOptions { peer_ack_delay: 0, congestion, ..TcpOptions::default() });
    peer.wait(RTT);
    peer.send(&format!("SA 0 ack 1 win 65535 <{OPTIONS}>"));
    peer.expect(&["A 1 ack 1"]);
    assert_eq!(peer.write(segments * 1000), Ok(segments as usize * 1000));
    peer.sent();
    peer
}

#[test]
fn blocks_are_told_newest_first_and_four_at_most() {
    let mut peer = Peer::accepted();
    for (segment, blocks) in [
        ("A 11:16 ack 1", "11:16"),
        ("A 21:26 ack 1", "21:26 11:16"),
        ("A 41:46 ack 1", "41:46 21:26 11:16"),
        ("A 31:36 ack 1", "31:36 41:46 21:26 11:16"),
        ("A 61:66 ack 1", "61:66 31:36 41:46 21:26"),
        ("A 26:31 ack 1", "21:36 61:66 41:46 11:16"),
        ("A 51:56 ack 1", "51:56 21:36 61:66 41:46"),
    ] {
        peer.send(segment);
        peer.expect(&[&format!("A 1 ack 1 <sack {blocks}>")]);
    }
    // What fills the gap before them takes them along.
    peer.send("A 1:11 ack 1");
    peer.expect(&["A 1 ack 16 <sack 51:56 21:36 61:66 41:46>"]);
    peer.send("A 16:21 ack 1");
    peer.expect(&["A 1 ack 36 <sack 51:56 61:66 41:46>"]);
    peer.finish();
}

/// Three answers tell a peer without SACK what is lost (RFC 5681, 3.2 and 4.2), also where one poll brings all that was out of order. What is
/// in order has one.
#[test]
fn each_segment_out_of_order_is_answered() {
    let mut peer = Peer::accepted();
    peer.send_all(&["A 11:21 ack 1", "A 21:31 ack 1", "A 31:41 ack 1"]);
    peer.expect(&["A 1 ack 1 <sack 11:21>", "A 1 ack 1 <sack 11:31>", "A 1 ack 1 <sack 11:41>"]);
    peer.send_all(&["A 1:11 ack 1", "A 41:51 ack 1", "A 51:61 ack 1"]);
    peer.expect(&["A 1 ack 41 <>", "A 1 ack 61 <>"]);
    peer.finish();
}

#[test]
fn three_blocks_fit_beside_timestamps() {
    let mut peer = Peer::listening(&TcpOptions { timestamps: true, ..TcpOptions::default() });
    peer.send("S 0 <mss 1000, sackok, ts 7 0>");
    peer.send("A 1 ack 1 <ts 7 0>");
    for at in [11, 21, 31, 41] {
        peer.send(&format!("A {at}:{} ack 1 <ts 7 0>", at + 5));
    }
    let last = peer.sent().pop().unwrap();
    assert!(last.contains("ts ") && last.ends_with("sack 41:46 31:36 21:26>"), "{last}");
    peer.id = peer.end.accepted[0];
    peer.finish();
}

/// What arrived twice is told first, once (RFC 2883, 4).
#[test]
fn duplicates_are_told_before_the_blocks() {
    let mut peer = Peer::accepted();
    for (segment, answer) in [
        ("A 1:11 ack 1", "A 1 ack 11 <>"),
        ("A 3:6 ack 1", "A 1 ack 11 <sack 3:6>"),
        ("A 21:31 ack 1", "A 1 ack 11 <sack 21:31>"),
        ("A 1:11 ack 1", "A 1 ack 11 <sack 1:11 21:31>"),
        ("A 21:26 ack 1", "A 1 ack 11 <sack 21:26 21:31>"),
        ("A 25:35 ack 1", "A 1 ack 11 <sack 25:31 21:35>"),
        ("A 5:15 ack 1", "A 1 ack 15 <sack 5:11 21:35>"),
    ] {
        peer.send(segment);
        peer.expect(&[answer]);
    }
    peer.finish();
}

#[test]
fn nothing_is_told_to_a_peer_that_did_not_ask() {
    let mut peer = Peer::accepted_with(&TcpOptions::default(), "mss 1000, ws 0", 1000);
    peer.send("A 11:21 ack 1");
    peer.send("A 11:21 ack 1");
    peer.expect(&["A 1 ack 1 <>", "A 1 ack 1 <>"]);
    peer.finish();
}

/// Data sent in answer to something out of order does not keep the blocks from being told.
#[test]
fn blocks_are_told_beside_data() {
    let mut peer = Peer::accepted();
    let frame = peer.frame("A 11:21 ack 1");
    peer.end.medium.arrive(frame);
    // The user answers before the poll ends.
    peer.end.answer = Some((peer.id, super::script::stream(1)));
    peer.wait(0);
    peer.expect(&["PA 1:2 ack 1", "A 2 ack 1 <sack 11:21>"]);
    peer.finish();
}

/// Blocks of what was not sent, inside out, empty, of long ago, of a part of a segment: counted or passed over, and never believed.
#[test]
fn lies_about_blocks_change_nothing() {
    let mut peer = sending(5);
    let window = 65_535;
    for (block, is_bad) in [
        ("5001:6001".into(), true),
        ("4001:5002".into(), true),
        ("2001:1001".into(), true),
        ("2001:2001".into(), true),
        (format!("{}:{}", -window - 100, -window - 50), true),
        ("100000000:100001000".into(), true),
        ("-2147483647:1001".into(), true),
        ("2001:2002".into(), false),
        ("2002:3001".into(), false),
        ("1002:2000".into(), false),
        ("-1000:2000".into(), false),
    ] {
        let before = peer.stats();
        peer.send(&format!("A 1 ack 1 <sack {block}>"));
        let report = peer.report();
        assert_eq!((report.sacked_segments, report.lost_segments, report.in_flight), (0, 0, 5000), "{block}");
        assert_eq!(peer.stats().bad_sacks - before.bad_sacks, u64::from(is_bad), "{block}");
    }
    // Many of them, and the segment is still fast.
    peer.send("A 1 ack 1 <sack 5001:6001 7:6 9:9 0:90000>");
    peer.expect(&[]);
    peer.send("A 1 ack 5001");
    assert_eq!((peer.report().unacknowledged, peer.report().retransmits), (0, Default::default()));
    peer.finish();
}

#[test]
fn blocks_of_a_peer_that_was_not_asked_are_not_read() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), "mss 1000, ws 0", 65_535);
    peer.write(3000).unwrap();
    peer.send("A 1 ack 1 <sack 1001:3001>");
    assert_eq!(peer.report().sacked_segments, 0);
    peer.finish();
}

/// A peer that drops what it has told (RFC 2018, 8): after the time-out everything is sent again.
#[test]
fn peer_may_renege() {
    let mut peer = sending(4);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:2001 3001:4001>");
    assert_eq!(peer.report().sacked_segments, 2);
    peer.wait(RTT);
    assert_eq!(peer.sent().len(), 2);
    peer.send("A 1 ack 1001");
    // Nothing is said of 1001 to 2001 any more; only the time-out can tell.
    peer.wait_for_segment(SECOND);
    peer.expect(&["PA 1001:2001 ack 1"]);
    assert_eq!(peer.report().sacked_segments, 0);
    peer.send("A 1 ack 2001");
    peer.expect(&["PA 2001:3001 ack 1", "PA 3001:4001 ack 1"]);
    peer.send("A 1 ack 4001");
    assert_eq!((peer.report().in_flight, peer.report().lost_segments), (0, 0));
    peer.finish();
}

/// One segment behind a gap: the gap has a quarter of the round trip to be closed (RACK.reo_wnd), and is lost then.
#[test]
fn reordering_is_not_mistaken_for_loss() {
    let mut peer = sending(2);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:2001>");
    peer.expect(&[]);
    peer.wait(2 * MILLISECOND);
    peer.send("A 1 ack 2001");
    peer.wait(SECOND);
    peer.expect(&[]);
    assert_eq!((peer.report().retransmits, peer.report().congestion_window), (Default::default(), Some(10_000)));
    // The same, and the gap stays.
    let mut peer = sending(2);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:2001>");
    assert_eq!(peer.wait_for_segment(SECOND), Some(2_500_000));
    peer.expect(&["PA 1:1001 ack 1"]);
    assert_eq!(peer.report().retransmits.recovery, 1);
    peer.send("A 1 ack 2001");
    peer.finish();
}

/// Three segments behind a gap, and nothing that ever came out of order: lost at once (RFC 8985, 6.2, step 4).
#[test]
fn three_segments_behind_a_gap_mean_loss() {
    let mut peer = sending(10);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:2001>");
    peer.send("A 1 ack 1 <sack 1001:3001>");
    peer.expect(&[]);
    peer.send("A 1 ack 1 <sack 1001:4001>");
    peer.expect(&["PA 1:1001 ack 1"]);
    // Half of what was outstanding (RFC 5681, 3.2).
    let report = peer.report();
    assert_eq!((report.slow_start_threshold, report.congestion_window, report.in_flight), (5000, Some(5000), 7000));
    for end in [5001, 6001, 7001] {
        peer.send(&format!("A 1 ack 1 <sack 1001:{end}>"));
    }
    assert_eq!(peer.write(2000), Ok(1000));
    peer.expect(&["PA 10001:11001 ack 1"]);
    peer.send("A 1 ack 11001");
    let report = peer.report();
    assert_eq!((report.congestion_window, report.unacknowledged), (Some(2000), 0));
    peer.finish();
}

/// A retransmission that is lost too is seen by what was sent after it, without a time-out.
#[test]
fn lost_retransmission_is_sent_again() {
    let mut peer = sending(5);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:4001>");
    peer.expect(&["PA 1:1001 ack 1"]);
    peer.wait(MILLISECOND);
    assert_eq!(peer.write(100), Ok(100));
    peer.expect(&["PA 5001:5101 ack 1"]);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:5101>");
    peer.wait_for_segment(3 * MILLISECOND).expect("without a time-out");
    peer.expect(&["PA 1:1001 ack 1"]);
    assert_eq!((peer.report().retransmits.recovery, peer.report().retransmits.timeout), (2, 0));
    peer.send("A 1 ack 5101");
    peer.finish();
}

/// Segments that were told of by blocks do not look out of order when the gap before them is closed.
#[test]
fn recovery_does_not_look_like_reordering() {
    let mut peer = sending_with(5, false);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:4001>");
    peer.expect(&["PA 1:1001 ack 1"]);
    peer.wait(RTT);
    peer.send("A 1 ack 5001");
    // The next loss is as clear as the first.
    peer.write(5000).unwrap();
    peer.sent();
    peer.wait(RTT);
    peer.send("A 1 ack 5001 <sack 6001:9001>");
    peer.expect(&["PA 5001:6001 ack 1"]);
    peer.finish();
}

/// Where reordering was seen, three segments are no proof; where retransmissions were for nothing, the wait becomes longer, once a round trip.
#[test]
fn reordering_makes_patient() {
    let mut peer = sending_with(5, false);
    peer.wait(RTT);
    peer.send("A 1 ack 1 <sack 1001:2001>");
    peer.wait(MILLISECOND);
    peer.send("A 1 ack 2001");
    peer.send("A 1 ack 5001");
    for (round, wait) in [(0u32, 2500), (1, 5000), (2, 7500)] {
        let base = 5000 + round * 4000;
        peer.write(4000).unwrap();
        peer.sent();
        peer.wait(RTT);
        peer.send(&format!("A 1 ack {} <sack {}:{}>", base + 1, base + 1001, base + 4001));
        // Within a microsecond: the smoothed round trip decides when the window is as long.
        let took = peer.wait_for_segment(SECOND).unwrap() / MICROSECOND;
        assert_eq!(took, wait, "round {round}");
        peer.expect(&[&format!("PA {}:{} ack 1", base + 1, base + 1001)]);
        peer.send(&format!("A 1 ack {}", base + 4001));
        // It was late, and here is the copy.
        peer.send(&format!("A 1 ack {} <sack {}:{}>", base + 4001, base + 1, base + 1001));
        peer.wait(RTT);
    }
    peer.finish();
}

/// After a time-out only what is overdue counts as lost; what has just been sent is left alone (RFC 8985, 6.3).
#[test]
fn time_out_spares_what_was_just_sent() {
    let mut peer = sending(1);
    peer.wait_for_segment(SECOND);
    peer.expect(&["PA 1:1001 ack 1"]);
    assert_eq!(peer.report().retransmits.probe, 1);
    peer.wait(199 * MILLISECOND);
    peer.write(1000).unwrap();
    peer.expect(&["PA 1001:2001 ack 1"]);
    peer.wait_for_segment(2 * MILLISECOND);
    peer.expect(&["PA 1:1001 ack 1"]);
    assert_eq!((peer.report().lost_segments, peer.report().in_flight), (0, 2000));
    peer.wait(RTT);
    peer.send("A 1 ack 2001");
    peer.expect(&[]);
    peer.finish();
}
