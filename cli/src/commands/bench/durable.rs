//! What it costs that nothing acknowledged is ever lost: a farm with a store beside one without.

use std::time::Instant;

use farm_client::args::Arguments;
use farm_client::blobs::JobBlobs;
use farm_client::launch::cores;
use farm_proto::ids::Digest;
use farm_proto::job::Args;
use indicatif::HumanCount;
use serde::Serialize;

use super::standing::{Standing, wait_until};
use super::{Bench, Line, latency, median, milliseconds, per_second};
use crate::commands::tell;
use crate::report::Report;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// Tasks a second of `farm submit --range` on a farm that is up and has a store.
    durable_per_s: f64,
    /// The same without one, run in turns.
    ephemeral_per_s: f64,
    /// The first as a part of the second: the median of each pair's.
    durable_share: f64,
    /// From sending a job with a table to its acceptance, where the table's blobs are on the farm already.
    acknowledged_ms: f64,
    /// One task on a farm that is up and has a store: submit to result.
    durable_round_trip_median_ms: f64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Figures, Report> {
    let folder = bench.state_folder()?;
    let mut durable = Standing::start(bench, folder.path(), false).await?;
    durable.add_worker(cores()).await?;
    let mut ephemeral = Standing::start(bench, folder.path(), true).await?;
    ephemeral.add_worker(cores()).await?;
    let tasks = bench.args.tasks;
    tell(&format!("{} tasks with and without a store", HumanCount(tasks)));
    for farm in [&durable, &ephemeral] {
        rate(farm, tasks.div_ceil(10)).await?;
    }
    let (mut with, mut without, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..bench.args.runs {
        // Who goes first alternates: what one leaves to do falls on the other.
        let (stored, not_stored) = if run % 2 == 0 {
            let stored = rate(&durable, tasks).await?;
            (stored, rate(&ephemeral, tasks).await?)
        } else {
            let not_stored = rate(&ephemeral, tasks).await?;
            (rate(&durable, tasks).await?, not_stored)
        };
        with.push(stored);
        without.push(not_stored);
        shares.push(stored / not_stored);
    }
    ephemeral.end().await?;
    tell(&format!("a table of {} arguments", HumanCount(tasks)));
    let acknowledged = acknowledged(bench, &durable).await?;
    tell("single tasks with a store");
    let client = durable.client().await?;
    let (round_trip, _) = latency::round_trips(bench, &client).await?;
    client.close().await;
    durable.end().await?;
    Ok(Figures {
        durable_per_s: median(&mut with),
        ephemeral_per_s: median(&mut without),
        durable_share: median(&mut shares),
        acknowledged_ms: acknowledged,
        durable_round_trip_median_ms: round_trip,
    })
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let share = format!("{:.0} % of one without; at least 90 % wanted", 100.0 * self.durable_share);
        vec![
            Line::new("farm with a store", per_second(self.durable_per_s), share),
            Line::new("farm without one", per_second(self.ephemeral_per_s), ""),
            Line::new("a table is acknowledged in", format!("{:.1} ms", self.acknowledged_ms), "at most 50 ms wanted"),
            Line::new("round trip with a store", format!("{:.2} ms", self.durable_round_trip_median_ms), ""),
        ]
    }
}

async fn rate(farm: &Standing<'_>, tasks: u64) -> Result<f64, Report> {
    let took = farm.submit(&["--range", &format!("0..{tasks}"), "--out", "/dev/null"]).await?;
    Ok(tasks as f64 / took.as_secs_f64())
}

async fn acknowledged(bench: &Bench, farm: &Standing<'_>) -> Result<f64, Report> {
    let function = bench.module.function(Some(&bench.args.function))?;
    let mut times = Vec::new();
    for run in 0..u64::from(bench.args.runs) {
        // Other numbers in each run, so that the farm has seen none of its tables before.
        let numbers = (0..bench.args.tasks).map(|number| number + run);
        let arguments = Arguments::from_values(numbers, &mut |element, out| function.encode(element, out))?;
        let job = bench.job(arguments)?;
        let blobs = JobBlobs::new(job.module.bytes.clone(), job.module.info.digest, &job.arguments, &job.inputs);
        let client = farm.client().await?;
        client.upload(&digests(&job.spec.args), &blobs, &|_| {}).await?;
        let since = Instant::now();
        let watch = client.submit(&job.spec, job.arguments.inline_payload(), &blobs, false, &|_| {}).await?;
        times.push(milliseconds(since.elapsed()));
        client.cancel(watch.job()).await?;
        wait_until(&client, "the job has ended", |status| status.live_jobs == 0).await?;
        client.close().await;
    }
    Ok(median(&mut times))
}

fn digests(args: &Args) -> Vec<Digest> {
    match args {
        Args::Chunks(chunks) => chunks.iter().map(|chunk| chunk.digest).collect(),
        // A small table travels with the job.
        _ => Vec::new(),
    }
}
