//! Simulated workers: they do what the protocol says, at the worst of times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::message::{Batch, Resume};
use farm_proto::outcome::{Failure, FailureKind};

use super::oracle::End;
use super::{Action, World};
use crate::core::tests::MS;
use crate::{Command, Departure, Event, Time};

/// What a worker says.
pub(super) enum Answer {
    Batch(LeaseId, Batch),
    Lost(LeaseId, u64),
    Returned { lease: LeaseId, first: u64, count: u32 },
    JobFailed(JobId, Failure),
}

/// A task with a slot.
struct Running {
    run: u64,
    lease: LeaseId,
    job: JobId,
    task: u64,
    attempt: u32,
    took: u64,
}

/// A lease whose tasks have not all been started.
struct Queued {
    lease: LeaseId,
    job: JobId,
    tasks: VecDeque<(u64, u32)>,
}

pub(super) struct SimWorker {
    slots: Vec<Option<Running>>,
    queue: VecDeque<Queued>,
    /// What is finished and not sent: value or failure, and nanoseconds, by lease and task.
    outbox: BTreeMap<LeaseId, BTreeMap<u64, (Option<FailureKind>, u64)>>,
    /// Jobs that it was told about, and jobs that are over.
    knows: BTreeSet<JobId>,
    over: BTreeSet<JobId>,
    flushing: bool,
    pub(super) draining: bool,
    runs: u64,
    /// How far away it is, and when its last word arrives in each direction: work, control, and answers.
    distance: Duration,
    arrivals: [Time; 3],
}

impl World {
    pub(super) fn join(&mut self) {
        let slots = 1 + self.dice.below(4) as u32;
        let distance = Duration::from_nanos([MS / 10, MS, 20 * MS][self.dice.below(3) as usize]);
        self.join_with(slots, distance);
    }

    pub(super) fn join_with(&mut self, slots: u32, distance: Duration) {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        let sim = SimWorker {
            slots: (0..slots).map(|_| None).collect(),
            queue: VecDeque::new(),
            outbox: BTreeMap::new(),
            knows: BTreeSet::new(),
            over: BTreeSet::new(),
            flushing: false,
            draining: false,
            runs: 0,
            distance,
            arrivals: [self.now; 3],
        };
        self.workers.insert(worker, sim);
        self.tell(Event::WorkerJoined { worker, slots, resume: &Resume::default() }, None);
    }

    /// When the next word in this direction arrives: never before the one in front of it.
    fn arrival(&mut self, worker: WorkerId, direction: usize) -> Option<Time> {
        let late = self.dice.below(4);
        let sim = self.workers.get_mut(&worker)?;
        let at = (self.now + sim.distance * (4 + late as u32) / 4).max(sim.arrivals[direction]);
        sim.arrivals[direction] = at;
        Some(at)
    }

    pub(super) fn send(&mut self, worker: WorkerId, command: Command) {
        let direction = usize::from(!matches!(command, Command::SendLease { .. }));
        if let Some(at) = self.arrival(worker, direction) {
            self.at(at, Action::Deliver { worker, command });
        }
    }

    pub(super) fn say(&mut self, worker: WorkerId, answer: Answer) {
        if let Some(at) = self.arrival(worker, 2) {
            self.at(at, Action::Answer { worker, answer });
        }
    }

    pub(super) fn answered(&mut self, worker: WorkerId, answer: Answer) {
        if self.core.worker(worker).is_none() {
            return;
        }
        match answer {
            Answer::Batch(lease, batch) => {
                self.tell(Event::BatchArrived { worker, lease, batch: &batch }, Some(&batch));
                if self.dice.once_in(20) {
                    self.tell(Event::BatchArrived { worker, lease, batch: &batch }, None);
                }
            }
            Answer::Lost(lease, task) => self.tell(Event::TaskLost { worker, lease, task }, None),
            Answer::Returned { lease, first, count } => {
                self.tell(Event::TasksReturned { worker, lease, first, count }, None);
            }
            Answer::JobFailed(job, failure) => {
                self.tell(Event::JobFailed { worker, job, failure: &failure }, None);
            }
        }
    }

    pub(super) fn deliver(&mut self, worker: WorkerId, command: Command) {
        let Some(sim) = self.workers.get_mut(&worker) else { return };
        match command {
            Command::SendLease { lease, introduce, .. } => {
                assert!(introduce || sim.knows.contains(&lease.job), "worker {worker} does not know job {}", lease.job);
                sim.knows.insert(lease.job);
                if sim.over.contains(&lease.job) {
                    return;
                }
                if self.oracle.truth(lease.job).bad_module {
                    let failure = Failure::new(FailureKind::BadModule, "nonsense");
                    self.say(worker, Answer::JobFailed(lease.job, failure));
                    return;
                }
                let attempts: BTreeMap<_, _> = lease.attempts.iter().copied().collect();
                let attempt = |offset: u32| attempts.get(&offset).copied().unwrap_or(0);
                let tasks: VecDeque<_> =
                    (0..lease.count).map(|offset| (lease.first + u64::from(offset), attempt(offset))).collect();
                for (task, _) in &tasks {
                    assert!(!sim.holds(lease.job, *task), "worker {worker} has task {task} of job {} twice", lease.job);
                }
                sim.queue.push_back(Queued { lease: lease.lease, job: lease.job, tasks });
                self.start(worker);
            }
            Command::Recall { lease, keep, .. } => {
                let returned = sim.hand_back(lease, keep);
                if let Some(&first) = returned.front() {
                    let count = returned.len() as u32;
                    self.say(worker, Answer::Returned { lease, first, count });
                }
            }
            Command::CancelJob { job, .. } => {
                sim.over.insert(job);
                sim.queue.retain(|queued| queued.job != job);
                for slot in &mut sim.slots {
                    slot.take_if(|running| running.job == job);
                }
                self.start(worker);
            }
            Command::ForgetJob { job, .. } => {
                sim.over.insert(job);
            }
            Command::WorkerMayLeave { .. } => {
                assert!(sim.draining && sim.is_idle(), "worker {worker} may leave, and has something to do");
                self.lose(worker, Departure::Planned);
            }
            other => panic!("{other:?} is for no worker"),
        }
    }

    /// Gives free slots something to do.
    fn start(&mut self, worker: WorkerId) {
        let Some(sim) = self.workers.get_mut(&worker) else { return };
        let mut started = Vec::new();
        for (index, slot) in sim.slots.iter_mut().enumerate() {
            sim.queue.retain(|queued| !queued.tasks.is_empty());
            if slot.is_none()
                && let Some(queued) = sim.queue.front_mut()
                && let Some((task, attempt)) = queued.tasks.pop_front()
            {
                sim.runs += 1;
                let took = self.oracle.truth(queued.job).time_of(task);
                let run = sim.runs;
                *slot = Some(Running { run, lease: queued.lease, job: queued.job, task, attempt, took });
                started.push((index, run, took));
            }
        }
        for (slot, run, took) in started {
            self.at(self.now + Duration::from_nanos(took), Action::Finished { worker, slot, run });
        }
    }

    pub(super) fn finished(&mut self, worker: WorkerId, slot: usize, run: u64) {
        let Some(sim) = self.workers.get_mut(&worker) else { return };
        let Some(running) = sim.slots[slot].take_if(|running| running.run == run) else { return };
        let failure = match self.oracle.truth(running.job).end_of(running.task, running.attempt) {
            End::Value => None,
            End::Failure(kind) => Some(kind),
            End::KillsSlot => {
                self.slot_died(worker, &running);
                return;
            }
            End::KillsWorker => {
                sim.slots[slot] = Some(running);
                self.lose(worker, Departure::Lost);
                return;
            }
        };
        sim.outbox.entry(running.lease).or_default().insert(running.task, (failure, running.took));
        if !std::mem::replace(&mut sim.flushing, true) {
            self.later(3, Action::Flush { worker });
        }
        self.start(worker);
    }

    /// Sends what is finished, in batches of consecutive tasks.
    pub(super) fn flush(&mut self, worker: WorkerId) {
        let Some(sim) = self.workers.get_mut(&worker) else { return };
        sim.flushing = false;
        for (lease, outcomes) in std::mem::take(&mut sim.outbox) {
            let mut batch: Option<Batch> = None;
            for (task, (failure, took)) in outcomes {
                if let Some(done) = batch.take_if(|batch| batch.first + u64::from(batch.count) != task) {
                    self.say(worker, Answer::Batch(lease, done));
                }
                let batch = batch.get_or_insert_with(|| super::super::batch(task, 0, 0));
                let failure = failure.map(|kind| (batch.count, Failure::new(kind, "as it must")));
                batch.failures.extend(failure);
                batch.count += 1;
                batch.run_ns += took;
            }
            batch.into_iter().for_each(|batch| self.say(worker, Answer::Batch(lease, batch)));
        }
    }

    /// The scheduler learns that a worker is gone.
    pub(super) fn noticed(&mut self, worker: WorkerId, how: Departure) {
        if !self.gone.remove(&worker) {
            return;
        }
        if how == Departure::Lost {
            let leases = self.core.workers[&worker].leases.values();
            let held = leases.flat_map(|held| held.remaining.iter().flatten().map(|task| (held.job, task)));
            held.for_each(|(job, task)| self.oracle.crashed(job, task));
        }
        self.tell(Event::WorkerLeft { worker, how }, None);
    }

    /// A slot of the worker dies of nothing that its task did.
    pub(super) fn kill_slot(&mut self, worker: WorkerId) {
        let Some(sim) = self.workers.get_mut(&worker) else { return };
        if let Some(running) = sim.slots.iter_mut().find_map(Option::take) {
            self.slot_died(worker, &running);
        }
    }

    fn slot_died(&mut self, worker: WorkerId, running: &Running) {
        self.oracle.crashed(running.job, running.task);
        // What was finished before goes first.
        self.flush(worker);
        self.say(worker, Answer::Lost(running.lease, running.task));
        self.start(worker);
    }

    /// A worker is gone. The core is told a little later, and another one comes in its place.
    pub(super) fn lose(&mut self, worker: WorkerId, how: Departure) {
        if self.workers.remove(&worker).is_none() {
            return;
        }
        self.gone.insert(worker);
        self.later(30, Action::Noticed { worker, how });
        self.later(100, Action::Join);
    }
}

impl SimWorker {
    fn holds(&self, job: JobId, task: u64) -> bool {
        let mut queued = self.queue.iter().filter(|queued| queued.job == job);
        let mut running = self.slots.iter().flatten().filter(|running| running.job == job);
        queued.any(|queued| queued.tasks.iter().any(|(held, _)| *held == task))
            || running.any(|running| running.task == task)
    }

    fn is_idle(&self) -> bool {
        self.queue.iter().all(|queued| queued.tasks.is_empty()) && self.slots.iter().all(Option::is_none)
    }

    /// Takes unstarted tasks of the lease from the back, so that at most `keep` without an outcome stay.
    fn hand_back(&mut self, lease: LeaseId, keep: u32) -> VecDeque<u64> {
        let running = self.slots.iter().flatten().filter(|running| running.lease == lease).count();
        let mut returned = VecDeque::new();
        if let Some(queued) = self.queue.iter_mut().find(|queued| queued.lease == lease) {
            while running + queued.tasks.len() > keep as usize
                && let Some((task, _)) = queued.tasks.pop_back()
            {
                returned.push_front(task);
            }
        }
        returned
    }
}
