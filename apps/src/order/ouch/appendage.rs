//! What may stand behind a message's fixed part: a length of two bytes, and options of a length, a tag and a value each.
#![forbid(unsafe_code)]

use serde::ser::{Serialize, SerializeMap, Serializer};
use zerocopy::byteorder::big_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::fields::{Alpha, Field};

/// Options behind a message, checked: every one has a length that fits. By default not even a length stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appendage<'a>(Option<&'a [u8]>);

impl<'a> Appendage<'a> {
    /// Takes options as they stand on the wire, without the length before them.
    ///
    /// # Errors
    /// Where an option is malformed, in bytes from the start; more than 65,535 bytes are, at the end.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, usize> {
        let mut rest = bytes;
        while let Some((len, after)) = rest.split_first() {
            let at = bytes.len().wrapping_sub(rest.len());
            if *len == 0 {
                return Err(at);
            }
            rest = after.get(usize::from(*len)..).ok_or(at)?;
        }
        if u16::try_from(bytes.len()).is_err() {
            return Err(bytes.len());
        }
        Ok(Self(Some(bytes)))
    }

    /// The options.
    pub fn options(self) -> impl Iterator<Item = TagValue<'a>> {
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first()?;
            let (option, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            option.split_first().map(|(tag, value)| TagValue::parse(*tag, value))
        })
    }

    /// The options as they stand on the wire, without the length before them.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0.unwrap_or_default()
    }

    /// Whether the length before the options is written at all. Several messages may leave it away.
    pub fn has_length(self) -> bool {
        self.0.is_some()
    }
}

impl Serialize for Appendage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for option in self.options() {
            option.serialize_entry(&mut map)?;
        }
        map.end()
    }
}

macro_rules! tag_values {
    ($($(#[$doc:meta])* $tag:literal $name:ident $shown:literal $ty:ty,)*) => {
        /// An option (specification, appendix A).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum TagValue<'a> {
            $($(#[$doc])* $name($ty),)*
            /// A tag that the specification does not have, or one whose value has another length. It is kept as it is.
            Unknown {
                /// The tag.
                tag: u8,
                /// The value.
                value: &'a [u8],
            },
        }

        impl<'a> TagValue<'a> {
            /// Every tag of the specification with the length of its value in bytes.
            pub const KNOWN: &'static [(u8, usize)] = &[$(($tag, size_of::<$ty>())),*];

            /// Reads a value by its tag.
            pub fn parse(tag: u8, value: &'a [u8]) -> Self {
                match tag {
                    $($tag => <$ty>::read_from_bytes(value).map(Self::$name).unwrap_or(Self::Unknown { tag, value }),)*
                    _ => Self::Unknown { tag, value },
                }
            }

            /// Appends the option, as it stands on the wire, to `out`. A value beyond 254 bytes has no form on the wire and is cut.
            pub fn write(&self, out: &mut Vec<u8>) {
                let (tag, value) = match self {
                    $(Self::$name(value) => ($tag, value.as_bytes()),)*
                    Self::Unknown { tag, value } => (*tag, *value),
                };
                let value = value.get(..254).unwrap_or(value);
                out.push(value.len() as u8 + 1);
                out.push(tag);
                out.extend_from_slice(value);
            }

            fn serialize_entry<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
                match self {
                    $(Self::$name(value) => map.serialize_entry($shown, &value.shown()),)*
                    Self::Unknown { tag, value } => map.serialize_entry(&format!("tag_{tag}"), value),
                }
            }
        }
    };
}

tag_values! {
    /// The exchange's number of the displayed part, as in the feed.
    1 SecondaryOrdRefNum "secondary_ord_ref_num" U64,
    /// Whose order it is, where an account enters for several firms.
    2 Firm "firm" Alpha<4>,
    /// Least shares of an execution.
    3 MinQty "min_qty" U32,
    /// R retail, N not, blank as the port has it.
    4 CustomerType "customer_type" Alpha<1>,
    /// Shares to be displayed.
    5 MaxFloor "max_floor" U32,
    /// L limit, P market peg, M midpoint peg, R primary peg, Q market maker peg, m midpoint.
    6 PriceType "price_type" Alpha<1>,
    /// Distance from what the price is pegged to, in 1/10,000 dollar.
    7 PegOffset "peg_offset" I32,
    /// Price.
    9 DiscretionPrice "discretion_price" U64,
    /// As the price type.
    10 DiscretionPriceType "discretion_price_type" Alpha<1>,
    /// As the peg offset.
    11 DiscretionPegOffset "discretion_peg_offset" I32,
    /// P post only, N not.
    12 PostOnly "post_only" Alpha<1>,
    /// Shares by which a refreshed display varies.
    13 RandomReserves "random_reserves" U32,
    /// Where the order is routed.
    14 Route "route" Alpha<4>,
    /// Seconds to live, below 86,400.
    15 ExpireTime "expire_time" U32,
    /// Y, N, or blank as the port has it.
    16 TradeNow "trade_now" Alpha<1>,
    /// Handling in crosses and beyond: I, O, T, Q, B, D or blank.
    17 HandleInst "handle_inst" Alpha<1>,
    /// What the order weighs at the best price.
    18 BboWeightIndicator "bbo_weight_indicator" Alpha<1>,
    /// Shares displayed from here on.
    22 DisplayQuantity "display_quantity" U32,
    /// Price displayed from here on.
    23 DisplayPrice "display_price" U64,
    /// Part of a firm.
    24 GroupId "group_id" U16,
    /// Y: shares to sell short have been located.
    25 SharesLocated "shares_located" Alpha<1>,
    /// Who located them.
    26 LocateBroker "locate_broker" Alpha<4>,
    /// As in Enter Order.
    27 Side "side" Alpha<1>,
    /// Which of an account's number spaces is meant.
    28 UserRefIdx "user_ref_idx" u8,
    /// What prevents a match with oneself.
    29 AiqStrategy "aiq_strategy" Alpha<1>,
    /// Among whom.
    30 AiqGroupId "aiq_group_id" Alpha<2>,
}
