//! Blobs over the wire.

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use farm_proto::ids::Digest;
use farm_proto::message::{Request, RequestError, Response};

use crate::support::client::submit;
use crate::support::{Farm, limited, range_job};

fn bytes(length: usize) -> Vec<u8> {
    let mut state = length as u64 | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Files below a folder.
fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[test]
fn blobs_of_all_sizes_come_back() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        for length in [0, 1, 256 << 10, 1_000_000, 64 << 20] {
            let bytes = bytes(length);
            let digest = Digest::of(&bytes);
            assert_eq!(client.get(digest).await, Err(RequestError::NoSuchBlob(digest)));
            // The second time it is there already.
            for _ in 0..2 {
                assert_eq!(client.put(digest, &bytes).await, Response::Stored);
            }
            assert!(client.get(digest).await.unwrap() == bytes);
        }
        assert_eq!(files(&farm.folder.path().join("blobs")), 5);
        farm.stop().await;
    });
}

#[test]
fn the_same_blob_can_be_put_by_many_at_once() {
    limited(async {
        let farm = Farm::start().await;
        let bytes = bytes(3 << 20);
        let digest = Digest::of(&bytes);
        let (a, b, c) = (farm.client().await, farm.client().await, farm.client().await);
        let answers = tokio::join!(a.put(digest, &bytes), b.put(digest, &bytes), c.put(digest, &bytes));
        assert_eq!(answers, (Response::Stored, Response::Stored, Response::Stored));
        assert!(a.get(digest).await.unwrap() == bytes);
        assert_eq!(files(&farm.folder.path().join("blobs")), 1);
        farm.stop().await;
    });
}

#[test]
fn what_is_wrong_is_refused_and_leaves_nothing() {
    limited(async {
        let farm = Farm::start_with(|options| options.max_blob = 4 << 20).await;
        let client = farm.client().await;
        for length in [10, 3 << 20] {
            let wrong = client.put(Digest::of(b"something else"), &bytes(length)).await;
            assert_eq!(wrong, Response::Error(RequestError::WrongDigest));
        }
        let large = bytes(5 << 20);
        let refused = client.put(Digest::of(&large), &large).await;
        assert!(matches!(refused, Response::Error(RequestError::Invalid(_))), "{refused:?}");
        // More bytes than announced are no frame of anything, but the blob was whole before them.
        let whole = bytes(1000);
        let digest = Digest::of(&whole);
        let request = Request::PutBlob { digest, size: 999, ask: false };
        let (mut writer, mut reader) = client.open(request, Bytes::new()).await;
        writer.raw(whole.into()).await.unwrap();
        writer.finish();
        let refused = reader.expect::<Response>().await.unwrap().0;
        assert!(matches!(refused, Response::Error(_)), "{refused:?}");
        assert_eq!(files(&farm.folder.path().join("blobs")), 0);
        farm.stop().await;
    });
}

/// A file system of one megabyte. Needs to be root; elsewhere the test says so and passes.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(folder: &'a Path) -> Option<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: cannot mount a small file system");
        None
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_takes_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_small) = Small::mount(folder.path()) else { return };
    limited(async {
        let state = folder.path().join("state");
        let farm = Farm::start_with(|options| options.state = state.clone()).await;
        let client = farm.client().await;
        client.put_module().await;
        let large = bytes(5 << 20);
        let refused = client.put(Digest::of(&large), &large).await;
        let Response::Error(RequestError::Storage(reason)) = refused else { panic!("not refused: {refused:?}") };
        assert!(reason.contains("space") && !reason.contains(state.to_str().unwrap()), "{reason}");
        assert_eq!(files(&state.join("blobs")), 1);
        // Accepted while there is room, finished when there is room again.
        let watching = client.submit(range_job(0, 1000), Bytes::new()).await;
        let mut filled = fs::File::create(state.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filled, &[0; 4096]).is_ok() {}
        let request = submit(range_job(0, 1000), false);
        let refused = client.refused(request).await;
        assert!(matches!(refused, RequestError::Storage(_)), "{refused:?}");
        let _worker = farm.squares(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        // A batch or two may have fitted into what was left of a page.
        let stuck = client.watch(watching.job, 0, false).await;
        assert!(stuck.outcomes.len() < 1000 && !stuck.status().state.is_final(), "{:?}", stuck.status());
        drop(filled);
        fs::remove_file(state.join("filler")).unwrap();
        watching.finish().await.assert_squares(0, 1000);
        farm.stop().await;
    });
}
