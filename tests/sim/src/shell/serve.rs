//! What comes from workers.

use farm_core::{Departure, Event};
use farm_proto::ids::{ClusterId, WorkerId};
use farm_proto::message::{Resume, SchedulerControl, WorkerControl};

use super::Acks;
use crate::model::Place;
use crate::network::ConnId;
use crate::stats::Kind;
use crate::worker::{FromWorker, Pid};
use crate::world::{World, note};

impl World {
    /// A worker joins or comes back.
    pub(crate) fn join(&mut self, conn: ConnId, pid: Pid, resume: &Resume) {
        let mut draining = false;
        if let Some((former, old)) = self.listed(pid) {
            if self.knows_former {
                self.count(Kind::RejoinedEarly);
                draining = self.shell().model.workers[&former].draining;
                self.scheduler_closes(old);
                self.worker_gone(former, Departure::Planned);
                self.tell(Event::WorkerLeft { worker: former, how: Departure::Planned });
            } else {
                self.count(Kind::RejoinedBeside);
            }
        }
        let Some(shell) = &mut self.shell else { return };
        let worker = WorkerId(shell.next_worker);
        shell.next_worker += 1;
        shell.conns.insert(worker, conn);
        shell.acks.insert(worker, Acks::default());
        self.conns.get_mut(&conn).expect("a connection").worker = Some(worker);
        note!(self, "{pid:?} is worker {worker}");
        self.send_control(conn, SchedulerControl::Welcome { worker });
        self.work_after_control(conn);

        let process = &self.workers.get(&pid);
        let slots = process.map_or(1, |process| process.slots.len() as u32);
        let cluster = process.map_or(ClusterId::DEFAULT, |process| process.cluster);
        let last_life = process.map_or(0, |process| process.life);
        if last_life > 0 {
            self.count(if last_life == self.life { Kind::Rejoined } else { Kind::RejoinedNewLife });
        }
        let Some(shell) = &mut self.shell else { return };
        shell.model.joined(worker, (cluster, slots), resume, &shell.core, &mut self.stats);
        self.tell(Event::WorkerJoined { worker, cluster, slots, ends: None, resume });
        if draining {
            self.worker_drains(worker);
        }
    }

    /// The worker that this process is listed as, if it is.
    pub(crate) fn listed(&self, pid: Pid) -> Option<(WorkerId, ConnId)> {
        let mut conns = self.shell.as_ref()?.conns.iter();
        conns.find(|(_, conn)| self.conns[conn].pid == pid).map(|(&worker, &conn)| (worker, conn))
    }

    /// The shell has no connection to the worker any more.
    pub(crate) fn worker_gone(&mut self, worker: WorkerId, how: Departure) {
        let Some(shell) = &mut self.shell else { return };
        shell.conns.remove(&worker);
        shell.acks.remove(&worker);
        shell.model.left(worker, how, &mut self.stats);
    }

    pub(crate) fn worker_drains(&mut self, id: WorkerId) {
        let Some(shell) = &mut self.shell else { return };
        let Some(worker) = shell.model.workers.get_mut(&id) else { return };
        worker.draining = true;
        self.tell(Event::WorkerDraining { worker: id });
    }

    pub(crate) fn control_at_scheduler(&mut self, conn: ConnId, message: &WorkerControl) {
        if !self.is_heard(conn) {
            return;
        }
        let Some(worker) = self.conns[&conn].worker else { return };
        match message {
            WorkerControl::JobFailed { job, failure } => self.tell(Event::JobFailed { worker, job: *job, failure }),
            WorkerControl::Progress { .. } => {}
            WorkerControl::Preparing { job, stage } => {
                self.tell(Event::WorkerPreparing { worker, job: *job, stage: *stage });
            }
            WorkerControl::Draining => self.worker_drains(worker),
        }
    }

    pub(crate) fn work_at_scheduler(&mut self, conn: ConnId, message: &FromWorker) {
        if !self.is_heard(conn) {
            return;
        }
        let Some(worker) = self.conns[&conn].worker else { return };
        let (lease, tasks) = message.about();
        let job = self.lease_jobs.get(&lease).copied();
        let Some(shell) = &mut self.shell else { return };
        match message {
            FromWorker::Results { lease, batch, runs } => {
                let fenced = shell.model.batch(worker, *lease, batch, runs);
                (0..fenced).for_each(|_| self.stats.add(Kind::Fenced));
                self.tell(Event::BatchArrived { worker, lease: *lease, batch });
            }
            FromWorker::Lost { lease, task, run } => {
                shell.model.lost(worker, *lease, *task, *run);
                self.tell(Event::TaskLost { worker, lease: *lease, task: *task });
            }
            FromWorker::Returned { lease, first, count } => {
                shell.model.returned(worker, *lease, *first, *count);
                self.tell(Event::TasksReturned { worker, lease: *lease, first: *first, count: *count });
            }
        }
        // All that this message has led to is stored with the last fact that there is now.
        let Some(shell) = &mut self.shell else { return };
        let done = |task: &u64| {
            let job = job.and_then(|job| shell.model.jobs.get(&job));
            job.is_some_and(|job| matches!(job.place(*task), Place::Done(_)))
        };
        let kept: Vec<_> = tasks.filter(done).collect();
        let fact = shell.core.last_fact();
        if let Some(acks) = shell.acks.get_mut(&worker) {
            acks.received += 1;
            acks.waiting.push_back((acks.received, fact, job, kept));
        }
        self.release_acks();
    }

    /// Tells workers which of their answers need not be kept any longer.
    pub(super) fn release_acks(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        let mut told = Vec::new();
        for (&worker, acks) in &mut shell.acks {
            let before = acks.acked;
            while let Some((number, _, job, kept)) = acks.waiting.pop_front_if(|(_, fact, ..)| *fact <= shell.persisted)
            {
                acks.acked = number;
                // Deleted in the meantime: then it was there.
                let Some(stored) = job.and_then(|job| self.disk.jobs.get(&job)) else { continue };
                let there = kept.iter().all(|task| stored.outcomes.contains_key(task));
                assert!(there, "worker {worker} is told that answers are stored which are not");
            }
            if acks.acked > before {
                told.push((shell.conns[&worker], acks.acked));
            }
        }
        for (conn, messages) in told {
            self.send_control(conn, SchedulerControl::Stored { messages });
        }
    }
}
