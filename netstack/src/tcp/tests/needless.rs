//! Segments that were sent again and had only been late: the window becomes what it was (RFC 3522, RFC 3708, RFC 4015).

use super::peer::Peer;
use super::*;
use crate::tcp::options::Options;

const RTT: Nanos = 10 * MILLISECOND;

/// Ten full segments on their way, of which the second to the fourth have overtaken the first: it is sent again, and the window is halved.
fn overtaken(timestamps: bool) -> Peer {
    let mut peer = Peer::called(&TcpOptions { timestamps, peer_ack_delay: 0, ..TcpOptions::default() });
    peer.wait(RTT);
    let (mss, ts) = if timestamps { (1012, ", ts 5 0") } else { (1000, "") };
    peer.send(&format!("SA 0 ack 1 win 65535 <mss {mss}, sackok, ws 0{ts}>"));
    peer.write(10_000).unwrap();
    peer.sent();
    assert_eq!(peer.report().congestion_window, Some(10_000));
    peer.wait(RTT);
    for end in [2001, 3001, 4001] {
        peer.send(&format!("A 1 ack 1 <sack 1001:{end}{ts}>"));
    }
    assert_eq!((window(&peer), peer.report().retransmits.recovery), ((Some(5000), 5000), 1));
    peer
}

fn window(peer: &Peer) -> (Option<u32>, u32) {
    let report = peer.report();
    (report.congestion_window, report.slow_start_threshold)
}

/// The timestamp in the answer is older than the retransmission: the first transmission has arrived.
#[test]
fn answer_to_the_first_transmission_gives_the_window_back() {
    for (earlier, expected) in [(1, (Some(10_000), u32::MAX)), (0, (Some(5000), 5000))] {
        let mut peer = overtaken(true);
        let options = Options::parse(&peer.next().unwrap().options.unwrap());
        let (clock, _) = options.timestamps.unwrap();
        peer.send(&format!("A 1 ack 4001 <ts 5 {}>", clock - earlier));
        assert_eq!(window(&peer), expected);
        peer.finish();
    }
}

/// Without timestamps, the peer tells that it has it twice: of everything that was sent again, or it may have been lost.
#[test]
fn copy_of_everything_gives_the_window_back() {
    let mut peer = overtaken(false);
    peer.send("A 1 ack 4001");
    peer.send("A 1 ack 4001 <sack 1:1001>");
    assert_eq!(window(&peer), (Some(10_000), u32::MAX));
    peer.finish();
    let mut peer = overtaken(false);
    peer.send("A 1 ack 1 <sack 5001:8001, sack 1001:4001>");
    assert_eq!(peer.report().retransmits.recovery, 2);
    peer.send("A 1 ack 8001");
    peer.send("A 1 ack 8001 <sack 1:1001>");
    assert_eq!(peer.report().slow_start_threshold, 5000);
    peer.send("A 1 ack 8001 <sack 4001:5001>");
    assert_eq!(window(&peer), (Some(10_000), u32::MAX));
    peer.finish();
}

/// What arrived twice because the network doubled it, or the probe did, says nothing about what was sent again.
#[test]
fn copy_of_something_else_does_not() {
    let mut peer = overtaken(false);
    peer.send("A 1 ack 10001");
    let reduced = window(&peer);
    peer.write(2000).unwrap();
    peer.wait(RTT);
    peer.send("A 1 ack 12001 <sack -999:1>");
    assert_eq!(window(&peer).1, reduced.1);
    peer.finish();
}
