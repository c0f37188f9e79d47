//! Order entry: OUCH 5.0 messages in SoupBinTCP packets, and the two ends of a session.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod ouch;
pub mod session;
pub mod soupbin;
