//! `barewire model`: device models behind vfio-user sockets, joined by a wire.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use barewire_driver::MacAddress;
use barewire_driver::clock::Clock;
use barewire_models::vfio_user::{Server, ServerError};
use barewire_models::wire::station::{Link, LinkError};
use barewire_models::wire::{Delivery, Wire, WireConfig};
use barewire_models::{Ixgbe82599, Mac, PortId};
use rustix::event::{EventfdFlags, eventfd};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What the wire between the models leads to as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// A capture of every frame.
    Pcap(PathBuf),
    /// A TAP interface of the kernel.
    Tap(String),
    /// The wire of another process, over a socket.
    Unix(PathBuf),
}

impl FromStr for Attachment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("pcap", path)) if !path.is_empty() => Ok(Self::Pcap(path.into())),
            Some(("tap", name)) if !name.is_empty() => Ok(Self::Tap(name.into())),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => Err("pcap:FILE, tap:NAME or unix:PATH is expected".into()),
        }
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// A model behind each.
    pub sockets: Vec<PathBuf>,
    /// Where the wire leads besides.
    pub wire: Vec<Attachment>,
}

/// Why models cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A socket cannot be served.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The wire cannot be led to where it should go.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The capture cannot be written.
    #[error("{path}: {source}", path = .path.display())]
    Capture {
        /// The capture.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Two captures.
    #[error("one capture holds every frame of the wire; give pcap:FILE once")]
    TwoCaptures,
    /// The operating system refused something small.
    #[error("cannot wait for signals: {0}")]
    System(#[from] io::Error),
}

/// Runs models until SIGINT or SIGTERM; then ends every connection and removes the sockets.
pub fn run(config: &Config) -> Result<(), Error> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
    let clock = Clock::calibrated();
    let models: Vec<_> = config.sockets.iter().map(|path| Ixgbe82599::new(station(path), clock.clone())).collect();
    let servers: Vec<_> = config
        .sockets
        .iter()
        .zip(&models)
        .map(|(path, model)| Ok(Server::bind(path, model.clone(), stop.try_clone()?)?))
        .collect::<Result<_, Error>>()?;
    let links: Vec<_> = config
        .wire
        .iter()
        .filter_map(|attachment| match attachment {
            Attachment::Tap(name) => Some(Link::tap(name)),
            Attachment::Unix(path) => Some(Link::unix(path)),
            Attachment::Pcap(_) => None,
        })
        .collect::<Result<_, _>>()?;
    let stations: Vec<Arc<dyn Mac>> = models
        .iter()
        .map(|model| model.clone() as Arc<dyn Mac>)
        .chain(links.iter().map(|link| link.clone() as Arc<dyn Mac>))
        .collect();
    let mut wire = Wire::join(clock, &stations, WireConfig::perfect(Delivery::Immediate))
        .expect("a perfect wire asks for nothing that can be refused");
    record(&mut wire, &config.wire)?;
    for (model, port) in models.iter().zip(0..) {
        model.connect(wire.clone(), PortId(port));
    }
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| server.run());
        }
        for (link, port) in links.iter().zip(models.len() as u16..) {
            let (wire, stop) = (wire.clone(), &stop);
            scope.spawn(move || link.run(&*wire, PortId(port), stop));
        }
        for (path, model) in config.sockets.iter().zip(&models) {
            log::info!("82599 {} behind {}", model.mac(), path.display());
        }
        // A second signal while things end finds the default: the program dies.
        let _ = signals.forever().next();
        // It cannot be full: nobody else writes.
        let _ = rustix::io::write(&stop, &1u64.to_ne_bytes());
    });
    for ((path, server), model) in config.sockets.iter().zip(&servers).zip(&models) {
        let path = path.display();
        log::info!("{path}: {:?}, {:?}, {:?}", server.stats(), model.ledger(), model.refusals());
    }
    Ok(())
}

/// Begins the capture, if there is to be one.
fn record(wire: &mut Arc<Wire>, attachments: &[Attachment]) -> Result<(), Error> {
    let mut captures = attachments.iter().filter_map(|attachment| match attachment {
        Attachment::Pcap(path) => Some(path),
        _ => None,
    });
    let Some(path) = captures.next() else { return Ok(()) };
    if captures.next().is_some() {
        return Err(Error::TwoCaptures);
    }
    let capture = |source| Error::Capture { path: path.clone(), source };
    let file = File::create(path).map_err(capture)?;
    wire.record(Box::new(BufWriter::new(file))).map_err(capture)
}

/// A locally administered station address from a socket's path: the same for the same path, and different in two processes on one wire.
fn station(socket: &Path) -> MacAddress {
    // FNV-1a, 64 bits.
    let hash = socket
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let [a, b, c, d, e, ..] = hash.to_le_bytes();
    MacAddress([0x02, a, b, c, d, e])
}
