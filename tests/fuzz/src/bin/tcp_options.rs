//! Options of any shape: in the SYN, in the segment that ends the handshake, and with text. A connection is accepted whatever they are; text that
//! is in order is read as it was sent, unless timestamps were agreed on and say that it is old (RFC 7323, 5.3).
#![no_main]
#![forbid(unsafe_code)]

use barewire_fuzz::Bytes;
use barewire_fuzz::lane::{Bench, FIRST_PEER, PORT, Segment, options};
use barewire_netstack::wire::flag;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = &mut Bytes(data);
    let session = options(bytes.byte());
    let mut bench = Bench::new(&session);
    let (in_syn, in_ack) = (bytes.some(41), bytes.some(41));
    let peer = bench.open(FIRST_PEER, [&in_syn, &in_ack]);
    let Some(id) = bench.ids.first().copied() else {
        assert!(session.timestamps, "no connection, without a timestamp that could be old");
        return bench.finish();
    };
    let mut seq = peer.seq;
    while !bytes.0.is_empty() {
        let (with_text, text) = (bytes.some(41), [bytes.byte(); 5]);
        let segment = Segment {
            from: FIRST_PEER,
            to: PORT,
            seq,
            ack: peer.ack,
            flags: flag::ACK,
            window: 0xFFFF,
            options: &with_text,
            payload: &text,
        };
        bench.receive(segment.frame());
        let mut read = Vec::new();
        let _ = bench.context().tcp_receive(id, |part| {
            read.extend_from_slice(part);
            part.len()
        });
        assert!(read == text || (session.timestamps && read.is_empty()), "{read:?} of {text:?}");
        seq = seq.wrapping_add(read.len() as u32);
        // What was sent has its blocks to be lied about.
        let _ = bench.context().tcp_send(id, b"seven..");
        bench.context().flush();
    }
    bench.finish();
});
