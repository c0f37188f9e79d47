//! The exchange's books as ITCH messages, for those who come late.
#![forbid(unsafe_code)]

use barewire_driver::clock::Nanos;
use zerocopy::IntoBytes;

use super::book::{TradingState, add_order};
use super::{Exchange, directory, trading_action};
use crate::digest::Side;

impl Exchange {
    /// Says what builds the books as they are now: the directory of stocks with the state of each, and then every order as if it had just been added,
    /// in price-time order.
    pub fn snapshot(&self, now: Nanos, say: &mut dyn FnMut(&[u8])) {
        for (locate, stock) in (1..).zip(&self.stocks) {
            say(directory(now, locate, stock.symbol).as_bytes());
            let state = if stock.state == TradingState::Halted { "H" } else { "T" };
            say(trading_action(now, locate, stock.symbol, state, "").as_bytes());
        }
        for (locate, stock) in (1..).zip(&self.stocks) {
            let bids = stock.bids.iter().rev().map(|level| (Side::Buy, level));
            let offers = stock.offers.iter().map(|level| (Side::Sell, level));
            for (side, (price, queue)) in bids.chain(offers) {
                for order in queue {
                    let (reference, shares) = (order.reference, order.shares);
                    say(add_order(now, locate, stock.symbol, side, *price, reference, shares).as_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Outlet;
    use crate::feed::book::{Books, Capacity};
    use crate::feed::itch::Message;
    use crate::order::gateway::AccountId;

    struct Deaf;

    impl Outlet for Deaf {
        fn feed(&mut self, _: &[u8]) {}
        fn client(&mut self, _: AccountId, _: &[u8]) {}
    }

    #[test]
    fn snapshot_builds_the_same_books() {
        for seed in 0..5 {
            let mut exchange = Exchange::new(seed, 7, 0);
            exchange.start(0, &mut Deaf);
            (0..3_000).for_each(|step| exchange.step(step, false, &mut Deaf));
            let (mut books, mut stocks) = (Books::new(Capacity { orders: 4096 }), 0);
            exchange.snapshot(3_000, &mut |bytes| {
                let message = Message::parse(bytes).unwrap();
                stocks += u32::from(matches!(message, Message::StockDirectory(_)));
                books.apply(&message);
            });
            assert_eq!((books.digest(), stocks), (exchange.digest(), 7));
            assert!(books.digest().orders() > 100);
        }
    }

    #[test]
    fn snapshot_tells_which_stocks_are_halted() {
        let mut exchange = Exchange::new(1, 3, 0);
        exchange.start(0, &mut Deaf);
        (0..100).for_each(|step| exchange.step(step, true, &mut Deaf));
        exchange.halt(100, 2, &mut Deaf);
        let mut states = Vec::new();
        exchange.snapshot(101, &mut |bytes| {
            if let Message::StockTradingAction(action) = Message::parse(bytes).unwrap() {
                states.push((action.stock_locate.get(), action.trading_state.to_string()));
            }
        });
        assert_eq!(states, [(1, "T".to_owned()), (2, "H".to_owned()), (3, "T".to_owned())]);
    }
}
