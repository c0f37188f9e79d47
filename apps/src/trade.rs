//! A trader: feed, book, decision, limits, order.
#![forbid(unsafe_code)]

mod entry;
pub mod kill;
pub mod limits;
pub mod link;
pub mod orders;
pub mod packet;
pub mod risk;
pub mod strategy;
pub mod trader;
pub mod view;
