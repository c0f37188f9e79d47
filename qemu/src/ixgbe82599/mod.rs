//! Intel 82599 (datasheet 331520), a model of what software can see of it.
//!
//! A doorbell runs the transmit path, the medium and the far end's receive path on the caller's thread: the sender performs the DMA into the
//! receiver's memory, as a NIC would beside both CPUs. Tails are read with acquire, done bits written with release. Each queue has one
//! lock; reset and queue disable take it, so they return only when DMA in flight has ended.
//!
//! Not modelled: the packet buffer (a frame without descriptors is missed at once), RSS and flow filters, segmentation, flow control, PTP.

mod checksum;
pub mod desc;
mod eeprom;
mod filter;
mod ledger;
pub mod regs;
mod rx;
mod tx;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use barewire_driver::MacAddress;
use barewire_driver::bus::Width;
use barewire_driver::bus::model::{ArrivalStamps, DeviceModel, Host};
use barewire_driver::clock::{Clock, Nanos};

use crate::medium::{Fcs, Mac, Medium, PortId};
use eeprom::Eeprom;
use ledger::{LedgerCells, RefusalCells};
use regs::{Access, QUEUES, RegisterFile, at, queue};
use rx::{Ring, RxQueue};
use tx::TxQueue;

pub use ledger::{Ledger, Refusals};

/// The longest frame the MAC moves, in bytes without FCS, tag included (8.2.3.22.13: 9,728 with CRC and some room).
const LONGEST: usize = 9_728 + 8;
/// The largest ring in descriptors (8.2.3.8.3: 128 KiB).
const LARGEST_RING: u32 = 8_192;
/// BAR 0 (9.3.6.1).
const BAR0: u32 = 512 << 10;
const MSIX_VECTORS: u16 = 64;

/// Receive or transmit, as IVAR tells them apart.
#[derive(Clone, Copy)]
enum Direction {
    Receive,
    Transmit,
}

/// The model.
pub struct Ixgbe82599 {
    mac: MacAddress,
    clock: Clock,
    host: OnceLock<Arc<Host>>,
    medium: OnceLock<(Arc<dyn Medium>, PortId)>,
    regs: RegisterFile,
    eeprom: Eeprom,
    config: Mutex<[u8; 256]>,
    rx: Box<[Mutex<RxQueue>]>,
    tx: Box<[Mutex<TxQueue>]>,
    carrier: AtomicBool,
    stamps: Box<[OnceLock<Arc<ArrivalStamps>>]>,
    ledger: LedgerCells,
    refusals: RefusalCells,
    doorbell_ns: AtomicU64,
}

impl Ixgbe82599 {
    /// A device with the station address `mac` in its EEPROM. `clock` stamps arrivals and measures doorbells.
    pub fn new(mac: MacAddress, clock: Clock) -> Arc<Self> {
        let model = Self {
            mac,
            clock,
            host: OnceLock::new(),
            medium: OnceLock::new(),
            regs: RegisterFile::new(),
            eeprom: Eeprom::new(mac.0),
            config: Mutex::new(config_space()),
            rx: (0..QUEUES).map(|_| Mutex::default()).collect(),
            tx: (0..QUEUES).map(|_| Mutex::default()).collect(),
            carrier: AtomicBool::new(false),
            stamps: (0..QUEUES).map(|_| OnceLock::new()).collect(),
            ledger: LedgerCells::default(),
            refusals: RefusalCells::default(),
            doorbell_ns: AtomicU64::new(0),
        };
        model.load_address();
        Arc::new(model)
    }

    /// Plugs the cable in; once.
    pub fn connect(&self, medium: Arc<dyn Medium>, port: PortId) {
        if self.medium.set((medium, port)).is_ok() {
            self.set_carrier(true);
        }
    }

    /// The costs so far.
    pub fn ledger(&self) -> Ledger {
        self.ledger.snapshot()
    }

    /// What was refused so far.
    pub fn refusals(&self) -> Refusals {
        self.refusals.snapshot()
    }

    /// Nanoseconds spent inside transmit doorbells: model, wire and the far end's DMA.
    pub fn doorbell_ns(&self) -> Nanos {
        self.doorbell_ns.load(Ordering::Relaxed)
    }

    fn has_carrier(&self) -> bool {
        self.carrier.load(Ordering::Relaxed)
    }

    /// Reset loads the EEPROM's address into receive address 0 (8.2.3.7.9).
    fn load_address(&self) {
        const VALID: u32 = 1 << 31;
        let [a, b, c, d, e, f] = self.mac.0;
        self.regs.set(at::RAL, u32::from_le_bytes([a, b, c, d]));
        self.regs.set(at::RAL + 4, VALID | u32::from(u16::from_le_bytes([e, f])));
    }

    /// Stops every queue, waiting for its DMA, and puts the registers back.
    fn reset_device(&self) {
        for queue in &self.rx {
            queue.lock().unwrap_or_else(PoisonError::into_inner).ring.enabled = false;
        }
        for queue in &self.tx {
            *queue.lock().unwrap_or_else(PoisonError::into_inner) = TxQueue::default();
        }
        self.regs.reset();
        self.load_address();
        self.show_carrier();
    }

    /// LINKS: up, and 10 Gb/s in bits 29:28.
    fn show_carrier(&self) {
        const UP_10G: u32 = 1 << 30 | 3 << 28;
        self.regs.set(at::LINKS, if self.has_carrier() { UP_10G } else { 0 });
    }

    /// Writes of a queue's control register: enabling latches the ring, disabling waits for the queue's DMA.
    fn control_queue(&self, block: u32, value: u32, ring: &mut Ring) {
        const ENABLE: u32 = 1 << 25;
        let get = |place| self.regs.get(block + place);
        if value & ENABLE != 0 && !ring.enabled {
            let (base, bytes) = (u64::from(get(queue::BAH)) << 32 | u64::from(get(queue::BAL)), get(queue::LEN));
            if bytes == 0 || bytes % 128 != 0 || bytes / 16 > LARGEST_RING || base % 128 != 0 {
                LedgerCells::add(&self.refusals.bad_ring, 1);
                self.regs.set(block + queue::DCTL, value & !ENABLE);
                return;
            }
            *ring = Ring { enabled: true, base, len: bytes / 16 };
        } else if value & ENABLE == 0 {
            ring.enabled = false;
        }
        self.regs.set(block + queue::DCTL, value);
    }

    fn command(&self, offset: u32, value: u32) {
        let regs = &self.regs;
        match offset {
            at::CTRL => {
                const RST: u32 = 1 << 26;
                const LRST: u32 = 1 << 3;
                if value & (RST | LRST) != 0 {
                    self.reset_device();
                }
                regs.set(offset, value & !(RST | LRST));
            }
            at::EICS => self.raise(value),
            at::EIMS => _ = regs.or(offset, value),
            at::EIMC => regs.clear(at::EIMS, value),
            at::EERD => regs.set(offset, self.eeprom.read(value)),
            at::AUTOC => {
                const RESTART_AN: u32 = 1 << 12;
                regs.set(offset, value & !RESTART_AN);
            }
            at::SWSM => regs.set(offset, value),
            _ => self.queue_command(offset, value),
        }
    }

    fn queue_command(&self, offset: u32, value: u32) {
        let transmit = offset >= at::TX;
        let number = (offset - if transmit { at::TX } else { at::RX }) / queue::STRIDE;
        let (block, place) = (offset - offset % queue::STRIDE, offset % queue::STRIDE);
        match (place, transmit) {
            (queue::DCTL, false) => {
                let mut rx = self.rx[number as usize].lock().unwrap_or_else(PoisonError::into_inner);
                self.control_queue(block, value, &mut rx.ring);
            }
            (queue::DCTL, true) => {
                let mut tx = self.tx[number as usize].lock().unwrap_or_else(PoisonError::into_inner);
                self.control_queue(block, value, &mut tx.ring);
                tx.context = None;
                tx.frame.clear();
            }
            (_, true) => {
                let start = self.clock.now();
                self.regs.set(offset, value);
                // Software writes the tail once before it enables the queue; only with an enabled queue is it a doorbell.
                if self.regs.get(block + queue::DCTL) & 1 << 25 != 0 || value != 0 {
                    self.run_transmit(number);
                }
                self.doorbell_ns.fetch_add(self.clock.now().saturating_sub(start), Ordering::Relaxed);
            }
            (_, false) => self.regs.set(offset, value),
        }
    }

    /// Notes the arrival of a frame at `descriptor`, beside the device's own state.
    fn stamp(&self, number: u32, descriptor: u32) {
        if let Some(stamps) = self.stamps.get(number as usize).and_then(OnceLock::get) {
            stamps.set(descriptor, self.clock.now());
        }
    }

    /// A queue's cause, by IVAR (8.2.3.5.16): two queues a register, receive in the lower byte of each half.
    fn interrupt_queue(&self, number: u32, direction: Direction) {
        const VALID: u32 = 0x80;
        let ivar = self.regs.get(at::IVAR + number / 2 * 4);
        let shift = number % 2 * 16 + if matches!(direction, Direction::Transmit) { 8 } else { 0 };
        let entry = ivar >> shift & 0xFF;
        if entry & VALID != 0 {
            self.raise(1 << (entry & 0x1F));
        }
    }

    /// Sets causes; a vector fires for each that is not masked.
    fn raise(&self, causes: u32) {
        self.regs.or(at::EICR, causes);
        let mut pending = causes & self.regs.get(at::EIMS);
        while pending != 0 {
            let vector = pending.trailing_zeros();
            pending &= pending - 1;
            if let Some(host) = self.host.get() {
                host.interrupt(vector as u16);
            }
        }
    }
}

/// Configuration space after power-on: ids, class, BAR 0, and the PM, MSI-X and PCIe capabilities (9.3).
fn config_space() -> [u8; 256] {
    let mut space = [0u8; 256];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &[0x86, 0x80, 0xFB, 0x10]);
    put(0x06, &[0x10, 0x00, 0x01, 0x00, 0x00, 0x02]);
    put(0x10, &[0x04]);
    put(0x2C, &[0x86, 0x80, 0x03, 0x00]);
    put(0x34, &[0x40]);
    put(0x40, &[0x01, 0x70, 0x03, 0x00]);
    put(0x70, &[0x11, 0xA0, (MSIX_VECTORS - 1) as u8, 0x00, 0x04, 0x00, 0x00, 0x00, 0x04, 0x20, 0x00, 0x00]);
    put(0xA0, &[0x10, 0x00, 0x02, 0x00]);
    space
}

impl DeviceModel for Ixgbe82599 {
    fn name(&self) -> &'static str {
        "82599"
    }

    fn attach(&self, host: Arc<Host>) {
        // A second host would share the first one's memory; there is one bus a device.
        assert!(self.host.set(host).is_ok(), "the model is on a bus already");
    }

    fn config_read(&self, offset: u16, width: Width) -> u32 {
        let space = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        (0..width.bytes())
            .rev()
            .fold(0, |value, byte| value << 8 | u32::from(space.get(usize::from(offset + byte)).copied().unwrap_or(0)))
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) {
        // Command, BARs and interrupt line are writable; identity and capabilities are not.
        const WRITABLE: [std::ops::Range<u16>; 3] = [0x04..0x06, 0x10..0x28, 0x3C..0x3D];
        let mut space = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        for (byte, value) in (offset..).zip(value.to_le_bytes()).take(width.bytes().into()) {
            if WRITABLE.iter().any(|range| range.contains(&byte)) {
                space[usize::from(byte)] = value;
            }
        }
    }

    fn bar_sizes(&self) -> [u32; 6] {
        [BAR0, 0, 0, 0, 0, 0]
    }

    fn register_read(&self, _bar: u8, offset: u32) -> u32 {
        LedgerCells::add(&self.ledger.register_reads, 1);
        let regs = &self.regs;
        match regs.access(offset) {
            Access::ReadClears | Access::WriteOneClears => regs.swap(offset, 0),
            _ if offset == at::STATUS => {
                // 8.2.3.1.2: bit 19 tells whether the device may master the bus.
                const MASTER_DISABLE: u32 = 1 << 2;
                u32::from(regs.get(at::CTRL) & MASTER_DISABLE == 0) << 19
            }
            // 8.2.3.4.11: reading takes the semaphore.
            _ if offset == at::SWSM => regs.or(offset, 1),
            _ => regs.get(offset),
        }
    }

    fn register_write(&self, _bar: u8, offset: u32, value: u32) {
        let is_tail = (at::RX..at::RX + QUEUES * queue::STRIDE).contains(&offset)
            || (at::TX..at::TX + QUEUES * queue::STRIDE).contains(&offset);
        let doorbell = is_tail && offset % queue::STRIDE == queue::TAIL;
        LedgerCells::add(if doorbell { &self.ledger.doorbells } else { &self.ledger.register_writes }, 1);
        match self.regs.access(offset) {
            Access::ReadWrite => self.regs.set(offset, value),
            Access::ReadOnly | Access::ReadClears => {}
            Access::WriteOneClears => self.regs.clear(offset, value),
            Access::Command => self.command(offset, value),
        }
    }

    fn interrupt_vectors(&self) -> u16 {
        MSIX_VECTORS
    }

    fn reset(&self) {
        self.reset_device();
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config_space();
    }

    fn arrival_stamps(&self, number: u16) -> Option<Arc<ArrivalStamps>> {
        let stamps = self.stamps.get(usize::from(number))?;
        Some(Arc::clone(stamps.get_or_init(|| Arc::new(ArrivalStamps::new(LARGEST_RING)))))
    }
}

impl Mac for Ixgbe82599 {
    fn receive(&self, frame: &[u8], fcs: Fcs) {
        self.receive_frame(frame, fcs);
    }

    fn set_carrier(&self, up: bool) {
        const LINK_CHANGE: u32 = 1 << 20;
        self.carrier.store(up, Ordering::Relaxed);
        self.show_carrier();
        self.raise(LINK_CHANGE);
    }
}
