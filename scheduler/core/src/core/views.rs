//! Getters.

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::job::Counts;

use crate::core::Core;
use crate::view::{JobView, Waiting, WorkerView};

impl Core {
    /// An id that no job has had.
    pub fn next_job(&self) -> JobId {
        self.next_job
    }

    /// The id of the next lease: what [`Config::first_lease`](crate::Config::first_lease) has to be at least after a
    /// restart.
    pub fn next_lease(&self) -> LeaseId {
        self.next_lease
    }

    /// One job.
    pub fn job(&self, job: JobId) -> Option<JobView> {
        todo!()
    }

    /// All jobs that have not been forgotten, in the order of their ids.
    pub fn jobs(&self) -> impl Iterator<Item = JobView> {
        self.jobs.keys().filter_map(|&job| self.job(job))
    }

    /// Jobs that have not ended.
    pub fn live_jobs(&self) -> u64 {
        todo!()
    }

    /// One worker.
    pub fn worker(&self, worker: WorkerId) -> Option<WorkerView> {
        todo!()
    }

    /// All workers, in the order of their ids.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers.keys().filter_map(|&worker| self.worker(worker))
    }

    /// Tasks of all jobs that have not been forgotten.
    pub fn totals(&self) -> Counts {
        todo!()
    }

    /// What a task waits for. None if there is no such job, or it has no such task.
    pub fn why(&self, job: JobId, task: u64) -> Option<Waiting> {
        todo!()
    }
}
