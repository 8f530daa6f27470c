//! What a worker holds, and who of its slots does what: pure bookkeeping, without I/O.
//!
//! [`Work`] is driven by the agent's loop: each thing that happens is one call, after which the loop carries out
//! everything that [`Work::next_effect`] gives, in that order. Every task of a lease is answered once: by an outcome, as
//! lost, or as returned, unless its job has been cancelled or has failed.
//!
//! Connections come and go without it: leases are held and worked off all the same. When there is another connection,
//! [`Work::forget_cancelled`], [`Work::jobs`] and [`Work::unanswered`] say what it begins with, and
//! [`Work::reconnected`] says again whatever the scheduler has to know and may not.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_proto::columns::Columns;
use farm_proto::ids::{JobId, LeaseId};
use farm_proto::job::JobSpec;
use farm_proto::message::{Claim, Lease, WorkerControl, WorkerWork};
use farm_proto::outcome::Failure;
use farm_proto::why::Stage;

use super::job::{Job, JobState, Spent};
use super::prepare::Prepared;
use super::ranges::Ranges;
use super::states::States;
use crate::slot::{Chunk, Event, JobSetup, KeptFolders, Order, fit};

/// A chunk that lasts longer than this while another slot idles is divided anew: its tasks are longer than they were
/// thought to be.
const OVERDUE: Duration = Duration::from_millis(15);

/// What the agent's loop is to do.
#[derive(Debug)]
pub(super) enum Effect {
    /// An answer to tasks of that job.
    Send(JobId, WorkerWork, Bytes),
    /// As `Send`, but the files that its tasks left, which are in these folders by offset, go first.
    SendWithFiles(JobId, WorkerWork, Bytes, KeptFolders),
    Control(WorkerControl),
    Order(usize, Order),
    /// Fetch and compile, then call [`Work::prepared`].
    Prepare(JobId, Arc<JobSpec>),
    /// Stop preparing.
    Abandon(JobId),
    /// No slot process can be started.
    Broken(String),
}

#[derive(Debug)]
struct Held {
    job: JobId,
    first: u64,
    /// Tasks that are not answered yet.
    open: Ranges,
    attempts: Vec<(u32, u32)>,
    arguments: Columns,
    /// What no slot has, as offsets from `first`.
    pending: VecDeque<Range<u32>>,
    /// Whether the scheduler wants back what slots have not started.
    recalled: bool,
    /// What its job's preparation had taken when it came.
    spent: Spent,
}

/// What became of tasks so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// With an outcome.
    pub(super) finished: u64,
    /// Handed back to the scheduler.
    pub(super) returned: u64,
}

/// Tasks that a slot has.
#[derive(Debug)]
struct Given {
    slot: usize,
    lease: LeaseId,
    job: JobId,
    count: u32,
    since: Instant,
}

/// Which lease an answer belongs to.
#[derive(Debug)]
struct Answered {
    lease: LeaseId,
    job: JobId,
    spent: Spent,
}

#[derive(Debug)]
pub(super) struct Work {
    jobs: HashMap<JobId, Job>,
    /// In the order of their arrival, which is that of their ids.
    leases: BTreeMap<LeaseId, Held>,
    /// By tag, and so in the order in which they were given.
    chunks: BTreeMap<u64, Given>,
    slots: usize,
    next_tag: u64,
    draining: bool,
    states: States,
    tally: Tally,
    effects: VecDeque<Effect>,
}

impl Work {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            jobs: HashMap::new(),
            leases: BTreeMap::new(),
            chunks: BTreeMap::new(),
            slots,
            next_tag: 0,
            draining: false,
            states: States::default(),
            tally: Tally::default(),
            effects: VecDeque::new(),
        }
    }

    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether it was told to drain, and nothing is held any more.
    pub(super) fn is_drained(&self) -> bool {
        self.draining && self.leases.is_empty()
    }

    pub(super) const fn tally(&self) -> Tally {
        self.tally
    }

    /// The scheduler tells of a job.
    pub(super) fn job(&mut self, job: JobId, stamp: u64, spec: JobSpec, now: Instant) {
        match self.jobs.get_mut(&job) {
            // Told before, or cancelled before it was told: the two come on different streams.
            Some(known) if known.stamp.is_none_or(|known| known == stamp) => {
                known.stamp = Some(stamp);
                return;
            }
            // The farm was set back to an earlier time, and has made another job since.
            Some(_) => self.forget(job, now),
            None => {}
        }
        let spec = Arc::new(spec);
        self.jobs.insert(job, Job::new(stamp, Arc::clone(&spec)));
        self.effects.push_back(Effect::Prepare(job, spec));
    }

    /// A job's preparation has come to another stage.
    pub(super) fn stage(&mut self, job: JobId, stage: Stage, now: Instant) {
        if let Some(known) = self.jobs.get_mut(&job)
            && matches!(known.state, JobState::Preparing(_))
        {
            known.preparation.enter(stage, now);
            self.tell_stage(job);
        }
    }

    /// A job's module is compiled and its inputs are there, or never will be.
    pub(super) fn prepared(&mut self, job: JobId, result: Result<Prepared, Failure>, now: Instant) {
        let Some(known) = self.jobs.get_mut(&job) else {
            return;
        };
        let JobState::Preparing(spec) = &known.state else {
            return;
        };
        match result {
            Ok(prepared) => {
                let setup = JobSetup::new(job, spec, prepared.artefact.clone(), prepared.folders());
                known.state = JobState::Ready { setup: Arc::new(setup), _prepared: prepared };
                known.preparation.enter(Stage::Ready, now);
                self.tell_stage(job);
                self.hand_out(now);
            }
            Err(failure) => self.fail(job, failure, now),
        }
    }

    /// The scheduler gives what a task has kept earlier, which is of the lease that it hands out next.
    pub(super) fn restored(&mut self, lease: LeaseId, task: u64, state: Bytes) {
        self.states.restored(lease, task, state);
    }

    /// The scheduler hands out tasks.
    ///
    /// # Errors
    ///
    /// The payload is not the columns of their arguments, or the lease is there already.
    pub(super) fn lease(&mut self, lease: Lease, payload: Bytes, now: Instant) -> Result<(), &'static str> {
        let job = match self.jobs.get(&lease.job) {
            Some(job) if job.is_dead() => {
                self.states.drop_coming();
                return Ok(());
            }
            Some(job) if !self.draining => job,
            // Its job is forgotten already, or we are about to leave.
            Some(_) | None => {
                self.states.drop_coming();
                self.give_up(lease.lease, lease.job, lease.first, lease.count, now);
                return Ok(());
            }
        };
        let arguments = if job.has_columns {
            Columns::decode(lease.count.into(), payload).map_err(|_| "a lease without its arguments")?
        } else {
            Columns::default()
        };
        let held = Held {
            job: lease.job,
            first: lease.first,
            open: Ranges::up_to(lease.count),
            attempts: lease.attempts,
            arguments,
            pending: std::iter::once(0..lease.count).collect(),
            recalled: false,
            spent: job.preparation.spent_until(now),
        };
        if lease.count > 0 && self.leases.insert(lease.lease, held).is_some() {
            return Err("a lease for the second time");
        }
        self.states.take_in(lease.lease, lease.job, now);
        self.tell_stage(lease.job);
        self.hand_out(now);
        Ok(())
    }

    /// The scheduler wants back what is not started, but for `keep` tasks.
    pub(super) fn recall(&mut self, lease: LeaseId, keep: u32, now: Instant) {
        let Some(held) = self.leases.get_mut(&lease) else {
            return;
        };
        let job = held.job;
        let mut excess = held.pending.iter().map(|range| range.end - range.start).sum::<u32>().saturating_sub(keep);
        let mut given_up = Vec::new();
        // From the end: what comes first is needed first.
        while let Some(last) = held.pending.back_mut()
            && excess > 0
        {
            let count = excess.min(last.end - last.start);
            last.end -= count;
            excess -= count;
            given_up.push((held.first + u64::from(last.end), count));
            if Range::is_empty(last) {
                held.pending.pop_back();
            }
        }
        if keep == 0 {
            held.recalled = true;
            let chunks = self.chunks.iter().filter(|(_, given)| given.lease == lease);
            self.effects.extend(chunks.map(|(tag, given)| Effect::Order(given.slot, Order::TakeBack { tag: *tag })));
        }
        for (first, count) in given_up {
            self.give_up(lease, job, first, count, now);
        }
    }

    /// The scheduler wants nothing of a job any more.
    pub(super) fn cancel(&mut self, job: JobId, now: Instant) {
        self.give_up_job(job, JobState::Cancelled, now);
    }

    fn give_up_job(&mut self, job: JobId, state: JobState, now: Instant) {
        let known = self.jobs.entry(job).or_insert_with(Job::cancelled);
        if matches!(known.state, JobState::Preparing(_)) {
            self.effects.push_back(Effect::Abandon(job));
        }
        known.state = state;
        self.leases.retain(|_, held| held.job != job);
        self.states.forget_job(job);
        let mut slots: Vec<_> = self.chunks.values().filter(|given| given.job == job).map(|given| given.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        self.effects.extend(slots.into_iter().map(|slot| Effect::Order(slot, Order::Cancel(job))));
        self.hand_out(now);
    }

    /// The scheduler will not speak of a job again.
    pub(super) fn forget(&mut self, job: JobId, now: Instant) {
        self.cancel(job, now);
        self.jobs.remove(&job);
        self.effects.extend((0..self.slots).map(|slot| Effect::Order(slot, Order::Forget(job))));
    }

    /// Take nothing new, and hand back what has not begun. What has, learns that it should stop.
    pub(super) fn drain(&mut self, now: Instant) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.effects.extend((0..self.slots).map(|slot| Effect::Order(slot, Order::Leave)));
        // Whoever ends the worker may not wait until it has handed back the rest.
        self.effects.extend(self.states.tell_all(now));
        self.effects.push_back(Effect::Control(WorkerControl::Draining));
        let leases: Vec<_> = self.leases.keys().copied().collect();
        leases.into_iter().for_each(|lease| self.recall(lease, 0, now));
    }

    /// Stop what still runs, and hand it back. After [`Self::drain`].
    pub(super) fn stop(&mut self) {
        let running: BTreeSet<_> = self.chunks.values().map(|given| (given.slot, given.job)).collect();
        self.effects.extend(running.into_iter().map(|(slot, job)| Effect::Order(slot, Order::Cancel(job))));
    }

    /// Forgets the jobs that were cancelled: what the next connection begins with should not name them. If the scheduler
    /// still knows one, as that of a farm that was set back may, it tells of it anew.
    pub(super) fn forget_cancelled(&mut self, now: Instant) {
        let is_cancelled = |job: &Job| matches!(job.state, JobState::Cancelled);
        let cancelled: Vec<_> = self.jobs.iter().filter(|(_, job)| is_cancelled(job)).map(|(id, _)| *id).collect();
        cancelled.into_iter().for_each(|job| self.forget(job, now));
    }

    /// Whether the job is one that the scheduler may want to hear of.
    pub(super) fn knows(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job)
    }

    /// All jobs with their stamps, ascending. None was cancelled, see [`Self::forget_cancelled`].
    pub(super) fn jobs(&self) -> Vec<(JobId, u64)> {
        let mut jobs: Vec<_> = self.jobs.iter().filter_map(|(id, job)| Some((*id, job.stamp?))).collect();
        jobs.sort_unstable();
        jobs
    }

    /// Leases with tasks that are not answered, ascending: those tasks.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Claim> {
        self.leases.iter().map(|(lease, held)| {
            let tasks =
                held.open.iter().map(|open| (held.first + u64::from(open.start), held.first + u64::from(open.end)));
            Claim { lease: *lease, job: held.job, tasks: tasks.collect() }
        })
    }

    /// There is another connection: what was said on the control stream of the last one may never have arrived.
    pub(super) fn reconnected(&mut self) {
        if self.draining {
            self.effects.push_back(Effect::Control(WorkerControl::Draining));
        }
        let mut jobs: Vec<_> = self.jobs.keys().copied().collect();
        jobs.sort_unstable();
        for id in jobs {
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            match &job.state {
                JobState::Failed(failure) => {
                    let message = WorkerControl::JobFailed { job: id, failure: Failure::clone(failure) };
                    self.effects.push_back(Effect::Control(message));
                }
                JobState::Preparing(_) | JobState::Ready { .. } | JobState::Cancelled => {
                    job.preparation.untell();
                    self.tell_stage(id);
                }
            }
        }
    }

    /// A slot says what became of its orders.
    pub(super) fn slot_says(&mut self, event: Event, now: Instant) {
        match event {
            Event::Results { tag, mut batch, results, kept } => {
                for (offset, _) in batch.failures.iter().filter(|(_, failure)| failure.kind.is_retryable()) {
                    self.tell_state(tag, batch.first + u64::from(*offset), now);
                }
                let Some(answered) = self.answer(tag, batch.first, batch.count) else {
                    return;
                };
                self.tally.finished += u64::from(batch.count);
                if let Some(job) = self.jobs.get_mut(&answered.job) {
                    job.pace.learn(&batch);
                    let spent = job.preparation.spent_until(now);
                    (batch.fetch_ns, batch.compile_ns) = spent.since(answered.spent);
                }
                let has_files = batch.captured.iter().any(|(_, captured)| !captured.files.is_empty());
                let message = WorkerWork::Results { lease: answered.lease, batch };
                let payload = results.encode();
                self.effects.push_back(match has_files {
                    false => Effect::Send(answered.job, message, payload),
                    true => Effect::SendWithFiles(answered.job, message, payload, kept),
                });
            }
            Event::Lost { tag, task, message } => {
                self.tell_state(tag, task, now);
                if let Some(Answered { lease, job, .. }) = self.answer(tag, task, 1) {
                    let message = WorkerWork::Lost { lease, task, message };
                    self.effects.push_back(Effect::Send(job, message, Bytes::new()));
                }
            }
            Event::Returned { tag, first, count } => {
                self.returned(tag, first, count, now);
                self.hand_out(now);
            }
            Event::Ended { tag } => {
                self.chunks.remove(&tag);
                self.hand_out(now);
            }
            Event::Progress { job, task, done, total } => {
                if self.is_alive(job) {
                    self.effects.push_back(Effect::Control(WorkerControl::Progress { job, task, done, total }));
                }
            }
            Event::Checkpoint { tag, task, state } => {
                if let Some(given) = self.chunks.get(&tag)
                    && self.leases.contains_key(&given.lease)
                {
                    self.effects.extend(self.states.keep((given.lease, task), given.job, state, now));
                }
            }
            Event::JobFailed { job, failure } => {
                if self.is_alive(job) {
                    self.fail(job, failure, now);
                }
            }
            Event::Broken { message } => self.effects.push_back(Effect::Broken(message)),
        }
    }

    /// When [`Self::tick`] should be called, if nothing happens before.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.overdue().into_iter().chain(self.states.next_deadline()).min()
    }

    fn overdue(&self) -> Option<Instant> {
        if !self.has_idle_slot() || self.has_pending() {
            return None;
        }
        let divisible = self.chunks.values().filter(|given| given.count > 1);
        divisible.map(|given| given.since + OVERDUE).min()
    }

    /// Tells the scheduler of checkpoints that are due. Takes unstarted tasks away from slots that are slower than was
    /// thought, for those that idle.
    pub(super) fn tick(&mut self, now: Instant) {
        self.effects.extend(self.states.tell_due(now));
        if !self.has_idle_slot() || self.has_pending() {
            return;
        }
        for (tag, given) in &mut self.chunks {
            if given.count > 1 && given.since + OVERDUE <= now {
                if let Some(job) = self.jobs.get_mut(&given.job) {
                    job.pace.learn_slow(OVERDUE);
                }
                // If it is still the same then, it is asked again.
                given.since = now;
                let order = Order::TakeBack { tag: *tag };
                self.effects.push_back(Effect::Order(given.slot, order));
            }
        }
    }

    /// Whether something of a job may still be run here.
    pub(super) fn is_alive(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|job| !job.is_dead())
    }

    /// Tells the scheduler how far a job is that has it waiting.
    fn tell_stage(&mut self, job: JobId) {
        if self.leases.values().any(|held| held.job == job)
            && let Some(known) = self.jobs.get_mut(&job)
            && let Some(stage) = known.preparation.news()
        {
            self.effects.push_back(Effect::Control(WorkerControl::Preparing { job, stage }));
        }
    }

    fn has_idle_slot(&self) -> bool {
        (0..self.slots).any(|slot| self.chunks.values().all(|given| given.slot != slot))
    }

    fn has_pending(&self) -> bool {
        self.leases.values().any(|held| !held.pending.is_empty())
    }

    /// The failure is kept, and told again to the next connection, until the scheduler cancels the job or lets us
    /// forget it.
    fn fail(&mut self, job: JobId, failure: Failure, now: Instant) {
        self.effects.push_back(Effect::Control(WorkerControl::JobFailed { job, failure: failure.clone() }));
        self.give_up_job(job, JobState::Failed(Box::new(failure)), now);
    }

    /// Counts tasks of a chunk as answered. `None` if nobody wants the answer.
    fn answer(&mut self, tag: u64, first: u64, count: u32) -> Option<Answered> {
        let given = self.chunks.get_mut(&tag)?;
        given.count = given.count.saturating_sub(count);
        let lease = given.lease;
        self.close(lease, first, count)
    }

    /// `None` if the lease is not held.
    fn close(&mut self, lease: LeaseId, first: u64, count: u32) -> Option<Answered> {
        let held = self.leases.get_mut(&lease)?;
        let answered = Answered { lease, job: held.job, spent: held.spent };
        let start = u32::try_from(first.checked_sub(held.first)?).ok()?;
        held.open.remove(start..start.saturating_add(count));
        self.states.forget(lease, first, count);
        if held.open.is_empty() {
            self.leases.remove(&lease);
        }
        Some(answered)
    }

    /// Tells the scheduler what a task of a chunk has kept, if it does not know.
    fn tell_state(&mut self, tag: u64, task: u64, now: Instant) {
        if let Some(given) = self.chunks.get(&tag) {
            self.effects.extend(self.states.tell(given.lease, task, 1, now));
        }
    }

    fn give_up(&mut self, lease: LeaseId, job: JobId, first: u64, count: u32, now: Instant) {
        if count > 0 {
            self.effects.extend(self.states.tell(lease, first, count, now));
            self.close(lease, first, count);
            self.tally.returned += u64::from(count);
            let message = WorkerWork::Returned { lease, first, count };
            self.effects.push_back(Effect::Send(job, message, Bytes::new()));
        }
    }

    fn returned(&mut self, tag: u64, first: u64, count: u32, now: Instant) {
        let Some(given) = self.chunks.get_mut(&tag) else {
            return;
        };
        given.count = given.count.saturating_sub(count);
        let lease = given.lease;
        let Some(held) = self.leases.get_mut(&lease) else {
            return;
        };
        if held.recalled {
            let job = held.job;
            return self.give_up(lease, job, first, count, now);
        }
        let start = (first - held.first) as u32;
        let at = held.pending.partition_point(|range| range.start < start);
        held.pending.insert(at, start..start + count);
    }

    /// Gives every slot something to do, and to those with short tasks something to do next.
    fn hand_out(&mut self, now: Instant) {
        for depth in 1..=2 {
            for slot in 0..self.slots {
                let mut has = self.chunks.values().filter(|given| given.slot == slot);
                let is_short =
                    has.clone().all(|given| self.jobs.get(&given.job).is_some_and(|job| job.pace.may_queue()));
                if has.nth(depth - 1).is_some() || (depth == 2 && !is_short) {
                    continue;
                }
                let Some(lease) = self.next_lease(depth == 2) else {
                    break;
                };
                self.give(slot, lease, now);
            }
        }
    }

    /// The first lease with tasks that can be run now.
    fn next_lease(&self, short_only: bool) -> Option<LeaseId> {
        let ready = |held: &Held| {
            self.jobs
                .get(&held.job)
                .is_some_and(|job| matches!(job.state, JobState::Ready { .. }) && (!short_only || job.pace.may_queue()))
        };
        self.leases.iter().find(|(_, held)| !held.pending.is_empty() && ready(held)).map(|(lease, _)| *lease)
    }

    fn give(&mut self, slot: usize, lease: LeaseId, now: Instant) {
        let left = |held: &Held| -> u64 {
            let lengths = held.pending.iter().map(|range| range.end - range.start);
            lengths.map(u64::from).sum()
        };
        let Some(job_id) = self.leases.get(&lease).map(|held| held.job) else {
            return;
        };
        let of_job = self.leases.values().filter(|held| held.job == job_id);
        let left = of_job.map(left).sum();
        let (Some(held), Some(job)) = (self.leases.get_mut(&lease), self.jobs.get(&job_id)) else {
            return;
        };
        let (JobState::Ready { setup, .. }, Some(next)) = (&job.state, held.pending.front_mut()) else {
            return;
        };
        let start = next.start;
        let mut count = job.pace.chunk(left, self.slots).min(next.end - start);
        let mut arguments = Columns::default();
        if job.has_columns {
            arguments = held.arguments.slice(start as usize, (start + count) as usize);
            count = fit(&arguments, count);
            arguments = arguments.slice(0, count as usize);
        }
        next.start += count;
        if Range::is_empty(next) {
            held.pending.pop_front();
        }
        let range = start..start + count;
        let attempts = held.attempts.iter().filter(|(at, _)| range.contains(at));
        let tag = self.next_tag;
        self.next_tag += 1;
        let first = held.first + u64::from(start);
        let chunk = Chunk {
            tag,
            setup: Arc::clone(setup),
            first,
            count,
            attempts: attempts.map(|(at, attempt)| (at - start, *attempt)).collect(),
            arguments,
            restored: self.states.of(lease, first, count),
        };
        self.chunks.insert(tag, Given { slot, lease, job: job_id, count, since: now });
        self.effects.push_back(Effect::Order(slot, Order::Run(chunk)));
    }
}
