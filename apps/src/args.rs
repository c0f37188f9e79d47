//! The command line: raw flags as clap reads them, and the checked configuration they become.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use barewire_netstack::placement::Cores;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::market;

/// A kernel-bypass stack for trading: NIC drivers, express lanes, and a whole market to try them on.
#[derive(Debug, Parser)]
#[command(name = "barewire", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a market: an exchange, its feed and a trader, over two ports with our driver on a software 82599 each.
    #[command(after_help = "Examples:
  barewire demo                                  some seconds of market in real time, and a table
  barewire demo --seed 7 --ticks 1000000 --json  the same market, a million ticks, one JSON object
  barewire demo --simulated --seed 11 --tcp-loss 0.02 --json
                                                 virtual time: the same seed gives the same output
At the default rate the receive ring absorbs a stall of 50 ms; at a higher one proportionally less.")]
    Demo(DemoArgs),
    /// Print the messages in captures of exchange traffic.
    #[command(after_help = "Examples:
  barewire decode capture.pcap --json            one JSON object a message, a summary last
  barewire decode captures/ --protocol ouch      a folder, as OUCH in SoupBinTCP
Reads classic pcap of Ethernet, tagged or not. A capture that is cut off prints what it holds; exit status 2.")]
    Decode(DecodeArgs),
    /// Send captures of multicast market data through wire, device model, driver and stack, and print what arrives.
    #[command(after_help = "Example:
  barewire replay capture.pcap --json            the same lines as decode, by way of the driver")]
    Replay(ReplayArgs),
    /// Measure the hot paths.
    #[command(after_help = "Examples:
  barewire bench --list                          what can be measured
  barewire bench tick --json                     descriptor to doorbell, against smoltcp's own UDP socket
Instruction counts need valgrind; without it they are null, with the reason.")]
    Bench(BenchArgs),
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Seeds the participants and the wire.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// ITCH messages to publish and apply.
    #[arg(long, default_value_t = market::DEFAULT_TICKS)]
    ticks: u64,
    /// Messages a second, open loop.
    #[arg(long, default_value_t = market::DEFAULT_RATE)]
    rate: u64,
    /// Stocks that are traded.
    #[arg(long, default_value_t = market::DEFAULT_STOCKS)]
    stocks: u16,
    /// One thread, virtual time: a seed reproduces the run exactly.
    #[arg(long)]
    simulated: bool,
    /// Share of feed frames that the wire loses; nothing recovers them yet.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    loss: f64,
    /// Share of order frames that the wire loses, both ways.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    tcp_loss: f64,
    /// The exchange's and the trader's core, such as 0,1.
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl DemoArgs {
    /// The checked configuration.
    pub fn config(&self) -> Result<market::Config, market::Error> {
        let config = market::Config {
            seed: self.seed,
            ticks: self.ticks,
            rate: self.rate,
            stocks: self.stocks,
            simulated: self.simulated,
            loss: self.loss,
            tcp_loss: self.tcp_loss,
            cores: self.cores.clone().unwrap_or_default().0,
        };
        config.check()?;
        Ok(config)
    }
}

/// Protocols that `decode` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// ITCH 5.0 in MoldUDP64.
    Itch,
    /// OUCH 5.0 in SoupBinTCP.
    Ouch,
}

/// Flags of `decode`.
#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// Captures, or folders of captures.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Take every frame for this protocol instead of looking: UDP is ITCH, TCP is OUCH.
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// Print JSON, one object a line, the summary last.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Captures, or folders of captures.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Print JSON, one object a line, the summary last.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure; see --list.
    #[arg(required_unless_present_any = ["list", "count"])]
    pub name: Option<String>,
    /// List what can be measured.
    #[arg(long)]
    pub list: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Run one counted scenario and nothing else; the program does this to itself under valgrind.
    #[arg(long, hide = true, value_name = "SCENARIO")]
    pub count: Option<String>,
}
