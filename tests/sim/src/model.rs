//! Where each task is, as plainly as it can be kept: one entry a task. Follows what the core is told and what it asks
//! for, and says no to whatever does not fit.

mod answers;
mod workers;

use std::collections::{BTreeMap, BTreeSet};

use farm_core::{Core, Fact, NewJob, Waiting};
use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::job::JobState;

use crate::disk::Disk;
use crate::truth::Ending;

/// How often a task may be running when its slot or worker dies: the core's default.
pub(crate) const CRASH_LIMIT: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Waiting,
    Leased(LeaseId),
    Done(Ending),
    GivenUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Storing,
    Live,
    /// Its end is on its way to the disk.
    Ending(JobState),
    Ended(JobState),
}

#[derive(Debug)]
pub(crate) struct ModelJob {
    pub(crate) spec: NewJob,
    pub(crate) phase: Phase,
    places: Vec<Place>,
    waiting: u64,
    leased: u64,
    succeeded: u64,
    failed: u64,
    given_up: u64,
    /// Runs that failed by the task's own doing and were taken for an attempt.
    failures: BTreeMap<u64, BTreeSet<u64>>,
    /// Runs that ended with the death of their slot.
    lost: BTreeMap<u64, BTreeSet<u64>>,
    /// Leases with whose worker the task may have been running when that was lost.
    blames: BTreeMap<u64, BTreeSet<LeaseId>>,
    /// Leases whose worker is gone, with what it had not answered.
    left: BTreeMap<LeaseId, BTreeSet<u64>>,
    /// Leases of earlier lives that were claimed in this one.
    resumed: BTreeSet<LeaseId>,
}

#[derive(Debug)]
pub(crate) struct ModelWorker {
    pub(crate) cluster: ClusterId,
    pub(crate) slots: u32,
    pub(crate) draining: bool,
    pub(crate) knows: BTreeSet<JobId>,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) worker: WorkerId,
    pub(crate) job: JobId,
    pub(crate) open: BTreeSet<u64>,
    /// Of a task that must not crash once more: each worker holds one at most.
    pub(crate) last_chance: bool,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) jobs: BTreeMap<JobId, ModelJob>,
    pub(crate) workers: BTreeMap<WorkerId, ModelWorker>,
    /// The first lease of this life.
    first_lease: LeaseId,
    /// With tasks that have not been answered.
    pub(crate) leases: BTreeMap<LeaseId, Held>,
    /// What a batch that was just handed in has to lead to: tasks with the outcomes that are to be stored.
    expected: Option<(JobId, Vec<(u64, Ending)>)>,
}

impl ModelJob {
    fn new(spec: NewJob, phase: Phase) -> Self {
        let tasks = spec.tasks;
        Self {
            spec,
            phase,
            places: vec![Place::Waiting; tasks as usize],
            waiting: tasks,
            leased: 0,
            succeeded: 0,
            failed: 0,
            given_up: 0,
            failures: BTreeMap::new(),
            lost: BTreeMap::new(),
            blames: BTreeMap::new(),
            left: BTreeMap::new(),
            resumed: BTreeSet::new(),
        }
    }

    pub(crate) fn place(&self, task: u64) -> Place {
        self.places[task as usize]
    }

    fn count(&mut self, place: Place) -> &mut u64 {
        match place {
            Place::Waiting => &mut self.waiting,
            Place::Leased(_) => &mut self.leased,
            Place::Done(None) => &mut self.succeeded,
            Place::Done(Some(_)) => &mut self.failed,
            Place::GivenUp => &mut self.given_up,
        }
    }

    fn put(&mut self, task: u64, place: Place) {
        let before = std::mem::replace(&mut self.places[task as usize], place);
        *self.count(before) -= 1;
        *self.count(place) += 1;
        if matches!(place, Place::Done(_) | Place::GivenUp) {
            self.failures.remove(&task);
        }
    }

    /// How often the task is known to have been running when its slot or worker died.
    pub(crate) fn crashes(&self, task: u64) -> usize {
        let count = |of: Option<usize>| of.unwrap_or(0);
        count(self.lost.get(&task).map(BTreeSet::len)) + count(self.blames.get(&task).map(BTreeSet::len))
    }

    /// How many tasks wait for anything but their worker.
    pub(crate) const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// How many tasks have no outcome.
    pub(crate) const fn open(&self) -> u64 {
        self.waiting + self.leased + self.given_up
    }

    /// Whether an attempt of the task failed by its own doing.
    pub(crate) fn has_failed(&self, task: u64) -> bool {
        self.failures.contains_key(&task)
    }

    fn tasks_in(&self, is: fn(Place) -> bool) -> Vec<u64> {
        let tasks = self.places.iter().enumerate().filter(|&(_, &place)| is(place));
        tasks.map(|(task, _)| task as u64).collect()
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ending(_) | Phase::Ended(_))
    }

    /// The tasks of its input that the task needs.
    pub(crate) fn needs(&self, task: u64, input_tasks: u64) -> std::ops::Range<u64> {
        let Some(input) = self.spec.input else { return 0..0 };
        let fan_in = u64::from(input.fan_in);
        task * fan_in..((task + 1) * fan_in).min(input_tasks)
    }
}

impl Model {
    /// What a new life begins with.
    pub(crate) fn from_disk(disk: &Disk, first_lease: LeaseId) -> Self {
        let mut model = Self {
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            leases: BTreeMap::new(),
            first_lease,
            expected: None,
        };
        for (&id, stored) in &disk.jobs {
            let mut job = ModelJob::new(stored.spec.clone(), Phase::Live);
            stored.outcomes.iter().for_each(|(&task, &ending)| job.put(task, Place::Done(ending)));
            if let Some(state) = stored.ended {
                job.phase = Phase::Ended(state);
                job.give_up();
            }
            model.jobs.insert(id, job);
        }
        model
    }

    pub(crate) fn submitted(&mut self, job: JobId, spec: NewJob) {
        let before = self.jobs.insert(job, ModelJob::new(spec, Phase::Storing));
        assert!(before.is_none(), "job {job} was there before");
    }

    /// The core asks for a fact to be stored. Says which rows it is about.
    pub(crate) fn fact(&mut self, fact: &Fact) -> Vec<(u64, Ending)> {
        let id = fact.job();
        match fact {
            Fact::JobAccepted { spec, .. } => {
                let job = &self.jobs[&id];
                assert_eq!((&job.spec, job.phase), (spec, Phase::Storing), "job {id} as it was submitted");
                Vec::new()
            }
            Fact::Outcomes { accepted, failed, .. } => self.outcomes(id, accepted, failed),
            Fact::TaskFailed { task, failure, .. } => self.task_failed(id, *task, failure.kind),
            Fact::JobEnded { state, failed, missing, .. } => {
                let job = self.jobs.get_mut(&id).expect("a job");
                assert!(!job.is_over(), "job {id} ends twice");
                let really = job.tasks_in(|place| matches!(place, Place::Done(Some(_))));
                assert_eq!(flat(failed), really, "failures of job {id} at its end");
                let really = job.tasks_in(|place| !matches!(place, Place::Done(_)));
                assert_eq!(flat(missing), really, "missing tasks of job {id} at its end");
                // A job may also fail that has nothing left, or never had: for those that it comes after.
                assert!(*state != JobState::Done || missing.is_empty(), "job {id} is done and is not");
                job.phase = Phase::Ending(*state);
                job.give_up();
                self.leases.retain(|_, held| held.job != id);
                Vec::new()
            }
        }
    }

    /// The acceptance of a job was told.
    pub(crate) fn accepted(&mut self, id: JobId) {
        let job = self.jobs.get_mut(&id).expect("a job");
        if job.phase == Phase::Storing {
            job.phase = Phase::Live;
        }
    }

    /// The end of a job was told.
    pub(crate) fn ended(&mut self, id: JobId, state: JobState) {
        let job = self.jobs.get_mut(&id).expect("a job");
        assert_eq!(job.phase, Phase::Ending(state), "job {id} ended");
        job.phase = Phase::Ended(state);
    }

    /// Nothing that was expected has failed to come, and the core sees it all in the same way.
    pub(crate) fn compare(&self, core: &Core) {
        assert_eq!(self.expected, None, "outcomes that were dropped");
        for (&id, job) in &self.jobs {
            // What has ended is compared once: it is to stay as it was.
            if matches!(job.phase, Phase::Ended(_)) {
                continue;
            }
            let view = core.job(id).unwrap_or_else(|| panic!("the core does not know job {id}"));
            let counts = view.counts;
            let found = (counts.waiting, counts.leased, counts.succeeded, counts.failed, counts.cancelled);
            let here = (job.waiting, job.leased, job.succeeded, job.failed, job.given_up);
            assert_eq!(
                found, here,
                "waiting, leased, succeeded, failed and given up tasks of job {id}, {:?}",
                job.phase
            );
            assert!(!view.state.is_final(), "job {id} is over before that is stored");
        }
        let mut held: BTreeMap<WorkerId, (u64, u32)> = BTreeMap::new();
        for lease in self.leases.values() {
            let held = held.entry(lease.worker).or_default();
            held.0 += lease.open.len() as u64;
            held.1 += 1;
        }
        let mut workers = 0;
        for view in core.workers() {
            let worker = &self.workers[&view.worker];
            let expected = held.get(&view.worker).copied().unwrap_or_default();
            assert_eq!((view.leased, view.leases), expected, "tasks and leases of worker {}", view.worker);
            assert_eq!(view.draining, worker.draining, "whether worker {} drains", view.worker);
            workers += 1;
        }
        assert_eq!(workers, self.workers.len(), "workers");
    }

    /// Whether the task waits for another attempt: a moment that is the core's to choose.
    pub(crate) fn waits_for_retry(core: &Core, job: JobId, task: u64) -> bool {
        matches!(core.why(job, task), Some(Waiting::Retry { .. }))
    }
}

impl ModelJob {
    fn give_up(&mut self) {
        for task in 0..self.places.len() as u64 {
            if !matches!(self.place(task), Place::Done(_)) {
                self.put(task, Place::GivenUp);
            }
        }
    }
}

/// The numbers of ascending ranges.
pub(crate) fn flat(ranges: &[std::ops::Range<u64>]) -> Vec<u64> {
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "ranges ascend: {ranges:?}");
    assert!(ranges.iter().all(|range| range.start < range.end), "no range is empty: {ranges:?}");
    ranges.iter().cloned().flatten().collect()
}
