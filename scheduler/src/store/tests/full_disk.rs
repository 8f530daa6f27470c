//! Disks that are full, or cannot be written at all.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use farm_proto::ids::JobId;
use farm_proto::job::JobState;

use super::world::{SOUND, World, end, open_state, outcomes, put, row, times};
use crate::admin;
use crate::state_dir::StateDir;
use crate::store::{Durability, Record, Store, StoreError};

/// A file system of its own, unmounted when dropped.
pub(crate) struct Disk(tempfile::TempDir);

impl Disk {
    /// None where this user may not mount.
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=0700");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        // Past the harness, which shows nothing of tests that succeed.
        let _ = writeln!(std::io::stderr(), "SKIPPED: tests of a full disk, because this user may not mount a tmpfs");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.path()).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_commits_and_lets_jobs_be_deleted() {
    let Some(disk) = Disk::mount("16m") else {
        return;
    };
    let state = StateDir::open(disk.path()).unwrap();
    let (store, mut writer, _) = Store::open(&state, Durability::Synced).unwrap();
    let blobs = crate::blobs::Folder::open(&state, Durability::Synced).unwrap();
    put(&blobs, super::world::MODULE);
    let results: Vec<_> = (1..=4).map(|job| store.begin(JobId(job))).collect();
    for job in 1..=4 {
        writer.commit(&[Record::Accepted(Box::new(row(job, 1 << 20)))]).unwrap();
    }
    assert!(store.has_room().unwrap());
    // Batches of all sizes, until not even the smallest fits.
    let mut stored = vec![0; 4];
    for size in [900 << 10, 300 << 10, 10 << 10, 500, 1] {
        for n in 0.. {
            let job = n % 4;
            let outcomes = outcomes(stored[job]..stored[job] + 1, size, &[]);
            let record = Record::Batch { results: Arc::clone(&results[job]), outcomes, times: times() };
            match writer.commit(&[record]) {
                Ok(()) => stored[job] += 1,
                Err(StoreError::Full { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(!store.has_room().unwrap());
    let count = |results: &[Arc<crate::store::JobResults>]| results.iter().map(|job| job.stored()).collect::<Vec<_>>();
    assert_eq!(count(&results), stored);
    assert_eq!(admin::check(disk.path()).unwrap().faults, SOUND);
    // A new life on a full disk: nothing is lost.
    drop((writer, store, state));
    let state = open_state(disk.path()).unwrap();
    let (store, mut writer, recovered) = Store::open(&state, Durability::Synced).unwrap();
    let results: Vec<_> = recovered.jobs.iter().map(|job| Arc::clone(&job.results)).collect();
    assert_eq!(count(&results), stored);
    // A deletion works, though nothing else does, and makes room for the rest.
    let large = outcomes(stored[1]..stored[1] + 1, 500 << 10, &[]);
    let mut ended = end(JobState::Cancelled);
    ended.missing.push(stored[0]..1 << 20);
    let records = [
        Record::Batch { results: Arc::clone(&results[1]), outcomes: large, times: times() },
        Record::Ended { job: JobId(1), end: ended },
    ];
    assert!(matches!(writer.commit(&records), Err(StoreError::Full { .. })));
    writer.delete(&[JobId(1)], true).unwrap();
    assert!(writer.is_tidy());
    writer.commit(&records).unwrap();
    while writer.tidy().unwrap() {}
    assert_eq!(admin::check(disk.path()).unwrap().faults, SOUND);
    drop((writer, store));
    let (_, _, recovered) = Store::open(&state, Durability::Synced).unwrap();
    let left: Vec<_> = recovered.jobs.iter().map(|job| (job.row.job.0, job.results.stored())).collect();
    assert_eq!(left, [(2, stored[1] + 1), (3, stored[2]), (4, stored[3])]);
}

#[test]
fn a_disk_that_cannot_be_written_is_named() {
    let Some(disk) = Disk::mount("16m") else {
        return;
    };
    let state = StateDir::open(disk.path()).unwrap();
    let (store, mut writer, _) = Store::open(&state, Durability::Synced).unwrap();
    writer.commit(&[Record::Accepted(Box::new(row(1, 10)))]).unwrap();
    drop((store, writer, state));
    disk.remount("ro");
    let error = open_state(disk.path()).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(error.to_string().contains(&*disk.path().to_string_lossy()), "{error}");
    assert!(source.contains("Read-only"), "{source}");
}

#[test]
fn what_does_not_fit_into_the_database_is_refused_whole() {
    let mut world = World::new(Durability::Ephemeral);
    let results = world.accept(row(1, 1 << 20));
    let pages: i64 = world.writer().connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    world.writer().connection.pragma_update(None, "max_page_count", pages + 20).unwrap();
    let batch = |n: u64, size| Record::Batch {
        results: Arc::clone(&results),
        outcomes: outcomes(n..n + 1, size, &[]),
        times: times(),
    };
    world.commit(&[batch(0, 100)]);
    let error = world.writer().commit(&[batch(1, 10), batch(2, 500 << 10)]).unwrap_err();
    assert!(matches!(&error, StoreError::Full { .. }), "{error}");
    assert_eq!(results.stored(), 1);
    world.writer().connection.pragma_update(None, "max_page_count", pages + 2000).unwrap();
    world.commit(&[batch(1, 10), batch(2, 500 << 10)]);
    let jobs = world.reopen();
    assert_eq!(jobs[0].batches, [(0..3, vec![])]);
}
