//! Workers: how they come and go.

use std::collections::BTreeSet;

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::message::Resume;
use farm_proto::why::Stage;

use crate::command::Command;
use crate::core::Core;
use crate::event::{Departure, Refused};
use crate::state::{Left, Place, Worker};
use crate::time::{Time, nanos};

/// Unit of the hungry workers' order: a worker with as many tasks as slots is this full.
const FULL: u64 = 1024;
/// The most slots of a worker: what one holds is looked through whenever it changes.
const MAX_SLOTS: u32 = 4096;

impl Core {
    pub(super) fn worker_joined(
        &mut self,
        id: WorkerId,
        cluster: ClusterId,
        slots: u32,
        ends: Option<Time>,
        resume: &Resume,
    ) -> Result<(), Refused> {
        if slots == 0 {
            return Err(Refused::NoSlots(id));
        }
        if self.workers.contains_key(&id) {
            return Err(Refused::WorkerTaken(id));
        }
        self.check_claims(id, resume)?;
        self.workers.insert(id, Worker::new(cluster, slots.min(MAX_SLOTS), ends, self.now));
        self.resume(id, resume);
        self.place(id);
        Ok(())
    }

    pub(super) fn worker_preparing(&mut self, id: WorkerId, job: JobId, stage: Stage) -> Result<(), Refused> {
        let worker = self.workers.get_mut(&id).ok_or(Refused::NoSuchWorker(id))?;
        if !worker.knows.contains(&job) {
            return self.late_about(id, job);
        }
        match stage {
            Stage::Ready => worker.preparing.remove(&job),
            stage => worker.preparing.insert(job, stage),
        };
        Ok(())
    }

    pub(super) fn worker_draining(&mut self, id: WorkerId) -> Result<(), Refused> {
        let worker = self.workers.get_mut(&id).ok_or(Refused::NoSuchWorker(id))?;
        if !worker.draining {
            worker.draining = true;
            for &lease in worker.leases.keys() {
                self.commands.push_back(Command::Recall { worker: id, lease, keep: 0 });
            }
            self.place(id);
        }
        Ok(())
    }

    /// Makes the tasks of a worker that is gone wait again.
    ///
    /// A worker does not tell when it starts a task. Its slots take the tasks in the order in which they were sent, so
    /// of those without an answer, the first ones, as many as it has slots, may have been running: their crashes are
    /// counted. The others were at most finished without the answer having got through, and bear no blame; but they are
    /// remembered as lost, and leased in smaller portions the next time, so that a task which takes whole workers down
    /// is found after a few of them.
    ///
    /// If it turns out that the worker lives, [it is forgiven](Self::resume).
    pub(super) fn worker_left(&mut self, id: WorkerId, how: Departure) -> Result<(), Refused> {
        if !self.workers.contains_key(&id) {
            return Err(Refused::NoSuchWorker(id));
        }
        self.displace(id);
        self.commands.retain(|command| !command.is_for(id));
        let Some(worker) = self.workers.remove(&id) else { return Err(Refused::NoSuchWorker(id)) };
        for job in &worker.knows {
            if let Some(job) = self.jobs.get_mut(job) {
                job.known.remove(&id);
            }
        }

        let mut may_have_run = match how {
            Departure::Lost => u64::from(worker.slots),
            Departure::Planned => 0,
        };
        let mut crashed = Vec::new();
        let mut jobs = BTreeSet::new();
        for (lease, held) in worker.leases {
            let Some(job) = self.jobs.get_mut(&held.job) else { continue };
            jobs.insert(held.job);
            job.leases.remove(&lease);
            job.leased -= held.remaining.len();
            self.pools.entry(job.cluster).or_default().owners.correct(job.owner, held.charge(held.remaining.len()), 0);
            let before = may_have_run;
            for range in held.remaining.iter() {
                let blamed = (range.end - range.start).min(may_have_run);
                may_have_run -= blamed;
                let (blamed, others) = (range.start..range.start + blamed, range.start + blamed..range.end);
                if how == Departure::Lost {
                    job.losses.raise(range);
                }
                job.put_back(others, self.config.crash_limit);
                crashed.extend(blamed.map(|task| (held.job, task)));
            }
            let (blamed, is_lost) = (before - may_have_run, how == Departure::Lost);
            job.remember(lease, Left { remaining: held.remaining, blamed, is_lost, sent: held.sent });
        }
        for (job, task) in crashed {
            self.task_crashed(job, task);
        }
        for job in jobs {
            self.sync_runnable(job);
            self.settle(job);
        }
        Ok(())
    }

    /// Takes a lease from its worker, whatever remains of it. [`Self::place`] the worker afterwards.
    pub(super) fn drop_lease(&mut self, id: WorkerId, lease: LeaseId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(held) = worker.leases.remove(&lease) else { return };
        worker.held -= held.remaining.len();
        worker.last_chances -= u32::from(held.last_chance);
        if let Some(job) = self.jobs.get_mut(&held.job) {
            job.leases.remove(&lease);
            self.pools.entry(job.cluster).or_default().owners.correct(job.owner, held.charge(held.remaining.len()), 0);
        }
    }

    /// Brings a worker to its place in the indices after what it holds has changed, and lets it go if it is to.
    pub(super) fn place(&mut self, id: WorkerId) {
        self.displace(id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let place = Self::place_of(worker, &self.config);
        worker.place = place;
        self.pools.entry(worker.cluster).or_default().place(id, place);
        if worker.draining && worker.held == 0 && !worker.dismissed {
            worker.dismissed = true;
            self.commands.push_back(Command::WorkerMayLeave { worker: id });
        }
    }

    /// Takes a worker out of the indices.
    fn displace(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let place = std::mem::take(&mut worker.place);
        if let Some(pool) = self.pools.get_mut(&worker.cluster) {
            pool.displace(id, place);
        }
    }

    /// Where a worker belongs.
    pub(super) fn place_of(worker: &Worker, config: &crate::Config) -> Place {
        if worker.draining {
            return Place::default();
        }
        let slots = u64::from(worker.slots);
        let load = worker.load(nanos(config.long_task));
        let hungry = load.free > 0 || Self::takes_more(&load, worker.slots, config);
        Place {
            hungry: hungry.then(|| worker.held.saturating_mul(FULL) / slots),
            queued: (load.queued > 0).then_some(load.queued_ns / slots),
            slots,
            free: load.free,
        }
    }
}
