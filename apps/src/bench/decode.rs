//! `bench decode`: ITCH messages a second, decoded alone beside crate itchy, and applied to the books.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::Instant;

use arrayvec::ArrayVec;
use serde::Serialize;

use super::Error;
use super::count::{self, Count};
use super::flow::{Flow, Stream};
use super::fold;
use crate::feed::book::{Books, Capacity, WINDOW};
use crate::feed::itch::Message;

const MESSAGES: u64 = 200_000;
/// Measured so often; the median counts.
const RUNS: usize = 25;

/// What the benchmark found. Decoding reads every field of every message and folds it into a sum that is the same for all decoders.
#[derive(Debug, Serialize)]
pub struct Decode {
    /// Messages a second.
    pub decode_per_s: f64,
    /// Other decoders, on the same bytes, in turn with ours.
    pub peers: [Peer; 1],
    /// Ours to the fastest peer.
    pub ratio_decode: f64,
    /// Messages a second, decoded and applied: 100 stocks, 50,000 live orders.
    pub book_small_per_s: f64,
    /// Bytes of the books that these went through.
    pub book_small_working_set_bytes: usize,
    /// Messages a second, decoded and applied: 8,000 stocks, a million live orders.
    pub book_large_per_s: f64,
    /// Bytes of the books that these went through.
    pub book_large_working_set_bytes: usize,
    /// Instructions a message for decoding and books, small ones.
    pub instructions: Count,
}

/// Another decoder.
#[derive(Debug, Serialize)]
pub struct Peer {
    /// The crate.
    pub name: &'static str,
    /// Messages a second.
    pub decode_per_s: f64,
}

/// Runs the benchmark.
pub fn run() -> Result<Decode, Error> {
    let [ours, itchys] = decoders()?;
    let [small, large] = [book(100, 50_000), book(8_000, 1_000_000)];
    Ok(Decode {
        decode_per_s: ours,
        peers: [Peer { name: "itchy", decode_per_s: itchys }],
        ratio_decode: ours / itchys,
        book_small_per_s: small.0,
        book_small_working_set_bytes: small.1,
        book_large_per_s: large.0,
        book_large_working_set_bytes: large.1,
        instructions: count::instructions("decode"),
    })
}

/// Messages a second of ours and of itchy.
fn decoders() -> Result<[f64; 2], Error> {
    let (mut flow, mut stream) = (Flow::new(7, 8_000), Stream::default());
    flow.fill(100_000, &mut stream);
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        let mut stream = Stream::default();
        flow.run(MESSAGES, &mut stream);
        let mut sums = [None; 2];
        let decoders: [fn(&Stream) -> Option<fold::Sum>; 2] = [fold::ours, fold::itchys];
        for ((decode, found), sum) in decoders.into_iter().zip(&mut found).zip(&mut sums) {
            found.push(per_second(&stream, |stream| *sum = decode(stream)));
        }
        if sums[0].is_none() || sums[0] != sums[1] {
            return Err(Error::Run("the decoders do not agree on the messages; this is a fault of one of them".into()));
        }
    }
    Ok(found.map(|mut found| median(&mut found)))
}

/// Messages a second through the books, and the bytes of these that were in use.
fn book(stocks: u16, live: usize) -> (f64, usize) {
    let (mut flow, mut books) = (Flow::new(7, stocks), Books::new(Capacity { orders: live as u32 * 5 / 4 }));
    let mut opening = Stream::default();
    flow.fill(live, &mut opening);
    apply(&opening, &mut books);
    let mut found = Vec::new();
    for _ in 0..RUNS {
        let mut stream = Stream::default();
        flow.run(MESSAGES, &mut stream);
        found.push(per_second(&stream, |stream| apply(stream, &mut books)));
    }
    (median(&mut found), books.working_set_bytes())
}

/// The counted scenario: a smaller working set, because instructions do not depend on caches.
pub fn counted() -> u64 {
    const LIVE: usize = 20_000;
    let (mut flow, mut books) = (Flow::new(7, 160), Books::new(Capacity { orders: LIVE as u32 * 5 / 4 }));
    let (mut opening, mut stream) = (Stream::default(), Stream::default());
    flow.fill(LIVE, &mut opening);
    flow.run(100_000, &mut stream);
    apply(&opening, &mut books);
    count::measured(&mut || apply(&stream, &mut books));
    stream.messages
}

fn per_second(stream: &Stream, work: impl FnOnce(&Stream)) -> f64 {
    let start = Instant::now();
    work(stream);
    stream.messages as f64 / start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// As the trader applies the messages of a packet.
fn apply(stream: &Stream, books: &mut Books) {
    let mut window = ArrayVec::<Message<'_>, WINDOW>::new();
    stream.for_each(|bytes| {
        window.extend(Message::parse(bytes).ok());
        if window.is_full() {
            apply_window(&mut window, books);
        }
    });
    apply_window(&mut window, books);
}

#[inline]
fn apply_window(window: &mut ArrayVec<Message<'_>, WINDOW>, books: &mut Books) {
    books.prepare(window.iter());
    for message in window.drain(..) {
        black_box(books.apply(&message));
    }
}
