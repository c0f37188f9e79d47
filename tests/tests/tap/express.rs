//! Our stack in this process, and Linux's programs and sockets opposite: many connections, half-closes, HTTP both ways, and socat.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use barewire_driver::Port;
use barewire_driver::clock::Clock;
use barewire_driver::soft::{Config as PortConfig, Rx, SoftPort, Tx};
use barewire_driver::tap::{self, Tap};
use barewire_netstack::{Config, Context, Event, Lane, Stack, TcpConfig, TcpId, TcpOptions, TcpState};
use barewire_tests::program::Running;
use barewire_tests::skip;
use sha2::{Digest, Sha256};

use super::linux::{add_tap, eventually, in_own_network};
use super::{LIMIT, LINUX, OURS, connect, hex, opposite, report, with_limit};

type Cx = Context<Tx<Tap>>;

/// A closed connection is forgotten soon: nobody repeats here what arrived long ago.
fn options() -> TcpOptions {
    TcpOptions { time_wait: 100_000_000, ..TcpOptions::default() }
}

/// Segments of all sessions in either direction: some for each of a thousand.
const SEGMENTS: u32 = 2048;
const SESSIONS: u32 = 1100;

/// Our end of the TAP.
struct Ours {
    stack: Stack<Rx<Tap>, Tx<Tap>>,
    clock: Clock,
    _port: SoftPort<Tap>,
}

impl Ours {
    fn open() -> Self {
        let held = PortConfig { kept_frames: SEGMENTS, retained_frames: SEGMENTS, ..PortConfig::default() };
        let mut port = tap::open("bw0", held).unwrap();
        let mut config = Config::new(port.mac(), OURS, 24, 7);
        let (sent_segments, kept_segments) = (SEGMENTS, SEGMENTS);
        config.tcp = TcpConfig { sessions: SESSIONS, half_open: 64, sent_segments, kept_segments };
        Self { stack: Stack::new(port.open_queue(0).unwrap(), config), clock: Clock::calibrated(), _port: port }
    }

    /// Does something that no frame asked for.
    fn act<R>(&mut self, act: impl FnOnce(&mut Cx) -> R) -> R {
        let cx = self.stack.context(self.clock.now());
        let done = act(cx);
        cx.flush();
        done
    }

    fn listen(&mut self, port: u16) {
        self.act(|cx| cx.tcp_listen(Lane::Express, port, &options())).unwrap();
    }

    fn poll(&mut self, handler: impl FnMut(&mut Cx, Event<'_>)) {
        if self.stack.poll(self.clock.now(), handler).unwrap() == 0 {
            thread::yield_now();
        }
    }

    /// Serves while `linux` does its part.
    fn beside<R: Send>(&mut self, mut handler: impl FnMut(&mut Cx, Event<'_>), linux: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let linux = scope.spawn(linux);
            while !linux.is_finished() {
                self.poll(&mut handler);
            }
            linux.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Takes what has arrived on `id`.
fn take(cx: &mut Cx, id: TcpId, text: &mut Vec<u8>) {
    // That the connection is over, its state says.
    let _ = cx.tcp_receive(id, |bytes| {
        text.extend_from_slice(bytes);
        bytes.len()
    });
}

/// Gives back what comes, and closes when the peer has.
fn echo(cx: &mut Cx, event: Event<'_>) {
    let Event::Tcp(id) = event else { return };
    let mut text = Vec::new();
    take(cx, id, &mut text);
    if !text.is_empty() {
        assert_eq!(cx.tcp_send(id, &text), Ok(text.len()));
    }
    if matches!(cx.tcp_state(id), TcpState::CloseWait | TcpState::Closed) {
        cx.tcp_release(id);
    }
}

fn ask(stream: &mut TcpStream, number: u64) {
    stream.write_all(&number.to_be_bytes()).expect("it takes eight bytes");
}

fn assert_answered(stream: &mut TcpStream, number: u64) {
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(u64::from_be_bytes(answer), number);
}

/// Each is answered, and the other end closes after us.
fn leave(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("it is connected");
    assert_eq!(stream.read(&mut [0]).expect("it closes in order"), 0);
}

#[test]
fn ten_thousand_connections_come_and_go_in_turn() {
    in_own_network("10,000 connections in turn", || {
        add_tap("bw0", LINUX);
        let mut ours = Ours::open();
        ours.listen(7000);
        let start = Instant::now();
        ours.beside(echo, || {
            for number in 0..10_000 {
                let mut stream = connect(7000);
                ask(&mut stream, number);
                assert_answered(&mut stream, number);
                leave(stream);
            }
        });
        eprintln!("10,000 connections in turn: {:.1} s", start.elapsed().as_secs_f64());
    });
}

/// Twice, which needs the places of the first thousand.
#[test]
fn a_thousand_connections_are_served_at_once() {
    // A thousand sockets are nearly all that a process may have open unless it asks for more.
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the maximum");
    in_own_network("1,000 connections at once", || {
        add_tap("bw0", LINUX);
        let mut ours = Ours::open();
        ours.listen(7000);
        ours.beside(echo, || {
            for _ in 0..2 {
                let mut streams: Vec<_> = (0..1000).map(|_| connect(7000)).collect();
                for round in 0..3 {
                    (round..).zip(&mut streams).for_each(|(number, stream)| ask(stream, number));
                    (round..).zip(&mut streams).for_each(|(number, stream)| assert_answered(stream, number));
                }
                streams.into_iter().for_each(leave);
            }
        });
    });
}

/// Who closes its half at once; the other does when it has seen that.
#[derive(Debug, Clone, Copy, PartialEq)]
enum First {
    Ours,
    Linux,
    Both,
}

const TEXT: &[u8] = &[0x5A; 10_000];

/// Our part of a conversation. Returns what came.
fn talk(ours: &mut Ours, opened: Option<TcpId>, first: First, done: impl Fn() -> bool) -> Vec<u8> {
    let (mut id, mut text, mut said, mut start) = (opened, Vec::new(), false, Instant::now());
    loop {
        ours.poll(|_, event| {
            if let Event::Accepted { id: accepted, .. } = event {
                id = Some(accepted);
                start = Instant::now();
            }
        });
        assert!(start.elapsed() < LIMIT, "{first:?}: {id:?}, {} bytes, {said}", text.len());
        let Some(id) = id else { continue };
        let over = ours.act(|cx| {
            take(cx, id, &mut text);
            let state = cx.tcp_state(id);
            let turn = first != First::Linux && state == TcpState::Established || state == TcpState::CloseWait;
            if turn && !said {
                assert_eq!(cx.tcp_send(id, TEXT), Ok(TEXT.len()));
                cx.tcp_close(id);
                said = true;
            }
            said && matches!(state, TcpState::Closed | TcpState::TimeWait)
        });
        if over && done() {
            ours.act(|cx| cx.tcp_release(id));
            return text;
        }
    }
}

/// Linux's part.
fn talk_as_linux(mut stream: TcpStream, first: First) -> Vec<u8> {
    let mut text = Vec::new();
    let say = |stream: &mut TcpStream| {
        stream.write_all(TEXT).expect("it takes the text");
        stream.shutdown(Shutdown::Write).expect("it is connected");
    };
    if first == First::Ours {
        stream.read_to_end(&mut text).expect("it ends in order");
        say(&mut stream);
    } else {
        say(&mut stream);
        stream.read_to_end(&mut text).expect("it ends in order");
    }
    text
}

#[test]
fn either_half_may_close_first_and_the_other_still_carries_everything() {
    in_own_network("half-closes", || {
        add_tap("bw0", LINUX);
        let mut ours = Ours::open();
        ours.listen(7000);
        let listener = TcpListener::bind(SocketAddrV4::new(LINUX, 7001)).unwrap();
        for first in [First::Ours, First::Linux, First::Both] {
            for we_open in [false, true] {
                let to = SocketAddrV4::new(LINUX, 7001);
                let opened = we_open.then(|| ours.act(|cx| cx.tcp_connect(Lane::Express, to, &options())).unwrap());
                let (received, sent) = thread::scope(|scope| {
                    let linux = scope.spawn(|| {
                        let accepted = || with_limit(listener.accept().unwrap().0);
                        talk_as_linux(if we_open { accepted() } else { connect(7000) }, first)
                    });
                    let received = talk(&mut ours, opened, first, || linux.is_finished());
                    (received, linux.join().unwrap())
                });
                assert!(received == TEXT && sent == TEXT, "{first:?}, we open: {we_open}");
            }
        }
    });
}

/// A minimal responder: whatever is asked for, it is `body`. Returns the handler.
fn responder(body: &[u8]) -> impl FnMut(&mut Cx, Event<'_>) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let answer = [head.as_bytes(), body].concat();
    let mut under_way: HashMap<TcpId, (Vec<u8>, usize)> = HashMap::new();
    move |cx, event| {
        let Event::Tcp(id) = event else { return };
        let (request, sent) = under_way.entry(id).or_default();
        take(cx, id, request);
        while request.ends_with(b"\r\n\r\n") && *sent < answer.len() {
            // Acknowledgements make room.
            let Ok(taken @ 1..) = cx.tcp_send(id, &answer[*sent..]) else { break };
            *sent += taken;
        }
        if *sent == answer.len() || cx.tcp_state(id) == TcpState::Closed {
            cx.tcp_release(id);
            under_way.remove(&id);
        }
    }
}

fn body() -> Vec<u8> {
    (0..4 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn curl_downloads_from_us() {
    in_own_network("curl from our responder", || {
        if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
            return skip("curl from our responder", "curl is not installed");
        }
        add_tap("bw0", LINUX);
        let mut ours = Ours::open();
        ours.listen(80);
        let body = body();
        let outputs = ours.beside(responder(&body), || {
            let url = format!("http://{OURS}/orders");
            let curl = || Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "60", &url]).output();
            [(); 5].map(|()| curl().unwrap())
        });
        for output in outputs {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == body, "{} bytes", output.stdout.len());
        }
    });
}

#[test]
fn we_download_from_nginx() {
    in_own_network("our client from nginx", || {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let paths =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {at}/{what};"));
        let config = format!(
            "daemon off; master_process off; user root; pid {at}/pid; error_log stderr; events {{}}
             http {{ access_log off; {} server {{ listen {LINUX}:80; root {at}; }} }}",
            paths.concat()
        );
        let body = body();
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        std::fs::write(folder.path().join("orders"), &body).unwrap();
        add_tap("bw0", LINUX);
        let mut nginx = Command::new("nginx");
        nginx.args(["-e", "stderr", "-c"]).arg(folder.path().join("nginx.conf"));
        let Ok(_nginx) = Running::spawn(&mut nginx) else {
            return skip("our client from nginx", "nginx is not installed");
        };
        // Linux reaches its own addresses over the loopback interface.
        super::linux::ip("link set lo up");
        let server = SocketAddrV4::new(LINUX, 80);
        eventually("nginx", || TcpStream::connect(server).ok());
        let mut ours = Ours::open();
        let id = ours.act(|cx| cx.tcp_connect(Lane::Express, server, &options())).unwrap();
        let (mut text, mut asked, start) = (Vec::new(), false, Instant::now());
        let mut state = TcpState::SynSent;
        while !matches!(state, TcpState::CloseWait | TcpState::Closed) {
            assert!(start.elapsed() < LIMIT, "{state:?}, {} bytes", text.len());
            ours.poll(|_, _| {});
            state = ours.act(|cx| {
                if cx.tcp_state(id) == TcpState::Established && !asked {
                    let request = b"GET /orders HTTP/1.0\r\n\r\n";
                    assert_eq!(cx.tcp_send(id, request), Ok(request.len()));
                    asked = true;
                }
                let state = cx.tcp_state(id);
                take(cx, id, &mut text);
                state
            });
        }
        let head = text.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        assert!(text.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&text[..head]));
        assert!(text[head..] == body, "{} bytes", text.len() - head);
    });
}

#[test]
fn socat_is_source_and_sink() {
    in_own_network("socat both ways", || {
        if Command::new("socat").arg("-V").stdout(Stdio::null()).status().is_err() {
            return skip("socat both ways", "socat is not installed");
        }
        add_tap("bw0", LINUX);
        let socat = |from: &str, to: &str, input: &[u8]| {
            let mut socat = Command::new("socat")
                .args(["-u", from, to])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // It may have ended with an error, which is seen below.
            let _ = socat.stdin.take().unwrap().write_all(input);
            let output = socat.wait_with_output().unwrap();
            assert!(output.status.success());
            output.stdout
        };
        let (body, tcp) = (body(), format!("TCP4:{OURS}:7000,retry=200,interval=0.1"));
        let (ran, _) = opposite("listen", "7000 --role sink --idle yield", || socat("STDIN", &tcp, &body));
        assert_eq!(report(&ran)["sha256_received"], hex(Sha256::new_with_prefix(&body)));
        let source = format!("7000 --role source --bytes {} --idle yield", body.len());
        let (ran, sunk) = opposite("listen", &source, || socat(&tcp, "STDOUT", b""));
        assert_eq!(report(&ran)["sha256_sent"], hex(Sha256::new_with_prefix(&sunk)));
        assert_eq!(sunk.len(), body.len());
    });
}
