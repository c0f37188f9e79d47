//! A whole market over a kernel-bypass stack: feed, book, decision, order, exchange.

pub mod args;
pub mod bench;
pub mod decode;
pub mod devices;
pub mod digest;
pub mod exchange;
pub mod feed;
pub mod fields;
pub mod market;
pub mod model;
pub mod net;
pub mod order;
pub mod port;
pub mod replay;
pub mod trade;
