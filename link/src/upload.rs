//! Bringing a blob to the scheduler, for clients and workers alike.
//!
//! Of a blob that is not small, the scheduler is asked first: it may have the blob, or the beginning of it from an upload
//! that broke off. What is read is hashed on the way, so that a file which has changed since it was named is noticed here.

use std::io;

use bytes::Bytes;
use farm_proto::close;
use farm_proto::ids::Digest;
use farm_proto::message::{Open, Request, RequestError, Response};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::LinkError;
use crate::dial::Link;

/// How much is handed to the transport at once, in bytes.
const CHUNK: usize = 256 << 10;
/// For larger blobs, another round trip costs little beside the bytes that it may save.
const ASK_ABOVE: u64 = 1 << 20;

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the scheduler refuses it: {0}")]
    Refused(#[from] RequestError),
    #[error("cannot read it: {0}")]
    Source(#[source] io::Error),
    /// The bytes are not those that the digest and the size are of.
    #[error("it has changed since it was read first")]
    Changed,
}

/// Stores a blob whose bytes come from `source`. Gives how many of them were sent.
///
/// # Errors
///
/// See [`UploadError`]. After the loss of the connection, another attempt goes on where this one stopped.
pub async fn put(
    link: &Link,
    digest: Digest,
    size: u64,
    source: &mut (impl AsyncRead + Unpin),
) -> Result<u64, UploadError> {
    let ask = size > ASK_ABOVE;
    let (mut writer, mut reader) = link.open().await?;
    writer.send(&Open::Request(Request::PutBlob { digest, size, ask }), Bytes::new()).await?;
    let from = match ask {
        false => 0,
        true => match reader.expect().await?.0 {
            Response::Send { from } if from <= size => from,
            Response::Stored => return Ok(0),
            Response::Error(error) => return Err(error.into()),
            _ => return Err(LinkError::Unexpected("no word of where a blob is to go on").into()),
        },
    };
    let mut hasher = blake3::Hasher::new();
    let mut position = 0u64;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        if let Err(error) = (&mut *source).take(CHUNK as u64).read_to_end(&mut chunk).await {
            writer.reset(close::DONE);
            return Err(UploadError::Source(error));
        }
        let end = position + chunk.len() as u64;
        hasher.update(&chunk);
        let is_last = chunk.len() < CHUNK;
        if end > size || (is_last && (end < size || Digest::from(hasher.finalize()) != digest)) {
            writer.reset(close::DONE);
            return Err(UploadError::Changed);
        }
        // What the scheduler has already is only hashed.
        let known = usize::try_from(from.saturating_sub(position)).unwrap_or(usize::MAX).min(chunk.len());
        position = end;
        if known < chunk.len() {
            let bytes = Bytes::from(chunk).slice(known..);
            match writer.raw(bytes).await {
                Ok(()) => {}
                // The scheduler has stopped reading: it says why.
                Err(LinkError::Stopped(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if is_last {
            break;
        }
    }
    writer.finish();
    match reader.expect().await?.0 {
        Response::Stored => Ok(size - from),
        Response::Error(error) => Err(error.into()),
        _ => Err(LinkError::Unexpected("no word of a stored blob").into()),
    }
}
