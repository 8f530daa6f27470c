//! The shell around the core, as a real scheduler has one: it tells the core what happens, does what the core asks for,
//! and dies at the worst of times.

mod life;
mod requests;
mod serve;
mod watch;

use std::collections::{BTreeMap, VecDeque};

use farm_core::{Command, Core, Event, Fact, FactSeq, Refused, Time};
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::message::SchedulerControl;
use farm_proto::outcome::FailureKind;

pub(crate) use self::watch::Watch;
use crate::disk::{Key, Op};
use crate::model::Model;
use crate::network::ConnId;
use crate::stats::Kind;
use crate::truth::Ending;
use crate::worker::WorkItem;
use crate::world::{Action, World, note};

/// What dies with the scheduler.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) core: Core,
    pub(crate) model: Model,
    /// When this life began: the core's time zero.
    born: Time,
    /// What is to be written, and what is being written.
    queue: Vec<Op>,
    committing: Option<Vec<Op>>,
    persisted: FactSeq,
    /// The connections of listed workers.
    pub(crate) conns: BTreeMap<WorkerId, ConnId>,
    next_worker: u64,
    acks: BTreeMap<WorkerId, Acks>,
    /// Submissions, stored or on their way.
    by_key: BTreeMap<Key, JobId>,
    pub(crate) watches: BTreeMap<u64, Watch>,
    deadline: Option<Time>,
    /// After so many more commands, the scheduler dies.
    pub(crate) doom: Option<u64>,
    /// The next commit is its last: whether it still gets to the disk.
    pub(crate) last_commit: Option<bool>,
}

/// Messages of a worker's connection whose effects are not known to be stored.
#[derive(Debug, Default)]
struct Acks {
    received: u64,
    acked: u64,
    /// By number: the last fact that has to be stored, and the tasks whose outcomes have to be there.
    waiting: VecDeque<(u64, FactSeq, Option<JobId>, Vec<u64>)>,
}

impl Shell {
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.committing.is_none() && self.core.live_jobs() == 0
    }
}

impl World {
    /// The present life's shell. Only where it is known to be there.
    pub(crate) fn shell(&mut self) -> &mut Shell {
        self.shell.as_mut().expect("the scheduler is there")
    }

    /// Tells the core, without doing anything yet.
    pub(crate) fn try_tell(&mut self, event: Event<'_>) -> Result<(), Refused> {
        note!(self, "core is told {event:?}");
        let now = self.now;
        let shell = self.shell();
        let now = Time(now.since(shell.born).as_nanos() as u64);
        shell.core.handle(now, event)
    }

    /// Tells the core what cannot be refused, and does what it asks for. The scheduler may die of it.
    pub(crate) fn tell(&mut self, event: Event<'_>) {
        let what = if self.is_traced() { format!("{event:?}") } else { String::new() };
        self.try_tell(event).unwrap_or_else(|refused| panic!("{refused} {what}"));
        self.drain();
    }

    /// Does what the core asks for, to the end or until the scheduler dies.
    pub(crate) fn drain(&mut self) {
        while let Some(shell) = &mut self.shell {
            let Some(command) = shell.core.poll_command() else { break };
            if let Some(doom) = &mut shell.doom {
                if *doom == 0 {
                    self.count(Kind::CrashWhileReleasing);
                    self.scheduler_dies();
                    return;
                }
                *doom -= 1;
            }
            note!(self, "core wants {command:?}");
            self.obey(command);
        }
        self.release_acks();
        if let Some(shell) = &self.shell {
            shell.model.compare(&shell.core);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Persist { seq, fact } => self.persist(seq, fact),
            Command::JobAccepted { job } => {
                assert!(self.disk.jobs.contains_key(&job), "job {job} is accepted before it is stored");
                self.shell().model.accepted(job);
                self.job_accepted(job);
            }
            Command::JobStarted { .. } => {}
            Command::OutcomesStored { job, seq } => {
                assert!(seq <= self.shell().persisted, "outcomes of job {job} are told before they are stored");
                self.serve(job);
            }
            Command::JobEnded { job, state } => {
                let stored = self.disk.jobs.get(&job).and_then(|stored| stored.ended);
                assert_eq!(stored, Some(state), "job {job} ended, and that is not stored");
                self.shell().model.ended(job, state);
                self.job_ended(job, state);
                self.serve(job);
            }
            Command::SendLease { worker, lease, introduce } => {
                assert_eq!(lease.lease.0 >> 40, self.life, "lease {} is of another life", lease.lease);
                if lease.attempts.iter().any(|&(_, attempt)| attempt > 0) {
                    self.count(Kind::Retried);
                }
                let Some(shell) = &mut self.shell else { return };
                shell.model.leased(worker, &lease, introduce, &self.disk);
                let conn = shell.conns[&worker];
                self.lease_jobs.insert(lease.lease, lease.job);
                if introduce {
                    self.send_work(conn, WorkItem::Job(lease.job));
                }
                self.send_work(conn, WorkItem::Lease(lease));
            }
            Command::Recall { worker, lease, keep } => {
                self.count(Kind::Recalled);
                self.shell().model.recalled(worker, lease);
                self.order(worker, SchedulerControl::Recall { lease, keep });
            }
            Command::CancelJob { worker, job } => {
                self.shell().model.cancelled(worker, job);
                self.order(worker, SchedulerControl::CancelJob { job });
            }
            Command::ForgetJob { worker, job } => {
                self.shell().model.told_to_forget(worker, job);
                self.order(worker, SchedulerControl::ForgetJob { job });
            }
            Command::WorkerMayLeave { worker } => {
                self.shell().model.may_leave(worker);
                self.order(worker, SchedulerControl::Exit);
            }
        }
    }

    pub(crate) fn order(&mut self, worker: WorkerId, message: SchedulerControl) {
        let conn = self.shell().conns[&worker];
        self.send_control(conn, message);
    }

    fn persist(&mut self, seq: FactSeq, fact: Fact) {
        let rows = self.shell().model.fact(&fact);
        self.check_rows(fact.job(), &rows);
        let key = matches!(fact, Fact::JobAccepted { .. }).then(|| self.known[&fact.job()].key);
        self.shell().queue.push(Op::Fact { seq, fact, rows, key });
        self.start_commit();
    }

    /// Whether the outcomes are ones that the tasks can have.
    fn check_rows(&mut self, job: JobId, rows: &[(u64, Ending)]) {
        for &(task, ending) in rows {
            match ending {
                // The model knows about these.
                Some(FailureKind::WorkerLost) => self.count(Kind::CrashLimit),
                Some(FailureKind::InputFailed) => self.count(Kind::InputFailed),
                ending => {
                    let allowed = self.known[&job].truth.allows(task, ending);
                    assert!(allowed, "task {task} of job {job} cannot end with {ending:?}");
                }
            }
        }
    }

    /// Writes what is queued, unless something is being written.
    pub(crate) fn start_commit(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        if shell.committing.is_none() && !shell.queue.is_empty() {
            shell.committing = Some(std::mem::take(&mut shell.queue));
            let ms = self.commit_ms;
            let life = self.life;
            self.later(ms, Action::Commit { life });
        }
    }

    /// What was being written is on disk, if the scheduler has lived to see it.
    pub(crate) fn committed(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        let ops = shell.committing.take().unwrap_or_default();
        match shell.last_commit {
            Some(false) => {
                self.count(Kind::CrashBeforeCommit);
                return self.scheduler_dies();
            }
            Some(true) => {
                self.apply(ops);
                self.count(Kind::CrashAfterCommit);
                return self.scheduler_dies();
            }
            None => {}
        }
        let last = self.apply(ops);
        if let Some(seq) = last {
            self.shell().persisted = seq;
            self.tell(Event::Persisted { seq });
        }
        self.start_commit();
    }

    /// Puts a commit on the disk. Returns the last fact of it.
    fn apply(&mut self, ops: Vec<Op>) -> Option<FactSeq> {
        let mut last = None;
        for op in ops {
            match &op {
                Op::Fact { seq, .. } => last = Some(*seq),
                Op::Delete { job, asked_by } => self.deletion_stored(*job, *asked_by),
            }
            self.disk.apply(op);
        }
        last
    }

    pub(crate) fn set_alarm(&mut self) {
        let (now, life) = (self.now, self.life);
        let Some(shell) = &mut self.shell else { return };
        let Some(due) = shell.core.next_deadline() else { return };
        let due = Time(due.0 + shell.born.0).max(now);
        if shell.deadline.is_none_or(|set| due < set) {
            shell.deadline = Some(due);
            self.at(due, Action::Deadline { life });
        }
    }

    pub(crate) fn deadline(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        if shell.deadline.is_some_and(|set| set <= self.now) {
            shell.deadline = None;
            self.tell(Event::Timeout);
        }
    }
}
