//! Jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::job::{Counts, JobState};

use crate::event::NewJob;
use crate::range_set::RangeSet;
use crate::state::OwnerId;
use crate::tally::Tally;
use crate::time::Time;

/// A job that has not ended.
///
/// Each task is in exactly one of `blocked`, `waiting`, `last_chance`, `retrying`, a lease, `failed`, `missing`, or none
/// of these: then it has a value, and is counted in `succeeded`.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) cluster: ClusterId,
    /// In its cluster.
    pub(crate) owner: OwnerId,
    /// As it was submitted, to the owner's name.
    pub(crate) priority: i32,
    pub(crate) tasks: u64,
    pub(crate) retries: u32,
    pub(crate) max_failures: Option<u64>,
    pub(crate) arg_bytes: u64,
    /// What a task may take, in nanoseconds, if its user has said.
    pub(crate) time_request: Option<u64>,

    pub(crate) phase: Phase,
    /// Whether nothing of it is to be leased for now.
    pub(crate) held: bool,
    /// Whether a task of it was ever handed out.
    pub(crate) started: bool,
    /// Whether its owner has it among the jobs that a lease can be made of.
    pub(crate) runnable: bool,
    pub(crate) reason: Option<String>,

    /// Every job that it needs, ascending.
    pub(crate) needs: Box<[JobId]>,
    /// Those that have to be done before the first task is leased, and are not known to be.
    pub(crate) after: BTreeSet<JobId>,
    pub(crate) input: Option<Box<Inputs>>,
    /// Tasks that need results which are not stored.
    pub(crate) blocked: RangeSet,
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
    /// Leases whose workers have gone, while something of them had not been answered.
    pub(crate) left: BTreeMap<LeaseId, Left>,
    /// Leases of earlier lives of the scheduler that a worker has come back with.
    pub(crate) resumed: BTreeSet<LeaseId>,
    pub(crate) succeeded: u64,
    pub(crate) failed: RangeSet,
    /// Tasks that were given up when the job was cancelled or failed.
    pub(crate) missing: RangeSet,

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

/// What is remembered of a lease whose worker has gone.
#[derive(Debug)]
pub(crate) struct Left {
    /// Tasks that it had not answered.
    pub(crate) remaining: RangeSet,
    /// So many of these, from the first on, were counted as crashed.
    pub(crate) blamed: u64,
    /// Whether all of them were counted as lost.
    pub(crate) is_lost: bool,
    pub(crate) sent: Time,
}

impl Left {
    /// The tasks that were counted as crashed, ascending.
    pub(crate) fn blamed(&self) -> impl Iterator<Item = Range<u64>> {
        let mut left = self.blamed;
        self.remaining.iter().map_while(move |range| {
            let count = left.min(range.end - range.start);
            left -= count;
            (count > 0).then_some(range.start..range.start + count)
        })
    }
}

/// Results of another job that a job's tasks need.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) job: JobId,
    /// At least 1.
    pub(crate) fan_in: u64,
    /// How many tasks that job has.
    pub(crate) tasks: u64,
    /// Those of them whose outcome is not known to be stored.
    pub(crate) awaited: RangeSet,
    /// Those that have failed: what they mean is seen to when this job begins.
    pub(crate) failed: Vec<Range<u64>>,
}

impl Inputs {
    /// The tasks that need any of these results.
    pub(crate) fn users(&self, results: &Range<u64>) -> Range<u64> {
        results.start / self.fan_in..results.end.div_ceil(self.fan_in)
    }

    /// The results that any of these tasks need.
    pub(crate) fn used_by(&self, tasks: &Range<u64>) -> Range<u64> {
        let bound = |task: u64| task.saturating_mul(self.fan_in).min(self.tasks);
        bound(tasks.start)..bound(tasks.end)
    }
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
            cluster: spec.cluster,
            owner,
            priority: spec.priority,
            tasks: spec.tasks,
            retries: spec.retries,
            max_failures: spec.max_failures,
            arg_bytes: spec.arg_bytes,
            time_request: spec.time_request,
            phase: Phase::Storing,
            held: false,
            started: false,
            runnable: false,
            reason: None,
            needs: needs_of(spec),
            after: spec.after.iter().copied().collect(),
            input: None,
            blocked: RangeSet::new(),
            waiting: RangeSet::from(0..spec.tasks),
            last_chance: RangeSet::new(),
            retrying: BTreeMap::new(),
            leases: BTreeMap::new(),
            leased: 0,
            left: BTreeMap::new(),
            resumed: BTreeSet::new(),
            succeeded: 0,
            failed: RangeSet::new(),
            missing: RangeSet::new(),
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
        self.blocked.len() + self.waiting.len() + self.last_chance.len() + retrying
    }

    /// Whether each task has an outcome.
    pub(crate) fn is_complete(&self) -> bool {
        self.succeeded + self.failed.len() == self.tasks
    }

    /// Whether there is nothing left to do or to wait for.
    pub(crate) fn is_over(&self) -> bool {
        self.is_complete() && self.after.is_empty()
    }

    /// Whether there is something to make a lease of.
    pub(crate) fn has_work(&self) -> bool {
        let may = self.phase == Phase::Live && !self.held && self.after.is_empty();
        may && !(self.waiting.is_empty() && self.last_chance.is_empty())
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            waiting: self.unleased(),
            leased: self.leased,
            succeeded: self.succeeded,
            failed: self.failed.len(),
            cancelled: self.missing.len(),
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
    pub(crate) cluster: ClusterId,
    /// In its cluster.
    pub(crate) owner: OwnerId,
    pub(crate) priority: i32,
    pub(crate) state: JobState,
    pub(crate) tasks: u64,
    /// Ascending.
    pub(crate) failed: Box<[Range<u64>]>,
    /// Ascending: tasks without an outcome.
    pub(crate) missing: Box<[Range<u64>]>,
    pub(crate) retried: u64,
    pub(crate) reason: Option<Box<str>>,
    pub(crate) task_ns: Option<u64>,
}

impl EndedJob {
    pub(crate) fn new(job: Job, state: JobState) -> Self {
        Self {
            cluster: job.cluster,
            owner: job.owner,
            priority: job.priority,
            state,
            tasks: job.tasks,
            failed: job.failed.iter().collect(),
            missing: job.missing.iter().collect(),
            retried: job.retried,
            reason: job.reason.map(String::into_boxed_str),
            task_ns: job.pace.task_ns,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let (failed, cancelled) = (numbers_in(&self.failed), numbers_in(&self.missing));
        Counts { waiting: 0, leased: 0, succeeded: self.tasks - failed - cancelled, failed, cancelled }
    }
}

/// How many numbers are in ranges that do not overlap.
pub(crate) fn numbers_in(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Whether a number is in one of ascending ranges.
pub(crate) fn is_in(ranges: &[Range<u64>], number: u64) -> bool {
    let index = ranges.partition_point(|range| range.end <= number);
    ranges.get(index).is_some_and(|range| range.contains(&number))
}

/// All that a job depends on, ascending.
fn needs_of(spec: &NewJob) -> Box<[JobId]> {
    let needs: BTreeSet<_> = spec.after.iter().copied().chain(spec.input.map(|input| input.job)).collect();
    needs.into_iter().collect()
}

/// Where a job stands among those of its owner: the first is served first.
pub(crate) fn rank(priority: i32, job: JobId) -> (std::cmp::Reverse<i32>, JobId) {
    (std::cmp::Reverse(priority), job)
}
