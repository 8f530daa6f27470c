//! The work stream, both ways.

use bytes::Bytes;
use farm_core::Config;
use farm_link::LinkError;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::ids::WorkerId;
use farm_proto::message::{SchedulerWork, WorkerWork};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::secret::Secrets;
use tokio::sync::mpsc;

use super::super::Fault;
use super::super::connection::Peer;
use super::super::streams::next_frame;
use crate::farm::{Introduction, Order, Said};
use crate::store::Outcomes;

/// Leases are handed to the transport when so many bytes of arguments have collected.
const FLUSH: usize = 4 << 20;

pub(super) async fn receive(peer: &Peer, worker: WorkerId, reader: &mut FrameReader) -> Result<(), Fault> {
    while let Some((message, payload)) = next_frame(reader).await? {
        let said = match message {
            WorkerWork::Results { lease, batch } => {
                let outcomes = Outcomes::parse(batch, payload);
                let outcomes = outcomes.map_err(|error| Fault::Protocol(error.to_string()))?;
                files_are_there(peer, &outcomes).await?;
                Said::Results { lease, outcomes }
            }
            WorkerWork::Lost { lease, task, message } => Said::Lost { lease, task, message },
            WorkerWork::Returned { lease, first, count } => Said::Returned { lease, first, count },
        };
        peer.shared.farm.said(worker, said).await;
    }
    Ok(())
}

/// A worker brings the files of tasks first. What it says it has brought is looked at all the same: an outcome that is
/// stored promises its files.
async fn files_are_there(peer: &Peer, outcomes: &Outcomes) -> Result<(), Fault> {
    let digests: Vec<_> = outcomes.files().map(|file| file.digest).collect();
    if digests.is_empty() {
        return Ok(());
    }
    let sizes = peer.shared.blobs.sizes(digests).await;
    match outcomes.files().zip(sizes).find(|(file, size)| *size != Some(file.size)) {
        Some((file, _)) => Err(Fault::Protocol(format!("a file of a task that is not there: {}", file.digest.short()))),
        None => Ok(()),
    }
}

/// Sends leases with their arguments, as many at a time as are ready.
pub(super) async fn send(
    peer: &Peer,
    worker: WorkerId,
    writer: &mut FrameWriter,
    mut orders: mpsc::Receiver<Order>,
) -> Result<(), Fault> {
    while let Some(order) = orders.recv().await {
        let mut queued = queue(peer, worker, writer, order).await?;
        while queued < FLUSH
            && let Ok(order) = orders.try_recv()
        {
            queued += queue(peer, worker, writer, order).await?;
        }
        writer.flush().await?;
    }
    Ok(())
}

/// Queues a lease, and in front of it what the job is, if need be. Returns how many bytes the arguments have.
///
/// The core bounds leases by the mean size of an argument. Where the arguments in hand exceed the bound all the same,
/// the worker gets as many as fit, and the core has the others back as if the worker had returned them.
async fn queue(peer: &Peer, worker: WorkerId, writer: &mut FrameWriter, order: Order) -> Result<usize, Fault> {
    let (mut lease, introduce, args) = match order {
        Order::Lease { lease, introduce, args } => (lease, introduce, args),
        Order::Secrets { job, secrets } => {
            writer.queue(&SchedulerWork::Secrets { job }, encoded(&secrets)?).map_err(LinkError::from)?;
            return Ok(0);
        }
    };
    let Config { max_lease_bytes, .. } = peer.shared.options.core;
    let max = usize::try_from(max_lease_bytes).unwrap_or(usize::MAX);
    let job = lease.job;
    if let Some(Introduction { spec, stamp, secrets }) = introduce {
        peer.seat.introduce(job, &spec);
        let spec = Box::new((*spec).clone());
        let message = SchedulerWork::Job { job, stamp, spec };
        let payload = if secrets.is_empty() { Bytes::new() } else { encoded(&secrets)? };
        writer.queue(&message, payload).map_err(LinkError::from)?;
    }
    let slice = match args.slice(&peer.shared.blobs, lease.first, lease.count, max).await {
        Ok(slice) => slice,
        Err(error) => {
            tracing::error!(%job, %error, "the arguments of a job cannot be read");
            let text = format!("the arguments cannot be read from the scheduler's disk: {error}");
            let failure = Failure::new(FailureKind::BadArguments, text);
            peer.shared.farm.said(worker, Said::JobFailed { job, failure }).await;
            return Ok(0);
        }
    };
    if slice.count < lease.count {
        let back = Said::NotSent {
            lease: lease.lease,
            first: lease.first + u64::from(slice.count),
            count: lease.count - slice.count,
        };
        lease.count = slice.count;
        lease.attempts.retain(|(offset, _)| *offset < slice.count);
        peer.shared.farm.said(worker, back).await;
    }
    let length = slice.payload.len();
    let message = SchedulerWork::Lease(lease);
    writer.queue(&message, slice.payload).map_err(LinkError::from)?;
    Ok(length)
}

fn encoded(secrets: &Secrets) -> Result<Bytes, Fault> {
    let bytes = postcard::to_stdvec(secrets).map_err(|error| Fault::Internal(error.to_string()))?;
    Ok(bytes.into())
}
