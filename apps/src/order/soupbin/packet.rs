//! Packets: a length, a type, a payload.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::MAX_PAYLOAD;
use crate::fields::Alpha;

/// A packet's length field counts the type and the payload.
const LENGTH: usize = 2;

/// A small packet that is written apart from the stream.
pub type Control = ArrayVec<u8, 64>;

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A length of zero leaves no room for the type.
    #[error("packet has length zero")]
    Empty,
    /// A length beyond what any message needs.
    #[error("packet claims {0} bytes")]
    TooLong(usize),
}

/// A packet, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The type's letter.
    pub kind: u8,
    /// What follows.
    pub payload: &'a [u8],
}

/// Types, by who sends them.
pub mod kind {
    /// Free text, either way.
    pub const DEBUG: u8 = b'+';
    /// Client: login request.
    pub const LOGIN_REQUEST: u8 = b'L';
    /// Client: a message that is not repeated after a reconnect.
    pub const UNSEQUENCED: u8 = b'U';
    /// Client: heartbeat.
    pub const CLIENT_HEARTBEAT: u8 = b'R';
    /// Client: logout request.
    pub const LOGOUT: u8 = b'O';
    /// Server: login accepted.
    pub const LOGIN_ACCEPTED: u8 = b'A';
    /// Server: login rejected.
    pub const LOGIN_REJECTED: u8 = b'J';
    /// Server: a numbered message.
    pub const SEQUENCED: u8 = b'S';
    /// Server: heartbeat.
    pub const SERVER_HEARTBEAT: u8 = b'H';
    /// Server: nothing follows.
    pub const END_OF_SESSION: u8 = b'Z';
}

/// Splits the first packet off; `None` when it is not complete.
pub fn split(bytes: &[u8]) -> Result<Option<(Packet<'_>, &[u8])>, Error> {
    let Some((len, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes(*len));
    if len > MAX_PAYLOAD + 1 {
        return Err(Error::TooLong(len));
    }
    if len == 0 {
        return Err(Error::Empty);
    }
    let Some((packet, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    Ok(packet.split_first().map(|(kind, payload)| (Packet { kind: *kind, payload }, rest)))
}

/// Puts packets together from a stream that is cut anywhere.
#[derive(Debug, Default)]
pub struct Assembler(Vec<u8>);

impl Assembler {
    /// Takes the next bytes of the stream and calls `packet` for each that is complete.
    ///
    /// # Errors
    /// When the stream makes no sense any more; the connection should be ended.
    pub fn feed(&mut self, bytes: &[u8], mut packet: impl FnMut(Packet<'_>)) -> Result<(), Error> {
        let mut held = std::mem::take(&mut self.0);
        let mut rest = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            held.as_slice()
        };
        while let Some((first, after)) = split(rest)? {
            packet(first);
            rest = after;
        }
        self.0 = rest.to_vec();
        Ok(())
    }
}

/// A packet of fixed text: texts with their widths, and whether they stand on the right.
pub(super) fn control(kind: u8, fields: &[(&str, usize, bool)]) -> Control {
    let mut packet = Control::new();
    let len: usize = fields.iter().map(|(_, width, _)| width).sum();
    // The longest, a login request, has 49 bytes: pushes cannot fail.
    packet.extend((1 + len as u16).to_be_bytes());
    packet.push(kind);
    for (text, width, right) in fields {
        let text = &text.as_bytes()[..text.len().min(*width)];
        let blanks = std::iter::repeat_n(b' ', width - text.len());
        if *right {
            packet.extend(blanks);
            packet.extend(text.iter().copied());
        } else {
            packet.extend(text.iter().copied());
            packet.extend(blanks);
        }
    }
    packet
}

/// Appends a packet around `payload`, a message of the protocol above, to `out`.
pub fn wrap(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u16 + 1).to_be_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
}

/// Text of a fixed field, without the blanks around it.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).map(|text| text.trim_matches(' '))
}

/// A number of a fixed field: digits, with blanks before them.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    let digits = text(bytes)?;
    // A sign is no digit, though the standard library takes one.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A session's name, as it is shown: on the right on the wire, on the left here.
pub(super) fn name(bytes: &[u8]) -> Option<Alpha<10>> {
    text(bytes).map(Alpha::new)
}
