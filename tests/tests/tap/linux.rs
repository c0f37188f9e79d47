//! Linux, as this file's tests need it: a network of its own, its tools, and its raw sockets.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use barewire_tests::program::barewire;
use barewire_tests::skip;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with, sockopt,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Asks `look` until it answers.
pub fn eventually<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if let Some(found) = look() {
            return found;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("waited for {what} in vain");
}

/// A name for the network, while it has one. The network itself lasts as long as a thread or a process is in it.
struct Name(String);

impl Drop for Name {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs `test` in a network of its own, in which nothing is but a loopback interface: the thread, and every process it starts. Everything in it
/// goes when the test ends, however it ends.
pub fn in_own_network(what: &str, test: impl FnOnce() + Send) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("barewire-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        return skip(what, "`ip netns add` needs iproute2 and root");
    }
    let name = Name(name);
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        return skip(what, &format!("/dev/net/tun: {error}"));
    }
    let network = File::open(format!("/run/netns/{}", name.0)).expect("it has just been made");
    // Cargo may need the network that is left here.
    barewire();
    thread::scope(|scope| {
        let test = scope.spawn(|| {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("we are root");
            drop(name);
            test();
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Makes a TAP interface that stays, with an address in a network of 24 bits, and sets it up.
pub fn add_tap(name: &str, address: Ipv4Addr) {
    ip(&format!("tuntap add {name} mode tap"));
    set_up(name, address);
}

/// Gives an interface its address, and sets it up.
pub fn set_up(name: &str, address: Ipv4Addr) {
    // What IPv6 sends by itself is in nobody's way; where /proc is read-only it stays.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    ip(&format!("address add {address}/24 dev {name}"));
    ip(&format!("link set {name} up"));
}

/// Runs `ip`, and returns what it prints.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether there is an interface `name`.
pub fn exists(name: &str) -> bool {
    ip("-o link show").contains(&format!(" {name}: "))
}

/// What follows `word` in `text`.
fn after(text: &str, word: &str) -> Option<String> {
    text.split_whitespace().skip_while(|other| *other != word).nth(1).map(str::to_owned)
}

/// The station address of an interface.
pub fn station(name: &str) -> String {
    after(&ip(&format!("-o link show {name}")), "link/ether").expect("it is on Ethernet")
}

/// The station address that Linux believes `host` to have, and has heard of lately.
pub fn neighbour(host: Ipv4Addr) -> Option<String> {
    after(&ip(&format!("neighbour show {host} nud reachable nud delay nud probe")), "lladdr")
}

/// Asks `host`, until it answers, for an echo of `payload`, and holds the answer against it (RFC 792).
pub fn ping(host: Ipv4Addr, sequence: u16, payload: &[u8]) {
    const ID: [u8; 2] = [0xBA, 0x2E];
    let socket = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP)).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_millis(500))).unwrap();
    let [high, low] = sequence.to_be_bytes();
    let mut request = [&[8, 0, 0, 0, ID[0], ID[1], high, low], payload].concat();
    let checksum = !sum(&request);
    request[2..4].copy_from_slice(&checksum.to_be_bytes());
    eventually("an echo", || {
        // While nobody is there, Linux says that there is no route to the host.
        sendto(&socket, &request, SendFlags::empty(), &SocketAddrV4::new(host, 0)).ok()?;
        let mut packet = [0; 2048];
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            let len = match recv(&socket, &mut packet[..], RecvFlags::empty()) {
                Ok((len, _)) => len,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(Errno::HOSTUNREACH) => continue,
                Err(error) => panic!("{error}"),
            };
            let (header, message) = packet[..len].split_at(20);
            if header[12..16] == host.octets() && message[0] == 0 && message[4..8] == request[4..8] {
                assert_eq!(sum(message), 0xFFFF, "its checksum is right");
                assert_eq!(&message[8..], payload);
                return Some(());
            }
        }
        None
    });
}

/// The ones' complement sum of big-endian words (RFC 1071).
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let total: u32 = words.sum();
    let folded = (total & 0xFFFF) + (total >> 16);
    ((folded & 0xFFFF) + (folded >> 16)) as u16
}
