//! `bench driver`: what the ixgbe driver alone costs a frame, receive and transmit, by burst.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::hint::black_box;

use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::{RxQueue, TxMeta, TxQueue};
use serde::Serialize;

use super::Error;
use super::count::{self, Count, ROUNDS, uncounted};
use super::rig::Rig;
use crate::market::hosts::MACS;

/// Frames taken or queued at a time.
pub const BURSTS: [u32; 3] = [1, 8, 32];
/// The length of the frames, bytes without FCS.
const LEN: usize = 100;

/// One row of the table.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Frames a burst.
    pub burst: u32,
    /// Nanoseconds a frame.
    pub ns: f64,
    /// Instructions a frame.
    pub instructions: Count,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Driver {
    /// Poll, hand out, refill.
    pub receive: Vec<Row>,
    /// Reserve, write the frame, commit, flush.
    pub transmit: Vec<Row>,
}

/// Runs the benchmark.
pub fn run() -> Result<Driver, Error> {
    let measure = |name: &str, burst| -> Result<Row, Error> {
        let (spent, frames) = timed(name, burst)?;
        Ok(Row {
            burst,
            ns: spent as f64 / frames as f64,
            instructions: count::instructions(&format!("{name}-{burst}")),
        })
    };
    let rows = |name: &str| BURSTS.iter().map(|burst| measure(name, *burst)).collect::<Result<Vec<_>, _>>();
    Ok(Driver { receive: rows("receive")?, transmit: rows("transmit")? })
}

/// The counted scenario `receive-N` or `transmit-N`; returns the frames.
pub fn counted(name: &str, burst: u32) -> Result<u64, Error> {
    let mut rounds = Rounds::new(name, burst, uncounted)?;
    for _ in 0..ROUNDS {
        rounds.prepare();
        count::measured(&mut || rounds.work());
        rounds.settle();
    }
    Ok(rounds.frames)
}

thread_local! {
    static CLOCK: Clock = Clock::calibrated();
    /// Time spent inside the device since it was last looked at.
    static DEVICE: Cell<Nanos> = const { Cell::new(0) };
}

fn now() -> Nanos {
    CLOCK.with(Clock::now)
}

/// Adds up the time of register accesses.
fn clocked(access: &mut dyn FnMut()) {
    let start = now();
    access();
    DEVICE.set(DEVICE.get() + (now() - start));
}

/// Time outside of the device, and the frames it went into.
fn timed(name: &str, burst: u32) -> Result<(Nanos, u64), Error> {
    let mut rounds = Rounds::new(name, burst, clocked)?;
    let mut spent = 0;
    for _ in 0..ROUNDS {
        rounds.prepare();
        DEVICE.set(0);
        let start = now();
        rounds.work();
        spent += (now() - start).saturating_sub(DEVICE.get());
        rounds.settle();
    }
    Ok((spent, rounds.frames))
}

/// Rounds of one burst each.
struct Rounds {
    rig: Rig,
    is_receive: bool,
    burst: u32,
    frame: Vec<u8>,
    frames: u64,
}

impl Rounds {
    fn new(name: &str, burst: u32, around: super::probe::Around) -> Result<Self, Error> {
        let rig = Rig::open(&CLOCK.with(Clone::clone), around)?;
        let mut frame = vec![0; LEN];
        frame[0..6].copy_from_slice(&MACS[0][1].0);
        frame[6..12].copy_from_slice(&MACS[0][0].0);
        // IEEE 802 local experimental EtherType 1.
        frame[12..14].copy_from_slice(&[0x88, 0xB5]);
        Ok(Self { rig, is_receive: name == "receive", burst, frame, frames: 0 })
    }

    /// Puts a burst into the receive ring.
    fn prepare(&mut self) {
        if self.is_receive {
            (0..self.burst).for_each(|_| self.rig.inject(&self.frame));
        }
    }

    /// What is measured.
    #[inline(never)]
    fn work(&mut self) {
        self.frames += u64::from(if self.is_receive { self.receive() } else { self.transmit() });
    }

    fn receive(&mut self) -> u32 {
        let polled = self.rig.near.pair.rx.poll(self.burst, |frame| {
            black_box(frame.bytes().first());
        });
        polled.unwrap_or(0)
    }

    fn transmit(&mut self) -> u32 {
        let tx = &mut self.rig.near.pair.tx;
        let meta = TxMeta { len: LEN as u16, ..TxMeta::default() };
        let mut sent = 0;
        for _ in 0..self.burst {
            let Ok(mut buffer) = tx.reserve() else { break };
            if let Some((place, frame)) = buffer.first_chunk_mut::<LEN>().zip(self.frame.first_chunk::<LEN>()) {
                *place = *frame;
            }
            sent += u32::from(tx.commit(buffer, meta).is_ok());
        }
        tx.flush();
        sent
    }

    /// The far end takes what was sent.
    fn settle(&mut self) {
        let _ = self.rig.far.pair.rx.poll(self.burst, |frame| {
            black_box(frame.meta().len);
        });
    }
}
