//! The command line: raw flags as clap reads them, and the checked configuration they become.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;

use barewire_driver::bus::sysfs::PciAddress;
use barewire_netstack::placement::Cores;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::bench::kernel;
use crate::market::processes::Role;
use crate::net::args as net;
use crate::{market, model};

/// A kernel-bypass stack for trading: NIC drivers, express lanes, and a whole market to try them on.
#[derive(Debug, Parser)]
#[command(name = "barewire", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Why there is no command to run.
#[derive(Debug)]
pub enum Refusal {
    /// Help or the version was asked for, or nothing at all.
    Help(clap::Error),
    /// What is wrong, and what is allowed, in one line.
    Line(String),
}

impl Cli {
    /// Reads a command line.
    ///
    /// # Errors
    /// What to print instead of running a command.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Refusal> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        Self::try_parse_from(&arguments).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Refusal::Help(error),
            kind => Refusal::Line(one_line(&error.to_string(), kind, &arguments)),
        })
    }
}

/// The parser's report without its usage; where it does not say what is allowed, the flags or commands there are.
fn one_line(report: &str, kind: ErrorKind, arguments: &[OsString]) -> String {
    let told = report.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let told: Vec<_> = told.map(str::trim).filter(|line| !line.is_empty()).collect();
    let told = told.join(" ");
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    let cli = Cli::command();
    let (mut command, mut path) = (&cli, String::from("barewire"));
    for argument in arguments.iter().skip(1) {
        let Some(next) = command.find_subcommand(argument) else { break };
        command = next;
        path = format!("{path} {}", command.get_name());
    }
    if !matches!(kind, ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand) {
        return format!("{told}; see `{path} --help`");
    }
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let flags = command.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(|flag| flag.get_long());
    let allowed = commands.map(|command| command.get_name().to_owned()).chain(flags.map(|flag| format!("--{flag}")));
    format!("{told}; `{path}` takes {}", allowed.collect::<Vec<_>>().join(", "))
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
  barewire demo --processes                      five processes: exchange, feed, strategy, risk and gateway
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
  barewire bench tick --json                     descriptor to doorbell, against smoltcp's own sockets
Instruction counts need valgrind; without it they are null, with the reason.")]
    Bench(BenchArgs),
    /// Run device models behind vfio-user sockets, for drivers in other processes or in guests of QEMU.
    #[command(after_help = "Examples:
  barewire model 82599 --socket a.sock --socket b.sock          two, joined by a wire
  barewire model 82599 --socket a.sock --wire pcap:a.pcap       one, and a capture of what it sends
  barewire model 82599 --socket a.sock --wire tap:tap0          one, on a TAP interface
  barewire model 82599 --socket a.sock --wire unix:wire.sock    one, joined to a model of another process
Runs until SIGINT or SIGTERM. QEMU (10.1 or later) takes one by
  -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"a.sock\"}}'
with guest memory that is shared: -object memory-backend-memfd,id=m,size=1G,share=on -machine memory-backend=m.")]
    Model(ModelArgs),
    /// List the PCI network devices of this machine.
    #[command(after_help = "Examples:
  barewire devices                               a table
  barewire devices --json                        one JSON object, for programs
NAME is the part's where there is a driver for it; DRIVER is the kernel's that has the device now.")]
    Devices(DevicesArgs),
    /// Take a device from its kernel driver, so that it can be used as a port. Needs root.
    #[command(after_help = "Examples:
  barewire bind 0000:03:00.0                     its interface disappears from Linux
  barewire ping --port vfio:0000:03:00.0 --ip 10.0.0.1/24 10.0.0.2
  barewire unbind 0000:03:00.0                   undo
Needs an IOMMU and the module vfio-pci. The interface that carries the default route is refused without --force.")]
    Bind(BindArgs),
    /// Give a device back to its kernel driver. Needs root.
    #[command(after_help = "Example:
  barewire unbind 0000:03:00.0                   undoes barewire bind 0000:03:00.0")]
    Unbind(BindArgs),
    /// Ask hosts whether they are there (ICMP echo), and answer when asked.
    #[command(after_help = "Examples:
  barewire ping --port vfio:0000:03:00.0 --ip 10.0.0.1/24 10.0.0.2
  barewire ping --port vfio:0000:03:00.0 --ip 10.0.0.1/24 --idle sleep
                                                 only answer, until Ctrl-C
  barewire ping --port tap:bw0 --ip 10.9.0.2/24 10.9.0.1
                                                 asks this machine's kernel; `ip addr add 10.9.0.1/24 dev bw0`, `ip link set bw0 up`
  barewire ping --port model:82599 --ip 10.0.0.1/24 10.0.0.2 --idle pause --json
                                                 a trial in this process; the wake-up latency is measured first
Exit status 1 when nobody answers.")]
    Ping(net::PingArgs),
    /// Wait for one TCP connection and echo, drain or feed it.
    #[command(after_help = "Examples:
  barewire listen --port vfio:0000:03:00.0 --ip 10.0.0.1/24 7000
                                                 echo
  barewire listen --port vfio:0000:03:00.0 --ip 10.0.0.1/24 7000 --role sink --json
                                                 takes everything, prints its SHA-256
  barewire listen --port model:82599 --ip 10.0.0.1/24 7000 --role source --bytes 1000000
                                                 a trial: the far end, in this process, is the sink")]
    Listen(net::ListenArgs),
    /// Open a TCP connection and send, take, or send and compare what comes back.
    #[command(after_help = "Examples:
  barewire connect --port vfio:0000:03:00.0 --ip 10.0.0.1/24 10.0.0.2:7000 --role source --bytes 33554432
                                                 sends 32 MiB, prints their SHA-256
  barewire connect --port model:82599 --ip 10.0.0.1/24 10.0.0.2:7000 --size 64 --bytes 64000
                                                 a trial: a thousand round trips of 64 bytes")]
    Connect(net::ConnectArgs),
    /// Send numbered multicast datagrams, or receive them and count what is missing.
    #[command(after_help = "Examples:
  barewire multicast receive --port vfio:0000:03:00.0 --ip 10.0.0.1/24 239.1.1.1:5000 --count 100000
  barewire multicast send --port vfio:0000:04:00.0 --ip 10.0.0.2/24 239.1.1.1:5000 --count 100000 --rate 20000
A payload begins with its number and the time of sending in ns since 1970, 64 bits each, big-endian. Latencies are as right as the two
hosts' clocks agree. A receiver ends when all have arrived, or nothing for 2 s; exit status 1 when some are missing.")]
    Multicast(net::MulticastArgs),
}

/// Device models that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// Intel 82599, 10 Gb/s.
    #[value(name = "82599")]
    Ixgbe82599,
}

/// Flags of `model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Which device.
    pub device: Device,
    /// Where to listen; several make several models on one wire.
    #[arg(long = "socket", value_name = "PATH", required = true)]
    sockets: Vec<PathBuf>,
    /// What the wire leads to besides: pcap:FILE, tap:NAME or unix:PATH. May be given several times.
    #[arg(long = "wire", value_name = "WHERE")]
    wire: Vec<model::Attachment>,
}

impl ModelArgs {
    /// The checked configuration.
    pub fn config(&self) -> model::Config {
        // There is one device yet; which one needs no room in the configuration.
        let Device::Ixgbe82599 = self.device;
        model::Config { sockets: self.sockets.clone(), wire: self.wire.clone() }
    }
}

/// Flags of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `bind` and `unbind`.
#[derive(Debug, Args)]
pub struct BindArgs {
    /// The device's PCI address, such as 0000:03:00.0.
    pub address: PciAddress,
    /// Do it even to the interface that carries the default route.
    #[arg(long)]
    pub force: bool,
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Seeds the participants and the wire.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// ITCH messages to publish and apply.
    #[arg(long, default_value_t = market::DEFAULT_TICKS, allow_negative_numbers = true)]
    ticks: u64,
    /// Messages a second, open loop.
    #[arg(long, default_value_t = market::DEFAULT_RATE, allow_negative_numbers = true)]
    rate: u64,
    /// Bursts, one every 100 ms: messages a second and a length, such as 1000000/s:2ms. The report tells calm and burst apart.
    #[arg(long, value_name = "RATE/s:LENGTH")]
    burst: Option<market::schedule::Burst>,
    /// Stocks that are traded: 400, or as many as a short run has ticks for.
    #[arg(long)]
    stocks: Option<u16>,
    /// One thread, virtual time: a seed reproduces the run exactly.
    #[arg(long)]
    simulated: bool,
    /// Five processes: the exchange, which hosts the device models, and feed, strategy, risk and gateway, joined by rings in shared memory.
    #[arg(long)]
    processes: bool,
    /// Be one of them; the exchange's process says so.
    #[arg(long, value_name = "ROLE", hide = true)]
    pub part: Option<Role>,
    /// Ports of each host: 2, one for each line of the feed, or 1 for both.
    #[arg(long, default_value_t = 2)]
    ports: usize,
    /// Cores that receive the feed: 1 polls both ports, 2 are one for each, joined by a ring.
    #[arg(long, value_name = "CORES", default_value_t = 1)]
    feed_cores: usize,
    /// Share of frames that the wires lose, on each line of the feed and on the order path.
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    loss: f64,
    /// Share of frames that arrive twice, likewise.
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    duplicate: f64,
    /// Share of frames that later ones overtake, likewise; with --simulated only.
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    reorder: f64,
    /// Share of frames that are damaged, likewise; the MAC drops them.
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    corrupt: f64,
    /// Share of order frames that are lost, where it is not that of --loss.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    tcp_loss: Option<f64>,
    /// Who carries the trader's order session.
    #[arg(long, value_name = "LANE", default_value = "express")]
    tcp: net::TcpLane,
    /// Who carries it at the exchange.
    #[arg(long, value_name = "LANE", default_value = "express")]
    exchange_tcp: net::TcpLane,
    /// The exchange's and the trader's core, such as 0,1; with --feed-cores 2 a third, the second line's.
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,
    /// Stop all orders as soon as there is a file at PATH, as SIGUSR1 does; the market goes on.
    #[arg(long, value_name = "PATH")]
    pub kill_file: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl DemoArgs {
    /// The checked configuration.
    pub fn config(&self) -> Result<market::Config, market::Error> {
        let Self { loss, duplicate, reorder, corrupt, .. } = *self;
        let feed = market::Rates { loss, duplicate, reorder, corrupt };
        let config = market::Config {
            seed: self.seed,
            ticks: self.ticks,
            rate: self.rate,
            burst: self.burst,
            stocks: self.stocks.unwrap_or_else(|| market::default_stocks(self.ticks)),
            simulated: self.simulated,
            processes: self.processes,
            ports: self.ports,
            feed_cores: self.feed_cores,
            feed,
            orders: market::Rates { loss: self.tcp_loss.unwrap_or(loss), ..feed },
            order_cuts: Vec::new(),
            dead_feeds: [None, None],
            trader_tcp: self.tcp.into(),
            exchange_tcp: self.exchange_tcp.into(),
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
    #[arg(required_unless_present_any = ["list", "count", "kernel", "ipc"])]
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
    /// Be the server or the client of the kernel's sockets; the program does this to itself in network namespaces.
    #[arg(long, hide = true, value_name = "END")]
    pub kernel: Option<kernel::End>,
    /// Be the other end of a way between processes; the program does this to itself.
    #[arg(long, hide = true, value_name = "WAY", num_args = 1..=3)]
    pub ipc: Vec<String>,
}
