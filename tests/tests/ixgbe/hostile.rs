//! Devices that break the datasheet: the driver answers with an error that names register or field and value, in
//! bounded time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use barewire_driver::bus::model::{ArrivalStamps, DeviceModel, Host, ModelBus};
use barewire_driver::bus::{Bus, Width, config};
use barewire_driver::ixgbe::{Ixgbe, Rx, Tx, regs};
use barewire_driver::{Error, Link, Port, PortEvent, QueueFault, QueuePair, RxQueue, TxMeta, TxQueue};
use barewire_models::ixgbe82599::desc;
use barewire_models::wire::{Delivery, WireConfig};
use barewire_models::{Ixgbe82599, Medium, PortId};
use barewire_tests::rig::{frame, mac, models};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::{SMALL, clock};

/// What a register read answers instead of the truth: by the number of the read, and the offset.
type Lie = Box<dyn Fn(u32, u32) -> Option<u32> + Send>;

/// A model whose register reads may lie, and whose descriptors anybody may write.
struct Hostile {
    inner: Arc<Ixgbe82599>,
    host: OnceLock<Arc<Host>>,
    reads: AtomicU32,
    lie: Mutex<Lie>,
    /// What may have started DMA: writes to the command register (bus mastering or not), and resets.
    mastery: Mutex<Vec<&'static str>>,
}

impl Hostile {
    fn around(inner: Arc<Ixgbe82599>) -> (Arc<Self>, Arc<dyn Bus>) {
        let lie: Lie = Box::new(|_, _| None);
        let device = Arc::new(Self {
            inner,
            host: OnceLock::new(),
            reads: AtomicU32::new(0),
            lie: Mutex::new(lie),
            mastery: Mutex::default(),
        });
        (device.clone(), Arc::new(ModelBus::new(device)))
    }

    /// A device without a wire.
    fn alone() -> (Arc<Self>, Arc<dyn Bus>) {
        Self::around(Ixgbe82599::new(mac(1), clock()))
    }

    fn lie(&self, lie: impl Fn(u32, u32) -> Option<u32> + Send + 'static) {
        *self.lie.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(lie);
    }

    /// One register reads `value` from now on, whatever it holds.
    fn stick(&self, register: u32, value: u32) {
        self.lie(move |_, offset| (offset == register).then_some(value));
    }

    fn be_honest(&self) {
        self.lie(|_, _| None);
    }

    /// Writes descriptor `slot` of the ring whose registers begin at `block`.
    fn write_back(&self, block: u32, slot: u32, words: [u64; 2]) {
        let half = |offset| u64::from(self.inner.register_read(0, block + offset));
        let ring = half(4) << 32 | half(0);
        let dma = self.host.get().expect("attached").dma();
        let memory = dma.words(ring + u64::from(slot) * 16, 2).expect("the ring is mapped");
        desc::write_back(&memory, 0, words);
    }
}

impl DeviceModel for Hostile {
    fn name(&self) -> &'static str {
        "hostile"
    }
    fn attach(&self, host: Arc<Host>) {
        assert!(self.host.set(Arc::clone(&host)).is_ok());
        self.inner.attach(host);
    }
    fn config_read(&self, offset: u16, width: Width) -> u32 {
        self.inner.config_read(offset, width)
    }
    fn config_write(&self, offset: u16, width: Width, value: u32) {
        if offset == config::COMMAND {
            let masters = value & config::COMMAND_BUS_MASTER != 0;
            self.mastery.lock().unwrap().push(if masters { "on" } else { "off" });
        }
        self.inner.config_write(offset, width, value);
    }
    fn bar_sizes(&self) -> [u32; 6] {
        self.inner.bar_sizes()
    }
    fn register_read(&self, bar: u8, offset: u32) -> u32 {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        let lie = self.lie.lock().unwrap_or_else(PoisonError::into_inner)(number, offset);
        lie.unwrap_or_else(|| self.inner.register_read(bar, offset))
    }
    fn register_write(&self, bar: u8, offset: u32, value: u32) {
        const RST: u32 = 1 << 26;
        if offset == regs::CTRL.offset && value & RST != 0 {
            self.mastery.lock().unwrap().push("reset");
        }
        self.inner.register_write(bar, offset, value);
    }
    fn interrupt_vectors(&self) -> u16 {
        0
    }
    fn reset(&self) {
        self.inner.reset();
    }
    fn arrival_stamps(&self, queue: u16) -> Option<Arc<ArrivalStamps>> {
        self.inner.arrival_stamps(queue)
    }
}

const RX: u32 = regs::RDBAL.offset;
const TX: u32 = regs::TDBAL.offset;
const ENABLE: u32 = 1 << 25;
/// No error takes longer than this, in seconds: one bounded wait and change.
const BOUND: Duration = Duration::from_secs(3);

/// What a device that a killed process left may still do must not reach the next one's memory.
#[test]
fn device_may_start_dma_only_after_its_reset() {
    let (device, bus) = Hostile::alone();
    let _port = Ixgbe::open(bus, SMALL).unwrap();
    assert_eq!(*device.mastery.lock().unwrap(), ["off", "reset", "on"]);
}

#[test]
fn register_that_never_answers_ends_in_an_error_that_names_it() {
    for (register, value) in [
        (regs::STATUS, 1 << 19),
        (regs::CTRL, 1 << 26),
        (regs::EEC, 0),
        (regs::RDRXCTL, 0),
        (regs::RAH, 0),
        (regs::RXDCTL, 0),
        (regs::TXDCTL, 0),
    ] {
        let (device, bus) = Hostile::alone();
        device.stick(register.offset, value);
        let start = Instant::now();
        let error =
            Ixgbe::open(bus, SMALL).and_then(|mut port| port.open_queue(0)).err().expect("no queue").to_string();
        assert!(error.contains(register.name) && error.contains(&format!("{value:#010x}")), "{error}");
        assert!(start.elapsed() < BOUND, "{:?} for {}", start.elapsed(), register.name);
    }
}

#[test]
fn queue_that_opens_half_is_stopped_and_opens_when_the_device_behaves() {
    let (device, bus) = Hostile::alone();
    let mut port = Ixgbe::open(bus, SMALL).unwrap();
    for register in [regs::RXDCTL, regs::TXDCTL] {
        device.stick(register.offset, 0);
        assert!(port.open_queue(0).is_err());
        device.be_honest();
        for control in [regs::RXDCTL, regs::TXDCTL] {
            assert_eq!(device.inner.register_read(0, control.offset) & ENABLE, 0, "{} still runs", control.name);
        }
    }
    let queue = port.open_queue(0).unwrap();
    port.close_queue(queue).unwrap();
}

#[test]
fn queue_that_never_stops_is_named() {
    for register in [regs::RXDCTL, regs::TXDCTL] {
        let (device, bus) = Hostile::alone();
        let mut port = Ixgbe::open(bus, SMALL).unwrap();
        let queue = port.open_queue(0).unwrap();
        device.stick(register.offset, ENABLE);
        let error = port.close_queue(queue).unwrap_err().to_string();
        assert!(error.contains(register.name) && error.contains("0x02000000"), "{error}");
        device.be_honest();
        port.reset().unwrap();
    }
}

/// All that a port does with registers, once.
fn live(bus: Arc<dyn Bus>) -> Result<(), Error> {
    let mut port = Ixgbe::open(bus, SMALL)?;
    let queue = port.open_queue(0)?;
    port.service(0, &mut |_| {})?;
    port.stats();
    port.close_queue(queue)?;
    port.reset()
}

/// How many register reads an honest life takes.
fn reads_of_a_life() -> u32 {
    let (device, bus) = Hostile::alone();
    live(bus).unwrap();
    device.reads.load(Ordering::Relaxed)
}

#[test]
fn device_that_goes_at_any_register_read_is_named_and_hangs_nothing() {
    for gone in 0..reads_of_a_life() {
        let (device, bus) = Hostile::alone();
        device.lie(move |number, _| (number >= gone).then_some(u32::MAX));
        let start = Instant::now();
        let error = live(bus).err().unwrap_or_else(|| panic!("gone at read {gone} is not noticed")).to_string();
        assert!(regs::ALL.iter().any(|register| error.contains(register.name)), "{error}");
        assert!(error.contains("all ones") || error.contains("0xffffffff"), "{error}");
        assert!(start.elapsed() < BOUND, "{:?} at read {gone}", start.elapsed());
    }
}

#[test]
fn one_read_of_all_ones_anywhere_is_survived_or_named() {
    for glitch in 0..reads_of_a_life() {
        let (device, bus) = Hostile::alone();
        device.lie(move |number, _| (number == glitch).then_some(u32::MAX));
        let start = Instant::now();
        if let Err(error) = live(bus) {
            let error = error.to_string();
            assert!(regs::ALL.iter().any(|register| error.contains(register.name)), "{error}");
        }
        assert!(start.elapsed() < BOUND, "{:?} at read {glitch}", start.elapsed());
    }
}

#[test]
fn transmit_head_beyond_the_ring_is_a_fault_and_the_port_recovers() {
    let (device, bus) = Hostile::alone();
    let mut port = Ixgbe::open(bus, SMALL).unwrap();
    let queue = port.open_queue(0).unwrap();
    for head in [64, 0xBEEF, u32::MAX] {
        device.stick(regs::TDH.offset, head);
        let error = port.service(0, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("TDH") && error.contains(&format!("{head:#x}")), "{error}");
    }
    device.stick(regs::TDH.offset, 0xBEEF);
    let start = Instant::now();
    port.close_queue(queue).unwrap();
    assert!(start.elapsed() < BOUND);
    device.be_honest();
    port.reset().unwrap();
    port.open_queue(0).unwrap();
}

#[test]
fn stuck_transmit_queue_is_reported_once() {
    let (device, bus) = Hostile::alone();
    let mut port = Ixgbe::open(bus, SMALL).unwrap();
    let _queue = port.open_queue(0).unwrap();
    // A link at 10 Gb/s: without one, frames only wait.
    const UP: u32 = 1 << 30 | 3 << 28;
    let (tail, links) = (regs::TDT.offset, regs::LINKS.offset);
    device.lie(move |_, offset| [(tail, 5), (links, UP)].into_iter().find(|lie| lie.0 == offset).map(|lie| lie.1));
    let mut events = Vec::new();
    for second in 0..5 {
        port.service(second * 1_000_000_000, &mut |event| events.push(event)).unwrap();
    }
    let up = PortEvent::Link(Link::Up { speed_mbps: 10_000 });
    assert_eq!(events, [up, PortEvent::TransmitStuck { queue: 0 }]);
}

/// Everything taken from the pool but what the receive ring holds, filled with a pattern.
fn park(tx: &mut Tx) -> Vec<barewire_driver::pool::Buffer> {
    let mut parked: Vec<_> = std::iter::from_fn(|| tx.reserve().ok()).collect();
    parked.iter_mut().for_each(|buffer| buffer.fill(0xA5));
    parked
}

/// Opens a port, lets the device write `bad` into its receive ring, and expects a fault that lasts, harms nothing and
/// ends with a reset.
fn fault_after(bad: &[[u64; 2]]) -> QueueFault {
    let (near, far, wire) = models(&clock(), WireConfig::perfect(Delivery::Immediate));
    let (device, bus) = Hostile::around(far);
    let mut port = Ixgbe::open(bus, SMALL).unwrap();
    let mut queue = port.open_queue(0).unwrap();
    let parked = park(&mut queue.tx);
    assert_eq!(queue.rx.pool().available(), 0);
    for (slot, words) in (0..).zip(bad) {
        device.write_back(RX, slot, *words);
    }
    let poll = |rx: &mut Rx| rx.poll(u32::MAX, |_| panic!("a frame was lent"));
    let fault = poll(&mut queue.rx).unwrap_err();
    let sent = frame(mac(2), mac(1), &[7; 100]);
    wire.transmit(PortId(0), &sent);
    assert_eq!(poll(&mut queue.rx), Err(fault), "the queue runs again");
    assert!(parked.iter().all(|buffer| buffer.iter().all(|byte| *byte == 0xA5)), "memory was written");
    assert_eq!(queue.rx.pool().available(), 0, "a buffer of the ring was freed");
    drop(parked);
    port.close_queue(queue).unwrap();
    port.reset().unwrap();
    let mut queue = port.open_queue(0).unwrap();
    wire.transmit(PortId(0), &sent);
    assert_eq!(queue.rx.poll(8, |frame| assert_eq!(frame.bytes(), sent)), Ok(1));
    drop(near);
    fault
}

/// A receive write-back (82599 datasheet 7.1.6.2).
fn written(len: u16, last: bool) -> [u64; 2] {
    desc::Received::default().words(len, last)
}

#[test]
fn impossible_length_stops_the_queue() {
    for len in [0, 2_049, 4_096, u16::MAX] {
        for last in [true, false] {
            let fault = fault_after(&[written(len, last)]);
            let expected = QueueFault { queue: 0, descriptor: 0, field: "PKT_LEN", value: len.into() };
            assert_eq!(fault, expected);
            assert!(fault.to_string().contains(&format!("PKT_LEN of descriptor 0 is {len:#x}")), "{fault}");
        }
    }
    // In the middle of a chain, and a descriptor of ones only.
    assert_eq!(fault_after(&[written(2_048, false), written(0, true)]).descriptor, 1);
    assert_eq!(fault_after(&[[u64::MAX; 2]]).value, 0xFFFF);
}

#[test]
fn chain_that_never_ends_stops_the_queue() {
    for len in [1, 2_048] {
        let fault = fault_after(&[written(len, false); 63]);
        assert_eq!((fault.descriptor, fault.field), (5, "EOP (missing), bytes so far"));
        assert_eq!(fault.value, u64::from(len) * 6);
    }
}

fn open() -> (Arc<Hostile>, Ixgbe, QueuePair<Rx, Tx>) {
    let (device, bus) = Hostile::alone();
    let mut port = Ixgbe::open(bus, SMALL).unwrap();
    let queue = port.open_queue(0).unwrap();
    (device, port, queue)
}

#[test]
fn chain_that_is_not_whole_yet_waits() {
    let (device, _port, mut queue) = open();
    for slot in 0..4 {
        device.write_back(RX, slot, written(2_048, false));
        assert_eq!(queue.rx.poll(8, |_| panic!("half a frame was lent")), Ok(0));
    }
    device.write_back(RX, 4, written(1, true));
    assert_eq!(queue.rx.poll(8, |frame| assert_eq!(frame.meta().len, 4 * 2_048 + 1)), Ok(1));
}

#[test]
fn descriptors_done_out_of_turn_are_not_looked_at() {
    let (device, mut port, mut queue) = open();
    device.stick(regs::RDH.offset, 0xBEEF);
    for slot in (1..64).rev() {
        device.write_back(RX, slot, written(60, true));
    }
    assert_eq!(queue.rx.poll(u32::MAX, |_| panic!("a frame was lent")), Ok(0));
    device.write_back(RX, 0, written(60, true));
    // Each counts once, that behind the tail too, which was not the device's to write: its buffer is there all the same.
    assert_eq!(queue.rx.poll(u32::MAX, |_| ()), Ok(64));
    assert_eq!(queue.rx.poll(u32::MAX, |_| ()), Ok(0));
    port.service(0, &mut |_| {}).unwrap();
}

#[test]
fn transmit_descriptors_done_that_never_were_sent_free_nothing_twice() {
    let (device, _port, QueuePair { mut tx, .. }) = open();
    let all = tx.pool().available();
    let meta = TxMeta { len: 60, ..TxMeta::default() };
    for round in 0..100 {
        let in_flight = round % 5;
        for _ in 0..in_flight {
            let buffer = tx.reserve().unwrap();
            assert!(tx.commit(buffer, meta).is_ok());
        }
        for slot in 0..64 {
            device.write_back(TX, slot, [u64::MAX; 2]);
        }
        assert_eq!(tx.reclaim(), in_flight);
        assert_eq!(tx.pool().available(), all);
    }
}

#[test]
fn random_write_backs_are_frames_within_bounds_or_a_fault() {
    const SEED: u64 = 7;
    eprintln!("seed {SEED}");
    let mut random = Pcg64::seed_from_u64(SEED);
    let (device, mut port, mut queue) = open();
    let (mut slot, mut frames, mut faults) = (0, 0, 0);
    let held = queue.rx.pool().capacity() - queue.rx.pool().available();
    for _ in 0..5_000 {
        for _ in 0..random.random_range(1..8) {
            let [first, second]: [u64; 2] = random.random();
            // Mostly done, mostly with a length that can be.
            let len = if random.random_bool(0.95) { random.random_range(1..=2_048) } else { second >> 48 };
            let words = [first, second & !0xFFFF_0000_0000 | len << 32 | u64::from(random.random_bool(0.95))];
            device.write_back(RX, slot, words);
            slot = (slot + 1) % 64;
        }
        let poll = queue.rx.poll(u32::MAX, |frame| {
            let len: usize = frame.segments().map(<[u8]>::len).sum();
            assert!(len == usize::from(frame.meta().len) && (1..=5 * 2_048).contains(&len));
            frames += 1;
        });
        assert_eq!(queue.rx.pool().capacity() - queue.rx.pool().available(), held);
        let all_taken = poll.is_ok() && random.random_bool(0.9);
        if !all_taken {
            faults += u32::from(poll.is_err());
            port.close_queue(queue).unwrap();
            queue = port.open_queue(0).unwrap();
            slot = 0;
        }
    }
    assert!(frames > 1_000 && faults > 100, "{frames} frames, {faults} faults");
}
