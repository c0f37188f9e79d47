//! Intel 82599 (datasheet 331520), a model of what software can see of it.
//!
//! A doorbell runs the transmit path, the medium and the far end's receive path on the caller's thread: the sender performs the DMA into the
//! receiver's memory, as a NIC would beside both CPUs. Tails are read with acquire, done bits written with release. Each queue has one
//! lock; reset and queue disable take it, so they return only when DMA in flight has ended.
//!
//! Not modelled: the packet buffer (a frame without descriptors is missed at once), flow filters (Flow Director takes commands and matches
//! nothing), coalescing (RSC), interrupt throttling, flow control, PTP, queues 64 to 127 and receive addresses 16 to 127.
#![forbid(unsafe_code)]

mod checksum;
mod config;
pub mod desc;
mod eeprom;
mod filter;
mod i2c;
mod interrupt;
mod ledger;
mod packet;
pub mod regs;
mod rss;
mod rx;
mod segment;
mod tx;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use barewire_driver::MacAddress;
use barewire_driver::bus::Width;
use barewire_driver::bus::model::{ArrivalStamps, DeviceModel, Host};
use barewire_driver::clock::{Clock, Nanos};

use crate::medium::{Fcs, Mac, Medium, PortId};
use config::ConfigSpace;
use eeprom::Eeprom;
use interrupt::{Interrupts, LINK_CHANGE, View};
use ledger::{LedgerCells, RefusalCells};
use regs::{Access, QUEUES, RegisterFile, at, queue};
use rx::{Ring, RxQueue};
use tx::TxQueue;

pub use ledger::{Ledger, Refusals};

/// The longest frame the MAC moves, in bytes without FCS, tag included (8.2.3.22.13: 9,728 with CRC and some room).
const LONGEST: usize = 9_728 + 8;
/// The largest ring in descriptors (8.2.3.8.3: 128 KiB).
const LARGEST_RING: u32 = 8_192;

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
    config: Mutex<ConfigSpace>,
    interrupts: Interrupts,
    module: Mutex<i2c::Module>,
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
            config: Mutex::new(ConfigSpace::new()),
            interrupts: Interrupts::default(),
            module: Mutex::new(i2c::Module::new()),
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

    /// The station address in its EEPROM.
    pub fn mac(&self) -> MacAddress {
        self.mac
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
        self.interrupts.reset(&self.regs, self.host());
        self.load_address();
        self.show_carrier();
    }

    fn host(&self) -> Option<&Host> {
        self.host.get().map(|host| &**host)
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
            at::EICS => self.interrupts.raise(regs, self.host(), View::Plain, value),
            at::EIMS => self.interrupts.enable(regs, self.host(), View::Plain, value),
            at::EIMC => self.interrupts.disable(regs, self.host(), View::Plain, value),
            at::EICS_EX | at::EICS_EX1 => self.interrupts.raise(regs, self.host(), vectors(offset), value),
            at::EIMS_EX | at::EIMS_EX1 => self.interrupts.enable(regs, self.host(), vectors(offset), value),
            at::EIMC_EX | at::EIMC_EX1 => self.interrupts.disable(regs, self.host(), vectors(offset), value),
            at::I2CCTL => {
                regs.set(offset, value);
                self.module.lock().unwrap_or_else(PoisonError::into_inner).write(value);
            }
            at::EERD => regs.set(offset, self.eeprom.read(value)),
            at::MSCA => {
                // 8.2.3.22.11: the command ends at once; MSRWD reads as a bus without a PHY.
                const BUSY: u32 = 1 << 30;
                regs.set(offset, value & !BUSY);
            }
            at::AUTOC => {
                const RESTART_AN: u32 = 1 << 12;
                regs.set(offset, value & !RESTART_AN);
                if value & RESTART_AN != 0 && self.has_carrier() {
                    self.raise(LINK_CHANGE);
                }
            }
            at::FDIRCTRL => {
                const INIT_DONE: u32 = 1 << 3;
                regs.set(offset, value | INIT_DONE);
            }
            at::FDIRCMD => {
                // 8.2.3.21.22: bits 1:0, the command, clear when it is done.
                regs.set(offset, value & !3);
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
                tx.abandon();
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
        let ivar = self.regs.get(at::IVAR + number / 2 * 4);
        let shift = number % 2 * 16 + if matches!(direction, Direction::Transmit) { 8 } else { 0 };
        self.interrupts.raise_entry(&self.regs, self.host(), ivar >> shift & 0xFF);
    }

    /// Sets causes that have bits of their own in EICR.
    fn raise(&self, causes: u32) {
        self.interrupts.raise(&self.regs, self.host(), View::Plain, causes);
    }
}

/// Which half of the vectors a register of a pair is about.
fn vectors(offset: u32) -> View {
    View::Vectors(offset >> 2 & 1)
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
        self.config.lock().unwrap_or_else(PoisonError::into_inner).read(offset, width)
    }

    fn config_write(&self, offset: u16, width: Width, value: u32) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).write(offset, width, value);
    }

    fn bar_sizes(&self) -> [u32; 6] {
        let mut sizes = [0; 6];
        for (bar, size) in [config::REGISTERS, config::MSIX] {
            sizes[usize::from(bar)] = size;
        }
        sizes
    }

    fn register_read(&self, bar: u8, offset: u32) -> u32 {
        if bar != config::REGISTERS.0 {
            return 0;
        }
        LedgerCells::add(&self.ledger.register_reads, 1);
        let regs = &self.regs;
        let offset = regs::canonical(offset);
        match offset {
            at::EICR => self.interrupts.take_causes(regs, self.host()),
            at::EICS => self.interrupts.causes(),
            at::EIMS => self.interrupts.enabled(View::Plain),
            at::EIMS_EX | at::EIMS_EX1 => self.interrupts.enabled(vectors(offset)),
            at::STATUS => {
                // 8.2.3.1.2: bit 19 tells whether the device may master the bus.
                const MASTER_DISABLE: u32 = 1 << 2;
                u32::from(regs.get(at::CTRL) & MASTER_DISABLE == 0) << 19
            }
            at::I2CCTL => self.module.lock().unwrap_or_else(PoisonError::into_inner).read(regs.get(offset)),
            // 8.2.3.4.11: reading takes the semaphore.
            at::SWSM => regs.or(offset, 1),
            _ if regs.access(offset) == Access::ReadClears => regs.swap(offset, 0),
            _ => regs.get(offset),
        }
    }

    fn register_write(&self, bar: u8, offset: u32, value: u32) {
        if bar != config::REGISTERS.0 {
            return;
        }
        let offset = regs::canonical(offset);
        let is_tail = (at::RX..at::RX + QUEUES * queue::STRIDE).contains(&offset)
            || (at::TX..at::TX + QUEUES * queue::STRIDE).contains(&offset);
        let doorbell = is_tail && offset % queue::STRIDE == queue::TAIL;
        LedgerCells::add(if doorbell { &self.ledger.doorbells } else { &self.ledger.register_writes }, 1);
        match self.regs.access(offset) {
            Access::ReadWrite => self.regs.set(offset, value),
            Access::ReadOnly | Access::ReadClears => {}
            Access::WriteOneClears => self.interrupts.clear(&self.regs, self.host(), value),
            Access::Command => self.command(offset, value),
        }
    }

    fn interrupt_vectors(&self) -> u16 {
        config::MSIX_VECTORS
    }

    fn reset(&self) {
        self.reset_device();
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = ConfigSpace::new();
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
        self.carrier.store(up, Ordering::Relaxed);
        self.show_carrier();
        self.raise(LINK_CHANGE);
    }
}
