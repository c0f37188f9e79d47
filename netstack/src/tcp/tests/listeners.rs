//! Listeners: what opens a connection, what does not, and floods of SYNs (RFC 9293, 3.9.1.1 and 3.9.2.3; RFC 4987).

use super::peer::{END, PEER, PORT, SYN_OPTIONS, count};
use super::script::{Bases, Seg};
use super::*;
use crate::tcp::TcpStats;

const NOW: Nanos = 5 * SECOND;

fn listening(config: TcpConfig) -> End {
    let mut end = End::with_ring(END, config, 512);
    end.tcp.listen(PORT, &TcpOptions::default()).unwrap();
    end
}

/// A frame to the end from anywhere.
fn frame(from: SocketAddrV4, to: (Ipv4Addr, u16), text: &str) -> Vec<u8> {
    let bases = Bases::default();
    let ips = (from.ip().to_bits(), to.0.to_bits());
    Seg::parse(text, bases).frame((mac(*from.ip()).0, mac(END).0), ips, (from.port(), to.1), bases)
}

fn syn(from: SocketAddrV4) -> Vec<u8> {
    frame(from, (END, PORT), &format!("S 1000 <{SYN_OPTIONS}>"))
}

/// Lets a frame arrive; says what was sent and counted.
fn give(end: &mut End, frame: Vec<u8>) -> (Vec<Vec<u8>>, Vec<String>) {
    let before = end.tcp.stats();
    end.medium.arrive(frame);
    end.poll(NOW);
    end.check();
    (end.medium.sent(), count(&before, &end.tcp.stats()))
}

/// The acknowledgement that opens what a SYN-ACK has answered.
fn open(end: &mut End, from: SocketAddrV4) -> SessionId {
    let (sent, _) = give(end, syn(from));
    let ack = wire::see_tcp(&sent[0]).unwrap().seq.wrapping_add(1);
    end.accepted.clear();
    give(end, frame(from, (END, PORT), &format!("A 1001 ack {ack}")));
    assert_eq!(end.accepted.len(), 1, "{from}");
    end.accepted[0]
}

fn from(host: u32, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + host), port)
}

/// No host has such an address (MUST-63, MUST-57): silence, and no state.
#[test]
fn syn_from_no_host_is_ignored() {
    let mut end = listening(TcpConfig::default());
    for ip in ["224.0.0.1", "239.255.255.255", "255.255.255.255", "0.0.0.0", "127.0.0.1", "10.0.0.1"] {
        for text in ["S 1000", "A 1 ack 1", "R 1"] {
            let answer = give(&mut end, frame(SocketAddrV4::new(ip.parse().unwrap(), 1000), (END, PORT), text));
            assert_eq!(answer, (vec![], vec!["bad_flags".into()]), "{ip} {text}");
        }
    }
    assert_eq!(give(&mut end, syn(SocketAddrV4::new(PEER, 0))).0, Vec::<Vec<u8>>::new());
    // From a station that is a group's.
    let mut grouped = syn(SocketAddrV4::new(PEER, 1000));
    grouped[6] |= 1;
    assert_eq!(give(&mut end, grouped).0, Vec::<Vec<u8>>::new());
    assert!(end.is_empty());
}

/// An open from here to no host is refused (MUST-46).
#[test]
fn open_to_no_host_is_an_error() {
    let mut end = listening(TcpConfig::default());
    for remote in ["224.0.0.1:80", "255.255.255.255:80", "0.0.0.0:80", "127.0.0.1:80", "10.0.0.1:80", "10.0.0.2:0"] {
        let opened = end.connect_from(NOW, 5000, remote.parse().unwrap(), &TcpOptions::default());
        assert_eq!(opened, Err(TcpError::BadAddress), "{remote}");
    }
    assert!(end.is_empty() && end.tcp.stats().opened == 0);
}

/// Many connections to one listener, and opens from its own port beside it (MUST-42).
#[test]
fn one_port_has_many_connections() {
    let mut end = listening(TcpConfig::default());
    let first = open(&mut end, from(1, 1000));
    let second = open(&mut end, from(1, 1001));
    let third = open(&mut end, from(2, 1000));
    let out = end.connect_from(NOW, PORT, from(3, 1000), &TcpOptions::default()).unwrap();
    assert_eq!(end.tcp.listen(PORT, &TcpOptions::default()), Err(TcpError::PortInUse(PORT)));
    for id in [first, second, third] {
        assert_eq!(end.state(id), TcpState::Established);
    }
    assert_eq!(end.state(out), TcpState::SynSent);
}

/// Half-open connections are bounded, the oldest gives way; nothing that stands is touched, and places are left.
#[test]
fn flood_of_syns_touches_nothing_that_stands() {
    let mut end = listening(TcpConfig { sessions: 32, half_open: 8, ..TcpConfig::default() });
    let standing = open(&mut end, from(0, 1000));
    let before = end.tcp.stats();
    for host in 0..1000 {
        let (sent, _) = give(&mut end, syn(from(1 + host, 2000)));
        assert_eq!(sent.len(), 1, "every SYN is answered");
        assert!(end.tcp.vacant.len() >= 32 - 1 - 8);
    }
    let stats = end.tcp.stats();
    assert_eq!((stats.half_open_evicted - before.half_open_evicted, stats.syn_dropped), (992, 0));
    // The session carries, another one can be opened from here, and a peer that answers gets in.
    end.send(NOW, standing, b"order").unwrap();
    assert_eq!(end.medium.sent().len(), 1);
    let out = end.connect(NOW, from(0, 3000), &TcpOptions::default());
    assert_eq!((end.state(out), end.medium.sent().len()), (TcpState::SynSent, 1));
    let late = open(&mut end, from(5000, 1000));
    for id in [standing, out, late] {
        end.abort(NOW, id);
        end.release(NOW, id);
    }
    end.poll(NOW);
    while let Some(due) = end.tcp.deadline(NOW) {
        end.poll(due);
        end.medium.sent();
    }
    assert!(end.is_empty());
}

/// Handshakes that were finished long ago make no room by pushing out one that is not.
#[test]
fn finished_handshakes_are_not_half_open() {
    let mut end = listening(TcpConfig { sessions: 32, half_open: 4, ..TcpConfig::default() });
    let early = from(100, 1000);
    let (sent, _) = give(&mut end, syn(early));
    for host in 0..20 {
        open(&mut end, from(host, 1000));
    }
    assert_eq!(end.tcp.stats().half_open_evicted, 0);
    let ack = wire::see_tcp(&sent[0]).unwrap().seq.wrapping_add(1);
    end.accepted.clear();
    give(&mut end, frame(early, (END, PORT), &format!("A 1001 ack {ack}")));
    assert_eq!(end.accepted.len(), 1);
}

#[test]
fn syn_that_finds_no_place_is_dropped_until_there_is_one() {
    let mut end = listening(TcpConfig { sessions: 2, half_open: 2, ..TcpConfig::default() });
    let ids = [open(&mut end, from(1, 1000)), open(&mut end, from(2, 1000))];
    let (sent, counted) = give(&mut end, syn(from(3, 1000)));
    assert_eq!((sent.len(), counted), (0, vec!["syn_dropped".to_string()]));
    let error = end.connect_from(NOW, 5000, from(4, 1000), &TcpOptions::default());
    assert_eq!(error, Err(TcpError::NoSession(2)));
    // One that only waits for its time to be over gives way, when nobody holds it any more.
    end.close(NOW, ids[0]);
    let fin = wire::see_tcp(&end.medium.sent()[0]).unwrap().seq;
    give(&mut end, frame(from(1, 1000), (END, PORT), &format!("FA 1001 ack {}", fin.wrapping_add(1))));
    assert_eq!(end.state(ids[0]), TcpState::TimeWait);
    assert_eq!(give(&mut end, syn(from(3, 1000))).1, ["syn_dropped"]);
    end.release(NOW, ids[0]);
    end.poll(NOW);
    assert_eq!(end.state(ids[0]), TcpState::TimeWait);
    open(&mut end, from(3, 1000));
    assert_eq!((end.state(ids[0]), end.state(ids[1])), (TcpState::Closed, TcpState::Established));
}

/// Who no longer listens answers nobody, and forgets who has only asked.
#[test]
fn unlisten_takes_half_open_connections_along() {
    let mut end = listening(TcpConfig::default());
    end.tcp.listen(PORT + 1, &TcpOptions::default()).unwrap();
    let standing = open(&mut end, from(1, 1000));
    let (sent, _) = give(&mut end, syn(from(2, 1000)));
    let ack = wire::see_tcp(&sent[0]).unwrap().seq.wrapping_add(1);
    give(&mut end, frame(from(3, 1000), (END, PORT + 1), "S 1000"));
    end.tcp.unlisten(PORT);
    end.check();
    assert_eq!(end.tcp.vacant.len(), TcpConfig::default().sessions as usize - 2);
    end.accepted.clear();
    give(&mut end, frame(from(2, 1000), (END, PORT), &format!("A 1001 ack {ack}")));
    give(&mut end, syn(from(4, 1000)));
    assert_eq!((end.accepted.len(), end.state(standing)), (0, TcpState::Established));
    end.tcp.unlisten(PORT + 1);
    end.abort(NOW, standing);
    end.release(NOW, standing);
    end.poll(NOW);
    assert!(end.is_empty());
}

/// Everything but a SYN leaves a listener without a trace.
#[test]
fn garbage_at_a_listener_leaves_nothing() {
    let mut end = listening(TcpConfig::default());
    for flags in 0..64u8 {
        for len in [0, 100] {
            let mut garbage = frame(from(1, 1000), (END, PORT), &format!("- 1:{} ack 5", 1 + len));
            garbage[47] = flags;
            let before: TcpStats = end.tcp.stats();
            let (sent, _) = give(&mut end, garbage);
            let has = |bit: u8| flags & bit != 0;
            let is_syn = has(wire::flag::SYN) && !has(wire::flag::ACK | wire::flag::RST | wire::flag::FIN);
            let is_answered = is_syn || (has(wire::flag::ACK) && !has(wire::flag::RST));
            assert_eq!(sent.len(), usize::from(is_answered), "{flags:#x}");
            assert_eq!(end.is_empty(), !is_syn, "{flags:#x}");
            assert_ne!(count(&before, &end.tcp.stats()).is_empty(), !is_syn, "{flags:#x} is counted");
            if is_syn {
                give(&mut end, frame(from(1, 1000), (END, PORT), "R 2"));
                assert!(end.is_empty());
            }
        }
    }
}
