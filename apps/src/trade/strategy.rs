//! A strategy small enough to read at a glance: take the thin side of a lopsided book.
//!
//! It exists to put a decision between feed and order, and earns nothing.
#![forbid(unsafe_code)]

/// Which way an order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Buy.
    Buy,
    /// Sell.
    Sell,
}

/// One side of the top of a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    /// Price in 1/10,000 of a dollar.
    pub price: u32,
    /// Shares of all orders at that price.
    pub shares: u64,
}

/// The best prices of a stock that is quoted on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Top {
    /// The highest buy price.
    pub bid: Level,
    /// The lowest sell price.
    pub ask: Level,
}

/// An order that the strategy wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent {
    /// Buy or sell.
    pub side: Direction,
    /// The stock's locate code of the day (ITCH 5.0, "Stock Locate").
    pub stock: u16,
    /// Limit price in 1/10,000 of a dollar.
    pub price: u32,
    /// Shares.
    pub shares: u32,
    /// Whether what is not executed at once stays in the book for the day, where otherwise it is cancelled.
    pub rests: bool,
}

/// Ticks to stay quiet after a decision: at most some 4,000 orders in a million ticks.
pub const QUIET_TICKS: u32 = 240;

/// How many times more shares one side must show than the other.
const LOPSIDED: u64 = 2;

/// Most shares to ask for.
const CLIP: u64 = 100;

/// Buys the ask of a book that is heavy with buyers, sells to the bid of one that is heavy with sellers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Strategy {
    quiet: u32,
}

impl Strategy {
    /// Counts a tick; says whether the strategy would act on it. Where not, the book need not be looked at.
    #[inline]
    pub fn is_awake(&mut self) -> bool {
        self.quiet = self.quiet.saturating_sub(1);
        self.quiet == 0
    }

    /// The orders that could come of this book, whichever way it leans.
    pub fn candidates(stock: u16, top: &Top) -> [Intent; 2] {
        let take = |side, level: Level| Intent {
            side,
            stock,
            price: level.price,
            shares: level.shares.min(CLIP) as u32,
            rests: false,
        };
        [take(Direction::Buy, top.ask), take(Direction::Sell, top.bid)]
    }

    /// Looks at a book that the tick changed.
    #[inline]
    pub fn decide(&mut self, stock: u16, top: &Top) -> Option<Intent> {
        let Top { bid, ask } = *top;
        if bid.price >= ask.price {
            return None;
        }
        let (side, taken) = if bid.shares >= ask.shares.saturating_mul(LOPSIDED) {
            (Direction::Buy, ask)
        } else if ask.shares >= bid.shares.saturating_mul(LOPSIDED) {
            (Direction::Sell, bid)
        } else {
            return None;
        };
        self.quiet = QUIET_TICKS;
        Some(Intent { side, stock, price: taken.price, shares: taken.shares.min(CLIP) as u32, rests: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(bid: (u32, u64), ask: (u32, u64)) -> Top {
        Top { bid: Level { price: bid.0, shares: bid.1 }, ask: Level { price: ask.0, shares: ask.1 } }
    }

    #[test]
    fn heavy_bid_buys_the_ask() {
        let intent = Strategy::default().decide(7, &top((100, 400), (101, 60)));
        assert_eq!(intent, Some(Intent { side: Direction::Buy, stock: 7, price: 101, shares: 60, rests: false }));
    }

    #[test]
    fn heavy_ask_sells_to_the_bid_at_most_a_clip() {
        let intent = Strategy::default().decide(7, &top((100, 400), (101, 900)));
        assert_eq!(intent, Some(Intent { side: Direction::Sell, stock: 7, price: 100, shares: 100, rests: false }));
    }

    #[test]
    fn even_or_crossed_book_is_left_alone() {
        assert_eq!(Strategy::default().decide(7, &top((100, 400), (101, 400))), None);
        assert_eq!(Strategy::default().decide(7, &top((101, 400), (101, 1))), None);
    }

    #[test]
    fn decision_is_one_of_the_candidates() {
        for top in [top((100, 400), (101, 60)), top((100, 400), (101, 900))] {
            let decided = Strategy::default().decide(7, &top).unwrap();
            assert!(Strategy::candidates(7, &top).contains(&decided));
        }
    }

    #[test]
    fn decision_is_followed_by_quiet_ticks() {
        let mut strategy = Strategy::default();
        assert!(strategy.is_awake());
        assert!(strategy.decide(7, &top((100, 400), (101, 60))).is_some());
        let quiet = (0..).take_while(|_| !strategy.is_awake()).count();
        assert_eq!(quiet as u32, QUIET_TICKS - 1);
    }
}
