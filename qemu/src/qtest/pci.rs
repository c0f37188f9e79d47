//! The NIC's PCI function on the q35 machine: what firmware would have done, done from here.
#![forbid(unsafe_code)]

use barewire_driver::bus::{InterruptKind, Interrupts, Width, config};

use super::channel::Connection;

/// Device number on bus 0.
pub const SLOT: u8 = 4;
/// The I/O APIC input of INTA# of that device, as a bit: PIRQ E to H are inputs 20 to 23, dealt out by device number (ICH9, D0-D24).
pub const LINE: u32 = 1 << (20 + SLOT as u32 % 4);

/// Configuration address and data ports (PCI Local Bus 3.0, 3.2.2.3.2).
const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
/// Where BARs go: above memory, below the I/O APIC.
const BARS: u64 = 0xE000_0000;
/// BARs of a function, and the first one's place (6.1).
const BAR_COUNT: u8 = 6;
const BAR0: u16 = 0x10;
/// The reset control register of the chipset, and what resets the machine (ICH9, RST_CNT).
const RESET_CONTROL: u16 = 0xCF9;
const RESET: u32 = 0x06;

fn select(channel: &mut Connection, offset: u16) -> u16 {
    channel.port_write(ADDRESS, Width::Dword, 1 << 31 | u32::from(SLOT) << 11 | u32::from(offset & 0xFC));
    DATA + (offset & 3)
}

/// Reads configuration space; beyond the 256 bytes that these ports reach, all ones.
pub fn config_read(channel: &mut Connection, offset: u16, width: Width) -> u32 {
    if offset > 0xFF {
        return width.mask();
    }
    let port = select(channel, offset);
    channel.port_read(port, width)
}

/// Writes configuration space.
pub fn config_write(channel: &mut Connection, offset: u16, width: Width, value: u32) {
    if offset <= 0xFF {
        let port = select(channel, offset);
        channel.port_write(port, width, value);
    }
}

/// The function, its BARs placed. Decoding and bus mastering stay off: they are the driver's to turn on.
pub struct Function {
    bars: [Option<Bar>; BAR_COUNT as usize],
    msix: Option<Msix>,
    /// INTA# exists.
    has_line: bool,
}

/// A memory BAR.
#[derive(Clone, Copy)]
struct Bar {
    base: u64,
    len: u32,
    is_64_bit: bool,
}

/// Where messages are set up.
#[derive(Clone, Copy)]
pub struct Msix {
    capability: u16,
    vectors: u16,
    table: u64,
}

impl Function {
    /// Sizes and places the BARs, finds the capabilities, and has INTA# watched.
    pub fn set_up(channel: &mut Connection) -> Self {
        const INTERRUPT_PIN: u16 = 0x3D;
        let bars = size_bars(channel);
        let function = Self {
            msix: Msix::find(channel, &bars),
            bars,
            has_line: config_read(channel, INTERRUPT_PIN, Width::Byte) != 0,
        };
        function.place_bars(channel);
        channel.watch_lines("ioapic");
        function
    }

    fn place_bars(&self, channel: &mut Connection) {
        for (index, bar) in (0u16..).zip(&self.bars) {
            let Some(bar) = bar else { continue };
            config_write(channel, BAR0 + 4 * index, Width::Dword, bar.base as u32);
            if bar.is_64_bit {
                config_write(channel, BAR0 + 4 * index + 4, Width::Dword, (bar.base >> 32) as u32);
            }
        }
    }

    /// Address and length of a memory BAR.
    pub fn bar(&self, index: u8) -> Option<(u64, u32)> {
        let bar = self.bars.get(usize::from(index))?.as_ref()?;
        Some((bar.base, bar.len))
    }

    pub fn msix(&self) -> Option<Msix> {
        self.msix
    }

    pub fn interrupts(&self) -> Interrupts {
        match self.msix {
            Some(msix) => Interrupts { kind: InterruptKind::MsiX, vectors: msix.vectors },
            None => Interrupts { kind: InterruptKind::IntX, vectors: self.has_line.into() },
        }
    }

    /// Resets the whole machine, which waits for no DMA because QEMU completes it within the access that starts it, and places the BARs again.
    pub fn reset(&self, channel: &mut Connection) {
        let command = config_read(channel, config::COMMAND, Width::Word) | config::COMMAND_MEMORY;
        config_write(channel, config::COMMAND, Width::Word, command);
        channel.port_write(RESET_CONTROL, Width::Byte, RESET);
        let decodes =
            |channel: &mut Connection| config_read(channel, config::COMMAND, Width::Word) & config::COMMAND_MEMORY != 0;
        if super::wait(super::ANSWER_WAIT, || (!decodes(channel)).then_some(())).is_none() {
            log::warn!("QEMU does not reset its machine");
        }
        self.place_bars(channel);
        config_write(channel, config::COMMAND, Width::Word, command);
    }
}

/// Finds length and kind of each memory BAR by writing all ones (PCI Local Bus 3.0, 6.2.5.1), and gives it a place.
fn size_bars(channel: &mut Connection) -> [Option<Bar>; BAR_COUNT as usize] {
    const IO: u32 = 1;
    const IS_64_BIT: u32 = 1 << 2;
    const FLAGS: u32 = 0xF;
    let (mut bars, mut next, mut index) = ([None; BAR_COUNT as usize], BARS, 0);
    while index < BAR_COUNT {
        let place = BAR0 + 4 * u16::from(index);
        config_write(channel, place, Width::Dword, u32::MAX);
        let mask = config_read(channel, place, Width::Dword);
        let is_64_bit = mask & (IO | IS_64_BIT) == IS_64_BIT;
        if mask & IO == 0 && mask & !FLAGS != 0 {
            let len = (!(mask & !FLAGS)).wrapping_add(1);
            let base = next.next_multiple_of(u64::from(len));
            bars[usize::from(index)] = Some(Bar { base, len, is_64_bit });
            next = base + u64::from(len);
        }
        index += if is_64_bit { 2 } else { 1 };
    }
    bars
}

impl Msix {
    /// Looks for the capability (PCI Local Bus 3.0, 6.7 and 6.8.2).
    fn find(channel: &mut Connection, bars: &[Option<Bar>]) -> Option<Self> {
        const STATUS: u16 = 0x06;
        const HAS_CAPABILITIES: u32 = 1 << 4;
        const CAPABILITIES: u16 = 0x34;
        const MSIX: u32 = 0x11;
        if config_read(channel, STATUS, Width::Word) & HAS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = config_read(channel, CAPABILITIES, Width::Byte) as u16;
        // A list of 48 entries would fill configuration space; a longer one is a loop.
        for _ in 0..48 {
            if at == 0 {
                return None;
            }
            if config_read(channel, at, Width::Byte) == MSIX {
                let size = config_read(channel, at + 2, Width::Word) & 0x7FF;
                let table = config_read(channel, at + 4, Width::Dword);
                let bar = bars.get((table & 7) as usize)?.as_ref()?;
                let table = bar.base + u64::from(table & !7);
                return Some(Self { capability: at, vectors: size as u16 + 1, table });
            }
            at = config_read(channel, at + 1, Width::Byte) as u16;
        }
        None
    }

    /// Turns messages on, and makes `vector` write a one to `address`, or masks it (6.8.2.6 to 6.8.2.9).
    pub fn set_vector(&self, channel: &mut Connection, vector: u16, address: Option<u64>) {
        const ENABLE: u32 = 1 << 15;
        const FUNCTION_MASK: u32 = 1 << 14;
        let control = config_read(channel, self.capability + 2, Width::Word);
        config_write(channel, self.capability + 2, Width::Word, (control | ENABLE) & !FUNCTION_MASK);
        let entry = self.table + 16 * u64::from(vector);
        channel.write(entry + 12, Width::Dword, 1);
        if let Some(address) = address {
            channel.write(entry, Width::Dword, address as u32);
            channel.write(entry + 4, Width::Dword, (address >> 32) as u32);
            channel.write(entry + 8, Width::Dword, 1);
            channel.write(entry + 12, Width::Dword, 0);
        }
    }
}
