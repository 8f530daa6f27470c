//! The store against a plain model: whatever is put in, in whatever order, and however often it is opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use farm_proto::columns::Columns;
use farm_proto::ids::JobId;
use farm_proto::job::JobState;
use proptest::prelude::*;

use super::world::{SOUND, World, end, outcomes, read_all, row, times};
use crate::admin;
use crate::store::codec::push_joined;
use crate::store::{Durability, JobEnd, JobResults, JobRow, Outcomes, Record, StoredJob};

const TASKS: u64 = 60;

/// What is done. Numbers choose among what there is, modulo how much that is.
#[derive(Debug, Clone)]
enum Op {
    Accept,
    /// `length` of the job's free tasks from `first` on, as far as they are free.
    Batch {
        job: usize,
        first: u64,
        length: u64,
        size: usize,
        failed: u64,
    },
    End {
        job: usize,
    },
    Delete {
        job: usize,
    },
    /// Everything until here goes into one transaction.
    Commit,
    Tidy,
    Forget,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![8 => 0..200usize, 2 => 5_000..20_000usize, 1 => Just(150_000)];
    let batch = (0..8usize, 0..TASKS, 1..20u64, size, any::<u64>())
        .prop_map(|(job, first, length, size, failed)| Op::Batch { job, first, length, size, failed });
    prop_oneof![
        2 => Just(Op::Accept),
        12 => batch,
        1 => (0..8usize).prop_map(|job| Op::End { job }),
        1 => (0..8usize).prop_map(|job| Op::Delete { job }),
        4 => Just(Op::Commit),
        1 => Just(Op::Tidy),
        1 => Just(Op::Forget),
        1 => Just(Op::Reopen),
    ]
}

struct Job {
    row: JobRow,
    results: Arc<JobResults>,
    batches: Vec<Outcomes>,
    end: Option<JobEnd>,
}

/// What should be stored.
#[derive(Default)]
struct Model {
    jobs: BTreeMap<JobId, Job>,
    last: u64,
}

impl Job {
    fn tasks(&self) -> BTreeSet<u64> {
        self.batches.iter().flat_map(tasks).collect()
    }

    fn failed(&self) -> BTreeSet<u64> {
        let failed = |outcomes: &Outcomes| {
            let first = outcomes.batch.first;
            outcomes.batch.failures.iter().map(move |(offset, _)| first + u64::from(*offset)).collect::<Vec<_>>()
        };
        self.batches.iter().flat_map(failed).collect()
    }
}

fn tasks(outcomes: &Outcomes) -> Range<u64> {
    outcomes.batch.first..outcomes.batch.first + u64::from(outcomes.batch.count)
}

fn ranges(tasks: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    tasks.into_iter().for_each(|task| push_joined(&mut ranges, task..task + 1));
    ranges
}

impl Model {
    /// Does an operation, and says what is to be recorded of it.
    fn apply(&mut self, op: &Op, world: &World) -> Option<Record> {
        let live = |job: &usize, ended: bool| {
            let fit: Vec<JobId> =
                self.jobs.values().filter(|job| job.end.is_some() == ended).map(|job| job.row.job).collect();
            (!fit.is_empty()).then(|| fit[job % fit.len()])
        };
        match op {
            Op::Accept => {
                self.last += 1 + self.last % 2;
                let row = row(self.last, TASKS as i64);
                let job = Job { row: row.clone(), results: world.store.begin(row.job), batches: Vec::new(), end: None };
                self.jobs.insert(row.job, job);
                Some(Record::Accepted(Box::new(row)))
            }
            Op::Batch { job, first, length, size, failed } => {
                let job = self.jobs.get_mut(&live(job, false)?)?;
                let done = job.tasks();
                let first = (*first..TASKS).find(|task| !done.contains(task))?;
                let free = (first..TASKS).take_while(|task| !done.contains(task)).take(*length as usize).count();
                let failed: Vec<u32> = (0..free as u32).filter(|offset| failed >> (2 * offset) & 3 == 0).collect();
                let outcomes = outcomes(first..first + free as u64, *size, &failed);
                job.batches.push(outcomes.clone());
                Some(Record::Batch { results: Arc::clone(&job.results), outcomes, times: times() })
            }
            Op::End { job } => {
                let id = live(job, false)?;
                let job = self.jobs.get_mut(&id)?;
                let done = job.tasks();
                let mut ended = end(if done.len() as u64 == TASKS { JobState::Done } else { JobState::Failed });
                ended.missing = ranges((0..TASKS).filter(|task| !done.contains(task)));
                ended.failed = ranges(job.failed());
                job.end = Some(ended.clone());
                Some(Record::Ended { job: id, end: ended })
            }
            Op::Delete { job } => {
                let id = live(job, true)?;
                self.jobs.remove(&id);
                Some(Record::Deleted { job: id })
            }
            Op::Commit | Op::Tidy | Op::Forget | Op::Reopen => None,
        }
    }

    /// Compares with what was recovered, and takes it over.
    fn recovered(&mut self, recovered: Vec<StoredJob>) {
        assert_eq!(recovered.len(), self.jobs.len());
        for (found, job) in recovered.into_iter().zip(self.jobs.values_mut()) {
            assert_eq!(found.row, job.row);
            assert_eq!(found.end, job.end);
            let published = *found.results.subscribe().borrow();
            assert_eq!((published.batches, published.over), (job.batches.len() as u64, job.end.is_some()));
            if job.end.is_none() {
                let (tasks, failed) = (ranges(job.tasks()), job.failed());
                let failed_in = |tasks: &Range<u64>| ranges(failed.range(tasks.clone()).copied());
                let expected: Vec<_> = tasks.iter().map(|tasks| (tasks.clone(), failed_in(tasks))).collect();
                assert_eq!(found.batches, expected);
            }
            job.results = found.results;
        }
    }

    /// Compares everything that can be asked.
    async fn compare(&self, world: &World) {
        for (id, job) in &self.jobs {
            job.results.publish();
            for from in [0, job.batches.len() / 2, job.batches.len()] {
                let read = read_all(&world.store, &job.results, from as u64).await;
                assert_eq!(read.len(), job.batches.len() - from);
                for (stored, (number, expected)) in read.iter().zip(job.batches.iter().enumerate().skip(from)) {
                    assert_eq!(stored.number, number as u64);
                    assert!(stored.batch == expected.batch && stored.columns == expected.columns);
                }
            }
            let mut values: Vec<Option<Vec<u8>>> = vec![None; TASKS as usize];
            let failed = job.failed();
            for outcomes in &job.batches {
                let columns = Columns::decode(outcomes.batch.count.into(), outcomes.columns.clone()).unwrap();
                for (task, value) in tasks(outcomes).zip(columns.iter()) {
                    values[task as usize] = (!failed.contains(&task)).then(|| value.to_vec());
                }
            }
            let results = |tasks: Range<u64>, max| {
                let found = world.store.results_of(*id, tasks, max).unwrap();
                found.into_iter().map(|value| value.map(Vec::from)).collect::<Vec<_>>()
            };
            assert!(results(0..TASKS, usize::MAX) == values);
            assert!(results(7..33, usize::MAX) == values[7..33]);
            let some = results(3..TASKS, 10_000);
            assert!(!some.is_empty() && some == values[3..3 + some.len()]);
            let done = job.tasks();
            for task in (0..=TASKS).step_by(3) {
                let outcome = world.store.outcome_of(*id, task).unwrap();
                assert_eq!(outcome.map(|outcome| outcome.failed), done.get(&task).map(|task| failed.contains(task)));
            }
        }
        let report = admin::check(world.path()).unwrap();
        assert_eq!(report.faults, SOUND);
        let jobs = self.jobs.values();
        let batches: usize = jobs.clone().map(|job| job.batches.len()).sum();
        let tasks: usize = jobs.map(|job| job.tasks().len()).sum();
        assert_eq!((report.jobs, report.batches, report.tasks), (self.jobs.len() as u64, batches as u64, tasks as u64));
    }
}

fn run(ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut world = World::new(Durability::Ephemeral);
    let mut model = Model::default();
    let mut records = Vec::new();
    for op in ops {
        records.extend(model.apply(op, &world));
        match op {
            Op::Commit => world.commit(&std::mem::take(&mut records)),
            Op::Tidy => {
                world.writer().tidy().unwrap();
            }
            Op::Forget => *crate::sync::locked(&world.store.recent) = crate::store::Recent::new(0),
            Op::Reopen => {
                world.commit(&std::mem::take(&mut records));
                let recovered = world.reopen();
                model.recovered(recovered);
                runtime.block_on(model.compare(&world));
            }
            Op::Accept | Op::Batch { .. } | Op::End { .. } | Op::Delete { .. } => {}
        }
    }
    world.commit(&records);
    runtime.block_on(model.compare(&world));
    let recovered = world.reopen();
    model.recovered(recovered);
    runtime.block_on(model.compare(&world));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_keeps_what_a_model_keeps(ops in prop::collection::vec(op(), 1..120)) {
        run(&ops);
    }
}
