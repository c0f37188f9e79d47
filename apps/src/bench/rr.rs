//! `bench tcp-rr`: a request of 64 bytes and its response, over the express lane, over smoltcp, and over the kernel's sockets.
//!
//! A round is what both hosts do for it: application, stack and driver, each host's poll that finds the segment and one that finds nothing, with
//! all that a poll defers. Device models are kept out of the counts, and stand in the way of the nanoseconds of both lanes alike.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use barewire_driver::clock::{Clock, Nanos};
use barewire_driver::ixgbe::{Ixgbe, Rx, Tx};
use barewire_models::Ixgbe82599;
use barewire_netstack::placement::pin;
use barewire_netstack::{Context, Event, Lane, Stack, TcpConfig, TcpId, TcpOptions, TcpState};
use serde::Serialize;

use super::count::{self, Count, ROUNDS, uncounted};
use super::kernel;
use super::probe::Around;
use super::rig::{self, End, FAR_IP, NEAR_IP};
use super::{Error, progress};
use crate::market::Spans;

/// Bytes of a request, and of a response.
pub const MESSAGE: usize = 64;
const SERVER: SocketAddrV4 = SocketAddrV4::new(FAR_IP, 7);
/// Further sessions that stand idle beside the one that is measured.
const IDLE: [u32; 3] = [1, 100, 10_000];
/// Rounds of the two threads.
const THREAD_ROUNDS: u32 = 50_000;

/// A full round trip, nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RoundTrip {
    /// The median.
    pub ns_p50: Nanos,
    /// The 99th percentile.
    pub ns_p99: Nanos,
}

impl RoundTrip {
    /// Of these spans.
    pub fn of(spans: &Spans) -> Self {
        let quantiles = spans.quantiles();
        Self { ns_p50: quantiles.p50, ns_p99: quantiles.p99 }
    }
}

/// Figures of one lane.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Instructions a round, both hosts.
    pub instructions: Count,
    /// One thread takes the part of both hosts in turn.
    #[serde(flatten)]
    pub round_trip: RoundTrip,
}

/// Growth of a round's instructions with idle sessions, as a share.
#[derive(Debug, Serialize)]
pub struct Growth {
    /// Sessions that stand idle.
    pub sessions: u32,
    /// 0.1 is ten per cent more.
    pub growth: Option<f64>,
}

/// What the benchmark found.
#[derive(Debug, Serialize)]
pub struct Rr {
    /// The express lane.
    pub express: Figures,
    /// smoltcp on the same rings.
    pub smoltcp: Figures,
    /// The kernel's sockets over veth, two busy-polling threads of their own; `null` where it is not permitted.
    pub kernel: Option<RoundTrip>,
    /// Why there is no figure of the kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_missing: Option<String>,
    /// The express lane with a thread for each host, as the kernel has.
    pub express_two_threads: RoundTrip,
    /// smoltcp's instructions to the express lane's.
    pub ratio_instructions: Option<f64>,
    /// The kernel's median to that of the two threads.
    pub ratio_kernel: Option<f64>,
    /// Instructions of one hop: from the poll that finds a segment to the doorbell of its answer.
    pub latency_path_instructions: Count,
    /// What idle sessions cost.
    pub idle_sessions: Vec<Growth>,
}

/// Runs the benchmark.
pub fn run() -> Result<Rr, Error> {
    progress("both lanes in turn");
    let [express, smoltcp] = in_turn()?;
    progress("two threads");
    let two = two_threads()?;
    progress("the kernel");
    let kernel = kernel::measure();
    progress("counts");
    let instructions = [Lane::Express, Lane::Host].map(|lane| count::instructions(scenario(lane)));
    let ratio = instructions[1].value().zip(instructions[0].value()).map(|(theirs, ours)| theirs / ours);
    let growth = |sessions: u32| {
        let with = count::instructions(&format!("rr-idle-{sessions}")).value();
        with.zip(instructions[0].value()).map(|(with, without)| with / without - 1.0)
    };
    let idle_sessions = IDLE.map(|sessions| Growth { sessions, growth: growth(sessions) }).into();
    let latency_path_instructions = count::instructions("rr-path");
    let [ours, theirs] = instructions;
    let (kernel, kernel_missing) = match kernel {
        Ok(kernel) => (Some(kernel), None),
        Err(reason) => (None, Some(reason)),
    };
    Ok(Rr {
        express: Figures { instructions: ours, round_trip: express },
        smoltcp: Figures { instructions: theirs, round_trip: smoltcp },
        ratio_kernel: kernel.map(|kernel| kernel.ns_p50 as f64 / two.ns_p50.max(1) as f64),
        kernel,
        kernel_missing,
        express_two_threads: two,
        ratio_instructions: ratio,
        latency_path_instructions,
        idle_sessions,
    })
}

fn scenario(lane: Lane) -> &'static str {
    match lane {
        Lane::Express => "rr-express",
        Lane::Host => "rr-smoltcp",
    }
}

/// A counted scenario; returns the rounds. `None` where there is none of this name.
pub fn counted(name: &str) -> Option<Result<u64, Error>> {
    let lane = match name {
        "rr-express" | "rr-path" => Lane::Express,
        "rr-smoltcp" => Lane::Host,
        _ => return Some(counted_idle(name.strip_prefix("rr-idle-")?.parse().ok()?)),
    };
    Some(if name == "rr-path" { counted_path() } else { counted_rounds(lane, 0) })
}

fn counted_idle(sessions: u32) -> Result<u64, Error> {
    counted_rounds(Lane::Express, sessions)
}

fn counted_rounds(lane: Lane, idle: u32) -> Result<u64, Error> {
    let mut rounds = Rounds::open(lane, idle)?;
    for _ in 0..ROUNDS {
        let mut done = Ok(());
        count::measured(&mut || done = rounds.round());
        done?;
    }
    Ok(ROUNDS.into())
}

/// Counts the hop there alone, up to its doorbell.
fn counted_path() -> Result<u64, Error> {
    let mut rounds = Rounds::open(Lane::Express, 0)?;
    for _ in 0..ROUNDS {
        let now = rounds.clock.now();
        let mut polled = Ok(0);
        let Rounds { far, .. } = &mut rounds;
        count::measured(&mut || polled = far.stack.poll_frames(now, answer));
        polled.map_err(Error::failed)?;
        far.stack.poll_due(now, answer);
        // One that finds nothing, as in a round: what was sent is cleared up then.
        rounds.poll_far()?;
        rounds.poll_near()?;
    }
    Ok(ROUNDS.into())
}

/// Both lanes, a thousand rounds at a time, so that a change of the machine's mood meets both.
fn in_turn() -> Result<[RoundTrip; 2], Error> {
    const TURN: u32 = 1000;
    let mut lanes =
        [(Rounds::open(Lane::Express, 0)?, Spans::default()), (Rounds::open(Lane::Host, 0)?, Spans::default())];
    for _ in 0..2 * ROUNDS / TURN {
        for (rounds, spans) in &mut lanes {
            for _ in 0..TURN {
                let start = rounds.clock.now();
                rounds.round()?;
                spans.record(rounds.clock.now().saturating_sub(start));
            }
        }
    }
    Ok(lanes.map(|(_, spans)| RoundTrip::of(&spans)))
}

/// One host.
struct Host {
    stack: Stack<Rx, Tx>,
    _port: Ixgbe,
}

impl Host {
    /// On the calling thread, with room for `idle` sessions beside the one that is measured.
    fn open(model: &Arc<Ixgbe82599>, around: Option<Around>, ip: Ipv4Addr, idle: u32) -> Result<Self, Error> {
        let tcp = TcpConfig { sessions: idle + 8, half_open: 64, ..TcpConfig::default() };
        let (port, stack) = End::open(Arc::clone(model), around)?.stack_with(ip, tcp);
        Ok(Self { stack, _port: port })
    }

    fn listen(&mut self, lane: Lane, now: Nanos) -> Result<(), Error> {
        let listener = self.stack.context(now).tcp_listen(lane, SERVER.port(), &TcpOptions::default());
        listener.map(drop).map_err(Error::failed)
    }

    fn connect(&mut self, lane: Lane, now: Nanos) -> Result<TcpId, Error> {
        let cx = self.stack.context(now);
        let id = cx.tcp_connect(lane, SERVER, &TcpOptions::default()).map_err(Error::failed)?;
        cx.flush();
        Ok(id)
    }
}

/// The server: a response to every whole request.
#[inline(always)]
fn answer(cx: &mut Context<Tx>, event: Event<'_>) {
    take(cx, event, |cx, id, request| {
        // The client has one request under way, so there is room; a response that finds none shows as a round that fails.
        let _ = cx.tcp_send_message(id, request);
    });
}

/// Gives `user` the next message, once it is there as a whole.
#[inline(always)]
fn take(cx: &mut Context<Tx>, event: Event<'_>, user: impl FnOnce(&mut Context<Tx>, TcpId, &[u8; MESSAGE])) {
    match event {
        Event::TcpData { id, data } => {
            if let Some(message) = data.first_chunk::<MESSAGE>() {
                cx.tcp_consume(id, MESSAGE);
                user(cx, id, message);
            }
        }
        Event::Tcp(id) => {
            if let Some(message) = cx.tcp_peek(id).first_chunk::<MESSAGE>().copied() {
                cx.tcp_consume(id, MESSAGE);
                user(cx, id, &message);
            }
        }
        _ => {}
    }
}

/// Client and server on one thread, with a request under way.
struct Rounds {
    clock: Clock,
    near: Host,
    far: Host,
    /// Responses that came.
    responses: u64,
}

impl Rounds {
    fn open(lane: Lane, idle: u32) -> Result<Self, Error> {
        let clock = Clock::calibrated();
        let [far, near] = rig::models(&clock)?;
        let mut far = Host::open(&far, Some(uncounted), FAR_IP, idle)?;
        let mut near = Host::open(&near, Some(uncounted), NEAR_IP, idle)?;
        far.listen(lane, clock.now())?;
        let client = near.connect(lane, clock.now())?;
        let mut rounds = Self { clock, near, far, responses: 0 };
        rounds.establish(client)?;
        for _ in 0..idle {
            let id = rounds.near.connect(lane, rounds.clock.now())?;
            rounds.establish(id)?;
        }
        let cx = rounds.near.stack.context(rounds.clock.now());
        cx.tcp_send_message(client, &[0x5A; MESSAGE]).map_err(Error::failed)?;
        cx.flush();
        for _ in 0..1000 {
            rounds.round()?;
        }
        Ok(rounds)
    }

    fn establish(&mut self, id: TcpId) -> Result<(), Error> {
        for _ in 0..1000 {
            self.poll_far()?;
            self.poll_near()?;
            if self.near.stack.context(self.clock.now()).tcp_state(id) == TcpState::Established {
                return self.poll_far();
            }
        }
        Err(Error::Run("a connection is not established".into()))
    }

    fn poll_far(&mut self) -> Result<(), Error> {
        self.far.stack.poll(self.clock.now(), answer).map(drop).map_err(Error::failed)
    }

    /// The client sends the next request as soon as it has the response.
    fn poll_near(&mut self) -> Result<(), Error> {
        let Self { near, clock, responses, .. } = self;
        let polled = near.stack.poll(clock.now(), |cx, event| {
            take(cx, event, |cx, id, response| {
                *responses += 1;
                let _ = cx.tcp_send_message(id, response);
            });
        });
        polled.map(drop).map_err(Error::failed)
    }

    #[inline(never)]
    fn round(&mut self) -> Result<(), Error> {
        let before = self.responses;
        self.poll_far()?;
        self.poll_far()?;
        self.poll_near()?;
        self.poll_near()?;
        // smoltcp may take another turn.
        for _ in 0..4 {
            if self.responses > before {
                return Ok(());
            }
            self.poll_far()?;
            self.poll_near()?;
        }
        Err(Error::Run("a request had no response".into()))
    }
}

/// The express lane with a thread for each host, on a core of its own where there are two.
fn two_threads() -> Result<RoundTrip, Error> {
    let clock = Clock::calibrated();
    let [far, near] = rig::models(&clock)?;
    let (ready, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            // Without a core of its own it is slower, and no less right.
            let _ = pin(1);
            let mut host = Host::open(&far, None, FAR_IP, 0)?;
            host.listen(Lane::Express, clock.now())?;
            ready.store(true, Ordering::Release);
            while !over.load(Ordering::Acquire) {
                host.stack.poll(clock.now(), answer).map_err(Error::failed)?;
            }
            Ok::<_, Error>(())
        });
        let spans = client(&near, &clock, || ready.load(Ordering::Acquire) || server.is_finished());
        over.store(true, Ordering::Release);
        let served = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        served.and(spans).map(|spans| RoundTrip::of(&spans))
    })
}

fn client(model: &Arc<Ixgbe82599>, clock: &Clock, ready: impl Fn() -> bool) -> Result<Spans, Error> {
    const WAIT: Nanos = 10_000_000_000;
    let _ = pin(0);
    let mut host = Host::open(model, None, NEAR_IP, 0)?;
    while !ready() {
        thread::yield_now();
    }
    let id = host.connect(Lane::Express, clock.now())?;
    let (mut spans, mut asked, mut last) = (Spans::default(), None, clock.now());
    let mut rounds = 0;
    while rounds < THREAD_ROUNDS {
        let now = clock.now();
        let mut answered = false;
        let polled = host.stack.poll(now, |cx, event| take(cx, event, |_, _, _| answered = true));
        polled.map_err(Error::failed)?;
        let now = clock.now();
        if let Some(asked) = asked.filter(|_| answered) {
            spans.record(now - asked);
            rounds += 1;
            last = now;
        }
        let cx = host.stack.context(now);
        if (answered || asked.is_none()) && cx.tcp_state(id) == TcpState::Established {
            cx.tcp_send_message(id, &[0x5A; MESSAGE]).map_err(Error::failed)?;
            cx.flush();
            asked = Some(now);
        }
        if now > last + WAIT {
            return Err(Error::Run("the other thread does not answer".into()));
        }
    }
    Ok(spans)
}
