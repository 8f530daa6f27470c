//! Blobs on a worker's disk, fetched from the scheduler when they are needed, each once.
//!
//! A fetch that loses its connection waits for the next one, and begins again there.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::dial::Link;
use farm_link::upload::{self, UploadError};
use farm_proto::ids::Digest;
use farm_proto::message::{Open, Request, RequestError, Response};
use tokio::sync::{OnceCell, Semaphore, watch};

/// How long a connection takes, at most, to be seen as lost when one of its streams has broken off.
const END_OF_CONNECTION: Duration = Duration::from_secs(1);
/// How long after a failed upload it is tried again on the same connection.
const AGAIN: Duration = Duration::from_secs(1);
/// Files that are brought to the scheduler side by side.
const PARALLEL_UPLOADS: usize = 8;

/// Why there is no blob.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlobError {
    #[error("the scheduler does not give out blob {}: {source}", .digest.short())]
    Refused { digest: Digest, source: RequestError },
    #[error("blob {} arrived damaged", .0.short())]
    Damaged(Digest),
    #[error("cannot fetch blob {}", .digest.short())]
    Link { digest: Digest, source: LinkError },
    #[error("cannot keep a file in {path}: {source}", path = path.display())]
    Store { path: PathBuf, source: io::Error },
}

/// A folder of blobs, each a file named by its digest.
#[derive(Debug)]
pub(super) struct Blobs {
    folder: PathBuf,
    /// The present connection. `None` while there is none yet.
    link: watch::Receiver<Option<Link>>,
    /// Those that have been asked for. Whoever asks for one that is on its way waits for it.
    known: Mutex<HashMap<Digest, Arc<OnceCell<PathBuf>>>>,
    /// For files on their way to the scheduler.
    uploads: Semaphore,
}

impl Blobs {
    /// Blobs in `folder`, which is there and which nobody else writes to; what it lacks comes over `link`.
    pub(super) fn new(folder: PathBuf, link: watch::Receiver<Option<Link>>) -> Self {
        Self { folder, link, known: Mutex::default(), uploads: Semaphore::new(PARALLEL_UPLOADS) }
    }

    /// Whether a blob is there, so that [`Self::get`] need not fetch it.
    pub(super) fn has(&self, digest: Digest, size: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|metadata| metadata.len() == size)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// The file of a blob. It must not be changed.
    ///
    /// # Errors
    ///
    /// See [`BlobError`]. Asking again tries again.
    pub(super) async fn get(&self, digest: Digest, size: u64) -> Result<PathBuf, BlobError> {
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let cell = known.entry(digest).or_default();
            // Another worker on this machine may have made room.
            if cell.get().is_some_and(|path| !path.exists()) {
                *cell = Arc::default();
            }
            Arc::clone(cell)
        };
        let path = cell.get_or_try_init(|| self.make(digest, size)).await?;
        Ok(path.clone())
    }

    /// Brings a file to the scheduler. Waits for a connection, and for a scheduler that has no room.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is not what it was, or is refused for good.
    pub(super) async fn put(&self, path: &Path, digest: Digest, size: u64) -> Result<(), UploadError> {
        let Ok(_permit) = self.uploads.acquire().await else {
            return std::future::pending().await;
        };
        let mut is_second = false;
        loop {
            let link = self.open_link().await;
            let mut file = tokio::fs::File::open(path).await.map_err(UploadError::Source)?;
            match upload::put(&link, digest, size, &mut file).await {
                Ok(_) => return Ok(()),
                // What another had begun, as whoever else's, was not the beginning of this.
                Err(UploadError::Refused(RequestError::WrongDigest)) if !is_second => is_second = true,
                Err(
                    error @ (UploadError::Link(_)
                    | UploadError::Refused(RequestError::Storage(_) | RequestError::ShuttingDown)),
                ) => {
                    tracing::debug!(digest = digest.short(), %error, "a file of a task waits");
                    let _ = tokio::time::timeout(AGAIN, link.connection.closed()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next connection that is open.
    async fn open_link(&self) -> Link {
        let mut current = self.link.clone();
        let is_open = |link: &Option<Link>| matches!(link, Some(link) if link.connection.close_reason().is_none());
        match current.wait_for(is_open).await.map(|link| link.clone()) {
            Ok(Some(link)) => link,
            // The agent ends, and with it whoever waits for this.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    async fn make(&self, digest: Digest, size: u64) -> Result<PathBuf, BlobError> {
        loop {
            if self.has(digest, size) {
                return Ok(self.path(digest));
            }
            let link = self.open_link().await;
            match self.fetch(&link, digest, size).await {
                Err(BlobError::Link { digest, source }) => {
                    // Only the connection's end is worth another try; a stream's own is not.
                    if tokio::time::timeout(END_OF_CONNECTION, link.connection.closed()).await.is_err() {
                        return Err(BlobError::Link { digest, source });
                    }
                    tracing::debug!(digest = digest.short(), "a fetch waits for another connection");
                }
                result => return result,
            }
        }
    }

    async fn fetch(&self, link: &Link, digest: Digest, size: u64) -> Result<PathBuf, BlobError> {
        let path = self.path(digest);
        let store = |source| BlobError::Store { path: self.folder.clone(), source };
        let lost = |source| BlobError::Link { digest, source };
        let (mut writer, mut reader) = link.open().await.map_err(lost)?;
        let request = Open::Request(Request::GetBlob { digest });
        writer.send(&request, Bytes::new()).await.map_err(lost)?;
        writer.finish();
        match reader.expect().await.map_err(lost)?.0 {
            Response::Blob { size: said } if said == size => {}
            Response::Error(source) => return Err(BlobError::Refused { digest, source }),
            _ => return Err(BlobError::Damaged(digest)),
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(store)?;
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        while left > 0 {
            let Some(bytes) = reader.raw().await.map_err(lost)? else {
                return Err(BlobError::Link { digest, source: LinkError::CutOff });
            };
            left = left.checked_sub(bytes.len() as u64).ok_or(BlobError::Damaged(digest))?;
            hasher.update(&bytes);
            // Into the page cache: a piece of 256 KiB takes a tenth of a millisecond.
            file.write_all(&bytes).map_err(store)?;
        }
        if Digest::from(hasher.finalize()) != digest {
            return Err(BlobError::Damaged(digest));
        }
        file.persist(&path).map_err(|error| store(error.error))?;
        Ok(path)
    }
}

/// Removes the files of a folder that were not used for longest, until the others take up at most `limit` bytes.
///
/// # Errors
///
/// The folder cannot be read.
pub(super) fn prune(folder: &Path, limit: u64) -> io::Result<()> {
    let mut files = Vec::new();
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            let used = metadata.accessed().or_else(|_| metadata.modified())?;
            total += metadata.len();
            files.push((used, metadata.len(), entry.path()));
        }
    }
    files.sort();
    for (_, len, path) in files {
        if total <= limit {
            break;
        }
        match fs::remove_file(&path) {
            Ok(()) => total -= len,
            Err(error) => tracing::warn!(path = %path.display(), %error, "a cached file stays"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_make_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, age: u64| {
            let path = folder.path().join(name);
            let file = fs::File::create(&path).expect("a file");
            (&file).write_all(&[0; 10]).expect("ten bytes");
            let then = std::time::SystemTime::now() - Duration::from_secs(age);
            let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
            file.set_times(times).expect("times");
            path
        };
        let (old, older, new) = (write("old", 100), write("older", 200), write("new", 0));
        prune(folder.path(), 20).expect("a folder");
        assert!(old.exists() && new.exists() && !older.exists());
        prune(folder.path(), 0).expect("a folder");
        assert!(!old.exists() && !new.exists());
    }
}
