//! Messages as they go on the stream: SoupBinTCP header and OUCH in one piece.
#![forbid(unsafe_code)]

use zerocopy::byteorder::big_endian::{U16, U32};

use super::strategy::{Direction, Intent};
use crate::fields::{Alpha, Field, record};
use crate::order::ouch::{CancelOrderRequest, EnterOrder, MassCancelRequest};
use crate::order::soupbin;

/// The type of an unsequenced packet, which is spelled as text here.
const UNSEQUENCED: Alpha<1> = Alpha([soupbin::kind::UNSEQUENCED]);

macro_rules! shown_as_themselves {
    ($($message:ty),*) => {
        $(impl Field for $message {
            type Shown = Self;
            fn shown(&self) -> Self {
                *self
            }
        })*
    };
}

shown_as_themselves!(EnterOrder, CancelOrderRequest, MassCancelRequest);

record! {
    /// An order without options. Prepared once, filled in for each order.
    EnterPacket {
        /// Bytes after the length.
        length: U16,
        /// Unsequenced data.
        packet_type: Alpha<1>,
        /// The order.
        order: EnterOrder,
        /// Bytes of options.
        appendage_length: U16,
    }
}

record! {
    /// The end of an order.
    CancelPacket {
        /// Bytes after the length.
        length: U16,
        /// Unsequenced data.
        packet_type: Alpha<1>,
        /// The request.
        cancel: CancelOrderRequest,
    }
}

record! {
    /// The end of all orders.
    MassCancelPacket {
        /// Bytes after the length.
        length: U16,
        /// Unsequenced data.
        packet_type: Alpha<1>,
        /// The request.
        cancel: MassCancelRequest,
        /// Bytes of options.
        appendage_length: U16,
    }
}

/// What the length field says of a packet of that type.
fn length<T>() -> U16 {
    U16::new((size_of::<T>() - size_of::<U16>()) as u16)
}

impl EnterPacket {
    /// Everything that does not change from order to order: principal, continuous market.
    pub fn template() -> Self {
        let order = EnterOrder {
            message_type: Alpha::new("O"),
            user_ref_num: 0.into(),
            side: Alpha::new("B"),
            quantity: 0.into(),
            symbol: Alpha::new(""),
            price: 0.into(),
            time_in_force: Alpha::new("3"),
            display: Alpha::new("Y"),
            capacity: Alpha::new("P"),
            inter_market_sweep_eligibility: Alpha::new("N"),
            cross_type: Alpha::new("N"),
            cl_ord_id: Alpha::new("barewire"),
        };
        Self { length: length::<Self>(), packet_type: UNSEQUENCED, order, appendage_length: 0.into() }
    }

    /// Fills an order in (OUCH encode).
    #[inline]
    pub fn fill(&mut self, number: u32, intent: &Intent, symbol: Alpha<8>) {
        let order = &mut self.order;
        order.user_ref_num.set(number);
        order.side = Alpha([if intent.side == Direction::Buy { b'B' } else { b'S' }]);
        order.quantity.set(intent.shares);
        order.symbol = symbol;
        order.price.set(u64::from(intent.price));
        // Day, or immediate or cancel.
        order.time_in_force = Alpha([if intent.rests { b'0' } else { b'3' }]);
    }
}

impl CancelPacket {
    pub(super) fn new(number: u32) -> Self {
        let cancel =
            CancelOrderRequest { message_type: Alpha::new("X"), user_ref_num: number.into(), quantity: U32::new(0) };
        Self { length: length::<Self>(), packet_type: UNSEQUENCED, cancel }
    }
}

impl MassCancelPacket {
    /// For all symbols of the account's own firm.
    pub(super) fn new(number: u32) -> Self {
        let cancel = MassCancelRequest {
            message_type: Alpha::new("C"),
            user_ref_num: number.into(),
            firm: Alpha::new(""),
            symbol: Alpha::new(""),
        };
        Self { length: length::<Self>(), packet_type: UNSEQUENCED, cancel, appendage_length: 0.into() }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::order::ouch::Inbound;

    /// The packet is one whole packet, and its message reads.
    fn message(bytes: &[u8]) -> Inbound<'_> {
        let (packet, rest) = soupbin::split(bytes).unwrap().unwrap();
        assert_eq!((packet.kind, rest), (soupbin::kind::UNSEQUENCED, &[][..]));
        Inbound::parse(packet.payload).unwrap()
    }

    #[test]
    fn packets_are_whole_and_read() {
        let mut enter = EnterPacket::template();
        let intent = Intent { side: Direction::Sell, stock: 1, price: 100, shares: 7, rests: true };
        enter.fill(5, &intent, Alpha::new("WIRE"));
        let Inbound::EnterOrder(order, _) = message(enter.as_bytes()) else { panic!() };
        assert_eq!((order.user_ref_num.get(), order.time_in_force, order.side), (5, Alpha(*b"0"), Alpha(*b"S")));
        assert!(
            matches!(message(CancelPacket::new(6).as_bytes()), Inbound::CancelOrderRequest(cancel, _) if cancel.user_ref_num.get() == 6)
        );
        assert!(
            matches!(message(MassCancelPacket::new(7).as_bytes()), Inbound::MassCancelRequest(cancel, _) if cancel.user_ref_num.get() == 7)
        );
    }
}
