//! Order entry: OUCH 5.0 messages in SoupBinTCP packets.
#![forbid(unsafe_code)]

pub mod ouch;
pub mod soupbin;
