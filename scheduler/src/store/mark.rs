//! The mark: how many commits were acknowledged.
//!
//! It is what tells a transaction that never ended from one that was acknowledged and is damaged: to SQLite, both are the
//! end of its log. There are two slots, written in turn, so that one is whole at any time.
//!
//! ```text
//! at 0 and at 512: the number of the commit (u64, little endian), its BLAKE3 digest (24 bytes of it)
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name of its file.
pub(crate) const NAME: &str = "farm.mark";
const SLOT: usize = 512;
/// It is synced so often, if there is anything new in it.
const SYNC: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    synced: Instant,
}

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    /// There is none, or nothing is in it: of a new farm, or of one that was taken from a backup.
    Nothing,
    /// So many commits were acknowledged.
    Commits(u64),
    /// Neither slot is what was written.
    Damaged,
}

impl Mark {
    /// Opens the mark of the state folder `folder`, or makes it.
    pub(super) fn open(folder: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let path = folder.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        match file {
            Ok(file) => Ok(Self { file, path, synced: Instant::now() }),
            Err(error) => Err((path, error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that commit `number` is acknowledged.
    pub(super) fn set(&mut self, number: u64) -> io::Result<()> {
        self.file.write_all_at(&slot(number), (number % 2) * SLOT as u64)?;
        if self.synced.elapsed() >= SYNC {
            self.sync()?;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced = Instant::now();
        Ok(())
    }
}

fn slot(number: u64) -> [u8; 32] {
    let number = number.to_le_bytes();
    let mut slot = [0; 32];
    slot[..8].copy_from_slice(&number);
    slot[8..].copy_from_slice(&blake3::hash(&number).as_bytes()[..24]);
    slot
}

/// Reads the mark of the state folder `folder`.
pub(crate) fn read(folder: &Path) -> io::Result<Marked> {
    let bytes = match std::fs::read(folder.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Marked::Nothing),
        result => result?,
    };
    let slots = bytes.chunks(SLOT).filter_map(|bytes| {
        let number = u64::from_le_bytes(bytes.first_chunk().copied()?);
        (bytes.get(..32)? == slot(number)).then_some(number)
    });
    Ok(match slots.max() {
        Some(number) => Marked::Commits(number),
        None if bytes.iter().all(|byte| *byte == 0) => Marked::Nothing,
        None => Marked::Damaged,
    })
}
