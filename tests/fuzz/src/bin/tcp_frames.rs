//! Frames into a stack with live sessions: segments near what is expected, changed in any byte, and anything else. Nothing panics, and when all is
//! given up nothing is left.
#![no_main]
#![forbid(unsafe_code)]

use barewire_fuzz::Bytes;
use barewire_fuzz::lane::{Bench, FIRST_PEER, PEERS, PORT, Peer, Segment, options};
use barewire_netstack::wire::flag;
use libfuzzer_sys::fuzz_target;

const MILLISECOND: u64 = 1_000_000;
/// Steps of a run, at most.
const STEPS: usize = 64;
/// Maximum segment size, SACK permitted, a shift.
const SYN_OPTIONS: &[u8] = &[2, 4, 5, 0xB4, 1, 1, 4, 2, 1, 3, 3, 2];

fn number(bytes: &mut Bytes<'_>, near: u32) -> u32 {
    match bytes.byte() {
        0..128 => near,
        128..224 => near.wrapping_add_signed(i32::from(bytes.byte() as i8) * 16),
        _ => bytes.u32(),
    }
}

fn frame(bytes: &mut Bytes<'_>, peers: &mut [Peer]) -> Vec<u8> {
    let at = bytes.byte() as usize % peers.len();
    let (seq, ack) = (number(bytes, peers[at].seq), number(bytes, peers[at].ack));
    let flags = match bytes.byte() {
        0..160 => flag::ACK,
        160..200 => flag::ACK | flag::FIN,
        other => other,
    };
    let (options, payload) = (if bytes.flag() { bytes.some(41) } else { Vec::new() }, bytes.some(32));
    if seq == peers[at].seq {
        peers[at].seq = seq.wrapping_add(payload.len() as u32);
    }
    let window = if bytes.flag() { bytes.u16() } else { 0xFFFF };
    let from = FIRST_PEER + at as u16;
    let segment = Segment { from, to: PORT, seq, ack, flags, window, options: &options, payload: &payload };
    let mut frame = segment.frame();
    if bytes.byte() < 16 {
        let at = usize::from(bytes.u16()) % frame.len();
        frame[at] ^= bytes.byte();
        frame.truncate(14.max(frame.len().saturating_sub(usize::from(bytes.byte() % 64))));
    }
    frame
}

fuzz_target!(|data: &[u8]| {
    let bytes = &mut Bytes(data);
    let mut bench = Bench::new(&options(bytes.byte()));
    let mut peers: Vec<_> = (0..PEERS).map(|peer| bench.open(FIRST_PEER + peer, [SYN_OPTIONS, &[]])).collect();
    for _ in 0..STEPS {
        if bytes.0.is_empty() {
            break;
        }
        match bytes.byte() {
            0..160 => {
                let frame = frame(bytes, &mut peers);
                bench.receive(frame);
            }
            160..176 => {
                let mut frame = bytes.some(128);
                frame.resize(frame.len().max(14), 0);
                bench.receive(frame);
            }
            176..208 => {
                let at = usize::from(bytes.byte());
                let Some(id) = bench.ids.get(at % bench.ids.len().max(1)).copied() else { continue };
                if let Ok(sent) = bench.context().tcp_send(id, &[7; 600][..usize::from(bytes.byte()) * 2 + 1])
                    && let Some(peer) = peers.get_mut(at % bench.ids.len().max(1))
                {
                    peer.ack = peer.ack.wrapping_add(sent as u32);
                }
                bench.context().flush();
            }
            208..224 => {
                let Some(id) = bench.ids.get(usize::from(bytes.byte()) % bench.ids.len().max(1)).copied() else {
                    continue;
                };
                let most = bytes.byte();
                let _ = bench.context().tcp_receive(id, |text| text.len().min(most.into()));
            }
            _ => bench.wait(u64::from(bytes.byte()) * 8 * MILLISECOND),
        }
    }
    bench.finish();
});
