//! Simulated workers: they do what the protocol says, at the worst of times.

mod leaving;
mod run;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use farm_proto::ids::{ClusterId, JobId, LeaseId};
use farm_proto::message::{Batch, Claim, Lease, Resume, SchedulerControl, WorkerControl};
use farm_proto::why::Stage;

use crate::dice::MS;
use crate::network::ConnId;
use crate::stats::Kind;
use crate::truth::Ending;
use crate::world::{Action, World, note};

/// A worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pid(pub(crate) u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Down,
    /// Not welcomed yet.
    Dialing(ConnId),
    Up(ConnId),
}

/// What comes on the work stream.
#[derive(Debug, Clone)]
pub(crate) enum WorkItem {
    Job(JobId),
    Lease(Lease),
}

/// What goes back on it. Runs are the simulation's own.
#[derive(Debug, Clone)]
pub(crate) enum FromWorker {
    Results { lease: LeaseId, batch: Batch, runs: Vec<u64> },
    Lost { lease: LeaseId, task: u64, run: u64 },
    Returned { lease: LeaseId, first: u64, count: u32 },
}

/// A task with a slot.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) run: u64,
    pub(crate) lease: LeaseId,
    pub(crate) job: JobId,
    pub(crate) task: u64,
    pub(crate) attempt: u32,
    pub(crate) took: u64,
}

/// What is left of a lease, besides what runs.
#[derive(Debug)]
pub(crate) struct Leased {
    lease: LeaseId,
    job: JobId,
    /// Tasks that have not been started, with their attempts.
    queue: VecDeque<(u64, u32)>,
    /// What is finished and not sent, by task: how it ended, nanoseconds, and the run.
    outbox: BTreeMap<u64, (Ending, u64, u64)>,
}

/// How far a worker is with a job's module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepared {
    Not(Stage),
    Ready,
    /// It cannot be run.
    Bad,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) slots: Vec<Option<Running>>,
    /// How many times longer it takes than others.
    slowness: u64,
    /// Nanoseconds from here to the scheduler.
    pub(crate) distance: u64,
    leases: Vec<Leased>,
    /// Jobs that it was told about, and jobs that are over.
    pub(crate) knows: BTreeMap<JobId, Prepared>,
    over: BTreeSet<JobId>,
    /// Answers that are not known to be stored; `sent` of them have been sent on this connection, and `ever_sent` on any.
    unacked: VecDeque<(JobId, FromWorker)>,
    sent: usize,
    ever_sent: usize,
    acked: u64,
    pub(crate) link: Link,
    /// The life of the scheduler that last welcomed it.
    pub(crate) life: u64,
    flushing: bool,
    pub(crate) draining: bool,
    pub(crate) cluster: ClusterId,
    /// Stopped by a signal; what would have happened since then.
    frozen: Option<Vec<Action>>,
}

impl World {
    pub(crate) fn spawn(&mut self) {
        let slots = 1 + self.dice.below(4) as usize;
        let distance = self.dice.pick(&[MS / 10, MS, 20 * MS]);
        let slowness = if self.dice.once_in(8) { 10 } else { 1 };
        self.spawn_with(slots, distance, slowness);
    }

    pub(crate) fn spawn_with(&mut self, slots: usize, distance: u64, slowness: u64) {
        let pid = Pid(self.next_pid);
        self.next_pid += 1;
        let worker = Worker {
            cluster: self.cluster_of(pid.0),
            slots: (0..slots).map(|_| None).collect(),
            slowness,
            distance,
            leases: Vec::new(),
            knows: BTreeMap::new(),
            over: BTreeSet::new(),
            unacked: VecDeque::new(),
            sent: 0,
            ever_sent: 0,
            acked: 0,
            link: Link::Down,
            life: 0,
            flushing: false,
            draining: false,
            frozen: None,
        };
        note!(self, "{pid:?} starts with {slots} slots");
        self.workers.insert(pid, worker);
        self.dial(pid);
    }

    /// Puts off what would happen to a process that is stopped.
    pub(crate) fn unless_frozen(&mut self, action: Action) -> Option<Action> {
        let pid = match &action {
            Action::ControlToWorker { conn, .. } | Action::WorkToWorker { conn, .. } => self.conns[conn].pid,
            Action::WorkerNotices { conn } => self.conns[conn].pid,
            Action::Prepared { pid, .. } | Action::Finished { pid, .. } | Action::Flush { pid } => *pid,
            Action::GraceOver { pid } | Action::Dial { pid } => *pid,
            _ => return Some(action),
        };
        match self.workers.get_mut(&pid).and_then(|worker| worker.frozen.as_mut()) {
            None => Some(action),
            Some(put_off) => {
                put_off.push(action);
                None
            }
        }
    }

    pub(crate) fn freeze(&mut self, pid: Pid, ms: u64) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        if worker.frozen.is_some() {
            return;
        }
        worker.frozen = Some(Vec::new());
        let link = worker.link;
        note!(self, "{pid:?} freezes for {ms} ms");
        self.count(Kind::Frozen);
        self.after(std::time::Duration::from_millis(ms), Action::Thaw { pid });
        if let Link::Up(conn) | Link::Dialing(conn) = link
            && ms > crate::network::SILENCE
        {
            let silence = std::time::Duration::from_millis(crate::network::SILENCE);
            self.after(silence, Action::SchedulerNotices { conn, how: farm_core::Departure::Lost });
        }
    }

    pub(crate) fn thaw(&mut self, pid: Pid) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        let link = worker.link;
        let put_off = worker.frozen.take().unwrap_or_default();
        note!(self, "{pid:?} goes on");
        if let Link::Up(conn) = link
            && self.conns[&conn].scheduler_gone
        {
            self.count(Kind::FrozenGivenUp);
        }
        let now = self.now;
        put_off.into_iter().for_each(|action| self.at(now, action));
    }

    pub(crate) fn control_at_worker(&mut self, conn: ConnId, message: SchedulerControl) {
        let Some(pid) = self.reaches_worker(conn) else { return };
        note!(self, "{pid:?} is told {message:?}");
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        match message {
            SchedulerControl::Welcome { .. } => self.welcomed(pid, conn),
            SchedulerControl::CancelJob { job } => {
                worker.drop_job(job);
                self.begin(pid);
            }
            SchedulerControl::ForgetJob { job } => {
                // It may still run what it claimed in vain.
                worker.drop_job(job);
                worker.knows.remove(&job);
                self.begin(pid);
            }
            SchedulerControl::Recall { lease, keep } => self.hand_back(pid, lease, keep),
            SchedulerControl::Stored { messages } => worker.stored(messages),
            SchedulerControl::Drain => self.drain_worker(pid, false),
            SchedulerControl::Exit => self.leave(pid),
        }
    }

    /// The scheduler has heard of it: what is not known to be stored goes first, then what has been said on control
    /// streams, which nobody acknowledges.
    fn welcomed(&mut self, pid: Pid, conn: ConnId) {
        let life = self.life;
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        worker.link = Link::Up(conn);
        worker.life = life;
        // A job that was stopped on another connection may go on: its cancellation was lost with a life of the scheduler.
        worker.over.clear();
        let again = worker.ever_sent;
        let messages: Vec<_> = worker.unacked.iter().map(|(_, message)| message.clone()).collect();
        worker.sent = messages.len();
        worker.ever_sent = messages.len();
        let draining = worker.draining;
        let knows: Vec<_> = worker.knows.iter().map(|(&job, &prepared)| (job, prepared)).collect();
        for (at, message) in messages.into_iter().enumerate() {
            if at < again {
                self.count(Kind::Resent);
            }
            self.say_work(conn, message);
        }
        if draining {
            self.say_control(conn, WorkerControl::Draining);
        }
        for (job, prepared) in knows {
            self.say_prepared(conn, job, prepared);
        }
    }

    /// Sends an answer, or keeps it until there is a connection.
    fn answer(&mut self, pid: Pid, job: JobId, message: FromWorker) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        worker.unacked.push_back((job, message.clone()));
        if let Link::Up(conn) = worker.link {
            worker.sent += 1;
            worker.ever_sent = worker.unacked.len();
            self.say_work(conn, message);
        }
    }
}

impl Worker {
    /// What it says of itself when it dials in.
    pub(crate) fn resume(&mut self) -> Resume {
        self.sent = 0;
        self.acked = 0;
        let mut tasks: BTreeMap<LeaseId, (JobId, BTreeSet<u64>)> = BTreeMap::new();
        let mut claim = |lease, job, task| {
            tasks.entry(lease).or_insert((job, BTreeSet::new())).1.insert(task);
        };
        for leased in &self.leases {
            let unsent = leased.queue.iter().map(|(task, _)| task).chain(leased.outbox.keys());
            unsent.for_each(|&task| claim(leased.lease, leased.job, task));
        }
        self.slots.iter().flatten().for_each(|running| claim(running.lease, running.job, running.task));
        for (job, message) in self.unacked.iter().filter(|(job, _)| !self.over.contains(job)) {
            let (lease, tasks) = message.about();
            tasks.for_each(|task| claim(lease, *job, task));
        }
        let claims = tasks.into_iter().map(|(lease, (job, tasks))| Claim { lease, job, tasks: ranges(&tasks) });
        Resume { jobs: self.knows.keys().map(|&job| (job, 7)).collect(), claims: claims.collect() }
    }

    fn stored(&mut self, messages: u64) {
        assert!(messages >= self.acked, "acknowledgements go back from {} to {messages}", self.acked);
        let count = (messages - self.acked) as usize;
        assert!(count <= self.sent, "{messages} messages are stored, more than were sent");
        self.acked = messages;
        self.unacked.drain(..count);
        self.sent -= count;
        self.ever_sent -= count;
    }

    /// The job is over: nothing of it is run, now or later.
    fn drop_job(&mut self, job: JobId) {
        self.over.insert(job);
        self.leases.retain(|leased| leased.job != job);
        for slot in &mut self.slots {
            slot.take_if(|running| running.job == job);
        }
    }

    pub(crate) const fn is_slow(&self) -> bool {
        self.slowness > 1
    }

    /// Nothing is left of anything.
    pub(crate) fn is_clean(&self) -> bool {
        self.leases.is_empty()
            && self.unacked.is_empty()
            && self.knows.is_empty()
            && self.slots.iter().all(Option::is_none)
    }
}

impl FromWorker {
    /// The lease that it answers, and for which tasks.
    pub(crate) fn about(&self) -> (LeaseId, std::ops::Range<u64>) {
        match self {
            Self::Results { lease, batch, .. } => (*lease, batch.first..batch.first + u64::from(batch.count)),
            Self::Lost { lease, task, .. } => (*lease, *task..task + 1),
            Self::Returned { lease, first, count } => (*lease, *first..first + u64::from(*count)),
        }
    }
}

/// Numbers as ascending ranges: first and end.
fn ranges(tasks: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &task in tasks {
        match ranges.last_mut() {
            Some((_, end)) if *end == task => *end += 1,
            _ => ranges.push((task, task + 1)),
        }
    }
    ranges
}
