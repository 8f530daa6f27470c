//! What the core asks for: one effect for each command.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use farm_core::{Command, Fact, FactSeq};
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::message::{Lease, SchedulerControl};

use super::owner::Owner;
use super::{Introduction, Order};
use crate::clock::{unix_ms, unix_ns};
use crate::store::{JobEnd, Outcomes, Record, Times};

impl Owner {
    /// Does what the core asks for. `in_hand`: the outcomes that it was just told of.
    pub(super) fn obey(&mut self, command: Command, in_hand: Option<&Outcomes>) {
        match command {
            Command::Persist { seq, fact } => self.persist(seq, fact, in_hand),
            Command::JobAccepted { job } => {
                if let Some(record) = self.jobs.get_mut(&job) {
                    record.accepted = true;
                    for submitter in std::mem::take(&mut record.submitters) {
                        // A submitter that has gone has its job all the same.
                        let _ = submitter.send(Ok(Arc::clone(&record.results)));
                    }
                }
            }
            Command::JobStarted { job } => {
                if let Some(record) = self.jobs.get(&job) {
                    record.results.touch();
                }
            }
            Command::OutcomesStored { job, seq: _ } => {
                if let Some(record) = self.jobs.get(&job) {
                    record.results.publish();
                }
            }
            Command::JobEnded { job, state } => self.job_ended(job, state),
            Command::SendLease { worker, lease, introduce } => self.send_lease(worker, lease, introduce),
            Command::Recall { worker, lease, keep } => {
                self.control(worker, SchedulerControl::Recall { lease, keep });
            }
            Command::CancelJob { worker, job } => self.control(worker, SchedulerControl::CancelJob { job }),
            Command::ForgetJob { worker, job } => self.control(worker, SchedulerControl::ForgetJob { job }),
            Command::WorkerMayLeave { worker } => self.control(worker, SchedulerControl::Exit),
        }
    }

    fn persist(&mut self, seq: FactSeq, fact: Fact, in_hand: Option<&Outcomes>) {
        match fact {
            Fact::JobAccepted { job, spec: _ } => {
                let row = self.jobs.get_mut(&job).and_then(|record| record.row.take());
                self.commits.add(seq, row.map(Record::Accepted));
            }
            Fact::Outcomes { job, accepted, failed: _, leased } => self.keep(seq, job, &accepted, leased, in_hand),
            Fact::TaskFailed { job, task, failure } => {
                let outcomes = Outcomes::of_failure(task, failure);
                let tasks = task..task + 1;
                self.keep(seq, job, std::slice::from_ref(&tasks), Duration::ZERO, Some(&outcomes));
            }
            Fact::JobEnded { job, state, reason, failed, missing, retried } => {
                let task_ns = self.core.job(job).and_then(|view| view.task_ns);
                let (ended_ms, mut bytes, mut dropped) = (unix_ms(), 0, None);
                if let Some(record) = self.jobs.get_mut(&job) {
                    record.ended_ms = Some(ended_ms);
                    bytes = record.kept.results;
                    // Nobody will need what its tasks have kept.
                    if !record.checkpoints.is_empty() {
                        record.checkpoints.clear();
                        dropped = Some(Record::CheckpointsDropped { job, tasks: 0..u64::MAX });
                    }
                }
                let end = JobEnd { state, reason, ended_ms, failed, missing, retried, task_ns, bytes };
                self.commits.add(seq, [Record::Ended { job, end }].into_iter().chain(dropped));
            }
        }
    }

    fn keep(
        &mut self,
        seq: FactSeq,
        job: JobId,
        accepted: &[Range<u64>],
        leased: Duration,
        in_hand: Option<&Outcomes>,
    ) {
        let (Some(record), Some(outcomes)) = (self.jobs.get_mut(&job), in_hand) else {
            tracing::error!(%job, "outcomes are to be stored that nobody sent; this is a bug");
            return;
        };
        let times = Times {
            submitted_ms: record.submitted_ms,
            leased_ns: u64::try_from(leased.as_nanos()).unwrap_or(u64::MAX),
            arrived_ns: unix_ns(),
        };
        let mut records = Vec::with_capacity(accepted.len());
        for tasks in accepted {
            record.tasks_ended(tasks);
            if record.checkpoints.tasks_ended(tasks) {
                records.push(Record::CheckpointsDropped { job, tasks: tasks.clone() });
            }
            // The core accepts nothing that is not in the batch.
            if let Some(outcomes) = outcomes.part(tasks) {
                record.kept.results += outcomes.weight() as u64;
                records.push(Record::Batch { results: Arc::clone(&record.results), outcomes, times });
            }
        }
        self.commits.add(seq, records);
    }

    fn job_ended(&mut self, job: JobId, state: JobState) {
        let (Some(record), Some(view)) = (self.jobs.get_mut(&job), self.core.job(job)) else {
            return;
        };
        let counts = view.counts;
        let (succeeded, failed, reason) = (counts.succeeded, counts.failed, view.reason.as_deref());
        tracing::info!(%job, ?state, succeeded, failed, reason, "job ended");
        if let Some(nanos) = view.task_ns {
            self.measured.set(record.module, &record.function, nanos);
        }
        record.ended();
        for canceller in std::mem::take(&mut record.cancellers) {
            let _ = canceller.send(Ok(record.status(view.clone())));
        }
    }

    fn send_lease(&mut self, worker: WorkerId, lease: Lease, introduce: bool) {
        let (Some(peer), Some(record)) = (self.workers.get(&worker), self.jobs.get_mut(&lease.job)) else {
            return;
        };
        let Some((spec, args)) = &record.work else {
            return;
        };
        let introduce = introduce.then(|| {
            record.secrets.tell(worker);
            Introduction { spec: Arc::clone(spec), stamp: record.stamp, secrets: record.secrets.values() }
        });
        let restored = record.checkpoints.of(lease.first..lease.first + u64::from(lease.count));
        peer.outbox.work(Order::Lease { introduce, args: Arc::clone(args), restored, lease });
    }

    /// To a worker that has just gone, nothing is sent.
    pub(super) fn control(&self, worker: WorkerId, message: SchedulerControl) {
        if let Some(peer) = self.workers.get(&worker) {
            peer.outbox.control(message);
        }
    }
}
