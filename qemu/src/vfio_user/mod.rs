//! A device model behind a vfio-user socket, for a driver in another process or for a guest of QEMU.
//!
//! One client at a time; when it goes, the device is reset and the next one may come. What a client says wrong is answered with an error;
//! what cannot be followed ends its connection. Memory is taken only if it is sealed against shrinking (see [`Region::import`]).
//!
//! [`Region::import`]: barewire_driver::dma::Region::import
#![forbid(unsafe_code)]

mod session;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use barewire_driver::bus::model::{DeviceModel, ModelBus};
use barewire_driver::bus::vfio_user::protocol::{Errno, Request, refuse};
use barewire_driver::bus::vfio_user::socket::{Stream, StreamError};
use rustix::event::{PollFd, PollFlags, poll};

use session::Session;

/// How long a client may take to finish a message it began, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pause after the operating system refused a connection, such as for want of descriptors.
const RECOVERY: Duration = Duration::from_millis(100);

/// Why a server cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Another process answers there.
    #[error("{}: another server listens there; end it or choose another path", .0.display())]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("{path}: {source}; is the folder there and writable?", path = .path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

/// What a server has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerStats {
    /// Clients that connected.
    pub clients: u64,
    /// Commands.
    pub commands: u64,
    /// Commands that were answered with an error.
    pub refused: u64,
    /// Connections that ended in the middle of a message, or in what is no message.
    pub broken: u64,
}

/// A listening socket with a device behind it. The socket's file goes when this is dropped.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    bus: ModelBus,
    stop: OwnedFd,
    clients: AtomicU64,
    commands: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
}

impl Server {
    /// Listens at `path` for clients of `model`. [`Server::run`] ends when `stop` becomes readable. A socket file that nobody listens at any
    /// more is replaced.
    pub fn bind(path: &Path, model: Arc<dyn DeviceModel>, stop: OwnedFd) -> Result<Self, ServerError> {
        if UnixStream::connect(path).is_ok() {
            return Err(ServerError::InUse(path.to_owned()));
        }
        let listen = |source| ServerError::Listen { path: path.to_owned(), source };
        let is_socket = |meta: std::fs::Metadata| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type());
        if std::fs::symlink_metadata(path).is_ok_and(is_socket) {
            std::fs::remove_file(path).map_err(listen)?;
        }
        let listener = UnixListener::bind(path).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            bus: ModelBus::new(model),
            stop,
            clients: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        })
    }

    /// Serves one client after another until told to stop.
    pub fn run(&self) {
        loop {
            let mut events = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            // EINTR and ENOMEM are left; both are tried again.
            let _ = poll(&mut events, None);
            if !events[1].revents().is_empty() {
                return;
            }
            match self.listener.accept() {
                Ok((socket, _)) => self.serve(socket),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::warn!("{}: {error}", self.path.display());
                    std::thread::sleep(RECOVERY);
                }
            }
        }
    }

    /// Serves a client that is connected, until it goes or [`Server::run`] is to end. The device is its own as long as nobody else is served.
    pub fn serve(&self, socket: UnixStream) {
        self.clients.fetch_add(1, Ordering::Relaxed);
        let end = match self.stop.try_clone() {
            Ok(stop) => self.converse(&Stream::new(socket, Some(stop))),
            Err(error) => return log::warn!("{}: {error}", self.path.display()),
        };
        match end {
            StreamError::Stopped => {}
            StreamError::Closed => log::debug!("{}: the client has gone", self.path.display()),
            error => {
                self.broken.fetch_add(1, Ordering::Relaxed);
                log::warn!("{}: {error}; the connection is closed", self.path.display());
            }
        }
    }

    /// Answers a client until its connection ends; says how.
    fn converse(&self, stream: &Stream) -> StreamError {
        let mut session = Session::new(&self.bus);
        let mut payload = Vec::new();
        loop {
            let message = match stream.receive(&mut payload, None, PATIENCE) {
                Ok(message) => message,
                Err(end) => return end,
            };
            let header = message.header;
            if !header.is_command() {
                return StreamError::Malformed;
            }
            self.commands.fetch_add(1, Ordering::Relaxed);
            let request = Request::parse(header.command, &payload);
            let answer = request.and_then(|request| session.handle(&request, message.fds));
            let bytes = match answer {
                Ok(_) if !header.wants_reply() => continue,
                Ok(reply) => reply.write(&header),
                Err(errno) => {
                    self.refuse(&payload, header.command, errno);
                    if !header.wants_reply() {
                        continue;
                    }
                    refuse(&header, errno)
                }
            };
            if let Err(end) = stream.send(&bytes, &[], PATIENCE) {
                return end;
            }
        }
    }

    fn refuse(&self, payload: &[u8], command: u16, errno: Errno) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let path = self.path.display();
        log::debug!("{path}: command {command} refused with error {}: {:?}", errno.0, Request::parse(command, payload));
    }

    /// What was seen so far.
    pub fn stats(&self) -> ServerStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerStats {
            clients: get(&self.clients),
            commands: get(&self.commands),
            refused: get(&self.refused),
            broken: get(&self.broken),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Somebody may have removed it; then there is nothing to do.
        let _ = std::fs::remove_file(&self.path);
    }
}
