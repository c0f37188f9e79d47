//! What happens because nothing does: time-outs, probes, keepalive, delayed acknowledgements, TIME-WAIT.

use super::peer::{Peer, SYN_OPTIONS};
use super::*;
use crate::tcp::options::Options;
use crate::tcp::{Keepalive, TcpEnd};

const NO_SACK: &str = "mss 1460, ws 0";
/// With the floor that RFC 6298, 2.4 asks for.
const RFC_6298: fn() -> TcpOptions = || TcpOptions { rto_min: SECOND, ..TcpOptions::default() };

/// SYN at 1, 3, 7 ... seconds (RFC 6298, 2.1 and 5.5), for three minutes (MUST-23).
#[test]
fn syn_is_repeated_ever_more_slowly_for_three_minutes() {
    let mut peer = Peer::called(&TcpOptions::default());
    let start = peer.now;
    peer.expect_in_time("S 0", &[1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]);
    peer.wait(start + 180 * SECOND - 1 - peer.now);
    assert_eq!(peer.state(), TcpState::SynSent);
    peer.wait(1);
    assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, Some(TcpEnd::TimedOut)));
    assert_eq!((peer.stats().timeouts, peer.stats().retransmits.syn), (1, 7));
    peer.finish();
}

/// Nobody hears of a handshake that the peer does not finish; its place becomes free.
#[test]
fn answer_to_a_syn_is_repeated_and_then_forgotten() {
    let mut peer = Peer::listening(&TcpOptions::default());
    peer.send("S 0");
    peer.expect(&["SA 0 ack 1"]);
    peer.expect_in_time("SA 0 ack 1", &[1000, 2000, 4000, 8000, 16_000]);
    peer.wait(60 * SECOND);
    assert!(peer.end.is_empty() && peer.end.news.is_empty() && peer.end.accepted.is_empty());
}

/// A lost SYN makes the first time-out of data three seconds (RFC 6298, 5.7), and the first window one segment (RFC 5681, 3.1).
#[test]
fn lost_syn_makes_a_careful_beginning() {
    let mut peer = Peer::called(&TcpOptions::default());
    peer.expect_in_time("S 0", &[1000]);
    peer.send(&format!("SA 0 ack 1 <{NO_SACK}>"));
    peer.expect(&["A 1 ack 1"]);
    let report = peer.report();
    assert_eq!((report.srtt, report.congestion_window), (0, Some(1460)));
    peer.write(10).unwrap();
    peer.expect(&["PA 1:11 ack 1"]);
    peer.expect_in_time("PA 1:11 ack 1", &[3000, 6000]);
    peer.finish();
}

/// The time-out is SRTT + 4 RTTVAR within its bounds, and doubles (RFC 6298, 2 and 5).
#[test]
fn time_out_follows_what_was_measured_and_doubles() {
    let mut peer = Peer::called(&RFC_6298());
    peer.wait(400 * MILLISECOND);
    peer.send(&format!("SA 0 ack 1 <{NO_SACK}>"));
    peer.expect(&["A 1 ack 1"]);
    // R = 400: SRTT 400, RTTVAR 200, RTO 1200.
    peer.write(1).unwrap();
    peer.expect(&["PA 1:2 ack 1"]);
    peer.expect_in_time("PA 1:2 ack 1", &[1200, 2400, 4800, 9600, 19_200, 38_400]);
    assert_eq!(peer.stats().retransmits.timeout, 6);
    peer.finish();
}

/// Acknowledgements of what was sent twice measure nothing, and the back-off stays until something does (MUST-18; RFC 6298, 5).
#[test]
fn back_off_stays_until_a_round_trip_is_measured() {
    let mut peer = Peer::connected_with(&RFC_6298(), NO_SACK, 65_535);
    peer.write(1).unwrap();
    peer.expect(&["PA 1:2 ack 1"]);
    peer.expect_in_time("PA 1:2 ack 1", &[1000, 2000]);
    peer.send("A 1 ack 2");
    assert_eq!((peer.report().srtt, peer.report().backoff), (10 * MICROSECOND, 2));
    peer.write(1).unwrap();
    peer.expect(&["PA 2:3 ack 1"]);
    peer.expect_in_time("PA 2:3 ack 1", &[4000]);
    peer.send("A 1 ack 3");
    peer.write(1).unwrap();
    peer.expect(&["PA 3:4 ack 1"]);
    peer.wait(MILLISECOND);
    peer.send("A 1 ack 4");
    assert_eq!(peer.report().backoff, 0);
    peer.write(1).unwrap();
    peer.expect(&["PA 4:5 ack 1"]);
    peer.expect_in_time("PA 4:5 ack 1", &[1000]);
    peer.finish();
}

/// New data restarts the timer only when it is acknowledged (RFC 6298, 5.1 and 5.3).
#[test]
fn timer_runs_from_the_oldest_and_starts_anew_with_progress() {
    let mut peer = Peer::connected_with(&RFC_6298(), NO_SACK, 65_535);
    peer.write(1000).unwrap();
    peer.wait(600 * MILLISECOND);
    peer.write(1000).unwrap();
    peer.wait(300 * MILLISECOND);
    peer.send("A 1 ack 1001");
    peer.write(1000).unwrap();
    peer.expect(&["PA 1:1001 ack 1", "PA 1001:2001 ack 1", "PA 2001:3001 ack 1"]);
    // R' = 900: SRTT 112.5, RTTVAR 225 (RFC 6298, 2.3), since the acknowledgement.
    peer.expect_in_time("PA 1001:2001 ack 1", &[1012]);
    peer.send("A 1 ack 2001");
    peer.expect(&["PA 2001:3001 ack 1"]);
    peer.finish();
}

/// R2 is 100 seconds at least (SHLD-11), or what the user says (MUST-21), to the nanosecond.
#[test]
fn unacknowledged_data_ends_the_connection_at_r2() {
    for (user_timeout, limit) in [
        (None, 100 * SECOND),
        (Some(50 * MILLISECOND), 50 * MILLISECOND),
        (Some(3 * SECOND), 3 * SECOND),
        (Some(1000 * SECOND), 1000 * SECOND),
    ] {
        for syn_options in [NO_SACK, SYN_OPTIONS] {
            let options = TcpOptions { user_timeout, ..TcpOptions::default() };
            let mut peer = Peer::connected_with(&options, syn_options, 65_535);
            peer.write(1).unwrap();
            peer.wait(limit - 1);
            assert_eq!(peer.state(), TcpState::Established, "{user_timeout:?}");
            peer.wait(1);
            assert_eq!(peer.state(), TcpState::Closed, "{user_timeout:?}");
            assert_eq!(peer.end.tcp.end(peer.id), Some(TcpEnd::TimedOut));
            peer.finish();
        }
    }
    let options = TcpOptions { user_timeout: Some(Nanos::MAX), ..TcpOptions::default() };
    let mut peer = Peer::connected_with(&options, NO_SACK, 65_535);
    peer.write(1).unwrap();
    peer.wait(100_000 * SECOND);
    assert_eq!(peer.state(), TcpState::Established);
    peer.abort();
    peer.finish();
}

#[test]
fn user_time_out_set_later_counts_at_once() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), NO_SACK, 65_535);
    peer.write(1).unwrap();
    peer.wait(10 * SECOND);
    let options = TcpOptions { user_timeout: Some(11 * SECOND), ..TcpOptions::default() };
    peer.end.tcp.set_options(peer.now, peer.id, &options);
    peer.wait(SECOND - 1);
    assert_eq!(peer.state(), TcpState::Established);
    peer.wait(1);
    assert_eq!(peer.state(), TcpState::Closed);
    peer.finish();
}

/// Off unless wanted (MUST-25).
#[test]
fn silent_connection_is_left_alone() {
    let mut peer = Peer::connected();
    peer.wait(100 * 3600 * SECOND);
    peer.expect(&[]);
    assert_eq!(peer.state(), TcpState::Established);
    peer.finish();
}

const KEEPALIVE: Keepalive = Keepalive { idle: 10 * SECOND, interval: SECOND, probes: 3 };

/// Probes carry no data (SHLD-12), one unanswered is no death (MUST-29), and the last is followed by a reset.
#[test]
fn keepalive_asks_three_times_and_gives_up() {
    let options = TcpOptions { keepalive: Some(KEEPALIVE), ..TcpOptions::default() };
    for mut peer in
        [Peer::connected_with(&options, SYN_OPTIONS, 65_535), Peer::accepted_with(&options, SYN_OPTIONS, 65_535)]
    {
        peer.expect_in_time("A 0 ack 1 <>", &[10_000, 1000, 1000]);
        peer.expect_in_time("RA 1 ack 1", &[1000]);
        assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, Some(TcpEnd::TimedOut)));
        peer.finish();
    }
}

#[test]
fn whatever_comes_puts_keepalive_off() {
    let options = TcpOptions { keepalive: Some(KEEPALIVE), ..TcpOptions::default() };
    let mut peer = Peer::connected_with(&options, SYN_OPTIONS, 65_535);
    peer.expect_in_time("A 0 ack 1", &[10_000, 1000]);
    peer.send("A 1 ack 1");
    peer.expect_in_time("A 0 ack 1", &[10_000]);
    peer.send("PA 1:2 ack 1");
    peer.expect(&["A 1 ack 2"]);
    peer.expect_in_time("A 0 ack 2", &[10_000]);
    // The expected next segment counts as well, though it moves no timer.
    peer.wait(500 * MILLISECOND);
    peer.send("PA 2:3 ack 1");
    peer.expect(&["A 1 ack 3"]);
    peer.expect_in_time("A 0 ack 3", &[10_000]);
    // Segments that fail a check do not.
    peer.send("A n ack m+1");
    peer.send("A n-1 ack m");
    peer.expect(&["A 1 ack 3", "A 1 ack 3"]);
    peer.expect_in_time("A 0 ack 3", &[1000]);
    peer.finish();
}

/// Not while something is outstanding (MUST-26): its retransmission asks louder.
#[test]
fn keepalive_waits_for_outstanding_data() {
    let options = TcpOptions { keepalive: Some(KEEPALIVE), rto_min: 4 * SECOND, ..TcpOptions::default() };
    let mut peer = Peer::connected_with(&options, NO_SACK, 65_535);
    peer.wait(9 * SECOND);
    peer.write(1).unwrap();
    peer.expect(&["PA 1:2 ack 1"]);
    peer.expect_in_time("PA 1:2 ack 1", &[4000, 8000, 16_000]);
    peer.send("A 1 ack 2");
    peer.expect_in_time("A 1 ack 1", &[10_000]);
    peer.finish();
}

/// For each connection, at any time (MUST-24), in every state that has two ends.
#[test]
fn keepalive_is_set_and_unset_at_any_time() {
    let with = TcpOptions { keepalive: Some(KEEPALIVE), ..TcpOptions::default() };
    let mut peer = Peer::connected();
    peer.wait(100 * SECOND);
    peer.end.tcp.set_options(peer.now, peer.id, &with);
    peer.expect_in_time("A 0 ack 1", &[10_000]);
    peer.end.tcp.set_options(peer.now, peer.id, &TcpOptions::default());
    peer.wait(1000 * SECOND);
    peer.expect(&[]);
    peer.end.tcp.set_options(peer.now, peer.id, &with);
    peer.abort();
    peer.expect(&["RA 1 ack 1"]);
    peer.end.tcp.set_options(peer.now, peer.id, &with);
    peer.wait(100 * SECOND);
    peer.expect(&[]);
    peer.finish();
    // Before there are two ends, a change waits for them.
    let mut peer = Peer::called(&TcpOptions::default());
    peer.end.tcp.set_options(peer.now, peer.id, &with);
    peer.expect_in_time("S 0", &[1000, 2000, 4000, 8000]);
    peer.send("SA 0 ack 1");
    peer.expect(&["A 1 ack 1"]);
    peer.expect_in_time("A 0 ack 1", &[10_000]);
    peer.finish();
}

#[test]
fn keepalive_without_an_interval_does_not_spin() {
    let keepalive = Keepalive { idle: 0, interval: 0, probes: u16::MAX };
    let mut peer = Peer::connected();
    peer.end.tcp.set_options(peer.now, peer.id, &TcpOptions { keepalive: Some(keepalive), ..TcpOptions::default() });
    peer.wait(10 * MILLISECOND);
    assert_eq!(peer.sent().len(), 10);
    peer.abort();
    peer.finish();
}

/// At least every second segment (SHLD-19), within the delay for one alone (SHLD-18), at once for what is out of order or comes again.
#[test]
fn delayed_acknowledgements() {
    let options = TcpOptions { ack_delay: 40 * MILLISECOND, ..TcpOptions::default() };
    let mut peer = Peer::connected_with(&options, SYN_OPTIONS, 65_535);
    peer.send("PA 1:11 ack 1");
    peer.expect_in_time("A 1 ack 11", &[40]);
    peer.send("A 11:1471 ack 1");
    peer.expect(&[]);
    peer.send("A 1471:2931 ack 1");
    peer.expect(&["A 1 ack 2931"]);
    // Data takes it along.
    peer.send("PA 2931:2941 ack 1");
    peer.wait(39 * MILLISECOND);
    peer.write(1).unwrap();
    peer.expect(&["PA 1:2 ack 2941"]);
    peer.send("A 2941 ack 2");
    peer.wait(SECOND);
    peer.expect(&[]);
    // Two wait for no third, however small.
    peer.send("PA 2941:2951 ack 2");
    peer.wait(30 * MILLISECOND);
    peer.expect(&[]);
    peer.send("PA 2951:2956 ack 2");
    peer.expect(&["A 2 ack 2956"]);
    // Some of it was here before: its acknowledgement was lost.
    peer.send("PA 2951:2961 ack 2");
    peer.expect(&["A 2 ack 2961 <sack 2951:2956>"]);
    peer.send("A 2971:2981 ack 2");
    peer.expect(&["A 2 ack 2961 <sack 2971:2981>"]);
    peer.send("A 2961:2971 ack 2");
    peer.expect(&["A 2 ack 2981"]);
    peer.send("FA 2981 ack 2");
    peer.expect(&["A 2 ack 2982"]);
    peer.finish();
}

/// Less than half a second, whatever was asked for (MUST-40).
#[test]
fn acknowledgement_never_waits_half_a_second() {
    let options = TcpOptions { ack_delay: 10 * SECOND, ..TcpOptions::default() };
    let mut peer = Peer::connected_with(&options, SYN_OPTIONS, 65_535);
    peer.send("PA 1:11 ack 1");
    peer.expect_in_time("A 1 ack 11", &[499]);
    peer.finish();
}

/// Twice the maximum segment lifetime (MUST-13), anew for each FIN that comes again, and for nothing else.
#[test]
fn time_wait_lasts_and_starts_anew_with_a_fin() {
    let wait = TcpOptions::default().time_wait;
    let mut peer = Peer::accepted();
    peer.close();
    peer.send("FA 1 ack 2");
    peer.sent();
    peer.wait(wait - SECOND);
    peer.send("FA 1 ack 2");
    peer.expect(&["A 2 ack 2"]);
    peer.wait(wait - SECOND);
    // An old segment with a FIN that is not the peer's, and an old acknowledgement.
    peer.send("FA -100 ack 2");
    peer.send("A 2 ack 2");
    peer.expect(&["A 2 ack 2"]);
    peer.wait(SECOND - 1);
    assert_eq!(peer.state(), TcpState::TimeWait);
    peer.wait(1);
    assert_eq!((peer.state(), peer.end.tcp.end(peer.id)), (TcpState::Closed, None));
    peer.finish();
}

/// A released session waits for the peer's FIN as long as in TIME-WAIT, and not for ever.
#[test]
fn nobody_waits_for_ever_in_fin_wait_2() {
    for is_released_first in [false, true] {
        let mut peer = Peer::accepted();
        if is_released_first {
            peer.release();
        } else {
            peer.close();
        }
        peer.expect(&["FA 1 ack 1"]);
        peer.send("A 1 ack 2");
        peer.wait(1000 * SECOND * u64::from(!is_released_first));
        assert_eq!(peer.state(), TcpState::FinWait2);
        peer.release();
        peer.wait(59 * SECOND);
        peer.expect(&[]);
        peer.wait(SECOND);
        peer.expect(&["RA 2 ack 1"]);
        assert!(peer.end.is_empty());
    }
}

#[test]
fn time_may_come_to_its_end() {
    let mut peer = Peer::new(TcpConfig::default());
    peer.now = Nanos::MAX - SECOND;
    let remote = SocketAddrV4::new(super::peer::PEER, super::peer::PEER_PORT);
    let options = TcpOptions { keepalive: Some(KEEPALIVE), timestamps: true, ..TcpOptions::default() };
    peer.id = peer.end.connect_from(peer.now, super::peer::PORT, remote, &options).unwrap();
    peer.wait(MILLISECOND);
    peer.sent();
    peer.send("SA 0 ack 1 <mss 1460, ts 1 0, sackok>");
    peer.write(3000).unwrap();
    peer.send("A 1 ack 1 <ts 1 0, sack 1449:2897>");
    peer.wait(SECOND - MILLISECOND);
    peer.send("A 1 ack 3001 <ts 1 0>");
    peer.close();
    assert_eq!(peer.state(), TcpState::FinWait1);
}

/// Ten milliseconds there and back; the peer's clock says 5.
fn stamped(options: &str) -> Peer {
    let ours = TcpOptions { timestamps: true, peer_ack_delay: 0, ..TcpOptions::default() };
    let mut peer = Peer::called(&ours);
    peer.wait(10 * MILLISECOND);
    peer.send(&format!("SA 0 ack 1 win 65535 <mss 1012, ts 5 0{options}>"));
    peer.sent();
    peer
}

/// The clock of the next segment that the end has sent.
fn clock(peer: &mut Peer) -> u32 {
    let options = Options::parse(&peer.next().unwrap().options.unwrap());
    options.timestamps.unwrap().0
}

/// What an acknowledgement covers beside a segment that was sent again may have waited for that segment: its time says nothing.
#[test]
fn what_waited_for_a_retransmission_is_not_measured() {
    let mut peer = stamped("");
    peer.write(4000).unwrap();
    peer.sent();
    peer.wait_for_segment(SECOND);
    peer.wait(10 * MILLISECOND);
    let clock = clock(&mut peer);
    let before = peer.report();
    peer.send(&format!("A 1 ack 4001 <ts 5 {}>", clock - 1));
    let after = peer.report();
    assert_eq!((after.srtt, after.rto, after.backoff), (before.srtt, before.rto, 1));
    peer.finish();
}

/// Of a segment that was sent again, the timestamp says which time is answered (RFC 7323, 4.1); that ends the back-off.
#[test]
fn retransmission_is_measured_by_its_timestamp() {
    let mut peer = stamped("");
    peer.write(1000).unwrap();
    for backoff in 1..=3 {
        peer.sent();
        peer.wait_for_segment(10 * SECOND);
        assert_eq!(peer.report().backoff, backoff);
    }
    peer.wait(10 * MILLISECOND);
    let clock = clock(&mut peer);
    peer.send(&format!("A 1 ack 1001 <ts 5 {clock}>"));
    assert_eq!((peer.report().srtt, peer.report().backoff), (10 * MILLISECOND, 0));
    peer.finish();
}

/// A block that is told late, for the acknowledgement that told it first was lost, is no measurement: what was sent last among the new is.
#[test]
fn late_news_are_not_measured() {
    let mut peer = stamped(", sackok");
    peer.write(3000).unwrap();
    peer.wait(5 * MILLISECOND);
    peer.write(1000).unwrap();
    peer.wait(10 * MILLISECOND);
    peer.send("A 1 ack 1 <ts 5 0, sack 1001:4001>");
    assert_eq!((peer.report().srtt, peer.report().min_rtt), (10 * MILLISECOND, 10 * MILLISECOND));
    peer.finish();
}
