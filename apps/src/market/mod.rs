//! A whole market in one process: an exchange host and a trader host, each with its own port, joined by a wire.
#![forbid(unsafe_code)]

pub mod compare;
mod config;
mod quantiles;
pub mod schedule;

pub use config::{Config, DEFAULT_RATE, DEFAULT_TICKS};
pub use quantiles::{Quantiles, Spans};

/// Why a market run failed. The message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that was asked for is not allowed.
    #[error("{flag} takes {allowed}")]
    Config {
        /// The flag.
        flag: &'static str,
        /// What it allows.
        allowed: &'static str,
    },
}
