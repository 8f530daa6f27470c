//! Watching a job: its results from some batch on, and how it is getting on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::stream::FrameWriter;
use farm_proto::message::Response;
use tokio::time::Instant;

use super::Fault;
use super::connection::Peer;
use crate::store::{JobResults, ResultsReader, Stored};

/// Statuses come no closer than this; the last one comes at once.
const STATUS: Duration = Duration::from_millis(250);

/// Sends what [`Request::Watch`](farm_proto::message::Request::Watch) promises, behind what is queued already.
pub(super) async fn serve(
    peer: &Arc<Peer>,
    writer: &mut FrameWriter,
    results: Arc<JobResults>,
    from: u64,
    follow: bool,
) -> Result<(), Fault> {
    let job = results.job;
    let mut news = results.subscribe();
    let mut reader = ResultsReader::new(Arc::clone(&peer.shared.store), results, from);
    let mut next_status = Instant::now() + STATUS;
    // Who comes to a job that waits is told so, though nothing changes.
    let mut changed = true;
    loop {
        let published = *news.borrow_and_update();
        send_batches(writer, &mut reader, published).await?;
        if published.over || !follow {
            return send_status(peer, writer, job).await;
        }
        writer.flush().await?;
        tokio::select! {
            more = news.changed() => {
                // Jobs are not forgotten while someone watches: the sender is in `results`, which `reader` holds.
                more.map_err(|_| Fault::Gone)?;
                changed = true;
            }
            () = tokio::time::sleep_until(next_status), if changed => {
                send_status(peer, writer, job).await?;
                next_status = Instant::now() + STATUS;
                changed = false;
            }
            // The watcher has seen enough.
            _ = writer.delivered() => return Err(Fault::Gone),
        }
    }
}

/// Sends all batches that may be read, a megabyte at a time; the last ones are only queued.
async fn send_batches(
    writer: &mut FrameWriter,
    reader: &mut ResultsReader,
    published: crate::store::Published,
) -> Result<(), Fault> {
    let broken = |error| Fault::Internal(format!("results cannot be read: {error}"));
    loop {
        let batches = reader.next(published).await.map_err(broken)?;
        let last = batches.is_empty() || !reader.more(published);
        for Stored { number, batch, columns } in batches {
            let message = Response::Results { seq: number, batch };
            writer.queue(&message, columns).map_err(LinkError::from)?;
        }
        if last {
            return Ok(());
        }
        writer.flush().await?;
    }
}

async fn send_status(peer: &Peer, writer: &mut FrameWriter, job: farm_proto::ids::JobId) -> Result<(), Fault> {
    let status = peer.shared.farm.status(peer.caller.clone(), job).await;
    let message = match status {
        Ok(status) => Response::Status(Box::new(status)),
        Err(error) => Response::Error(error),
    };
    Ok(writer.send(&message, Bytes::new()).await?)
}
