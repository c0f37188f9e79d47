//! Models of NICs in a process of their own.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use barewire_driver::bus::Bus;
use barewire_driver::bus::vfio_user::VfioUserBus;
use tempfile::TempDir;

use crate::program::Running;

/// Far more than anything that is waited for takes.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Calls `done` until it holds.
///
/// # Panics
/// When it does not within [`LIMIT`].
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "{what} did not happen");
        std::thread::yield_now();
    }
}

/// `barewire model 82599` with some sockets in a folder of its own.
pub struct Models {
    /// Where the sockets are.
    pub folder: TempDir,
    /// The program.
    pub process: Running,
}

impl Models {
    /// Starts it with `sockets` of these names, joined by `wire`: [`Models::start_in`] a new folder.
    pub fn start(sockets: &[&str], wire: &[String]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), sockets, wire)
    }

    /// Starts it with `sockets` of these names in `folder`; `wire` holds values of its `--wire`.
    ///
    /// # Panics
    /// When it does not listen within [`LIMIT`].
    pub fn start_in(folder: TempDir, sockets: &[&str], wire: &[String]) -> Self {
        let mut args = vec!["model".to_owned(), "82599".to_owned()];
        for socket in sockets {
            args.extend(["--socket".to_owned(), folder.path().join(socket).display().to_string()]);
        }
        wire.iter().for_each(|wire| args.extend(["--wire".to_owned(), wire.clone()]));
        let models = Self { process: Running::start(&args), folder };
        sockets.iter().for_each(|socket| eventually("listening", || models.path(socket).exists()));
        models
    }

    /// The path of the socket of this name.
    pub fn path(&self, socket: &str) -> PathBuf {
        self.folder.path().join(socket)
    }

    /// A bus to the model behind the socket of this name.
    ///
    /// # Panics
    /// When it does not accept within [`LIMIT`].
    pub fn bus(&self, socket: &str) -> Arc<dyn Bus> {
        let mut bus = None;
        eventually("accepting", || {
            bus = VfioUserBus::connect(&self.path(socket)).ok();
            bus.is_some()
        });
        Arc::new(bus.expect("it was there"))
    }
}
