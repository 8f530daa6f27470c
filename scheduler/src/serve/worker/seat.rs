//! Where a worker's two streams meet, and what the worker may see.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use farm_proto::ids::{Digest, JobId, WorkerId};
use farm_proto::job::JobSpec;
use farm_proto::message::{Resume, WorkerHello};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::super::Fault;
use super::super::streams::STALL;
use crate::farm::{Order, Outbox};
use crate::sync::locked;

/// A connection's place for a worker.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    taken: Mutex<Taken>,
    /// Notified when the control stream has taken the seat.
    waits: Notify,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
enum Taken {
    #[default]
    Free,
    /// The control stream is there.
    Waiting(Box<Waiting>),
    /// Both are.
    Complete(WorkerId),
}

/// What the control stream's task leaves for the work stream's.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) worker: WorkerId,
    pub(super) hello: WorkerHello,
    pub(super) resume: Resume,
    pub(super) outbox: Outbox,
    pub(super) orders: mpsc::Receiver<Order>,
    /// To be told when the worker has joined.
    pub(super) joined: oneshot::Sender<()>,
}

/// The jobs that a worker knows, and the blobs that these need.
#[derive(Debug, Default)]
struct Known {
    jobs: HashMap<JobId, Arc<JobSpec>>,
    blobs: HashMap<Digest, usize>,
}

impl Seat {
    /// For the control stream: takes the seat.
    pub(super) fn take(&self, waiting: Waiting) -> Result<(), Fault> {
        let mut taken = locked(&self.taken);
        if !matches!(*taken, Taken::Free) {
            return Err(Fault::Protocol("a second control stream".to_owned()));
        }
        *taken = Taken::Waiting(Box::new(waiting));
        self.waits.notify_one();
        Ok(())
    }

    /// For the work stream: meets the control stream, whose first frame may arrive later.
    pub(super) async fn meet(&self) -> Result<Waiting, Fault> {
        let meeting = async {
            loop {
                {
                    let mut taken = locked(&self.taken);
                    match std::mem::take(&mut *taken) {
                        Taken::Free => {}
                        Taken::Waiting(waiting) => {
                            *taken = Taken::Complete(waiting.worker);
                            return Ok(*waiting);
                        }
                        complete @ Taken::Complete(_) => {
                            *taken = complete;
                            return Err(Fault::Protocol("a second work stream".to_owned()));
                        }
                    }
                }
                self.waits.notified().await;
            }
        };
        let late = |_| Fault::Protocol("a work stream without a control stream".to_owned());
        timeout(STALL, meeting).await.map_err(late)?
    }

    /// The worker that has joined from here, or is about to.
    pub(in crate::serve) fn worker(&self) -> Option<WorkerId> {
        match *locked(&self.taken) {
            Taken::Complete(worker) => Some(worker),
            Taken::Free | Taken::Waiting(_) => None,
        }
    }

    /// Whether a job that the worker knows needs a blob.
    pub(in crate::serve) fn may_fetch(&self, digest: &Digest) -> bool {
        locked(&self.known).blobs.contains_key(digest)
    }

    /// The worker is about to be told of a job.
    pub(crate) fn introduce(&self, job: JobId, spec: &Arc<JobSpec>) {
        let mut known = locked(&self.known);
        if known.jobs.insert(job, Arc::clone(spec)).is_none() {
            for digest in blobs(spec) {
                *known.blobs.entry(digest).or_default() += 1;
            }
        }
    }

    /// The worker is told to forget a job.
    pub(super) fn forget(&self, job: JobId) {
        let mut known = locked(&self.known);
        let Some(spec) = known.jobs.remove(&job) else {
            return;
        };
        for digest in blobs(&spec) {
            if let Some(uses) = known.blobs.get_mut(&digest) {
                *uses -= 1;
                if *uses == 0 {
                    known.blobs.remove(&digest);
                }
            }
        }
    }
}

/// What a worker fetches for a job. Arguments come with leases.
fn blobs(spec: &JobSpec) -> impl Iterator<Item = Digest> {
    let inputs = spec.inputs.iter().map(|input| input.digest);
    inputs.chain([spec.module.digest])
}
