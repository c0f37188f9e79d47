//! MoldUDP64 packets near the sequence and far from it, damaged, or any bytes, at a receiver and at a re-request server. Messages are passed on once
//! and in ascending order, what was left out is counted, each packet by what became of it; and a server answers what it was asked for, or
//! counts why not.
#![no_main]
#![forbid(unsafe_code)]

use std::cell::RefCell;

use barewire::feed::moldudp64::{HEADER, Receiver};
use barewire::feed::retransmission::{RETAINED, Retransmitter};
use barewire_fuzz::Bytes;
use barewire_fuzz::feed::{MOST, SESSION, damage, end_of_session, number, packet, text};
use libfuzzer_sys::fuzz_target;

/// Messages that the server has published; it keeps all but the first hundred.
const PUBLISHED: u64 = RETAINED as u64 + 100;

thread_local! {
    /// Answers change nothing but its counters, so that one serves all inputs.
    static SERVER: RefCell<Retransmitter> = RefCell::new({
        let mut server = Retransmitter::new(SESSION);
        (1..=PUBLISHED).for_each(|number| server.published(&text(number)));
        server
    });
}

/// The numbers that `receiver` passes on from `packet`; whether they are in order, and every packet counted.
fn receive(receiver: &mut Receiver, packet: &[u8], is_ours: bool) {
    let (before, mut next) = (receiver.stats(), receiver.next_sequence());
    receiver.receive(packet, |number, bytes| {
        assert!(number >= next, "{number} after {next}");
        assert!(!is_ours || bytes == text(number), "{bytes:?} as {number}");
        next = number + 1;
    });
    let stats = receiver.stats();
    assert_eq!(stats.packets + stats.truncated, before.packets + before.truncated + 1);
    let refused = stats.bad_sequence + stats.other_session - before.bad_sequence - before.other_session;
    let taken = stats.messages + stats.duplicates - before.messages - before.duplicates;
    assert!(refused <= 1 && (refused == 0 || taken == 0));
    if taken > 0 && stats.bad_blocks == before.bad_blocks {
        assert_eq!(packet[18..20], (taken as u16).to_be_bytes());
    }
    // Every number up to the next one was passed on or missing.
    assert_eq!(receiver.next_sequence(), 1 + stats.messages + stats.missing);
}

fn ask(bytes: &mut Bytes<'_>, server: &mut Retransmitter) {
    let near = if bytes.flag() { PUBLISHED - 1 } else { 101 };
    let (first, count) = (number(bytes, near), bytes.u16() % 512);
    let mut request = packet(first, 0);
    request[18..20].copy_from_slice(&count.to_be_bytes());
    damage(bytes, &mut request);
    let mut buffer = [0; 1400];
    let room = HEADER + usize::from(bytes.u16()) % (buffer.len() - HEADER);
    let before = server.stats();
    let answer = server.answer(&request, &mut buffer[..room]).map(|len| &buffer[..len]);
    let stats = server.stats();
    let causes = [stats.answered, stats.malformed, stats.other_session, stats.too_old, stats.too_new];
    let earlier = [before.answered, before.malformed, before.other_session, before.too_old, before.too_new];
    assert_eq!(causes.iter().sum::<u64>(), earlier.iter().sum::<u64>() + 1);
    assert_eq!(answer.is_some(), stats.answered > before.answered);
    if let Some(answer) = answer {
        let count = stats.messages - before.messages;
        assert!(request[..10] == SESSION && count <= u64::from(u16::from_be_bytes([request[18], request[19]])));
        assert!(first > 100 && first + count <= PUBLISHED + 1);
        assert_eq!(answer, packet(first, count));
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes = &mut Bytes(data);
    let mut receiver = Receiver::from_start();
    let mut is_ours = true;
    SERVER.with_borrow_mut(|server| {
        while !bytes.0.is_empty() {
            match bytes.byte() {
                0..160 => {
                    let first = number(bytes, receiver.next_sequence());
                    let mut packet = packet(first, u64::from(bytes.byte() % MOST));
                    damage(bytes, &mut packet);
                    receive(&mut receiver, &packet, is_ours);
                }
                160..176 => {
                    let next = receiver.next_sequence();
                    receive(&mut receiver, &end_of_session(next), is_ours);
                }
                176..192 => {
                    // Blocks of any length: what is in them is anything from then on.
                    is_ours = false;
                    let mut packet = packet(receiver.next_sequence(), 0);
                    packet.truncate(HEADER - 2);
                    packet.extend(bytes.some(128));
                    receive(&mut receiver, &packet, false);
                }
                192..200 => {
                    is_ours = false;
                    receive(&mut receiver, &bytes.some(40), false);
                }
                _ => ask(bytes, server),
            }
        }
    });
});
