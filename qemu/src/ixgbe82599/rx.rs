//! The receive path: a frame from the medium becomes DMA and descriptor write-backs on the thread that brought it.

use std::sync::PoisonError;

use super::desc;
use super::ledger::LedgerCells as L;
use super::packet::Packet;
use super::regs::{at, queue};
use super::{Ixgbe82599, checksum, filter, rss};
use crate::medium::Fcs;

/// What a receive queue latched when it was enabled.
#[derive(Default)]
pub(super) struct Ring {
    pub enabled: bool,
    pub base: u64,
    /// Descriptors.
    pub len: u32,
}

/// A receive queue: the latched ring, and room to take a tag out of a frame.
#[derive(Default)]
pub(super) struct RxQueue {
    pub ring: Ring,
    untagged: Vec<u8>,
}

const MIN_FRAME: usize = 60;
const CRC: usize = 4;

impl Ixgbe82599 {
    /// The frame passes MAC, filters and checksum engine, and lands in the queue that RSS picks, or in queue 0.
    pub(super) fn receive_frame(&self, frame: &[u8], fcs: Fcs) {
        let (regs, refusals) = (&self.regs, &self.refusals);
        if !self.has_carrier() {
            return L::add(&refusals.no_carrier, 1);
        }
        if regs.get(at::RXCTRL) & 1 == 0 {
            return L::add(&refusals.receive_disabled, 1);
        }
        if fcs == Fcs::Bad {
            return regs.count(at::CRCERRS, 1);
        }
        let tag = tag_of(frame);
        if frame.len() < MIN_FRAME {
            return regs.count(at::RUC, 1);
        }
        if frame.len() > self.longest_frame(tag.is_some()) {
            return regs.count(at::ROC, 1);
        }
        let Some(&destination) = frame.first_chunk::<6>() else { return };
        if !filter::takes_address(regs, destination) {
            return L::add(&refusals.filtered, 1);
        }
        if !filter::takes_vlan(regs, tag) {
            return L::add(&refusals.vlan_filtered, 1);
        }
        if self.receive_into(frame, tag) {
            regs.count(at::GPRC, 1);
            regs.count_bytes(at::GORCL, (frame.len() + CRC) as u32);
            if destination == [0xFF; 6] {
                regs.count(at::BPRC, 1);
            } else if destination[0] & 1 == 1 {
                regs.count(at::MPRC, 1);
            }
        }
    }

    /// HLREG0.JUMBOEN and MAXFRS (8.2.3.22.8, 8.2.3.22.13): bytes without CRC.
    fn longest_frame(&self, tagged: bool) -> usize {
        const JUMBOEN: u32 = 1 << 2;
        const STANDARD: usize = 1514;
        let base = if self.regs.get(at::HLREG0) & JUMBOEN != 0 {
            ((self.regs.get(at::MAXFRS) >> 16) as usize).saturating_sub(CRC)
        } else {
            STANDARD
        };
        base + if tagged { 4 } else { 0 }
    }

    /// Writes the frame into the ring of its queue; says whether it did. Holds the queue's lock, so that reset and disable wait for it.
    fn receive_into(&self, frame: &[u8], tag: Option<u16>) -> bool {
        const VME: u32 = 1 << 30;
        const DROP_EN: u32 = 1 << 28;
        const PCSD: u32 = 1 << 13;
        let (regs, ledger) = (&self.regs, &self.ledger);
        let packet = Packet::parse(frame, tag.is_some());
        let mut seen = checksum::inspect(packet.as_ref());
        let spread = packet.and_then(|packet| rss::spread(regs, &packet));
        let number = spread.map_or(0, |spread| spread.queue);
        if let Some(spread) = spread
            && regs.get(at::RXCSUM) & PCSD != 0
        {
            (seen.rss_type, seen.rss_hash) = (spread.kind, spread.hash);
        }
        let block = at::RX + number * queue::STRIDE;
        let mut rx = self.rx[number as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let RxQueue { ring, untagged } = &mut *rx;
        if !ring.enabled {
            L::add(&self.refusals.receive_disabled, 1);
            return false;
        }
        let stripped = regs.get(block + queue::DCTL) & VME != 0 && tag.is_some();
        let bytes = if stripped {
            untagged.clear();
            untagged.extend_from_slice(&frame[..12]);
            untagged.extend_from_slice(&frame[16..]);
            untagged.as_slice()
        } else {
            frame
        };
        if let Some(tag) = tag {
            const VP: u32 = 1 << 3;
            seen.status |= VP;
            seen.vlan = tag;
        }
        let split = regs.get(block + queue::SRRCTL);
        let buffer = ((split & 0x1F) as usize * 1024).max(1024);
        let (head, tail) = (regs.get(block + queue::HEAD), regs.get(block + queue::TAIL));
        let wanted = bytes.len().div_ceil(buffer) as u32;
        if tail >= ring.len || head >= ring.len || (tail + ring.len - head) % ring.len < wanted {
            // Silicon holds frames in its packet buffer for a while; here it is full at once (the buffer is not modelled).
            L::add(&self.refusals.no_descriptors, 1);
            let counter = if split & DROP_EN != 0 { at::QPRDC + number % 16 * 0x40 } else { at::RXMPC };
            regs.count(counter, 1);
            return false;
        }
        let Some(host) = self.host.get() else { return false };
        let dma = host.dma();
        let mut slot = head;
        for (index, piece) in bytes.chunks(buffer).enumerate() {
            let last = index as u32 + 1 == wanted;
            let written = dma.words(ring.base + u64::from(slot) * 16, 2).and_then(|words| {
                let [address, _] = desc::fetch(&words, 0);
                dma.write(address & !1, piece)?;
                if index == 0 {
                    self.stamp(number, head);
                }
                desc::write_back(&words, 0, seen.words(piece.len() as u16, last));
                Ok(())
            });
            L::add(&ledger.descriptor_fetches, 1);
            L::add(&ledger.bytes_read, 16);
            if written.is_err() {
                L::add(&self.refusals.dma_faults, 1);
                return false;
            }
            L::add(&ledger.write_backs, 1);
            L::add(&ledger.bytes_written, piece.len() as u64 + 16);
            slot = if slot + 1 == ring.len { 0 } else { slot + 1 };
        }
        regs.set(block + queue::HEAD, slot);
        regs.count(at::QPRC + number % 16 * 0x40, 1);
        L::add(&ledger.frames_received, 1);
        drop(dma);
        drop(rx);
        self.interrupt_queue(number, super::Direction::Receive);
        true
    }
}

/// The 802.1Q tag of a frame.
fn tag_of(frame: &[u8]) -> Option<u16> {
    match frame.get(12..16) {
        Some(&[0x81, 0x00, high, low]) => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}
