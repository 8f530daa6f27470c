//! The messages, by stream. `lib.rs` says who opens which.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, JobId, LeaseId, WorkerId};
use crate::job::{Counts, JobSpec, JobStatus};
use crate::outcome::{Captured, Failure};
use crate::ticket::Role;

/// The first frame of every bidirectional stream that a peer opens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Open {
    /// One request, then its responses.
    Request(Request),
    /// A worker's control stream: [`WorkerControl`] / [`SchedulerControl`] follow. Once per connection.
    Control(WorkerHello),
    /// A worker's work stream: [`WorkerWork`] / [`SchedulerWork`] follow. Once per connection, after `Control`.
    Work,
}

/// What a client asks for. Each says which [`Response`]s follow; [`Response::Error`] may, to all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Starts a job. Payload: the columns of [`crate::job::Args::Inline`], or nothing. Answered by
    /// [`Response::Missing`] and the end if blobs are missing: put them, then submit again. Otherwise by
    /// [`Response::Accepted`]; with `watch`, what [`Request::Watch`] gives from the start follows on the same stream.
    Submit { spec: Box<JobSpec>, watch: bool },
    /// Answered by [`Response::Missing`]: those of `digests` that the scheduler does not have.
    Missing { digests: Vec<Digest> },
    /// Stores a blob. `size` raw bytes follow the frame. Answered by [`Response::Stored`] once they are there and
    /// their digest is right.
    PutBlob { digest: Digest, size: u64 },
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
    /// Cancels a job. Answered by [`Response::Status`]; cancelling a finished job changes nothing.
    Cancel { job: JobId },
    /// Answered by [`Response::Farm`].
    Farm,
    /// Makes a ticket. Admins only. Answered by [`Response::Ticket`].
    Ticket { role: Role, name: String, valid_s: u64 },
    /// Ends the scheduler, and with it its workers. Admins only. Answered by [`Response::Stopping`].
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
    /// The text of a ticket.
    Ticket {
        ticket: String,
    },
    Stopping,
    Error(RequestError),
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RequestError {
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    #[error("the farm has no blob {0}")]
    NoSuchBlob(Digest),
    #[error("this needs the role of {0}")]
    Forbidden(Role),
    #[error("{0}")]
    Invalid(String),
    #[error("the blob's bytes do not have the digest that was named")]
    WrongDigest,
    #[error("the scheduler cannot store it: {0}")]
    Storage(String),
    #[error("the scheduler is going down")]
    ShuttingDown,
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
}

/// Worker to scheduler, on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerControl {
    /// The module of a job cannot be run here: the job fails.
    JobFailed { job: JobId, failure: Failure },
    /// A task said how far it is.
    Progress { job: JobId, task: u64, done: u64, total: u64 },
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
    /// Take nothing new, finish what is held, leave.
    Drain,
    /// Leave now.
    Exit,
}

/// Scheduler to worker, on the work stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SchedulerWork {
    /// What to do for leases of this job; comes before the first of them.
    Job { job: JobId, spec: Box<JobSpec> },
    /// Run these tasks. Payload: their arguments as columns, unless the job's arguments are a range.
    Lease(Lease),
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
    /// Tasks of a lease that were not started and will not be.
    Returned { lease: LeaseId, first: u64, count: u32 },
}

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
