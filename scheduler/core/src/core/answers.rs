//! What workers answer: outcomes, lost tasks, and tasks handed back.

use std::ops::Range;
use std::time::Duration;

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::message::Batch;
use farm_proto::outcome::{Failure, FailureKind};

use crate::command::Fact;
use crate::core::Core;
use crate::core::persist::Deferred;
use crate::event::Refused;
use crate::state::numbers_in;
use crate::time::{Time, nanos};

/// Moments at which tasks may be tried again are rounded up to multiples of this, so that many tasks share one.
const RETRY_GRAIN: u64 = 1 << 22;

/// Tasks of a lease that have just been answered for the first time.
struct Answered {
    job: JobId,
    /// Ascending.
    tasks: Vec<Range<u64>>,
    count: u64,
    /// When their lease was sent.
    sent: Time,
}

/// What is to become of the tasks of a batch.
#[derive(Default)]
struct Verdict {
    /// Ascending: tasks whose outcome is not kept.
    again: Vec<u64>,
    /// Those of the others that failed, ascending.
    failed: Vec<Range<u64>>,
    /// Why the whole job fails.
    fatal: Option<String>,
}

impl Core {
    pub(super) fn batch_arrived(&mut self, worker: WorkerId, lease: LeaseId, batch: &Batch) -> Result<(), Refused> {
        let mut offsets = batch.failures.iter().map(|&(offset, _)| offset).chain([batch.count]);
        let mut below = None;
        if offsets.any(|offset| below.replace(offset) >= Some(offset)) {
            return Err(Refused::BadFailures(lease));
        }
        let answered = self.answered(worker, lease, batch.first, batch.count, Some(batch.run_ns))?;
        let Some(Answered { job: id, tasks, count, sent }) = answered else { return Ok(()) };
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        job.pace.learn(count, share_of(batch.run_ns, count, batch.count));

        let mut verdict = Verdict::default();
        for (offset, failure) in &batch.failures {
            let task = batch.first + u64::from(*offset);
            if tasks.iter().any(|range| range.contains(&task)) {
                self.judge(id, task, failure, &mut verdict);
            }
        }
        self.accept(id, worker, &tasks, &mut verdict, sent);
        if verdict.fatal.is_some() {
            self.stop_job(id, JobState::Failed, verdict.fatal);
        }
        self.sync_runnable(id);
        self.settle(id);
        self.place(worker);
        Ok(())
    }

    /// The slot that ran the task died.
    pub(super) fn task_lost(&mut self, worker: WorkerId, lease: LeaseId, task: u64) -> Result<(), Refused> {
        if let Some(Answered { job, .. }) = self.answered(worker, lease, task, 1, None)? {
            self.task_crashed(job, task);
            self.sync_runnable(job);
            self.settle(job);
            self.place(worker);
        }
        Ok(())
    }

    pub(super) fn tasks_returned(
        &mut self,
        worker: WorkerId,
        lease: LeaseId,
        first: u64,
        count: u32,
    ) -> Result<(), Refused> {
        let answered = self.answered(worker, lease, first, count, None)?;
        if let Some(Answered { job: id, tasks, .. }) = answered {
            if let Some(asked) = self.workers.get_mut(&worker).and_then(|worker| worker.asked.as_mut()) {
                asked.answered = true;
            }
            let limit = self.config.crash_limit;
            if let Some(job) = self.jobs.get_mut(&id) {
                tasks.into_iter().for_each(|range| job.put_back(range, limit));
            }
            self.sync_runnable(id);
        }
        self.place(worker);
        Ok(())
    }

    /// Takes `count` tasks out of a lease and settles its owner's account. Gives those that had not been answered
    /// before; nothing if there are none, or the lease has ended. [`Self::place`] the worker afterwards.
    fn answered(
        &mut self,
        id: WorkerId,
        lease: LeaseId,
        first: u64,
        count: u32,
        run_ns: Option<u64>,
    ) -> Result<Option<Answered>, Refused> {
        let worker = self.workers.get_mut(&id).ok_or(Refused::NoSuchWorker(id))?;
        if lease >= self.next_lease {
            return Err(Refused::NeverLeased(id));
        }
        let range = first..first.checked_add(u64::from(count)).ok_or(Refused::OutsideLease(lease))?;
        if let Some(held) = worker.leases.get(&lease)
            && count > 0
            && (range.start < held.first || range.end > held.first + u64::from(held.count))
        {
            return Err(Refused::OutsideLease(lease));
        }
        worker.heard = self.now;
        worker.silent_since = self.now;
        let Some(held) = worker.leases.get_mut(&lease) else { return Ok(None) };
        let tasks: Vec<_> = held.remaining.intersection(range.clone()).collect();
        let answered = tasks.iter().map(|range| range.end - range.start).sum();
        if answered == 0 {
            return Ok(None);
        }
        held.remaining.remove(range);
        worker.held -= answered;
        let (job, sent) = (held.job, held.sent);
        let charged = held.charge(answered);
        if let Some(job) = self.jobs.get_mut(&job) {
            job.leased -= answered;
            let measured = run_ns.map_or(0, |run_ns| share_of(run_ns, answered, count));
            self.pools.entry(job.cluster).or_default().owners.correct(job.owner, charged, measured);
        }
        if held.remaining.is_empty() {
            self.drop_lease(id, lease);
        }
        Ok(Some(Answered { job, tasks, count: answered, sent }))
    }

    /// Decides what a failed attempt means.
    fn judge(&mut self, id: JobId, task: u64, failure: &Failure, verdict: &mut Verdict) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if failure.kind.fails_job() {
            verdict.again.push(task);
            job.put_back(task..task + 1, self.config.crash_limit);
            verdict.fatal.get_or_insert_with(|| failure.to_string());
        } else if failure.kind.is_retryable() && job.failures_of(task) < job.retries {
            verdict.again.push(task);
            self.retry_later(id, task);
        } else {
            match verdict.failed.last_mut() {
                Some(last) if last.end == task => last.end += 1,
                _ => verdict.failed.push(task..task + 1),
            }
        }
    }

    /// Lets a task that failed by its own doing wait for its next attempt.
    fn retry_later(&mut self, id: JobId, task: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.retried += 1;
        job.attempts.raise(task..task + 1);
        let doublings = job.failures_of(task).saturating_sub(1).min(63);
        let delay = self.config.retry_delay.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX));
        let delay = nanos(delay.min(self.config.max_retry_delay));
        if delay == 0 {
            job.put_back(task..task + 1, self.config.crash_limit);
            return;
        }
        let delay = delay / 1024 * jitter(id, task, job.attempts.get(task));
        let due = (self.now + Duration::from_nanos(delay)).0;
        let due = Time(due.checked_next_multiple_of(RETRY_GRAIN).unwrap_or(due));
        job.retrying.entry(due).or_default().insert(task..task + 1);
        self.retries.insert((due, id));
    }

    /// Lets tasks wait for a worker whose next attempt is due.
    pub(super) fn release_retries(&mut self) {
        while let Some(&(due, id)) = self.retries.first()
            && due <= self.now
        {
            self.retries.remove(&(due, id));
            if let Some(job) = self.jobs.get_mut(&id) {
                for range in job.retrying.remove(&due).unwrap_or_default().iter() {
                    job.put_back(range, self.config.crash_limit);
                }
                self.sync_runnable(id);
            }
        }
    }

    /// Keeps the outcomes of a batch but for those that the verdict takes out.
    fn accept(&mut self, id: JobId, worker: WorkerId, tasks: &[Range<u64>], verdict: &mut Verdict, sent: Time) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let accepted = without(tasks, &verdict.again);
        let count = numbers_in(&accepted);
        if count == 0 {
            return;
        }
        let failed = std::mem::take(&mut verdict.failed);
        failed.iter().for_each(|range| job.failed.insert(range.clone()));
        job.succeeded += count - numbers_in(&failed);
        accepted.iter().for_each(|range| job.clear_tallies(range.clone()));
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.finished += count;
        }
        let landed = self.landed(id, &accepted, &failed);
        self.persist(Fact::Outcomes { job: id, accepted, failed, leased: self.now - sent });
        self.once_stored(Deferred::Stored(id, landed));
    }

    /// Counts a crash of a task that is in no set any more. It runs again, or fails for good.
    pub(super) fn task_crashed(&mut self, id: JobId, task: u64) {
        let limit = self.config.crash_limit;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.attempts.raise(task..task + 1);
        job.crashes.raise(task..task + 1);
        let crashes = job.crashes.get(task);
        if crashes < limit {
            job.retried += 1;
            job.put_back(task..task + 1, limit);
        } else {
            let message = match crashes {
                1 => "the worker died while running this task".to_owned(),
                times => format!("the worker died while running this task, {times} times"),
            };
            self.fail_task(id, task, Failure::new(FailureKind::WorkerLost, message));
        }
    }

    /// Fails a task for good that is in no set any more.
    pub(super) fn fail_task(&mut self, id: JobId, task: u64, failure: Failure) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let tasks = task..task + 1;
        job.failed.insert(tasks.clone());
        job.clear_tallies(tasks.clone());
        let landed = self.landed(id, std::slice::from_ref(&tasks), std::slice::from_ref(&tasks));
        self.persist(Fact::TaskFailed { job: id, task, failure });
        self.once_stored(Deferred::Stored(id, landed));
    }
}

/// The part of `total`, which is for `of` tasks, that falls to `count` of them.
fn share_of(total: u64, count: u64, of: u32) -> u64 {
    let share = u128::from(total) * u128::from(count) / u128::from(of.max(1));
    // `count` is at most `of`.
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// `ranges` without the numbers `holes`; all ascending.
fn without(ranges: &[Range<u64>], holes: &[u64]) -> Vec<Range<u64>> {
    let mut holes = holes.iter().copied().peekable();
    let mut left = Vec::with_capacity(ranges.len());
    for range in ranges {
        let mut start = range.start;
        while let Some(hole) = holes.next_if(|hole| *hole < range.end) {
            left.extend((start < hole).then_some(start..hole));
            start = hole + 1;
        }
        left.extend((start < range.end).then_some(start..range.end));
    }
    left
}

/// By how much a delay is stretched, in 1024ths: between three and five quarters. Tasks that failed together should not
/// come back all at once, but the core has no chance of its own to draw from, so that this is drawn from the task. Near
/// neighbours are given the same, as they are then kept as one range.
fn jitter(job: JobId, task: u64, attempt: u32) -> u64 {
    let mut mixed = (job.0 << 40) ^ (task >> 6) ^ (u64::from(attempt) << 56);
    // The finaliser of SplitMix64.
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    768 + (mixed ^ (mixed >> 31)) % 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_cut_out() {
        let ranges = [0..5, 7..8, 9..12];
        assert_eq!(without(&ranges, &[]), ranges);
        assert_eq!(without(&ranges, &[0, 4, 7, 10]), [1..4, 9..10, 11..12]);
        assert_eq!(without(&ranges, &[0, 1, 2, 3, 4, 7, 9, 10, 11]), []);
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        let drawn: Vec<_> = (0..1000).map(|block| jitter(JobId(1), block * 64, 1)).collect();
        assert!(drawn.iter().all(|stretch| (768..1280).contains(stretch)));
        assert!(drawn.iter().any(|stretch| *stretch < 800) && drawn.iter().any(|stretch| *stretch > 1250));
        assert_eq!(jitter(JobId(1), 0, 1), jitter(JobId(1), 63, 1));
    }
}
