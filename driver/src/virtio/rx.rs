//! The receive half: polls the used ring, lends frames, gives buffers back.

use std::cell::Cell;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::desc::{HEADER_LEN, ReceiveHeader};
use super::pci::{Doorbell, Window};
use super::regs::ISR_STATUS;
use super::split::{Descriptor, Split, Used};
use crate::counters::Counters;
use crate::dma::DmaWords;
use crate::frame::{Frame, FrameMeta, MAX_SEGMENTS, Segment};
use crate::pool::{BUFFER_LEN, BufferId, Pool};
use crate::port::{QueueFault, RxQueue};

/// Buffers given back before the device is told. Telling costs a full barrier, and more where the device sleeps.
const PUBLISH_EVERY: u16 = 32;
/// The shortest frame that is handed on, in bytes: an Ethernet header.
const SHORTEST: u32 = 14;

/// Receive queue of a virtio network device. Every buffer is a descriptor of its own, offered under the same number for ever.
pub struct Rx {
    pub(super) queue: u16,
    ring: Split<DmaWords>,
    /// The buffer behind each descriptor.
    buffers: Box<[Cell<BufferId>]>,
    pool: Pool,
    doorbell: Doorbell,
    /// Frames may fill several buffers.
    merges: bool,
    max_frame: u16,
    /// The device was asked to interrupt.
    armed: bool,
    /// Where the line's cause is read away, for a device without messages.
    line: Option<Window>,
    counters: Arc<Counters<QueueFault>>,
    fault: Option<QueueFault>,
}

/// What a receive queue is made with.
pub(super) struct RxParts {
    pub ring: Split<DmaWords>,
    pub pool: Pool,
    pub doorbell: Doorbell,
    pub merges: bool,
    pub max_frame: u16,
    pub line: Option<Window>,
    pub counters: Arc<Counters<QueueFault>>,
}

impl Rx {
    /// Fills the ring with buffers of the pool; `None` when it has fewer than the ring needs. The device is told by [`Rx::publish`].
    pub(super) fn new(queue: u16, parts: RxParts) -> Option<Self> {
        let RxParts { mut ring, pool, doorbell, merges, max_frame, line, counters } = parts;
        let mut buffers = Vec::with_capacity(ring.layout().size().into());
        for descriptor in 0..ring.layout().size() {
            let id = pool.take_id()?;
            describe(&mut ring, &pool, descriptor, id);
            ring.offer(descriptor);
            buffers.push(Cell::new(id));
        }
        let buffers = buffers.into_boxed_slice();
        Some(Self {
            queue,
            ring,
            buffers,
            pool,
            doorbell,
            merges,
            max_frame,
            armed: false,
            line,
            counters,
            fault: None,
        })
    }

    /// Makes every posted buffer the device's.
    pub(super) fn publish(&mut self) {
        if self.ring.publish() {
            self.doorbell.ring();
        }
    }

    /// Takes the next frame off the used ring; the buffers behind its first go to `chain`. `None` when no frame is there, or not all of it yet.
    #[inline]
    fn gather(&mut self, chain: &mut Chain) -> Result<Option<Gathered>, QueueFault> {
        if self.ring.ready(1)? == 0 {
            return Ok(None);
        }
        let used = self.ring.peek()?;
        let buffer = self.buffers.get(usize::from(used.head)).filter(|_| used.len as usize <= BUFFER_LEN);
        // SAFETY: the device is done with a buffer in the used ring, and it is offered again only when the frame was handled.
        let bytes = buffer.map(|id| unsafe { self.pool.bytes(id.get(), used.len as u16) });
        let Some((header, frame)) = bytes.and_then(ReceiveHeader::split) else {
            return Err(self.ring.fault("used len", used.len.into()));
        };
        let gathered = Gathered { head: used.head, written: used.len as u16, header, total: frame.len() as u32 };
        if header.buffers != 1 && self.merges {
            return self.gather_rest(used, gathered, chain);
        }
        self.ring.take(used);
        Ok(Some(gathered))
    }

    /// As [`Rx::gather`], for a frame in several buffers (5.1.6.4), the first of which is at hand and sound.
    #[cold]
    fn gather_rest(&mut self, first: Used, frame: Gathered, chain: &mut Chain) -> Result<Option<Gathered>, QueueFault> {
        let buffers = frame.header.buffers;
        if !(1..=self.ring.layout().size()).contains(&buffers) {
            return Err(self.ring.fault("num_buffers", buffers.into()));
        }
        if self.ring.ready(buffers)? < buffers {
            return Ok(None);
        }
        self.ring.take(first);
        let mut total = frame.total;
        for _ in 1..buffers {
            let used = self.ring.peek()?;
            let buffer = self.buffers.get(usize::from(used.head));
            let Some(buffer) = buffer.filter(|_| (1..=BUFFER_LEN as u32).contains(&used.len)) else {
                return Err(self.ring.fault("used len", used.len.into()));
            };
            let segment = Segment::new(buffer.get(), used.len as u16);
            self.ring.take(used);
            total += used.len;
            if chain.segments.try_push(segment).is_err() || chain.heads.try_push(used.head).is_err() {
                // Longer than any frame that may be configured: the rest is not kept.
                self.ring.offer(used.head);
            }
        }
        Ok(Some(Gathered { total, ..frame }))
    }

    /// Gives the buffer behind descriptor `head` back to the device; `before` was there when it was taken.
    #[inline]
    fn give_back(&mut self, head: u16, before: BufferId) {
        if let Some(id) = self.buffers.get(usize::from(head)).map(Cell::get)
            && id != before
        {
            describe(&mut self.ring, &self.pool, head, id);
        }
        self.ring.offer(head);
    }

    /// Gives the buffers of a chain back.
    #[cold]
    fn give_back_chain(&mut self, chain: &mut Chain) {
        for (head, segment) in chain.heads.drain(..).zip(chain.segments.drain(..)) {
            let id = segment.buffer.get();
            let before = self.buffers.get(usize::from(head)).map_or(id, |slot| slot.replace(id));
            self.give_back(head, before);
        }
    }
}

/// A frame as it was taken off the used ring.
#[derive(Clone, Copy)]
struct Gathered {
    /// The descriptor of its first buffer, and the bytes written there, with the header.
    head: u16,
    written: u16,
    header: ReceiveHeader,
    /// Bytes of the frame, in all buffers.
    total: u32,
}

/// The buffers of a frame behind its first, and their descriptors.
#[derive(Default)]
struct Chain {
    heads: ArrayVec<u16, { MAX_SEGMENTS - 1 }>,
    segments: ArrayVec<Segment, { MAX_SEGMENTS - 1 }>,
}

/// Makes descriptor `index` that of buffer `id`, all of which the device may write.
#[inline]
fn describe(ring: &mut Split<DmaWords>, pool: &Pool, index: u16, id: BufferId) {
    let descriptor = Descriptor { iova: pool.iova(id), len: BUFFER_LEN as u32, device_writes: true, next: None };
    ring.describe(index, descriptor);
}

impl RxQueue for Rx {
    #[inline]
    fn poll(&mut self, budget: u32, mut handler: impl FnMut(Frame<'_>)) -> Result<u32, QueueFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut chain = Chain::default();
        let (mut frames, mut bytes, mut bad) = (0, 0, 0);
        while frames + bad < budget {
            let Gathered { head, written, header, total } = match self.gather(&mut chain) {
                Ok(Some(gathered)) => gathered,
                Ok(None) => break,
                Err(fault) => {
                    self.fault = Some(fault);
                    break;
                }
            };
            let Some(buffer) = self.buffers.get(usize::from(head)) else { break };
            let before = buffer.get();
            // The wire decides over the length, not the device: a wrong one is no fault.
            if (SHORTEST..=u32::from(self.max_frame)).contains(&total) {
                // SAFETY: the device is done with all these buffers, and they are offered below.
                unsafe {
                    let first = self.pool.bytes(before, written).get(usize::from(HEADER_LEN)..).unwrap_or_default();
                    let (len, checksum) = (total as u16, header.verdict(first));
                    let rest = (!chain.segments.is_empty()).then_some(&chain.segments);
                    let meta = FrameMeta { len, queue: self.queue, checksum, ..FrameMeta::default() };
                    Frame::lend(&self.pool, (buffer, first), rest, meta, &mut handler);
                }
                frames += 1;
                bytes += u64::from(total);
            } else {
                bad += 1;
            }
            self.give_back(head, before);
            if !chain.heads.is_empty() {
                self.give_back_chain(&mut chain);
            }
        }
        if frames + bad > 0 {
            self.counters.received(frames, bytes, bad);
            if self.armed {
                self.armed = false;
                self.ring.set_interrupt(false);
            }
        }
        if self.ring.unpublished() >= PUBLISH_EVERY.min(self.ring.layout().size() / 2) {
            self.publish();
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(frames),
        }
    }

    fn arm_interrupt(&mut self) {
        if let Some(isr) = &self.line {
            isr.read(ISR_STATUS);
        }
        self.armed = true;
        self.ring.set_interrupt(true);
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
}
