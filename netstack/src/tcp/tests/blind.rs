//! Somebody who is not the peer, and guesses (RFC 5961); and a peer that contradicts itself.

use super::peer::Peer;
use super::script::stream;
use super::*;

/// Of all resets only the one at RCV.NXT ends the connection; those in the window are answered, the others are not.
#[test]
fn blind_resets_hit_only_at_the_next_byte() {
    let mut peer = Peer::accepted();
    let edge = peer.report().receive_window as i64;
    for at in (-200_000..200_000).step_by(4999).chain([-1, 1, edge - 1, edge, i64::from(i32::MIN)]) {
        let before = peer.stats();
        peer.send(&format!("R n{at:+}"));
        peer.wait(SECOND);
        let is_inside = (1..edge).contains(&at);
        assert_eq!(peer.sent().len(), usize::from(is_inside), "{at}");
        assert_eq!((peer.state(), peer.stats().blind_resets), (TcpState::Established, before.blind_resets + 1), "{at}");
    }
    peer.send("R n");
    peer.expect(&[]);
    assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, Some(crate::tcp::TcpEnd::Reset)));
    peer.finish();
}

#[test]
fn blind_syns_never_end_a_connection_and_are_answered_ten_times_a_second() {
    let mut peer = Peer::accepted();
    // The limit counts by the second of the clock.
    let before = peer.stats();
    for at in 0..100 {
        peer.send(&format!("S n{:+}", (at - 50) * 1000));
    }
    peer.expect(&["A 1 ack 1"; 10]);
    let stats = peer.stats();
    assert_eq!(
        (stats.challenges - before.challenges, stats.challenges_withheld - before.challenges_withheld),
        (10, 90)
    );
    peer.wait(SECOND);
    peer.send("S n+7");
    peer.expect(&["A 1 ack 1"]);
    peer.send("PA 1:9 ack 1");
    peer.expect(&["A 1 ack 9"]);
    assert_eq!((peer.read(), peer.state()), (8, TcpState::Established));
    peer.finish();
}

/// A segment with text is only taken with an acknowledgement from SND.UNA - MAX.SND.WND to SND.NXT (RFC 5961, 5.2).
#[test]
fn blind_data_needs_an_acknowledgement_that_can_be() {
    let mut peer = Peer::accepted_with(&TcpOptions::default(), "mss 1460, ws 0", 1000);
    peer.write(100).unwrap();
    peer.expect(&["PA 1:101 ack 1"]);
    for (ack, is_taken) in
        [("m+1", false), ("u-1001", false), ("m+1000000", false), ("u-1000", true), ("u", true), ("m", true)]
    {
        peer.wait(SECOND);
        peer.sent();
        peer.send(&format!("PA n:n+1 ack {ack} win 1000"));
        assert_eq!(peer.read(), usize::from(is_taken), "{ack}");
        peer.expect(&["A m ack n"]);
    }
    assert_eq!(peer.stats().bad_acks, 3);
    peer.finish();
}

/// Data of the peer's, in which some segments say something other than the others: which bytes of it are read.
fn read_with(segments: &[&str]) -> String {
    let mut peer = Peer::accepted();
    for segment in segments {
        peer.send(segment);
    }
    let bytes = peer.end.read(peer.id);
    let read = bytes.iter().enumerate().map(|(at, byte)| match byte ^ stream(at as u32 + 1) {
        0 => 't',
        0xFF => 'f',
        _ => '?',
    });
    let read = read.collect();
    peer.finish();
    read
}

/// What was there first stays; a piece that a longer segment covers wholly gives way to it, as it does with other stacks.
#[test]
fn contradictory_retransmissions_change_nothing_that_was_taken() {
    for (segments, read) in [
        (&["A 1:6 ack 1", "A! 1:6 ack 1"][..], "ttttt"),
        (&["A 1:6 ack 1", "A! 3:9 ack 1"], "tttttfff"),
        (&["A! 1:6 ack 1", "A 1:9 ack 1"], "fffffttt"),
        (&["A 6:11 ack 1", "A! 1:8 ack 1"], "fffffttttt"),
        (&["A 6:11 ack 1", "A! 8:14 ack 1", "A 1:6 ack 1"], "ttttttttttfff"),
        (&["A! 4:6 ack 1", "A 1:9 ack 1"], "tttttttt"),
        (&["A! 4:6 ack 1", "A! 8:10 ack 1", "A 1:9 ack 1"], "tttttttff"),
        (&["A 3:5 ack 1", "A 7:9 ack 1", "A! 2:10 ack 1", "A 1:2 ack 1"], "tffffffff"),
        (&["A 2:3 ack 1", "A! 2:3 ack 1", "A! 1:3 ack 1"], "ff"),
        (&["A 3:6 ack 1", "A! 1:4 ack 1", "A! 5:8 ack 1"], "fftttff"),
    ] {
        assert_eq!(read_with(segments), read, "{segments:?}");
    }
}

/// Every way to cut a small stream into overlapping pieces and shuffle them gives the same bytes.
#[test]
fn overlapping_pieces_in_any_order_are_one_stream() {
    let pieces = ["A 1:4 ack 1", "A 3:7 ack 1", "A 2:3 ack 1", "A 6:9 ack 1", "PA 4:6 ack 1"];
    let mut order = [0, 1, 2, 3, 4];
    // All permutations, by Heap's algorithm.
    let (mut counters, mut at) = ([0; 5], 0);
    loop {
        let segments: Vec<_> = order.iter().map(|piece| pieces[*piece]).collect();
        assert_eq!(read_with(&segments), "tttttttt", "{segments:?}");
        while at < 5 && counters[at] >= at {
            counters[at] = 0;
            at += 1;
        }
        if at == 5 {
            return;
        }
        order.swap(at, if at % 2 == 0 { 0 } else { counters[at] });
        counters[at] += 1;
        at = 0;
    }
}

/// Single bytes behind gaps do not take the room of what comes in order, on this session or any other.
#[test]
fn pieces_behind_gaps_leave_room_for_data_in_order() {
    let mut peer = Peer::accepted();
    for at in 0..400 {
        peer.send(&format!("A {}:{} ack 1", 100 + 2 * at, 101 + 2 * at));
    }
    let kept = peer.end.tcp.shared.kept.capacity() - peer.end.tcp.shared.kept.available();
    assert_eq!((kept, peer.stats().no_room), (192, 208));
    for at in 1..60 {
        peer.send(&format!("A {at}:{} ack 1", at + 1));
    }
    assert_eq!(peer.read(), 59);
    peer.finish();
}

/// A FIN is the end: neither data behind it nor a FIN before data that is there already can be right.
#[test]
fn a_fin_that_contradicts_the_data_is_none() {
    let mut peer = Peer::accepted();
    peer.send("A 11:21 ack 1");
    peer.send("FA 6 ack 1");
    peer.send("A 1:6 ack 1");
    assert_eq!((peer.state(), peer.read()), (TcpState::Established, 5));
    peer.send("A 6:11 ack 1");
    assert_eq!((peer.state(), peer.read()), (TcpState::Established, 15));
    // The first FIN counts, and data behind it does not.
    peer.send("FA 26 ack 1");
    peer.send("FA 31 ack 1");
    peer.send("A 24:40 ack 1");
    peer.send("A 21:24 ack 1");
    assert_eq!((peer.state(), peer.read()), (TcpState::CloseWait, 5));
    peer.sent();
    peer.send("A 21:24 ack 1");
    peer.expect(&["A 1 ack 27"]);
    peer.finish();
}
