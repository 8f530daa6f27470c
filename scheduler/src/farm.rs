//! The core's one owner, and how everyone else speaks to it.
//!
//! Tasks of connections send messages: clients' ([`Ask`]) and workers' ([`Said`]) by two bounded channels, so that a
//! flood of results does not keep a cancel waiting, and so that a full disk holds back results and nothing else. The
//! [owner] takes all that is there, tells the core one thing after the other and does what the core asks for;
//! when nothing more is there, it commits what came together. It never waits for anyone: what workers are to be told
//! goes into their [`Outbox`], what watchers may have is [published](crate::store::JobResults::publish).
//!
//! What survives a restart is in the [store](crate::store); [`owner::Owner::recover`] makes the same owner of it.

mod asks;
mod checkpoints;
pub(crate) mod clusters;
mod commands;
mod commits;
mod graph;
mod jobs;
mod measured;
pub(crate) mod owner;
mod quota;
mod recover;
mod retention;
mod secrets;
mod tickets;
mod why;
mod words;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use farm_core::Departure;
use farm_proto::cluster::{ClusterSpec, ClusterStatus, Scale};
use farm_proto::ids::{Digest, JobId, LeaseId, WorkerId};
use farm_proto::job::{JobSpec, JobStatus, ResultEncoding};
use farm_proto::message::{FarmStatus, Lease, RequestError, Resume, SchedulerControl, SubmitKey, WorkerHello};
use farm_proto::outcome::Failure;
use farm_proto::secret::{SecretStatus, Secrets};
use farm_proto::why::{Stage, Why};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::tickets::Bearer;
use self::tickets::TicketAsk;
use crate::identity::caller::Caller;
use crate::job::args::ArgTable;
use crate::serve::Seat;
use crate::store::{JobResults, Outcomes};

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
        new: Box<Submission>,
        reply: Reply<Arc<JobResults>>,
    },
    /// The job that was submitted under this key, if there is one. Answered once it is stored.
    Submitted {
        caller: Caller,
        key: SubmitKey,
        reply: Reply<Option<Arc<JobResults>>>,
    },
    Source {
        caller: Caller,
        job: JobId,
        reply: Reply<Source>,
    },
    WithoutValue {
        caller: Caller,
        job: JobId,
        failed: bool,
        reply: Reply<Vec<Range<u64>>>,
    },
    Delete {
        caller: Caller,
        job: JobId,
        reply: Reply<()>,
    },
    Why {
        caller: Caller,
        job: JobId,
        task: Option<u64>,
        reply: Reply<Why>,
    },
    Drain {
        worker: String,
        reply: Reply<Vec<WorkerId>>,
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
    Secrets {
        caller: Caller,
        job: JobId,
        secrets: Secrets,
        reply: Reply<Vec<SecretStatus>>,
    },
    Jobs {
        caller: Caller,
        reply: Reply<Vec<JobStatus>>,
    },
    CreateCluster {
        caller: Caller,
        spec: Box<ClusterSpec>,
        scale: Scale,
        reply: Reply<ClusterStatus>,
    },
    ScaleCluster {
        caller: Caller,
        name: String,
        scale: Scale,
        reply: Reply<ClusterStatus>,
    },
    StopCluster {
        caller: Caller,
        name: String,
        now: bool,
        reply: Reply<ClusterStatus>,
    },
    /// A cluster that is stopping has no workers any more.
    EndCluster {
        name: String,
    },
    Clusters {
        reply: Reply<Vec<ClusterStatus>>,
    },
    Cluster {
        name: String,
        reply: Reply<ClusterStatus>,
    },
    Overview {
        reply: Reply<FarmStatus>,
    },
    /// Whether the caller may keep that much more.
    Fits {
        caller: Caller,
        blobs: Vec<(Digest, u64)>,
        inline: u64,
        reply: Reply<()>,
    },
    Ticket(TicketAsk),
    /// No more jobs are taken. Answered when all that was taken in is stored, and, if the farm ends for good, the last
    /// worker has gone.
    Stop {
        for_good: bool,
        reply: Reply<()>,
    },
}

/// A job that is wanted. Its blobs are there.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) caller: Caller,
    pub(crate) key: SubmitKey,
    pub(crate) spec: JobSpec,
    pub(crate) args: ArgTable,
    /// The columns of inline arguments, to be stored.
    pub(crate) inline: Bytes,
}

/// What has to be known of a job to take its results as arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) tasks: u64,
    pub(crate) encoding: ResultEncoding,
}

/// What a worker says, or what is to be said of it.
#[derive(Debug)]
pub(crate) enum Said {
    Joined {
        cluster: String,
        hello: WorkerHello,
        resume: Resume,
        outbox: Outbox,
    },
    Results {
        lease: LeaseId,
        outcomes: Outcomes,
    },
    Lost {
        lease: LeaseId,
        task: u64,
        message: String,
    },
    Returned {
        lease: LeaseId,
        first: u64,
        count: u32,
    },
    Checkpoint {
        lease: LeaseId,
        task: u64,
        state: Bytes,
    },
    /// Of a lease that was to be sent to it, these tasks were not.
    NotSent {
        lease: LeaseId,
        first: u64,
        count: u32,
    },
    Preparing {
        job: JobId,
        stage: Stage,
    },
    JobFailed {
        job: JobId,
        failure: Failure,
    },
    Progress {
        job: JobId,
        task: u64,
        done: u64,
        total: u64,
    },
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
    /// To let a worker that comes back fetch what its jobs need.
    pub(crate) seat: Arc<Seat>,
}

/// What is to be sent on a work stream.
#[derive(Debug)]
pub(crate) enum Order {
    Lease {
        lease: Lease,
        /// What the job is, if the worker does not know yet.
        introduce: Option<Introduction>,
        args: Arc<ArgTable>,
        /// Ascending by task.
        restored: Vec<Restored>,
    },
    /// Those of a job that it knows.
    Secrets { job: JobId, secrets: Secrets },
}

/// What an earlier attempt of a task has kept.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) task: u64,
    pub(crate) bytes: u64,
    /// None: it is in the store.
    pub(crate) state: Option<Bytes>,
}

/// What a worker has to know of a job.
#[derive(Debug)]
pub(crate) struct Introduction {
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) stamp: u64,
    pub(crate) secrets: Secrets,
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

    /// Starts a job whose blobs are there. Answers once it is stored. A submission that is repeated gives the same job.
    pub(crate) async fn submit(&self, new: Submission) -> Result<Arc<JobResults>, RequestError> {
        let new = Box::new(new);
        self.ask(|reply| Ask::Submit { new, reply }).await
    }

    /// The job that the caller submitted under this key, once it is stored; none if there is none.
    pub(crate) async fn submitted(
        &self,
        caller: Caller,
        key: SubmitKey,
    ) -> Result<Option<Arc<JobResults>>, RequestError> {
        self.ask(|reply| Ask::Submitted { caller, key, reply }).await
    }

    /// Whether the caller may keep a job with these blobs, of these sizes, and so many bytes of arguments beside them. It
    /// is asked again when the job is submitted.
    pub(crate) async fn fits(
        &self,
        caller: Caller,
        blobs: Vec<(Digest, u64)>,
        inline: u64,
    ) -> Result<(), RequestError> {
        self.ask(|reply| Ask::Fits { caller, blobs, inline, reply }).await
    }

    /// What has to be known of a job to take its results as arguments.
    pub(crate) async fn source(&self, caller: Caller, job: JobId) -> Result<Source, RequestError> {
        self.ask(|reply| Ask::Source { caller, job, reply }).await
    }

    /// The tasks of a job that is over which have no value, or with `failed` only those that failed.
    pub(crate) async fn without_value(
        &self,
        caller: Caller,
        job: JobId,
        failed: bool,
    ) -> Result<Vec<Range<u64>>, RequestError> {
        self.ask(|reply| Ask::WithoutValue { caller, job, failed, reply }).await
    }

    /// Deletes a job that is over. Answers once that is stored.
    pub(crate) async fn delete(&self, caller: Caller, job: JobId) -> Result<(), RequestError> {
        self.ask(|reply| Ask::Delete { caller, job, reply }).await
    }

    /// What a job or one of its tasks waits for. Of tasks that have ended, it does not tell where their time went.
    pub(crate) async fn why(&self, caller: Caller, job: JobId, task: Option<u64>) -> Result<Why, RequestError> {
        self.ask(|reply| Ask::Why { caller, job, task, reply }).await
    }

    /// Lets workers leave when they are done, by name or number.
    pub(crate) async fn drain(&self, worker: String) -> Result<Vec<WorkerId>, RequestError> {
        self.ask(|reply| Ask::Drain { worker, reply }).await
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

    /// Takes in values of a job's secrets, and says what there is then. Without any, only says it.
    pub(crate) async fn secrets(
        &self,
        caller: Caller,
        job: JobId,
        secrets: Secrets,
    ) -> Result<Vec<SecretStatus>, RequestError> {
        self.ask(|reply| Ask::Secrets { caller, job, secrets, reply }).await
    }

    pub(crate) async fn jobs(&self, caller: Caller) -> Result<Vec<JobStatus>, RequestError> {
        self.ask(|reply| Ask::Jobs { caller, reply }).await
    }

    /// Makes a cluster. Answers once it is stored.
    pub(crate) async fn create_cluster(
        &self,
        caller: Caller,
        spec: Box<ClusterSpec>,
        scale: Scale,
    ) -> Result<ClusterStatus, RequestError> {
        self.ask(|reply| Ask::CreateCluster { caller, spec, scale, reply }).await
    }

    pub(crate) async fn scale_cluster(
        &self,
        caller: Caller,
        name: String,
        scale: Scale,
    ) -> Result<ClusterStatus, RequestError> {
        self.ask(|reply| Ask::ScaleCluster { caller, name, scale, reply }).await
    }

    pub(crate) async fn stop_cluster(
        &self,
        caller: Caller,
        name: String,
        now: bool,
    ) -> Result<ClusterStatus, RequestError> {
        self.ask(|reply| Ask::StopCluster { caller, name, now, reply }).await
    }

    /// Says that a cluster that is stopping has no workers any more.
    pub(crate) async fn end_cluster(&self, name: String) {
        // Nobody listens any more once the scheduler has ended.
        let _ = self.asks.send(Ask::EndCluster { name }).await;
    }

    pub(crate) async fn clusters(&self) -> Result<Vec<ClusterStatus>, RequestError> {
        self.ask(|reply| Ask::Clusters { reply }).await
    }

    pub(crate) async fn cluster(&self, name: String) -> Result<ClusterStatus, RequestError> {
        self.ask(|reply| Ask::Cluster { name, reply }).await
    }

    pub(crate) async fn overview(&self) -> Result<FarmStatus, RequestError> {
        self.ask(|reply| Ask::Overview { reply }).await
    }

    /// Takes no more jobs. Answers when everything is stored, and, if the farm ends `for_good`, its workers have left.
    pub(crate) async fn stop(&self, for_good: bool) -> Result<(), RequestError> {
        self.ask(|reply| Ask::Stop { for_good, reply }).await
    }

    /// Passes on what a worker said. Waits while the owner has more than it can store.
    pub(crate) async fn said(&self, worker: WorkerId, said: Said) {
        // Nobody listens any more once the scheduler has ended.
        let _ = self.words.send((worker, said)).await;
    }
}
