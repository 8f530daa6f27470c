//! Copies, and what is freed.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{ArgChunk, Args, Input};

use super::{backup, check, gc, gc_older_than};
use crate::SchedulerError;
use crate::blobs::{Blobs, path_in};
use crate::state_dir::IDENTITY;
use crate::store::tests::world::{SOUND, World, open_state, outcomes, put, read_all, row, times};
use crate::store::{Durability, Record, Store};

fn identity(world: &World) {
    IDENTITY.iter().for_each(|name| fs::write(world.path().join(name), name).unwrap());
}

#[tokio::test]
async fn a_copy_of_a_running_farm_is_a_farm() {
    let mut world = World::new(Durability::Synced);
    identity(&world);
    let results = world.accept(row(1, 100));
    let unpinned = b"nobody's";
    put(&world.blobs(), unpinned);
    for n in 0..10 {
        let size = if n == 3 { 2 << 20 } else { 10 };
        let outcomes = outcomes(n..n + 1, size, &[]);
        world.commit(&[Record::Batch { results: Arc::clone(&results), outcomes, times: times() }]);
    }
    results.publish();
    let expected = read_all(&world.store, &results, 0).await;
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("copy");
    let report = backup(world.path(), &to).unwrap();
    assert_eq!(report.blobs, 2);
    // The farm goes on, and does not reach into the copy.
    let more = world.batch(&results, 50..60, &[]);
    world.commit(&[more]);
    assert_eq!(check(&to).unwrap().faults, SOUND);
    for name in IDENTITY {
        assert_eq!(fs::read(to.join(name)).unwrap(), name.as_bytes());
    }
    assert!(!path_in(&to.join("blobs"), &Digest::of(unpinned)).exists());
    let state = open_state(&to).unwrap();
    let (store, _writer, recovered) = Store::open(&state, Durability::Synced).unwrap();
    assert!(recovered.life > world.life);
    assert!(read_all(&store, &recovered.jobs[0].results, 0).await == expected);
    // Never over something else.
    let error = backup(world.path(), &to).unwrap_err();
    assert!(matches!(&error, SchedulerError::NotEmpty { path } if *path == to), "{error}");
}

#[test]
fn a_copy_without_a_needed_blob_is_none() {
    let mut world = World::new(Durability::Synced);
    world.accept(row(1, 100));
    let to = tempfile::tempdir().unwrap();
    let error = backup(world.path(), to.path()).unwrap_err();
    assert!(error.to_string().ends_with("ca.pem"), "a farm has an identity: {error}");
    identity(&world);
    let module = world.blobs().path(&row(1, 1).spec.module.digest);
    fs::remove_file(&module).unwrap();
    let to = tempfile::tempdir().unwrap();
    let error = backup(world.path(), to.path()).unwrap_err();
    assert!(matches!(&error, SchedulerError::Corrupt { path, .. } if *path == module), "{error}");
    assert!(check(to.path()).is_err(), "what there is of it is not taken for a farm");
}

#[test]
fn what_jobs_need_stays_and_what_is_new() {
    let mut world = World::new(Durability::Synced);
    let blobs = ["an input", "a chunk", "another", "nobody's"].map(|text| put(&world.blobs(), text.as_bytes()));
    let mut row = row(1, 5);
    let spec = Arc::make_mut(&mut row.spec);
    spec.inputs = vec![Input { path: "x".to_owned(), digest: blobs[0], size: 8 }];
    let chunk = |index: usize| ArgChunk { digest: blobs[index], count: 1, size: 7 };
    spec.args = Args::Chunks(vec![chunk(1), chunk(2)]);
    world.accept(row);
    assert!(matches!(gc(world.path()), Err(SchedulerError::InUse { .. })));
    world.close();
    assert_eq!(gc(world.path()).unwrap().removed, 0, "it may be about to be needed");
    let report = gc_older_than(world.path(), SystemTime::now()).unwrap();
    assert_eq!((report.removed, report.bytes), (1, 8));
    assert_eq!(check(world.path()).unwrap().faults, SOUND);
    assert_eq!(world.reopen().len(), 1);
    world.commit(&[Record::Deleted { job: JobId(1) }]);
    world.close();
    let report = gc_older_than(world.path(), SystemTime::now()).unwrap();
    assert_eq!(report.removed, 4);
    let report = check(world.path()).unwrap();
    assert_eq!((report.jobs, report.blobs, report.faults), (0, 0, SOUND.to_vec()));
}

#[tokio::test]
async fn a_blob_that_is_asked_about_counts_as_new() {
    let other = tempfile::tempdir().unwrap();
    let state = open_state(other.path()).unwrap();
    let blobs = Arc::new(Blobs::open(&state, 1 << 20, Durability::Synced).unwrap());
    let texts = ["asked about", "put again", "left alone"];
    let digests = texts.map(|text| Digest::of(text.as_bytes()));
    let put = async |index: usize| {
        let mut writer = blobs.put(digests[index], texts[index].len() as u64).unwrap();
        writer.write(Bytes::from_static(texts[index].as_bytes())).await.unwrap();
        writer.finish().await.unwrap();
    };
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    for (index, digest) in digests.iter().enumerate() {
        put(index).await;
        let file = fs::File::options().write(true).open(path_in(&other.path().join("blobs"), digest)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    assert_eq!(blobs.sizes(vec![digests[0]]).await, [Some(11)]);
    put(1).await;
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let pinned = std::collections::HashSet::new();
    assert_eq!(blobs.remove_unpinned(&pinned, hour_ago).unwrap(), (1, 10));
    let there: Vec<bool> = digests.iter().map(|digest| blobs.data(digest).unwrap().is_some()).collect();
    assert_eq!(there, [true, true, false], "not in memory either");
}
