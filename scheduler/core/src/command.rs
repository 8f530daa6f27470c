//! What a core wants to be done.

use std::ops::Range;
use std::time::Duration;

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::message::Lease;
use farm_proto::outcome::Failure;

use crate::event::NewJob;

/// Something to do for the driver, from [`Core::poll_command`](crate::Core::poll_command).
///
/// Commands to one worker are to be sent in the order in which they come. A command to a worker whose connection has
/// just ended is to be dropped: [`WorkerLeft`](crate::Event::WorkerLeft) sets everything right.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Store a fact, then report [`Persisted`](crate::Event::Persisted). Facts come, and have to become durable, in
    /// ascending order without a gap; many may be stored with one commit and reported once, by the last number.
    Persist { seq: FactSeq, fact: Fact },

    /// The job is stored: its submitter may be told. *Waits for the fact.*
    JobAccepted { job: JobId },
    /// The first task of the job is on its way: its state is [`JobState::Running`].
    JobStarted { job: JobId },
    /// The outcomes of this [`Fact::Outcomes`] or [`Fact::TaskFailed`] are stored: whoever waits for results may have
    /// them. *Waits for the fact.*
    OutcomesStored { job: JobId, seq: FactSeq },
    /// The job is over: whoever waits for it may be told. Comes after all of its outcomes. *Waits for the fact.*
    JobEnded { job: JobId, state: JobState },

    /// Lease tasks to a worker. `introduce`: it has had no lease of this job yet (or was told to forget it), so what
    /// the job is has to be sent first.
    SendLease { worker: WorkerId, lease: Lease, introduce: bool },
    /// Ask for unstarted tasks of a lease; at most `keep` of those not answered are to stay. Answered by
    /// [`TasksReturned`](crate::Event::TasksReturned), or by nothing if nothing can be handed back. A worker that hands
    /// back nothing is asked again after a while, then with a `keep` of 0: for whatever has not been started.
    Recall { worker: WorkerId, lease: LeaseId, keep: u32 },
    /// The job was cancelled or failed while the worker held tasks of it: it stops them and answers nothing.
    CancelJob { worker: WorkerId, job: JobId },
    /// The job is over and the worker once had a lease of it: it may forget what the job is.
    ForgetJob { worker: WorkerId, job: JobId },
    /// The draining worker holds nothing any more. Comes once.
    WorkerMayLeave { worker: WorkerId },
}

impl Command {
    /// Whether it is for this worker.
    pub(crate) fn is_for(&self, id: WorkerId) -> bool {
        match self {
            Self::SendLease { worker, .. }
            | Self::Recall { worker, .. }
            | Self::CancelJob { worker, .. }
            | Self::ForgetJob { worker, .. }
            | Self::WorkerMayLeave { worker } => *worker == id,
            Self::Persist { .. }
            | Self::JobAccepted { .. }
            | Self::JobStarted { .. }
            | Self::OutcomesStored { .. }
            | Self::JobEnded { .. } => false,
        }
    }
}

/// Number of a fact. Counts from 1 in each core; 0 is before all facts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactSeq(pub u64);

/// What must survive a restart. Everything that a core has told anyone follows from the facts before it:
/// [`Core::replay`](crate::Core::replay) makes the same core of them, without workers and leases: those come back with
/// the workers.
///
/// To delete an ended job, [forget](crate::Core::forget) it and delete its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The job exists.
    JobAccepted { job: JobId, spec: NewJob },
    /// Outcomes of the batch in hand are the outcomes of these tasks, for ever: `accepted` are ascending ranges of task
    /// numbers, all within the batch; the rest of the batch is to be dropped. `failed` says which of them are failures,
    /// as ascending ranges, too. `leased` is how long the worker had them: from the sending of their lease until now, or
    /// from its [return](crate::Event::WorkerJoined) if it was sent in another life of the scheduler.
    Outcomes { job: JobId, accepted: Vec<Range<u64>>, failed: Vec<Range<u64>>, leased: Duration },
    /// A task failed for good without an outcome from a worker: this is to be stored as its outcome.
    TaskFailed { job: JobId, task: u64, failure: Failure },
    /// The job is over. `failed` are the tasks that failed and `missing` those without an outcome, both as ascending
    /// ranges; all others have a value. `retried` is the number of attempts beyond the first of any task. So its facts of
    /// outcomes say nothing new from here on, and may be left out of a replay.
    JobEnded {
        job: JobId,
        state: JobState,
        reason: Option<String>,
        failed: Vec<Range<u64>>,
        missing: Vec<Range<u64>>,
        retried: u64,
    },
}

impl Fact {
    /// The job that the fact is about.
    pub const fn job(&self) -> JobId {
        match self {
            Self::JobAccepted { job, .. }
            | Self::Outcomes { job, .. }
            | Self::TaskFailed { job, .. }
            | Self::JobEnded { job, .. } => *job,
        }
    }
}
