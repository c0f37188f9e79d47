//! NASDAQ OUCH 5.0: every message, in both directions, read in place.
//!
//! Prices are integers in 1/10,000 dollar, times nanoseconds since midnight. Behind the fixed part most messages carry an appendage, or may: its
//! length and that many bytes of options (specification, sections 2 and 3, appendix A).
#![forbid(unsafe_code)]

mod appendage;
pub mod reject;

pub use appendage::{Appendage, TagValue};
use serde::ser::{Serialize, Serializer};
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
    /// The appendage length is not that of the bytes that follow.
    #[error("appendage of message type {kind:?} has another length than it says", kind = char::from(*.kind))]
    AppendageLength {
        /// The type.
        kind: u8,
    },
    /// An option goes beyond the appendage, or has no tag.
    #[error("appendage of message type {kind:?} is malformed at byte {at}", kind = char::from(*.kind))]
    Appendage {
        /// The type.
        kind: u8,
        /// Where, in bytes from the appendage's start.
        at: usize,
    },
}

/// Whether an appendage may follow the fixed part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Nothing follows.
    Never,
    /// Nothing, or a length and options.
    Optional,
    /// A length at least.
    Always,
}

macro_rules! directions {
    ($($(#[$direction_doc:meta])* $direction:ident {
        $($(#[$doc:meta])* $kind:literal $name:ident $section:literal $with:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* })*
    })*) => { $(
        $(record! {
            $(#[$doc])*
            #[doc = concat!("\n\nSpecification section ", $section, ".")]
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
                        let appendage = match directions!(@$with) {
                            Appended::Always => Some(rest),
                            Appended::Optional => Some(rest).filter(|rest| !rest.is_empty()),
                            Appended::Never if rest.is_empty() => None,
                            Appended::Never => return Err(length(EXPECTED)),
                        };
                        let appendage = match appendage.map(<[u8]>::split_first_chunk::<2>) {
                            None => Appendage::default(),
                            Some(None) => return Err(length(EXPECTED)),
                            Some(Some((len, options))) if usize::from(u16::from_be_bytes(*len)) == options.len() => {
                                Appendage::parse(options).map_err(|at| Error::Appendage { kind, at })?
                            }
                            Some(Some(_)) => return Err(Error::AppendageLength { kind }),
                        };
                        Ok(Self::$name(message, appendage))
                    })*
                    _ => Err(Error::UnknownType(kind)),
                }
            }

            /// Appends the message, as it stands on the wire, to `out`.
            pub fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name(message, appendage) => {
                        out.extend_from_slice(message.as_bytes());
                        if directions!(@$with) == Appended::Always || appendage.has_length() {
                            // An appendage is checked to fit a 16-bit length.
                            out.extend_from_slice(&(appendage.as_bytes().len() as u16).to_be_bytes());
                            out.extend_from_slice(appendage.as_bytes());
                        }
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
            pub const TYPES: &'static [(u8, usize, Appended)] = &[$(($kind, size_of::<$name>(), directions!(@$with))),*];
        }
    )* };
    (@never) => { Appended::Never };
    (@optional) => { Appended::Optional };
    (@always) => { Appended::Always };
}

directions! {
    /// From the client to the exchange.
    Inbound {
        /// A new order.
        b'O' EnterOrder "2.1" always {
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
        b'U' ReplaceOrderRequest "2.2" always {
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
        b'X' CancelOrderRequest "2.3" optional {
            /// The order.
            user_ref_num: U32,
            /// Shares that may be executed in all, those before included; zero ends the order.
            quantity: U32,
        }
        /// Another side marking, or fewer shares.
        b'M' ModifyOrderRequest "2.4" optional {
            /// The order.
            user_ref_num: U32,
            /// The new marking.
            side: Alpha<1>,
            /// Shares.
            quantity: U32,
        }
        /// Cancels all orders of a firm, or those in one symbol, of one side or group.
        b'C' MassCancelRequest "2.5" always {
            /// The request's number, from the same rising numbers as orders.
            user_ref_num: U32,
            /// Firm.
            firm: Alpha<4>,
            /// Symbol; blank for all.
            symbol: Alpha<8>,
        }
        /// Takes a firm's right to enter orders away.
        b'D' DisableOrderEntryRequest "2.6" always {
            /// The request's number, from the same rising numbers as orders.
            user_ref_num: U32,
            /// Firm.
            firm: Alpha<4>,
        }
        /// Gives it back.
        b'E' EnableOrderEntryRequest "2.7" always {
            /// The request's number, from the same rising numbers as orders.
            user_ref_num: U32,
            /// Firm.
            firm: Alpha<4>,
        }
        /// Asks for the next number that would be taken.
        b'Q' AccountQueryRequest "2.8" optional {
        }
    }
    /// From the exchange to the client.
    Outbound {
        /// Start and end of day.
        b'S' SystemEvent "3.1" never {
            /// When.
            timestamp: U64,
            /// S or E.
            event_code: Alpha<1>,
        }
        /// The order stands.
        b'A' OrderAccepted "3.2" always {
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
        b'U' OrderReplaced "3.3" always {
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
        b'C' OrderCanceled "3.4" optional {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// Shares taken away.
            quantity: U32,
            /// U by the user, I immediate or cancel, T time-out, and so on.
            reason: Alpha<1>,
        }
        /// Shares are cancelled, for the order met another of the same owner.
        b'D' AiqCanceled "3.5" optional {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// Shares taken away.
            decrement_shares: U32,
            /// Q.
            reason: Alpha<1>,
            /// Shares that would have been executed.
            quantity_prevented_from_trading: U32,
            /// At this price.
            execution_price: U64,
            /// As the execution would have had it.
            liquidity_flag: Alpha<1>,
            /// What prevented it.
            aiq_strategy: Alpha<1>,
        }
        /// Shares are executed.
        b'E' OrderExecuted "3.6" always {
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
        b'B' BrokenTrade "3.7" optional {
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
        b'J' Rejected "3.8" optional {
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
        b'P' CancelPending "3.9" optional {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
        }
        /// The cancel is not possible.
        b'I' CancelReject "3.10" optional {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
        }
        /// The order has another place in the queue.
        b'T' OrderPriorityUpdate "3.11" optional {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// Price.
            price: U64,
            /// Y, N, A or Z.
            display: Alpha<1>,
            /// The exchange's number from here on.
            order_reference_number: U64,
        }
        /// The order has another side marking, or fewer shares.
        b'M' OrderModified "3.12" optional {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// The marking from here on.
            side: Alpha<1>,
            /// Shares from here on.
            quantity: U32,
        }
        /// The exchange has changed what it displays of the order.
        b'R' OrderRestated "3.13" always {
            /// When.
            timestamp: U64,
            /// The order.
            user_ref_num: U32,
            /// R display refreshed, P displayed price changed.
            reason: Alpha<1>,
        }
        /// The mass cancel is done.
        b'X' MassCancelResponse "3.14" always {
            /// When.
            timestamp: U64,
            /// The request.
            user_ref_num: U32,
            /// As asked.
            firm: Alpha<4>,
            /// As asked.
            symbol: Alpha<8>,
        }
        /// The firm enters no more orders.
        b'G' DisableOrderEntryResponse "3.15" always {
            /// When.
            timestamp: U64,
            /// The request.
            user_ref_num: U32,
            /// As asked.
            firm: Alpha<4>,
        }
        /// The firm may enter orders again.
        b'K' EnableOrderEntryResponse "3.16" always {
            /// When.
            timestamp: U64,
            /// The request.
            user_ref_num: U32,
            /// As asked.
            firm: Alpha<4>,
        }
        /// What the account query asked for.
        b'Q' AccountQueryResponse "3.17" optional {
            /// When.
            timestamp: U64,
            /// The lowest number that would be taken.
            next_user_ref_num: U32,
        }
    }
}

#[cfg(test)]
mod tests;
