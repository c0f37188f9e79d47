//! The model's table of registers against the driver's, and against the model itself: reset values and what access
//! does.

use std::collections::BTreeSet;
use std::sync::Arc;

use barewire_driver::bus::model::DeviceModel;
use barewire_driver::ixgbe::{Config, regs};
use barewire_driver::{MacAddress, Port, TxMeta};
use barewire_models::ixgbe82599::regs::{Access, Row, TABLE};
use barewire_models::wire::{Delivery, WireConfig};
use barewire_models::{Fcs, Ixgbe82599, Mac, Medium, PortId};
use barewire_tests::rig::{Station, frame, mac, models};

use super::{SMALL, clock};

fn row(name: &str) -> &'static Row {
    TABLE.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("the model has no {name}"))
}

/// A model's registers by name, as software reaches them.
struct Registers(Arc<Ixgbe82599>);

impl Registers {
    fn fresh() -> Self {
        Self(Ixgbe82599::new(mac(1), clock()))
    }

    fn read(&self, name: &str) -> u32 {
        self.0.register_read(0, row(name).offset)
    }

    fn write(&self, name: &str, value: u32) {
        self.0.register_write(0, row(name).offset, value);
    }

    /// Every place of every register with that access: its row, its number in it, its offset.
    fn places(access: impl Fn(Access) -> bool) -> impl Iterator<Item = (&'static Row, u32, u32)> {
        let rows = TABLE.iter().filter(move |row| access(row.access));
        rows.flat_map(|row| (0..row.count).map(move |n| (row, n, row.offset + n * row.stride)))
    }

    fn assert_reset_values(&self) {
        for (row, n, offset) in Self::places(|_| true) {
            let [a, b, c, d, e, f] = mac(1).0;
            let expected = match (row.name, n) {
                // Reset loads the station address from the EEPROM.
                ("RAL", 0) => u32::from_le_bytes([a, b, c, d]),
                ("RAH", 0) => u32::from_le_bytes([e, f, 0, 0x80]),
                _ => row.reset,
            };
            assert_eq!(self.0.register_read(0, offset), expected, "{}[{n}]", row.name);
        }
    }
}

#[test]
fn driver_and_model_agree_on_every_register_of_the_driver() {
    for register in regs::ALL {
        let row = row(register.name);
        assert_eq!((row.offset, row.section), (register.offset, register.section), "{}", register.name);
        assert_eq!(row.count > 1, register.stride > 0, "{}: one, or several", register.name);
        assert!(register.stride == 0 || register.stride == row.stride, "{}", register.name);
    }
    let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), TABLE.len(), "a name stands twice in the model's table");
}

#[test]
fn every_register_reads_its_reset_value_at_first_and_after_every_reset() {
    let registers = Registers::fresh();
    registers.assert_reset_values();
    let resets: [&dyn Fn(&Registers); 3] =
        [&|r| r.write("CTRL", 1 << 26), &|r| r.write("CTRL", 1 << 3), &|r| DeviceModel::reset(&*r.0)];
    for reset in resets {
        for (_, _, offset) in Registers::places(|access| access == Access::ReadWrite) {
            registers.0.register_write(0, offset, 0x5A5A_5A5A);
        }
        reset(&registers);
        registers.assert_reset_values();
    }
}

#[test]
fn read_write_keeps_and_read_only_does_not() {
    let registers = Registers::fresh();
    let model = &registers.0;
    for value in [0xFFFF_FFFF, 0, 0xA5A5_0F0F] {
        for (row, n, offset) in Registers::places(|access| access == Access::ReadWrite) {
            model.register_write(0, offset, value);
            assert_eq!(model.register_read(0, offset), value, "{}[{n}]", row.name);
        }
    }
    for (row, n, offset) in Registers::places(|access| matches!(access, Access::ReadOnly | Access::ReadClears)) {
        let before = model.register_read(0, offset);
        for value in [0xFFFF_FFFF, 0] {
            model.register_write(0, offset, value);
        }
        // STATUS follows CTRL, which was not written.
        assert_eq!(model.register_read(0, offset), before, "{}[{n}]", row.name);
    }
}

#[test]
fn commands_do_what_the_datasheet_says() {
    let registers = Registers::fresh();
    let (read, write) = (|name| registers.read(name), |name, value| registers.write(name, value));
    // Resets clear themselves and leave the rest; master disable shows in STATUS.
    write("CTRL", 1 << 26 | 1 << 3 | 1 << 2 | 1);
    assert_eq!((read("CTRL"), read("STATUS")), (1 << 2 | 1, 0));
    write("AUTOC", 3 << 13 | 1 << 12);
    assert_eq!(read("AUTOC"), 3 << 13);
    // Causes: set by EICS, cleared by a one, cleared by reading. The mask: set by EIMS, cleared by EIMC, which reads
    // zero.
    write("EICS", 0b1110);
    write("EICR", 0b0010);
    assert_eq!((read("EICR"), read("EICR")), (0b1100, 0));
    write("EIMS", 0b0111);
    write("EIMS", 0b1000);
    write("EIMC", 0b0101);
    assert_eq!((read("EIMS"), read("EIMC")), (0b1010, 0));
    // The same for vectors, whose first sixteen are the low half of the plain registers. Reading EICS clears nothing.
    write("EICS_EX", 0x1_0008);
    assert_eq!((read("EICS"), read("EICR"), read("EICR")), (0b1000, 0b1000, 0));
    write("EIMS_EX", 0x1_0004);
    write("EIMC_EX", 0x1_0002);
    assert_eq!((read("EIMS_EX"), read("EIMS"), read("EIMC_EX")), (0b1100, 0b1100, 0));
    // The two wires of the SFP+ module follow what is driven; nobody else pulls at them.
    write("I2CCTL", 1 << 3);
    assert_eq!(read("I2CCTL"), 1 << 3 | 1 << 2);
    write("I2CCTL", 1 << 3 | 1 << 1);
    assert_eq!(read("I2CCTL"), 0xF);
    // MDIO and Flow Director are done at once.
    write("MSCA", 1 << 30 | 5);
    write("FDIRCMD", 1 << 2 | 3);
    write("FDIRCTRL", 1);
    assert_eq!((read("MSCA"), read("FDIRCMD"), read("FDIRCTRL")), (5, 1 << 2, 1 | 1 << 3));
    // A semaphore: the first reader sees it free, and takes it.
    assert_eq!((read("SWSM"), read("SWSM")), (0, 1));
    write("SWSM", 0);
    assert_eq!(read("SWSM"), 0);
    // The EEPROM: done in bit 1, the word in the upper half; the first 64 sum up to 0xBABA.
    let word = |address: u32| {
        write("EERD", address << 2 | 1);
        let answer = read("EERD");
        assert_eq!(answer & 2, 2);
        (answer >> 16) as u16
    };
    assert_eq!((0..64).map(word).fold(0, u16::wrapping_add), 0xBABA);
    assert_eq!(word(0), u16::from_le_bytes([mac(1).0[0], mac(1).0[1]]));
    // Queues: a ring that silicon does not take does not run; one that it takes does. Tails are kept.
    for (control, low, len, tail) in [("RXDCTL", "RDBAL", "RDLEN", "RDT"), ("TXDCTL", "TDBAL", "TDLEN", "TDT")] {
        const ENABLE: u32 = 1 << 25;
        for (base, bytes) in [(0x1000, 0), (0x1000, 100), (0x1001, 1024), (0x1000, 256 << 10)] {
            write(low, base);
            write(len, bytes);
            write(control, ENABLE);
            assert_eq!(read(control), 0, "{control} with {bytes} bytes at {base:#x}");
        }
        write(low, 0x1000);
        write(len, 1024);
        write(control, ENABLE);
        assert_eq!(read(control), ENABLE);
        write(control, 0);
        assert_eq!(read(control), 0);
        write(tail, 5);
        assert_eq!(read(tail), 5);
    }
    assert_eq!(registers.0.refusals().bad_ring, 8);
    let tested = BTreeSet::from([
        "AUTOC", "CTRL", "EERD", "EICS", "EICS_EX", "EIMC", "EIMC_EX", "EIMS", "EIMS_EX", "FDIRCMD", "FDIRCTRL",
        "I2CCTL", "MSCA", "RDT", "RXDCTL", "SWSM", "TDT", "TXDCTL",
    ]);
    let commands: BTreeSet<_> = TABLE.iter().filter(|row| row.access == Access::Command).map(|row| row.name).collect();
    assert_eq!(commands, tested, "a command is not tested");
}

#[test]
fn counters_count_and_clear_on_reading() {
    let mut counted = BTreeSet::new();
    // With one queue the packet buffer overflows; with several the queue drops.
    for queues in [1, 2] {
        let (near, far, wire) = models(&clock(), WireConfig::perfect(Delivery::Immediate));
        let config = Config { queues, max_frame: 1518, ..SMALL };
        let (mut near, mut far) = (Station::open(near, config), Station::open(far, config));
        far.port.set_promiscuous(true).unwrap();
        let group = MacAddress([1, 0, 0x5E, 0, 0, 1]);
        for to in [mac(2), mac(2), MacAddress::BROADCAST, group] {
            near.send(&frame(to, mac(1), &[0; 86]), TxMeta::default());
        }
        far.model.receive(&[0; 60], Fcs::Bad);
        wire.transmit(PortId(0), &frame(mac(2), mac(1), &[0; 45]));
        wire.transmit(PortId(0), &frame(mac(2), mac(1), &[0; 1_505]));
        // The ring holds 63, of which four are taken.
        for _ in 0..59 + 7 {
            wire.transmit(PortId(0), &frame(mac(2), mac(1), &[0; 86]));
        }
        let missed = if queues == 1 { "RXMPC" } else { "QPRDC" };
        let sent = [("GPTC", 4), ("GOTCL", 4 * 104)].map(|(name, count)| (&near, name, count));
        let received = [
            ("GPRC", 63),
            ("GORCL", 63 * 104),
            ("QPRC", 63),
            ("BPRC", 1),
            ("MPRC", 1),
            ("CRCERRS", 1),
            ("RUC", 1),
            ("ROC", 1),
            (missed, 7),
        ];
        for (station, name, count) in sent.into_iter().chain(received.map(|(name, count)| (&far, name, count))) {
            let registers = Registers(station.model.clone());
            assert_eq!((registers.read(name), registers.read(name)), (count, 0), "{name}");
            counted.insert(name);
        }
    }
    // The upper halves carry (see the model's own tests); a wire has no length errors of this kind; the model does not
    // count by transmit queue.
    counted.extend(["GORCH", "GOTCH", "RLEC", "QPTC"]);
    let counters: BTreeSet<_> =
        TABLE.iter().filter(|row| row.access == Access::ReadClears).map(|row| row.name).collect();
    assert_eq!(counters, counted, "a counter is not tested");
}
