//! Blobs, in and out.

use std::sync::Arc;

use bytes::Bytes;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::ids::Digest;
use farm_proto::message::{RequestError, Response};
use farm_proto::ticket::Role;

use super::connection::Peer;
use super::request::refuse;
use super::streams::next_raw;
use super::{Fault, Shared};
use crate::blobs::{BlobReader, BlobWriter, PutError};
use crate::sync::off_loop;

/// Takes in a blob. One that is there already is read to its end all the same: its sender is in the middle of it, unless
/// the sender [asks](farm_proto::message::Request::PutBlob) first.
pub(super) async fn put(
    shared: &Arc<Shared>,
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    (digest, size, ask): (Digest, u64, bool),
) -> Result<(), Fault> {
    let is_there = shared.blobs.size(&digest) == Some(size);
    let stored = match (is_there, ask) {
        (true, true) => Ok(()),
        (true, false) => discard(reader, size).await,
        (false, true) => go_on(shared, writer, reader, digest, size).await,
        (false, false) => receive(reader, size, shared.blobs.put(digest, size)).await,
    };
    match stored {
        Ok(()) => {
            tracing::debug!(%digest, size, "blob stored");
            Ok(writer.send(&Response::Stored, Bytes::new()).await?)
        }
        Err(NotStored::Put(error)) => {
            tracing::warn!(%digest, size, %error, "blob not stored");
            // What is still on its way has nowhere to go.
            refuse(writer, error.into()).await
        }
        Err(NotStored::Fault(fault)) => Err(fault),
    }
}

enum NotStored {
    Put(PutError),
    Fault(Fault),
}

impl From<PutError> for NotStored {
    fn from(error: PutError) -> Self {
        Self::Put(error)
    }
}

impl From<Fault> for NotStored {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Tells the sender where to go on, and takes in the rest.
async fn go_on(
    shared: &Arc<Shared>,
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    digest: Digest,
    size: u64,
) -> Result<(), NotStored> {
    let blob = shared.blobs.go_on(digest, size).await?;
    let from = blob.received();
    if from > 0 {
        tracing::info!(%digest, from, size, "an upload goes on where it was");
    }
    writer.send(&Response::Send { from }, Bytes::new()).await.map_err(Fault::from)?;
    receive(reader, size - from, Ok(blob)).await
}

async fn receive(reader: &mut FrameReader, mut left: u64, blob: Result<BlobWriter, PutError>) -> Result<(), NotStored> {
    let mut blob = blob?;
    while left > 0 {
        let bytes = next_raw(reader).await?.ok_or_else(cut_off)?;
        left = left.saturating_sub(bytes.len() as u64);
        blob.write(bytes).await?;
    }
    Ok(blob.finish().await?)
}

async fn discard(reader: &mut FrameReader, size: u64) -> Result<(), NotStored> {
    let mut left = size;
    while left > 0 {
        let bytes = next_raw(reader).await?.ok_or_else(cut_off)?;
        left = left.checked_sub(bytes.len() as u64).ok_or(PutError::TooMany)?;
    }
    Ok(())
}

fn cut_off() -> Fault {
    Fault::Protocol("a blob ended before its announced size".to_owned())
}

/// Gives out a blob: to a worker what the jobs need that it works on, to a user what its own need.
pub(super) async fn get(peer: &Peer, writer: &mut FrameWriter, digest: Digest) -> Result<(), Fault> {
    let may = match peer.caller.role {
        Role::Admin => Ok(true),
        Role::Worker => Ok(peer.seat.may_fetch(&digest)),
        Role::User => {
            let (store, user) = (Arc::clone(&peer.shared.store), peer.caller.name.clone());
            off_loop(move || store.needs(&user, &digest)).await
        }
    };
    match may {
        Ok(true) => {}
        // To who may not have it, it does not exist.
        Ok(false) => return refuse(writer, RequestError::NoSuchBlob(digest)).await,
        Err(error) => return refuse(writer, RequestError::Storage(error.to_string())).await,
    }
    let data = match peer.shared.blobs.data(&digest) {
        Ok(Some(data)) => data,
        Ok(None) => return refuse(writer, RequestError::NoSuchBlob(digest)).await,
        Err(error) => return refuse(writer, RequestError::Storage(error.to_string())).await,
    };
    let mut blob = BlobReader::new(data);
    let size = blob.size();
    let broken = |error| Fault::Internal(format!("blob {digest} cannot be read: {error}"));
    writer.send(&Response::Blob { size }, Bytes::new()).await?;
    while let Some(bytes) = blob.next().await.map_err(broken)? {
        writer.raw(bytes).await?;
    }
    Ok(())
}
