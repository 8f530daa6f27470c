//! A blob on its way in.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::ids::Digest;
use farm_proto::message::RequestError;
use tempfile::NamedTempFile;

use super::{Blobs, Folder, SMALL};
use crate::sync::{locked, off_loop};

/// How much is collected before it is hashed and written, in bytes: each write is two changes of thread.
const WRITE: usize = 1 << 20;

/// Why a blob is not stored. Nothing of it stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    #[error("a blob of {size} bytes; the largest that this farm stores has {max}")]
    TooLarge { size: u64, max: u64 },
    #[error("more bytes than were announced")]
    TooMany,
    #[error("fewer bytes than were announced")]
    TooFew,
    #[error("the bytes do not have the digest that was named")]
    WrongDigest,
    #[error(transparent)]
    Storage(#[from] io::Error),
}

impl From<PutError> for RequestError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::TooLarge { .. } | PutError::TooMany | PutError::TooFew => Self::Invalid(error.to_string()),
            PutError::WrongDigest => Self::WrongDigest,
            PutError::Storage(error) => Self::Storage(error.to_string()),
        }
    }
}

/// Takes in a blob piece by piece. Dropped before [`Self::finish`], it leaves nothing behind, unless it may
/// [go on](Blobs::go_on).
#[derive(Debug)]
pub(crate) struct BlobWriter {
    blobs: Arc<Blobs>,
    digest: Digest,
    size: u64,
    received: u64,
    collected: Vec<Bytes>,
    collected_len: usize,
    /// None while it is being written to off the loop; if that never returns, neither does this.
    file: Option<Hashing>,
}

/// The file as it grows, and the digest of what is in it.
#[derive(Debug)]
struct Hashing {
    /// None once it has its name.
    file: Option<NamedTempFile>,
    hasher: Box<blake3::Hasher>,
    /// Set if what is there stays when the sender goes.
    stays: Option<Arriving>,
}

/// Nobody else goes on with this blob meanwhile.
#[derive(Debug)]
struct Arriving {
    blobs: Arc<Blobs>,
    digest: Digest,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        locked(&self.blobs.arriving).remove(&self.digest);
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        if let (Some(file), Some(_)) = (self.file.take(), &self.stays)
            && let Err(error) = file.keep()
        {
            tracing::debug!(error = %error.error, "the beginning of a blob is lost");
        }
    }
}

impl Hashing {
    fn write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let result = self.try_to_write(pieces);
        if result.is_err() {
            // On a full disk, others need the room more than this one needs its beginning. It is gone before anyone else
            // may go on with it.
            self.file = None;
            self.stays = None;
        }
        result
    }

    fn try_to_write(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.hasher.update(piece);
            // To the file itself: the error is for the sender, who need not know our paths.
            self.file.as_ref().ok_or_else(ended)?.as_file().write_all(piece)?;
        }
        Ok(())
    }

    /// Reads what is there already: how many bytes.
    fn read(&mut self, size: u64) -> io::Result<u64> {
        let mut file = self.file.as_ref().ok_or_else(ended)?.as_file();
        let mut there = 0;
        let mut piece = vec![0; WRITE];
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            self.hasher.update(&piece[..read]);
            there += read as u64;
        }
        if there > size {
            // Of another blob, if it is of any.
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            self.hasher.reset();
            there = 0;
        }
        Ok(there)
    }
}

fn ended() -> io::Error {
    io::Error::other("the blob's file could not be written before")
}

impl Blobs {
    /// Begins to take in a blob.
    ///
    /// # Errors
    ///
    /// The blob is too large, or no file can be made.
    pub(crate) fn put(self: &Arc<Self>, digest: Digest, size: u64) -> Result<BlobWriter, PutError> {
        if size > self.max {
            return Err(PutError::TooLarge { size, max: self.max });
        }
        let file = self.folder.new_file()?;
        let file = Hashing { file: Some(file), hasher: Box::default(), stays: None };
        Ok(BlobWriter::new(self, digest, size, file, 0))
    }

    /// As [`Self::put`], but goes on where an earlier sender of the same blob has stopped, [from there](BlobWriter::received)
    /// on; and keeps what there is if this one stops, too. If another is at it now, or has gone without a word, begins with
    /// a copy of what that one has brought.
    ///
    /// # Errors
    ///
    /// As [`Self::put`]; or what is there cannot be read.
    pub(crate) async fn go_on(self: &Arc<Self>, digest: Digest, size: u64) -> Result<BlobWriter, PutError> {
        if size > self.max {
            return Err(PutError::TooLarge { size, max: self.max });
        }
        let is_first = locked(&self.arriving).insert(digest);
        let stays = is_first.then(|| Arriving { blobs: Arc::clone(self), digest });
        let blobs = Arc::clone(self);
        let open = move || {
            let file = match &stays {
                Some(_) => blobs.folder.partial(&digest)?,
                None => blobs.folder.copy_of_partial(&digest)?,
            };
            let mut file = Hashing { file: Some(file), hasher: Box::default(), stays };
            let there = file.read(size)?;
            Ok::<_, io::Error>((file, there))
        };
        let (file, there) = off_loop(open).await?;
        Ok(BlobWriter::new(self, digest, size, file, there))
    }
}

impl BlobWriter {
    fn new(blobs: &Arc<Blobs>, digest: Digest, size: u64, file: Hashing, received: u64) -> Self {
        let blobs = Arc::clone(blobs);
        Self { blobs, digest, size, received, collected: Vec::new(), collected_len: 0, file: Some(file) }
    }

    /// How many bytes are there.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    ///
    /// There are more than announced, or they cannot be stored.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), PutError> {
        self.received += bytes.len() as u64;
        if self.received > self.size {
            return Err(PutError::TooMany);
        }
        self.collected_len += bytes.len();
        self.collected.push(bytes);
        if self.collected_len >= WRITE {
            let collected = std::mem::take(&mut self.collected);
            self.collected_len = 0;
            let mut file = self.take_file()?;
            let file = off_loop(move || file.write(&collected).map(|()| file)).await?;
            self.file = Some(file);
        }
        Ok(())
    }

    fn take_file(&mut self) -> Result<Hashing, PutError> {
        Ok(self.file.take().ok_or_else(ended)?)
    }

    /// Gives the blob its name, now that all of it is there, and on the disk.
    ///
    /// # Errors
    ///
    /// There are fewer bytes than announced, their digest is wrong, or they cannot be stored.
    pub(crate) async fn finish(mut self) -> Result<(), PutError> {
        if self.received < self.size {
            return Err(PutError::TooFew);
        }
        let mut file = self.take_file()?;
        let folder = self.blobs.folder.clone();
        let digest = self.digest;
        let collected = std::mem::take(&mut self.collected);
        let small = (self.size <= SMALL).then(|| collected.concat().into());
        off_loop(move || {
            file.write(&collected)?;
            keep(file, digest, &folder)
        })
        .await?;
        if let Some(bytes) = small {
            locked(&self.blobs.cache).insert(digest, bytes);
        }
        Ok(())
    }
}

fn keep(mut hashing: Hashing, digest: Digest, folder: &Folder) -> Result<(), PutError> {
    let file = hashing.file.take().ok_or_else(ended)?;
    if Digest::from(hashing.hasher.finalize()) != digest {
        // Goes with the file's handle: nothing can be made of it any more.
        return Err(PutError::WrongDigest);
    }
    Ok(folder.keep(file, &digest)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Durability;
    use crate::blobs::BlobReader;
    use crate::state_dir::StateDir;

    fn blobs(folder: &tempfile::TempDir) -> Arc<Blobs> {
        let state = StateDir::open(folder.path()).unwrap();
        Arc::new(Blobs::open(&state, 10 << 20, Durability::Synced).unwrap())
    }

    async fn put(blobs: &Arc<Blobs>, digest: Digest, size: usize, bytes: &[u8]) -> Result<(), PutError> {
        let mut writer = blobs.put(digest, size as u64)?;
        for piece in bytes.chunks(300_000) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
        writer.finish().await
    }

    fn leftovers(blobs: &Blobs) -> usize {
        std::fs::read_dir(blobs.folder.new_path()).unwrap().count()
    }

    #[tokio::test]
    async fn blobs_come_back_as_they_went() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = blobs(&folder);
        for size in [0, 1, 1000, 256 << 10, (256 << 10) + 1, 5 << 20] {
            let bytes: Vec<u8> = (0..size as u32).map(|n| (n * 7 / 3) as u8).collect();
            let digest = Digest::of(&bytes);
            assert_eq!(blobs.size(&digest), None);
            for _ in 0..2 {
                put(&blobs, digest, size, &bytes).await.unwrap();
            }
            assert_eq!(blobs.size(&digest), Some(size as u64));
            // With and without what is in memory.
            for blobs in [&blobs, &open_again(&folder)] {
                let mut reader = BlobReader::new(blobs.data(&digest).unwrap().unwrap());
                let mut read = Vec::new();
                while let Some(chunk) = reader.next().await.unwrap() {
                    read.extend_from_slice(&chunk);
                }
                assert!(read == bytes, "{size}");
            }
        }
        assert_eq!(leftovers(&blobs), 0);
    }

    fn open_again(folder: &tempfile::TempDir) -> Arc<Blobs> {
        blobs(folder)
    }

    #[tokio::test]
    async fn what_broke_off_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..5u32 << 20).map(|n| (n * 7 / 3) as u8).collect();
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let first = blobs(&folder);
        let mut writer = first.go_on(digest, size).await.unwrap();
        assert_eq!(writer.received(), 0);
        for piece in bytes[..3 << 20].chunks(300_000) {
            writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        // Another has what is there by now, and may be faster.
        let other = first.go_on(digest, size).await.unwrap();
        assert!((2 << 20..=3 << 20).contains(&other.received()), "{}", other.received());
        drop((writer, other));
        assert_eq!(leftovers(&first), 1);
        // Of the next scheduler as well.
        for blobs in [&first, &blobs(&folder)] {
            let mut writer = blobs.go_on(digest, size).await.unwrap();
            let there = writer.received() as usize;
            assert!((2 << 20..=3 << 20).contains(&there), "{there}");
            if Arc::ptr_eq(blobs, &first) {
                continue;
            }
            writer.write(Bytes::copy_from_slice(&bytes[there..])).await.unwrap();
            writer.finish().await.unwrap();
            assert_eq!((blobs.size(&digest), leftovers(blobs)), (Some(size), 0));
        }
    }

    #[tokio::test]
    async fn what_goes_on_wrongly_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = blobs(&folder);
        let bytes = vec![7; 3 << 20];
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let mut writer = blobs.go_on(digest, size).await.unwrap();
        writer.write(Bytes::from(vec![8; 2 << 20])).await.unwrap();
        drop(writer);
        let mut writer = blobs.go_on(digest, size).await.unwrap();
        assert_eq!(writer.received(), 2 << 20);
        writer.write(Bytes::copy_from_slice(&bytes[2 << 20..])).await.unwrap();
        assert!(matches!(writer.finish().await, Err(PutError::WrongDigest)));
        assert_eq!(blobs.go_on(digest, size).await.unwrap().received(), 0);
    }

    #[tokio::test]
    async fn what_is_wrong_is_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = blobs(&folder);
        let bytes = vec![7; 3 << 20];
        let right = Digest::of(&bytes);
        let wrong = Digest::of(b"something else");
        let size = bytes.len();
        let result = put(&blobs, wrong, size, &bytes).await;
        assert!(matches!(result, Err(PutError::WrongDigest)), "{result:?}");
        let result = put(&blobs, right, size + 1, &bytes).await;
        assert!(matches!(result, Err(PutError::TooFew)), "{result:?}");
        let result = put(&blobs, right, size - 1, &bytes).await;
        assert!(matches!(result, Err(PutError::TooMany)), "{result:?}");
        let result = put(&blobs, right, 11 << 20, &bytes).await;
        assert!(matches!(result, Err(PutError::TooLarge { .. })), "{result:?}");
        assert_eq!((blobs.size(&right), blobs.size(&wrong)), (None, None));
        assert_eq!(leftovers(&blobs), 0);
    }
}
