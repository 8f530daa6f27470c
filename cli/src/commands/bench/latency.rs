//! Single tasks: on a farm that is up, and where there is none.

use std::time::Instant;

use farm_client::client::{Client, Update};
use farm_client::launch::{LocalFarm, Workers};
use serde::Serialize;

use super::{Bench, Line, milliseconds, quantile};
use crate::commands::tell;
use crate::report::Report;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// One task on a farm that is up: submit to result.
    round_trip_median_ms: f64,
    round_trip_p99_ms: f64,
    /// `farm submit` of one task with no farm up, the whole command.
    first_result_cold_ms: f64,
    /// The same where the module has been compiled before.
    first_result_warm_ms: f64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Figures, Report> {
    tell("single tasks on a farm that is up");
    let farm = LocalFarm::start(&bench.exe, Workers::on_this_machine(None)).await?;
    let client = Client::connect(&farm.admin, None).await?;
    let (median, p99) = round_trips(bench, &client).await?;
    client.close().await;
    farm.stop().await;
    tell("single tasks with no farm up");
    let mut number = 0;
    let cold = bench.median(|| {
        number += 1;
        Ok(milliseconds(bench.submit(&["--args", "[7]"], &format!("cold-{number}"))?))
    })?;
    let warm = bench.median(|| Ok(milliseconds(bench.submit(&["--args", "[7]"], "warm")?)))?;
    Ok(Figures {
        round_trip_median_ms: median,
        round_trip_p99_ms: p99,
        first_result_cold_ms: cold,
        first_result_warm_ms: warm,
    })
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let first = format!("{:.0} ms", self.first_result_warm_ms);
        vec![
            Line::new(
                "round trip of one task",
                format!("{:.2} ms", self.round_trip_median_ms),
                format!("p99 {:.2} ms", self.round_trip_p99_ms),
            ),
            Line::new("first result with no farm up", first, format!("cold {:.0} ms", self.first_result_cold_ms)),
        ]
    }
}

/// Median and 99th percentile, in milliseconds, of 200 single tasks after 20 that warm up.
pub(super) async fn round_trips(bench: &Bench, client: &Client) -> Result<(f64, f64), Report> {
    const WARM_UP: usize = 20;
    let job = bench.job(bench.range(1)?)?;
    let mut times = Vec::new();
    for _ in 0..WARM_UP + 200 {
        let since = Instant::now();
        let mut watch = job.submit(client, true, &|_| {}).await?;
        while let Some(update) = watch.next().await? {
            if let Update::Results { .. } = update {
                times.push(milliseconds(since.elapsed()));
            }
        }
    }
    let mut times = times.split_off(WARM_UP.min(times.len()));
    Ok((quantile(&mut times, 0.5), quantile(&mut times, 0.99)))
}
