//! The registers this driver uses, each once, with its name, place and section (SDM; "82574" where only that datasheet has it).
#![forbid(unsafe_code)]

use bitflags::bitflags;

pub use crate::regs::Register;
use crate::regs::registers;

registers! {
    /// Device control.
    CTRL = "CTRL" @ 0x00000, "13.4.1";
    /// Device status.
    STATUS = "STATUS" @ 0x00008, "13.4.2";
    /// EEPROM and flash control.
    EECD = "EECD" @ 0x00010, "13.4.3";
    /// Extended device control.
    CTRL_EXT = "CTRL_EXT" @ 0x00018, "13.4.6";
    /// The EtherType of 802.1Q tags.
    VET = "VET" @ 0x00038, "13.4";
    /// Interrupt causes; reading clears, and so does writing a one.
    ICR = "ICR" @ 0x000C0, "13.4.17";
    /// Interrupt mask set: a one enables a cause.
    IMS = "IMS" @ 0x000D0, "13.4.20";
    /// Interrupt mask clear: a one disables a cause.
    IMC = "IMC" @ 0x000D8, "13.4.21";
    /// Causes that clear themselves when their vector fires.
    EIAC = "EIAC" @ 0x000DC, "82574 10.2.4";
    /// Causes that mask themselves when a vector fires.
    IAM = "IAM" @ 0x000E0, "82574 10.2.4";
    /// The vectors of the causes, four bits a cause.
    IVAR = "IVAR" @ 0x000E4, "82574 10.2.4";
    /// Receive control.
    RCTL = "RCTL" @ 0x00100, "13.4.22";
    /// Transmit control.
    TCTL = "TCTL" @ 0x00400, "13.4.33";
    /// Gaps between frames.
    TIPG = "TIPG" @ 0x00410, "13.4.34";
    /// Receive descriptor base, low.
    RDBAL = "RDBAL" @ 0x02800 + 0x100, "13.4.25";
    /// Receive descriptor base, high.
    RDBAH = "RDBAH" @ 0x02804 + 0x100, "13.4.26";
    /// Receive ring length, bytes.
    RDLEN = "RDLEN" @ 0x02808 + 0x100, "13.4.27";
    /// Receive head: the device's next descriptor.
    RDH = "RDH" @ 0x02810 + 0x100, "13.4.28";
    /// Receive tail: the first descriptor that is not the device's.
    RDT = "RDT" @ 0x02818 + 0x100, "13.4.29";
    /// How long a receive interrupt may wait for company, in units of 1.024 us.
    RDTR = "RDTR" @ 0x02820, "13.4.30";
    /// Receive descriptor thresholds.
    RXDCTL = "RXDCTL" @ 0x02828 + 0x100, "13.4";
    /// Transmit descriptor base, low.
    TDBAL = "TDBAL" @ 0x03800 + 0x100, "13.4";
    /// Transmit descriptor base, high.
    TDBAH = "TDBAH" @ 0x03804 + 0x100, "13.4";
    /// Transmit ring length, bytes.
    TDLEN = "TDLEN" @ 0x03808 + 0x100, "13.4";
    /// Transmit head: the device's next descriptor.
    TDH = "TDH" @ 0x03810 + 0x100, "13.4";
    /// Transmit tail: the first descriptor that is not the device's.
    TDT = "TDT" @ 0x03818 + 0x100, "13.4";
    /// Transmit descriptor thresholds.
    TXDCTL = "TXDCTL" @ 0x03828 + 0x100, "13.4";
    /// Arbitration between the transmit queues, and their enable bits.
    TARC = "TARC" @ 0x03840 + 0x100, "82574 10.2.6";
    /// Frames with a wrong CRC; reading clears, here and below.
    CRCERRS = "CRCERRS" @ 0x04000, "13.7";
    /// Frames missed because no descriptor or no packet memory was free.
    MPC = "MPC" @ 0x04010, "13.7";
    /// Frames whose length field does not fit.
    RLEC = "RLEC" @ 0x04040, "13.7";
    /// Good frames received.
    GPRC = "GPRC" @ 0x04074, "13.7";
    /// Good frames sent.
    GPTC = "GPTC" @ 0x04080, "13.7";
    /// Bytes of good frames received, low; clears with the high half.
    GORCL = "GORCL" @ 0x04088, "13.7";
    /// Bytes of good frames received, high.
    GORCH = "GORCH" @ 0x0408C, "13.7";
    /// Bytes of good frames sent, low; clears with the high half.
    GOTCL = "GOTCL" @ 0x04090, "13.7";
    /// Bytes of good frames sent, high.
    GOTCH = "GOTCH" @ 0x04094, "13.7";
    /// Frames that are too short.
    RUC = "RUC" @ 0x040A4, "13.7";
    /// Frames that are too long.
    ROC = "ROC" @ 0x040AC, "13.7";
    /// Bytes of all frames received, high; clears the low half too.
    TORH = "TORH" @ 0x040C4, "13.7";
    /// Bytes of all frames sent, high; clears the low half too.
    TOTH = "TOTH" @ 0x040CC, "13.7";
    /// All frames received.
    TPR = "TPR" @ 0x040D0, "13.7";
    /// All frames sent.
    TPT = "TPT" @ 0x040D4, "13.7";
    /// Receive checksum control.
    RXCSUM = "RXCSUM" @ 0x05000, "13.4";
    /// Receive filter control: the descriptors' layout.
    RFCTL = "RFCTL" @ 0x05008, "82574 10.2.5";
    /// Multicast hash table, 128 words of 32 bits.
    MTA = "MTA" @ 0x05200 + 0x4, "13.5.1";
    /// Receive address, low: the first four bytes of the station address.
    RAL = "RAL" @ 0x05400, "13.5.2";
    /// Receive address, high: the last two bytes, and the valid bit.
    RAH = "RAH" @ 0x05404, "13.5.3";
    /// Multiple receive queues: what RSS hashes over.
    MRQC = "MRQC" @ 0x05818, "82574 10.2.5";
    /// RSS redirection table, 128 entries, four a register.
    RETA = "RETA" @ 0x05C00 + 0x4, "82574 10.2.5";
    /// RSS key, 40 bytes.
    RSSRK = "RSSRK" @ 0x05C80 + 0x4, "82574 10.2.5";
}

bitflags! {
    /// Bits of CTRL.
    #[derive(Clone, Copy)]
    pub struct Ctrl: u32 {
        /// 82574: stop starting bus transactions.
        const MASTER_DISABLE = 1 << 2;
        /// 8254x: hold the link in reset.
        const LRST = 1 << 3;
        /// Set link up: let the MAC speak to the PHY.
        const SLU = 1 << 6;
        /// Invert the loss-of-signal input.
        const ILOS = 1 << 7;
        /// Force the speed; clear, it is what the PHY negotiates.
        const FRCSPD = 1 << 11;
        /// Force the duplex mode.
        const FRCDPLX = 1 << 12;
        /// Reset the device; clears itself.
        const RST = 1 << 26;
        /// Take 802.1Q tags out of received frames, and insert them where descriptors ask for it.
        const VME = 1 << 30;
        /// Hold the PHY in reset.
        const PHY_RST = 1 << 31;
    }

    /// Bits of STATUS.
    #[derive(Clone, Copy)]
    pub struct Status: u32 {
        /// The link is up.
        const LU = 1 << 1;
        /// 82574: bus transactions are outstanding or allowed.
        const MASTER_ENABLE = 1 << 19;
    }

    /// Bits of EECD.
    #[derive(Clone, Copy)]
    pub struct Eecd: u32 {
        /// 82574: the EEPROM has been read after reset.
        const AUTO_RD = 1 << 9;
    }

    /// Bits of CTRL_EXT.
    #[derive(Clone, Copy)]
    pub struct CtrlExt: u32 {
        /// 82574: causes in IAM mask themselves when a vector fires.
        const EIAME = 1 << 24;
        /// 82574: pending bits as PCI wants them with MSI-X.
        const PBA_SUPPORT = 1 << 31;
    }

    /// Bits of ICR, IMS, IMC, EIAC and IAM.
    #[derive(Clone, Copy)]
    pub struct Cause: u32 {
        /// A frame was received (and RDTR has passed, which is zero here).
        const RXT0 = 1 << 7;
        /// 82574 with MSI-X: receive queue 0; queue 1 is the next bit.
        const RXQ0 = 1 << 20;
        /// 82574 with MSI-X: receive queue 1.
        const RXQ1 = 1 << 21;
    }

    /// Bits of RCTL. Buffers are 2,048 bytes: BSEX (25) and BSIZE (17:16) stay zero.
    #[derive(Clone, Copy)]
    pub struct Rctl: u32 {
        /// Receive.
        const EN = 1 << 1;
        /// Accept every station address.
        const UPE = 1 << 3;
        /// Accept every group address.
        const MPE = 1 << 4;
        /// Accept frames of more than 1,522 bytes with FCS.
        const LPE = 1 << 5;
        /// Accept broadcast.
        const BAM = 1 << 15;
        /// Strip the CRC.
        const SECRC = 1 << 26;
    }

    /// Bits of TCTL.
    #[derive(Clone, Copy)]
    pub struct Tctl: u32 {
        /// Transmit.
        const EN = 1 << 1;
        /// Pad short frames.
        const PSP = 1 << 3;
    }

    /// Bits of TARC.
    #[derive(Clone, Copy)]
    pub struct Tarc: u32 {
        /// The queue takes part in the arbitration.
        const ENABLE = 1 << 10;
    }

    /// Bits of RXCSUM.
    #[derive(Clone, Copy)]
    pub struct Rxcsum: u32 {
        /// Check IPv4 headers.
        const IPOFL = 1 << 8;
        /// Check TCP and UDP.
        const TUOFL = 1 << 9;
        /// 82574: write the RSS hash into descriptors instead of the fragment checksum.
        const PCSD = 1 << 13;
    }

    /// Bits of RFCTL.
    #[derive(Clone, Copy)]
    pub struct Rfctl: u32 {
        /// Receive descriptors are of the extended layout.
        const EXSTEN = 1 << 15;
    }

    /// Bits of RAH.
    #[derive(Clone, Copy)]
    pub struct Rah: u32 {
        /// The address is valid.
        const AV = 1 << 31;
    }

    /// Bits of MRQC.
    #[derive(Clone, Copy)]
    pub struct Mrqc: u32 {
        /// Spread over two queues by RSS.
        const RSS = 1;
        /// Hash TCP over IPv4 by addresses and ports.
        const TCP_IPV4 = 1 << 16;
        /// Hash everything else over IPv4 by addresses.
        const IPV4 = 1 << 17;
    }
}

/// The speed in STATUS bits 7:6, in Mb/s; two codes mean a gigabit.
pub fn link_speed_mbps(status: u32) -> u32 {
    match status >> 6 & 3 {
        0 => 10,
        1 => 100,
        _ => 1_000,
    }
}

/// TCTL's collision fields, which matter at half duplex only: 15 attempts, a slot of 64 byte times (13.4.33).
pub const TCTL_COLLISIONS: u32 = 0x0F << 4 | 0x40 << 12;
/// The bits of TCTL that [`TCTL_COLLISIONS`] sets.
pub const TCTL_COLLISION_MASK: u32 = 0xFF << 4 | 0x3FF << 12;

/// TIPG: gaps of IEEE 802.3 on copper: 10, and for half duplex 8 and 6 (13.4.34).
pub const TIPG_COPPER: u32 = 10 | 8 << 10 | 6 << 20;

/// RXDCTL and TXDCTL: thresholds count descriptors (GRAN), and each finished one is written back at once (WTHRESH 1).
pub const DCTL_EACH: u32 = 1 << 24 | 1 << 16;
/// A bit of the 82574's TXDCTL that software must set.
pub const TXDCTL_MUST_SET: u32 = 1 << 22;

/// The IVAR entry that sends the receive cause of `queue` to the vector of that number, and the bits of it: vector and valid bit, queue by queue.
pub fn ivar_entry(queue: u16) -> (u32, u32) {
    const VALID: u32 = 1 << 3;
    let shift = 4 * u32::from(queue);
    ((VALID | u32::from(queue)) << shift, 0xF << shift)
}
