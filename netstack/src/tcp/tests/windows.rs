//! Both ends' windows: scaled, closed, shrinking, silly (RFC 9293, 3.8.6; RFC 7323, 2).

use super::peer::{Peer, SYN_OPTIONS};
use super::*;
use crate::tcp::{TcpEnd, TcpError};

const NO_SACK: &str = "mss 1460, ws 0";

fn with_window(receive_window: u32) -> TcpOptions {
    TcpOptions { receive_window, ..TcpOptions::default() }
}

/// The window of a SYN is as it stands; those after it are scaled, by 14 at most (RFC 7323, 2.2 and 2.3).
#[test]
fn peers_window_is_scaled_after_its_syn() {
    for (shift, scaled) in [(0, 1000), (7, 128_000), (14, 16_384_000), (15, 16_384_000), (255, 16_384_000)] {
        let mut peer = Peer::connected_with(&TcpOptions::default(), &format!("mss 1460, ws {shift}"), 1000);
        assert_eq!(peer.report().send_window, 1000, "{shift}");
        peer.send("A 1 ack 1 win 1000");
        assert_eq!(peer.report().send_window, scaled, "{shift}");
        peer.finish();
        let peer = Peer::accepted_with(&TcpOptions::default(), &format!("mss 1460, ws {shift}"), 1000);
        assert_eq!(peer.report().send_window, scaled, "{shift}");
        peer.finish();
    }
}

/// Ours is offered with the smallest shift that tells it, and told in full once both scale.
#[test]
fn our_window_is_offered_with_the_shift_it_needs() {
    for (window, shift, told) in [
        (1460, "ws 0", "win 1460"),
        (65_535, "ws 0", "win 65535"),
        (65_536, "ws 1", "win 65535"),
        (1 << 20, "ws 5", "win 65535"),
        (1 << 30, "ws 14", "win 65535"),
        (u32::MAX, "ws 14", "win 65535"),
    ] {
        let mut peer = Peer::new(TcpConfig { kept_segments: 1 << 16, ..TcpConfig::default() });
        let remote = SocketAddrV4::new(super::peer::PEER, super::peer::PEER_PORT);
        peer.id = peer.end.connect_from(peer.now, super::peer::PORT, remote, &with_window(window)).unwrap();
        peer.wait(MICROSECOND);
        peer.expect(&[&format!("S 0 {told} <mss 1460, sackok, {shift}>")]);
        peer.send("SA 0 ack 1 <mss 1460, ws 0>");
        let capacity = window.min(1 << 30);
        // As far as the buffers go that hold it: each is good for a segment.
        assert!(peer.report().receive_window <= capacity.max(65_535));
        peer.finish();
    }
}

/// A peer that does not scale gets no scaled windows, and 64 KiB at most.
#[test]
fn peer_without_scaling_is_not_scaled() {
    let mut peer = Peer::connected_with(&with_window(1 << 20), "mss 1460", 65_535);
    peer.send("PA 1:11 ack 1 win 65535");
    peer.expect(&["A 1 ack 11 win 65525"]);
    assert_eq!((peer.report().send_window, peer.read()), (65_535, 10));
    peer.finish();
    let mut peer = Peer::listening(&with_window(1 << 20));
    peer.send("S 0 <mss 1460>");
    peer.expect(&["SA 0 ack 1 win 65535 <mss 1460>"]);
    peer.send("A 1 ack 1 win 9");
    peer.id = peer.end.accepted[0];
    assert_eq!(peer.report().send_window, 9);
    peer.finish();
}

/// The largest window there is: a gibibyte ahead is in it, one more is not.
#[test]
fn window_of_a_gibibyte_overflows_nothing() {
    let mut peer = Peer::new(TcpConfig { kept_segments: 65_536, ..TcpConfig::default() });
    peer.end.tcp.listen(super::peer::PORT, &TcpOptions { mss: 1460, ..with_window(1 << 30) }).unwrap();
    peer.send("S 0 win 65535 <mss 1460, sackok, ws 14>");
    peer.send("A 1 ack 1 win 65535");
    peer.id = peer.end.accepted[0];
    assert_eq!(peer.report().send_window, 65_535 << 14);
    // The handshake told 64 KiB; the first acknowledgement tells the rest that buffers are there for: 65,535 times 1,460.
    peer.send("PA 1:2 ack 1 win 65535");
    peer.sent();
    let window = peer.report().receive_window;
    assert!(window > 90_000_000, "{window}");
    peer.send(&format!("R n+{}", window - 1));
    assert_eq!(peer.stats().challenges, 1);
    peer.send(&format!("R n+{window}"));
    assert_eq!((peer.stats().challenges, peer.stats().out_of_window), (1, 1));
    peer.send(&format!("A n ack u-{} win 65535", 65_535 << 14));
    peer.send(&format!("A n ack u-{} win 65535", (65_535 << 14) + 1));
    assert_eq!(peer.stats().bad_acks, 1);
    peer.finish();
}

/// First after the time-out, then ever more slowly (MUST-36, SHLD-29, SHLD-30); the answer that opens it reaches the user.
#[test]
fn closed_window_is_probed_until_it_opens() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), SYN_OPTIONS, 100);
    assert_eq!(peer.write(100), Ok(100));
    peer.expect(&["PA 1:101 ack 1"]);
    assert_eq!(peer.write(1), Err(TcpError::NoRoom { room: 0 }));
    peer.wait(20 * MICROSECOND);
    // The expected acknowledgement takes the window along; nothing else comes.
    peer.send("A 1 ack 101 win 0");
    peer.expect_in_time("A 100 ack 1", &[200, 400, 800]);
    peer.send("A 1 ack 101 win 0");
    peer.expect_in_time("A 100 ack 1", &[1600]);
    peer.end.news.clear();
    peer.send("A 1 ack 101 win 100");
    assert_eq!(peer.end.news, [peer.id]);
    assert_eq!(peer.write(100), Ok(100));
    peer.expect(&["PA 101:201 ack 1"]);
    peer.finish();
}

/// Nobody who does not want to send has to know.
#[test]
fn closed_window_is_of_no_interest_to_a_user_who_sends_nothing() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), SYN_OPTIONS, 100);
    peer.send("A 1 ack 1 win 0");
    peer.wait(1000 * SECOND);
    peer.expect(&[]);
    peer.finish();
}

/// For as long as the peer answers (MUST-37).
#[test]
fn window_may_stay_closed_for_hours() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), SYN_OPTIONS, 0);
    assert_eq!(peer.write(1), Err(TcpError::NoRoom { room: 0 }));
    let mut probes = 0;
    while peer.now < 10_000 * SECOND {
        let took = peer.wait_for_segment(100 * SECOND).expect("a probe");
        assert!(took <= TcpOptions::default().rto_max);
        peer.expect(&["A 0 ack 1"]);
        peer.send("A 1 ack 1 win 0");
        probes += 1;
    }
    assert!(probes > 160 && peer.state() == TcpState::Established);
    peer.finish();
}

/// And not longer: a peer that does not answer its probes is gone, 100 seconds after its last word or after the first of ours.
#[test]
fn closed_window_of_a_silent_peer_ends_the_connection() {
    for silence in [0, 3600 * SECOND] {
        let mut peer = Peer::connected_with(&TcpOptions::default(), SYN_OPTIONS, 0);
        peer.wait(silence);
        assert_eq!(peer.write(1), Err(TcpError::NoRoom { room: 0 }));
        peer.wait(100 * SECOND - 1);
        assert_eq!(peer.state(), TcpState::Established);
        assert!(peer.sent().len() >= 7);
        peer.wait(1);
        assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, Some(TcpEnd::TimedOut)));
        peer.finish();
    }
}

/// A FIN needs no window, and is repeated like data; a peer whose window is closed may take its time to acknowledge it.
#[test]
fn fin_goes_out_with_the_window_closed() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), NO_SACK, 0);
    assert_eq!(peer.write(1), Err(TcpError::NoRoom { room: 0 }));
    peer.close();
    peer.expect(&["FA 1 ack 1"]);
    peer.expect_in_time("FA 1 ack 1", &[200, 400]);
    for _ in 0..20 {
        peer.wait(60 * SECOND);
        peer.sent();
        peer.send("A 1 ack 1 win 0");
    }
    assert_eq!(peer.state(), TcpState::FinWait1);
    peer.send("A 1 ack 2 win 0");
    assert_eq!(peer.state(), TcpState::FinWait2);
    peer.send("FA 1 ack 2 win 0");
    peer.sent();
    peer.finish();
}

/// New data waits until what the shrunken window leaves is positive again (SHLD-15); old data is repeated inside it (SHLD-16) and the first
/// segment in any case (MUST-35); the connection stays (SHLD-17); acknowledgements stay acceptable (MUST-34).
#[test]
fn peer_may_shrink_its_window() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), NO_SACK, 5000);
    assert_eq!(peer.write(4380), Ok(4380));
    peer.expect(&["PA 1:1461 ack 1", "PA 1461:2921 ack 1", "PA 2921:4381 ack 1"]);
    peer.send("A 1 ack 1461 win 2000");
    assert_eq!(peer.write(1), Err(TcpError::NoRoom { room: 0 }));
    peer.send("PA 1:2 ack 1461 win 2000");
    // 1461 + 2000, not SND.NXT.
    peer.expect(&["A 3461 ack 2"]);
    for _ in 0..5 {
        peer.wait_for_segment(100 * SECOND);
        peer.expect(&["PA 1461:2921 ack 2"]);
        peer.send("A 2 ack 1461 win 2000");
    }
    peer.send("A 2 ack 1461 win 100");
    for _ in 0..20 {
        peer.wait_for_segment(100 * SECOND);
        peer.expect(&["PA 1461:2921 ack 2"]);
        peer.send("A 2 ack 1461 win 100");
    }
    assert_eq!(peer.state(), TcpState::Established);
    peer.send("A 2 ack 2921 win 5000");
    peer.expect(&["PA 2921:4381 ack 2"]);
    peer.send("A 2 ack 4381 win 5000");
    assert_eq!(peer.write(1), Ok(1));
    peer.finish();
}

/// Our window closes as it is promised, with every byte taken; then nothing but the segment at RCV.NXT counts, and of that no text.
#[test]
fn our_window_closes_and_still_hears_acks_fins_and_resets() {
    let mut peer = Peer::accepted_with(&TcpOptions { mss: 1000, ..with_window(3000) }, SYN_OPTIONS, 65_535);
    peer.send("A 1:1001 ack 1");
    peer.send("A 1001:2001 ack 1");
    peer.send("A 2001:3001 ack 1");
    peer.expect(&["A 1 ack 1001 win 2000", "A 1 ack 2001 win 1000", "A 1 ack 3001 win 0"]);
    peer.write(10).unwrap();
    peer.expect(&["PA 1:11 ack 3001 win 0"]);
    // Text is not taken; the acknowledgement that came with it is (3.10.7.4, first).
    peer.send("PA 3001:3002 ack 11");
    peer.expect(&["A 11 ack 3001 win 0"]);
    assert_eq!((peer.report().unacknowledged, peer.report().unread), (0, 3000));
    // Probes: with an old number, and with a byte too many.
    peer.send("A 3000 ack 11");
    peer.send("A 3002 ack 11");
    peer.send("R 3002");
    peer.expect(&["A 11 ack 3001 win 0", "A 11 ack 3001 win 0"]);
    // A FIN takes no buffer.
    peer.send("FA 3001 ack 11");
    peer.expect(&["A 11 ack 3002 win 0"]);
    assert_eq!((peer.state(), peer.read()), (TcpState::CloseWait, 3000));
    peer.send("R 3002");
    assert_eq!(peer.state(), TcpState::Closed);
    peer.finish();
}

/// MUST-66.
#[test]
fn reset_counts_with_our_window_closed() {
    let mut peer = Peer::accepted_with(&TcpOptions { mss: 1000, ..with_window(1000) }, SYN_OPTIONS, 65_535);
    peer.send("A 1:1001 ack 1");
    peer.send("R 1000");
    peer.send("R 1002");
    assert_eq!(peer.state(), TcpState::Established);
    peer.send("R 1001");
    assert_eq!(peer.state(), TcpState::Closed);
    peer.finish();
}

/// The right edge moves by a segment or half of the buffer at least, however little is read (MUST-39).
#[test]
fn our_window_opens_in_no_silly_steps() {
    let mut peer = Peer::accepted_with(&TcpOptions { mss: 1000, ..with_window(8000) }, SYN_OPTIONS, 65_535);
    for at in 0..8 {
        peer.send(&format!("A {}:{} ack 1", 1 + at * 1000, 1001 + at * 1000));
    }
    assert_eq!(peer.sent().last().unwrap(), "A 1 ack 8001 win 0");
    for read in 1..=2000 {
        peer.end.tcp.consume(peer.id, 1);
        peer.wait(MICROSECOND);
        let expected: &[&str] = if read == 2000 { &["A 1 ack 8001 win 2000"] } else { &[] };
        peer.expect(expected);
    }
    // Somebody asks in between: not before it is worth it.
    peer.end.tcp.consume(peer.id, 999);
    peer.send("A 8000 ack 1");
    peer.expect(&["A 1 ack 8001 win 2000"]);
    peer.end.tcp.consume(peer.id, 1);
    peer.send("A 8000 ack 1");
    peer.expect(&["A 1 ack 8001 win 3000"]);
    peer.finish();
}

/// Of more than fits, nothing is sent but full segments, or half of the largest window there was (MUST-38); what fits as a whole is sent.
#[test]
fn we_fill_no_silly_windows() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), "mss 1000, sackok, ws 0", 4000);
    assert_eq!(peer.write(3900), Ok(3900));
    peer.sent();
    // 100 bytes of room.
    assert_eq!(peer.write(200), Err(TcpError::NoRoom { room: 100 }));
    assert_eq!(peer.write(50), Ok(50));
    peer.send("A 1 ack 3951 win 999");
    assert_eq!(peer.write(1500), Err(TcpError::NoRoom { room: 999 }));
    peer.send("A 1 ack 3951 win 1000");
    assert_eq!(peer.write(1500), Ok(1000));
    peer.send("A 1 ack 4951 win 4000");
    assert_eq!(peer.write(3600), Ok(3600));
    peer.finish();
    // Half of a small window is not silly.
    let mut peer = Peer::connected_with(&TcpOptions::default(), "mss 1000, sackok, ws 0", 600);
    assert_eq!(peer.write(900), Ok(600));
    peer.send("A 1 ack 601 win 300");
    assert_eq!(peer.write(900), Ok(300));
    peer.send("A 1 ack 901 win 299");
    assert_eq!(peer.write(900), Err(TcpError::NoRoom { room: 299 }));
    peer.finish();
}

/// A window that stays small is used as it is (3.8.6.2.1, rule 4), once for each time that nothing better came.
#[test]
fn small_window_is_used_when_no_better_comes() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), "mss 1000, sackok, ws 0", 4000);
    assert_eq!(peer.write(4000), Ok(4000));
    peer.send("A 1 ack 4001 win 300");
    peer.sent();
    assert_eq!(peer.write(1000), Err(TcpError::NoRoom { room: 300 }));
    peer.end.news.clear();
    peer.expect_in_time("A 4000 ack 1", &[200]);
    assert_eq!(peer.end.news, [peer.id]);
    assert_eq!(peer.write(1000), Ok(300));
    peer.expect(&["PA 4001:4301 ack 1"]);
    peer.send("A 1 ack 4301 win 300");
    assert_eq!(peer.write(700), Err(TcpError::NoRoom { room: 300 }));
    peer.send("A 1 ack 4301 win 1000");
    assert_eq!(peer.write(700), Ok(700));
    peer.finish();
}

/// The newest segment decides: by its number, then by its acknowledgement (SND.WL1, SND.WL2).
#[test]
fn old_segments_bring_no_old_windows_back() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), SYN_OPTIONS, 1000);
    peer.write(10).unwrap();
    peer.send("A 1 ack 11 win 2000");
    peer.send("A 1 ack 1 win 500");
    assert_eq!(peer.report().send_window, 2000);
    // The segment that fills a gap is older than what showed the gap.
    peer.send("A 21 ack 11 win 3000");
    peer.send("A 1:11 ack 11 win 700");
    assert_eq!(peer.report().send_window, 3000);
    peer.send("A 11:21 ack 11 win 800");
    assert_eq!(peer.report().send_window, 3000);
    peer.send("A 21:31 ack 11 win 900");
    assert_eq!(peer.report().send_window, 900);
    peer.send("A 31 ack 11 win 950");
    assert_eq!((peer.report().send_window, peer.read()), (950, 30));
    peer.finish();
}
