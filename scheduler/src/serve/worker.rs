//! A worker: its two streams, and the seat where they meet.
//!
//! The control stream's task [takes the seat](serve), welcomes the worker and waits for the work stream; the work
//! stream's task finds there what it needs and [tells the farm](serve_work) that the worker has joined. Whichever of the
//! two ends first ends the connection, and with it the other; the connection's task then reports that the worker left.

mod control;
mod seat;
mod work;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farm_link::failpoint;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::message::{Resume, SchedulerControl, WorkerHello};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub(crate) use self::seat::Seat;
use self::seat::Waiting;
use super::Fault;
use super::connection::Peer;
use super::streams::STALL;
use crate::farm::{OUTBOX, Outbox, Said};
use crate::identity::caller::Caller;

/// The most slots that are believed.
const MOST_SLOTS: u32 = 65_536;
/// The longest text in a worker's introduction, in bytes.
const LONGEST_TEXT: usize = 256;
/// How long a worker whose stream has ended may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// Serves a worker's control stream.
pub(super) async fn serve(
    peer: &Arc<Peer>,
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    hello: WorkerHello,
    resume: Resume,
) -> Result<(), Fault> {
    check(&hello)?;
    failpoint::hit("scheduler.join");
    let worker = peer.shared.next_worker();
    let (work, orders) = mpsc::channel(OUTBOX);
    let (control, messages) = mpsc::channel(OUTBOX);
    let (joined, has_joined) = oneshot::channel();
    let outbox = Outbox { work, control, connection: peer.connection.clone(), seat: Arc::clone(&peer.seat) };
    peer.seat.take(Waiting { worker, hello, resume, outbox, orders, joined })?;
    writer.send(&SchedulerControl::Welcome { worker }, Bytes::new()).await?;
    match timeout(STALL, has_joined).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(Fault::Gone),
        Err(_) => return Err(Fault::Protocol("a worker without a work stream".to_owned())),
    }
    tokio::select! {
        ended = control::receive(peer, worker, reader) => ended?,
        ended = control::send(peer, writer, messages) => ended?,
    }
    good_bye(peer).await
}

/// Serves a worker's work stream.
pub(super) async fn serve_work(
    peer: &Arc<Peer>,
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
) -> Result<(), Fault> {
    let Waiting { worker, hello, resume, outbox, orders, joined } = peer.seat.meet().await?;
    let cluster = cluster_of(&peer.caller);
    peer.shared.farm.said(worker, Said::Joined { cluster, hello, resume, outbox }).await;
    // The control stream's task has gone if the connection has.
    let _ = joined.send(());
    tokio::select! {
        ended = work::receive(peer, worker, reader) => ended?,
        ended = work::send(peer, worker, writer, orders) => ended?,
    }
    good_bye(peer).await
}

/// A worker whose stream has ended is about to close the connection. If it does not, it is closed.
async fn good_bye(peer: &Peer) -> Result<(), Fault> {
    match timeout(GOOD_BYE, peer.connection.closed()).await {
        Ok(_) => Err(Fault::Gone),
        Err(_) => Err(Fault::Protocol("a worker's stream ended".to_owned())),
    }
}

/// The cluster that a worker is of, by its certificate.
fn cluster_of(caller: &Caller) -> String {
    caller.cluster.clone().unwrap_or_else(|| farm_proto::cluster::DEFAULT.to_owned())
}

fn check(hello: &WorkerHello) -> Result<(), Fault> {
    let WorkerHello { name, host, pid: _, slots, version, ends_in_ms: _, incarnation: _ } = hello;
    if !(1..=MOST_SLOTS).contains(slots) {
        return Err(Fault::Protocol(format!("a worker with {slots} slots")));
    }
    if [name, host, version].iter().any(|text| text.len() > LONGEST_TEXT) {
        return Err(Fault::Protocol("a worker with an endless name".to_owned()));
    }
    Ok(())
}
