//! The qtest protocol: one line of text a command, one a reply, and lines about interrupts in between (QEMU, system/qtest.c).
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use barewire_driver::bus::Width;

/// The connection; commands of several threads take turns. When QEMU is gone, reads are all ones, as from a device that left its bus.
pub struct Channel(Mutex<Connection>);

/// The connection, held for several commands in a row.
pub struct Connection {
    stream: BufReader<UnixStream>,
    reply: String,
    gone: bool,
    /// The level of each intercepted interrupt line, a bit a line.
    lines: u32,
}

impl Channel {
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(super::ANSWER_WAIT))?;
        stream.set_write_timeout(Some(super::ANSWER_WAIT))?;
        let (stream, reply) = (BufReader::new(stream), String::new());
        Ok(Self(Mutex::new(Connection { stream, reply, gone: false, lines: 0 })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn letter(width: Width) -> char {
    match width {
        Width::Byte => 'b',
        Width::Word => 'w',
        Width::Dword => 'l',
    }
}

impl Connection {
    /// Reads physical memory, as the CPU would.
    pub fn read(&mut self, address: u64, width: Width) -> u32 {
        self.value(format_args!("read{} {address:#x}\n", letter(width)), width)
    }

    /// Writes physical memory.
    pub fn write(&mut self, address: u64, width: Width, value: u32) {
        self.order(format_args!("write{} {address:#x} {:#x}\n", letter(width), value & width.mask()));
    }

    /// Reads an I/O port.
    pub fn port_read(&mut self, port: u16, width: Width) -> u32 {
        self.value(format_args!("in{} {port:#x}\n", letter(width)), width)
    }

    /// Writes an I/O port.
    pub fn port_write(&mut self, port: u16, width: Width, value: u32) {
        self.order(format_args!("out{} {port:#x} {:#x}\n", letter(width), value & width.mask()));
    }

    /// Lets `ns` nanoseconds of the virtual clock pass, and the timers that are due then fire.
    pub fn step_clock(&mut self, ns: u64) {
        self.order(format_args!("clock_step {ns}\n"));
    }

    /// Watches the interrupt lines that go into `device`.
    pub fn watch_lines(&mut self, device: &str) {
        self.order(format_args!("irq_intercept_in {device}\n"));
    }

    /// The interrupt lines as the last reply left them, a bit a line.
    pub fn lines(&self) -> u32 {
        self.lines
    }

    /// Whether QEMU does not answer any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    fn order(&mut self, command: fmt::Arguments<'_>) {
        self.value(command, Width::Dword);
    }

    fn value(&mut self, command: fmt::Arguments<'_>, width: Width) -> u32 {
        if self.gone {
            return width.mask();
        }
        match self.ask(command) {
            Ok(value) => value & width.mask(),
            Err(error) => {
                log::warn!("qtest: {}: {error}", command.to_string().trim_end());
                self.gone = true;
                width.mask()
            }
        }
    }

    /// One command and its reply; a reply without a value reads zero.
    fn ask(&mut self, command: fmt::Arguments<'_>) -> std::io::Result<u32> {
        self.stream.get_mut().write_all(command.to_string().as_bytes())?;
        loop {
            self.reply.clear();
            if self.stream.read_line(&mut self.reply)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let mut words = self.reply.split_whitespace();
            match words.next() {
                Some("OK") => {
                    let digits = words.next().and_then(|word| word.strip_prefix("0x"));
                    return Ok(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0) as u32);
                }
                Some("IRQ") => {
                    let raised = words.next() == Some("raise");
                    let line = words.next().and_then(|word| word.parse().ok()).unwrap_or(u32::MAX);
                    let bit = 1u32.checked_shl(line).unwrap_or(0);
                    self.lines = if raised { self.lines | bit } else { self.lines & !bit };
                }
                _ => return Err(std::io::Error::other(self.reply.trim_end().to_owned())),
            }
        }
    }
}
