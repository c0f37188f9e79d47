//! Options of both ends, sensible and not (RFC 9293, 3.1 and 3.7.1; RFC 7323), and initial numbers (RFC 6528).

use proptest::prelude::*;

use super::peer::{PEER, PEER_PORT, PORT, Peer, SYN_OPTIONS};
use super::*;
use crate::tcp::options::Options;
use crate::tcp::table::Key;

const TIMESTAMPS: fn() -> TcpOptions = || TcpOptions { timestamps: true, ..TcpOptions::default() };

/// The option's value (MUST-14), 536 without it (MUST-15), ours where it is smaller (MUST-16), less what timestamps take of each segment.
#[test]
fn segments_are_as_large_as_both_ends_and_the_options_allow() {
    for (ours, theirs, timestamps, mss) in [
        (1460, "mss 1460", false, 1460),
        (1460, "mss 1400", false, 1400),
        (1000, "mss 1460", false, 1000),
        (1460, "", false, 536),
        (1460, "", true, 524),
        (1460, "mss 9000", false, 1460),
        (9000, "mss 9000", false, 1460),
        (1460, "mss 1460", true, 1448),
        (1460, "mss 0", false, 64),
        (1460, "mss 1", true, 52),
        (0, "mss 1460", false, 64),
    ] {
        let options = TcpOptions { mss: ours, timestamps, ..TcpOptions::default() };
        let syn_options = if timestamps { format!("ts 1 0 {theirs}") } else { theirs.into() };
        for active in [true, false] {
            let mut peer = if active { Peer::called(&options) } else { Peer::listening(&options) };
            peer.send(&format!("{} 0 ack 1 <{syn_options}>", if active { "SA" } else { "S" }));
            let stamps = if timestamps { " <ts 1 0>" } else { "" };
            peer.send(&format!("A 1 ack 1{stamps}"));
            if !active {
                peer.id = peer.end.accepted[0];
            }
            assert_eq!(peer.report().mss, mss, "{ours} {theirs} {timestamps}");
            peer.sent();
            peer.write(10_000).unwrap();
            assert_eq!(peer.next().unwrap().len, u32::from(mss));
            peer.abort();
            peer.finish();
        }
    }
}

/// In every SYN of ours (MAY-3) and in nothing else (MUST-65).
#[test]
fn mss_is_told_in_syns_only() {
    let options = |peer: &mut Peer| Options::parse(&peer.next().unwrap().options.unwrap());
    let ours = TcpOptions { mss: 1200, ..TcpOptions::default() };
    let mut peer = Peer::listening(&ours);
    peer.send("S 0 <mss 1460>");
    assert_eq!(options(&mut peer).mss, Some(1200));
    peer.send("PA 1:2 ack 1");
    assert_eq!(options(&mut peer).mss, None);
    let mut peer = Peer::new(TcpConfig::default());
    peer.end.connect_from(peer.now, PORT, SocketAddrV4::new(PEER, PEER_PORT), &ours).unwrap();
    peer.wait(0);
    assert_eq!(options(&mut peer).mss, Some(1200));
}

/// Ours are offered; the answer takes up only what was offered, and nothing is used that was not agreed on (RFC 7323, 2.2 and 3.2).
#[test]
fn answer_takes_up_what_was_offered_and_wanted() {
    for (ours, theirs, answer) in [
        (TcpOptions::default(), "mss 1460", "mss 1460"),
        (TcpOptions::default(), "mss 1460, sackok", "mss 1460, sackok"),
        (TcpOptions::default(), "mss 1460, ws 3", "mss 1460, ws 1"),
        (TcpOptions::default(), "mss 1460, sackok, ws 3, ts 9 0", "mss 1460, sackok, ws 1"),
        (TIMESTAMPS(), "mss 1460, sackok, ws 3", "mss 1460, sackok, ws 1"),
    ] {
        let mut peer = Peer::listening(&ours);
        peer.send(&format!("S 0 <{theirs}>"));
        peer.expect(&[&format!("SA 0 ack 1 <{answer}>")]);
    }
    let mut peer = Peer::listening(&TIMESTAMPS());
    peer.send("S 0 <mss 1460, ts 77 0>");
    let answer = Options::parse(&peer.next().unwrap().options.unwrap());
    assert_eq!(answer.timestamps.map(|(_, echo)| echo), Some(77));
    // Offered from here, not taken up.
    let mut peer = Peer::connected_with(&TIMESTAMPS(), SYN_OPTIONS, 65_535);
    peer.send("PA 1:2 ack 1");
    peer.expect(&["A 1 ack 2 <>"]);
    peer.finish();
}

/// A connection with timestamps; the peer's clock says `clock`.
fn stamped(clock: u32) -> Peer {
    let mut peer = Peer::called(&TIMESTAMPS());
    peer.send(&format!("SA 0 ack 1 <mss 1460, sackok, ts {clock} 0>"));
    peer.sent();
    peer
}

fn echo(peer: &mut Peer) -> Option<u32> {
    let options = Options::parse(&peer.next()?.options?);
    options.timestamps.map(|(_, echo)| echo)
}

/// Sends each segment with its clock; the answer echoes the number behind it.
fn echoes(peer: &mut Peer, steps: &[(&str, u32, u32)]) {
    for (text, clock, told) in steps {
        peer.send(&format!("{text} <ts {clock} 0>"));
        assert_eq!(echo(peer), Some(*told), "{text} at {clock}");
    }
}

/// What is echoed is from the segment that the last acknowledgement was for (RFC 7323, 4.3), and from none that failed a check.
#[test]
fn echo_is_of_the_segment_at_the_left_edge() {
    let mut peer = stamped(100);
    // The second is behind a gap: later, but not echoed.
    echoes(&mut peer, &[("PA 1:2 ack 1", 110, 110), ("PA 12:22 ack 1", 130, 110), ("PA 2:12 ack 1", 120, 120)]);
    // Outside the window, or with an acknowledgement that cannot be: somebody else's.
    for text in [
        "A n-1 ack 1",
        "PA n-5:n-1 ack 1",
        "PA n-5:n ack m+1",
        "A n+70000 ack 1",
        "PA n:n+1 ack m+1",
        "PA n:n+1 ack u-70000",
        "R n-1",
        "S n",
    ] {
        peer.send(&format!("{text} <ts 2000000000 0>"));
    }
    peer.sent();
    peer.send("PA n:n+1 ack 1 <ts 121 0>");
    assert_eq!((echo(&mut peer), peer.read()), (Some(121), 22));
    peer.finish();
}

/// When an acknowledgement is lost, the peer sends its last segment again: what it measures is the time since then, not since the first transmission.
#[test]
fn echo_is_of_the_last_transmission() {
    let mut peer = stamped(100);
    echoes(&mut peer, &[("PA 1:2 ack 1", 110, 110), ("PA 1:2 ack 1", 900, 900)]);
    echoes(&mut peer, &[("FPA 1:2 ack 1", 1000, 1000), ("FPA 1:2 ack 1", 2000, 2000)]);
    assert_eq!(peer.read(), 1);
    peer.finish();
}

/// The same for a SYN whose answer was lost; one that was overtaken sets nothing back.
#[test]
fn echo_is_of_the_last_syn() {
    let mut peer = Peer::listening(&TIMESTAMPS());
    for (clock, told) in [(100, 100), (1100, 1100), (3100, 3100), (1100, 3100)] {
        peer.send(&format!("S 0 <mss 1460, ts {clock} 0>"));
        assert_eq!(echo(&mut peer), Some(told), "{clock}");
    }
}

/// PAWS (RFC 7323, 5.3): older than the last is an old duplicate, whatever its number; but not a reset.
#[test]
fn old_timestamp_is_an_old_duplicate() {
    let mut peer = stamped(100);
    peer.send("PA 1:2 ack 1 <ts 100 0>");
    peer.sent();
    peer.send("PA 2:3 ack 1 <ts 99 0>");
    peer.expect(&["A 1 ack 2"]);
    assert_eq!((peer.stats().old_timestamps, peer.read()), (1, 1));
    // Without one, nothing is said (RFC 7323, 3.2).
    peer.send("PA 2:3 ack 1");
    peer.expect(&[]);
    assert_eq!(peer.stats().old_timestamps, 2);
    peer.send("R 2 <ts 1 0>");
    assert_eq!(peer.state(), TcpState::Closed);
    peer.finish();
    let mut peer = stamped(100);
    peer.send("R 1");
    assert_eq!(peer.state(), TcpState::Closed);
    peer.finish();
}

/// Timestamps wrap (RFC 7323, 5.4), and say nothing after 24 days (5.5).
#[test]
fn timestamps_wrap_and_grow_old() {
    let mut peer = stamped(u32::MAX - 5);
    peer.send("PA 1:2 ack 1 <ts 4294967295 0>");
    peer.send("PA 2:3 ack 1 <ts 3 0>");
    peer.send("PA 3:4 ack 1 <ts 4294967290 0>");
    assert_eq!((peer.read(), peer.stats().old_timestamps), (2, 1));
    peer.sent();
    peer.wait(25 * 24 * 3600 * SECOND);
    peer.send("PA 3:4 ack 1 <ts 4294967290 0>");
    assert_eq!((peer.read(), echo(&mut peer)), (1, Some(4_294_967_290)));
    peer.finish();
}

/// Our clock counts milliseconds from a number of the connection's own, and wraps.
#[test]
fn our_timestamps_count_milliseconds() {
    let mut peer = stamped(1);
    let mut value = || {
        peer.send("A 0 ack 1 <ts 1 0>");
        let options = Options::parse(&peer.next().unwrap().options.unwrap());
        peer.wait(1_000_000 * MILLISECOND);
        options.timestamps.unwrap().0
    };
    let first = value();
    for step in 1u32..=10_000 {
        assert_eq!(value().wrapping_sub(first), step.wrapping_mul(1_000_000));
    }
    peer.finish();
}

/// In any segment (MUST-5), known or not (MUST-6), with lengths that are wrong (MUST-7), not aligned (MUST-64).
#[test]
fn options_that_make_no_sense_are_passed_over() {
    let mut peer = Peer::accepted();
    for (at, (options, is_bad)) in [
        ("raw 01010101", false),
        ("raw 00ffffff", false),
        ("raw fe040000", false),
        ("raw 0102040f0100010a", false),
        ("mss 1", false),
        ("ws 9", false),
        ("sackok", false),
        ("ts 5 5", false),
        ("raw 02000000", true),
        ("raw 02010000", true),
        ("raw fd000000", true),
        ("raw fdff0000", true),
        ("raw 01010102", true),
        ("raw 05060000", true),
        ("raw 080a0000", true),
        ("raw 03040000", true),
    ]
    .into_iter()
    .enumerate()
    {
        let before = peer.stats();
        peer.send(&format!("PA {}:{} ack 1 <{options}>", at + 1, at + 2));
        peer.expect(&[&format!("A 1 ack {} <>", at + 2)]);
        assert_eq!(peer.stats().bad_options - before.bad_options, u64::from(is_bad), "{options}");
    }
    let report = peer.report();
    assert_eq!((report.mss, report.send_window, peer.read()), (1460, 65_535, 16));
    peer.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever stands where options should, in a SYN and behind it: the connection opens, and carries.
    #[test]
    fn garbage_in_options_breaks_nothing(
        words in proptest::collection::vec(any::<u32>(), 0..=10),
        later in proptest::collection::vec(any::<u32>(), 0..=10),
    ) {
        let text = |words: &[u32]| words.iter().map(|word| format!("raw {word:08x} ")).collect::<String>();
        let mut peer = Peer::listening(&TcpOptions::default());
        peer.send(&format!("S 0 <{}>", text(&words)));
        peer.send("A 1 ack 1");
        prop_assert_eq!(peer.end.accepted.len(), 1);
        peer.id = peer.end.accepted[0];
        peer.sent();
        for at in 1..5 {
            peer.send(&format!("PA {at}:{} ack 1 <{}>", at + 1, text(&later)));
        }
        prop_assert_eq!(peer.read(), 4);
        peer.write(100).unwrap();
        peer.send(&format!("A n ack m <{}>", text(&later)));
        prop_assert_eq!(peer.report().unacknowledged, 0);
        peer.finish();
    }
}

/// A clock of four microseconds (MUST-8), and something that nobody outside can know of the connection's ends (MUST-9, SHLD-1).
#[test]
fn initial_numbers_differ_by_connection_and_advance_with_time() {
    let tcp = |secret| Tcp::new(TcpConfig::default(), mac(PEER), PEER, secret);
    let key = |last: u8, port, ours| Key::new(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), port), ours);
    let lane = tcp(1);
    let first = lane.initial_sequence(0, key(1, 1000, 80));
    for time in [4000, 8000, 1_000_000_000, 17_179_869_184_000] {
        let number = lane.initial_sequence(time, key(1, 1000, 80));
        assert_eq!(number.0.wrapping_sub(first.0), (time / 4000) as u32);
    }
    let others = [
        lane.initial_sequence(0, key(2, 1000, 80)),
        lane.initial_sequence(0, key(1, 1001, 80)),
        lane.initial_sequence(0, key(1, 1000, 81)),
        tcp(2).initial_sequence(0, key(1, 1000, 80)),
    ];
    // Any two of them would be near each other once in 2^16 times.
    assert!(others.iter().all(|other| (*other - first).unsigned_abs() > 1 << 15), "{first:?} {others:?}");
}
