//! Running what was leased.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use farm_proto::ids::JobId;
use farm_proto::message::{Batch, WorkerControl};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::why::Stage;

use super::{FromWorker, Leased, Link, Pid, Prepared, Running, WorkItem, Worker, ranges};
use crate::dice::MS;
use crate::network::ConnId;
use crate::stats::Kind;
use crate::truth::{End, Module};
use crate::world::{Action, World, note};

impl World {
    pub(crate) fn work_at_worker(&mut self, conn: ConnId, item: WorkItem) {
        let Some(pid) = self.reaches_worker(conn) else { return };
        note!(self, "{pid:?} gets {item:?}");
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        match item {
            WorkItem::Job(job) => {
                if worker.over.contains(&job) {
                    return;
                }
                let before = worker.knows.insert(job, Prepared::Not(Stage::Fetching));
                assert_eq!(before, None, "{pid:?} is told twice what job {job} is");
                self.prepare(pid, job, Stage::Fetching);
            }
            WorkItem::Lease(lease) => {
                if worker.over.contains(&lease.job) {
                    return;
                }
                assert!(worker.knows.contains_key(&lease.job), "{pid:?} does not know job {}", lease.job);
                let attempts: BTreeMap<_, _> = lease.attempts.iter().copied().collect();
                let attempt = |offset: u32| attempts.get(&offset).copied().unwrap_or(0);
                let queue: VecDeque<_> =
                    (0..lease.count).map(|offset| (lease.first + u64::from(offset), attempt(offset))).collect();
                worker.leases.push(Leased { lease: lease.lease, job: lease.job, queue, outbox: BTreeMap::new() });
                self.begin(pid);
            }
        }
    }

    /// Says how far it is with a job, and goes on with it.
    fn prepare(&mut self, pid: Pid, job: JobId, stage: Stage) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        let truth = &self.known[&job].truth;
        let bad = stage == Stage::Ready && truth.module == Module::DoesNotCompile;
        let prepared = match stage {
            Stage::Ready if bad => Prepared::Bad,
            Stage::Ready => Prepared::Ready,
            stage => Prepared::Not(stage),
        };
        worker.knows.insert(job, prepared);
        let link = worker.link;
        let prepare = truth.prepare;
        if let Link::Up(conn) = link
            && prepare > 0
        {
            self.say_prepared(conn, job, prepared);
        }
        match stage {
            Stage::Fetching if prepare == 0 => self.prepare(pid, job, Stage::Ready),
            Stage::Fetching => self.later(prepare, Action::Prepared { pid, job, stage: Stage::Compiling }),
            Stage::Compiling => self.later(prepare, Action::Prepared { pid, job, stage: Stage::Ready }),
            Stage::Ready => self.begin(pid),
        }
    }

    pub(crate) fn prepared(&mut self, pid: Pid, job: JobId, stage: Stage) {
        let still = |worker: &Worker| worker.knows.contains_key(&job);
        if self.workers.get(&pid).is_some_and(still) {
            self.prepare(pid, job, stage);
        }
    }

    pub(crate) fn say_prepared(&mut self, conn: ConnId, job: JobId, prepared: Prepared) {
        let message = match prepared {
            Prepared::Not(stage) => WorkerControl::Preparing { job, stage },
            Prepared::Ready => WorkerControl::Preparing { job, stage: Stage::Ready },
            Prepared::Bad => {
                self.count(Kind::BadModule);
                WorkerControl::JobFailed { job, failure: Failure::new(FailureKind::BadModule, "nonsense") }
            }
        };
        self.say_control(conn, message);
    }

    /// Gives free slots something to do.
    pub(crate) fn begin(&mut self, pid: Pid) {
        let mut started = Vec::new();
        let mut runs = self.next_run;
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        worker.tidy();
        for slot in worker.slots.iter_mut().filter(|slot| slot.is_none()) {
            let ready = |leased: &&mut Leased| {
                !leased.queue.is_empty() && worker.knows.get(&leased.job) == Some(&Prepared::Ready)
            };
            let Some(leased) = worker.leases.iter_mut().find(ready) else { break };
            let Some((task, attempt)) = leased.queue.pop_front() else { break };
            runs += 1;
            let took = self.known[&leased.job].truth.time_of(task) * worker.slowness;
            *slot = Some(Running { run: runs, lease: leased.lease, job: leased.job, task, attempt, took });
            started.push((runs, took));
        }
        self.next_run = runs;
        for (run, took) in started {
            self.after(Duration::from_nanos(took), Action::Finished { pid, run });
        }
    }

    pub(crate) fn finished(&mut self, pid: Pid, run: u64) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        let mut slots = worker.slots.iter_mut();
        let Some(running) = slots.find_map(|slot| slot.take_if(|running| running.run == run)) else { return };
        let ending = match self.known[&running.job].truth.end_of(running.task, running.attempt) {
            End::Value => None,
            End::Failure(kind) => Some(kind),
            End::KillsSlot => return self.slot_died(pid, &running),
            End::KillsWorker => {
                note!(self, "task {} of job {} kills {pid:?}", running.task, running.job);
                self.count(Kind::WorkerKilledByTask);
                return self.kill_worker(pid);
            }
        };
        // Leases go only with their job or when nothing is left of them, this run included.
        let leased = worker.leases.iter_mut().find(|leased| leased.lease == running.lease).expect("its lease");
        leased.outbox.insert(running.task, (ending, running.took, run));
        if !std::mem::replace(&mut worker.flushing, true) {
            self.later(3, Action::Flush { pid });
        }
        self.begin(pid);
    }

    /// Sends what is finished, in batches of consecutive tasks.
    pub(crate) fn flush(&mut self, pid: Pid) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        worker.flushing = false;
        let mut messages = Vec::new();
        for leased in &mut worker.leases {
            let mut open: Option<(Batch, Vec<u64>)> = None;
            for (task, (ending, took, run)) in std::mem::take(&mut leased.outbox) {
                if open.as_ref().is_some_and(|(batch, _)| batch.first + u64::from(batch.count) != task) {
                    messages.extend(open.take().map(|batch| (leased.job, leased.lease, batch)));
                }
                let (batch, runs) = open.get_or_insert_with(|| (empty_batch(task), Vec::new()));
                let failure = ending.map(|kind| (batch.count, Failure::new(kind, "as it must")));
                batch.failures.extend(failure);
                batch.count += 1;
                batch.run_ns += took;
                runs.push(run);
            }
            messages.extend(open.map(|batch| (leased.job, leased.lease, batch)));
        }
        worker.tidy();
        for (job, lease, (batch, runs)) in messages {
            self.answer(pid, job, FromWorker::Results { lease, batch, runs });
        }
    }

    /// Hands back unstarted tasks of a lease, from its end, so that at most `keep` without an outcome stay.
    pub(super) fn hand_back(&mut self, pid: Pid, lease: farm_proto::ids::LeaseId, keep: u32) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        let running = worker.slots.iter().flatten().filter(|running| running.lease == lease).count();
        let Some(leased) = worker.leases.iter_mut().find(|leased| leased.lease == lease) else { return };
        let job = leased.job;
        let mut returned = BTreeSet::new();
        while running + leased.queue.len() > keep as usize
            && let Some((task, _)) = leased.queue.pop_back()
        {
            returned.insert(task);
        }
        worker.tidy();
        for (first, end) in ranges(&returned) {
            self.count(Kind::HandedBack);
            self.answer(pid, job, FromWorker::Returned { lease, first, count: (end - first) as u32 });
        }
    }

    /// A slot died with what it ran. What was finished before goes first.
    pub(crate) fn slot_died(&mut self, pid: Pid, running: &Running) {
        note!(self, "a slot of {pid:?} dies with task {} of job {}", running.task, running.job);
        self.count(Kind::SlotKilled);
        self.flush(pid);
        let Running { run, lease, job, task, .. } = *running;
        self.answer(pid, job, FromWorker::Lost { lease, task, run });
        self.begin(pid);
    }
}

impl Worker {
    /// Drops leases of which nothing is left.
    pub(super) fn tidy(&mut self) {
        let slots = &self.slots;
        self.leases.retain(|leased| {
            let runs = slots.iter().flatten().any(|running| running.lease == leased.lease);
            runs || !leased.queue.is_empty() || !leased.outbox.is_empty()
        });
    }
}

fn empty_batch(first: u64) -> Batch {
    let compile_ns = 2 * MS;
    Batch { first, count: 0, failures: Vec::new(), captured: Vec::new(), run_ns: 0, fetch_ns: 0, compile_ns }
}
