//! What the processes say to each other. All are of one build on one machine: fields are in its byte order.
#![forbid(unsafe_code)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::trade::strategy::{Direction, Intent};

/// Bytes of the longest message of a ring: a header and a message of ITCH.
pub(super) const LONGEST: usize = 120;

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(super) struct $name { $($(#[$field_doc])* pub $field: $type),* })*
    };
}

/// Kinds of a [`FromFeed`].
pub(super) mod feed {
    /// The feed's next message.
    pub const MESSAGE: u8 = 0;
    /// Forget the books: a snapshot begins.
    pub const RESET: u8 = 1;
    /// A message of the snapshot.
    pub const SNAPSHOT: u8 = 2;
    /// The snapshot is complete; `number` is the feed's next message.
    pub const COMPLETE: u8 = 3;
    /// Nothing new but how the feed stands. The first is the start of the market.
    pub const STATE: u8 = 4;
    /// The feed is over.
    pub const END: u8 = 5;
}

/// Kinds of a [`Want`].
pub(super) mod want {
    /// The strategy is ready.
    pub const START: u8 = 0;
    /// An order.
    pub const ORDER: u8 = 1;
    /// There will be no more.
    pub const END: u8 = 2;
}

/// Kinds of an [`Instruction`].
pub(super) mod instruction {
    /// Log in.
    pub const START: u8 = 0;
    /// Send an order.
    pub const ORDER: u8 = 1;
    /// Ask the exchange to end all orders.
    pub const CANCEL_ALL: u8 = 2;
    /// Log out.
    pub const LOG_OUT: u8 = 3;
}

/// Kinds of [`News`].
pub(super) mod news {
    /// Orders may be sent, under this epoch.
    pub const READY: u8 = 0;
    /// No orders may be sent.
    pub const DOWN: u8 = 1;
    /// The order was not sent, for this reason.
    pub const UNSENT: u8 = 2;
    /// What the exchange says of orders.
    pub const ACCEPTED: u8 = 3;
    /// Likewise.
    pub const REJECTED: u8 = 4;
    /// Likewise.
    pub const EXECUTED: u8 = 5;
    /// Likewise.
    pub const CANCELLED: u8 = 6;
    /// Likewise, after a cut.
    pub const SETTLED: u8 = 7;
}

messages! {
    /// Feed to strategy: this, and the message where there is one.
    FromFeed {
        /// When the packet was seen.
        seen: u64,
        /// When something was last heard of the feed.
        heard: u64,
        /// The message's number.
        number: u64,
        /// What it is.
        kind: u8,
        /// Later messages are known to exist.
        is_late: u8,
        /// Something of the feed is missing.
        is_stale: u8,
        /// Zero.
        padding: [u8; 5],
    }

    /// Strategy to risk.
    Want {
        /// When the packet was seen that led to it.
        seen: u64,
        /// When something was last heard of the feed.
        heard: u64,
        /// Shares at the best buy price.
        bid_shares: u64,
        /// Shares at the best sell price.
        ask_shares: u64,
        /// The best buy price, 1/10,000 of a dollar.
        bid: u32,
        /// The best sell price.
        ask: u32,
        /// The order.
        order: Order,
        /// What it is.
        kind: u8,
        /// Something of the feed is missing.
        is_stale: u8,
        /// The stock is halted.
        is_halted: u8,
        /// Zero.
        padding: [u8; 5],
    }

    /// Risk to gateway.
    Instruction {
        /// When the packet was seen that led to it.
        seen: u64,
        /// The order.
        order: Order,
        /// Its number.
        number: u32,
        /// The epoch of the session that it is meant for.
        epoch: u32,
        /// What it is.
        kind: u8,
        /// Zero.
        padding: [u8; 7],
    }

    /// Gateway to risk.
    News {
        /// Which order.
        number: u32,
        /// How many shares.
        shares: u32,
        /// The epoch of the session.
        epoch: u32,
        /// What it is.
        kind: u8,
        /// Why an order was not sent: its place among all refusals.
        reason: u8,
        /// Zero.
        padding: [u8; 2],
    }

    /// An order that somebody wants.
    Order {
        /// The stock's name.
        symbol: [u8; 8],
        /// Limit price, 1/10,000 of a dollar.
        price: u32,
        /// Shares.
        shares: u32,
        /// The stock's locate code.
        stock: u16,
        /// 1 for a sale.
        is_sell: u8,
        /// 1 for one that may rest.
        rests: u8,
        /// 1 for one that a burst led to.
        is_burst: u8,
        /// Zero.
        padding: [u8; 3],
    }
}

impl Order {
    /// The order as the rest of the trader knows it.
    pub(super) fn intent(&self) -> Intent {
        let side = if self.is_sell != 0 { Direction::Sell } else { Direction::Buy };
        let Self { stock, price, shares, .. } = *self;
        Intent { side, stock, price, shares, rests: self.rests != 0 }
    }
}

/// A message behind its header, in a buffer that both fit.
pub(super) fn with_body<'a>(buffer: &'a mut [u8; LONGEST], header: &FromFeed, body: &[u8]) -> Option<&'a [u8]> {
    const HEADER: usize = size_of::<FromFeed>();
    let len = HEADER + body.len();
    let message = buffer.get_mut(..len)?;
    let (start, rest) = message.split_at_mut(HEADER);
    start.copy_from_slice(header.as_bytes());
    rest.copy_from_slice(body);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::itch;

    #[test]
    fn every_message_of_the_feed_fits() {
        let longest = itch::TYPES.iter().map(|(_, len)| *len).max().unwrap();
        let (body, header) = (vec![7; longest], FromFeed { number: 5, ..FromFeed::default() });
        let mut buffer = [0; LONGEST];
        let message = with_body(&mut buffer, &header, &body).unwrap();
        let (read, rest) = FromFeed::read_from_prefix(message).unwrap();
        assert_eq!((read, rest), (header, &body[..]));
        assert_eq!(with_body(&mut buffer, &header, &[0; LONGEST]), None);
    }
}
