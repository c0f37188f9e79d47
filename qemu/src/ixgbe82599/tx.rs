//! The transmit path: a doorbell walks the ring, gathers frames and sends them, on the thread that rang it.

use std::sync::PoisonError;

use barewire_driver::bus::model::DmaFault;

use super::desc::{self, Context, Data, Transmit, command};
use super::ledger::LedgerCells as L;
use super::regs::{at, queue};
use super::rx::Ring;
use super::{Direction, Ixgbe82599, LONGEST, checksum, segment};

/// The longest payload to segment: PAYLEN has 18 bits.
const LARGEST_PAYLOAD: usize = (1 << 18) - 1;
/// The longest header in front of it: the context's three length fields.
const LONGEST_HEADER: usize = 0x7F + 0x1FF + 0xFF;

/// A transmit queue: the latched ring, the contexts it was given, and the frame being gathered.
#[derive(Default)]
pub(super) struct TxQueue {
    pub ring: Ring,
    contexts: [Option<Context>; 2],
    frame: Vec<u8>,
    /// The frame's first descriptor, which alone says what is to be done with it (7.2.3.2.4).
    first: Option<Data>,
    /// The frame cannot be sent any more; its remaining pieces are skipped.
    spoiled: bool,
}

impl TxQueue {
    /// Forgets what was gathered and what was said about it.
    pub fn abandon(&mut self) {
        self.contexts = [None; 2];
        self.frame.clear();
        self.first = None;
        self.spoiled = false;
    }
}

impl Ixgbe82599 {
    /// Runs transmit queue `number` up to its tail.
    pub(super) fn run_transmit(&self, number: u32) {
        let regs = &self.regs;
        let block = at::TX + number * queue::STRIDE;
        let mut tx = self.tx[number as usize].lock().unwrap_or_else(PoisonError::into_inner);
        if !tx.ring.enabled || regs.get(at::DMATXCTL) & 1 == 0 {
            return L::add(&self.refusals.doorbell_while_disabled, 1);
        }
        let (mut head, tail) = (regs.get(block + queue::HEAD), regs.get(block + queue::TAIL));
        if tail >= tx.ring.len || head >= tx.ring.len {
            return L::add(&self.refusals.bad_tail, 1);
        }
        let mut reported = false;
        while head != tail {
            let next = if head + 1 == tx.ring.len { 0 } else { head + 1 };
            match self.run_descriptor(&mut tx, block, head, next) {
                Ok(report) => reported |= report,
                Err(DmaFault { .. }) => {
                    L::add(&self.refusals.dma_faults, 1);
                    tx.spoiled = true;
                }
            }
            head = next;
            regs.set(block + queue::HEAD, head);
        }
        drop(tx);
        if reported {
            self.interrupt_queue(number, Direction::Transmit);
        }
    }

    /// One descriptor; says whether it asked for a report.
    fn run_descriptor(&self, tx: &mut TxQueue, block: u32, slot: u32, next: u32) -> Result<bool, DmaFault> {
        let ledger = &self.ledger;
        let Some(host) = self.host.get() else { return Ok(false) };
        let dma = host.dma();
        let words = dma.words(tx.ring.base + u64::from(slot) * 16, 2)?;
        let fetched = desc::fetch(&words, 0);
        L::add(&ledger.descriptor_fetches, 1);
        L::add(&ledger.bytes_read, 16);
        let data = match Transmit::parse(fetched) {
            Transmit::Context(context) => {
                tx.contexts[context.index] = Some(context);
                return Ok(false);
            }
            Transmit::Unknown => {
                L::add(&self.refusals.unknown_descriptor, 1);
                return Ok(false);
            }
            Transmit::Data(data) => data,
        };
        let first = *tx.first.get_or_insert(data);
        let most = if first.command & command::TSE != 0 { LARGEST_PAYLOAD + LONGEST_HEADER } else { LONGEST };
        let at = tx.frame.len();
        let len = usize::from(data.len);
        if len == 0 || at + len > most {
            L::add(&self.refusals.bad_length, 1);
            tx.spoiled = true;
        } else {
            tx.frame.resize(at + len, 0);
            dma.read(data.address, &mut tx.frame[at..])?;
            L::add(&ledger.bytes_read, len as u64);
        }
        let report = data.command & command::RS != 0;
        if report {
            self.report(&dma, block, &words, fetched, next)?;
        }
        drop(dma);
        if data.command & command::EOP != 0 {
            self.send(tx, &first);
        }
        Ok(report)
    }

    /// 7.2.3.5: the done bit into the descriptor, or the head into memory.
    fn report(
        &self,
        dma: &barewire_driver::bus::model::Dma<'_>,
        block: u32,
        words: &barewire_driver::dma::RegionWords<'_>,
        fetched: [u64; 2],
        next: u32,
    ) -> Result<(), DmaFault> {
        const HEAD_WB_EN: u32 = 1;
        const DONE: u64 = 1 << 32;
        let ledger = &self.ledger;
        L::add(&ledger.write_backs, 1);
        let low = self.regs.get(block + queue::WBAL);
        if low & HEAD_WB_EN != 0 {
            let address = u64::from(low & !3) | u64::from(self.regs.get(block + queue::WBAH)) << 32;
            L::add(&ledger.bytes_written, 4);
            return dma.write(address, &next.to_le_bytes());
        }
        L::add(&ledger.bytes_written, 16);
        desc::write_back(words, 0, [fetched[0], fetched[1] | DONE]);
        Ok(())
    }

    /// A gathered frame passes the engines for segmentation, checksum and tag, and leaves.
    fn send(&self, tx: &mut TxQueue, first: &Data) {
        let mut frame = std::mem::take(&mut tx.frame);
        tx.first = None;
        if !std::mem::take(&mut tx.spoiled) {
            let context = tx.contexts[first.context];
            if first.command & command::TSE != 0 {
                let regs = &self.regs;
                let done = context.is_some_and(|context| {
                    segment::segment(regs, &frame, &context, first.payload, |frame| {
                        if self.finish(frame, Some(context), first) {
                            self.emit(frame);
                        }
                    })
                });
                if !done {
                    L::add(&self.refusals.segmentation, 1);
                }
            } else if first.payload as usize != frame.len() || frame.len() < 14 {
                L::add(&self.refusals.bad_length, 1);
            } else if self.finish(&mut frame, context, first) {
                self.emit(&frame);
            }
        }
        frame.clear();
        tx.frame = frame;
    }

    fn emit(&self, frame: &[u8]) {
        if !self.has_carrier() {
            L::add(&self.refusals.no_carrier, 1);
        } else if let Some((medium, port)) = self.medium.get() {
            self.regs.count(at::GPTC, 1);
            self.regs.count_bytes(at::GOTCL, frame.len() as u32 + 4);
            L::add(&self.ledger.frames_sent, 1);
            medium.transmit(*port, frame);
        }
    }

    fn finish(&self, frame: &mut Vec<u8>, context: Option<Context>, first: &Data) -> bool {
        const TXPADEN: u32 = 1 << 10;
        const MIN_FRAME: usize = 60;
        let tagged = first.command & command::VLE != 0;
        if first.options & 3 != 0 || tagged {
            let Some(context) = context.filter(|context| checksum::insert(frame, context, first.options)) else {
                L::add(&self.refusals.bad_context, 1);
                return false;
            };
            if tagged {
                let [high, low] = context.vlan.to_be_bytes();
                frame.splice(12..12, [0x81, 0x00, high, low]);
            }
        }
        if frame.len() < MIN_FRAME && self.regs.get(at::HLREG0) & TXPADEN != 0 {
            frame.resize(MIN_FRAME, 0);
        }
        true
    }
}
