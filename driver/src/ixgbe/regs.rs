//! The registers this driver uses (82599 datasheet 331520, section 8.2.3), each once, with its name, place and section.
#![forbid(unsafe_code)]

use bitflags::bitflags;

pub use crate::regs::Register;
use crate::regs::registers;

registers! {
    /// Device control.
    CTRL = "CTRL" @ 0x00000, "8.2.3.1.1";
    /// Device status.
    STATUS = "STATUS" @ 0x00008, "8.2.3.1.2";
    /// Extended device control.
    CTRL_EXT = "CTRL_EXT" @ 0x00018, "8.2.3.1.3";
    /// EEPROM and flash control.
    EEC = "EEC" @ 0x10010, "8.2.3.2.1";
    /// Interrupt causes; reading clears.
    EICR = "EICR" @ 0x00800, "8.2.3.5.1";
    /// Queue causes that clear themselves when their vector fires.
    EIAC = "EIAC" @ 0x00810, "8.2.3.5.3";
    /// Interrupt mask clear: a one disables a cause.
    EIMC = "EIMC" @ 0x00888, "8.2.3.5.6";
    /// General interrupt mode.
    GPIE = "GPIE" @ 0x00898, "8.2.3.5.18";
    /// Interrupt vectors of the queues' causes, two queues a register.
    IVAR = "IVAR" @ 0x00900 + 0x4, "8.2.3.5.16";
    /// Interrupt mask set, by vector: a one enables it.
    EIMS_EX = "EIMS_EX" @ 0x00AA0 + 0x4, "8.2.3.5.8";
    /// Vectors that mask themselves when they fire.
    EIAM_EX = "EIAM_EX" @ 0x00AD0 + 0x4, "8.2.3.5.10";
    /// Filter control.
    FCTRL = "FCTRL" @ 0x05080, "8.2.3.7.1";
    /// Multicast filter control.
    MCSTCTRL = "MCSTCTRL" @ 0x05090, "8.2.3.7.3";
    /// Receive checksum control.
    RXCSUM = "RXCSUM" @ 0x05000, "8.2.3.7.5";
    /// Multicast hash table, 128 words of 32 bits.
    MTA = "MTA" @ 0x05200 + 0x4, "8.2.3.7.7";
    /// Receive address, low: the first four bytes of the station address.
    RAL = "RAL" @ 0x05400 + 0x8, "8.2.3.7.8";
    /// Receive address, high: the last two bytes, and the valid bit.
    RAH = "RAH" @ 0x05404 + 0x8, "8.2.3.7.9";
    /// Receive descriptor base, low.
    RDBAL = "RDBAL" @ 0x01000 + 0x40, "8.2.3.8.1";
    /// Receive descriptor base, high.
    RDBAH = "RDBAH" @ 0x01004 + 0x40, "8.2.3.8.2";
    /// Receive ring length, bytes.
    RDLEN = "RDLEN" @ 0x01008 + 0x40, "8.2.3.8.3";
    /// Receive head: the device's next descriptor.
    RDH = "RDH" @ 0x01010 + 0x40, "8.2.3.8.4";
    /// Receive tail: the first descriptor that is not the device's.
    RDT = "RDT" @ 0x01018 + 0x40, "8.2.3.8.5";
    /// Receive queue control.
    RXDCTL = "RXDCTL" @ 0x01028 + 0x40, "8.2.3.8.6";
    /// Split receive control: buffer size, descriptor type.
    SRRCTL = "SRRCTL" @ 0x01014 + 0x40, "8.2.3.8.7";
    /// Receive DMA control.
    RDRXCTL = "RDRXCTL" @ 0x02F00, "8.2.3.8.8";
    /// Receive enable.
    RXCTRL = "RXCTRL" @ 0x03000, "8.2.3.8.10";
    /// Most bytes of transmit requests on the bus.
    DTXMXSZRQ = "DTXMXSZRQ" @ 0x08100, "8.2.3.9.1";
    /// Transmit DMA control.
    DMATXCTL = "DMATXCTL" @ 0x04A80, "8.2.3.9.2";
    /// Transmit descriptor base, low.
    TDBAL = "TDBAL" @ 0x06000 + 0x40, "8.2.3.9.5";
    /// Transmit descriptor base, high.
    TDBAH = "TDBAH" @ 0x06004 + 0x40, "8.2.3.9.6";
    /// Transmit ring length, bytes.
    TDLEN = "TDLEN" @ 0x06008 + 0x40, "8.2.3.9.7";
    /// Transmit head: the device's next descriptor.
    TDH = "TDH" @ 0x06010 + 0x40, "8.2.3.9.8";
    /// Transmit tail: the first descriptor that is not the device's.
    TDT = "TDT" @ 0x06018 + 0x40, "8.2.3.9.9";
    /// Transmit queue control.
    TXDCTL = "TXDCTL" @ 0x06028 + 0x40, "8.2.3.9.10";
    /// Transmit arbiter control.
    RTTDCS = "RTTDCS" @ 0x04900, "8.2.3.10.2";
    /// Direct cache access of a receive queue.
    DCA_RXCTRL = "DCA_RXCTRL" @ 0x0100C + 0x40, "8.2.3.11.1";
    /// MAC control: CRC, padding, jumbo frames.
    HLREG0 = "HLREG0" @ 0x04240, "8.2.3.22.8";
    /// Largest frame, in the upper half, bytes with CRC.
    MAXFRS = "MAXFRS" @ 0x04268, "8.2.3.22.13";
    /// Link mode.
    AUTOC = "AUTOC" @ 0x042A0, "8.2.3.22.19";
    /// Link status.
    LINKS = "LINKS" @ 0x042A4, "8.2.3.22.20";
    /// Frames with a wrong CRC; reading clears.
    CRCERRS = "CRCERRS" @ 0x04000, "8.2.3.23.1";
    /// Frames whose length field does not fit; reading clears.
    RLEC = "RLEC" @ 0x04040, "8.2.3.23.5";
    /// Frames missed for want of packet buffer space; reading clears.
    RXMPC = "RXMPC" @ 0x03FA0 + 0x4, "8.2.3.23.4";
    /// Good frames received; reading clears.
    GPRC = "GPRC" @ 0x04074, "8.2.3.23.18";
    /// Good frames sent; reading clears.
    GPTC = "GPTC" @ 0x04080, "8.2.3.23.21";
    /// Bytes of good frames received, low; latches and clears with the high half.
    GORCL = "GORCL" @ 0x04088, "8.2.3.23.22";
    /// Bytes of good frames received, bits 35:32.
    GORCH = "GORCH" @ 0x0408C, "8.2.3.23.22";
    /// Bytes of good frames sent, low.
    GOTCL = "GOTCL" @ 0x04090, "8.2.3.23.23";
    /// Bytes of good frames sent, bits 35:32.
    GOTCH = "GOTCH" @ 0x04094, "8.2.3.23.23";
    /// Frames that are too short; reading clears.
    RUC = "RUC" @ 0x040A4, "8.2.3.23.26";
    /// Frames that are too long; reading clears.
    ROC = "ROC" @ 0x040AC, "8.2.3.23.28";
    /// Frames dropped by a queue without descriptors; reading clears.
    QPRDC = "QPRDC" @ 0x01430 + 0x40, "8.2.3.23.74";
}

bitflags! {
    /// Bits of CTRL.
    #[derive(Clone, Copy)]
    pub struct Ctrl: u32 {
        /// Stop starting bus transactions.
        const MASTER_DISABLE = 1 << 2;
        /// Reset the link.
        const LRST = 1 << 3;
        /// Reset the device; clears itself.
        const RST = 1 << 26;
    }

    /// Bits of STATUS.
    #[derive(Clone, Copy)]
    pub struct Status: u32 {
        /// Bus transactions are outstanding or allowed.
        const MASTER_ENABLE = 1 << 19;
    }

    /// Bits of CTRL_EXT.
    #[derive(Clone, Copy)]
    pub struct CtrlExt: u32 {
        /// Do not snoop the cache.
        const NS_DIS = 1 << 16;
    }

    /// Bits of GPIE.
    #[derive(Clone, Copy)]
    pub struct Gpie: u32 {
        /// MSI-X with several vectors.
        const MULTIPLE_MSIX = 1 << 4;
        /// Vectors in EIAM_EX mask themselves.
        const EIAME = 1 << 30;
        /// Pending bits as PCI wants them with MSI-X.
        const PBA_SUPPORT = 1 << 31;
    }

    /// Bits of EEC.
    #[derive(Clone, Copy)]
    pub struct Eec: u32 {
        /// The EEPROM has been read after reset.
        const AUTO_RD = 1 << 9;
    }

    /// Bits of FCTRL.
    #[derive(Clone, Copy)]
    pub struct Fctrl: u32 {
        /// Accept every group address.
        const MPE = 1 << 8;
        /// Accept every station address.
        const UPE = 1 << 9;
        /// Accept broadcast.
        const BAM = 1 << 10;
    }

    /// Bits of MCSTCTRL.
    #[derive(Clone, Copy)]
    pub struct Mcstctrl: u32 {
        /// Filter group addresses by hash; bits 1:0, the hash's place, stay zero: address bits 47:36.
        const MFE = 1 << 2;
    }

    /// Bits of RXCSUM.
    #[derive(Clone, Copy)]
    pub struct Rxcsum: u32 {
        /// Write the RSS hash into descriptors instead of the fragment checksum.
        const PCSD = 1 << 13;
    }

    /// Bits of RAH.
    #[derive(Clone, Copy)]
    pub struct Rah: u32 {
        /// The address is valid.
        const AV = 1 << 31;
    }

    /// Bits of RXDCTL and TXDCTL.
    #[derive(Clone, Copy)]
    pub struct Dctl: u32 {
        /// The queue runs.
        const ENABLE = 1 << 25;
        /// Receive only: take 802.1Q tags out of frames.
        const VME = 1 << 30;
    }

    /// Bits of RDRXCTL.
    #[derive(Clone, Copy)]
    pub struct Rdrxctl: u32 {
        /// Strip the CRC; must equal HLREG0.RXCRCSTRP.
        const CRCSTRIP = 1 << 1;
        /// DMA initialisation is done.
        const DMAIDONE = 1 << 3;
        /// Must be set by software.
        const RSCACKC = 1 << 25;
        /// Must be set by software.
        const FCOE_WRFIX = 1 << 26;
    }

    /// Bits of RXCTRL.
    #[derive(Clone, Copy)]
    pub struct Rxctrl: u32 {
        /// Receive.
        const RXEN = 1;
    }

    /// Bits of DMATXCTL.
    #[derive(Clone, Copy)]
    pub struct Dmatxctl: u32 {
        /// Transmit.
        const TE = 1;
    }

    /// Bits of RTTDCS.
    #[derive(Clone, Copy)]
    pub struct Rttdcs: u32 {
        /// Hold the arbiter while its inputs change.
        const ARBDIS = 1 << 6;
    }

    /// Bits of HLREG0.
    #[derive(Clone, Copy)]
    pub struct Hlreg0: u32 {
        /// Append a CRC to frames sent.
        const TXCRCEN = 1;
        /// Strip the CRC of frames received.
        const RXCRCSTRP = 1 << 1;
        /// Allow frames up to MAXFRS.
        const JUMBOEN = 1 << 2;
        /// Pad short frames.
        const TXPADEN = 1 << 10;
    }

    /// Bits of AUTOC.
    #[derive(Clone, Copy)]
    pub struct Autoc: u32 {
        /// Start over; clears itself.
        const RESTART_AN = 1 << 12;
    }

    /// Bits of LINKS.
    #[derive(Clone, Copy)]
    pub struct Links: u32 {
        /// The link is up.
        const UP = 1 << 30;
    }
}

/// The speed in LINKS bits 29:28, in Mb/s; `None` for the reserved code.
pub fn link_speed_mbps(links: u32) -> Option<u32> {
    match (links >> 28) & 3 {
        1 => Some(100),
        2 => Some(1_000),
        3 => Some(10_000),
        _ => None,
    }
}

/// SRRCTL: buffers of `kib` KiB, one buffer a descriptor (advanced), and whether the queue drops when it has no descriptor.
pub fn srrctl(kib: u32, drop_enable: bool) -> u32 {
    const ADVANCED_ONE_BUFFER: u32 = 1 << 25;
    const DROP_EN: u32 = 1 << 28;
    kib | ADVANCED_ONE_BUFFER | if drop_enable { DROP_EN } else { 0 }
}

/// DCA_RXCTRL bit 12: set at reset, must be cleared by software (8.2.3.11.1).
pub const DCA_RXCTRL_MUST_CLEAR: u32 = 1 << 12;

/// The bit of an IVAR entry that makes it count (8.2.3.5.16).
pub const IVAR_VALID: u32 = 0x80;

/// Vectors whose causes show in EICR and clear themselves only if EIAC says so; those above always do (8.2.3.5.3).
pub const EIAC_VECTORS: u16 = 16;

/// DTXMXSZRQ at its largest (bits 11:0).
pub const DTXMXSZRQ_MAX: u32 = 0xFFF;

/// TXDCTL thresholds: prefetch below 36 cached descriptors when 8 are ready, and write each completion back at once.
///
/// A write-back threshold of zero goes with RS on every frame (7.2.3.5.1): an order's buffer is free as soon as it has left.
pub const TXDCTL_THRESHOLDS: u32 = 36 | 8 << 8;
