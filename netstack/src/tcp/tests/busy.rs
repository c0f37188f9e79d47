//! No descriptor or no buffer is left, wherever one is needed: nothing is lost, and it is tried again.

use barewire_driver::TxError;
use barewire_driver::pool::Buffer;

use super::peer::{PEER, PEER_PORT, PORT, Peer};
use super::*;
use crate::tcp::{Keepalive, TcpError};

/// An end whose way out can be blocked: three frames fit into the ring, or no buffer is free.
struct Narrow {
    peer: Peer,
    held: Vec<Buffer>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Lack {
    Descriptors,
    Buffers,
}

const LACKS: [Lack; 2] = [Lack::Descriptors, Lack::Buffers];
const OPTIONS: fn() -> TcpOptions = || TcpOptions { peer_ack_delay: 0, ..TcpOptions::default() };

impl Narrow {
    fn new() -> Self {
        let mut peer = Peer::with_ring(TcpConfig::default(), 4);
        peer.end.tcp.listen(PORT, &OPTIONS()).unwrap();
        Self { peer, held: Vec::new() }
    }

    fn accepted() -> Self {
        let mut narrow = Self::new();
        narrow.peer.send("S 0 <mss 1460, sackok, ws 0>");
        narrow.peer.wait(10 * MICROSECOND);
        narrow.peer.send("A 1 ack 1");
        narrow.peer.id = narrow.peer.end.accepted[0];
        narrow.peer.sent();
        narrow
    }

    /// Nothing leaves any more, and nothing fits in.
    fn block(&mut self, lack: Lack) {
        self.peer.end.medium.set_full(true);
        let tx = &mut self.peer.end.pair.tx;
        match lack {
            Lack::Descriptors => {
                while let Ok(mut buffer) = tx.reserve() {
                    buffer[..60].fill(0);
                    let meta = barewire_driver::TxMeta { len: 60, ..Default::default() };
                    if let Err((error, _)) = tx.commit(buffer, meta) {
                        assert_eq!(error, TxError::RingFull);
                        break;
                    }
                }
                tx.flush();
            }
            Lack::Buffers => self.held.extend(std::iter::from_fn(|| tx.reserve().ok())),
        }
    }

    /// All is well again. What blocked the ring is nobody's.
    fn unblock(&mut self) {
        self.held.clear();
        self.peer.end.medium.set_full(false);
        self.peer.end.pair.tx.reclaim();
        self.peer.end.medium.drop_sent(|frame| frame[12] == 0);
    }

    /// It comes within two tries, and nothing else does.
    #[track_caller]
    fn expect_soon(&mut self, texts: &[&str]) {
        self.peer.wait(200 * MICROSECOND);
        self.peer.expect(texts);
    }
}

#[test]
fn syn_that_did_not_leave_is_no_lost_syn() {
    for lack in LACKS {
        let mut narrow = Narrow::new();
        narrow.block(lack);
        let (now, remote) = (narrow.peer.now, SocketAddrV4::new(PEER, PEER_PORT));
        narrow.peer.id = narrow.peer.end.connect_from(now, PORT, remote, &OPTIONS()).unwrap();
        narrow.peer.wait(10 * MILLISECOND);
        narrow.unblock();
        narrow.expect_soon(&["S 0"]);
        narrow.peer.send("SA 0 ack 1 <mss 1460>");
        narrow.peer.expect(&["A 1 ack 1"]);
        let report = narrow.peer.report();
        assert!(report.srtt > 0 && report.retransmits.syn == 0 && report.congestion_window == Some(14_600), "{lack:?}");
        assert!(narrow.peer.stats().tx_busy > 50);
        narrow.peer.finish();
    }
}

#[test]
fn answer_to_a_syn_that_did_not_leave_is_tried_again() {
    for lack in LACKS {
        let mut narrow = Narrow::new();
        narrow.block(lack);
        narrow.peer.send("S 0");
        narrow.peer.wait(10 * MILLISECOND);
        narrow.unblock();
        narrow.expect_soon(&["SA 0 ack 1"]);
        narrow.peer.wait(100 * SECOND);
        assert!(narrow.peer.end.is_empty());
    }
}

#[test]
fn acknowledgement_waits_for_room() {
    for lack in LACKS {
        let mut narrow = Narrow::accepted();
        // Received first: that takes a buffer too.
        let segment = narrow.peer.frame("PA 1:6 ack 1");
        if lack == Lack::Descriptors {
            narrow.block(lack);
        }
        narrow.peer.end.medium.arrive(segment);
        narrow.peer.poll();
        if lack == Lack::Buffers {
            narrow.peer.expect(&["A 1 ack 6"]);
            narrow.block(lack);
            narrow.peer.send("PA 1:6 ack 1");
        }
        narrow.peer.wait(10 * MILLISECOND);
        narrow.unblock();
        narrow.expect_soon(&["A 1 ack 6"]);
        narrow.peer.finish();
    }
}

/// Without a buffer to take the frame's place nothing is taken; the peer hears where we are and sends it again.
#[test]
fn data_that_finds_no_buffer_is_not_acknowledged() {
    let mut narrow = Narrow::accepted();
    narrow.block(Lack::Buffers);
    narrow.peer.send("PA 1:6 ack 1");
    narrow.peer.send("PA 11:16 ack 1");
    assert_eq!((narrow.peer.read(), narrow.peer.stats().no_room), (0, 2));
    narrow.unblock();
    narrow.expect_soon(&["A 1 ack 1 <>"]);
    narrow.peer.send("PA 1:6 ack 1");
    assert_eq!(narrow.peer.read(), 5);
    narrow.peer.finish();
}

#[test]
fn data_that_does_not_fit_is_the_users_again() {
    for (lack, error) in [(Lack::Descriptors, TxError::RingFull), (Lack::Buffers, TxError::PoolEmpty)] {
        let mut narrow = Narrow::accepted();
        narrow.block(lack);
        assert_eq!(narrow.peer.write(10), Err(TcpError::Busy(error)));
        assert_eq!(narrow.peer.report().unacknowledged, 0);
        narrow.unblock();
        assert_eq!(narrow.peer.write(10), Ok(10));
        narrow.peer.expect(&["PA 1:11 ack 1"]);
        narrow.peer.finish();
    }
}

#[test]
fn fin_waits_for_room() {
    for lack in LACKS {
        let mut narrow = Narrow::accepted();
        narrow.block(lack);
        narrow.peer.close();
        assert_eq!(narrow.peer.state(), TcpState::Established);
        assert_eq!(narrow.peer.write(1), Err(TcpError::NotOpen(TcpState::FinWait1)));
        narrow.peer.wait(10 * MILLISECOND);
        narrow.unblock();
        narrow.peer.wait(MICROSECOND);
        narrow.peer.expect(&["FA 1 ack 1"]);
        assert_eq!(narrow.peer.state(), TcpState::FinWait1);
        narrow.peer.finish();
    }
}

/// A probe, then a retransmission, that finds no room: counted when it leaves, and no time-out is doubled for it.
#[test]
fn retransmission_waits_for_room() {
    for lack in LACKS {
        let mut narrow = Narrow::accepted();
        narrow.peer.write(10).unwrap();
        narrow.peer.expect(&["PA 1:11 ack 1"]);
        narrow.block(lack);
        narrow.peer.wait(20 * MILLISECOND);
        if lack == Lack::Descriptors {
            assert_eq!(narrow.peer.report().retransmits.probe, 0);
            narrow.unblock();
            narrow.expect_soon(&["PA 1:11 ack 1"]);
        } else {
            // It stands in its buffer already.
            narrow.unblock();
            narrow.peer.poll();
            narrow.peer.expect(&["PA 1:11 ack 1"]);
        }
        assert_eq!(narrow.peer.report().retransmits.probe, 1);
        narrow.block(Lack::Descriptors);
        narrow.peer.wait(300 * MILLISECOND);
        assert_eq!((narrow.peer.report().retransmits.timeout, narrow.peer.report().backoff), (0, 1));
        narrow.unblock();
        narrow.expect_soon(&["PA 1:11 ack 1"]);
        assert_eq!((narrow.peer.report().retransmits.timeout, narrow.peer.report().lost_segments), (1, 0));
        narrow.peer.send("A 1 ack 11");
        narrow.peer.finish();
    }
}

/// While the device still has the frame, it is queued once more as it stands.
#[test]
fn frame_that_has_not_left_is_queued_once_more() {
    let mut narrow = Narrow::accepted();
    narrow.peer.end.medium.set_full(true);
    narrow.peer.write(10).unwrap();
    narrow.peer.wait(20 * MILLISECOND);
    assert_eq!(narrow.peer.report().retransmits.probe, 1);
    narrow.unblock();
    narrow.peer.wait(0);
    narrow.peer.expect(&["PA 1:11 ack 1", "PA 1:11 ack 1"]);
    narrow.peer.send("A 1 ack 11");
    narrow.peer.finish();
}

#[test]
fn questions_wait_for_room_and_count_when_they_are_asked() {
    for lack in LACKS {
        let mut narrow = Narrow::accepted();
        narrow.peer.send("A 1 ack 1 win 0");
        assert_eq!(narrow.peer.write(1), Err(TcpError::NoRoom { room: 0 }));
        narrow.block(lack);
        narrow.peer.wait(300 * MILLISECOND);
        assert_eq!(narrow.peer.report().backoff, 0);
        narrow.unblock();
        narrow.expect_soon(&["A 0 ack 1"]);
        narrow.peer.finish();
        let mut narrow = Narrow::accepted();
        let keepalive = Some(Keepalive { idle: SECOND, interval: SECOND, probes: 2 });
        narrow.peer.end.tcp.set_options(narrow.peer.now, narrow.peer.id, &TcpOptions { keepalive, ..OPTIONS() });
        narrow.block(lack);
        narrow.peer.wait(10 * SECOND);
        assert_eq!(narrow.peer.state(), TcpState::Established);
        narrow.unblock();
        narrow.peer.expect_in_time("A 0 ack 1", &[1000, 1000]);
        narrow.peer.finish();
    }
}

/// Other sessions have all of the lane's segments: the FIN goes when one is acknowledged, and nobody spins until then.
#[test]
fn fin_waits_for_a_place() {
    let mut narrow = Narrow::accepted();
    let held: Vec<_> = std::iter::from_fn(|| narrow.peer.end.hold_sent()).collect();
    // Not the books of a session.
    let Narrow { peer: Peer { end, now, id, .. }, .. } = &mut narrow;
    end.close(*now, *id);
    end.poll(*now);
    assert!(end.tcp.deadline(*now).is_some_and(|due| due > *now));
    held.into_iter().for_each(|link| narrow.peer.end.let_go(link));
    narrow.peer.wait_for_segment(SECOND);
    narrow.peer.expect(&["FA 1 ack 1"]);
    narrow.peer.finish();
}
