//! Workers that are killed or freeze in the middle of a job.

use std::time::{Duration, Instant};

use farm_client::args::Arguments;
use farm_client::client::{Client, Update};
use farm_client::job::{Job, JobOptions};
use farm_client::modules::LoadedModule;
use farm_host::module;
use rustix::process::Signal;
use serde::Serialize;

use super::standing::{Standing, wait_until};
use super::{Bench, Line, median, milliseconds};
use crate::commands::tell;
use crate::report::Report;

/// Goes round as often as it is told.
const BUSY: &str = r#"(module (func (export "busy") (param $rounds i64) (result i64)
    (loop $again
        (local.set $rounds (i64.sub (local.get $rounds) (i64.const 1)))
        (br_if $again (i64.gt_s (local.get $rounds) (i64.const 0))))
    (local.get $rounds)))"#;

/// How long each task takes, about.
const TASK: Duration = Duration::from_millis(20);
/// More tasks than are done until a loss is noticed.
const TASKS: u64 = 4000;
/// A worker is lost when so many are done.
const MIDWAY: u64 = 60;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// From the kill of a worker until the farm has given it up.
    lost_worker_noticed_ms: f64,
    /// Tasks of 20 ms that were begun a second time because of it, of a worker with one slot.
    lost_worker_tasks_again: f64,
    /// From the stop of a worker until the farm has given it up, with the default heartbeat.
    frozen_worker_noticed_ms: f64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Figures, Report> {
    let folder = bench.state_folder()?;
    let mut farm = Standing::start(bench, folder.path(), false).await?;
    farm.add_worker(1).await?;
    let busy = Busy::calibrated(&farm).await?;
    tell("workers that are killed, and workers that freeze");
    let (mut killed, mut again, mut frozen) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        let (noticed, tasks) = busy.lose(&mut farm, Signal::KILL).await?;
        killed.push(milliseconds(noticed));
        again.push(tasks as f64);
        let (noticed, _) = busy.lose(&mut farm, Signal::STOP).await?;
        frozen.push(milliseconds(noticed));
    }
    farm.end().await?;
    Ok(Figures {
        lost_worker_noticed_ms: median(&mut killed),
        lost_worker_tasks_again: median(&mut again),
        frozen_worker_noticed_ms: median(&mut frozen),
    })
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let again = format!("{} of its tasks begun again; the one it ran wanted", self.lost_worker_tasks_again);
        vec![
            Line::new("a killed worker is noticed in", format!("{:.0} ms", self.lost_worker_noticed_ms), again),
            Line::new(
                "a frozen worker is noticed in",
                format!("{:.0} ms", self.frozen_worker_noticed_ms),
                "its heartbeat of 10 s wanted",
            ),
        ]
    }
}

/// Tasks that keep a core busy for a known time.
struct Busy {
    module: LoadedModule,
    rounds: u64,
}

impl Busy {
    async fn calibrated(farm: &Standing<'_>) -> Result<Self, Report> {
        let prepared = module::prepare(BUSY.into())?;
        let mut busy = Self { module: LoadedModule { bytes: prepared.bytes.into(), info: prepared.info }, rounds: 1 };
        let client = farm.client().await?;
        // Compiles it.
        busy.run(&client).await?;
        busy.rounds = 100_000_000;
        let took = busy.run(&client).await?;
        client.close().await;
        busy.rounds = (busy.rounds as f64 * TASK.as_secs_f64() / took.as_secs_f64()).max(1.0) as u64;
        Ok(busy)
    }

    fn job(&self, tasks: u64) -> Result<Job, Report> {
        let function = self.module.function(None)?;
        let rounds = (0..tasks).map(|_| self.rounds);
        let arguments = Arguments::from_values(rounds, &mut |element, out| function.encode(element, out))?;
        Ok(Job::new(&self.module, &function, &JobOptions::default(), arguments))
    }

    /// How long one task takes.
    async fn run(&self, client: &Client) -> Result<Duration, Report> {
        let since = Instant::now();
        let mut watch = self.job(1)?.submit(client, true, &|_| {}).await?;
        while let Some(update) = watch.next().await? {
            if let Update::Results { .. } = update {
                return Ok(since.elapsed());
            }
        }
        Err(Report::internal("a task gave no result"))
    }

    /// Has a second worker come, and does that to it in the middle of a job: how long until it is given up, and how many
    /// tasks have to be begun again.
    async fn lose(&self, farm: &mut Standing<'_>, signal: Signal) -> Result<(Duration, u64), Report> {
        farm.add_worker(1).await?;
        let client = farm.client().await?;
        let before = client.farm().await?.counts.succeeded;
        let job = self.job(TASKS)?.submit(&client, false, &|_| {}).await?.job();
        wait_until(&client, "a job is under way", |status| {
            let is_midway = status.counts.succeeded >= before + MIDWAY;
            is_midway && status.workers.len() == 2 && status.workers.iter().all(|worker| worker.leased > 0)
        })
        .await?;
        farm.signal_worker(signal)?;
        let noticed = wait_until(&client, "a worker is given up", |status| status.workers.len() < 2).await?;
        let status = client.job(job).await?;
        if status.counts.waiting + status.counts.leased == 0 {
            return Err(Report::internal("the job was over before the loss of a worker was noticed"));
        }
        client.cancel(job).await?;
        farm.remove_worker().await?;
        wait_until(&client, "the job has ended", |status| status.live_jobs == 0).await?;
        client.close().await;
        Ok((noticed, status.retried))
    }
}
