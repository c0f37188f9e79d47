//! The other end of a test's traffic: TCP and multicast over Linux's own sockets. Each run prints one JSON object.
//!
//! ```text
//! linux_peer connect ADDRESS:PORT sink|source BYTES
//! linux_peer listen ADDRESS:PORT sink|source BYTES
//! linux_peer send GROUP:PORT OUR_ADDRESS COUNT RATE
//! linux_peer receive GROUP:PORT OUR_ADDRESS COUNT
//! ```
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long the other side may take to be there, and to say something.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a stream of datagrams may pause before it counts as over.
const QUIET: Duration = Duration::from_secs(3);
/// How long to rest when there is nothing to do: long enough to be worth a change of context, which costs an emulated processor dearly.
const TICK: Duration = Duration::from_millis(2);
const CHUNK: usize = 64 << 10;
/// What a socket may hold of datagrams, in bytes: a second of them, whatever else the processor does.
const BACKLOG: usize = 16 << 20;
/// Bytes of a datagram: its number and the time of sending as `barewire multicast` has them, and padding.
const DATAGRAM: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let found = match words[..] {
        ["connect", address, role, bytes] => transfer(connect(address.parse()?)?, role, bytes.parse()?)?,
        ["listen", address, role, bytes] => {
            transfer(TcpListener::bind(address.parse::<SocketAddrV4>()?)?.accept()?.0, role, bytes.parse()?)?
        }
        ["send", group, here, count, rate] => send(group.parse()?, here.parse()?, count.parse()?, rate.parse()?)?,
        ["receive", group, here, count] => receive(group.parse()?, here.parse()?, count.parse()?)?,
        _ => return Err("see the head of linux_peer.rs for its arguments".into()),
    };
    println!("{found}");
    Ok(())
}

/// Connects as soon as somebody listens.
fn connect(address: SocketAddrV4) -> std::io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address.into(), PATIENCE) {
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(100)),
            stream => return stream,
        }
    }
}

fn transfer(mut stream: TcpStream, role: &str, bytes: usize) -> Result<Value, Box<dyn Error>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut hash, mut passed, start) = (Sha256::new(), 0, Instant::now());
    let mut chunk = vec![0; CHUNK];
    match role {
        "source" => {
            let mut random = Pcg64Mcg::seed_from_u64(bytes as u64);
            while passed < bytes {
                let piece = &mut chunk[..CHUNK.min(bytes - passed)];
                random.fill_bytes(piece);
                stream.write_all(piece)?;
                hash.update(&*piece);
                passed += piece.len();
            }
            stream.shutdown(Shutdown::Write)?;
            if stream.read(&mut chunk)? > 0 {
                return Err("a sink has something to say".into());
            }
        }
        "sink" => loop {
            match stream.read(&mut chunk)? {
                0 => break,
                len => {
                    hash.update(&chunk[..len]);
                    passed += len;
                }
            }
        },
        _ => return Err("the role is sink or source".into()),
    }
    let sum: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({ "bytes": passed, "sha256": sum, "seconds": start.elapsed().as_secs_f64() }))
}

fn send(group: SocketAddrV4, here: Ipv4Addr, count: u64, rate: u64) -> Result<Value, Box<dyn Error>> {
    let socket = UdpSocket::bind((here, group.port()))?;
    socket.set_multicast_ttl_v4(1)?;
    let (start, mut datagram) = (Instant::now(), [0; DATAGRAM]);
    for number in 0..count {
        let due = Duration::from_nanos(number * 1_000_000_000 / rate);
        if due > start.elapsed() {
            thread::sleep(TICK);
        }
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        datagram[8..16]
            .copy_from_slice(&(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64).to_be_bytes());
        socket.send_to(&datagram, group)?;
    }
    Ok(json!({ "sent": count, "seconds": start.elapsed().as_secs_f64() }))
}

fn receive(group: SocketAddrV4, here: Ipv4Addr, count: usize) -> Result<Value, Box<dyn Error>> {
    let socket = UdpSocket::bind(group)?;
    set_socket_recv_buffer_size_force(&socket, BACKLOG)?;
    socket.join_multicast_v4(group.ip(), &here)?;
    socket.set_nonblocking(true)?;
    let (mut seen, mut received, mut strange) = (vec![false; count], 0, 0);
    let (mut last, mut patience, mut datagram) = (Instant::now(), PATIENCE, [0; 2048]);
    while received < count && last.elapsed() < patience {
        let len = match socket.recv(&mut datagram) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(TICK);
                continue;
            }
            len => len?,
        };
        (last, patience) = (Instant::now(), QUIET);
        let number = datagram[..len].first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes) as usize);
        match number.and_then(|number| seen.get_mut(number)) {
            Some(seen) if !*seen => {
                *seen = true;
                received += 1;
            }
            _ => strange += 1,
        }
    }
    Ok(json!({ "received": received, "strange": strange }))
}
