//! The port over queues in memory that can be full, or fail.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use super::{Config, FrameIo, Rx, SoftPort, Tx};
use crate::checksum::{fold, sum, tests::datagram};
use crate::port::{Link, MacAddress, Port, PortEvent, QueuePair, RxQueue, TxError, TxMeta, TxQueue};
use crate::{Checksum, ChecksumOffload, Error};

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const SMALL: Config =
    Config { queues: 1, rx_descriptors: 8, tx_descriptors: 4, kept_frames: 2, retained_frames: 2, max_frame: 1522 };

/// Both ends of the medium.
#[derive(Clone, Default)]
struct Medium(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    arriving: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    /// Frames that are taken until somebody makes room again.
    room: usize,
    fails: bool,
    down: bool,
}

impl FrameIo for Medium {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut state = self.0.lock().unwrap();
        if state.fails {
            return Err(io::Error::other("somebody pulled the plug; put it back"));
        }
        Ok(state.arriving.pop_front().map(|frame| {
            let len = frame.len().min(buffer.len());
            buffer[..len].copy_from_slice(&frame[..len]);
            len
        }))
    }

    fn send(&self, frame: &[u8]) -> io::Result<bool> {
        let mut state = self.0.lock().unwrap();
        let has_room = state.room > 0;
        if has_room {
            state.room -= 1;
            state.sent.push(frame.to_vec());
        }
        Ok(has_room)
    }

    fn link(&self) -> io::Result<Link> {
        Ok(if self.0.lock().unwrap().down { Link::Down } else { Link::Up { speed_mbps: 0 } })
    }
}

impl Medium {
    fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.0.lock().unwrap())
    }

    fn arrive(&self, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.with(|state| state.arriving.extend(frames));
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.with(|state| std::mem::take(&mut state.sent))
    }
}

type Pair = QueuePair<Rx<Medium>, Tx<Medium>>;

fn open(room: usize) -> (Medium, SoftPort<Medium>, Pair) {
    let medium = Medium::default();
    medium.with(|state| state.room = room);
    let mut port = SoftPort::new("soft:test".into(), MAC, medium.clone(), SMALL).unwrap();
    let pair = port.open_queue(0).unwrap();
    (medium, port, pair)
}

/// A frame of `len` bytes that are all `byte`.
fn frame(byte: u8, len: usize) -> Vec<u8> {
    vec![byte; len]
}

fn commit(pair: &mut Pair, frame: &[u8], meta: TxMeta) -> Result<(), TxError> {
    let mut buffer = pair.tx.reserve()?;
    buffer[..frame.len()].copy_from_slice(frame);
    pair.tx.commit(buffer, TxMeta { len: frame.len() as u16, ..meta }).map_err(|(error, _)| error)
}

fn poll(pair: &mut Pair, budget: u32) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    pair.rx.poll(budget, |frame| frames.push(frame.bytes().to_vec())).unwrap();
    frames
}

fn service(port: &mut SoftPort<Medium>, second: u64) -> Result<Vec<PortEvent>, Error> {
    let mut events = Vec::new();
    port.service(second * 1_000_000_000, &mut |event| events.push(event))?;
    Ok(events)
}

#[test]
fn received_frames_come_in_order_within_the_budget_and_unchecked() {
    let (medium, mut port, mut pair) = open(0);
    medium.arrive((1..=5).map(|byte| frame(byte, 60)));
    assert_eq!(poll(&mut pair, 3), [frame(1, 60), frame(2, 60), frame(3, 60)]);
    let metas = |pair: &mut Pair| {
        let mut metas = Vec::new();
        pair.rx.poll(u32::MAX, |frame| metas.push(*frame.meta())).unwrap();
        metas
    };
    let rest = metas(&mut pair);
    assert_eq!(rest.len(), 2);
    assert!(rest.iter().all(|meta| meta.checksum == Checksum::Unchecked && meta.len == 60 && meta.vlan().is_none()));
    assert_eq!((port.stats().rx_frames, port.stats().rx_bytes), (5, 5 * 64));
}

#[test]
fn received_frame_of_a_wrong_length_is_counted_and_no_fault() {
    let (medium, mut port, mut pair) = open(0);
    medium.arrive([13, 14, 1522, 1523, 5000].map(|len| frame(7, len)));
    assert_eq!(poll(&mut pair, u32::MAX), [frame(7, 14), frame(7, 1522)]);
    assert_eq!((port.stats().rx_frames, port.stats().rx_length_errors), (2, 3));
}

#[test]
fn taken_frames_stay_as_they_are_until_the_pool_is_empty() {
    let (medium, _port, mut pair) = open(0);
    let mut kept = Vec::new();
    let free = pair.rx.pool().available() as u8;
    medium.arrive((0..free).map(|byte| frame(byte, 60)));
    pair.rx.poll(u32::MAX, |frame| kept.push(frame.take().ok().unwrap())).unwrap();
    medium.arrive([frame(99, 60), frame(100, 60)]);
    let mut lent = Vec::new();
    pair.rx.poll(u32::MAX, |frame| lent.push(frame.take().err().unwrap().bytes()[0])).unwrap();
    assert_eq!(lent, [99, 100], "frames are lent even then");
    for (byte, owned) in (0..).zip(&kept) {
        assert_eq!(owned.segments().collect::<Vec<_>>(), [&frame(byte, 60)[..]]);
    }
    assert!(matches!(pair.tx.reserve(), Err(TxError::PoolEmpty)));
    kept.clear();
    assert_eq!(pair.rx.pool().available(), usize::from(free), "no buffer was lost");
}

#[test]
fn bytes_of_a_frame_that_was_taken_and_dropped_are_not_given_away_under_their_reader() {
    let (medium, _port, Pair { mut rx, mut tx }) = open(0);
    let free = rx.pool().available();
    medium.arrive([frame(7, 60)]);
    rx.poll(1, |lent| {
        let bytes = lent.bytes();
        drop(lent.take().ok().unwrap());
        let mut others: Vec<_> = std::iter::from_fn(|| tx.reserve().ok()).collect();
        assert!(!others.is_empty());
        others.iter_mut().for_each(|buffer| buffer.fill(9));
        assert_eq!(bytes, frame(7, 60));
    })
    .unwrap();
    assert_eq!(rx.pool().available(), free, "no buffer was lost");
}

#[test]
fn taken_frame_outlives_a_handler_that_panics() {
    let (medium, _port, mut pair) = open(0);
    let free = pair.rx.pool().available();
    medium.arrive([frame(1, 60), frame(2, 60)]);
    let mut kept = None;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pair.rx.poll(1, |frame| {
            kept = frame.take().ok();
            panic!("on purpose");
        })
    }));
    assert!(caught.is_err());
    assert_eq!(poll(&mut pair, 1), [frame(2, 60)]);
    assert_eq!(kept.take().unwrap().segments().next(), Some(&frame(1, 60)[..]));
    assert_eq!(
        pair.rx.pool().available(),
        free - 1,
        "the buffer that the handler had in hands is not given to anybody"
    );
}

#[test]
fn committed_frames_leave_at_the_doorbell_in_order_and_padded() {
    let (medium, mut port, mut pair) = open(9);
    commit(&mut pair, &frame(1, 14), TxMeta::default()).unwrap();
    commit(&mut pair, &frame(2, 100), TxMeta::default()).unwrap();
    assert!(medium.sent().is_empty() && pair.tx.reclaim() == 0);
    pair.tx.flush();
    assert_eq!(medium.sent(), [[frame(1, 14), frame(0, 46)].concat(), frame(2, 100)]);
    assert_eq!((pair.tx.reclaim(), pair.tx.reclaim()), (2, 0));
    assert_eq!((port.stats().tx_frames, port.stats().tx_bytes), (2, 64 + 104));
}

#[test]
fn frames_without_room_wait_in_order_and_a_full_ring_is_back_pressure() {
    let (medium, mut port, mut pair) = open(1);
    for byte in 1..=3 {
        commit(&mut pair, &frame(byte, 60), TxMeta::default()).unwrap();
    }
    assert_eq!(commit(&mut pair, &frame(4, 60), TxMeta::default()), Err(TxError::RingFull), "nothing was flushed");
    pair.tx.flush();
    assert_eq!(medium.sent(), [frame(1, 60)]);
    commit(&mut pair, &frame(4, 60), TxMeta::default()).unwrap();
    assert_eq!(commit(&mut pair, &frame(5, 60), TxMeta::default()), Err(TxError::RingFull));
    assert!(medium.sent().is_empty());
    assert!(service(&mut port, 10).unwrap().is_empty());
    assert_eq!(service(&mut port, 13).unwrap(), [PortEvent::TransmitStuck { queue: 0 }]);
    // A poll moves on what was flushed, as a device would by itself, and nothing else.
    medium.with(|state| state.room = 9);
    poll(&mut pair, 1);
    assert_eq!(medium.sent(), [frame(2, 60), frame(3, 60)]);
    pair.tx.flush();
    assert_eq!(medium.sent(), [frame(4, 60)]);
    assert!(service(&mut port, 20).unwrap().is_empty());
}

#[test]
fn checksums_asked_for_are_finished_and_the_buffer_stays_as_it_was() {
    let (medium, _port, mut pair) = open(9);
    let pseudo = sum(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 11]);
    let (udp, meta) = datagram();
    let mut buffer = pair.tx.reserve().unwrap();
    buffer[..udp.len()].copy_from_slice(&udp);
    let retained = pair.tx.commit_retained(buffer, meta).ok().unwrap();
    pair.tx.flush();
    let [sent] = medium.sent().try_into().unwrap();
    assert_eq!((fold(sum(&sent[14..34])), fold(sum(&sent[34..45]) + pseudo)), (0xFFFF, 0xFFFF));
    assert_eq!(retained.bytes(), udp);
    // Once more, on other terms: a tag, and the IPv4 header's checksum only.
    let again = TxMeta { checksum: ChecksumOffload::Ipv4, vlan: Some(0x6007), ..meta };
    pair.tx.recommit(&retained, again).unwrap();
    let retained = retained.try_into_buffer().err().expect("it is in the ring");
    pair.tx.flush();
    let [tagged] = medium.sent().try_into().unwrap();
    assert_eq!(tagged.len(), 60);
    assert_eq!((&tagged[..12], &tagged[12..16]), (&udp[..12], &[0x81, 0x00, 0x60, 0x07][..]));
    assert_eq!((fold(sum(&tagged[18..38])), &tagged[38..49]), (0xFFFF, &udp[34..]));
    assert_eq!(pair.tx.reclaim(), 2);
    let buffer = retained.try_into_buffer().ok().expect("both sends are over");
    assert_eq!(buffer[..45], udp[..]);
}

#[test]
fn tcp_checksum_is_finished() {
    let (medium, _port, mut pair) = open(1);
    let (mut frame, meta) = datagram();
    // As a TCP header without data, of an odd length.
    frame[17] = 41;
    frame[23] = 6;
    frame.truncate(34);
    let pseudo = fold(sum(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 21])).to_be_bytes();
    frame.extend([0, 7, 0, 9, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 0x10, 0xFF, 0xFF, pseudo[0], pseudo[1], 0, 0, 0xAB]);
    commit(&mut pair, &frame, TxMeta { checksum: ChecksumOffload::Ipv4Tcp, ..meta }).unwrap();
    pair.tx.flush();
    let [sent] = medium.sent().try_into().unwrap();
    let pseudo = u64::from(u16::from_be_bytes(pseudo));
    assert_eq!((fold(sum(&sent[14..34])), fold(sum(&sent[34..55]) + pseudo)), (0xFFFF, 0xFFFF));
}

#[test]
fn frames_that_cannot_be_sent_are_refused() {
    let (_, _port, mut pair) = open(1);
    let (_, _other, mut foreign) = open(1);
    let meta = |len| TxMeta { len, ..TxMeta::default() };
    for bad in [meta(0), meta(13), meta(2049), TxMeta { checksum: ChecksumOffload::Ipv4Udp, ..meta(60) }] {
        let buffer = pair.tx.reserve().unwrap();
        assert!(matches!(pair.tx.commit(buffer, bad), Err((TxError::BadLength, _))), "{bad:?}");
    }
    let buffer = foreign.tx.reserve().unwrap();
    let Err((TxError::ForeignBuffer, buffer)) = pair.tx.commit(buffer, meta(60)) else { panic!("taken") };
    let retained = foreign.tx.commit_retained(buffer, meta(60)).ok().unwrap();
    assert_eq!(pair.tx.recommit(&retained, meta(60)), Err(TxError::ForeignBuffer));
}

#[test]
fn failure_stops_both_queues_and_service_says_why() {
    let (medium, mut port, mut pair) = open(0);
    commit(&mut pair, &frame(1, 60), TxMeta::default()).unwrap();
    pair.tx.flush();
    medium.arrive([frame(1, 60)]);
    medium.with(|state| state.fails = true);
    assert!(poll(&mut pair, 5).is_empty());
    medium.with(|state| (state.fails, state.room) = (false, 9));
    assert!(poll(&mut pair, 5).is_empty(), "it stays stopped");
    assert_eq!(commit(&mut pair, &frame(2, 60), TxMeta::default()), Err(TxError::Stopped));
    let complaint = service(&mut port, 0).unwrap_err().to_string();
    assert_eq!(complaint, "soft:test: somebody pulled the plug; put it back");
    assert!(port.open_queue(0).is_err() && port.reset().is_err(), "the queue is open");
    port.close_queue(pair).unwrap();
    port.reset().unwrap();
    let mut pair = port.open_queue(0).unwrap();
    assert_eq!(poll(&mut pair, 5), [frame(1, 60)]);
    assert!(medium.sent().is_empty(), "what was in the old queue is gone");
    assert_eq!(port.stats().rx_frames, 1);
}

#[test]
fn closing_sends_what_was_committed_and_frees_every_buffer() {
    let (medium, mut port, mut pair) = open(1);
    let pool = pair.tx.pool().clone();
    for byte in [1, 2] {
        commit(&mut pair, &frame(byte, 60), TxMeta::default()).unwrap();
    }
    port.close_queue(pair).unwrap();
    assert_eq!((medium.sent(), port.stats().tx_frames), (vec![frame(1, 60)], 1));
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn link_is_the_mediums_and_what_does_not_exist_is_refused() {
    let (medium, mut port, _pair) = open(0);
    medium.with(|state| state.down = true);
    assert_eq!(service(&mut port, 0).unwrap(), [PortEvent::Link(Link::Down)]);
    assert!(service(&mut port, 1).unwrap().is_empty());
    assert!(matches!(port.interrupt(0), Err(Error::MissingFeature { .. })));
    assert!(port.join_multicast(MAC).is_err());
    port.join_multicast(MacAddress::BROADCAST).unwrap();
    let new = |mac, config| SoftPort::new("soft:test".into(), mac, medium.clone(), config);
    assert!(new(MacAddress::BROADCAST, SMALL).is_err());
    for bad in
        [Config { queues: 2, ..SMALL }, Config { max_frame: 2048, ..SMALL }, Config { tx_descriptors: 5, ..SMALL }]
    {
        assert!(matches!(new(MAC, bad), Err(Error::InvalidConfig { .. })), "{bad:?}");
    }
}
