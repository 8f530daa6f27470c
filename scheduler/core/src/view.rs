//! What can be seen of a core.

use std::time::Duration;

use farm_proto::ids::{ClusterId, JobId, WorkerId};
use farm_proto::job::{Counts, JobState};
use farm_proto::why::Stage;

use crate::time::Time;

/// A job, as [`Core::job`](crate::Core::job) shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    pub job: JobId,
    pub owner: String,
    pub cluster: ClusterId,
    pub priority: i32,
    /// Final only once the end is stored. Counts are ahead of it by what is on its way to the disk.
    pub state: JobState,
    /// `waiting` includes tasks that wait for another attempt or for results of another job.
    pub counts: Counts,
    /// Attempts beyond the first of any task.
    pub retried: u64,
    /// Why the job failed as a whole.
    pub reason: Option<String>,
    /// What a task takes, in nanoseconds: a running estimate, none before the first outcome.
    pub task_ns: Option<u64>,
    /// Workers that hold tasks of it.
    pub workers: u32,
}

/// A worker, as [`Core::worker`](crate::Core::worker) shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    pub worker: WorkerId,
    pub slots: u32,
    /// Tasks it holds, running or about to.
    pub leased: u64,
    /// Leases that these tasks belong to.
    pub leases: u32,
    /// Outcomes that were accepted from it.
    pub finished: u64,
    pub draining: bool,
    /// When it connected.
    pub joined: Time,
    /// When it connected, or last answered anything.
    pub heard: Time,
}

/// What a task waits for, from [`Core::why`](crate::Core::why).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// For its job to be stored.
    Storing,
    /// For its job not to be held any more.
    Held,
    /// For the end of an earlier job to be stored: the first of those that its job comes after.
    After { job: JobId },
    /// For the results of tasks `first..end` of an earlier job to be stored.
    Input { job: JobId, first: u64, end: u64 },
    /// For a worker: there is none in its cluster that takes leases.
    Worker,
    /// For a worker that will be there for so long: all that there are end before, or take no more leases.
    Time { needed: Duration },
    /// For one of its cluster's `slots`. `tasks` of the same job are leased before it, and `jobs` other jobs of the same
    /// owner.
    Slot { tasks: u64, jobs: u64, slots: u64 },
    /// For its next attempt, which may start at `until`.
    Retry { attempt: u32, until: Time },
    /// For the worker that it is leased to, which does this for its job first.
    Preparing { worker: WorkerId, stage: Stage },
    /// For `tasks` others that were leased to the same worker before it.
    Queued { worker: WorkerId, tasks: u64 },
    /// For its own end: it probably runs. The lease was sent at `since`.
    Running { worker: WorkerId, since: Time },
    /// For nothing: it has a value.
    Value,
    /// For nothing: it failed for good.
    Failed,
    /// For nothing: its job was cancelled or failed before it had an outcome.
    Ended,
}

/// Tasks of a job that wait for the same, from [`Core::why_all`](crate::Core::why_all).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingGroup {
    /// The first of them.
    pub first: u64,
    pub count: u64,
    /// What the first of them waits for. (But an input is what all of them together wait for.)
    pub waiting: Waiting,
}
