//! What the farm itself costs: tasks that do nothing, through a real scheduler, over loopback.
//!
//! ```text
//! cargo run --release -p farm-scheduler --example rate [TASKS [WORKERS]]
//! ```
//!
//! Scheduler and workers are processes of their own; this one is the client. Printed are the tasks a second of a range
//! job and of one with arguments, the CPU that each process spent on a task, the scheduler's memory, and the round trip
//! of a single task.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use farm_link::dial::{self, Link};
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::columns::ColumnsBuilder;
use farm_proto::ids::Digest;
use farm_proto::job::{
    ArgChunk, Args, CommandOptions, JobSpec, Limits, ModuleKind, ModuleRef, Mounts, Profile, ResultEncoding,
};
use farm_proto::message::{
    Batch, Lease, Open, Request, Response, Resume, SchedulerControl, SchedulerWork, SubmitKey, WorkerHello, WorkerWork,
};
use farm_proto::ticket::Ticket;
use farm_scheduler::{Options, Scheduler};

/// Outcomes in one batch of the fake worker.
const BATCH: u32 = 16 << 10;
const MODULE: &[u8] = b"\0asm nothing";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments[..] {
        ["scheduler", state] => runtime.block_on(schedule(Path::new(state))),
        ["worker", ticket] => runtime.block_on(work(&ticket.parse()?)),
        [] => runtime.block_on(measure(10_000_000, 1)),
        [tasks] => runtime.block_on(measure(tasks.parse()?, 1)),
        [tasks, workers] => runtime.block_on(measure(tasks.parse()?, workers.parse()?)),
        _ => bail!("usage: rate [TASKS [WORKERS]]"),
    }
}

async fn schedule(state: &Path) -> Result<()> {
    let options = Options::new(state).listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    Ok(Scheduler::start(options).await?.run().await?)
}

/// A worker that answers every task with `1`.
async fn work(ticket: &Ticket) -> Result<()> {
    let link = dial::connect(ticket, None).await?;
    let (mut control, mut welcome) = link.open().await?;
    let hello = WorkerHello {
        ends_in_ms: None,
        name: "nothing".into(),
        host: String::new(),
        pid: 0,
        slots: 1,
        version: String::new(),
        incarnation: std::process::id().into(),
    };
    let open = Open::Control { hello, resume: Resume::default() };
    control.send(&open, Bytes::new()).await?;
    let (mut writer, mut reader) = link.open().await?;
    writer.send(&Open::Work, Bytes::new()).await?;
    welcome.expect::<SchedulerControl>().await?;
    let mut columns = HashMap::new();
    while let Some((message, _)) = reader.next::<SchedulerWork>().await? {
        if let SchedulerWork::Lease(lease) = message {
            answer(&mut writer, &lease, &mut columns)?;
        }
        while let Some((message, _)) = reader.buffered::<SchedulerWork>()? {
            if let SchedulerWork::Lease(lease) = message {
                answer(&mut writer, &lease, &mut columns)?;
            }
        }
        writer.flush().await?;
    }
    Ok(())
}

fn answer(writer: &mut FrameWriter, lease: &Lease, columns: &mut HashMap<u32, Bytes>) -> Result<()> {
    let mut offset = 0;
    while offset < lease.count {
        let count = BATCH.min(lease.count - offset);
        let results = columns.entry(count).or_insert_with(|| {
            let mut columns = ColumnsBuilder::new();
            (0..count).for_each(|_| columns.push(b"1"));
            columns.finish().encode()
        });
        let first = lease.first + u64::from(offset);
        let batch = Batch {
            first,
            count,
            failures: Vec::new(),
            captured: Vec::new(),
            run_ns: u64::from(count) * 100,
            fetch_ns: 0,
            compile_ns: 0,
        };
        writer.queue(&WorkerWork::Results { lease: lease.lease, batch }, results.clone())?;
        offset += count;
    }
    Ok(())
}

/// A process that ends with this one.
struct Process {
    child: Child,
    name: String,
}

impl Process {
    fn start(arguments: [&str; 2]) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?).args(arguments).spawn()?;
        Ok(Self { child, name: arguments[0].to_owned() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time that a process has used.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a stat line")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    // The kernel counts hundredths of seconds for /proc, whatever its own clock.
    Ok(Duration::from_millis(ticks * 10))
}

async fn measure(tasks: u64, workers: usize) -> Result<()> {
    let state = tempfile::tempdir()?;
    let path = state.path().to_str().context("a path in UTF-8")?;
    let mut processes = vec![Process::start(["scheduler", path])?];
    let read = |name: &str| std::fs::read_to_string(state.path().join(name));
    while read("worker.ticket").is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ticket = read("worker.ticket")?;
    for _ in 0..workers {
        processes.push(Process::start(["worker", ticket.trim()])?);
    }
    let client = Client { link: dial::connect(&read("admin.ticket")?.parse()?, None).await? };
    client.put(MODULE).await?;
    while client.farm().await?.workers.len() < workers {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // To warm up, and to let the scheduler learn what a task takes.
    client.run(job(Args::Range { start: 0, end: 200_000 })).await?;

    let range = Args::Range { start: 0, end: i64::try_from(tasks)? };
    client.measure("range", range, tasks, &processes).await?;
    let table = client.table(tasks).await?;
    client.measure("arguments of 20 bytes", table, tasks, &processes).await?;
    let memory = client.farm().await?.memory;
    println!("scheduler memory afterwards: {:.1} MiB", memory as f64 / f64::from(1 << 20));
    client.round_trips().await
}

struct Client {
    link: Link,
}

fn job(args: Args) -> JobSpec {
    JobSpec {
        cluster: None,
        time_request_ms: None,
        name: None,
        module: ModuleRef {
            digest: Digest::of(MODULE),
            size: MODULE.len() as u64,
            kind: ModuleKind::Core,
            result: ResultEncoding::Json,
        },
        function: "nothing".to_owned(),
        args,
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
    }
}

/// A key that no other submission has.
fn key() -> SubmitKey {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    SubmitKey(NEXT.fetch_add(1, Ordering::Relaxed).into())
}

impl Client {
    async fn open(&self, request: Request) -> Result<(FrameWriter, FrameReader)> {
        let (mut writer, reader) = self.link.open().await?;
        writer.send(&Open::Request(request), Bytes::new()).await?;
        Ok((writer, reader))
    }

    async fn put(&self, bytes: &[u8]) -> Result<()> {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        let (mut writer, mut reader) = self.open(Request::PutBlob { digest, size, ask: false }).await?;
        writer.raw(Bytes::copy_from_slice(bytes)).await?;
        writer.finish();
        match reader.expect().await?.0 {
            Response::Stored => Ok(()),
            other => bail!("not stored: {other:?}"),
        }
    }

    /// Arguments of 20 bytes, 64 Ki in a blob.
    async fn table(&self, tasks: u64) -> Result<Args> {
        let mut chunks = Vec::new();
        let mut first = 0;
        while first < tasks {
            let count = (tasks - first).min(64 << 10);
            let mut columns = ColumnsBuilder::new();
            (first..first + count).for_each(|n| columns.push(format!("{n:020}").as_bytes()));
            let bytes = columns.finish().encode();
            self.put(&bytes).await?;
            chunks.push(ArgChunk { digest: Digest::of(&bytes), count: count as u32, size: bytes.len() as u64 });
            first += count;
        }
        Ok(Args::Chunks(chunks))
    }

    async fn farm(&self) -> Result<farm_proto::message::FarmStatus> {
        match self.open(Request::Farm).await?.1.expect().await?.0 {
            Response::Farm(farm) => Ok(farm),
            other => bail!("no status: {other:?}"),
        }
    }

    /// Runs a job: how many outcomes came.
    async fn run(&self, spec: JobSpec) -> Result<u64> {
        let (mut writer, mut reader) =
            self.open(Request::Submit { key: key(), spec: Box::new(spec), watch: true }).await?;
        writer.finish();
        let mut outcomes = 0;
        while let Some((response, _)) = reader.next().await? {
            match response {
                Response::Results { batch, .. } => outcomes += u64::from(batch.count),
                Response::Error(error) => bail!(error),
                _ => {}
            }
        }
        Ok(outcomes)
    }

    async fn measure(&self, what: &str, args: Args, tasks: u64, processes: &[Process]) -> Result<()> {
        let pids = processes.iter().map(|process| process.child.id()).chain([std::process::id()]);
        let pids: Vec<u32> = pids.collect();
        let before = pids.iter().map(|&pid| cpu(pid)).collect::<Result<Vec<_>>>()?;
        let started = Instant::now();
        let outcomes = self.run(job(args)).await?;
        let elapsed = started.elapsed();
        anyhow::ensure!(outcomes == tasks, "{outcomes} outcomes of {tasks} tasks");
        let rate = tasks as f64 / elapsed.as_secs_f64() / 1e6;
        print!("{what}: {rate:.2} M tasks/s; CPU a task:");
        let names = processes.iter().map(|process| process.name.as_str()).chain(["client"]);
        for ((&pid, before), name) in pids.iter().zip(before).zip(names) {
            let used = cpu(pid)?.saturating_sub(before);
            print!(" {name} {:.0} ns", used.as_nanos() as f64 / tasks as f64);
        }
        println!();
        Ok(())
    }

    async fn round_trips(&self) -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..2_000 {
            let started = Instant::now();
            self.run(job(Args::Range { start: 0, end: 1 })).await?;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let micros = |time: Duration| time.as_micros();
        println!("one task, there and back: median {} µs, p99 {} µs", micros(median), micros(p99));
        Ok(())
    }
}
