//! What an earlier life of the trader left: a trader that was started anew hears the exchange say again everything it has said today, about orders
//! that it never sent itself. They are kept by symbol, with the positions they came to, until the feed has told which stock that is.
#![forbid(unsafe_code)]

use crate::fields::Alpha;
use crate::order::ouch::OrderAccepted;

/// An order that the exchange accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptedOrder {
    /// Its number.
    pub number: u32,
    /// The stock's name.
    pub symbol: Alpha<8>,
    /// Whether it sells.
    pub is_sell: bool,
    /// Limit price, 1/10,000 of a dollar.
    pub price: u32,
    /// Shares that may still execute.
    pub shares: u32,
    /// Whether it may rest in the book.
    pub rests: bool,
}

impl AcceptedOrder {
    /// The order that the exchange accepted.
    pub(super) fn of(accepted: &OrderAccepted) -> Self {
        Self {
            number: accepted.user_ref_num.get(),
            symbol: accepted.symbol,
            // S, and T and E for short sales.
            is_sell: &accepted.side.0 != b"B",
            // What a client's order may cost fits; what does not is the dearest.
            price: u32::try_from(accepted.price.get()).unwrap_or(u32::MAX),
            // D: it was dead at once.
            shares: if &accepted.order_state.0 == b"D" { 0 } else { accepted.quantity.get() },
            rests: &accepted.time_in_force.0 != b"3",
        }
    }
}

/// Orders and positions without a stock. It grows with what is heard; in a life without an earlier one it is empty.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    orders: Vec<AcceptedOrder>,
    positions: Vec<(Alpha<8>, i64)>,
}

impl Earlier {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.positions.is_empty()
    }

    pub(super) fn add(&mut self, order: AcceptedOrder) {
        self.orders.push(order);
    }

    /// Takes up to `shares` out of an order; says how many were taken, and whether none are left.
    #[cold]
    pub(super) fn take(&mut self, number: u32, shares: u32, executed: bool) -> Option<(u32, bool)> {
        let order = self.orders.iter_mut().find(|order| order.number == number)?;
        let taken = shares.min(order.shares);
        order.shares -= taken;
        let (symbol, is_over) = (order.symbol, order.shares == 0);
        if executed {
            let signed = if order.is_sell { -i64::from(taken) } else { i64::from(taken) };
            match self.positions.iter_mut().find(|(known, _)| *known == symbol) {
                Some((_, position)) => *position = position.wrapping_add(signed),
                None => self.positions.push((symbol, signed)),
            }
        }
        self.orders.retain(|order| order.shares > 0);
        Some((taken, is_over))
    }

    /// Gives up what belongs to `symbol`: the position, and each order to `order`.
    #[cold]
    pub(super) fn give(&mut self, symbol: Alpha<8>, mut order: impl FnMut(AcceptedOrder)) -> i64 {
        self.orders.iter().filter(|known| known.symbol == symbol).for_each(|known| order(*known));
        self.orders.retain(|known| known.symbol != symbol);
        let position = self.positions.iter().filter(|known| known.0 == symbol).map(|known| known.1).sum();
        self.positions.retain(|known| known.0 != symbol);
        position
    }
}
