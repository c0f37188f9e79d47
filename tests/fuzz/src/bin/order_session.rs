//! Any bytes as SoupBinTCP, cut anywhere, at both ends of an order session: before a login, and after a real one.
#![no_main]
#![forbid(unsafe_code)]

use barewire::fields::Alpha;
use barewire::order::gateway::{Credentials, Gateway};
use barewire::order::session::{Backoff, Session};
use barewire::order::soupbin::{Assembler, TIMEOUT};
use libfuzzer_sys::fuzz_target;

const CREDENTIALS: Credentials = Credentials { user: Alpha(*b"TRADER"), password: Alpha(*b"SECRET    ") };

/// The packets in pieces of these lengths, and whether the stream ended in an error.
fn assemble(pieces: &[&[u8]]) -> (Vec<(u8, Vec<u8>)>, bool) {
    let (mut assembler, mut packets) = (Assembler::default(), Vec::new());
    for piece in pieces {
        if assembler.feed(piece, |packet| packets.push((packet.kind, packet.payload.to_vec()))).is_err() {
            return (packets, true);
        }
    }
    (packets, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((&[how, cut], stream)) = data.split_first_chunk::<2>() else { return };
    let (first, second) = stream.split_at(usize::from(cut).min(stream.len()));
    assert_eq!(assemble(&[stream]), assemble(&[first, second]), "a cut changes what is read");

    let mut gateway = Gateway::new("S1", vec![CREDENTIALS], TIMEOUT);
    let mut session = Session::new(CREDENTIALS, TIMEOUT, Backoff::default());
    assert!(session.connect_due(0) && gateway.connected(0, 1));
    session.connected(0);
    if how & 1 == 1 {
        let login = session.poll(0).expect("a login");
        gateway.receive(0, 1, &login, |_, _, _| {});
        let accepted = gateway.outbox(1).to_vec();
        gateway.sent(0, 1, accepted.len());
        session.receive(0, &accepted, |_| {}).expect("a login that is accepted");
    }
    for (now, piece) in [first, second].into_iter().enumerate() {
        let now = now as u64;
        gateway.receive(now, 1, piece, |account, _, logs| logs.say(account, b"S12345678O"));
        // Whatever it sends back is packets.
        let (answers, is_broken) = assemble(&[gateway.outbox(1)]);
        assert!(!is_broken && answers.len() < 4096);
        if session.receive(now, piece, |_| {}).is_err() {
            session.disconnected(now);
        }
        while session.poll(now).is_some() {}
    }
    gateway.poll(2 * TIMEOUT);
    gateway.closed(1, |_, _, _| {});
    assert_eq!(gateway.connections().count(), 0);
});
