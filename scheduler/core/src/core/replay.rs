//! From facts to a core.

use std::fmt;
use std::ops::Range;

use farm_proto::ids::JobId;
use farm_proto::job::JobState;

use crate::command::Fact;
use crate::config::Config;
use crate::core::Core;
use crate::state::{EndedJob, Job, Phase};

/// Facts that no core has asked to be stored in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayError {
    /// The job was accepted twice.
    Twice(JobId),
    /// The fact is about a job that has not been accepted, or has ended.
    NoSuchJob(JobId),
    /// A task of the job has two outcomes, or one that it cannot have.
    BadOutcome(JobId),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(job) => write!(f, "job {job} was accepted twice"),
            Self::NoSuchJob(job) => write!(f, "a fact is about job {job}, which did not exist or had ended by then"),
            Self::BadOutcome(job) => write!(f, "a task of job {job} has two outcomes, or is not one of its tasks"),
        }
    }
}

impl std::error::Error for ReplayError {}

impl Core {
    /// The core that asked for these facts to be stored, without its workers and leases: tasks without an outcome wait,
    /// with all of their attempts before them. Facts come in the order in which they were stored, without those of
    /// [forgotten](Self::forget) jobs. Drain [`poll_command`](Self::poll_command) afterwards: a job that should have
    /// been stopped when the last core went down is stopped now.
    ///
    /// Facts are numbered from 1 again.
    ///
    /// # Errors
    ///
    /// The facts contradict each other.
    pub fn replay(config: Config, facts: impl IntoIterator<Item = Fact>) -> Result<Self, ReplayError> {
        let mut core = Self::new(config);
        for fact in facts {
            core.replay_fact(fact)?;
        }
        let live: Vec<_> = core.jobs.keys().copied().collect();
        for job in live {
            core.sync_runnable(job);
            core.settle(job);
        }
        Ok(core)
    }

    fn replay_fact(&mut self, fact: Fact) -> Result<(), ReplayError> {
        let id = fact.job();
        match fact {
            Fact::JobAccepted { spec, .. } => {
                if self.jobs.contains_key(&id) || self.ended.contains_key(&id) {
                    return Err(ReplayError::Twice(id));
                }
                let owner = self.owners.id(&spec.owner);
                let mut job = Job::new(owner, &spec);
                job.phase = Phase::Live;
                self.next_job = self.next_job.max(JobId(id.0.saturating_add(1)));
                self.jobs.insert(id, job);
            }
            Fact::Outcomes { accepted, failed, .. } => self.replay_outcomes(id, &accepted, failed)?,
            Fact::TaskFailed { task, .. } => {
                let task = task..task.checked_add(1).ok_or(ReplayError::BadOutcome(id))?;
                self.replay_outcomes(id, &[task], 1)?;
            }
            Fact::JobEnded { state, reason, .. } => {
                let mut job = self.jobs.remove(&id).ok_or(ReplayError::NoSuchJob(id))?;
                job.reason = reason;
                job.cancelled = job.tasks - job.succeeded - job.failed;
                self.ended.insert(id, EndedJob::new(job, state));
                return Ok(());
            }
        }
        if self.jobs.get(&id).is_some_and(Job::is_complete)
            && let Some(job) = self.jobs.remove(&id)
        {
            self.ended.insert(id, EndedJob::new(job, JobState::Done));
        }
        Ok(())
    }

    fn replay_outcomes(&mut self, id: JobId, accepted: &[Range<u64>], failed: u64) -> Result<(), ReplayError> {
        let job = self.jobs.get_mut(&id).ok_or(ReplayError::NoSuchJob(id))?;
        let before = job.waiting.len();
        accepted.iter().for_each(|range| job.waiting.remove(range.clone()));
        let count = before - job.waiting.len();
        let told: u64 = accepted.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        if count != told || failed > count {
            return Err(ReplayError::BadOutcome(id));
        }
        job.started = true;
        job.succeeded += count - failed;
        job.failed += failed;
        Ok(())
    }
}
