//! NASDAQ OUCH 5.0: what entering, replacing, modifying and cancelling an order needs, in both directions.
//!
//! Prices are integers in 1/10,000 dollar, times nanoseconds since midnight. Messages that end in an appendage length are followed by that many
//! bytes of options: a length, a tag, a value each (specification, section 2 and appendix B).

use serde::ser::{Serialize, SerializeMap, Serializer};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::fields::{Alpha, record};

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No byte at all.
    #[error("message is empty")]
    Empty,
    /// A type that this direction does not have.
    #[error("message type {0:#04x} is unknown in this direction")]
    UnknownType(u8),
    /// Too short for its type, or longer without an appendage.
    #[error("message type {kind:?} has {len} bytes; its fixed part has {expected}", kind = char::from(*.kind))]
    Length {
        /// The type.
        kind: u8,
        /// Bytes there are.
        len: usize,
        /// Bytes of the fixed part.
        expected: usize,
    },
    /// The appendage length is not that of the bytes that follow, or an option goes beyond it.
    #[error("appendage of message type {kind:?} is malformed at byte {at}", kind = char::from(*.kind))]
    Appendage {
        /// The type.
        kind: u8,
        /// Where, in bytes from the appendage's start.
        at: usize,
    },
}

/// Options behind a message, checked: every one has a length that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appendage<'a>(&'a [u8]);

impl<'a> Appendage<'a> {
    fn check(kind: u8, bytes: &'a [u8]) -> Result<Self, Error> {
        let mut rest = bytes;
        while let Some((len, after)) = rest.split_first() {
            let malformed = Error::Appendage { kind, at: bytes.len() - rest.len() };
            if *len == 0 {
                return Err(malformed);
            }
            rest = after.get(usize::from(*len)..).ok_or(malformed)?;
        }
        Ok(Self(bytes))
    }

    /// The options: tag and value.
    pub fn options(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first()?;
            let (option, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            option.split_first().map(|(tag, value)| (*tag, value))
        })
    }

    /// The bytes as they stand on the wire, without the length before them.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// How an option's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Unsigned,
    Signed,
}

/// Options by tag: name, bytes of the value, how it is written (appendix B).
const OPTIONS: &[(u8, &str, usize, Kind)] = &[
    (1, "secondary_ord_ref_num", 8, Kind::Unsigned),
    (2, "firm", 4, Kind::Text),
    (3, "min_qty", 4, Kind::Unsigned),
    (4, "customer_type", 1, Kind::Text),
    (5, "max_floor", 4, Kind::Unsigned),
    (6, "price_type", 1, Kind::Text),
    (7, "peg_offset", 4, Kind::Signed),
    (9, "discretion_price", 8, Kind::Unsigned),
    (10, "discretion_price_type", 1, Kind::Text),
    (11, "discretion_peg_offset", 4, Kind::Signed),
    (12, "post_only", 1, Kind::Text),
    (13, "random_reserves", 4, Kind::Unsigned),
    (14, "route", 4, Kind::Text),
    (15, "expire_time", 4, Kind::Unsigned),
    (16, "trade_now", 1, Kind::Text),
    (17, "handle_inst", 1, Kind::Text),
    (18, "bbo_weight_indicator", 1, Kind::Text),
    (22, "display_quantity", 4, Kind::Unsigned),
    (23, "display_price", 8, Kind::Unsigned),
    (24, "group_id", 2, Kind::Unsigned),
    (25, "shares_located", 1, Kind::Text),
    (26, "locate_broker", 4, Kind::Text),
    (27, "side", 1, Kind::Text),
    (28, "user_ref_idx", 1, Kind::Unsigned),
];

impl Serialize for Appendage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (tag, value) in self.options() {
            let known = OPTIONS.iter().find(|(known, _, len, _)| *known == tag && *len == value.len());
            let unsigned = value.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            match known {
                Some((_, name, _, Kind::Unsigned)) => map.serialize_entry(name, &unsigned)?,
                Some((_, name, _, Kind::Signed)) => map.serialize_entry(name, &(unsigned as u32).cast_signed())?,
                Some((_, name, _, Kind::Text)) => {
                    map.serialize_entry(name, String::from_utf8_lossy(value).trim_end())?;
                }
                None => map.serialize_entry(&format!("tag_{tag}"), value)?,
            }
        }
        map.end()
    }
}

macro_rules! directions {
    ($($(#[$direction_doc:meta])* $direction:ident {
        $($(#[$doc:meta])* $kind:literal $name:ident $($with:ident)? { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*
    })*) => { $(
        $(record! {
            $(#[$doc])*
            $name {
                /// The type's letter.
                message_type: Alpha<1>,
                $($(#[$field_doc])* $field: $ty,)*
            }
        })*

        $(#[$direction_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $direction<'a> {
            $($(#[$doc])* $name(&'a $name, Appendage<'a>),)*
        }

        impl<'a> $direction<'a> {
            /// Reads one message with what is appended to it.
            pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
                let Some(&kind) = bytes.first() else { return Err(Error::Empty) };
                let length = |expected| Error::Length { kind, len: bytes.len(), expected };
                match kind {
                    $($kind => {
                        const EXPECTED: usize = size_of::<$name>();
                        let (message, rest) = $name::ref_from_prefix(bytes).map_err(|_| length(EXPECTED))?;
                        let rest = directions!(@appendage kind, rest, length(EXPECTED) $(, $with)?);
                        Ok(Self::$name(message, Appendage::check(kind, rest)?))
                    })*
                    _ => Err(Error::UnknownType(kind)),
                }
            }

            /// Appends the message, as it stands on the wire, to `out`.
            pub fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name(message, appendage) => {
                        out.extend_from_slice(message.as_bytes());
                        directions!(@write out, appendage $(, $with)?);
                    })*
                }
            }
        }

        impl Serialize for $direction<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                /// The fields, then the options where there are any.
                #[derive(serde::Serialize)]
                struct Shown<'m, M: Serialize> {
                    #[serde(flatten)]
                    message: &'m M,
                    #[serde(skip_serializing_if = "is_empty")]
                    appendage: Appendage<'m>,
                }
                fn is_empty(appendage: &Appendage<'_>) -> bool {
                    appendage.as_bytes().is_empty()
                }
                match self {
                    $(Self::$name(message, appendage) => Shown { message: *message, appendage: *appendage }.serialize(serializer),)*
                }
            }
        }

        impl $direction<'_> {
            /// Every type's letter, length of its fixed part, and whether an appendage may follow.
            pub const TYPES: &'static [(u8, usize, bool)] =
                &[$(($kind, size_of::<$name>(), directions!(@has $($with)?))),*];
        }
    )* };
    (@appendage $kind:ident, $rest:ident, $length:expr) => {
        if $rest.is_empty() { $rest } else { return Err($length) }
    };
    (@appendage $kind:ident, $rest:ident, $length:expr, appendage) => {
        match $rest.split_first_chunk::<2>() {
            Some((len, options)) if usize::from(u16::from_be_bytes(*len)) == options.len() => options,
            Some(_) => return Err(Error::Appendage { kind: $kind, at: 0 }),
            None => return Err($length),
        }
    };
    (@write $out:ident, $appendage:ident) => { let _ = $appendage; };
    (@write $out:ident, $appendage:ident, appendage) => {
        // An appendage came out of a 16-bit length, so it fits one.
        $out.extend_from_slice(&($appendage.0.len() as u16).to_be_bytes());
        $out.extend_from_slice($appendage.0);
    };
    (@has) => { false };
    (@has appendage) => { true };
}

directions! {
    /// From the client to the exchange.
    Inbound {
        /// A new order.
        b'O' EnterOrder appendage {
            /// The client's number, rising.
            user_ref_num: U32,
            /// B, S, T (short) or E (short exempt).
            side: Alpha<1>,
            /// Shares.
            quantity: U32,
            /// Symbol.
            symbol: Alpha<8>,
            /// Price.
            price: U64,
            /// 0 day, 3 immediate or cancel, 5, 6, E.
            time_in_force: Alpha<1>,
            /// Y, N, A.
            display: Alpha<1>,
            /// A agency, P principal, R riskless, O other.
            capacity: Alpha<1>,
            /// Y or N.
            inter_market_sweep_eligibility: Alpha<1>,
            /// N continuous market, O, C, H and so on.
            cross_type: Alpha<1>,
            /// The client's own text.
            cl_ord_id: Alpha<14>,
        }
        /// An order instead of another.
        b'U' ReplaceOrderRequest appendage {
            /// The old order.
            orig_user_ref_num: U32,
            /// The new one.
            user_ref_num: U32,
            /// Shares.
            quantity: U32,
            /// Price.
            price: U64,
            /// As in Enter Order.
            time_in_force: Alpha<1>,
            /// As in Enter Order.
            display: Alpha<1>,
            /// As in Enter Order.
            inter_market_sweep_eligibility: Alpha<1>,
            /// The client's own text.
            cl_ord_id: Alpha<14>,
        }
        /// Fewer shares, or none.
        b'X' CancelOrderRequest {
            /// The order.
            user_ref_num: U32,
            /// Shares to remain.
            quantity: U32,
        }
        /// Another side marking, or fewer shares.
        b'M' ModifyOrderRequest {
            /// The order.
            user_ref_num: U32,
            /// The new marking.
            side: Alpha<1>,
            /// Shares.
            quantity: U32,
        }
    }
    /// From the exchange to the client.
    Outbound {
        /// Start and end of day.
        b'S' SystemEvent {
            /// When.
            timestamp: U64,
            /// S or E.
            event_code: Alpha<1>,
        }
        /// The order stands.
        b'A' OrderAccepted appendage {
            /// When.
            timestamp: U64,
            /// The client's number.
            user_ref_num: U32,
            /// As entered.
            side: Alpha<1>,
            /// Shares.
            quantity: U32,
            /// Symbol.
            symbol: Alpha<8>,
            /// Price.
            price: U64,
            /// As entered.
            time_in_force: Alpha<1>,
            /// As entered.
            display: Alpha<1>,
            /// The exchange's number, as in the feed.
            order_reference_number: U64,
            /// As entered.
            capacity: Alpha<1>,
            /// As entered.
            inter_market_sweep_eligibility: Alpha<1>,
            /// As entered.
            cross_type: Alpha<1>,
            /// L live, D dead.
            order_state: Alpha<1>,
            /// As entered.
            cl_ord_id: Alpha<14>,
        }
        /// The replacement stands.
        b'U' OrderReplaced appendage {
            /// When.
            timestamp: U64,
            /// The old order.
            orig_user_ref_num: U32,
            /// The new one.
            user_ref_num: U32,
            /// As entered.
            side: Alpha<1>,
            /// Shares.
            quantity: U32,
            /// Symbol.
            symbol: Alpha<8>,
            /// Price.
            price: U64,
            /// As entered.
            time_in_force: Alpha<1>,
            /// As entered.
            display: Alpha<1>,
            /// The exchange's number.
            order_reference_number: U64,
            /// As entered.
            capacity: Alpha<1>,
            /// As entered.
            inter_market_sweep_eligibility: Alpha<1>,
            /// As entered.
            cross_type: Alpha<1>,
            /// L live, D dead.
            order_state: Alpha<1>,
            /// As entered.
            cl_ord_id: Alpha<14>,
        }
        /// Shares are cancelled.
        b'C' OrderCanceled {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// Shares taken away.
            quantity: U32,
            /// U by the user, I immediate or cancel, T time-out, and so on.
            reason: Alpha<1>,
        }
        /// Shares are executed.
        b'E' OrderExecuted appendage {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// Shares.
            quantity: U32,
            /// Price.
            price: U64,
            /// A added, R removed, and so on.
            liquidity_flag: Alpha<1>,
            /// The match.
            match_number: U64,
        }
        /// An execution is broken.
        b'B' BrokenTrade {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// The match.
            match_number: U64,
            /// Why.
            reason: Alpha<1>,
            /// The client's own text.
            cl_ord_id: Alpha<14>,
        }
        /// The order does not stand.
        b'J' Rejected {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// Why (appendix A).
            reason: U16,
            /// As entered.
            cl_ord_id: Alpha<14>,
        }
        /// The cancel is noted and waits for a cross.
        b'P' CancelPending {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
        }
        /// The cancel is not possible.
        b'I' CancelReject {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
        }
    }
}

/// Reasons of [`Rejected`] that the exchange here gives (appendix A).
pub mod reject {
    /// Price or quantity is not allowed.
    pub const INVALID_QUANTITY: u16 = 0x0015;
    /// Price is not allowed.
    pub const INVALID_PRICE: u16 = 0x0010;
    /// Symbol is unknown.
    pub const UNKNOWN_SYMBOL: u16 = 0x0002;
    /// The user reference number did not rise.
    pub const DUPLICATE: u16 = 0x001B;
    /// The market is closed.
    pub const CLOSED: u16 = 0x0001;
    /// Side is unknown.
    pub const INVALID_SIDE: u16 = 0x0003;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn option() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            (0..OPTIONS.len(), any::<[u8; 8]>()).prop_map(|(index, value)| {
                let (tag, _, len, _) = OPTIONS[index];
                [&[len as u8 + 1, tag][..], &value[..len]].concat()
            }),
            prop::collection::vec(any::<u8>(), 1..20).prop_map(|bytes| [&[bytes.len() as u8], &bytes[..]].concat()),
        ]
    }

    fn message(types: &'static [(u8, usize, bool)]) -> impl Strategy<Value = Vec<u8>> {
        (0..types.len(), prop::collection::vec(any::<u8>(), 80), prop::collection::vec(option(), 0..4)).prop_map(
            |(index, noise, options)| {
                let (kind, len, has_appendage) = types[index];
                let mut bytes = [&[kind], &noise[..len - 1]].concat();
                if has_appendage {
                    let options = options.concat();
                    bytes.extend((options.len() as u16).to_be_bytes());
                    bytes.extend(options);
                }
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn inbound_survives_parse_and_write(bytes in message(Inbound::TYPES)) {
            let message = Inbound::parse(&bytes).unwrap();
            let mut written = Vec::new();
            message.write(&mut written);
            prop_assert_eq!(&written, &bytes);
            serde_json::to_string(&message).unwrap();
            for len in 0..bytes.len() {
                prop_assert!(Inbound::parse(&bytes[..len]).is_err(), "{}", len);
            }
        }

        #[test]
        fn outbound_survives_parse_and_write(bytes in message(Outbound::TYPES)) {
            let message = Outbound::parse(&bytes).unwrap();
            let mut written = Vec::new();
            message.write(&mut written);
            prop_assert_eq!(&written, &bytes);
            serde_json::to_string(&message).unwrap();
            for len in 0..bytes.len() {
                prop_assert!(Outbound::parse(&bytes[..len]).is_err(), "{}", len);
            }
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            _ = (Inbound::parse(&bytes), Outbound::parse(&bytes));
        }
    }

    #[test]
    fn lengths_of_the_fixed_parts_are_those_of_the_specification() {
        // With the two bytes of the appendage length where there is one: 47, 40, 9, 10; 10, 64, 68, 18, 36, 36, 29, 13, 13.
        let total =
            |types: &[(u8, usize, bool)]| types.iter().map(|t| t.1 + if t.2 { 2 } else { 0 }).collect::<Vec<_>>();
        assert_eq!(total(Inbound::TYPES), [47, 40, 9, 10]);
        assert_eq!(total(Outbound::TYPES), [10, 64, 68, 18, 36, 36, 29, 13, 13]);
    }
}
