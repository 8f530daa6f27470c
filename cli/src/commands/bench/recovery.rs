//! The start of a scheduler that was killed in the middle of a job, with much behind it and much before it.

use std::fs;
use std::time::Instant;

use farm_client::args::{ArgSource, Arguments};
use farm_client::client::Client;
use farm_client::job::{Job, JobOptions};
use farm_client::launch::cores;
use farm_proto::ids::JobId;
use farm_proto::job::Counts;
use indicatif::HumanCount;
use serde::Serialize;

use super::standing::{Standing, wait_until};
use super::{Bench, Line, disk_usage, megabytes, milliseconds, module_of, most};
use crate::commands::tell;
use crate::report::Report;

/// How many finished tasks there are for each waiting one of the same job.
const FINISHED: u64 = 10;
/// In how many steps they are waited for.
const STEPS: u64 = 10;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// From the start of a scheduler whose predecessor was killed to its first answer: the longest of all runs.
    recovery_ms: f64,
    /// The same of the first start, which has the log of the work before it.
    recovery_first_ms: f64,
    /// Its memory by then, in bytes: the most of all runs.
    recovery_memory: u64,
    /// The most that it ever took until then.
    recovery_peak_memory: u64,
    /// What its state takes on the disk.
    state_bytes: u64,
    /// Finished tasks of the job that goes on.
    #[serde(skip)]
    finished: u64,
}

/// What has to be there after each start.
struct Jobs {
    /// Of which most is done.
    half_done: JobId,
    /// With a table, and nothing done.
    waiting: JobId,
}

pub(super) async fn measure(bench: &Bench) -> Result<Figures, Report> {
    let folder = bench.state_folder()?;
    let mut farm = Standing::start(bench, folder.path(), false).await?;
    let waiting = bench.args.tasks;
    let finished = waiting.saturating_mul(FINISHED);
    let jobs = fill(&mut farm, finished, waiting).await?;
    tell("a scheduler that is killed");
    let (mut times, mut memory, mut peak) = (Vec::new(), Vec::new(), Vec::new());
    let mut state_bytes = 0;
    for run in 0..bench.args.runs {
        farm.crash().await?;
        if run == 0 {
            state_bytes = disk_usage(farm.state())?;
        }
        let since = Instant::now();
        farm.start_again().await?;
        let client = farm.client().await?;
        let status = client.farm().await?;
        times.push(milliseconds(since.elapsed()));
        memory.push(status.memory as f64);
        peak.push(peak_memory(status.pid) as f64);
        check(&client, jobs.half_done, finished, waiting).await?;
        check(&client, jobs.waiting, 0, waiting).await?;
        client.close().await;
    }
    farm.end().await?;
    Ok(Figures {
        recovery_ms: most(&times),
        recovery_first_ms: times.first().copied().unwrap_or_default(),
        recovery_memory: most(&memory) as u64,
        recovery_peak_memory: most(&peak) as u64,
        state_bytes,
        finished,
    })
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let times = format!("the first {:.0} ms; at most 2000 ms wanted", self.recovery_first_ms);
        let memory = format!("peak {}; at most 200 MB wanted", megabytes(self.recovery_peak_memory));
        let finished = format!("with {} finished tasks of a job that goes on", HumanCount(self.finished));
        vec![
            Line::new("slowest recovery", format!("{:.0} ms", self.recovery_ms), times),
            Line::new("memory after it", megabytes(self.recovery_memory), memory),
            Line::new("state on the disk", megabytes(self.state_bytes), finished),
        ]
    }
}

/// Has workers do the first `finished` tasks of a job, and no more of it; another `waiting` wait, and so does a job with
/// a table of as many. All of that is stored when this returns, and the workers are in the middle of the job.
async fn fill(farm: &mut Standing<'_>, finished: u64, waiting: u64) -> Result<Jobs, Report> {
    // Whoever comes to a task behind them is busy for ever.
    let module = module_of(&format!(
        r#"(module (func (export "stop_at") (param $task i64) (result i64)
            (loop $for_ever (br_if $for_ever (i64.ge_u (local.get $task) (i64.const {finished}))))
            (local.get $task)))"#
    ))?;
    let function = module.function(None)?;
    let job = |arguments| Job::new(&module, &function, &JobOptions::default(), arguments);
    farm.add_worker(cores()).await?;
    let client = farm.client().await?;
    tell(&format!("{} tasks to remember", HumanCount(finished)));
    let end = i64::try_from(finished.saturating_add(waiting)).unwrap_or(i64::MAX);
    let range =
        Arguments::read(&ArgSource::Range { start: 0, end }, &mut |element, out| function.encode(element, out))?;
    let half_done = job(range).submit(&client, false, &|_| {}).await?.job();
    // Each has all patience to itself.
    for step in 1..=STEPS {
        let part = finished / STEPS * step;
        wait_until(&client, "tasks are done", |status| status.counts.succeeded >= part).await?;
    }
    let table = Arguments::from_values(0..waiting, &mut |element, out| function.encode(element, out))?;
    // Acknowledged when it is stored, and with it all that was done before.
    let waiting = job(table).submit(&client, false, &|_| {}).await?.job();
    client.close().await;
    Ok(Jobs { half_done, waiting })
}

/// Whether a job is as it was left.
async fn check(client: &Client, job: JobId, succeeded: u64, waiting: u64) -> Result<(), Report> {
    let counts = client.job(job).await?.counts;
    if counts == (Counts { succeeded, waiting, ..Counts::default() }) {
        return Ok(());
    }
    Err(Report::internal(format!("recovered something else of job {job}: {counts:?}")))
}

/// `VmHWM` of proc(5), in bytes; 0 where there is none.
fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}
