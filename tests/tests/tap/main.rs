//! Linux as the other end: its ARP, ICMP, UDP and TCP against ours, over a TAP interface in a network of its own.
#![forbid(unsafe_code)]

mod express;
mod linux;
mod port;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use barewire_tests::program::{self, Ran, Running, barewire};
use linux::{add_tap, eventually, in_own_network, ip};
use rand::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Linux's address, and ours.
const LINUX: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// How long anything may take that ends by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// `barewire COMMAND` on our end of the TAP, in at most two minutes.
fn arguments(command: &str, rest: &str) -> Vec<String> {
    let flags = format!("{command} --port tap:bw0 --ip {OURS}/24 --seconds 120 --json {rest}");
    flags.split_whitespace().map(str::to_owned).collect()
}

fn run(command: &str, rest: &str) -> Ran {
    program::run(arguments(command, rest))
}

/// The report of a run that ended well.
fn report(ran: &Ran) -> Value {
    assert_eq!((ran.status, &*ran.err), (Some(0), ""), "{}", ran.out);
    serde_json::from_str(&ran.out).expect("a report in JSON")
}

#[test]
fn linux_answers_and_is_answered() {
    in_own_network("ICMP echo with Linux", || {
        add_tap("bw0", LINUX);
        for idle in ["pause", "sleep"] {
            let report = report(&run("ping", &format!("{LINUX} --count 20 --interval-ms 5 --idle {idle}")));
            assert_eq!((&report["received"], &report["strange"]), (&20.into(), &0.into()));
        }
        let ours = Running::start(&arguments("ping", "--idle sleep"));
        let before = linux::neighbour(OURS);
        assert_eq!(before, None, "an address from before is believed");
        for sequence in 0..20 {
            let payload: Vec<u8> = (0..1000u16).map(|at| (at ^ sequence) as u8).collect();
            linux::ping(OURS, sequence, &payload);
        }
        // What Linux found out by ARP is a station address of ours, and not its own.
        let station = linux::neighbour(OURS).expect("Linux knows who has answered");
        assert!(station.starts_with("02:") && station != linux::station("bw0"), "{station}");
        assert_eq!({ ours }.terminate(LIMIT), Some(0));
    });
}

/// Bytes that only who sends them knows, and their hash.
fn feed(mut stream: TcpStream, bytes: usize, seed: u64) -> String {
    let (mut random, mut hash) = (Pcg64Mcg::seed_from_u64(seed), Sha256::new());
    let mut chunk = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(chunk.len());
        random.fill_bytes(&mut chunk[..now]);
        hash.update(&chunk[..now]);
        stream.write_all(&chunk[..now]).expect("it takes everything");
        left -= now;
    }
    stream.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(stream.read(&mut chunk).expect("it closes in order"), 0);
    hex(hash)
}

fn drain(mut stream: TcpStream) -> (u64, String) {
    let (mut hash, mut total, mut chunk) = (Sha256::new(), 0, vec![0; 64 << 10]);
    loop {
        match stream.read(&mut chunk).expect("it ends in order") {
            0 => return (total, hex(hash)),
            len => {
                hash.update(&chunk[..len]);
                total += len as u64;
            }
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_limit(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Connects to our listener, which may not be there yet.
fn connect(port: u16) -> TcpStream {
    with_limit(eventually("a connection", || TcpStream::connect(SocketAddrV4::new(OURS, port)).ok()))
}

/// Runs `barewire` while `linux` does the other end's part, in the same network.
fn opposite<R: Send>(command: &str, rest: &str, linux: impl FnOnce() -> R + Send) -> (Ran, R) {
    thread::scope(|scope| {
        let linux = scope.spawn(linux);
        let ran = run(command, rest);
        match linux.join() {
            Ok(found) => (ran, found),
            Err(_) => panic!("Linux's end failed; ours: {ran:?}"),
        }
    })
}

/// MiB of a transfer: 64, or as many as `BAREWIRE_TAP_MIB` says; `tests/run --netem` wants 1024.
fn transfer_bytes() -> usize {
    let mib = std::env::var("BAREWIRE_TAP_MIB").map_or(64, |mib| mib.parse().expect("a number of MiB"));
    mib << 20
}

/// Both directions of data, each with either end as the listener.
fn transfers(lane: &str, bytes: usize) {
    let listener = TcpListener::bind(SocketAddrV4::new(LINUX, 7000)).unwrap();
    let accept = || with_limit(listener.accept().unwrap().0);
    let sink = format!("--role sink --tcp {lane} --idle yield");
    let source = format!("--role source --bytes {bytes} --tcp {lane} --idle yield");
    let received = |(ran, sent): (Ran, String)| {
        let report = report(&ran);
        assert_eq!((&report["bytes_received"], &report["sha256_received"]), (&bytes.into(), &sent.into()));
        eprintln!("{lane}: Linux to us at {} MB/s", report["megabytes_per_second"]);
    };
    let sent = |(ran, (total, hash)): (Ran, (u64, String))| {
        let report = report(&ran);
        assert_eq!((report["bytes_sent"].as_u64(), &report["sha256_sent"]), (Some(total), &hash.into()));
        assert_eq!(total, bytes as u64);
        eprintln!("{lane}: us to Linux at {} MB/s", report["megabytes_per_second"]);
    };
    received(opposite("listen", &format!("7001 {sink}"), || feed(connect(7001), bytes, 1)));
    sent(opposite("listen", &format!("7002 {source}"), || drain(connect(7002))));
    received(opposite("connect", &format!("{LINUX}:7000 {sink}"), || feed(accept(), bytes, 2)));
    sent(opposite("connect", &format!("{LINUX}:7000 {source}"), || drain(accept())));
}

#[test]
fn host_tcp_and_linux_s_carry_64_mib_each_way_unchanged() {
    in_own_network("TCP of the host stack with Linux", || {
        add_tap("bw0", LINUX);
        transfers("smoltcp", 64 << 20);
    });
}

#[test]
fn express_tcp_and_linux_s_carry_the_same_bytes_each_way() {
    in_own_network("TCP of the express lane with Linux", || {
        add_tap("bw0", LINUX);
        transfers("express", transfer_bytes());
    });
}

#[test]
fn multicast_passes_both_ways() {
    in_own_network("multicast with Linux", || {
        add_tap("bw0", LINUX);
        ip("route add 239.0.0.0/8 dev bw0");
        // So many small ones fit in a socket's buffer: nothing is lost while the reader is not running.
        const COUNT: u64 = 200;
        let group = SocketAddrV4::new([239, 1, 1, 1].into(), 5000);
        let receiver = UdpSocket::bind(("0.0.0.0", group.port())).unwrap();
        receiver.join_multicast_v4(group.ip(), &LINUX).unwrap();
        receiver.set_read_timeout(Some(LIMIT)).unwrap();
        let (ran, numbers) = opposite("multicast send", &format!("{group} --count {COUNT} --rate 5000"), || {
            let mut payload = [0; 2048];
            let mut next = || {
                let (len, from) = receiver.recv_from(&mut payload).expect("a datagram");
                assert_eq!((len, from.ip()), (64, OURS.into()));
                u64::from_be_bytes(*payload.first_chunk().unwrap())
            };
            (0..COUNT).map(|_| next()).collect::<Vec<_>>()
        });
        assert_eq!((report(&ran)["sent"].as_u64(), numbers), (Some(COUNT), (0..COUNT).collect()));

        let sender = UdpSocket::bind((LINUX, 0)).unwrap();
        let over = AtomicBool::new(false);
        let ran = thread::scope(|scope| {
            // From the beginning again until all have arrived: nobody tells when we have joined.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for number in 0..COUNT {
                        let mut payload = [0; 64];
                        payload[..8].copy_from_slice(&number.to_be_bytes());
                        // The queue may be full: then it comes in the next round.
                        let _ = sender.send_to(&payload, group);
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let ran = run("multicast receive", &format!("{group} --count {COUNT}"));
            over.store(true, Ordering::Relaxed);
            ran
        });
        let report = report(&ran);
        assert_eq!(
            (&report["received"], &report["missing"], &report["strange"]),
            (&COUNT.into(), &0.into(), &0.into())
        );
    });
}

/// One line that names the interface, and status 1.
fn assert_gone(ran: &Ran) {
    assert_eq!(ran.status, Some(1), "{ran:?}");
    // An interface goes down before it goes; a warning of that may come first.
    let (warnings, error) = ran.err.trim_end().rsplit_once('\n').unwrap_or(("", ran.err.trim_end()));
    assert!(
        warnings.is_empty() || warnings.ends_with("tap:bw0: link down") && warnings.lines().count() == 1,
        "{ran:?}"
    );
    assert!(error.starts_with("barewire: tap:bw0: the interface is gone"), "{ran:?}");
}

#[test]
fn interface_that_is_removed_ends_the_command_with_an_error_that_names_it() {
    in_own_network("removal of a TAP interface", || {
        for idle in ["spin", "sleep"] {
            add_tap("bw0", LINUX);
            let (ran, ()) = opposite("ping", &format!("--idle {idle}"), || {
                linux::ping(OURS, 1, b"there");
                ip("link del bw0");
            });
            assert_gone(&ran);
        }
        for lane in ["smoltcp", "express"] {
            add_tap("bw0", LINUX);
            let source = format!("7000 --role source --bytes {} --tcp {lane}", 64 << 20);
            let (ran, ()) = opposite("listen", &source, || {
                let mut stream = connect(7000);
                stream.read_exact(&mut vec![0; 1 << 20]).expect("a part of it");
                ip("link del bw0");
            });
            assert_gone(&ran);
        }
    });
}

#[test]
fn interface_that_goes_down_for_a_while_is_waited_for() {
    in_own_network("a TAP interface that goes down", || {
        add_tap("bw0", LINUX);
        let ours = Running::start(&arguments("ping", "--idle sleep"));
        for sequence in 0..3 {
            linux::ping(OURS, sequence, b"up");
            ip("link set bw0 down");
            ip("link set bw0 up");
        }
        linux::ping(OURS, 3, b"up again");
        assert_eq!({ ours }.terminate(LIMIT), Some(0));
    });
}

#[test]
fn interface_is_made_where_there_is_none_and_goes_with_its_maker() {
    in_own_network("making a TAP interface", || {
        let ours = Running::start(&arguments("ping", "--idle sleep"));
        eventually("the interface", || linux::exists("bw0").then_some(()));
        linux::set_up("bw0", LINUX);
        linux::ping(OURS, 1, b"there");
        // Somebody else's: told at once, and harmless.
        let ran = run("ping", &LINUX.to_string());
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert!(ran.err.contains("tap:bw0") && ran.err.contains("another process has it"), "{ran:?}");
        linux::ping(OURS, 2, b"still there");
        assert_eq!({ ours }.terminate(LIMIT), Some(0));
        assert!(!linux::exists("bw0"));
        // A name that something else has.
        let ran = Command::new(barewire()).args(["ping", "--port", "tap:lo", "--ip", "10.9.0.2/24"]).output().unwrap();
        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{complaint}");
        assert!(complaint.contains("tap:lo") && complaint.lines().count() == 1, "{complaint}");
    });
}
