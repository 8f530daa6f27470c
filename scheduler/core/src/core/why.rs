//! What tasks wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::why::Stage;

use crate::core::Core;
use crate::core::dispatch::{finishes, time_needed};
use crate::range_set::RangeSet;
use crate::state::{EndedJob, Held, Inputs, Job, Phase, Worker, is_in, numbers_in};
use crate::view::{Waiting, WaitingGroup};

impl Core {
    /// What a task waits for. None if there is no such job, or it has no such task.
    ///
    /// Takes the time of the job's leases and ranges: for people, not for every task.
    pub fn why(&self, id: JobId, task: u64) -> Option<Waiting> {
        let Some(job) = self.jobs.get(&id) else {
            let job = self.ended.get(&id)?;
            return (task < job.tasks).then(|| why_ended(job, task));
        };
        if task >= job.tasks {
            return None;
        }
        Some(if job.failed.contains(task) {
            Waiting::Failed
        } else if job.missing.contains(task) {
            Waiting::Ended
        } else if let Some((&until, _)) = job.retrying.iter().find(|(_, tasks)| tasks.contains(task)) {
            Waiting::Retry { attempt: job.attempts.get(task), until }
        } else if job.blocked.contains(task) {
            let results = job.input.as_deref().map(|input| (input, input.used_by(&(task..task + 1))));
            self.why_held_up(job).unwrap_or_else(|| why_blocked(results))
        } else if job.waiting.contains(task) || job.last_chance.contains(task) {
            self.why_unleased(id, job, job.waiting.count_below(task) + job.last_chance.count_below(task))
        } else {
            let held = job.leases.iter().find_map(|(lease, id)| {
                let worker = self.workers.get(id)?;
                let held = worker.leases.get(lease).filter(|held| held.remaining.contains(task))?;
                let before: u64 = worker.leases.range(..lease).map(|(_, held)| held.remaining.len()).sum();
                Some((*id, worker, held, before + held.remaining.count_below(task)))
            });
            held.map_or(Waiting::Value, |(worker_id, worker, held, ahead)| {
                why_leased(worker_id, worker, held, ahead, worker.preparing.get(&id).copied())
            })
        })
    }

    /// What the tasks of a job wait for: one group for each cause, and for each worker that holds some. Tasks with an
    /// outcome are in none. None if there is no such job.
    ///
    /// Takes the time of the job's ranges and of its workers' leases, however many tasks there are.
    pub fn why_all(&self, id: JobId) -> Option<Vec<WaitingGroup>> {
        let Some(job) = self.jobs.get(&id) else {
            let missing = &self.ended.get(&id)?.missing;
            let group = |first| WaitingGroup { first, count: numbers_in(missing), waiting: Waiting::Ended };
            return Some(missing.first().map(|range| group(range.start)).into_iter().collect());
        };
        let mut groups = Vec::new();
        let mut add = |first: u64, count: u64, waiting| groups.push(WaitingGroup { first, count, waiting });
        if let Some(first) = job.missing.first() {
            add(first.start, job.missing.len(), Waiting::Ended);
        }
        let (plain, careful) = (job.waiting.first(), job.last_chance.first());
        let first = plain.iter().chain(&careful).map(|range| range.start).min();
        let unleased = job.waiting.len() + job.last_chance.len();
        let held_up = self.why_held_up(job);
        if let Some(waiting) = held_up {
            // Whatever each of them waits for besides, nothing can happen before that.
            let first = first.into_iter().chain(job.blocked.first().map(|range| range.start)).min();
            first.into_iter().for_each(|first| add(first, unleased + job.blocked.len(), waiting));
        } else {
            if let (Some(first), Some(last)) = (job.blocked.first(), job.blocked.iter().next_back()) {
                let results = job.input.as_deref().map(|input| (input, input.used_by(&(first.start..last.end))));
                add(first.start, job.blocked.len(), why_blocked(results));
            }
            if let Some(first) = first {
                add(first, unleased, self.why_unleased(id, job, 0));
            }
        }
        let next = job.retrying.iter().find_map(|(&until, tasks)| Some((until, tasks.first()?.start)));
        if let Some((until, first)) = next {
            let count = job.retrying.values().map(RangeSet::len).sum();
            add(first, count, Waiting::Retry { attempt: job.attempts.get(first), until });
        }
        let holders: BTreeSet<_> = job.leases.values().copied().collect();
        for holder in holders {
            groups.extend(self.why_held(id, holder));
        }
        Some(groups)
    }

    /// What a job as a whole waits for before anything of it can be leased.
    fn why_held_up(&self, job: &Job) -> Option<Waiting> {
        if job.phase == Phase::Storing {
            return Some(Waiting::Storing);
        }
        if job.held {
            return Some(Waiting::Held);
        }
        job.after.first().map(|&job| Waiting::After { job })
    }

    /// What a task waits for that could be leased, but for `tasks` others of its job.
    fn why_unleased(&self, id: JobId, job: &Job, tasks: u64) -> Waiting {
        if let Some(waiting) = self.why_held_up(job) {
            return waiting;
        }
        let Some(pool) = self.pools.get(&job.cluster).filter(|pool| pool.total_slots > 0) else {
            return Waiting::Worker;
        };
        let mut workers = self.workers.values().filter(|worker| worker.cluster == job.cluster && !worker.draining);
        if !workers.any(|worker| finishes(job, worker, self.now)) {
            return Waiting::Time { needed: Duration::from_nanos(time_needed(job)) };
        }
        let jobs = pool.owners.jobs_before(job.owner, job.priority, id);
        Waiting::Slot { tasks, jobs, slots: pool.total_slots }
    }

    /// What the tasks of a job wait for that a worker holds: those that probably run, and those behind them.
    fn why_held(&self, id: JobId, holder: WorkerId) -> Vec<WaitingGroup> {
        let Some(worker) = self.workers.get(&holder) else { return Vec::new() };
        let preparing = worker.preparing.get(&id).copied();
        let mut groups: BTreeMap<u64, WaitingGroup> = BTreeMap::new();
        let mut before = 0;
        for held in worker.leases.values() {
            let count = held.remaining.len();
            if held.job == id {
                let running = u64::from(worker.slots).saturating_sub(before).min(count);
                let parts = if preparing.is_some() { [(0, count), (0, 0)] } else { [(0, running), (running, count)] };
                for (index, (from, to)) in parts.into_iter().enumerate().filter(|(_, (from, to))| from < to) {
                    let waiting = || why_leased(holder, worker, held, before + from, preparing);
                    let Some(first) = held.remaining.nth(from) else { continue };
                    let fresh = || WaitingGroup { first, count: 0, waiting: waiting() };
                    groups.entry(index as u64).or_insert_with(fresh).count += to - from;
                }
            }
            before += count;
        }
        groups.into_values().collect()
    }
}

/// What a task of an ended job waits for: nothing.
fn why_ended(job: &EndedJob, task: u64) -> Waiting {
    if is_in(&job.failed, task) {
        Waiting::Failed
    } else if is_in(&job.missing, task) {
        Waiting::Ended
    } else {
        Waiting::Value
    }
}

/// What a task waits for that needs these results.
fn why_blocked(results: Option<(&Inputs, Range<u64>)>) -> Waiting {
    match results {
        Some((input, results)) => Waiting::Input { job: input.job, first: results.start, end: results.end },
        // Tasks are blocked by inputs only.
        None => Waiting::Storing,
    }
}

/// What a task waits for that is leased, with `ahead` others of its worker before it.
fn why_leased(id: WorkerId, worker: &Worker, held: &Held, ahead: u64, preparing: Option<Stage>) -> Waiting {
    match preparing {
        Some(stage) => Waiting::Preparing { worker: id, stage },
        None if ahead < u64::from(worker.slots) => Waiting::Running { worker: id, since: held.sent },
        None => Waiting::Queued { worker: id, tasks: ahead },
    }
}
