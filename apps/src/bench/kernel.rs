//! The kernel's own TCP for comparison: two processes, each in a network namespace of its own, joined by a veth pair, reading without blocking.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use barewire_driver::clock::{Clock, Nanos};
use barewire_netstack::placement::pin;
use clap::ValueEnum;

use super::rr::{MESSAGE, RoundTrip};
use crate::market::Spans;

const ROUNDS: u32 = 50_000;
const WARM: u32 = 2_000;
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 87, 0, 1), 7);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 2);
/// The interface in both namespaces.
const INTERFACE: &str = "bwbench";
const WAIT: Nanos = 10_000_000_000;

/// Which end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// Answers.
    Server,
    /// Asks, and measures.
    Client,
}

/// A child that ends with us.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures round trips of the kernel's sockets; the reason where that is not permitted here.
pub(super) fn measure() -> Result<RoundTrip, String> {
    let (server, _server_out) = start("server")?;
    let (client, mut client_out) = start("client")?;
    let (a, b) = (server.0.id().to_string(), client.0.id().to_string());
    let pair = ["link", "add", INTERFACE, "netns", &a, "type", "veth", "peer", "name", INTERFACE, "netns", &b];
    ip(&pair).map_err(|error| format!("a veth pair cannot be made: {error}"))?;
    let mut line = String::new();
    client_out.read_line(&mut line).map_err(|error| error.to_string())?;
    let figures = line.trim().split_once(' ').and_then(|(p50, p99)| Some((p50.parse().ok()?, p99.parse().ok()?)));
    let (ns_p50, ns_p99) = figures.ok_or_else(|| format!("the client said {:?}", line.trim()))?;
    Ok(RoundTrip { ns_p50, ns_p99 })
}

/// Starts an end of this program in a network namespace of its own, and waits until it is there.
fn start(end: &str) -> Result<(Ended, BufReader<impl Read>), String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find the program itself: {error}"))?;
    let mut command = Command::new("unshare");
    command.arg("--net").arg(program).args(["bench", "--kernel", end]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child =
        child.map(Ended).map_err(|error| format!("unshare does not start ({error}); install util-linux"))?;
    let out = child.0.stdout.take().ok_or("no pipe")?;
    let (mut out, mut line) = (BufReader::new(out), String::new());
    out.read_line(&mut line).map_err(|error| error.to_string())?;
    if line.trim() != "here" {
        return Err("a network namespace of its own is not permitted; run as root".into());
    }
    Ok((child, out))
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip does not start ({error}); install iproute2"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// Is one end: in a namespace, once the interface has come.
pub(super) fn run_end(end: &End, out: &mut impl Write) -> Result<(), String> {
    let clock = Clock::calibrated();
    let said = |error: io::Error| error.to_string();
    writeln!(out, "here").and_then(|()| out.flush()).map_err(said)?;
    let address = if *end == End::Server { *SERVER.ip() } else { CLIENT };
    let start = clock.now();
    while let Err(error) = ip(&["address", "add", &format!("{address}/24"), "dev", INTERFACE]) {
        if clock.now() > start + WAIT {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(10));
    }
    ip(&["link", "set", INTERFACE, "up"])?;
    // Without a core of its own it is slower, and no less right.
    match end {
        End::Server => {
            let _ = pin(1);
            serve().map_err(said)
        }
        End::Client => {
            let _ = pin(0);
            let spans = ask(&clock).map_err(said)?;
            let RoundTrip { ns_p50, ns_p99 } = RoundTrip::of(&spans);
            writeln!(out, "{ns_p50} {ns_p99}").map_err(said)
        }
    }
}

/// Reads a whole message without blocking. `false` at the end of the stream.
fn read(stream: &mut TcpStream, message: &mut [u8; MESSAGE]) -> io::Result<bool> {
    let mut len = 0;
    while len < MESSAGE {
        match stream.read(&mut message[len..]) {
            Ok(0) => return Ok(false),
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn serve() -> io::Result<()> {
    let (mut stream, _) = TcpListener::bind(SERVER)?.accept()?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut message = [0; MESSAGE];
    while read(&mut stream, &mut message)? {
        stream.write_all(&message)?;
    }
    Ok(())
}

fn ask(clock: &Clock) -> io::Result<Spans> {
    let start = clock.now();
    let mut stream = loop {
        match TcpStream::connect(SERVER) {
            Ok(stream) => break stream,
            Err(error) if clock.now() > start + WAIT => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let (mut spans, mut message) = (Spans::default(), [0x5A; MESSAGE]);
    for round in 0..WARM + ROUNDS {
        let start = clock.now();
        stream.write_all(&message)?;
        if !read(&mut stream, &mut message)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if round >= WARM {
            spans.record(clock.now() - start);
        }
    }
    Ok(spans)
}
