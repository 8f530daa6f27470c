//! What tasks have kept for their next attempts.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::why::Checkpoint;

use super::Restored;
use super::owner::Owner;
use crate::clock::unix_ms;
use crate::store::{CheckpointRow, KeptState, Record};

/// Those of a job. Most jobs have none.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    tasks: BTreeMap<u64, Kept>,
    /// All states together.
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    state: KeptState,
    /// The state itself, until the record of this number is written: then it can be read again.
    unwritten: Option<(u64, Bytes)>,
}

impl Checkpoints {
    /// Those that an earlier scheduler had stored.
    pub(super) fn recovered(tasks: BTreeMap<u64, KeptState>) -> Self {
        let bytes = tasks.values().map(|state| state.bytes).sum();
        let tasks = tasks.into_iter().map(|(task, state)| (task, Kept { state, unwritten: None }));
        Self { tasks: tasks.collect(), bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn of_task(&self, task: u64) -> Option<Checkpoint> {
        let kept = self.tasks.get(&task)?;
        Some(Checkpoint { bytes: kept.state.bytes, kept_ms: kept.state.kept_ms })
    }

    /// What tasks that are leased now go on from.
    pub(super) fn of(&self, tasks: Range<u64>) -> Vec<Restored> {
        let kept = self.tasks.range(tasks).map(|(&task, kept)| Restored {
            task,
            bytes: kept.state.bytes,
            state: kept.unwritten.as_ref().map(|(_, state)| state.clone()),
        });
        kept.collect()
    }

    /// Whether a later lease than this one has kept something for the task.
    fn is_late(&self, task: u64, lease: LeaseId) -> bool {
        self.tasks.get(&task).is_some_and(|kept| kept.state.lease > lease)
    }

    fn keep(&mut self, task: u64, state: KeptState, unwritten: (u64, Bytes)) {
        self.bytes += state.bytes;
        if let Some(old) = self.tasks.insert(task, Kept { state, unwritten: Some(unwritten) }) {
            self.bytes -= old.state.bytes;
        }
    }

    fn written(&mut self, task: u64, record: u64) {
        if let Some(kept) = self.tasks.get_mut(&task) {
            kept.unwritten.take_if(|(number, _)| *number == record);
        }
    }

    /// These tasks have an outcome. Whether one of them had kept something.
    pub(super) fn tasks_ended(&mut self, tasks: &Range<u64>) -> bool {
        let before = self.tasks.len();
        while let Some((&task, _)) = self.tasks.range(tasks.clone()).next() {
            if let Some(kept) = self.tasks.remove(&task) {
                self.bytes -= kept.state.bytes;
            }
        }
        self.tasks.len() < before
    }
}

/// States that may be in memory only, in the order in which they are written: record, job and task.
pub(super) type Unwritten = VecDeque<(u64, JobId, u64)>;

impl Owner {
    /// A worker says that a task of a lease has kept a state. That of a task which it does not hold any more is nobody's.
    pub(super) fn checkpoint(&mut self, worker: WorkerId, lease: LeaseId, task: u64, state: Bytes) {
        let held = self.core.held_by(worker, lease, task);
        let Some((job, record)) = held.and_then(|job| Some((job, self.jobs.get_mut(&job)?))) else {
            tracing::debug!(%worker, %lease, task, "a checkpoint of a task that it does not hold");
            return;
        };
        if record.checkpoints.is_late(task, lease) {
            tracing::debug!(%worker, %lease, task, "a checkpoint of an earlier lease than the last");
            return;
        }
        let kept = KeptState { lease, kept_ms: unix_ms(), bytes: state.len() as u64 };
        let row = CheckpointRow { job, task, kept, state: state.clone() };
        let number = self.commits.add_other(Record::Checkpoint(Box::new(row)));
        record.checkpoints.keep(task, kept, (number, state));
        self.unwritten.push_back((number, job, task));
    }

    /// Forgets states that can be read again.
    pub(super) fn settle_checkpoints(&mut self) {
        let written = self.commits.written();
        while let Some((record, job, task)) = self.unwritten.pop_front_if(|(record, ..)| *record <= written) {
            if let Some(job) = self.jobs.get_mut(&job) {
                job.checkpoints.written(task, record);
            }
        }
    }
}
