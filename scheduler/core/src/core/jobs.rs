//! Jobs: how they come and how they end.

use std::collections::BTreeSet;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::outcome::Failure;

use crate::command::{Command, Fact};
use crate::core::Core;
use crate::core::persist::Deferred;
use crate::event::{NewJob, Refused};
use crate::state::{EndedJob, Job, Phase};

impl Core {
    /// Drops what is left of an ended job; its id stays taken. Returns whether there was one and it had ended.
    pub fn forget(&mut self, job: JobId) -> bool {
        self.ended.remove(&job).is_some()
    }

    pub(super) fn job_submitted(&mut self, id: JobId, spec: NewJob) -> Result<(), Refused> {
        let next = id.0.checked_add(1).ok_or(Refused::JobTaken(id))?;
        if id < self.next_job {
            return Err(Refused::JobTaken(id));
        }
        self.next_job = JobId(next);
        let owner = self.owners.id(&spec.owner);
        self.jobs.insert(id, Job::new(owner, &spec));
        self.persist(Fact::JobAccepted { job: id, spec });
        self.once_stored(Deferred::Open(id));
        Ok(())
    }

    pub(super) fn job_cancelled(&mut self, id: JobId) -> Result<(), Refused> {
        if self.jobs.contains_key(&id) {
            self.stop_job(id, JobState::Cancelled, None);
        } else if !self.ended.contains_key(&id) {
            return Err(Refused::NoSuchJob(id));
        }
        Ok(())
    }

    pub(super) fn job_failed_on(&mut self, worker: WorkerId, id: JobId, failure: &Failure) -> Result<(), Refused> {
        let knows = self.workers.get(&worker).ok_or(Refused::NoSuchWorker(worker))?.knows.contains(&id);
        if !knows {
            // If it was told to forget the job in the meantime, its answer is only late.
            return if id < self.next_job && !self.jobs.contains_key(&id) {
                Ok(())
            } else {
                Err(Refused::NeverLeased(worker))
            };
        }
        self.stop_job(id, JobState::Failed, Some(failure.to_string()));
        Ok(())
    }

    /// Ends the job if every task has an outcome, or too many have failed.
    pub(super) fn settle(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.phase != Phase::Live {
            return;
        }
        if job.is_complete() {
            job.phase = Phase::Ending(JobState::Done);
            self.once_stored(Deferred::Close(id));
        } else if let Some(most) = job.max_failures
            && job.failed > most
        {
            let reason = match most {
                0 => "stopped because a task failed".to_owned(),
                1 => "stopped because more than 1 task failed".to_owned(),
                most => format!("stopped because more than {most} tasks failed"),
            };
            self.stop_job(id, JobState::Failed, Some(reason));
        }
    }

    /// Gives up every task that has no outcome. Nothing happens if there is none: the job has ended, or it is empty and
    /// will be done as soon as it is stored.
    pub(super) fn stop_job(&mut self, id: JobId, state: JobState, reason: Option<String>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if matches!(job.phase, Phase::Ending(_)) || job.is_complete() {
            return;
        }
        job.phase = Phase::Ending(state);
        job.reason.clone_from(&reason);
        job.cancelled = job.tasks - job.succeeded - job.failed;
        job.leased = 0;
        job.waiting.clear();
        job.last_chance.clear();
        job.clear_tallies(0..job.tasks);
        let retrying = std::mem::take(&mut job.retrying);
        let leases = std::mem::take(&mut job.leases);
        for due in retrying.into_keys() {
            self.retries.remove(&(due, id));
        }
        self.sync_runnable(id);

        let holders: BTreeSet<_> = leases.values().copied().collect();
        for (lease, worker) in leases {
            self.drop_lease(worker, lease);
        }
        for worker in holders {
            self.commands.push_back(Command::CancelJob { worker, job: id });
            self.place(worker);
        }
        self.persist(Fact::JobEnded { job: id, state, reason });
        self.once_stored(Deferred::Close(id));
    }

    /// Says that a job whose end is stored is over.
    pub(super) fn close_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        // Closing is deferred only where this phase begins, and no phase follows it.
        let Phase::Ending(state) = job.phase else {
            unreachable!("job {id} is closed in phase {:?}", job.phase);
        };
        self.commands.push_back(Command::JobEnded { job: id, state });
        for &worker in &job.known {
            self.commands.push_back(Command::ForgetJob { worker, job: id });
            if let Some(worker) = self.workers.get_mut(&worker) {
                worker.knows.remove(&id);
            }
        }
        self.ended.insert(id, EndedJob::new(job, state));
    }

    /// Tells the job's owner whether a lease can be made of it.
    pub(super) fn sync_runnable(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let runnable = job.has_work();
        if runnable != job.runnable {
            job.runnable = runnable;
            if runnable {
                self.owners.add(job.owner, job.priority, id);
            } else {
                self.owners.remove(job.owner, job.priority, id);
            }
        }
    }
}
