//! A stack with ten thousand sessions says beforehand how much memory it takes, and takes that. The only test of its process, for what counts is
//! what the process uses.
#![forbid(unsafe_code)]

use std::net::SocketAddrV4;

use barewire_driver::pool::BUFFER_LEN;
use barewire_netstack::{Event, Lane, TcpConfig, TcpError, TcpOptions};
use barewire_tests::network::{Host, IPS};
use barewire_tests::rig::mac;

const SESSIONS: u32 = 10_000;
const TX_DESCRIPTORS: u32 = 1024;
const SIZES: TcpConfig = TcpConfig { sessions: SESSIONS, half_open: 256, sent_segments: 20_000, kept_segments: 20_000 };
const PORT: u16 = 7000;
const SECOND: u64 = 1_000_000_000;

/// Bytes of memory that this process has now.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of kB") * 1024
}

#[test]
fn ten_thousand_sessions_take_the_memory_that_was_stated() {
    // Everything that is no stack, code included, is there before.
    drop(Host::new(IPS[1], TcpConfig::default(), 64));
    let mut peer = Host::new(IPS[0], SIZES, TX_DESCRIPTORS);
    peer.context(SECOND).neighbours().set_static(IPS[1], mac(2)).expect("another host");
    for _ in 0..SESSIONS {
        connect(&mut peer, 1);
    }
    let syns = peer.line.sent();
    assert_eq!(syns.len(), SESSIONS as usize);

    let before = resident();
    let mut host = Host::new(IPS[1], SIZES, TX_DESCRIPTORS);
    let buffers = 1 + SIZES.kept_segments + TX_DESCRIPTORS + SIZES.sent_segments;
    let stated = SIZES.memory_bytes() + buffers as usize * BUFFER_LEN;
    let made = resident() - before;
    assert_eq!(open_all(&mut peer, &mut host, syns), SESSIONS);
    let used = resident() - before;
    println!("stated {stated} bytes; a new stack takes {made}, with {SESSIONS} sessions open {used}");
    for taken in [made, used] {
        assert!(taken.abs_diff(stated) * 10 <= stated, "stated {stated} bytes, taken {taken}");
    }
    let refused = host.context(SECOND).tcp_connect(Lane::Express, SocketAddrV4::new(IPS[0], 1), &TcpOptions::default());
    assert_eq!(refused, Err(TcpError::NoSession(SESSIONS)));
}

fn connect(peer: &mut Host, now: u64) {
    let cx = peer.context(SECOND + now);
    cx.tcp_connect(Lane::Express, SocketAddrV4::new(IPS[1], PORT), &TcpOptions::default()).expect("a session");
    cx.flush();
}

/// Lets `host` accept what `peer` asks for with `syns`, and says how many it accepted.
fn open_all(peer: &mut Host, host: &mut Host, syns: Vec<Vec<u8>>) -> u32 {
    let cx = host.context(SECOND);
    cx.neighbours().set_static(IPS[0], mac(1)).expect("another host");
    cx.tcp_listen(Lane::Express, PORT, &TcpOptions::default()).expect("a free port");
    let mut accepted = 0;
    for syn in syns {
        host.line.arrive(syn);
        for _ in 0..2 {
            let count = |event: &Event<'_>| u32::from(matches!(event, Event::Accepted { .. }));
            host.stack.poll(SECOND, |_, event| accepted += count(&event)).expect("memory has no faults");
            host.line.sent().into_iter().for_each(|frame| peer.line.arrive(frame));
            peer.stack.poll(SECOND, |_, _| {}).expect("memory has no faults");
            peer.line.sent().into_iter().for_each(|frame| host.line.arrive(frame));
        }
    }
    accepted
}
