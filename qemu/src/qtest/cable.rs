//! The far end of the network cable: frames over QEMU's `-netdev stream`.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A frame cannot be longer than QEMU's buffer for one (`NET_BUFSIZE`), in bytes.
const LONGEST: usize = 4096 + 65_536;

/// What is plugged into the device: sends frames to it and receives what it sent. Each goes with its length before it, 32 bits big-endian.
pub struct Cable(UnixStream);

impl Cable {
    pub(super) fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(super::ANSWER_WAIT))?;
        stream.set_write_timeout(Some(super::ANSWER_WAIT))?;
        Ok(Self(stream))
    }

    /// Sends `frame`, without FCS, to the device.
    ///
    /// # Errors
    /// When QEMU has gone, or takes nothing more because the device does not receive.
    pub fn send(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let len = u32::try_from(frame.len()).map_err(std::io::Error::other)?;
        self.0.write_all(&[&len.to_be_bytes()[..], frame].concat())
    }

    /// The next frame that the device sent; `None` when none comes within `limit`.
    ///
    /// # Errors
    /// When QEMU has gone.
    pub fn receive(&mut self, limit: Duration) -> std::io::Result<Option<Vec<u8>>> {
        let limit = Timespec::try_from(limit).map_err(std::io::Error::other)?;
        if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit))? == 0 {
            return Ok(None);
        }
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let len = u32::from_be_bytes(len) as usize;
        if len > LONGEST {
            return Err(std::io::Error::other(format!(
                "a frame of {len} bytes announced, at most {LONGEST} are possible"
            )));
        }
        let mut frame = vec![0; len];
        self.0.read_exact(&mut frame)?;
        Ok(Some(frame))
    }
}
