//! The start of a scheduler that was killed, with much behind it and much before it.

use std::fs;

use farm_client::launch::cores;
use indicatif::HumanCount;
use serde::Serialize;

use super::standing::Standing;
use super::{Bench, Line, disk_usage, median, megabytes, milliseconds};
use crate::commands::tell;
use crate::report::Report;

/// How many finished tasks there are for each waiting one.
const FINISHED: u64 = 10;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// From the start of a scheduler whose predecessor was killed to the line that says where it listens.
    recovery_ms: f64,
    /// Its memory by then, in bytes.
    recovery_memory: u64,
    /// The most that it ever took until then.
    recovery_peak_memory: u64,
    /// What its state takes on the disk.
    state_bytes: u64,
    /// Finished tasks in it.
    #[serde(skip)]
    finished: u64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Figures, Report> {
    let folder = bench.state_folder()?;
    let mut farm = Standing::start(bench, folder.path(), false).await?;
    farm.add_worker(cores()).await?;
    let waiting = bench.args.tasks;
    let finished = waiting.saturating_mul(FINISHED);
    tell(&format!("{} tasks to remember", HumanCount(finished)));
    farm.submit(&["--range", &format!("0..{finished}"), "--out", "/dev/null"]).await?;
    farm.end_workers().await?;
    farm.submit(&["--range", &format!("0..{waiting}"), "--detach"]).await?;
    tell("a scheduler that is killed");
    let state_bytes = disk_usage(farm.state())?;
    let (mut times, mut memory, mut peak) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.args.runs {
        times.push(milliseconds(farm.restart().await?));
        let client = farm.client().await?;
        let status = client.farm().await?;
        client.close().await;
        if (status.counts.succeeded, status.counts.waiting) != (finished, waiting) {
            return Err(Report::internal(format!("recovered something else: {:?}", status.counts)));
        }
        memory.push(status.memory as f64);
        peak.push(peak_memory(status.pid) as f64);
    }
    farm.end().await?;
    Ok(Figures {
        recovery_ms: median(&mut times),
        recovery_memory: median(&mut memory) as u64,
        recovery_peak_memory: median(&mut peak) as u64,
        state_bytes,
        finished,
    })
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let memory = format!("peak {}; at most 200 MB wanted", megabytes(self.recovery_peak_memory));
        let finished = format!("with {} finished tasks", HumanCount(self.finished));
        vec![
            Line::new("recovery", format!("{:.0} ms", self.recovery_ms), "at most 2000 ms wanted"),
            Line::new("memory after it", megabytes(self.recovery_memory), memory),
            Line::new("state on the disk", megabytes(self.state_bytes), finished),
        ]
    }
}

/// `VmHWM` of proc(5), in bytes; 0 where there is none.
fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}
