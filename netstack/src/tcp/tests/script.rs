//! Segments as text, as a test says them: `PA 1:6 ack 1 win 100 <sack 7:9>`.
//!
//! Flags, sequence number (`from:to` with a payload), acknowledgement, window as it stands in the header, options. Numbers count from the
//! initial sequence number of their side. A number may also be `n` (RCV.NXT), `m` (SND.NXT) or `u` (SND.UNA) of the end, and a distance to one
//! of these. `!` behind the flags: a payload other than the stream's. An expectation may leave out the window and the options.

use std::fmt;

use crate::tcp::options::Options;
use crate::tcp::seq::Seq;
use crate::wire::{Segment, flag};

/// The letters of the flags, in the order in which they are written.
const LETTERS: [(char, u8); 6] =
    [('S', flag::SYN), ('F', flag::FIN), ('R', flag::RST), ('P', flag::PSH), ('U', flag::URG), ('A', flag::ACK)];

/// The byte of a stream that has this sequence number, counted from the first one's: no byte for a SYN, so it begins with 1.
pub fn stream(seq: u32) -> u8 {
    (seq.wrapping_mul(31) ^ (seq >> 8).wrapping_mul(7)) as u8
}

/// What numbers count from: initial sequence numbers, and what an end knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bases {
    /// Of the side that sends the segment.
    pub from: u32,
    /// Of the side that it is for.
    pub to: u32,
    /// The end's RCV.NXT, SND.NXT and SND.UNA, as they are.
    pub n: u32,
    pub m: u32,
    pub u: u32,
}

/// A segment, its numbers as they are on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seg {
    pub flags: u8,
    pub seq: u32,
    pub len: u32,
    pub ack: u32,
    pub window: Option<u16>,
    pub options: Option<Vec<u8>>,
    /// The payload is not the stream's.
    pub is_false: bool,
}

impl Seg {
    /// Reads a segment.
    pub fn parse(text: &str, bases: Bases) -> Self {
        let (text, options) = match text.split_once('<') {
            Some((text, rest)) => (text, Some(options(rest.trim_end_matches('>'), bases))),
            None => (text, None),
        };
        let mut words = text.split_whitespace();
        let letters = words.next().expect("flags");
        let is_false = letters.contains('!');
        let flags = letters.chars().filter(|letter| !"-!".contains(*letter)).fold(0, |flags, letter| {
            flags | LETTERS.iter().find(|(known, _)| *known == letter).unwrap_or_else(|| panic!("flag {letter}")).1
        });
        let (start, end) = {
            let range = words.next().expect("a sequence number");
            let (start, end) = range.split_once(':').unwrap_or((range, range));
            (number(start, bases, bases.from), number(end, bases, bases.from))
        };
        let mut seg = Self { flags, seq: start, len: end.wrapping_sub(start), options, is_false, ..Self::default() };
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("a value of {word} in {text}"));
            match word {
                "ack" => seg.ack = number(value, bases, bases.to),
                "win" => seg.window = Some(value.parse().expect("a window")),
                _ => panic!("{word} in {text}"),
            }
        }
        seg
    }

    /// What is in a frame.
    pub fn of(segment: &Segment<'_>) -> Self {
        Self {
            flags: segment.flags,
            seq: segment.seq,
            len: segment.payload.len() as u32,
            ack: segment.ack,
            window: Some(segment.window),
            options: Some(segment.options.to_vec()),
            is_false: false,
        }
    }

    /// Whether it is what was expected.
    pub fn is_as(&self, expected: &Self) -> bool {
        (self.flags, self.seq, self.len, self.ack) == (expected.flags, expected.seq, expected.len, expected.ack)
            && expected.window.is_none_or(|window| self.window == Some(window))
            && expected.options.as_deref().is_none_or(|options| {
                Options::parse(self.options.as_deref().unwrap_or_default()) == Options::parse(options)
            })
    }

    /// The text of it.
    pub fn show(&self, bases: Bases) -> String {
        Shown(self, bases).to_string()
    }

    /// A frame of the segment.
    pub fn frame(&self, macs: ([u8; 6], [u8; 6]), ips: (u32, u32), ports: (u16, u16), bases: Bases) -> Vec<u8> {
        let options = self.options.as_deref().unwrap_or_default();
        let header_len = 20 + options.len();
        assert!(header_len.is_multiple_of(4) && header_len <= 60, "options of {} bytes", options.len());
        let total = 20 + header_len + self.len as usize;
        let mut frame = Vec::with_capacity(14 + total);
        frame.extend(macs.1.iter().chain(&macs.0));
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((total as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(ips.0.to_be_bytes().iter().chain(&ips.1.to_be_bytes()));
        frame.extend(ports.0.to_be_bytes().iter().chain(&ports.1.to_be_bytes()));
        frame.extend(self.seq.to_be_bytes().iter().chain(&self.ack.to_be_bytes()));
        frame.extend([(header_len as u8 / 4) << 4, self.flags]);
        frame.extend(self.window.unwrap_or(0xFFFF).to_be_bytes());
        frame.extend([0, 0, 0, 0]);
        frame.extend(options);
        let first = self.seq.wrapping_sub(bases.from).wrapping_add(u32::from(self.flags & flag::SYN != 0));
        frame.extend((0..self.len).map(|at| stream(first.wrapping_add(at)) ^ if self.is_false { 0xFF } else { 0 }));
        frame
    }
}

/// A number: `base` plus a count, or a name plus or minus one.
fn number(text: &str, bases: Bases, base: u32) -> u32 {
    let (base, rest) = match text.split_at_checked(1) {
        Some(("n", rest)) => (bases.n, rest),
        Some(("m", rest)) => (bases.m, rest),
        Some(("u", rest)) => (bases.u, rest),
        _ => (base, text),
    };
    if rest.is_empty() {
        return base;
    }
    base.wrapping_add(rest.parse::<i64>().unwrap_or_else(|_| panic!("number {text}")) as u32)
}

/// Options in the order given. `raw` is followed by bytes in hexadecimal.
fn options(text: &str, bases: Bases) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut words = text.split([' ', ',']).filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("a value of {word}"));
        match word {
            "mss" => {
                bytes.extend([2, 4]);
                bytes.extend(value().parse::<u16>().unwrap().to_be_bytes());
            }
            "ws" => bytes.extend([1, 3, 3, value().parse().unwrap()]),
            "sackok" => bytes.extend([1, 1, 4, 2]),
            "ts" => {
                bytes.extend([1, 1, 8, 10]);
                bytes.extend(value().parse::<u32>().unwrap().to_be_bytes());
                bytes.extend(value().parse::<u32>().unwrap().to_be_bytes());
            }
            "sack" => {
                let at = bytes.len() + 3;
                bytes.extend([1, 1, 5, 2]);
                while let Some((start, end)) = words.next_if(|word| word.contains(':')).and_then(|w| w.split_once(':'))
                {
                    for edge in [start, end] {
                        bytes.extend(number(edge, bases, bases.to).to_be_bytes());
                    }
                    bytes[at] += 8;
                }
            }
            "raw" => {
                let digits = value();
                bytes.extend(
                    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()),
                );
            }
            _ => panic!("option {word}"),
        }
    }
    bytes
}

struct Shown<'a>(&'a Seg, Bases);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(seg, bases) = self;
        let letters: String =
            LETTERS.iter().filter(|(_, bit)| seg.flags & bit != 0).map(|(letter, _)| letter).collect();
        let seq = seg.seq.wrapping_sub(bases.from);
        write!(f, "{} {}", if letters.is_empty() { "-" } else { &letters }, seq as i32)?;
        if seg.len > 0 {
            write!(f, ":{}", seq.wrapping_add(seg.len) as i32)?;
        }
        if seg.flags & flag::ACK != 0 {
            write!(f, " ack {}", seg.ack.wrapping_sub(bases.to) as i32)?;
        }
        if let Some(window) = seg.window {
            write!(f, " win {window}")?;
        }
        let Some(bytes) = seg.options.as_deref().filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        let options = Options::parse(bytes);
        let mut words = Vec::new();
        words.extend(options.mss.map(|mss| format!("mss {mss}")));
        words.extend(options.sack_permitted.then(|| "sackok".into()));
        words.extend(options.timestamps.map(|(value, echo)| format!("ts {value} {echo}")));
        words.extend(options.window_scale.map(|shift| format!("ws {shift}")));
        if !options.sack.is_empty() {
            let edge = |seq: Seq| seq.0.wrapping_sub(bases.to) as i32;
            let blocks = options.sack.iter().map(|(start, end)| format!("{}:{}", edge(*start), edge(*end)));
            words.push(format!("sack {}", blocks.collect::<Vec<_>>().join(" ")));
        }
        write!(f, " <{}>", words.join(", "))
    }
}

#[test]
fn what_is_shown_is_what_was_said() {
    let bases = Bases { from: 1_000_000, to: u32::MAX - 5, n: 77, m: 0, u: 0 };
    for text in [
        "PA 1:6 ack 1 win 100 <sack 7:9 11:12>",
        "S 0 win 65535 <mss 1460, sackok, ws 7>",
        "R -1 win 0",
        "FUA 3 ack -2 win 1 <ts 5 4000000000>",
        "- 0 win 9",
    ] {
        assert_eq!(Seg::parse(text, bases).show(bases), text);
    }
    assert_eq!(Seg::parse("A n-1:n+5", bases).seq, 76);
    assert!(Seg::parse("A! 1:2", bases).is_false && !Seg::parse("A 1:2 win 1 <raw 0101>", bases).is_false);
}
