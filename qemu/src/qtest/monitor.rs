//! QEMU's monitor protocol (QMP): one JSON object a line, both ways.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Error, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// A connection past its greeting.
pub struct Monitor(Mutex<BufReader<UnixStream>>);

impl Monitor {
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(super::ANSWER_WAIT))?;
        stream.set_write_timeout(Some(super::ANSWER_WAIT))?;
        let monitor = Self(Mutex::new(BufReader::new(stream)));
        monitor.execute("qmp_capabilities", "{}")?;
        Ok(monitor)
    }

    /// Executes `command` with `arguments`, a JSON object, and waits for the answer, a line.
    pub fn execute(&self, command: &str, arguments: &str) -> std::io::Result<String> {
        let stream = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(stream.get_mut(), r#"{{"execute":"{command}","arguments":{arguments}}}"#)?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            // The greeting and events come in between.
            if line.starts_with(r#"{"return""#) {
                return Ok(line);
            }
            if line.starts_with(r#"{"error""#) {
                return Err(Error::other(line.trim_end().to_owned()));
            }
        }
    }

    /// Whether QEMU has joined its end of the cable: it does so a moment after the connection stands, and until then drops what the NIC sends.
    pub fn has_cable(&self) -> std::io::Result<bool> {
        let network = self.execute("human-monitor-command", r#"{"command-line":"info network"}"#)?;
        Ok(!network.contains("connecting"))
    }
}
