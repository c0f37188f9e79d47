//! vfio-user: our drivers on models in another process, and clients that do everything wrong.
#![forbid(unsafe_code)]

mod commands;
mod linux;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use barewire_driver::bus::vfio_user::VfioUserBus;
use barewire_driver::bus::vfio_user::protocol::{
    Errno, HEADER, IrqAction, IrqData, Place, Request, SetIrqs, VERSION, irq,
};
use barewire_driver::bus::vfio_user::socket::Stream;
use barewire_driver::bus::{Bus, Width, config};
use barewire_driver::clock::{Clock, SimulatedClock};
use barewire_driver::dma::Region;
use barewire_driver::ixgbe::{Config, Ixgbe, Rx, Tx};
use barewire_driver::{Link, Port, QueuePair, RxQueue, TxMeta, TxQueue};
use barewire_models::Ixgbe82599;
use barewire_models::vfio_user::{Server, ServerStats};
use barewire_netstack::{Event, Lane, Stack, TcpId, TcpOptions, TcpState};
use barewire_tests::models::{LIMIT, Models, eventually};
use barewire_tests::program::{Running, barewire};
use barewire_tests::rig::{frame, mac};
use barewire_tests::skip;
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

const SMALL: Config = Config {
    queues: 1,
    rx_descriptors: 256,
    tx_descriptors: 256,
    kept_frames: 8,
    retained_frames: 64,
    max_frame: 1522,
};
barewire_tests::rows! {
    "82599 model":
    drivers_in_one_process_work_on_models_in_another
    interrupt_wakes_across_processes
    tcp_runs_both_ways_between_two_stacks_on_models_elsewhere
    server_that_dies_is_named_and_hangs_nothing
    server_that_dies_in_a_transfer_ends_both_programs_with_its_socket_named
    socket_that_nobody_listens_on_is_named_with_the_command_that_mends_it
    signal_ends_the_program_in_order_and_the_capture_is_whole
    second_server_at_one_path_is_refused_and_a_stale_socket_replaced
    wire_leads_from_process_to_process
    wire_leads_to_the_kernel
    mappings_of_a_booting_firmware_are_taken_and_wild_ones_refused
    interrupts_are_set_triggered_masked_and_refused
    regions_are_read_in_any_width_and_not_beyond_their_end
    client_may_die_at_any_byte
    oversized_message_ends_the_connection_and_no_other
    mutated_session_never_stops_the_server
    any_bytes_never_stop_the_server
}

/// A port with its queue pair, on a model elsewhere.
struct Station {
    port: Ixgbe,
    queue: QueuePair<Rx, Tx>,
}

impl Station {
    fn open(bus: Arc<dyn Bus>) -> Self {
        let mut port = Ixgbe::open(bus, SMALL).unwrap();
        let queue = port.open_queue(0).unwrap();
        Self { port, queue }
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut buffer = self.queue.tx.reserve().unwrap();
        buffer[..bytes.len()].copy_from_slice(bytes);
        let meta = TxMeta { len: bytes.len() as u16, ..TxMeta::default() };
        assert!(self.queue.tx.commit(buffer, meta).is_ok());
        self.queue.tx.flush();
    }

    /// Waits for a frame.
    fn receive(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let rx = &mut self.queue.rx;
        eventually("a frame", || rx.poll(1, |frame| bytes.extend_from_slice(frame.bytes())).unwrap() == 1);
        bytes
    }
}

/// Sends `count` frames each way and looks at every byte.
fn exchange(near: &mut Station, far: &mut Station, count: u32) {
    for number in 0..count {
        let payload: Vec<u8> = (0..46 + number % 1400).map(|n| (n + number) as u8).collect();
        for swap in [false, true] {
            let (from, to) = if swap { (&mut *far, &mut *near) } else { (&mut *near, &mut *far) };
            let sent = frame(to.port.mac(), from.port.mac(), &payload);
            from.send(&sent);
            assert_eq!(to.receive(), sent);
        }
    }
}

fn drivers_in_one_process_work_on_models_in_another() {
    let models = Models::start(&["a", "b"], &[]);
    let (mut near, mut far) = (Station::open(models.bus("a")), Station::open(models.bus("b")));
    assert_ne!(near.port.mac(), far.port.mac());
    assert_eq!(near.port.link().unwrap(), Link::Up { speed_mbps: 10_000 });
    exchange(&mut near, &mut far, 500);
    let (sent, received) = (near.port.stats(), far.port.stats());
    assert_eq!((sent.tx_frames, sent.rx_frames, received.rx_frames), (500, 500, 500));
    near.port.close_queue(near.queue).unwrap();
    near.port.reset().unwrap();
}

fn interrupt_wakes_across_processes() {
    let models = Models::start(&["a", "b"], &[]);
    let (mut near, mut far) = (Station::open(models.bus("a")), Station::open(models.bus("b")));
    let interrupt = far.port.interrupt(0).unwrap();
    assert!(!interrupt.wait(Duration::ZERO).unwrap());
    for _ in 0..20 {
        far.queue.rx.arm_interrupt();
        near.send(&frame(far.port.mac(), near.port.mac(), &[1; 46]));
        assert!(interrupt.wait(LIMIT).unwrap());
        far.receive();
    }
}

/// A stack on a model elsewhere, and what a connection of it has received.
struct Side {
    _port: Ixgbe,
    stack: Stack<Rx, Tx>,
    connection: Option<TcpId>,
    received: Vec<u8>,
}

impl Side {
    fn open(bus: Arc<dyn Bus>, ip: [u8; 4]) -> Self {
        let mut port = Ixgbe::open(bus, SMALL).unwrap();
        let queue = port.open_queue(0).unwrap();
        let config = barewire_netstack::Config::new(port.mac(), ip.into(), 24, ip[3].into());
        Self { _port: port, stack: Stack::new(queue, config), connection: None, received: Vec::new() }
    }

    fn poll(&mut self, now: u64) {
        let Self { received, connection, .. } = self;
        let poll = self.stack.poll(now, |cx, event| {
            if let Event::Tcp(id) = event {
                *connection = Some(id);
                let take = |bytes: &[u8]| {
                    received.extend_from_slice(bytes);
                    bytes.len()
                };
                // Refused once the connection is closing: nothing is there then.
                let _ = cx.tcp_receive(id, take);
            }
        });
        poll.unwrap();
    }

    /// Queues as much of `bytes` as there is room for.
    fn send(&mut self, now: u64, bytes: &mut &[u8]) {
        let Some(id) = self.connection.filter(|_| !bytes.is_empty()) else { return };
        let cx = self.stack.context(now);
        if let Ok(sent) = cx.tcp_send(id, bytes) {
            *bytes = &bytes[sent..];
        }
        cx.flush();
    }
}

fn tcp_runs_both_ways_between_two_stacks_on_models_elsewhere() {
    let models = Models::start(&["a", "b"], &[]);
    let mut near = Side::open(models.bus("a"), [10, 0, 0, 1]);
    let mut far = Side::open(models.bus("b"), [10, 0, 0, 2]);
    let clock = Clock::calibrated();
    far.stack.context(clock.now()).tcp_listen(Lane::Host, 7, &TcpOptions::default()).unwrap();
    let far_address = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7);
    let cx = near.stack.context(clock.now());
    let opened = cx.tcp_connect(Lane::Host, far_address, &TcpOptions::default()).unwrap();
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(n) / 251) as u8).collect();
    let (mut to_far, mut to_near) = (&data[..], &data[..]);
    eventually("the transfer", || {
        let now = clock.now();
        near.poll(now);
        far.poll(now);
        if near.stack.context(now).tcp_state(opened) == TcpState::Established {
            near.send(now, &mut to_far);
            far.send(now, &mut to_near);
        }
        near.received.len() >= data.len() && far.received.len() >= data.len()
    });
    assert!(near.received == data && far.received == data);
}

fn server_that_dies_is_named_and_hangs_nothing() {
    let mut models = Models::start(&["a", "b"], &[]);
    let path = models.path("a").display().to_string();
    let mut near = Station::open(models.bus("a"));
    models.process.kill();
    let start = Instant::now();
    let error = near.port.service(0, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains(&path), "{error}");
    near.send(&frame(mac(9), mac(1), &[0; 46]));
    assert_eq!(near.queue.rx.poll(1, |_| {}).unwrap(), 0);
    assert!(near.port.link().is_err());
    drop(near);
    let error = VfioUserBus::connect(&models.path("a")).err().unwrap().to_string();
    assert!(error.contains(&path) && error.contains("barewire model"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// The line on which a command says why it failed: the last one. Warnings of the log may stand before it.
fn complaint(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().last().unwrap_or_default().to_owned()
}

fn server_that_dies_in_a_transfer_ends_both_programs_with_its_socket_named() {
    const FLOWING: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("wire.pcap");
    let mut models = Models::start_in(folder, &["a", "b"], &[format!("pcap:{}", capture.display())]);
    let start = |socket: &str, args: &str| {
        let port = format!("vfio-user:{}", models.path(socket).display());
        let mut command = Command::new(barewire());
        command.args(args.split(' ')).args(["--port", &port, "--idle", "pause"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("barewire starts")
    };
    let listener = start("b", "listen 7000 --ip 10.0.0.2/24 --role source --bytes 1000000000000");
    // Until it listens, the other one's connection is refused: it tries again.
    let mut sink = start("a", "connect 10.0.0.2:7000 --ip 10.0.0.1/24 --role sink");
    eventually("a transfer", || {
        if sink.try_wait().expect("our child").is_some() {
            sink = start("a", "connect 10.0.0.2:7000 --ip 10.0.0.1/24 --role sink");
        }
        std::fs::metadata(&capture).is_ok_and(|capture| capture.len() > FLOWING)
    });
    models.process.kill();
    for (child, socket) in [(listener, "b"), (sink, "a")] {
        let killed = Instant::now();
        let output = child.wait_with_output().expect("it ends");
        assert!(killed.elapsed() < LIMIT, "{:?}", killed.elapsed());
        let said = complaint(&output);
        // Whoever notices it first: a message that has no answer, or a register that reads all ones.
        let named = said.starts_with(&format!("barewire: vfio-user:{}: ", models.path(socket).display()));
        let told =
            said.ends_with("start the server again and open the port anew") || said.contains("the device is gone");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(named && told, "{said}");
    }
}

fn socket_that_nobody_listens_on_is_named_with_the_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for path in [folder.path().join("absent"), stale] {
        let port = format!("vfio-user:{}", path.display());
        let output = Command::new(barewire()).args(["ping", "--ip", "10.0.0.1/24", "--port", &port]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let remedy =
            format!("start a server there first, such as `barewire model 82599 --socket {}`\n", path.display());
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.starts_with(&format!("barewire: {port}: ")) && said.ends_with(&remedy), "{said}");
    }
}

fn signal_ends_the_program_in_order_and_the_capture_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("wire.pcap");
    let mut models = Models::start_in(folder, &["a", "b"], &[format!("pcap:{}", capture.display())]);
    let (mut near, mut far) = (Station::open(models.bus("a")), Station::open(models.bus("b")));
    exchange(&mut near, &mut far, 10);
    assert_eq!(models.process.terminate(LIMIT), Some(0));
    assert!(!models.path("a").exists() && !models.path("b").exists());
    let mut frames = 0;
    barewire_models::pcap::read(&capture, |_| frames += 1).unwrap();
    assert_eq!(frames, 20);
}

fn second_server_at_one_path_is_refused_and_a_stale_socket_replaced() {
    let mut models = Models::start(&["a"], &[]);
    let path = models.path("a").display().to_string();
    let _client = models.bus("a");
    let mut second = Running::start(&["model", "82599", "--socket", &path]);
    assert_eq!(second.wait(LIMIT), Some(2));
    models.process.kill();
    assert!(models.path("a").exists(), "killed, it leaves its socket behind");
    let models = Models::start_in(models.folder, &["a"], &[]);
    Station::open(models.bus("a"));
}

fn wire_leads_from_process_to_process() {
    let folder = tempfile::tempdir().unwrap();
    let wire = [format!("unix:{}", folder.path().join("wire").display())];
    let (one, two) = (Models::start(&["a"], &wire), Models::start(&["b"], &wire));
    let (mut near, mut far) = (Station::open(one.bus("a")), Station::open(two.bus("b")));
    // The two find each other when both are up; frames before that are lost, as on a cable that is not plugged in.
    let hello = frame(far.port.mac(), near.port.mac(), &[0; 46]);
    eventually("the wires meeting", || {
        near.send(&hello);
        std::thread::sleep(Duration::from_millis(10));
        far.queue.rx.poll(u32::MAX, |_| {}).unwrap() > 0
    });
    std::thread::sleep(Duration::from_millis(50));
    far.queue.rx.poll(u32::MAX, |_| {}).unwrap();
    exchange(&mut near, &mut far, 200);
    // The other process goes and comes back: the wire meets again.
    drop((far, two));
    let two = Models::start(&["b"], &wire);
    let mut far = Station::open(two.bus("b"));
    let hello = frame(near.port.mac(), far.port.mac(), &[0; 46]);
    eventually("the wires meeting again", || {
        far.send(&hello);
        std::thread::sleep(Duration::from_millis(10));
        near.queue.rx.poll(u32::MAX, |_| {}).unwrap() > 0
    });
}

fn wire_leads_to_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("a");
    // A network of its own, in which anybody may make interfaces; the kernel's TCP against ours.
    let script = r#"
        "$1" model 82599 --socket "$2" --wire tap:bwtap0 & model=$!
        trap 'kill $model; wait $model' EXIT
        for i in $(seq 200); do ip link show bwtap0 >/dev/null 2>&1 && break; sleep 0.05; done
        ip link set bwtap0 up && ip address add 10.9.0.1/24 dev bwtap0 || exit 3
        exec 3<>/dev/tcp/10.9.0.2/7 || exit 4
        for i in $(seq 100); do
            echo "line $i" >&3 && read -t 10 line <&3 && [ "$line" = "line $i" ] || exit 5
        done
    "#;
    let quiet = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let may = quiet("unshare", &["-rn", "ip", "tuntap", "add", "bwtap0", "mode", "tap"]);
    if !may || !quiet("bash", &["-c", "true"]) {
        return skip("a wire on a TAP interface", "no bash or ip, or user namespaces or /dev/net/tun are closed");
    }
    let mut command = Command::new("unshare");
    command.args(["-rn", "bash", "-c", script, "bash"]).arg(barewire()).arg(&socket);
    let mut guest = Running::spawn(&mut command).unwrap();
    let mut bus = None;
    eventually("the model", || {
        bus = VfioUserBus::connect(&socket).ok();
        bus.is_some()
    });
    let mut side = Side::open(Arc::new(bus.unwrap()), [10, 9, 0, 2]);
    let clock = Clock::calibrated();
    side.stack.context(clock.now()).tcp_listen(Lane::Host, 7, &TcpOptions::default()).unwrap();
    let mut status = None;
    eventually("the end of the echoes", || {
        let now = clock.now();
        side.poll(now);
        let line = std::mem::take(&mut side.received);
        side.send(now, &mut &line[..]);
        status = guest.wait(Duration::from_micros(1)).or(status);
        status.is_some()
    });
    assert_eq!(status, Some(0));
}

/// A server in this process.
struct Local {
    _folder: tempfile::TempDir,
    path: PathBuf,
    server: Arc<Server>,
    stop: OwnedFd,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Local {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let model = Ixgbe82599::new(mac(1), Clock::Simulated(SimulatedClock::default()));
        let server = Arc::new(Server::bind(&path, model, stop.try_clone().unwrap()).unwrap());
        let thread = std::thread::spawn({
            let server = Arc::clone(&server);
            move || server.run()
        });
        Self { _folder: folder, path, server, stop, thread: Some(thread) }
    }

    fn stats(&self) -> ServerStats {
        self.server.stats()
    }

    /// The device still answers a client that behaves.
    fn assert_alive(&self) {
        let bus = VfioUserBus::connect(&self.path).unwrap();
        assert_eq!(bus.config_read(config::VENDOR_ID, Width::Dword).unwrap(), 0x10FB_8086);
        assert_eq!(bus.bar(0).unwrap().read32(0x8), 1 << 19, "STATUS, as after a reset");
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).unwrap();
        self.thread.take().unwrap().join().expect("the server never panics");
    }
}

/// A client that says what it likes.
struct Client {
    stream: Stream,
    payload: Vec<u8>,
}

impl Client {
    fn connect(local: &Local) -> Self {
        let stream = Stream::new(UnixStream::connect(&local.path).unwrap(), None);
        let mut client = Self { stream, payload: Vec::new() };
        client.ask(&Request::Version { version: VERSION }, &[]).unwrap();
        client
    }

    fn ask(&mut self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.stream.send(&request.write(1, false), fds, LIMIT).unwrap();
        let answer = self.stream.receive(&mut self.payload, Some(LIMIT), LIMIT).unwrap();
        answer.header.error().map_or(Ok(()), Err)
    }
}

fn map(iova: u64, size: u64, writable: bool) -> Request<'static> {
    Request::DmaMap { writable, offset: 0, iova, size }
}

fn unmap(iova: u64, size: u64) -> Request<'static> {
    Request::DmaUnmap { all: false, iova, size }
}

fn mappings_of_a_booting_firmware_are_taken_and_wild_ones_refused() {
    let local = Local::start();
    let mut client = Client::connect(&local);
    let region = Region::allocate("guest", 2 << 20).unwrap();
    let fds = [region.fd()];
    for _ in 0..200 {
        client.ask(&map(0, 0xC3000, true), &fds).unwrap();
        client.ask(&map(0xC3000, 0x15000, false), &fds).unwrap();
        client.ask(&map(0xD8001, 0x7777, true), &fds).unwrap();
        client.ask(&map(0xFFFC_0000, 0x40000, false), &[]).unwrap();
        for (iova, size, with) in [
            (0, 1, true),
            (0xC2FFF, 2, true),
            (0xFFFF_0000, 0x1000, true),
            (0xFFFB_F000, 0x2000, false),
            (u64::MAX, 2, true),
            (1 << 40, u64::MAX - (1 << 40), true),
            (1 << 40, 4 << 20, true),
        ] {
            assert!(client.ask(&map(iova, size, true), if with { &fds } else { &[] }).is_err(), "{iova:#x} {size:#x}");
        }
        assert!(client.ask(&unmap(0, 0xC2000), &[]).is_err(), "half a mapping");
        assert!(client.ask(&unmap(1 << 41, 0x1000), &[]).is_err(), "nothing there");
        client.ask(&unmap(0, 0xC3000 + 0x15000), &[]).unwrap();
        client.ask(&Request::DmaUnmap { all: true, iova: 0, size: 0 }, &[]).unwrap();
    }
    // Memory that its owner could cut short.
    let loose = rustix::fs::memfd_create("loose", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&loose, 4096).unwrap();
    assert!(client.ask(&map(0, 4096, true), &[loose.as_fd()]).is_err());
    assert!(local.stats().refused > 200);
    local_next(local, client);
}

/// The client goes; the next one finds a fresh device.
fn local_next(local: Local, client: Client) {
    drop(client);
    local.assert_alive();
}

fn interrupts_are_set_triggered_masked_and_refused() {
    let local = Local::start();
    let mut client = Client::connect(&local);
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let fired = || rustix::io::read(&event, &mut [0u8; 8]).is_ok();
    fn set(index: u32, start: u32, count: u32, action: IrqAction, data: IrqData<'_>) -> Request<'_> {
        Request::SetIrqs(SetIrqs { index, start, count, action, data })
    }
    let eventfds = |index, start, count| set(index, start, count, IrqAction::Trigger, IrqData::EventFd);
    for (index, number) in [(irq::MSIX, 63), (irq::MSI, 0), (irq::INTX, 0)] {
        client.ask(&eventfds(index, number, 1), &[event.as_fd()]).unwrap();
        for (byte, expected) in [(0, false), (1, true)] {
            client.ask(&set(index, number, 1, IrqAction::Trigger, IrqData::Bool(&[byte])), &[]).unwrap();
            assert_eq!(fired(), expected, "index {index}");
        }
        client.ask(&set(index, number, 1, IrqAction::Trigger, IrqData::None), &[]).unwrap();
        assert!(fired());
        client.ask(&set(index, 0, 0, IrqAction::Trigger, IrqData::None), &[]).unwrap();
        client.ask(&set(index, number, 1, IrqAction::Trigger, IrqData::None), &[]).unwrap();
        assert!(!fired(), "index {index} was turned off");
    }
    // The device itself: EICS sets a cause that EIMS lets through; the line holds until it is unmasked.
    let write = |client: &mut Client, offset: u64, value: u32| {
        let place = Place { offset, region: 0, count: 4 };
        client.ask(&Request::RegionWrite { place, data: &value.to_le_bytes() }, &[]).unwrap();
    };
    client.ask(&eventfds(irq::INTX, 0, 1), &[event.as_fd()]).unwrap();
    write(&mut client, 0x880, 1 << 20);
    write(&mut client, 0x808, 1 << 20);
    assert!(fired());
    let unmask = set(irq::INTX, 0, 1, IrqAction::Unmask, IrqData::None);
    client.ask(&unmask, &[]).unwrap();
    assert!(fired(), "the cause is still there");
    write(&mut client, 0x800, 1 << 20);
    client.ask(&unmask, &[]).unwrap();
    assert!(!fired());
    for bad in [
        eventfds(irq::MSIX, 64, 1),
        eventfds(irq::MSIX, 0, 65),
        eventfds(irq::INTX, 0, 2),
        eventfds(4, 0, 1),
        eventfds(9, 0, 0),
        set(irq::MSIX, 0, 1, IrqAction::Mask, IrqData::None),
    ] {
        assert!(client.ask(&bad, &[event.as_fd()]).is_err(), "{bad:?}");
    }
    assert!(client.ask(&eventfds(irq::MSIX, 0, 3), &[event.as_fd()]).is_err(), "one descriptor for three");
}

fn regions_are_read_in_any_width_and_not_beyond_their_end() {
    let local = Local::start();
    let mut client = Client::connect(&local);
    let read = |client: &mut Client, region, offset, count| {
        client.ask(&Request::RegionRead { place: Place { offset, region, count } }, &[])?;
        Ok::<_, Errno>(client.payload[16..].to_vec())
    };
    assert_eq!(read(&mut client, 7, 0, 4), Ok(vec![0x86, 0x80, 0xFB, 0x10]));
    assert_eq!(read(&mut client, 7, 1, 3), Ok(vec![0x80, 0xFB, 0x10]));
    assert_eq!(read(&mut client, 7, 0, 4096).unwrap().len(), 4096);
    assert_eq!(read(&mut client, 0, 0x5400, 6), Ok(mac(1).0.to_vec()));
    for (region, offset, count) in [(7, 4095, 2), (0, 512 << 10, 1), (1, 0, 4), (8, 0, 1), (0, u64::MAX, 4), (99, 0, 4)]
    {
        assert!(read(&mut client, region, offset, count).is_err(), "{region} {offset:#x} {count}");
    }
    // Eight bytes are two registers.
    let place = Place { offset: 0x1000, region: 0, count: 8 };
    let data = 0x0123_4567_89AB_CD80u64.to_le_bytes();
    client.ask(&Request::RegionWrite { place, data: &data }, &[]).unwrap();
    assert_eq!(read(&mut client, 0, 0x1000, 8), Ok(data.to_vec()));
}

/// What a driver says, message by message.
fn session() -> Vec<Vec<u8>> {
    let place = Place { offset: 0x1000, region: 0, count: 8 };
    let irqs = |index, data| Request::SetIrqs(SetIrqs { index, start: 0, count: 1, action: IrqAction::Trigger, data });
    [
        Request::Version { version: VERSION },
        Request::DeviceInfo,
        Request::RegionInfo { index: 0 },
        Request::IrqInfo { index: 2 },
        map(0x1000, 0x1000, true),
        Request::RegionWrite { place, data: &[0; 8] },
        Request::RegionRead { place },
        irqs(irq::MSIX, IrqData::EventFd),
        irqs(irq::INTX, IrqData::Bool(&[1])),
        unmap(0x1000, 0x1000),
        Request::Reset,
    ]
    .iter()
    .map(|request| request.write(7, false))
    .collect()
}

fn client_may_die_at_any_byte() {
    let local = Local::start();
    let bytes = session().concat();
    for end in 0..=bytes.len() {
        let mut client = UnixStream::connect(&local.path).unwrap();
        client.write_all(&bytes[..end]).unwrap();
        drop(client);
    }
    local.assert_alive();
    assert_eq!(local.stats().clients, bytes.len() as u64 + 2);
}

fn oversized_message_ends_the_connection_and_no_other() {
    let local = Local::start();
    for size in [0u32, 15, 2 << 20, u32::MAX] {
        let mut message = session().swap_remove(0);
        message[4..8].copy_from_slice(&size.to_le_bytes());
        let mut client = UnixStream::connect(&local.path).unwrap();
        client.write_all(&message).unwrap();
        let stream = Stream::new(client, None);
        assert!(stream.receive(&mut Vec::new(), Some(LIMIT), LIMIT).is_err(), "{size}");
    }
    local.assert_alive();
    assert_eq!(local.stats().broken, 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// A driver's session with bytes changed, messages repeated, left out and reordered, descriptors where none belong.
    fn mutated_session_never_stops_the_server(
        order in prop::collection::vec(0usize..11, 1..40),
        edits in prop::collection::vec((0usize..40, 0usize..64, any::<u8>()), 0..20),
        keep_framing: bool,
        with_fd in any::<u64>(),
    ) {
        thread_local!(static LOCAL: Local = Local::start());
        let region = Region::allocate("guest", 8192).unwrap();
        let recorded = session();
        let mut messages: Vec<_> = order.iter().map(|&n| recorded[n].clone()).collect();
        messages.insert(0, recorded[0].clone());
        for (message, at, value) in edits {
            if let Some(message) = messages.get_mut(message)
                && let Some(byte) = message.get_mut(at)
                // With the sizes kept, what is changed is read as a message, not as the end of all sense.
                && !(keep_framing && at < HEADER && at != 2)
            {
                *byte = value;
            }
        }
        LOCAL.with(|local| {
            let stream = Stream::new(UnixStream::connect(&local.path).unwrap(), None);
            for (n, message) in messages.iter().enumerate() {
                let fds = [region.fd()];
                let fds = if with_fd >> (n % 64) & 1 != 0 { &fds[..] } else { &[] };
                // The server may have closed the connection, which it may.
                if stream.send(message, fds, LIMIT).is_err() {
                    break;
                }
            }
            drop(stream);
            local.assert_alive();
        });
    }

    /// What is no session at all.
    fn any_bytes_never_stop_the_server(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        thread_local!(static LOCAL: Local = Local::start());
        LOCAL.with(|local| {
            let mut client = UnixStream::connect(&local.path).unwrap();
            // It may be closed by now.
            let _ = client.write_all(&bytes);
            drop(client);
            local.assert_alive();
        });
    }
}
