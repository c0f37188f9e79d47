//! A feed whose every message says its number, and its packets.

use barewire::feed::moldudp64::{Packet, Session};

use crate::Bytes;

/// The session.
pub const SESSION: Session = *b"BAREWIRE01";
/// Messages of a packet, at most.
pub const MOST: u8 = 25;

/// Message `number`.
pub fn text(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// A packet of `count` messages from number `first` on; of none, it is a heartbeat.
///
/// # Panics
/// When it holds more than [`MOST`].
pub fn packet(first: u64, count: u64) -> Vec<u8> {
    let mut buffer = [0; 1400];
    let mut packet = Packet::begin(&mut buffer, SESSION, first).expect("room for a header");
    (0..count).for_each(|at| assert!(packet.push(&text(first.wrapping_add(at)))));
    let len = packet.finish();
    buffer[..len].to_vec()
}

/// The end of the session, whose next message would have number `next`.
pub fn end_of_session(next: u64) -> Vec<u8> {
    let mut packet = packet(next, 0);
    packet[18..20].fill(0xFF);
    packet
}

/// Cuts a packet, gives it another count or another session, or leaves it as it is.
pub fn damage(bytes: &mut Bytes<'_>, packet: &mut Vec<u8>) {
    match bytes.byte() {
        0..32 => packet.truncate(usize::from(bytes.u16()) % packet.len()),
        32..64 => packet[18..20].copy_from_slice(&bytes.u16().to_be_bytes()),
        64..80 => packet[19] = packet[19].wrapping_add(bytes.byte() % 4),
        80..96 => packet[usize::from(bytes.byte() % 10)] ^= 1,
        _ => {}
    }
}

/// A number near `next`, or any.
pub fn number(bytes: &mut Bytes<'_>, next: u64) -> u64 {
    match bytes.byte() {
        0..128 => next,
        128..192 => next.wrapping_add_signed(i64::from(bytes.byte() as i8)),
        192..216 => next.wrapping_add(u64::from(bytes.u16())),
        216..232 => u64::MAX - u64::from(bytes.byte()),
        232..248 => bytes.byte().into(),
        _ => bytes.u64(),
    }
}
