//! The work stream, both ways.

use std::sync::Arc;

use bytes::Bytes;
use farm_core::Config;
use farm_link::LinkError;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::ids::JobId;
use farm_proto::ids::WorkerId;
use farm_proto::message::{Lease, MAX_CHECKPOINT, SchedulerWork, WorkerWork};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::secret::Secrets;
use tokio::sync::mpsc;

use super::super::Fault;
use super::super::connection::Peer;
use super::super::streams::next_frame;
use crate::farm::{Introduction, Order, Restored, Said};
use crate::memory::kept;
use crate::store::Outcomes;
use crate::sync::off_loop;

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
            WorkerWork::Checkpoint { lease, task } if payload.len() <= MAX_CHECKPOINT => {
                Said::Checkpoint { lease, task, state: kept(payload) }
            }
            WorkerWork::Checkpoint { .. } => {
                return Err(Fault::Protocol("a checkpoint that is too large".to_owned()));
            }
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
    let (mut lease, introduce, args, mut restored) = match order {
        Order::Lease { lease, introduce, args, restored } => (lease, introduce, args, restored),
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
    let fitting = fitting(&lease, &restored, max_lease_bytes);
    let slice = match args.slice(&peer.shared.blobs, lease.first, fitting, max).await {
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
    restored.retain(|restored| restored.task < lease.first + u64::from(lease.count));
    let mut length = slice.payload.len();
    for Restored { task, state, .. } in restored {
        let state = match state {
            Some(state) => Some(state),
            None => read_state(peer, job, task).await,
        };
        if let Some(state) = state {
            length += state.len();
            writer.queue(&SchedulerWork::Restored { lease: lease.lease, task }, state).map_err(LinkError::from)?;
        }
    }
    let message = SchedulerWork::Lease(lease);
    writer.queue(&message, slice.payload).map_err(LinkError::from)?;
    Ok(length)
}

/// How many of a lease's tasks go out with it, as far as the bytes of what they have kept go: at least one.
fn fitting(lease: &Lease, restored: &[Restored], max: u64) -> u32 {
    let mut bytes = 0_u64;
    let beyond = restored.iter().find(|restored| {
        bytes = bytes.saturating_add(restored.bytes);
        bytes > max && restored.task > lease.first
    });
    // It is one of the lease.
    beyond.map_or(lease.count, |beyond| (beyond.task - lease.first) as u32)
}

/// Reads what a task has kept. What cannot be read is as good as none: the task begins anew.
async fn read_state(peer: &Peer, job: JobId, task: u64) -> Option<Bytes> {
    let store = Arc::clone(&peer.shared.store);
    match off_loop(move || store.checkpoint(job, task)).await {
        Ok(state) => state,
        Err(error) => {
            tracing::error!(%job, task, %error, "a checkpoint cannot be read: the task begins anew");
            None
        }
    }
}

fn encoded(secrets: &Secrets) -> Result<Bytes, Fault> {
    let bytes = postcard::to_stdvec(secrets).map_err(|error| Fault::Internal(error.to_string()))?;
    Ok(bytes.into())
}
