//! Blobs: files named by digest.
//!
//! ```text
//! blobs/aa/aabb…   a blob, under the first two digits of its digest
//! blobs/new/…      blobs on their way in; cleared at start, but for beginnings that may go on
//! ```
//!
//! A blob is there whole and right, or not at all: it is written under a temporary name while its digest is computed,
//! and gets its name when that is right and the file is on the disk. Puts of the same blob at the same time do not know
//! of each other; the last to end replaces the others' equal file. Blobs that no job needs are
//! [removed](Blobs::remove_unpinned) when they have not been put or asked about for a while; those that the store made for
//! itself, and that nobody else knows of, [at once](Folder::remove_own). Small blobs also stay in memory, up to a bound,
//! because arguments are cut from them for every lease.

mod cache;
mod folder;
mod reader;
mod writer;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use farm_proto::ids::Digest;

use self::cache::Cache;
pub(crate) use self::folder::{Folder, all_in, path_in};
pub(crate) use self::reader::BlobReader;
pub(crate) use self::writer::{BlobWriter, PutError};
use crate::Durability;
use crate::SchedulerError;
use crate::state_dir::StateDir;
use crate::sync::locked;

/// Blobs up to this size are kept in memory for a while, in bytes.
pub(crate) const SMALL: u64 = 256 << 10;
/// All of them together, in bytes.
const CACHE: usize = 32 << 20;
/// More blobs than this are looked up off the loop.
const LOOK_UP_HERE: usize = 64;

/// All blobs of a farm.
#[derive(Debug)]
pub(crate) struct Blobs {
    folder: Folder,
    /// The largest blob, in bytes.
    max: u64,
    cache: Mutex<Cache>,
    /// Those on their way in that may go on if they break off: each has one sender at a time.
    arriving: Mutex<HashSet<Digest>>,
}

/// A blob that is there, ready to be read.
#[derive(Debug)]
pub(crate) enum BlobData {
    Memory(Bytes),
    File { file: File, size: u64 },
}

impl Blobs {
    /// Opens the blobs of a state folder, and drops what an earlier scheduler was receiving when it ended.
    pub(crate) fn open(state: &StateDir, max: u64, durability: Durability) -> Result<Self, SchedulerError> {
        let folder = Folder::open(state, durability)?;
        folder.clear_new()?;
        Ok(Self { folder, max, cache: Mutex::new(Cache::new(CACHE)), arriving: Mutex::default() })
    }

    /// The size of a blob, if it is there. Whoever asks is taken to need it soon: it counts as just put.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        self.folder.touch(digest)
    }

    /// The size of each of these blobs, or none if it is not there.
    pub(crate) async fn sizes(self: &Arc<Self>, digests: Vec<Digest>) -> Vec<Option<u64>> {
        let look_up = |blobs: &Self, digests: &[Digest]| digests.iter().map(|digest| blobs.size(digest)).collect();
        if digests.len() <= LOOK_UP_HERE {
            return look_up(self, &digests);
        }
        let blobs = Arc::clone(self);
        crate::sync::off_loop(move || look_up(&blobs, &digests)).await
    }

    /// Opens a blob; none if it is not there.
    pub(crate) fn data(&self, digest: &Digest) -> io::Result<Option<BlobData>> {
        if let Some(bytes) = locked(&self.cache).get(digest) {
            return Ok(Some(BlobData::Memory(bytes)));
        }
        let file = match File::open(self.folder.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let size = file.metadata()?.len();
        let data = BlobData::File { file, size };
        if size > SMALL {
            return Ok(Some(data));
        }
        let bytes = data.read(0, size)?;
        locked(&self.cache).insert(*digest, bytes.clone());
        Ok(Some(BlobData::Memory(bytes)))
    }

    /// Removes the blobs that are not `pinned` and were last put or asked about before `older_than`: how many, and their
    /// bytes. `older_than` is to be so far back that whoever has put a blob has named it in a job since; and `pinned` is
    /// to be read after that time. Waits for the disk.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or a file cannot be removed. Others may be gone already.
    pub(crate) fn remove_unpinned(&self, pinned: &HashSet<Digest>, older_than: SystemTime) -> io::Result<(u64, u64)> {
        self.folder.remove_old_partials()?;
        let (mut removed, mut bytes) = (0, 0);
        for digest in self.folder.all()? {
            if pinned.contains(&digest) {
                continue;
            }
            if let Some(size) = self.folder.remove(&digest, older_than)? {
                locked(&self.cache).remove(&digest);
                removed += 1;
                bytes += size;
            }
        }
        Ok((removed, bytes))
    }
}

impl BlobData {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// Reads a part. Takes a while if it is in a file.
    ///
    /// # Errors
    ///
    /// The blob ends before the part does, or the file cannot be read.
    pub(crate) fn read(&self, offset: u64, length: u64) -> io::Result<Bytes> {
        let end = offset.checked_add(length).filter(|&end| end <= self.size());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        match self {
            // In memory, so that the numbers fit.
            Self::Memory(bytes) => Ok(bytes.slice(offset as usize..end as usize)),
            Self::File { file, .. } => {
                let length = usize::try_from(length).map_err(io::Error::other)?;
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes.into())
            }
        }
    }
}
