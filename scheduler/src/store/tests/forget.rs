//! Deleted jobs, and what is left of them.

use std::sync::Arc;

use farm_proto::ids::{Digest, JobId};
use farm_proto::job::JobState;
use rusqlite::Connection;

use super::world::{SOUND, World, end, files, outcomes, read_all, row, times, write_files};
use crate::admin;
use crate::state_dir::StateDir;
use crate::store::{Durability, JobResults, Record, ResultsReader, Store};

const LARGE: usize = 2 << 20;

/// Job `job` with many small batches and a large one, ended and deleted.
fn delete(world: &mut World, job: u64, batches: u64) -> Arc<JobResults> {
    let results = world.accept(row(job, 1 << 20));
    let mut records: Vec<Record> = (0..batches).map(|n| world.batch(&results, n..n + 1, &[])).collect();
    let large = outcomes(batches..batches + 1, LARGE, &[]);
    records.push(Record::Batch { results: Arc::clone(&results), outcomes: large, times: times() });
    world.commit(&records);
    results.publish();
    let mut ended = end(JobState::Cancelled);
    ended.missing.push(batches + 1..1 << 20);
    world.commit(&[Record::Ended { job: JobId(job), end: ended }]);
    assert_eq!(admin::check(world.path()).unwrap().faults, SOUND);
    world.commit(&[Record::Deleted { job: JobId(job) }]);
    results
}

fn rows(world: &World) -> [i64; 4] {
    let connection = Connection::open(world.path().join("farm.sqlite")).unwrap();
    ["jobs", "ends", "batches", "pins"]
        .map(|table| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap())
}

#[tokio::test]
async fn nothing_is_left_of_a_deleted_job() {
    let mut world = World::new(Durability::Synced);
    let other = world.accept(row(1, 10));
    let batch = world.batch(&other, 0..3, &[1]);
    world.commit(&[batch]);
    other.publish();
    let results = delete(&mut world, 2, 3000);
    let large = Digest::of(&outcomes(3000..3001, LARGE, &[]).columns);
    assert!(!world.store.pinned().unwrap().contains(&large), "from the moment that it is deleted");
    assert!(world.blobs().read(&large).unwrap().is_none(), "a file goes at once");
    assert!(!world.writer().is_tidy());
    let mut steps = 0;
    while world.writer().tidy().unwrap() {
        steps += 1;
        assert_eq!(admin::check(world.path()).unwrap().faults, SOUND);
    }
    assert!(steps > 10 && world.writer().is_tidy());
    assert_eq!(rows(&world), [1, 0, 1, 1]);
    // Whoever was reading it is told, and others are not disturbed.
    *crate::sync::locked(&world.store.recent) = crate::store::Recent::new(0);
    let published = *results.subscribe().borrow();
    let error = ResultsReader::new(Arc::clone(&world.store), results, 0).next(published).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
    assert_eq!(read_all(&world.store, &other, 0).await.len(), 1);
    assert!(world.store.outcome_of(JobId(1), 2).unwrap().unwrap().account.is_some());
    world.close();
    let report = admin::gc_older_than(world.path(), std::time::SystemTime::now()).unwrap();
    assert_eq!((report.removed, report.bytes), (0, 0));
}

#[tokio::test]
async fn whoever_reads_large_results_while_they_are_deleted_is_told() {
    let mut world = World::new(Durability::Synced);
    let results = delete(&mut world, 2, 0);
    assert!(!world.writer().is_tidy(), "the row is there, and its columns are not");
    *crate::sync::locked(&world.store.recent) = crate::store::Recent::new(0);
    let published = *results.subscribe().borrow();
    let error = ResultsReader::new(Arc::clone(&world.store), results, 0).next(published).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
}

#[test]
fn files_of_large_results_stay_while_somebody_may_count_on_them() {
    let mut world = World::new(Durability::Synced);
    let batch = |results: &Arc<JobResults>, task: u64| Record::Batch {
        results: Arc::clone(results),
        outcomes: outcomes(task..task + 1, LARGE, &[]),
        times: times(),
    };
    let digests = [0, 1, 2].map(|task| Digest::of(&outcomes(task..task + 1, LARGE, &[]).columns));
    let (first, second) = (world.accept(row(1, 10)), world.accept(row(2, 10)));
    world.commit(&[batch(&first, 0), batch(&first, 1), batch(&first, 2), batch(&second, 1)]);
    // As a client does that is about to name it in a job.
    world.blobs().touch(&digests[2]).unwrap();
    world.writer().delete(&[JobId(1)], false).unwrap();
    let there = |world: &World| digests.map(|digest| world.blobs().read(&digest).unwrap().is_some());
    assert_eq!(there(&world), [false, true, true]);
    assert_eq!(admin::check(world.path()).unwrap().faults, SOUND);
    world.writer().delete(&[JobId(2)], true).unwrap();
    assert_eq!(there(&world), [false, false, true]);
    assert!(world.writer().is_tidy());
    assert!(world.reopen().is_empty());
    // What a scheduler had no time for, the next does.
    let third = world.accept(row(3, 10));
    world.commit(&[batch(&third, 0)]);
    let connection = Connection::open(world.path().join("farm.sqlite")).unwrap();
    crate::store::rows::delete_job(&connection, JobId(3)).unwrap();
    drop(connection);
    assert!(there(&world)[0]);
    world.reopen();
    assert_eq!(there(&world), [false, false, true]);
}

#[test]
fn columns_of_what_is_not_stored_do_not_stay() {
    let mut world = World::new(Durability::Synced);
    let results = world.accept(row(1, 10));
    let large = |task: u64| outcomes(task..task + 1, LARGE, &[]);
    let batch = |outcomes| Record::Batch { results: Arc::clone(&results), outcomes, times: times() };
    world.commit(&[batch(large(0))]);
    // Nothing of a commit is stored if one of its records cannot be.
    let stranger = Record::Ended { job: JobId(5), end: end(JobState::Done) };
    world.writer().commit(&[batch(large(0)), batch(large(1)), stranger]).unwrap_err();
    let there = [0, 1].map(|task| world.blobs().read(&Digest::of(&large(task).columns)).unwrap().is_some());
    assert_eq!(there, [true, false], "only what was there before");
}

#[test]
fn a_deletion_goes_on_after_a_crash() {
    let mut world = World::new(Durability::Synced);
    delete(&mut world, 2, 2000);
    for _ in 0..3 {
        world.writer().tidy().unwrap();
    }
    let there = files(world.path());
    let copy = tempfile::tempdir().unwrap();
    write_files(&there, copy.path());
    assert_eq!(admin::check(copy.path()).unwrap().faults, SOUND);
    let state = StateDir::open(copy.path()).unwrap();
    let (_, mut writer, recovered) = Store::open(&state, Durability::Synced).unwrap();
    assert!(recovered.jobs.is_empty() && !writer.is_tidy());
    assert_eq!(recovered.last_job, JobId(2));
    while writer.tidy().unwrap() {}
    drop(writer);
    let connection = Connection::open(copy.path().join("farm.sqlite")).unwrap();
    let count: i64 = connection.query_row("SELECT count(*) FROM batches", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 0);
    assert_eq!(admin::check(copy.path()).unwrap().faults, SOUND);
}

#[test]
fn the_file_gets_smaller_and_commits_do_not_pile_up() {
    let mut world = World::new(Durability::Ephemeral);
    for job in 1..=40 {
        let results = world.accept(row(job, 100));
        for n in 0..10 {
            let outcomes = outcomes(n..n + 1, 100 << 10, &[]);
            world.commit(&[Record::Batch { results: Arc::clone(&results), outcomes, times: times() }]);
        }
        let mut ended = end(JobState::Cancelled);
        ended.missing.push(10..100);
        world.commit(&[Record::Ended { job: JobId(job), end: ended }]);
    }
    let size = |world: &World| world.path().join("farm.sqlite").metadata().unwrap().len();
    world.reopen();
    let before = size(&world);
    let deletions: Vec<Record> = (1..40).map(|job| Record::Deleted { job: JobId(job) }).collect();
    world.commit(&deletions);
    while world.writer().tidy().unwrap() {}
    assert_eq!(world.reopen().len(), 1);
    assert!(size(&world) * 4 < before, "{} of {before}", size(&world));
    let connection = Connection::open(world.path().join("farm.sqlite")).unwrap();
    let commits: i64 = connection.query_row("SELECT count(*) FROM commits", [], |row| row.get(0)).unwrap();
    assert!((10..14).contains(&commits), "{commits}");
    assert_eq!(admin::check(world.path()).unwrap().faults, SOUND);
}
