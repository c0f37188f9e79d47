//! A wire's way out of the process: a TAP interface of the kernel, or the wire of another process over a socket.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use barewire_driver::soft::FrameIo;
use barewire_driver::tap::{Tap, TapError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recv, send, socket_with,
};

use crate::medium::{Fcs, Mac, Medium, PortId};

/// The longest frame that passes.
const LONGEST: usize = 16 << 10;
/// A pause before a peer that went is looked for again.
const RETRY: Duration = Duration::from_millis(100);

/// Why a wire cannot leave the process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The kernel gives no such interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The path cannot be a socket.
    #[error("wire {path}: {source}", path = .path.display())]
    Path {
        /// The socket.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// The way out, a station on the wire. Frames that find nobody at the other end are lost, as on a cable.
pub struct Link(Kind);

enum Kind {
    Tap(Tap),
    Unix { path: PathBuf, peer: Mutex<Option<Arc<OwnedFd>>> },
}

impl Link {
    /// Attaches to the TAP interface `name`, which is made if the user may.
    pub fn tap(name: &str) -> Result<Arc<Self>, LinkError> {
        Ok(Arc::new(Self(Kind::Tap(Tap::open(name)?))))
    }

    /// Joins the wire of another process: one of the two listens at `path`, the other connects, whichever comes first.
    pub fn unix(path: &Path) -> Result<Arc<Self>, LinkError> {
        let refuse = |error: Errno| LinkError::Path { path: path.to_owned(), source: error.into() };
        SocketAddrUnix::new(path).map_err(refuse)?;
        Ok(Arc::new(Self(Kind::Unix { path: path.to_owned(), peer: Mutex::new(None) })))
    }

    /// Brings frames in, from the station at `port`, until `stop` becomes readable.
    pub fn run(&self, wire: &dyn Medium, port: PortId, stop: &OwnedFd) {
        let mut frame = vec![0; LONGEST];
        match &self.0 {
            Kind::Tap(tap) => {
                while wait(tap, stop, None) {
                    match tap.receive(&mut frame) {
                        Ok(Some(len)) => carry(wire, port, &mut frame, len),
                        Ok(None) => {}
                        Err(error) => return log::warn!("tap:{}: {error}", tap.name()),
                    }
                }
            }
            Kind::Unix { path, peer } => {
                while let Some(connected) = rendezvous(path, stop) {
                    let connected = Arc::new(connected);
                    let set = |value| *peer.lock().unwrap_or_else(PoisonError::into_inner) = value;
                    set(Some(Arc::clone(&connected)));
                    while wait(&connected, stop, None) {
                        match recv(&connected, &mut frame[..], RecvFlags::DONTWAIT).map(|(len, _)| len) {
                            Ok(0) => break,
                            Ok(len) => carry(wire, port, &mut frame, len),
                            Err(Errno::AGAIN | Errno::INTR) => {}
                            Err(_) => break,
                        }
                    }
                    set(None);
                }
            }
        }
    }
}

/// Puts `len` bytes on the wire, padded as Ethernet wants it.
fn carry(wire: &dyn Medium, port: PortId, frame: &mut [u8], len: usize) {
    const HEADER: usize = 14;
    const MIN_FRAME: usize = 60;
    if len < HEADER || len >= frame.len() {
        return;
    }
    if len < MIN_FRAME {
        frame[len..MIN_FRAME].fill(0);
    }
    wire.transmit(port, &frame[..len.max(MIN_FRAME)]);
}

/// Waits until there is something to read; `false` when it is time to stop.
fn wait(from: &impl AsFd, stop: &OwnedFd, limit: Option<Duration>) -> bool {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let mut events = [PollFd::new(from, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
    // EINTR and ENOMEM are left: the caller tries to read and comes back.
    let _ = poll(&mut events, limit.as_ref());
    events[1].revents().is_empty()
}

/// Finds the peer at `path`: connects where somebody listens, else listens. `None` when it is time to stop.
fn rendezvous(path: &Path, stop: &OwnedFd) -> Option<OwnedFd> {
    loop {
        match meet(path, stop) {
            Ok(Some(peer)) => return Some(peer),
            Ok(None) => return None,
            Err(error) => log::debug!("wire {}: {error}", path.display()),
        }
        if !wait(stop, stop, Some(RETRY)) {
            return None;
        }
    }
}

fn meet(path: &Path, stop: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let socket = || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let near = socket()?;
    match connect(&near, &address) {
        Ok(()) => return Ok(Some(near)),
        // Left behind by a process that is gone.
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path)?,
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let near = socket()?;
    bind(&near, &address)?;
    listen(&near, 1)?;
    let far = wait(&near, stop, None).then(|| accept_with(&near, SocketFlags::CLOEXEC)).transpose();
    // One peer is all there is: the next one to come finds nobody and listens itself.
    rustix::fs::unlink(path)?;
    far
}

impl Mac for Link {
    fn receive(&self, frame: &[u8], fcs: Fcs) {
        if fcs == Fcs::Bad {
            return;
        }
        // A full queue or no peer: the frame is lost.
        match &self.0 {
            Kind::Tap(tap) => _ = tap.send(frame),
            Kind::Unix { peer, .. } => {
                if let Some(peer) = &*peer.lock().unwrap_or_else(PoisonError::into_inner) {
                    let _ = send(peer, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                }
            }
        }
    }

    fn set_carrier(&self, _up: bool) {}
}
