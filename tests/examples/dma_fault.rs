//! Points descriptors of a working queue outside the memory that the device may reach, and tells what comes of it, for the guests of
//! `qemu/guest`: `dma_fault ADDRESS OUR-IP PEER-IP`, as root, with a peer that answers ARP and says nothing else.
//!
//! The descriptors are changed from here, in the rings that the drivers map through [`Bus`]; the drivers themselves have no such hook. The
//! address that goes into them is the physical one of a canary page: a device that no IOMMU held back would write there.
//!
//! What is found goes to standard output, a line each: a name, a tab, and JSON.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use barewire::port::{self, UsePort};
use barewire_driver::bus::vfio::VfioBus;
use barewire_driver::bus::{Bus, BusError, Interrupts, Width};
use barewire_driver::dma::Region;
use barewire_driver::mmio::Mmio;
use barewire_driver::ring::Words;
use barewire_driver::{Link, MacAddress, Port, PortConfig, QueuePair, RxQueue, TxMeta, TxQueue};
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

const RING: u32 = 64;
const CONFIG: PortConfig = PortConfig {
    queues: 1,
    rx_descriptors: RING,
    tx_descriptors: RING,
    kept_frames: 8,
    retained_frames: 8,
    max_frame: 1522,
};
/// How long an answer is waited for: a guest on a busy machine takes its time.
const ANSWER: Duration = Duration::from_secs(3);
/// How often a question is asked that must reach the device.
const ATTEMPTS: u32 = 5;
/// How long a link may take.
const LINK: Duration = Duration::from_secs(20);
const PAGE: usize = 4096;
const CANARY: u8 = 0xA5;

/// A bus that remembers what the driver has mapped: packet buffers, receive ring and transmit ring come first, in this order.
struct Watched {
    inner: VfioBus,
    mapped: Mutex<Vec<(u64, Arc<Region>)>>,
}

impl Watched {
    fn mapping(&self, index: usize) -> Result<(u64, Arc<Region>), Failure> {
        let mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(mapped.get(index).cloned().ok_or("the driver has mapped less than expected")?)
    }

    /// Makes every descriptor of a ring that points at a packet buffer point to `iova` instead. Both layouts begin with the address. Returns
    /// the words that were changed, with what was in them.
    fn redirect(&self, ring: Ring, iova: u64) -> Result<Vec<(usize, u64)>, Failure> {
        let (start, buffers) = self.mapping(0)?;
        let (_, ring) = self.mapping(ring as usize)?;
        let words = ring.words(0, 2 * RING as usize).ok_or("the ring is shorter than expected")?;
        let places = (0..RING as usize).map(|slot| (2 * slot, words.load(2 * slot, Ordering::Relaxed)));
        let changed: Vec<_> = places.filter(|(_, to)| (start..start + buffers.len() as u64).contains(to)).collect();
        changed.iter().for_each(|(at, _)| words.store(*at, iova, Ordering::Relaxed));
        if changed.is_empty() { Err("no descriptor points at a buffer".into()) } else { Ok(changed) }
    }

    /// Undoes [`Watched::redirect`] where nobody has written since.
    fn restore(&self, ring: Ring, iova: u64, changed: &[(usize, u64)]) -> Result<(), Failure> {
        let (_, ring) = self.mapping(ring as usize)?;
        let words = ring.words(0, 2 * RING as usize).ok_or("the ring is shorter than expected")?;
        let ours = changed.iter().filter(|(at, _)| words.load(*at, Ordering::Relaxed) == iova);
        ours.for_each(|(at, to)| words.store(*at, *to, Ordering::Relaxed));
        Ok(())
    }
}

/// The rings, by the order in which they are mapped.
#[derive(Clone, Copy)]
enum Ring {
    Receive = 1,
    Transmit = 2,
}

impl Bus for Watched {
    fn address(&self) -> String {
        self.inner.address()
    }
    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        self.inner.config_read(offset, width)
    }
    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        self.inner.config_write(offset, width, value)
    }
    fn bar(&self, index: u8) -> Result<Mmio, BusError> {
        self.inner.bar(index)
    }
    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.inner.iova_ranges()
    }
    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        self.inner.dma_map(iova, region)?;
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner).push((iova, Arc::clone(region)));
        Ok(())
    }
    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner).retain(|(at, _)| *at != iova);
        self.inner.dma_unmap(iova, region)
    }
    fn interrupts(&self) -> Interrupts {
        self.inner.interrupts()
    }
    fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) -> Result<(), BusError> {
        self.inner.set_interrupt(vector, event)
    }
    fn removal_requested(&self) -> bool {
        self.inner.removal_requested()
    }
    fn reset(&self) -> Result<(), BusError> {
        self.inner.reset()
    }
}

/// A page that nobody may write to.
struct Canary(Arc<Region>);

impl Canary {
    fn new() -> Result<Self, Failure> {
        let canary = Self(Region::allocate("canary", PAGE)?);
        if canary.0.page_size() != PAGE {
            return Err("the canary wants a page of 4 KiB; run without huge pages".into());
        }
        canary.fill();
        Ok(canary)
    }

    fn fill(&self) {
        self.0.write(0, &[CANARY; PAGE]);
    }

    fn bytes(&self) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        self.0.read(0, &mut bytes);
        bytes
    }

    fn is_intact(&self) -> bool {
        self.bytes() == [CANARY; PAGE]
    }

    /// Where it is in physical memory (Linux, `Documentation/admin-guide/mm/pagemap.rst`).
    fn physical(&self) -> Result<u64, Failure> {
        const FRAME: u64 = (1 << 55) - 1;
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let line = maps.lines().find(|line| line.contains("/memfd:barewire canary")).ok_or("no canary in the maps")?;
        let start = u64::from_str_radix(line.split('-').next().unwrap_or_default(), 16)?;
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, start / PAGE as u64 * 8)?;
        match u64::from_ne_bytes(entry) & FRAME {
            0 => Err("the kernel hides physical addresses; run as root".into()),
            frame => Ok(frame * PAGE as u64),
        }
    }
}

/// What the kernel says from now on.
struct KernelLog(File);

impl KernelLog {
    fn open() -> Result<Self, Failure> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// Waits until the IOMMU's fault at `iova` is told of. An IOMMU may have room for one fault, so each is waited for before the next.
    fn fault_at(&mut self, iova: u64) -> Result<Option<String>, Failure> {
        const LIMIT: Duration = Duration::from_secs(5);
        let (told, start) = (format!("fault addr {iova:#x} "), Instant::now());
        let mut record = [0; 8192];
        while start.elapsed() < LIMIT {
            match self.0.read(&mut record) {
                Ok(len) => {
                    let record = String::from_utf8_lossy(&record[..len]);
                    if let Some(line) = record.lines().find(|line| line.contains(&told)) {
                        return Ok(Some(line.split_once(';').map_or(line, |(_, text)| text).to_owned()));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// What came of a question.
#[derive(Default)]
struct Outcome {
    /// The peer's answer arrived.
    answered: bool,
    /// Frames that the driver handed out.
    frames: u32,
    /// What the driver says is wrong.
    error: Option<String>,
}

impl Outcome {
    fn json(&self) -> Value {
        json!({ "answered": self.answered, "frames": self.frames, "error": self.error })
    }
}

struct Station<P: Port> {
    port: P,
    queue: Option<QueuePair<P::Rx, P::Tx>>,
    ours: Ipv4Addr,
    peer: Ipv4Addr,
    start: Instant,
}

impl<P: Port> Station<P> {
    fn queue(&mut self) -> Result<&mut QueuePair<P::Rx, P::Tx>, Failure> {
        self.queue.as_mut().ok_or_else(|| "the queues are closed".into())
    }

    /// Takes a question for the peer to the ring, without telling the device.
    fn prepare(&mut self) -> Result<(), Failure> {
        let frame = arp_request(self.port.mac(), self.ours, self.peer);
        let tx = &mut self.queue()?.tx;
        let mut buffer = tx.reserve()?;
        buffer[..frame.len()].copy_from_slice(&frame);
        let meta = TxMeta { len: frame.len() as u16, ..TxMeta::default() };
        tx.commit(buffer, meta).map_err(|(error, _)| error)?;
        Ok(())
    }

    /// Rings the doorbell and waits for the answer, or for something to be wrong, or for as long as an answer takes.
    fn ask(&mut self) -> Result<Outcome, Failure> {
        let (peer, start) = (self.peer, self.start);
        self.queue()?.tx.flush();
        let (mut outcome, asked) = (Outcome::default(), Instant::now());
        while asked.elapsed() < ANSWER && !outcome.answered && outcome.error.is_none() {
            let Outcome { answered, frames, error } = &mut outcome;
            let queue = self.queue()?;
            let polled = queue.rx.poll(8, |frame| *answered |= is_arp_reply(frame.bytes(), peer));
            queue.tx.reclaim();
            match polled {
                Ok(polled) => *frames += polled,
                Err(fault) => *error = Some(fault.to_string()),
            }
            if let Err(wrong) = self.port.service(start.elapsed().as_nanos() as u64, &mut |_| {}) {
                *error = Some(wrong.to_string());
            }
            std::thread::yield_now();
        }
        Ok(outcome)
    }

    fn question(&mut self) -> Result<Outcome, Failure> {
        self.prepare()?;
        self.ask()
    }

    /// Closes the queues, resets the port and opens them anew, if the driver asked for that.
    fn recover(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        if outcome.error.is_some() {
            let queue = self.queue.take().ok_or("the queues are closed")?;
            self.port.close_queue(queue)?;
            self.port.reset()?;
            self.queue = Some(self.port.open_queue(0)?);
        }
        self.wait_for_link()
    }

    fn wait_for_link(&self) -> Result<(), Failure> {
        let start = Instant::now();
        while self.port.link()? == Link::Down {
            if start.elapsed() > LINK {
                return Err("no link".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// An ARP request (RFC 826) on Ethernet.
fn arp_request(mac: MacAddress, ours: Ipv4Addr, peer: Ipv4Addr) -> Vec<u8> {
    let header = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    let mut frame = [&[0xFF; 6], &mac.0, &header[..], &mac.0, &ours.octets(), &[0; 6], &peer.octets()].concat();
    frame.resize(60, 0);
    frame
}

fn is_arp_reply(frame: &[u8], peer: Ipv4Addr) -> bool {
    frame.get(12..14) == Some(&[8, 6])
        && frame.get(20..22) == Some(&[0, 2])
        && frame.get(28..32) == Some(&peer.octets())
}

struct Trial {
    bus: Arc<Watched>,
    ours: Ipv4Addr,
    peer: Ipv4Addr,
}

fn tell(name: &str, value: &Value) {
    println!("{name}\t{value}");
}

impl UsePort for Trial {
    type Output = Result<(), Failure>;

    fn with<P: Port>(self, mut port: P) -> Self::Output {
        let Self { bus, ours, peer } = self;
        let queue = Some(port.open_queue(0)?);
        let mut station = Station { port, queue, ours, peer, start: Instant::now() };
        station.wait_for_link()?;
        let (canary, mut log) = (Canary::new()?, KernelLog::open()?);
        tell("before", &station.question()?.json());

        // The trap works: a device that may reach the canary writes the answer there.
        let iova = canary.physical()?;
        bus.inner.dma_map(iova, &canary.0)?;
        let changed = bus.redirect(Ring::Receive, iova)?;
        station.question()?;
        bus.restore(Ring::Receive, iova, &changed)?;
        bus.inner.dma_unmap(iova, &canary.0)?;
        let caught = canary.bytes().windows(60).any(|bytes| is_arp_reply(bytes, peer));
        tell("mapped", &json!({ "caught": caught, "intact": canary.is_intact() }));
        canary.fill();

        let iova = canary.physical()?;
        let changed = bus.redirect(Ring::Receive, iova)?;
        let mut attempts = 1..=ATTEMPTS;
        let (received, fault) = loop {
            let (received, fault) = (station.question()?, log.fault_at(iova)?);
            if fault.is_some() || received.error.is_some() || attempts.next().is_none() {
                break (received, fault);
            }
        };
        bus.restore(Ring::Receive, iova, &changed)?;
        tell("receive", &json!({ "fault": fault, "intact": canary.is_intact(), "outcome": received.json() }));
        station.recover(&received)?;
        tell("after-receive", &station.question()?.json());

        station.prepare()?;
        bus.redirect(Ring::Transmit, iova)?;
        let sent = station.ask()?;
        let fault = log.fault_at(iova)?;
        tell("transmit", &json!({ "fault": fault, "intact": canary.is_intact(), "outcome": sent.json() }));
        station.recover(&sent)?;
        tell("after-transmit", &station.question()?.json());
        let queue = station.queue.take().ok_or("the queues are closed")?;
        station.port.close_queue(queue)?;
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, ours, peer] = &arguments[..] else { return Err("usage: dma_fault ADDRESS OUR-IP PEER-IP".into()) };
    let bus = Arc::new(Watched { inner: VfioBus::open(address.parse()?)?, mapped: Mutex::default() });
    let trial = Trial { bus: Arc::clone(&bus), ours: ours.parse()?, peer: peer.parse()? };
    port::open(bus, CONFIG, trial)?
}
