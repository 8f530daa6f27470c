//! Workers that come back: what they still hold, and what they were blamed for.
//!
//! A lease whose worker is gone is remembered with its job, to the task: what had not been answered, and what was counted
//! as crashed. If the worker comes back with it, it has not crashed, and what is left of the lease is its own again. What
//! it had answered before is not: it may send those answers again, not knowing that they arrived, and a failed attempt
//! would count twice.
//!
//! Of leases of earlier lives of the scheduler nothing is known, nor has any answer to them arrived in this one: the
//! worker is believed, once.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::message::{Claim, Resume};

use crate::command::Command;
use crate::core::Core;
use crate::core::dispatch::expected_ns;
use crate::event::Refused;
use crate::range_set::RangeSet;
use crate::state::{Held, Job, Left, Phase};
use crate::time::Time;

/// The most leases that a job remembers after their workers have gone, and of earlier lives.
const REMEMBERED: usize = 1 << 16;

impl Core {
    /// Whether a worker can hold what it claims.
    pub(super) fn check_claims(&self, worker: WorkerId, resume: &Resume) -> Result<(), Refused> {
        let mut leases = BTreeSet::new();
        for claim in &resume.claims {
            let ascend = claim.tasks.iter().all(|(start, end)| start < end)
                && claim.tasks.windows(2).all(|pair| pair[0].1 <= pair[1].0);
            let span = span_of(claim);
            let leased = span.end - span.start <= u64::from(u32::MAX)
                && self.tasks_of(claim.job).is_none_or(|tasks| span.end <= tasks)
                && self.jobs.get(&claim.job).is_none_or(|job| job.phase != Phase::Storing);
            if claim.lease >= self.next_lease || !leases.insert(claim.lease) || !ascend || !leased {
                return Err(Refused::BadClaim(worker));
            }
        }
        Ok(())
    }

    /// Gives a worker what is still its own of what it claims, and tells it of jobs that are over. [`Self::place`] it
    /// afterwards.
    pub(super) fn resume(&mut self, id: WorkerId, resume: &Resume) {
        let claimed: BTreeSet<_> = resume.claims.iter().map(|claim| claim.job).collect();
        let told: BTreeSet<_> = resume.jobs.iter().map(|&(job, _)| job).chain(claimed.iter().copied()).collect();
        for job_id in told {
            let job = self.jobs.get_mut(&job_id).filter(|job| job.phase != Phase::Storing);
            if claimed.contains(&job_id) && job.as_ref().is_none_or(|job| job.phase != Phase::Live) {
                self.commands.push_back(Command::CancelJob { worker: id, job: job_id });
            }
            match (job, self.workers.get_mut(&id)) {
                (Some(job), Some(worker)) => {
                    job.known.insert(id);
                    worker.knows.insert(job_id);
                }
                _ => self.commands.push_back(Command::ForgetJob { worker: id, job: job_id }),
            }
        }
        // A worker may be leased a task again before it knows that its answer for an earlier lease is stored, and then
        // claims the task for both. It was the last of them that the task was leased with.
        let mut claims: Vec<_> = resume.claims.iter().collect();
        claims.sort_by_key(|claim| Reverse(claim.lease));
        for claim in claims {
            self.adopt(id, claim);
        }
        claimed.into_iter().for_each(|job| self.sync_runnable(job));
    }

    /// Leases what is left of a claimed lease to its worker again.
    fn adopt(&mut self, id: WorkerId, claim: &Claim) {
        if self.workers.values().any(|worker| worker.leases.contains_key(&claim.lease)) {
            return;
        }
        let limit = self.config.crash_limit;
        let is_earlier = claim.lease < self.config.first_lease;
        let (Some(worker), Some(job)) = (self.workers.get_mut(&id), self.jobs.get_mut(&claim.job)) else { return };
        if job.phase != Phase::Live || !job.after.is_empty() || job.cluster != worker.cluster {
            return;
        }
        let Some((sent, unanswered)) = recall(job, claim, is_earlier, self.now, limit) else { return };

        let mut remaining = RangeSet::new();
        for range in unanswered.iter() {
            job.waiting.intersection(range).for_each(|part| remaining.insert(part));
        }
        remaining.iter().for_each(|range| job.waiting.remove(range));
        // As always, at most one for each worker.
        let careful = unanswered.iter().find_map(|range| job.last_chance.intersection(range).next());
        let careful = careful.filter(|_| worker.last_chances == 0).map(|range| range.start..range.start + 1);
        if let Some(task) = &careful {
            job.last_chance.remove(task.clone());
            remaining.insert(task.clone());
        }
        if remaining.is_empty() {
            return;
        }

        let span = span_of(claim);
        let held = Held {
            job: claim.job,
            first: span.start,
            // As was checked.
            count: (span.end - span.start) as u32,
            task_ns: expected_ns(job, &self.config),
            sent,
            last_chance: careful.is_some(),
            remaining,
        };
        let count = held.remaining.len();
        job.leased += count;
        job.leases.insert(claim.lease, id);
        worker.held += count;
        worker.last_chances += u32::from(held.last_chance);
        self.pools.entry(job.cluster).or_default().owners.serve(job.owner, held.charge(count));
        worker.leases.insert(claim.lease, held);
        if !std::mem::replace(&mut job.started, true) {
            self.commands.push_back(Command::JobStarted { job: claim.job });
        }
    }

    /// How many tasks a job has, ended or not.
    pub(super) fn tasks_of(&self, job: JobId) -> Option<u64> {
        self.jobs.get(&job).map(|job| job.tasks).or_else(|| self.ended.get(&job).map(|job| job.tasks))
    }
}

/// From the first to the last of the tasks that are claimed.
fn span_of(claim: &Claim) -> Range<u64> {
    match (claim.tasks.first(), claim.tasks.last()) {
        (Some(&(start, _)), Some(&(_, end))) => start..end.max(start),
        _ => 0..0,
    }
}

/// What is known of a claimed lease: when it was sent, and which of the claimed tasks its worker has not answered.
/// Nothing if all of it was answered, or the worker has claimed it before. Takes back what the lease was blamed for.
fn recall(job: &mut Job, claim: &Claim, is_earlier: bool, now: Time, limit: u32) -> Option<(Time, RangeSet)> {
    let claimed = claim.tasks.iter().map(|&(start, end)| start..end);
    if let Some(left) = job.left.remove(&claim.lease) {
        forgive(job, &left, limit);
        let left_of = |range| left.remaining.intersection(range).collect::<Vec<_>>();
        return Some((left.sent, claimed.flat_map(left_of).collect()));
    }
    let is_new = is_earlier && job.resumed.len() < REMEMBERED && job.resumed.insert(claim.lease);
    is_new.then(|| (now, claimed.collect()))
}

/// Takes back the crashes and losses that were counted when a lease's worker was thought to be dead.
fn forgive(job: &mut Job, left: &Left, limit: u32) {
    // Tasks that have an outcome by now are not counted any more.
    if left.is_lost {
        left.remaining.iter().for_each(|range| job.losses.lower(range));
    }
    for range in left.blamed() {
        job.crashes.lower(range.clone());
        job.attempts.lower(range.clone());
        let idle: u64 = [&job.waiting, &job.last_chance].map(|set| set.count_in(range.clone())).iter().sum();
        job.retried = job.retried.saturating_sub(idle);
        for part in job.last_chance.intersection(range).collect::<Vec<_>>() {
            job.last_chance.remove(part.clone());
            job.put_back(part, limit);
        }
    }
}

impl Job {
    /// Remembers a lease whose worker is gone.
    pub(super) fn remember(&mut self, lease: LeaseId, left: Left) {
        self.left.insert(lease, left);
        if self.left.len() > REMEMBERED {
            self.left.pop_first();
        }
    }

    /// Panics if more is remembered than may be, or of leases that somebody holds.
    pub(super) fn check_memory(&self, id: JobId) {
        assert!(self.left.len() <= REMEMBERED && self.resumed.len() <= REMEMBERED, "job {id} remembers too much");
        for (lease, left) in &self.left {
            assert!(!self.leases.contains_key(lease), "lease {lease} of job {id} is held, and its worker is gone");
            assert!(left.blamed <= left.remaining.len() && !left.remaining.is_empty(), "blame for lease {lease}");
        }
        let is_live = self.phase == Phase::Live;
        assert!(is_live || (self.left.is_empty() && self.resumed.is_empty()), "job {id} remembers what is over");
    }
}
