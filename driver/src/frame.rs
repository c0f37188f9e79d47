//! Received frames: lent in the buffer the device wrote, or taken.

use std::cell::Cell;

use arrayvec::ArrayVec;
use bitflags::bitflags;

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

bitflags! {
    /// What of a frame's metadata means anything.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(crate) struct Known: u8 {
        /// A tag was taken out.
        const VLAN = 1;
        /// A hash was computed.
        const RSS_HASH = 1 << 1;
        /// This process measured when it arrived.
        const TIMESTAMP = 1 << 2;
    }
}

/// What is known about a received frame beside its bytes. Three words, put together without a branch: every frame pays for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// Length in bytes over all segments, without FCS.
    pub len: u16,
    /// The queue that received it.
    pub queue: u16,
    /// The device's verdict on IP and transport checksums.
    pub checksum: Checksum,
    pub(crate) known: Known,
    pub(crate) vlan: u16,
    pub(crate) rss_hash: u32,
    pub(crate) arrived: Nanos,
}

impl FrameMeta {
    /// The 802.1Q tag (priority, DEI, VLAN id) where the device took one out of the frame.
    #[inline]
    pub fn vlan(&self) -> Option<u16> {
        self.known.contains(Known::VLAN).then_some(self.vlan)
    }

    /// The RSS hash where the device computed one.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        self.known.contains(Known::RSS_HASH).then_some(self.rss_hash)
    }

    /// When it arrived, where somebody measured it.
    #[inline]
    pub fn timestamp(&self) -> Option<Timestamp> {
        let stamp = Timestamp { ns: self.arrived, domain: ClockDomain::Process };
        self.known.contains(Known::TIMESTAMP).then_some(stamp)
    }
}

/// A further buffer of a chained frame. The poll loop gives the buffer named here back to the device when the handler returns.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) buffer: Cell<BufferId>,
    /// The buffer that the device wrote; another one stands in `buffer` once the frame was taken.
    original: BufferId,
    pub(crate) len: u16,
}

impl Segment {
    /// The first `len` bytes of `buffer`.
    pub(crate) fn new(buffer: BufferId, len: u16) -> Self {
        Self { buffer: Cell::new(buffer), original: buffer, len }
    }
}

/// The buffers of a chained frame behind the first.
pub(crate) type Chain = ArrayVec<Segment, { MAX_SEGMENTS - 1 }>;

/// Lets go of the buffers of a frame that was taken, with all its segments: what the handler borrowed of it is gone.
#[cold]
fn settle(pool: &Pool, first: BufferId, rest: Option<&Chain>) {
    pool.release(first);
    rest.into_iter().flatten().for_each(|segment| pool.release(segment.original));
}

/// A received frame, lent in place for the time of the handler's call. Handed on by value: what an inlined handler does not ask for is never put
/// together.
pub struct Frame<'a> {
    /// The first segment.
    bytes: &'a [u8],
    pool: &'a Pool,
    /// Names the first segment's buffer.
    buffer: &'a Cell<BufferId>,
    rest: Option<&'a Chain>,
    meta: FrameMeta,
}

impl<'a> Frame<'a> {
    /// Lends a frame to `handler`: its first `bytes` lie in `buffer`, those of a chained frame behind them in the buffers `rest`. Where the handler
    /// takes the frame, fresh buffers stand in these cells afterwards.
    ///
    /// # Safety
    /// The device must have finished with all these buffers, and they must not be posted again before this returns.
    #[inline(always)]
    pub(crate) unsafe fn lend(
        pool: &'a Pool,
        (buffer, bytes): (&'a Cell<BufferId>, &'a [u8]),
        rest: Option<&'a Chain>,
        meta: FrameMeta,
        handler: impl FnOnce(Frame<'_>),
    ) {
        let first = buffer.get();
        handler(Frame { bytes, pool, buffer, rest, meta });
        // Only from here on may the buffers of a frame that was taken be written again. A handler that panics has them lost to the pool.
        if buffer.get() != first {
            settle(pool, first, rest);
        }
    }

    /// What is known about the frame.
    #[inline]
    pub fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    /// The bytes of the first segment: all of the frame where [`Frame::is_chained`] is false.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the frame goes on in further segments.
    #[inline]
    pub fn is_chained(&self) -> bool {
        self.rest.is_some()
    }

    /// The bytes, segment by segment.
    #[inline]
    pub fn segments(&self) -> impl Iterator<Item = &'a [u8]> {
        let Self { pool, rest, bytes, .. } = *self;
        // SAFETY: by the promise made to `lend`, nobody writes to the buffers before `'a` ends.
        let rest =
            rest.into_iter().flatten().map(move |segment| unsafe { pool.bytes(segment.buffer.get(), segment.len) });
        std::iter::once(bytes).chain(rest)
    }

    /// Takes the frame out of the ring to keep it. Fresh buffers take its place there; when the pool has none left, the frame
    /// stays lent and comes back as the error.
    #[inline]
    pub fn take(self) -> Result<OwnedFrame, Self> {
        let Self { bytes, pool, buffer, rest, meta } = self;
        if pool.available() <= rest.map_or(0, |rest| rest.len()) {
            return Err(self);
        }
        let mut segments = ArrayVec::new();
        let start = pool.start_of(buffer.get(), bytes);
        let first = std::iter::once((buffer, start.saturating_add(bytes.len() as u16)));
        for (buffer, len) in first.chain(rest.into_iter().flatten().map(|segment| (&segment.buffer, segment.len))) {
            if let Some(fresh) = pool.take_id() {
                let taken = buffer.replace(fresh);
                // Slices of the frame live until the handler returns, even if the taken frame does not: `lend` holds the buffer until then.
                pool.retain(taken);
                // A frame has at most MAX_SEGMENTS segments, so the push always succeeds.
                let _ = segments.try_push((taken, len));
            }
        }
        Ok(OwnedFrame { pool: pool.clone(), start, segments, meta })
    }
}

/// A received frame that was taken. Its buffers return to the pool when it is dropped; it cannot leave its thread.
pub struct OwnedFrame {
    pool: Pool,
    /// Bytes of the first buffer before the frame's, such as a header of the device's own.
    start: u16,
    segments: ArrayVec<(BufferId, u16), MAX_SEGMENTS>,
    meta: FrameMeta,
}

impl OwnedFrame {
    /// What is known about the frame.
    pub fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    /// The bytes of the first segment: all of a frame that was not chained.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.segments().next().unwrap_or_default()
    }

    /// The bytes, segment by segment.
    #[inline]
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = usize::from(self.start);
        self.segments.iter().map(move |&(id, len)| {
            // SAFETY: `Frame::take` moved these buffers out of the ring, so the device does not write to them.
            let bytes = unsafe { self.pool.bytes(id, len) };
            bytes.get(std::mem::take(&mut start)..).unwrap_or_default()
        })
    }
}

impl Drop for OwnedFrame {
    fn drop(&mut self) {
        for &(id, _) in &self.segments {
            self.pool.release(id);
        }
    }
}
