//! The whole driver on a device that lies in this file, and that can be told to misbehave.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::pci::Transport;
use super::split::Layout;
use super::*;
use crate::bus::model::Host;
use crate::bus::{Bus, BusError, InterruptKind, Interrupts, config};
use crate::clock::Clock;
use crate::dma::Region;
use crate::mmio::{Mmio, Registers, Width};
use crate::port::{
    ChecksumOffload, Link, MacAddress, Port, PortEvent, QueueFault, QueuePair, RxQueue, TxError, TxMeta, TxQueue,
};
use crate::ring::{Words, Words16};
use crate::{Checksum, Error};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const GROUP: MacAddress = MacAddress([0x01, 0x00, 0x5E, 1, 2, 3]);
const HEADER: usize = 12;

/// MAC, MRG_RXBUF, STATUS, CTRL_VQ, CTRL_RX, VERSION_1, ACCESS_PLATFORM, CSUM, GUEST_CSUM, and RING_PACKED to be turned down.
const OFFERED: u64 = 1 << 5 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 32 | 1 << 33 | 3 | 1 << 34;

/// A device with four structures in BAR 4, each 0x1000 bytes from the one before.
struct Device {
    host: Host,
    config: Mutex<[u8; 256]>,
    state: Mutex<State>,
    /// Register reads so far, and how many are answered before the device is gone.
    reads: AtomicU32,
    goes_at: AtomicU32,
}

struct State {
    offered: u64,
    accepted: u64,
    select: u32,
    status: u8,
    /// FEATURES_OK is taken back.
    refuses: bool,
    link: u16,
    generation: u8,
    /// The generation changes all the time.
    restless: bool,
    queue: usize,
    queues: [Queue; 3],
    most: u16,
    /// What came by the control queue, and what it is answered; `None` for no answer.
    commands: Vec<Vec<u8>>,
    answer: Option<u8>,
    /// The used element of a command, and how far the index moves with it.
    used: (u64, u16),
    /// What may have started DMA: writes to the command register (bus mastering or not), and resets.
    mastery: Vec<&'static str>,
}

#[derive(Default, Clone, Copy)]
struct Queue {
    size: u16,
    places: [u64; 3],
    enabled: bool,
    available: u16,
    used: u16,
    notified: u32,
}

/// A piece of a chain: address, length, and whether the device writes to it.
type Part = (u64, usize, bool);

/// Registers of the common structure that hold halves of the rings' places.
fn half_of(offset: u32) -> Option<(usize, u32)> {
    (0x20..0x38).contains(&offset).then(|| ((offset as usize - 0x20) / 8, offset % 8 * 8))
}

impl Registers for Device {
    fn read(&self, offset: u32, width: Width) -> u32 {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.is_gone() {
            return width.mask();
        }
        let mut state = self.state.lock().unwrap();
        state.generation = state.generation.wrapping_add(state.restless.into()) & 0x7F;
        let queue = state.queues.get(state.queue).copied().unwrap_or_default();
        let (value, natural) = match offset {
            0x04 => ((state.offered >> (32 * state.select.min(1))) as u32, Width::Dword),
            0x14 => (state.status.into(), Width::Byte),
            0x15 => (state.generation.into(), Width::Byte),
            0x18 => (queue.size.into(), Width::Word),
            0x1E => (state.queue as u32, Width::Word),
            0x2000..=0x2005 => (MAC[offset as usize - 0x2000].into(), Width::Byte),
            0x2006 => (state.link.into(), Width::Word),
            _ => panic!("register {offset:#x} read"),
        };
        assert_eq!(width, natural, "{offset:#x}");
        value
    }

    fn write(&self, offset: u32, width: Width, value: u32) {
        if self.is_gone() {
            return;
        }
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let selected = state.queue;
        let natural = match offset {
            0x00 | 0x08 => {
                state.select = value;
                Width::Dword
            }
            0x0C => {
                let shift = 32 * state.select;
                state.accepted = state.accepted & !(0xFFFF_FFFF << shift) | u64::from(value) << shift;
                Width::Dword
            }
            0x14 if value == 0 => {
                state.reset();
                Width::Byte
            }
            0x14 => {
                state.status = value as u8 & if state.refuses { !8 } else { !0 };
                Width::Byte
            }
            0x16 => {
                state.queue = value as usize;
                Width::Word
            }
            0x18 => {
                state.queues[selected].size = value as u16;
                Width::Word
            }
            0x1C => {
                assert!(state.status & 8 != 0 && state.status & 4 == 0, "queues are enabled before DRIVER_OK");
                state.queues[selected].enabled = value == 1;
                Width::Word
            }
            0x3000..=0x3008 => {
                assert_eq!(offset, 0x3000 + 4 * value);
                assert!(state.status & 4 != 0, "a doorbell before DRIVER_OK");
                state.queues[value as usize].notified += 1;
                Width::Word
            }
            _ => {
                let (place, shift) = half_of(offset).unwrap_or_else(|| panic!("register {offset:#x} written"));
                let place = &mut state.queues[selected].places[place];
                *place = *place & !(0xFFFF_FFFF << shift) | u64::from(value) << shift;
                Width::Dword
            }
        };
        assert_eq!(width, natural, "{offset:#x}");
        if offset == 0x3008 {
            self.command(state);
        }
    }
}

impl State {
    fn reset(&mut self) {
        self.mastery.push("reset");
        self.status = 0;
        self.accepted = 0;
        self.queues = [Queue { size: self.most, ..Queue::default() }; 3];
    }
}

impl Device {
    fn new(offered: u64) -> Arc<Self> {
        let mut config = [0; 256];
        config[..4].copy_from_slice(&[0xF4, 0x1A, 0x41, 0x10]);
        config[0x06] = 1 << 4;
        config[0x34] = 0x40;
        // Another capability first, then the four structures.
        config[0x40..0x42].copy_from_slice(&[0x11, 0x50]);
        for (index, kind) in [1u8, 3, 4, 2].into_iter().enumerate() {
            let at = 0x50 + index * 0x18;
            let next = if index < 3 { at as u8 + 0x18 } else { 0 };
            let place = [0u32, 0x1000, 0x2000, 0x3000][index];
            config[at..at + 5].copy_from_slice(&[0x09, next, 0x14, kind, 4]);
            config[at + 8..at + 12].copy_from_slice(&place.to_le_bytes());
            config[at + 12..at + 16].copy_from_slice(&0x1000u32.to_le_bytes());
            config[at + 16] = 4;
        }
        let state = State {
            offered,
            accepted: 0,
            select: 0,
            status: 0,
            refuses: false,
            link: 1,
            generation: 0,
            restless: false,
            queue: 0,
            queues: [Queue::default(); 3],
            most: 64,
            commands: Vec::new(),
            answer: Some(0),
            used: (1 << 32, 1),
            mastery: Vec::new(),
        };
        Arc::new(Self {
            host: Host::default(),
            config: Mutex::new(config),
            state: Mutex::new(state),
            reads: AtomicU32::new(0),
            goes_at: AtomicU32::new(u32::MAX),
        })
    }

    fn is_gone(&self) -> bool {
        self.reads.load(Ordering::Relaxed) > self.goes_at.load(Ordering::Relaxed)
    }

    fn set_config(&self, at: usize, bytes: &[u8]) {
        self.config.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn queue(&self, queue: usize) -> Queue {
        self.state.lock().unwrap().queues[queue]
    }

    /// Runs `with` on the words of a ring.
    fn ring<T>(&self, queue: &Queue, with: impl FnOnce(Layout, &dyn Ring) -> T) -> T {
        let layout = Layout::new(queue.size).unwrap();
        assert_eq!(queue.places, layout.places(queue.places[0]));
        let dma = self.host.dma();
        with(layout, &dma.words(queue.places[0], layout.words()).unwrap())
    }

    /// The next chain made available: its head and its parts.
    fn next_chain(&self, index: usize) -> Option<(u16, Vec<Part>)> {
        let mut queue = self.queue(index);
        let chain = self.ring(&queue, |layout, words| {
            let ring = layout.places(0)[1] as usize / 2;
            if words.half(ring + 1) == queue.available {
                return None;
            }
            let head = words.half(ring + 2 + usize::from(queue.available % queue.size));
            let (mut parts, mut at) = (Vec::new(), head);
            loop {
                let [iova, second] = [0, 1].map(|word| words.whole(usize::from(at) * 2 + word));
                parts.push((iova, second as u32 as usize, second >> 33 & 1 == 1));
                if second >> 32 & 1 == 0 {
                    return Some((head, parts));
                }
                at = (second >> 48) as u16;
            }
        });
        queue.available = queue.available.wrapping_add(chain.is_some() as u16);
        self.state.lock().unwrap().queues[index] = queue;
        chain
    }

    /// Writes used elements and then, once, the index.
    fn complete(&self, index: usize, elements: &[(u32, u32)]) {
        let queue = self.queue(index);
        let done = queue.used.wrapping_add(elements.len() as u16);
        self.ring(&queue, |layout, words| {
            let used = layout.places(0)[2] as usize;
            for (ahead, (id, len)) in elements.iter().enumerate() {
                let slot = usize::from(queue.used.wrapping_add(ahead as u16) % queue.size);
                words.set_whole((used + 4) / 8 + slot, u64::from(*id) | u64::from(*len) << 32);
            }
            words.set_half(used / 2 + 1, done);
        });
        self.state.lock().unwrap().queues[index].used = done;
    }

    /// Receives `frame` from the wire: into as many buffers as it takes, `flags` in its header.
    fn receive(&self, frame: &[u8], flags: u8) {
        let mut header = [0; HEADER];
        header[0] = flags;
        let whole = [&header[..], frame].concat();
        let pieces: Vec<_> = whole.chunks(2048).collect();
        let elements: Vec<_> = pieces
            .iter()
            .enumerate()
            .map(|(index, piece)| {
                let (head, parts) = self.next_chain(0).expect("a buffer");
                let [(iova, 2048, true)] = parts[..] else { panic!("{parts:?}") };
                self.host.dma().write(iova, piece).unwrap();
                if index == 0 {
                    self.host.dma().write(iova + 10, &(pieces.len() as u16).to_le_bytes()).unwrap();
                }
                (u32::from(head), piece.len() as u32)
            })
            .collect();
        self.complete(0, &elements);
    }

    /// What the driver made available to be sent: head, header, frame.
    fn sent(&self) -> Vec<(u16, Vec<u8>, Vec<u8>)> {
        std::iter::from_fn(|| {
            let (head, parts) = self.next_chain(1)?;
            let mut bytes = Vec::new();
            for (iova, len, writable) in parts {
                assert!(!writable);
                let mut piece = vec![0; len];
                self.host.dma().read(iova, &mut piece).unwrap();
                bytes.extend(piece);
            }
            let frame = bytes.split_off(HEADER);
            Some((head, bytes, frame))
        })
        .collect()
    }

    /// Carries a command out, on the doorbell of the control queue.
    fn command(&self, state: &mut State) {
        let (queue, answer) = (&mut state.queues[2], state.answer);
        let Some(answer) = answer else { return };
        let layout = Layout::new(queue.size).unwrap();
        let dma = self.host.dma();
        let words = dma.words(queue.places[0], layout.words()).unwrap();
        let [(question, len), (place, 1)] =
            [0, 1].map(|at| (words.load(at * 2, Ordering::Acquire), words.load(at * 2 + 1, Ordering::Acquire) as u32))
        else {
            panic!("a command is a question and one byte for the answer")
        };
        let mut bytes = vec![0; len as usize];
        dma.read(question, &mut bytes).unwrap();
        state.commands.push(bytes);
        dma.write(place, &[answer]).unwrap();
        let (used, (element, step)) = (layout.places(0)[2] as usize, state.used);
        words.store((used + 4) / 8 + usize::from(queue.used % queue.size), element, Ordering::Relaxed);
        queue.used = queue.used.wrapping_add(step);
        words.store16(used / 2 + 1, queue.used, Ordering::Release);
    }
}

/// Words of both widths, without saying how they are ordered.
trait Ring {
    fn half(&self, index: usize) -> u16;
    fn set_half(&self, index: usize, value: u16);
    fn whole(&self, index: usize) -> u64;
    fn set_whole(&self, index: usize, value: u64);
}

impl<W: Words16> Ring for W {
    fn half(&self, index: usize) -> u16 {
        self.load16(index, Ordering::Acquire)
    }
    fn set_half(&self, index: usize, value: u16) {
        self.store16(index, value, Ordering::Release);
    }
    fn whole(&self, index: usize) -> u64 {
        self.load(index, Ordering::Acquire)
    }
    fn set_whole(&self, index: usize, value: u64) {
        self.store(index, value, Ordering::Release);
    }
}

/// The way to the device.
struct Slot(Arc<Device>);

impl Bus for Slot {
    fn address(&self) -> String {
        "test:virtio".to_owned()
    }

    fn config_read(&self, offset: u16, width: Width) -> Result<u32, BusError> {
        let config = self.0.config.lock().unwrap();
        let bytes = (0..width.bytes()).map(|byte| config.get(usize::from(offset + byte)).copied().unwrap_or(0xFF));
        Ok(bytes.enumerate().fold(0, |value, (index, byte)| value | u32::from(byte) << (8 * index)))
    }

    fn config_write(&self, offset: u16, _: Width, value: u32) -> Result<(), BusError> {
        if offset == config::COMMAND {
            let masters = value & config::COMMAND_BUS_MASTER != 0;
            self.0.state.lock().unwrap().mastery.push(if masters { "on" } else { "off" });
        }
        Ok(())
    }

    fn bar(&self, index: u8) -> Result<Mmio, BusError> {
        match index {
            4 => Ok(Mmio::emulated(self.0.clone(), 0x4000)),
            bar => Err(BusError::NoBar { address: self.address(), bar }),
        }
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        vec![0..=u64::MAX]
    }

    fn dma_map(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        self.0.host.map(iova, region).expect("addresses are used once");
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, region: &Arc<Region>) -> Result<(), BusError> {
        let state = self.0.state.lock().unwrap();
        assert!(state.status & 4 == 0 || self.0.is_gone(), "memory is taken from a device that works");
        assert_eq!(self.0.host.unmap(iova, region.len() as u64), Ok(1));
        Ok(())
    }

    fn interrupts(&self) -> Interrupts {
        Interrupts { kind: InterruptKind::IntX, vectors: 0 }
    }

    fn set_interrupt(&self, _: u16, _: Option<OwnedFd>) -> Result<(), BusError> {
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        Ok(())
    }
}

const CONFIG: Config =
    Config { queues: 1, rx_descriptors: 64, tx_descriptors: 64, kept_frames: 4, retained_frames: 4, max_frame: 9000 };

fn open(device: &Arc<Device>) -> Result<VirtioNet, Error> {
    VirtioNet::open(Arc::new(Slot(device.clone())), CONFIG)
}

/// A device and its driver with the queue pair open.
struct Station {
    device: Arc<Device>,
    port: VirtioNet,
    queue: Option<QueuePair<Rx, Tx>>,
}

impl Station {
    fn new(offered: u64) -> Self {
        let device = Device::new(offered);
        let mut port = open(&device).unwrap();
        let queue = Some(port.open_queue(0).unwrap());
        Self { device, port, queue }
    }

    fn queue(&mut self) -> &mut QueuePair<Rx, Tx> {
        self.queue.as_mut().unwrap()
    }

    fn send(&mut self, bytes: &[u8], meta: TxMeta) -> Result<(), TxError> {
        let tx = &mut self.queue().tx;
        let mut buffer = tx.reserve()?;
        buffer[..bytes.len()].copy_from_slice(bytes);
        tx.commit(buffer, TxMeta { len: bytes.len() as u16, ..meta }).map_err(|(error, _)| error)?;
        tx.flush();
        Ok(())
    }

    fn received(&mut self) -> Result<Vec<Vec<u8>>, QueueFault> {
        let mut frames = Vec::new();
        self.queue().rx.poll(u32::MAX, |frame| frames.push(frame.segments().flatten().copied().collect()))?;
        Ok(frames)
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        // The device is silenced before the queues' memory goes, also where a test ends with them open.
        if let Some(queue) = self.queue.take() {
            let _ = self.port.close_queue(queue);
        }
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| n as u8).collect()
}

#[test]
fn open_negotiates_what_it_knows_and_nothing_else() {
    let station = Station::new(OFFERED);
    let state = station.device.state.lock().unwrap();
    assert_eq!(state.accepted, OFFERED & !(1 << 34));
    assert_eq!(state.status, 1 | 2 | 4 | 8);
    assert!(state.queues.iter().all(|queue| queue.enabled));
    // An empty table of groups, not every group, not everything: QEMU starts with everything.
    let table = [&[1, 0][..], &[0; 8]].concat();
    assert_eq!(state.commands, [table, vec![0, 1, 0], vec![0, 0, 0]]);
    drop(state);
    assert_eq!((station.port.mac().0, station.port.link().unwrap()), (MAC, Link::Up { speed_mbps: 0 }));
}

/// What a device that a killed process left may still do must not reach the next one's memory.
#[test]
fn device_may_start_dma_only_after_its_reset() {
    let device = Device::new(OFFERED);
    let _port = open(&device).unwrap();
    assert_eq!(device.state.lock().unwrap().mastery, ["off", "reset", "on"]);
}

/// All that a port does with registers, once. Returns how many it read.
fn live(device: &Arc<Device>) -> Result<u32, Error> {
    let mut port = open(device)?;
    let queue = port.open_queue(0)?;
    port.service(0, &mut |_| {})?;
    port.join_multicast(GROUP)?;
    port.close_queue(queue)?;
    port.reset()?;
    Ok(device.reads.load(Ordering::Relaxed))
}

#[test]
fn device_that_goes_at_any_register_read_is_named_and_hangs_nothing() {
    const BOUND: u64 = 5_000_000_000;
    let clock = Clock::calibrated();
    for gone in 0..live(&Device::new(OFFERED)).unwrap() {
        let device = Device::new(OFFERED);
        device.goes_at.store(gone, Ordering::Relaxed);
        let start = clock.now();
        let error = live(&device).err().unwrap_or_else(|| panic!("gone at read {gone} is not noticed")).to_string();
        // A doorbell's place is told as what came of it, and a command as not carried out.
        let told =
            ["all ones", "reads 0xff", "queue_notify_off", "got no answer"].iter().any(|told| error.contains(told));
        assert!(told, "read {gone}: {error}");
        let took = clock.now() - start;
        assert!(took < BOUND, "{took} ns at read {gone}");
    }
}

#[test]
fn open_refuses_devices_that_lack_what_it_needs() {
    for (missing, name) in [(5, "MAC"), (32, "VERSION_1"), (33, "ACCESS_PLATFORM")] {
        let error = open(&Device::new(OFFERED & !(1 << missing))).err().unwrap();
        assert!(matches!(&error, Error::MissingFeature { feature, .. } if *feature == name), "{error}");
    }
    let device = Device::new(OFFERED);
    device.state.lock().unwrap().refuses = true;
    assert!(matches!(open(&device), Err(Error::DeviceFault { what: "device_status", .. })));
    let error = open(&Device::new(OFFERED & !(1 << 15))).err().unwrap();
    assert!(matches!(error, Error::InvalidConfig { what: "max_frame", value: 9000, .. }), "{error}");
    let device = Device::new(OFFERED);
    device.set_config(2, &[0x42]);
    assert!(matches!(open(&device), Err(Error::UnsupportedDevice { device: 0x1042, .. })));
    device.set_config(2, &[0x41]);
    device.state.lock().unwrap().most = 0;
    assert!(matches!(open(&device), Err(Error::DeviceFault { what: "queue_size", .. })));
}

#[test]
fn capabilities_that_lie_are_refused() {
    type Lie = (usize, &'static [u8]);
    let lies: [Lie; 6] = [
        // The list runs in a circle.
        (0x51, &[0x40]),
        // The list ends early.
        (0x51, &[0]),
        // The common structure leaves its BAR, by offset, by length, by both.
        (0x50 + 8, &[0xFF, 0xFF, 0xFF, 0xFF]),
        (0x50 + 12, &[1, 0x40, 0, 0]),
        // It is too short, and in a BAR that is not there.
        (0x50 + 12, &[0x10, 0, 0, 0]),
        (0x50 + 4, &[2]),
    ];
    for (at, bytes) in lies {
        let device = Device::new(OFFERED);
        device.set_config(at, bytes);
        assert!(open(&device).is_err(), "{bytes:x?} at {at:#x}");
    }
    // A doorbell beyond the notify structure shows when the queue is opened.
    let device = Device::new(OFFERED);
    device.set_config(0x50 + 3 * 0x18 + 16, &[0xFF, 0xFF, 0xFF, 0xFF]);
    let error = open(&device).unwrap().open_queue(0).err().unwrap();
    assert!(matches!(error, Error::DeviceFault { what: "queue_notify_off", .. }), "{error}");
}

proptest! {
    /// Nothing in configuration space brings the driver down.
    #[test]
    fn hostile_configuration_space_is_survived(config in proptest::collection::vec((0x34usize..256, any::<u8>()), 1..24)) {
        let device = Device::new(OFFERED);
        config.iter().for_each(|(at, byte)| device.set_config(*at, &[*byte]));
        // A structure may still be readable at a wrong place: registers that are not there read all ones.
        let _ = Transport::find(&Slot(device));
    }
}

#[test]
fn frames_arrive_whole_and_buffers_go_round() {
    let mut station = Station::new(OFFERED);
    let available = station.queue().rx.pool().available();
    for round in 0..200usize {
        let sent = [bytes(60 + round), bytes(2036), bytes(2037), bytes(9000)];
        sent.iter().for_each(|frame| station.device.receive(frame, 0));
        assert_eq!(station.received().unwrap(), sent);
    }
    assert_eq!(station.queue().rx.pool().available(), available);
    let stats = station.port.stats();
    assert_eq!((stats.rx_frames, stats.rx_length_errors), (800, 0));
    assert_eq!(stats.rx_bytes, (0..200).map(|round| 60 + round + 2036 + 2037 + 9000 + 16).sum::<u64>());
}

#[test]
fn kept_frames_hold_their_bytes_and_fresh_buffers_take_their_place() {
    let mut station = Station::new(OFFERED);
    [bytes(100), bytes(5000)].iter().for_each(|frame| station.device.receive(frame, 0));
    let mut kept = Vec::new();
    station.queue().rx.poll(9, |frame| kept.push(frame.take().ok().unwrap())).unwrap();
    for _ in 0..64 {
        station.device.receive(&[0xEE; 2000], 0);
        assert_eq!(station.received().unwrap(), [[0xEE; 2000]]);
    }
    let whole = |frame: &crate::OwnedFrame| frame.segments().flatten().copied().collect::<Vec<_>>();
    assert_eq!(kept.iter().map(whole).collect::<Vec<_>>(), [bytes(100), bytes(5000)]);
}

#[test]
fn frames_of_wrong_length_are_dropped_and_counted() {
    let mut station = Station::new(OFFERED);
    for _ in 0..10 {
        [0, 13, 9001, 40_000].into_iter().for_each(|len| station.device.receive(&bytes(len), 0));
        station.device.receive(&bytes(14), 0);
        assert_eq!(station.received().unwrap(), [bytes(14)]);
    }
    assert_eq!(station.port.stats().rx_length_errors, 40);
}

#[test]
fn incomplete_chain_waits_for_its_rest() {
    let mut station = Station::new(OFFERED);
    let [(first, parts), (second, _)] = [0, 1].map(|_| station.device.next_chain(0).unwrap());
    let header = [&[0u8; 10][..], &[2, 0], &bytes(2036)].concat();
    station.device.host.dma().write(parts[0].0, &header).unwrap();
    station.device.complete(0, &[(first.into(), 2048)]);
    assert!(station.received().unwrap().is_empty());
    station.device.complete(0, &[(second.into(), 8)]);
    assert_eq!(station.received().unwrap()[0].len(), 2044);
}

#[test]
fn verdict_comes_from_the_header() {
    let mut station = Station::new(OFFERED);
    let mut frame = bytes(60);
    frame[12..34].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0x66, 0xBD, 10, 0, 0, 1, 10, 0, 0, 2]);
    [0, 1, 2].into_iter().for_each(|flags| station.device.receive(&frame, flags));
    frame[24] ^= 1;
    station.device.receive(&frame, 2);
    let mut verdicts = Vec::new();
    station.queue().rx.poll(9, |frame| verdicts.push(frame.meta().checksum)).unwrap();
    assert_eq!(verdicts, [Checksum::Unchecked, Checksum::Good, Checksum::Good, Checksum::Bad]);
}

#[test]
fn impossible_receive_fields_stop_the_queue() {
    let whole = |station: &Station, buffers: u16| {
        let (head, parts) = station.device.next_chain(0).unwrap();
        station.device.host.dma().write(parts[0].0 + 10, &buffers.to_le_bytes()).unwrap();
        u32::from(head)
    };
    type Break = fn(u32) -> (u32, u32);
    let breaks: [(&str, u16, Break); 6] = [
        ("used len", 1, |head| (head, 11)),
        ("used len", 1, |head| (head, 2049)),
        ("used len", 1, |head| (head, u32::MAX)),
        ("used id", 1, |_| (64, 100)),
        ("num_buffers", 0, |head| (head, 100)),
        ("num_buffers", 65, |head| (head, 100)),
    ];
    for (field, buffers, element) in breaks {
        let mut station = Station::new(OFFERED);
        let head = whole(&station, buffers);
        station.device.complete(0, &[element(head)]);
        let fault = station.received().unwrap_err();
        assert_eq!((fault.field, fault.queue), (field, 0));
        station.device.receive(&bytes(60), 0);
        assert_eq!(station.received(), Err(fault), "it stays stopped");
    }
}

#[test]
fn transmit_completes_in_any_order_and_keeps_what_is_retained() {
    let mut station = Station::new(OFFERED);
    let available = station.queue().tx.pool().available();
    let tx = &mut station.queue().tx;
    let mut buffer = tx.reserve().unwrap();
    buffer[..100].copy_from_slice(&bytes(100));
    let meta = TxMeta { len: 100, ..TxMeta::default() };
    let kept = tx.commit_retained(buffer, meta).ok().unwrap();
    tx.recommit(&kept, meta).unwrap();
    assert_eq!(tx.recommit(&kept, TxMeta { len: 101, ..meta }), Err(TxError::BadLength));
    tx.flush();
    station.send(&bytes(200), TxMeta::default()).unwrap();
    let sent = station.device.sent();
    assert_eq!(sent.iter().map(|(_, _, frame)| frame.len()).collect::<Vec<_>>(), [100, 100, 200]);
    assert!(sent.iter().all(|(_, header, frame)| *header == [0; HEADER] && *frame == bytes(frame.len())));
    let finish = |station: &mut Station, index: usize| {
        station.device.complete(1, &[(sent[index].0.into(), 0)]);
        assert_eq!(station.queue().tx.reclaim(), 1);
    };
    finish(&mut station, 2);
    finish(&mut station, 0);
    let kept = kept.try_into_buffer().err().expect("one sending is in flight");
    finish(&mut station, 1);
    assert_eq!(kept.bytes(), bytes(100));
    drop(kept.try_into_buffer().ok().expect("writable again"));
    assert_eq!(station.queue().tx.pool().available(), available);
    let stats = station.port.stats();
    assert_eq!((stats.tx_frames, stats.tx_bytes), (3, 412));
}

#[test]
fn transmit_ring_fills_and_empties_over_index_wraps() {
    let mut station = Station::new(OFFERED);
    for _ in 0..2_100 {
        let committed = (0..40).take_while(|_| station.send(&bytes(64), TxMeta::default()).is_ok()).count();
        assert_eq!(committed, 32);
        assert_eq!(station.send(&bytes(64), TxMeta::default()), Err(TxError::RingFull));
        let heads: Vec<_> = station.device.sent().iter().rev().map(|(head, ..)| (u32::from(*head), 0)).collect();
        assert_eq!(heads.len(), 32);
        station.device.complete(1, &heads);
    }
}

#[test]
fn short_frames_are_padded_with_zeroes_and_bad_lengths_refused() {
    let mut station = Station::new(OFFERED);
    station.send(&[0xFF; 2000], TxMeta::default()).unwrap();
    let [(head, ..)] = station.device.sent()[..] else { panic!() };
    station.device.complete(1, &[(head.into(), 0)]);
    station.queue().tx.reclaim();
    // The same buffer again: what was in it must not leave.
    station.send(&[1; 20], TxMeta::default()).unwrap();
    assert_eq!(station.device.sent()[0].2, [&[1; 20][..], &[0; 40]].concat());
    let offload = TxMeta { checksum: ChecksumOffload::Ipv4Tcp, l2_len: 14, l3_len: 20, ..TxMeta::default() };
    for (len, meta) in [(13, TxMeta::default()), (51, offload), (0, TxMeta::default())] {
        assert_eq!(station.send(&bytes(len), meta), Err(TxError::BadLength));
    }
    let tx = &mut station.queue().tx;
    let buffer = tx.reserve().unwrap();
    let (error, _) = tx.commit(buffer, TxMeta { len: 2049, ..TxMeta::default() }).unwrap_err();
    assert_eq!(error, TxError::BadLength);
}

#[test]
fn tag_goes_behind_the_addresses_and_moves_the_checksum() {
    let mut station = Station::new(OFFERED);
    let frame = bytes(100);
    let meta =
        TxMeta { checksum: ChecksumOffload::Ipv4Udp, l2_len: 14, l3_len: 20, vlan: Some(0x2064), ..TxMeta::default() };
    station.send(&frame, meta).unwrap();
    let (_, header, sent) = &station.device.sent()[0];
    assert_eq!(header[..], [1, 0, 0, 0, 0, 0, 38, 0, 6, 0, 0, 0]);
    assert_eq!((&sent[..12], &sent[12..16], &sent[16..18]), (&frame[..12], &[0x81, 0, 0x20, 0x64][..], &frame[12..14]));
    assert_eq!((sent.len(), &sent[30..]), (104, [&sent[30..38], &frame[34..]].concat().as_slice()));
}

#[test]
fn transmit_fault_stops_the_queue_and_is_reported_by_service() {
    let mut station = Station::new(OFFERED);
    station.send(&bytes(64), TxMeta::default()).unwrap();
    let [(head, ..)] = station.device.sent()[..] else { panic!() };
    station.device.complete(1, &[(u32::from(head) + 1, 0)]);
    assert_eq!(station.queue().tx.reclaim(), 0);
    assert_eq!(station.send(&bytes(64), TxMeta::default()), Err(TxError::Stopped));
    let error = station.port.service(0, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Queue(QueueFault { queue: 1, field: "used id", .. })), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the device writes into the used rings and the headers: no panic, no buffer lost or held twice, canary intact, and a queue that
    /// stopped stays stopped.
    #[test]
    fn hostile_device_never_corrupts_memory(
        steps in proptest::collection::vec((0..3usize, any::<bool>(), 0..70u32, prop_oneof![0..2100u32, any::<u32>()], any::<u16>()), 1..60)
    ) {
        let mut station = Station::new(OFFERED);
        let canary = station.queue().tx.reserve().map(|mut buffer| { buffer.fill(0xA5); buffer }).unwrap();
        let mut stopped = None;
        for (what, honest, id, len, buffers) in steps {
            match what {
                0 if honest => {
                    if let Some((head, parts)) = station.device.next_chain(0) {
                        station.device.host.dma().write(parts[0].0 + 10, &(buffers % 4).to_le_bytes()).unwrap();
                        station.device.complete(0, &[(head.into(), len)]);
                    }
                }
                0 => station.device.complete(0, &[(id, len)]),
                1 => {
                    let _ = station.send(&bytes(64), TxMeta::default());
                    let heads: Vec<_> = station.device.sent().iter().map(|(head, ..)| (u32::from(*head), len)).collect();
                    station.device.complete(1, if honest { &heads } else { &[(0, 0)] });
                }
                _ => {
                    match (stopped, station.received()) {
                        (None, received) => stopped = received.err(),
                        (Some(fault), received) => prop_assert_eq!(received, Err(fault)),
                    }
                    station.queue().tx.reclaim();
                }
            }
            if let Err(error) = station.port.service(0, &mut |_| {}) {
                prop_assert!(matches!(error, Error::Queue(QueueFault { queue: 1, .. })), "{}", error);
                prop_assert_eq!(station.send(&bytes(64), TxMeta::default()), Err(TxError::Stopped));
            }
            let pool = station.queue().rx.pool();
            prop_assert!(pool.available() < pool.capacity() - 64, "a posted buffer is free");
        }
        prop_assert!(canary.iter().all(|byte| *byte == 0xA5));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the device says of a command: it was carried out only if the device said so of this one, and what follows is no panic.
    #[test]
    fn hostile_answers_to_commands_are_errors(
        answers in proptest::collection::vec((any::<u8>(), prop_oneof![Just(1u64 << 32), 0u64..4, any::<u64>()], 1u16..), 1..8),
    ) {
        let mut station = Station::new(OFFERED | 1 << 23);
        for (answer, element, step) in answers {
            let honest = { let mut state = station.device.state.lock().unwrap();
                (state.answer, state.used) = (Some(answer), (element, step));
                answer == 0 && element as u32 == 0 && step == 1
            };
            let outcome = station.port.set_mac(MacAddress(MAC));
            let told = |error: &Error| matches!(error, Error::Queue(QueueFault { queue: 2, .. }) | Error::Command { .. });
            prop_assert!(outcome.as_ref().map_or_else(told, |()| honest), "{:?}", outcome);
            if matches!(outcome, Err(Error::Queue(_))) {
                break;
            }
        }
    }
}

#[test]
fn filters_follow_joins_and_survive_close_and_open() {
    let mut station = Station::new(OFFERED);
    let take = |station: &Station| std::mem::take(&mut station.device.state.lock().unwrap().commands);
    take(&station);
    station.port.join_multicast(GROUP).unwrap();
    let table = [&[1, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], &GROUP.0].concat();
    let expected = |on| [table.clone(), vec![0, 1, 0], vec![0, 0, on]];
    assert_eq!(take(&station), expected(0));
    let queue = station.queue.take().unwrap();
    station.port.close_queue(queue).unwrap();
    station.port.set_promiscuous(true).unwrap();
    assert!(take(&station).is_empty(), "a device that does not work takes no commands");
    station.queue = Some(station.port.open_queue(0).unwrap());
    assert_eq!(take(&station), expected(1));
    for n in 0..64 {
        station.port.join_multicast(MacAddress([1, 0, 0x5E, 1, 1, n])).unwrap();
    }
    // Sixty-five: the table ends, every group is let in.
    assert_eq!(take(&station).split_off(63 * 3), [vec![0, 1, 1], vec![0, 0, 1]]);
}

#[test]
fn device_without_filters_says_what_follows() {
    let mut station = Station::new(OFFERED & !(1 << 18));
    station.port.join_multicast(GROUP).unwrap();
    station.port.set_promiscuous(true).unwrap();
    let error = station.port.set_promiscuous(false).unwrap_err().to_string();
    assert!(error.contains("CTRL_RX") && error.contains("stay open"), "{error}");
    assert!(station.device.state.lock().unwrap().commands.is_empty());
    assert!(station.port.set_mac(MacAddress(MAC)).is_err());
}

#[test]
fn commands_refused_or_unanswered_are_errors() {
    let mut station = Station::new(OFFERED);
    let outcome = |error: Error| match error {
        Error::Command { outcome, .. } => outcome,
        other => panic!("{other}"),
    };
    station.device.state.lock().unwrap().answer = Some(1);
    assert_eq!(outcome(station.port.set_promiscuous(true).unwrap_err()), "was refused");
    station.device.state.lock().unwrap().answer = None;
    assert_eq!(outcome(station.port.set_promiscuous(true).unwrap_err()), "got no answer within a second");
    let later = outcome(station.port.set_promiscuous(true).unwrap_err());
    assert_eq!(later, "cannot be sent while an earlier one is unanswered");
}

#[test]
fn service_tells_link_stuck_queue_and_a_device_in_need_of_reset() {
    let mut station = Station::new(OFFERED);
    let service = |station: &mut Station, now| {
        let mut events = Vec::new();
        station.port.service(now, &mut |event| events.push(event)).map(|()| events)
    };
    assert_eq!(service(&mut station, 0).unwrap(), []);
    station.device.state.lock().unwrap().link = 0;
    assert_eq!(service(&mut station, 1).unwrap(), [PortEvent::Link(Link::Down)]);
    station.send(&bytes(64), TxMeta::default()).unwrap();
    assert_eq!(service(&mut station, 5_000_000_000).unwrap(), [], "it waits for the link");
    station.device.state.lock().unwrap().link = 1;
    let up = PortEvent::Link(Link::Up { speed_mbps: 0 });
    assert_eq!(service(&mut station, 6_000_000_000).unwrap(), [up]);
    assert_eq!(service(&mut station, 8_000_000_000).unwrap(), [PortEvent::TransmitStuck { queue: 0 }]);
    assert_eq!(service(&mut station, 9_000_000_000).unwrap(), [], "said once");
    let heads: Vec<_> = station.device.sent().iter().map(|(head, ..)| (u32::from(*head), 0)).collect();
    station.device.complete(1, &heads);
    // Done by the device, though nobody has taken it back.
    assert_eq!(service(&mut station, 19_000_000_000).unwrap(), []);
    station.device.state.lock().unwrap().status |= 64;
    assert!(matches!(service(&mut station, 0), Err(Error::NeedsReset { .. })));
    station.device.state.lock().unwrap().status = 0xFF;
    assert!(matches!(service(&mut station, 0), Err(Error::Register(crate::mmio::MmioError::Gone { .. }))));
    station.device.state.lock().unwrap().status = 0;
    assert!(matches!(service(&mut station, 0), Err(Error::NeedsReset { .. })));
}

#[test]
fn close_resets_and_drop_leaves_the_device_silent() {
    let mut station = Station::new(OFFERED);
    assert!(station.port.reset().is_err(), "a queue is open");
    assert!(station.port.open_queue(0).is_err(), "it is open already");
    let queue = station.queue.take().unwrap();
    station.port.close_queue(queue).unwrap();
    assert_eq!(station.device.state.lock().unwrap().status, 1 | 2 | 8);
    assert!(station.port.open_queue(1).is_err(), "one is configured");
    station.port.reset().unwrap();
    let device = station.device.clone();
    drop(station);
    assert_eq!(device.state.lock().unwrap().status, 0);
}

#[test]
fn configuration_that_never_rests_is_an_error() {
    let station = Station::new(OFFERED);
    station.device.state.lock().unwrap().restless = true;
    let error = station.port.link().unwrap_err();
    assert!(matches!(error, Error::DeviceFault { what: "config_generation", .. }), "{error}");
}
