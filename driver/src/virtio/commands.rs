//! The control queue (virtio 1.2, 5.1.6.5): one command at a time, each waited for.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::pci::Doorbell;
use super::regs::{self, Command};
use super::split::{Descriptor, Split};
use crate::dma::{DmaMemory, DmaWords};
use crate::error::Error;
use crate::mmio::wait_until;
use crate::port::MacAddress;

/// Devices answer within microseconds, software ones at their next event loop.
const WAIT: Duration = Duration::from_secs(1);
/// Groups that are named to the device; for more, it is asked for every group. QEMU's table has 64 places.
const MOST_GROUPS: usize = 64;
/// Class and command before the data.
const HEADER_LEN: usize = 2;
/// The longest command: the table of groups, with the empty one of unicast addresses and both counts.
const LONGEST: usize = HEADER_LEN + 8 + MOST_GROUPS * 6;
/// Where the device's answer goes, in the memory of a command.
const ANSWER: usize = LONGEST.next_multiple_of(8);

/// The control queue and the memory of its one command.
pub struct Commands {
    address: String,
    ring: Split<DmaWords>,
    memory: DmaMemory,
    doorbell: Doorbell,
}

/// Bytes of memory that a command and its answer take.
pub const MEMORY_LEN: usize = ANSWER + 1;

impl Commands {
    /// A control queue; `memory` has at least [`MEMORY_LEN`] bytes, and `address` names the device in errors.
    pub fn new(address: String, ring: Split<DmaWords>, memory: DmaMemory, doorbell: Doorbell) -> Self {
        Self { address, ring, memory, doorbell }
    }

    /// Receives every frame, or what is addressed to the station or to one of `groups` (5.1.6.5.1 and 5.1.6.5.2).
    ///
    /// # Errors
    /// When the device refuses, keeps silent, or answers what it was not asked.
    pub fn set_filters(
        &mut self,
        promiscuous: bool,
        groups: impl ExactSizeIterator<Item = MacAddress>,
    ) -> Result<(), Error> {
        let every_group = groups.len() > MOST_GROUPS;
        if !every_group {
            // Two tables, unicast first, each with its length before it.
            let mut tables = vec![0; 4];
            tables.extend((groups.len() as u32).to_le_bytes());
            groups.for_each(|group| tables.extend(group.0));
            self.execute(regs::MAC_TABLE_SET, &tables)?;
        }
        self.execute(regs::RX_ALLMULTI, &[every_group.into()])?;
        self.execute(regs::RX_PROMISC, &[promiscuous.into()])
    }

    /// Gives the device another station address (5.1.6.5.2).
    ///
    /// # Errors
    /// As [`Commands::set_filters`].
    pub fn set_mac(&mut self, mac: MacAddress) -> Result<(), Error> {
        self.execute(regs::MAC_ADDR_SET, &mac.0)
    }

    /// Sends a command with at most [`LONGEST`] bytes and waits for the answer.
    fn execute(&mut self, command: Command, data: &[u8]) -> Result<(), Error> {
        const OK: u8 = 0;
        /// What no device answers, so that an answer that was never written shows.
        const UNANSWERED: u8 = 0xFF;
        let fail = |outcome| Err(Error::Command { address: self.address.clone(), command: command.name, outcome });
        if self.ring.in_flight() > 0 {
            return fail("cannot be sent while an earlier one is unanswered");
        }
        let region = self.memory.region();
        region.write(0, &[command.class, command.command]);
        region.write(HEADER_LEN, data);
        region.write(ANSWER, &[UNANSWERED]);
        let iova = self.memory.iova();
        let question = Descriptor { iova, len: (HEADER_LEN + data.len()) as u32, device_writes: false, next: Some(1) };
        let answer = Descriptor { iova: iova + ANSWER as u64, len: 1, device_writes: true, next: None };
        self.ring.describe(0, question);
        self.ring.describe(1, answer);
        self.ring.offer(0);
        if self.ring.publish() {
            self.doorbell.ring();
        }
        let ring = &mut self.ring;
        let ready = wait_until(WAIT, || match ring.ready(1) {
            Ok(0) => None,
            other => Some(other),
        });
        let Some(ready) = ready else { return fail("got no answer within a second") };
        ready?;
        let used = self.ring.peek()?;
        self.ring.take(used);
        let mut byte = [0];
        self.memory.region().read(ANSWER, &mut byte);
        match byte {
            [OK] => Ok(()),
            _ => fail("was refused"),
        }
    }
}
