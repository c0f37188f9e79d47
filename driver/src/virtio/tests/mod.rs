//! The whole driver on a device that lies in this file, and that can be told to misbehave.
#![forbid(unsafe_code)]

mod commands;
mod control;
mod init;
mod pci;
mod rings;
mod rx;
mod tx;

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::split::Layout;
use super::*;
use crate::Error;
use crate::bus::model::Host;
use crate::bus::{Bus, BusError, InterruptKind, Interrupts, config};
use crate::dma::Region;
use crate::mmio::{Mmio, Registers, Width};
use crate::port::{MacAddress, Port, QueueFault, QueuePair, RxQueue, TxError, TxMeta, TxQueue};
use crate::ring::{Words, Words16};

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
