//! The gateway, by what it has to send.
#![forbid(unsafe_code)]

use super::super::soupbin::{Client, ClientEvent, TIMEOUT, split};
use super::*;

const CREDENTIALS: [Credentials; 2] = [
    Credentials { user: Alpha(*b"FIRST "), password: Alpha(*b"SECRET    ") },
    Credentials { user: Alpha(*b"SECOND"), password: Alpha(*b"SECRET    ") },
];

fn gateway() -> Gateway<u32> {
    Gateway::new("DAY1", CREDENTIALS.to_vec(), TIMEOUT)
}

/// Connects as `id`, logs in, and returns what comes of it.
fn log_in(gateway: &mut Gateway<u32>, id: u32, user: &str, session: &str, next_sequence: u64) -> Client {
    let (client, request) = Client::login(0, user, "SECRET", session, next_sequence);
    assert!(gateway.connected(0, id));
    gateway.receive(0, id, &request, |_, _, _| {});
    client
}

/// What the client hears.
fn hear(gateway: &mut Gateway<u32>, id: u32, client: &mut Client) -> Vec<String> {
    let bytes = gateway.outbox(id).to_vec();
    gateway.sent(0, id, bytes.len());
    let (mut rest, mut heard) = (&*bytes, Vec::new());
    while let Some((packet, after)) = split(rest).unwrap() {
        heard.push(match client.receive(0, packet) {
            ClientEvent::Accepted { session, next_sequence } => format!("accepted {session} {next_sequence}"),
            ClientEvent::Message(number, message) => format!("{number} {}", String::from_utf8_lossy(message)),
            other => format!("{other:?}"),
        });
        rest = after;
    }
    heard
}

#[test]
fn messages_are_kept_and_said_again_from_any_number() {
    let mut gateway = gateway();
    for message in ["one", "two", "three"] {
        gateway.logs().say(AccountId(0), message.as_bytes());
    }
    gateway.logs().say(AccountId(1), b"another's");
    let ask = |gateway: &mut Gateway<u32>, id, number| {
        let mut client = log_in(gateway, id, "FIRST", "", number);
        hear(gateway, id, &mut client)
    };
    assert_eq!(ask(&mut gateway, 1, 1), ["accepted DAY1 1", "1 one", "2 two", "3 three"]);
    assert_eq!(ask(&mut gateway, 2, 3), ["accepted DAY1 3", "3 three"]);
    assert_eq!(ask(&mut gateway, 3, 4), ["accepted DAY1 4"]);
    assert_eq!(ask(&mut gateway, 4, 0), ["accepted DAY1 4"], "zero is for new ones only");
    assert_eq!(ask(&mut gateway, 5, u64::MAX), ["accepted DAY1 4"], "a number that is not reached");
    assert_eq!(gateway.stats(), Stats { logins: 5, replayed: 4, ..Stats::default() });
}

#[test]
fn unknown_user_and_other_session_are_refused_and_closed() {
    let mut gateway = gateway();
    for (id, user, session, reason) in [(1, "NOBODY", "", b'A'), (2, "FIRST", "DAY2", b'S')] {
        let mut client = log_in(&mut gateway, id, user, session, 1);
        assert!(!gateway.is_over(id), "the answer is not sent");
        assert_eq!(hear(&mut gateway, id, &mut client), [format!("Rejected({reason})")]);
        assert!(gateway.is_over(id));
    }
    let mut client = log_in(&mut gateway, 3, "FIRST", "DAY1", 1);
    assert_eq!(hear(&mut gateway, 3, &mut client), ["accepted DAY1 1"]);
    assert_eq!((gateway.stats().refused, gateway.stats().logins), (2, 1));
}

#[test]
fn connections_are_bounded_and_silent_ones_end() {
    let mut gateway = gateway();
    (0..MAX_CONNECTIONS as u32).for_each(|id| assert!(gateway.connected(0, id)));
    assert!(!gateway.connected(0, u32::MAX));
    let mut left = Vec::new();
    let (mut client, request) = Client::login(0, "SECOND", "SECRET", "", 1);
    gateway.receive(0, 5, &request, |_, _, _| {});
    assert_eq!(hear(&mut gateway, 5, &mut client), ["accepted DAY1 1"]);
    gateway.poll(TIMEOUT / 2);
    assert_eq!(hear(&mut gateway, 5, &mut client), ["Nothing"], "a heartbeat");
    assert!(gateway.outbox(6).is_empty(), "nobody there to be told");
    gateway.poll(TIMEOUT);
    let over: Vec<_> = gateway.connections().filter(|id| gateway.is_over(*id)).collect();
    assert_eq!(over.len(), MAX_CONNECTIONS);
    over.into_iter()
        .for_each(|id| gateway.closed(id, |account, request, _| left.push((account, request == Request::Left))));
    assert_eq!((left, gateway.deadline()), (vec![(AccountId(1), true)], None));
}

#[test]
fn end_of_session_follows_everything_that_was_said() {
    let mut gateway = gateway();
    let mut client = log_in(&mut gateway, 1, "FIRST", "", 1);
    // More than is made ready at a time.
    (0..2_000).for_each(|_| gateway.logs().say(AccountId(0), b"message"));
    gateway.end();
    let heard = hear(&mut gateway, 1, &mut client);
    assert_eq!((heard.len(), &*heard[2_000], &*heard[2_001]), (2_002, "2000 message", "Ended"));
    assert!(gateway.is_over(1));
}

#[test]
fn stream_that_makes_no_sense_ends_and_packets_that_make_none_are_counted() {
    let mut gateway = gateway();
    let mut client = log_in(&mut gateway, 1, "FIRST", "", 1);
    hear(&mut gateway, 1, &mut client);
    let mut messages = 0;
    gateway.receive(0, 1, &[0, 1, b'?', 0, 2, b'U', b'x', 0, 0, 0, 2, b'U', b'x'], |_, _, _| messages += 1);
    assert_eq!((messages, gateway.stats().unexpected, gateway.stats().broken), (1, 1, 1));
    assert!(gateway.is_over(1));
}
