//! The folder of a scheduler that has worked: one job is done, of another a part.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use farm_link::dial::{Link, connect};
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::columns::ColumnsBuilder;
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{Args, CommandOptions, JobSpec, Limits, ModuleKind, ModuleRef, Mounts, Profile, ResultEncoding};
use farm_proto::message::{
    Batch, Lease, Open, Request, Response, Resume, SchedulerControl, SchedulerWork, SubmitKey, WorkerHello, WorkerWork,
};
use farm_proto::outcome::{Captured, Failure, FailureKind};
use farm_proto::ticket::Role;
use farm_scheduler::Scheduler;

use super::folder::Folder;

/// It is never run.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// Tasks of the job that is done; the other has many more.
const TASKS: i64 = 40;
const LIMIT: Duration = Duration::from_secs(30);

/// The folder after the scheduler's end, and in the midst of its work.
pub(super) fn folders() -> Result<[Folder; 2]> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(LIMIT, make()).await.context("it took too long")? })
}

async fn make() -> Result<[Folder; 2]> {
    let place = tempfile::tempdir()?;
    let mut scheduler = Scheduler::start(super::options(place.path())).await?;
    let mut ticket = |role: Role| scheduler.ticket(role, role.as_str(), LIMIT);
    let (admin, worker) = (ticket(Role::Admin)?, ticket(Role::Worker)?);
    let handle = scheduler.handle();
    let running = tokio::spawn(scheduler.run());

    let client = connect(&admin, None).await?;
    put_module(&client).await?;
    let mut worker = Worker::connect(&worker).await?;
    let first = submit(&client, 1, TASKS).await?;
    worker.work_on(first, TASKS as u64).await?;
    let second = submit(&client, 2, 1 << 20).await?;
    worker.work_on(second, 1).await?;
    worker.all_stored().await?;
    let amid = Folder::read(place.path())?;

    handle.stop();
    running.await??;
    Ok([Folder::read(place.path())?, amid])
}

async fn put_module(client: &Link) -> Result<()> {
    let (mut writer, mut reader) = client.open().await?;
    let put = Request::PutBlob { digest: Digest::of(MODULE), size: MODULE.len() as u64, ask: false };
    writer.send(&Open::Request(put), Bytes::new()).await?;
    writer.raw(Bytes::from_static(MODULE)).await?;
    writer.finish();
    match reader.expect().await?.0 {
        Response::Stored => Ok(()),
        other => bail!("the module was not stored: {other:?}"),
    }
}

async fn submit(client: &Link, key: u128, tasks: i64) -> Result<JobId> {
    let module = ModuleRef {
        digest: Digest::of(MODULE),
        size: MODULE.len() as u64,
        kind: ModuleKind::Core,
        result: ResultEncoding::Json,
    };
    let spec = JobSpec {
        cluster: None,
        time_request_ms: None,
        name: None,
        module,
        function: "square".to_owned(),
        args: Args::Range { start: 0, end: tasks },
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: Vec::new(),
        mounts: Mounts::default(),
        command: CommandOptions::default(),
        retries: 0,
        max_failures: None,
        priority: 0,
        after: Vec::new(),
        fold: false,
    };
    let (mut writer, mut reader) = client.open().await?;
    let submit = Request::Submit { key: SubmitKey(key), spec: Box::new(spec), watch: false };
    writer.send(&Open::Request(submit), Bytes::new()).await?;
    writer.finish();
    match reader.expect().await?.0 {
        Response::Accepted { job } => Ok(job),
        other => bail!("the job was not accepted: {other:?}"),
    }
}

/// A worker that runs nothing and answers all the same.
struct Worker {
    control: (FrameWriter, FrameReader),
    work: (FrameWriter, FrameReader),
    sent: u64,
    _link: Link,
}

impl Worker {
    async fn connect(ticket: &farm_proto::ticket::Ticket) -> Result<Self> {
        let link = connect(ticket, None).await?;
        let hello = WorkerHello {
            ends_in_ms: None,
            name: "w".to_owned(),
            host: "h".to_owned(),
            pid: 1,
            slots: 4,
            version: "0".to_owned(),
            incarnation: 1,
        };
        let mut control = link.open().await?;
        control.0.send(&Open::Control { hello, resume: Resume::default() }, Bytes::new()).await?;
        let mut work = link.open().await?;
        work.0.send(&Open::Work, Bytes::new()).await?;
        Ok(Self { control, work, sent: 0, _link: link })
    }

    /// Answers leases of the job until so many tasks have an outcome.
    async fn work_on(&mut self, job: JobId, tasks: u64) -> Result<()> {
        let mut answered = 0;
        while answered < tasks {
            let (message, _) = self.work.1.expect::<SchedulerWork>().await?;
            if let SchedulerWork::Lease(lease) = message
                && lease.job == job
            {
                answered += u64::from(lease.count);
                let (batch, columns) = answer(&lease);
                self.work.0.send(&WorkerWork::Results { lease: lease.lease, batch }, columns).await?;
                self.sent += 1;
            }
        }
        Ok(())
    }

    /// Waits until all that was answered is on disk.
    async fn all_stored(&mut self) -> Result<()> {
        loop {
            let (message, _) = self.control.1.expect::<SchedulerControl>().await?;
            if message == (SchedulerControl::Stored { messages: self.sent }) {
                return Ok(());
            }
        }
    }
}

/// Squares; but the last task of each lease fails, unless it is the only one.
fn answer(lease: &Lease) -> (Batch, Bytes) {
    let mut columns = ColumnsBuilder::new();
    let failed = (lease.count > 1).then(|| lease.count - 1);
    for offset in 0..lease.count {
        let task = lease.first + u64::from(offset);
        if failed != Some(offset) {
            columns.item().extend_from_slice((task * task).to_string().as_bytes());
        }
        columns.end_item();
    }
    let captured = Captured { stdout: b"said".to_vec(), ..Captured::default() };
    let batch = Batch {
        first: lease.first,
        count: lease.count,
        failures: failed.map(|offset| (offset, Failure::new(FailureKind::Trap, "no"))).into_iter().collect(),
        captured: vec![(0, captured)],
        run_ns: 200_000_000,
        fetch_ns: 1,
        compile_ns: 1,
    };
    (batch, columns.finish().encode())
}
