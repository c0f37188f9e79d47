//! The stack under test, as sockets need it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use barewire_driver::clock::Nanos;
use barewire_driver::soft::{Config as PortConfig, Rx, SoftPort, Tx};
use barewire_driver::{Error, Port};
use barewire_netstack::{
    Config, Context, Event, Lane, ListenerId, Stack, TcpEnd, TcpError, TcpId, TcpOptions, TcpReport, TcpState,
};

use crate::flags::Flags;
use crate::wire::{MTU, STACK_MAC, Wire};

/// Bytes of headers before a payload, without options.
const HEADERS: usize = 40;
/// packetdrill locks all memory, of which an ordinary user has little.
const DESCRIPTORS: u32 = 256;

/// A stack on a wire, and its connections on one lane.
pub struct Tcp {
    lane: Lane,
    timestamps: bool,
    stack: Stack<Rx<Wire>, Tx<Wire>>,
    wire: Wire,
    now: Nanos,
    /// Established, and not accepted yet.
    accepted: VecDeque<(ListenerId, TcpId, SocketAddrV4)>,
    connections: Vec<Connection>,
}

/// What the host stack does not say about a connection.
struct Connection {
    id: TcpId,
    is_active: bool,
    state: TcpState,
    end: Option<TcpEnd>,
    /// Nobody reads it any more.
    is_released: bool,
}

impl Tcp {
    /// The stack that `flags` ask for, on `wire`.
    pub fn open(flags: &Flags, wire: &Wire) -> Result<Self, Error> {
        let Flags { lane, local, timestamps } = *flags;
        let sizes = PortConfig { tx_descriptors: DESCRIPTORS, ..PortConfig::default() };
        let mut port = SoftPort::new("packetdrill".to_owned(), STACK_MAC, wire.clone(), sizes)?;
        // On this wire every address is a neighbour.
        let stack = Stack::new(port.open_queue(0)?, Config::new(STACK_MAC, local, 0, 1));
        let (accepted, connections) = (VecDeque::new(), Vec::new());
        Ok(Self { lane, timestamps, stack, wire: wire.clone(), now: 0, accepted, connections })
    }

    fn context(&mut self) -> &mut Context<Tx<Wire>> {
        self.stack.context(self.now)
    }

    /// Takes what has arrived, runs what is due at `now`, and sends what is to be sent.
    pub fn poll(&mut self, now: Nanos) {
        self.now = now;
        let (has_arrivals, sender) = (self.wire.has_arrivals(), self.wire.next_sender());
        let Self { stack, accepted, connections, .. } = self;
        let polled = stack.poll(now, |cx, event| match event {
            Event::Accepted { listener, id } => {
                // What establishes a connection is a segment of the peer's.
                accepted.extend(sender.map(|peer| (listener, id, peer)));
            }
            Event::Tcp(id) => {
                let is_released = connections.iter().any(|known| known.id == id && known.is_released);
                if is_released && !cx.tcp_peek(id).is_empty() {
                    // The host stack would take it in for nobody (RFC 9293, 3.6.1).
                    cx.tcp_abort(id);
                }
            }
            // Data that is not taken here can be read later.
            Event::TcpData { .. } | Event::Multicast { .. } => {}
        });
        if let Err(fault) = polled {
            eprintln!("barewire-packetdrill: {fault}");
        }
        self.observe(has_arrivals);
    }

    /// Follows the states of all connections. `arrived` says whether a segment did, or time alone passed.
    fn observe(&mut self, arrived: bool) {
        let Self { stack, connections, now, .. } = self;
        let cx = stack.context(*now);
        connections.retain_mut(|known| {
            let state = cx.tcp_state(known.id);
            if state == TcpState::Closed && known.end.is_none() {
                known.end = cx.tcp_end(known.id).or_else(|| known.end(arrived));
            }
            known.state = state;
            !(known.is_released && state == TcpState::Closed)
        });
    }

    fn add(&mut self, id: TcpId, is_active: bool) {
        let state = self.context().tcp_state(id);
        self.connections.push(Connection { id, is_active, state, end: None, is_released: false });
    }

    /// When [`Tcp::poll`] must be called even if nothing arrives.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        self.stack.next_deadline(now)
    }

    /// Waits for connections to `port`.
    pub fn listen(&mut self, port: u16, options: &TcpOptions) -> Result<ListenerId, TcpError> {
        let (lane, options) = (self.lane, TcpOptions { timestamps: self.timestamps, ..*options });
        self.context().tcp_listen(lane, port, &options)
    }

    /// Changes how connections behave that a listener has not begun yet.
    pub fn set_listener_options(&mut self, listener: ListenerId, options: &TcpOptions) -> Result<(), TcpError> {
        self.context().tcp_unlisten(listener);
        self.listen(listener.port, options).map(drop)
    }

    /// The next connection that was opened to a listener, and its peer.
    pub fn accept(&mut self, listener: ListenerId) -> Option<(TcpId, SocketAddrV4)> {
        let at = self.accepted.iter().position(|(of, ..)| *of == listener)?;
        let (_, id, peer) = self.accepted.remove(at)?;
        self.add(id, false);
        Some((id, peer))
    }

    /// Ends a listener, and resets the connections that nobody accepted.
    pub fn stop_listening(&mut self, listener: ListenerId) {
        self.context().tcp_unlisten(listener);
        while let Some((id, _)) = self.accept(listener) {
            self.abort(id);
        }
    }

    /// Opens a connection.
    pub fn connect(&mut self, peer: SocketAddrV4, options: &TcpOptions) -> Result<TcpId, TcpError> {
        let (lane, options) = (self.lane, TcpOptions { timestamps: self.timestamps, ..*options });
        let id = self.context().tcp_connect(lane, peer, &options)?;
        self.add(id, true);
        Ok(id)
    }

    /// Whether connections keep to [`TcpOptions`].
    pub fn has_options(&self) -> bool {
        self.lane == Lane::Express
    }

    /// Changes how a connection behaves.
    pub fn set_options(&mut self, id: TcpId, options: &TcpOptions) -> Result<(), TcpError> {
        self.context().tcp_set_options(id, options)
    }

    /// Takes bytes to send as far as there is room, and says how many.
    pub fn send(&mut self, id: TcpId, bytes: &[u8]) -> usize {
        let cx = self.context();
        // Without room the stack tells when there is some, and a connection that is over takes nothing.
        let taken = cx.tcp_send(id, bytes).unwrap_or(0);
        cx.flush();
        taken
    }

    /// Bytes that it would take now.
    pub fn room(&mut self, id: TcpId) -> usize {
        self.context().tcp_room(id)
    }

    /// Bytes taken from the sender and not acknowledged by the peer.
    pub fn unacknowledged(&mut self, id: TcpId) -> usize {
        self.context().tcp_unacknowledged(id)
    }

    /// Bytes that can be read at once.
    pub fn readable(&mut self, id: TcpId) -> usize {
        let cx = self.context();
        match cx.tcp_report(id) {
            Some(report) => report.unread as usize,
            None => cx.tcp_peek(id).len(),
        }
    }

    /// Moves received bytes into `buffer`, and says how many.
    pub fn read(&mut self, id: TcpId, buffer: &mut [u8]) -> usize {
        let mut read = 0;
        // What is over has nothing to read.
        let _ = self.context().tcp_receive(id, |bytes| {
            let taken = bytes.len().min(buffer.len() - read);
            buffer[read..read + taken].copy_from_slice(&bytes[..taken]);
            read += taken;
            taken
        });
        read
    }

    /// Sends FIN after what was taken.
    pub fn close(&mut self, id: TcpId) {
        self.context().tcp_close(id);
        self.caused(id);
    }

    /// Ends the connection at once, by RST where RFC 9293, 3.10.5 asks for it.
    pub fn abort(&mut self, id: TcpId) {
        self.context().tcp_abort(id);
        self.caused(id);
    }

    /// Closes a connection that nobody will read from any more.
    pub fn release(&mut self, id: TcpId) {
        self.context().tcp_release(id);
        self.caused(id);
        for known in self.connections.iter_mut().filter(|known| known.id == id) {
            known.is_released = true;
        }
    }

    /// Where the connection is now, it is by our own doing.
    fn caused(&mut self, id: TcpId) {
        let state = self.context().tcp_state(id);
        for known in self.connections.iter_mut().filter(|known| known.id == id) {
            known.state = state;
        }
    }

    /// The state of the connection.
    pub fn state(&mut self, id: TcpId) -> TcpState {
        self.context().tcp_state(id)
    }

    /// What ended the connection, when not FIN both ways.
    pub fn end(&self, id: TcpId) -> Option<TcpEnd> {
        self.connections.iter().find(|known| known.id == id)?.end
    }

    /// What the connection tells of itself; the host stack's tell nothing.
    pub fn report(&mut self, id: TcpId) -> Option<TcpReport> {
        self.context().tcp_report(id)
    }

    /// The largest payload of a segment to the peer, in bytes. smoltcp keeps the peer's limit to itself.
    pub fn segment_size(&mut self, id: TcpId) -> usize {
        self.report(id).map_or(MTU - HEADERS, |report| report.mss.into())
    }
}

impl Connection {
    /// What it means that the connection is closed all at once.
    fn end(&self, arrived: bool) -> Option<TcpEnd> {
        match self.state {
            TcpState::Closed | TcpState::Listen | TcpState::TimeWait => None,
            // An acknowledgement ends these as well.
            TcpState::Closing | TcpState::LastAck if arrived => None,
            TcpState::SynSent | TcpState::SynReceived if arrived && self.is_active => Some(TcpEnd::Refused),
            _ if arrived => Some(TcpEnd::Reset),
            _ => Some(TcpEnd::TimedOut),
        }
    }
}
