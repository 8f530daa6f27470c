//! Bringing blobs to a farm, and fetching them.

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::upload::{self, UploadError};
use farm_proto::ids::Digest;
use farm_proto::message::{Request, RequestError, Response};
use tempfile::NamedTempFile;
use tokio::io::AsyncRead;

use super::{Client, ClientError, refused};

/// Blobs that are uploaded side by side: enough that many small ones do not wait for each other's round trips.
const PARALLEL_UPLOADS: usize = 16;

/// Where the bytes of a blob come from when a farm lacks it.
pub trait BlobSource: Sync {
    /// The bytes named `digest`; `None` if this source knows no such blob.
    ///
    /// # Errors
    ///
    /// The bytes cannot be read.
    fn open(&self, digest: &Digest) -> impl Future<Output = io::Result<Option<Opened>>> + Send;
}

/// A blob that is about to be read.
pub struct Opened {
    /// In bytes.
    pub size: u64,
    pub bytes: Box<dyn AsyncRead + Unpin + Send>,
    /// The file that it was found in, which may change.
    pub path: Option<PathBuf>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("size", &self.size).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Client {
    /// Uploads blobs, several at a time.
    ///
    /// # Errors
    ///
    /// As [`Self::submit`]; also if `blobs` does not have one of them.
    pub async fn upload(
        &self,
        digests: &[Digest],
        blobs: &impl BlobSource,
        uploaded: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        self.insist(|| self.try_to_upload(digests, blobs, uploaded)).await
    }

    /// One attempt: the farm takes a blob that it has already without being sent its bytes again.
    pub(super) async fn try_to_upload(
        &self,
        digests: &[Digest],
        blobs: &impl BlobSource,
        uploaded: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ClientError> {
        use futures_util::stream::{self, StreamExt, TryStreamExt};
        // By value: of a future with references from an iterator, the compiler cannot tell that it may be sent.
        stream::iter(digests.to_vec())
            .map(|digest| self.put_blob(digest, blobs))
            .buffer_unordered(PARALLEL_UPLOADS)
            .try_for_each(|size| {
                uploaded(size);
                std::future::ready(Ok(()))
            })
            .await
    }

    /// Fetches a blob into a file that `make` makes, anew for each attempt.
    ///
    /// # Errors
    ///
    /// The farm does not have it, the file cannot be written, or the scheduler did not come back in time.
    pub async fn download(
        &self,
        digest: Digest,
        size: u64,
        make: &(dyn Fn() -> io::Result<NamedTempFile> + Sync),
    ) -> Result<NamedTempFile, ClientError> {
        self.insist(|| self.try_to_download(digest, size, make)).await
    }

    async fn try_to_download(
        &self,
        digest: Digest,
        size: u64,
        make: &(dyn Fn() -> io::Result<NamedTempFile> + Sync),
    ) -> Result<NamedTempFile, ClientError> {
        let mut reader = self.ask(Request::GetBlob { digest }, Bytes::new()).await?;
        match refused(reader.expect().await?.0)? {
            Response::Blob { size: said } if said == size => {}
            _ => return Err(ClientError::Unexpected("another blob than was asked for")),
        }
        let mut file = make().map_err(ClientError::Write)?;
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        while left > 0 {
            let bytes = reader.raw().await?.ok_or(LinkError::CutOff)?;
            left = left.checked_sub(bytes.len() as u64).ok_or(ClientError::Unexpected("more than a blob"))?;
            hasher.update(&bytes);
            file.write_all(&bytes).map_err(ClientError::Write)?;
        }
        if Digest::from(hasher.finalize()) != digest {
            return Err(ClientError::Unexpected("a blob arrived damaged"));
        }
        Ok(file)
    }

    async fn put_blob(&self, digest: Digest, blobs: &impl BlobSource) -> Result<u64, ClientError> {
        let link = self.line.link().await?;
        let mut is_second = false;
        loop {
            let opened = blobs.open(&digest).await.map_err(ClientError::Source)?;
            let Opened { size, mut bytes, path } = opened.ok_or(RequestError::NoSuchBlob(digest))?;
            match upload::put(&link, digest, size, &mut bytes).await {
                Ok(_) => return Ok(size),
                // The beginning that the farm had from somebody was a wrong one, and is gone.
                Err(UploadError::Refused(RequestError::WrongDigest)) if !is_second => is_second = true,
                Err(UploadError::Changed) => return Err(ClientError::Changed(path.unwrap_or_default())),
                Err(UploadError::Source(error)) => return Err(ClientError::Source(error)),
                Err(UploadError::Refused(error)) => return Err(error.into()),
                Err(UploadError::Link(error)) => return Err(error.into()),
            }
        }
    }
}
