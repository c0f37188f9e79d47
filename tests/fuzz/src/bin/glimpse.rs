//! A snapshot's stream, changed and cut anywhere, or any bytes, at a GLIMPSE client; and logins of all kinds at a server. The client learns the same
//! however the stream is cut, nothing after the end, and of an honest server the whole snapshot; the server says packets that make sense, or nothing.
#![no_main]
#![forbid(unsafe_code)]

use barewire::feed::glimpse::{Client, END_OF_SNAPSHOT, Error, Server, Update};
use barewire::order::soupbin::{self, TIMEOUT, kind};
use barewire_fuzz::Bytes;
use libfuzzer_sys::fuzz_target;

/// What a client learns: messages, the number at the end, and why it ends early.
#[derive(Debug, Default, PartialEq)]
struct Learned {
    messages: Vec<Vec<u8>>,
    next: Option<u64>,
    error: Option<Error>,
}

/// Feeds `stream` in pieces of up to `piece` bytes, as long as somebody would read on.
fn learn(stream: &[u8], piece: usize) -> Learned {
    let (mut client, _) = Client::login(0, "TRADER", "SECRET");
    let mut learned = Learned::default();
    for part in stream.chunks(piece) {
        let Learned { messages, next, error } = &mut learned;
        let received = client.receive(0, part, |update| {
            assert_eq!(*next, None, "more after the end");
            match update {
                Update::Message(message) => messages.push(message.to_vec()),
                Update::End(number) => *next = Some(number),
            }
        });
        *error = received.err();
        if error.is_some() || next.is_some() {
            break;
        }
    }
    // In the end there is a snapshot, or the client knows that there will be none.
    assert_eq!(client.poll(TIMEOUT).is_err(), learned.next.is_none());
    learned
}

/// What a server says to `stream`, and what is wrong with it.
fn serve(stream: &[u8], piece: usize, messages: &[Vec<u8>], next: u64) -> (Vec<u8>, bool) {
    let mut server = Server::new(0);
    for part in stream.chunks(piece) {
        let served = server.receive(0, part, |say| {
            messages.iter().for_each(|message| say(message));
            next
        });
        if served.is_err() {
            return (server.pending().to_vec(), true);
        }
    }
    let said = server.pending().to_vec();
    server.on_time(TIMEOUT);
    server.sent(said.len());
    assert!(server.is_over(), "a client is waited for without end");
    (said, false)
}

fn packet(bytes: &mut Bytes<'_>, stream: &mut Vec<u8>) {
    let kind = *b"SSSSSSSSSSAJHZ+U".get(usize::from(bytes.byte() % 20)).unwrap_or(&bytes.byte());
    let start = stream.len();
    match bytes.byte() {
        0..32 => {
            let number = if bytes.flag() { u64::from(bytes.byte()) } else { bytes.u64() };
            let end = format!("{}{number:>20}", char::from(END_OF_SNAPSHOT));
            soupbin::wrap(kind, end.as_bytes(), stream);
        }
        32..64 => {
            let mut server = soupbin::Server::new(0);
            stream.extend_from_slice(&if bytes.flag() { server.accept(0, "", 1) } else { server.reject("A") });
        }
        _ => soupbin::wrap(kind, &bytes.some(50), stream),
    }
    if bytes.byte() < 32 {
        let at = start + usize::from(bytes.byte()) % (stream.len() - start);
        stream[at] = bytes.byte();
    }
}

fn login(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut stream = Client::login(0, "TRADER", "SECRET").1.to_vec();
    for _ in 0..bytes.byte() % 4 {
        let at = usize::from(bytes.byte()) % stream.len();
        stream[at] = bytes.byte();
    }
    let before = bytes.some(12);
    stream.splice(0..0, before);
    stream.extend(bytes.some(12));
    stream
}

fuzz_target!(|data: &[u8]| {
    learn(data, data.len().max(1));
    let bytes = &mut Bytes(data);
    let piece = 1 + usize::from(bytes.byte());
    // What an honest server says arrives.
    let messages: Vec<_> = (0..bytes.byte() % 4).map(|_| [b"M".to_vec(), bytes.some(50)].concat()).collect();
    let next = bytes.u64().max(1);
    let (_, request) = Client::login(0, "TRADER", "SECRET");
    let (said, _) = serve(&request, piece, &messages, next);
    assert_eq!(learn(&said, piece), Learned { messages: messages.clone(), next: Some(next), error: None });
    // What comes to a server makes it say all of that once, or nothing.
    let login = login(bytes);
    let served = serve(&login, login.len(), &messages, next);
    assert_eq!(served, serve(&login, piece, &messages, next), "a cut changes what is said");
    assert!(served.0.is_empty() || served.0 == said);
    // And what comes to a client.
    let mut stream = if bytes.flag() { soupbin::Server::new(0).accept(0, "", 1).to_vec() } else { Vec::new() };
    while !bytes.0.is_empty() {
        packet(bytes, &mut stream);
    }
    let learned = learn(&stream, stream.len().max(1));
    assert_eq!(learned, learn(&stream, piece), "a cut changes what is learned");
    let accepted = stream.windows(3).any(|window| window == [0, 31, kind::LOGIN_ACCEPTED]);
    assert!(accepted || (learned.next.is_none() && learned.messages.is_empty()), "a snapshot before the login");
});
