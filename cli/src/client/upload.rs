//! Bringing blobs to a farm.

use bytes::Bytes;
use farm_link::LinkError;
use farm_proto::ids::Digest;
use farm_proto::message::{Open, Request, RequestError, Response};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Client, ClientError, refused};

/// How much of a blob is handed to the transport at once, in bytes.
const BLOB_CHUNK: usize = 256 << 10;
/// Blobs that are uploaded side by side: enough that many small ones do not wait for each other's round trips.
const PARALLEL_UPLOADS: usize = 16;

/// Where the bytes of a blob come from when a farm lacks it.
pub trait BlobSource: Sync {
    /// The bytes named `digest`, and how many they are; `None` if this source knows no such blob.
    ///
    /// # Errors
    ///
    /// The bytes cannot be read.
    fn open(
        &self,
        digest: &Digest,
    ) -> impl Future<Output = std::io::Result<Option<(u64, Box<dyn AsyncRead + Unpin + Send>)>>> + Send;
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

    async fn put_blob(&self, digest: Digest, blobs: &impl BlobSource) -> Result<u64, ClientError> {
        let opened = blobs.open(&digest).await.map_err(ClientError::Source)?;
        let (size, mut source) = opened.ok_or(RequestError::NoSuchBlob(digest))?;
        let (mut writer, mut reader) = self.line.link().await?.open().await?;
        writer.send(&Open::Request(Request::PutBlob { digest, size }), Bytes::new()).await?;
        loop {
            let mut chunk = Vec::with_capacity(BLOB_CHUNK);
            if (&mut source).take(BLOB_CHUNK as u64).read_to_end(&mut chunk).await.map_err(ClientError::Source)? == 0 {
                break;
            }
            if let Err(error) = writer.raw(chunk.into()).await {
                // The farm has stopped reading: it has the blob already, or says what is wrong.
                if !matches!(error, LinkError::Stopped(_)) {
                    return Err(error.into());
                }
                break;
            }
        }
        writer.finish();
        let (response, _) = reader.expect().await?;
        match refused(response)? {
            Response::Stored => Ok(size),
            _ => Err(ClientError::Unexpected("no word of a stored blob")),
        }
    }
}
