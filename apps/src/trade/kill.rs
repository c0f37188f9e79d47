//! The kill switch: once it is pressed, no order leaves any more.
//!
//! It is one flag that the hot path reads before every release, and that anybody may set: the program, a signal, or somebody who makes a file.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a file is looked for.
const FILE_INTERVAL: Duration = Duration::from_millis(1);

/// The switch; clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct KillSwitch(Arc<AtomicBool>);

impl KillSwitch {
    /// Stops all orders from the next release on.
    pub fn press(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Lets orders leave again.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether orders are stopped.
    #[inline]
    pub fn is_pressed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Lets SIGUSR1 press it.
    ///
    /// # Errors
    /// When the handler cannot be set.
    pub fn press_on_signal(&self) -> io::Result<()> {
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&self.0)).map(drop)
    }

    /// Lets a file press it: as soon as there is one at `path`, looked for once a millisecond until the watch is dropped.
    ///
    /// # Errors
    /// When there is no such folder to watch, or no thread to be had.
    pub fn press_on_file(&self, path: &Path) -> io::Result<FileWatch> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is no folder", folder.display())));
        }
        let (kill, path): (_, PathBuf) = (self.clone(), path.to_owned());
        let (stop, stopped) = mpsc::channel::<()>();
        let watch = move || {
            loop {
                // What cannot be looked at might be there.
                if path.try_exists().unwrap_or(true) {
                    kill.press();
                    return;
                }
                if stopped.recv_timeout(FILE_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("kill file".to_owned()).spawn(watch)?;
        Ok(FileWatch { stop: Some(stop), thread: Some(thread) })
    }
}

/// Looks for a file until it is dropped.
#[derive(Debug)]
pub struct FileWatch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A watch that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_made_presses_the_switch() {
        let kill = KillSwitch::default();
        let path = std::env::temp_dir().join(format!("barewire-kill-{}", std::process::id()));
        let watch = kill.press_on_file(&path).unwrap();
        assert!(!kill.is_pressed());
        std::fs::write(&path, "").unwrap();
        // Without a bound of its own: the watch ends by pressing, or the test's runner ends the test.
        while !kill.is_pressed() {
            thread::yield_now();
        }
        drop(watch);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn file_in_no_folder_is_refused() {
        let error = KillSwitch::default().press_on_file(Path::new("/no/such/folder/kill")).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }

    #[test]
    fn signal_presses_the_switch() {
        let kill = KillSwitch::default();
        kill.press_on_signal().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
        while !kill.is_pressed() {
            thread::yield_now();
        }
        kill.reset();
        assert!(!kill.is_pressed());
    }
}
