//! Ballast: a file without a meaning, thrown overboard when something has to be deleted from a full disk, or a
//! scheduler to be started on one. Deleting writes before it frees.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::RESERVE;
use super::schema::CHECKPOINT_PAGES;

/// The name of its file.
pub(crate) const NAME: &str = "farm.ballast";
/// Enough for the database to take back its log, and for the pages that the shortest steps of a deletion write, in bytes.
const SIZE: u64 = CHECKPOINT_PAGES as u64 * 4096 + (512 << 10);

#[derive(Debug)]
pub(super) struct Ballast {
    folder: PathBuf,
    path: PathBuf,
}

impl Ballast {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), path: folder.join(NAME) }
    }

    /// What is free, and how large the disk is, in bytes.
    fn room(&self) -> io::Result<(u64, u64)> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        Ok((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
    }

    /// Takes it on (again), or as much of it as there is room for. It is no error if there is none.
    pub(super) fn take(&self) -> io::Result<()> {
        let there = fs::metadata(&self.path).map_or(0, |file| file.len());
        let (free, all) = self.room()?;
        // A small disk is for something better.
        let size = SIZE.min(all / 8).min(there.saturating_add(free.saturating_sub(RESERVE)));
        if there >= size {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        // Where a file system cannot promise room, it is of no use.
        if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size).is_err() {
            return self.drop();
        }
        Ok(())
    }

    /// Throws it overboard if there is hardly any room to open a store.
    pub(super) fn drop_if_scarce(&self) -> io::Result<()> {
        if self.room()?.0 < RESERVE { self.drop() } else { Ok(()) }
    }

    /// Throws it overboard.
    pub(super) fn drop(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
