//! The market as its feed tells it: every stock's book, name and trading state.
#![forbid(unsafe_code)]

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::strategy::{Level, Top};
use crate::digest::{Digest, Side};
use crate::feed::book::{Best, Books, Capacity, WINDOW};
use crate::feed::itch::Message;
use crate::feed::moldudp64;
use crate::fields::Alpha;
use crate::market::compare::{POINTS, Points};

/// What the feed tells of a stock beside its book.
#[derive(Debug, Clone, Copy)]
pub struct Stock {
    /// Its name.
    pub symbol: Alpha<8>,
    /// Whether it is not traded: halted, paused, or quotation only.
    pub is_halted: bool,
}

/// The market, message by message.
pub struct View {
    capacity: Capacity,
    books: Books,
    stocks: Box<[Stock]>,
    ticks: u64,
    malformed: u64,
    points: Arc<Points>,
    digests: ArrayVec<Option<Digest>, POINTS>,
}

impl View {
    /// Nothing is known yet. `points` says where books are compared.
    pub fn new(capacity: Capacity, points: Arc<Points>) -> Self {
        Self {
            capacity,
            books: Books::new(capacity),
            stocks: vec![Stock { symbol: Alpha::new(""), is_halted: false }; 1 << 16].into(),
            ticks: 0,
            malformed: 0,
            points,
            digests: ArrayVec::new(),
        }
    }

    /// Has the books bring to the cache what the messages of a packet will touch, if there are several and the books are large.
    #[inline]
    pub fn look_ahead(&self, packet: &[u8]) {
        if self.books.is_beyond_caches() {
            self.fetch(packet);
        }
    }

    fn fetch(&self, packet: &[u8]) {
        let messages = moldudp64::messages(packet).filter_map(|bytes| Message::parse(bytes).ok());
        let messages: ArrayVec<_, WINDOW> = messages.take(WINDOW).collect();
        if messages.len() > 1 {
            self.books.prepare(messages.iter());
        }
    }

    /// Applies a message of the feed, and counts it; says which stock's book changed, if any. `None` when it is no message.
    #[inline]
    pub fn tick(&mut self, bytes: &[u8]) -> Option<Option<u16>> {
        let changed = self.apply(bytes)?;
        self.ticks = self.ticks.wrapping_add(1);
        Some(changed)
    }

    /// Applies a message; says which stock's book changed, if any. `None` when it is no message.
    #[inline]
    pub fn apply(&mut self, bytes: &[u8]) -> Option<Option<u16>> {
        let Ok(message) = Message::parse(bytes) else {
            self.malformed = self.malformed.wrapping_add(1);
            return None;
        };
        let changed = self.books.apply(&message);
        match message {
            Message::StockDirectory(directory) => {
                if let Some(stock) = self.stocks.get_mut(usize::from(directory.stock_locate.get())) {
                    stock.symbol = directory.stock;
                }
            }
            Message::StockTradingAction(action) => {
                if let Some(stock) = self.stocks.get_mut(usize::from(action.stock_locate.get())) {
                    // Halted or paused; quotation only.
                    stock.is_halted = matches!(&action.trading_state.0, b"H" | b"P" | b"Q");
                }
            }
            _ => {}
        }
        Some(changed)
    }

    /// Forgets the books: a snapshot begins.
    pub fn reset(&mut self) {
        self.books = Books::new(self.capacity);
    }

    /// The books are as they are before message `next`: points of comparison before that were passed over.
    pub fn resume(&mut self, next: u64) {
        while let Some(point) = self.points.sequence(self.digests.len()).filter(|point| *point < next) {
            if point.wrapping_add(1) == next {
                self.compare();
            } else {
                self.pass(None);
            }
        }
    }

    /// Message `number` has been applied: takes a digest where a point of comparison is reached.
    #[inline]
    pub fn reached(&mut self, number: u64) {
        if self.points.sequence(self.digests.len()).is_some_and(|point| number >= point) {
            self.compare();
        }
    }

    #[cold]
    fn compare(&mut self) {
        self.pass(Some(self.books.digest()));
    }

    #[cold]
    fn pass(&mut self, digest: Option<Digest>) {
        // There are as many points as places.
        let _ = self.digests.try_push(digest);
        self.points.pass();
    }

    /// The best prices of a stock.
    #[inline]
    pub fn top(&self, stock: u16) -> Top {
        let level = |best: Best| Level { price: best.price, shares: best.shares };
        Top { bid: level(self.books.best(stock, Side::Buy)), ask: level(self.books.best(stock, Side::Sell)) }
    }

    /// A stock. One that the feed never named is not traded.
    #[inline]
    pub fn stock(&self, stock: u16) -> Stock {
        let unknown = Stock { symbol: Alpha([b' '; 8]), is_halted: true };
        self.stocks.get(usize::from(stock)).copied().unwrap_or(unknown)
    }

    /// The books.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Messages of the feed applied.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Messages that do not parse.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The digests taken at the points of comparison; `None` where a snapshot passed one over.
    pub fn digests(&self) -> &[Option<Digest>] {
        &self.digests
    }
}
