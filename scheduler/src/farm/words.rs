//! What workers say.

use std::collections::VecDeque;
use std::time::Duration;

use farm_core::{Departure, Event, Refused};
use farm_proto::close;
use farm_proto::ids::WorkerId;
use farm_proto::message::{Resume, SchedulerControl, WorkerHello};
use tokio::time::Instant;

use super::owner::Owner;
use super::{Order, Outbox, Said};

/// How much later than it said a worker may be seen to end.
const LATE: Duration = Duration::from_secs(15);

/// A worker.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) cluster: String,
    pub(super) hello: WorkerHello,
    pub(super) outbox: Outbox,
    pub(super) connected: Instant,
    /// Messages of its work stream that were taken in.
    heard: u64,
    /// Those whose effects may not be stored yet: the last record that they led to, and how many messages they are by
    /// then.
    owed: VecDeque<(u64, u64)>,
}

impl Owner {
    pub(super) fn hear(&mut self, worker: WorkerId, said: Said) {
        let is_answer =
            matches!(said, Said::Results { .. } | Said::Lost { .. } | Said::Returned { .. } | Said::Checkpoint { .. });
        let heard = match said {
            Said::Joined { cluster, hello, resume, outbox } => self.joined(worker, cluster, hello, resume, outbox),
            Said::Results { lease, outcomes } => {
                let batch = &outcomes.batch;
                self.handle(Event::BatchArrived { worker, lease, batch }, Some(&outcomes))
            }
            Said::Lost { lease, task, message } => {
                tracing::warn!(%worker, %lease, task, message, "a slot died");
                self.handle(Event::TaskLost { worker, lease, task }, None)
            }
            Said::Returned { lease, first, count } | Said::NotSent { lease, first, count } => {
                self.handle(Event::TasksReturned { worker, lease, first, count }, None)
            }
            Said::Checkpoint { lease, task, state } => {
                self.checkpoint(worker, lease, task, state);
                Ok(())
            }
            Said::JobFailed { job, failure } => {
                let failure = &failure;
                self.handle(Event::JobFailed { worker, job, failure }, None)
            }
            Said::Preparing { job, stage } => self.handle(Event::WorkerPreparing { worker, job, stage }, None),
            Said::Progress { job, task, done, total } => {
                if let Some(record) = self.jobs.get_mut(&job)
                    && record.progress(worker, task, done, total)
                {
                    record.results.touch();
                }
                Ok(())
            }
            Said::Draining => self.handle(Event::WorkerDraining { worker }, None),
            Said::Left(how) => self.left(worker, how),
        };
        match heard {
            Ok(()) if is_answer => self.owe(worker),
            // Its connection was closed, and what it had said before that is still coming in.
            Ok(()) | Err(Refused::NoSuchWorker(_)) => {}
            Err(refused) => {
                tracing::warn!(%worker, %refused, "the worker breaks the protocol");
                if let Some(peer) = self.workers.get(&worker) {
                    let reason = refused.to_string();
                    peer.outbox.connection.close(close::PROTOCOL.into(), reason.as_bytes());
                }
            }
        }
    }

    fn joined(
        &mut self,
        worker: WorkerId,
        cluster: String,
        hello: WorkerHello,
        mut resume: Resume,
        outbox: Outbox,
    ) -> Result<(), Refused> {
        let slots = hello.slots;
        let WorkerHello { name, host, pid, incarnation, .. } = &hello;
        let (jobs, leases) = (resume.jobs.len(), resume.claims.len());
        if !self.clusters.takes_workers(&cluster) {
            tracing::warn!(name, host, cluster, "a worker of a cluster that is not there any more; it is sent away");
            outbox.control(SchedulerControl::Exit);
        }
        tracing::info!(%worker, name, cluster, host, pid, slots, jobs, leases, "worker joined");
        // It is here again before the end of its last connection was noticed: nobody is to blame for that.
        let former = self.workers.iter().filter(|(_, peer)| peer.hello.incarnation == *incarnation);
        let mut drains = false;
        for former in former.map(|(&worker, _)| worker).collect::<Vec<_>>() {
            drains |= self.core.worker(former).is_some_and(|view| view.draining);
            if let Some(peer) = self.workers.get(&former) {
                peer.outbox.connection.close(close::SILENT.into(), b"the worker has another connection");
            }
            self.left(former, Departure::Planned)?;
        }
        if self.stopping.as_ref().is_some_and(|stopping| stopping.for_good) {
            outbox.control(SchedulerControl::Exit);
        }
        self.check_stamps(&mut resume, &outbox);
        for (job, _) in &resume.jobs {
            let Some(record) = self.jobs.get_mut(job) else { continue };
            if let Some((spec, _)) = &record.work {
                outbox.seat.introduce(*job, spec);
                record.secrets.tell(worker);
                if !record.secrets.is_empty() && record.secrets.missing().is_empty() {
                    // What it has may be of an earlier time.
                    outbox.work(Order::Secrets { job: *job, secrets: record.secrets.values() });
                }
            }
        }
        let connection = outbox.connection.clone();
        let of = self.clusters.id(&cluster);
        let ends = hello.ends_in_ms.map(|ms| self.now() + Duration::from_millis(ms));
        let peer = Peer { cluster, hello, outbox, connected: Instant::now(), heard: 0, owed: VecDeque::new() };
        self.workers.insert(worker, peer);
        let joined = self.handle(Event::WorkerJoined { worker, cluster: of, slots, ends, resume: &resume }, None);
        if let Err(refused) = &joined {
            self.workers.remove(&worker);
            connection.close(close::PROTOCOL.into(), refused.to_string().as_bytes());
        }
        joined?;
        if drains {
            // It may not have heard of that.
            self.control(worker, SchedulerControl::Drain);
            self.handle(Event::WorkerDraining { worker }, None)?;
        }
        Ok(())
    }

    /// Takes out what a worker has of jobs that are not the ones which have these numbers here: this farm was restored
    /// from a backup that is older than they are.
    fn check_stamps(&self, resume: &mut Resume, outbox: &Outbox) {
        let is_ours = |job, stamp| self.jobs.get(&job).is_none_or(|record| record.stamp == stamp);
        let (ours, others): (Vec<_>, Vec<_>) = resume.jobs.drain(..).partition(|&(job, stamp)| is_ours(job, stamp));
        resume.jobs = ours;
        resume.claims.retain(|claim| resume.jobs.iter().any(|&(job, _)| job == claim.job));
        for (job, _) in others {
            tracing::warn!(%job, "a worker has tasks of another job with this number; it drops them");
            // It drops the job at once when it is told of the one that lives here under this number. To say so here might
            // hit that one, as the two are told on different streams.
            if self.jobs.get(&job).is_some_and(|record| record.work.is_none()) {
                outbox.control(SchedulerControl::CancelJob { job });
                outbox.control(SchedulerControl::ForgetJob { job });
            }
        }
    }

    fn left(&mut self, worker: WorkerId, how: Departure) -> Result<(), Refused> {
        let Some(peer) = self.workers.remove(&worker) else {
            return Ok(());
        };
        // One that was about to go is not taken down by what it runs: its batch system ended it before it could say
        // goodbye.
        let was_leaving = self.core.worker(worker).is_some_and(|view| view.draining);
        let ended =
            peer.hello.ends_in_ms.is_some_and(|ms| peer.connected.elapsed() + LATE >= Duration::from_millis(ms));
        let how = if was_leaving || ended { Departure::Planned } else { how };
        tracing::info!(%worker, name = peer.hello.name, ?how, "worker left");
        self.owing.remove(&worker);
        self.jobs.values_mut().for_each(|record| record.worker_left(worker));
        self.handle(Event::WorkerLeft { worker, how }, None)
    }

    /// Notes that a worker is to be told when its last answer is stored.
    fn owe(&mut self, worker: WorkerId) {
        let last = self.commits.added();
        let Some(peer) = self.workers.get_mut(&worker) else { return };
        peer.heard += 1;
        match peer.owed.back_mut() {
            Some((record, heard)) if *record == last => *heard = peer.heard,
            _ => peer.owed.push_back((last, peer.heard)),
        }
        self.owing.insert(worker);
    }

    /// Tells workers what is stored of their answers.
    pub(super) fn acknowledge(&mut self) {
        let written = self.commits.written();
        let workers = &mut self.workers;
        self.owing.retain(|worker| {
            let Some(peer) = workers.get_mut(worker) else { return false };
            let mut messages = None;
            while let Some((_, heard)) = peer.owed.pop_front_if(|(record, _)| *record <= written) {
                messages = Some(heard);
            }
            if let Some(messages) = messages {
                peer.outbox.control(SchedulerControl::Stored { messages });
            }
            !peer.owed.is_empty()
        });
    }
}

impl Outbox {
    /// Puts a control message on its way.
    pub(super) fn control(&self, message: SchedulerControl) {
        self.sent(self.control.try_send(message).is_ok());
    }

    /// Puts a lease on its way.
    pub(super) fn work(&self, order: Order) {
        self.sent(self.work.try_send(order).is_ok());
    }

    /// What cannot be put on its way ends the connection: the worker has gone already, or does not read.
    fn sent(&self, sent: bool) {
        if !sent {
            self.connection.close(close::PROTOCOL.into(), b"the worker does not read what it is sent");
        }
    }
}
