//! The control path of an open device: queues, link, filters, statistics, watchdog.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::desc::Layout;
use super::init;
use super::regs::{self, *};
use super::rx::Terms;
use super::{Config, INTEL, PARTS, Part, Rx, Tx};
use crate::bus::{self, Bus, InterruptKind, Width, config};
use crate::clock::Nanos;
use crate::dma::{DmaAllocator, DmaWords};
use crate::error::Error;
use crate::groups::Groups;
use crate::interrupt::Interrupt;
use crate::mmio::{ALL_ONES, Mmio, MmioError};
use crate::pool::Pool;
use crate::port::{Link, MacAddress, Port, PortEvent, PortStats, QueuePair, TxQueue};
use crate::ring::Indices;
use crate::watchdog::Watch;

/// A port of one of Intel's gigabit NICs.
pub struct E1000 {
    bus: Arc<dyn Bus>,
    mmio: Mmio,
    allocator: DmaAllocator,
    part: &'static Part,
    config: Config,
    mac: MacAddress,
    promiscuous: bool,
    groups: Groups,
    stats: PortStats,
    /// Frames that the receive queues dropped because they were longer than the port is configured for.
    too_long: Arc<AtomicU64>,
    link: Link,
    /// The queues that are open.
    queues: BTreeMap<u16, Watch>,
}

impl E1000 {
    /// Takes the device on `bus`, resets and initialises it.
    ///
    /// # Errors
    /// When it is none of this driver's, when `config` is out of range, or when a register does not answer in time.
    pub fn open(bus: Arc<dyn Bus>, config: Config) -> Result<Self, Error> {
        let vendor = bus.config_read(config::VENDOR_ID, Width::Word)? as u16;
        let device = bus.config_read(config::DEVICE_ID, Width::Word)? as u16;
        let Some(part) = PARTS.iter().find(|part| vendor == INTEL && part.device == device) else {
            return Err(Error::UnsupportedDevice { address: bus.address(), vendor, device, driver: "e1000" });
        };
        config.check(&part.limits)?;
        bus::enable(&*bus, false)?;
        let mmio = bus.bar(0)?;
        let mac = init::device(&mmio, part)?;
        bus::enable(&*bus, true)?;
        let allocator = DmaAllocator::new(Arc::clone(&bus));
        let mut port = Self {
            bus,
            mmio,
            allocator,
            part,
            config,
            mac,
            promiscuous: false,
            groups: Groups::default(),
            stats: PortStats::default(),
            too_long: Arc::default(),
            link: Link::Down,
            queues: BTreeMap::new(),
        };
        port.start()?;
        log::info!("{}: {} at {mac}, link {:?}", port.bus.address(), part.name, port.link);
        Ok(port)
    }

    /// What follows a reset: queues spread, groups filtered, counters at zero.
    fn start(&mut self) -> Result<(), Error> {
        if self.config.queues > 1 {
            init::spread(&self.mmio);
        }
        self.program_groups();
        // Reading empties the device's counters; what they held is from before.
        let so_far = self.stats;
        self.read_statistics();
        self.stats = so_far;
        self.link = self.link()?;
        Ok(())
    }

    /// Room for a ring of `size` 16-byte descriptors.
    fn ring(&self, name: &'static str, size: u32) -> Result<DmaWords, Error> {
        let memory = self.allocator.allocate(name, size as usize * 16)?;
        memory.into_words(size as usize * 2).ok_or_else(|| bad_ring(name, size))
    }

    /// Writes the multicast hash table (SDM 13.5.1).
    fn program_groups(&self) {
        for (index, word) in (0u16..).zip(self.groups.hash_table()) {
            self.mmio.write32(MTA.at(index), word);
        }
    }

    /// Receives while any queue is open.
    fn set_receive(&self, on: bool) {
        init::set_receive(&self.mmio, on, self.promiscuous, self.config.max_frame);
    }

    /// Whether each queue has a message of its own.
    fn has_messages(&self) -> bool {
        self.part.is_82574 && self.bus.interrupts().kind == InterruptKind::MsiX
    }

    fn read_statistics(&mut self) {
        let read = |register: Register| u64::from(self.mmio.read32(register.offset));
        // A device that is gone reads all ones; these are not counts.
        if read(STATUS) == u64::from(ALL_ONES) {
            return;
        }
        // The low half first: reading the high one clears both (13.7).
        let wide = |low: Register, high: Register| read(low) | read(high) << 32;
        let stats = &mut self.stats;
        stats.rx_frames += read(GPRC);
        stats.rx_bytes += wide(GORCL, GORCH);
        stats.rx_missed += read(MPC);
        stats.rx_crc_errors += read(CRCERRS);
        stats.rx_length_errors += read(RLEC) + read(RUC) + read(ROC) + self.too_long.swap(0, Ordering::Relaxed);
        stats.tx_frames += read(GPTC);
        stats.tx_bytes += wide(GOTCL, GOTCH);
        // Older models in QEMU copy these totals into the counters above, so all must start anew together.
        [TPR, TPT, TORH, TOTH].iter().for_each(|register| _ = read(*register));
    }

    /// Stops both halves of queue `index` and forgets it. Receiving pauses for the other queue, if there is one.
    fn stop(&mut self, index: u16) -> Result<(), Error> {
        self.queues.remove(&index);
        let last = self.queues.is_empty();
        self.set_receive(false);
        init::stop_receive_queue(&self.mmio, index);
        let transmit = init::stop_transmit_queue(&self.mmio, self.part, index, last);
        if !last {
            self.set_receive(true);
        }
        transmit
    }
}

fn bad_ring(name: &'static str, size: u32) -> Error {
    Error::refused(name, size.into(), "a ring has a power of two of descriptors, and a buffer for each")
}

impl Port for E1000 {
    type Rx = Rx;
    type Tx = Tx;

    fn open_queue(&mut self, index: u16) -> Result<QueuePair<Rx, Tx>, Error> {
        let free = index < self.config.queues && !self.queues.contains_key(&index);
        if !free {
            return Err(Error::refused("queue", index.into(), "a queue that is configured and not open"));
        }
        let config = &self.config;
        let pool = Pool::new(&self.allocator, &config.pool_plan())?;
        let (rx_size, tx_size) = (config.rx_descriptors, config.tx_descriptors);
        let (rx_words, tx_words) = (self.ring("receive ring", rx_size)?, self.ring("transmit ring", tx_size)?);
        let tx_ring = Indices::new(tx_size).ok_or_else(|| bad_ring("transmit ring", tx_size))?;
        let doorbell = |register: Register| self.mmio.doorbell(register.at(index), Width::Dword);
        let terms = Terms {
            queue: index,
            layout: if self.part.is_82574 { Layout::Extended } else { Layout::Legacy },
            max_frame: config.max_frame,
            cause: match index {
                _ if !self.has_messages() => Cause::RXT0,
                0 => Cause::RXQ0,
                _ => Cause::RXQ1,
            },
            too_long: Arc::clone(&self.too_long),
        };
        let rx = Rx::new(terms, rx_size, rx_words, pool.clone(), (self.mmio.clone(), doorbell(RDT)));
        let mut rx = rx.ok_or_else(|| bad_ring("receive ring", rx_size))?;
        let tx = Tx::new(tx_ring, tx_words, pool, doorbell(TDT));
        self.set_receive(false);
        init::receive_queue(&self.mmio, index, rx.words());
        init::transmit_queue(&self.mmio, self.part, index, tx.words());
        self.set_receive(true);
        rx.announce();
        self.queues.insert(index, Watch::default());
        Ok(QueuePair { rx, tx })
    }

    fn close_queue(&mut self, mut pair: QueuePair<Rx, Tx>) -> Result<(), Error> {
        let queue = pair.rx.terms.queue;
        pair.tx.flush();
        let stopped = self.stop(queue);
        pair.tx.reclaim();
        if pair.tx.in_flight() > 0 {
            log::warn!("{}: queue {queue}: {} descriptors never left", self.bus.address(), pair.tx.in_flight());
        }
        pair.tx.abandon();
        self.read_statistics();
        stopped
    }

    fn interrupt(&mut self, index: u16) -> Result<Interrupt, Error> {
        if !self.queues.contains_key(&index) {
            return Err(Error::refused("queue", index.into(), "a queue that is open"));
        }
        if self.has_messages() {
            init::route_interrupt(&self.mmio, index);
        }
        Interrupt::new(Arc::clone(&self.bus), index)
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn link(&self) -> Result<Link, Error> {
        let status = self.mmio.read32(STATUS.offset);
        if status == ALL_ONES {
            return Err(MmioError::Gone { register: STATUS.name, offset: STATUS.offset }.into());
        }
        let up = Status::from_bits_retain(status).contains(Status::LU);
        Ok(if up { Link::Up { speed_mbps: regs::link_speed_mbps(status) } } else { Link::Down })
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<(), Error> {
        self.promiscuous = on;
        self.set_receive(!self.queues.is_empty());
        Ok(())
    }

    fn join_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        if self.groups.join(group)? {
            self.program_groups();
        }
        Ok(())
    }

    fn leave_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        if self.groups.leave(group) {
            self.program_groups();
        }
        Ok(())
    }

    fn stats(&mut self) -> PortStats {
        self.read_statistics();
        self.stats
    }

    fn service(&mut self, now: Nanos, notice: &mut dyn FnMut(PortEvent)) -> Result<(), Error> {
        let link = self.link()?;
        if link != self.link {
            self.link = link;
            notice(PortEvent::Link(link));
        }
        if self.bus.removal_requested() {
            notice(PortEvent::RemovalRequested);
        }
        self.read_statistics();
        let length = self.config.tx_descriptors;
        for (&queue, watch) in &mut self.queues {
            let (head, tail) = (self.mmio.read32(TDH.at(queue)), self.mmio.read32(TDT.at(queue)));
            if head >= length {
                let (address, what, value) = (self.bus.address(), TDH.name, u64::from(head));
                let limit = "it must be below the ring's length";
                return Err(Error::DeviceFault { address, what, value, limit });
            }
            if watch.is_stuck(head, tail, link, now) {
                notice(PortEvent::TransmitStuck { queue });
            }
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Error> {
        if !self.queues.is_empty() {
            return Err(Error::refused("open queues", self.queues.len() as u64, "close every queue before a reset"));
        }
        self.mac = init::device(&self.mmio, self.part)?;
        self.start()
    }
}

impl Drop for E1000 {
    /// Leaves the device silent: a queue that was dropped without closing must not reach memory that is gone.
    fn drop(&mut self) {
        while let Some(&queue) = self.queues.keys().next() {
            if let Err(error) = self.stop(queue) {
                log::warn!("{}: {error}", self.bus.address());
            }
        }
    }
}
