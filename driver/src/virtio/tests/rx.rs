//! Frames from the wire, whole and wrong.

use super::*;
use crate::Checksum;

#[test]
fn frames_arrive_whole_and_buffers_go_round() {
    let mut station = Station::new(OFFERED);
    let available = station.queue().rx.pool().available();
    for round in 0..200usize {
        let sent = [bytes(60 + round), bytes(2036), bytes(2037), bytes(9000)];
        sent.iter().for_each(|frame| station.device.receive(frame, 0));
        assert_eq!(station.received().unwrap(), sent);
    }
    assert_eq!(station.queue().rx.pool().available(), available);
    let stats = station.port.stats();
    assert_eq!((stats.rx_frames, stats.rx_length_errors), (800, 0));
    assert_eq!(stats.rx_bytes, (0..200).map(|round| 60 + round + 2036 + 2037 + 9000 + 16).sum::<u64>());
}

#[test]
fn kept_frames_hold_their_bytes_and_fresh_buffers_take_their_place() {
    let mut station = Station::new(OFFERED);
    [bytes(100), bytes(5000)].iter().for_each(|frame| station.device.receive(frame, 0));
    let mut kept = Vec::new();
    station.queue().rx.poll(9, |frame| kept.push(frame.take().ok().unwrap())).unwrap();
    for _ in 0..64 {
        station.device.receive(&[0xEE; 2000], 0);
        assert_eq!(station.received().unwrap(), [[0xEE; 2000]]);
    }
    let whole = |frame: &crate::OwnedFrame| frame.segments().flatten().copied().collect::<Vec<_>>();
    assert_eq!(kept.iter().map(whole).collect::<Vec<_>>(), [bytes(100), bytes(5000)]);
}

#[test]
fn frames_of_wrong_length_are_dropped_and_counted() {
    let mut station = Station::new(OFFERED);
    for _ in 0..10 {
        [0, 13, 9001, 40_000].into_iter().for_each(|len| station.device.receive(&bytes(len), 0));
        station.device.receive(&bytes(14), 0);
        assert_eq!(station.received().unwrap(), [bytes(14)]);
    }
    assert_eq!(station.port.stats().rx_length_errors, 40);
}

#[test]
fn incomplete_chain_waits_for_its_rest() {
    let mut station = Station::new(OFFERED);
    let [(first, parts), (second, _)] = [0, 1].map(|_| station.device.next_chain(0).unwrap());
    let header = [&[0u8; 10][..], &[2, 0], &bytes(2036)].concat();
    station.device.host.dma().write(parts[0].0, &header).unwrap();
    station.device.complete(0, &[(first.into(), 2048)]);
    assert!(station.received().unwrap().is_empty());
    station.device.complete(0, &[(second.into(), 8)]);
    assert_eq!(station.received().unwrap()[0].len(), 2044);
}

#[test]
fn verdict_comes_from_the_header() {
    let mut station = Station::new(OFFERED);
    let mut frame = bytes(60);
    frame[12..34].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0x66, 0xBD, 10, 0, 0, 1, 10, 0, 0, 2]);
    [0, 1, 2].into_iter().for_each(|flags| station.device.receive(&frame, flags));
    frame[24] ^= 1;
    station.device.receive(&frame, 2);
    let mut verdicts = Vec::new();
    station.queue().rx.poll(9, |frame| verdicts.push(frame.meta().checksum)).unwrap();
    assert_eq!(verdicts, [Checksum::Unchecked, Checksum::Good, Checksum::Good, Checksum::Bad]);
}

#[test]
fn impossible_receive_fields_stop_the_queue() {
    let whole = |station: &Station, buffers: u16| {
        let (head, parts) = station.device.next_chain(0).unwrap();
        station.device.host.dma().write(parts[0].0 + 10, &buffers.to_le_bytes()).unwrap();
        u32::from(head)
    };
    type Break = fn(u32) -> (u32, u32);
    let breaks: [(&str, u16, Break); 6] = [
        ("used len", 1, |head| (head, 11)),
        ("used len", 1, |head| (head, 2049)),
        ("used len", 1, |head| (head, u32::MAX)),
        ("used id", 1, |_| (64, 100)),
        ("num_buffers", 0, |head| (head, 100)),
        ("num_buffers", 65, |head| (head, 100)),
    ];
    for (field, buffers, element) in breaks {
        let mut station = Station::new(OFFERED);
        let head = whole(&station, buffers);
        station.device.complete(0, &[element(head)]);
        let fault = station.received().unwrap_err();
        assert_eq!((fault.field, fault.queue), (field, 0));
        station.device.receive(&bytes(60), 0);
        assert_eq!(station.received(), Err(fault), "it stays stopped");
    }
}
