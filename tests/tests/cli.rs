//! The program as its users run it: exit statuses, what goes to which stream, captures good and bad.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use barewire::feed::itch::{self, Message, Timestamp};
use barewire::feed::moldudp64::Packet;
use barewire::fields::Alpha;
use barewire::order::ouch::{self, Appendage, Inbound};
use barewire::order::soupbin::{self, kind};
use barewire_models::pcap::Writer;
use barewire_netstack::multicast_mac;
use barewire_tests::program::{self, Ran, run};
use serde_json::Value;
use tempfile::TempDir;

/// Refused: status 2, nothing on standard output, one line on standard error that contains `told`.
#[track_caller]
fn assert_refused(ran: &Ran, told: &[&str]) {
    assert_eq!((ran.status, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    assert_one_line(&ran.err, told);
}

#[track_caller]
fn assert_one_line(err: &str, told: &[&str]) {
    assert!(err.starts_with("barewire: ") && err.lines().count() == 1, "not one line: {err:?}");
    assert!(told.iter().all(|told| err.contains(told)), "{err:?} lacks one of {told:?}");
}

/// The lines of standard output as JSON, the last one apart.
#[track_caller]
fn json(out: &str) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line:?}"))).collect();
    assert!(lines.iter().all(Value::is_object));
    let summary = lines.pop().expect("a summary");
    (lines, summary)
}

#[test]
fn values_that_are_not_allowed_are_refused_with_what_is() {
    let refused: [(&str, &[&str]); 22] = [
        ("--nope", &["--nope", "demo, decode, replay"]),
        ("nope", &["nope", "demo, decode, replay"]),
        ("demo --nope", &["--nope", "--seed, --ticks, --rate"]),
        ("decode --nope x", &["--nope", "--protocol, --json"]),
        ("demo --ticks 0", &["--ticks takes 1000 to 1000000000"]),
        ("demo --ticks -1", &["--ticks", "-1"]),
        ("demo --ticks 99999999999999999999", &["--ticks", "99999999999999999999"]),
        ("demo --rate 0", &["--rate takes 1000 to 10000000"]),
        ("demo --rate 10000001", &["--rate takes 1000 to 10000000"]),
        ("demo --loss 1.5", &["--loss takes 0 to 1"]),
        ("demo --loss NaN", &["--loss takes 0 to 1"]),
        ("demo --loss 0.95", &["--tcp-loss takes 0 to 0.9"]),
        ("demo --simulated --corrupt 0.6", &["--corrupt takes 0 to 0.5"]),
        ("demo --reorder 0.1", &["--reorder", "--simulated"]),
        ("demo --ports 3", &["--ports takes 1 or 2"]),
        ("demo --feed-cores 2 --simulated", &["--feed-cores takes 1 or 2"]),
        ("demo --burst 5", &["--burst", "1000000/s:2ms"]),
        ("demo --burst 5/s:2ms", &["--burst takes 1000 to 10000000"]),
        ("demo --tcp-loss -0.1", &["--tcp-loss takes 0 to 0.9"]),
        ("demo --stocks 9000", &["--stocks takes 1 to 8000"]),
        ("decode --protocol fix x", &["fix", "itch, ouch"]),
        ("bench nope", &["nope", "bench --list"]),
    ];
    for (line, told) in refused {
        assert_refused(&run(line.split(' ')), told);
    }
}

#[test]
fn cores_that_do_not_exist_are_refused_with_those_that_do() {
    assert_refused(&run(["demo", "--cores", "99"]), &["--cores takes two cores"]);
    assert_refused(&run(["demo", "--cores", "x"]), &["--cores", "write 0,1"]);
    for cores in ["1000,1001", "0,1000"] {
        assert_refused(&run(["demo", "--ticks", "1000", "--cores", cores]), &["core 100", "may use ["]);
    }
}

#[test]
fn help_goes_to_standard_output_and_teaches() {
    let ran = run(["demo", "--help"]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""));
    assert!(ran.out.contains("Examples:") && ran.out.contains("--tcp-loss"));
    assert_eq!(run::<&str>([]).status, Some(2));
}

#[test]
fn demo_prints_one_object_or_a_table() {
    let ran = run(["demo", "--simulated", "--ticks", "1000", "--stocks", "10", "--seed", "7", "--json"]);
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let (lines, report) = json(&ran.out);
    assert!(lines.is_empty());
    assert_eq!((&report["seed"], &report["ticks"], &report["books_match"]), (&7.into(), &1000.into(), &true.into()));
    assert!(report["impairments"].as_object().is_some_and(serde_json::Map::is_empty));
    let ran = run(["demo", "--simulated", "--ticks", "1000", "--stocks", "10"]);
    assert_eq!(ran.status, Some(0));
    for row in ["ticks applied", "orders", "fills", "gaps", "TCP retransmits", "tick to order", "books equal"] {
        assert!(ran.out.contains(row), "no {row} in\n{}", ran.out);
    }
}

#[test]
fn demo_with_tcp_loss_reports_every_path() {
    let ran = run(["demo", "--simulated", "--seed", "11", "--ticks", "20000", "--tcp-loss", "0.02", "--json"]);
    let (_, report) = json(&ran.out);
    let paths = report["impairments"].as_object().unwrap();
    assert_eq!(
        paths.keys().collect::<Vec<_>>(),
        ["feed_a", "orders", "recovery_a", "feed_b", "snapshots_b", "recovery_b"]
    );
    for path in paths.values() {
        assert!(["frames", "lost", "duplicated", "reordered", "corrupted"].iter().all(|name| path[name].is_u64()));
    }
}

#[test]
fn long_demo_tells_how_far_it_is_on_standard_error() {
    let ran = run(["demo", "--ticks", "4000", "--rate", "1000", "--json"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    json(&ran.out);
    assert!((1..=20).contains(&ran.err.lines().count()), "{:?}", ran.err);
    assert!(ran.err.lines().all(|line| line.ends_with(" of 4000 ticks")), "{:?}", ran.err);
}

/// Captures in a folder of their own.
struct Captures(TempDir);

impl Captures {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of these bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// A capture of these frames.
    fn capture(&self, name: &str, frames: &[Vec<u8>]) -> PathBuf {
        let mut writer = Writer::create(&self.path(name)).unwrap();
        for (frame, at) in frames.iter().zip(1..) {
            writer.frame(at * 1_000, frame).unwrap();
        }
        self.path(name)
    }
}

fn decode(path: &Path) -> Ran {
    run([Path::new("decode"), path, Path::new("--json")])
}

fn replay(path: &Path) -> Ran {
    run([Path::new("replay"), path, Path::new("--json")])
}

/// Ethernet (tagged or not) and IPv4 around `segment`, with the trailer that short frames have on a wire.
fn frame(vlan: Option<u16>, protocol: u8, to: Ipv4Addr, segment: &[u8]) -> Vec<u8> {
    let mut frame = [&multicast_mac(to).0[..], &[2, 0, 0, 0, 0, 1]].concat();
    if let Some(tag) = vlan {
        frame.extend([&[0x81, 0x00], &tag.to_be_bytes()[..]].concat());
    }
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 16, protocol, 0, 0, 10, 0, 0, 1, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&(segment.len() as u16 + 20).to_be_bytes());
    header[16..].copy_from_slice(&to.octets());
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = !((sum >> 16) + (sum & 0xFFFF)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend([&[0x08, 0x00], &header[..], segment].concat());
    frame.resize(frame.len().max(60), 0xEE);
    frame
}

/// A MoldUDP64 packet of `messages` from number `sequence` on, to the group.
fn feed(vlan: Option<u16>, sequence: u64, messages: &[&[u8]]) -> Vec<u8> {
    let mut datagram = vec![0u8; 1400];
    let mut packet = Packet::begin(&mut datagram[8..], *b"TEST000001", sequence).unwrap();
    assert!(messages.iter().all(|message| packet.push(message)));
    let len = 8 + packet.finish();
    datagram.truncate(len);
    datagram[..4].copy_from_slice(&[0x67, 0x20, 0x67, 0x21]);
    datagram[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    frame(vlan, 17, Ipv4Addr::new(233, 54, 12, 111), &datagram)
}

fn add(reference: u64) -> Vec<u8> {
    let message = itch::AddOrder {
        message_type: Alpha::new("A"),
        stock_locate: 5.into(),
        tracking_number: 0.into(),
        timestamp: Timestamp::new(34_200_000_000_123),
        order_reference_number: reference.into(),
        buy_sell_indicator: Alpha::new("B"),
        shares: 300.into(),
        stock: Alpha::new("WIRE"),
        price: 1_234_500.into(),
    };
    Message::AddOrder(&message).as_bytes().to_vec()
}

fn delete(reference: u64) -> Vec<u8> {
    let message = itch::OrderDelete {
        message_type: Alpha::new("D"),
        stock_locate: 5.into(),
        tracking_number: 0.into(),
        timestamp: Timestamp::new(34_200_000_000_456),
        order_reference_number: reference.into(),
    };
    Message::OrderDelete(&message).as_bytes().to_vec()
}

/// Frames in sequence, tagged and not, with a heartbeat among them.
fn feed_frames() -> Vec<Vec<u8>> {
    vec![
        feed(None, 1, &[&add(1), &add(2)]),
        feed(None, 3, &[]),
        feed(None, 3, &[&delete(1)]),
        feed(Some(100), 4, &[&add(3)]),
    ]
}

#[test]
fn decode_and_replay_give_the_same_lines_and_counts() {
    let captures = Captures::new();
    let capture = captures.capture("feed.pcap", &feed_frames());
    let (decoded, replayed) = (decode(&capture), replay(&capture));
    assert_eq!((decoded.status, decoded.err.as_str()), (Some(0), ""), "{decoded:?}");
    assert_eq!((replayed.status, replayed.err.as_str()), (Some(0), ""), "{replayed:?}");
    assert_eq!(decoded.out, replayed.out);
    let (lines, summary) = json(&decoded.out);
    assert_eq!(summary, serde_json::json!({ "frames": 4, "messages": 4, "errors": 0 }));
    let first = serde_json::json!({
        "message_type": "A", "stock_locate": 5, "tracking_number": 0, "timestamp": 34_200_000_000_123u64,
        "order_reference_number": 1, "buy_sell_indicator": "B", "shares": 300, "stock": "WIRE", "price": 1_234_500,
    });
    assert_eq!(lines[0], first);
    let types: Vec<_> = lines.iter().map(|line| line["message_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["A", "A", "D", "A"]);
    let text = run([Path::new("decode"), &capture]);
    assert!(text.out.starts_with("message_type=A stock_locate=5 "), "{}", text.out);
    assert!(text.out.ends_with("4 frames, 4 messages, 0 errors\n"), "{}", text.out);
}

#[test]
fn gap_in_a_capture_costs_the_messages_in_it_and_no_more() {
    let captures = Captures::new();
    let frames = [feed(None, 10, &[&add(1)]), feed(None, 20, &[&add(2)]), feed(None, 21, &[&add(3)])];
    let replayed = replay(&captures.capture("gap.pcap", &frames));
    let (lines, summary) = json(&replayed.out);
    assert_eq!((lines.len(), &summary["messages"], &summary["errors"]), (3, &3.into(), &0.into()));
}

#[test]
fn folder_is_read_in_the_order_of_names_and_every_file_starts_afresh() {
    let captures = Captures::new();
    captures.capture("b.pcap", &[feed(None, 1, &[&add(2)])]);
    captures.capture("a.pcap", &[feed(None, 7, &[&add(1)])]);
    captures.file("notes.txt", b"not a capture");
    for ran in [decode(captures.0.path()), replay(captures.0.path())] {
        let (lines, summary) = json(&ran.out);
        let references: Vec<_> = lines.iter().map(|line| &line["order_reference_number"]).collect();
        assert_eq!(references, [1, 2]);
        assert_eq!(summary, serde_json::json!({ "frames": 2, "messages": 2, "errors": 0 }));
    }
}

#[test]
fn orders_are_decoded_with_their_options_and_packets_without_message() {
    let order = ouch::EnterOrder {
        message_type: Alpha::new("O"),
        user_ref_num: 9.into(),
        side: Alpha::new("B"),
        quantity: 100.into(),
        symbol: Alpha::new("WIRE"),
        price: 1_234_500.into(),
        time_in_force: Alpha::new("3"),
        display: Alpha::new("Y"),
        capacity: Alpha::new("P"),
        inter_market_sweep_eligibility: Alpha::new("N"),
        cross_type: Alpha::new("N"),
        cl_ord_id: Alpha::new("id"),
    };
    let (mut message, mut stream) = (Vec::new(), vec![0; 20]);
    Inbound::EnterOrder(&order, Appendage::default()).write(&mut message);
    stream[12] = 5 << 4;
    soupbin::wrap(kind::UNSEQUENCED, &message, &mut stream);
    soupbin::wrap(kind::CLIENT_HEARTBEAT, &[], &mut stream);
    let captures = Captures::new();
    let capture = captures.capture("orders.pcap", &[frame(None, 6, Ipv4Addr::new(10, 0, 0, 2), &stream)]);
    for ran in [decode(&capture), run(["decode", "--protocol", "ouch", "--json", capture.to_str().unwrap()])] {
        let (lines, summary) = json(&ran.out);
        assert_eq!(summary, serde_json::json!({ "frames": 1, "messages": 2, "errors": 0 }));
        assert_eq!((&lines[0]["packet_type"], &lines[0]["user_ref_num"]), (&"U".into(), &9.into()));
        assert_eq!(lines[1], serde_json::json!({ "packet_type": "R" }));
    }
}

#[test]
fn frames_that_are_nothing_we_know_are_counted_as_errors() {
    let captures = Captures::new();
    let frames = [vec![0u8; 60], feed(None, 1, &[b"Zzz"]), feed(None, 2, &[&add(1)])];
    let ran = decode(&captures.capture("odd.pcap", &frames));
    assert_eq!(ran.status, Some(0));
    let (lines, summary) = json(&ran.out);
    assert_eq!((lines.len(), &summary["frames"], &summary["errors"]), (1, &3.into(), &2.into()));
}

#[test]
fn input_that_is_no_capture_is_refused_with_file_and_offset() {
    let captures = Captures::new();
    let whole = std::fs::read(captures.capture("whole.pcap", &feed_frames())).unwrap();
    let mut other_link = whole.clone();
    other_link[20..24].copy_from_slice(&113u32.to_be_bytes());
    std::fs::create_dir(captures.path("folder")).unwrap();
    let cases: [(PathBuf, &[&str]); 6] = [
        (captures.path("missing.pcap"), &["No such file"]),
        (captures.file("empty.pcap", b""), &["offset 0", "empty"]),
        (captures.file("text.pcap", b"this is a text and not a capture"), &["offset 0", "not a pcap"]),
        (captures.file("header.pcap", &whole[..20]), &["offset 0", "not a pcap"]),
        (captures.file("link.pcap", &other_link), &["link type 113", "offset 20", "Ethernet"]),
        (captures.path("folder"), &["no .pcap file"]),
    ];
    for (path, told) in cases {
        let name = path.to_str().unwrap();
        for ran in [decode(&path), replay(&path)] {
            assert_refused(&ran, &[told, &[name]].concat());
        }
    }
}

#[test]
fn capture_that_is_cut_off_prints_what_it_held() {
    let captures = Captures::new();
    let frames = feed_frames();
    let whole = std::fs::read(captures.capture("whole.pcap", &frames)).unwrap();
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;
    let third = FILE_HEADER + 2 * PACKET_HEADER + frames[0].len() + frames[1].len();
    // In the middle of a packet's header, of its bytes, and just before its last byte.
    for end in [third + 5, third + PACKET_HEADER + 30, third + PACKET_HEADER + frames[2].len() - 1] {
        let cut = captures.file("cut.pcap", &whole[..end]);
        for ran in [decode(&cut), replay(&cut)] {
            assert_eq!(ran.status, Some(2), "{ran:?}");
            assert_one_line(&ran.err, &[cut.to_str().unwrap(), &format!("offset {third} ")]);
            let (lines, summary) = json(&ran.out);
            assert_eq!(lines.len(), 2);
            assert_eq!(summary, serde_json::json!({ "frames": 2, "messages": 2, "errors": 0, "truncated": true }));
        }
    }
}

#[test]
fn damaged_captures_are_all_named_and_keep_nobody_from_the_others() {
    let captures = Captures::new();
    let whole = std::fs::read(captures.capture("b.pcap", &feed_frames())).unwrap();
    let cut = captures.file("a.pcap", &whole[..whole.len() - 1]);
    let text = captures.file("c.pcap", b"this is a text and not a capture");
    captures.capture("d.pcap", &feed_frames());
    let folder = cut.parent().unwrap();
    for ran in [decode(folder), replay(folder)] {
        assert_eq!(ran.status, Some(2), "{ran:?}");
        assert_one_line(&ran.err, &[cut.to_str().unwrap(), "cut off or damaged", text.to_str().unwrap(), "not a pcap"]);
        let (lines, summary) = json(&ran.out);
        let frames = 3 * feed_frames().len() - 1;
        assert_eq!((&summary["frames"], &summary["truncated"]), (&frames.into(), &true.into()), "{summary}");
        assert_eq!(summary["messages"], lines.len());
    }
}

#[test]
fn reader_that_goes_away_ends_the_program_quietly() {
    let captures = Captures::new();
    let orders: Vec<_> = (0..20).map(add).collect();
    let messages: Vec<_> = orders.iter().map(Vec::as_slice).collect();
    let frames: Vec<_> = (0..500).map(|n| feed(None, 1 + n * 20, &messages)).collect();
    let capture = captures.capture("long.pcap", &frames);
    for command in ["decode", "replay"] {
        for json in [&["--json"][..], &[]] {
            let mut child = Command::new(program::barewire())
                .arg(command)
                .arg(&capture)
                .args(json)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert!(line.contains("message_type"), "{line:?}");
            // The pipe is closed here, after one of 10,000 lines.
            let mut err = String::new();
            child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
            assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""), "{command}");
        }
    }
}

#[test]
fn real_captures_decode_without_error_and_replay_gives_the_same() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/pcap");
    if !shared.is_dir() {
        return barewire_tests::skip("captures of real exchange traffic", "../shared/data/pcap is not here");
    }
    for folder in ["nasdaq-totalview-itch50-wire", "nasdaq-totalview-itch50-2023", "nasdaq-ouch50"] {
        let ran = decode(&shared.join(folder));
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{folder}");
        let (lines, summary) = json(&ran.out);
        assert_eq!(summary["errors"], 0, "{folder}");
        assert!(!lines.is_empty() && summary["messages"] == lines.len(), "{folder}: {summary}");
    }
    let wire = shared.join("nasdaq-totalview-itch50-wire");
    assert_eq!(decode(&wire).out, replay(&wire).out);
}
