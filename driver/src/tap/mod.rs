//! TAP interfaces: Ethernet frames exchanged with the kernel of this machine, a system call each.
//!
//! The kernel's end of the cable is an interface, with addresses as any other; ours is a file. A TAP filters nothing: what the kernel sends
//! into it arrives, whoever it is for.

mod kernel;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::Error;
use crate::port::{Link, MacAddress};
use crate::soft::{Config, FrameIo, SoftPort};

/// Why there is no TAP interface. The message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The name is none, or is not free.
    #[error(
        "tap:{name}: no TAP can be called so, or what is called so is none; see `ip -d link`, or take another name of 1 to 15 letters"
    )]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The kernel gives no such interface.
    #[error("tap:{name}: {source}; {hint}")]
    System {
        /// The interface.
        name: String,
        /// The operating system's answer.
        source: io::Error,
        /// What to do.
        hint: String,
    },
}

/// Our end of a TAP interface. Dropped, it takes an interface with it that it made.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Attaches to the TAP interface `name`, which is made if there is none and the user may.
    ///
    /// # Errors
    /// When the interface is something else, has another owner, or cannot be made.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let refuse = |error: Errno| {
            let name = name.to_owned();
            let hint = match error {
                Errno::NAMETOOLONG | Errno::INVAL => return TapError::Name { name },
                Errno::BUSY => "another process has it: end that one, or take another name".to_owned(),
                Errno::NOENT | Errno::NODEV => "/dev/net/tun is missing: `modprobe tun`".to_owned(),
                _ => format!("make it as root with `ip tuntap add {name} mode tap user $USER`, and check /dev/net/tun"),
            };
            TapError::System { name, source: error.into(), hint }
        };
        if name.len() >= kernel::NAME_LEN {
            return Err(refuse(Errno::NAMETOOLONG));
        }
        let system = |error: io::Error| refuse(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(system)?;
        let name = kernel::attach(&file, name).map_err(refuse)?;
        rustix::io::ioctl_fionbio(&file, true).map_err(refuse)?;
        Ok(Self { file, name })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A station address for our end that the kernel's end does not have: its own with another second byte, locally administered.
    fn station(&self) -> io::Result<MacAddress> {
        let MacAddress([_, b, rest @ ..]) = kernel::address(&self.file).map_err(|error| self.explain(error))?;
        let [c, d, e, f] = rest;
        Ok(MacAddress([0x02, !b, c, d, e, f]))
    }

    fn explain(&self, error: Errno) -> io::Error {
        match error {
            Errno::BADFD => {
                let name = &self.name;
                io::Error::other(format!(
                    "the interface is gone; make it with `ip tuntap add {name} mode tap` and start again"
                ))
            }
            error => error.into(),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl FrameIo for Tap {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.file, buffer) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// An interface that is down has no room.
    fn send(&self, frame: &[u8]) -> io::Result<bool> {
        match rustix::io::write(&self.file, frame) {
            Ok(_) => Ok(true),
            // IO says that the interface is down.
            Err(Errno::AGAIN | Errno::INTR | Errno::IO | Errno::NOBUFS | Errno::NOMEM) => Ok(false),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Up while the kernel's end is. A TAP has no speed.
    fn link(&self) -> io::Result<Link> {
        let mut events = [PollFd::new(&self.file, PollFlags::OUT)];
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut events, Some(&NOW)).or_else(|error| if error == Errno::INTR { Ok(0) } else { Err(error) })?;
        match events[0].revents() {
            ready if ready.contains(PollFlags::ERR) => Err(self.explain(Errno::BADFD)),
            ready if ready.contains(PollFlags::OUT) => Ok(Link::Up { speed_mbps: 0 }),
            _ => Ok(Link::Down),
        }
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

/// Opens the TAP interface `name`, which is made if there is none and the user may, as a port.
///
/// # Errors
/// As [`Tap::open`], and when `config` is out of range.
pub fn open(name: &str, config: Config) -> Result<SoftPort<Tap>, Error> {
    let tap = Tap::open(name)?;
    let address = format!("tap:{}", tap.name);
    let lost = |error: io::Error| Error::Lost { address: address.clone(), reason: error.to_string() };
    let mac = tap.station().map_err(lost)?;
    if tap.link().map_err(lost)? == Link::Down {
        log::warn!("{address}: the kernel's end is down; `ip link set {} up`", tap.name);
    }
    SoftPort::new(address, mac, tap, config)
}
