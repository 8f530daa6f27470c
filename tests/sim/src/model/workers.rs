//! Workers, and what they are leased.

use std::collections::BTreeSet;

use farm_core::{Core, Departure};
use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::message::{Claim, Lease, Resume};

use super::{CRASH_LIMIT, Held, Model, ModelWorker, Phase, Place};
use crate::disk::Disk;
use crate::stats::{Kind, Stats};

impl Model {
    /// A worker joins, or comes back: to be called before the core is told.
    ///
    /// What is left of a lease whose worker has gone is its own again as far as it waits. A lease of an earlier life is
    /// believed once. Nothing that was answered in this life is claimed with success: the answer would count twice.
    pub(crate) fn joined(
        &mut self,
        id: WorkerId,
        (cluster, slots): (ClusterId, u32),
        resume: &Resume,
        core: &Core,
        stats: &mut Stats,
    ) {
        let claimed = resume.claims.iter().map(|claim| claim.job);
        let knows = resume.jobs.iter().map(|&(job, _)| job).chain(claimed).collect();
        self.workers.insert(id, ModelWorker { cluster, slots, draining: false, knows });
        let mut claims: Vec<_> = resume.claims.iter().collect();
        // Where claims overlap, the last lease is the one that the scheduler meant.
        claims.sort_by_key(|claim| std::cmp::Reverse(claim.lease));
        let mut all = BTreeSet::new();
        for claim in claims {
            let tasks: BTreeSet<u64> = claim.tasks.iter().flat_map(|&(first, end)| first..end).collect();
            let overlaps = tasks.iter().filter(|&&task| !all.insert((claim.job, task))).count();
            (0..overlaps).for_each(|_| stats.add(Kind::OverlappingClaims));
            (0..tasks.len()).for_each(|_| stats.add(Kind::Claimed));
            let adopted = self.adopted(id, claim, tasks.clone(), core, stats);
            (0..adopted.len()).for_each(|_| stats.add(Kind::Adopted));
            (adopted.len()..tasks.len()).for_each(|_| stats.add(Kind::NotAdopted));
        }
    }

    fn adopted(
        &mut self,
        id: WorkerId,
        claim: &Claim,
        tasks: BTreeSet<u64>,
        core: &Core,
        stats: &mut Stats,
    ) -> BTreeSet<u64> {
        let none = BTreeSet::new();
        let is_held = self.leases.contains_key(&claim.lease);
        let careful_taken = self.leases.values().any(|held| held.worker == id && held.last_chance);
        let Some(job) = self.jobs.get_mut(&claim.job) else { return none };
        if is_held || job.phase != Phase::Live {
            return none;
        }
        let candidates: BTreeSet<u64> = if let Some(left) = job.left.remove(&claim.lease) {
            for task in &left {
                if job.blames.get_mut(task).is_some_and(|blames| blames.remove(&claim.lease)) {
                    stats.add(Kind::Forgiven);
                }
            }
            tasks.intersection(&left).copied().collect()
        } else if claim.lease < self.first_lease && job.resumed.insert(claim.lease) {
            tasks
        } else {
            return none;
        };
        let waits = |task: &u64| job.place(*task) == Place::Waiting && !Self::waits_for_retry(core, claim.job, *task);
        let mut candidates: BTreeSet<u64> = candidates.into_iter().filter(waits).collect();
        let is_careful = |task: &u64| job.crashes(*task) + 1 >= CRASH_LIMIT;
        let mut careful = candidates.iter().copied().filter(is_careful).collect::<Vec<_>>();
        let last_chance = !careful.is_empty() && !careful_taken;
        if last_chance {
            careful.remove(0);
        }
        careful.iter().for_each(|task| {
            candidates.remove(task);
        });
        if !candidates.is_empty() {
            candidates.iter().for_each(|&task| job.put(task, Place::Leased(claim.lease)));
            let held = Held { worker: id, job: claim.job, open: candidates.clone(), last_chance };
            self.leases.insert(claim.lease, held);
        }
        candidates
    }

    /// A worker is gone. Its first tasks, as many as it has slots, may have been running.
    pub(crate) fn left(&mut self, id: WorkerId, how: Departure, stats: &mut Stats) {
        let worker = self.workers.remove(&id).expect("a worker that is there");
        let mut may_have_run = match how {
            Departure::Lost => worker.slots,
            Departure::Planned => 0,
        };
        let leases: Vec<_> = self.leases.iter().filter(|(_, held)| held.worker == id).map(|(&id, _)| id).collect();
        for lease in leases {
            let held = self.leases.remove(&lease).expect("a lease that is there");
            let job = self.jobs.get_mut(&held.job).expect("a job with leases");
            job.left.insert(lease, held.open.clone());
            for task in held.open {
                job.put(task, Place::Waiting);
                if may_have_run > 0 {
                    may_have_run -= 1;
                    job.blames.entry(task).or_default().insert(lease);
                    stats.add(Kind::Blamed);
                }
            }
        }
    }

    /// The core leases tasks to a worker.
    pub(crate) fn leased(&mut self, id: WorkerId, lease: &Lease, introduce: bool, disk: &Disk) {
        let worker = self.workers.get_mut(&id).expect("a worker that is there");
        assert!(!worker.draining, "worker {id} drains, and gets more");
        assert_eq!(introduce, worker.knows.insert(lease.job), "whether worker {id} knows job {}", lease.job);
        let job = &self.jobs[&lease.job];
        assert_eq!(job.phase, Phase::Live, "job {} is leased", lease.job);
        assert_eq!(job.spec.cluster, worker.cluster, "job {} is leased to another cluster", lease.job);
        assert!(disk.jobs.contains_key(&lease.job), "job {} is leased before it is stored", lease.job);
        for after in &job.spec.after {
            let done = disk.jobs.get(after).is_some_and(|other| other.ended == Some(JobState::Done));
            assert!(done, "job {} begins before job {after} is done", lease.job);
        }
        assert!(!self.leases.contains_key(&lease.lease), "lease {} is given out twice", lease.lease);
        assert!(lease.count > 0, "lease {} is empty", lease.lease);
        let tasks = lease.first..lease.first + u64::from(lease.count);
        for task in tasks.clone() {
            assert_eq!(job.place(task), Place::Waiting, "task {task} of job {} is leased", lease.job);
            let crashes = job.crashes(task);
            assert!(crashes < CRASH_LIMIT, "task {task} of job {} runs after {crashes} crashes", lease.job);
            if let Some(input) = job.spec.input {
                let other = &disk.jobs[&input.job];
                let mut needs = job.needs(task, other.spec.tasks);
                let there = needs.all(|needed| other.outcomes.get(&needed) == Some(&None));
                assert!(there, "task {task} of job {} runs without its input", lease.job);
            }
        }
        let job = self.jobs.get_mut(&lease.job).expect("a job");
        tasks.clone().for_each(|task| job.put(task, Place::Leased(lease.lease)));
        let last_chance = tasks.clone().any(|task| job.crashes(task) + 1 >= CRASH_LIMIT);
        assert!(!last_chance || lease.count == 1, "lease {} endangers tasks that have crashed before", lease.lease);
        let others = self.leases.values().any(|held| held.worker == id && held.last_chance);
        assert!(!(last_chance && others), "worker {id} has two tasks at their last chance");
        self.leases.insert(lease.lease, Held { worker: id, job: lease.job, open: tasks.collect(), last_chance });
    }

    pub(crate) fn recalled(&self, id: WorkerId, lease: LeaseId) {
        let held = self.leases.get(&lease).is_some_and(|held| held.worker == id);
        assert!(held, "lease {lease} is recalled from worker {id}, which does not hold it");
    }

    /// A worker is told to stop a job. Its end comes next, or is known.
    pub(crate) fn cancelled(&mut self, id: WorkerId, job: JobId) {
        self.leases.retain(|_, held| held.worker != id || held.job != job);
    }

    pub(crate) fn told_to_forget(&mut self, id: WorkerId, job: JobId) {
        let over = self.jobs.get(&job).is_none_or(|job| job.is_over());
        assert!(over, "worker {id} is to forget job {job}, which goes on");
        let knew = self.workers.get_mut(&id).is_some_and(|worker| worker.knows.remove(&job));
        assert!(knew, "worker {id} is to forget job {job}, which it does not know");
    }

    pub(crate) fn may_leave(&self, id: WorkerId) {
        let idle = !self.leases.values().any(|held| held.worker == id);
        assert!(idle && self.workers[&id].draining, "worker {id} may leave, and has something to do");
    }
}
