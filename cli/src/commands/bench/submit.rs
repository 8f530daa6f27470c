//! Large jobs, each on a farm that `farm submit` makes for it.

use std::fs;
use std::path::Path;

use farm_client::client::Client;
use farm_client::launch::{LocalFarm, Workers};
use indicatif::HumanCount;
use serde::Serialize;

use super::{Bench, Line, per_second, sandbox};
use crate::commands::tell;
use crate::report::Report;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// Tasks a second of `farm submit --range`, from the start of the command to its end.
    submit_range_per_s: f64,
    /// As a part of `sandbox_all_cores_per_s`.
    submit_range_share: f64,
    /// Tasks a second of `farm submit --args FILE`.
    submit_args_per_s: f64,
    submit_args_share: f64,
    /// Memory of the scheduler for each waiting task of a `--range` job.
    scheduler_bytes_per_queued_task: f64,
}

pub(super) async fn measure(bench: &Bench, sandbox: Option<&sandbox::Figures>) -> Result<Figures, Report> {
    let tasks = bench.args.tasks;
    let range = format!("0..{tasks}");
    let table = bench.folder.path().join("args.json");
    write_table(&table, tasks)?;
    let table = table.display().to_string();
    let all = match sandbox {
        Some(figures) => figures.sandbox_all_cores_per_s,
        None => {
            tell("the sandbox alone");
            sandbox::all_cores(bench)?
        }
    };
    tell(&format!("{} tasks by --range", HumanCount(tasks)));
    let by_range = bench.median(|| Ok(tasks as f64 / bench.submit(&["--range", &range], "warm")?.as_secs_f64()))?;
    tell(&format!("{} tasks by --args", HumanCount(tasks)));
    let by_args = bench.median(|| Ok(tasks as f64 / bench.submit(&["--args", &table], "warm")?.as_secs_f64()))?;
    tell("tasks that wait");
    Ok(Figures {
        submit_range_per_s: by_range,
        submit_range_share: by_range / all,
        submit_args_per_s: by_args,
        submit_args_share: by_args / all,
        scheduler_bytes_per_queued_task: queued_bytes(bench).await?,
    })
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let share = |share: f64| format!("{:.0} % of the sandbox alone", 100.0 * share);
        vec![
            Line::new("farm submit --range", per_second(self.submit_range_per_s), share(self.submit_range_share)),
            Line::new("farm submit --args FILE", per_second(self.submit_args_per_s), share(self.submit_args_share)),
            Line::new("scheduler, a queued task", format!("{:.2} B", self.scheduler_bytes_per_queued_task), ""),
        ]
    }
}

fn write_table(path: &Path, tasks: u64) -> Result<(), Report> {
    use std::io::Write as _;
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    write!(file, "[0")?;
    for number in 1..tasks {
        write!(file, ",{number}")?;
    }
    writeln!(file, "]")?;
    Ok(file.flush()?)
}

/// What a waiting task costs a scheduler that no worker has come to.
async fn queued_bytes(bench: &Bench) -> Result<f64, Report> {
    let farm = LocalFarm::start(&bench.exe, Workers { workers: 0, slots: 1 }).await?;
    let client = Client::connect(&farm.admin, None).await?;
    let tasks = bench.args.tasks;
    let job = bench.job(bench.range(tasks)?)?;
    // The first job brings the module and what every first time costs.
    bench.job(bench.range(1)?)?.submit(&client, false, &|_| {}).await?;
    let before = client.farm().await?.memory;
    job.submit(&client, false, &|_| {}).await?;
    let after = client.farm().await?;
    client.close().await;
    farm.stop().await;
    if after.counts.waiting < tasks {
        return Err(Report::internal("the tasks do not wait"));
    }
    Ok(after.memory.saturating_sub(before) as f64 / tasks as f64)
}
