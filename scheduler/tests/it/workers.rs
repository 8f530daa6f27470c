//! Workers that come, go, die and are fed.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_link::dial;
use farm_proto::close;
use farm_proto::columns::Columns;
use farm_proto::ids::Digest;
use farm_proto::job::{Args, Input, JobSpec, JobState};
use farm_proto::message::{
    Request, RequestError, Response, SchedulerControl, SchedulerWork, WorkerControl, WorkerWork,
};
use tokio::sync::mpsc;

use crate::support::client::MODULE;
use crate::support::worker::{Seen, Streams, answer};
use crate::support::{Client, Farm, Worker, WorkerKind, limited, range_job, until};

const TICKET: &str = "FARM_TEST_WORKER_TICKET";

/// Not a test: the process of a worker that takes leases and answers nothing, for tests that kill it.
#[test]
#[ignore = "the process of a worker, started by other tests"]
fn worker_process() {
    let Ok(ticket) = std::env::var(TICKET) else { return };
    limited(async {
        let (seen, mut saw) = mpsc::unbounded_channel();
        let _worker = Worker::start(&ticket.parse().unwrap(), 2, WorkerKind::Silent(seen)).await;
        while saw.recv().await.is_some() {}
    });
}

struct Process(Child);

impl Process {
    fn start(farm: &Farm) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::worker_process", "--ignored", "--nocapture"])
            .env(TICKET, farm.worker.to_string())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_workers_tasks_are_finished_by_another() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let process = Process::start(&farm);
        until(async || !client.farm().await.workers.is_empty()).await;
        let watching = client.submit(range_job(0, 1000), Bytes::new()).await;
        until(async || client.status(watching.job).await.counts.leased > 0).await;
        let _worker = farm.squares(2).await;
        let killed = Instant::now();
        drop(process);
        watching.finish().await.assert_squares(0, 1000);
        // The kernel says that nobody listens there any more: no need to wait for the idle time-out.
        assert!(killed.elapsed() < Duration::from_secs(6), "noticed after {:?}", killed.elapsed());
        assert_eq!(client.farm().await.workers.len(), 1);
        farm.stop().await;
    });
}

#[test]
fn a_lost_connection_gives_the_tasks_back() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let (seen, mut saw) = mpsc::unbounded_channel();
        let silent = Worker::start(&farm.worker, 4, WorkerKind::Silent(seen)).await;
        let watching = client.submit(range_job(0, 100), Bytes::new()).await;
        while !matches!(saw.recv().await.unwrap(), Seen::Lease(..)) {}
        let status = client.farm().await;
        assert_eq!((status.workers[0].worker, status.workers[0].hello.slots), (silent.id, 4));
        assert!(status.workers[0].leased > 0);
        silent.die();
        let _worker = farm.squares(1).await;
        watching.finish().await.assert_squares(0, 100);
        farm.stop().await;
    });
}

#[test]
fn a_draining_worker_is_told_when_to_leave() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let mut streams = Streams::open(&link, 1).await;
        let watching = client.submit(range_job(0, 50), Bytes::new()).await;
        let mut spec = None;
        let lease = loop {
            match streams.work.1.expect().await.unwrap().0 {
                SchedulerWork::Job { spec: introduced, .. } => spec = Some(introduced),
                SchedulerWork::Secrets { .. } => panic!("no job has any"),
                SchedulerWork::Restored { .. } => panic!("no task has kept anything"),
                SchedulerWork::Lease(lease) => break lease,
            }
        };
        streams.control.0.send(&WorkerControl::Draining, Bytes::new()).await.unwrap();
        until(async || client.farm().await.workers[0].draining).await;
        // It finishes what it holds; the rest waits for another.
        let (batch, columns) = answer(&spec.unwrap(), &lease, Bytes::new(), &WorkerKind::Squares);
        let results = WorkerWork::Results { lease: lease.lease, batch };
        streams.work.0.send(&results, columns).await.unwrap();
        loop {
            // What was leased to it before it said so is asked back.
            tokio::select! {
                control = streams.control.1.expect() => match control.unwrap().0 {
                    SchedulerControl::Exit => break,
                    SchedulerControl::Recall { .. } => {}
                    other => panic!("{other:?}"),
                },
                work = streams.work.1.expect() => {
                    let SchedulerWork::Lease(lease) = work.unwrap().0 else { panic!("introduced again") };
                    let back = WorkerWork::Returned { lease: lease.lease, first: lease.first, count: lease.count };
                    streams.work.0.send(&back, Bytes::new()).await.unwrap();
                }
            }
        }
        link.close(close::DONE).await;
        let _worker = farm.squares(1).await;
        watching.finish().await.assert_squares(0, 50);
        farm.stop().await;
    });
}

#[test]
fn a_worker_fetches_what_its_jobs_need_and_nothing_else() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        client.put(Digest::of(b"input"), b"input").await;
        client.put(Digest::of(b"other"), b"other").await;
        let (seen, mut saw) = mpsc::unbounded_channel();
        let worker = Worker::start(&farm.worker, 1, WorkerKind::Silent(seen)).await;
        let fetcher = Client { link: worker.link.clone() };
        let refused = |digest| Err(RequestError::NoSuchBlob(digest));
        assert_eq!(fetcher.get(Digest::of(MODULE)).await, refused(Digest::of(MODULE)));
        let mut spec = range_job(0, 10);
        spec.inputs = vec![Input { path: "i".to_owned(), digest: Digest::of(b"input"), size: 5 }];
        let job = client.detach(spec.clone()).await;
        let Seen::Job(introduced, known) = saw.recv().await.unwrap() else { panic!("a job comes first") };
        let placed = JobSpec { cluster: Some("default".to_owned()), ..spec };
        assert_eq!((introduced, *known), (job, placed));
        assert_eq!(fetcher.get(Digest::of(MODULE)).await.unwrap(), MODULE);
        assert_eq!(fetcher.get(Digest::of(b"input")).await.unwrap(), b"input");
        assert_eq!(fetcher.get(Digest::of(b"other")).await, refused(Digest::of(b"other")));
        client.cancel(job).await;
        while !matches!(saw.recv().await.unwrap(), Seen::Control(SchedulerControl::ForgetJob { .. })) {}
        assert_eq!(fetcher.get(Digest::of(MODULE)).await, refused(Digest::of(MODULE)));
        farm.stop().await;
    });
}

#[test]
fn leases_are_bounded_by_the_bytes_of_their_arguments() {
    limited(async {
        let farm = Farm::start_with(|options| options.core.max_lease_bytes = 1000).await;
        let client = farm.client().await;
        client.put_module().await;
        let (seen, mut saw) = mpsc::unbounded_channel();
        let bounded = Worker::start(&farm.worker, 50, WorkerKind::Silent(seen)).await;
        // Small on average, but some are alone beyond the bound.
        let argument =
            |n: usize| format!("{n:>width$}", width = if n.is_multiple_of(10) { 3000 } else { 1 }).into_bytes();
        let arguments: Vec<_> = (0..100).map(argument).collect();
        let mut spec = range_job(0, 0);
        spec.args = client.put_chunks(&arguments, 33).await;
        let watching = client.submit(spec, Bytes::new()).await;
        let mut leased = 0;
        while leased < 20 {
            match saw.recv().await.unwrap() {
                Seen::Lease(lease, payload) => {
                    assert!(payload.len() <= 1000 || lease.count == 1, "{} bytes", payload.len());
                    let columns = Columns::decode(lease.count.into(), payload).unwrap();
                    for (n, item) in (lease.first as usize..).zip(columns.iter()) {
                        assert_eq!(item, argument(n));
                    }
                    leased += lease.count;
                }
                // Where they come from is not a worker's business.
                Seen::Job(_, spec) => assert!(matches!(spec.args, Args::Inline { count: 100 })),
                Seen::Control(_) => {}
            }
        }
        bounded.die();
        let _worker = farm.squares(1).await;
        watching.finish().await.assert_squares(0, 100);
        farm.stop().await;
    });
}

#[test]
fn an_argument_and_a_result_of_64_mib_pass() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let mut spec = range_job(0, 0);
        let huge = vec![b' '; 64 << 20];
        spec.args = client.put_chunks(std::slice::from_ref(&huge), 1).await;
        let mut watching = client.submit(spec, Bytes::new()).await;
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let mut streams = Streams::open(&link, 1).await;
        let (lease, payload) = loop {
            match streams.work.1.expect().await.unwrap() {
                (SchedulerWork::Lease(lease), payload) => break (lease, payload),
                (SchedulerWork::Job { .. } | SchedulerWork::Secrets { .. } | SchedulerWork::Restored { .. }, _) => {}
            }
        };
        assert!(Columns::decode(1, payload.clone()).unwrap().get(0) == huge);
        // Back it goes.
        let batch = farm_proto::message::Batch {
            first: 0,
            count: 1,
            failures: vec![],
            captured: vec![],
            run_ns: 1,
            fetch_ns: 0,
            compile_ns: 0,
        };
        streams.work.0.send(&WorkerWork::Results { lease: lease.lease, batch }, payload.clone()).await.unwrap();
        let result = loop {
            match watching.next().await.unwrap() {
                (Response::Results { .. }, columns) => break columns,
                (Response::Status(_), _) => {}
                other => panic!("{other:?}"),
            }
        };
        assert!(result == payload);
        let ended = watching.finish().await;
        assert_eq!(ended.status().state, JobState::Done);
        farm.stop().await;
    });
}

#[test]
fn progress_is_shown_while_a_task_runs() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let mut streams = Streams::open(&link, 1).await;
        let job = client.detach(range_job(0, 1)).await;
        until(async || client.status(job).await.counts.leased == 1).await;
        let mut progress = async |done| {
            let said = WorkerControl::Progress { job, task: 0, done, total: 10 };
            streams.control.0.send(&said, Bytes::new()).await.unwrap();
            until(async || client.status(job).await.progress == [(0, done, 10)]).await;
        };
        progress(3).await;
        progress(7).await;
        link.close(close::DONE).await;
        until(async || client.status(job).await.progress.is_empty()).await;
        assert!(matches!(client.ask(Request::Farm).await.unwrap(), Response::Farm(farm) if farm.workers.is_empty()));
        farm.stop().await;
    });
}
