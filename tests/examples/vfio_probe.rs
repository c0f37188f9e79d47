//! Tries everything that a driver asks of the kernel's VFIO, on an e1000 or e1000e that is bound to vfio-pci: `vfio_probe 0000:01:00.0`.
//! For the guests of `qemu/guest`: it tells whether a fault is in the way to the device or in the driver.
#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use barewire_driver::bus::vfio::VfioBus;
use barewire_driver::bus::{Bus, InterruptKind, Width, config};
use barewire_driver::dma::{DmaAllocator, Region};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Registers of the family (82574L datasheet 10.2).
const STATUS: u32 = 0x0008;
const ICR: u32 = 0x00C0;
const ICS: u32 = 0x00C8;
const IMS: u32 = 0x00D0;
const IMC: u32 = 0x00D8;
const IVAR: u32 = 0x00E4;
/// Link status change, a cause of both parts; and 82574L's causes "other", as IVAR sends them to vector 0 with its valid bit.
const LSC: u32 = 1 << 2;
const OTHER: u32 = 1 << 24;
const IVAR_OTHER_TO_0: u32 = 1 << 19 | 1 << 31;

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: vfio_probe ADDRESS")?;
    let bus: Arc<dyn Bus> = Arc::new(VfioBus::open(address.parse()?)?);
    let id = |offset| bus.config_read(offset, Width::Word);
    println!("ids {:04x}:{:04x}", id(config::VENDOR_ID)?, id(config::DEVICE_ID)?);
    println!("usable addresses {:x?}", bus.iova_ranges());
    println!("reset {:?}", bus.reset().map_err(|error| error.to_string()));
    let command = bus.config_read(config::COMMAND, Width::Word)?;
    bus.config_write(config::COMMAND, Width::Word, command | config::COMMAND_MEMORY | config::COMMAND_BUS_MASTER)?;
    let mmio = bus.bar(0)?;
    println!("BAR 0 {mmio:?}, STATUS {:#010x}", mmio.read32(STATUS));
    println!("BAR 9 {}", bus.bar(9).unwrap_err());

    let memory = DmaAllocator::new(Arc::clone(&bus)).allocate("probe", 1 << 20)?;
    println!("mapped {} KiB at {:#x}", memory.region().len() >> 10, memory.iova());
    println!("again {}", bus.dma_map(memory.iova(), memory.region()).unwrap_err());
    let region = Region::allocate("outside", 1)?;
    println!("outside {}", bus.dma_map(1 << 60, &region).unwrap_err());
    drop(memory);
    println!("unmapped, again {}", bus.dma_unmap(0x10_0000, &region).unwrap_err());

    let interrupts = bus.interrupts();
    println!("interrupts {interrupts:?}");
    println!("vector 99 {}", bus.set_interrupt(99, None).unwrap_err());
    for round in 1..=2 {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        bus.set_interrupt(0, Some(event.try_clone()?))?;
        if interrupts.kind == InterruptKind::MsiX {
            mmio.write32(IVAR, IVAR_OTHER_TO_0);
        }
        bus.unmask_interrupt(0)?;
        mmio.write32(IMS, LSC | OTHER);
        mmio.write32(ICS, LSC | OTHER);
        let limit = Timespec::try_from(Duration::from_secs(2))?;
        let fired = poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&limit))?;
        println!("interrupt {round}: {fired} event, cause {:#x}", mmio.read32(ICR));
        mmio.write32(IMC, u32::MAX);
        bus.set_interrupt(0, None)?;
        if fired != 1 {
            return Err("the interrupt did not arrive".into());
        }
    }
    println!("removal requested: {}", bus.removal_requested());
    Ok(())
}
