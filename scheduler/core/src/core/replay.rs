//! From facts to a core.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use farm_proto::ids::JobId;
use farm_proto::job::JobState;
use farm_proto::outcome::FailureKind;

use crate::command::Fact;
use crate::config::Config;
use crate::core::Core;
use crate::event::TaskInput;
use crate::state::{EndedJob, Job, Phase, numbers_in};

/// Facts that no core has asked to be stored in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayError {
    /// The job was accepted twice.
    Twice(JobId),
    /// The fact is about a job that has not been accepted, or has ended.
    NoSuchJob(JobId),
    /// A task of the job has two outcomes, or one that it cannot have.
    BadOutcome(JobId),
    /// The job's end contradicts itself, or its outcomes.
    BadEnd(JobId),
    /// The job needs one that it cannot need.
    BadInput(JobId),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(job) => write!(f, "job {job} was accepted twice"),
            Self::NoSuchJob(job) => write!(f, "a fact is about job {job}, which did not exist or had ended by then"),
            Self::BadOutcome(job) => write!(f, "a task of job {job} has two outcomes, or is not one of its tasks"),
            Self::BadEnd(job) => write!(f, "the end of job {job} does not fit its tasks and their outcomes"),
            Self::BadInput(job) => write!(f, "job {job} needs a job that does not exist or does not fit"),
        }
    }
}

impl std::error::Error for ReplayError {}

impl Core {
    /// The core that asked for these facts to be stored, without its workers and leases: tasks without an outcome wait,
    /// with all of their attempts before them. Facts come in the order in which they were stored, without those of
    /// [forgotten](Self::forget) jobs. [Outcomes](Fact::Outcomes) and [failures](Fact::TaskFailed) of jobs whose
    /// [end](Fact::JobEnded) is among the facts may be left out. Takes the time of the facts and their ranges, not of the
    /// tasks.
    ///
    /// Drain [`poll_command`](Self::poll_command) afterwards: what should have followed when the last core went down
    /// follows now. Jobs that should have been done or stopped are, and so are tasks and jobs that needed what has
    /// failed.
    ///
    /// Facts are numbered from 1 again. [`Config::first_lease`] has to be above every lease that was ever given out.
    ///
    /// # Errors
    ///
    /// The facts contradict each other.
    pub fn replay(config: Config, facts: impl IntoIterator<Item = Fact>) -> Result<Self, ReplayError> {
        let mut core = Self::new(config);
        let mut inputs = BTreeMap::new();
        for fact in facts {
            core.replay_fact(fact, &mut inputs)?;
        }
        core.replay_needs(&inputs)?;
        Ok(core)
    }

    fn replay_fact(&mut self, fact: Fact, inputs: &mut BTreeMap<JobId, TaskInput>) -> Result<(), ReplayError> {
        let id = fact.job();
        match fact {
            Fact::JobAccepted { spec, .. } => {
                if self.jobs.contains_key(&id) || self.ended.contains_key(&id) {
                    return Err(ReplayError::Twice(id));
                }
                let owner = self.pools.entry(spec.cluster).or_default().owners.id(&spec.owner);
                let mut job = Box::new(Job::new(owner, &spec));
                job.phase = Phase::Live;
                self.next_job = self.next_job.max(JobId(id.0.saturating_add(1)));
                self.jobs.insert(id, job);
                inputs.extend(spec.input.map(|input| (id, input)));
            }
            Fact::Outcomes { accepted, failed, .. } => self.replay_outcomes(id, &accepted, &failed, true)?,
            Fact::TaskFailed { task, failure, .. } => {
                let task = task..task.checked_add(1).ok_or(ReplayError::BadOutcome(id))?;
                let task = std::slice::from_ref(&task);
                // Whose input failed was not handed out.
                self.replay_outcomes(id, task, task, failure.kind != FailureKind::InputFailed)?;
            }
            Fact::JobEnded { state, reason, failed, missing, retried, .. } => {
                let mut job = self.jobs.remove(&id).ok_or(ReplayError::NoSuchJob(id))?;
                inputs.remove(&id);
                let told = job.failed;
                job.failed = failed.iter().cloned().collect();
                job.missing = missing.iter().cloned().collect();
                let fits = ascend(&failed, job.tasks)
                    && ascend(&missing, job.tasks)
                    && told.iter().all(|range| job.failed.covers(&range))
                    && job.missing.iter().all(|range| job.waiting.covers(&range) && !job.failed.meets(&range))
                    && state.is_final()
                    && (state != JobState::Done || missing.is_empty());
                if !fits {
                    return Err(ReplayError::BadEnd(id));
                }
                job.reason = reason;
                job.retried = retried;
                self.ended.insert(id, EndedJob::new(*job, state));
            }
        }
        Ok(())
    }

    fn replay_outcomes(
        &mut self,
        id: JobId,
        accepted: &[Range<u64>],
        failed: &[Range<u64>],
        handed_out: bool,
    ) -> Result<(), ReplayError> {
        let job = self.jobs.get_mut(&id).ok_or(ReplayError::NoSuchJob(id))?;
        let within = |part: &Range<u64>| {
            let index = accepted.partition_point(|range| range.end <= part.start);
            accepted.get(index).is_some_and(|range| range.start <= part.start && part.end <= range.end)
        };
        if !ascend(accepted, job.tasks) || !ascend(failed, job.tasks) || !failed.iter().all(within) {
            return Err(ReplayError::BadOutcome(id));
        }
        let (told, before) = (numbers_in(accepted), job.waiting.len());
        accepted.iter().for_each(|range| job.waiting.remove(range.clone()));
        if before - job.waiting.len() != told {
            return Err(ReplayError::BadOutcome(id));
        }
        job.started |= handed_out;
        job.succeeded += told - numbers_in(failed);
        failed.iter().for_each(|range| job.failed.insert(range.clone()));
        Ok(())
    }

    /// Connects jobs with those that they need, as they were when the last fact was stored; then does what has not been
    /// done of that.
    fn replay_needs(&mut self, inputs: &BTreeMap<JobId, TaskInput>) -> Result<(), ReplayError> {
        let live: Vec<_> = self.jobs.keys().copied().collect();
        for (&id, job) in &self.jobs {
            let input = inputs.get(&id).copied();
            let known = |need: &JobId| *need < id && (self.jobs.contains_key(need) || self.ended.contains_key(need));
            if !job.needs.iter().all(known) || input.is_some_and(|input| !self.fits(job.tasks, input)) {
                return Err(ReplayError::BadInput(id));
            }
        }
        for &id in &live {
            self.link(id, inputs.get(&id).copied());
        }
        live.into_iter().for_each(|id| self.begin(id));
        // What outcomes it has are of tasks that failed for their inputs: a store need not tell them from others.
        self.jobs.values_mut().for_each(|job| job.started &= job.after.is_empty());
        Ok(())
    }
}

/// Whether ranges are not empty, ascend, and end before `end`.
fn ascend(ranges: &[Range<u64>], end: u64) -> bool {
    let mut at = 0;
    ranges.iter().all(|range| {
        let fits = at <= range.start && range.start < range.end && range.end <= end;
        at = range.end;
        fits
    })
}
