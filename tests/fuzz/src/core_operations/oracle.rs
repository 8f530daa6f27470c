//! What the facts say of each job, worked out apart from the core.

use std::collections::BTreeMap;
use std::ops::Range;

use farm_core::{Core, Fact, JobView, RangeSet};
use farm_proto::ids::JobId;
use farm_proto::job::JobState;
use farm_proto::message::Batch;

#[derive(Debug, Default)]
pub(super) struct Oracle {
    jobs: BTreeMap<JobId, Told>,
}

/// What was told of a job.
#[derive(Debug)]
struct Told {
    tasks: u64,
    outcomes: RangeSet,
    failed: RangeSet,
    end: Option<JobState>,
}

impl Oracle {
    /// A fact is to be stored; `batch` is what has just been handed in.
    pub(super) fn fact(&mut self, fact: &Fact, batch: Option<&Batch>) {
        let id = fact.job();
        if let Fact::JobAccepted { spec, .. } = fact {
            let told = Told { tasks: spec.tasks, outcomes: RangeSet::new(), failed: RangeSet::new(), end: None };
            assert!(self.jobs.insert(id, told).is_none(), "job {id} was accepted twice");
            return;
        }
        let Some(job) = self.jobs.get_mut(&id) else { panic!("a fact of no job: {fact:?}") };
        assert_eq!(job.end, None, "a fact of a job that has ended: {fact:?}");
        match fact {
            Fact::JobAccepted { .. } => {}
            Fact::Outcomes { accepted, failed, .. } => {
                if let Some(batch) = batch {
                    check_batch(accepted, failed, batch);
                }
                accepted.iter().for_each(|range| job.outcome(id, range.clone()));
                failed.iter().for_each(|range| job.fail(id, range.clone()));
            }
            Fact::TaskFailed { task, .. } => {
                job.outcome(id, *task..*task + 1);
                job.fail(id, *task..*task + 1);
            }
            Fact::JobEnded { state, failed, missing, reason, .. } => {
                let told: Vec<_> = job.failed.iter().collect();
                assert_eq!(*failed, told, "failures of job {id}");
                let mut rest = RangeSet::from(0..job.tasks);
                job.outcomes.iter().for_each(|range| rest.remove(range));
                assert!(rest.iter().eq(missing.iter().cloned()), "job {id} lacks {rest:?}, not {missing:?}");
                assert_eq!(*state == JobState::Failed, reason.is_some(), "why job {id} is {state:?}: {reason:?}");
                assert!(state.is_final() && (*state != JobState::Done || missing.is_empty()), "{fact:?}");
                job.end = Some(*state);
            }
        }
    }

    /// Whether a job's end was told.
    pub(super) fn end(&self, id: JobId) -> Option<JobState> {
        self.jobs.get(&id).and_then(|job| job.end)
    }

    /// Compares what the core shows of a job with what it told.
    pub(super) fn check(&self, view: &JobView) {
        let id = view.job;
        let Some(job) = self.jobs.get(&id) else { panic!("job {id} was never told of") };
        let counts = view.counts;
        assert_eq!(counts.total(), job.tasks, "tasks of job {id}: {counts:?}");
        assert_eq!(counts.failed, job.failed.len(), "failed tasks of job {id}");
        assert_eq!(counts.succeeded + counts.failed, job.outcomes.len(), "tasks of job {id} with an outcome");
        assert!(
            !view.state.is_final() || job.end == Some(view.state),
            "job {id} is {:?}, not {:?}",
            view.state,
            job.end
        );
        assert!(job.end.is_some() || counts.cancelled == 0, "tasks of job {id} were given up");
    }

    /// Compares the tasks without a value, which the shell makes retries of.
    pub(super) fn check_without_value(&self, core: &Core, id: JobId) {
        let Some(found) = core.without_value(id, false) else { return };
        let Some(job) = self.jobs.get(&id) else { panic!("job {id} was never told of") };
        let mut rest = RangeSet::from(0..job.tasks);
        job.outcomes.iter().for_each(|range| rest.remove(range));
        job.failed.iter().for_each(|range| rest.insert(range));
        assert!(rest.iter().eq(found.iter().cloned()), "without a value in job {id}: {found:?}, not {rest:?}");
    }
}

impl Told {
    fn outcome(&mut self, id: JobId, range: Range<u64>) {
        assert!(!range.is_empty() && range.end <= self.tasks, "outcomes {range:?} of job {id}");
        assert!(!self.outcomes.meets(&range), "second outcomes in {range:?} of job {id}");
        self.outcomes.insert(range);
    }

    fn fail(&mut self, id: JobId, range: Range<u64>) {
        assert!(self.outcomes.covers(&range) && !self.failed.meets(&range), "failures {range:?} of job {id}");
        self.failed.insert(range);
    }
}

/// What is accepted is in the batch, and what of it failed is what failed in the batch.
fn check_batch(accepted: &[Range<u64>], failed: &[Range<u64>], batch: &Batch) {
    let whole = batch.first..batch.first + u64::from(batch.count);
    assert!(!accepted.is_empty(), "nothing was accepted, and told");
    for range in accepted {
        assert!(whole.start <= range.start && range.end <= whole.end, "{range:?} is not in the batch");
    }
    let accepted: RangeSet = accepted.iter().cloned().collect();
    let failures = batch.failures.iter().map(|(offset, _)| batch.first + u64::from(*offset));
    let expected: RangeSet = failures.filter(|task| accepted.contains(*task)).map(|task| task..task + 1).collect();
    assert_eq!(failed.iter().cloned().collect::<RangeSet>(), expected, "failures among {accepted:?}");
}
