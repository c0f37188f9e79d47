//! OUCH 5.0 in SoupBinTCP as a real exchange and a real client wrote it: what is read and written again is the same, byte for byte.
#![forbid(unsafe_code)]

use std::path::Path;

use barewire::decode::{captures, payload};
use barewire::order::ouch::{Inbound, Outbound};
use barewire::order::soupbin::{self, kind};
use barewire_models::pcap;
use barewire_netstack::wire::TCP;

/// Reads every packet of `stream` and writes it again; says what it saw: types of packets, types of messages.
fn round_trip(mut stream: &[u8]) -> (Vec<u8>, String) {
    let (mut again, mut seen) = (Vec::new(), String::new());
    while let Some((packet, rest)) = soupbin::split(stream).unwrap() {
        let mut message = Vec::new();
        seen.push(packet.kind.into());
        match packet.kind {
            kind::UNSEQUENCED => Inbound::parse(packet.payload).unwrap().write(&mut message),
            kind::SEQUENCED => Outbound::parse(packet.payload).unwrap().write(&mut message),
            kind::CLIENT_HEARTBEAT | kind::SERVER_HEARTBEAT => assert!(packet.payload.is_empty()),
            other => panic!("packet of type {other:#04x}"),
        }
        seen.extend(message.first().map(|kind| char::from(*kind)));
        soupbin::wrap(packet.kind, &message, &mut again);
        stream = rest;
    }
    assert!(stream.is_empty(), "a packet that is not complete");
    (again, seen)
}

#[test]
fn captured_orders_and_answers_are_written_as_they_were_read() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/pcap/nasdaq-ouch50");
    if !shared.is_dir() {
        return barewire_tests::skip("captures of real order entry", "../shared/data/pcap is not here");
    }
    let mut seen = Vec::new();
    for path in captures(std::slice::from_ref(&shared)).unwrap() {
        pcap::read(&path, |frame| {
            let (protocol, stream) = payload(frame).unwrap();
            assert_eq!(protocol, TCP);
            let (again, kinds) = round_trip(stream);
            assert_eq!(again, stream, "{}", path.display());
            seen.push(kinds);
        })
        .unwrap();
    }
    seen.sort();
    assert_eq!(seen, ["H", "R", "SA", "SC", "UO", "UX"]);
}

/// Every packet of the captures, cut at every length and with every byte of its lengths changed: an error or another message, never a panic.
#[test]
fn captured_messages_that_are_damaged_are_refused_or_read_as_others() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/pcap/nasdaq-ouch50");
    if !shared.is_dir() {
        return barewire_tests::skip("captures of real order entry, damaged", "../shared/data/pcap is not here");
    }
    let (mut damaged, mut refused) = (0, 0);
    for path in captures(std::slice::from_ref(&shared)).unwrap() {
        pcap::read(&path, |frame| {
            let (_, stream) = payload(frame).unwrap();
            let Ok(Some((packet, _))) = soupbin::split(stream) else { panic!() };
            let mut read = |bytes: &[u8]| {
                let results = [Inbound::parse(bytes).is_ok(), Outbound::parse(bytes).is_ok()];
                damaged += 1;
                refused += u32::from(results == [false; 2]);
            };
            (0..packet.payload.len()).for_each(|len| read(&packet.payload[..len]));
            for at in 0..packet.payload.len() {
                for value in [0, 1, 0x7F, 0xFF] {
                    let mut bytes = packet.payload.to_vec();
                    bytes[at] = value;
                    read(&bytes);
                }
            }
        })
        .unwrap();
    }
    assert!(refused > 100 && refused < damaged, "{refused} of {damaged}");
}
