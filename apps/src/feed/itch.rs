//! NASDAQ TotalView-ITCH 5.0: every message, read in place.
//!
//! Integers are big-endian and unaligned, alphanumeric fields are ASCII filled up with blanks on the right, prices are integers in units of
//! 1/10,000 dollar (market-wide circuit breaker levels: 1/100,000,000), times are nanoseconds since midnight in 48 bits (specification, section 3).

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fields::{Alpha, Field, record};

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No byte at all.
    #[error("message is empty")]
    Empty,
    /// A type that the specification does not have.
    #[error("message type {0:#04x} is unknown")]
    UnknownType(u8),
    /// The type's length is another.
    #[error("message type {kind:?} has {len} bytes, not {expected}", kind = char::from(*.kind))]
    Length {
        /// The type.
        kind: u8,
        /// Bytes there are.
        len: usize,
        /// Bytes there must be.
        expected: usize,
    },
}

/// Nanoseconds since midnight, 48 bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Timestamp([u8; 6]);

impl Timestamp {
    /// The low 48 bits of `ns`.
    pub fn new(ns: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = ns.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// Nanoseconds since midnight.
    pub fn get(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl Field for Timestamp {
    type Shown = u64;
    fn shown(&self) -> u64 {
        self.get()
    }
}

impl std::fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ns", self.get())
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* $kind:literal $name:ident $section:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*) => {
        $(
            record! {
                $(#[$doc])*
                #[doc = concat!("\n\nSpecification section ", $section, ".")]
                $name {
                    /// The type's letter.
                    message_type: Alpha<1>,
                    /// The day's number of the stock; zero where the message is about none.
                    stock_locate: U16,
                    /// NASDAQ's own number.
                    tracking_number: U16,
                    /// When.
                    timestamp: Timestamp,
                    $($(#[$field_doc])* $field: $ty,)*
                }
            }

            impl $name {
                /// The type's letter.
                pub const TYPE: u8 = $kind;
            }
        )*

        /// A message, lent where it lies.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
        #[serde(untagged)]
        pub enum Message<'a> {
            $($(#[$doc])* $name(&'a $name),)*
        }

        impl<'a> Message<'a> {
            /// Reads one message; its length must be exactly its type's.
            #[inline]
            pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
                let Some(&kind) = bytes.first() else { return Err(Error::Empty) };
                match kind {
                    $($kind => match $name::ref_from_bytes(bytes) {
                        Ok(message) => Ok(Self::$name(message)),
                        Err(_) => Err(Error::Length { kind, len: bytes.len(), expected: size_of::<$name>() }),
                    },)*
                    _ => Err(Error::UnknownType(kind)),
                }
            }

            /// The message as it stands on the wire.
            pub fn as_bytes(&self) -> &'a [u8] {
                match self {
                    $(Self::$name(message) => message.as_bytes(),)*
                }
            }
        }

        /// Every type's letter and length in bytes.
        pub const TYPES: &[(u8, usize)] = &[$(($kind, size_of::<$name>())),*];
    };
}

messages! {
    /// Start and end of messages, system hours, market hours.
    b'S' SystemEvent "4.1" {
        /// O, S, Q, M, E or C.
        event_code: Alpha<1>,
    }
    /// A stock, once at the start of the day.
    b'R' StockDirectory "4.2.1" {
        /// Symbol.
        stock: Alpha<8>,
        /// Listing market.
        market_category: Alpha<1>,
        /// Deficient, delinquent, bankrupt and the like.
        financial_status_indicator: Alpha<1>,
        /// Shares.
        round_lot_size: U32,
        /// Y or N.
        round_lots_only: Alpha<1>,
        /// Kind of security.
        issue_classification: Alpha<1>,
        /// Finer kind.
        issue_sub_type: Alpha<2>,
        /// P live, T test.
        authenticity: Alpha<1>,
        /// Y, N or blank.
        short_sale_threshold_indicator: Alpha<1>,
        /// Y, N or blank.
        ipo_flag: Alpha<1>,
        /// 1, 2 or blank.
        luld_reference_price_tier: Alpha<1>,
        /// Exchange-traded product.
        etp_flag: Alpha<1>,
        /// Leverage.
        etp_leverage_factor: U32,
        /// Y or N.
        inverse_indicator: Alpha<1>,
    }
    /// A stock's trading state changes.
    b'H' StockTradingAction "4.2.2" {
        /// Symbol.
        stock: Alpha<8>,
        /// H halted, P paused, Q quotation only, T trading.
        trading_state: Alpha<1>,
        /// Reserved.
        reserved: Alpha<1>,
        /// Why.
        reason: Alpha<4>,
    }
    /// Short sale price test.
    b'Y' RegShoRestriction "4.2.3" {
        /// Symbol.
        stock: Alpha<8>,
        /// 0, 1 or 2.
        reg_sho_action: Alpha<1>,
    }
    /// A market participant's standing in a stock.
    b'L' MarketParticipantPosition "4.2.4" {
        /// Participant.
        mpid: Alpha<4>,
        /// Symbol.
        stock: Alpha<8>,
        /// Y or N.
        primary_market_maker: Alpha<1>,
        /// N, P, S, R or L.
        market_maker_mode: Alpha<1>,
        /// A, E, W, S or D.
        market_participant_state: Alpha<1>,
    }
    /// Market-wide circuit breaker levels of the day.
    b'V' MwcbDeclineLevel "4.2.5.1" {
        /// Price, 8 decimals.
        level_1: U64,
        /// Price, 8 decimals.
        level_2: U64,
        /// Price, 8 decimals.
        level_3: U64,
    }
    /// A circuit breaker level was breached.
    b'W' MwcbStatus "4.2.5.2" {
        /// 1, 2 or 3.
        breached_level: Alpha<1>,
    }
    /// When quotation of a new issue begins.
    b'K' QuotingPeriodUpdate "4.2.6" {
        /// Symbol.
        stock: Alpha<8>,
        /// Seconds since midnight.
        ipo_quotation_release_time: U32,
        /// A anticipated, C cancelled.
        ipo_quotation_release_qualifier: Alpha<1>,
        /// Price.
        ipo_price: U32,
    }
    /// Auction collar after a limit-up limit-down pause.
    b'J' LuldAuctionCollar "4.2.7" {
        /// Symbol.
        stock: Alpha<8>,
        /// Price.
        auction_collar_reference_price: U32,
        /// Price.
        upper_auction_collar_price: U32,
        /// Price.
        lower_auction_collar_price: U32,
        /// How often it was extended.
        auction_collar_extension: U32,
    }
    /// A market interrupts a stock for reasons of its own.
    b'h' OperationalHalt "4.2.8" {
        /// Symbol.
        stock: Alpha<8>,
        /// Q, B or X.
        market_code: Alpha<1>,
        /// H halted, T resumed.
        operational_halt_action: Alpha<1>,
    }
    /// An order enters the book.
    b'A' AddOrder "4.3.1" {
        /// The order.
        order_reference_number: U64,
        /// B or S.
        buy_sell_indicator: Alpha<1>,
        /// Shares.
        shares: U32,
        /// Symbol.
        stock: Alpha<8>,
        /// Price.
        price: U32,
    }
    /// An order enters the book, and whose it is.
    b'F' AddOrderWithMpid "4.3.2" {
        /// The order.
        order_reference_number: U64,
        /// B or S.
        buy_sell_indicator: Alpha<1>,
        /// Shares.
        shares: U32,
        /// Symbol.
        stock: Alpha<8>,
        /// Price.
        price: U32,
        /// Participant.
        attribution: Alpha<4>,
    }
    /// An order is executed at its own price.
    b'E' OrderExecuted "4.4.1" {
        /// The order.
        order_reference_number: U64,
        /// Shares.
        executed_shares: U32,
        /// The match.
        match_number: U64,
    }
    /// An order is executed at another price.
    b'C' OrderExecutedWithPrice "4.4.2" {
        /// The order.
        order_reference_number: U64,
        /// Shares.
        executed_shares: U32,
        /// The match.
        match_number: U64,
        /// N: not to be counted as volume.
        printable: Alpha<1>,
        /// Price.
        execution_price: U32,
    }
    /// An order becomes smaller.
    b'X' OrderCancel "4.4.3" {
        /// The order.
        order_reference_number: U64,
        /// Shares taken away.
        cancelled_shares: U32,
    }
    /// An order leaves the book.
    b'D' OrderDelete "4.4.4" {
        /// The order.
        order_reference_number: U64,
    }
    /// An order is replaced and loses its priority.
    b'U' OrderReplace "4.4.5" {
        /// The old order.
        original_order_reference_number: U64,
        /// The new one.
        new_order_reference_number: U64,
        /// Shares.
        shares: U32,
        /// Price.
        price: U32,
    }
    /// A match with an order that the book never showed.
    b'P' Trade "4.5.1" {
        /// Zero.
        order_reference_number: U64,
        /// B.
        buy_sell_indicator: Alpha<1>,
        /// Shares.
        shares: U32,
        /// Symbol.
        stock: Alpha<8>,
        /// Price.
        price: U32,
        /// The match.
        match_number: U64,
    }
    /// A cross.
    b'Q' CrossTrade "4.5.2" {
        /// Shares.
        shares: U64,
        /// Symbol.
        stock: Alpha<8>,
        /// Price.
        cross_price: U32,
        /// The match.
        match_number: U64,
        /// O, C, H or I.
        cross_type: Alpha<1>,
    }
    /// A trade is broken.
    b'B' BrokenTrade "4.5.3" {
        /// The match.
        match_number: U64,
    }
    /// Net order imbalance before a cross.
    b'I' NetOrderImbalanceIndicator "4.6" {
        /// Shares.
        paired_shares: U64,
        /// Shares.
        imbalance_shares: U64,
        /// B, S, N, O or P.
        imbalance_direction: Alpha<1>,
        /// Symbol.
        stock: Alpha<8>,
        /// Price.
        far_price: U32,
        /// Price.
        near_price: U32,
        /// Price.
        current_reference_price: U32,
        /// O, C, H or A.
        cross_type: Alpha<1>,
        /// How far the near price is from the reference.
        price_variation_indicator: Alpha<1>,
    }
    /// Retail interest.
    b'N' RetailPriceImprovementIndicator "4.7" {
        /// Symbol.
        stock: Alpha<8>,
        /// B, S, A or N.
        interest_flag: Alpha<1>,
    }
    /// Direct listing with capital raise: price discovery.
    b'O' DirectListingWithCapitalRaise "4.8" {
        /// Symbol.
        stock: Alpha<8>,
        /// Y or N.
        open_eligibility_status: Alpha<1>,
        /// Price.
        minimum_allowable_price: U32,
        /// Price.
        maximum_allowable_price: U32,
        /// Price.
        near_execution_price: U32,
        /// Nanoseconds since midnight.
        near_execution_time: U64,
        /// Price.
        lower_price_range_collar: U32,
        /// Price.
        upper_price_range_collar: U32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lengths from the specification's tables, typed apart from the structures.
    const LENGTHS: [(u8, usize); 23] = [
        (b'S', 12),
        (b'R', 39),
        (b'H', 25),
        (b'Y', 20),
        (b'L', 26),
        (b'V', 35),
        (b'W', 12),
        (b'K', 28),
        (b'J', 35),
        (b'h', 21),
        (b'A', 36),
        (b'F', 40),
        (b'E', 31),
        (b'C', 36),
        (b'X', 23),
        (b'D', 19),
        (b'U', 35),
        (b'P', 44),
        (b'Q', 40),
        (b'B', 19),
        (b'I', 50),
        (b'N', 20),
        (b'O', 48),
    ];

    #[test]
    fn every_type_has_the_length_of_the_specification() {
        assert_eq!(TYPES, LENGTHS);
    }

    #[test]
    fn every_other_length_is_refused() {
        for (kind, expected) in LENGTHS {
            let bytes = [&[kind][..], &[0x31; 60]].concat();
            for len in 1..bytes.len() {
                let parsed = Message::parse(&bytes[..len]);
                if len == expected {
                    assert_eq!(parsed.map(|message| message.as_bytes().len()), Ok(len));
                } else {
                    assert_eq!(parsed, Err(Error::Length { kind, len, expected }));
                }
            }
        }
        assert_eq!(Message::parse(&[]), Err(Error::Empty));
        assert_eq!(Message::parse(b"zzz"), Err(Error::UnknownType(b'z')));
    }

    #[test]
    fn fields_are_shown_under_the_names_of_the_specification() {
        let add = AddOrder {
            message_type: Alpha::new("A"),
            stock_locate: 7.into(),
            tracking_number: 2.into(),
            timestamp: Timestamp::new(34_200_000_000_001),
            order_reference_number: 99.into(),
            buy_sell_indicator: Alpha::new("B"),
            shares: 300.into(),
            stock: Alpha::new("ZVZZT"),
            price: 1_234_500.into(),
        };
        let json = serde_json::to_string(&Message::parse(add.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"message_type":"A","stock_locate":7,"tracking_number":2,"timestamp":34200000000001,"order_reference_number":99,"#,
                r#""buy_sell_indicator":"B","shares":300,"stock":"ZVZZT","price":1234500}"#,
            )
        );
    }

    /// The specification's tables behind the common header, typed apart from the structures: name and bytes, `a` for alphanumeric.
    const FIELDS: [(u8, &str); 23] = [
        (b'S', "event_code:a1"),
        (
            b'R',
            "stock:a8 market_category:a1 financial_status_indicator:a1 round_lot_size:4 round_lots_only:a1 issue_classification:a1 \
             issue_sub_type:a2 authenticity:a1 short_sale_threshold_indicator:a1 ipo_flag:a1 luld_reference_price_tier:a1 etp_flag:a1 \
             etp_leverage_factor:4 inverse_indicator:a1",
        ),
        (b'H', "stock:a8 trading_state:a1 reserved:a1 reason:a4"),
        (b'Y', "stock:a8 reg_sho_action:a1"),
        (b'L', "mpid:a4 stock:a8 primary_market_maker:a1 market_maker_mode:a1 market_participant_state:a1"),
        (b'V', "level_1:8 level_2:8 level_3:8"),
        (b'W', "breached_level:a1"),
        (b'K', "stock:a8 ipo_quotation_release_time:4 ipo_quotation_release_qualifier:a1 ipo_price:4"),
        (
            b'J',
            "stock:a8 auction_collar_reference_price:4 upper_auction_collar_price:4 lower_auction_collar_price:4 \
             auction_collar_extension:4",
        ),
        (b'h', "stock:a8 market_code:a1 operational_halt_action:a1"),
        (b'A', "order_reference_number:8 buy_sell_indicator:a1 shares:4 stock:a8 price:4"),
        (b'F', "order_reference_number:8 buy_sell_indicator:a1 shares:4 stock:a8 price:4 attribution:a4"),
        (b'E', "order_reference_number:8 executed_shares:4 match_number:8"),
        (b'C', "order_reference_number:8 executed_shares:4 match_number:8 printable:a1 execution_price:4"),
        (b'X', "order_reference_number:8 cancelled_shares:4"),
        (b'D', "order_reference_number:8"),
        (b'U', "original_order_reference_number:8 new_order_reference_number:8 shares:4 price:4"),
        (b'P', "order_reference_number:8 buy_sell_indicator:a1 shares:4 stock:a8 price:4 match_number:8"),
        (b'Q', "shares:8 stock:a8 cross_price:4 match_number:8 cross_type:a1"),
        (b'B', "match_number:8"),
        (
            b'I',
            "paired_shares:8 imbalance_shares:8 imbalance_direction:a1 stock:a8 far_price:4 near_price:4 current_reference_price:4 \
             cross_type:a1 price_variation_indicator:a1",
        ),
        (b'N', "stock:a8 interest_flag:a1"),
        (
            b'O',
            "stock:a8 open_eligibility_status:a1 minimum_allowable_price:4 maximum_allowable_price:4 near_execution_price:4 \
             near_execution_time:8 lower_price_range_collar:4 upper_price_range_collar:4",
        ),
    ];

    /// Makes a message by the tables out of `noise`: its bytes, and how it must be shown.
    fn encode(kind: u8, fields: &str, noise: &[u8]) -> (Vec<u8>, serde_json::Value) {
        let (mut bytes, mut shown, mut noise) = (vec![kind], serde_json::Map::new(), noise.iter());
        shown.insert("message_type".to_owned(), char::from(kind).to_string().into());
        for field in
            ["stock_locate:2 tracking_number:2 timestamp:6", fields].into_iter().flat_map(str::split_whitespace)
        {
            let (name, width) = field.split_once(':').unwrap();
            let text = width.strip_prefix('a');
            let mut value: Vec<u8> = noise.by_ref().take(text.unwrap_or(width).parse().unwrap()).copied().collect();
            let show = match text {
                Some(_) => {
                    value.iter_mut().for_each(|byte| *byte = if *byte < 64 { b' ' } else { b'A' + *byte % 26 });
                    std::str::from_utf8(&value).unwrap().trim_end().into()
                }
                None => value.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)).into(),
            };
            shown.insert(name.to_owned(), show);
            bytes.append(&mut value);
        }
        (bytes, shown.into())
    }

    proptest! {
        #[test]
        fn every_type_survives_encode_and_decode(noise in prop::collection::vec(any::<u8>(), 60)) {
            for ((kind, fields), (_, len)) in FIELDS.into_iter().zip(LENGTHS) {
                let (bytes, shown) = encode(kind, fields, &noise);
                prop_assert_eq!(bytes.len(), len);
                let message = Message::parse(&bytes).unwrap();
                prop_assert_eq!(message.as_bytes(), &bytes[..]);
                prop_assert_eq!(serde_json::to_string(&message).unwrap(), shown.to_string());
                // Every byte counts: changing any of them changes what is decoded.
                for at in 1..len {
                    let mut other = bytes.clone();
                    other[at] ^= 0x40;
                    prop_assert_ne!(Message::parse(&other).unwrap(), message);
                }
            }
        }
    }
}
