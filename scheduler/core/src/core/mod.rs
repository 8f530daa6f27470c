//! The state machine. Each module holds one family of transitions.

mod answers;
mod dispatch;
mod invariants;
mod jobs;
mod needs;
mod persist;
mod replay;
mod resume;
mod tail;
#[cfg(test)]
mod tests;
mod views;
mod why;
mod workers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};

pub use self::replay::ReplayError;
use crate::command::{Command, FactSeq};
use crate::config::Config;
use crate::core::persist::Deferred;
use crate::event::{Event, Refused};
use crate::state::{EndedJob, Job, Pool, Worker};
use crate::time::Time;

/// The scheduler: jobs, workers, and who runs what.
///
/// `Core` receives [`Event`]s and gives out [`Command`]s; it never blocks and does no I/O. It has three kinds of
/// methods:
///
/// - A. Simple getters, taking `&self`: [`job`](Self::job), [`jobs`](Self::jobs), [`worker`](Self::worker),
///   [`workers`](Self::workers), [`held_by`](Self::held_by), [`totals`](Self::totals), [`why`](Self::why), [`why_all`](Self::why_all),
///   [`needs`](Self::needs), [`dependants`](Self::dependants), [`without_value`](Self::without_value),
///   [`last_fact`](Self::last_fact), [`next_job`](Self::next_job), [`next_lease`](Self::next_lease),
///   [`check_invariants`](Self::check_invariants).
/// - B. Mutators: [`handle`](Self::handle) for everything that happens, and [`forget`](Self::forget) for ended jobs
///   that nobody wants to see any more.
/// - C. Polling: [`poll_command`](Self::poll_command) for what is to be done, and
///   [`next_deadline`](Self::next_deadline) for when to come back if nothing happens.
///
/// The driver's only loop:
///
/// 1. Wait for something to happen, at most until [`next_deadline`](Self::next_deadline).
/// 2. Tell it with one call of [`handle`](Self::handle) ([`Event::Timeout`] if nothing else did).
/// 3. Call [`poll_command`](Self::poll_command) until it gives nothing, doing each command or queueing it for whoever
///    does it, in order.
///
/// One event, then a full drain: [`Command::Persist`] of a batch's outcomes refers to the batch that was just handed
/// in. (A) may be called at any time.
///
/// # Facts
///
/// A [`Command::Persist`] may be done at leisure, and many with one commit; [`Event::Persisted`] then releases the
/// commands that depend on it, those marked *Waits for the fact* in [`Command`], and lets the job of a
/// [`Fact::JobAccepted`](crate::Fact::JobAccepted) begin: were it leased before, its id could come back after a crash
/// with other tasks under it, while workers still hold the old ones. What promises nothing to anyone waits for nothing:
/// tasks of a job whose cancellation is not yet stored are stopped all the same. But what a job needs of another counts
/// only once it is stored: a task is not leased whose argument might yet be lost, and nothing fails for what might yet not
/// have happened.
///
/// What an event leads to is stored when [`last_fact`](Self::last_fact), read after it was handled, is: then a worker
/// need not keep its answer any longer.
///
/// # Time
///
/// The `now` of consecutive calls must not descend; one that does is taken for the one before.
///
/// # Faults of others
///
/// [`handle`](Self::handle) refuses what cannot be; see [`Refused`]. Answers to leases that have ended are dropped
/// without a word: they are normal after a recall, a cancel, or a connection that broke. A task's first outcome stands.
#[derive(Debug)]
pub struct Core {
    config: Config,
    now: Time,
    /// Jobs that have not ended, or whose end is not stored. Boxed, as half of a map's places are empty.
    jobs: BTreeMap<JobId, Box<Job>>,
    ended: BTreeMap<JobId, EndedJob>,
    workers: BTreeMap<WorkerId, Worker>,
    pools: BTreeMap<ClusterId, Pool>,
    /// Jobs that are needed by live ones: the former first.
    needed: BTreeSet<(JobId, JobId)>,
    next_job: JobId,
    next_lease: LeaseId,

    /// When tasks that wait for another attempt may have it.
    retries: BTreeSet<(Time, JobId)>,
    /// When to look again for tasks to take back.
    recheck: Option<Time>,

    commands: VecDeque<Command>,
    /// What is released by facts that are not yet stored, in their order.
    deferred: VecDeque<(FactSeq, Deferred)>,
    last_fact: FactSeq,
    persisted: FactSeq,
}

impl Core {
    /// A core without jobs and workers.
    pub fn new(config: Config) -> Self {
        let (next_job, next_lease) = (config.first_job, config.first_lease);
        Self {
            config,
            now: Time::ZERO,
            jobs: BTreeMap::new(),
            ended: BTreeMap::new(),
            workers: BTreeMap::new(),
            pools: BTreeMap::new(),
            needed: BTreeSet::new(),
            next_job,
            next_lease,
            retries: BTreeSet::new(),
            recheck: None,
            commands: VecDeque::new(),
            deferred: VecDeque::new(),
            last_fact: FactSeq::default(),
            persisted: FactSeq::default(),
        }
    }

    /// Takes in what happened at `now`. Drain [`poll_command`](Self::poll_command) afterwards.
    ///
    /// # Errors
    ///
    /// The event cannot be; it has changed nothing.
    pub fn handle(&mut self, now: Time, event: Event<'_>) -> Result<(), Refused> {
        self.now = self.now.max(now);
        match event {
            Event::JobSubmitted { job, spec } => self.job_submitted(job, spec)?,
            Event::JobCancelled { job } => self.job_cancelled(job)?,
            Event::JobHeld { job } => self.hold_job(job, true)?,
            Event::JobReleased { job } => self.hold_job(job, false)?,
            Event::JobFailed { worker, job, failure } => self.job_failed_on(worker, job, failure)?,
            Event::Persisted { seq } => self.facts_persisted(seq)?,
            Event::WorkerJoined { worker, cluster, slots, ends, resume } => {
                self.worker_joined(worker, cluster, slots, ends, resume)?;
            }
            Event::WorkerPreparing { worker, job, stage } => self.worker_preparing(worker, job, stage)?,
            Event::WorkerDraining { worker } => self.worker_draining(worker)?,
            Event::WorkerLeft { worker, how } => self.worker_left(worker, how)?,
            Event::BatchArrived { worker, lease, batch } => self.batch_arrived(worker, lease, batch)?,
            Event::TaskLost { worker, lease, task } => self.task_lost(worker, lease, task)?,
            Event::TasksReturned { worker, lease, first, count } => {
                self.tasks_returned(worker, lease, first, count)?;
            }
            Event::Timeout => {}
        }
        self.release_retries();
        self.recheck = None;
        // Few clusters have work and room at a time.
        let pools: Vec<_> = self.pools.keys().copied().collect();
        for pool in pools {
            self.dispatch(pool);
            self.shorten_tail(pool);
        }
        Ok(())
    }

    /// The next thing to do, if there is any.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Event::Timeout`] is due if nothing else happens. May have passed already: then it is due at once.
    pub fn next_deadline(&self) -> Option<Time> {
        let retry = self.retries.first().map(|&(due, _)| due);
        retry.into_iter().chain(self.recheck).min()
    }
}
