//! What a worker holds, and who of its slots does what: pure bookkeeping, without I/O.
//!
//! [`Work`] is driven by the agent's loop: each thing that happens is one call, after which the loop carries out
//! everything that [`Work::next_effect`] gives, in that order. Every task of a lease is answered once: by an outcome, as
//! lost, or as returned, unless its job has been cancelled or has failed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_proto::columns::{Columns, ColumnsError};
use farm_proto::ids::{JobId, LeaseId};
use farm_proto::job::{Args, JobSpec};
use farm_proto::message::{Lease, WorkerControl, WorkerWork};
use farm_proto::outcome::Failure;

use super::prepare::Prepared;
use crate::slot::{Chunk, Event, JobSetup, Order, Pace, fit};

/// A chunk that lasts longer than this while another slot idles is divided anew: its tasks are longer than they were
/// thought to be.
const OVERDUE: Duration = Duration::from_millis(15);

/// What the agent's loop is to do.
#[derive(Debug)]
pub(super) enum Effect {
    Send(WorkerWork, Bytes),
    Control(WorkerControl),
    Order(usize, Order),
    /// Fetch and compile, then call [`Work::prepared`].
    Prepare(JobId, Arc<JobSpec>),
    /// Stop preparing.
    Abandon(JobId),
    /// No slot process can be started.
    Broken(String),
}

/// A job that a scheduler has spoken of and not let us forget.
#[derive(Debug)]
struct Job {
    state: JobState,
    pace: Pace,
    /// Whether its tasks need arguments from their lease.
    has_columns: bool,
}

#[derive(Debug)]
enum JobState {
    Preparing(Arc<JobSpec>),
    Ready {
        setup: Arc<JobSetup>,
        /// Holds the folder of inputs, which goes with it.
        _prepared: Prepared,
    },
    /// Cancelled or failed: nothing of it is run or answered any more.
    Dead,
}

#[derive(Debug)]
struct Held {
    job: JobId,
    first: u64,
    /// Tasks that are not answered yet.
    open: u32,
    attempts: Vec<(u32, u32)>,
    arguments: Columns,
    /// What no slot has, as offsets from `first`.
    pending: VecDeque<Range<u32>>,
    /// Whether the scheduler wants back what slots have not started.
    recalled: bool,
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

    /// The scheduler tells of a job.
    pub(super) fn job(&mut self, job: JobId, spec: JobSpec) {
        if self.jobs.contains_key(&job) {
            // Told before, or cancelled before it was told: the two come on different streams.
            return;
        }
        let spec = Arc::new(spec);
        let known = Job {
            state: JobState::Preparing(Arc::clone(&spec)),
            pace: Pace::default(),
            has_columns: !matches!(spec.args, Args::Range { .. }),
        };
        self.jobs.insert(job, known);
        self.effects.push_back(Effect::Prepare(job, spec));
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
                let inputs = prepared.inputs.as_ref().map(|inputs| inputs.path().to_owned());
                let setup = JobSetup::new(job, spec, prepared.artefact.clone(), inputs);
                known.state = JobState::Ready { setup: Arc::new(setup), _prepared: prepared };
                self.hand_out(now);
            }
            Err(failure) => self.fail(job, failure, now),
        }
    }

    /// The scheduler hands out tasks.
    ///
    /// # Errors
    ///
    /// The payload is not the columns of their arguments.
    pub(super) fn lease(&mut self, lease: Lease, payload: Bytes, now: Instant) -> Result<(), ColumnsError> {
        let job = match self.jobs.get(&lease.job) {
            Some(job) if matches!(job.state, JobState::Dead) => return Ok(()),
            Some(job) if !self.draining => job,
            // Its job is forgotten already, or we are about to leave.
            Some(_) | None => {
                self.give_up(lease.lease, lease.first, lease.count);
                return Ok(());
            }
        };
        let arguments =
            if job.has_columns { Columns::decode(lease.count.into(), payload)? } else { Columns::default() };
        let held = Held {
            job: lease.job,
            first: lease.first,
            open: lease.count,
            attempts: lease.attempts,
            arguments,
            pending: std::iter::once(0..lease.count).collect(),
            recalled: false,
        };
        if lease.count > 0 {
            self.leases.insert(lease.lease, held);
        }
        self.hand_out(now);
        Ok(())
    }

    /// The scheduler wants back what is not started, but for `keep` tasks.
    pub(super) fn recall(&mut self, lease: LeaseId, keep: u32) {
        let Some(held) = self.leases.get_mut(&lease) else {
            return;
        };
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
            self.give_up(lease, first, count);
        }
    }

    /// The scheduler wants nothing of a job any more.
    pub(super) fn cancel(&mut self, job: JobId, now: Instant) {
        let known = self.jobs.entry(job).or_insert_with(|| Job {
            state: JobState::Dead,
            pace: Pace::default(),
            has_columns: false,
        });
        if matches!(known.state, JobState::Preparing(_)) {
            self.effects.push_back(Effect::Abandon(job));
        }
        known.state = JobState::Dead;
        self.leases.retain(|_, held| held.job != job);
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

    /// Take nothing new.
    pub(super) fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.effects.push_back(Effect::Control(WorkerControl::Draining));
        }
    }

    /// A slot says what became of its orders.
    pub(super) fn slot_says(&mut self, event: Event, now: Instant) {
        match event {
            Event::Results { tag, batch, results } => {
                let Some(lease) = self.answer(tag, batch.count) else {
                    return;
                };
                if let Some(job) = self.chunks.get(&tag).and_then(|given| self.jobs.get_mut(&given.job)) {
                    job.pace.learn(&batch);
                }
                let message = WorkerWork::Results { lease, batch };
                self.effects.push_back(Effect::Send(message, results.encode()));
            }
            Event::Lost { tag, task, message } => {
                if let Some(lease) = self.answer(tag, 1) {
                    let message = WorkerWork::Lost { lease, task, message };
                    self.effects.push_back(Effect::Send(message, Bytes::new()));
                }
            }
            Event::Returned { tag, first, count } => {
                self.returned(tag, first, count);
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
        if !self.has_idle_slot() || self.has_pending() {
            return None;
        }
        let divisible = self.chunks.values().filter(|given| given.count > 1);
        divisible.map(|given| given.since + OVERDUE).min()
    }

    /// Takes unstarted tasks away from slots that are slower than was thought, for those that idle.
    pub(super) fn tick(&mut self, now: Instant) {
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

    fn is_alive(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|job| !matches!(job.state, JobState::Dead))
    }

    fn has_idle_slot(&self) -> bool {
        (0..self.slots).any(|slot| self.chunks.values().all(|given| given.slot != slot))
    }

    fn has_pending(&self) -> bool {
        self.leases.values().any(|held| !held.pending.is_empty())
    }

    fn fail(&mut self, job: JobId, failure: Failure, now: Instant) {
        self.effects.push_back(Effect::Control(WorkerControl::JobFailed { job, failure }));
        self.cancel(job, now);
    }

    /// Counts `count` tasks of a chunk as answered. `None` if nobody wants the answer.
    fn answer(&mut self, tag: u64, count: u32) -> Option<LeaseId> {
        let given = self.chunks.get_mut(&tag)?;
        given.count = given.count.saturating_sub(count);
        let lease = given.lease;
        self.close(lease, count).then_some(lease)
    }

    /// Whether the lease was held.
    fn close(&mut self, lease: LeaseId, count: u32) -> bool {
        let Some(held) = self.leases.get_mut(&lease) else {
            return false;
        };
        held.open = held.open.saturating_sub(count);
        if held.open == 0 {
            self.leases.remove(&lease);
        }
        true
    }

    fn give_up(&mut self, lease: LeaseId, first: u64, count: u32) {
        if count > 0 {
            self.close(lease, count);
            let message = WorkerWork::Returned { lease, first, count };
            self.effects.push_back(Effect::Send(message, Bytes::new()));
        }
    }

    fn returned(&mut self, tag: u64, first: u64, count: u32) {
        let Some(given) = self.chunks.get_mut(&tag) else {
            return;
        };
        given.count = given.count.saturating_sub(count);
        let lease = given.lease;
        let Some(held) = self.leases.get_mut(&lease) else {
            return;
        };
        if held.recalled {
            return self.give_up(lease, first, count);
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
        let chunk = Chunk {
            tag,
            setup: Arc::clone(setup),
            first: held.first + u64::from(start),
            count,
            attempts: attempts.map(|(at, attempt)| (at - start, *attempt)).collect(),
            arguments,
        };
        self.chunks.insert(tag, Given { slot, lease, job: job_id, count, since: now });
        self.effects.push_back(Effect::Order(slot, Order::Run(chunk)));
    }
}
