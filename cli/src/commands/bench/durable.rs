//! What it costs that nothing acknowledged is ever lost: a farm with a store beside one without.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use farm_client::args::Arguments;
use farm_client::blobs::JobBlobs;
use farm_client::client::{BlobSource, Opened};
use farm_client::launch::cores;
use farm_proto::ids::Digest;
use indicatif::HumanCount;
use serde::Serialize;
use tokio::io::{AsyncRead, ReadBuf};

use super::standing::{Standing, wait_until};
use super::{Bench, Line, latency, median, milliseconds, most, per_second};
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
    /// From the last byte of a job with a table, as it is handed to the connection, to the job's acceptance.
    acknowledged_ms: f64,
    /// The longest of all runs.
    acknowledged_most_ms: f64,
    /// One task on a farm that is up and has a store: submit to result.
    durable_round_trip_median_ms: f64,
    durable_round_trip_p99_ms: f64,
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
    let mut acknowledged = acknowledged(bench, &durable).await?;
    tell("single tasks with a store");
    let client = durable.client().await?;
    let (round_trip, round_trip_p99) = latency::round_trips(bench, &client).await?;
    client.close().await;
    durable.end().await?;
    Ok(Figures {
        durable_per_s: median(&mut with),
        ephemeral_per_s: median(&mut without),
        durable_share: median(&mut shares),
        acknowledged_most_ms: most(&acknowledged),
        acknowledged_ms: median(&mut acknowledged),
        durable_round_trip_median_ms: round_trip,
        durable_round_trip_p99_ms: round_trip_p99,
    })
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let share = format!("{:.0} % of one without; at least 90 % wanted", 100.0 * self.durable_share);
        let most = format!("the longest {:.1} ms; at most 50 ms wanted", self.acknowledged_most_ms);
        let p99 = format!("p99 {:.2} ms", self.durable_round_trip_p99_ms);
        vec![
            Line::new("farm with a store", per_second(self.durable_per_s), share),
            Line::new("farm without one", per_second(self.ephemeral_per_s), ""),
            Line::new("a table is acknowledged in", format!("{:.1} ms", self.acknowledged_ms), most),
            Line::new("round trip with a store", format!("{:.2} ms", self.durable_round_trip_median_ms), p99),
        ]
    }
}

async fn rate(farm: &Standing<'_>, tasks: u64) -> Result<f64, Report> {
    let took = farm.submit(&["--range", &format!("0..{tasks}"), "--out", "/dev/null"]).await?;
    Ok(tasks as f64 / took.as_secs_f64())
}

/// How long each of some jobs with a table waits for its acceptance when all of it has been sent.
async fn acknowledged(bench: &Bench, farm: &Standing<'_>) -> Result<Vec<f64>, Report> {
    let function = bench.module.function(Some(&bench.args.function))?;
    let mut times = Vec::new();
    for run in 0..u64::from(bench.args.runs) {
        // Other numbers in each run, so that the farm has seen none of its tables before.
        let numbers = (0..bench.args.tasks).map(|number| number + run);
        let arguments = Arguments::from_values(numbers, &mut |element, out| function.encode(element, out))?;
        let job = bench.job(arguments)?;
        let blobs = JobBlobs::new(job.module.bytes.clone(), job.module.info.digest, &job.arguments, &job.inputs);
        // A small table travels with the job: then that is sent last.
        let blobs = Sent { blobs, last: Arc::new(Mutex::new(Instant::now())) };
        let client = farm.client().await?;
        let watch = client.submit(&job.spec, job.arguments.inline_payload(), &blobs, false, &|_| {}).await?;
        let accepted = Instant::now();
        let last = *blobs.last.lock().unwrap_or_else(PoisonError::into_inner);
        times.push(milliseconds(accepted - last));
        client.cancel(watch.job()).await?;
        wait_until(&client, "the job has ended", |status| status.live_jobs == 0).await?;
        client.close().await;
    }
    Ok(times)
}

/// Blobs, and when the last byte of any of them was taken to be sent.
struct Sent<'a> {
    blobs: JobBlobs<'a>,
    last: Arc<Mutex<Instant>>,
}

impl BlobSource for Sent<'_> {
    async fn open(&self, digest: &Digest) -> io::Result<Option<Opened>> {
        let opened = self.blobs.open(digest).await?;
        let last = Arc::clone(&self.last);
        Ok(opened.map(|opened| Opened { bytes: Box::new(Noting { reader: opened.bytes, last }), ..opened }))
    }
}

/// Notes when it was last read.
struct Noting {
    reader: Box<dyn AsyncRead + Unpin + Send>,
    last: Arc<Mutex<Instant>>,
}

impl AsyncRead for Noting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.reader).poll_read(context, buffer);
        // Nothing is read at its end.
        if buffer.filled().len() > before {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        polled
    }
}
