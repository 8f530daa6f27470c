//! What tasks of this worker have kept for their next attempts: checkpoints that came with their leases, and those that
//! they have made since. Of each task, the last.
//!
//! The scheduler is told of a task's first at once, then now and then, and of the last one before the task goes back to
//! it: however fast a function makes them, the link does not suffer.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_proto::ids::{JobId, LeaseId};
use farm_proto::message::WorkerWork;

use super::work::Effect;

/// The least time between two that the scheduler is told of, of one task; and as much again for each of these bytes.
const PAUSE: Duration = Duration::from_secs(1);
const BYTES_A_PAUSE: u32 = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct States {
    /// Of tasks that are held and not answered.
    states: BTreeMap<(LeaseId, u64), State>,
    /// Those of a lease that is to come next.
    coming: Vec<(LeaseId, u64, Bytes)>,
}

#[derive(Debug)]
struct State {
    job: JobId,
    bytes: Bytes,
    /// When to tell the scheduler of it, unless it knows it.
    due: Option<Instant>,
    /// When it may be told of the next.
    next: Instant,
}

impl State {
    /// Tells the scheduler, if it does not know yet.
    fn tell(&mut self, lease: LeaseId, task: u64, now: Instant) -> Option<Effect> {
        self.due.take()?;
        // A state is at most some megabytes.
        self.next = now + PAUSE + PAUSE * self.bytes.len() as u32 / BYTES_A_PAUSE;
        Some(Effect::Send(self.job, WorkerWork::Checkpoint { lease, task }, self.bytes.clone()))
    }
}

/// Tasks of a lease.
fn keys(lease: LeaseId, first: u64, count: u32) -> RangeInclusive<(LeaseId, u64)> {
    (lease, first)..=(lease, first.saturating_add(u64::from(count.max(1)) - 1))
}

impl States {
    /// The scheduler gives what a task of the lease that comes next has kept.
    pub(super) fn restored(&mut self, lease: LeaseId, task: u64, bytes: Bytes) {
        self.coming.push((lease, task, bytes));
    }

    /// That lease has come, and is held.
    pub(super) fn take_in(&mut self, lease: LeaseId, job: JobId, now: Instant) {
        let coming = self.coming.drain(..).filter(|(of, _, _)| *of == lease);
        self.states
            .extend(coming.map(|(lease, task, bytes)| ((lease, task), State { job, bytes, due: None, next: now })));
    }

    /// That lease has come, and is not held.
    pub(super) fn drop_coming(&mut self) {
        self.coming.clear();
    }

    /// A task keeps a state. What the scheduler is to be told at once.
    pub(super) fn keep(
        &mut self,
        (lease, task): (LeaseId, u64),
        job: JobId,
        bytes: Bytes,
        now: Instant,
    ) -> Option<Effect> {
        let state =
            self.states.entry((lease, task)).or_insert(State { job, bytes: Bytes::new(), due: None, next: now });
        (state.bytes, state.due) = (bytes, Some(state.next));
        if state.next <= now { state.tell(lease, task, now) } else { None }
    }

    /// These tasks, as many as `count`, will be run elsewhere, or soon will: what the scheduler has to know before.
    pub(super) fn tell(&mut self, lease: LeaseId, first: u64, count: u32, now: Instant) -> Vec<Effect> {
        let states = self.states.range_mut(keys(lease, first, count));
        states.filter_map(|((lease, task), state)| state.tell(*lease, *task, now)).collect()
    }

    /// As [`Self::tell`], of all tasks.
    pub(super) fn tell_all(&mut self, now: Instant) -> Vec<Effect> {
        self.states.iter_mut().filter_map(|((lease, task), state)| state.tell(*lease, *task, now)).collect()
    }

    /// What the scheduler is to be told by now.
    pub(super) fn tell_due(&mut self, now: Instant) -> Vec<Effect> {
        let due = self.states.iter_mut().filter(|(_, state)| state.due.is_some_and(|due| due <= now));
        due.filter_map(|((lease, task), state)| state.tell(*lease, *task, now)).collect()
    }

    /// When that is due for the next time.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.states.values().filter_map(|state| state.due).min()
    }

    /// These tasks are answered.
    pub(super) fn forget(&mut self, lease: LeaseId, first: u64, count: u32) {
        // Most tasks keep nothing.
        while let Some((&key, _)) = self.states.range(keys(lease, first, count)).next() {
            self.states.remove(&key);
        }
    }

    pub(super) fn forget_job(&mut self, job: JobId) {
        self.states.retain(|_, state| state.job != job);
    }

    /// What these tasks go on from, by offset from the first.
    pub(super) fn of(&self, lease: LeaseId, first: u64, count: u32) -> Vec<(u32, Bytes)> {
        let states = self.states.range(keys(lease, first, count));
        states.map(|((_, task), state)| ((task - first) as u32, state.bytes.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: LeaseId = LeaseId(3);

    fn told(effects: impl IntoIterator<Item = Effect>) -> Vec<(u64, Bytes)> {
        let told = effects.into_iter().map(|effect| match effect {
            Effect::Send(JobId(1), WorkerWork::Checkpoint { lease: LEASE, task }, bytes) => (task, bytes),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_last_one_in_time() {
        let (mut states, begin) = (States::default(), Instant::now());
        let mut now = begin;
        let mut all = Vec::new();
        for step in 0..=100_u8 {
            now = begin + Duration::from_millis(50) * step.into();
            let at_once = states.keep((LEASE, 7), JobId(1), vec![step].into(), now);
            all.extend(told(at_once.into_iter().chain(states.tell_due(now))));
        }
        assert!((4..=7).contains(&all.len()), "{all:?}");
        assert_eq!(all.first(), Some(&(7, vec![0].into())));
        let due = states.next_deadline();
        if let Some(due) = due {
            assert!(due <= now + PAUSE * 2);
            all.extend(told(states.tell_due(due)));
        }
        assert_eq!(all.last(), Some(&(7, vec![100].into())));
        assert_eq!(states.next_deadline(), None);
        assert_eq!(states.of(LEASE, 7, 1), [(0, vec![100].into())]);
    }

    #[test]
    fn a_large_one_waits_for_longer() {
        let (mut states, now) = (States::default(), Instant::now());
        let large = Bytes::from(vec![0; 4 << 20]);
        assert!(states.keep((LEASE, 0), JobId(1), large.clone(), now).is_some());
        assert!(states.keep((LEASE, 0), JobId(1), large, now + PAUSE * 4).is_none());
        assert_eq!(states.next_deadline(), Some(now + PAUSE * 5));
    }

    #[test]
    fn what_waits_is_told_before_a_task_goes_back() {
        let (mut states, now) = (States::default(), Instant::now());
        for (task, byte) in [(4, 1), (5, 1), (5, 2), (6, 1), (6, 2)] {
            states.keep((LEASE, task), JobId(1), vec![byte].into(), now);
        }
        assert_eq!(told(states.tell(LEASE, 0, 6, now)), [(5, vec![2].into())]);
        assert_eq!(told(states.tell_all(now)), [(6, vec![2].into())]);
        states.forget(LEASE, 5, 2);
        assert_eq!(states.of(LEASE, 4, 9), [(0, vec![1].into())]);
        states.forget_job(JobId(1));
        assert_eq!(states.of(LEASE, 4, 9), []);
    }

    #[test]
    fn what_comes_with_a_lease_is_not_told_back() {
        let (mut states, now) = (States::default(), Instant::now());
        states.restored(LEASE, 9, vec![1].into());
        states.restored(LeaseId(2), 9, vec![2].into());
        states.take_in(LEASE, JobId(1), now);
        assert_eq!(states.of(LEASE, 9, 1), [(0, vec![1].into())]);
        assert_eq!(states.of(LeaseId(2), 9, 1), []);
        assert!(states.tell_all(now).is_empty());
        states.restored(LEASE, 10, vec![1].into());
        states.drop_coming();
        states.take_in(LEASE, JobId(1), now);
        assert_eq!(states.of(LEASE, 10, 1), []);
    }
}
