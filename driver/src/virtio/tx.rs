//! The transmit half: queues frames, rings the doorbell once, takes buffers back.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::desc::{self, HEADER_LEN};
use super::pci::Doorbell;
use super::split::{Descriptor, Split};
use crate::checksum;
use crate::counters::Counters;
use crate::dma::DmaWords;
use crate::pool::{BUFFER_LEN, Buffer, BufferId, Pool, Retained};
use crate::port::{QueueFault, TxError, TxMeta, TxQueue};
use crate::ring::Words;

/// The shortest frame on Ethernet, in bytes without FCS. A virtio device sends what it is given, so the padding is done here.
const MIN_FRAME_LEN: u16 = 60;

/// Words of a slot's prefix: the virtio header, and where a tag goes in the addresses before it and the tag itself, 28 bytes.
pub(super) const PREFIX_WORDS: usize = 4;
/// Both Ethernet addresses: a tag goes behind them.
const ADDRESSES_LEN: u16 = 12;
const TAG_LEN: u16 = 4;

/// Transmit queue of a virtio network device. A frame is a chain of two descriptors, `2 * slot` for its prefix and the next one for its buffer.
pub struct Tx {
    ring: Split<DmaWords>,
    /// The prefixes, [`PREFIX_WORDS`] a slot.
    prefixes: DmaWords,
    /// The buffer behind each slot.
    buffers: Box<[Cell<Option<BufferId>>]>,
    /// Slots that are free: the first `free` of these.
    slots: Box<[u16]>,
    free: usize,
    pool: Pool,
    doorbell: Doorbell,
    /// The device fills in transport checksums.
    fills_checksums: bool,
    /// Frames and bytes committed since the last flush.
    unflushed: (u32, u64),
    counters: Arc<Counters<QueueFault>>,
}

/// What a transmit queue is made with.
pub(super) struct TxParts {
    pub ring: Split<DmaWords>,
    pub prefixes: DmaWords,
    pub pool: Pool,
    pub doorbell: Doorbell,
    pub fills_checksums: bool,
    pub counters: Arc<Counters<QueueFault>>,
}

impl Tx {
    pub(super) fn new(parts: TxParts) -> Self {
        let TxParts { ring, prefixes, pool, doorbell, fills_checksums, counters } = parts;
        let count = ring.layout().size() / 2;
        let buffers = vec![Cell::new(None); count.into()].into_boxed_slice();
        // The lowest slot is on top.
        let slots = (0..count).rev().collect();
        let free = count.into();
        Self { ring, prefixes, buffers, slots, free, pool, doorbell, fills_checksums, unflushed: (0, 0), counters }
    }

    /// Frames that the device has not finished, or that nobody has taken back.
    pub(super) fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    /// Frees every buffer that a stopped queue still holds.
    pub(super) fn abandon(&mut self) {
        for buffer in &self.buffers {
            if let Some(id) = buffer.take() {
                self.pool.release(id);
            }
        }
    }

    /// Whether a frame with `meta` can be queued now.
    #[inline]
    fn admit(&mut self, meta: &TxMeta) -> Result<(), TxError> {
        // Less than its addresses and type is no frame.
        if meta.len < 14 || usize::from(meta.len) > BUFFER_LEN || !checksum::fit(meta) {
            return Err(TxError::BadLength);
        }
        if self.free == 0 {
            self.reclaim();
            if self.free == 0 {
                return Err(if self.counters.fault.get().is_some() { TxError::Stopped } else { TxError::RingFull });
            }
        }
        Ok(())
    }

    /// As [`Tx::admit`], and does in the buffer what the device leaves to the driver.
    #[inline]
    fn prepare(&mut self, buffer: &mut Buffer, meta: &TxMeta) -> Result<(), TxError> {
        if !buffer.is_from(&self.pool) {
            return Err(TxError::ForeignBuffer);
        }
        self.admit(meta)?;
        if meta.len < MIN_FRAME_LEN
            && let Some(padding) = buffer.get_mut(usize::from(meta.len)..usize::from(MIN_FRAME_LEN))
        {
            padding.fill(0);
        }
        checksum::fill(buffer.as_mut_slice(), meta, !self.fills_checksums);
        Ok(())
    }

    /// Queues a frame that was admitted; the slot takes over one reference to `id`. `addresses` are the frame's first bytes.
    #[inline]
    fn queue_frame(&mut self, id: BufferId, meta: &TxMeta, addresses: [u8; ADDRESSES_LEN as usize]) {
        let Some(top) = self.free.checked_sub(1) else { return };
        let Some(&slot) = self.slots.get(top) else { return };
        self.free = top;
        let len = meta.len.max(MIN_FRAME_LEN - if meta.vlan.is_some() { TAG_LEN } else { 0 });
        let (skipped, tag_len) = if meta.vlan.is_some() { (ADDRESSES_LEN, TAG_LEN) } else { (0, 0) };
        let header = if self.fills_checksums { desc::transmit_header(meta, tag_len) } else { [0, 0] };
        let at = usize::from(slot) * PREFIX_WORDS;
        match meta.vlan {
            None => store(&self.prefixes, at, header),
            Some(tag) => {
                let prefix = tagged_prefix(header, addresses, tag);
                store(&self.prefixes, at, prefix);
            }
        }
        let prefix = Descriptor {
            iova: self.prefixes.iova() + at as u64 * 8,
            len: u32::from(HEADER_LEN + skipped + tag_len),
            device_writes: false,
            next: Some(slot * 2 + 1),
        };
        self.ring.describe(slot * 2, prefix);
        let data = Descriptor {
            iova: self.pool.iova(id) + u64::from(skipped),
            len: u32::from(len - skipped),
            device_writes: false,
            next: None,
        };
        self.ring.describe(slot * 2 + 1, data);
        if let Some(buffer) = self.buffers.get(usize::from(slot)) {
            buffer.set(Some(id));
        }
        self.ring.offer(slot * 2);
        self.unflushed.0 += 1;
        self.unflushed.1 += u64::from(len + tag_len);
    }

    /// Takes one finished frame back, if there is one.
    #[inline]
    fn finish_one(&mut self) -> Result<bool, QueueFault> {
        if self.ring.ready(1)? == 0 {
            return Ok(false);
        }
        // Only even descriptors head a chain, so the slot is one of ours. What the device says it wrote is not looked at: there is nothing
        // to write to, and some devices say the length they read.
        let used = self.ring.peek()?;
        self.ring.take(used);
        let slot = used.head / 2;
        if let Some(id) = self.buffers.get(usize::from(slot)).and_then(Cell::take) {
            self.pool.release(id);
        }
        if let Some(place) = self.slots.get_mut(self.free) {
            *place = slot;
            self.free += 1;
        }
        Ok(true)
    }
}

#[inline]
fn store<const N: usize>(words: &DmaWords, at: usize, values: [u64; N]) {
    for (word, value) in values.into_iter().enumerate() {
        words.store(at + word, value, Ordering::Relaxed);
    }
}

/// Header, addresses and 802.1Q tag in a row (IEEE 802.1Q, 9.3).
#[inline]
fn tagged_prefix(header: [u64; 2], addresses: [u8; ADDRESSES_LEN as usize], tag: u16) -> [u64; PREFIX_WORDS] {
    const TPID: u16 = 0x8100;
    let [first, second] = header;
    let [a, b, c, d, rest @ ..] = addresses;
    let [e, f, g, h, i, j, k, l] = rest;
    let tag = u32::from(TPID) << 16 | u32::from(tag);
    [
        first,
        second & 0xFFFF_FFFF | u64::from(u32::from_le_bytes([a, b, c, d])) << 32,
        u64::from_le_bytes([e, f, g, h, i, j, k, l]),
        u64::from(tag.swap_bytes()),
    ]
}

/// The first bytes of a frame, which has more.
#[inline]
fn addresses(frame: &[u8]) -> [u8; ADDRESSES_LEN as usize] {
    frame.first_chunk().copied().unwrap_or_default()
}

impl TxQueue for Tx {
    #[inline]
    fn reserve(&mut self) -> Result<Buffer, TxError> {
        if let Some(buffer) = self.pool.take() {
            return Ok(buffer);
        }
        self.reclaim();
        self.pool.take().ok_or(TxError::PoolEmpty)
    }

    #[inline]
    fn commit(&mut self, mut buffer: Buffer, meta: TxMeta) -> Result<(), (TxError, Buffer)> {
        if let Err(error) = self.prepare(&mut buffer, &meta) {
            return Err((error, buffer));
        }
        let addresses = addresses(buffer.as_slice());
        let id = buffer.into_id(&self.pool).map_err(|buffer| (TxError::ForeignBuffer, buffer))?;
        self.queue_frame(id, &meta, addresses);
        Ok(())
    }

    #[inline]
    fn commit_retained(&mut self, mut buffer: Buffer, meta: TxMeta) -> Result<Retained, (TxError, Buffer)> {
        if let Err(error) = self.prepare(&mut buffer, &meta) {
            return Err((error, buffer));
        }
        let addresses = addresses(buffer.as_slice());
        let retained = buffer.into_retained(meta.len);
        self.queue_frame(retained.id(), &meta, addresses);
        Ok(retained)
    }

    /// What was filled in when the frame was committed stands: its checksums and its padding.
    #[inline]
    fn recommit(&mut self, frame: &Retained, meta: TxMeta) -> Result<(), TxError> {
        if !frame.is_from(&self.pool) {
            return Err(TxError::ForeignBuffer);
        }
        if usize::from(meta.len) > frame.bytes().len() {
            return Err(TxError::BadLength);
        }
        self.admit(&meta)?;
        self.pool.retain(frame.id());
        self.queue_frame(frame.id(), &meta, addresses(frame.bytes()));
        Ok(())
    }

    #[inline]
    fn flush(&mut self) {
        if self.ring.unpublished() == 0 {
            return;
        }
        let (frames, bytes) = std::mem::take(&mut self.unflushed);
        self.counters.sent(frames, bytes);
        if self.ring.publish() {
            self.doorbell.ring();
        }
    }

    #[inline]
    fn reclaim(&mut self) -> u32 {
        if self.counters.fault.get().is_some() {
            return 0;
        }
        let mut frames = 0;
        loop {
            match self.finish_one() {
                Ok(true) => frames += 1,
                Ok(false) => return frames,
                Err(fault) => {
                    // Nobody else sets it. After this nothing is taken back and nothing queued.
                    let _ = self.counters.fault.set(fault);
                    self.free = 0;
                    return frames;
                }
            }
        }
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }
}
