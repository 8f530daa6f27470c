//! Schedulers that come back: what they know then, and what workers and clients may count on.

use std::collections::BTreeMap;

use bytes::Bytes;
use farm_link::dial;
use farm_proto::close;
use farm_proto::ids::{Digest, JobId, LeaseId};
use farm_proto::job::{Args, JobState, ResultArgs};
use farm_proto::message::{
    Claim, Lease, Request, RequestError, Response, Resume, SchedulerControl, SchedulerWork, WorkerHello, WorkerWork,
};
use farm_proto::outcome::FailureKind;

use crate::support::client::{Outcome, key, submit};
use crate::support::worker::{Streams, answer, hello};
use crate::support::{Client, Farm, Worker, WorkerKind, limited, range_job, stranger, until};

/// A worker by hand: its streams, and what it was leased first.
struct ByHand {
    hello: WorkerHello,
    link: dial::Link,
    streams: Streams,
    job: JobId,
    stamp: u64,
    lease: Lease,
}

impl ByHand {
    async fn start(farm: &Farm) -> Self {
        let hello = hello(4);
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let mut streams = Streams::resume(&link, hello.clone(), Resume::default()).await;
        let (mut job, mut stamp) = (JobId(0), 0);
        let lease = loop {
            match streams.work.1.expect().await.unwrap().0 {
                SchedulerWork::Lease(lease) => break lease,
                SchedulerWork::Job { job: introduced, stamp: its, .. } => (job, stamp) = (introduced, its),
                SchedulerWork::Secrets { .. } => panic!("no job has any"),
                SchedulerWork::Restored { .. } => panic!("no task has kept anything"),
            }
        };
        Self { hello, link, streams, job, stamp, lease }
    }

    /// What it says of itself when it comes back: that it holds its lease.
    fn resume(&self) -> Resume {
        let Lease { lease, job, first, count, .. } = self.lease;
        let tasks = vec![(first, first + u64::from(count))];
        Resume { jobs: vec![(self.job, self.stamp)], claims: vec![Claim { lease, job, tasks }] }
    }

    async fn come_back(&mut self, farm: &Farm) {
        self.link = dial::connect(&farm.worker, None).await.unwrap();
        self.streams = Streams::resume(&self.link, self.hello.clone(), self.resume()).await;
    }

    /// Squares its lease, with something added.
    async fn answer(&mut self, plus: i64) {
        let spec = range_job(plus, 1_000);
        let kind = WorkerKind::Squares;
        let (batch, columns) = answer(&spec, &self.lease, Bytes::new(), &kind);
        let results = WorkerWork::Results { lease: self.lease.lease, batch };
        self.streams.work.0.send(&results, columns).await.unwrap();
    }

    /// Waits until so many of its messages are stored.
    async fn stored(&mut self, wanted: u64) {
        loop {
            match self.streams.control.1.expect().await.unwrap().0 {
                SchedulerControl::Stored { messages } if messages >= wanted => {
                    assert_eq!(messages, wanted, "more is stored than was sent");
                    return;
                }
                _ => {}
            }
        }
    }
}

async fn closed(link: &dial::Link) -> u64 {
    match link.connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(closed) => closed.error_code.into_inner(),
        other => panic!("not closed by the scheduler: {other}"),
    }
}

#[test]
fn a_worker_goes_on_with_its_lease_after_a_restart() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let job = client.detach(range_job(0, 4)).await;
        let mut worker = ByHand::start(&farm).await;
        assert_eq!(worker.lease.count, 4);
        let farm = farm.crash().await;
        worker.come_back(&farm).await;
        let client = farm.client().await;
        until(async || client.status(job).await.counts.leased == 4).await;
        // Nothing waits, so that another worker gets nothing of it.
        let _other = farm.squares(4).await;
        worker.answer(0).await;
        worker.stored(1).await;
        let watched = client.watch(job, 0, true).await;
        watched.assert_squares(0, 4);
        assert_eq!(watched.status().retried, 0);
        farm.stop().await;
    });
}

#[test]
fn answers_that_were_not_acknowledged_are_taken_again() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let job = client.detach(range_job(0, 4)).await;
        let mut worker = ByHand::start(&farm).await;
        worker.answer(0).await;
        worker.stored(1).await;
        assert_eq!(client.status(job).await.state, JobState::Done);
        // It has not heard of that, as it were.
        let farm = farm.restart().await;
        worker.come_back(&farm).await;
        worker.answer(7).await;
        worker.stored(1).await;
        let client = farm.client().await;
        client.watch(job, 0, true).await.assert_squares(0, 4);
        farm.stop().await;
    });
}

#[test]
fn a_worker_that_comes_back_before_it_is_missed_is_not_blamed() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let job = client.detach(range_job(0, 4)).await;
        let mut worker = ByHand::start(&farm).await;
        for _ in 0..5 {
            let before = worker.link.clone();
            worker.come_back(&farm).await;
            assert_eq!(closed(&before).await, u64::from(close::SILENT));
        }
        worker.answer(0).await;
        worker.stored(1).await;
        let watched = client.watch(job, 0, true).await;
        watched.assert_squares(0, 4);
        assert_eq!(watched.status().retried, 0, "nothing was run twice");
        assert_eq!(client.farm().await.workers.len(), 1);
        farm.stop().await;
    });
}

#[test]
fn the_first_outcome_of_a_task_stands() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let job = client.detach(range_job(0, 4)).await;
        let mut silent = ByHand::start(&farm).await;
        // Gone for good, as far as the scheduler can see.
        silent.link.connection.close(77u32.into(), b"");
        let _squares = farm.squares(4).await;
        client.watch(job, 0, true).await.assert_squares(0, 4);
        // It was only asleep.
        silent.come_back(&farm).await;
        silent.answer(1).await;
        silent.stored(1).await;
        client.watch(job, 0, true).await.assert_squares(0, 4);
        farm.stop().await;
    });
}

#[test]
fn claims_that_cannot_be_are_refused() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        client.detach(range_job(0, 4)).await;
        let worker = ByHand::start(&farm).await;
        let changed = |change: fn(&mut Claim)| {
            let mut resume = worker.resume();
            change(&mut resume.claims[0]);
            resume
        };
        let impossible = [
            // Of the future.
            changed(|claim| claim.lease = LeaseId(u64::MAX)),
            // Beyond the job.
            changed(|claim| claim.tasks = vec![(0, 5)]),
            changed(|claim| claim.tasks = vec![(u64::MAX - 1, u64::MAX)]),
            // In no order.
            changed(|claim| claim.tasks = vec![(2, 4), (0, 1)]),
            changed(|claim| claim.tasks = vec![(3, 2)]),
        ];
        for (index, resume) in impossible.into_iter().enumerate() {
            let link = dial::connect(&farm.worker, None).await.unwrap();
            let _streams = Streams::resume(&link, hello(1), resume).await;
            assert_eq!(closed(&link).await, u64::from(close::PROTOCOL), "{index}");
        }
        // One that was given to somebody else, and a job that never was, give nothing and harm nobody.
        let mut others = worker.resume();
        others.jobs.push((JobId(99), 1));
        others.claims.push(Claim { lease: LeaseId(1), job: JobId(99), tasks: vec![(0, 1)] });
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let _streams = Streams::resume(&link, hello(1), others).await;
        let mut worker = worker;
        worker.answer(0).await;
        worker.stored(1).await;
        client.watch(JobId(1), 0, true).await.assert_squares(0, 4);
        farm.stop().await;
    });
}

#[test]
fn a_worker_drops_what_is_of_another_job_with_that_number() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let job = client.detach(range_job(0, 4)).await;
        let mut worker = ByHand::start(&farm).await;
        worker.link.connection.close(77u32.into(), b"");
        let (stamp, lease) = (worker.stamp, worker.lease.lease);
        worker.stamp ^= 1;
        worker.come_back(&farm).await;
        // It is told what the job is that has this number here, and gets a lease of that.
        let introduced = worker.streams.work.1.expect::<SchedulerWork>().await.unwrap().0;
        assert!(matches!(introduced, SchedulerWork::Job { stamp: its, .. } if its == stamp), "{introduced:?}");
        let leased = worker.streams.work.1.expect::<SchedulerWork>().await.unwrap().0;
        assert!(matches!(leased, SchedulerWork::Lease(ref new) if new.lease > lease), "{leased:?}");
        worker.link.connection.close(77u32.into(), b"");
        let _squares = farm.squares(4).await;
        client.watch(job, 0, true).await.assert_squares(0, 4);
        worker.come_back(&farm).await;
        let mut told = Vec::new();
        while told.len() < 2 {
            told.push(worker.streams.control.1.expect::<SchedulerControl>().await.unwrap().0);
        }
        assert_eq!(told, [SchedulerControl::CancelJob { job }, SchedulerControl::ForgetJob { job }]);
        farm.stop().await;
    });
}

#[test]
fn clients_go_on_from_their_cursor() {
    limited(async {
        let mut farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let worker = farm.squares(2).await;
        let job = client.detach(range_job(0, 50_000)).await;
        let mut outcomes: BTreeMap<u64, Outcome> = BTreeMap::new();
        let mut batches = 0;
        until(async || client.status(job).await.counts.succeeded > 1000).await;
        worker.die();
        for _ in 0..3 {
            farm = farm.crash().await;
            let client = farm.client().await;
            let _worker = farm.squares(2).await;
            let watched = client.watch(job, batches, false).await;
            batches += watched.batches;
            for (task, outcome) in watched.outcomes {
                assert_eq!(outcomes.insert(task, outcome), None, "task {task} came twice");
            }
            until(async || client.status(job).await.counts.succeeded as usize > outcomes.len().min(49_999)).await;
        }
        let client = farm.client().await;
        let _worker = farm.squares(2).await;
        let watched = client.watch(job, batches, true).await;
        for (task, outcome) in watched.outcomes {
            assert_eq!(outcomes.insert(task, outcome), None, "task {task} came twice");
        }
        assert_eq!(outcomes.len(), 50_000);
        assert!(outcomes.iter().all(|(&task, outcome)| outcome.number() == (task * task) as i64));
        farm.stop().await;
    });
}

#[test]
fn a_submission_that_is_repeated_is_the_same_job() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let request = submit(range_job(0, 10), false);
        let first = client.ask(request.clone()).await.unwrap();
        assert_eq!(client.ask(request.clone()).await.unwrap(), first);
        let farm = farm.crash().await;
        let client = farm.client().await;
        assert_eq!(client.ask(request.clone()).await.unwrap(), first);
        // It is another's key to another.
        let other = farm.user("other").await;
        assert_ne!(other.ask(request).await.unwrap(), first);
        farm.stop().await;
    });
}

#[test]
fn numbers_of_deleted_jobs_are_not_used_again() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let _worker = farm.squares(1).await;
        let job = client.detach(range_job(0, 10)).await;
        client.watch(job, 0, true).await.assert_squares(0, 10);
        assert_eq!(client.ask(Request::Delete { job }).await.unwrap(), Response::Deleted);
        assert_eq!(client.refused(Request::Job { job }).await, RequestError::NoSuchJob(job));
        assert_eq!(client.refused(Request::Delete { job }).await, RequestError::NoSuchJob(job));
        let farm = farm.restart().await;
        let client = farm.client().await;
        assert_eq!(client.refused(Request::Job { job }).await, RequestError::NoSuchJob(job));
        assert_eq!(client.detach(range_job(0, 10)).await, JobId(job.0 + 1));
        farm.stop().await;
    });
}

#[test]
fn a_job_that_is_being_deleted_is_gone_or_stays_as_it_was() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let worker = farm.squares(1).await;
        let job = client.detach(range_job(0, 10)).await;
        client.watch(job, 0, true).await.assert_squares(0, 10);
        worker.die();
        let status = client.status(job).await;
        let other = farm.user("other").await;
        let delete = Request::Delete { job };
        let locked = || {
            let database = rusqlite::Connection::open(farm.folder.path().join("farm.sqlite")).unwrap();
            database.execute_batch("BEGIN IMMEDIATE").unwrap();
            database
        };
        let being_deleted = async || {
            until(async || {
                client.ask(Request::Job { job }).await.is_ok_and(|answer| matches!(answer, Response::Error(_)))
            })
            .await;
            let no_such = RequestError::NoSuchJob(job);
            assert_eq!(client.ask(Request::Jobs).await.unwrap(), Response::Jobs(Vec::new()));
            assert_eq!(client.refused(Request::Retry { key: key(), job, failed: false }).await, no_such);
            assert_eq!(client.refused(submit(results_of(job, 10, None), false)).await, no_such);
            assert_eq!(client.refused(Request::Watch { job, from: 0, follow: false }).await, no_such);
            assert_eq!(other.refused(Request::Delete { job }).await, no_such);
        };
        // While somebody else has the database, nothing can be stored.
        let database = locked();
        let (first, second, ()) =
            tokio::join!(client.refused(delete.clone()), client.refused(delete.clone()), being_deleted());
        assert!(matches!(&first, RequestError::Storage(_)), "{first}");
        assert_eq!(first, second);
        drop(database);
        assert_eq!(client.status(job).await, status);
        client.watch(job, 0, true).await.assert_squares(0, 10);
        // Neither waits longer than it has to.
        let database = locked();
        let (first, second, ()) = tokio::join!(client.ask(delete.clone()), client.ask(delete.clone()), async {
            being_deleted().await;
            drop(database);
        });
        assert_eq!((first.unwrap(), second.unwrap()), (Response::Deleted, Response::Deleted));
        assert_eq!(client.refused(delete).await, RequestError::NoSuchJob(job));
        let farm = farm.crash().await;
        let client = farm.client().await;
        assert_eq!(client.refused(Request::Job { job }).await, RequestError::NoSuchJob(job));
        farm.stop().await;
    });
}

fn results_of(job: JobId, count: u64, group: Option<u32>) -> farm_proto::job::JobSpec {
    let mut spec = range_job(0, 0);
    spec.args = Args::Results(ResultArgs { job, count, group, raw: false });
    spec
}

#[test]
fn results_are_arguments_and_survive() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let first = client.detach(range_job(0, 1000)).await;
        let second = client.detach(results_of(first, 1000, None)).await;
        assert_eq!(client.status(second).await.needs, [first]);
        assert_eq!(client.refused(Request::Delete { job: first }).await, RequestError::NotOver(first));
        let farm = farm.crash().await;
        let client = farm.client().await;
        let _worker = farm.squares(3).await;
        client.watch(first, 0, true).await.assert_squares(0, 1000);
        let watched = client.watch(second, 0, true).await;
        let fourth = |n: i64| n * n * n * n;
        assert!((0..).zip(watched.outcomes.values()).all(|(n, outcome)| outcome.number() == fourth(n)));
        assert_eq!(watched.outcomes.len(), 1000);
        assert_eq!(client.ask(Request::Delete { job: first }).await.unwrap(), Response::Deleted);
        farm.stop().await;
    });
}

#[test]
fn groups_of_results_are_arrays() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let first = client.detach(range_job(0, 10)).await;
        let squares = farm.squares(1).await;
        client.watch(first, 0, true).await.assert_squares(0, 10);
        squares.die();
        client.detach(results_of(first, 4, Some(3))).await;
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let mut streams = Streams::open(&link, 4).await;
        let mut arguments = Vec::new();
        while arguments.len() < 4 {
            if let (SchedulerWork::Lease(lease), payload) = streams.work.1.expect().await.unwrap() {
                let columns = farm_proto::columns::Columns::decode(lease.count.into(), payload).unwrap();
                arguments.extend(columns.iter().map(|item| String::from_utf8(item.to_vec()).unwrap()));
            }
        }
        assert_eq!(arguments, ["[0,1,4]", "[9,16,25]", "[36,49,64]", "[81]"]);
        farm.stop().await;
    });
}

#[test]
fn what_cannot_be_an_argument_is_refused() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let first = client.detach(range_job(0, 10)).await;
        for (spec, expected) in [
            (results_of(JobId(99), 10, None), "no job 99"),
            (results_of(first, 9, None), "make 10 arguments, not 9"),
            (results_of(first, 10, Some(1)), "less than two"),
        ] {
            let error = client.refused(submit(spec, false)).await.to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut subset = range_job(0, 0);
        subset.args = Args::Subset { of: Box::new(subset.args), tasks: vec![(0, 3)] };
        assert!(matches!(client.refused(submit(subset, false)).await, RequestError::Invalid(_)));
        let mut after = range_job(0, 1);
        after.after = vec![JobId(98)];
        assert_eq!(client.refused(submit(after, false)).await, RequestError::NoSuchJob(JobId(98)));
        // Of somebody else's jobs, one cannot even tell that they are there.
        let other = farm.user("other").await;
        let error = other.refused(submit(results_of(first, 10, None), false)).await;
        assert_eq!(error, RequestError::NoSuchJob(first));
        farm.stop().await;
    });
}

#[test]
fn what_failed_is_retried_by_a_new_job() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let failing = Worker::start(&farm.worker, 2, WorkerKind::FailsEvery { remainder: 3, attempts: 9 }).await;
        let arguments: Vec<_> = (0..100).map(|n| n.to_string().into_bytes()).collect();
        let mut table = range_job(0, 0);
        table.args = client.put_chunks(&arguments, 33).await;
        for spec in [range_job(0, 100), table] {
            let job = client.detach(spec).await;
            let watched = client.watch(job, 0, true).await;
            assert_eq!(watched.status().counts.failed, 10);
            let retry = async |job, failed| match client.ask(Request::Retry { key: key(), job, failed }).await.unwrap()
            {
                Response::Accepted { job } => job,
                other => panic!("{other:?}"),
            };
            let again = retry(job, true).await;
            // The tasks of the new job are 0 to 9, of which one has a 3 at its end.
            let watched = client.watch(again, 0, true).await;
            let numbers = watched.outcomes.iter().map(|(task, outcome)| match outcome {
                Outcome::Value(_) => outcome.number(),
                Outcome::Failed(failure) => {
                    assert_eq!((*task, failure.kind), (3, FailureKind::Panic));
                    -1
                }
            });
            let expected: Vec<i64> = (0..10).map(|n| if n == 3 { -1 } else { (10 * n + 3) * (10 * n + 3) }).collect();
            assert_eq!(numbers.collect::<Vec<_>>(), expected);
            // What failed again is the one task whose argument is 33; the new job has it as its task 0.
            let third = retry(again, false).await;
            let watched = client.watch(third, 0, true).await;
            assert_eq!(watched.outcomes.len(), 1);
            assert_eq!(watched.outcomes[&0].number(), 33 * 33);
            let nothing = client.refused(Request::Retry { key: key(), job: third, failed: false }).await;
            assert_eq!(nothing, RequestError::NothingToRetry(third));
        }
        failing.die();
        let waiting = client.detach(range_job(0, 1)).await;
        let early = client.refused(Request::Retry { key: key(), job: waiting, failed: true }).await;
        assert_eq!(early, RequestError::NotOver(waiting));
        farm.stop().await;
    });
}

#[test]
fn a_peer_of_another_version_is_told_which_fits() {
    limited(async {
        let farm = Farm::start().await;
        for version in [1u32, 3, 40] {
            let connection = stranger(&farm.admin, &farm_proto::alpn_of(version)).await;
            match connection.closed().await {
                quinn::ConnectionError::ApplicationClosed(closed) => {
                    assert_eq!(closed.error_code, close::VERSION.into());
                    let reason = String::from_utf8(closed.reason.to_vec()).unwrap();
                    assert!(reason.contains("farm/2") && reason.contains(&format!("farm/{version}")), "{reason}");
                }
                other => panic!("{other}"),
            }
        }
        farm.stop().await;
    });
}

#[test]
fn results_are_deleted_when_their_time_is_over() {
    limited(async {
        let farm = Farm::start_with(|options| options.keep_results = Some(std::time::Duration::from_secs(1))).await;
        let client: Client = farm.client().await;
        client.put_module().await;
        let first = client.detach(range_job(0, 10)).await;
        let second = client.detach(results_of(first, 10, None)).await;
        let waits = client.detach(results_of(first, 10, None)).await;
        let worker = farm.squares(1).await;
        client.watch(waits, 0, true).await;
        worker.die();
        let waiting = client.detach(range_job(0, 10)).await;
        for job in [first, second, waits] {
            until(async || client.ask(Request::Job { job }).await.unwrap() == no_such(job)).await;
        }
        assert_eq!(client.status(waiting).await.state, JobState::Waiting);
        assert_eq!(client.get(Digest::of(crate::support::client::MODULE)).await.unwrap().len(), 11);
        farm.stop().await;
    });
}

fn no_such(job: JobId) -> Response {
    Response::Error(RequestError::NoSuchJob(job))
}
