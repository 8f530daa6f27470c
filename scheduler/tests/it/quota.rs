//! What users may keep, and whose blobs are whose.

use std::collections::BTreeMap;

use bytes::Bytes;
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{Input, JobSpec};
use farm_proto::message::{Request, RequestError, Response};
use farm_scheduler::Options;
use farm_scheduler::config::{Limits, Size};

use crate::support::client::{MODULE, key, submit};
use crate::support::{Client, Farm, limited, range_job};

fn limited_to(bytes: u64) -> impl Fn(&mut Options) {
    move |options| options.config.limits.stored_bytes = Some(Size(bytes))
}

/// A job with an input of so many bytes.
fn with_input(fill: u8, length: usize) -> (JobSpec, Vec<u8>) {
    let bytes = vec![fill; length];
    let input = Input { path: "x".to_owned(), digest: Digest::of(&bytes), size: length as u64 };
    (JobSpec { inputs: vec![input], ..range_job(0, 2) }, bytes)
}

async fn put(client: &Client, fill: u8, length: usize) -> JobSpec {
    let (spec, bytes) = with_input(fill, length);
    assert_eq!(client.put(Digest::of(&bytes), &bytes).await, Response::Stored);
    spec
}

async fn refused(client: &Client, spec: JobSpec) -> (u64, u64, u64) {
    match client.refused(submit(spec, false)).await {
        RequestError::OverLimit { used, more, limit, .. } => (used, more, limit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_that_would_be_too_much_is_refused_until_another_is_deleted() {
    limited(async {
        let farm = Farm::start_with(limited_to(5000)).await;
        let (alice, bob) = (farm.user("alice").await, farm.user("bob").await);
        alice.put_module().await;
        let module = MODULE.len() as u64;
        let first = alice.detach(put(&alice, 1, 3000).await).await;
        // The module is there already; and before anything is uploaded.
        let (spec, _) = with_input(2, 2500);
        assert_eq!(refused(&alice, spec).await, (module + 3000, 2500, 5000));
        // The same blob again costs nothing, nor does it cost anybody else.
        let again = alice.detach(with_input(1, 3000).0).await;
        bob.detach(put(&bob, 2, 2500).await).await;
        for job in [first, again] {
            alice.cancel(job).await;
            assert_eq!(alice.ask(Request::Delete { job }).await.unwrap(), Response::Deleted);
        }
        alice.detach(with_input(2, 2500).0).await;
        // Admins have no limits.
        let admin = farm.client().await;
        admin.detach(put(&admin, 3, 9000).await).await;
        farm.stop().await;
    });
}

#[test]
fn results_count_and_do_so_after_a_restart() {
    limited(async {
        let limit = limited_to(2000);
        let farm = Farm::start_with(&limit).await;
        let alice = farm.user("alice").await;
        alice.put_module().await;
        let _worker = farm.squares(1).await;
        alice.run(range_job(0, 1000), Bytes::new()).await.assert_squares(0, 1000);
        let before = refused(&alice, range_job(0, 1)).await;
        assert!(before.0 > 4000, "{before:?}");
        // One that is under way when the scheduler dies, and the other that is over.
        let farm = farm.restart_with(&limit).await;
        let alice = farm.user("alice").await;
        assert_eq!(refused(&alice, range_job(0, 1)).await, before);
        let retry = Request::Retry { key: key(), job: JobId(1), failed: false };
        assert_eq!(alice.refused(retry).await, RequestError::NothingToRetry(JobId(1)));
        assert_eq!(alice.ask(Request::Delete { job: JobId(1) }).await.unwrap(), Response::Deleted);
        alice.detach(range_job(0, 1)).await;
        farm.stop().await;
    });
}

#[test]
fn results_of_a_job_that_goes_on_count_after_a_crash() {
    limited(async {
        let limit = limited_to(2000);
        let farm = Farm::start_with(&limit).await;
        let alice = farm.user("alice").await;
        alice.put_module().await;
        let job = alice.detach(range_job(0, 1_000_000)).await;
        let worker = farm.squares(1).await;
        crate::support::until(async || alice.status(job).await.counts.succeeded > 10_000).await;
        worker.die();
        let farm = farm.restart_with(&limit).await;
        let alice = farm.user("alice").await;
        let (used, more, _) = refused(&alice, range_job(0, 1)).await;
        assert!(used > 50_000 && more == 0, "{used} {more}");
        farm.stop().await;
    });
}

#[test]
fn a_user_may_have_other_limits_than_the_rest() {
    limited(async {
        let own = Limits { stored_bytes: Some(Size(10_000)), ..Limits::default() };
        let farm = Farm::start_with(|options| {
            options.config.limits.stored_bytes = Some(Size(100));
            options.config.users = BTreeMap::from([("alice".to_owned(), own)]);
        })
        .await;
        let (alice, bob) = (farm.user("alice").await, farm.user("bob").await);
        alice.put_module().await;
        alice.detach(put(&alice, 1, 3000).await).await;
        assert_eq!(refused(&bob, with_input(1, 3000).0).await.2, 100);
        farm.stop().await;
    });
}

#[test]
fn users_do_not_get_the_blobs_of_others() {
    limited(async {
        let farm = Farm::start().await;
        let (alice, bob, admin) = (farm.user("alice").await, farm.user("bob").await, farm.client().await);
        alice.put_module().await;
        let (spec, bytes) = with_input(7, 3000);
        let digest = Digest::of(&bytes);
        alice.put(digest, &bytes).await;
        let job = alice.detach(spec).await;
        assert_eq!(alice.get(digest).await.unwrap(), bytes);
        assert_eq!(bob.get(digest).await, Err(RequestError::NoSuchBlob(digest)));
        assert_eq!(admin.get(digest).await.unwrap(), bytes);
        // Nor anything else of a job that is not theirs.
        for request in [
            Request::Why { job, task: None },
            Request::Why { job, task: Some(0) },
            Request::Delete { job },
            Request::Retry { key: key(), job, failed: false },
            Request::Watch { job, from: 0, follow: false },
            submit(JobSpec { after: vec![job], ..range_job(0, 1) }, false),
        ] {
            assert_eq!(bob.refused(request).await, RequestError::NoSuchJob(job));
        }
        alice.cancel(job).await;
        assert_eq!(alice.ask(Request::Delete { job }).await.unwrap(), Response::Deleted);
        assert_eq!(alice.get(digest).await, Err(RequestError::NoSuchBlob(digest)));
        farm.stop().await;
    });
}
