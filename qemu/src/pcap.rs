//! Capture files: classic pcap, Ethernet, over crate `pcap-file`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapParser, PcapWriter};
use pcap_file::{DataLink, PcapError as ParseError, TsResolution};

/// Why a capture cannot be read or written: one line with the file, and the offset where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PcapError {
    /// The file cannot be opened, read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The file has no bytes.
    #[error("{path}: empty at offset 0; a capture begins with a 24-byte header", path = .0.display())]
    Empty(PathBuf),
    /// The file does not begin with a pcap header.
    #[error("{path}: not a pcap file at offset 0 ({reason}); pcapng is converted with `editcap -F pcap`", path = .path.display())]
    NotPcap {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Frames of another kind than Ethernet.
    #[error("{path}: link type {link} at offset 20; only Ethernet captures (link type 1) are read", path = .path.display())]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The number in the header.
        link: u32,
    },
    /// The file ends in the middle of a packet, or its next header makes no sense.
    #[error("{path}: cut off or damaged at offset {offset} ({reason})", path = .path.display())]
    Cut {
        /// The file.
        path: PathBuf,
        /// Where the packet begins that cannot be read.
        offset: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Calls `frame` for every frame of the capture at `path`.
///
/// # Errors
/// As [`PcapError`] says. Frames before the damage were delivered.
pub fn read(path: &Path, frame: impl FnMut(&[u8])) -> Result<(), PcapError> {
    let bytes = std::fs::read(path).map_err(|source| PcapError::Io { path: path.to_owned(), source })?;
    frames(path, &bytes, frame)
}

/// As [`read`], for a capture that is in memory; `path` is what errors name.
///
/// # Errors
/// As [`PcapError`] says. Frames before the damage were delivered.
pub fn frames(path: &Path, bytes: &[u8], mut frame: impl FnMut(&[u8])) -> Result<(), PcapError> {
    let owned = || path.to_owned();
    if bytes.is_empty() {
        return Err(PcapError::Empty(owned()));
    }
    let not_pcap = |error: ParseError| PcapError::NotPcap { path: owned(), reason: error.to_string() };
    let (mut rest, parser) = PcapParser::new(bytes).map_err(not_pcap)?;
    let link = parser.header().datalink;
    if link != DataLink::ETHERNET {
        return Err(PcapError::LinkType { path: owned(), link: link.into() });
    }
    while !rest.is_empty() {
        let cut = |error: ParseError| PcapError::Cut {
            path: owned(),
            offset: bytes.len() - rest.len(),
            reason: error.to_string(),
        };
        let (after, packet) = parser.next_packet(rest).map_err(cut)?;
        frame(&packet.data);
        rest = after;
    }
    Ok(())
}

/// Writes a capture with nanosecond stamps.
pub struct Writer<W: Write>(PcapWriter<W>);

impl Writer<BufWriter<File>> {
    /// Creates the file at `path`.
    pub fn create(path: &Path) -> Result<Self, PcapError> {
        let io = |source| PcapError::Io { path: path.to_owned(), source };
        let file = File::create(path).map_err(io)?;
        Self::new(BufWriter::new(file)).map_err(io)
    }
}

impl<W: Write> Writer<W> {
    /// Begins a capture.
    pub fn new(to: W) -> std::io::Result<Self> {
        let header = PcapHeader { ts_resolution: TsResolution::NanoSecond, ..PcapHeader::default() };
        PcapWriter::with_header(to, header).map(Self).map_err(std::io::Error::other)
    }

    /// Appends a frame, stamped `at_ns` nanoseconds after the epoch of the run's clock.
    pub fn frame(&mut self, at_ns: u64, frame: &[u8]) -> std::io::Result<()> {
        let packet = PcapPacket::new(Duration::from_nanos(at_ns), frame.len() as u32, frame);
        self.0.write_packet(&packet).map(|_| ()).map_err(std::io::Error::other)
    }
}
