//! Market data: MoldUDP64 packets, ITCH 5.0 messages, order books.
#![forbid(unsafe_code)]

pub mod book;
pub mod itch;
pub mod moldudp64;
