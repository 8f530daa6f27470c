//! Leases: who gets the next one, and how much is in it.

use std::ops::{Bound, Range};

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::message::Lease;

use crate::command::Command;
use crate::config::Config;
use crate::core::Core;
use crate::range_set::RangeSet;
use crate::state::{Held, Job, Load, Worker};
use crate::time::{Time, nanos};

/// The most leases of which a worker's slots have started nothing.
const QUEUED_LEASES: u32 = 2;
/// The most leases that one turn is cut into when what waits is scattered.
const SCATTERED: usize = 16;
/// A lease holds at most this many times as many tasks as its job has had outcomes: an estimate is trusted as far as it
/// has been tried.
const GROWTH: u64 = 4;
/// Work that is not worth being divided among workers, for each slot, in nanoseconds.
const INDIVISIBLE: u64 = 1_000_000;
/// The most tasks in a lease of tasks that were lost with a worker once.
const CAREFUL: u64 = 1024;

impl Core {
    /// Leases what waits to workers that have room, the emptiest first.
    pub(super) fn dispatch(&mut self, cluster: ClusterId) {
        let mut from = Bound::Unbounded;
        while let Some(pool) = self.pools.get(&cluster).filter(|pool| pool.owners.any_work()) {
            let Some(&(fullness, worker)) = pool.hungry.range((from, Bound::Unbounded)).next() else { break };
            if !self.lease_to(worker) {
                from = Bound::Excluded((fullness, worker));
            }
        }
    }

    /// Gives one job a turn on a worker. Returns false if there is no job for it.
    fn lease_to(&mut self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let fits = |job: &Job| (!job.waiting.is_empty() || worker.last_chances == 0) && finishes(job, worker, self.now);
        let Some(pool) = self.pools.get(&worker.cluster) else { return false };
        let turn = pool.owners.turns().find_map(|id| self.jobs.get(&id).filter(|job| fits(job)).map(|job| (id, job)));
        let Some((job_id, job)) = turn else { return false };

        if worker.last_chances == 0
            && let Some(Range { start, .. }) = job.last_chance.first()
        {
            self.grant(id, job_id, start..start + 1, true);
        } else {
            let slots = worker.slots;
            let load = worker.load(nanos(self.config.long_task));
            let want = self.portion(job, (slots, pool.total_slots), &load).min(in_time(job, worker, &load, self.now));
            let mut taken = 0;
            for _ in 0..SCATTERED {
                let next = self.jobs.get(&job_id).and_then(|job| next_waiting(job, slots, want, taken));
                let Some(range) = next else { break };
                taken += range.end - range.start;
                self.grant(id, job_id, range, false);
            }
        }
        self.sync_runnable(job_id);
        self.place(id);
        true
    }

    /// Whether leases may be sent ahead of its slots to a worker.
    pub(super) fn takes_more(load: &Load, slots: u32, config: &Config) -> bool {
        load.soon > 0
            && load.queued_leases < QUEUED_LEASES
            && load.queued_ns <= nanos(config.lease_time).saturating_mul(u64::from(slots)) / 2
    }

    /// How many tasks of the job a worker with so many of its cluster's slots should get now: one for each free slot,
    /// and what is sent ahead.
    fn portion(&self, job: &Job, (slots, of): (u32, u64), load: &Load) -> u64 {
        let config = &self.config;
        let task_ns = expected_ns(job, config);
        let more = load.free > 0 || Self::takes_more(load, slots, config);
        let slots = u64::from(slots);

        // What is sent ahead keeps slots busy that will soon be free, the free ones included if they get short tasks.
        let mut ahead = 0;
        if more {
            let soon = load.soon + if task_ns < nanos(config.long_task) { load.free } else { 0 };
            let window = nanos(config.lease_time).saturating_mul(slots);
            let room = u128::from(window.saturating_sub(load.queued_ns));
            let tasks = room * u128::from(soon) / u128::from(slots) / u128::from(task_ns);
            // Short tasks of others may keep every slot taken for ever: without at least one task sent ahead of that,
            // a job of long ones would never get a turn.
            ahead = u64::try_from(tasks).unwrap_or(u64::MAX).max(u64::from(load.free == 0));
        }

        // A small job is divided among all workers, unless it is too small even for that.
        let share = u128::from(job.waiting.len()) * u128::from(slots);
        let share = u64::try_from(share.div_ceil(u128::from(of.max(1)))).unwrap_or(u64::MAX);
        let indivisible = job.pace.task_ns.map_or(0, |ns| INDIVISIBLE * slots / ns.max(1));

        load.free
            .saturating_add(ahead)
            .min(job.pace.answered.saturating_mul(GROWTH).max(slots))
            .min(share.max(indivisible))
            .min(config.max_lease_bytes.checked_div(job.arg_bytes).unwrap_or(u64::MAX))
            .min(u64::from(config.max_lease_tasks))
            .max(1)
    }

    /// Makes a lease of tasks that wait.
    fn grant(&mut self, id: WorkerId, job_id: JobId, range: Range<u64>, last_chance: bool) {
        let (Some(worker), Some(job)) = (self.workers.get_mut(&id), self.jobs.get_mut(&job_id)) else { return };
        let count = range.end - range.start;
        job.waiting.remove(range.clone());
        job.last_chance.remove(range.clone());
        job.leased += count;
        let lease = self.next_lease;
        self.next_lease = LeaseId(lease.0 + 1);
        job.leases.insert(lease, id);
        let held = Held {
            job: job_id,
            first: range.start,
            // A portion is at most `max_lease_tasks`.
            count: count as u32,
            remaining: RangeSet::from(range.clone()),
            task_ns: expected_ns(job, &self.config),
            sent: self.now,
            last_chance,
        };
        self.pools.entry(job.cluster).or_default().owners.serve(job.owner, held.charge(count));
        if worker.held == 0 {
            worker.silent_since = self.now;
            worker.asked = None;
        }
        worker.held += count;
        worker.last_chances += u32::from(last_chance);
        worker.leases.insert(lease, held);
        job.known.insert(id);
        let introduce = worker.knows.insert(job_id);
        if !std::mem::replace(&mut job.started, true) {
            self.commands.push_back(Command::JobStarted { job: job_id });
        }
        let attempts = attempts_in(job, &range);
        let lease = Lease { lease, job: job_id, first: range.start, count: count as u32, attempts };
        self.commands.push_back(Command::SendLease { worker: id, lease, introduce });
    }
}

/// What a task of the job probably takes, in nanoseconds. What is not known is taken for long.
pub(super) fn expected_ns(job: &Job, config: &Config) -> u64 {
    job.pace.task_ns.unwrap_or_else(|| nanos(config.long_task)).max(1)
}

/// Whether a task of the job that a worker begins now has an end before the worker has: as far as is known.
pub(super) fn finishes(job: &Job, worker: &Worker, now: Time) -> bool {
    worker.ends.is_none_or(|ends| now < ends && time_needed(job) <= nanos(ends - now))
}

/// How many more tasks of the job a worker can finish, if each takes what is expected; at least 1.
fn in_time(job: &Job, worker: &Worker, load: &Load, now: Time) -> u64 {
    let Some(ends) = worker.ends else { return u64::MAX };
    let slots = u64::from(worker.slots);
    let left = nanos(ends - now.min(ends)).saturating_sub(load.queued_ns / slots);
    let each = left.checked_div(time_needed(job)).unwrap_or(u64::MAX);
    each.saturating_mul(slots).max(1)
}

/// What a task of the job takes, in nanoseconds: what its user said, and what was measured, whichever is longer. 0 if
/// neither is known.
pub(super) fn time_needed(job: &Job) -> u64 {
    job.time_request.max(job.pace.task_ns).unwrap_or(0)
}

/// The next tasks for a worker that should get `want` and has been given `taken` in this turn. A lease holds
/// consecutive tasks only.
///
/// Tasks that were lost with a worker before are handed out in smaller portions, after the second time one for each
/// slot: so the task that took the workers down is soon among the few that are counted as crashed when it happens
/// again.
fn next_waiting(job: &Job, slots: u32, want: u64, taken: u64) -> Option<Range<u64>> {
    let Range { start, end } = job.waiting.first()?;
    let (losses, run_end) = job.losses.run_at(start);
    let most = match losses {
        0 => u64::MAX,
        1 => CAREFUL,
        _ => u64::from(slots),
    };
    let count = want.min(most).saturating_sub(taken).min(end - start).min(run_end - start);
    (count > 0).then(|| start..start + count)
}

/// The numbers of attempts that are not 0, as a lease tells them.
fn attempts_in(job: &Job, range: &Range<u64>) -> Vec<(u32, u32)> {
    let runs = job.attempts.runs_in(range.clone());
    // Offsets in a lease are as small as its count.
    runs.flat_map(|(run, attempt)| run.map(move |task| ((task - range.start) as u32, attempt))).collect()
}
