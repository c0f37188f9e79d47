//! Market data: MoldUDP64 packets, line arbitration and gap recovery, ITCH 5.0 messages, order books.
#![forbid(unsafe_code)]

pub mod arbiter;
pub mod book;
pub mod glimpse;
pub mod handler;
pub mod itch;
pub mod moldudp64;
pub mod recovery;
pub mod retransmission;
pub mod ring;
pub mod window;
