use proptest::prelude::*;

use super::*;
use crate::feed::moldudp64::{HEADER, Packet};

const SESSION: Session = *b"BAREWIRE01";

fn text(number: u64) -> Vec<u8> {
    format!("message {number}").into_bytes()
}

/// A packet of `count` messages from number `first` on.
fn packet(first: u64, count: u64) -> Vec<u8> {
    let mut buffer = vec![0; 1400];
    let mut packet = Packet::begin(&mut buffer, SESSION, first).unwrap();
    assert!((first..first + count).all(|number| packet.push(&text(number))));
    let len = packet.finish();
    buffer.truncate(len);
    buffer
}

fn end_of_session(number: u64) -> Vec<u8> {
    let mut buffer = vec![0; HEADER];
    Packet::begin(&mut buffer, SESSION, number).unwrap().end_session();
    buffer
}

/// Numbers of what was passed on, late ones negative.
fn receive(arbiter: &mut Arbiter, now: Nanos, source: Source, packet: &[u8]) -> Vec<i64> {
    let mut got = Vec::new();
    arbiter.receive(now, source, packet, |message| {
        assert_eq!(message.bytes, text(message.number));
        got.push(if message.is_late { -(message.number as i64) } else { message.number as i64 });
    });
    got
}

#[test]
fn first_copy_wins_and_the_second_is_counted_with_its_lag() {
    let mut arbiter = Arbiter::default();
    assert_eq!(receive(&mut arbiter, 100, Source::A, &packet(1, 2)), [1, 2]);
    assert_eq!(receive(&mut arbiter, 130, Source::B, &packet(1, 2)), [0; 0]);
    assert_eq!(receive(&mut arbiter, 200, Source::B, &packet(3, 1)), [3]);
    assert_eq!(receive(&mut arbiter, 270, Source::A, &packet(3, 1)), [0; 0]);
    // A second copy from the same line says nothing about the other one.
    assert_eq!(receive(&mut arbiter, 900, Source::B, &packet(3, 1)), [0; 0]);
    let stats = [Source::A, Source::B].map(|source| arbiter.source_stats(source));
    assert_eq!((stats[0].messages, stats[0].duplicates), (2, 1));
    assert_eq!((stats[1].messages, stats[1].duplicates), (1, 3));
    let lag = |source| arbiter.lag(source).unwrap().quantiles();
    assert_eq!((lag(Source::A).count, lag(Source::A).max), (1, 70));
    assert_eq!((lag(Source::B).count, lag(Source::B).max), (1, 30));
}

#[test]
fn what_one_line_lost_the_other_brings_without_a_gap() {
    let mut arbiter = Arbiter::default();
    receive(&mut arbiter, 0, Source::A, &packet(1, 1));
    receive(&mut arbiter, 1, Source::B, &packet(1, 1));
    assert_eq!(receive(&mut arbiter, 2, Source::B, &packet(2, 1)), [2]);
    assert_eq!(receive(&mut arbiter, 3, Source::A, &packet(3, 1)), [3]);
    assert_eq!((arbiter.stats().gaps, arbiter.source_stats(Source::A).absent), (0, 1));
}

#[test]
fn what_is_ahead_of_a_gap_waits_for_it_and_follows_in_order() {
    let mut arbiter = Arbiter::default();
    receive(&mut arbiter, 0, Source::A, &packet(1, 1));
    assert_eq!(receive(&mut arbiter, 5, Source::A, &packet(4, 2)), [0; 0]);
    assert_eq!((arbiter.gap_since(), arbiter.missing(), arbiter.holes()), (Some(5), 2, 1));
    assert_eq!(arbiter.first_missing(0, 24), Some((2, 4)));
    assert_eq!(receive(&mut arbiter, 6, Source::B, &packet(3, 1)), [0; 0]);
    assert_eq!(receive(&mut arbiter, 7, Source::Recovery, &packet(2, 2)), [-2, -3, -4, 5]);
    assert_eq!((arbiter.gap_since(), arbiter.missing(), arbiter.next_sequence()), (None, 0, 6));
    let stats = arbiter.stats();
    assert_eq!((stats.gaps, stats.missing, stats.messages), (1, 2, 5));
    assert_eq!(receive(&mut arbiter, 8, Source::A, &packet(6, 1)), [6]);
}

#[test]
fn heartbeat_and_end_of_session_tell_of_what_is_missing() {
    let mut arbiter = Arbiter::default();
    receive(&mut arbiter, 0, Source::A, &packet(1, 1));
    receive(&mut arbiter, 1, Source::A, &packet(3, 0));
    assert_eq!((arbiter.first_missing(0, 24), arbiter.stats().heartbeats), (Some((2, 3)), 1));
    receive(&mut arbiter, 2, Source::A, &end_of_session(4));
    assert!(!arbiter.has_ended());
    assert_eq!((arbiter.first_missing(0, 24), arbiter.first_missing(0, 1)), (Some((2, 4)), Some((2, 3))));
    receive(&mut arbiter, 3, Source::Recovery, &packet(2, 2));
    assert!(arbiter.has_ended());
    assert_eq!((arbiter.stats().gaps, arbiter.gap_since()), (2, None));
}

#[test]
fn what_is_too_far_ahead_is_not_held_and_overruns_the_window() {
    let mut arbiter = Arbiter::default();
    receive(&mut arbiter, 0, Source::A, &packet(1, 1));
    receive(&mut arbiter, 0, Source::A, &packet(2 + HOLD_BACK as u64, 1));
    assert_eq!((arbiter.stats().not_held, arbiter.is_overrun()), (1, true));
    assert_eq!(arbiter.missing(), HOLD_BACK as u64 + 1);
}

#[test]
fn snapshot_replaces_what_is_missing_and_the_held_back_follow() {
    let mut arbiter = Arbiter::default();
    receive(&mut arbiter, 0, Source::A, &packet(9_000, 1));
    arbiter.suspend(1);
    assert_eq!(receive(&mut arbiter, 2, Source::A, &packet(9_001, 2)), [0; 0]);
    // One that a corrupt packet claims, far away.
    receive(&mut arbiter, 3, Source::B, &packet(1 << 40, 1));
    assert_eq!(receive(&mut arbiter, 4, Source::B, &packet(9_004, 1)), [0; 0]);
    let mut got = Vec::new();
    arbiter.resume(5, 9_001, |message| got.push((message.number, message.is_late)));
    assert_eq!(got, [(9_001, true), (9_002, true)]);
    assert_eq!((arbiter.gap_since(), arbiter.first_missing(0, 24)), (Some(5), Some((9_003, 9_004))));
    assert_eq!(receive(&mut arbiter, 6, Source::Recovery, &packet(9_003, 1)), [-9_003, 9_004]);
    assert_eq!((arbiter.stats().snapshots, arbiter.gap_since()), (1, None));
}

#[test]
fn line_that_falls_silent_is_named_once() {
    let mut arbiter = Arbiter::default();
    for source in [Source::A, Source::B] {
        receive(&mut arbiter, 0, source, &packet(1, 1));
    }
    receive(&mut arbiter, SILENCE, Source::A, &packet(2, 1));
    arbiter.watch(SILENCE);
    arbiter.watch(SILENCE + 1);
    assert_eq!((arbiter.line(Source::B), arbiter.source_stats(Source::B).silences), ((Some(0), true), 1));
    assert_eq!((arbiter.line(Source::A), arbiter.source_stats(Source::A).silences), ((Some(SILENCE), false), 0));
    receive(&mut arbiter, SILENCE + 2, Source::B, &packet(2, 1));
    arbiter.watch(SILENCE + 3);
    assert!(!arbiter.line(Source::B).1);
}

#[test]
fn line_that_is_far_behind_is_silent_before_time_says_so() {
    let mut arbiter = Arbiter::default();
    (0..=SILENT_BEHIND).for_each(|n| _ = receive(&mut arbiter, n, Source::A, &packet(1 + n, 1)));
    arbiter.watch(SILENT_BEHIND);
    assert_eq!((arbiter.line(Source::A).1, arbiter.line(Source::B)), (false, (None, true)));
}

#[test]
fn bad_packets_are_counted_by_cause_and_change_nothing() {
    let mut arbiter = Arbiter::default();
    receive(&mut arbiter, 0, Source::A, &packet(1, 1));
    let whole = packet(2, 2);
    for len in 0..HEADER {
        receive(&mut arbiter, 0, Source::A, &whole[..len]);
    }
    let mut other = packet(2, 1);
    other[..10].copy_from_slice(b"OTHER00001");
    let zero = packet(0, 1);
    let mut wrap = packet(2, 2);
    wrap[10..18].copy_from_slice(&u64::MAX.to_be_bytes());
    for bytes in [other, zero, wrap] {
        receive(&mut arbiter, 0, Source::B, &bytes);
    }
    let stats = arbiter.stats();
    assert_eq!((stats.truncated, stats.other_session, stats.bad_sequence), (HEADER as u64, 1, 2));
    assert_eq!((arbiter.next_sequence(), arbiter.gap_since()), (2, None));
}

#[test]
fn blocks_that_are_cut_off_are_missing() {
    let whole = packet(1, 3);
    for len in HEADER..whole.len() {
        let mut arbiter = Arbiter::default();
        let got = receive(&mut arbiter, 0, Source::A, &whole[..len]);
        assert_eq!((arbiter.stats().bad_blocks, arbiter.gap_since()), (1, Some(0)), "{len}");
        assert_eq!(arbiter.first_missing(0, 24), Some((1 + got.len() as u64, 4)), "{len}");
        receive(&mut arbiter, 1, Source::A, &packet(4, 1));
        assert_eq!(arbiter.first_missing(0, 24), Some((1 + got.len() as u64, 4)), "{len}");
        assert_eq!(receive(&mut arbiter, 2, Source::B, &whole).len(), 4 - got.len());
    }
}

#[test]
fn message_longer_than_any_is_passed_on_in_sequence_and_not_held() {
    let mut buffer = vec![0; 1400];
    let mut arbiter = Arbiter::default();
    for (number, passed) in [(1, 1), (3, 0)] {
        let mut packet = Packet::begin(&mut buffer, SESSION, number).unwrap();
        assert!(packet.push(&[7; 900]));
        let len = packet.finish();
        let mut count = 0;
        arbiter.receive(0, Source::A, &buffer[..len], |_| count += 1);
        assert_eq!(count, passed);
    }
    assert_eq!((arbiter.stats().not_held, arbiter.missing()), (1, 2));
}

proptest! {
    #[test]
    fn every_message_is_passed_on_once_in_order_whatever_order_they_come_in(
        order in Just((1u64..=60).collect::<Vec<_>>()).prop_shuffle(), sources in prop::collection::vec(0usize..3, 60),
        repeats in prop::collection::vec((1u64..55, 1u64..6), 0..30),
    ) {
        let mut arbiter = Arbiter::default();
        let mut got = Vec::new();
        let mut put = |arbiter: &mut Arbiter, source: usize, bytes: &[u8]| {
            arbiter.receive(0, Source::ALL[source], bytes, |message| got.push(message.number));
        };
        let mut repeats = repeats.into_iter();
        for (number, source) in order.into_iter().zip(sources) {
            put(&mut arbiter, source, &packet(number, 1));
            if let Some((first, count)) = repeats.next() {
                put(&mut arbiter, 2 - source, &packet(first, count));
            }
        }
        prop_assert_eq!(got, (1..=60).collect::<Vec<_>>());
        prop_assert_eq!((arbiter.missing(), arbiter.gap_since()), (0, None));
        let brought: u64 = Source::ALL.iter().map(|source| arbiter.source_stats(*source).messages).sum();
        prop_assert_eq!(brought, 60);
    }

    #[test]
    fn arbiter_takes_any_packets_and_keeps_order(
        packets in prop::collection::vec((any::<bool>(), 0usize..3, prop_oneof![0u64..80, any::<u64>()], any::<u16>(),
            prop::collection::vec(any::<u8>(), 0..120), prop::option::of(1u64..90), any::<u64>()), 0..60),
    ) {
        let mut arbiter = Arbiter::default();
        let mut last = None;
        for (is_ours, source, first, count, rest, resume, now) in packets {
            let session = if is_ours { SESSION } else { *b"OTHER00001" };
            let bytes = [&session[..], &first.to_be_bytes(), &count.to_be_bytes(), &rest].concat();
            arbiter.receive(now, Source::ALL[source], &bytes, |message| {
                assert!(last.is_none_or(|last| message.number == last + 1));
                last = Some(message.number);
            });
            arbiter.watch(now);
            if let Some(next) = resume {
                arbiter.suspend(now);
                last = None;
                arbiter.resume(now, next, |message| {
                    assert!(last.is_none_or(|last| message.number == last + 1));
                    last = Some(message.number);
                });
            }
            prop_assert_eq!(arbiter.gap_since().is_some(), arbiter.missing() > 0);
            prop_assert_eq!(arbiter.first_missing(0, 24).is_some() || arbiter.is_overrun(), arbiter.missing() > 0);
        }
    }
}
