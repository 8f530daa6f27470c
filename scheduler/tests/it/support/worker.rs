//! A worker that runs nothing: it answers leases as it is told to, in the real protocol.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use farm_link::dial::{self, Link};
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::close;
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::{Args, JobSpec};
use farm_proto::message::{
    Batch, Lease, Open, Resume, SchedulerControl, SchedulerWork, WorkerControl, WorkerHello, WorkerWork,
};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::ticket::Ticket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What a worker makes of its leases.
#[derive(Clone)]
pub(crate) enum WorkerKind {
    /// Squares numbers.
    Squares,
    /// Takes leases and answers nothing; what comes goes here.
    Silent(mpsc::UnboundedSender<Seen>),
    /// Fails tasks whose number has this remainder by 10, so many times each; squares the others.
    FailsEvery { remainder: u64, attempts: u32 },
    /// Says of each job that it cannot be run.
    RefusesJobs,
}

/// What a silent worker was sent.
#[derive(Debug)]
pub(crate) enum Seen {
    Job(JobId, Box<JobSpec>),
    Lease(Lease, Bytes),
    Control(SchedulerControl),
}

/// A connected worker. Dropping it breaks its connection off.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) link: Link,
    task: JoinHandle<()>,
}

impl Worker {
    pub(crate) async fn start(ticket: &Ticket, slots: u32, kind: WorkerKind) -> Self {
        let link = dial::connect(ticket, None).await.unwrap();
        let Streams { id, control, work } = Streams::open(&link, slots).await;
        let task = tokio::spawn(run(link.clone(), control, work, kind));
        Self { id, link, task }
    }

    /// Waits for the worker to be told to leave.
    pub(crate) async fn ended(self) {
        self.task.await.unwrap();
    }

    /// Breaks the connection off without a good-bye that means anything.
    pub(crate) fn die(self) {
        self.task.abort();
        self.link.connection.close(77u32.into(), b"");
    }
}

/// The two streams of a worker, past the introductions.
pub(crate) struct Streams {
    pub(crate) id: WorkerId,
    pub(crate) control: (FrameWriter, FrameReader),
    pub(crate) work: (FrameWriter, FrameReader),
}

impl Streams {
    pub(crate) async fn open(link: &Link, slots: u32) -> Self {
        Self::resume(link, hello(slots), Resume::default()).await
    }

    /// Those of a worker that has something already.
    pub(crate) async fn resume(link: &Link, hello: WorkerHello, resume: Resume) -> Self {
        let mut control = link.open().await.unwrap();
        control.0.send(&Open::Control { hello, resume }, Bytes::new()).await.unwrap();
        let mut work = link.open().await.unwrap();
        work.0.send(&Open::Work, Bytes::new()).await.unwrap();
        let (welcome, _) = control.1.expect().await.unwrap();
        let SchedulerControl::Welcome { worker: id } = welcome else { panic!("no welcome: {welcome:?}") };
        Self { id, control, work }
    }
}

pub(crate) fn hello(slots: u32) -> WorkerHello {
    WorkerHello {
        ends_in_ms: None,
        name: "fake".to_owned(),
        host: "here".to_owned(),
        pid: std::process::id(),
        slots,
        version: "0".to_owned(),
        incarnation: INCARNATIONS.fetch_add(1, Ordering::Relaxed),
    }
}

/// The first frame of a new worker's control stream.
pub(crate) fn control_of(slots: u32) -> Open {
    Open::Control { hello: hello(slots), resume: Resume::default() }
}

static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

async fn run(
    link: Link,
    mut control: (FrameWriter, FrameReader),
    mut work: (FrameWriter, FrameReader),
    kind: WorkerKind,
) {
    let mut jobs = HashMap::new();
    loop {
        tokio::select! {
            message = control.1.next::<SchedulerControl>() => {
                let Ok(Some((message, _))) = message else { return };
                let leave = message == SchedulerControl::Exit;
                if let WorkerKind::Silent(seen) = &kind {
                    let _ = seen.send(Seen::Control(message));
                }
                if leave {
                    return link.close(close::DONE).await;
                }
            }
            message = work.1.next::<SchedulerWork>() => {
                let Ok(Some((message, payload))) = message else { return };
                match message {
                    SchedulerWork::Secrets { .. } => panic!("no job has any"),
                    SchedulerWork::Restored { .. } => panic!("no task has kept anything"),
                    SchedulerWork::Job { job, spec, .. } => {
                        if let WorkerKind::RefusesJobs = kind {
                            let failure = Failure::new(FailureKind::BadModule, "no such thing");
                            control.0.send(&WorkerControl::JobFailed { job, failure }, Bytes::new()).await.unwrap();
                        }
                        if let WorkerKind::Silent(seen) = &kind {
                            let _ = seen.send(Seen::Job(job, spec.clone()));
                        }
                        jobs.insert(job, spec);
                    }
                    SchedulerWork::Lease(lease) => match &kind {
                        WorkerKind::Silent(seen) => {
                            let _ = seen.send(Seen::Lease(lease, payload));
                        }
                        WorkerKind::RefusesJobs => {}
                        WorkerKind::Squares | WorkerKind::FailsEvery { .. } => {
                            let spec = jobs.get(&lease.job).expect("a job comes before its leases");
                            let (batch, columns) = answer(spec, &lease, payload, &kind);
                            let results = WorkerWork::Results { lease: lease.lease, batch };
                            work.0.queue(&results, columns).unwrap();
                            if work.0.flush().await.is_err() {
                                return;
                            }
                        }
                    },
                }
            }
        }
    }
}

/// The outcomes of a lease.
pub(crate) fn answer(spec: &JobSpec, lease: &Lease, payload: Bytes, kind: &WorkerKind) -> (Batch, Bytes) {
    let arguments: Vec<i64> = match spec.args {
        Args::Range { start, .. } => {
            assert!(payload.is_empty());
            (0..lease.count).map(|offset| start + (lease.first + u64::from(offset)) as i64).collect()
        }
        _ => {
            let columns = Columns::decode(lease.count.into(), payload).unwrap();
            let number = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().trim().parse().unwrap();
            columns.iter().map(number).collect()
        }
    };
    let attempts: HashMap<u32, u32> = lease.attempts.iter().copied().collect();
    let mut columns = ColumnsBuilder::new();
    let mut failures = Vec::new();
    for (offset, argument) in (0..lease.count).zip(arguments) {
        let task = lease.first + u64::from(offset);
        let attempt = attempts.get(&offset).copied().unwrap_or(0);
        match *kind {
            WorkerKind::FailsEvery { remainder, attempts } if task % 10 == remainder && attempt < attempts => {
                failures.push((offset, Failure::new(FailureKind::Panic, format!("task {task}"))));
            }
            _ => columns.item().extend_from_slice((argument * argument).to_string().as_bytes()),
        }
        columns.end_item();
    }
    let batch = Batch {
        first: lease.first,
        count: lease.count,
        failures,
        captured: Vec::new(),
        run_ns: 1000,
        fetch_ns: 0,
        compile_ns: 0,
    };
    (batch, columns.finish().encode())
}
