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
    /// Drops what is left of an ended job; its id stays taken. Returns whether that was done: there was such a job, it
    /// had ended, and no job [needs](Self::dependants) it any more.
    pub fn forget(&mut self, job: JobId) -> bool {
        self.dependants(job).next().is_none() && self.ended.remove(&job).is_some()
    }

    pub(super) fn job_submitted(&mut self, id: JobId, spec: NewJob) -> Result<(), Refused> {
        let next = id.0.checked_add(1).ok_or(Refused::JobTaken(id))?;
        if id < self.next_job {
            return Err(Refused::JobTaken(id));
        }
        self.check_needs(id, &spec)?;
        self.next_job = JobId(next);
        let owner = self.pools.entry(spec.cluster).or_default().owners.id(&spec.owner);
        self.jobs.insert(id, Box::new(Job::new(owner, &spec)));
        self.link(id, spec.input);
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

    pub(super) fn hold_job(&mut self, id: JobId, held: bool) -> Result<(), Refused> {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.held = held;
            self.sync_runnable(id);
        } else if !self.ended.contains_key(&id) {
            return Err(Refused::NoSuchJob(id));
        }
        Ok(())
    }

    pub(super) fn job_failed_on(&mut self, worker: WorkerId, id: JobId, failure: &Failure) -> Result<(), Refused> {
        let knows = self.workers.get(&worker).ok_or(Refused::NoSuchWorker(worker))?.knows.contains(&id);
        if !knows {
            return self.late_about(worker, id);
        }
        self.stop_job(id, JobState::Failed, Some(failure.to_string()));
        Ok(())
    }

    /// Judges what a worker says of a job that it is not to know: if it was told to forget it in the meantime, that is
    /// only late.
    pub(super) fn late_about(&self, worker: WorkerId, id: JobId) -> Result<(), Refused> {
        if id < self.next_job && !self.jobs.contains_key(&id) { Ok(()) } else { Err(Refused::NeverLeased(worker)) }
    }

    /// Ends the job if every task has an outcome, or too many have failed.
    pub(super) fn settle(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.phase != Phase::Live {
            return;
        }
        if job.is_over() {
            self.end_job(id, JobState::Done, None);
        } else if let Some(most) = job.max_failures
            && job.failed.len() > most
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
        if matches!(job.phase, Phase::Ending(_)) || job.is_over() {
            return;
        }
        let missing = self.open_tasks(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.missing = missing;
        job.leased = 0;
        job.blocked.clear();
        job.waiting.clear();
        job.last_chance.clear();
        job.clear_tallies(0..job.tasks);
        let retrying = std::mem::take(&mut job.retrying);
        let leases = std::mem::take(&mut job.leases);
        for due in retrying.into_keys() {
            self.retries.remove(&(due, id));
        }
        let holders: BTreeSet<_> = leases.values().copied().collect();
        for (lease, worker) in leases {
            self.drop_lease(worker, lease);
        }
        for worker in holders {
            self.commands.push_back(Command::CancelJob { worker, job: id });
            self.place(worker);
        }
        self.end_job(id, state, reason);
    }

    /// Asks for the end of a job to be stored of which no task is left.
    fn end_job(&mut self, id: JobId, state: JobState, reason: Option<String>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.phase = Phase::Ending(state);
        job.reason.clone_from(&reason);
        job.left.clear();
        job.resumed.clear();
        let (failed, missing) = (job.failed.iter().collect(), job.missing.iter().collect());
        let retried = job.retried;
        self.sync_runnable(id);
        self.persist(Fact::JobEnded { job: id, state, reason, failed, missing, retried });
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
                worker.preparing.remove(&id);
            }
        }
        self.unlink(id, &job.needs);
        self.ended.insert(id, EndedJob::new(*job, state));
        self.job_closed(id);
    }

    /// Tells the job's owner whether a lease can be made of it.
    pub(super) fn sync_runnable(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let runnable = job.has_work();
        if runnable != job.runnable {
            job.runnable = runnable;
            let owners = &mut self.pools.entry(job.cluster).or_default().owners;
            if runnable {
                owners.add(job.owner, job.priority, id);
            } else {
                owners.remove(job.owner, job.priority, id);
            }
        }
    }
}
