//! Calls that cannot be served: each says why, and the session is as it was.

use super::peer::{PEER, PEER_PORT, PORT, Peer, SYN_OPTIONS};
use super::script::stream;
use super::*;
use crate::tcp::{Delegated, Message, Parked, TcpEnd};

impl Peer {
    fn reserve(&mut self, len: u16) -> Result<Message, TcpError> {
        self.end.tcp.reserve(self.now, &mut self.end.pair.tx, self.id, len)
    }

    /// A message of `len` bytes of the end's stream from `first` on.
    fn message(&mut self, first: u32, len: u16) -> Message {
        let mut message = self.reserve(len).unwrap();
        message.payload_mut().iter_mut().zip(first..).for_each(|(byte, seq)| *byte = stream(seq));
        message
    }

    fn commit(&mut self, message: Message, len: u16) -> Result<(), (TcpError, Message)> {
        let done = self.end.tcp.commit(self.now, &mut self.end.pair.tx, message, len);
        self.poll();
        done
    }

    fn parked(&mut self, first: u32, len: u16) -> Parked {
        let message = self.message(first, len);
        self.end.tcp.park(message, len).map_err(|(error, _)| error).unwrap()
    }

    fn release_parked(&mut self, parked: Parked) -> Result<(), (TcpError, Parked)> {
        let done = self.end.tcp.release_parked(self.now, &mut self.end.pair.tx, parked);
        self.poll();
        done
    }

    fn delegate(&mut self, len: u16) -> Result<Delegated, TcpError> {
        self.end.tcp.delegate(self.now, &mut self.end.pair.tx, self.id, len)
    }

    fn complete(&mut self, delegated: Delegated, payload: &[u8]) -> Result<(), (TcpError, Delegated)> {
        let done = self.end.tcp.delegate_complete(self.now, &mut self.end.pair.tx, delegated, payload);
        self.poll();
        done
    }

    fn cancel(&mut self, delegated: Delegated) {
        self.end.tcp.delegate_cancel(self.now, &mut self.end.pair.tx, delegated);
        self.poll();
    }

    fn warm(&mut self, payload: &[u8]) -> Result<(), TcpError> {
        self.end.tcp.warm(self.now, &mut self.end.pair.tx, self.id, payload)
    }

    /// Runs `call`; the session is the same afterwards, and has sent nothing.
    #[track_caller]
    fn untouched<R>(&mut self, call: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.report();
        let result = call(self);
        self.poll();
        self.expect(&[]);
        assert_eq!(self.report(), before);
        result
    }
}

fn payload(first: u32, len: u32) -> Vec<u8> {
    (first..first + len).map(stream).collect()
}

fn error<T, R>(result: Result<T, (TcpError, R)>) -> TcpError {
    result.map(|_| ()).map_err(|(error, _)| error).expect_err("a refusal")
}

#[test]
fn sending_where_nothing_can_be_sent_names_the_state() {
    use TcpState::{Closed, Closing, FinWait1, FinWait2, LastAck, SynReceived, SynSent, TimeWait};
    for (steps, state) in [
        (&["close"][..], FinWait1),
        (&["close", "A 1 ack 2"], FinWait2),
        (&["close", "FA 1 ack 1"], Closing),
        (&["close", "FA 1 ack 2"], TimeWait),
        (&["FA 1 ack 1", "close"], LastAck),
        (&["R 1"], Closed),
    ] {
        let mut peer = Peer::accepted();
        let (kept, parked) = (peer.message(1, 5), peer.parked(1, 5));
        for step in steps {
            if *step == "close" { peer.close() } else { peer.send(step) }
        }
        peer.sent();
        let refused = TcpError::NotOpen(state);
        peer.untouched(|peer| {
            assert_eq!(peer.write(1), Err(refused));
            assert_eq!(peer.reserve(1).map(drop), Err(refused));
            assert_eq!(peer.delegate(1).map(drop), Err(refused));
            assert_eq!(peer.warm(b"x"), Err(refused));
            assert_eq!(error(peer.commit(kept, 5)), refused);
            assert_eq!(error(peer.release_parked(parked)), refused);
            assert_eq!(peer.end.tcp.room(peer.id), 0);
        });
        peer.finish();
    }
    let mut peer = Peer::called(&TcpOptions::default());
    assert_eq!(peer.untouched(|peer| peer.write(1)), Err(TcpError::NotOpen(SynSent)));
    peer.send("S 0");
    peer.sent();
    assert_eq!(peer.untouched(|peer| peer.write(1)), Err(TcpError::NotOpen(SynReceived)));
    peer.abort();
    peer.finish();
}

#[test]
fn a_port_has_one_listener_and_a_pair_of_ends_one_session() {
    let mut peer = Peer::accepted();
    let options = TcpOptions::default();
    let remote = SocketAddrV4::new(PEER, PEER_PORT);
    peer.untouched(|peer| {
        assert_eq!(peer.end.tcp.listen(PORT, &options), Err(TcpError::PortInUse(PORT)));
        assert_eq!(peer.end.tcp.listen(0, &options), Err(TcpError::BadAddress));
        assert_eq!(peer.end.connect_from(peer.now, PORT, remote, &options), Err(TcpError::PortInUse(PORT)));
        assert_eq!(peer.end.connect_from(peer.now, 0, remote, &options), Err(TcpError::BadAddress));
        peer.end.tcp.unlisten(PORT + 1);
    });
    peer.end.tcp.unlisten(PORT);
    assert_eq!(peer.end.tcp.listen(PORT, &options), Ok(()));
    peer.finish();
}

#[test]
fn lengths_are_held_against_the_segment_and_the_window() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), "mss 1000, sackok, ws 0", 500);
    peer.untouched(|peer| {
        assert_eq!(peer.reserve(0).map(drop), Err(TcpError::BadLength { most: 1000 }));
        assert_eq!(peer.reserve(1001).map(drop), Err(TcpError::BadLength { most: 1000 }));
        assert_eq!(peer.reserve(501).map(drop), Err(TcpError::NoRoom { room: 500 }));
        assert_eq!(peer.delegate(501).map(drop), Err(TcpError::NoRoom { room: 500 }));
        assert_eq!(peer.warm(&[0; 501]), Err(TcpError::NoRoom { room: 500 }));
        assert_eq!(peer.warm(&[0; 70_000]), Err(TcpError::BadLength { most: 1000 }));
        assert_eq!(peer.warm(b""), Err(TcpError::BadLength { most: 1000 }));
        assert_eq!(peer.warm(b"as if"), Ok(()));
        assert_eq!(peer.write(0), Ok(0));
    });
    // No longer than what was reserved; shorter is well, and nothing is nothing.
    let message = peer.message(1, 400);
    let message = peer.untouched(|peer| {
        let Err((error, message)) = peer.commit(message, 401) else { panic!("taken") };
        assert_eq!(error, TcpError::BadLength { most: 400 });
        let Err((error, message)) = peer.commit(message, 0) else { panic!("taken") };
        assert_eq!(error, TcpError::BadLength { most: 1000 });
        let Err((error, message)) = peer.end.tcp.park(message, 401) else { panic!("taken") };
        assert_eq!(error, TcpError::BadLength { most: 400 });
        let Err((error, message)) = peer.end.tcp.park(message, 0) else { panic!("taken") };
        assert_eq!(error, TcpError::BadLength { most: 400 });
        message
    });
    // The window has gone in between.
    peer.send("A 1 ack 1 win 10");
    let Err((error, message)) = peer.commit(message, 11) else { panic!("taken") };
    assert_eq!(error, TcpError::NoRoom { room: 10 });
    peer.expect(&[]);
    assert!(peer.commit(message, 10).is_ok());
    peer.expect(&["PA 1:11 ack 1"]);
    peer.finish();
}

/// One of several is sent, wherever the stream has come to by then; the others are void, and can be written anew.
#[test]
fn one_parked_message_voids_its_siblings() {
    let mut peer = Peer::accepted();
    let (first, second, third) = (peer.parked(4, 3), peer.parked(4, 3), peer.parked(1, 9));
    peer.write(3).unwrap();
    peer.expect(&["PA 1:4 ack 1"]);
    assert!(peer.release_parked(second).is_ok());
    peer.expect(&["PA 4:7 ack 1"]);
    peer.untouched(|peer| {
        let Err((error, first)) = peer.release_parked(first) else { panic!("sent") };
        assert_eq!((error, first.session()), (TcpError::Voided, peer.id));
        assert_eq!(error, peer.release_parked(first).err().unwrap().0);
    });
    let mut message = third.into_message();
    message.payload_mut().iter_mut().zip(7..).for_each(|(byte, seq)| *byte = stream(seq));
    let parked = peer.end.tcp.park(message, 9).map_err(|(error, _)| error).unwrap();
    assert!(peer.release_parked(parked).is_ok());
    peer.expect(&["PA 7:16 ack 1"]);
    peer.finish();
}

/// One that finds no room stays what it was: released later, it still voids its siblings.
#[test]
fn parked_message_that_finds_no_room_stays_parked() {
    let mut peer = Peer::connected_with(&TcpOptions::default(), SYN_OPTIONS, 10);
    let (parked, sibling) = (peer.parked(11, 5), peer.parked(11, 5));
    peer.write(10).unwrap();
    peer.sent();
    let Err((error, parked)) = peer.release_parked(parked) else { panic!("sent") };
    assert_eq!(error, TcpError::NoRoom { room: 0 });
    peer.send("A 1 ack 11 win 10");
    assert!(peer.release_parked(parked).is_ok());
    assert_eq!(error_of_released(&mut peer, sibling), TcpError::Voided);
    peer.expect(&["PA 11:16 ack 1"]);
    peer.finish();
}

fn error_of_released(peer: &mut Peer, parked: Parked) -> TcpError {
    error(peer.release_parked(parked))
}

/// While somebody else sends for the session it sends no data; what others ask of it says so.
#[test]
fn delegated_send_keeps_others_out() {
    let mut peer = Peer::accepted();
    let (message, parked) = (peer.message(1, 5), peer.parked(1, 5));
    let delegated = peer.delegate(10).unwrap();
    assert_eq!((delegated.len(), delegated.window(), delegated.acknowledgement()), (10, 32_767, peer.bases(true).n));
    assert_eq!((delegated.sequence(), delegated.headers().len()), (peer.bases(true).m, 54));
    peer.untouched(|peer| {
        assert_eq!(peer.delegate(1).map(drop), Err(TcpError::Delegated));
        assert_eq!(peer.write(1), Err(TcpError::Delegated));
        assert_eq!(peer.reserve(1).map(drop), Err(TcpError::Delegated));
        assert_eq!(peer.warm(b"x"), Err(TcpError::Delegated));
        assert_eq!(error(peer.commit(message, 5)), TcpError::Delegated);
    });
    let Err((refused, parked)) = peer.release_parked(parked) else { panic!("sent") };
    assert_eq!(refused, TcpError::Delegated);
    // What comes is acknowledged meanwhile, and a FIN waits.
    peer.send("PA 1:6 ack 1");
    peer.expect(&["A 1 ack 6"]);
    peer.close();
    peer.expect(&[]);
    let Err((refused, delegated)) = peer.complete(delegated, &payload(1, 9)) else { panic!("taken") };
    assert_eq!(refused, TcpError::BadLength { most: 10 });
    peer.expect(&[]);
    assert!(peer.complete(delegated, &payload(1, 10)).is_ok());
    peer.expect(&["FA 11 ack 6"]);
    assert_eq!(error_of_released(&mut peer, parked), TcpError::Voided);
    // It is the session's from now on: repeated until it is acknowledged.
    assert_eq!(peer.report().unacknowledged, 11);
    peer.wait_for_segment(SECOND);
    let last = peer.sent();
    assert!(last[0].starts_with("FA 11"), "{last:?}");
    peer.wait_for_segment(SECOND);
    peer.expect(&["PA 1:11 ack 6", "FA 11 ack 6"]);
    peer.send("A 6 ack 12");
    assert_eq!(peer.read(), 5);
    peer.finish();
}

#[test]
fn cancelled_delegation_leaves_no_trace() {
    let mut peer = Peer::accepted();
    let delegated = peer.delegate(10).unwrap();
    peer.untouched(|peer| peer.cancel(delegated));
    let delegated = peer.delegate(10).unwrap();
    peer.close();
    peer.expect(&[]);
    peer.cancel(delegated);
    peer.expect(&["FA 1 ack 1"]);
    peer.finish();
}

/// What arrived between the headers and their completion is acknowledged by a segment of its own.
#[test]
fn older_headers_acknowledge_nothing_newer() {
    let mut peer =
        Peer::connected_with(&TcpOptions { ack_delay: 40 * MILLISECOND, ..TcpOptions::default() }, SYN_OPTIONS, 65_535);
    let delegated = peer.delegate(10).unwrap();
    peer.send("PA 1:6 ack 1");
    assert!(peer.complete(delegated, &payload(1, 10)).is_ok());
    peer.expect(&[]);
    peer.wait(39 * MILLISECOND);
    peer.send("A 6 ack 11");
    peer.expect_in_time("A 11 ack 6", &[1]);
    peer.finish();
}

/// Other sessions have taken the last place meanwhile: it is told, and tried again; no byte is unknown to the session.
#[test]
fn completion_waits_for_a_place() {
    let mut peer = Peer::new(TcpConfig { sent_segments: 2, ..TcpConfig::default() });
    peer.end.tcp.listen(PORT, &TcpOptions::default()).unwrap();
    peer.send(&format!("S 0 <{SYN_OPTIONS}>"));
    peer.send("A 1 ack 1");
    peer.id = peer.end.accepted[0];
    peer.sent();
    let delegated = peer.delegate(5).unwrap();
    // As another session does it.
    let held: Vec<_> = std::iter::from_fn(|| peer.end.hold_sent()).collect();
    let Err((error, delegated)) =
        peer.end.tcp.delegate_complete(peer.now, &mut peer.end.pair.tx, delegated, &payload(1, 5))
    else {
        panic!("taken")
    };
    assert_eq!((held.len(), error, peer.report().unacknowledged), (2, TcpError::TooManySegments, 0));
    held.into_iter().for_each(|link| peer.end.let_go(link));
    assert!(peer.complete(delegated, &payload(1, 5)).is_ok());
    assert_eq!(peer.report().unacknowledged, 5);
    peer.send("A 1 ack 6");
    peer.finish();
}

/// The session ended, or was given up: the delegated send is void. Given up while nobody knows what was sent, it is reset.
#[test]
fn delegation_ends_with_its_session() {
    let mut peer = Peer::accepted();
    let delegated = peer.delegate(5).unwrap();
    peer.send("R 1");
    let Err((error, delegated)) = peer.complete(delegated, &payload(1, 5)) else { panic!("taken") };
    assert_eq!(error, TcpError::Voided);
    peer.cancel(delegated);
    peer.finish();
    let mut peer = Peer::accepted();
    let delegated = peer.delegate(5).unwrap();
    peer.release();
    peer.expect(&["RA 1 ack 1"]);
    let Err((error, _)) = peer.complete(delegated, &payload(1, 5)) else { panic!("taken") };
    assert_eq!(error, TcpError::Voided);
    assert!(peer.end.is_empty());
    // Dropped, and so never completed.
    let mut peer = Peer::accepted();
    drop(peer.delegate(5).unwrap());
    peer.finish();
}

/// An id of a session that is gone, though its place is taken again: closed, everywhere, and the other is left alone.
#[test]
fn stale_id_reaches_nothing() {
    let mut peer = Peer::new(TcpConfig { sessions: 1, ..TcpConfig::default() });
    peer.end.tcp.listen(PORT, &TcpOptions::default()).unwrap();
    peer.send(&format!("S 0 <{SYN_OPTIONS}>"));
    peer.send("A 1 ack 1");
    peer.id = peer.end.accepted[0];
    let (message, parked) = (peer.message(1, 5), peer.parked(1, 5));
    let delegated = peer.delegate(5).unwrap();
    let stale = peer.id;
    peer.abort();
    peer.release();
    peer.sent();
    peer.send(&format!("S 0 <{SYN_OPTIONS}>"));
    peer.send("PA 1:6 ack 1");
    let fresh = peer.end.accepted[1];
    assert_eq!((stale.index, stale == fresh), (fresh.index, false));
    peer.sent();
    peer.id = fresh;
    let before = peer.report();
    peer.id = stale;
    let gone = TcpError::NotOpen(TcpState::Closed);
    assert_eq!(peer.write(1), Err(gone));
    assert_eq!(peer.write(0), Err(gone));
    assert_eq!(peer.reserve(1).map(drop), Err(gone));
    assert_eq!(peer.delegate(1).map(drop), Err(gone));
    assert_eq!(peer.warm(b"x"), Err(gone));
    let Err((refused, message)) = peer.commit(message, 5) else { panic!("sent") };
    assert_eq!((refused, message.session()), (gone, stale));
    assert_eq!(error(peer.end.tcp.park(message, 5)), gone);
    assert_eq!(error(peer.release_parked(parked)), TcpError::Voided);
    let Err((refused, delegated)) = peer.complete(delegated, &payload(1, 5)) else { panic!("taken") };
    assert_eq!(refused, TcpError::Voided);
    peer.cancel(delegated);
    peer.end.tcp.consume(stale, 5);
    peer.end.tcp.set_options(peer.now, stale, &TcpOptions { congestion: false, ..TcpOptions::default() });
    peer.close();
    peer.abort();
    peer.release();
    assert_eq!((peer.state(), peer.end.tcp.end(stale)), (TcpState::Closed, None));
    assert_eq!(
        (peer.end.tcp.room(stale), peer.end.tcp.unacknowledged(stale), peer.end.tcp.peek(stale).len()),
        (0, 0, 0)
    );
    assert_eq!(peer.end.tcp.report(stale), None);
    peer.expect(&[]);
    peer.id = fresh;
    assert_eq!((peer.report(), peer.read()), (before, 5));
    peer.finish();
}

#[test]
fn reading_takes_no_more_than_there_is() {
    let mut peer = Peer::accepted();
    peer.send("PA 1:6 ack 1");
    peer.send("PA 11:16 ack 1");
    peer.end.tcp.consume(peer.id, 3);
    assert_eq!(peer.end.tcp.peek(peer.id), payload(4, 2));
    peer.end.tcp.consume(peer.id, usize::MAX);
    assert_eq!((peer.end.tcp.peek(peer.id).len(), peer.report().out_of_order), (0, 5));
    peer.send("PA 6:11 ack 1");
    assert_eq!(peer.end.tcp.peek(peer.id), payload(6, 5));
    peer.read = 5;
    assert_eq!(peer.read(), 10);
    peer.finish();
}

/// The user hears of what happened, once, and how it ended (MUST-12).
#[test]
fn news_is_told_once() {
    let mut peer = Peer::connected();
    assert_eq!(peer.end.news, [peer.id]);
    for (text, is_news) in [
        ("PA 1:6 ack 1", true),
        ("PA 1:6 ack 1", false),
        ("PA 11:16 ack 1", false),
        ("A 16 ack 1", false),
        ("PA 6:11 ack 1", true),
        ("S 99", false),
        ("FA 16 ack 1", true),
        ("FA 16 ack 1", false),
        ("R 17", true),
    ] {
        peer.end.news.clear();
        peer.send(text);
        peer.wait(SECOND);
        assert_eq!(peer.end.news.len(), usize::from(is_news), "{text}");
    }
    assert_eq!(peer.end.tcp.end(peer.id), Some(TcpEnd::Reset));
    peer.finish();
}

/// Closed, aborted or released while its next hop is not known: nothing is sent, and nothing is left.
#[test]
fn session_without_a_next_hop_ends_quietly() {
    for ending in ["close", "abort", "release", "wait", "resolve", "close, resolve"] {
        let mut peer = Peer::new(TcpConfig::default());
        let remote = SocketAddrV4::new(PEER, PEER_PORT);
        let Peer { end, now, .. } = &mut peer;
        peer.id = end.tcp.connect_from(*now, &mut end.pair.tx, PORT, remote, None, &TcpOptions::default()).unwrap();
        peer.wait(SECOND);
        peer.expect(&[]);
        for step in ending.split(", ") {
            match step {
                "close" => peer.close(),
                "abort" => peer.abort(),
                "release" => peer.release(),
                "wait" => peer.wait(180 * SECOND),
                _ => {
                    peer.end.tcp.resolve(peer.now, &mut peer.end.pair.tx, |_| Some(mac(PEER)));
                    peer.poll();
                }
            }
        }
        if ending == "resolve" {
            peer.expect(&["S 0"]);
            assert_eq!((peer.report().retransmits.syn, peer.report().backoff), (0, 0));
            peer.close();
        }
        peer.expect(&[]);
        assert!(!peer.end.tcp.is_resolving() && peer.state() == TcpState::Closed, "{ending}");
        peer.finish();
    }
}
