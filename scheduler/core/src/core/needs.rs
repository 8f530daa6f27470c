//! Jobs that need other jobs: their end, or their results.

use std::ops::Range;

use farm_proto::ids::JobId;
use farm_proto::job::JobState;
use farm_proto::outcome::{Failure, FailureKind};

use crate::core::Core;
use crate::core::persist::Landed;
use crate::event::{NewJob, Refused, TaskInput};
use crate::range_set::RangeSet;
use crate::state::{Inputs, Phase, numbers_in};

impl Core {
    /// The jobs that need this one and have not ended, ascending: those that come after it, and those that take its
    /// results as arguments.
    pub fn dependants(&self, job: JobId) -> impl Iterator<Item = JobId> {
        self.needed.range((job, JobId(0))..=(job, JobId(u64::MAX))).map(|&(_, by)| by)
    }

    /// The jobs that this one needs while it has not ended, ascending. Some of them may have.
    pub fn needs(&self, job: JobId) -> Vec<JobId> {
        self.jobs.get(&job).map(|job| job.needs.to_vec()).unwrap_or_default()
    }

    /// Whether a new job can depend on what it says.
    pub(super) fn check_needs(&self, id: JobId, spec: &NewJob) -> Result<(), Refused> {
        let needs = || spec.after.iter().copied().chain(spec.input.map(|input| input.job));
        if let Some(later) = needs().find(|&need| need >= id) {
            return Err(Refused::BadInput(later));
        }
        if let Some(unknown) = needs().find(|&need| self.tasks_of(need).is_none()) {
            return Err(Refused::NoSuchJob(unknown));
        }
        match spec.input {
            Some(input) if !self.fits(spec.tasks, input) => Err(Refused::BadInput(input.job)),
            _ => Ok(()),
        }
    }

    /// Whether so many tasks take exactly the results of the job.
    pub(super) fn fits(&self, tasks: u64, TaskInput { job, fan_in }: TaskInput) -> bool {
        fan_in > 0 && self.tasks_of(job).is_some_and(|results| results.div_ceil(u64::from(fan_in)) == tasks)
    }

    /// Connects a job with those that it needs, and blocks its tasks as far as they do.
    ///
    /// What has an outcome now is stored before this job begins, as facts are stored in their order; of what comes
    /// later, [`results_landed`](Self::results_landed) is told.
    pub(super) fn link(&mut self, id: JobId, input: Option<TaskInput>) {
        let Some(job) = self.jobs.get(&id) else { return };
        self.needed.extend(job.needs.iter().map(|&need| (need, id)));
        let Some(TaskInput { job: from, fan_in }) = input else { return };
        let (tasks, awaited, failed) = if let Some(ended) = self.ended.get(&from) {
            (ended.tasks, ended.missing.iter().cloned().collect(), ended.failed.to_vec())
        } else if let Some(live) = self.jobs.get(&from) {
            (live.tasks, self.open_tasks(from), live.failed.iter().collect())
        } else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let inputs = Inputs { job: from, fan_in: u64::from(fan_in).max(1), tasks, awaited, failed };
        for results in inputs.awaited.iter().chain(inputs.failed.iter().cloned()) {
            for tasks in job.waiting.intersection(inputs.users(&results)).collect::<Vec<_>>() {
                job.waiting.remove(tasks.clone());
                job.blocked.insert(tasks);
            }
        }
        job.input = Some(Box::new(inputs));
    }

    /// Disconnects a job that has ended from those that it needed.
    pub(super) fn unlink(&mut self, id: JobId, needs: &[JobId]) {
        for &need in needs {
            self.needed.remove(&(need, id));
        }
    }

    /// The tasks of a live job without an outcome.
    pub(super) fn open_tasks(&self, id: JobId) -> RangeSet {
        let Some(job) = self.jobs.get(&id) else { return RangeSet::new() };
        let leased = job.leases.iter().filter_map(|(lease, worker)| self.workers.get(worker)?.leases.get(lease));
        let sets = [&job.blocked, &job.waiting, &job.last_chance, &job.missing].into_iter();
        let sets = sets.chain(job.retrying.values()).chain(leased.map(|held| &held.remaining));
        let mut open = RangeSet::new();
        sets.flat_map(RangeSet::iter).for_each(|range| open.insert(range));
        open
    }

    /// Lets a job begin that is now stored.
    pub(super) fn begin(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let failed = job.input.as_mut().map(|input| std::mem::take(&mut input.failed)).unwrap_or_default();
        for need in job.needs.clone() {
            self.need_closed(id, need);
        }
        for results in failed {
            self.fail_users(id, &results);
        }
        self.sync_runnable(id);
        self.settle(id);
    }

    /// What is to be told to those who need these outcomes, once they are stored.
    pub(super) fn landed(&self, id: JobId, tasks: &[Range<u64>], failed: &[Range<u64>]) -> Option<Box<Landed>> {
        let needed = !self.needed.is_empty() && self.dependants(id).next().is_some();
        needed.then(|| Box::new(Landed { tasks: tasks.to_vec(), failed: failed.to_vec() }))
    }

    /// Results of a job are stored: tasks of others may go ahead, or never will.
    pub(super) fn results_landed(&mut self, from: JobId, landed: &Landed) {
        for id in self.dependants(from).collect::<Vec<_>>() {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            // A job that is not stored yet has seen them when it came.
            if job.phase != Phase::Live {
                continue;
            }
            let Some(input) = job.input.as_mut().filter(|input| input.job == from) else { continue };
            landed.tasks.iter().for_each(|results| input.awaited.remove(results.clone()));
            landed.failed.iter().for_each(|results| self.fail_users(id, results));
            landed.tasks.iter().for_each(|results| self.unblock_users(id, results));
            self.sync_runnable(id);
            self.settle(id);
        }
    }

    /// Fails the tasks that need results of which there are none.
    fn fail_users(&mut self, id: JobId, results: &Range<u64>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(input) = &job.input else { return };
        let from = input.job;
        let blocked: Vec<_> = job.blocked.intersection(input.users(results)).collect();
        for task in blocked.into_iter().flatten() {
            let Some(job) = self.jobs.get_mut(&id) else { return };
            // The job is about to stop.
            if job.max_failures.is_some_and(|most| job.failed.len() > most) {
                return;
            }
            let needs = job.input.as_ref().map_or(0..0, |input| input.used_by(&(task..task + 1)));
            job.blocked.remove(task..task + 1);
            let message = format!("task {} of job {from} failed", needs.start.max(results.start));
            self.fail_task(id, task, Failure::new(FailureKind::InputFailed, message));
        }
    }

    /// Lets tasks wait for a worker that need some of these results, and no others that are not stored.
    fn unblock_users(&mut self, id: JobId, results: &Range<u64>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(input) = &job.input else { return };
        let mut users = input.users(results);
        // Only the first and the last of them may need more than these results.
        let waits = |task: u64| input.awaited.intersection(input.used_by(&(task..task + 1))).next().is_some();
        if !users.is_empty() && waits(users.start) {
            users.start += 1;
        }
        if !users.is_empty() && waits(users.end - 1) {
            users.end -= 1;
        }
        for tasks in job.blocked.intersection(users).collect::<Vec<_>>() {
            job.blocked.remove(tasks.clone());
            job.waiting.insert(tasks);
        }
    }

    /// Tells those who need a job that its end is stored.
    pub(super) fn job_closed(&mut self, id: JobId) {
        for dependant in self.dependants(id).collect::<Vec<_>>() {
            if self.jobs.get(&dependant).is_some_and(|job| job.phase == Phase::Live) {
                self.need_closed(dependant, id);
                self.sync_runnable(dependant);
                self.settle(dependant);
            }
        }
    }

    /// If a job that this one needs is over, sees to what that means.
    fn need_closed(&mut self, id: JobId, need: JobId) {
        let (Some(job), Some(ended)) = (self.jobs.get_mut(&id), self.ended.get(&need)) else { return };
        let how = match ended.state {
            JobState::Cancelled => "was cancelled",
            _ => "failed",
        };
        let comes_after = job.after.contains(&need);
        if comes_after && ended.state == JobState::Done {
            job.after.remove(&need);
        }
        let reason = if comes_after && ended.state != JobState::Done {
            format!("job {need}, which has to be done before, {how}")
        } else if job.input.as_ref().is_some_and(|input| input.job == need) && numbers_in(&ended.missing) > 0 {
            format!("job {need}, whose results are needed, {how}")
        } else {
            return;
        };
        self.stop_job(id, JobState::Failed, Some(reason));
    }
}
