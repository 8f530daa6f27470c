//! The core's one owner, and how everyone else speaks to it.
//!
//! Tasks of connections send messages: clients' ([`Ask`]) and workers' ([`Said`]) by two bounded channels, so that a
//! flood of results does not keep a cancel waiting, and so that a full disk holds back results and nothing else. The
//! [owner] takes all that is there, tells the core one thing after the other and does what the core asks for;
//! when nothing more is there, it commits what came together. It never waits for anyone: what workers are to be told
//! goes into their [`Outbox`], what watchers may have is [published](crate::results::JobResults::publish).

mod commands;
mod commits;
mod jobs;
mod measured;
pub(crate) mod owner;
mod words;

use std::sync::Arc;

use farm_core::Departure;
use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::job::{JobSpec, JobStatus};
use farm_proto::message::{FarmStatus, Lease, RequestError, SchedulerControl, WorkerHello};
use farm_proto::outcome::Failure;
use tokio::sync::{mpsc, oneshot};

use crate::identity::caller::Caller;
use crate::job::args::ArgTable;
use crate::results::{JobResults, Outcomes};

/// Clients' messages on their way.
const ASKS: usize = 256;
/// Workers' messages on their way.
const WORDS: usize = 256;
/// Leases or control messages for a worker on their way. The core gives a worker a few leases at a time; one that reads
/// neither stream while jobs come and go is not alive in any useful sense.
pub(crate) const OUTBOX: usize = 4096;

type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

/// What clients ask.
#[derive(Debug)]
enum Ask {
    Submit {
        owner: String,
        spec: Arc<JobSpec>,
        args: Arc<ArgTable>,
        reply: Reply<Arc<JobResults>>,
    },
    Status {
        caller: Caller,
        job: JobId,
        reply: Reply<JobStatus>,
    },
    Results {
        caller: Caller,
        job: JobId,
        reply: Reply<Arc<JobResults>>,
    },
    Cancel {
        caller: Caller,
        job: JobId,
        reply: Reply<JobStatus>,
    },
    Jobs {
        caller: Caller,
        reply: Reply<Vec<JobStatus>>,
    },
    Overview {
        reply: Reply<FarmStatus>,
    },
    /// Answered when the last worker has gone.
    Stop {
        reply: Reply<()>,
    },
}

/// What a worker says, or what is to be said of it.
#[derive(Debug)]
pub(crate) enum Said {
    Joined { hello: WorkerHello, outbox: Outbox },
    Results { lease: LeaseId, outcomes: Outcomes },
    Lost { lease: LeaseId, task: u64, message: String },
    Returned { lease: LeaseId, first: u64, count: u32 },
    JobFailed { job: JobId, failure: Failure },
    Progress { job: JobId, task: u64, done: u64, total: u64 },
    Draining,
    Left(Departure),
}

/// How the owner reaches a worker.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) work: mpsc::Sender<Order>,
    pub(crate) control: mpsc::Sender<SchedulerControl>,
    /// To close it if the worker does not keep to the protocol.
    pub(crate) connection: quinn::Connection,
}

/// A lease to be sent.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) lease: Lease,
    /// What the job is, if the worker does not know yet.
    pub(crate) introduce: Option<Arc<JobSpec>>,
    pub(crate) args: Arc<ArgTable>,
}

/// A handle to the owner. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Farm {
    asks: mpsc::Sender<Ask>,
    words: mpsc::Sender<(WorkerId, Said)>,
}

/// The other ends.
#[derive(Debug)]
pub(crate) struct Inbox {
    asks: mpsc::Receiver<Ask>,
    words: mpsc::Receiver<(WorkerId, Said)>,
}

impl Farm {
    pub(crate) fn new() -> (Self, Inbox) {
        let (asks, asked) = mpsc::channel(ASKS);
        let (words, said) = mpsc::channel(WORDS);
        let inbox = Inbox { asks: asked, words: said };
        (Self { asks, words }, inbox)
    }

    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        // The owner ends only with the scheduler.
        let gone = |_| RequestError::ShuttingDown;
        self.asks.send(ask(reply)).await.map_err(|_| RequestError::ShuttingDown)?;
        answer.await.map_err(gone)?
    }

    /// Starts a job whose blobs are there. Answers once it is stored.
    pub(crate) async fn submit(
        &self,
        owner: String,
        spec: JobSpec,
        args: ArgTable,
    ) -> Result<Arc<JobResults>, RequestError> {
        let (spec, args) = (Arc::new(spec), Arc::new(args));
        self.ask(|reply| Ask::Submit { owner, spec, args, reply }).await
    }

    pub(crate) async fn status(&self, caller: Caller, job: JobId) -> Result<JobStatus, RequestError> {
        self.ask(|reply| Ask::Status { caller, job, reply }).await
    }

    pub(crate) async fn results(&self, caller: Caller, job: JobId) -> Result<Arc<JobResults>, RequestError> {
        self.ask(|reply| Ask::Results { caller, job, reply }).await
    }

    /// Cancels a job. Answers once that is stored.
    pub(crate) async fn cancel(&self, caller: Caller, job: JobId) -> Result<JobStatus, RequestError> {
        self.ask(|reply| Ask::Cancel { caller, job, reply }).await
    }

    pub(crate) async fn jobs(&self, caller: Caller) -> Result<Vec<JobStatus>, RequestError> {
        self.ask(|reply| Ask::Jobs { caller, reply }).await
    }

    pub(crate) async fn overview(&self) -> Result<FarmStatus, RequestError> {
        self.ask(|reply| Ask::Overview { reply }).await
    }

    /// Takes no more jobs, and tells workers to leave. Answers when they have.
    pub(crate) async fn stop(&self) -> Result<(), RequestError> {
        self.ask(|reply| Ask::Stop { reply }).await
    }

    /// Passes on what a worker said. Waits while the owner has more than it can store.
    pub(crate) async fn said(&self, worker: WorkerId, said: Said) {
        // Nobody listens any more once the scheduler has ended.
        let _ = self.words.send((worker, said)).await;
    }
}
