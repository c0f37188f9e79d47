//! The e1000 driver on a device that answers register reads, or writes descriptors, as no device should.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use barewire_driver::bus::model::{ArrivalStamps, DeviceModel, Host, ModelBus};
use barewire_driver::bus::{Bus, Width, config};
use barewire_driver::e1000::{Config, E1000, Rx, Tx};
use barewire_driver::pool::Buffer;
use barewire_driver::{Error, Port, PortEvent, QueueFault, QueuePair, RxQueue, TxMeta, TxQueue};
use proptest::prelude::*;

const CONFIG: Config =
    Config { queues: 1, rx_descriptors: 64, tx_descriptors: 64, kept_frames: 8, retained_frames: 8, max_frame: 5_000 };
/// Length limit of a receive buffer.
const BUFFER: u16 = 2_048;

const STATUS: u32 = 0x0008;
const EECD: u32 = 0x0010;
const RAH: u32 = 0x5404;
const RDBAL: u32 = 0x2800;
const TDBAL: u32 = 0x3800;
const TDH: u32 = 0x3810;
const TDT: u32 = 0x3818;

/// A device whose registers are plain memory, but for what bring-up waits for. Descriptors are written by the test.
struct Hostile {
    device: u16,
    host: OnceLock<Arc<Host>>,
    registers: Mutex<BTreeMap<u32, u32>>,
    stuck: Option<(u32, u32)>,
    /// Register reads so far, and how many are answered before all read ones.
    reads: AtomicU32,
    goes_at: AtomicU32,
    /// What may have started DMA: writes to the command register (bus mastering or not), and resets.
    mastery: Mutex<Vec<&'static str>>,
}

impl Hostile {
    fn plug(device: u16, stuck: Option<(u32, u32)>) -> (Arc<Self>, Arc<dyn Bus>) {
        let registers = BTreeMap::from([(STATUS, 0x82), (EECD, 1 << 9), (0x5400, 0x1234_5602), (RAH, 1 << 31)]);
        let registers = Mutex::new(registers);
        let device = Arc::new(Self {
            device,
            host: OnceLock::new(),
            registers,
            stuck,
            reads: AtomicU32::new(0),
            goes_at: AtomicU32::new(u32::MAX),
            mastery: Mutex::default(),
        });
        (device.clone(), Arc::new(ModelBus::new(device)))
    }

    fn is_82574(&self) -> bool {
        self.device == 0x10D3
    }

    /// Writes receive descriptor `slot` back with status bits, length and bytes that the device makes up.
    fn write_back(&self, slot: u64, status: u8, len: u16, noise: u64) {
        let word = match self.is_82574() {
            true => u64::from(status) | noise & 0xFFFF_0000_FFFF_FF00 | u64::from(len) << 32,
            false => u64::from(len) | noise & 0xFFFF_FF00_FFFF_0000 | u64::from(status) << 32,
        };
        self.write_descriptor(RDBAL, slot, [noise, word]);
    }

    /// Writes descriptor `slot` of the ring whose address is in `base`.
    fn write_descriptor(&self, base: u32, slot: u64, words: [u64; 2]) {
        let ring = u64::from(self.registers.lock().unwrap()[&base]);
        let host = self.host.get().unwrap();
        host.dma().write(ring + 16 * slot, &words.map(u64::to_le_bytes).concat()).unwrap();
    }
}

impl DeviceModel for Hostile {
    fn name(&self) -> &'static str {
        "hostile"
    }
    fn attach(&self, host: Arc<Host>) {
        assert!(self.host.set(host).is_ok());
    }
    fn config_read(&self, offset: u16, _width: Width) -> u32 {
        match offset {
            0 => 0x8086,
            2 => self.device.into(),
            _ => 0,
        }
    }
    fn config_write(&self, offset: u16, _width: Width, value: u32) {
        if offset == config::COMMAND {
            let masters = value & config::COMMAND_BUS_MASTER != 0;
            self.mastery.lock().unwrap().push(if masters { "on" } else { "off" });
        }
    }
    fn bar_sizes(&self) -> [u32; 6] {
        [128 << 10, 0, 0, 0, 0, 0]
    }
    fn register_read(&self, _bar: u8, offset: u32) -> u32 {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        match self.stuck {
            _ if read >= self.goes_at.load(Ordering::Relaxed) => u32::MAX,
            Some((register, value)) if register == offset => value,
            _ => self.registers.lock().unwrap().get(&offset).copied().unwrap_or(0),
        }
    }
    fn register_write(&self, _bar: u8, offset: u32, value: u32) {
        const RST: u32 = 1 << 26;
        if offset == 0 && value & RST != 0 {
            self.mastery.lock().unwrap().push("reset");
        }
        self.registers.lock().unwrap().insert(offset, if offset == 0 { value & !RST } else { value });
    }
    fn interrupt_vectors(&self) -> u16 {
        0
    }
    fn reset(&self) {}
    fn arrival_stamps(&self, _queue: u16) -> Option<Arc<ArrivalStamps>> {
        None
    }
}

fn open(device: u16) -> (Arc<Hostile>, E1000, QueuePair<Rx, Tx>) {
    let (device, bus) = Hostile::plug(device, None);
    let mut port = E1000::open(bus, CONFIG).unwrap();
    let queue = port.open_queue(0).unwrap();
    (device, port, queue)
}

const DONE: u8 = 1;
const END: u8 = 2;

#[test]
fn impossible_lengths_stop_the_queue_with_the_field_and_the_value() {
    for device in [0x100E, 0x10D3] {
        for (status, len, field) in
            [(DONE | END, 0, "LENGTH"), (DONE | END, BUFFER + 1, "LENGTH"), (DONE, u16::MAX, "LENGTH")]
        {
            let (device, mut port, mut queue) = open(device);
            device.write_back(0, DONE | END, 60, 0);
            device.write_back(1, status, len, 0);
            let mut lent = 0;
            let fault = queue.rx.poll(8, |_| lent += 1).unwrap_err();
            assert_eq!(fault, QueueFault { queue: 0, descriptor: 1, field, value: len.into() });
            device.write_back(1, DONE | END, 60, 0);
            assert_eq!(queue.rx.poll(8, |_| lent += 1), Err(fault), "it stays stopped");
            assert_eq!(lent, 1);
            port.close_queue(queue).unwrap();
            port.reset().unwrap();
            assert_eq!(port.open_queue(0).unwrap().rx.poll(8, |_| {}), Ok(0));
        }
    }
}

#[test]
fn frame_without_an_end_stops_the_queue() {
    let (device, _port, mut queue) = open(0x100E);
    (0..6).for_each(|slot| device.write_back(slot, DONE, 1, 0));
    let fault = queue.rx.poll(8, |_| panic!("no frame is whole")).unwrap_err();
    assert_eq!((fault.descriptor, fault.value), (0, 6));
    assert!(fault.to_string().contains("EOP"), "{fault}");
}

/// What a device that a killed process left may still do must not reach the next one's memory.
#[test]
fn device_may_start_dma_only_after_its_reset() {
    for id in [0x100E, 0x10D3] {
        let (device, _port, _queue) = open(id);
        assert_eq!(*device.mastery.lock().unwrap(), ["off", "reset", "on"]);
    }
}

/// Everything in the pool but what the receive ring holds, filled with a pattern.
fn park(tx: &mut Tx) -> Vec<Buffer> {
    let mut parked: Vec<_> = std::iter::from_fn(|| tx.reserve().ok()).collect();
    parked.iter_mut().for_each(|buffer| buffer.fill(0xA5));
    parked
}

fn is_intact(parked: &[Buffer]) -> bool {
    parked.iter().all(|buffer| buffer.iter().all(|byte| *byte == 0xA5))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the device writes over transmit descriptors, sent or not: each frame comes back once and never before its descriptor says so.
    #[test]
    fn any_transmit_write_back_frees_what_was_sent_and_once(
        rounds in prop::collection::vec((0u64..20, prop::collection::vec((0u64..64, any::<[u64; 2]>()), 0..40)), 1..60),
    ) {
        let (device, mut port, mut queue) = open(0x10D3);
        let all = queue.tx.pool().available();
        let canary = queue.tx.reserve().map(|mut buffer| { buffer.fill(0xA5); [buffer] }).unwrap();
        let (mut sent, mut taken) = (0u64, 0u64);
        for (frames, written) in rounds {
            for _ in 0..frames {
                let buffer = queue.tx.reserve().unwrap();
                sent += u64::from(queue.tx.commit(buffer, TxMeta { len: 60, ..TxMeta::default() }).is_ok());
            }
            queue.tx.flush();
            let done = written.iter().map(|(slot, words)| (*slot, words[1] >> 32 & 1)).collect::<BTreeMap<_, _>>();
            written.iter().for_each(|(slot, words)| device.write_descriptor(TDBAL, *slot, *words));
            let reclaimed = u64::from(queue.tx.reclaim());
            prop_assert!(taken + reclaimed <= sent);
            // In order, up to the first that is not done; one written now is done as its last word says.
            prop_assert!((taken..taken + reclaimed).all(|frame| done.get(&(frame % 64)) != Some(&0)));
            taken += reclaimed;
            prop_assert_eq!(queue.tx.pool().available() as u64, all as u64 - 1 - (sent - taken));
        }
        prop_assert!(is_intact(&canary));
        port.close_queue(queue).unwrap();
    }

    /// Whatever the device writes: frames that are lent are as long as they say and no longer than configured, a fault stays, no buffer is lost.
    #[test]
    fn any_write_back_is_a_frame_a_drop_or_a_fault(
        is_82574: bool,
        written in prop::collection::vec((0u8..16, prop_oneof![1..=BUFFER, Just(BUFFER), 0u16..=u16::MAX], any::<u64>()), 1..400),
        budget in 1u32..8,
    ) {
        let (device, mut port, mut queue) = open(if is_82574 { 0x10D3 } else { 0x100E });
        let parked = park(&mut queue.tx);
        let (mut stopped, size) = (None, u64::from(CONFIG.rx_descriptors));
        for (slot, (status, len, noise)) in (0u64..).zip(written) {
            device.write_back(slot % size, status | DONE, len, noise);
            let polled = queue.rx.poll(budget, |frame| {
                let len = usize::from(frame.meta().len);
                assert!((1..=usize::from(CONFIG.max_frame)).contains(&len));
                assert_eq!(frame.segments().map(<[u8]>::len).sum::<usize>(), len);
            });
            match (stopped, polled) {
                (None, Ok(frames)) => prop_assert!(frames <= budget),
                (None, Err(fault)) => stopped = Some(fault),
                (Some(fault), polled) => prop_assert_eq!(polled, Err(fault)),
            }
            prop_assert_eq!(queue.rx.pool().available(), 0, "a buffer of the ring was freed");
        }
        prop_assert!(is_intact(&parked));
        port.close_queue(queue).unwrap();
    }
}

#[test]
fn register_that_never_answers_ends_in_an_error_that_names_it() {
    for (register, value, name) in
        [(EECD, 0, "EECD"), (RAH, 0, "RAH"), (STATUS, 1 << 19, "STATUS"), (0, 1 << 26, "CTRL")]
    {
        let (_device, bus) = Hostile::plug(0x10D3, Some((register, value)));
        let start = Instant::now();
        let error = E1000::open(bus, CONFIG).err().expect("no device").to_string();
        assert!(error.contains(name) && error.contains(&format!("{value:#010x}")), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn device_that_is_gone_is_named_and_hangs_nothing() {
    let (device, mut port, queue) = open(0x10D3);
    device.goes_at.store(0, Ordering::Relaxed);
    let start = Instant::now();
    let before = port.stats();
    let error = port.service(0, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("STATUS") && error.contains("all ones"), "{error}");
    assert!(port.close_queue(queue).is_err());
    assert_eq!(port.stats(), before);
    assert!(port.reset().is_err());
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// All that a port does with registers, once.
fn live(bus: Arc<dyn Bus>) -> Result<(), Error> {
    let mut port = E1000::open(bus, CONFIG)?;
    let queue = port.open_queue(0)?;
    port.service(0, &mut |_| {})?;
    port.stats();
    port.close_queue(queue)?;
    port.reset()
}

#[test]
fn device_that_goes_at_any_register_read_is_named_and_hangs_nothing() {
    let (device, bus) = Hostile::plug(0x10D3, None);
    live(bus).unwrap();
    for gone in 0..device.reads.load(Ordering::Relaxed) {
        let (device, bus) = Hostile::plug(0x10D3, None);
        device.goes_at.store(gone, Ordering::Relaxed);
        let start = Instant::now();
        let error = live(bus).err().unwrap_or_else(|| panic!("gone at read {gone} is not noticed")).to_string();
        assert!(error.contains("all ones") || error.contains("0xffffffff"), "read {gone}: {error}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?} at read {gone}", start.elapsed());
    }
}

#[test]
fn transmit_head_beyond_the_ring_is_a_fault() {
    let (_device, bus) = Hostile::plug(0x100E, Some((TDH, 64)));
    let mut port = E1000::open(bus, CONFIG).unwrap();
    let _queue = port.open_queue(0).unwrap();
    let error = port.service(0, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("TDH") && error.contains("0x40"), "{error}");
}

#[test]
fn stuck_transmit_queue_is_reported_once_and_given_up_on_close() {
    let (_device, bus) = Hostile::plug(0x100E, Some((TDT, 1)));
    let mut port = E1000::open(bus, CONFIG).unwrap();
    let mut queue = port.open_queue(0).unwrap();
    let pool = queue.tx.pool().clone();
    let buffer = queue.tx.reserve().unwrap();
    assert!(queue.tx.commit(buffer, TxMeta { len: 60, ..TxMeta::default() }).is_ok());
    queue.tx.flush();
    let mut events = Vec::new();
    for second in 0..6 {
        port.service(second * 1_000_000_000, &mut |event| events.push(event)).unwrap();
    }
    assert_eq!(events, [PortEvent::TransmitStuck { queue: 0 }]);
    port.close_queue(queue).unwrap();
    // The receive ring's went with its memory; the frame that never left is free again.
    assert_eq!(pool.capacity() - pool.available(), 64);
}

#[test]
fn configuration_out_of_range_is_refused_by_part() {
    for (device, config, what) in [
        (0x100E, Config { queues: 2, ..CONFIG }, "queues"),
        (0x10D3, Config { queues: 3, ..CONFIG }, "queues"),
        (0x10D3, Config { max_frame: 9_231, ..CONFIG }, "max_frame"),
        (0x100E, Config { rx_descriptors: 8_192, ..CONFIG }, "receive ring"),
        (0x1521, CONFIG, "8086:1521"),
    ] {
        let (_device, bus) = Hostile::plug(device, None);
        let error = E1000::open(bus, config).err().expect("refused").to_string();
        assert!(error.contains(what), "{error}");
    }
}
