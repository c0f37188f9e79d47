//! Captures to messages: one line a message, under the names of the specifications.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use barewire_models::pcap::{self, PcapError};
use barewire_netstack::wire::{TCP, UDP};
use serde::Serialize;

use crate::args::Protocol;
use crate::feed::itch::Message;
use crate::feed::moldudp64::{END_OF_SESSION, Header};
use crate::order::ouch::{Inbound, Outbound};
use crate::order::soupbin::{self, kind};

/// Why decoding stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Captures that cannot be read, or not to their end. What could be read was printed.
    #[error("{}", .0.iter().map(PcapError::to_string).collect::<Vec<_>>().join("; "))]
    Input(Vec<PcapError>),
    /// Output cannot be written.
    #[error("output: {0}")]
    Output(#[from] io::Error),
    /// The device model or the driver failed (replay).
    #[error("{0}")]
    Run(String),
}

impl From<PcapError> for Error {
    fn from(error: PcapError) -> Self {
        Self::Input(vec![error])
    }
}

/// What a run decoded; the last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Frames in the captures.
    pub frames: u64,
    /// ITCH messages, or SoupBinTCP packets.
    pub messages: u64,
    /// Frames and messages that came to nothing.
    pub errors: u64,
    /// A capture was cut off, damaged, or none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Writes messages as lines and counts them.
pub struct Lines<'a, W> {
    out: &'a mut W,
    json: bool,
    /// What was written so far.
    pub summary: Summary,
    failed: Option<io::Error>,
}

/// A SoupBinTCP packet as a line: its type, then the message in it.
#[derive(Serialize)]
struct Line<M> {
    packet_type: char,
    #[serde(flatten)]
    message: M,
}

/// What a packet without a message shows.
#[derive(Serialize)]
struct Text {
    #[serde(skip_serializing_if = "String::is_empty")]
    text: String,
}

impl<'a, W: Write> Lines<'a, W> {
    /// Lines into `out`, as JSON or as text.
    pub fn new(out: &'a mut W, json: bool) -> Self {
        Self { out, json, summary: Summary::default(), failed: None }
    }

    fn line(&mut self, message: &impl Serialize) {
        if self.failed.is_none() {
            self.failed = self.write(message).err();
        }
    }

    fn write(&mut self, message: &impl Serialize) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut *self.out, message)?;
            return writeln!(self.out);
        }
        // For people: name=value, without the quotes and braces.
        let value = serde_json::to_value(message)?;
        for (index, (name, value)) in value.as_object().into_iter().flatten().enumerate() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            write!(self.out, "{}{name}={text}", if index == 0 { "" } else { " " })?;
        }
        writeln!(self.out)
    }

    /// An ITCH message.
    pub fn itch(&mut self, bytes: &[u8]) {
        match Message::parse(bytes) {
            Ok(message) => {
                self.summary.messages += 1;
                self.line(&message);
            }
            Err(error) => self.error(&error),
        }
    }

    fn error(&mut self, error: &dyn std::fmt::Display) {
        log::warn!("frame {}: {error}", self.summary.frames);
        self.summary.errors += 1;
    }

    /// The messages of a MoldUDP64 packet, whatever its sequence.
    fn moldudp64(&mut self, packet: &[u8]) {
        use zerocopy::FromBytes;
        let Ok((header, mut blocks)) = Header::ref_from_prefix(packet) else {
            return self.error(&"MoldUDP64 packet is shorter than its header");
        };
        let count = header.count.get();
        if count == END_OF_SESSION {
            return;
        }
        for _ in 0..count {
            let block = blocks.split_first_chunk::<2>();
            let block = block.and_then(|(len, rest)| rest.split_at_checked(u16::from_be_bytes(*len).into()));
            let Some((message, rest)) = block else {
                return self.error(&"message block goes beyond its MoldUDP64 packet");
            };
            blocks = rest;
            self.itch(message);
        }
    }

    /// The SoupBinTCP packets of a TCP payload.
    fn soupbin(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match soupbin::split(bytes) {
                Ok(Some((packet, rest))) => {
                    self.packet(packet);
                    bytes = rest;
                }
                Ok(None) => return self.error(&"SoupBinTCP packet goes beyond its segment"),
                Err(error) => return self.error(&error),
            }
        }
    }

    fn packet(&mut self, packet: soupbin::Packet<'_>) {
        let packet_type = char::from(packet.kind);
        let text = || Text { text: String::from_utf8_lossy(packet.payload).trim().to_owned() };
        match packet.kind {
            kind::UNSEQUENCED => match Inbound::parse(packet.payload) {
                Ok(message) => self.line(&Line { packet_type, message }),
                Err(error) => return self.error(&error),
            },
            kind::SEQUENCED => match Outbound::parse(packet.payload) {
                Ok(message) => self.line(&Line { packet_type, message }),
                Err(error) => return self.error(&error),
            },
            b'+' | b'L' | b'R' | b'O' | b'A' | b'J' | b'H' | b'Z' => self.line(&Line { packet_type, message: text() }),
            other => return self.error(&format!("SoupBinTCP packet type {other:#04x} is unknown")),
        }
        self.summary.messages += 1;
    }

    /// Finds out what a frame holds and prints it.
    pub fn frame(&mut self, frame: &[u8], protocol: Option<Protocol>) {
        self.summary.frames += 1;
        let Some((transport, payload)) = payload(frame) else { return self.error(&"no UDP or TCP over IPv4") };
        match (protocol, transport) {
            (Some(Protocol::Itch) | None, UDP) if protocol.is_some() || looks_like_mold(payload) => {
                self.moldudp64(payload)
            }
            (Some(Protocol::Ouch) | None, TCP) => self.soupbin(payload),
            _ => self.error(&"no protocol that is known here"),
        }
    }

    /// Writes the last line.
    pub fn finish(self) -> io::Result<Summary> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.json {
            serde_json::to_writer(&mut *self.out, &self.summary)?;
            writeln!(self.out)?;
        } else {
            let Summary { frames, messages, errors, truncated } = self.summary;
            let cut = if truncated { ", a capture was cut off" } else { "" };
            writeln!(self.out, "{frames} frames, {messages} messages, {errors} errors{cut}")?;
        }
        Ok(self.summary)
    }
}

/// The blocks of a MoldUDP64 packet fill it exactly, and the first one is an ITCH message.
fn looks_like_mold(packet: &[u8]) -> bool {
    let Some((count, mut rest)) = packet.get(18..).and_then(|rest| rest.split_first_chunk::<2>()) else { return false };
    let count = u16::from_be_bytes(*count);
    if count == 0 || count == END_OF_SESSION {
        return rest.is_empty();
    }
    let first = rest.get(2).is_some_and(|kind| crate::feed::itch::TYPES.iter().any(|(known, _)| known == kind));
    for _ in 0..count {
        let block =
            rest.split_first_chunk::<2>().and_then(|(len, rest)| rest.get(usize::from(u16::from_be_bytes(*len))..));
        let Some(after) = block else { return false };
        rest = after;
    }
    first
}

/// The transport protocol and payload of a frame: Ethernet, tagged or not, IPv4, UDP or TCP. Trailers end with the IP length.
pub fn payload(frame: &[u8]) -> Option<(u8, &[u8])> {
    let packet = match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(14..)?,
        [0x81, 0x00] if frame.get(16..18)? == [0x08, 0x00] => frame.get(18..)?,
        _ => return None,
    };
    let header = packet.first_chunk::<20>()?;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let segment = packet.get(usize::from(header[0] & 0xF) * 4..total)?;
    match header[9] {
        UDP => {
            let len = usize::from(u16::from_be_bytes(*segment.get(4..)?.first_chunk()?));
            Some((UDP, segment.get(8..len)?))
        }
        TCP => Some((TCP, segment.get(usize::from(segment.get(12)? >> 4) * 4..)?)),
        _ => None,
    }
}

/// The captures that `paths` name: files as they are, folders by the names in them.
pub fn captures(paths: &[PathBuf]) -> Result<Vec<PathBuf>, PcapError> {
    let mut files = Vec::new();
    for path in paths {
        let io = |source| PcapError::Io { path: path.clone(), source };
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
        let is_capture = |path: &Path| path.extension().is_some_and(|ending| ending == "pcap" || ending == "cap");
        let mut found: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(|path| is_capture(path)).collect();
        if found.is_empty() {
            return Err(io(io::Error::other("the folder holds no .pcap file")));
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// Calls `read` for every capture that `paths` name, and writes the summary. A capture that is damaged, or none, keeps nobody from the others.
///
/// # Errors
/// After the summary, when captures could not be read to their end, with all of them; at once when anything else fails.
pub fn each<W: Write>(
    paths: &[PathBuf],
    json: bool,
    out: &mut W,
    mut read: impl FnMut(&Path, &mut Lines<'_, W>) -> Result<(), Error>,
) -> Result<(), Error> {
    let captures = captures(paths)?;
    let (mut lines, mut damaged) = (Lines::new(&mut *out, json), Vec::new());
    for path in &captures {
        match read(path, &mut lines) {
            Err(Error::Input(errors)) => damaged.extend(errors),
            other => other?,
        }
    }
    lines.summary.truncated = !damaged.is_empty();
    // Where nothing was a capture there is nothing to sum up.
    if damaged.len() < captures.len() || damaged.iter().any(|error| matches!(error, PcapError::Cut { .. })) {
        lines.finish()?;
        out.flush()?;
    }
    if damaged.is_empty() { Ok(()) } else { Err(Error::Input(damaged)) }
}

/// Decodes captures into `out`.
///
/// # Errors
/// As [`each`].
pub fn run(paths: &[PathBuf], protocol: Option<Protocol>, json: bool, out: &mut impl Write) -> Result<(), Error> {
    each(paths, json, out, |path, lines| {
        let read = pcap::read(path, |frame| {
            if lines.failed.is_none() {
                lines.frame(frame, protocol);
            }
        });
        Ok(read?)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ethernet, IPv4 without options, and a transport header, with `bytes` somewhere over them.
    fn frame(protocol: u8, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![0u8; 100];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[17] = 86;
        frame[23] = protocol;
        frame[39] = 66;
        frame[46] = 0x50;
        frame.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
        frame
    }

    proptest! {
        #[test]
        fn frame_of_any_bytes_is_counted_and_never_panics(
            udp in any::<bool>(),
            at in 0usize..100,
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            len in 0usize..101,
            protocol in prop::sample::select(vec![None, Some(Protocol::Itch), Some(Protocol::Ouch)]),
        ) {
            let mut out = Vec::new();
            let mut lines = Lines::new(&mut out, true);
            lines.frame(&frame(if udp { UDP } else { TCP }, at, &bytes)[..len], protocol);
            prop_assert_eq!(lines.summary.frames, 1);
            let messages = lines.summary.messages;
            lines.finish().unwrap();
            prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count() as u64, messages + 1);
        }
    }
}
