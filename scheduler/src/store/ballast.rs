//! Ballast: a file without a meaning, thrown overboard when something has to be deleted from a full disk. Deleting writes
//! before it frees.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The name of its file.
pub(crate) const NAME: &str = "farm.ballast";
/// Enough for the pages that the shortest step of a deletion writes, in bytes.
const SIZE: u64 = 512 << 10;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub(super) fn new(folder: &Path) -> Self {
        Self { path: folder.join(NAME) }
    }

    /// Takes it on (again), if there is room for twice of it. It is no error if there is not.
    pub(super) fn take(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == SIZE) {
            return Ok(());
        }
        let file = File::create(&self.path)?;
        let disk = rustix::fs::fstatvfs(&file)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < 2 * SIZE {
            return self.drop();
        }
        // Where a file system cannot promise room, it is of no use.
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SIZE).is_err() {
            return self.drop();
        }
        Ok(())
    }

    /// Throws it overboard.
    pub(super) fn drop(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
