//! The lane in virtual time: against itself, and against a peer that sends what no stack would.

mod api;
mod blind;
mod busy;
mod check;
mod close;
mod goodput;
mod listeners;
mod loss;
mod needless;
mod network;
mod options;
mod pair;
mod peer;
mod property;
mod sack;
mod script;
mod states;
mod timers;
mod windows;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use barewire_driver::clock::Nanos;
use barewire_driver::soft::{Config, FrameIo, Rx, SoftPort, Tx};
use barewire_driver::{Frame, MacAddress, Port, QueuePair, RxQueue, TxQueue};

use super::seq::Seq;
use super::session::{Marks, Sent, SentFrame};
use super::slab::Link;
use super::{SessionId, Tcp, TcpConfig, TcpError, TcpOptions, TcpState};
use crate::wire;

pub(super) const MICROSECOND: Nanos = 1000;
pub(super) const MILLISECOND: Nanos = 1000 * MICROSECOND;
pub(super) const SECOND: Nanos = 1000 * MILLISECOND;

/// Frames on their way into an end, and out of it.
#[derive(Clone, Default)]
pub(super) struct Medium(Arc<Mutex<Frames>>);

#[derive(Default)]
struct Frames {
    arriving: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    /// No room for more: what is sent waits in the ring.
    is_full: bool,
}

impl FrameIo for Medium {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(self.0.lock().unwrap().arriving.pop_front().map(|frame| {
            buffer[..frame.len()].copy_from_slice(&frame);
            frame.len()
        }))
    }

    fn send(&self, frame: &[u8]) -> io::Result<bool> {
        let mut frames = self.0.lock().unwrap();
        if !frames.is_full {
            frames.sent.push(frame.to_vec());
        }
        Ok(!frames.is_full)
    }
}

impl Medium {
    pub fn arrive(&self, frame: Vec<u8>) {
        self.0.lock().unwrap().arriving.push_back(frame);
    }

    pub fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    /// Forgets some of what was sent.
    pub fn drop_sent(&self, is_dropped: impl Fn(&[u8]) -> bool) {
        self.0.lock().unwrap().sent.retain(|frame| !is_dropped(frame));
    }

    pub fn set_full(&self, is_full: bool) {
        self.0.lock().unwrap().is_full = is_full;
    }
}

/// One end: a lane on queues in memory.
pub(super) struct End {
    pub tcp: Tcp,
    pub medium: Medium,
    pub pair: QueuePair<Rx<Medium>, Tx<Medium>>,
    _port: SoftPort<Medium>,
    /// Sessions that were accepted.
    pub accepted: Vec<SessionId>,
    /// Sessions that something was told about, since this was last cleared.
    pub news: Vec<SessionId>,
    /// What the user of a session sends when it hears of it, once.
    pub answer: Option<(SessionId, u8)>,
    /// When it was last polled.
    now: Nanos,
}

pub(super) fn mac(ip: Ipv4Addr) -> MacAddress {
    let [a, b, c, d] = ip.octets();
    MacAddress([2, 0, a, b, c, d])
}

impl End {
    pub fn new(ip: Ipv4Addr, config: TcpConfig) -> Self {
        Self::with_ring(ip, config, 4096)
    }

    /// An end that can have `tx_descriptors` frames on their way out.
    pub fn with_ring(ip: Ipv4Addr, config: TcpConfig, tx_descriptors: u32) -> Self {
        let medium = Medium::default();
        let queues = Config {
            tx_descriptors,
            kept_frames: config.kept_segments,
            retained_frames: config.sent_segments + 64,
            ..Config::default()
        };
        let mut port = SoftPort::new("memory".into(), mac(ip), medium.clone(), queues).unwrap();
        let pair = port.open_queue(0).unwrap();
        let tcp = Tcp::new(config, mac(ip), ip, 1);
        Self { tcp, medium, pair, _port: port, accepted: Vec::new(), news: Vec::new(), answer: None, now: 0 }
    }

    /// Takes in what has arrived and runs what is due; what was sent is on the medium then.
    pub fn poll(&mut self, now: Nanos) {
        self.now = now;
        let Self { tcp, pair: QueuePair { rx, tx }, accepted, news, answer, .. } = self;
        let mut tell = |tcp: &mut Tcp, index| {
            if let Some(told) = tcp.news(index) {
                accepted.extend(told.accepted.map(|_| told.id));
                news.push(told.id);
            }
        };
        let mut take = |frame: Frame<'_>, tx: &mut Tx<Medium>| {
            let mut source = [0; 6];
            source.copy_from_slice(&frame.bytes()[6..12]);
            let segment = wire::see_tcp(frame.bytes()).expect("only TCP is sent here");
            match tcp.find_session(&segment).filter(|session| !tcp.reopens(*session, &segment)) {
                Some(session) => {
                    if tcp.receive_expected(now, tx, session, &segment).is_some() {
                        tcp.keep_lent(now, tx, session, segment.payload.len() as u16, frame);
                    } else {
                        tcp.receive(now, tx, session, &segment, frame);
                    }
                    tell(tcp, session);
                    if let Some((id, byte)) = answer.take() {
                        tcp.send(now, tx, id, &[byte]).unwrap();
                    }
                }
                None if tcp.is_listening(segment.destination_port()) => {
                    tcp.receive_listen(now, tx, &segment, MacAddress(source));
                }
                None => {}
            }
        };
        while rx.poll(32, |frame| take(frame, tx)).unwrap() > 0 {}
        while let Some(session) = tcp.expire(now, tx) {
            tell(tcp, session);
        }
        let mut left = tcp.attention();
        while let Some(session) = tcp.settle(now, tx, &mut left) {
            tell(tcp, session);
        }
        tx.flush();
        tcp.catch_up(now, tx);
    }

    pub fn connect_from(
        &mut self,
        now: Nanos,
        port: u16,
        remote: SocketAddrV4,
        options: &TcpOptions,
    ) -> Result<SessionId, TcpError> {
        let QueuePair { tx, .. } = &mut self.pair;
        let id = self.tcp.connect_from(now, tx, port, remote, Some(mac(*remote.ip())), options);
        tx.flush();
        id
    }

    pub fn connect(&mut self, now: Nanos, remote: SocketAddrV4, options: &TcpOptions) -> SessionId {
        let QueuePair { tx, .. } = &mut self.pair;
        let id = self.tcp.connect(now, tx, remote, Some(mac(*remote.ip())), options).unwrap();
        tx.flush();
        id
    }

    pub fn send(&mut self, now: Nanos, id: SessionId, bytes: &[u8]) -> Result<usize, TcpError> {
        let sent = self.tcp.send(now, &mut self.pair.tx, id, bytes);
        self.pair.tx.flush();
        sent
    }

    pub fn close(&mut self, now: Nanos, id: SessionId) {
        self.tcp.close(now, &mut self.pair.tx, id);
        self.pair.tx.flush();
    }

    pub fn abort(&mut self, now: Nanos, id: SessionId) {
        self.tcp.abort(now, &mut self.pair.tx, id);
        self.pair.tx.flush();
    }

    pub fn release(&mut self, now: Nanos, id: SessionId) {
        self.tcp.release(now, &mut self.pair.tx, id);
        self.pair.tx.flush();
    }

    /// Reads all there is.
    pub fn read(&mut self, id: SessionId) -> Vec<u8> {
        let mut read = Vec::new();
        loop {
            let bytes = self.tcp.peek(id);
            if bytes.is_empty() {
                return read;
            }
            read.extend_from_slice(bytes);
            let len = bytes.len();
            self.tcp.consume(id, len);
        }
    }

    /// Takes one of the lane's places for sent segments, as another session would.
    pub fn hold_sent(&mut self) -> Option<Link> {
        let sent = Sent { seq: Seq(0), payload: 1, marks: Marks::empty(), sent_at: 0, frame: SentFrame::Moving };
        self.tcp.shared.sent.insert_with(|| sent)
    }

    pub fn let_go(&mut self, link: Link) {
        self.tcp.shared.sent.remove(link);
    }

    pub fn state(&self, id: SessionId) -> TcpState {
        self.tcp.state(id)
    }

    /// Whether nothing is held any more: no session, no segment, no buffer, no timer.
    pub fn is_empty(&mut self) -> bool {
        self.pair.tx.flush();
        self.pair.tx.reclaim();
        let pool = self.pair.tx.pool();
        let (lane, config) = (&self.tcp.shared, &self.tcp.config);
        self.tcp.vacant.len() == config.sessions as usize
            && lane.sent.available() == config.sent_segments
            && lane.kept.available() == config.kept_segments
            && lane.timers.next().is_none()
            && lane.attention.is_empty()
            // One is the queue's, to receive into.
            && pool.available() == pool.capacity() - 1
    }
}
