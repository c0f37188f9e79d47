//! SoupBinTCP, both sides against each other, and against nonsense.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;
use crate::fields::Alpha;

fn packet(bytes: &[u8]) -> Packet<'_> {
    split(bytes).unwrap().unwrap().0
}

fn open() -> (Client, Server) {
    let (mut client, request) = Client::login(0, "TRADER", "SECRET", "", 1);
    let mut server = Server::new(0);
    let expected = ServerEvent::Login { user: "TRADER", password: "SECRET", session: "", next_sequence: 1 };
    assert_eq!(server.receive(0, packet(&request)), expected);
    let accepted = server.accept(0, "S1", 1);
    assert_eq!(
        client.receive(0, packet(&accepted)),
        ClientEvent::Accepted { session: Alpha::new("S1"), next_sequence: 1 }
    );
    (client, server)
}

#[test]
fn login_opens_and_messages_are_numbered() {
    let (mut client, mut server) = open();
    let mut bytes = Vec::new();
    wrap(kind::SEQUENCED, b"one", &mut bytes);
    assert_eq!(client.receive(1, packet(&bytes)), ClientEvent::Message(1, b"one"));
    assert_eq!(client.receive(1, packet(&bytes)), ClientEvent::Message(2, b"one"));
    bytes[2] = kind::UNSEQUENCED;
    assert_eq!(server.receive(1, packet(&bytes)), ServerEvent::Message(b"one"));
    assert_eq!(server.receive(1, packet(&client.logout())), ServerEvent::Logout);
    assert_eq!((client.state(), server.state()), (State::Ended, State::Ended));
}

#[test]
fn login_rejected_ends() {
    let (mut client, _) = Client::login(0, "X", "Y", "", 1);
    let rejected = Server::new(0).reject("A");
    assert_eq!(client.receive(0, packet(&rejected)), ClientEvent::Rejected(b'A'));
    assert_eq!(client.state(), State::Ended);
}

#[test]
fn silence_brings_a_heartbeat_and_then_the_end() {
    let (mut client, mut server) = open();
    assert_eq!(client.poll(HEARTBEAT - 1), None);
    let beat = client.poll(HEARTBEAT).unwrap();
    assert_eq!(server.receive(HEARTBEAT, packet(&beat)), ServerEvent::Nothing);
    assert_eq!(client.deadline(), Some(2 * HEARTBEAT));
    assert_eq!(client.poll(TIMEOUT), None);
    assert_eq!((client.state(), client.deadline()), (State::Ended, None));
    assert_eq!(server.poll(TIMEOUT).map(|beat| beat[2]), Some(kind::SERVER_HEARTBEAT));
}

#[test]
fn patient_ends_bear_longer_silence() {
    let (client, _) = Client::login(0, "X", "Y", "", 1);
    let (mut client, mut server) = (client.with_patience(2 * TIMEOUT), Server::new(0).with_patience(2 * TIMEOUT));
    for now in [TIMEOUT, 2 * TIMEOUT - 1] {
        assert!(client.poll(now).is_some() && server.poll(now).is_some(), "heartbeats at {now}");
    }
    assert_eq!([client.poll(2 * TIMEOUT), server.poll(2 * TIMEOUT)], [None, None]);
    assert_eq!([client.state(), server.state()], [State::Ended; 2]);
}

#[test]
fn message_before_login_is_unexpected() {
    let mut bytes = Vec::new();
    wrap(kind::UNSEQUENCED, b"x", &mut bytes);
    assert_eq!(Server::new(0).receive(0, packet(&bytes)), ServerEvent::Unexpected(kind::UNSEQUENCED));
    wrap(kind::LOGIN_REQUEST, b"short", &mut bytes);
    assert_eq!(Server::new(0).receive(0, packet(&bytes[4..])), ServerEvent::Unexpected(kind::LOGIN_REQUEST));
}

#[test]
fn nonsense_lengths_are_errors() {
    assert_eq!(split(&[0, 0, 1]), Err(Error::Empty));
    assert_eq!(split(&[0xFF, 0xFF, 1]), Err(Error::TooLong(0xFFFF)));
    assert_eq!(split(&[0]), Ok(None));
}

/// A packet's type and payload.
type Owned = (u8, Vec<u8>);

/// The packets of a stream that comes in pieces of these lengths, and how it ends.
fn assemble(stream: &[u8], cuts: impl IntoIterator<Item = usize>) -> (Vec<Owned>, Result<(), Error>) {
    let (mut assembler, mut got, mut rest) = (Assembler::default(), Vec::new(), stream);
    for cut in cuts.into_iter().chain([stream.len()]) {
        let (now, later) = rest.split_at(cut.min(rest.len()));
        let fed = assembler.feed(now, |packet| got.push((packet.kind, packet.payload.to_vec())));
        if fed.is_err() {
            return (got, fed);
        }
        rest = later;
    }
    (got, Ok(()))
}

/// Every packet of fixed length, with its payload changed: cut, lengthened, or with a letter where a number belongs.
#[test]
fn control_packets_are_read_strictly() {
    let login = Client::login(0, "TRADER", "SECRET", "", 7).1;
    let accepted = Server::new(0).accept(0, "S1", 7);
    let reads = |packet: &[u8], by_client: bool| {
        let packet = split(packet).unwrap().unwrap().0;
        if by_client {
            let unexpected = ClientEvent::Unexpected(packet.kind);
            Client::login(0, "T", "S", "", 1).0.receive(0, packet) != unexpected
        } else {
            Server::new(0).receive(0, packet) != ServerEvent::Unexpected(packet.kind)
        }
    };
    for (packet, by_client) in
        [(&login, false), (&accepted, true), (&Server::new(0).reject("A"), true), (&Server::new(0).end(), true)]
    {
        assert!(reads(packet, by_client));
        let payload = &packet[3..];
        for len in (0..payload.len() + 2).filter(|len| *len != payload.len()) {
            let mut bytes = Vec::new();
            wrap(packet[2], &[payload, b"  "].concat()[..len], &mut bytes);
            assert!(!reads(&bytes, by_client), "type {} with {len} bytes", char::from(packet[2]));
        }
    }
    for (mut packet, by_client) in [(login, false), (accepted, true)] {
        let last = packet.len() - 1;
        for wrong in [b'x', b'+', b'-', b' ', 0, 0xFF] {
            packet[last] = wrong;
            assert!(!reads(&packet, by_client), "{wrong:#04x}");
        }
    }
}

#[test]
fn number_beyond_64_bits_is_refused() {
    let mut request = Client::login(0, "TRADER", "SECRET", "", u64::MAX).1;
    let number = |request: &[u8]| match Server::new(0).receive(0, packet(request)) {
        ServerEvent::Login { next_sequence, .. } => Some(next_sequence),
        _ => None,
    };
    assert_eq!(number(&request), Some(u64::MAX));
    let last = request.len() - 1;
    request[last] = b'9';
    assert_eq!(number(&request), None);
}

proptest! {
    #[test]
    fn assembler_finds_the_same_packets_however_the_stream_is_cut(
        packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 1..20),
        garbage in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        cuts in prop::collection::vec(0usize..80, 0..200),
    ) {
        let mut stream = Vec::new();
        packets.iter().for_each(|(kind, payload)| wrap(*kind, payload, &mut stream));
        prop_assert_eq!(assemble(&stream, cuts.clone()), (packets.clone(), Ok(())));
        prop_assert_eq!(assemble(&stream, vec![1; stream.len()]), (packets, Ok(())));
        // Whatever follows, the cuts change neither what is found before it makes no sense, nor what is wrong with it.
        stream.extend(garbage.unwrap_or_default());
        prop_assert_eq!(assemble(&stream, cuts), assemble(&stream, []));
    }

    #[test]
    fn any_packet_in_any_state_is_taken(packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 0..20)) {
        let (mut client, _) = Client::login(0, "T", "S", "", 1);
        let mut server = Server::new(0);
        for (kind, payload) in &packets {
            client.receive(1, Packet { kind: *kind, payload });
            if let ServerEvent::Login { next_sequence, .. } = server.receive(1, Packet { kind: *kind, payload }) {
                server.accept(1, "S1", next_sequence);
            }
        }
    }
}
