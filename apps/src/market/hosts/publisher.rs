//! The exchange's feed: what the engine says, in MoldUDP64 packets on two lines.

use std::net::SocketAddrV4;

use barewire_driver::clock::Nanos;
use barewire_driver::{Port, TxError};
use barewire_netstack::{DatagramBuffer, Route};

use super::{End, FEEDS, exchange_ip};
use crate::feed::moldudp64::{Packet, Session};
use crate::feed::retransmission::Retransmitter;

const SESSION: Session = *b"BAREWIRE01";
/// Heartbeats of a quiet feed.
const HEARTBEAT: Nanos = 1_000_000_000;

/// Publishes messages in their order, as many to a packet as fit.
pub(super) struct Publisher {
    /// The lines, each with the number of the port that it leaves by.
    lines: [(usize, Route); 2],
    retransmitter: Retransmitter,
    /// Messages that wait, each with its length before it.
    waiting: Vec<u8>,
    /// How many these are.
    count: u64,
    /// The number of the next message that leaves.
    next_sequence: u64,
    last_packet: Nanos,
    packets: u64,
}

impl Publisher {
    /// Publishes through `ends`: one line by each, or both by one.
    pub(super) fn new(ends: &[End]) -> Self {
        let lines = [0, 1].map(|line| {
            let by = line % ends.len();
            let source = SocketAddrV4::new(exchange_ip(by), FEEDS[line].port());
            (by, Route::new(ends[by].port.mac(), source, FEEDS[line], 1, None))
        });
        Self {
            lines,
            retransmitter: Retransmitter::new(SESSION),
            waiting: Vec::new(),
            count: 0,
            next_sequence: 1,
            last_packet: 0,
            packets: 0,
        }
    }

    /// Takes a message.
    pub(super) fn push(&mut self, message: &[u8]) {
        self.waiting.extend_from_slice(&(message.len() as u16).to_be_bytes());
        self.waiting.extend_from_slice(message);
        self.count += 1;
    }

    /// Messages that were taken.
    pub(super) fn said(&self) -> u64 {
        self.published() + self.count
    }

    /// Messages that have left.
    pub(super) fn published(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Packets that have left, each on both lines.
    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    /// When the last packet left.
    pub(super) fn last_packet(&self) -> Nanos {
        self.last_packet
    }

    /// Answers requests for what has left.
    pub(super) fn retransmitter(&mut self) -> &mut Retransmitter {
        &mut self.retransmitter
    }

    /// Sends what waits, as far as there is room; on a quiet feed, a heartbeat.
    pub(super) fn drain(&mut self, ends: &mut [End], now: Nanos) {
        let mut sent = 0;
        while sent < self.waiting.len() {
            let Ok(mut datagrams) = self.reserve(ends, now) else { break };
            let [first, second] = &mut datagrams;
            let room = first.1.payload_mut();
            let Some(mut packet) = Packet::begin(room, SESSION, self.next_sequence) else { break };
            let mut end = sent;
            while let Some((len, rest)) = self.waiting.get(end..).and_then(|rest| rest.split_first_chunk::<2>()) {
                let len = usize::from(u16::from_be_bytes(*len));
                let Some(message) = rest.get(..len) else { break };
                if !packet.push(message) {
                    break;
                }
                self.retransmitter.published(message);
                end += 2 + len;
            }
            let (count, len) = (u64::from(packet.count()), packet.finish());
            second.1.payload_mut()[..len].copy_from_slice(&first.1.payload_mut()[..len]);
            self.send(ends, datagrams, len, now);
            sent = end;
            self.next_sequence += count;
            self.count -= count;
        }
        self.waiting.drain(..sent);
        if now >= self.last_packet + HEARTBEAT {
            self.control(ends, now, false);
        }
    }

    /// Tells the end of the session.
    pub(super) fn end(&mut self, ends: &mut [End], now: Nanos) {
        self.control(ends, now, true);
    }

    fn control(&mut self, ends: &mut [End], now: Nanos, end: bool) {
        self.last_packet = now;
        let Ok(mut datagrams) = self.reserve(ends, now) else { return };
        let mut len = 0;
        for (_, datagram) in &mut datagrams {
            let Some(packet) = Packet::begin(datagram.payload_mut(), SESSION, self.next_sequence) else { return };
            len = if end { packet.end_session() } else { packet.finish() };
        }
        self.send(ends, datagrams, len, now);
    }

    /// Room for the same packet on both lines, or for none.
    fn reserve(&self, ends: &mut [End], now: Nanos) -> Result<[Line; 2], TxError> {
        let mut line = |(by, route): &(usize, Route)| Ok((*by, ends[*by].stack.context(now).datagram(route)?));
        let [first, second] = &self.lines;
        Ok([line(first)?, line(second)?])
    }

    /// Sends a packet of `len` bytes on both lines. A line whose ring is full loses it, as one whose switch is.
    fn send(&mut self, ends: &mut [End], datagrams: [Line; 2], len: usize, now: Nanos) {
        for (by, datagram) in datagrams {
            let cx = ends[by].stack.context(now);
            let _ = cx.send(datagram, len as u16);
            cx.flush();
        }
        self.packets += 1;
        self.last_packet = now;
    }
}

/// A packet being written, and the port that it leaves by.
type Line = (usize, DatagramBuffer);
