//! What workers say.

use farm_core::{Departure, Event, Refused};
use farm_proto::close;
use farm_proto::ids::WorkerId;
use farm_proto::message::{SchedulerControl, WorkerHello};
use tokio::time::Instant;

use super::owner::{Owner, Peer};
use super::{Order, Outbox, Said};

impl Owner {
    pub(super) fn hear(&mut self, worker: WorkerId, said: Said) {
        let heard = match said {
            Said::Joined { hello, outbox } => self.joined(worker, hello, outbox),
            Said::Results { lease, outcomes } => {
                let batch = &outcomes.batch;
                self.handle(Event::BatchArrived { worker, lease, batch }, Some(&outcomes))
            }
            Said::Lost { lease, task, message } => {
                tracing::warn!(%worker, %lease, task, message, "a slot died");
                self.handle(Event::TaskLost { worker, lease, task }, None)
            }
            Said::Returned { lease, first, count } => {
                self.handle(Event::TasksReturned { worker, lease, first, count }, None)
            }
            Said::JobFailed { job, failure } => {
                let failure = &failure;
                self.handle(Event::JobFailed { worker, job, failure }, None)
            }
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

    fn joined(&mut self, worker: WorkerId, hello: WorkerHello, outbox: Outbox) -> Result<(), Refused> {
        let slots = hello.slots;
        let WorkerHello { name, host, pid, .. } = &hello;
        tracing::info!(%worker, name, host, pid, slots, "worker joined");
        if self.stopping.is_some() {
            outbox.control(SchedulerControl::Exit);
        }
        let connected = Instant::now();
        self.workers.insert(worker, Peer { hello, outbox, connected });
        self.handle(Event::WorkerJoined { worker, slots }, None)
    }

    fn left(&mut self, worker: WorkerId, how: Departure) -> Result<(), Refused> {
        let Some(peer) = self.workers.remove(&worker) else {
            return Ok(());
        };
        tracing::info!(%worker, name = peer.hello.name, ?how, "worker left");
        self.jobs.values_mut().for_each(|record| record.worker_left(worker));
        let left = self.handle(Event::WorkerLeft { worker, how }, None);
        self.stopped();
        left
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
