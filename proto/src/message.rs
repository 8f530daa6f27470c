//! The messages, by stream. `lib.rs` says who opens which.

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterSpec, ClusterStatus, Plan, Scale};
use crate::ids::{Digest, JobId, LeaseId, TicketId, WorkerId};
use crate::job::{Counts, JobSpec, JobStatus};
use crate::outcome::{Captured, Failure};
use crate::secret::{SecretStatus, Secrets};
use crate::ticket::{NewTicket, Role, TicketStatus};
use crate::why::{Stage, Why};

/// The first frame of every bidirectional stream that a peer opens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Open {
    /// One request, then its responses.
    Request(Request),
    /// A worker's control stream: [`WorkerControl`] / [`SchedulerControl`] follow. Once per connection. A worker that
    /// comes back after a lost connection says what it still has.
    Control { hello: WorkerHello, resume: Resume },
    /// A worker's work stream: [`WorkerWork`] / [`SchedulerWork`] follow. Once per connection, after `Control`.
    Work,
}

/// What a client asks for. Each says which [`Response`]s follow; [`Response::Error`] may, to all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Starts a job. Payload: the columns of [`crate::job::Args::Inline`], or nothing. Answered by
    /// [`Response::Missing`] and the end if blobs are missing: put them, then submit again. Otherwise by
    /// [`Response::Accepted`]; with `watch`, what [`Request::Watch`] gives from the start follows on the same stream.
    /// If the caller has submitted a job under this key before, that job is meant: who does not know whether a
    /// submission has arrived can safely repeat it.
    Submit { key: SubmitKey, spec: Box<JobSpec>, watch: bool },
    /// Makes a new job of those tasks of another that have no value, or with `failed` only of those that failed. The
    /// other has to be over. Answered by [`Response::Accepted`].
    Retry { key: SubmitKey, job: JobId, failed: bool },
    /// Deletes a job that is over, with its results. Answered by [`Response::Deleted`].
    Delete { job: JobId },
    /// What a job or one of its tasks waits for, or where its time went. Answered by [`Response::Why`].
    Why { job: JobId, task: Option<u64> },
    /// Lets the workers of that name, or the one with that number, take nothing new and leave when they are done.
    /// Admins only. Answered by [`Response::Draining`].
    Drain { worker: String },
    /// Answered by [`Response::Missing`]: those of `digests` that the scheduler does not have.
    Missing { digests: Vec<Digest> },
    /// Stores a blob. Its raw bytes follow the frame; with `ask`, once [`Response::Send`] has said from where on, or not
    /// at all if [`Response::Stored`] comes instead. Answered by [`Response::Stored`] once they are there and their digest
    /// is right. What was asked for and breaks off is kept for a day, and goes on from there. Workers put the files of
    /// their tasks.
    PutBlob { digest: Digest, size: u64, ask: bool },
    /// Answered by [`Response::Blob`], behind which its raw bytes follow. Workers ask this, too.
    GetBlob { digest: Digest },
    /// Results of a job from batch number `from` on, as [`Response::Results`]; then, if `follow`, those that are yet to
    /// come, with [`Response::Status`] now and then (at most four a second, and when the state changes). Ends with
    /// [`Response::Status`].
    Watch { job: JobId, from: u64, follow: bool },
    /// Answered by [`Response::Jobs`]: the caller's jobs, or everyone's to an admin.
    Jobs,
    /// Answered by [`Response::Status`].
    Job { job: JobId },
    /// Gives values of secrets that a job names, for tasks that start afterwards; others stay as they are. Until all have
    /// been given, no task is handed out: after the submission, and after each restart of the scheduler, which has them in
    /// memory only. Answered by [`Response::Secrets`]; with none, nothing else happens.
    Secrets { job: JobId, secrets: Secrets },
    /// Cancels a job. Answered by [`Response::Status`]; cancelling a finished job changes nothing.
    Cancel { job: JobId },
    /// Answered by [`Response::Farm`].
    Farm,
    /// Makes a cluster. Answered by [`Response::Cluster`] once that is stored, not when it has workers.
    CreateCluster { spec: Box<ClusterSpec>, scale: Scale },
    /// What starting one worker of such a cluster would do. Answered by [`Response::Plan`]; nothing is done.
    PlanCluster { spec: Box<ClusterSpec> },
    /// Answered by [`Response::Clusters`].
    Clusters,
    /// Answered by [`Response::Cluster`].
    Cluster { name: String },
    /// Answered by [`Response::Cluster`] once that is stored.
    ScaleCluster { name: String, scale: Scale },
    /// Lets a cluster's workers leave when what they run has ended, or at once, and then the cluster go. Answered by
    /// [`Response::Cluster`] once that is stored.
    StopCluster { name: String, now: bool },
    /// Makes a ticket. Admins only. Answered by [`Response::Ticket`] once it is stored.
    Ticket(NewTicket),
    /// Answered by [`Response::Tickets`]. Admins only.
    Tickets,
    /// Takes back a ticket: it buys nothing any more, connections of those who came with it are closed with
    /// [`crate::close::REVOKED`], and their certificates are void. Admins only. Answered by [`Response::Revoked`] once
    /// that is stored; it holds before. Revoking it again changes nothing.
    Revoke { ticket: TicketId },
    /// Another certificate in the place of the one that this connection was made with, for the key of this PKCS#10
    /// request (DER). Answered by [`Response::Certificate`].
    Renew { csr: Vec<u8> },
    /// Ends the farm: its scheduler, and with it its workers. Admins only. Answered by [`Response::Stopping`].
    Shutdown,
}

/// What the scheduler answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    Accepted {
        job: JobId,
    },
    Missing {
        digests: Vec<Digest>,
    },
    Stored,
    /// The bytes of a blob are wanted from this one on.
    Send {
        from: u64,
    },
    Blob {
        size: u64,
    },
    /// Payload: the batch's columns.
    Results {
        seq: u64,
        batch: Batch,
    },
    Status(Box<JobStatus>),
    Jobs(Vec<JobStatus>),
    Farm(FarmStatus),
    Cluster(Box<ClusterStatus>),
    Clusters(Vec<ClusterStatus>),
    Plan(Plan),
    /// The text of a ticket, and what the farm knows of it.
    Ticket {
        text: String,
        status: Box<TicketStatus>,
    },
    /// Those that still let somebody in, or did so and were revoked; the newest last.
    Tickets(Vec<TicketStatus>),
    /// The ticket as it is now.
    Revoked(Box<TicketStatus>),
    /// Chain, leaf first, DER. The last is the farm's CA.
    Certificate {
        chain: Vec<Vec<u8>>,
    },
    Stopping,
    Deleted,
    /// All that a job names.
    Secrets(Vec<SecretStatus>),
    Why(Box<Why>),
    /// The workers that were told to leave.
    Draining {
        workers: Vec<WorkerId>,
    },
    Error(RequestError),
}

/// A submission's name, drawn at random by whoever submits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubmitKey(pub u128);

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RequestError {
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    #[error("job {job} has no task {task}: its {tasks} tasks are numbered from 0")]
    NoSuchTask { job: JobId, task: u64, tasks: u64 },
    #[error("no worker is called {0:?}, nor has that number")]
    NoSuchWorker(String),
    #[error("there is no cluster {name}; there {}", listed(there_are))]
    NoSuchCluster { name: String, there_are: Vec<String> },
    #[error("there are several clusters: {}", .0.join(", "))]
    WhichCluster(Vec<String>),
    #[error("there is no ticket {0}")]
    NoSuchTicket(TicketId),
    #[error("job {0} is not over")]
    NotOver(JobId),
    #[error("job {by} needs job {job}")]
    Needed { job: JobId, by: JobId },
    #[error("job {0} has no task to be retried")]
    NothingToRetry(JobId),
    #[error("the farm has no blob {0}")]
    NoSuchBlob(Digest),
    #[error("this needs the role of {0}")]
    Forbidden(Role),
    #[error("{0}")]
    Invalid(String),
    /// All in bytes.
    #[error("the jobs of {user} keep {used} B here and this one needs {more} B more, of {limit} B that are allowed")]
    OverLimit { user: String, used: u64, more: u64, limit: u64 },
    #[error("the blob's bytes do not have the digest that was named")]
    WrongDigest,
    #[error("the scheduler cannot store it: {0}")]
    Storage(String),
    #[error("the scheduler is going down")]
    ShuttingDown,
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "is none".to_owned(),
        [only] => format!("is {only}"),
        names => format!("are {}", names.join(", ")),
    }
}

/// Outcomes of consecutive tasks of one job. The payload holds their results as columns, one item a task; a failed
/// task's item is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Task number of the first outcome.
    pub first: u64,
    /// How many outcomes there are.
    pub count: u32,
    /// Which of them are failures: offset from `first`, ascending.
    pub failures: Vec<(u32, Failure)>,
    /// What tasks printed, where they did: offset from `first`, ascending.
    pub captured: Vec<(u32, Captured)>,
    /// Time that the tasks ran, added up, in nanoseconds.
    pub run_ns: u64,
    /// For how long, since their lease came, their worker was fetching what the job needs, in nanoseconds.
    pub fetch_ns: u64,
    /// For how long, since then, it was compiling.
    pub compile_ns: u64,
}

/// The farm as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmStatus {
    /// Version of the scheduler.
    pub version: String,
    /// Process id of the scheduler on its host.
    pub pid: u32,
    /// Seconds since the scheduler started.
    pub uptime_s: u64,
    /// Resident memory of the scheduler, in bytes.
    pub memory: u64,
    /// Tasks of all jobs together.
    pub counts: Counts,
    /// Jobs that are not final.
    pub live_jobs: u64,
    pub workers: Vec<WorkerStatus>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub worker: WorkerId,
    pub hello: WorkerHello,
    /// Tasks it holds.
    pub leased: u64,
    /// Tasks it has finished.
    pub finished: u64,
    pub draining: bool,
    /// Seconds since it connected.
    pub connected_s: u64,
}

/// How a worker introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHello {
    /// For people; need not be unique.
    pub name: String,
    pub host: String,
    pub pid: u32,
    pub slots: u32,
    /// Version of the worker.
    pub version: String,
    /// In how many milliseconds it will be gone, if it knows: a span, as clocks differ.
    pub ends_in_ms: Option<u64>,
    /// Drawn at random when the worker's process began, the same on each of its connections: one that comes back before
    /// the loss of its last connection was noticed is known by it.
    pub incarnation: u64,
}

/// What a worker brings along when it dials in again. Empty for a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Jobs that it was told about and not to forget, with their [stamps](SchedulerWork::Job).
    pub jobs: Vec<(JobId, u64)>,
    /// Leases that are not over: with tasks that it has not answered, or whose answers were not
    /// [acknowledged](SchedulerControl::Stored). It sends those answers again, in their order, right after
    /// [`SchedulerControl::Welcome`].
    pub claims: Vec<Claim>,
}

/// A lease of a connection that was lost, or of another life of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub lease: LeaseId,
    pub job: JobId,
    /// First and end (exclusive), ascending: the tasks without an acknowledged answer.
    pub tasks: Vec<(u64, u64)>,
}

/// Worker to scheduler, on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerControl {
    /// The module of a job cannot be run here: the job fails.
    JobFailed { job: JobId, failure: Failure },
    /// A task said how far it is.
    Progress { job: JobId, task: u64, done: u64, total: u64 },
    /// What it is doing for a job that has a lease here and cannot run yet; or that it can run now.
    Preparing { job: JobId, stage: Stage },
    /// The worker takes no new leases and leaves when it holds none.
    Draining,
}

/// Scheduler to worker, on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulerControl {
    /// The first frame.
    Welcome { worker: WorkerId },
    /// The job was cancelled or has failed: stop its tasks at once, drop its leases, answer nothing. Leases of it that
    /// arrive later are dropped as well.
    CancelJob { job: JobId },
    /// The job is over: its spec may be forgotten.
    ForgetJob { job: JobId },
    /// Hand back what has not been started of a lease ([`WorkerWork::Returned`]), keeping at most `keep` tasks.
    Recall { lease: LeaseId, keep: u32 },
    /// The effects of the first so many [`WorkerWork`] messages of this connection are on disk: the worker need not keep
    /// them any longer.
    Stored { messages: u64 },
    /// Take nothing new, finish what is held, leave.
    Drain,
    /// Leave now, for good.
    Exit,
}

/// Scheduler to worker, on the work stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SchedulerWork {
    /// What to do for leases of this job; comes before the first of them. The stamp tells it from another job that has
    /// the same number, in a farm that was restored from a backup. Payload: a postcard of the job's [`Secrets`], if it has
    /// any.
    Job { job: JobId, stamp: u64, spec: Box<JobSpec> },
    /// The secrets of a job that it was told of, all of them, for tasks that start from now on. Payload as of `Job`.
    Secrets { job: JobId },
    /// Run these tasks. Payload: their arguments as columns, unless the job's arguments are a range.
    Lease(Lease),
    /// What an earlier attempt of a task has [kept](WorkerWork::Checkpoint): for the next one, of the lease that follows
    /// at once, behind all of its restored tasks. Payload: that.
    Restored { lease: LeaseId, task: u64 },
}

/// Tasks `first..first + count` of a job, handed to one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub lease: LeaseId,
    pub job: JobId,
    pub first: u64,
    pub count: u32,
    /// Number of the attempt, from 0, for the tasks where it is not 0: offset from `first`, ascending.
    pub attempts: Vec<(u32, u32)>,
}

/// Worker to scheduler, on the work stream. A lease has ended when each of its tasks has been answered once, by an
/// outcome, by `Lost` or by `Returned`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerWork {
    /// Outcomes. Payload: the columns of their results.
    Results { lease: LeaseId, batch: Batch },
    /// The slot that ran the task died with it, through no limit of the job.
    Lost { lease: LeaseId, task: u64, message: String },
    /// Tasks of a lease that are not run to their end here: not started, or cut off because the worker leaves.
    Returned { lease: LeaseId, first: u64, count: u32 },
    /// A task of a lease that has not been answered keeps a state for its next attempt, in the place of the last. It
    /// counts only if the lease still has the task. Payload: the state, at most [`MAX_CHECKPOINT`] bytes.
    Checkpoint { lease: LeaseId, task: u64 },
}

/// The longest state that a task can keep, in bytes.
pub const MAX_CHECKPOINT: usize = 16 << 20;

/// What a peer without a certificate sends on its only stream, under [`crate::ALPN_ENROL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrol {
    /// The ticket's secret.
    pub secret: String,
    /// The public key to be certified: a PKCS#10 certificate signing request, DER.
    pub csr: Vec<u8>,
}

/// The scheduler's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enrolled {
    /// Chain, leaf first, DER. The last is the farm's CA.
    Certificate { chain: Vec<Vec<u8>> },
    /// The secret is wrong, or its time is over.
    Refused { reason: String },
}
