//! A ring between processes whose memory somebody writes over, anywhere: an error, a message that nobody sent, never more; and as long as
//! nobody does, a queue.
#![no_main]
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;

use barewire_fuzz::Bytes;
use barewire_netstack::ipc::{Geometry, Ring, RingError, SendError};
use libfuzzer_sys::fuzz_target;

const GEOMETRY: Geometry = Geometry { lines: 8, max_message: 200, writers: 2 };
/// Words of the ring: its header, and its lines.
const WORDS: u16 = 256 + 8 * 8;

/// A word near those that mean something, or any.
fn word(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.byte() {
        0..64 => u64::from(bytes.byte()),
        64..128 => u64::from(bytes.byte()) << 16 | u64::from(bytes.byte()),
        128..160 => u64::MAX - u64::from(bytes.byte()),
        160..192 => u64::from(GEOMETRY.lines) | u64::from(bytes.byte()) << 32 | u64::from(bytes.byte()) << 48,
        _ => bytes.u64(),
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes = &mut Bytes(data);
    let ring = Ring::create(GEOMETRY).expect("memory for a ring");
    let address = ring.address();
    let memory = File::options().write(true).open(&address).expect("the ring's memory");
    let open = || Ring::open(&address).expect("a ring");
    let mut writers = [(); 2].map(|()| open().writer().expect("a free place"));
    let mut reader = open().reader().expect("a free place");
    let (mut queue, mut is_sound) = (VecDeque::new(), true);
    while !bytes.0.is_empty() {
        match bytes.byte() {
            choice @ 0..112 => {
                let message = vec![choice; bytes.byte().into()];
                match writers[usize::from(choice & 1)].send(&message) {
                    Ok(()) => queue.push_back(message),
                    Err(SendError::TooLong { most }) => assert!(message.len() > most.into()),
                    Err(SendError::Full) => {}
                    Err(error) => assert!(!is_sound, "{error}"),
                }
            }
            112..208 => {
                let mut got = Vec::new();
                let polled = reader.poll(u32::from(bytes.byte() % 6), |message| {
                    assert!(message.len() <= GEOMETRY.max_message.into());
                    got.push(message.to_vec());
                });
                assert!(!is_sound || polled.is_ok_and(|count| count as usize == got.len()));
                for message in got {
                    let sent = queue.pop_front();
                    assert!(!is_sound || sent == Some(message));
                }
            }
            208..248 => {
                is_sound = false;
                let at = bytes.u16() % WORDS;
                memory.write_all_at(&word(bytes).to_ne_bytes(), u64::from(at) * 8).expect("a word of it");
            }
            _ => {
                // Both ends are taken, as far as anybody can tell.
                let attached = Ring::open(&address).and_then(|ring| {
                    assert!(ring.geometry().max_message <= 1 << 15);
                    ring.reader()
                });
                assert!(!is_sound || matches!(attached, Err(RingError::Taken(_))));
                let _ = (writers[0].reader(), reader.dead_writer());
            }
        }
    }
    assert!(!is_sound || queue.len() <= GEOMETRY.lines as usize);
});
