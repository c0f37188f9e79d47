//! The SFP+ module behind the two wires of I2CCTL (datasheet 8.2.3.1.5): a 10GBASE-SR optic that answers at 0x50 (SFF-8472, A0h).

/// I2CCTL bits: what software drives, and what it sees.
const CLOCK_IN: u32 = 1;
const CLOCK_OUT: u32 = 1 << 1;
const DATA_IN: u32 = 1 << 2;
const DATA_OUT: u32 = 1 << 3;

const ADDRESS: u8 = 0x50;

/// Both wires idle high.
pub(super) const RESET: u32 = CLOCK_IN | CLOCK_OUT | DATA_IN | DATA_OUT;

/// Where in a transfer the module is; a byte's bits are counted by [`Module::bits`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No start condition, or another module's transfer.
    Idle,
    /// The address byte comes in.
    Address,
    /// The byte that sets the offset comes in.
    Offset,
    /// Bytes for the module come in; this one keeps none.
    Write,
    /// Bytes go out.
    Read,
}

/// The module as a bit-banged slave.
pub(super) struct Module {
    stage: Stage,
    clock: bool,
    data: bool,
    /// The level that the module drives; released is high.
    drives: bool,
    shift: u8,
    /// Clock pulses of the byte so far, the ninth being the acknowledgement.
    bits: u8,
    offset: u8,
    /// The host did not acknowledge: the read is over.
    refused: bool,
    memory: [u8; 256],
}

impl Module {
    pub fn new() -> Self {
        Self {
            stage: Stage::Idle,
            clock: true,
            data: true,
            drives: true,
            shift: 0,
            bits: 0,
            offset: 0,
            refused: false,
            memory: identity(),
        }
    }

    /// What I2CCTL reads when software last wrote `written`: both wires are pulled up and may be held low by either side.
    pub fn read(&self, written: u32) -> u32 {
        let mut value = written & (CLOCK_OUT | DATA_OUT);
        if written & CLOCK_OUT != 0 {
            value |= CLOCK_IN;
        }
        if written & DATA_OUT != 0 && self.drives {
            value |= DATA_IN;
        }
        value
    }

    /// Software drives the wires.
    pub fn write(&mut self, value: u32) {
        let (clock, data) = (value & CLOCK_OUT != 0, value & DATA_OUT != 0);
        if self.clock && clock && self.data != data {
            // Data moves while the clock is high: start (falling) or stop (rising).
            self.begin(if data { Stage::Idle } else { Stage::Address });
        } else if !self.clock && clock {
            self.sample(data);
        } else if self.clock && !clock {
            self.drive();
        }
        (self.clock, self.data) = (clock, data);
    }

    fn begin(&mut self, stage: Stage) {
        self.stage = stage;
        self.bits = 0;
        self.drives = true;
    }

    /// The clock rises.
    fn sample(&mut self, data: bool) {
        if self.stage == Stage::Idle {
            return;
        }
        if self.bits < 8 {
            self.shift = self.shift << 1 | u8::from(data);
        } else {
            self.refused = data;
        }
        self.bits += 1;
    }

    /// The clock falls.
    fn drive(&mut self) {
        match (self.stage, self.bits) {
            (Stage::Idle, _) => {}
            (Stage::Read, 0..8) => self.drives = self.memory[usize::from(self.offset)] >> (7 - self.bits) & 1 != 0,
            (Stage::Read, 8) => self.drives = true,
            (Stage::Read, _) if self.refused => self.begin(Stage::Idle),
            (Stage::Read, _) => {
                self.offset = self.offset.wrapping_add(1);
                self.send();
            }
            // The ninth pulse: a low data wire acknowledges.
            (_, 8) => self.drives = self.stage == Stage::Address && self.shift >> 1 != ADDRESS,
            (_, 0..8) => {}
            (Stage::Address, _) if self.shift >> 1 != ADDRESS => self.begin(Stage::Idle),
            (Stage::Address, _) if self.shift & 1 != 0 => self.send(),
            (Stage::Address, _) => self.begin(Stage::Offset),
            (Stage::Offset, _) => {
                self.offset = self.shift;
                self.begin(Stage::Write);
            }
            (Stage::Write, _) => self.begin(Stage::Write),
        }
    }

    fn send(&mut self) {
        self.begin(Stage::Read);
        self.drive();
    }
}

/// The serial id of the optic (SFF-8472, table 4-1).
fn identity() -> [u8; 256] {
    let mut memory = [0u8; 256];
    let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
    // SFP, LC connector, 10GBASE-SR, 64B/66B at 10.3 Gb/s.
    put(0, &[0x03, 0x04, 0x07, 0x10]);
    put(11, &[0x06, 103]);
    put(20, b"BAREWIRE        ");
    put(37, &[0x00, 0x1B, 0x21]);
    put(40, b"MODEL-SR        ");
    put(56, b"1   ");
    // 850 nm.
    put(60, &[0x03, 0x52]);
    put(68, b"1               ");
    for (range, at) in [(0..63, 63), (64..95, 95)] {
        memory[at] = memory[range].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A master that toggles the two wires.
    struct Master(Module);

    impl Master {
        fn set(&mut self, clock: bool, data: bool) -> bool {
            let value = if clock { CLOCK_OUT } else { 0 } | if data { DATA_OUT } else { 0 };
            self.0.write(value);
            self.0.read(value) & DATA_IN != 0
        }

        fn start(&mut self) {
            self.set(true, true);
            self.set(true, false);
            self.set(false, false);
        }

        fn bit(&mut self, bit: bool) -> bool {
            self.set(false, bit);
            let seen = self.set(true, bit);
            self.set(false, bit);
            seen
        }

        /// Sends a byte; says whether it was acknowledged.
        fn send(&mut self, byte: u8) -> bool {
            (0..8).rev().for_each(|n| _ = self.bit(byte >> n & 1 != 0));
            !self.bit(true)
        }

        fn receive(&mut self, more: bool) -> u8 {
            let byte = (0..8).fold(0, |byte, _| byte << 1 | u8::from(self.bit(true)));
            self.bit(!more);
            byte
        }
    }

    #[test]
    fn module_reads_from_an_offset_on_and_ignores_other_addresses() {
        let mut master = Master(Module::new());
        master.start();
        assert!(master.send(ADDRESS << 1) && master.send(37));
        master.start();
        assert!(master.send(ADDRESS << 1 | 1));
        let bytes = [master.receive(true), master.receive(true), master.receive(false)];
        assert_eq!(bytes, [0x00, 0x1B, 0x21]);
        master.start();
        assert!(!master.send(0x51 << 1));
    }
}
