//! Reading from peers that may stop at any byte.

use std::time::Duration;

use bytes::Bytes;
use farm_link::stream::FrameReader;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Fault;

/// How long a peer may take for the next byte of something that it has begun.
pub(super) const STALL: Duration = Duration::from_secs(10);

/// The next frame, which may be long in coming, but not once it has begun. None if the stream ends before it.
pub(super) async fn next_frame<M: DeserializeOwned>(reader: &mut FrameReader) -> Result<Option<(M, Bytes)>, Fault> {
    loop {
        if let Some(frame) = reader.buffered().map_err(farm_link::LinkError::from)? {
            return Ok(Some(frame));
        }
        let pending = reader.pending();
        match timeout(STALL, reader.next()).await {
            Ok(frame) => return Ok(frame?),
            Err(_) if pending == 0 || reader.pending() > pending => {}
            Err(_) => return Err(stalled()),
        }
    }
}

/// The first frame, which has to come at once.
pub(super) async fn first_frame<M: DeserializeOwned>(reader: &mut FrameReader) -> Result<(M, Bytes), Fault> {
    loop {
        let pending = reader.pending();
        match timeout(STALL, reader.expect()).await {
            Ok(frame) => return Ok(frame?),
            Err(_) if reader.pending() > pending => {}
            Err(_) => return Err(stalled()),
        }
    }
}

/// The next raw bytes behind a frame; none at the end of the stream.
pub(super) async fn next_raw(reader: &mut FrameReader) -> Result<Option<Bytes>, Fault> {
    match timeout(STALL, reader.raw()).await {
        Ok(bytes) => Ok(bytes?),
        Err(_) => Err(stalled()),
    }
}

fn stalled() -> Fault {
    Fault::Protocol(format!("nothing came for {} s in the middle of a frame", STALL.as_secs()))
}
