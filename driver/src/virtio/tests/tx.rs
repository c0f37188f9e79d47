//! Frames to the wire: in what order they complete, what is added to them, what is refused.

use super::*;
use crate::port::ChecksumOffload;

#[test]
fn transmit_completes_in_any_order_and_keeps_what_is_retained() {
    let mut station = Station::new(OFFERED);
    let available = station.queue().tx.pool().available();
    let tx = &mut station.queue().tx;
    let mut buffer = tx.reserve().unwrap();
    buffer[..100].copy_from_slice(&bytes(100));
    let meta = TxMeta { len: 100, ..TxMeta::default() };
    let kept = tx.commit_retained(buffer, meta).ok().unwrap();
    tx.recommit(&kept, meta).unwrap();
    assert_eq!(tx.recommit(&kept, TxMeta { len: 101, ..meta }), Err(TxError::BadLength));
    tx.flush();
    station.send(&bytes(200), TxMeta::default()).unwrap();
    let sent = station.device.sent();
    assert_eq!(sent.iter().map(|(_, _, frame)| frame.len()).collect::<Vec<_>>(), [100, 100, 200]);
    assert!(sent.iter().all(|(_, header, frame)| *header == [0; HEADER] && *frame == bytes(frame.len())));
    let finish = |station: &mut Station, index: usize| {
        station.device.complete(1, &[(sent[index].0.into(), 0)]);
        assert_eq!(station.queue().tx.reclaim(), 1);
    };
    finish(&mut station, 2);
    finish(&mut station, 0);
    let kept = kept.try_into_buffer().err().expect("one sending is in flight");
    finish(&mut station, 1);
    assert_eq!(kept.bytes(), bytes(100));
    drop(kept.try_into_buffer().ok().expect("writable again"));
    assert_eq!(station.queue().tx.pool().available(), available);
    let stats = station.port.stats();
    assert_eq!((stats.tx_frames, stats.tx_bytes), (3, 412));
}

#[test]
fn transmit_ring_fills_and_empties_over_index_wraps() {
    let mut station = Station::new(OFFERED);
    for _ in 0..2_100 {
        let committed = (0..40).take_while(|_| station.send(&bytes(64), TxMeta::default()).is_ok()).count();
        assert_eq!(committed, 32);
        assert_eq!(station.send(&bytes(64), TxMeta::default()), Err(TxError::RingFull));
        let heads: Vec<_> = station.device.sent().iter().rev().map(|(head, ..)| (u32::from(*head), 0)).collect();
        assert_eq!(heads.len(), 32);
        station.device.complete(1, &heads);
    }
}

#[test]
fn short_frames_are_padded_with_zeroes_and_bad_lengths_refused() {
    let mut station = Station::new(OFFERED);
    station.send(&[0xFF; 2000], TxMeta::default()).unwrap();
    let [(head, ..)] = station.device.sent()[..] else { panic!() };
    station.device.complete(1, &[(head.into(), 0)]);
    station.queue().tx.reclaim();
    // The same buffer again: what was in it must not leave.
    station.send(&[1; 20], TxMeta::default()).unwrap();
    assert_eq!(station.device.sent()[0].2, [&[1; 20][..], &[0; 40]].concat());
    let offload = TxMeta { checksum: ChecksumOffload::Ipv4Tcp, l2_len: 14, l3_len: 20, ..TxMeta::default() };
    for (len, meta) in [(13, TxMeta::default()), (51, offload), (0, TxMeta::default())] {
        assert_eq!(station.send(&bytes(len), meta), Err(TxError::BadLength));
    }
    let tx = &mut station.queue().tx;
    let buffer = tx.reserve().unwrap();
    let (error, _) = tx.commit(buffer, TxMeta { len: 2049, ..TxMeta::default() }).unwrap_err();
    assert_eq!(error, TxError::BadLength);
}

#[test]
fn tag_goes_behind_the_addresses_and_moves_the_checksum() {
    let mut station = Station::new(OFFERED);
    let frame = bytes(100);
    let meta =
        TxMeta { checksum: ChecksumOffload::Ipv4Udp, l2_len: 14, l3_len: 20, vlan: Some(0x2064), ..TxMeta::default() };
    station.send(&frame, meta).unwrap();
    let (_, header, sent) = &station.device.sent()[0];
    assert_eq!(header[..], [1, 0, 0, 0, 0, 0, 38, 0, 6, 0, 0, 0]);
    assert_eq!((&sent[..12], &sent[12..16], &sent[16..18]), (&frame[..12], &[0x81, 0, 0x20, 0x64][..], &frame[12..14]));
    assert_eq!((sent.len(), &sent[30..]), (104, [&sent[30..38], &frame[34..]].concat().as_slice()));
}

#[test]
fn transmit_fault_stops_the_queue_and_is_reported_by_service() {
    let mut station = Station::new(OFFERED);
    station.send(&bytes(64), TxMeta::default()).unwrap();
    let [(head, ..)] = station.device.sent()[..] else { panic!() };
    station.device.complete(1, &[(u32::from(head) + 1, 0)]);
    assert_eq!(station.queue().tx.reclaim(), 0);
    assert_eq!(station.send(&bytes(64), TxMeta::default()), Err(TxError::Stopped));
    let error = station.port.service(0, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Queue(QueueFault { queue: 1, field: "used id", .. })), "{error}");
}
