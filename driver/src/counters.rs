//! What a queue pair counts in software where no device does, and what the control path must know of it.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::port::PortStats;

/// Bytes of the frame check sequence, which is never seen here and [`PortStats`] counts.
const FCS_LEN: u64 = 4;

/// Written by the queues' thread, read by the control path.
#[derive(Debug)]
pub struct Counters<Fault> {
    rx_frames: AtomicU64,
    rx_bytes: AtomicU64,
    rx_length_errors: AtomicU64,
    tx_frames: AtomicU64,
    tx_bytes: AtomicU64,
    /// Why a queue was stopped.
    pub fault: OnceLock<Fault>,
}

impl<Fault> Default for Counters<Fault> {
    fn default() -> Self {
        let (rx_frames, rx_bytes, rx_length_errors, tx_frames, tx_bytes) = Default::default();
        Self { rx_frames, rx_bytes, rx_length_errors, tx_frames, tx_bytes, fault: OnceLock::new() }
    }
}

/// Adds without a locked instruction: each count has one writer.
#[inline]
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

impl<Fault> Counters<Fault> {
    /// Counts frames handed on, their bytes, and frames dropped for their length.
    #[inline]
    pub fn received(&self, frames: u32, bytes: u64, bad_length: u32) {
        let frames = u64::from(frames);
        add(&self.rx_frames, frames);
        add(&self.rx_bytes, bytes + frames * FCS_LEN);
        if bad_length > 0 {
            add(&self.rx_length_errors, bad_length.into());
        }
    }

    /// Counts frames given to the device, and their bytes, tags included.
    #[inline]
    pub fn sent(&self, frames: u32, bytes: u64) {
        let frames = u64::from(frames);
        add(&self.tx_frames, frames);
        add(&self.tx_bytes, bytes + frames * FCS_LEN);
    }

    /// Adds what was counted to `stats`.
    pub fn add_to(&self, stats: &mut PortStats) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        stats.rx_frames += count(&self.rx_frames);
        stats.rx_bytes += count(&self.rx_bytes);
        stats.rx_length_errors += count(&self.rx_length_errors);
        stats.tx_frames += count(&self.tx_frames);
        stats.tx_bytes += count(&self.tx_bytes);
    }
}
