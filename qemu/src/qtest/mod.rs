//! QEMU's own device models, driven from this process: a machine without a CPU that runs (`-accel qtest`), its registers reached through a
//! socket, its memory shared. No guest, no root.
//!
//! A register access costs tens of microseconds. The machine's clock is virtual: it moves only when told to, and a thread here tells it, ten
//! times as fast as real time, so that half a second of link negotiation holds nobody up.
#![forbid(unsafe_code)]

mod cable;
mod channel;
mod monitor;
mod pci;
mod process;

use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use barewire_driver::MacAddress;
use barewire_driver::bus::{Bus, BusError, InterruptKind, Interrupts, Width};
use barewire_driver::dma::Region;
use barewire_driver::mmio::{Mmio, Registers};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create};

pub use cable::Cable;
use channel::Channel;
use monitor::Monitor;
use pci::Function;
use process::Process;
pub use process::find;

/// How long QEMU may take to answer a command, or to start.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long a QEMU whose connection broke may take to end, and so to say why.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);
/// The machine's memory in bytes; only what is touched is allocated.
const RAM: u64 = 256 << 20;
/// Where message interrupts write, one 32-bit word a vector: conventional memory that no DMA is given.
const MESSAGES: u64 = 0x8_0000;
/// The beat of the machine's clock, in real time and in its own.
const BEAT: Duration = Duration::from_millis(1);
const BEAT_VIRTUAL_NS: u64 = 10_000_000;

/// Why no machine could be had.
#[derive(Debug, thiserror::Error)]
pub enum QtestError {
    /// The operating system refused something.
    #[error("cannot start {qemu}: {source}")]
    System {
        /// The program.
        qemu: String,
        /// The answer.
        source: std::io::Error,
    },
    /// QEMU ended or kept silent.
    #[error("{qemu} did not come up with device {device}: {said}; try the same -device by hand")]
    Start {
        /// The program.
        qemu: String,
        /// The device asked for.
        device: String,
        /// Its last words.
        said: String,
    },
}

/// A machine with one NIC, and the way to that NIC. Dropped, it ends QEMU.
pub struct QtestBus {
    device: String,
    machine: Arc<Machine>,
    monitor: Monitor,
    beat: Option<JoinHandle<()>>,
    _process: Process,
}

/// What register windows and the clock's thread share with the bus.
struct Machine {
    channel: Channel,
    function: Function,
    ram: OwnedFd,
    messages: Arc<Region>,
    interrupts: Mutex<Events>,
    stop: AtomicBool,
}

/// Where interrupts go.
#[derive(Default)]
struct Events {
    vectors: Vec<Option<OwnedFd>>,
    /// The line has fired and nobody has unmasked it.
    masked: bool,
}

impl QtestBus {
    /// Starts `qemu` with one NIC: `device` as `-device` wants it, such as `e1000e` or `virtio-net-pci,mq=on`, at station address `mac`.
    /// Returns the bus and the far end of the NIC's cable.
    ///
    /// # Errors
    /// When QEMU does not start or does not know the device; the message has its own words.
    pub fn start(qemu: &Path, device: &str, mac: MacAddress) -> Result<(Self, Cable), QtestError> {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        let system = |source| QtestError::System { qemu: qemu.display().to_string(), source };
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let name = format!("barewire-qtest-{}-{number}", std::process::id());
        let listen = |part| listen(&format!("{name}-{part}")).map_err(system);
        let listeners = [listen("qtest")?, listen("monitor")?, listen("net")?];
        let ram = memory().map_err(system)?;
        let mut process = Process::start(qemu, &arguments(&name, &ram, device, mac)).map_err(system)?;
        let connected = Machine::connect(&listeners, ram, &mut process);
        let (machine, monitor, cable) = connected.map_err(|error| QtestError::Start {
            qemu: qemu.display().to_string(),
            device: device.to_owned(),
            said: process.last_words(LAST_WORDS_WAIT).unwrap_or_else(|| error.to_string()),
        })?;
        let beat = std::thread::spawn({
            let machine = Arc::clone(&machine);
            move || machine.live()
        });
        Ok((Self { device: device.to_owned(), machine, monitor, beat: Some(beat), _process: process }, cable))
    }

    /// Plugs the cable in, or pulls it.
    ///
    /// # Errors
    /// When QEMU has gone or refuses.
    pub fn set_link(&self, up: bool) -> std::io::Result<()> {
        self.monitor.execute("set_link", &format!(r#"{{"name":"nic","up":{up}}}"#)).map(drop)
    }
}

/// The command line.
fn arguments(name: &str, ram: &OwnedFd, device: &str, mac: MacAddress) -> Vec<String> {
    use std::os::fd::AsRawFd;
    let ram = format!("/proc/{}/fd/{}", std::process::id(), ram.as_raw_fd());
    let options = [
        ("-machine", "q35,accel=qtest,memory-backend=ram".to_owned()),
        ("-m", format!("{RAM}B")),
        ("-object", format!("memory-backend-file,id=ram,size={RAM},share=on,mem-path={ram}")),
        ("-display", "none".to_owned()),
        ("-chardev", format!("socket,id=qtest,abstract=on,path={name}-qtest")),
        ("-qtest", "chardev:qtest".to_owned()),
        ("-qtest-log", "none".to_owned()),
        ("-chardev", format!("socket,id=monitor,abstract=on,path={name}-monitor")),
        ("-mon", "chardev=monitor,mode=control".to_owned()),
        ("-netdev", format!("stream,id=net,server=off,addr.type=unix,addr.abstract=on,addr.path={name}-net")),
        // No boot ROM: nothing would run it, and its file may not be installed.
        ("-device", format!("{device},id=nic,netdev=net,mac={mac},bus=pcie.0,addr={:#x},romfile=", pci::SLOT)),
    ];
    let flags = ["-nodefaults", "-no-user-config"].map(str::to_owned);
    flags.into_iter().chain(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value])).collect()
}

/// The machine's memory, which QEMU and this process both map.
fn memory() -> std::io::Result<OwnedFd> {
    let file = memfd_create("barewire qtest RAM", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, RAM)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file)
}

fn listen(name: &str) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Waits for QEMU to connect.
fn accept(listener: &UnixListener, process: &mut Process) -> std::io::Result<UnixStream> {
    let stream = wait(ANSWER_WAIT, || match listener.accept() {
        Ok((stream, _)) => Some(stream.set_nonblocking(false).map(|()| stream)),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Some(Err(error)),
        Err(_) if process.has_ended() => Some(Err(ErrorKind::ConnectionReset.into())),
        Err(_) => None,
    });
    stream.unwrap_or_else(|| Err(ErrorKind::TimedOut.into()))
}

/// Asks `done` until it has an answer, for at most `limit`.
fn wait<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let answer = done();
        if answer.is_some() || start.elapsed() > limit {
            return answer;
        }
        std::thread::sleep(BEAT);
    }
}

impl Machine {
    /// Takes QEMU's connections and sets the NIC's function up.
    fn connect(
        [qtest, monitor, net]: &[UnixListener; 3],
        ram: OwnedFd,
        process: &mut Process,
    ) -> std::io::Result<(Arc<Self>, Monitor, Cable)> {
        let cable = Cable::new(accept(net, process)?)?;
        let monitor = Monitor::new(accept(monitor, process)?)?;
        wait(ANSWER_WAIT, || monitor.has_cable().map(|has| has.then_some(())).transpose())
            .unwrap_or_else(|| Err(ErrorKind::TimedOut.into()))?;
        let channel = Channel::new(accept(qtest, process)?)?;
        let function = Function::set_up(&mut channel.lock());
        if channel.lock().is_gone() {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let messages = Region::import(ram.try_clone()?, MESSAGES, 4096, true).map_err(std::io::Error::other)?;
        let (interrupts, stop) = (Mutex::default(), AtomicBool::new(false));
        let machine = Self { channel, function, ram, messages, interrupts, stop };
        Ok((Arc::new(machine), monitor, cable))
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.interrupts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass and passes interrupts on, until the machine ends.
    fn live(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let mut channel = self.channel.lock();
            if channel.is_gone() {
                return;
            }
            channel.step_clock(BEAT_VIRTUAL_NS);
            let line = channel.lines() & pci::LINE != 0;
            drop(channel);
            self.deliver(line);
            std::thread::sleep(BEAT);
        }
    }

    fn deliver(&self, line: bool) {
        let events = &mut *self.events();
        if line && !events.masked && self.function.msix().is_none() {
            events.masked = true;
            events.vectors.iter().for_each(fire);
        }
        for (vector, event) in events.vectors.iter().enumerate() {
            let (place, mut message) = (vector * 4, [0; 4]);
            self.messages.read(place, &mut message);
            if message != [0; 4] {
                // Cleared before the eventfd counts: a message that comes in between is covered by the count.
                self.messages.write(place, &[0; 4]);
                fire(event);
            }
        }
    }
}

fn fire(event: &Option<OwnedFd>) {
    if let Some(event) = event {
        // A full counter (EAGAIN) already means "pending"; there is nobody to tell of anything else.
        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
    }
}

/// One BAR.
struct Window {
    machine: Arc<Machine>,
    base: u64,
}

impl Registers for Window {
    fn read(&self, offset: u32, width: Width) -> u32 {
        self.machine.channel.lock().read(self.base + u64::from(offset), width)
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        self.machine.channel.lock().write(self.base + u64::from(offset), width, value);
    }
}

impl Bus for QtestBus {
    fn address(&self) -> String {
        format!("qtest:{}", self.device)
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        Ok(pci::config_read(&mut self.machine.channel.lock(), offset, width))
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        pci::config_write(&mut self.machine.channel.lock(), offset, width, value);
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<Mmio, BusError> {
        let (base, len) =
            self.machine.function.bar(index).ok_or(BusError::NoBar { address: self.address(), bar: index })?;
        Ok(Mmio::emulated(Arc::new(Window { machine: Arc::clone(&self.machine), base }), len))
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        // Above the first MiB, where the PC keeps its ROMs.
        vec![1 << 20..=RAM - 1]
    }

    fn memory(&self) -> Option<BorrowedFd<'_>> {
        Some(self.machine.ram.as_fd())
    }

    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        let (address, len) = (self.address(), region.len());
        match iova.checked_add(len as u64) {
            Some(end) if end <= RAM => Ok(()),
            _ => Err(BusError::Map { address, iova, len, reason: "it is outside the machine's memory" }),
        }
    }

    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        // Gives the pages back; whoever is given these addresses next finds zeroes.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.machine.ram, flags, iova, region.len() as u64).map_err(|_| BusError::Map {
            address: self.address(),
            iova,
            len: region.len(),
            reason: "the pages cannot be given back",
        })
    }

    fn interrupts(&self) -> Interrupts {
        self.machine.function.interrupts()
    }

    fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) -> Result<(), BusError> {
        let available = self.interrupts().vectors;
        if vector >= available {
            return Err(BusError::NoVector { address: self.address(), vector, available });
        }
        let (on, at) = (event.is_some(), usize::from(vector));
        let mut events = self.machine.events();
        if events.vectors.len() <= at {
            events.vectors.resize_with(at + 1, || None);
        }
        events.vectors[at] = event;
        events.masked = false;
        drop(events);
        if let Some(msix) = self.machine.function.msix() {
            let address = MESSAGES + 4 * u64::from(vector);
            msix.set_vector(&mut self.machine.channel.lock(), vector, on.then_some(address));
        }
        Ok(())
    }

    fn unmask_interrupt(&self, _vector: u16) -> Result<(), BusError> {
        if self.interrupts().kind == InterruptKind::IntX {
            self.machine.events().masked = false;
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        let channel = &mut self.machine.channel.lock();
        self.machine.function.reset(channel);
        let armed: Vec<_> = self.machine.events().vectors.iter().map(Option::is_some).collect();
        if let Some(msix) = self.machine.function.msix() {
            for (vector, _) in (0u16..).zip(armed).filter(|(_, armed)| *armed) {
                msix.set_vector(channel, vector, Some(MESSAGES + 4 * u64::from(vector)));
            }
        }
        Ok(())
    }
}

impl Drop for QtestBus {
    fn drop(&mut self) {
        self.machine.stop.store(true, Ordering::Relaxed);
        if let Some(beat) = self.beat.take() {
            // A panic there has been reported by its own thread.
            let _ = beat.join();
        }
    }
}
