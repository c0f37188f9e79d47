//! Captures, changed in any byte and cut anywhere, or any bytes: the frames before the damage are delivered as they were written, and the error
//! says where it begins. Frames of any bytes are decoded to a line each message, and every view of a frame sees the same.
#![no_main]
#![forbid(unsafe_code)]

use std::path::Path;

use barewire::args::Protocol;
use barewire::decode::Lines;
use barewire_fuzz::Bytes;
use barewire_models::pcap::{PcapError, Writer, frames};
use barewire_netstack::wire::{Seen, see, see_plain_group, see_plain_tcp, see_tcp};
use libfuzzer_sys::fuzz_target;

/// Bytes of the header of a capture, and of a packet in it.
const HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

fn look(frame: &[u8], protocol: Option<Protocol>) {
    if let Some(udp) = see_plain_group(frame) {
        assert_eq!(see(frame), Seen::Group { udp, vlan: None });
    }
    if let Some(segment) = see_plain_tcp(frame) {
        assert_eq!(see_tcp(frame), Some(segment));
    }
    if let Some(segment) = see_tcp(frame) {
        assert_eq!(frame[usize::from(segment.payload_at)..][..segment.payload.len()], *segment.payload);
    }
    let mut out = Vec::new();
    let mut lines = Lines::new(&mut out, true);
    lines.frame(frame, protocol);
    let summary = lines.finish().expect("memory takes all");
    assert_eq!(summary.frames, 1);
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count() as u64, summary.messages + 1);
}

fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Result<(), PcapError>) {
    let mut got = Vec::new();
    let result = frames(Path::new("a capture"), bytes, |frame| got.push(frame.to_vec()));
    let end = HEADER + got.iter().map(|frame| PACKET_HEADER + frame.len()).sum::<usize>();
    match &result {
        Ok(()) => assert_eq!(end, bytes.len()),
        Err(PcapError::Cut { offset, .. }) => assert_eq!(end, *offset),
        Err(_) => assert!(got.is_empty()),
    }
    (got, result)
}

/// A frame of UDP or TCP to somewhere, and what the fuzzer makes of it.
fn frame(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let payload = bytes.some(100);
    let (protocol, header) = if bytes.flag() { (17, 8) } else { (6, 20) };
    let mut frame = vec![0; 34 + header];
    frame.extend(payload);
    let len = frame.len() as u16;
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[16..18].copy_from_slice(&(len - 14).to_be_bytes());
    frame[23] = protocol;
    frame[30] = 0xE9;
    if protocol == 17 {
        frame[38..40].copy_from_slice(&(len - 34).to_be_bytes());
    } else {
        frame[46] = 0x50;
    }
    for _ in 0..bytes.byte() % 4 {
        let at = usize::from(bytes.byte()) % frame.len();
        frame[at] = bytes.byte();
    }
    frame.truncate(frame.len().saturating_sub(if bytes.byte() < 32 { bytes.byte().into() } else { 0 }));
    frame
}

fuzz_target!(|data: &[u8]| {
    let _ = read(data);
    look(data, Some(Protocol::Itch));
    let bytes = &mut Bytes(data);
    let mut written = Vec::new();
    let frames: Vec<_> = (0..bytes.byte() % 6).map(|_| frame(bytes)).collect();
    let mut writer = Writer::new(&mut written).expect("memory takes all");
    for (at, frame) in frames.iter().enumerate() {
        let protocol = [None, Some(Protocol::Itch), Some(Protocol::Ouch)][usize::from(bytes.byte() % 3)];
        look(frame, protocol);
        writer.frame(at as u64, frame).expect("memory takes all");
    }
    drop(writer);
    let (got, result) = read(&written);
    result.expect("a capture as it was written");
    assert_eq!(got, frames);
    // Cut, what comes before is the same.
    let (got, _) = read(&written[..usize::from(bytes.u16()) % (written.len() + 1)]);
    assert_eq!(got, frames[..got.len()]);
    let at = usize::from(bytes.u16()) % written.len();
    written[at] ^= bytes.byte();
    let _ = read(&written);
});
