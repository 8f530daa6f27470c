//! What the core asks for: one effect for each command.

use std::ops::Range;
use std::sync::Arc;

use farm_core::{Command, Fact, FactSeq};
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::message::{Lease, SchedulerControl};

use super::Order;
use super::owner::Owner;
use crate::results::Outcomes;

impl Owner {
    /// Does what the core asks for. `in_hand`: the outcomes that it was just told of.
    pub(super) fn obey(&mut self, command: Command, in_hand: Option<&Outcomes>) {
        match command {
            Command::Persist { seq, fact } => self.persist(seq, fact, in_hand),
            Command::JobAccepted { job } => {
                if let Some(record) = self.jobs.get_mut(&job)
                    && let Some(submitter) = record.submitter.take()
                {
                    // A submitter that has gone has its job all the same.
                    let _ = submitter.send(Ok(Arc::clone(&record.results)));
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
            // There was room for it when it came. Jobs themselves are in memory only, for now.
            Fact::JobAccepted { .. } => self.commits.add(seq, None),
            Fact::Outcomes { job, accepted, failed: _ } => self.keep(seq, job, &accepted, in_hand),
            Fact::TaskFailed { job, task, failure } => {
                let record = self.jobs.get_mut(&job).map(|record| {
                    record.tasks_ended(&(task..task + 1));
                    (Arc::clone(&record.results), Outcomes::of_failure(task, failure))
                });
                self.commits.add(seq, record);
            }
            // Follows from the core's memory until jobs survive a restart.
            Fact::JobEnded { .. } => self.commits.add(seq, None),
        }
    }

    fn keep(&mut self, seq: FactSeq, job: JobId, accepted: &[Range<u64>], in_hand: Option<&Outcomes>) {
        let (Some(record), Some(outcomes)) = (self.jobs.get_mut(&job), in_hand) else {
            tracing::error!(%job, "outcomes are to be stored that nobody sent; this is a bug");
            return self.commits.add(seq, None);
        };
        let mut records = Vec::with_capacity(accepted.len());
        for tasks in accepted {
            record.tasks_ended(tasks);
            // The core accepts nothing that is not in the batch.
            records.extend(outcomes.part(tasks).map(|part| (Arc::clone(&record.results), part)));
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
        record.results.close();
        self.commits.end(job);
        for canceller in std::mem::take(&mut record.cancellers) {
            let _ = canceller.send(Ok(record.status(view.clone())));
        }
    }

    fn send_lease(&self, worker: WorkerId, lease: Lease, introduce: bool) {
        let work = self.jobs.get(&lease.job).and_then(|record| record.work.as_ref());
        let (Some(peer), Some((spec, args))) = (self.workers.get(&worker), work) else {
            return;
        };
        peer.outbox.work(Order { introduce: introduce.then(|| Arc::clone(spec)), args: Arc::clone(args), lease });
    }

    /// To a worker that has just gone, nothing is sent.
    fn control(&self, worker: WorkerId, message: SchedulerControl) {
        if let Some(peer) = self.workers.get(&worker) {
            peer.outbox.control(message);
        }
    }
}
