//! What can be seen of a core.

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::job::{Counts, JobState};

use crate::time::Time;

/// A job, as [`Core::job`](crate::Core::job) shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    pub job: JobId,
    pub owner: String,
    pub priority: i32,
    /// Final only once the end is stored. Counts are ahead of it by what is on its way to the disk.
    pub state: JobState,
    /// `waiting` includes tasks that wait for another attempt.
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
    /// For a worker: there is none that takes leases.
    Worker,
    /// For a slot. `ahead` tasks of the same job are leased before it, and `jobs` other jobs of the same owner.
    Slot { ahead: u64, jobs: u64 },
    /// For its next attempt, which may start at `until`.
    Retry { attempt: u32, until: Time },
    /// For this worker to run it, which has been leased it at `since`. `ahead` tasks of the worker were leased before
    /// it; if they are fewer than the worker's slots, it probably runs.
    Outcome { worker: WorkerId, lease: LeaseId, since: Time, ahead: u64 },
    /// For nothing: it has an outcome.
    Nothing,
    /// For nothing: its job was cancelled or failed. Whether it had an outcome by then is the store's to know.
    Ended,
}
