//! Jobs from their submission to their last result.

use std::time::Duration;

use bytes::Bytes;
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{Args, Input, JobState};
use farm_proto::message::{Request, RequestError, Response};
use farm_proto::outcome::FailureKind;
use tokio::sync::mpsc;

use crate::support::client::{MODULE, columns, submit};
use crate::support::worker::Seen;
use crate::support::{Farm, Outcome, Worker, WorkerKind, limited, range_job, until};

#[test]
fn a_range_is_squared() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let _worker = farm.squares(2).await;
        let watched = client.run(range_job(-500, 9_500), Bytes::new()).await;
        watched.assert_squares(-500, 9_500);
        let status = watched.status();
        assert_eq!(status.job, JobId(1));
        assert_eq!(status.state, JobState::Done);
        assert_eq!((status.counts.succeeded, status.counts.total()), (10_000, 10_000));
        assert!(status.ended_ms.unwrap() >= status.submitted_ms);
        farm.stop().await;
    });
}

#[test]
fn arguments_inline_and_in_chunks_give_the_same() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let _worker = farm.squares(2).await;
        // Padded with blanks to different lengths.
        let arguments: Vec<Vec<u8>> =
            (0..5000usize).map(|n| format!("{n:>width$}", width = n % 97).into_bytes()).collect();
        let mut spec = range_job(0, 0);
        spec.args = Args::Inline { count: 5000 };
        client.run(spec.clone(), columns(&arguments)).await.assert_squares(0, 5000);
        for per_chunk in [1777, 2, 5000] {
            let some = if per_chunk == 2 { 100 } else { 5000 };
            spec.args = client.put_chunks(&arguments[..some], per_chunk).await;
            client.run(spec.clone(), Bytes::new()).await.assert_squares(0, some as i64);
        }
        farm.stop().await;
    });
}

#[test]
fn an_empty_job_is_done_at_once() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let watched = client.run(range_job(0, 0), Bytes::new()).await;
        assert_eq!(watched.batches, 0);
        assert_eq!(watched.status().state, JobState::Done);
        farm.stop().await;
    });
}

#[test]
fn results_can_be_had_again_whole_or_from_a_cursor() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let _worker = farm.squares(4).await;
        let first = client.run(range_job(0, 200_000), Bytes::new()).await;
        first.assert_squares(0, 200_000);
        let job = first.status().job;
        let other = farm.client().await;
        for follow in [true, false] {
            let again = other.watch(job, 0, follow).await;
            again.assert_squares(0, 200_000);
            assert_eq!(again.statuses.len(), 1);
            let rest = other.watch(job, first.batches / 2, follow).await;
            assert_eq!(rest.batches, first.batches - first.batches / 2);
            let none = other.watch(job, first.batches + 7, follow).await;
            assert_eq!(none.batches, 0);
        }
        farm.stop().await;
    });
}

#[test]
fn whoever_does_not_follow_gets_what_there_is() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let job = client.detach(range_job(0, 10)).await;
        let watched = client.watch(job, 0, false).await;
        assert_eq!((watched.batches, watched.status().state), (0, JobState::Waiting));
        assert_eq!(watched.status().counts.waiting, 10);
        // A follower is told that it waits, though nothing happens.
        let mut watching = client.submit(range_job(0, 10), Bytes::new()).await;
        let (status, _) = watching.next().await.unwrap();
        assert!(matches!(status, Response::Status(status) if status.state == JobState::Waiting));
        farm.stop().await;
    });
}

#[test]
fn a_cancelled_job_ends_for_everyone() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let (seen, mut saw) = mpsc::unbounded_channel();
        let _worker = Worker::start(&farm.worker, 2, WorkerKind::Silent(seen)).await;
        let watching = client.submit(range_job(0, 1000), Bytes::new()).await;
        let job = watching.job;
        until(|| async { client.status(job).await.state == JobState::Running }).await;
        let status = client.cancel(job).await;
        assert_eq!(status.state, JobState::Cancelled);
        assert_eq!((status.counts.cancelled, status.counts.total()), (1000, 1000));
        let watched = watching.finish().await;
        assert_eq!(watched.status().state, JobState::Cancelled);
        // Its worker is told to stop.
        loop {
            match saw.recv().await.unwrap() {
                Seen::Control(farm_proto::message::SchedulerControl::CancelJob { job: stopped }) => {
                    break assert_eq!(stopped, job);
                }
                _ => continue,
            }
        }
        // Once more changes nothing.
        assert_eq!(client.cancel(job).await.ended_ms, status.ended_ms);
        assert_eq!(client.refused(Request::Cancel { job: JobId(99) }).await, RequestError::NoSuchJob(JobId(99)));
        farm.stop().await;
    });
}

#[test]
fn failed_tasks_are_retried_as_often_as_asked() {
    limited(async {
        let farm = Farm::start_with(|options| options.core.retry_delay = Duration::from_millis(5)).await;
        let client = farm.client().await;
        client.put_module().await;
        let kind = WorkerKind::FailsEvery { remainder: 3, attempts: 2 };
        let _worker = Worker::start(&farm.worker, 2, kind).await;
        let mut spec = range_job(0, 200);
        spec.retries = 2;
        let watched = client.run(spec.clone(), Bytes::new()).await;
        watched.assert_squares(0, 200);
        assert_eq!(watched.status().retried, 40);
        // One retry is not enough; the job is done all the same.
        spec.retries = 1;
        let watched = client.run(spec, Bytes::new()).await;
        let status = watched.status();
        assert_eq!(status.state, JobState::Done);
        assert_eq!((status.counts.succeeded, status.counts.failed), (180, 20));
        for (task, outcome) in &watched.outcomes {
            match outcome {
                Outcome::Value(_) => assert_ne!(task % 10, 3),
                Outcome::Failed(failure) => {
                    assert_eq!(task % 10, 3);
                    assert_eq!((failure.kind, &failure.message), (FailureKind::Panic, &format!("task {task}")));
                }
            }
        }
        farm.stop().await;
    });
}

#[test]
fn too_many_failures_end_a_job() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let kind = WorkerKind::FailsEvery { remainder: 0, attempts: u32::MAX };
        let _worker = Worker::start(&farm.worker, 1, kind).await;
        let mut spec = range_job(0, 1_000_000);
        spec.max_failures = Some(5);
        let watched = client.run(spec, Bytes::new()).await;
        let status = watched.status();
        assert_eq!(status.state, JobState::Failed);
        assert!(status.reason.is_some() && status.counts.failed > 5 && status.counts.cancelled > 0, "{status:?}");
        assert_eq!(status.counts.succeeded + status.counts.failed, watched.outcomes.len() as u64);
        farm.stop().await;
    });
}

#[test]
fn a_module_that_cannot_be_run_fails_its_job_once() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let _worker = Worker::start(&farm.worker, 1, WorkerKind::RefusesJobs).await;
        let watched = client.run(range_job(0, 1_000_000), Bytes::new()).await;
        let status = watched.status();
        assert_eq!((status.state, watched.batches), (JobState::Failed, 0));
        assert!(status.reason.as_deref().unwrap().contains("no such thing"), "{status:?}");
        farm.stop().await;
    });
}

#[test]
fn the_more_urgent_job_goes_first() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let mut urgent = range_job(0, 5);
        let late = client.detach(urgent.clone()).await;
        urgent.priority = 10;
        let early = client.detach(urgent).await;
        let (seen, mut saw) = mpsc::unbounded_channel();
        let _worker = Worker::start(&farm.worker, 1, WorkerKind::Silent(seen)).await;
        loop {
            if let Seen::Lease(lease, _) = saw.recv().await.unwrap() {
                break assert_eq!((lease.job, late), (early, JobId(1)));
            }
        }
        farm.stop().await;
    });
}

#[test]
fn two_clients_run_jobs_at_once() {
    limited(async {
        let farm = Farm::start().await;
        let (alice, bob) = (farm.user("alice").await, farm.user("bob").await);
        alice.put_module().await;
        let _workers = (farm.squares(2).await, farm.squares(3).await);
        let (one, two) =
            tokio::join!(alice.run(range_job(0, 50_000), Bytes::new()), bob.run(range_job(7, 60_000), Bytes::new()));
        one.assert_squares(0, 50_000);
        two.assert_squares(7, 60_000);
        farm.stop().await;
    });
}

#[test]
fn a_million_tasks_are_counted_right_in_little_memory() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let before = client.farm().await.memory;
        let job = client.detach(range_job(0, 1_000_000)).await;
        let queued = client.farm().await;
        assert_eq!(queued.counts.waiting, 1_000_000);
        assert!(queued.memory - before < 64 * 1_000_000, "{before} then {}", queued.memory);
        let _worker = farm.squares(2).await;
        let (mut writer, mut reader) = client.open(Request::Watch { job, from: 0, follow: true }, Bytes::new()).await;
        writer.finish();
        let (mut tasks, mut end) = (0, None);
        while let Some((response, _)) = reader.next().await.unwrap() {
            match response {
                Response::Results { batch, .. } => tasks += u64::from(batch.count),
                Response::Status(status) => end = Some(status),
                other => panic!("{other:?}"),
            }
        }
        let counts = end.unwrap().counts;
        assert_eq!((tasks, counts.succeeded, counts.total()), (1_000_000, 1_000_000, 1_000_000));
        farm.stop().await;
    });
}

#[test]
fn statuses_are_few_and_the_last_is_final() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let watching = client.submit(range_job(0, 300_000), Bytes::new()).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let started = std::time::Instant::now();
        let _worker = farm.squares(2).await;
        let watched = watching.finish().await;
        let most = 2 + 4 * (started.elapsed().as_millis() + 600) / 1000;
        assert!(watched.statuses.len() as u128 <= most, "{}", watched.statuses.len());
        let (last, others) = watched.statuses.split_last().unwrap();
        assert!(last.state.is_final() && others.iter().all(|status| !status.state.is_final()));
        farm.stop().await;
    });
}

#[test]
fn what_is_missing_is_named_and_the_job_does_not_exist() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        let mut spec = range_job(0, 1);
        let input = |path: &str, bytes: &[u8]| Input {
            path: path.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        spec.inputs = vec![input("a", b"one"), input("b", b"two"), input("c", b"one")];
        client.put(Digest::of(b"two"), b"two").await;
        let request = submit(spec.clone(), true);
        let missing = vec![Digest::of(MODULE), Digest::of(b"one")];
        assert_eq!(client.ask(request.clone()).await.unwrap(), Response::Missing { digests: missing.clone() });
        let ask = Request::Missing { digests: vec![missing[1], Digest::of(b"two"), missing[1]] };
        assert_eq!(client.ask(ask).await.unwrap(), Response::Missing { digests: vec![missing[1]] });
        client.put(missing[1], b"one").await;
        client.put_module().await;
        assert_eq!(client.detach(spec).await, JobId(1));
        farm.stop().await;
    });
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let refused = async |spec: farm_proto::job::JobSpec, payload: Bytes| {
            let request = submit(spec, true);
            let (mut writer, mut reader) = client.open(request, payload).await;
            writer.finish();
            match reader.expect().await.unwrap().0 {
                Response::Error(RequestError::Invalid(reason)) => reason,
                other => panic!("not refused: {other:?}"),
            }
        };
        let none = Bytes::new;
        let spec = |change: fn(&mut farm_proto::job::JobSpec)| {
            let mut spec = range_job(0, 1);
            change(&mut spec);
            spec
        };
        let reason = refused(spec(|spec| spec.function.clear()), none()).await;
        assert!(reason.contains("function"), "{reason}");
        let reason = refused(spec(|spec| spec.module.size = 1), none()).await;
        assert!(reason.contains("bytes"), "{reason}");
        let reason = refused(spec(|spec| spec.args = Args::Inline { count: 3 }), Bytes::from_static(b"x")).await;
        assert!(reason.contains("inline"), "{reason}");
        let reason = refused(range_job(3, 1), none()).await;
        assert!(reason.contains("backwards"), "{reason}");
        let mut chunks = range_job(0, 1);
        chunks.args = client.put_chunks(&[b"1".to_vec(), b"2".to_vec()], 2).await;
        let Args::Chunks(parts) = &mut chunks.args else { unreachable!("made of chunks") };
        parts[0].count = 1;
        let reason = refused(chunks, none()).await;
        assert!(reason.contains("chunk"), "{reason}");
        // Nothing of that became a job.
        assert_eq!(client.ask(Request::Jobs).await.unwrap(), Response::Jobs(Vec::new()));
        farm.stop().await;
    });
}
