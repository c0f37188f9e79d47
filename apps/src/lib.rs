//! A whole market over a kernel-bypass stack: feed, book, decision, order, exchange.

pub mod args;
pub mod bench;
pub mod decode;
pub mod digest;
pub mod exchange;
pub mod feed;
pub mod fields;
pub mod market;
pub mod order;
pub mod replay;
pub mod trade;
