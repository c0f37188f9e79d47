//! The registers of the 82599 as the model knows them (datasheet 331520, section 8.2.3): name, place, access, reset value.
//!
//! Offsets that are not listed are plain storage, as most of the silicon's are to software that only configures it.

use std::sync::atomic::{AtomicU32, Ordering};

/// How software may use a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Plain storage.
    ReadWrite,
    /// Writes change nothing.
    ReadOnly,
    /// A counter: reading clears it, writes change nothing.
    ReadClears,
    /// Reading clears; writing a one clears that bit.
    WriteOneClears,
    /// The model acts on it.
    Command,
}

/// A register, or a row of equal ones.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The datasheet's name.
    pub name: &'static str,
    /// Bytes into BAR 0.
    pub offset: u32,
    /// How many.
    pub count: u32,
    /// Bytes from one to the next.
    pub stride: u32,
    /// What access does.
    pub access: Access,
    /// The value after reset.
    pub reset: u32,
    /// The datasheet's section.
    pub section: &'static str,
}

const fn one(name: &'static str, offset: u32, access: Access, reset: u32, section: &'static str) -> Row {
    Row { name, offset, count: 1, stride: 4, access, reset, section }
}

const fn row(
    name: &'static str,
    (offset, count, stride): (u32, u32, u32),
    access: Access,
    reset: u32,
    section: &'static str,
) -> Row {
    Row { name, offset, count, stride, access, reset, section }
}

use Access::{Command, ReadClears, ReadOnly, ReadWrite, WriteOneClears};

/// Queues 0 to 63 have their registers in a first block; 64 to 127 are not modelled.
pub const QUEUES: u32 = 64;

/// The model's registers.
pub const TABLE: &[Row] = &[
    one("CTRL", 0x0_0000, Command, 0, "8.2.3.1.1"),
    one("STATUS", 0x0_0008, ReadOnly, 1 << 19, "8.2.3.1.2"),
    one("CTRL_EXT", 0x0_0018, ReadWrite, 0, "8.2.3.1.3"),
    one("ESDP", 0x0_0020, ReadWrite, 1 << 2, "8.2.3.1.4"),
    one("I2CCTL", 0x0_0028, Command, super::i2c::RESET, "8.2.3.1.5"),
    one("EICR", 0x0_0800, WriteOneClears, 0, "8.2.3.5.1"),
    one("EICS", 0x0_0808, Command, 0, "8.2.3.5.2"),
    one("EIAC", 0x0_0810, ReadWrite, 0, "8.2.3.5.3"),
    row("EITR", (0x0_0820, 24, 4), ReadWrite, 0, "8.2.3.5.12"),
    one("EIMS", 0x0_0880, Command, 0, "8.2.3.5.5"),
    one("EIMC", 0x0_0888, Command, 0, "8.2.3.5.6"),
    one("EIAM", 0x0_0890, ReadWrite, 0, "8.2.3.5.4"),
    one("GPIE", 0x0_0898, ReadWrite, 0, "8.2.3.5.18"),
    row("IVAR", (0x0_0900, 64, 4), ReadWrite, 0, "8.2.3.5.16"),
    one("IVAR_MISC", 0x0_0A00, ReadWrite, 0, "8.2.3.5.17"),
    row("EICS_EX", (0x0_0A90, 2, 4), Command, 0, "8.2.3.5.7"),
    row("EIMS_EX", (0x0_0AA0, 2, 4), Command, 0, "8.2.3.5.8"),
    row("EIMC_EX", (0x0_0AB0, 2, 4), Command, 0, "8.2.3.5.9"),
    row("EIAM_EX", (0x0_0AD0, 2, 4), ReadWrite, 0, "8.2.3.5.10"),
    row("RDBAL", (0x0_1000, QUEUES, 0x40), ReadWrite, 0, "8.2.3.8.1"),
    row("RDBAH", (0x0_1004, QUEUES, 0x40), ReadWrite, 0, "8.2.3.8.2"),
    row("RDLEN", (0x0_1008, QUEUES, 0x40), ReadWrite, 0, "8.2.3.8.3"),
    row("DCA_RXCTRL", (0x0_100C, QUEUES, 0x40), ReadWrite, 1 << 12 | 1 << 9, "8.2.3.11.1"),
    row("RDH", (0x0_1010, QUEUES, 0x40), ReadWrite, 0, "8.2.3.8.4"),
    row("SRRCTL", (0x0_1014, QUEUES, 0x40), ReadWrite, 0x402, "8.2.3.8.7"),
    row("RDT", (0x0_1018, QUEUES, 0x40), Command, 0, "8.2.3.8.5"),
    row("RXDCTL", (0x0_1028, QUEUES, 0x40), Command, 0, "8.2.3.8.6"),
    row("QPRC", (0x0_1030, 16, 0x40), ReadClears, 0, "8.2.3.23.72"),
    row("QPRDC", (0x0_1430, 16, 0x40), ReadClears, 0, "8.2.3.23.74"),
    one("RDRXCTL", 0x0_2F00, ReadWrite, 0x8 | 0x1_0000, "8.2.3.8.8"),
    one("RXCTRL", 0x0_3000, ReadWrite, 0, "8.2.3.8.10"),
    row("RXPBSIZE", (0x0_3C00, 8, 4), ReadWrite, 0x8_0000, "8.2.3.8.9"),
    row("RXMPC", (0x0_3FA0, 8, 4), ReadClears, 0, "8.2.3.23.4"),
    one("CRCERRS", 0x0_4000, ReadClears, 0, "8.2.3.23.1"),
    one("RLEC", 0x0_4040, ReadClears, 0, "8.2.3.23.5"),
    one("GPRC", 0x0_4074, ReadClears, 0, "8.2.3.23.18"),
    one("BPRC", 0x0_4078, ReadClears, 0, "8.2.3.23.19"),
    one("MPRC", 0x0_407C, ReadClears, 0, "8.2.3.23.20"),
    one("GPTC", 0x0_4080, ReadClears, 0, "8.2.3.23.21"),
    one("GORCL", 0x0_4088, ReadClears, 0, "8.2.3.23.22"),
    one("GORCH", 0x0_408C, ReadClears, 0, "8.2.3.23.22"),
    one("GOTCL", 0x0_4090, ReadClears, 0, "8.2.3.23.23"),
    one("GOTCH", 0x0_4094, ReadClears, 0, "8.2.3.23.23"),
    one("RUC", 0x0_40A4, ReadClears, 0, "8.2.3.23.26"),
    one("ROC", 0x0_40AC, ReadClears, 0, "8.2.3.23.28"),
    one("HLREG0", 0x0_4240, ReadWrite, 0x0001_2C0B, "8.2.3.22.8"),
    one("MSCA", 0x0_425C, Command, 0, "8.2.3.22.11"),
    one("MSRWD", 0x0_4260, ReadOnly, 0xFFFF_0000, "8.2.3.22.12"),
    one("MAXFRS", 0x0_4268, ReadWrite, 0x05EE_0000, "8.2.3.22.13"),
    one("AUTOC", 0x0_42A0, Command, 3 << 13, "8.2.3.22.19"),
    one("LINKS", 0x0_42A4, ReadOnly, 0, "8.2.3.22.20"),
    one("ANLP1", 0x0_42B0, ReadOnly, 1 << 16, "8.2.3.22.24"),
    one("RTTDCS", 0x0_4900, ReadWrite, 0x0040_0000, "8.2.3.10.2"),
    one("DMATXCTL", 0x0_4A80, ReadWrite, 0x8100_0004, "8.2.3.9.2"),
    one("DTXTCPFLGL", 0x0_4A88, ReadWrite, 0x0F76_0FF6, "8.2.3.9.3"),
    one("DTXTCPFLGH", 0x0_4A8C, ReadWrite, 0x0000_0F7F, "8.2.3.9.4"),
    one("RXCSUM", 0x0_5000, ReadWrite, 0, "8.2.3.7.5"),
    one("FCTRL", 0x0_5080, ReadWrite, 0, "8.2.3.7.1"),
    one("VLNCTRL", 0x0_5088, ReadWrite, 0x8100, "8.2.3.7.2"),
    one("MCSTCTRL", 0x0_5090, ReadWrite, 0, "8.2.3.7.3"),
    row("MTA", (0x0_5200, 128, 4), ReadWrite, 0, "8.2.3.7.7"),
    row("RAL", (0x0_5400, 16, 8), ReadWrite, 0, "8.2.3.7.8"),
    row("RAH", (0x0_5404, 16, 8), ReadWrite, 0, "8.2.3.7.9"),
    one("MRQC", 0x0_5818, ReadWrite, 0, "8.2.3.7.12"),
    row("RETA", (0x0_5C00, 32, 4), ReadWrite, 0, "8.2.3.7.14"),
    row("RSSRK", (0x0_5C80, 10, 4), ReadWrite, 0, "8.2.3.7.15"),
    row("TDBAL", (0x0_6000, QUEUES, 0x40), ReadWrite, 0, "8.2.3.9.5"),
    row("TDBAH", (0x0_6004, QUEUES, 0x40), ReadWrite, 0, "8.2.3.9.6"),
    row("TDLEN", (0x0_6008, QUEUES, 0x40), ReadWrite, 0, "8.2.3.9.7"),
    row("TDH", (0x0_6010, QUEUES, 0x40), ReadWrite, 0, "8.2.3.9.8"),
    row("TDT", (0x0_6018, QUEUES, 0x40), Command, 0, "8.2.3.9.9"),
    row("TXDCTL", (0x0_6028, QUEUES, 0x40), Command, 0, "8.2.3.9.10"),
    row("QPTC", (0x0_6030, 16, 0x40), ReadClears, 0, "8.2.3.23.73"),
    row("TDWBAL", (0x0_6038, QUEUES, 0x40), ReadWrite, 0, "8.2.3.9.11"),
    row("TDWBAH", (0x0_603C, QUEUES, 0x40), ReadWrite, 0, "8.2.3.9.12"),
    one("DTXMXSZRQ", 0x0_8100, ReadWrite, 0x10, "8.2.3.9.1"),
    one("SECTXSTAT", 0x0_8804, ReadOnly, 0x3, "8.2.3.12.2"),
    one("SECRXSTAT", 0x0_8D04, ReadOnly, 0x3, "8.2.3.12.8"),
    row("VFTA", (0x0_A000, 128, 4), ReadWrite, 0, "8.2.3.7.11"),
    row("TXPBSIZE", (0x0_CC00, 8, 4), ReadWrite, 0x2_8000, "8.2.3.9.13"),
    one("FDIRCTRL", 0x0_EE00, Command, 0, "8.2.3.21.1"),
    one("FDIRCMD", 0x0_EE2C, Command, 0, "8.2.3.21.22"),
    one("EEC", 0x1_0010, ReadOnly, 1 << 8 | 1 << 9 | 4 << 11, "8.2.3.2.1"),
    one("EERD", 0x1_0014, Command, 0, "8.2.3.2.2"),
    one("SWSM", 0x1_0140, Command, 0, "8.2.3.4.11"),
    one("FWSM", 0x1_0148, ReadOnly, 1 << 15, "8.2.3.4.12"),
];

/// The size of the register space, in bytes.
pub const SPACE: u32 = 0x2_0000;

/// Where each row begins, by name: the model's own names for the registers it acts on.
pub mod at {
    #![allow(missing_docs, reason = "the names are the datasheet's; TABLE says what each is")]
    pub const CTRL: u32 = 0x0_0000;
    pub const STATUS: u32 = 0x0_0008;
    pub const I2CCTL: u32 = 0x0_0028;
    pub const EICR: u32 = 0x0_0800;
    pub const EICS: u32 = 0x0_0808;
    pub const EIAC: u32 = 0x0_0810;
    pub const EIMS: u32 = 0x0_0880;
    pub const EIMC: u32 = 0x0_0888;
    pub const EIAM: u32 = 0x0_0890;
    pub const GPIE: u32 = 0x0_0898;
    pub const IVAR: u32 = 0x0_0900;
    pub const IVAR_MISC: u32 = 0x0_0A00;
    pub const EICS_EX: u32 = 0x0_0A90;
    pub const EICS_EX1: u32 = 0x0_0A94;
    pub const EIMS_EX: u32 = 0x0_0AA0;
    pub const EIMS_EX1: u32 = 0x0_0AA4;
    pub const EIMC_EX: u32 = 0x0_0AB0;
    pub const EIMC_EX1: u32 = 0x0_0AB4;
    pub const EIAM_EX: u32 = 0x0_0AD0;
    pub const RX: u32 = 0x0_1000;
    pub const QPRC: u32 = 0x0_1030;
    pub const QPRDC: u32 = 0x0_1430;
    pub const RXCTRL: u32 = 0x0_3000;
    pub const RXMPC: u32 = 0x0_3FA0;
    pub const CRCERRS: u32 = 0x0_4000;
    pub const GPRC: u32 = 0x0_4074;
    pub const BPRC: u32 = 0x0_4078;
    pub const MPRC: u32 = 0x0_407C;
    pub const GPTC: u32 = 0x0_4080;
    pub const GORCL: u32 = 0x0_4088;
    pub const GOTCL: u32 = 0x0_4090;
    pub const RUC: u32 = 0x0_40A4;
    pub const ROC: u32 = 0x0_40AC;
    pub const HLREG0: u32 = 0x0_4240;
    pub const MSCA: u32 = 0x0_425C;
    pub const MAXFRS: u32 = 0x0_4268;
    pub const AUTOC: u32 = 0x0_42A0;
    pub const LINKS: u32 = 0x0_42A4;
    pub const DMATXCTL: u32 = 0x0_4A80;
    pub const DTXTCPFLGL: u32 = 0x0_4A88;
    pub const DTXTCPFLGH: u32 = 0x0_4A8C;
    pub const RXCSUM: u32 = 0x0_5000;
    pub const FCTRL: u32 = 0x0_5080;
    pub const VLNCTRL: u32 = 0x0_5088;
    pub const MCSTCTRL: u32 = 0x0_5090;
    pub const MTA: u32 = 0x0_5200;
    pub const RAL: u32 = 0x0_5400;
    pub const MRQC: u32 = 0x0_5818;
    pub const RETA: u32 = 0x0_5C00;
    pub const RSSRK: u32 = 0x0_5C80;
    pub const TX: u32 = 0x0_6000;
    pub const QPTC: u32 = 0x0_6030;
    pub const VFTA: u32 = 0x0_A000;
    pub const FDIRCTRL: u32 = 0x0_EE00;
    pub const FDIRCMD: u32 = 0x0_EE2C;
    pub const EERD: u32 = 0x1_0014;
    pub const SWSM: u32 = 0x1_0140;
}

/// Places inside a queue's block of registers, receive and transmit alike (8.2.3.8, 8.2.3.9).
pub mod queue {
    #![allow(missing_docs, reason = "the names are the datasheet's; TABLE says what each is")]
    pub const STRIDE: u32 = 0x40;
    pub const BAL: u32 = 0x00;
    pub const BAH: u32 = 0x04;
    pub const LEN: u32 = 0x08;
    pub const HEAD: u32 = 0x10;
    pub const SRRCTL: u32 = 0x14;
    pub const TAIL: u32 = 0x18;
    pub const DCTL: u32 = 0x28;
    pub const WBAL: u32 = 0x38;
    pub const WBAH: u32 = 0x3C;
}

/// The place of a register that has two: the 82598's addresses still work for the first sixteen of some rows (8.2.3.8.7, 8.2.3.11.1), and
/// receive addresses have one table (8.2.3.7.8).
pub fn canonical(offset: u32) -> u32 {
    const DCA_RXCTRL: u32 = 0x0C;
    let number = offset >> 2 & 0xF;
    match offset & !3 {
        0x0_2100..0x0_2140 => at::RX + number * queue::STRIDE + queue::SRRCTL,
        0x0_2200..0x0_2240 => at::RX + number * queue::STRIDE + DCA_RXCTRL,
        0x0_A200..0x0_A280 => at::RAL + (offset - 0x0_A200),
        offset => offset,
    }
}

/// The register space: atomics, because the far end's thread reads tails and counts frames while the driver's thread configures.
pub(super) struct RegisterFile {
    cells: Box<[AtomicU32]>,
    access: Box<[Access]>,
}

impl RegisterFile {
    /// All registers at their reset values.
    pub fn new() -> Self {
        let words = (SPACE / 4) as usize;
        let mut access = vec![ReadWrite; words].into_boxed_slice();
        for (offset, row) in places() {
            access[(offset / 4) as usize] = row.access;
        }
        let file = Self { cells: (0..words).map(|_| AtomicU32::new(0)).collect(), access };
        file.reset();
        file
    }

    /// Back to the reset values.
    pub fn reset(&self) {
        self.cells.iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
        places().for_each(|(offset, row)| self.set(offset, row.reset));
    }

    fn cell(&self, offset: u32) -> Option<&AtomicU32> {
        self.cells.get((offset / 4) as usize)
    }

    /// What software may do at `offset`.
    pub fn access(&self, offset: u32) -> Access {
        self.access.get((offset / 4) as usize).copied().unwrap_or(ReadOnly)
    }

    /// The value, ordered after whatever its writer did before ([`RegisterFile::set`]).
    pub fn get(&self, offset: u32) -> u32 {
        self.cell(offset).map_or(u32::MAX, |cell| cell.load(Ordering::Acquire))
    }

    /// Sets the value.
    pub fn set(&self, offset: u32, value: u32) {
        if let Some(cell) = self.cell(offset) {
            cell.store(value, Ordering::Release);
        }
    }

    /// Sets the value and returns the one before.
    pub fn swap(&self, offset: u32, value: u32) -> u32 {
        self.cell(offset).map_or(u32::MAX, |cell| cell.swap(value, Ordering::AcqRel))
    }

    /// Sets bits; returns the value before.
    pub fn or(&self, offset: u32, bits: u32) -> u32 {
        self.cell(offset).map_or(u32::MAX, |cell| cell.fetch_or(bits, Ordering::AcqRel))
    }

    /// Adds to a 32-bit counter, which sticks at its highest value (8.2.3.23).
    pub fn count(&self, offset: u32, add: u32) {
        if let Some(cell) = self.cell(offset) {
            _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| Some(value.saturating_add(add)));
        }
    }

    /// Adds to a 36-bit counter of bytes: low half at `offset`, bits 35:32 in the next register.
    pub fn count_bytes(&self, offset: u32, add: u32) {
        if let (Some(low), Some(high)) = (self.cell(offset), self.cell(offset + 4))
            && low.fetch_add(add, Ordering::Relaxed).checked_add(add).is_none()
        {
            high.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn places() -> impl Iterator<Item = (u32, &'static Row)> {
    TABLE.iter().flat_map(|row| (0..row.count).map(move |n| (row.offset + n * row.stride, row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_no_two_registers_in_one_place() {
        let mut seen = std::collections::BTreeMap::new();
        for (offset, row) in places() {
            assert!(offset % 4 == 0 && offset < SPACE, "{} at {offset:#x}", row.name);
            if let Some(other) = seen.insert(offset, row.name) {
                panic!("{} and {other} share {offset:#x}", row.name);
            }
        }
    }

    #[test]
    fn count_sticks_at_the_top_and_bytes_carry() {
        let file = RegisterFile::new();
        file.set(at::GPRC, u32::MAX - 1);
        file.count(at::GPRC, 5);
        assert_eq!(file.get(at::GPRC), u32::MAX);
        file.set(at::GORCL, u32::MAX);
        file.count_bytes(at::GORCL, 2);
        assert_eq!((file.get(at::GORCL), file.get(at::GORCL + 4)), (1, 1));
    }
}
