//! A whole market over a kernel-bypass stack: feed, book, decision, order, exchange.
#![forbid(unsafe_code)]

pub mod market;
pub mod trade;
