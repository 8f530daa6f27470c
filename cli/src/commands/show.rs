//! Jobs and farms as text for people, and as JSON for programs.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farm_proto::ids::JobId;
use farm_proto::job::{Counts, JobState, JobStatus};
use farm_proto::message::FarmStatus;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde::Serialize;
use serde_json::json;

/// A job for programs. The names are a promise.
#[derive(Debug, Serialize)]
pub(super) struct JobJson<'a> {
    id: u64,
    name: Option<&'a str>,
    owner: &'a str,
    cluster: &'a str,
    function: &'a str,
    module: String,
    state: JobState,
    tasks: u64,
    counts: Counts,
    priority: i32,
    submitted_ms: u64,
    ended_ms: Option<u64>,
    retried: u64,
    reason: Option<&'a str>,
    progress: Vec<serde_json::Value>,
    /// Earlier jobs whose end or results it needs.
    needs: Vec<u64>,
}

impl<'a> From<&'a JobStatus> for JobJson<'a> {
    fn from(status: &'a JobStatus) -> Self {
        let progress =
            status.progress.iter().map(|(task, done, total)| json!({"task": task, "done": done, "total": total}));
        Self {
            id: status.job.0,
            name: status.name.as_deref(),
            owner: &status.owner,
            cluster: &status.cluster,
            function: &status.function,
            module: status.module.to_string(),
            state: status.state,
            tasks: status.counts.total(),
            counts: status.counts,
            priority: status.priority,
            submitted_ms: status.submitted_ms,
            ended_ms: status.ended_ms,
            retried: status.retried,
            reason: status.reason.as_deref(),
            progress: progress.collect(),
            needs: status.needs.iter().map(|job| job.0).collect(),
        }
    }
}

pub(super) const fn state(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
        JobState::Failed => "failed",
    }
}

/// A table with a line a job, newest last.
pub(super) fn jobs(jobs: &[JobStatus]) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let rows = jobs.iter().map(|job| {
        vec![
            job.job.to_string(),
            state(job.state).to_owned(),
            HumanCount(job.counts.total()).to_string(),
            HumanCount(job.counts.succeeded).to_string(),
            HumanCount(job.counts.failed).to_string(),
            age(job),
            if job.needs.is_empty() { "-".to_owned() } else { numbers(&job.needs) },
            job.owner.clone(),
            job.name.clone().unwrap_or_else(|| job.function.clone()),
        ]
    });
    table(&["JOB", "STATE", "TASKS", "OK", "FAILED", "TOOK", "NEEDS", "OWNER", "NAME"], rows.collect())
}

/// One job in several lines.
pub(super) fn job(job: &JobStatus) -> String {
    let mut text = String::new();
    let name = job.name.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
    let counts = &job.counts;
    // Writing to a String cannot fail.
    let _ = writeln!(text, "job {}{name}: {}", job.job, state(job.state));
    if let Some(reason) = &job.reason {
        let _ = writeln!(text, "  reason     {reason}");
    }
    let function = if job.function.is_empty() { "(a WASI command)" } else { &job.function };
    let _ = writeln!(text, "  function   {function} of module {}", job.module.short());
    let _ = writeln!(
        text,
        "  tasks      {}: {} succeeded, {} failed, {} running, {} waiting, {} cancelled",
        HumanCount(counts.total()),
        HumanCount(counts.succeeded),
        HumanCount(counts.failed),
        HumanCount(counts.leased),
        HumanCount(counts.waiting),
        HumanCount(counts.cancelled),
    );
    if job.retried > 0 {
        let _ = writeln!(text, "  retried    {} attempts", HumanCount(job.retried));
    }
    if !job.needs.is_empty() {
        let _ = writeln!(text, "  needs      {}", job_list(&job.needs));
    }
    let _ = writeln!(text, "  owner      {}, priority {}", job.owner, job.priority);
    let _ = writeln!(text, "  took       {}", age(job));
    for (task, done, total) in job.progress.iter().take(10) {
        let _ = writeln!(text, "  task {task}   {done} of {total}");
    }
    text
}

fn numbers(jobs: &[JobId]) -> String {
    jobs.iter().map(JobId::to_string).collect::<Vec<_>>().join(", ")
}

/// Jobs as people name them.
pub(super) fn job_list(jobs: &[JobId]) -> String {
    format!("{} {}", if jobs.len() == 1 { "job" } else { "jobs" }, numbers(jobs))
}

/// How long a job has taken so far.
fn age(job: &JobStatus) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
    let took = job.ended_ms.unwrap_or(now).saturating_sub(job.submitted_ms);
    if took < 10_000 {
        format!("{:.2} s", took as f64 / 1000.0)
    } else {
        HumanDuration(Duration::from_millis(took)).to_string()
    }
}

/// The farm for programs. The names are a promise.
pub(super) fn farm_json(status: &FarmStatus) -> serde_json::Value {
    let workers = status.workers.iter().map(|worker| {
        json!({
            "id": worker.worker.0,
            "name": worker.hello.name,
            "host": worker.hello.host,
            "pid": worker.hello.pid,
            "slots": worker.hello.slots,
            "version": worker.hello.version,
            "leased": worker.leased,
            "finished": worker.finished,
            "draining": worker.draining,
            "connected_s": worker.connected_s,
        })
    });
    json!({
        "version": status.version,
        "pid": status.pid,
        "uptime_s": status.uptime_s,
        "memory": status.memory,
        "tasks": status.counts,
        "live_jobs": status.live_jobs,
        "workers": workers.collect::<Vec<_>>(),
    })
}

/// The farm in several lines.
pub(super) fn farm(status: &FarmStatus) -> String {
    let slots: u32 = status.workers.iter().map(|worker| worker.hello.slots).sum();
    let counts = &status.counts;
    let mut text = format!(
        "farm {}, up for {}, scheduler {} with {}\n{} live jobs; tasks: {} waiting, {} running, {} succeeded, {} failed\n\
         {} workers with {slots} slots\n",
        status.version,
        HumanDuration(Duration::from_secs(status.uptime_s)),
        status.pid,
        HumanBytes(status.memory),
        status.live_jobs,
        HumanCount(counts.waiting),
        HumanCount(counts.leased),
        HumanCount(counts.succeeded),
        HumanCount(counts.failed),
        status.workers.len(),
    );
    if status.workers.is_empty() {
        text.push_str("no worker is connected: jobs wait. `farm worker` starts one\n");
        return text;
    }
    let rows = status.workers.iter().map(|worker| {
        vec![
            worker.worker.to_string(),
            worker.hello.name.clone(),
            worker.hello.host.clone(),
            worker.hello.slots.to_string(),
            HumanCount(worker.leased).to_string(),
            HumanCount(worker.finished).to_string(),
            HumanDuration(Duration::from_secs(worker.connected_s)).to_string(),
            if worker.draining { "draining" } else { "up" }.to_owned(),
        ]
    });
    text.push_str(&table(&["WORKER", "NAME", "HOST", "SLOTS", "HOLDS", "DONE", "FOR", "STATE"], rows.collect()));
    text
}

/// Columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<_> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in &rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_listed() {
        assert_eq!(job_list(&[JobId(7)]), "job 7");
        assert_eq!(job_list(&[JobId(7), JobId(9)]), "jobs 7, 9");
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["1".to_owned(), "a long cell".to_owned()], vec!["22".to_owned(), "b".to_owned()]];
        assert_eq!(table(&["ID", "NAME"], rows), "ID  NAME\n1   a long cell\n22  b\n");
    }
}
