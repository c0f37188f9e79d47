//! `bench lines`: two lines of a feed into one arbiter, by one core that has both, and by two cores with a ring between them.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use barewire_driver::clock::{Clock, Nanos};
use serde::Serialize;

use super::Error;
use super::count::{self, Count};
use crate::feed::arbiter::{Arbiter, Source};
use crate::feed::moldudp64::Packet;
use crate::feed::ring::{self, Reader, Writer};
use crate::market::{Quantiles, Spans};

/// Packets of each line, of one message each.
const PACKETS: u64 = 500_000;
/// The message: as long as ITCH's Add Order.
const MESSAGE: [u8; 36] = [b'A'; 36];
/// Packets whose way through the ring is timed, and the time between two of them: long enough that the reader waits for each.
const TIMED: u64 = 20_000;
const APART: Nanos = 5_000;

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Lines {
    /// Packets a second, of both lines together, that one core arbitrates.
    pub one_core_packets_per_s: f64,
    /// The same, where the second line comes through the ring from another core.
    pub two_cores_packets_per_s: f64,
    /// From the writer's core to the reader's, ns.
    pub handover_ns: Quantiles,
    /// Instructions of a first copy, from packet to message.
    pub instructions_first: Count,
    /// Instructions of a second copy.
    pub instructions_second: Count,
    /// Instructions of a packet's way into the ring and out of it.
    pub instructions_ring: Count,
}

/// Runs the benchmark.
pub fn run() -> Result<Lines, Error> {
    let packets = packets(PACKETS)?;
    super::progress("one core");
    let one_core = per_second(&Clock::calibrated(), || one_core(&packets))?;
    super::progress("two cores");
    let ring = ring::ring().map_err(Error::failed)?;
    let two_cores = per_second(&Clock::calibrated(), || two_cores(&packets, ring))?;
    let [first, second, ring] = ["lines-first", "lines-second", "lines-ring"].map(count::instructions);
    Ok(Lines {
        one_core_packets_per_s: one_core,
        two_cores_packets_per_s: two_cores,
        handover_ns: handover(&Clock::calibrated(), ring::ring().map_err(Error::failed)?).quantiles(),
        instructions_first: first,
        instructions_second: second,
        instructions_ring: ring,
    })
}

/// Runs a counted scenario; `None` when it is none of these.
pub fn counted(scenario: &str) -> Option<Result<u64, Error>> {
    const FEW: u64 = 50_000;
    let work: fn(&[Vec<u8>]) = match scenario {
        "lines-first" => |packets| {
            let mut arbiter = Arbiter::default();
            count::measured(&mut || packets.iter().for_each(|packet| receive(&mut arbiter, 0, Source::A, packet)));
        },
        "lines-second" => |packets| {
            let mut arbiter = Arbiter::default();
            for packet in packets {
                receive(&mut arbiter, 0, Source::A, packet);
                count::measured(&mut || receive(&mut arbiter, 0, Source::B, packet));
            }
        },
        "lines-ring" => |packets| {
            let Ok((mut writer, mut reader)) = ring::ring() else { return };
            count::measured(&mut || {
                for packet in packets {
                    writer.push(0, Source::B, packet);
                    let _ = black_box(reader.poll(1, |_, _, packet| _ = black_box(packet.len())));
                }
            });
        },
        _ => return None,
    };
    Some(packets(FEW).map(|packets| {
        work(&packets);
        FEW
    }))
}

fn packets(count: u64) -> Result<Vec<Vec<u8>>, Error> {
    let packet = |number| {
        let mut buffer = [0; 64];
        let mut packet = Packet::begin(&mut buffer, *b"BAREWIRE01", number).ok_or_else(Error::full)?;
        if !packet.push(&MESSAGE) {
            return Err(Error::full());
        }
        let len = packet.finish();
        Ok(buffer[..len].to_vec())
    };
    (1..=count).map(packet).collect()
}

#[inline]
fn receive(arbiter: &mut Arbiter, now: Nanos, source: Source, packet: &[u8]) {
    arbiter.receive(now, source, packet, |message| _ = black_box(message.number));
}

/// Packets of both lines a second.
fn per_second(clock: &Clock, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let start = clock.now();
    work()?;
    let spent = clock.now().saturating_sub(start).max(1);
    Ok(2.0 * PACKETS as f64 * 1e9 / spent as f64)
}

fn one_core(packets: &[Vec<u8>]) -> Result<(), Error> {
    let mut arbiter = Arbiter::default();
    for (now, packet) in (0..).zip(packets) {
        receive(&mut arbiter, now, Source::A, packet);
        receive(&mut arbiter, now, Source::B, packet);
    }
    Ok(())
}

fn two_cores(packets: &[Vec<u8>], (mut writer, mut reader): (Writer, Reader)) -> Result<(), Error> {
    let is_over = &AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(move || {
            for (now, packet) in (0..).zip(packets) {
                while !writer.push(now, Source::B, packet) && !is_over.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            }
        });
        let (mut arbiter, mut first, mut read) = (Arbiter::default(), (0..).zip(packets), Ok(0));
        let mut left = PACKETS;
        while left > 0 && read.is_ok() {
            let next = first.next();
            if let Some((now, packet)) = next {
                receive(&mut arbiter, now, Source::A, packet);
            }
            read = reader.poll(1, |now, source, packet| receive(&mut arbiter, now, source, packet));
            match read {
                Ok(0) if next.is_none() => thread::yield_now(),
                Ok(read) => left -= u64::from(read),
                Err(_) => {}
            }
        }
        is_over.store(true, Ordering::Relaxed);
        read.map(drop).map_err(Error::failed)
    })
}

/// How long packets are in the ring whose reader waits for them.
fn handover(clock: &Clock, (mut writer, mut reader): (Writer, Reader)) -> Spans {
    let mut spans = Spans::default();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut due = clock.now();
            for _ in 0..TIMED {
                due += APART;
                while clock.now() < due {
                    std::hint::spin_loop();
                }
                writer.push(clock.now(), Source::B, &MESSAGE);
            }
        });
        let mut popped = 0;
        while popped < TIMED {
            let read = reader.poll(1, |at, _, _| spans.record(clock.now().saturating_sub(at)));
            // A ring that is over ends the wait.
            popped += read.map_or(TIMED, u64::from);
        }
    });
    spans
}
