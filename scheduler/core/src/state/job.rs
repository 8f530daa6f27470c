//! Jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::job::{Counts, JobState};

use crate::event::NewJob;
use crate::range_set::RangeSet;
use crate::state::OwnerId;
use crate::tally::Tally;
use crate::time::Time;

/// A job that has not ended.
///
/// Each task is in exactly one of `waiting`, `last_chance`, `retrying`, a lease, or (by number only) `succeeded`,
/// `failed` and `cancelled`: which of the three is the store's to know.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) owner: OwnerId,
    /// As it was submitted, to the owner's name.
    pub(crate) priority: i32,
    pub(crate) tasks: u64,
    pub(crate) retries: u32,
    pub(crate) max_failures: Option<u64>,
    pub(crate) arg_bytes: u64,

    pub(crate) phase: Phase,
    /// Whether a task of it was ever handed out.
    pub(crate) started: bool,
    /// Whether its owner has it among the jobs that a lease can be made of.
    pub(crate) runnable: bool,
    pub(crate) reason: Option<String>,

    /// Tasks that can be leased.
    pub(crate) waiting: RangeSet,
    /// Tasks that can be leased, but only one at a time to each worker, because another crash would be their last. Two
    /// of them side by side might take each other down, and one would be blamed without guilt.
    pub(crate) last_chance: RangeSet,
    /// Tasks whose next attempt has to wait, by when it may start.
    pub(crate) retrying: BTreeMap<Time, RangeSet>,
    /// Who holds its leases.
    pub(crate) leases: BTreeMap<LeaseId, WorkerId>,
    /// Tasks in these leases that have not been answered.
    pub(crate) leased: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,

    /// Number of the next attempt, by task. Like the next two, 0 once the task has an outcome.
    pub(crate) attempts: Tally,
    /// How often the task may have been running when its slot or worker died.
    pub(crate) crashes: Tally,
    /// How often the worker died while it held the task, running or not.
    pub(crate) losses: Tally,
    /// Attempts beyond the first of any task.
    pub(crate) retried: u64,

    pub(crate) pace: Pace,
    /// Workers that were told what the job is.
    pub(crate) known: BTreeSet<WorkerId>,
}

/// How far a job has come, as far as the store is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is not known to be stored.
    Storing,
    Live,
    /// It has ended, but its end is not known to be stored.
    Ending(JobState),
}

impl Job {
    pub(crate) fn new(owner: OwnerId, spec: &NewJob) -> Self {
        Self {
            owner,
            priority: spec.priority,
            tasks: spec.tasks,
            retries: spec.retries,
            max_failures: spec.max_failures,
            arg_bytes: spec.arg_bytes,
            phase: Phase::Storing,
            started: false,
            runnable: false,
            reason: None,
            waiting: RangeSet::from(0..spec.tasks),
            last_chance: RangeSet::new(),
            retrying: BTreeMap::new(),
            leases: BTreeMap::new(),
            leased: 0,
            succeeded: 0,
            failed: 0,
            cancelled: 0,
            attempts: Tally::default(),
            crashes: Tally::default(),
            losses: Tally::default(),
            retried: 0,
            pace: Pace { task_ns: spec.task_ns, answered: 0 },
            known: BTreeSet::new(),
        }
    }

    /// Tasks that nobody holds and that have no outcome.
    pub(crate) fn unleased(&self) -> u64 {
        let retrying: u64 = self.retrying.values().map(RangeSet::len).sum();
        self.waiting.len() + self.last_chance.len() + retrying
    }

    /// Whether each task has an outcome.
    pub(crate) fn is_complete(&self) -> bool {
        self.succeeded + self.failed == self.tasks
    }

    /// Whether there is something to make a lease of.
    pub(crate) fn has_work(&self) -> bool {
        self.phase == Phase::Live && !(self.waiting.is_empty() && self.last_chance.is_empty())
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            waiting: self.unleased(),
            leased: self.leased,
            succeeded: self.succeeded,
            failed: self.failed,
            cancelled: self.cancelled,
        }
    }

    pub(crate) fn state(&self) -> JobState {
        if self.started { JobState::Running } else { JobState::Waiting }
    }

    /// Makes tasks wait, each where its past crashes put it.
    pub(crate) fn put_back(&mut self, range: Range<u64>, crash_limit: u32) {
        let mut at = range.start;
        for (run, crashes) in self.crashes.runs_in(range.clone()) {
            if crashes + 1 >= crash_limit {
                self.waiting.insert(at..run.start);
                at = run.end;
                self.last_chance.insert(run);
            }
        }
        self.waiting.insert(at..range.end);
    }

    /// Forgets what was exceptional about tasks that have an outcome now.
    pub(crate) fn clear_tallies(&mut self, range: Range<u64>) {
        self.attempts.clear(range.clone());
        self.crashes.clear(range.clone());
        self.losses.clear(range);
    }

    /// How often the task failed by its own doing.
    pub(crate) fn failures_of(&self, task: u64) -> u32 {
        self.attempts.get(task) - self.crashes.get(task)
    }
}

/// What a task of a job takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Running estimate in nanoseconds, at least 1.
    pub(crate) task_ns: Option<u64>,
    /// Outcomes that it rests on.
    pub(crate) answered: u64,
}

impl Pace {
    /// Takes in a batch of `count` tasks that ran `run_ns` in all.
    pub(crate) fn learn(&mut self, count: u64, run_ns: u64) {
        if count == 0 {
            return;
        }
        let sample = (run_ns / count).max(1);
        // A large batch is a good sample and nearly replaces the estimate; a single task moves it by an eighth.
        self.task_ns = Some(match self.task_ns.filter(|_| self.answered > 0) {
            None => sample,
            Some(old) => {
                let weight = (count.saturating_mul(256) / (count.saturating_add(64))).max(32);
                let mixed = u128::from(old) * u128::from(256 - weight) + u128::from(sample) * u128::from(weight);
                u64::try_from(mixed / 256).unwrap_or(u64::MAX).max(1)
            }
        });
        self.answered += count;
    }
}

/// What is left of a job that has ended.
#[derive(Debug)]
pub(crate) struct EndedJob {
    pub(crate) owner: OwnerId,
    pub(crate) priority: i32,
    pub(crate) state: JobState,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) retried: u64,
    pub(crate) reason: Option<Box<str>>,
    pub(crate) task_ns: Option<u64>,
}

impl EndedJob {
    pub(crate) fn new(job: Job, state: JobState) -> Self {
        Self {
            owner: job.owner,
            priority: job.priority,
            state,
            succeeded: job.succeeded,
            failed: job.failed,
            cancelled: job.cancelled,
            retried: job.retried,
            reason: job.reason.map(String::into_boxed_str),
            task_ns: job.pace.task_ns,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let Self { succeeded, failed, cancelled, .. } = *self;
        Counts { waiting: 0, leased: 0, succeeded, failed, cancelled }
    }
}

/// Where a job stands among those of its owner: the first is served first.
pub(crate) fn rank(priority: i32, job: JobId) -> (std::cmp::Reverse<i32>, JobId) {
    (std::cmp::Reverse(priority), job)
}
