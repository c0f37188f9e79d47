//! A device model in another process, over a vfio-user socket: the client.
//!
//! Registers are read and written by messages: a system call each, which is what this bus costs. Ring and packet memory is shared and costs
//! nothing. Writes are posted; a read is a round trip, and orders what was written before it.
#![forbid(unsafe_code)]

pub mod protocol;
pub mod socket;

use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::{Bus, BusError, InterruptKind, Interrupts, Width};
use crate::dma::Region;
use crate::mmio::{Mmio, Registers};
use protocol::{CONFIG_REGION, IrqAction, IrqData, Place, Request, SetIrqs, VERSION, answer, irq};
use socket::{Stream, StreamError};

/// How long the server may take for an answer. A device model answers within microseconds; a machine that swaps does not.
const ANSWER: Duration = Duration::from_secs(5);
/// BARs of a function.
const BARS: usize = 6;

/// A device behind a vfio-user socket.
pub struct VfioUserBus {
    link: Arc<Link>,
    bars: [u32; BARS],
    interrupts: Interrupts,
}

/// The connection, shared by the bus and the register windows it hands out.
struct Link {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Why the connection ended; nothing is sent any more then.
    end: OnceLock<String>,
}

struct Connection {
    stream: Stream,
    id: u16,
    payload: Vec<u8>,
}

impl VfioUserBus {
    /// Connects to the server that listens at `path`.
    ///
    /// # Errors
    /// [`BusError::Peer`] when nobody listens, the server speaks another version, or does not answer in time.
    pub fn connect(path: &Path) -> Result<Self, BusError> {
        let peer = |reason: String| BusError::Peer { address: address(path), reason };
        let socket = UnixStream::connect(path).map_err(|error| {
            peer(format!(
                "{error}; start a server there first, such as `barewire model 82599 --socket {}`",
                path.display()
            ))
        })?;
        let connection = Connection { stream: Stream::new(socket, None), id: 0, payload: Vec::new() };
        let link = Arc::new(Link { path: path.to_owned(), connection: Mutex::new(connection), end: OnceLock::new() });
        let version = link.ask(&Request::Version { version: VERSION }, &[], answer::version)?;
        if version.0 != VERSION.0 {
            return Err(peer(format!(
                "the server speaks version {}.{}, not {}.{}",
                version.0, version.1, VERSION.0, VERSION.1
            )));
        }
        let mut bars = [0; BARS];
        for (index, bar) in (0..).zip(&mut bars) {
            let size = link.ask(&Request::RegionInfo { index }, &[], answer::region_size)?;
            *bar = u32::try_from(size).map_err(|_| peer(format!("BAR {index} of {size:#x} bytes is too large")))?;
        }
        let count = |index| link.ask(&Request::IrqInfo { index }, &[], answer::irq_count);
        let interrupts = match u16::try_from(count(irq::MSIX)?).unwrap_or(u16::MAX) {
            0 => Interrupts { kind: InterruptKind::IntX, vectors: count(irq::INTX)?.min(1) as u16 },
            vectors => Interrupts { kind: InterruptKind::MsiX, vectors },
        };
        Ok(Self { link, bars, interrupts })
    }

    fn irq_index(&self) -> u32 {
        match self.interrupts.kind {
            InterruptKind::MsiX => irq::MSIX,
            InterruptKind::IntX => irq::INTX,
        }
    }
}

fn address(path: &Path) -> String {
    format!("vfio-user:{}", path.display())
}

impl Link {
    fn check(&self) -> Result<(), BusError> {
        match self.end.get() {
            None => Ok(()),
            Some(reason) => Err(BusError::Peer { address: address(&self.path), reason: reason.clone() }),
        }
    }

    /// Remembers why the connection ended, and says it once in the log.
    fn ended(&self, error: &StreamError) {
        let reason = format!("{error}; start the server again and open the port anew");
        if self.end.set(reason).is_ok() {
            log::warn!("{}: {error}", address(&self.path));
        }
    }

    /// Sends a command and hands the answer's payload to `read`.
    fn ask<T>(
        &self,
        request: &Request<'_>,
        fds: &[BorrowedFd<'_>],
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, BusError> {
        self.check()?;
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match connection.exchange(request, fds) {
            Ok(None) => match read(&connection.payload) {
                Some(answer) => return Ok(answer),
                None => "the answer is too short".to_owned(),
            },
            Ok(Some(error)) => format!("the server refuses {request:?}: {error}"),
            Err(error) => {
                self.ended(&error);
                self.check()?;
                error.to_string()
            }
        };
        Err(BusError::Peer { address: address(&self.path), reason: refused })
    }

    /// Sends a command that nobody answers.
    fn post(&self, request: &Request<'_>) {
        if self.end.get().is_some() {
            return;
        }
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = connection.send(request, true, &[]) {
            self.ended(&error);
        }
    }

    fn read(&self, region: u32, offset: u64, width: Width) -> Result<u32, BusError> {
        let place = Place { offset, region, count: width.bytes().into() };
        let bytes = |payload: &[u8]| {
            let data = answer::data(payload).filter(|data| data.len() == usize::from(width.bytes()))?;
            Some(data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        self.ask(&Request::RegionRead { place }, &[], bytes)
    }
}

impl Connection {
    fn send(&mut self, request: &Request<'_>, posted: bool, fds: &[BorrowedFd<'_>]) -> Result<(), StreamError> {
        self.id = self.id.wrapping_add(1);
        self.stream.send(&request.write(self.id, posted), fds, ANSWER)
    }

    /// Sends a command and waits for its answer, which is left in `payload`; an error that the server answered with is returned.
    fn exchange(
        &mut self,
        request: &Request<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Option<std::io::Error>, StreamError> {
        self.send(request, false, fds)?;
        loop {
            let header = self.stream.receive(&mut self.payload, Some(ANSWER), ANSWER)?.header;
            // Whatever else the server says is not for us: it has no command that we must answer.
            if !header.is_command() && header.id == self.id {
                return Ok(header.error().map(|errno| std::io::Error::from_raw_os_error(errno.0 as i32)));
            }
        }
    }
}

/// One BAR behind the socket.
struct Window {
    link: Arc<Link>,
    region: u32,
}

impl Registers for Window {
    /// All ones once the connection has ended: what a device reads that has left the bus.
    fn read(&self, offset: u32, width: Width) -> u32 {
        self.link.read(self.region, offset.into(), width).unwrap_or(width.mask())
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        let place = Place { offset: offset.into(), region: self.region, count: width.bytes().into() };
        let bytes = value.to_le_bytes();
        self.link.post(&Request::RegionWrite { place, data: &bytes[..width.bytes().into()] });
    }
}

impl Bus for VfioUserBus {
    fn address(&self) -> String {
        address(&self.link.path)
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        self.link.read(CONFIG_REGION, offset.into(), width)
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) -> Result<(), BusError> {
        let place = Place { offset: offset.into(), region: CONFIG_REGION, count: width.bytes().into() };
        let bytes = value.to_le_bytes();
        self.link.ask(&Request::RegionWrite { place, data: &bytes[..width.bytes().into()] }, &[], done)
    }

    fn bar(&self, index: u8) -> Result<Mmio, BusError> {
        match self.bars.get(usize::from(index)) {
            Some(&len) if len > 0 => {
                let window = Window { link: Arc::clone(&self.link), region: index.into() };
                Ok(Mmio::emulated(Arc::new(window), len))
            }
            _ => Err(BusError::NoBar { address: self.address(), bar: index }),
        }
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        // The protocol does not tell; a model takes any address but those that interrupts are written to.
        vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 39) - 1]
    }

    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        let request = Request::DmaMap { writable: true, offset: 0, iova, size: region.len() as u64 };
        self.link.ask(&request, &[region.fd()], done)
    }

    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        // With the server its mappings went too.
        if self.link.end.get().is_some() {
            return Ok(());
        }
        self.link.ask(&Request::DmaUnmap { all: false, iova, size: region.len() as u64 }, &[], done)
    }

    fn interrupts(&self) -> Interrupts {
        self.interrupts
    }

    fn set_interrupt(&self, vector: u16, event: Option<OwnedFd>) -> Result<(), BusError> {
        let available = self.interrupts.vectors;
        if vector >= available {
            return Err(BusError::NoVector { address: self.address(), vector, available });
        }
        let fds: Vec<_> = event.iter().map(AsFd::as_fd).collect();
        let irqs = SetIrqs {
            index: self.irq_index(),
            start: vector.into(),
            count: 1,
            action: IrqAction::Trigger,
            data: IrqData::EventFd,
        };
        self.link.ask(&Request::SetIrqs(irqs), &fds, done)
    }

    fn unmask_interrupt(&self, vector: u16) -> Result<(), BusError> {
        let irqs = SetIrqs {
            index: self.irq_index(),
            start: vector.into(),
            count: 1,
            action: IrqAction::Unmask,
            data: IrqData::None,
        };
        self.link.ask(&Request::SetIrqs(irqs), &[], done)
    }

    fn check(&self) -> Result<(), BusError> {
        self.link.check()
    }

    fn reset(&self) -> Result<(), BusError> {
        self.link.ask(&Request::Reset, &[], done)
    }
}

/// An answer that only says "done".
fn done(_payload: &[u8]) -> Option<()> {
    Some(())
}
