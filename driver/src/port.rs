//! The face of every driver: a port on the control path, queues on the hot path.
#![forbid(unsafe_code)]

use std::fmt;

use crate::clock::Nanos;
use crate::error::Error;
use crate::frame::Frame;
use crate::interrupt::Interrupt;
use crate::pool::{Buffer, Pool, PoolPlan, Retained};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xFF; 6]);

    /// Whether the group bit is set (IEEE 802, 8.2): multicast or broadcast.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The state of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// No carrier.
    Down,
    /// Carrier, at this many Mb/s.
    Up {
        /// Megabits a second; zero where the device does not say.
        speed_mbps: u32,
    },
}

/// Frame counts since the port was opened. The device's own registers, summed where they clear on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Good frames received.
    pub rx_frames: u64,
    /// Bytes of good frames received, with FCS.
    pub rx_bytes: u64,
    /// Frames dropped because no descriptor or no buffer space was free.
    pub rx_missed: u64,
    /// Frames with a wrong FCS.
    pub rx_crc_errors: u64,
    /// Frames with an impossible length.
    pub rx_length_errors: u64,
    /// Good frames sent.
    pub tx_frames: u64,
    /// Bytes of good frames sent, with FCS.
    pub tx_bytes: u64,
}

/// What [`Port::service`] noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortEvent {
    /// The link changed.
    Link(Link),
    /// A transmit queue has work that the device has not touched for a while though the link is up; close the queues and reset the port.
    TransmitStuck {
        /// The queue.
        queue: u16,
    },
    /// Somebody wants the device back, such as a hot-unplug: close the queues and drop the port.
    RemovalRequested,
}

/// What a port is opened with. Every driver holds it against its [`PortLimits`].
#[derive(Debug, Clone, Copy)]
pub struct PortConfig {
    /// Queue pairs that may be opened.
    pub queues: u16,
    /// Descriptors of a receive ring, a power of two.
    pub rx_descriptors: u32,
    /// Descriptors of a transmit ring, a power of two.
    pub tx_descriptors: u32,
    /// Received frames that handlers may keep at a time, in buffers; at most 65,536.
    pub kept_frames: u32,
    /// Sent frames that may be retained or parked at a time, in buffers; at most 65,536.
    pub retained_frames: u32,
    /// The longest frame to receive, in bytes without FCS, from 64 on.
    pub max_frame: u16,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            kept_frames: 256,
            retained_frames: 256,
            max_frame: 1522,
        }
    }
}

/// What a family of devices allows.
#[derive(Debug, Clone, Copy)]
pub struct PortLimits {
    /// Queue pairs, at most.
    pub queues: u16,
    /// Descriptors of a ring, from and to, both powers of two.
    pub ring: (u32, u32),
    /// The longest frame, in bytes without FCS.
    pub max_frame: usize,
}

impl PortConfig {
    /// Holds every value against what the device allows.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the first value that is out of range and what is allowed.
    pub fn check(&self, limits: &PortLimits) -> Result<(), Error> {
        const HELD: u32 = 1 << 16;
        let refuse = |what, value: u64, allowed| Err(Error::InvalidConfig { what, value, allowed });
        let (least, most) = limits.ring;
        for (what, size) in [("receive ring", self.rx_descriptors), ("transmit ring", self.tx_descriptors)] {
            if !(least..=most).contains(&size) || !size.is_power_of_two() {
                return refuse(
                    what,
                    size.into(),
                    format!("a ring has a power of two from {least} to {most} descriptors"),
                );
            }
        }
        if !(1..=limits.queues).contains(&self.queues) {
            return refuse("queues", self.queues.into(), format!("1 to {} queue pairs are allowed", limits.queues));
        }
        if !(64..=limits.max_frame).contains(&self.max_frame.into()) {
            return refuse("max_frame", self.max_frame.into(), format!("64 to {} bytes are allowed", limits.max_frame));
        }
        let held = self.kept_frames.max(self.retained_frames);
        if held > HELD {
            return refuse("kept or retained frames", held.into(), format!("at most {HELD} are allowed"));
        }
        Ok(())
    }

    /// The buffers of one queue pair, consumer by consumer.
    pub(crate) fn pool_plan(&self) -> PoolPlan {
        PoolPlan::default()
            .consumer("receive ring", self.rx_descriptors)
            .consumer("received frames kept by handlers", self.kept_frames)
            .consumer("transmit ring", self.tx_descriptors)
            .consumer("sent frames retained, or parked", self.retained_frames)
    }
}

/// One receive and one transmit queue with the pool they share. Belongs to the thread that opened it.
pub struct QueuePair<R, T> {
    /// The receive half.
    pub rx: R,
    /// The transmit half.
    pub tx: T,
}

/// A network port: bring-up, link, filters, statistics, reset. Control path.
pub trait Port: Send {
    /// The receive half of its queues.
    type Rx: RxQueue;
    /// The transmit half of its queues.
    type Tx: TxQueue;

    /// Opens queue pair `index` on the calling thread, which will own it. Frames flow from here on.
    fn open_queue(&mut self, index: u16) -> Result<QueuePair<Self::Rx, Self::Tx>, Error>;

    /// Stops a queue pair in order: frames that were committed leave, then no DMA is in flight any more.
    fn close_queue(&mut self, pair: QueuePair<Self::Rx, Self::Tx>) -> Result<(), Error>;

    /// Makes queue `index`, which must be open, interrupt when frames arrive while it is armed: see [`RxQueue::arm_interrupt`].
    fn interrupt(&mut self, index: u16) -> Result<Interrupt, Error>;

    /// The station address.
    fn mac(&self) -> MacAddress;

    /// The state of the link now.
    fn link(&self) -> Result<Link, Error>;

    /// Receives every frame on the wire, or only what is addressed to the port.
    fn set_promiscuous(&mut self, on: bool) -> Result<(), Error>;

    /// Receives frames to a group address. Filters may be imperfect: more may arrive.
    fn join_multicast(&mut self, group: MacAddress) -> Result<(), Error>;

    /// Undoes one [`Port::join_multicast`].
    fn leave_multicast(&mut self, group: MacAddress) -> Result<(), Error>;

    /// The counters.
    fn stats(&mut self) -> PortStats;

    /// The periodic tick off the hot path: link changes, statistics, a watchdog over stuck queues. Calls `notice` for each event.
    fn service(&mut self, now: Nanos, notice: &mut dyn FnMut(PortEvent)) -> Result<(), Error>;

    /// Resets and initialises the device again. All queues must have been closed.
    fn reset(&mut self) -> Result<(), Error>;
}

/// The device broke the contract of its descriptors; the queue has stopped and stays stopped until it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "queue {queue}: {field} of descriptor {descriptor} is {value:#x}, which is impossible; close the queue and reset the port"
)]
pub struct QueueFault {
    /// The queue.
    pub queue: u16,
    /// The descriptor's index in its ring.
    pub descriptor: u32,
    /// The datasheet's name of the field.
    pub field: &'static str,
    /// What the device wrote.
    pub value: u64,
}

/// The receive half of a queue pair. Hot path.
pub trait RxQueue {
    /// Lends up to `budget` received frames to `handler`, in order, and gives their buffers back to the device. Returns how many.
    ///
    /// # Errors
    /// When the device wrote something impossible. The queue is stopped then; memory is intact.
    fn poll(&mut self, budget: u32, handler: impl FnMut(Frame<'_>)) -> Result<u32, QueueFault>;

    /// Whether nothing has arrived, where that is known at a glance: a poll would find no frame.
    #[inline]
    fn is_quiet(&self) -> bool {
        false
    }

    /// Asks for one interrupt when the next frame arrives. Frames that are there already may raise none: poll once more before sleeping.
    /// Costs register writes; meant for the way to sleep.
    fn arm_interrupt(&mut self);

    /// The pool that received frames live in.
    fn pool(&self) -> &Pool;
}

/// Checksums that the device is to fill in. The transport checksum field must hold the pseudo-header sum (not inverted).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumOffload {
    /// None: the frame is complete.
    #[default]
    None,
    /// The IPv4 header's.
    Ipv4,
    /// The IPv4 header's and UDP's.
    Ipv4Udp,
    /// The IPv4 header's and TCP's.
    Ipv4Tcp,
}

/// How to send a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxMeta {
    /// Length of the frame in bytes, without FCS. Short frames are padded by the device.
    pub len: u16,
    /// Checksums to fill in.
    pub checksum: ChecksumOffload,
    /// Bytes before the IP header, for checksum offload (82599: 7 bits).
    pub l2_len: u8,
    /// Bytes of the IP header, for checksum offload.
    pub l3_len: u16,
    /// The 802.1Q tag to insert.
    pub vlan: Option<u16>,
}

/// Why a frame was not queued. Nothing was lost; what was passed in comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// Every descriptor is in flight. Flush, poll, and try again.
    #[error("transmit ring is full; flush and try again after the device has caught up")]
    RingFull,
    /// Every buffer is held. Drop or finish some.
    #[error("packet pool is exhausted; release retained or parked buffers")]
    PoolEmpty,
    /// The length is zero or beyond the buffer.
    #[error("frame length is zero or longer than its buffer")]
    BadLength,
    /// The device broke the contract of its descriptors; [`Port::service`] says how.
    #[error("transmit queue was stopped by a fault of the device; close the queue and reset the port")]
    Stopped,
    /// The buffer is from another queue pair's pool.
    #[error("buffer belongs to another queue pair")]
    ForeignBuffer,
}

/// The transmit half of a queue pair. Hot path.
pub trait TxQueue {
    /// A buffer to write a frame into. A parked buffer holds no descriptor.
    fn reserve(&mut self) -> Result<Buffer, TxError>;

    /// Queues the first `meta.len` bytes of `buffer`. The device sees them at the next [`TxQueue::flush`].
    fn commit(&mut self, buffer: Buffer, meta: TxMeta) -> Result<(), (TxError, Buffer)>;

    /// As [`TxQueue::commit`], and keeps the bytes readable for sending them again.
    fn commit_retained(&mut self, buffer: Buffer, meta: TxMeta) -> Result<Retained, (TxError, Buffer)>;

    /// Queues a retained frame once more.
    fn recommit(&mut self, frame: &Retained, meta: TxMeta) -> Result<(), TxError>;

    /// Rings the doorbell once for all that was committed since the last time; does nothing when there is none.
    fn flush(&mut self);

    /// Takes finished descriptors back and frees their buffers. Returns how many. `reserve` and `commit` call it when they run short.
    fn reclaim(&mut self) -> u32;

    /// Does what can wait until there is nothing else to do: takes finished descriptors back, once there are enough to be worth it.
    #[inline]
    fn tidy(&mut self) {
        self.reclaim();
    }

    /// The pool that frames to send live in.
    fn pool(&self) -> &Pool;
}
