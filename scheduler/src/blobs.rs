//! Blobs: files named by digest.
//!
//! ```text
//! blobs/aa/aabb…   a blob, under the first two digits of its digest
//! blobs/new/…      blobs on their way in; cleared at start
//! ```
//!
//! A blob is there whole and right, or not at all: it is written under a temporary name while its digest is computed,
//! and gets its name when that is right. Puts of the same blob at the same time do not know of each other; the last to
//! end replaces the others' equal file. Small blobs also stay in memory, up to a bound, because arguments are cut from
//! them for every lease.

mod cache;
mod reader;
mod writer;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use farm_link::identity::private_folder;
use farm_proto::ids::Digest;

use self::cache::Cache;
pub(crate) use self::reader::BlobReader;
pub(crate) use self::writer::PutError;
use crate::SchedulerError;
use crate::state_dir::{StateDir, state_error};
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
    folder: PathBuf,
    /// The largest blob, in bytes.
    max: u64,
    cache: Mutex<Cache>,
}

/// A blob that is there, ready to be read.
#[derive(Debug)]
pub(crate) enum BlobData {
    Memory(Bytes),
    File { file: File, size: u64 },
}

impl Blobs {
    /// Opens the blobs of a state folder, and drops what an earlier scheduler was receiving when it ended.
    pub(crate) fn open(state: &StateDir, max: u64) -> Result<Self, SchedulerError> {
        let folder = state.join("blobs");
        let new = folder.join("new");
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(state_error(&new)(error));
            }
            _ => {}
        }
        private_folder(&new).map_err(state_error(&new))?;
        Ok(Self { folder, max, cache: Mutex::new(Cache::new(CACHE)) })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder.join(&name[..2]).join(name)
    }

    /// The size of a blob, if it is there.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        if let Some(bytes) = locked(&self.cache).get(digest) {
            return Some(bytes.len() as u64);
        }
        Some(fs::metadata(self.path(digest)).ok()?.len())
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
        let file = match File::open(self.path(digest)) {
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
