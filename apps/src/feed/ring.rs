//! Packets from one core to another: a core that polls a line hands what it sees to the core that arbitrates, by a bounded ring.
//!
//! A full ring drops the packet and counts it, as a NIC's ring does.

use barewire_driver::clock::Nanos;
use barewire_netstack::ipc::{self, Geometry, Ring, RingError};

use super::arbiter::Source;

/// Lines of 64 bytes: 4,096 packets of one message of ITCH.
const LINES: u32 = 1 << 13;
/// Before each packet: when it was seen, and its source.
const HEADER: usize = 9;
/// Bytes of the longest packet: what an Ethernet frame of 1,500 carries.
const LONGEST: usize = 1_472;
const MESSAGE: usize = HEADER + LONGEST;

/// The end that writes.
pub struct Writer {
    ring: ipc::Writer,
    dropped: u64,
}

/// The end that reads.
pub struct Reader(ipc::Reader);

/// Makes a ring.
///
/// # Errors
/// When there is no memory for it.
pub fn ring() -> Result<(Writer, Reader), RingError> {
    let near = Ring::create(Geometry { lines: LINES, max_message: MESSAGE as u16, writers: 1 })?;
    let far = Ring::open(&near.address())?;
    Ok((Writer { ring: far.writer()?, dropped: 0 }, Reader(near.reader()?)))
}

impl Writer {
    /// Hands over a packet of `source` that was seen at `at`; `false` when there was no room.
    #[inline]
    pub fn push(&mut self, at: Nanos, source: Source, packet: &[u8]) -> bool {
        let mut message = [0; MESSAGE];
        let len = HEADER + packet.len();
        let is_sent = message.get_mut(..len).is_some_and(|message| {
            let (header, bytes) = message.split_at_mut(HEADER);
            let (time, kind) = header.split_at_mut(size_of::<Nanos>());
            time.copy_from_slice(&at.to_be_bytes());
            kind.fill(source as u8);
            bytes.copy_from_slice(packet);
            self.ring.send(message).is_ok()
        });
        self.dropped += u64::from(!is_sent);
        is_sent
    }

    /// Packets for which there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Reader {
    /// Hands up to `budget` packets to `take`, with when they were seen and where they came from. Returns how many.
    ///
    /// # Errors
    /// When the ring was written over.
    #[inline]
    pub fn poll(&mut self, budget: u32, mut take: impl FnMut(Nanos, Source, &[u8])) -> Result<u32, RingError> {
        self.0.poll(budget, |message| {
            if let Some((time, [kind, packet @ ..])) = message.split_first_chunk::<8>()
                && let Some(source) = Source::ALL.get(usize::from(*kind))
            {
                take(Nanos::from_be_bytes(*time), *source, packet);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u64, len: usize) -> Vec<u8> {
        (0..len).map(|at| (number as usize + at) as u8).collect()
    }

    #[test]
    fn packets_come_out_as_they_went_in_whatever_their_length() {
        let (mut writer, mut reader) = ring().unwrap();
        for len in 0..=LONGEST {
            let (number, source) = (len as u64, Source::ALL[len % 3]);
            assert!(writer.push(number, source, &packet(number, len)));
            let read = reader.poll(9, |at, from, bytes| {
                assert_eq!((at, from), (number, source));
                assert_eq!(bytes, packet(number, len));
            });
            assert_eq!(read.unwrap(), 1);
        }
        assert_eq!(reader.poll(1, |_, _, _| unreachable!()).unwrap(), 0);
    }

    #[test]
    fn full_ring_and_long_packet_drop_and_count() {
        let (mut writer, mut reader) = ring().unwrap();
        let fitted = (0..u64::from(LINES) + 3).take_while(|number| writer.push(*number, Source::B, b"x")).count();
        assert_eq!((fitted, writer.dropped()), (LINES as usize, 1));
        let mut next = 0;
        while reader.poll(100, |at, _, _| next += u64::from(at == next)).unwrap() > 0 {}
        assert_eq!(next, fitted as u64);
        assert!(!writer.push(0, Source::B, &[0; LONGEST + 1]));
        assert!(writer.push(0, Source::B, &[0; LONGEST]));
        assert_eq!(writer.dropped(), 2);
    }

    #[test]
    fn two_threads_see_every_packet_once_and_in_order() {
        const COUNT: u64 = 100_000;
        let (mut writer, mut reader) = ring().unwrap();
        let writing = std::thread::spawn(move || {
            for number in 0..COUNT {
                while !writer.push(number, Source::A, &packet(number, number as usize % 200)) {
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < COUNT {
            let read = reader.poll(32, |at, _, bytes| {
                assert_eq!(at, next);
                assert_eq!(bytes, packet(next, next as usize % 200));
                next += 1;
            });
            if read.unwrap() == 0 {
                std::thread::yield_now();
            }
        }
        writing.join().unwrap();
    }
}
