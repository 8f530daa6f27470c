//! What happens to a farm.

use std::fmt;

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::message::{Batch, Resume};
use farm_proto::outcome::Failure;
use farm_proto::why::Stage;

use crate::command::FactSeq;
use crate::time::Time;

/// Something that happened, told to [`Core::handle`](crate::Core::handle).
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A user wants a job. Its id is [`Core::next_job`](crate::Core::next_job), or a greater one. Answered by
    /// [`JobAccepted`](crate::Command::JobAccepted) once it is stored.
    JobSubmitted { job: JobId, spec: NewJob },
    /// Nothing of a job is to be leased for now. What is leased stays so. Changes nothing if the job has ended, or is held.
    JobHeld { job: JobId },
    /// A job that was held may go on.
    JobReleased { job: JobId },
    /// A user wants no more of a job. Changes nothing if the job has ended.
    JobCancelled { job: JobId },
    /// A worker found that the job's module cannot be run: the job fails as a whole.
    JobFailed { worker: WorkerId, job: JobId, failure: &'a Failure },
    /// The facts up to and including this one are on disk.
    Persisted { seq: FactSeq },

    /// A worker of a cluster connected. Its id has never been used before: a worker that comes back is a new one. Slots
    /// beyond 4 096 stay idle. If it is known when it `ends`, it is leased nothing that would take longer.
    ///
    /// What a worker that comes back still holds is in `resume` (empty otherwise). The end of its old connection, where
    /// this life of the scheduler has had one, must have been [told](Self::WorkerLeft) before: what another worker holds
    /// is not up for a claim.
    ///
    /// Claimed tasks that wait are leased to it again, under the same lease; its answers to them count as if the
    /// connection had never been lost, and crashes that the lease was blamed for have not happened. What else it claims
    /// is not its own any more: answers to that are dropped. That goes for tasks that have an outcome, wait for another
    /// attempt, or have been leased to another worker, and for those that this worker has answered in this life already.
    /// Of jobs that are over it is told so.
    WorkerJoined { worker: WorkerId, cluster: ClusterId, slots: u32, ends: Option<Time>, resume: &'a Resume },
    /// A worker says what it does for a job before it can run its tasks, or that it can run them now. Nothing is decided
    /// by it: it is for [`Core::why`](crate::Core::why).
    WorkerPreparing { worker: WorkerId, job: JobId, stage: Stage },
    /// A worker wants to leave, or is wanted to: it gets no more leases, what it has not started is recalled, and
    /// [`WorkerMayLeave`](crate::Command::WorkerMayLeave) follows when it holds nothing.
    WorkerDraining { worker: WorkerId },
    /// A worker's connection is over. Its tasks wait again.
    WorkerLeft { worker: WorkerId, how: Departure },

    /// Outcomes of tasks. Those that are to be kept are named by [`Fact::Outcomes`](crate::Fact::Outcomes) in the
    /// [`Persist`](crate::Command::Persist) that comes out of the very next drain; if none does, none is to be kept.
    BatchArrived { worker: WorkerId, lease: LeaseId, batch: &'a Batch },
    /// The slot that ran the task died with it. Counts as a crash of the task.
    TaskLost { worker: WorkerId, lease: LeaseId, task: u64 },
    /// Tasks that the worker has not started and will not: the answer to a [`Recall`](crate::Command::Recall).
    TasksReturned { worker: WorkerId, lease: LeaseId, first: u64, count: u32 },

    /// [`Core::next_deadline`](crate::Core::next_deadline) has passed. Harmless at any other time.
    Timeout,
}

/// A job as the core knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Whose job it is: users share the farm equally.
    pub owner: String,
    /// Jobs of one owner run in descending priority, then in order of their ids.
    pub priority: i32,
    /// The tasks are `0..tasks`.
    pub tasks: u64,
    /// How often a task that failed by its own doing is run again.
    pub retries: u32,
    /// The job fails when more tasks than this have failed for good.
    pub max_failures: Option<u64>,
    /// Bytes of argument a task, on average: bounds leases. 0 for arguments that are not sent.
    pub arg_bytes: u64,
    /// Only workers of this cluster are leased its tasks.
    pub cluster: ClusterId,
    /// What a task may take, in nanoseconds, if its user has said: workers that have less left are leased none.
    pub time_request: Option<u64>,
    /// What a task is expected to take, in nanoseconds, where the same function was measured before
    /// ([`JobView::task_ns`](crate::JobView::task_ns)). Without it, the first leases hold one task a slot.
    pub task_ns: Option<u64>,
    /// Earlier jobs that have to be done before the first task is leased. If one is cancelled or fails, so does this
    /// one: as a whole, naming it.
    pub after: Vec<JobId>,
    /// Where the tasks' arguments come from, if they are results.
    pub input: Option<TaskInput>,
}

/// Results of an earlier job that are arguments: task `i` needs those of its tasks `i * fan_in..(i + 1) * fan_in`, the
/// last one of those that are left.
///
/// A task waits until these are stored. If one of them failed, it fails, too, without being run
/// ([`InputFailed`](farm_proto::outcome::FailureKind::InputFailed)). If the other job ends before all of its tasks have
/// an outcome, this one fails as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskInput {
    pub job: JobId,
    /// 1: element by element. Never 0.
    pub fan_in: u32,
}

impl NewJob {
    /// A job of `tasks` tasks without any option.
    pub fn new(owner: impl Into<String>, tasks: u64) -> Self {
        Self {
            owner: owner.into(),
            priority: 0,
            tasks,
            retries: 0,
            max_failures: None,
            arg_bytes: 0,
            cluster: ClusterId::default(),
            time_request: None,
            task_ns: None,
            after: Vec::new(),
            input: None,
        }
    }
}

/// How a worker's connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Departure {
    /// It died, fell silent or broke the protocol: tasks that may have been running are counted as crashed.
    Lost,
    /// It was meant to go: nobody is to blame for tasks that it still held.
    Planned,
}

/// Why an event was refused. A refused event has changed nothing.
///
/// Whatever a worker sends late in good faith is not refused but dropped; a refusal of what came from a worker means
/// that the worker broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The job's id is taken: it is less than [`Core::next_job`](crate::Core::next_job).
    JobTaken(JobId),
    /// There is no such job (or no such job that another is to depend on): there never was, or it has been forgotten.
    NoSuchJob(JobId),
    /// The worker's id is taken.
    WorkerTaken(WorkerId),
    /// There is no such worker.
    NoSuchWorker(WorkerId),
    /// A worker without slots is none.
    NoSlots(WorkerId),
    /// The lease was never given out, or the job never leased to that worker.
    NeverLeased(WorkerId),
    /// The answer is for tasks that were not in the lease.
    OutsideLease(LeaseId),
    /// The offsets of the batch's failures do not ascend, or are not in the batch.
    BadFailures(LeaseId),
    /// A job cannot depend on this one like that: it is not an earlier one, or the numbers of tasks do not fit.
    BadInput(JobId),
    /// The worker claims what it cannot have: a lease of the future, tasks that do not ascend, tasks that its job does
    /// not have, a lease twice, or tasks of a job that no lease can have been made of. (A task may be claimed for two
    /// leases: it is of the last.)
    BadClaim(WorkerId),
    /// No fact of this number has been asked to be stored.
    NoSuchFact(FactSeq),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JobTaken(job) => write!(f, "there already is a job {job}"),
            Self::NoSuchJob(job) => write!(f, "there is no job {job}"),
            Self::WorkerTaken(worker) => write!(f, "there already is a worker {worker}"),
            Self::NoSuchWorker(worker) => write!(f, "there is no worker {worker}"),
            Self::NoSlots(worker) => write!(f, "worker {worker} offers no slots"),
            Self::NeverLeased(worker) => write!(f, "worker {worker} answers what it was never asked"),
            Self::OutsideLease(lease) => write!(f, "an answer to lease {lease} is for tasks outside of it"),
            Self::BadFailures(lease) => {
                write!(f, "in an answer to lease {lease}, the failures do not ascend within the batch")
            }
            Self::BadInput(job) => {
                write!(f, "a job cannot take its arguments from job {job}, or come after it, like that")
            }
            Self::BadClaim(worker) => write!(f, "worker {worker} claims what it was never leased"),
            Self::NoSuchFact(seq) => write!(f, "fact {} was never to be stored", seq.0),
        }
    }
}

impl std::error::Error for Refused {}
