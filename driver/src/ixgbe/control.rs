//! The control path of an open device: queues, link, filters, statistics, watchdog.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::init::{self, RingPlace};
use super::regs::{self, *};
use super::{Config, LIMITS, Rx, Tx};
use crate::bus::{self, Bus, Width, config};
use crate::clock::Nanos;
use crate::dma::{DmaAllocator, DmaWords};
use crate::error::Error;
use crate::groups::Groups;
use crate::interrupt::Interrupt;
use crate::mmio::{ALL_ONES, Mmio, MmioError};
use crate::pool::Pool;
use crate::port::{Link, MacAddress, Port, PortEvent, PortStats, QueuePair};
use crate::watchdog::Watch;

/// An 82599 port.
pub struct Ixgbe {
    bus: Arc<dyn Bus>,
    mmio: Mmio,
    allocator: DmaAllocator,
    config: Config,
    mac: MacAddress,
    promiscuous: bool,
    groups: Groups,
    stats: PortStats,
    link: Link,
    /// The queues that are open.
    queues: BTreeMap<u16, Watch>,
}

impl Ixgbe {
    /// Takes the device on `bus`, resets and initialises it.
    ///
    /// # Errors
    /// When it is not an 82599, when `config` is out of range, or when a register does not answer in time.
    pub fn open(bus: Arc<dyn Bus>, config: Config) -> Result<Self, Error> {
        config.check(&LIMITS)?;
        let vendor = bus.config_read(config::VENDOR_ID, Width::Word)? as u16;
        let device = bus.config_read(config::DEVICE_ID, Width::Word)? as u16;
        if super::part(vendor, device).is_none() {
            return Err(Error::UnsupportedDevice { address: bus.address(), vendor, device, driver: "ixgbe" });
        }
        bus::enable(&*bus, false)?;
        let mmio = bus.bar(0)?;
        // Where the way to the device broke, that is the reason, not what its registers read.
        let mac =
            init::device(&mmio, config.max_frame).or_else(|error| bus.check().map_err(Error::from).and(Err(error)))?;
        bus::enable(&*bus, true)?;
        let allocator = DmaAllocator::new(Arc::clone(&bus));
        let mut port = Self {
            bus,
            mmio,
            allocator,
            config,
            mac,
            promiscuous: false,
            groups: Groups::default(),
            stats: PortStats::default(),
            link: Link::Down,
            queues: BTreeMap::new(),
        };
        port.link = port.link()?;
        log::info!("{}: 82599 at {mac}, link {:?}", port.bus.address(), port.link);
        Ok(port)
    }

    /// Room for a ring of `size` 16-byte descriptors.
    fn ring(&self, name: &'static str, size: u32) -> Result<DmaWords, Error> {
        let memory = self.allocator.allocate(name, size as usize * 16)?;
        memory.into_words(size as usize * 2).ok_or_else(|| bad_ring(name, size))
    }

    /// Writes the filters anew: promiscuous or by address and hash (8.2.3.7.1, 7.1.1.1).
    fn program_filters(&self) {
        let open = if self.promiscuous { Fctrl::UPE | Fctrl::MPE } else { Fctrl::empty() };
        for (index, word) in (0u16..).zip(self.groups.hash_table()) {
            self.mmio.write32(MTA.at(index), word);
        }
        self.mmio.write32(FCTRL.offset, (open | Fctrl::BAM).bits());
    }

    fn read_statistics(&mut self) {
        let read = |register: Register| u64::from(self.mmio.read32(register.offset));
        // A device that is gone reads all ones; these are not counts.
        if read(STATUS) == u64::from(ALL_ONES) {
            return;
        }
        // The low half first: it latches the high one (8.2.3.23).
        let wide = |low: Register, high: Register| read(low) | (read(high) & 0xF) << 32;
        let stats = &mut self.stats;
        stats.rx_frames += read(GPRC);
        stats.rx_bytes += wide(GORCL, GORCH);
        stats.rx_crc_errors += read(CRCERRS);
        stats.rx_length_errors += read(RLEC) + read(RUC) + read(ROC);
        stats.rx_missed += u64::from(self.mmio.read32(RXMPC.at(0)));
        stats.tx_frames += read(GPTC);
        stats.tx_bytes += wide(GOTCL, GOTCH);
        for &queue in self.queues.keys() {
            stats.rx_missed += u64::from(self.mmio.read32(QPRDC.at(queue)));
        }
    }

    fn fault(&self, what: &'static str, value: u32, limit: &'static str) -> Error {
        Error::DeviceFault { address: self.bus.address(), what, value: u64::from(value), limit }
    }
}

fn bad_ring(name: &'static str, size: u32) -> Error {
    Error::refused(name, size.into(), "a ring has a power of two of descriptors, and a buffer for each")
}

impl Port for Ixgbe {
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
        let stamps = self.bus.arrival_stamps(index);
        let doorbell = |register: Register| self.mmio.doorbell(register.at(index), Width::Dword);
        let rx = Rx::new(index, rx_size, rx_words, pool.clone(), (self.mmio.clone(), doorbell(RDT)), stamps);
        let mut rx = rx.ok_or_else(|| bad_ring("receive ring", rx_size))?;
        let tx = Tx::new(index, tx_size, tx_words, pool, doorbell(TDT));
        let tx = tx.ok_or_else(|| bad_ring("transmit ring", tx_size))?;
        let place = |words: &DmaWords| RingPlace { iova: words.iova(), bytes: words.byte_len() as u32 };
        // One queue leaves overflow to the packet buffer; with several, one slow queue must not hold up the others.
        let mut opened = init::receive_queue(&self.mmio, index, &place(rx.words()), config.queues > 1);
        if opened.is_ok() {
            rx.announce();
            opened = init::transmit_queue(&self.mmio, index, &place(tx.words()));
        }
        if let Err(error) = opened {
            // The memory goes with the halves: a device that opened one of them, or will late, must not reach it.
            let _ = init::stop_receive_queue(&self.mmio, index).and(init::stop_transmit_queue(&self.mmio, index));
            return Err(error);
        }
        self.queues.insert(index, Watch::default());
        Ok(QueuePair { rx, tx })
    }

    fn close_queue(&mut self, mut pair: QueuePair<Rx, Tx>) -> Result<(), Error> {
        use crate::port::TxQueue;
        let queue = pair.rx.queue;
        pair.tx.flush();
        let transmit = init::stop_transmit_queue(&self.mmio, pair.tx.queue);
        let receive = init::stop_receive_queue(&self.mmio, queue);
        pair.tx.reclaim();
        if pair.tx.in_flight() > 0 {
            log::warn!("{}: queue {queue}: {} descriptors never left", self.bus.address(), pair.tx.in_flight());
        }
        pair.tx.abandon();
        self.read_statistics();
        self.queues.remove(&queue);
        transmit.and(receive)
    }

    fn interrupt(&mut self, index: u16) -> Result<Interrupt, Error> {
        if !self.queues.contains_key(&index) {
            return Err(Error::refused("queue", index.into(), "a queue that is open"));
        }
        init::route_interrupt(&self.mmio, index);
        Interrupt::new(Arc::clone(&self.bus), index)
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn link(&self) -> Result<Link, Error> {
        let links = self.mmio.read32(LINKS.offset);
        if links == ALL_ONES {
            // Where the way to the device broke, that is the reason, not what its registers read.
            self.bus.check()?;
            return Err(MmioError::Gone { register: LINKS.name, offset: LINKS.offset }.into());
        }
        if !Links::from_bits_retain(links).contains(Links::UP) {
            return Ok(Link::Down);
        }
        let speed = regs::link_speed_mbps(links);
        speed
            .map(|speed_mbps| Link::Up { speed_mbps })
            .ok_or_else(|| self.fault("LINKS", links, "speed code 0 is reserved"))
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<(), Error> {
        self.promiscuous = on;
        self.program_filters();
        Ok(())
    }

    fn join_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        if self.groups.join(group)? {
            self.program_filters();
        }
        Ok(())
    }

    fn leave_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        if self.groups.leave(group) {
            self.program_filters();
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
                let (address, value) = (self.bus.address(), u64::from(head));
                return Err(Error::DeviceFault {
                    address,
                    what: TDH.name,
                    value,
                    limit: "it must be below the ring's length",
                });
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
        self.mac = init::device(&self.mmio, self.config.max_frame)?;
        self.program_filters();
        self.link = self.link()?;
        Ok(())
    }
}

impl Drop for Ixgbe {
    /// Leaves the device silent: a queue that was dropped without closing must not reach memory that is gone.
    fn drop(&mut self) {
        for &queue in self.queues.keys() {
            let stopped = init::stop_receive_queue(&self.mmio, queue);
            if let Err(error) = init::stop_transmit_queue(&self.mmio, queue).and(stopped) {
                log::warn!("{}: {error}", self.bus.address());
            }
        }
    }
}
