//! Why a task does not run yet, and where its time went.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, WorkerId};
use crate::job::JobState;

/// The answer to [`Request::Why`](crate::message::Request::Why).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    pub job: JobId,
    pub state: JobState,
    /// The tasks that were asked about, by what they wait for: one group for each cause. Tasks that have ended are not
    /// among them, unless one was asked about.
    pub groups: Vec<WhyGroup>,
    /// Why the job failed as a whole.
    pub reason: Option<String>,
    /// What the one task that was asked about has kept for its next attempt.
    pub checkpoint: Option<Checkpoint>,
}

/// A state that a task has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub bytes: u64,
    /// When the scheduler took it in, in milliseconds since the Unix epoch.
    pub kept_ms: u64,
}

/// Tasks that wait for the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyGroup {
    /// The first of them.
    pub task: u64,
    pub count: u64,
    pub cause: Cause,
}

/// What a task waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Its job is on its way to the disk.
    Storing,
    /// The end of an earlier job.
    After { job: JobId },
    /// The results of tasks `first..end` of an earlier job.
    Input { job: JobId, first: u64, end: u64 },
    /// Values of these secrets: the scheduler does not have them (any more).
    Secrets { names: Vec<String> },
    /// A worker: none of its cluster is connected that takes work. So many are on their way; why there are no more, as
    /// far as is known.
    NoWorker { cluster: String, coming: u32, short: Vec<String> },
    /// A worker that will be there for so long: all that are connected end before.
    NoTime { cluster: String, needed_ms: u64 },
    /// A slot: all of them are busy. `tasks` of the same job go first, and `jobs` other jobs of the same owner.
    Slot { tasks: u64, jobs: u64, slots: u64 },
    /// Its next attempt, which begins in so many milliseconds.
    Backoff { attempt: u32, wait_ms: u64 },
    /// The worker that it is leased to fetches what the job needs.
    Fetching { worker: WorkerId, name: String },
    /// That worker compiles the module.
    Compiling { worker: WorkerId, name: String },
    /// It is leased to that worker, behind `tasks` others.
    Queued { worker: WorkerId, name: String, tasks: u64 },
    /// Its own end: it probably runs there. The lease was sent so many milliseconds ago.
    Running { worker: WorkerId, name: String, leased_ms: u64 },
    /// Nothing: it has a result, or failed for good. Where its time went, if that is still known.
    Ended { failed: bool, account: Option<Account> },
    /// Nothing: its job was cancelled or failed before it had an outcome.
    GivenUp,
}

/// What a worker does for a job before it can run its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Fetching,
    Compiling,
    Ready,
}

/// Where a task's time went, in nanoseconds, from the acceptance of its job to the moment at which its outcome was on
/// disk. The parts sum to the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Until it was leased for its last attempt: waiting for inputs, workers, slots and backoff, and earlier attempts.
    pub queued_ns: u64,
    /// Held by its worker, neither prepared for nor run: on its way there and back, and behind others.
    pub leased_ns: u64,
    /// Its worker fetched what the job needs.
    pub fetching_ns: u64,
    pub compiling_ns: u64,
    /// It ran: the mean of the tasks whose outcomes came together with its own.
    pub running_ns: u64,
    /// From the arrival of its outcome until that was on disk.
    pub storing_ns: u64,
}

impl Account {
    pub const fn whole_ns(&self) -> u64 {
        self.queued_ns
            .saturating_add(self.leased_ns)
            .saturating_add(self.fetching_ns)
            .saturating_add(self.compiling_ns)
            .saturating_add(self.running_ns)
            .saturating_add(self.storing_ns)
    }
}
