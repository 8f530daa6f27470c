//! Getters.

use std::collections::BTreeSet;

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::job::Counts;

use crate::core::Core;
use crate::state::{EndedJob, Job, Phase, Worker};
use crate::view::{JobView, Waiting, WorkerView};

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
            owner: self.owners.name(job.owner).to_owned(),
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
            owner: self.owners.name(job.owner).to_owned(),
            priority: job.priority,
            state: job.state,
            counts: job.counts(),
            retried: job.retried,
            reason: job.reason.as_deref().map(str::to_owned),
            task_ns: job.task_ns,
            workers: 0,
        }
    }

    /// One worker.
    pub fn worker(&self, id: WorkerId) -> Option<WorkerView> {
        self.workers.get(&id).map(|worker| view_worker(id, worker))
    }

    /// All workers, in the order of their ids.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers.iter().map(|(&id, worker)| view_worker(id, worker))
    }

    /// Tasks of all jobs that have not been forgotten.
    pub fn totals(&self) -> Counts {
        let live = self.jobs.values().map(Job::counts);
        live.chain(self.ended.values().map(EndedJob::counts)).fold(Counts::default(), |sum, counts| Counts {
            waiting: sum.waiting.saturating_add(counts.waiting),
            leased: sum.leased.saturating_add(counts.leased),
            succeeded: sum.succeeded.saturating_add(counts.succeeded),
            failed: sum.failed.saturating_add(counts.failed),
            cancelled: sum.cancelled.saturating_add(counts.cancelled),
        })
    }

    /// What a task waits for. None if there is no such job, or it has no such task.
    ///
    /// Takes the time of the job's leases and ranges: for people, not for every task.
    pub fn why(&self, id: JobId, task: u64) -> Option<Waiting> {
        let Some(job) = self.jobs.get(&id) else {
            let counts = self.ended.get(&id)?.counts();
            let waiting = if counts.cancelled == 0 { Waiting::Nothing } else { Waiting::Ended };
            return (task < counts.total()).then_some(waiting);
        };
        if task >= job.tasks {
            return None;
        }
        if let Phase::Ending(_) = job.phase {
            return Some(if job.cancelled == 0 { Waiting::Nothing } else { Waiting::Ended });
        }
        if job.phase == Phase::Storing {
            return Some(Waiting::Storing);
        }
        if let Some((&until, _)) = job.retrying.iter().find(|(_, tasks)| tasks.contains(task)) {
            return Some(Waiting::Retry { attempt: job.attempts.get(task), until });
        }
        if job.waiting.contains(task) || job.last_chance.contains(task) {
            if self.total_slots == 0 {
                return Some(Waiting::Worker);
            }
            let ahead = job.waiting.count_below(task) + job.last_chance.count_below(task);
            let jobs = self.owners.jobs_before(job.owner, job.priority, id);
            return Some(Waiting::Slot { ahead, jobs });
        }
        let held = job.leases.iter().find_map(|(&lease, &worker)| self.why_leased(worker, lease, task));
        Some(held.unwrap_or(Waiting::Nothing))
    }

    /// What a task waits for if it is in this lease.
    fn why_leased(&self, id: WorkerId, lease: LeaseId, task: u64) -> Option<Waiting> {
        let worker = self.workers.get(&id)?;
        let held = worker.leases.get(&lease).filter(|held| held.remaining.contains(task))?;
        let before: u64 = worker.leases.range(..lease).map(|(_, held)| held.remaining.len()).sum();
        let ahead = before + held.remaining.count_below(task);
        Some(Waiting::Outcome { worker: id, lease, since: held.sent, ahead })
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
