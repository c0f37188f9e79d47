//! Registers, feature bits and commands of a virtio network device (OASIS virtio 1.2), those this driver uses, each once.
#![forbid(unsafe_code)]

use bitflags::bitflags;

use crate::mmio::Width;

/// A register of one of the structures.
#[derive(Debug, Clone, Copy)]
pub struct Register {
    /// The specification's name.
    pub name: &'static str,
    /// Bytes into its structure.
    pub offset: u32,
    /// The only width it may be accessed in (4.1.3.1).
    pub width: Width,
}

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $text:literal @ $offset:literal, $width:ident;)*) => {
        $($(#[$doc])* pub const $name: Register = Register { name: $text, offset: $offset, width: Width::$width };)*
    };
}

// The common configuration structure (4.1.4.3).
registers! {
    /// Which 32 feature bits `device_feature` shows.
    DEVICE_FEATURE_SELECT = "device_feature_select" @ 0x00, Dword;
    /// Features the device offers.
    DEVICE_FEATURE = "device_feature" @ 0x04, Dword;
    /// Which 32 feature bits `driver_feature` takes.
    DRIVER_FEATURE_SELECT = "driver_feature_select" @ 0x08, Dword;
    /// Features the driver accepts.
    DRIVER_FEATURE = "driver_feature" @ 0x0C, Dword;
    /// The status sequence (2.1); zero resets.
    DEVICE_STATUS = "device_status" @ 0x14, Byte;
    /// Changes whenever the device configuration does.
    CONFIG_GENERATION = "config_generation" @ 0x15, Byte;
    /// Which queue the registers below show.
    QUEUE_SELECT = "queue_select" @ 0x16, Word;
    /// Descriptors of the queue: before it is enabled, the most there can be; zero where there is no such queue.
    QUEUE_SIZE = "queue_size" @ 0x18, Word;
    /// The MSI-X vector of the queue; reads back all ones where the device could not set it.
    QUEUE_MSIX_VECTOR = "queue_msix_vector" @ 0x1A, Word;
    /// One turns the queue on.
    QUEUE_ENABLE = "queue_enable" @ 0x1C, Word;
    /// The queue's doorbell, in units of the notify structure's multiplier.
    QUEUE_NOTIFY_OFF = "queue_notify_off" @ 0x1E, Word;
    /// Descriptor table, low half; the high one follows.
    QUEUE_DESC = "queue_desc" @ 0x20, Dword;
    /// Available ring, low half; the high one follows.
    QUEUE_DRIVER = "queue_driver" @ 0x28, Dword;
    /// Used ring, low half; the high one follows.
    QUEUE_DEVICE = "queue_device" @ 0x30, Dword;
}

/// Bytes of the common configuration structure up to the last register used here.
pub const COMMON_LEN: u32 = 0x38;

// The ISR structure (4.1.4.5).
registers! {
    /// Why the line interrupted; reading clears and lowers it.
    ISR_STATUS = "ISR status" @ 0x00, Byte;
}

// The network device's configuration (5.1.4).
registers! {
    /// The station address, first of six bytes.
    MAC = "mac" @ 0x00, Byte;
    /// Bit 0: the link is up.
    STATUS = "status" @ 0x06, Word;
    /// Megabits a second, all ones where unknown.
    SPEED = "speed" @ 0x0C, Dword;
}

/// STATUS: the link is up.
pub const LINK_UP: u32 = 1;

bitflags! {
    /// Bits of `device_status` (2.1).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct DeviceStatus: u8 {
        /// The driver has noticed the device.
        const ACKNOWLEDGE = 1;
        /// The driver knows how to drive it.
        const DRIVER = 2;
        /// The driver is ready: the device may work.
        const DRIVER_OK = 4;
        /// The features are agreed on.
        const FEATURES_OK = 8;
        /// The device met an error that only a reset mends.
        const DEVICE_NEEDS_RESET = 64;
    }

    /// Feature bits (5.1.3 and 6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Takes frames whose transport checksum is to be filled in.
        const CSUM = 1 << 0;
        /// May hand over frames with a verdict on their transport checksum, or with one that was never filled in.
        const GUEST_CSUM = 1 << 1;
        /// Has a station address.
        const MAC = 1 << 5;
        /// Spreads long frames over several receive buffers.
        const MRG_RXBUF = 1 << 15;
        /// Tells the state of the link.
        const STATUS = 1 << 16;
        /// Has a control queue.
        const CTRL_VQ = 1 << 17;
        /// Filters by commands.
        const CTRL_RX = 1 << 18;
        /// Takes another station address by command.
        const CTRL_MAC_ADDR = 1 << 23;
        /// Follows the specification, not what was before it.
        const VERSION_1 = 1 << 32;
        /// Reaches memory through the IOMMU, as any PCI device does.
        const ACCESS_PLATFORM = 1 << 33;
        /// Memory is ordered as for any device beyond a bus; the barriers here are made for that.
        const ORDER_PLATFORM = 1 << 36;
        /// Tells the speed of the link.
        const SPEED_DUPLEX = 1 << 63;
    }
}

/// The queues' numbers without VIRTIO_NET_F_MQ (5.1.2).
pub mod queue {
    /// Receive.
    pub const RECEIVE: u16 = 0;
    /// Transmit.
    pub const TRANSMIT: u16 = 1;
    /// Control.
    pub const CONTROL: u16 = 2;
}

/// A command of the control queue: class, command, name (5.1.6.5).
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// Class.
    pub class: u8,
    /// Command within the class.
    pub command: u8,
    /// The specification's name.
    pub name: &'static str,
}

/// Receive every frame: one byte, on or off (5.1.6.5.1).
pub const RX_PROMISC: Command = Command { class: 0, command: 0, name: "VIRTIO_NET_CTRL_RX_PROMISC" };
/// Receive every frame to a group: one byte, on or off.
pub const RX_ALLMULTI: Command = Command { class: 0, command: 1, name: "VIRTIO_NET_CTRL_RX_ALLMULTI" };
/// The tables of further unicast addresses and of groups (5.1.6.5.2).
pub const MAC_TABLE_SET: Command = Command { class: 1, command: 0, name: "VIRTIO_NET_CTRL_MAC_TABLE_SET" };
/// The station address.
pub const MAC_ADDR_SET: Command = Command { class: 1, command: 1, name: "VIRTIO_NET_CTRL_MAC_ADDR_SET" };
