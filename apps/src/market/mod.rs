//! A whole market in one process: an exchange host and a trader host, each with its own port, joined by a wire.
#![forbid(unsafe_code)]

pub mod compare;
mod config;
pub mod figures;
pub mod hosts;
pub mod network;
pub mod processes;
mod quantiles;
pub mod report;
mod run;
pub mod schedule;

pub use config::{Config, DEFAULT_RATE, DEFAULT_STOCKS, DEFAULT_TICKS, Rates, default_stocks};
pub use hosts::Progress;
pub use quantiles::{PhaseSpans, Quantiles, Spans};
pub use report::Report;
pub use run::{run, run_watched};

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
    /// A port did not come up or close.
    #[error(transparent)]
    Driver(#[from] barewire_driver::Error),
    /// A device broke the contract of its descriptors.
    #[error(transparent)]
    Queue(#[from] barewire_driver::QueueFault),
    /// The wire cannot be as asked.
    #[error(transparent)]
    Wire(#[from] barewire_models::wire::WireError),
    /// A group was not joined.
    #[error(transparent)]
    Join(#[from] barewire_netstack::JoinError),
    /// The order connection was not begun.
    #[error(transparent)]
    Tcp(#[from] barewire_netstack::TcpError),
    /// The ring between two cores failed.
    #[error(transparent)]
    Ring(#[from] barewire_netstack::ipc::RingError),
    /// A device model could not be served.
    #[error(transparent)]
    Server(#[from] barewire_models::vfio_user::ServerError),
    /// A process of the market could not be begun, or not be talked to.
    #[error("the market's processes: {0}")]
    Processes(#[source] std::io::Error),
    /// A process of the market stopped before it was over.
    #[error("{role}: {why}")]
    Stopped {
        /// Which.
        role: &'static str,
        /// Why.
        why: String,
    },
    /// A thread could not be placed.
    #[error("{0}")]
    Placement(String),
    /// The run did not come to its end.
    #[error("the market did not drain within {seconds} s; try a lower --rate, or --simulated")]
    Stalled {
        /// The limit.
        seconds: u64,
    },
}
