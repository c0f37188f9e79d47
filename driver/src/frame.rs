//! Received frames: lent in the buffer the device wrote, or taken.

use std::cell::Cell;

use arrayvec::ArrayVec;

use crate::clock::Nanos;
use crate::pool::{BUFFER_LEN, BufferId, Pool};

/// The largest frame in bytes, without FCS: the 82599's 9.5 KiB (datasheet 1.3).
pub const MAX_FRAME_LEN: usize = 9728;

/// Buffers that the largest frame fills.
pub(crate) const MAX_SEGMENTS: usize = MAX_FRAME_LEN.div_ceil(BUFFER_LEN);

/// What the device found out about the IP and transport checksums of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Every checksum that is there is right.
    Good,
    /// A checksum is wrong, or the device claims so wrongly; a receiver that cares checks again in software.
    Bad,
    /// The device did not look.
    #[default]
    Unchecked,
}

/// Which clock a time stamp was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockDomain {
    /// This process's own [`crate::clock::Clock`], read by a device model.
    Process,
    /// The NIC's clock.
    Nic,
}

/// When a frame arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// Nanoseconds in the clock's own epoch.
    pub ns: Nanos,
    /// Which clock.
    pub domain: ClockDomain,
}

/// What is known about a received frame beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// Length in bytes over all segments, without FCS.
    pub len: u16,
    /// The queue that received it.
    pub queue: u16,
    /// The device's verdict on IP and transport checksums.
    pub checksum: Checksum,
    /// The 802.1Q tag (priority, DEI, VLAN id) where the device took one out of the frame.
    pub vlan: Option<u16>,
    /// The RSS hash where the device computed one.
    pub rss_hash: Option<u32>,
    /// When it arrived, where somebody measured it.
    pub timestamp: Option<Timestamp>,
}

/// One buffer of a received frame. The poll loop gives the buffer named here back to the device when the handler returns.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) buffer: Cell<BufferId>,
    pub(crate) len: u16,
}

/// A received frame, lent in place for the time of the handler's call.
pub struct Frame<'a> {
    pool: &'a Pool,
    head: &'a Segment,
    rest: &'a [Segment],
    meta: &'a FrameMeta,
}

impl<'a> Frame<'a> {
    /// A frame in `head` and the chained buffers `rest`.
    ///
    /// # Safety
    /// The device must have finished with all these buffers, and they must not be posted again before `'a` ends.
    #[inline]
    pub(crate) unsafe fn new(pool: &'a Pool, head: &'a Segment, rest: &'a [Segment], meta: &'a FrameMeta) -> Self {
        Self { pool, head, rest, meta }
    }

    /// What is known about the frame.
    #[inline]
    pub fn meta(&self) -> &'a FrameMeta {
        self.meta
    }

    /// The bytes of the first segment: all of the frame where [`Frame::is_chained`] is false.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        // SAFETY: by the promise made to `new`, nobody writes to the buffer before `'a` ends.
        unsafe { self.pool.bytes(self.head.buffer.get(), self.head.len) }
    }

    /// Whether the frame goes on in further segments.
    #[inline]
    pub fn is_chained(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The bytes, segment by segment.
    #[inline]
    pub fn segments(&self) -> impl Iterator<Item = &'a [u8]> {
        let pool = self.pool;
        // SAFETY: as in `bytes`.
        std::iter::once(self.head).chain(self.rest).map(move |s| unsafe { pool.bytes(s.buffer.get(), s.len) })
    }

    /// Takes the frame out of the ring to keep it. Fresh buffers take its place there; when the pool has none left, the frame
    /// stays lent and comes back as the error.
    #[inline]
    pub fn take(self) -> Result<OwnedFrame, Self> {
        if self.pool.available() <= self.rest.len() {
            return Err(self);
        }
        let mut segments = ArrayVec::new();
        for segment in std::iter::once(self.head).chain(self.rest) {
            if let Some(fresh) = self.pool.take_id() {
                // A frame has at most MAX_SEGMENTS segments, so the push always succeeds.
                let _ = segments.try_push((segment.buffer.replace(fresh), segment.len));
            }
        }
        Ok(OwnedFrame { pool: self.pool.clone(), segments, meta: *self.meta })
    }
}

/// A received frame that was taken. Its buffers return to the pool when it is dropped; it cannot leave its thread.
pub struct OwnedFrame {
    pool: Pool,
    segments: ArrayVec<(BufferId, u16), MAX_SEGMENTS>,
    meta: FrameMeta,
}

impl OwnedFrame {
    /// What is known about the frame.
    pub fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    /// The bytes, segment by segment.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: `Frame::take` moved these buffers out of the ring, so the device does not write to them.
        self.segments.iter().map(|&(id, len)| unsafe { self.pool.bytes(id, len) })
    }
}

impl Drop for OwnedFrame {
    fn drop(&mut self) {
        for &(id, _) in &self.segments {
            self.pool.release(id);
        }
    }
}
