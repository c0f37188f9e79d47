use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::thread;

const SMALL: Geometry = Geometry { lines: 8, max_message: 200, writers: 1 };

fn ends(geometry: Geometry) -> (Writer, Reader) {
    let ring = Ring::create(geometry).unwrap();
    let other = Ring::open(&ring.address()).unwrap();
    assert_eq!(other.geometry(), geometry);
    (other.writer().unwrap(), ring.reader().unwrap())
}

fn all(reader: &mut Reader) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    reader.poll(u32::MAX, |message| got.push(message.to_vec())).unwrap();
    got
}

#[test]
fn messages_of_every_length_arrive_whole() {
    let (mut writer, mut reader) = ends(SMALL);
    for len in 0..=200 {
        let message: Vec<u8> = (0..len).collect();
        writer.send(&message).unwrap();
        assert_eq!(all(&mut reader), [message]);
    }
    assert!(matches!(writer.send(&[0; 201]), Err(SendError::TooLong { most: 200 })));
}

#[test]
fn full_ring_says_so_and_goes_on_when_there_is_room() {
    let (mut writer, mut reader) = ends(SMALL);
    let sent = (0..).take_while(|n: &u8| writer.send(&[*n]).is_ok()).count();
    assert_eq!(sent, 8);
    assert_eq!(all(&mut reader).len(), 8);
    // Nothing is there, so the writer is told of all the room.
    assert!(all(&mut reader).is_empty());
    writer.send(&[9; 200]).unwrap();
    assert_eq!(all(&mut reader), [[9; 200]]);
}

#[test]
fn shapes_that_make_no_ring_are_refused() {
    for geometry in [
        Geometry { lines: 0, ..SMALL },
        Geometry { lines: 1, ..SMALL },
        Geometry { lines: 12, ..SMALL },
        Geometry { max_message: 225, ..SMALL },
        Geometry { writers: 0, ..SMALL },
        Geometry { writers: 16, ..SMALL },
    ] {
        assert!(matches!(Ring::create(geometry), Err(RingError::Geometry)), "{geometry:?}");
    }
}

#[test]
fn an_end_is_taken_once_and_its_leaving_is_seen() {
    let (writer, reader) = ends(SMALL);
    let again = || Ring::open(&writer.ring.address()).unwrap();
    let this = Process::this().unwrap();
    assert!(matches!(again().reader(), Err(RingError::Taken(by)) if by == this));
    assert!(matches!(again().writer(), Err(RingError::Taken(by)) if by == this));
    assert_eq!(
        (writer.reader(), reader.writer(0), reader.writer(1)),
        (Peer::Alive(this), Some(Peer::Alive(this)), None)
    );
    let address = reader.ring.address();
    let watcher = Ring::open(&address).unwrap();
    drop(writer);
    assert_eq!((reader.writer(0), reader.dead_writer()), (Some(Peer::Left(this)), None));
    let writer = watcher.writer().unwrap();
    assert_eq!(reader.writer(0), Some(Peer::Alive(this)));
    drop(reader);
    assert_eq!(writer.reader(), Peer::Left(this));
}

#[test]
fn whoever_dies_at_an_end_is_named_and_nobody_takes_his_place() {
    let (writer, reader) = ends(SMALL);
    let dead = Process { id: std::process::id(), started: 1 };
    for place in [0, 1] {
        writer.ring.header.store(at::PLACES + place * LINE + 2, dead.started, Ordering::Relaxed);
    }
    assert_eq!((writer.reader(), reader.dead_writer()), (Peer::Died(dead), Some(dead)));
    let ring = Ring::open(&writer.ring.address()).unwrap();
    assert!(matches!(ring.writer(), Err(RingError::Died(process)) if process == dead));
}

#[test]
fn another_version_and_what_is_no_ring_are_refused() {
    let ring = Ring::create(SMALL).unwrap();
    let open = || Ring::open(&ring.address()).map(drop);
    ring.header.store(at::MAGIC, MAGIC + 1, Ordering::Relaxed);
    assert!(matches!(open(), Err(RingError::Version(found)) if found == MAGIC + 1));
    ring.header.store(at::MAGIC, MAGIC, Ordering::Relaxed);
    for word in [0, u64::MAX, Geometry { lines: 1 << 24, ..SMALL }.word(), SMALL.word() | 1 << 60] {
        ring.header.store(at::GEOMETRY, word, Ordering::Relaxed);
        assert!(matches!(open(), Err(RingError::Corrupt { .. })), "{word:#x}");
    }
    assert!(
        Ring::open("/proc/self/exe").is_err() && Ring::open("/dev/null").is_err() && Ring::open("/no/such").is_err()
    );
}

#[test]
fn ring_that_was_written_over_is_refused_at_either_end() {
    let (mut writer, mut reader) = ends(SMALL);
    writer.send(b"order").unwrap();
    writer.ring.lines.store(0, 77 << 16, Ordering::Relaxed);
    assert!(matches!(reader.poll(1, |_| ()), Err(RingError::Corrupt { .. })));
    // A stamp that is right, with a length that is not; and a message whose second line is another's.
    writer.ring.lines.store(0, 1 << 16 | 201, Ordering::Relaxed);
    assert!(matches!(reader.poll(1, |_| ()), Err(RingError::Corrupt { .. })));
    writer.ring.lines.store(0, 1 << 16 | 100, Ordering::Relaxed);
    assert!(matches!(reader.poll(1, |_| ()), Err(RingError::Corrupt { .. })));
    reader.ring.header.store(at::HEAD, 1 << 40, Ordering::Relaxed);
    let error = (0..20).find_map(|_| writer.send(b"order").err()).unwrap();
    assert!(matches!(error, SendError::Ring(RingError::Corrupt { .. })));
}

#[test]
fn several_writers_lose_nothing_and_each_keeps_its_order() {
    const EACH: u32 = 20_000;
    let geometry = Geometry { lines: 64, max_message: 100, writers: 3 };
    let ring = Ring::create(geometry).unwrap();
    let address = ring.address();
    let mut reader = ring.reader().unwrap();
    thread::scope(|scope| {
        for name in 0..3u8 {
            let mut writer = Ring::open(&address).unwrap().writer().unwrap();
            scope.spawn(move || {
                for number in 0..EACH {
                    let message = [&[name][..], &number.to_be_bytes(), &vec![name; number as usize % 90]].concat();
                    while writer.send(&message).is_err() {
                        thread::yield_now();
                    }
                }
            });
        }
        let (mut next, mut bad) = ([0u32; 3], 0);
        while next.iter().sum::<u32>() < 3 * EACH {
            let polled = reader.poll(16, |message| {
                let (head, rest) = message.split_first_chunk::<5>().unwrap();
                let expected = &mut next[usize::from(head[0])];
                let is_right = head[1..] == expected.to_be_bytes()
                    && rest.len() == *expected as usize % 90
                    && rest.iter().all(|byte| *byte == head[0]);
                bad += u32::from(!is_right);
                *expected += 1;
            });
            if polled.unwrap() == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(bad, 0);
    });
}

proptest! {
    #[test]
    fn ring_is_a_queue(steps in prop::collection::vec((any::<bool>(), 0usize..200, 1u32..6), 0..300)) {
        let (mut writer, mut reader) = ends(SMALL);
        let (mut queue, mut number) = (VecDeque::new(), 0u8);
        for (sends, len, budget) in steps {
            if sends {
                let message = vec![number; len];
                number = number.wrapping_add(1);
                if writer.send(&message).is_ok() {
                    queue.push_back(message);
                }
            } else {
                let mut got = Vec::new();
                let polled = reader.poll(budget, |message| got.push(message.to_vec())).unwrap();
                prop_assert_eq!(polled as usize, queue.len().min(budget as usize));
                prop_assert!(got.into_iter().eq(queue.drain(..polled as usize)));
            }
        }
    }

    #[test]
    fn scribbled_memory_is_never_more_than_an_error(
        words in prop::collection::vec((0usize..64, any::<u64>()), 0..20),
        header in prop::collection::vec((8usize..256, any::<u64>()), 0..4),
    ) {
        let (mut writer, mut reader) = ends(SMALL);
        for (at, value) in header {
            writer.ring.header.store(at, value, Ordering::Relaxed);
        }
        for (at, value) in words {
            let _ = writer.send(b"some message");
            writer.ring.lines.store(at, value, Ordering::Relaxed);
            let _ = reader.poll(4, |message| assert!(message.len() <= 200));
            let _ = (writer.reader(), reader.dead_writer());
        }
    }
}
