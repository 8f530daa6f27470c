//! Getters.

use std::collections::BTreeSet;
use std::ops::Range;

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::job::Counts;

use crate::command::FactSeq;
use crate::core::Core;
use crate::range_set::RangeSet;
use crate::state::{EndedJob, Job, OwnerId, Phase, Worker};
use crate::view::{JobView, WorkerView};

/// Work for a slot, in nanoseconds, that is worth a worker more.
const WORTH_A_SLOT: u128 = 1_000_000_000;

impl Core {
    /// The least id that no job has had, nor any after it.
    pub fn next_job(&self) -> JobId {
        self.next_job
    }

    /// The id of the next lease: what [`Config::first_lease`](crate::Config::first_lease) has to be at least after a
    /// restart.
    pub fn next_lease(&self) -> LeaseId {
        self.next_lease
    }

    /// The last fact that was asked to be stored. Once it is, so are all effects of everything that has been handled.
    pub fn last_fact(&self) -> FactSeq {
        self.last_fact
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<JobView> {
        if let Some(job) = self.jobs.get(&id) {
            return Some(self.view_job(id, job));
        }
        self.ended.get(&id).map(|job| self.view_ended(id, job))
    }

    /// All jobs that have not been forgotten. Those that have not ended come first; each part is in the order of ids.
    pub fn jobs(&self) -> impl Iterator<Item = JobView> {
        let live = self.jobs.iter().map(|(&id, job)| self.view_job(id, job));
        live.chain(self.ended.iter().map(|(&id, job)| self.view_ended(id, job)))
    }

    /// How many jobs have not ended.
    pub fn live_jobs(&self) -> u64 {
        self.jobs.len() as u64
    }

    fn view_job(&self, id: JobId, job: &Job) -> JobView {
        JobView {
            job: id,
            owner: self.owner_of(job.cluster, job.owner),
            cluster: job.cluster,
            priority: job.priority,
            state: job.state(),
            counts: job.counts(),
            retried: job.retried,
            reason: job.reason.clone(),
            task_ns: job.pace.task_ns,
            // Not more than there are workers.
            workers: job.leases.values().collect::<BTreeSet<_>>().len() as u32,
        }
    }

    fn view_ended(&self, id: JobId, job: &EndedJob) -> JobView {
        JobView {
            job: id,
            owner: self.owner_of(job.cluster, job.owner),
            cluster: job.cluster,
            priority: job.priority,
            state: job.state,
            counts: job.counts(),
            retried: job.retried,
            reason: job.reason.as_deref().map(str::to_owned),
            task_ns: job.task_ns,
            workers: 0,
        }
    }

    fn owner_of(&self, cluster: ClusterId, owner: OwnerId) -> String {
        // Both are of the same job, which has put its owner there.
        self.pools.get(&cluster).map(|pool| pool.owners.name(owner).to_owned()).unwrap_or_default()
    }

    /// For how many slots a cluster has work: as many as its tasks without an outcome would keep busy for a second at
    /// least, where it is known how long they take. Those that wait for others, or for another attempt, do not count.
    pub fn demand(&self, cluster: ClusterId) -> u64 {
        let jobs = self.jobs.values().filter(|job| job.cluster == cluster && job.phase == Phase::Live);
        let slots = jobs.filter(|job| job.after.is_empty()).map(|job| {
            let tasks = job.waiting.len() + job.last_chance.len() + job.leased;
            let busy = job.pace.task_ns.map(|ns| u128::from(tasks) * u128::from(ns) / WORTH_A_SLOT);
            // At most `tasks`.
            busy.map_or(tasks, |slots| slots.clamp(u128::from(tasks > 0), u128::from(tasks)) as u64)
        });
        slots.fold(0, u64::saturating_add)
    }

    /// How many jobs of a cluster have not ended.
    pub fn live_jobs_of(&self, cluster: ClusterId) -> u64 {
        self.jobs.values().filter(|job| job.cluster == cluster).count() as u64
    }

    /// One worker.
    pub fn worker(&self, id: WorkerId) -> Option<WorkerView> {
        self.workers.get(&id).map(|worker| view_worker(id, worker))
    }

    /// The job of a task, if a worker holds the task by that lease and has not answered for it.
    pub fn held_by(&self, worker: WorkerId, lease: LeaseId, task: u64) -> Option<JobId> {
        let held = self.workers.get(&worker)?.leases.get(&lease)?;
        held.remaining.contains(task).then_some(held.job)
    }

    /// All workers, in the order of their ids.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers.iter().map(|(&id, worker)| view_worker(id, worker))
    }

    /// Tasks of all jobs that have not been forgotten.
    pub fn totals(&self) -> Counts {
        let live = self.jobs.values().map(|job| job.counts());
        live.chain(self.ended.values().map(EndedJob::counts)).fold(Counts::default(), |sum, counts| Counts {
            waiting: sum.waiting.saturating_add(counts.waiting),
            leased: sum.leased.saturating_add(counts.leased),
            succeeded: sum.succeeded.saturating_add(counts.succeeded),
            failed: sum.failed.saturating_add(counts.failed),
            cancelled: sum.cancelled.saturating_add(counts.cancelled),
        })
    }

    /// The tasks of an ended job that have no value, ascending: those that failed, and, unless `failed_only`, those
    /// without an outcome. None if there is no such job, or it has not ended.
    pub fn without_value(&self, id: JobId, failed_only: bool) -> Option<Vec<Range<u64>>> {
        let job = self.ended.get(&id)?;
        if failed_only {
            return Some(job.failed.to_vec());
        }
        let both: RangeSet = job.failed.iter().chain(&job.missing).cloned().collect();
        Some(both.iter().collect())
    }
}

fn view_worker(id: WorkerId, worker: &Worker) -> WorkerView {
    WorkerView {
        worker: id,
        slots: worker.slots,
        leased: worker.held,
        // Not more than there are tasks that fit into memory as leases of their own.
        leases: worker.leases.len() as u32,
        finished: worker.finished,
        draining: worker.draining,
        joined: worker.joined,
        heard: worker.heard,
    }
}
