//! Rings between this process and the program's own: what is sent comes back, and a process that is killed is named.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use barewire_netstack::ipc::{Geometry, Peer, Ring, RingError};
use barewire_tests::program::barewire;

const SHAPE: Geometry = Geometry { lines: 64, max_message: 48, writers: 1 };
/// Some times what anything takes here.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn killed_process_is_named_at_both_its_ends() {
    let (there, back) = (Ring::create(SHAPE).unwrap(), Ring::create(SHAPE).unwrap());
    let addresses = [there.address(), back.address()];
    let (mut writer, mut reader) = (there.writer().unwrap(), back.reader().unwrap());
    let mut command = Command::new(barewire());
    command.args(["bench", "--ipc", "ring"]).args(&addresses).stdin(Stdio::null());
    let mut other = command.spawn().unwrap();

    // The first byte asks for an echo.
    writer.send(&[1; 48]).unwrap();
    let start = Instant::now();
    while reader.poll(1, |message| assert_eq!(message, [1; 48])).unwrap() == 0 {
        assert!(start.elapsed() < LIMIT, "no echo");
        yield_now();
    }
    let (Peer::Alive(at_reader), Some(Peer::Alive(at_writer))) = (writer.reader(), reader.writer(0)) else {
        panic!("{:?} {:?}", writer.reader(), reader.writer(0));
    };
    assert_eq!((at_reader.id, at_writer.id), (other.id(), other.id()));

    other.kill().unwrap();
    let start = Instant::now();
    while reader.dead_writer().is_none() {
        assert!(start.elapsed() < LIMIT, "a dead process is not noticed");
        yield_now();
    }
    println!("a killed process is noticed {} us after the signal", start.elapsed().as_micros());
    assert_eq!((writer.reader(), reader.dead_writer()), (Peer::Died(at_reader), Some(at_writer)));
    // Nobody takes up where it has left off, before and after its parent knows.
    for _ in 0..2 {
        assert!(
            matches!(Ring::open(&addresses[0]).unwrap().reader(), Err(RingError::Died(process)) if process == at_reader)
        );
        other.wait().unwrap();
    }
}
