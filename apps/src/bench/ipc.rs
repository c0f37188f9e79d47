//! `bench ipc`: messages from one process to another and back, over the rings of `netstack::ipc`, a pipe, a Unix socket and crate ipc-channel; and
//! what a cache line takes that goes to and fro between the same two cores, which nothing in shared memory can beat.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::dma::{Region, SharedWords};
use barewire_driver::ring::Words;
use barewire_netstack::ipc::{Geometry, Peer, Reader, Ring, SendError, Writer};
use barewire_netstack::placement::pin;
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};
use serde::Serialize;

use super::{Error, progress};
use crate::market::Spans;

/// Bytes of a message: an order with its header.
const MESSAGE: usize = 48;
const SHAPE: Geometry = Geometry { lines: 1 << 8, max_message: MESSAGE as u16, writers: 1 };
/// Round trips that are measured, and messages one way: through memory, and through the kernel.
const ROUNDS: [u32; 2] = [200_000, 20_000];
const STREAM: [u32; 2] = [5_000_000, 300_000];
/// How often an end looks before it asks whether the other lives.
const PATIENCE: u32 = 1 << 24;

/// What a message asks of the other end.
mod ask {
    /// To be sent back.
    pub const ECHO: u8 = 1;
    /// To be counted.
    pub const COUNT: u8 = 2;
    /// For the end.
    pub const END: u8 = 3;
}

/// Figures of one way.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Way {
    /// Half of a round trip, the median, nanoseconds.
    pub ns_p50: Nanos,
    /// The 99th percentile.
    pub ns_p99: Nanos,
    /// Messages a second, one way; none where there are no messages.
    pub per_s: Option<f64>,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Ipc {
    /// Bytes of a message.
    pub message_bytes: usize,
    /// One cache line to and fro, and nothing else: the floor.
    pub line: Way,
    /// Our rings.
    pub ring: Way,
    /// Two pipes.
    pub pipe: Way,
    /// A Unix stream socket.
    pub unix_socket: Way,
    /// Crate ipc-channel, which goes by Unix sockets.
    pub ipc_channel: Way,
    /// The rings' median to the floor's.
    pub ratio_floor: f64,
    /// The pipe's median to the rings'.
    pub ratio_pipe: f64,
    /// The socket's median to the rings'.
    pub ratio_unix_socket: f64,
    /// The crate's median to the rings'.
    pub ratio_ipc_channel: f64,
    /// The rings' messages a second to the fastest of the others'.
    pub ratio_per_s: f64,
}

/// One end of a way between two processes.
trait End {
    fn send(&mut self, message: &[u8; MESSAGE]) -> Result<(), Error>;
    /// Waits for a message at least, and hands out what there is.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<(), Error>;
}

struct Rings {
    reader: Reader,
    writer: Writer,
}

impl Rings {
    fn check(&self, peer: Peer) -> Result<(), Error> {
        match peer {
            Peer::Died(process) | Peer::Left(process) => Err(Error::Run(format!("{process} at the other end is gone"))),
            Peer::Alive(_) | Peer::Absent => Ok(()),
        }
    }
}

impl End for Rings {
    fn send(&mut self, message: &[u8; MESSAGE]) -> Result<(), Error> {
        let mut looks = 0u32;
        loop {
            match self.writer.send(message) {
                Ok(()) => return Ok(()),
                Err(SendError::Full) => std::hint::spin_loop(),
                Err(error) => return Err(Error::failed(error)),
            }
            looks += 1;
            if looks.is_multiple_of(PATIENCE) {
                self.check(self.writer.reader())?;
            }
        }
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        const BURST: u32 = 64;
        let mut looks = 0u32;
        while self.reader.poll(BURST, &mut *take).map_err(Error::failed)? == 0 {
            std::hint::spin_loop();
            looks += 1;
            if looks.is_multiple_of(PATIENCE) {
                self.check(self.reader.writer(0).unwrap_or(Peer::Absent))?;
            }
        }
        Ok(())
    }
}

/// Two byte streams of the kernel's.
struct Streams<R, W>(R, W);

impl<R: Read, W: Write> End for Streams<R, W> {
    fn send(&mut self, message: &[u8; MESSAGE]) -> Result<(), Error> {
        self.1.write_all(message).map_err(Error::failed)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        let mut message = [0; MESSAGE];
        self.0.read_exact(&mut message).map_err(Error::failed)?;
        take(&message);
        Ok(())
    }
}

/// The two channels of crate ipc-channel.
struct Channels(IpcBytesReceiver, IpcBytesSender);

impl End for Channels {
    fn send(&mut self, message: &[u8; MESSAGE]) -> Result<(), Error> {
        self.1.send(message).map_err(Error::failed)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        take(&self.0.recv().map_err(Error::failed)?);
        Ok(())
    }
}

/// The process at the other end; it ends with us.
struct Other(Child);

impl Other {
    fn start(arguments: &[String], input: Stdio, output: Stdio) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::failed)?;
        let mut command = Command::new(program);
        command.args(["bench", "--ipc"]).args(arguments).stdin(input).stdout(output).stderr(Stdio::inherit());
        command.spawn().map(Self).map_err(Error::failed)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the benchmark.
pub fn run() -> Result<Ipc, Error> {
    let clock = Clock::calibrated();
    // Without a core of its own it is slower, and no less right.
    let _ = pin(0);
    progress("a cache line");
    let line = floor(&clock)?;
    progress("rings");
    let ring = {
        let [there, back] = [Ring::create(SHAPE), Ring::create(SHAPE)].map(|ring| ring.map_err(Error::failed));
        let (there, back) = (there?, back?);
        let addresses = ["ring".into(), there.address(), back.address()];
        let mut end =
            Rings { reader: back.reader().map_err(Error::failed)?, writer: there.writer().map_err(Error::failed)? };
        let _other = Other::start(&addresses, Stdio::null(), Stdio::null())?;
        measure(&clock, &mut end, 0)?
    };
    progress("pipes");
    let pipe = {
        let mut other = Other::start(&["pipe".into()], Stdio::piped(), Stdio::piped())?;
        let (input, output) = (other.0.stdin.take(), other.0.stdout.take());
        let (input, output) = input.zip(output).ok_or_else(|| Error::Run("no pipes".into()))?;
        measure(&clock, &mut Streams(output, input), 1)?
    };
    progress("a Unix socket");
    let unix_socket = {
        let (ours, theirs) = UnixStream::pair().map_err(Error::failed)?;
        let _other = Other::start(&["socket".into()], OwnedFd::from(theirs).into(), Stdio::null())?;
        let ours_too = ours.try_clone().map_err(Error::failed)?;
        measure(&clock, &mut Streams(ours, ours_too), 1)?
    };
    progress("crate ipc-channel");
    let ipc_channel = {
        let (server, name) = IpcOneShotServer::new().map_err(Error::failed)?;
        let _other = Other::start(&["channel".into(), name], Stdio::null(), Stdio::null())?;
        let (_, (receiver, sender)) = server.accept().map_err(Error::failed)?;
        measure(&clock, &mut Channels(receiver, sender), 1)?
    };
    let ratio = |other: &Way, ours: &Way| other.ns_p50 as f64 / ours.ns_p50.max(1) as f64;
    let others = [&pipe, &unix_socket, &ipc_channel].into_iter().filter_map(|way| way.per_s).fold(1.0, f64::max);
    Ok(Ipc {
        message_bytes: MESSAGE,
        ratio_floor: ratio(&ring, &line),
        ratio_pipe: ratio(&pipe, &ring),
        ratio_unix_socket: ratio(&unix_socket, &ring),
        ratio_ipc_channel: ratio(&ipc_channel, &ring),
        ratio_per_s: ring.per_s.unwrap_or(0.0) / others,
        line,
        ring,
        pipe,
        unix_socket,
        ipc_channel,
    })
}

/// Round trips, then messages one way. `kind` says how many: through memory, or through the kernel.
fn measure(clock: &Clock, end: &mut impl End, kind: usize) -> Result<Way, Error> {
    let (rounds, stream) = (ROUNDS[kind], STREAM[kind]);
    let mut spans = Spans::default();
    for round in 0..rounds + rounds / 10 {
        let start = clock.now();
        end.send(&[ask::ECHO; MESSAGE])?;
        end.receive(&mut |_| ())?;
        // The first tenth warms up.
        if round >= rounds / 10 {
            spans.record(clock.now().saturating_sub(start) / 2);
        }
    }
    let start = clock.now();
    for _ in 0..stream {
        end.send(&[ask::COUNT; MESSAGE])?;
    }
    end.send(&[ask::END; MESSAGE])?;
    let mut counted = 0;
    end.receive(&mut |answer| counted = answer.first_chunk().map_or(0, |count| u32::from_be_bytes(*count)))?;
    let took = clock.now().saturating_sub(start);
    if counted != stream {
        return Err(Error::Run(format!("{counted} of {stream} messages arrived")));
    }
    let quantiles = spans.quantiles();
    let per_s = f64::from(stream) * 1e9 / took.max(1) as f64;
    Ok(Way { ns_p50: quantiles.p50, ns_p99: quantiles.p99, per_s: Some(per_s) })
}

/// The other end: echoes, counts, and answers with the count in the end.
fn serve(end: &mut impl End) -> Result<(), Error> {
    let (mut counted, mut over) = (0u32, false);
    while !over {
        let mut echoes = 0;
        end.receive(&mut |message| match message.first() {
            Some(&ask::ECHO) => echoes += 1,
            Some(&ask::COUNT) => counted += 1,
            _ => over = true,
        })?;
        for _ in 0..echoes {
            end.send(&[ask::ECHO; MESSAGE])?;
        }
    }
    let mut answer = [0; MESSAGE];
    answer[..4].copy_from_slice(&counted.to_be_bytes());
    end.send(&answer)?;
    Ok(())
}

/// One line to and fro: this end writes odd numbers, the other even ones.
fn floor(clock: &Clock) -> Result<Way, Error> {
    let region = Region::allocate("line", size_of::<u64>()).map_err(Error::failed)?;
    let words = SharedWords::new(&region, 0, 8).ok_or_else(|| Error::Run("no line".into()))?;
    let mut other = Other::start(&["line".into(), region.address()], Stdio::null(), Stdio::null())?;
    let mut spans = Spans::default();
    for round in 0..u64::from(ROUNDS[0]) {
        let start = clock.now();
        words.store(0, 2 * round + 1, Ordering::Release);
        let mut looks = 0u32;
        while words.load(0, Ordering::Acquire) != 2 * round + 2 {
            std::hint::spin_loop();
            looks += 1;
            if looks.is_multiple_of(PATIENCE) && other.0.try_wait().is_ok_and(|over| over.is_some()) {
                return Err(Error::Run("the process at the other end is gone".into()));
            }
        }
        spans.record(clock.now().saturating_sub(start) / 2);
    }
    words.store(0, u64::MAX, Ordering::Release);
    let quantiles = spans.quantiles();
    Ok(Way { ns_p50: quantiles.p50, ns_p99: quantiles.p99, per_s: None })
}

fn serve_line(address: &str) -> Result<(), Error> {
    let region = Region::open(address).map_err(Error::failed)?;
    let words = SharedWords::new(&region, 0, 8).ok_or_else(|| Error::Run("no line".into()))?;
    loop {
        match words.load(0, Ordering::Acquire) {
            u64::MAX => return Ok(()),
            odd if !odd.is_multiple_of(2) => words.store(0, odd + 1, Ordering::Release),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Takes the part of the other end: the program does this to itself.
///
/// # Errors
/// When the way cannot be opened or breaks.
pub fn run_end(arguments: &[String]) -> Result<(), Error> {
    let _ = pin(1);
    let stdin = || io::stdin().as_fd().try_clone_to_owned().map_err(Error::failed);
    match arguments {
        [kind, address] if kind == "line" => serve_line(address),
        [kind, there, back] if kind == "ring" => {
            let open = |address: &str| Ring::open(address).map_err(Error::failed);
            let reader = open(there)?.reader().map_err(Error::failed)?;
            serve(&mut Rings { reader, writer: open(back)?.writer().map_err(Error::failed)? })
        }
        [kind] if kind == "pipe" => {
            let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(Error::failed)?;
            serve(&mut Streams(File::from(stdin()?), File::from(stdout)))
        }
        [kind] if kind == "socket" => serve(&mut Streams(File::from(stdin()?), File::from(stdin()?))),
        [kind, name] if kind == "channel" => {
            let (ours, receiver) = ipc::bytes_channel().map_err(Error::failed)?;
            let (sender, theirs) = ipc::bytes_channel().map_err(Error::failed)?;
            let meeting = IpcSender::connect(name.clone()).map_err(Error::failed)?;
            meeting.send((theirs, ours)).map_err(Error::failed)?;
            serve(&mut Channels(receiver, sender))
        }
        _ => Err(Error::Run("no such end".into())),
    }
}
