//! How workers go.

use std::collections::BTreeSet;

use farm_core::Departure;
use farm_proto::message::WorkerControl;

use super::{FromWorker, Link, Pid, ranges};
use crate::stats::Kind;
use crate::world::{Action, World, note};

/// How long a draining worker may go on, in milliseconds at most.
const GRACE: u64 = 8_000;

impl World {
    /// It takes nothing new, by order or because it was told to on its own machine (`says`).
    pub(crate) fn drain_worker(&mut self, pid: Pid, says: bool) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        if std::mem::replace(&mut worker.draining, true) {
            return;
        }
        if says && let Link::Up(conn) = worker.link {
            self.say_control(conn, WorkerControl::Draining);
        }
        self.later(GRACE, Action::GraceOver { pid });
    }

    /// A draining worker stops what it runs, hands back what it has, and leaves.
    pub(crate) fn grace_over(&mut self, pid: Pid) {
        self.flush(pid);
        note!(self, "{pid:?} has no more time");
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        let mut returned = Vec::new();
        let mut slots: Vec<_> = worker.slots.iter_mut().filter_map(Option::take).collect();
        for leased in std::mem::take(&mut worker.leases) {
            let mut tasks: BTreeSet<_> = leased.queue.iter().map(|&(task, _)| task).collect();
            tasks.extend(slots.extract_if(.., |running| running.lease == leased.lease).map(|running| running.task));
            let pieces = ranges(&tasks).into_iter();
            returned.extend(pieces.map(|(first, end)| (leased.job, leased.lease, first, (end - first) as u32)));
        }
        for (job, lease, first, count) in returned {
            self.answer(pid, job, FromWorker::Returned { lease, first, count });
        }
        self.count(Kind::GraceOver);
        self.leave(pid);
    }

    /// It closes its connection in good order and is gone.
    pub(crate) fn leave(&mut self, pid: Pid) {
        note!(self, "{pid:?} leaves");
        self.count(Kind::Left);
        self.end_worker(pid, Departure::Planned);
    }

    /// It dies.
    pub(crate) fn kill_worker(&mut self, pid: Pid) {
        note!(self, "{pid:?} dies");
        self.end_worker(pid, Departure::Lost);
    }

    fn end_worker(&mut self, pid: Pid, how: Departure) {
        let Some(worker) = self.workers.remove(&pid) else { return };
        if let Link::Up(conn) | Link::Dialing(conn) = worker.link {
            self.hang_up(conn, how);
        }
        if !self.dice.once_in(4) {
            self.later(2_000, Action::Spawn);
        }
    }
}
