//! Facts that are stuck, and deletions that make room for them.

use std::path::Path;

use farm_proto::job::JobState;

use super::*;
use crate::state_dir::StateDir;
use crate::store::Store;
use crate::store::tests::full_disk::Disk;
use crate::store::tests::world::{MODULE, SOUND, end, open_state, outcomes, put, row, times};
use crate::{admin, blobs};

/// How much a job's results are, in bytes. With those of two, the disk is full.
const RESULTS: u64 = 12 << 20;

struct Stuck {
    commits: Commits,
    store: Arc<Store>,
    state: StateDir,
    last: FactSeq,
}

impl Stuck {
    /// Job 1 and 2 are stored, and job 1 has ended; `size` bytes a batch.
    async fn new(disk: &Path, size: u64) -> Self {
        let state = open_state(disk).unwrap();
        put(&blobs::Folder::open(&state, Durability::Synced).unwrap(), MODULE);
        let (store, writer, _) = Store::open(&state, Durability::Synced).unwrap();
        let commits = Commits::new(writer, Durability::Synced, state.guard());
        let mut stuck = Self { commits, store, state, last: FactSeq(0) };
        for job in [1, 2] {
            stuck.add([Record::Accepted(Box::new(row(job, 1 << 20)))]);
        }
        stuck.add_results(1, size);
        let mut ended = end(JobState::Cancelled);
        ended.missing.extend([0..1000, 1000 + RESULTS / size..1 << 20]);
        stuck.add([Record::Ended { job: JobId(1), end: ended }]);
        stuck.all_stored().await;
        stuck.add_results(2, size);
        while stuck.commits.trouble().is_none() {
            stuck.step().await;
        }
        assert!(stuck.commits.written() < stuck.commits.added());
        stuck
    }

    fn add<const N: usize>(&mut self, records: [Record; N]) {
        self.last.0 += 1;
        self.commits.add(self.last, records);
    }

    fn add_results(&mut self, job: u64, size: u64) {
        let results = self.store.begin(JobId(job));
        // No two jobs have the same results.
        let first = 1000 * job;
        for task in first..first + RESULTS / size {
            let outcomes = outcomes(task..task + 1, size as usize, &[]);
            self.add([Record::Batch { results: Arc::clone(&results), outcomes, times: times() }]);
        }
    }

    /// As the owner's loop does.
    async fn step(&mut self) {
        while self.commits.commit().is_some() {}
        let again = self.commits.retry_at();
        assert!(again.is_some() || !self.commits.is_idle(), "nothing is left to be stored");
        tokio::select! {
            _ = self.commits.finished() => {}
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
    }

    async fn all_stored(&mut self) {
        while self.commits.written() < self.commits.added() {
            self.step().await;
        }
    }

    async fn delete(&mut self, job: u64) -> Option<String> {
        self.commits.delete(JobId(job));
        loop {
            while self.commits.commit().is_some() {}
            self.commits.finished().await;
            if let Some((deleted, refused)) = self.commits.deleted().pop() {
                assert_eq!(deleted, JobId(job));
                return refused;
            }
        }
    }
}

async fn deleting_makes_room(size: u64) {
    let Some(disk) = Disk::mount("26m") else {
        return;
    };
    let mut stuck = Stuck::new(disk.path(), size).await;
    // Whatever is stored in the meantime, not all of it is.
    for _ in 0..2 {
        stuck.step().await;
    }
    assert!(stuck.commits.trouble().is_some() && stuck.commits.written() < stuck.commits.added());
    assert_eq!(stuck.delete(1).await, None);
    stuck.all_stored().await;
    assert_eq!(stuck.commits.trouble(), None);
    drop(stuck);
    assert_eq!(admin::check(disk.path()).unwrap().faults, SOUND);
    let state = open_state(disk.path()).unwrap();
    let (_, _, recovered) = Store::open(&state, Durability::Synced).unwrap();
    let found: Vec<_> =
        recovered.jobs.iter().map(|job| (job.row.job, job.results.subscribe().borrow().batches)).collect();
    assert_eq!(found, [(JobId(2), RESULTS / size)]);
}

#[tokio::test]
async fn deleting_makes_room_for_small_batches() {
    deleting_makes_room(50 << 10).await;
}

#[tokio::test]
async fn deleting_makes_room_for_batches_that_are_files() {
    deleting_makes_room(3 << 20).await;
}

#[tokio::test]
async fn a_deletion_that_cannot_be_stored_changes_nothing() {
    let Some(disk) = Disk::mount("26m") else {
        return;
    };
    let mut stuck = Stuck::new(disk.path(), 50 << 10).await;
    // Nobody else may write now.
    let other = rusqlite::Connection::open(disk.path().join("farm.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(stuck.delete(1).await.is_some_and(|refused| refused.contains("locked")));
    assert!(stuck.commits.trouble().is_some() && stuck.commits.written() < stuck.commits.added());
    drop(other);
    let Stuck { commits, store, state, .. } = stuck;
    drop((commits, store, state));
    let state = open_state(disk.path()).unwrap();
    let (store, writer, recovered) = Store::open(&state, Durability::Synced).unwrap();
    assert_eq!(recovered.jobs.len(), 2);
    assert_eq!(recovered.jobs[0].results.subscribe().borrow().batches, RESULTS / (50 << 10));
    drop((store, writer, state));
    assert_eq!(admin::check(disk.path()).unwrap().faults, SOUND);
}
