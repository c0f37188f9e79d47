//! A trader: feed, book, decision, limits, order.
#![forbid(unsafe_code)]

pub mod limits;
pub mod orders;
pub mod strategy;
pub mod trader;
