//! Bring-up in the datasheet's order (82599 datasheet 4.6.3), each step named by its section. Every wait is bounded.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::regs::{self, *};
use crate::error::Error;
use crate::groups::HASH_WORDS;
use crate::mmio::{ALL_ONES, Mmio, MmioError};
use crate::port::MacAddress;

/// After a reset the device must be left alone for this long (4.2.1.6.1: 10 ms).
const RESET_SETTLE: Duration = Duration::from_millis(10);
/// A bound far above what the datasheet asks for any of these waits.
const WAIT: Duration = Duration::from_secs(1);
/// A queue answers its enable bit within microseconds.
const QUEUE_WAIT: Duration = Duration::from_millis(100);

/// 4.6.3: everything up to the point where queues can be opened.
pub fn device(mmio: &Mmio, max_frame: u16) -> Result<MacAddress, Error> {
    disable_interrupts(mmio);
    reset(mmio)?;
    mmio.wait(EEC.name, EEC.offset, "EEPROM auto-read (AUTO_RD)", WAIT, |v| {
        Eec::from_bits_retain(v).contains(Eec::AUTO_RD)
    })?;
    mmio.wait(RDRXCTL.name, RDRXCTL.offset, "DMA initialisation (DMAIDONE)", WAIT, |v| {
        Rdrxctl::from_bits_retain(v).contains(Rdrxctl::DMAIDONE)
    })?;
    let mac = station_address(mmio)?;
    start_link(mmio);
    clear_statistics(mmio);
    receive(mmio, max_frame);
    transmit(mmio);
    Ok(mac)
}

/// 4.6.3.1: no interrupt until somebody asks; what was pending is dropped by reading.
fn disable_interrupts(mmio: &Mmio) {
    const ALL_CAUSES: u32 = 0x7FFF_FFFF;
    mmio.write32(EIMC.offset, ALL_CAUSES);
    mmio.read32(EICR.offset);
}

/// 4.6.3.2 and 5.2.5.3.2: quiet the bus, then reset device and link.
fn reset(mmio: &Mmio) -> Result<(), Error> {
    if mmio.read32(STATUS.offset) == ALL_ONES {
        return Err(MmioError::Gone { register: STATUS.name, offset: STATUS.offset }.into());
    }
    mmio.write32(CTRL.offset, mmio.read32(CTRL.offset) | Ctrl::MASTER_DISABLE.bits());
    mmio.wait(STATUS.name, STATUS.offset, "the end of bus transactions (master enable clear)", WAIT, |v| {
        !Status::from_bits_retain(v).contains(Status::MASTER_ENABLE)
    })?;
    let resets = Ctrl::RST | Ctrl::LRST;
    mmio.write32(CTRL.offset, mmio.read32(CTRL.offset) | resets.bits());
    mmio.wait(CTRL.name, CTRL.offset, "the end of reset (RST clear)", WAIT, |v| {
        !Ctrl::from_bits_retain(v).contains(Ctrl::RST)
    })?;
    std::thread::sleep(RESET_SETTLE);
    disable_interrupts(mmio);
    Ok(())
}

/// 8.2.3.7.9: reset loads the EEPROM's address into receive address 0.
fn station_address(mmio: &Mmio) -> Result<MacAddress, Error> {
    let (low, high) = (mmio.read32(RAL.at(0)), mmio.read32(RAH.at(0)));
    let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
    let mac = MacAddress([a, b, c, d, e, f]);
    if !Rah::from_bits_retain(high).contains(Rah::AV) || mac.is_group() || mac.0 == [0; 6] {
        return Err(MmioError::Timeout {
            register: RAH.name,
            offset: RAH.at(0),
            value: high,
            waited_us: 0,
            what: "a valid station address from the EEPROM",
        }
        .into());
    }
    Ok(mac)
}

/// 4.6.4.2: the EEPROM chose the link mode; negotiation starts anew.
fn start_link(mmio: &Mmio) {
    mmio.write32(AUTOC.offset, mmio.read32(AUTOC.offset) | Autoc::RESTART_AN.bits());
}

/// 4.6.5: statistics clear on reading.
fn clear_statistics(mmio: &Mmio) {
    let single = [CRCERRS, RLEC, GPRC, GPTC, GORCL, GORCH, GOTCL, GOTCH, RUC, ROC];
    single.iter().for_each(|register| _ = mmio.read32(register.offset));
    (0..8).for_each(|index| _ = mmio.read32(RXMPC.at(index)));
}

/// 4.6.7: filters closed but for our own address and broadcast, checksums watched, CRC stripped. RXEN waits for the first queue.
fn receive(mmio: &Mmio, max_frame: u16) {
    const CRC_LEN: u32 = 4;
    mmio.write32(RXCTRL.offset, 0);
    mmio.write32(FCTRL.offset, Fctrl::BAM.bits());
    (0..HASH_WORDS).for_each(|word| mmio.write32(MTA.at(word), 0));
    mmio.write32(MCSTCTRL.offset, Mcstctrl::MFE.bits());
    mmio.write32(RXCSUM.offset, Rxcsum::PCSD.bits());
    let strip = Rdrxctl::CRCSTRIP | Rdrxctl::RSCACKC | Rdrxctl::FCOE_WRFIX;
    mmio.write32(RDRXCTL.offset, mmio.read32(RDRXCTL.offset) | strip.bits());
    let mac = Hlreg0::RXCRCSTRP | Hlreg0::JUMBOEN;
    mmio.write32(HLREG0.offset, mmio.read32(HLREG0.offset) | mac.bits());
    mmio.write32(MAXFRS.offset, (u32::from(max_frame) + CRC_LEN) << 16);
    mmio.write32(CTRL_EXT.offset, mmio.read32(CTRL_EXT.offset) | CtrlExt::NS_DIS.bits());
}

/// 4.6.8: CRC and padding by the MAC, the arbiter held while its request size changes, then transmit DMA on.
fn transmit(mmio: &Mmio) {
    let mac = Hlreg0::TXCRCEN | Hlreg0::TXPADEN;
    mmio.write32(HLREG0.offset, mmio.read32(HLREG0.offset) | mac.bits());
    let arbiter = mmio.read32(RTTDCS.offset);
    mmio.write32(RTTDCS.offset, arbiter | Rttdcs::ARBDIS.bits());
    mmio.write32(DTXMXSZRQ.offset, regs::DTXMXSZRQ_MAX);
    mmio.write32(RTTDCS.offset, arbiter & !Rttdcs::ARBDIS.bits());
    mmio.write32(DMATXCTL.offset, mmio.read32(DMATXCTL.offset) | Dmatxctl::TE.bits());
}

/// Where a ring lies.
pub struct RingPlace {
    /// The device's address of the first descriptor, 128-byte aligned.
    pub iova: u64,
    /// The length in bytes, a multiple of 128.
    pub bytes: u32,
}

/// 4.6.7, queue part: opens receive queue `queue`. Its tail stays at zero: the caller announces the buffers.
pub fn receive_queue(mmio: &Mmio, queue: u16, ring: &RingPlace, drop_enable: bool) -> Result<(), Error> {
    const BUFFER_KIB: u32 = (crate::pool::BUFFER_LEN / 1024) as u32;
    mmio.write32(RDBAL.at(queue), ring.iova as u32);
    mmio.write32(RDBAH.at(queue), (ring.iova >> 32) as u32);
    mmio.write32(RDLEN.at(queue), ring.bytes);
    mmio.write32(SRRCTL.at(queue), regs::srrctl(BUFFER_KIB, drop_enable));
    mmio.write32(RDH.at(queue), 0);
    mmio.write32(RDT.at(queue), 0);
    mmio.write32(DCA_RXCTRL.at(queue), mmio.read32(DCA_RXCTRL.at(queue)) & !DCA_RXCTRL_MUST_CLEAR);
    set_queue(mmio, &RXDCTL, queue, mmio.read32(RXDCTL.at(queue)) | Dctl::VME.bits(), true)?;
    mmio.write32(RXCTRL.offset, mmio.read32(RXCTRL.offset) | Rxctrl::RXEN.bits());
    Ok(())
}

/// 4.6.8, queue part: opens transmit queue `queue`.
pub fn transmit_queue(mmio: &Mmio, queue: u16, ring: &RingPlace) -> Result<(), Error> {
    mmio.write32(TDBAL.at(queue), ring.iova as u32);
    mmio.write32(TDBAH.at(queue), (ring.iova >> 32) as u32);
    mmio.write32(TDLEN.at(queue), ring.bytes);
    mmio.write32(TDH.at(queue), 0);
    mmio.write32(TDT.at(queue), 0);
    set_queue(mmio, &TXDCTL, queue, regs::TXDCTL_THRESHOLDS, true)
}

/// 4.6.7.1.2: stops receive queue `queue`; no DMA of it is in flight afterwards.
pub fn stop_receive_queue(mmio: &Mmio, queue: u16) -> Result<(), Error> {
    set_queue(mmio, &RXDCTL, queue, mmio.read32(RXDCTL.at(queue)), false)
}

/// 4.6.8.1.2: lets what was committed leave, then stops transmit queue `queue`. Frames that cannot leave (no link) are given up.
pub fn stop_transmit_queue(mmio: &Mmio, queue: u16) -> Result<(), Error> {
    let tail = mmio.read32(TDT.at(queue));
    let drained =
        mmio.wait(TDH.name, TDH.at(queue), "the transmit ring to drain (head = tail)", QUEUE_WAIT, |v| v == tail);
    match drained {
        Err(error @ MmioError::Timeout { .. }) => log::warn!("queue {queue}: giving up committed frames: {error}"),
        other => _ = other?,
    }
    set_queue(mmio, &TXDCTL, queue, mmio.read32(TXDCTL.at(queue)), false)
}

/// 7.3.4.3: MSI-X mode; the receive cause of `queue` goes to the vector of its number, which when it fires clears its cause (EIAC) and masks
/// itself (EIAM with EIAME).
pub fn route_interrupt(mmio: &Mmio, queue: u16) {
    let mode = Gpie::MULTIPLE_MSIX | Gpie::EIAME | Gpie::PBA_SUPPORT;
    mmio.write32(GPIE.offset, mmio.read32(GPIE.offset) | mode.bits());
    // Two queues a register, receive in the lower byte of each half (8.2.3.5.16).
    let (register, shift) = (IVAR.at(queue / 2), u32::from(queue % 2) * 16);
    let others = mmio.read32(register) & !(0xFF << shift);
    mmio.write32(register, others | (regs::IVAR_VALID | u32::from(queue)) << shift);
    // Vectors 0 to 31 and 32 to 63 (8.2.3.5.8).
    let half = EIAM_EX.at(queue / 32);
    mmio.write32(half, mmio.read32(half) | 1 << (queue % 32));
    if queue < regs::EIAC_VECTORS {
        mmio.write32(EIAC.offset, mmio.read32(EIAC.offset) | 1 << queue);
    }
}

/// Writes a queue's control register with the enable bit on or off and waits until the device agrees.
fn set_queue(mmio: &Mmio, register: &Register, queue: u16, control: u32, on: bool) -> Result<(), Error> {
    let enable = Dctl::ENABLE.bits();
    let (value, what) =
        if on { (control | enable, "ENABLE to be set") } else { (control & !enable, "ENABLE to be clear") };
    mmio.write32(register.at(queue), value);
    mmio.wait(register.name, register.at(queue), what, QUEUE_WAIT, |v| (v & enable != 0) == on)?;
    Ok(())
}
