//! The order side of the market: real captures through the codecs, and what never reaches the exchange.
#![forbid(unsafe_code)]

mod captures;
mod doctored;
mod gaps;
mod limits;
mod oracle;
