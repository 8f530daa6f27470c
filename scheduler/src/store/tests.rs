//! Tests of the store as a whole.

mod crash;
mod forget;
pub(crate) mod full_disk;
mod model;
mod refused;
pub(crate) mod world;

use std::sync::Arc;

use farm_proto::columns::Columns;
use farm_proto::ids::JobId;
use farm_proto::job::{Args, JobState};

use self::world::{SOUND, World, end, outcomes, read_all, row, times};
use super::{Durability, Record, Times};
use crate::admin;
use crate::sync::locked;

#[tokio::test]
async fn batches_are_read_from_memory_and_from_the_database_alike() {
    let mut world = World::new(Durability::Ephemeral);
    let jobs = [1, 2].map(|job| world.accept(row(job, 300)));
    // Small ones, one that is a blob, one over what is read at once, one over what is remembered.
    let length = |n: u64| match n {
        7 | 130 => 100 << 10,
        80 => 900 << 10,
        81 => 3 << 20,
        82 => 9 << 20,
        n => n as usize,
    };
    let mut records = Vec::new();
    for n in 0..300 {
        let batch = |results| Record::Batch {
            results: Arc::clone(results),
            outcomes: outcomes(n..n + 1, length(n), &[]),
            times: times(),
        };
        records.extend(jobs.iter().map(batch));
    }
    for commit in records.chunks(37) {
        world.commit(commit);
    }
    assert!(read_all(&world.store, &jobs[0], 0).await.is_empty(), "nothing is published yet");
    jobs.iter().for_each(|job| job.publish());
    for forgetful in [false, true] {
        if forgetful {
            *locked(&world.store.recent) = super::Recent::new(0);
        }
        for (job, from) in jobs.iter().flat_map(|job| [0, 1, 63, 64, 80, 82, 200, 299].map(|from| (job, from))) {
            let read = read_all(&world.store, job, from).await;
            assert_eq!(read.len() as u64, 300 - from);
            for (stored, n) in read.iter().zip(from..) {
                let expected = outcomes(n..n + 1, length(n), &[]);
                assert_eq!(stored.number, n);
                assert_eq!(stored.batch, expected.batch);
                assert!(stored.columns == expected.columns);
            }
        }
        assert!(read_all(&world.store, &jobs[1], 300).await.is_empty());
        assert!(read_all(&world.store, &jobs[1], u64::MAX).await.is_empty());
    }
}

#[test]
fn lives_are_counted_and_jobs_keep_their_numbers() {
    let mut world = World::new(Durability::Synced);
    assert_eq!(world.last_job, JobId(0));
    let first = world.life;
    world.accept(row(1, 1));
    world.accept(row(7, 1));
    world.commit(&[Record::Ended { job: JobId(7), end: end(JobState::Cancelled) }, Record::Deleted { job: JobId(7) }]);
    while world.writer().tidy().unwrap() {}
    let jobs = world.reopen();
    assert_eq!(world.last_job, JobId(7));
    assert!(world.life > first);
    let second = world.life;
    assert_eq!(jobs.iter().map(|job| job.row.clone()).collect::<Vec<_>>(), [row(1, 1)]);
    world.reopen();
    assert_eq!(world.last_job, JobId(7));
    assert!(world.life > second);
}

#[test]
fn a_clock_that_was_set_back_changes_no_number_and_loses_nothing() {
    let mut world = World::new(Durability::Synced);
    let results = world.accept(row(7, 100));
    let batch = world.batch(&results, 0..10, &[]);
    world.commit(&[batch]);
    // A life that began a year ahead of this one.
    let ahead = world.life + 2_000_000;
    let farm = super::rows::Farm { life: ahead, last_job: JobId(9) };
    farm.write(&world.writer().connection).unwrap();
    for life in ahead + 1..ahead + 4 {
        let jobs = world.reopen();
        assert_eq!((world.life, world.last_job), (life, JobId(9)));
        assert_eq!(
            jobs.iter().map(|job| (job.row.clone(), job.results.stored())).collect::<Vec<_>>(),
            [(row(7, 100), 1)]
        );
        assert!(life < 1 << 28);
    }
    assert_eq!(admin::check(world.path()).unwrap().faults, SOUND);
}

#[test]
fn what_belongs_to_no_job_is_refused_and_to_a_deleted_one_passed_over() {
    let mut world = World::new(Durability::Ephemeral);
    let stranger = world.store.begin(JobId(5));
    let batch = world.batch(&stranger, 0..1, &[]);
    assert!(matches!(world.writer().commit(&[batch]), Err(super::StoreError::NoSuchJob(JobId(5)))));
    let ended = Record::Ended { job: JobId(5), end: end(JobState::Done) };
    assert!(matches!(world.writer().commit(&[ended]), Err(super::StoreError::NoSuchJob(JobId(5)))));
    let results = world.accept(row(6, 10));
    let batch = world.batch(&results, 0..10, &[]);
    let ended = Record::Ended { job: JobId(6), end: end(JobState::Done) };
    let deleted = Record::Deleted { job: JobId(6) };
    world.commit(&[deleted.clone(), batch, ended, deleted]);
    assert_eq!(results.stored(), 0);
    assert!(world.reopen().is_empty());
    // Nothing of a commit is stored if one of its records cannot be.
    let accepted = Record::Accepted(Box::new(row(8, 1)));
    assert!(world.writer().commit(&[accepted.clone(), accepted.clone()]).is_err());
    world.commit(&[accepted]);
    assert_eq!(world.reopen().len(), 1);
}

#[test]
fn accounts_sum_to_the_whole() {
    let mut world = World::new(Durability::Synced);
    let results = world.accept(row(1, 100));
    let mut outcomes = outcomes(0..10, 1, &[3]);
    (outcomes.batch.run_ns, outcomes.batch.fetch_ns, outcomes.batch.compile_ns) = (1000, 30, 50);
    let arrived_ns = 5_000_000_000;
    let times = Times { leased_ns: 400, arrived_ns, submitted_ms: 2000 };
    let strange = Times { leased_ns: 70, arrived_ns: 1, submitted_ms: 3000 };
    let mut late = outcomes.clone();
    late.batch.first = 10;
    world.commit(&[
        Record::Batch { results: Arc::clone(&results), outcomes, times },
        Record::Batch { results: Arc::clone(&results), outcomes: late, times: strange },
    ]);
    let check = |world: &World| {
        let outcome = world.store.outcome_of(JobId(1), 3).unwrap().unwrap();
        assert!(outcome.failed);
        let account = outcome.account.unwrap();
        assert_eq!((account.fetching_ns, account.compiling_ns, account.running_ns), (30, 50, 100));
        assert_eq!((account.queued_ns, account.leased_ns), (3_000_000_000 - 400, 400 - 180));
        let stored_ns = 2_000_000_000 + account.whole_ns();
        assert_eq!(stored_ns, arrived_ns + account.storing_ns);
        // A lease that was shorter than what is said to have been done in it, before the job was submitted.
        let outcome = world.store.outcome_of(JobId(1), 12).unwrap().unwrap();
        let account = outcome.account.unwrap();
        assert!(!outcome.failed);
        assert_eq!((account.queued_ns, account.fetching_ns, account.compiling_ns), (0, 30, 40));
        assert_eq!((account.running_ns, account.leased_ns), (0, 0));
        stored_ns
    };
    let first = check(&world);
    assert_eq!(world.store.outcome_of(JobId(1), 20).unwrap(), None);
    assert_eq!(world.store.outcome_of(JobId(2), 3).unwrap(), None);
    // It is known afterwards, too, and when other commits have come.
    world.reopen();
    assert_eq!(check(&world), first);
    world.accept(row(2, 1));
    assert_eq!(check(&world), first);
}

#[test]
fn values_of_tasks_are_found_wherever_their_batches_are() {
    let mut world = World::new(Durability::Ephemeral);
    let results = world.accept(row(1, 100));
    // Backwards, with a gap, and a large one.
    for (tasks, size, failed) in [(60..70, 5, &[1, 2][..]), (20..40, 100 << 10, &[]), (10..20, 3, &[0, 9])] {
        let outcomes = outcomes(tasks, size, failed);
        world.commit(&[Record::Batch { results: Arc::clone(&results), outcomes, times: times() }]);
    }
    let expected = |task: u64| {
        let (tasks, size, failed) = match task {
            10..20 => (10..20, 3, &[0, 9][..]),
            20..40 => (20..40, 100 << 10, &[][..]),
            60..70 => (60..70, 5, &[1, 2][..]),
            _ => return None,
        };
        let offset = (task - tasks.start) as usize;
        let columns = Columns::decode(tasks.end - tasks.start, outcomes(tasks, size, failed).columns).unwrap();
        (!failed.contains(&(offset as u32))).then(|| columns.get(offset).to_vec())
    };
    for tasks in [0..100, 0..5, 12..13, 15..62, 45..50, 39..61, 70..100] {
        let found = world.store.results_of(JobId(1), tasks.clone(), usize::MAX).unwrap();
        let found: Vec<_> = found.into_iter().map(|value| value.map(Vec::from)).collect();
        assert!(found == tasks.clone().map(expected).collect::<Vec<_>>(), "{tasks:?}");
    }
    let found = world.store.results_of(JobId(1), 10..100, 150 << 10).unwrap();
    assert_eq!(found.len(), 11, "ten small ones and one large one");
    let found = world.store.results_of(JobId(1), 25..100, 1).unwrap();
    assert_eq!(found.len(), 1);
}

#[test]
fn tasks_and_batches_beyond_sql_are_refused() {
    let mut world = World::new(Durability::Ephemeral);
    let mut huge = row(1, 1);
    Arc::make_mut(&mut huge.spec).args = Args::Range { start: i64::MIN, end: i64::MAX };
    let results = world.accept(huge);
    let last = i64::MAX as u64;
    let good = world.batch(&results, last - 1..last, &[]);
    world.commit(&[good]);
    let bad = world.batch(&results, last..last + 1, &[]);
    assert!(matches!(world.writer().commit(&[bad]), Err(super::StoreError::Beyond { .. })));
    let bad = Record::Accepted(Box::new(row(1 << 32, 1)));
    assert!(matches!(world.writer().commit(&[bad]), Err(super::StoreError::Beyond { .. })));
    assert_eq!(world.reopen()[0].batches, [(last - 1..last, vec![])]);
    assert_eq!(world.store.outcome_of(JobId(1), u64::MAX).unwrap(), None);
    assert_eq!(admin::check(world.path()).unwrap().faults, SOUND);
}
