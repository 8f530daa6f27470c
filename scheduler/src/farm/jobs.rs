//! What the owner knows of jobs that the core does not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use farm_core::{JobView, NewJob, TaskInput};
use farm_proto::cluster;
use farm_proto::ids::{ClusterId, Digest, JobId, WorkerId};
use farm_proto::job::{Args, JobSpec, JobStatus, ResultEncoding};
use farm_proto::message::SubmitKey;

use super::Reply;
use super::checkpoints::Checkpoints;
use super::quota::Kept;
use super::secrets::JobSecrets;
use crate::identity::caller::Caller;
use crate::job::args::ArgTable;
use crate::store::{JobEnd, JobResults, JobRow};

/// Tasks of one job whose progress is kept.
const MOST_PROGRESS: usize = 256;

/// One job.
#[derive(Debug)]
pub(super) struct JobRecord {
    pub(super) name: Option<String>,
    pub(super) cluster: String,
    pub(super) owner: String,
    pub(super) key: SubmitKey,
    pub(super) stamp: u64,
    pub(super) function: String,
    pub(super) module: Digest,
    pub(super) result: ResultEncoding,
    /// What it keeps on the disk.
    pub(super) kept: Kept,
    /// Earlier jobs whose end, results or arguments it needs as long as it is live.
    pub(super) needs: Vec<JobId>,
    pub(super) submitted_ms: u64,
    pub(super) ended_ms: Option<u64>,
    pub(super) results: Arc<JobResults>,
    /// What leases need. Dropped when the job has ended: what is left of it is small.
    pub(super) work: Option<(Arc<JobSpec>, Arc<ArgTable>)>,
    /// What is to be stored of it, until it is.
    pub(super) row: Option<Box<JobRow>>,
    pub(super) secrets: JobSecrets,
    pub(super) checkpoints: Checkpoints,
    /// What tasks last said of how far they are, and on which worker they run.
    progress: BTreeMap<u64, Progress>,
    /// Whether it is known to be stored.
    pub(super) accepted: bool,
    /// Who waits for the job to be accepted.
    pub(super) submitters: Vec<Reply<Arc<JobResults>>>,
    /// Set while it is being deleted: who waits for that. It is over, and nobody sees it.
    pub(super) deleting: Option<Vec<Reply<()>>>,
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
    /// A job that is about to be stored.
    pub(super) fn new(row: Box<JobRow>, args: Arc<ArgTable>, needs: Vec<JobId>, results: Arc<JobResults>) -> Self {
        let mut record = Self::of_row(&row, needs, results);
        // Workers need not know where arguments come from.
        record.work = Some((Arc::new(row.spec.for_worker()), args));
        record.row = Some(row);
        record
    }

    /// A job that was stored by an earlier scheduler.
    pub(super) fn of_row(row: &JobRow, needs: Vec<JobId>, results: Arc<JobResults>) -> Self {
        let JobRow { spec, .. } = row;
        Self {
            name: spec.name.clone(),
            cluster: spec.cluster.clone().unwrap_or_else(|| cluster::DEFAULT.to_owned()),
            owner: row.owner.clone(),
            key: row.key,
            stamp: row.stamp,
            function: spec.function.clone(),
            module: spec.module.digest,
            result: spec.module.result,
            kept: Kept::of(spec, row.inline.len()),
            needs,
            submitted_ms: row.submitted_ms,
            ended_ms: None,
            results,
            work: None,
            row: None,
            secrets: JobSecrets::of(&spec.mounts.secrets),
            checkpoints: Checkpoints::default(),
            progress: BTreeMap::new(),
            accepted: false,
            submitters: Vec::new(),
            deleting: None,
            cancellers: Vec::new(),
        }
    }

    /// Whether there is such a job, as far as the caller is to know.
    pub(super) fn is_visible(&self, caller: &Caller) -> bool {
        self.deleting.is_none() && caller.may_see(&self.owner)
    }

    pub(super) fn status(&self, view: JobView) -> JobStatus {
        let progress = self.progress.iter();
        JobStatus {
            job: view.job,
            name: self.name.clone(),
            owner: self.owner.clone(),
            cluster: self.cluster.clone(),
            function: self.function.clone(),
            module: self.module,
            result: self.result,
            state: view.state,
            counts: view.counts,
            priority: view.priority,
            submitted_ms: self.submitted_ms,
            ended_ms: self.ended_ms.filter(|_| view.state.is_final()),
            retried: view.retried,
            reason: view.reason,
            progress: progress.map(|(&task, said)| (task, said.done, said.total)).collect(),
            needs: self.needs.clone(),
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

    /// It is over, and that is stored.
    pub(super) fn ended(&mut self) {
        self.work = None;
        self.secrets.clear();
        self.checkpoints.clear();
        self.progress.clear();
        self.results.close();
    }

    /// It was over when an earlier scheduler ended.
    pub(super) fn had_ended(&mut self, end: &JobEnd) {
        self.ended_ms = Some(end.ended_ms);
        self.ended();
    }
}

/// A job of a cluster as the core wants to know it.
pub(super) fn new_job(row: &JobRow, cluster: ClusterId) -> NewJob {
    let JobRow { owner, spec, arg_bytes, task_ns, .. } = row;
    let input = match &spec.args {
        Args::Results(results) => Some(TaskInput { job: results.job, fan_in: results.fan_in() }),
        _ => None,
    };
    NewJob {
        cluster,
        time_request: spec.time_request_ms.map(|ms| ms.saturating_mul(1_000_000)),
        owner: owner.clone(),
        priority: spec.priority,
        tasks: spec.args.count(),
        retries: spec.retries,
        max_failures: spec.max_failures,
        arg_bytes: *arg_bytes,
        task_ns: *task_ns,
        after: spec.after.clone(),
        input,
    }
}

/// Jobs by id.
pub(super) type Jobs = BTreeMap<JobId, JobRecord>;
