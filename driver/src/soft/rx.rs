//! The receive half: copies a frame into a buffer, lends it, and uses the buffer for the next one.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::tx::Outbox;
use super::{FrameIo, HEADER_LEN};
use crate::frame::FrameMeta;
use crate::pool::{Buffer, Pool};
use crate::port::{QueueFault, RxQueue};

/// Receive queue.
pub struct Rx<I> {
    outbox: Rc<Outbox<I>>,
    /// Where the next frame goes.
    buffer: Buffer,
    max_frame: u16,
}

impl<I: FrameIo> Rx<I> {
    pub(super) fn new(outbox: Rc<Outbox<I>>, buffer: Buffer, max_frame: u16) -> Self {
        Self { outbox, buffer, max_frame }
    }
}

impl<I: FrameIo> RxQueue for Rx<I> {
    /// Never fails: there are no descriptors. When receiving fails nothing is received any more, and [`crate::Port::service`] says why.
    #[inline]
    fn poll(&mut self, budget: u32, mut handler: impl FnMut(crate::Frame<'_>)) -> Result<u32, QueueFault> {
        // A device sends what it has by itself; here somebody must do it.
        self.outbox.send();
        let (mut frames, mut bytes, mut bad) = (0, 0, 0);
        while frames + bad < budget {
            let Some(len) = self.outbox.receive(&mut *self.buffer) else { break };
            match u16::try_from(len) {
                Ok(len) if (HEADER_LEN..=self.max_frame).contains(&len) => {
                    self.buffer.lend(FrameMeta { len, ..FrameMeta::default() }, &mut handler);
                    frames += 1;
                    bytes += u64::from(len);
                }
                // The sender decides over the length: a wrong one is no fault.
                _ => bad += 1,
            }
        }
        if frames + bad > 0 {
            self.outbox.counters().received(frames, bytes, bad);
        }
        Ok(frames)
    }

    /// Nothing is to be done: frames that wait keep [`FrameIo::readable`] readable.
    fn arm_interrupt(&mut self) {}

    fn pool(&self) -> &Pool {
        self.outbox.pool()
    }
}
