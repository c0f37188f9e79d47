//! Bring-up in the manual's order (SDM 14; 82574 4.6). Every wait is bounded.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::Part;
use super::regs::{self, *};
use crate::dma::DmaWords;
use crate::error::Error;
use crate::groups::HASH_WORDS;
use crate::mmio::{ALL_ONES, Mmio, MmioError};
use crate::port::MacAddress;

/// After a reset the device must be left alone, and after receiving was disabled a frame may still be on its way to memory. Far above what
/// either takes.
const SETTLE: Duration = Duration::from_millis(10);
/// A bound far above what the manual asks for any of these waits.
const WAIT: Duration = Duration::from_secs(1);
/// How long committed frames may take to leave.
const DRAIN: Duration = Duration::from_millis(100);
/// The longest frame without FCS that is received without LPE.
const LONGEST_PLAIN: u16 = 1518;

/// Everything up to the point where queues can be opened.
pub fn device(mmio: &Mmio, part: &Part) -> Result<MacAddress, Error> {
    disable_interrupts(mmio);
    reset(mmio, part)?;
    if part.is_82574 {
        mmio.wait(EECD.name, EECD.offset, "EEPROM auto-read (AUTO_RD)", WAIT, |v| {
            Eecd::from_bits_retain(v).contains(Eecd::AUTO_RD)
        })?;
    }
    let mac = station_address(mmio)?;
    start_link(mmio);
    receive(mmio, part);
    transmit(mmio);
    Ok(mac)
}

/// No interrupt until somebody asks; what was pending is dropped by reading.
fn disable_interrupts(mmio: &Mmio) {
    mmio.write32(IMC.offset, u32::MAX);
    mmio.read32(ICR.offset);
}

/// SDM 14.2 and 82574 4.6: quiet the rings and the bus, then reset.
fn reset(mmio: &Mmio, part: &Part) -> Result<(), Error> {
    if mmio.read32(STATUS.offset) == ALL_ONES {
        return Err(MmioError::Gone { register: STATUS.name, offset: STATUS.offset }.into());
    }
    mmio.write32(RCTL.offset, 0);
    mmio.write32(TCTL.offset, mmio.read32(TCTL.offset) & !Tctl::EN.bits());
    if part.is_82574 {
        mmio.write32(CTRL.offset, mmio.read32(CTRL.offset) | Ctrl::MASTER_DISABLE.bits());
        mmio.wait(STATUS.name, STATUS.offset, "the end of bus transactions (master enable clear)", WAIT, |v| {
            !Status::from_bits_retain(v).contains(Status::MASTER_ENABLE)
        })?;
    }
    std::thread::sleep(SETTLE);
    mmio.write32(CTRL.offset, mmio.read32(CTRL.offset) | Ctrl::RST.bits());
    // 13.4.1: no access before a microsecond has passed.
    std::thread::sleep(SETTLE);
    mmio.wait(CTRL.name, CTRL.offset, "the end of reset (RST clear)", WAIT, |v| {
        !Ctrl::from_bits_retain(v).contains(Ctrl::RST)
    })?;
    disable_interrupts(mmio);
    Ok(())
}

/// Reset loads the EEPROM's address into receive address 0 (SDM 13.5.3).
fn station_address(mmio: &Mmio) -> Result<MacAddress, Error> {
    let (low, high) = (mmio.read32(RAL.offset), mmio.read32(RAH.offset));
    let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
    let mac = MacAddress([a, b, c, d, e, f]);
    if !Rah::from_bits_retain(high).contains(Rah::AV) || mac.is_group() || mac.0 == [0; 6] {
        return Err(MmioError::Timeout {
            register: RAH.name,
            offset: RAH.offset,
            value: high,
            waited_us: 0,
            what: "a valid station address from the EEPROM",
        }
        .into());
    }
    Ok(mac)
}

/// SDM 14.3: MAC and PHY speak at what the PHY negotiates; tags are the MAC's work.
fn start_link(mmio: &Mmio) {
    let forced = Ctrl::LRST | Ctrl::PHY_RST | Ctrl::ILOS | Ctrl::FRCSPD | Ctrl::FRCDPLX | Ctrl::MASTER_DISABLE;
    let control = Ctrl::from_bits_retain(mmio.read32(CTRL.offset)) - forced;
    mmio.write32(CTRL.offset, (control | Ctrl::SLU | Ctrl::VME).bits());
    const TAG_802_1Q: u32 = 0x8100;
    mmio.write32(VET.offset, TAG_802_1Q);
}

/// SDM 14.4: no group is received, checksums are watched, interrupts do not wait. RCTL comes with the first queue: [`set_receive`].
fn receive(mmio: &Mmio, part: &Part) {
    (0..HASH_WORDS).for_each(|word| mmio.write32(MTA.at(word), 0));
    mmio.write32(RDTR.offset, 0);
    let mut checksums = Rxcsum::IPOFL | Rxcsum::TUOFL;
    if part.is_82574 {
        checksums |= Rxcsum::PCSD;
        mmio.write32(RFCTL.offset, mmio.read32(RFCTL.offset) | Rfctl::EXSTEN.bits());
        mmio.write32(MRQC.offset, 0);
    }
    mmio.write32(RXCSUM.offset, checksums.bits());
}

/// SDM 14.5: padding by the MAC, gaps as IEEE 802.3 wants them. EN comes with the first queue.
fn transmit(mmio: &Mmio) {
    let control = mmio.read32(TCTL.offset) & !regs::TCTL_COLLISION_MASK;
    mmio.write32(TCTL.offset, control | regs::TCTL_COLLISIONS | Tctl::PSP.bits());
    mmio.write32(TIPG.offset, regs::TIPG_COPPER);
}

/// Spreads what comes over IPv4 over two queues by its RSS hash (82574 7.1): the entries of the redirection table take turns.
pub fn spread(mmio: &Mmio) {
    /// The key of the examples in Microsoft's definition of RSS; hashes are not secret here.
    const KEY: [u8; 40] = [
        0x6D, 0x5A, 0x56, 0xDA, 0x25, 0x5B, 0x0E, 0xC2, 0x41, 0x67, 0x25, 0x3D, 0x43, 0xA3, 0x8F, 0xB0, 0xD0, 0xCA,
        0x2B, 0xCB, 0xAE, 0x7B, 0x30, 0xB4, 0x77, 0xCB, 0x2D, 0xA3, 0x80, 0x30, 0xF2, 0x0C, 0x6A, 0x42, 0xB7, 0x3B,
        0xBE, 0xAC, 0x01, 0xFA,
    ];
    /// Four entries; bit 7 of one is the queue.
    const TURNS: u32 = 0x8000_8000;
    let (words, _) = KEY.as_chunks::<4>();
    for (index, word) in (0u16..).zip(words) {
        mmio.write32(RSSRK.at(index), u32::from_le_bytes(*word));
    }
    (0..32).for_each(|index| mmio.write32(RETA.at(index), TURNS));
    mmio.write32(MRQC.offset, (Mrqc::RSS | Mrqc::TCP_IPV4 | Mrqc::IPV4).bits());
}

/// Writes RCTL: on or off, filtering or not, with frames up to `max_frame`.
pub fn set_receive(mmio: &Mmio, on: bool, promiscuous: bool, max_frame: u16) {
    let mut control = Rctl::BAM | Rctl::SECRC;
    control.set(Rctl::EN, on);
    control.set(Rctl::UPE | Rctl::MPE, promiscuous);
    control.set(Rctl::LPE, max_frame > LONGEST_PLAIN);
    mmio.write32(RCTL.offset, control.bits());
}

/// Gives receive queue `queue` its ring. Head and tail are zero: the caller announces the buffers once receiving is on.
pub fn receive_queue(mmio: &Mmio, queue: u16, ring: &DmaWords) {
    mmio.write32(RDBAL.at(queue), ring.iova() as u32);
    mmio.write32(RDBAH.at(queue), (ring.iova() >> 32) as u32);
    mmio.write32(RDLEN.at(queue), ring.byte_len() as u32);
    mmio.write32(RDH.at(queue), 0);
    mmio.write32(RDT.at(queue), 0);
    mmio.write32(RXDCTL.at(queue), regs::DCTL_EACH);
}

/// Opens transmit queue `queue`.
pub fn transmit_queue(mmio: &Mmio, part: &Part, queue: u16, ring: &DmaWords) {
    mmio.write32(TDBAL.at(queue), ring.iova() as u32);
    mmio.write32(TDBAH.at(queue), (ring.iova() >> 32) as u32);
    mmio.write32(TDLEN.at(queue), ring.byte_len() as u32);
    mmio.write32(TDH.at(queue), 0);
    mmio.write32(TDT.at(queue), 0);
    let must_set = if part.is_82574 { regs::TXDCTL_MUST_SET } else { 0 };
    mmio.write32(TXDCTL.at(queue), regs::DCTL_EACH | must_set);
    if part.is_82574 {
        mmio.write32(TARC.at(queue), mmio.read32(TARC.at(queue)) | Tarc::ENABLE.bits());
    }
    mmio.write32(TCTL.offset, mmio.read32(TCTL.offset) | Tctl::EN.bits());
}

/// Takes the ring of receive queue `queue` away. Receiving must be off; no DMA of the queue is in flight afterwards.
pub fn stop_receive_queue(mmio: &Mmio, queue: u16) {
    std::thread::sleep(SETTLE);
    mmio.write32(RDLEN.at(queue), 0);
    mmio.write32(RDH.at(queue), 0);
    mmio.write32(RDT.at(queue), 0);
}

/// Lets what was committed leave, then stops transmit queue `queue`, and transmitting with the `last` one. Frames that cannot leave (no link)
/// are given up.
pub fn stop_transmit_queue(mmio: &Mmio, part: &Part, queue: u16, last: bool) -> Result<(), Error> {
    let tail = mmio.read32(TDT.at(queue));
    let drained = mmio.wait(TDH.name, TDH.at(queue), "the transmit ring to drain (head = tail)", DRAIN, |v| v == tail);
    match drained {
        Err(error @ MmioError::Timeout { .. }) => log::warn!("queue {queue}: giving up committed frames: {error}"),
        other => _ = other?,
    }
    if part.is_82574 {
        mmio.write32(TARC.at(queue), mmio.read32(TARC.at(queue)) & !Tarc::ENABLE.bits());
    }
    if last {
        mmio.write32(TCTL.offset, mmio.read32(TCTL.offset) & !Tctl::EN.bits());
    }
    std::thread::sleep(SETTLE);
    mmio.write32(TDLEN.at(queue), 0);
    mmio.write32(TDH.at(queue), 0);
    mmio.write32(TDT.at(queue), 0);
    Ok(())
}

/// 82574 with MSI-X: the receive cause of `queue` goes to the vector of its number, and clears and masks itself when that fires.
pub fn route_interrupt(mmio: &Mmio, queue: u16) {
    let mode = CtrlExt::EIAME | CtrlExt::PBA_SUPPORT;
    mmio.write32(CTRL_EXT.offset, mmio.read32(CTRL_EXT.offset) | mode.bits());
    let (entry, mask) = regs::ivar_entry(queue);
    mmio.write32(IVAR.offset, mmio.read32(IVAR.offset) & !mask | entry);
    let causes = (Cause::RXQ0 | Cause::RXQ1).bits();
    mmio.write32(EIAC.offset, causes);
    mmio.write32(IAM.offset, causes);
}
