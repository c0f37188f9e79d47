//! The control path of an open device: queues, link, filters, statistics, watchdog.
//!
//! Virtqueues are set up before the device works (3.1.1), so the device starts when the queue pair is opened and is reset when it is closed;
//! what was asked of the filters between is kept and told to it then.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use super::commands::{self, Commands};
use super::desc::HEADER_LEN;
use super::init;
use super::pci::{Doorbell, Transport};
use super::regs::{self, DEVICE_STATUS, DeviceStatus, Features};
use super::rx::RxParts;
use super::split::{Layout, Split};
use super::tx::{PREFIX_WORDS, TxParts};
use super::{Config, LIMITS, Rx, Tx};
use crate::bus::{self, Bus, InterruptKind, Width, config};
use crate::clock::Nanos;
use crate::counters::Counters;
use crate::dma::{DmaAllocator, DmaWords, Region};
use crate::error::Error;
use crate::groups::Groups;
use crate::interrupt::Interrupt;
use crate::mmio::wait_until;
use crate::pool::{BUFFER_LEN, Pool};
use crate::port::{Link, MacAddress, Port, PortEvent, PortStats, QueueFault, QueuePair, TxQueue};
use crate::watchdog::Watch;

/// How long frames that were committed may take to leave when a queue is closed.
const DRAIN_WAIT: Duration = Duration::from_millis(100);
/// Descriptors of the control queue; a command takes two, and there is one at a time.
const COMMAND_DESCRIPTORS: u32 = 2;

/// A virtio network port.
pub struct VirtioNet {
    bus: Arc<dyn Bus>,
    transport: Transport,
    allocator: DmaAllocator,
    config: Config,
    features: Features,
    mac: MacAddress,
    promiscuous: bool,
    groups: Groups,
    /// What queue pairs counted that are closed.
    stats: PortStats,
    link: Link,
    running: Option<Running>,
}

/// What there is while the queue pair is open.
struct Running {
    commands: Option<Commands>,
    counters: Arc<Counters<QueueFault>>,
    progress: Progress,
}

/// The transmit queue's ring memory, for its watchdog.
struct Progress {
    layout: Layout,
    memory: Arc<Region>,
    watch: Watch,
}

impl Progress {
    fn is_stuck(&mut self, link: Link, now: Nanos) -> bool {
        let Some(words) = self.memory.words(0, self.layout.words()) else { return false };
        let (available, used) = self.layout.progress(&words);
        self.watch.is_stuck(used.into(), available.into(), link, now)
    }
}

impl VirtioNet {
    /// Takes the device on `bus`, resets it and agrees on features. Rings longer than the device allows are cut to what it does.
    ///
    /// # Errors
    /// When it is no modern virtio network device, when `config` is out of range, or when a register does not answer in time.
    pub fn open(bus: Arc<dyn Bus>, config: Config) -> Result<Self, Error> {
        config.check(&LIMITS)?;
        let vendor = bus.config_read(config::VENDOR_ID, Width::Word)? as u16;
        let device = bus.config_read(config::DEVICE_ID, Width::Word)? as u16;
        if super::part(vendor, device).is_none() {
            return Err(Error::UnsupportedDevice { address: bus.address(), vendor, device, driver: "virtio" });
        }
        bus::enable(&*bus, false)?;
        let transport = Transport::find(&*bus)?;
        let features = init::negotiate(&transport)?;
        bus::enable(&*bus, true)?;
        if bus.memory().is_none() {
            // Such a device takes an address for a physical one, whatever the IOMMU says (6.1): it would write to memory that is not ours.
            let past = "it reaches memory past the IOMMU and is not safe to drive; with QEMU, say iommu_platform=on";
            init::require(&transport, features, Features::ACCESS_PLATFORM, past)?;
        }
        let allocator = DmaAllocator::new(Arc::clone(&bus));
        let mut port = Self {
            mac: init::station_address(&transport)?,
            link: init::link(&transport, features)?,
            bus,
            transport,
            allocator,
            config,
            features,
            promiscuous: false,
            groups: Groups::default(),
            stats: PortStats::default(),
            running: None,
        };
        port.fit_config()?;
        let address = port.bus.address();
        log::info!("{address}: virtio-net at {}, link {:?}, features {:?}", port.mac, port.link, features);
        if !features.contains(Features::CTRL_RX) {
            log::info!("{address}: no VIRTIO_NET_F_CTRL_RX: filters stay open, every frame is received");
        }
        Ok(port)
    }

    /// Holds the configuration against this device: cuts the rings, refuses frames that would fit nowhere.
    fn fit_config(&mut self) -> Result<(), Error> {
        for (queue, wanted) in [
            (regs::queue::RECEIVE, &mut self.config.rx_descriptors),
            (regs::queue::TRANSMIT, &mut self.config.tx_descriptors),
        ] {
            let size = u32::from(init::queue_size(&self.transport, queue, *wanted)?);
            if size < *wanted {
                log::info!("{}: queue {queue} has {size} descriptors, the most there are", self.transport.address);
                *wanted = size;
            }
        }
        let longest = BUFFER_LEN as u16 - HEADER_LEN;
        if !self.features.contains(Features::MRG_RXBUF) && self.config.max_frame > longest {
            let allowed = format!("without VIRTIO_NET_F_MRG_RXBUF at most {longest} bytes are allowed");
            return Err(Error::InvalidConfig { what: "max_frame", value: self.config.max_frame.into(), allowed });
        }
        Ok(())
    }

    /// Makes `mac` the station address.
    ///
    /// # Errors
    /// When it is a group's, or the device does not offer VIRTIO_NET_F_CTRL_MAC_ADDR or refuses.
    pub fn set_mac(&mut self, mac: MacAddress) -> Result<(), Error> {
        let keeps = "it keeps its address; with QEMU, say mac=... and ctrl_mac_addr=on";
        init::require(&self.transport, self.features, Features::CTRL_MAC_ADDR, keeps)?;
        if mac.is_group() {
            return Err(Error::refused("station address", number(mac), "the group bit must be clear"));
        }
        self.mac = mac;
        match self.running.as_mut().and_then(|running| running.commands.as_mut()) {
            Some(commands) => commands.set_mac(mac),
            None => Ok(()),
        }
    }

    /// Sets up `queue` with room for `size` descriptors, and turns it on.
    fn ring(
        &self,
        name: &'static str,
        queue: u16,
        size: u32,
        vector: Option<u16>,
    ) -> Result<(Split<DmaWords>, Doorbell, Arc<Region>), Error> {
        let bad = || Error::refused(name, size.into(), "a ring has a power of two of descriptors");
        let layout = u16::try_from(size).ok().and_then(Layout::new).ok_or_else(bad)?;
        let memory = self.allocator.allocate(name, layout.words() * 8)?;
        let region = Arc::clone(memory.region());
        let words = memory.into_words(layout.words()).ok_or_else(bad)?;
        let doorbell = init::queue(&self.transport, queue, layout, words.iova(), vector)?;
        Ok((Split::new(queue, layout, words), doorbell, region))
    }

    /// Sets all queues up; the device does not work yet.
    fn set_up(&mut self) -> Result<QueuePair<Rx, Tx>, Error> {
        let config = self.config;
        let messages = self.bus.interrupts().kind == InterruptKind::MsiX;
        let has = |feature| self.features.contains(feature);
        let pool = Pool::new(&self.allocator, &config.pool_plan())?;
        let counters = Arc::new(Counters::default());
        let (ring, doorbell, _) =
            self.ring("receive ring", regs::queue::RECEIVE, config.rx_descriptors, messages.then_some(0))?;
        let parts = RxParts {
            ring,
            pool: pool.clone(),
            doorbell,
            merges: has(Features::MRG_RXBUF),
            max_frame: config.max_frame,
            line: (!messages).then(|| self.transport.isr.clone()),
            counters: Arc::clone(&counters),
        };
        let rx = Rx::new(0, parts);
        let rx =
            rx.ok_or_else(|| Error::refused("receive ring", config.rx_descriptors.into(), "the pool must fill it"))?;
        let (ring, doorbell, memory) =
            self.ring("transmit ring", regs::queue::TRANSMIT, config.tx_descriptors, None)?;
        let progress = Progress { layout: ring.layout(), memory, watch: Watch::default() };
        let prefix_words = config.tx_descriptors as usize / 2 * PREFIX_WORDS;
        let prefixes = self.allocator.allocate("transmit headers", prefix_words * 8)?.into_words(prefix_words);
        let prefixes =
            prefixes.ok_or_else(|| Error::refused("transmit ring", config.tx_descriptors.into(), "a power of two"))?;
        let parts = TxParts {
            ring,
            prefixes,
            pool,
            doorbell,
            fills_checksums: has(Features::CSUM),
            counters: Arc::clone(&counters),
        };
        let tx = Tx::new(parts);
        let commands = if has(Features::CTRL_VQ) {
            let size = init::queue_size(&self.transport, regs::queue::CONTROL, COMMAND_DESCRIPTORS)?;
            let (ring, doorbell, _) = self.ring("control ring", regs::queue::CONTROL, size.into(), None)?;
            let memory = self.allocator.allocate("control command", commands::MEMORY_LEN)?;
            Some(Commands::new(self.transport.address.clone(), ring, memory, doorbell))
        } else {
            None
        };
        self.running = Some(Running { commands, counters, progress });
        Ok(QueuePair { rx, tx })
    }

    /// Starts the device, its filters first.
    fn start(&mut self, rx: &mut Rx) -> Result<(), Error> {
        init::start(&self.transport);
        if self.features.contains(Features::CTRL_MAC_ADDR) {
            self.set_mac(self.mac)?;
        }
        self.program_filters()?;
        rx.publish();
        Ok(())
    }

    /// Stops the device; no DMA is in flight afterwards. It is left ready for queues to be set up again.
    fn stop(&mut self) -> Result<(), Error> {
        let running = self.running.take();
        let negotiated = init::negotiate(&self.transport);
        if let Some(running) = running {
            running.counters.add_to(&mut self.stats);
        }
        self.features = negotiated?;
        Ok(())
    }

    /// Tells the filters to a device that works and has any.
    fn program_filters(&mut self) -> Result<(), Error> {
        if !self.features.contains(Features::CTRL_RX) {
            return Ok(());
        }
        match self.running.as_mut().and_then(|running| running.commands.as_mut()) {
            Some(commands) => commands.set_filters(self.promiscuous, self.groups.iter()),
            None => Ok(()),
        }
    }

    fn refuse_unless_closed(&self) -> Result<(), Error> {
        match self.running {
            None => Ok(()),
            Some(_) => Err(Error::refused("open queues", 1, "close every queue first")),
        }
    }
}

fn number(mac: MacAddress) -> u64 {
    mac.0.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Port for VirtioNet {
    type Rx = Rx;
    type Tx = Tx;

    fn open_queue(&mut self, index: u16) -> Result<QueuePair<Rx, Tx>, Error> {
        self.refuse_unless_closed()?;
        if index >= self.config.queues {
            return Err(Error::refused("queue", index.into(), "a queue that is configured"));
        }
        let mut pair = self.set_up();
        let started = match &mut pair {
            Ok(pair) => self.start(&mut pair.rx),
            Err(_) => Ok(()),
        };
        // The device stops before the memory of its queues goes.
        if (started.is_err() || pair.is_err())
            && let Err(error) = self.stop()
        {
            log::warn!("{error}");
        }
        started.and(pair)
    }

    fn close_queue(&mut self, mut pair: QueuePair<Rx, Tx>) -> Result<(), Error> {
        pair.tx.flush();
        let drained = wait_until(DRAIN_WAIT, || {
            pair.tx.reclaim();
            (pair.tx.in_flight() == 0).then_some(())
        });
        if drained.is_none() {
            log::warn!("{}: {} frames never left", self.transport.address, pair.tx.in_flight());
        }
        let stopped = self.stop();
        pair.tx.abandon();
        stopped
    }

    fn interrupt(&mut self, index: u16) -> Result<Interrupt, Error> {
        if self.running.is_none() || index >= self.config.queues {
            return Err(Error::refused("queue", index.into(), "a queue that is open"));
        }
        Interrupt::new(Arc::clone(&self.bus), index)
    }

    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn link(&self) -> Result<Link, Error> {
        init::link(&self.transport, self.features)
    }

    /// A device without VIRTIO_NET_F_CTRL_RX has its filters open: it cannot be told to close them.
    fn set_promiscuous(&mut self, on: bool) -> Result<(), Error> {
        if !on {
            let open = "its filters stay open, every frame is received; sort frames out by their address";
            init::require(&self.transport, self.features, Features::CTRL_RX, open)?;
        }
        self.promiscuous = on;
        self.program_filters()
    }

    fn join_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        if self.groups.join(group)? { self.program_filters() } else { Ok(()) }
    }

    fn leave_multicast(&mut self, group: MacAddress) -> Result<(), Error> {
        if self.groups.leave(group) { self.program_filters() } else { Ok(()) }
    }

    fn stats(&mut self) -> PortStats {
        let mut stats = self.stats;
        if let Some(running) = &self.running {
            running.counters.add_to(&mut stats);
        }
        stats
    }

    fn service(&mut self, now: Nanos, notice: &mut dyn FnMut(PortEvent)) -> Result<(), Error> {
        let value = self.transport.common.read(DEVICE_STATUS);
        let status = DeviceStatus::from_bits_retain(value as u8);
        if value == Width::Byte.mask() {
            // Where the way to the device broke, that is the reason, not what its registers read.
            self.bus.check()?;
            return Err(self.transport.common.gone(DEVICE_STATUS).into());
        }
        let needs_reset = |meaning| {
            let address = self.transport.address.clone();
            Err(Error::NeedsReset { address, register: DEVICE_STATUS.name, value, meaning })
        };
        if status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            return needs_reset("the device met an error (DEVICE_NEEDS_RESET)");
        }
        if self.running.is_some() && !status.contains(DeviceStatus::DRIVER_OK) {
            return needs_reset("somebody else has reset the device (DRIVER_OK is gone)");
        }
        let link = self.link()?;
        if link != self.link {
            self.link = link;
            notice(PortEvent::Link(link));
        }
        if self.bus.removal_requested() {
            notice(PortEvent::RemovalRequested);
        }
        if let Some(running) = &mut self.running {
            if let Some(&fault) = running.counters.fault.get() {
                return Err(fault.into());
            }
            if running.progress.is_stuck(link, now) {
                notice(PortEvent::TransmitStuck { queue: 0 });
            }
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.refuse_unless_closed()?;
        self.stop()?;
        self.link = self.link()?;
        Ok(())
    }
}

impl Drop for VirtioNet {
    /// Leaves the device silent: a queue that was dropped without closing must not reach memory that is gone.
    fn drop(&mut self) {
        if let Err(error) = init::reset(&self.transport) {
            log::warn!("{}: {error}", self.transport.address);
        }
    }
}
