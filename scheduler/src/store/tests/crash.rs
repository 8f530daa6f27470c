//! What a loss of power leaves, and worse: files that end early, or are not what was written.
//!
//! A folder is looked at while its store is open: what its files hold then is what a killed scheduler leaves. Its files
//! are then shortened and damaged at many places, one at a time. Afterwards, everything that was acknowledged is there,
//! or something refuses: the store to open, a lookup, a reader, or the check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farm_proto::columns::Columns;
use farm_proto::ids::JobId;
use farm_proto::job::JobState;

use super::world::{SOUND, World, end, files, outcomes, read_all, row, times, write_files};
use crate::admin;
use crate::state_dir::StateDir;
use crate::store::{Durability, JobRow, Record, Store};

const LARGE: usize = 2 << 20;
const JOBS: u64 = 3;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The outcomes that were acknowledged: job, tasks, size of the values, failures.
type Acknowledged = Vec<(u64, std::ops::Range<u64>, usize, Vec<u32>)>;

/// A store after `commits` commits: what is on the disk, and what was acknowledged.
fn written(commits: u64) -> (Files, Acknowledged) {
    let mut world = World::new(Durability::Synced);
    let results: Vec<_> = (1..=JOBS).map(|job| world.accept(row(job, 10_000))).collect();
    let mut acknowledged = Acknowledged::new();
    for n in 0..commits {
        let job = n % JOBS;
        let tasks = 10 * n..10 * n + 10;
        let size = if n == 4 { LARGE / 10 } else { 30 + (n as usize % 7) * 100 };
        let failed = if n % 3 == 1 { vec![1, 2, 7] } else { vec![] };
        let outcomes = outcomes(tasks.clone(), size, &failed);
        world.commit(&[Record::Batch { results: Arc::clone(&results[job as usize]), outcomes, times: times() }]);
        acknowledged.push((job + 1, tasks, size, failed));
    }
    let mut ended = end(JobState::Cancelled);
    let mine = acknowledged.iter().filter(|(job, ..)| *job == JOBS);
    let mut next = 0;
    for (_, tasks, _, failed) in mine {
        ended.missing.push(next..tasks.start);
        ended.failed.extend(failed.iter().map(|offset| tasks.start + u64::from(*offset)).map(|task| task..task + 1));
        next = tasks.end;
    }
    ended.missing.push(next..10_000);
    world.commit(&[Record::Ended { job: JobId(JOBS), end: ended }]);
    assert_eq!(admin::check(world.path()).unwrap().faults, SOUND);
    (files(world.path()), acknowledged)
}

/// Whether all that was acknowledged is there. Otherwise, who refused it.
async fn look(folder: &Path, acknowledged: &Acknowledged) -> Result<(), String> {
    let state = StateDir::open(folder).unwrap();
    let (store, writer, recovered) = Store::open(&state, Durability::Ephemeral).map_err(|error| {
        let text = error.to_string();
        assert!(text.contains(&*folder.to_string_lossy()), "names the place: {text}");
        text
    })?;
    let rows: Vec<JobRow> = recovered.jobs.iter().map(|job| job.row.clone()).collect();
    assert!(rows == (1..=JOBS).map(|job| row(job, 10_000)).collect::<Vec<_>>(), "jobs are lost");
    for job in &recovered.jobs {
        let mine: Acknowledged = acknowledged.iter().filter(|batch| batch.0 == job.row.job.0).cloned().collect();
        assert_eq!(job.end.is_some(), job.row.job.0 == JOBS, "an end is lost");
        assert_eq!(job.results.subscribe().borrow().batches, mine.len() as u64, "batches are lost");
        if job.end.is_none() {
            // None of them side by side.
            let tasks: Vec<_> = job.batches.iter().map(|(tasks, _)| tasks.clone()).collect();
            assert_eq!(tasks, mine.iter().map(|batch| batch.1.clone()).collect::<Vec<_>>(), "outcomes are lost");
        }
        for (_, tasks, size, failed) in &mine {
            let found = store.results_of(job.row.job, tasks.clone(), usize::MAX).map_err(|error| error.to_string())?;
            let expected = Columns::decode(10, outcomes(tasks.clone(), *size, failed).columns).unwrap();
            for (offset, value) in found.iter().enumerate() {
                match value {
                    Some(value) => assert!(*value == *expected.get(offset), "a value is another"),
                    None => assert!(failed.contains(&(offset as u32)), "a value is lost"),
                }
            }
        }
    }
    // Read last: here, a panic is a refusal.
    let mut all = 0;
    for job in &recovered.jobs {
        let (store, results) = (Arc::clone(&store), Arc::clone(&job.results));
        let read = tokio::spawn(async move { read_all(&store, &results, 0).await });
        let read = read.await.map_err(|_| "a reader refused".to_owned())?;
        let mine = acknowledged.iter().filter(|batch| batch.0 == job.row.job.0);
        for (stored, (_, tasks, size, failed)) in read.iter().zip(mine) {
            let expected = outcomes(tasks.clone(), *size, failed);
            assert!(stored.batch == expected.batch && stored.columns == expected.columns, "a batch is another");
        }
        all += read.len();
    }
    assert_eq!(all, acknowledged.len());
    drop(writer);
    Ok(())
}

/// Damages one file in many ways. Each time, everything is there or refused. How often it was which.
async fn damage(files: &Files, acknowledged: &Acknowledged, name: &Path, step: usize) -> (usize, usize) {
    let (mut there, mut refused) = (0, 0);
    let length = files[name].len();
    // Within pages, on their borders, and in what is in front of them.
    let places = (0..length).step_by(step).chain([1, 17, 24, 32, 56, 99, 100].into_iter().filter(|at| *at < length));
    let mut damaged = files.clone();
    for at in places {
        for shorten in [false, true] {
            let mut bytes = files[name].clone();
            if shorten {
                bytes.truncate(at);
            } else {
                // One byte, or a stretch of them.
                let stretch = if at % 2 == 0 { 1 } else { 100.min(length - at) };
                bytes[at..at + stretch].iter_mut().for_each(|byte| *byte ^= 0x55);
            }
            damaged.insert(name.to_owned(), bytes);
            let folder = tempfile::tempdir().unwrap();
            write_files(&damaged, folder.path());
            let checked = admin::check(folder.path());
            match look(folder.path(), acknowledged).await {
                Ok(()) => there += 1,
                Err(_) => {
                    refused += 1;
                    // Whoever looks finds the same, without changing anything.
                    let fine = checked.as_ref().is_ok_and(|report| report.faults.is_empty());
                    assert!(!fine, "{} at {at}: refused, and the check found nothing", name.display());
                }
            }
        }
    }
    (there, refused)
}

#[tokio::test]
async fn what_a_killed_scheduler_leaves_is_all_there() {
    for commits in [0, 1, 5, 40] {
        let (files, acknowledged) = written(commits);
        let folder = tempfile::tempdir().unwrap();
        write_files(&files, folder.path());
        look(folder.path(), &acknowledged).await.unwrap();
        assert_eq!(admin::check(folder.path()).unwrap().faults, SOUND);
    }
}

#[tokio::test]
async fn a_damaged_log_is_noticed() {
    let (files, acknowledged) = written(20);
    let log = Path::new("farm.sqlite-wal");
    assert!(files[log].len() > 100_000, "everything is in the log still");
    let (there, refused) = damage(&files, &acknowledged, log, 6007).await;
    assert!(refused > there, "{refused} refused, {there} there");
}

#[tokio::test]
async fn a_transaction_that_never_ended_is_not_missed() {
    let mut world = World::new(Durability::Synced);
    let results = world.accept(row(1, 100));
    let before = files(world.path());
    let batch = world.batch(&results, 0..10, &[]);
    world.commit(&[batch]);
    let mut after = files(world.path());
    // The power failed while the log was written: the mark was not.
    after.insert("farm.mark".into(), before[Path::new("farm.mark")].clone());
    let log = Path::new("farm.sqlite-wal");
    let begun = before[log].len();
    let whole = after[log].clone();
    assert!(whole.len() > begun);
    for end in (begun..whole.len()).step_by(997) {
        after.insert(log.to_owned(), whole[..end].to_vec());
        let folder = tempfile::tempdir().unwrap();
        write_files(&after, folder.path());
        assert_eq!(admin::check(folder.path()).unwrap().faults, SOUND);
        let state = StateDir::open(folder.path()).unwrap();
        let (_, _, recovered) = Store::open(&state, Durability::Synced).unwrap();
        assert!(recovered.jobs.len() == 1 && recovered.jobs[0].batches.is_empty());
    }
}

#[tokio::test]
async fn a_damaged_database_is_noticed() {
    let mut world = World::new(Durability::Synced);
    let acknowledged = {
        let (files, acknowledged) = written(20);
        write_files(&files, world.path());
        // All of it goes from the log to the database.
        world.reopen();
        world.close();
        acknowledged
    };
    let files = files(world.path());
    assert!(files.get(Path::new("farm.sqlite-wal")).is_none_or(Vec::is_empty));
    let (there, refused) = damage(&files, &acknowledged, Path::new("farm.sqlite"), 1021).await;
    // What is in no use can be anything.
    assert!(refused > there, "{refused} refused, {there} there");
}

#[tokio::test]
async fn a_damaged_blob_is_noticed() {
    let (files, acknowledged) = written(6);
    let blobs = files.keys().filter(|name| name.starts_with("blobs"));
    let large = blobs.max_by_key(|name| files[*name].len()).unwrap();
    assert!(files[large].len() > 1 << 20);
    let (there, refused) = damage(&files, &acknowledged, large, 300_007).await;
    assert!(there == 0 && refused > 10, "{refused} refused, {there} there");
    // One that is needed, and not there.
    let mut files = files.clone();
    files.remove(large);
    let folder = tempfile::tempdir().unwrap();
    write_files(&files, folder.path());
    let faults = admin::check(folder.path()).unwrap().faults;
    assert!(faults.iter().any(|fault| fault.contains("not there")), "{faults:?}");
    assert!(look(folder.path(), &acknowledged).await.unwrap_err().contains("not there"));
}
