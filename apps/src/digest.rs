//! How two order books are compared: a digest over everything in them, in price-time order.
//!
//! The exchange and the trader keep separate books, written separately. Each walks its own, stock by stock, bids from the highest price,
//! offers from the lowest, orders in the order of their arrival, and feeds what it finds here. Equal digests mean equal books.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// A side of the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Bids.
    Buy,
    /// Offers.
    Sell,
}

/// A running digest. The order of what is added matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    state: u64,
    orders: u64,
}

impl Default for Digest {
    fn default() -> Self {
        // FNV's offset basis; any constant would do.
        Self { state: 0xCBF2_9CE4_8422_2325, orders: 0 }
    }
}

impl Digest {
    /// Adds one resting order.
    pub fn order(&mut self, locate: u16, side: Side, price: u32, reference: u64, shares: u32) {
        let place = u64::from(locate) << 33 | u64::from(side == Side::Sell) << 32 | u64::from(price);
        for word in [place, reference, u64::from(shares)] {
            self.mix(word);
        }
        self.orders += 1;
    }

    /// FNV-1a over whole words, with a rotation so that high bits come back down.
    fn mix(&mut self, word: u64) {
        const PRIME: u64 = 0x0000_0100_0000_01B3;
        self.state = (self.state ^ word).wrapping_mul(PRIME).rotate_left(29);
    }

    /// The digest.
    pub fn value(&self) -> u64 {
        self.state
    }

    /// How many orders it covers.
    pub fn orders(&self) -> u64 {
        self.orders
    }
}
