//! By document and paragraph: RFC 826; RFC 1122, 2.3.2, 3.2.1.3 and 3.3.1; RFC 4632, 5.1; RFC 5227.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use barewire_driver::MacAddress;
use proptest::prelude::*;

use super::*;

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
const OTHER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

fn table() -> Neighbours {
    let config = Config { gateway: Some(GATEWAY), ..Config::new(MAC, IP, 24, 1) };
    Neighbours::new(&config)
}

/// What an ARP packet is made of, sender's addresses first; `operation` 1 asks, 2 answers.
fn arp(to: MacAddress, operation: u8, sender: (MacAddress, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut frame = arp::request(to, sender.0, sender.1, target).to_vec();
    frame[21] = operation;
    frame.resize(60, 0);
    frame
}

fn answer(from: Ipv4Addr, mac: MacAddress) -> Vec<u8> {
    arp(MAC, 2, (mac, from), IP)
}

/// Whom is asked for at `now`, and by a frame to whom.
fn asked(neighbours: &Neighbours, now: Nanos) -> Vec<(Ipv4Addr, MacAddress)> {
    let mut asked = Vec::new();
    let sent = neighbours.poll(now, |frame| {
        let [to @ .., _, _, _, _] = frame.first_chunk::<10>().unwrap();
        asked.push((Ipv4Addr::from_octets(*frame.last_chunk().unwrap()), MacAddress(*to)));
        true
    });
    assert_eq!(sent as usize, asked.len());
    asked
}

/// The seconds at which `PEER` is asked for, until `end`.
fn schedule(neighbours: &Neighbours, end: u64) -> Vec<u64> {
    let mut seconds = Vec::new();
    while let Some(now) = neighbours.next_deadline().filter(|now| *now < end * SECOND) {
        seconds.extend(asked(neighbours, now).iter().map(|_| now / SECOND));
    }
    seconds
}

const ALL: MacAddress = MacAddress::BROADCAST;

// RFC 826.

#[test]
fn packet_generation_a_request_is_broadcast_and_names_both_protocol_addresses() {
    let neighbours = table();
    neighbours.want(PEER);
    let mut frames = Vec::new();
    neighbours.poll(0, |frame| {
        frames.push(*frame);
        true
    });
    #[rustfmt::skip]
    assert_eq!(frames, [[
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 0, 0, 0, 1, 0x08, 0x06,
        0, 1, 0x08, 0x00, 6, 4, 0, 1,
        2, 0, 0, 0, 0, 1, 10, 0, 0, 1,
        0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
    ]]);
    assert_eq!(neighbours.lookup(PEER), None);
    assert_eq!(neighbours.receive_arp(1, &answer(PEER, PEER_MAC)), Some(PEER));
    assert_eq!(neighbours.lookup(PEER), Some(PEER_MAC));
}

#[test]
fn packet_reception_merges_what_is_in_the_table_whatever_the_operation_and_target() {
    let neighbours = table();
    neighbours.want(PEER);
    let stranger = Ipv4Addr::new(10, 0, 0, 7);
    for (operation, target, mac) in [(1, stranger, PEER_MAC), (2, stranger, OTHER_MAC), (99, IP, PEER_MAC)] {
        neighbours.receive_arp(0, &arp(ALL, operation, (mac, PEER), target));
        assert_eq!(neighbours.lookup(PEER), Some(mac));
    }
    assert_eq!(neighbours.stats().updates, 3);
}

#[test]
fn packet_reception_adds_no_stranger_not_even_one_that_asks_for_us() {
    let neighbours = table();
    for host in 2..250 {
        let ip = Ipv4Addr::new(10, 0, 0, host);
        assert_eq!(neighbours.receive_arp(0, &arp(ALL, 1, (PEER_MAC, ip), IP)), None);
        assert_eq!(neighbours.lookup(ip), None);
    }
    assert!(neighbours.table().entries.iter().all(|entry| entry.state == State::Free));
}

#[test]
fn packet_reception_other_hardware_or_protocol_is_discarded() {
    let neighbours = table();
    neighbours.want(PEER);
    let good = answer(PEER, PEER_MAC);
    // EtherType, hardware, protocol, both lengths; then a sender that is a group or nobody.
    for (at, byte) in [(13, 0), (15, 6), (17, 6), (18, 8), (19, 16), (22, 1), (22, 0)] {
        let mut bad = good.clone();
        bad[at] = byte;
        bad[27] = if byte == 0 && at == 22 { 0 } else { bad[27] };
        assert_eq!(neighbours.receive_arp(0, &bad), None, "{at}");
    }
    for len in [0, 5, 14, 41] {
        neighbours.receive_arp(0, &good[..len]);
    }
    assert_eq!((neighbours.lookup(PEER), neighbours.stats().malformed), (None, 11));
    assert!(neighbours.receive_arp(0, &good[..ARP_FRAME_LEN]).is_some());
}

#[test]
fn related_issue_a_host_that_moved_is_believed_at_once() {
    let neighbours = table();
    neighbours.want(PEER);
    assert!(neighbours.receive_arp(0, &answer(PEER, PEER_MAC)).is_some());
    assert_eq!(neighbours.receive_arp(1, &answer(PEER, OTHER_MAC)), None, "its address was known before");
    assert_eq!(neighbours.lookup(PEER), Some(OTHER_MAC));
}

#[test]
fn frames_to_other_stations_and_our_own_that_came_back_change_nothing() {
    let neighbours = table();
    neighbours.want(PEER);
    neighbours.receive_arp(0, &arp(OTHER_MAC, 2, (PEER_MAC, PEER), IP));
    neighbours.receive_arp(0, &arp(ALL, 1, (MAC, IP), PEER));
    neighbours.receive_arp(0, &arp(ALL, 1, (MAC, PEER), PEER));
    assert_eq!((neighbours.lookup(PEER), neighbours.stats()), (None, NeighbourStats::default()));
}

// RFC 1122, 2.3.2.

#[test]
fn s2_3_2_1_requests_come_at_once_then_ever_more_slowly_and_end() {
    let neighbours = table();
    neighbours.want(PEER);
    assert_eq!(schedule(&neighbours, 1000), [0, 1, 3, 7, 15]);
    assert_eq!(neighbours.next_deadline(), None);
    assert!(neighbours.table().find(PEER).is_none());
    neighbours.want(PEER);
    assert_eq!(asked(&neighbours, 2000 * SECOND), [(PEER, ALL)], "wanted again, asked for again");
}

#[test]
fn s2_3_2_1_wanting_more_often_does_not_ask_more_often() {
    let neighbours = table();
    let mut last = None;
    for millisecond in 0..40_000 {
        neighbours.want(PEER);
        for _ in asked(&neighbours, millisecond * 1_000_000) {
            assert!(last.is_none_or(|last| millisecond - last >= 1000), "{last:?} {millisecond}");
            last = Some(millisecond);
        }
    }
    assert!(last.is_some_and(|last| last > 30_000));
}

#[test]
fn s2_3_2_1_an_answer_is_believed_for_a_minute() {
    let neighbours = table();
    neighbours.want(PEER);
    asked(&neighbours, 0);
    neighbours.receive_arp(5, &answer(PEER, PEER_MAC));
    assert_eq!(neighbours.next_deadline(), Some(60 * SECOND + 5));
    assert!(asked(&neighbours, 60 * SECOND + 4).is_empty());
    assert_eq!(neighbours.lookup(PEER), Some(PEER_MAC));
    assert!(asked(&neighbours, 60 * SECOND + 5).is_empty());
    assert_eq!((neighbours.lookup(PEER), neighbours.next_deadline()), (None, None));
}

#[test]
fn s2_3_2_1_a_pinned_neighbour_is_polled_alone_and_then_by_all_before_it_is_too_old() {
    let neighbours = table();
    neighbours.pin(PEER).unwrap();
    assert_eq!(asked(&neighbours, 0), [(PEER, ALL)]);
    neighbours.receive_arp(0, &answer(PEER, PEER_MAC));
    // It answers: nobody else hears of it, and it is known all the time.
    assert_eq!(asked(&neighbours, 45 * SECOND), [(PEER, PEER_MAC)]);
    assert_eq!(neighbours.receive_arp(45 * SECOND, &answer(PEER, PEER_MAC)), None);
    // It does not.
    let start = 90 * SECOND;
    for (after, to) in [(0, PEER_MAC), (1, ALL), (3, ALL), (7, ALL)] {
        assert_eq!(neighbours.next_deadline(), Some(start + after * SECOND));
        assert_eq!(asked(&neighbours, start + after * SECOND), [(PEER, to)]);
        assert_eq!(neighbours.lookup(PEER), Some(PEER_MAC));
    }
    // Out of date: not believed any more, and asked for until it is back.
    let end = start + 15 * SECOND;
    assert_eq!(asked(&neighbours, end), [(PEER, ALL)]);
    assert_eq!(neighbours.lookup(PEER), None);
    assert_eq!(schedule(&neighbours, 145), [106, 108, 112, 120, 128, 136, 144]);
    assert_eq!(neighbours.receive_arp(145 * SECOND, &answer(PEER, OTHER_MAC)), Some(PEER));
    assert_eq!(neighbours.lookup(PEER), Some(OTHER_MAC));
}

#[test]
fn pins_are_counted_and_an_unpinned_neighbour_is_forgotten_in_its_time() {
    let neighbours = table();
    neighbours.want(PEER);
    asked(&neighbours, 0);
    neighbours.receive_arp(0, &answer(PEER, PEER_MAC));
    neighbours.pin(PEER).unwrap();
    neighbours.pin(PEER).unwrap();
    neighbours.unpin(PEER);
    assert_eq!(neighbours.next_deadline(), Some(45 * SECOND), "pinned once still");
    assert_eq!(asked(&neighbours, 46 * SECOND).len(), 1);
    neighbours.unpin(PEER);
    neighbours.unpin(PEER);
    assert_eq!(schedule(&neighbours, 1000), [0; 0]);
    assert_eq!(neighbours.lookup(PEER), None);
    neighbours.unpin(GATEWAY);
}

#[test]
fn request_that_could_not_be_sent_comes_again_and_uses_up_no_try() {
    let neighbours = table();
    neighbours.want(PEER);
    for _ in 0..100 {
        assert_eq!(neighbours.poll(7, |_| false), 0);
    }
    assert_eq!(neighbours.next_deadline(), Some(0));
    assert_eq!(schedule(&neighbours, 1000), [0, 1, 3, 7, 15]);
    assert_eq!(neighbours.stats().requests, 5);
}

#[test]
fn unreachable_neighbour_delays_nobody() {
    let neighbours = table();
    neighbours.want(PEER);
    (0..20).for_each(|second| _ = asked(&neighbours, second * SECOND / 2));
    neighbours.want(GATEWAY);
    let now = 10 * SECOND + 1;
    assert_eq!(asked(&neighbours, now), [(GATEWAY, ALL)]);
    neighbours.receive_arp(now, &answer(GATEWAY, OTHER_MAC));
    assert_eq!((neighbours.lookup(GATEWAY), neighbours.lookup(PEER)), (Some(OTHER_MAC), None));
}

#[test]
fn answer_that_comes_while_the_request_is_on_its_way_is_not_undone() {
    let neighbours = table();
    neighbours.want(PEER);
    neighbours.poll(0, |_| neighbours.receive_arp(0, &answer(PEER, PEER_MAC)).is_some());
    assert_eq!((neighbours.lookup(PEER), neighbours.next_deadline()), (Some(PEER_MAC), Some(LIFETIME)));
}

// RFC 5227.

#[test]
fn s2_4_a_station_with_our_address_is_a_conflict_and_not_learnt() {
    let neighbours = table();
    neighbours.receive_arp(0, &arp(ALL, 1, (OTHER_MAC, IP), IP));
    neighbours.receive_arp(0, &arp(MAC, 2, (OTHER_MAC, IP), PEER));
    assert_eq!((neighbours.stats().conflicts, neighbours.lookup(IP)), (2, None));
}

#[test]
fn s2_1_1_a_probe_tells_no_address() {
    let neighbours = table();
    neighbours.want(PEER);
    neighbours.receive_arp(0, &arp(ALL, 1, (OTHER_MAC, Ipv4Addr::UNSPECIFIED), PEER));
    assert_eq!((neighbours.lookup(PEER), neighbours.lookup(Ipv4Addr::UNSPECIFIED)), (None, None));
    assert_eq!(neighbours.stats().conflicts, 0);
}

#[test]
fn s2_3_an_announcement_is_honoured_for_a_known_neighbour_only() {
    let neighbours = table();
    let announce = |ip, mac| neighbours.receive_arp(9, &arp(ALL, 1, (mac, ip), ip));
    assert_eq!(announce(PEER, PEER_MAC), None);
    assert_eq!(neighbours.lookup(PEER), None);
    neighbours.want(PEER);
    assert_eq!(announce(PEER, PEER_MAC), Some(PEER));
    assert_eq!(announce(PEER, OTHER_MAC), None);
    assert_eq!(neighbours.lookup(PEER), Some(OTHER_MAC));
}

// Neighbours by other ways than ARP.

#[test]
fn static_neighbour_is_never_asked_for_and_arp_does_not_change_it() {
    let neighbours = table();
    neighbours.want(PEER);
    neighbours.set_static(PEER, PEER_MAC).unwrap();
    neighbours.pin(PEER).unwrap();
    assert_eq!(neighbours.receive_arp(0, &answer(PEER, OTHER_MAC)), None);
    neighbours.learn(0, PEER, OTHER_MAC).unwrap();
    assert!(asked(&neighbours, NEVER - 1).is_empty());
    assert_eq!((neighbours.lookup(PEER), neighbours.next_deadline()), (Some(PEER_MAC), None));
    neighbours.set_static(PEER, OTHER_MAC).unwrap();
    assert_eq!(neighbours.lookup(PEER), Some(OTHER_MAC));
}

#[test]
fn learnt_neighbour_is_known_without_a_request_and_ages_as_any() {
    let neighbours = table();
    neighbours.learn(SECOND, PEER, PEER_MAC).unwrap();
    assert_eq!((neighbours.lookup(PEER), neighbours.next_deadline()), (Some(PEER_MAC), Some(61 * SECOND)));
    assert!(asked(&neighbours, 61 * SECOND).is_empty());
    assert_eq!(neighbours.lookup(PEER), None);
    assert_eq!(neighbours.learn(0, PEER, ALL), Err(NeighbourError::NotAStation(ALL)));
}

#[test]
fn strangers_that_are_wanted_displace_nobody_who_is_known_or_pinned() {
    let neighbours = table();
    let host = |n: u32| Ipv4Addr::from_bits(0x0A00_0100 + n);
    let (known, pinned) = (host(1), host(2));
    neighbours.learn(0, known, PEER_MAC).unwrap();
    neighbours.pin(pinned).unwrap();
    for n in 3..10_000 {
        neighbours.want(host(n));
        asked(&neighbours, 0);
    }
    assert_eq!(neighbours.lookup(known), Some(PEER_MAC));
    assert!(neighbours.table().find(pinned).is_some());
    assert!(
        neighbours.table().find(host(9_999)).is_some(),
        "the last one has taken the place of one that did not answer"
    );
    assert_eq!(neighbours.stats().refused, 0);
    // Nobody is displaced before he was asked for once.
    let crowded = table();
    (0..10_000).for_each(|n| crowded.want(host(n)));
    assert_eq!(crowded.stats().refused, 10_000 - asked(&crowded, 0).len() as u64);
}

#[test]
fn full_table_refuses_a_pin_and_says_what_to_do() {
    let neighbours = table();
    let refused = (0..10_000).find_map(|n| neighbours.pin(Ipv4Addr::from_bits(0x0A00_0100 + n)).err());
    assert!(refused.is_some_and(|error| error.to_string().contains("unpin others")));
    let pinned = neighbours.table().entries.iter().filter(|entry| entry.pins == 1).count();
    assert!(pinned >= SLOTS / 2, "{pinned}");
}

#[test]
fn addresses_of_no_other_host_are_not_asked_for() {
    let neighbours = table();
    for text in ["10.0.0.1", "10.0.0.0", "10.0.0.255", "255.255.255.255", "239.1.1.1", "0.0.0.0", "127.0.0.1"] {
        let ip: Ipv4Addr = text.parse().unwrap();
        neighbours.want(ip);
        assert_eq!(neighbours.pin(ip), Err(NeighbourError::NotAHost(ip)));
    }
    assert_eq!((neighbours.next_deadline(), neighbours.stats()), (None, NeighbourStats::default()));
    // RFC 3021: both addresses of a network of two are hosts'.
    let config = Config::new(MAC, PEER, 31, 1);
    assert_eq!(Neighbours::new(&config).pin(Ipv4Addr::new(10, 0, 0, 3)), Ok(()));
}

// RFC 1122, 3.3.1.1 and 3.3.1.2; RFC 4632, 5.1.

#[test]
fn packets_go_to_their_network_by_the_longest_prefix_and_else_to_the_default_gateway() {
    let mut neighbours = table();
    let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    neighbours.add_route(ip("172.16.0.0"), 12, ip("10.0.0.3")).unwrap();
    // Bits behind the prefix do not count.
    neighbours.add_route(ip("172.16.5.77"), 24, ip("10.0.0.4")).unwrap();
    neighbours.add_route(ip("172.16.5.9"), 32, ip("10.0.0.5")).unwrap();
    for (to, hop) in [
        ("10.0.0.77", "10.0.0.77"),
        ("172.31.9.9", "10.0.0.3"),
        ("172.16.5.8", "10.0.0.4"),
        ("172.16.5.9", "10.0.0.5"),
        ("172.32.0.1", "10.0.0.254"),
        ("8.8.8.8", "10.0.0.254"),
    ] {
        assert_eq!(neighbours.next_hop(ip(to)), ip(hop), "{to}");
    }
    assert_eq!(neighbours.add_route(ip("172.16.0.0"), 33, PEER), Err(NeighbourError::Prefix(33)));
    assert_eq!(neighbours.add_route(ip("172.16.0.0"), 16, IP), Err(NeighbourError::NotAHost(IP)));
}

#[test]
fn packet_without_a_route_goes_to_its_destination() {
    let config = Config::new(MAC, IP, 24, 1);
    let far = Ipv4Addr::new(192, 0, 2, 1);
    assert_eq!(Neighbours::new(&config).next_hop(far), far);
}

// The table under other eyes.

#[test]
fn answer_of_a_slot_is_not_taken_for_that_of_the_address_before() {
    let slot = Slot::default();
    slot.assign(PEER);
    slot.set(Some(PEER_MAC));
    let key = slot.key.load(Ordering::Acquire);
    assert_eq!(slot.mac(key), Some(PEER_MAC));
    slot.assign(GATEWAY);
    assert_eq!(slot.mac(key), None);
    slot.set(Some(OTHER_MAC));
    assert_eq!(slot.mac(key), None);
}

/// One thread uses a slot for one address after the other, two read.
#[test]
fn readers_never_get_the_answer_of_the_slot_s_other_address() {
    const TURNS: u32 = 1_000_000;
    let (slot, over, reading) = (Slot::default(), AtomicBool::new(false), AtomicU32::new(0));
    let pairs = [(PEER, PEER_MAC), (GATEWAY, OTHER_MAC)];
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut found = false;
                while !over.load(Ordering::Relaxed) {
                    let key = slot.key.load(Ordering::Acquire);
                    let Some(answer) = slot.mac(key) else { continue };
                    assert!(pairs.contains(&(Ipv4Addr::from_bits(key as u32), answer)), "{key:#x} {answer}");
                    if !found {
                        found = true;
                        reading.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        // Until both have found answers, or one a wrong one.
        let mut turns = 0;
        while turns < TURNS || reading.load(Ordering::Relaxed) < 2 && !readers.iter().any(|reader| reader.is_finished())
        {
            for (ip, mac) in pairs {
                slot.assign(ip);
                slot.set(Some(mac));
            }
            turns += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[derive(Debug, Clone)]
enum Step {
    Want(u8),
    Pin(u8),
    Unpin(u8),
    Answer(u8, u8),
    Wait(u32),
    Noise(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let host = 2..20u8;
    prop_oneof![
        host.clone().prop_map(Step::Want),
        host.clone().prop_map(Step::Pin),
        host.clone().prop_map(Step::Unpin),
        (host, 1..4u8).prop_map(|(host, mac)| Step::Answer(host, mac)),
        (0..30_000u32).prop_map(Step::Wait),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(Step::Noise),
    ]
}

proptest! {
    /// Whatever happens: a host is asked for at most once a second, what is looked up was told within the last minute, and the deadline is kept.
    #[test]
    fn table_keeps_its_pace_and_believes_nothing_for_longer_than_a_minute(steps in prop::collection::vec(step(), 1..200)) {
        let neighbours = table();
        let (mut now, mut last) = (0, [None; 256]);
        let mut told: [Option<(Nanos, MacAddress)>; 256] = [None; 256];
        for step in steps {
            let ip = |host: u8| Ipv4Addr::new(10, 0, 0, host);
            match step {
                Step::Want(host) => neighbours.want(ip(host)),
                Step::Pin(host) => neighbours.pin(ip(host)).unwrap(),
                Step::Unpin(host) => neighbours.unpin(ip(host)),
                Step::Answer(host, mac) => {
                    let mac = MacAddress([2, 0, 0, 0, mac, host]);
                    neighbours.receive_arp(now, &answer(ip(host), mac));
                    told[usize::from(host)] = Some((now, mac));
                }
                Step::Wait(milliseconds) => now += Nanos::from(milliseconds) * 1_000_000,
                Step::Noise(bytes) => _ = neighbours.receive_arp(now, &bytes),
            }
            for (ip, _) in asked(&neighbours, now) {
                let last: &mut Option<Nanos> = &mut last[usize::from(ip.octets()[3])];
                prop_assert!(last.is_none_or(|last| now - last >= SECOND), "{} at {}", ip, now);
                *last = Some(now);
            }
            prop_assert!(neighbours.next_deadline().is_none_or(|deadline| deadline > now));
            for host in 0..=255 {
                if let Some(mac) = neighbours.lookup(ip(host)) {
                    let (at, last) = told[usize::from(host)].unwrap();
                    prop_assert!(mac == last && now - at < LIFETIME);
                }
            }
        }
    }
}
