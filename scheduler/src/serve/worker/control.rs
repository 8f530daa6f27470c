//! The control stream, both ways.

use farm_link::LinkError;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::ids::WorkerId;
use farm_proto::message::{SchedulerControl, WorkerControl};
use tokio::sync::mpsc;

use bytes::Bytes;

use super::super::Fault;
use super::super::connection::Peer;
use super::super::streams::next_frame;
use crate::farm::Said;

pub(super) async fn receive(peer: &Peer, worker: WorkerId, reader: &mut FrameReader) -> Result<(), Fault> {
    while let Some((message, _)) = next_frame(reader).await? {
        let said = match message {
            WorkerControl::JobFailed { job, failure } => Said::JobFailed { job, failure },
            WorkerControl::Progress { job, task, done, total } => Said::Progress { job, task, done, total },
            WorkerControl::Preparing { job, stage } => Said::Preparing { job, stage },
            WorkerControl::Draining => Said::Draining,
        };
        peer.shared.farm.said(worker, said).await;
    }
    Ok(())
}

pub(super) async fn send(
    peer: &Peer,
    writer: &mut FrameWriter,
    mut messages: mpsc::Receiver<SchedulerControl>,
) -> Result<(), Fault> {
    let queue = |writer: &mut FrameWriter, message| {
        if let SchedulerControl::ForgetJob { job } = message {
            peer.seat.forget(job);
        }
        writer.queue(&message, Bytes::new()).map_err(LinkError::from)
    };
    while let Some(message) = messages.recv().await {
        queue(writer, message)?;
        while let Ok(message) = messages.try_recv() {
            queue(writer, message)?;
        }
        writer.flush().await?;
    }
    Ok(())
}
