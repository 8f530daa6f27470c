//! The folder that a scheduler has to itself.
//!
//! ```text
//! lock             held by the scheduler that runs here; says which that is
//! ca.pem           the farm's CA: certificate and key
//! secret.key       what tickets are signed with
//! admin.ticket     a way in for whoever may read this folder
//! worker.ticket    a way in for workers started by them
//! farm.sqlite      jobs and their results, with its log and bookkeeping beside it (see `store`)
//! blobs/           modules, argument tables, inputs, large results: one file each, named by digest
//! ```
//!
//! The folder can be entered by its owner only, and what is secret can be read by its owner only.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use farm_link::identity::private_folder;

use crate::SchedulerError;

/// The files that make the farm the one it is, but for what is stored.
pub(crate) const IDENTITY: [&str; 4] = ["ca.pem", "secret.key", "admin.ticket", "worker.ticket"];

/// A state folder, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    lock: Arc<File>,
    /// Held while blobs get their names or are removed.
    pub(crate) moving: Arc<Mutex<()>>,
}

impl StateDir {
    /// Makes the folder if need be, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, SchedulerError> {
        private_folder(path).map_err(state_error(path))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(state_error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Best effort: the holder may be about to write this very line.
                let _ = lock.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "it has not said which".to_owned(),
                    text => text.to_owned(),
                };
                return Err(SchedulerError::InUse { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(state_error(&lock_path)(source)),
        }
        let mut dir = Self { path: path.to_owned(), lock: Arc::new(lock), moving: Arc::default() };
        dir.sign(&format!("process {}", std::process::id()))?;
        Ok(dir)
    }

    /// Adds to the lock where the scheduler listens, for whoever finds it taken.
    pub(crate) fn announce(&mut self, address: SocketAddr) -> Result<(), SchedulerError> {
        self.sign(&format!("process {}, listening on {address}", std::process::id()))
    }

    fn sign(&mut self, holder: &str) -> Result<(), SchedulerError> {
        let line = format!("{holder}\n");
        let write = |mut lock: &File| {
            lock.rewind()?;
            // Over what was there, which needs no room on a full disk.
            lock.write_all(line.as_bytes())?;
            lock.set_len(line.len() as u64)
        };
        match write(&self.lock) {
            // It is for people. What counts is the lock.
            Err(error) if is_full(&error) => Ok(()),
            result => result.map_err(state_error(&self.path.join("lock"))),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the folder locked for as long as it lives, should this value go before.
    pub(crate) fn guard(&self) -> Arc<File> {
        Arc::clone(&self.lock)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file that only its owner can read, whole or not at all. It is on the disk when this returns.
    pub(crate) fn write_private(&self, name: &str, bytes: &[u8]) -> Result<(), SchedulerError> {
        let path = self.join(name);
        let write = || -> io::Result<()> {
            // A temporary file is 0600 from the start.
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            // The name, too, is on the disk only when its folder is.
            File::open(&self.path)?.sync_all()
        };
        write().map_err(state_error(&path))
    }

    /// A file's bytes; none if there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, SchedulerError> {
        let path = self.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(state_error(&path)(source)),
        }
    }
}

/// Whether it is for want of room that something cannot be written.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(crate) fn state_error(path: &Path) -> impl FnOnce(io::Error) -> SchedulerError {
    let path = path.to_owned();
    move |source| SchedulerError::State { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_scheduler_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = StateDir::open(folder.path()).unwrap();
        first.announce(SocketAddr::from(([127, 0, 0, 1], 7117))).unwrap();
        let error = StateDir::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains("127.0.0.1:7117"), "{error}");
        drop(first);
        StateDir::open(folder.path()).unwrap();
    }

    #[test]
    fn private_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&folder.path().join("made")).unwrap();
        dir.write_private("x", b"secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.join("x")), 0o600);
        assert_eq!(mode(&dir.join("")), 0o700);
        assert_eq!(dir.read("x").unwrap().as_deref(), Some(b"secret" as &[u8]));
        assert_eq!(dir.read("y").unwrap(), None);
    }
}
