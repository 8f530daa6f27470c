//! What can be set.

use std::time::Duration;

use farm_proto::ids::{JobId, LeaseId};

/// How the core behaves. The default is what a farm wants; tests change single fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How much work a lease should hold: long enough to hide the way to the worker and back, short enough that other
    /// users need not wait long. Applies to all slots of a worker together, so that a lease takes about this long.
    pub lease_time: Duration,
    /// A task that takes longer than this is long: while a worker's slots all run long tasks, nothing is sent ahead to
    /// it, so that what waits stays free to go elsewhere.
    pub long_task: Duration,
    /// The most tasks in one lease.
    pub max_lease_tasks: u32,
    /// The most argument bytes in one lease, judged by [`crate::NewJob::arg_bytes`]. A single task always fits.
    pub max_lease_bytes: u64,
    /// Unstarted tasks are taken back from a worker for idle slots elsewhere if they would wait at least this long.
    pub recall_worth: Duration,
    /// How often a task may be running when its slot or its worker dies; then it fails with
    /// [`WorkerLost`](farm_proto::outcome::FailureKind::WorkerLost). At least 1.
    pub crash_limit: u32,
    /// How long a task that failed by its own doing waits before its second attempt. Doubles with each further one.
    pub retry_delay: Duration,
    /// The longest that a task waits before another attempt.
    pub max_retry_delay: Duration,
    /// The first lease's id. After a restart it has to be greater than every id given out before: leases below it are
    /// of earlier lives of the scheduler, of which the worker that comes back with one knows more than the core.
    pub first_lease: LeaseId,
    /// The first job's id. After a restart it has to be greater than every id of a job that was ever stored, forgotten
    /// ones included: their ids are not used again, and workers may still speak of them.
    pub first_job: JobId,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease_time: Duration::from_millis(100),
            long_task: Duration::from_secs(1),
            max_lease_tasks: 64 << 10,
            max_lease_bytes: 8 << 20,
            recall_worth: Duration::from_millis(10),
            crash_limit: 3,
            retry_delay: Duration::from_millis(100),
            max_retry_delay: Duration::from_secs(30),
            first_lease: LeaseId(1),
            first_job: JobId(1),
        }
    }
}
