//! A client of the vfio-user server that does everything wrong: it maps wildly, sends what is no message or too large, goes at any byte, and
//! programs the device to reach memory that was never shared. The server must serve the next client as if nothing had been, and memory that
//! was not shared for writing must be as it was.
#![no_main]
#![forbid(unsafe_code)]

use std::io::Read;
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock, Weak};
use std::thread;
use std::time::Duration;

use barewire_driver::MacAddress;
use barewire_driver::bus::config;
use barewire_driver::bus::vfio_user::protocol::{CONFIG_REGION, IrqAction, IrqData, Place, Request, SetIrqs, VERSION};
use barewire_driver::bus::vfio_user::socket::Stream;
use barewire_driver::clock::{Clock, SimulatedClock};
use barewire_driver::dma::Region;
use barewire_fuzz::Bytes;
use barewire_models::vfio_user::Server;
use barewire_models::{Fcs, Ixgbe82599, Mac, Medium, PortId};
use libfuzzer_sys::fuzz_target;

const PAGE: u64 = 4096;
/// The client's memory, of which it shares what it likes.
const PAGES: usize = 8;
/// Messages that fit into a socket which nobody reads yet, whose buffers are counted with what the kernel adds to each.
const MOST_MESSAGES: usize = 128;
/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(5);

/// What the device is told of memory.
trait Addresses {
    fn iova(&mut self) -> u64;
    fn descriptor(&mut self) -> [u64; 2];
}

impl Addresses for Bytes<'_> {
    /// Where the device sees memory: mostly on or around a page that may be mapped, or anywhere.
    fn iova(&mut self) -> u64 {
        let choice = self.byte();
        let page = u64::from(choice % 16) * PAGE;
        match choice >> 4 {
            0..12 => page,
            12..15 => page.wrapping_add_signed(i64::from(self.byte() as i8) * 8),
            _ => self.u64(),
        }
    }

    /// A descriptor of either ring: an address, and a frame to send from there, reported when done (82599 datasheet 7.2.3.2.4), or anything.
    fn descriptor(&mut self) -> [u64; 2] {
        const DATA: u64 = 3 << 20;
        const COMMANDS: u64 = 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29;
        let (buffer, choice) = (self.iova(), self.byte());
        let len = u64::from(choice) * 16 + 60;
        [buffer, if choice == 0xFF { self.u64() } else { len | len << 46 | DATA | COMMANDS }]
    }
}

/// What the device sends, it receives.
struct Loopback(Weak<Ixgbe82599>);

impl Medium for Loopback {
    fn transmit(&self, _: PortId, frame: &[u8]) {
        if let Some(model) = self.0.upgrade() {
            model.receive(frame, Fcs::Good);
        }
    }
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let model = Ixgbe82599::new(MacAddress([2, 0, 0, 0, 0, 1]), Clock::Simulated(SimulatedClock::default()));
    model.connect(Arc::new(Loopback(Arc::downgrade(&model))), PortId(0));
    let path = std::env::temp_dir().join(format!("barewire-fuzz-{}", std::process::id()));
    // Nobody is to end a wait; the other end of the pair must stay open for that.
    let (stop, open) = UnixStream::pair().expect("a pair of sockets");
    std::mem::forget(open);
    Server::bind(&path, model, stop.into()).expect("a socket in the folder for temporary files")
});

/// A message, and what it lets the server do with the client's memory.
struct Message {
    bytes: Vec<u8>,
    descriptors: usize,
    shares: Shares,
}

#[derive(Clone)]
enum Shares {
    Nothing,
    /// It may write to these pages.
    Pages(Range<usize>),
    /// Nobody knows.
    Unknown,
}

impl Message {
    fn plain(request: &Request<'_>, posted: bool) -> Self {
        Self { bytes: request.write(1, posted), descriptors: 0, shares: Shares::Nothing }
    }

    fn write(region: u32, offset: u64, data: &[u8], posted: bool) -> Self {
        let place = Place { offset, region, count: data.len() as u32 };
        Self::plain(&Request::RegionWrite { place, data }, posted)
    }
}

/// Shares pages of the memory, or says so and brings none.
fn map(bytes: &mut Bytes<'_>, writable: bool, with_file: bool) -> Message {
    let from = usize::from(bytes.byte()) % PAGES;
    let pages = from..PAGES.min(from + 1 + usize::from(bytes.byte()) % PAGES);
    let (offset, size) = (from as u64 * PAGE, pages.len() as u64 * PAGE);
    let request = Request::DmaMap { writable, offset, iova: bytes.iova(), size };
    let shares = if writable && with_file { Shares::Pages(pages) } else { Shares::Nothing };
    Message { bytes: request.write(1, bytes.flag()), descriptors: with_file.into(), shares }
}

/// Opens the queue whose registers begin at `block` on a ring, after `before` was written, and writes its tail.
fn open_queue(bytes: &mut Bytes<'_>, block: u32, before: &[(u32, u32)]) -> Vec<Message> {
    let (ring, size, tail, posted) = (bytes.iova(), bytes.byte(), bytes.byte(), bytes.flag());
    // RDBAL or TDBAL, the high half, the length, control with ENABLE, and the tail (8.2.3.8, 8.2.3.9).
    let queue = [
        (block, ring as u32 & !0x7F),
        (block + 4, (ring >> 32) as u32),
        (block + 8, (1 + u32::from(size % 8)) * 128),
        (block + 0x28, 1 << 25),
        (block + 0x18, tail.into()),
    ];
    let register = |(offset, value): &(u32, u32)| Message::write(0, (*offset).into(), &value.to_le_bytes(), posted);
    let command = (config::COMMAND_MEMORY | config::COMMAND_BUS_MASTER) as u16;
    let master = Message::write(CONFIG_REGION, config::COMMAND.into(), &command.to_le_bytes(), posted);
    std::iter::once(master).chain(before.iter().chain(&queue).map(register)).collect()
}

/// What the client says next.
fn say(bytes: &mut Bytes<'_>) -> Vec<Message> {
    let choice = bytes.byte() % 24;
    let plain = |request: Request<'_>| vec![Message::plain(&request, choice % 2 == 1)];
    match choice {
        0..3 => vec![map(bytes, true, true)],
        3..5 => vec![map(bytes, false, true)],
        5 => vec![map(bytes, true, false)],
        // DMATXCTL.TE, and where the head is written back to (8.2.3.9.11).
        6..9 => {
            let head = if bytes.flag() { bytes.iova() & !3 | 1 } else { 0 };
            open_queue(bytes, 0x6000, &[(0x4A80, 1), (0x6038, head as u32), (0x603C, (head >> 32) as u32)])
        }
        // Every frame is received (FCTRL), into buffers of any size (SRRCTL).
        9..12 => {
            let control = if bytes.flag() { bytes.u32() } else { 1 << 25 | 2 };
            open_queue(bytes, 0x1000, &[(0x1014, control), (0x5080, 0x700), (0x3000, 1)])
        }
        12 => plain(Request::DmaUnmap { all: bytes.flag(), iova: bytes.iova(), size: u64::from(bytes.byte()) * PAGE }),
        13 => {
            let request =
                Request::DmaMap { writable: bytes.flag(), offset: bytes.u64(), iova: bytes.iova(), size: bytes.u64() };
            vec![Message { bytes: request.write(1, false), descriptors: 1, shares: Shares::Unknown }]
        }
        14 | 15 => {
            let place = Place { region: (bytes.byte() % 10).into(), offset: bytes.u32().into(), count: bytes.u32() };
            plain(Request::RegionRead { place })
        }
        16 => vec![Message::write((bytes.byte() % 10).into(), bytes.u64(), &bytes.some(64), bytes.flag())],
        17 => {
            let register = u64::from(bytes.u32() % 0x2_0000 & !3);
            vec![Message::write(0, register, &bytes.u32().to_le_bytes(), bytes.flag())]
        }
        18 => {
            let (index, start, action) = (bytes.byte().into(), bytes.byte().into(), bytes.byte());
            let (kind, flags) = (bytes.byte(), bytes.some(64));
            let action = [IrqAction::Mask, IrqAction::Unmask, IrqAction::Trigger][usize::from(action % 3)];
            let data = [IrqData::None, IrqData::Bool(&flags), IrqData::EventFd][usize::from(kind % 3)];
            let count = if kind > 0xF0 { bytes.u32() } else { flags.len() as u32 };
            plain(Request::SetIrqs(SetIrqs { index, start, count, action, data }))
        }
        19 => match bytes.byte() % 5 {
            0 => plain(Request::DeviceInfo),
            1 => plain(Request::RegionInfo { index: bytes.u32() % 12 }),
            2 => plain(Request::IrqInfo { index: bytes.u32() % 8 }),
            3 => plain(Request::Version { version: (bytes.byte().into(), bytes.byte().into()) }),
            _ => plain(Request::Reset),
        },
        20 => plain(Request::Reset),
        // No message, a message with a byte changed, and one that ends early though its header says otherwise.
        21 => vec![Message { bytes: bytes.some(64), descriptors: 0, shares: Shares::Unknown }],
        _ => {
            let (at, value, cut) = (bytes.byte(), bytes.byte(), choice == 23);
            let mut messages = if bytes.0.is_empty() { plain(Request::DeviceInfo) } else { say(bytes) };
            for message in &mut messages {
                let at = usize::from(at) % message.bytes.len().max(1);
                match message.bytes.get_mut(at) {
                    Some(byte) if !cut => *byte = value,
                    _ => message.bytes.truncate(at),
                }
                message.shares = Shares::Unknown;
            }
            messages
        }
    }
}

/// Has the server serve a client who says `messages`; what the server answers.
fn serve(messages: &[Message], memory: &Region, hangs_up: bool) -> Vec<u8> {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut reader = ours.try_clone().expect("a copy of a socket");
    let stream = Stream::new(ours, None);
    // A message without bytes would say that the client has gone.
    for message in messages.iter().filter(|message| !message.bytes.is_empty()).take(MOST_MESSAGES) {
        let files = vec![memory.fd(); message.descriptors];
        stream.send(&message.bytes, &files, LIMIT).expect("there is room");
    }
    if hangs_up {
        drop((stream, reader));
        SERVER.serve(theirs);
        return Vec::new();
    }
    reader.shutdown(Shutdown::Write).expect("it is open");
    let answers = thread::spawn(move || {
        let mut answers = Vec::new();
        // What came until the server closed is all there is.
        let _ = reader.read_to_end(&mut answers);
        answers
    });
    SERVER.serve(theirs);
    answers.join().expect("a reader does not panic")
}

/// The next client finds the device as after a reset.
fn assert_alive(memory: &Region) {
    const STATUS: u64 = 0x8;
    const AFTER_RESET: [u8; 4] = (1u32 << 19).to_le_bytes();
    let read = |region, offset| Request::RegionRead { place: Place { offset, region, count: 4 } };
    let asks = [Request::Version { version: VERSION }, read(CONFIG_REGION, 0), read(0, STATUS)];
    let answers = serve(&asks.map(|ask| Message::plain(&ask, false)), memory, false);
    let told = answers.ends_with(&AFTER_RESET) && answers.windows(4).any(|bytes| bytes == [0x86, 0x80, 0xFB, 0x10]);
    assert!(told, "the next client is answered {answers:x?}");
}

fuzz_target!(|data: &[u8]| {
    let bytes = &mut Bytes(data);
    let (greets, hangs_up) = (bytes.byte() % 16 != 15, bytes.byte() % 16 == 15);
    let memory = Region::allocate("client", PAGES * PAGE as usize).expect("some memory");
    // Every page is full of two descriptors: wherever a ring begins, there are some.
    let pages = [(); PAGES].map(|()| {
        let words = [bytes.descriptor(), bytes.descriptor()].concat();
        words.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>().repeat(PAGE as usize / 32)
    });
    pages.iter().enumerate().for_each(|(index, bytes)| memory.write(index * PAGE as usize, bytes));
    let greeting = greets.then(|| Message::plain(&Request::Version { version: VERSION }, false));
    let mut messages: Vec<_> = greeting.into_iter().collect();
    while !bytes.0.is_empty() {
        messages.extend(say(bytes));
    }
    serve(&messages, &memory, hangs_up);
    let mut shared = [false; PAGES];
    for message in &messages {
        match message.shares.clone() {
            Shares::Nothing => {}
            Shares::Pages(pages) => shared[pages].fill(true),
            Shares::Unknown => shared.fill(true),
        }
    }
    for (index, bytes) in pages.iter().enumerate().filter(|(index, _)| !shared[*index]) {
        let mut now = vec![0; PAGE as usize];
        memory.read(index * PAGE as usize, &mut now);
        assert!(now == *bytes, "page {index} was written to, and never shared for that");
    }
    assert_alive(&memory);
});
