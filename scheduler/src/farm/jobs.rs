//! What the owner knows of jobs that the core does not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use farm_core::{JobView, NewJob};
use farm_proto::ids::{Digest, JobId, WorkerId};
use farm_proto::job::{JobSpec, JobStatus, ResultEncoding};

use super::Reply;
use crate::job::args::ArgTable;
use crate::results::JobResults;

/// Tasks of one job whose progress is kept.
const MOST_PROGRESS: usize = 256;

/// One job.
#[derive(Debug)]
pub(super) struct JobRecord {
    pub(super) name: Option<String>,
    pub(super) owner: String,
    pub(super) function: String,
    pub(super) module: Digest,
    result: ResultEncoding,
    submitted_ms: u64,
    ended_ms: Option<u64>,
    pub(super) results: Arc<JobResults>,
    /// What leases need. Dropped when the job has ended: what is left of it is small.
    pub(super) work: Option<(Arc<JobSpec>, Arc<ArgTable>)>,
    /// What tasks last said of how far they are, and on which worker they run.
    progress: BTreeMap<u64, Progress>,
    /// Who waits for the job to be accepted.
    pub(super) submitter: Option<Reply<Arc<JobResults>>>,
    /// Who waits for it to have been cancelled.
    pub(super) cancellers: Vec<Reply<JobStatus>>,
}

#[derive(Debug)]
struct Progress {
    worker: WorkerId,
    done: u64,
    total: u64,
}

impl JobRecord {
    pub(super) fn new(
        owner: String,
        spec: Arc<JobSpec>,
        args: Arc<ArgTable>,
        results: Arc<JobResults>,
        submitter: Reply<Arc<JobResults>>,
    ) -> Self {
        Self {
            name: spec.name.clone(),
            owner,
            function: spec.function.clone(),
            module: spec.module.digest,
            result: spec.module.result,
            submitted_ms: unix_ms(),
            ended_ms: None,
            results,
            work: Some((spec, args)),
            progress: BTreeMap::new(),
            submitter: Some(submitter),
            cancellers: Vec::new(),
        }
    }

    pub(super) fn status(&self, view: JobView) -> JobStatus {
        let progress = self.progress.iter();
        JobStatus {
            job: view.job,
            name: self.name.clone(),
            owner: self.owner.clone(),
            function: self.function.clone(),
            module: self.module,
            result: self.result,
            state: view.state,
            counts: view.counts,
            priority: view.priority,
            submitted_ms: self.submitted_ms,
            ended_ms: self.ended_ms,
            retried: view.retried,
            reason: view.reason,
            progress: progress.map(|(&task, said)| (task, said.done, said.total)).collect(),
        }
    }

    /// Notes how far a task is. Whether that is to be told to anyone.
    pub(super) fn progress(&mut self, worker: WorkerId, task: u64, done: u64, total: u64) -> bool {
        let known = self.progress.contains_key(&task);
        if self.ended_ms.is_some() || (!known && self.progress.len() >= MOST_PROGRESS) {
            return false;
        }
        self.progress.insert(task, Progress { worker, done, total });
        true
    }

    /// These tasks run no more.
    pub(super) fn tasks_ended(&mut self, tasks: &Range<u64>) {
        if !self.progress.is_empty() {
            self.progress.retain(|task, _| !tasks.contains(task));
        }
    }

    pub(super) fn worker_left(&mut self, worker: WorkerId) {
        self.progress.retain(|_, progress| progress.worker != worker);
    }

    pub(super) fn ended(&mut self) {
        self.ended_ms = Some(unix_ms());
        self.work = None;
        self.progress.clear();
    }
}

/// A job as the core wants to know it.
pub(super) fn new_job(owner: &str, spec: &JobSpec, args: &ArgTable, task_ns: Option<u64>) -> NewJob {
    NewJob {
        owner: owner.to_owned(),
        priority: spec.priority,
        tasks: spec.args.count(),
        retries: spec.retries,
        max_failures: spec.max_failures,
        arg_bytes: args.bytes_per_task(),
        task_ns,
    }
}

/// Jobs by id.
pub(super) type Jobs = BTreeMap<JobId, JobRecord>;

fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
