//! The control path of an open device: queues, link, filters, statistics, watchdog.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::init::{self, RingPlace};
use super::regs::{self, *};
use super::{Config, DEVICES, INTEL, Rx, Tx};
use crate::bus::{Bus, Width, config};
use crate::clock::Nanos;
use crate::dma::{DmaAllocator, DmaWords};
use crate::error::Error;
use crate::mmio::{ALL_ONES, Mmio, MmioError};
use crate::pool::{Pool, PoolPlan};
use crate::port::{Link, MacAddress, Port, PortEvent, PortStats, QueuePair};
use crate::ring::Indices;

/// A transmit queue that has work and whose head has not moved for this long is stuck, in nanoseconds.
const STUCK_AFTER: Nanos = 2_000_000_000;

/// An 82599 port.
pub struct Ixgbe {
    bus: Arc<dyn Bus>,
    mmio: Mmio,
    allocator: DmaAllocator,
    config: Config,
    mac: MacAddress,
    promiscuous: bool,
    /// How often each group was joined.
    groups: BTreeMap<MacAddress, u32>,
    stats: PortStats,
    link: Link,
    /// The queues that are open.
    queues: BTreeMap<u16, Watch>,
}

/// What the watchdog remembers of a transmit queue.
#[derive(Default)]
struct Watch {
    head: u32,
    since: Nanos,
    reported: bool,
}

impl Ixgbe {
    /// Takes the device on `bus`, resets and initialises it.
    ///
    /// # Errors
    /// When it is not an 82599, when `config` is out of range, or when a register does not answer in time.
    pub fn open(bus: Arc<dyn Bus>, config: Config) -> Result<Self, Error> {
        config.check()?;
        let vendor = bus.config_read(config::VENDOR_ID, Width::Word)? as u16;
        let device = bus.config_read(config::DEVICE_ID, Width::Word)? as u16;
        if vendor != INTEL || !DEVICES.iter().any(|(id, _)| *id == device) {
            return Err(Error::UnsupportedDevice { address: bus.address(), vendor, device, driver: "ixgbe" });
        }
        let command = bus.config_read(config::COMMAND, Width::Word)?;
        let wanted = config::COMMAND_MEMORY | config::COMMAND_BUS_MASTER;
        bus.config_write(config::COMMAND, Width::Word, command | wanted)?;
        let mmio = bus.bar(0)?;
        let mac = init::device(&mmio, config.max_frame)?;
        let allocator = DmaAllocator::new(Arc::clone(&bus));
        let mut port = Self {
            bus,
            mmio,
            allocator,
            config,
            mac,
            promiscuous: false,
            groups: BTreeMap::new(),
            stats: PortStats::default(),
            link: Link::Down,
            queues: BTreeMap::new(),
        };
        port.link = port.link()?;
        log::info!("{}: 82599 at {mac}, link {:?}", port.bus.address(), port.link);
        Ok(port)
    }

    /// Room for a ring of `size` 16-byte descriptors.
    fn ring(&self, name: &'static str, size: u32) -> Result<(Indices, DmaWords), Error> {
        let indices = Indices::new(size).ok_or(Config::bad_ring(name, size))?;
        let memory = self.allocator.allocate(name, size as usize * 16)?;
        let words = memory.into_words(size as usize * 2).ok_or(Config::bad_ring(name, size))?;
        Ok((indices, words))
    }

    /// Writes the filters anew: promiscuous or by address and hash (8.2.3.7.1, 7.1.1.1).
    fn program_filters(&self) {
        let open = if self.promiscuous { Fctrl::UPE | Fctrl::MPE } else { Fctrl::empty() };
        let mut table = [0u32; 128];
        for group in self.groups.keys() {
            let (word, bit) = multicast_hash(*group);
            table[usize::from(word)] |= bit;
        }
        for (index, word) in (0u16..).zip(table) {
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

/// Word and bit of a group in the hash table: address bits 47:36 (7.1.1.1.2, MO = 0).
fn multicast_hash(group: MacAddress) -> (u16, u32) {
    let [.., e, f] = group.0;
    let hash = u16::from(e >> 4) | u16::from(f) << 4;
    (hash >> 5, 1 << (hash & 31))
}

impl Port for Ixgbe {
    type Rx = Rx;
    type Tx = Tx;

    fn open_queue(&mut self, index: u16) -> Result<QueuePair<Rx, Tx>, Error> {
        let free = index < self.config.queues && !self.queues.contains_key(&index);
        if !free {
            let allowed = "a queue that is configured and not open";
            return Err(Error::InvalidConfig { what: "queue", value: u64::from(index), allowed });
        }
        let config = &self.config;
        let plan = PoolPlan::default()
            .consumer("receive ring", config.rx_descriptors)
            .consumer("received frames kept by handlers", config.kept_frames)
            .consumer("transmit ring", config.tx_descriptors)
            .consumer("sent frames retained, or parked", config.retained_frames);
        let pool = Pool::new(&self.allocator, &plan)?;
        let (rx_ring, rx_words) = self.ring("receive ring", config.rx_descriptors)?;
        let (tx_ring, tx_words) = self.ring("transmit ring", config.tx_descriptors)?;
        let stamps = self.bus.arrival_stamps(index);
        let doorbell = |register: Register| (self.mmio.clone(), register.at(index));
        let rx = Rx::new(index, rx_ring, rx_words, pool.clone(), doorbell(RDT), stamps);
        let mut rx = rx.ok_or(Config::bad_ring("receive ring", config.rx_descriptors))?;
        let tx = Tx::new(index, tx_ring, tx_words, pool, doorbell(TDT));
        let place = |words: &DmaWords| RingPlace { iova: words.iova(), bytes: words.byte_len() as u32 };
        // One queue leaves overflow to the packet buffer; with several, one slow queue must not hold up the others.
        init::receive_queue(&self.mmio, index, &place(rx.words()), config.queues > 1)?;
        rx.announce();
        init::transmit_queue(&self.mmio, index, &place(tx.words()))?;
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

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn link(&self) -> Result<Link, Error> {
        let links = self.mmio.read32(LINKS.offset);
        if links == ALL_ONES {
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
        if !group.is_group() {
            let value = group.0.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            return Err(Error::InvalidConfig {
                what: "multicast address",
                value,
                allowed: "the group bit must be set",
            });
        }
        *self.groups.entry(group).or_default() += 1;
        self.program_filters();
        Ok(())
    }

    fn leave_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        if let Some(joins) = self.groups.get_mut(&group) {
            *joins -= 1;
            if *joins == 0 {
                self.groups.remove(&group);
                self.program_filters();
            }
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
            if head != watch.head || head == tail {
                *watch = Watch { head, since: now, reported: false };
            } else if !watch.reported && now.saturating_sub(watch.since) >= STUCK_AFTER {
                watch.reported = true;
                notice(PortEvent::TransmitStuck { queue });
            }
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Error> {
        if !self.queues.is_empty() {
            let value = self.queues.len() as u64;
            return Err(Error::InvalidConfig {
                what: "open queues",
                value,
                allowed: "close every queue before a reset",
            });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multicast_hash_takes_address_bits_47_to_36() {
        // 01:00:5e:36:0c:6f: bits 47:36 are 0x6F0 (last byte, high nibble of the one before).
        assert_eq!(multicast_hash(MacAddress([0x01, 0x00, 0x5E, 0x36, 0x0C, 0x6F])), (0x6F0 >> 5, 1 << (0x6F0 & 31)));
    }
}
