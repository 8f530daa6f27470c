//! What always holds.

use std::collections::BTreeMap;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;

use crate::command::Command;
use crate::core::Core;
use crate::core::dispatch::finishes;
use crate::core::persist::Deferred;
use crate::range_set::RangeSet;
use crate::state::{Job, Phase, Place, Worker};
use crate::tally::Tally;

impl Core {
    /// Checks that the state makes sense. For tests and fuzzers: takes the time of everything there is.
    ///
    /// # Panics
    ///
    /// If it does not, saying what is wrong.
    pub fn check_invariants(&self) {
        for (&id, job) in &self.jobs {
            self.check_job(id, job);
            assert!(!self.ended.contains_key(&id), "job {id} has ended and not ended");
        }
        for (&id, worker) in &self.workers {
            self.check_worker(id, worker);
        }
        self.check_indices();
        self.check_facts();
        let needs: usize = self.jobs.values().map(|job| job.needs.len()).sum();
        assert_eq!(self.needed.len(), needs, "a job is needed by nobody");
        for (&cluster, pool) in &self.pools {
            pool.owners.check_invariants();
            let runnable = || self.jobs.values().filter(|job| job.cluster == cluster && job.runnable);
            assert_eq!(pool.owners.runnable(), runnable().count(), "an owner has jobs that are not");
            let waits =
                |worker: &Worker| runnable().any(|job| !job.waiting.is_empty() && finishes(job, worker, self.now));
            let idle = pool.hungry.iter().find(|(_, id)| self.workers.get(id).is_some_and(waits));
            assert_eq!(idle, None, "tasks wait, and a worker has room");
        }
        for command in &self.commands {
            if let Command::SendLease { worker, .. } | Command::Recall { worker, .. } = command {
                assert!(self.workers.contains_key(worker), "a command is left for worker {worker}, which is gone");
            }
        }
    }

    /// Each task is in exactly one place.
    fn check_job(&self, id: JobId, job: &Job) {
        let mut all = RangeSet::new();
        let mut add = |set: &RangeSet, place: &str| {
            set.check_invariants();
            for range in set.iter() {
                assert!(range.end <= job.tasks, "job {id} has no task {}, but it is {place}", range.end - 1);
                assert_eq!(all.intersection(range.clone()).next(), None, "tasks of job {id} are twice: {place}");
                all.insert(range);
            }
        };
        add(&job.blocked, "blocked");
        add(&job.waiting, "waiting");
        add(&job.last_chance, "waiting for its last chance");
        for (due, tasks) in &job.retrying {
            assert!(!tasks.is_empty(), "job {id} has nothing to retry at {due}");
            assert!(self.retries.contains(&(*due, id)), "job {id} has a retry at {due} that nobody waits for");
            add(tasks, "waiting for another attempt");
        }
        let mut leased = 0;
        for (lease, worker) in &job.leases {
            let held = self.workers.get(worker).and_then(|worker| worker.leases.get(lease));
            let Some(held) = held else { panic!("worker {worker} does not hold lease {lease} of job {id}") };
            assert_eq!(held.job, id, "lease {lease} is of another job");
            add(&held.remaining, "leased");
            leased += held.remaining.len();
        }
        assert_eq!(job.leased, leased, "leased tasks of job {id}");
        assert_eq!(job.counts().total(), job.tasks, "the tasks of job {id} do not add up: {:?}", job.counts());
        let open = all.clone();
        for (set, place) in [(&job.failed, "failed"), (&job.missing, "given up")] {
            set.check_invariants();
            for range in set.iter() {
                assert!(range.end <= job.tasks && !all.meets(&range), "tasks {range:?} of job {id} are twice: {place}");
                all.insert(range);
            }
        }
        assert_eq!(all.len() + job.succeeded, job.tasks, "a task of job {id} is nowhere");
        self.check_needs_of(id, job, &open);
        job.check_memory(id);

        for tally in [&job.attempts, &job.crashes, &job.losses] {
            tally.check_invariants();
            let exceptional = tally.runs_in(0..u64::MAX).all(|(run, _)| open.covers(&run));
            assert!(exceptional, "job {id} remembers what is over");
        }
        let last_chances = job.crashes.runs_in(0..u64::MAX);
        for (run, crashes) in last_chances {
            assert!(crashes < self.config.crash_limit, "tasks {run:?} of job {id} have crashed too often");
            let is_last = crashes + 1 >= self.config.crash_limit;
            assert!(!is_last || job.waiting.intersection(run).next().is_none(), "a last chance is no last chance");
        }
        assert!(runs_cover(&job.attempts, &job.crashes), "job {id} has tasks with more crashes than attempts");

        assert_eq!(job.runnable, job.has_work(), "job {id} is runnable without work or the reverse");
        assert_eq!(
            job.runnable,
            self.pools[&job.cluster].owners.has(job.owner, job.priority, id),
            "the owner of job {id} does not know"
        );
        assert!(id < self.next_job, "job {id} is ahead of its time");
        match job.phase {
            Phase::Storing => assert!(!job.started, "job {id} began before it was stored"),
            Phase::Live => {
                assert!(!job.is_over(), "job {id} has nothing left, and goes on");
                let failed = job.failed.len();
                assert!(job.max_failures.is_none_or(|most| failed <= most), "job {id} has failed, and goes on");
                assert!(job.missing.is_empty(), "job {id} has given up tasks, and goes on");
            }
            Phase::Ending(state) => {
                assert!(open.is_empty(), "job {id} has ended, and has tasks left");
                // One with nothing left, or that never had anything, may still fail for what it comes after.
                assert!(state != JobState::Done || job.is_complete(), "job {id} is not {state:?}");
            }
        }
        for worker in &job.known {
            let knows = self.workers.get(worker).is_some_and(|worker| worker.knows.contains(&id));
            assert!(knows, "worker {worker} does not know job {id}");
        }
    }

    /// Tasks are blocked if, and only if, results that they need are not stored. `open` are those without an outcome.
    fn check_needs_of(&self, id: JobId, job: &Job, open: &RangeSet) {
        for &need in &job.needs {
            assert!(need < id && self.needed.contains(&(need, id)), "job {need} is not known to be needed by job {id}");
            let there = self.jobs.contains_key(&need) || self.ended.contains_key(&need);
            assert!(there, "job {id} needs job {need}, which is gone");
        }
        for need in &job.after {
            assert!(job.needs.contains(need), "job {id} comes after job {need}, which it does not need");
            let over = job.phase == Phase::Live && !self.jobs.contains_key(need);
            assert!(!over, "job {id} waits for the end of job {need}, which has ended");
        }
        assert!(job.after.is_empty() || (job.leases.is_empty() && !job.started), "job {id} began too early");
        let Some(input) = &job.input else {
            assert!(job.blocked.is_empty(), "job {id} waits for results of no job");
            return;
        };
        input.awaited.check_invariants();
        assert!(job.needs.contains(&input.job));
        if let Phase::Ending(_) = job.phase {
            return;
        }
        assert!(job.phase == Phase::Storing || input.failed.is_empty(), "job {id} has not seen failures");
        let awaited = input.awaited.iter().chain(input.failed.iter().cloned());
        let users: RangeSet = awaited.map(|results| input.users(&results)).collect();
        for range in users.iter() {
            assert!(range.end <= job.tasks, "job {id} has no tasks {range:?}");
            let free = open.intersection(range).find(|part| !job.blocked.covers(part));
            assert_eq!(free, None, "tasks of job {id} lack results, and can be leased");
        }
        assert!(job.blocked.iter().all(|range| users.covers(&range)), "tasks of job {id} wait for what is there");
        let open = self.open_tasks(input.job);
        let fits = open.iter().all(|range| input.awaited.covers(&range));
        assert!(fits, "job {id} thinks that there are results of job {} which are not", input.job);
    }

    /// What a worker holds adds up, and is of jobs that know it.
    fn check_worker(&self, id: WorkerId, worker: &Worker) {
        let held: u64 = worker.leases.values().map(|held| held.remaining.len()).sum();
        assert_eq!(worker.held, held, "tasks that worker {id} holds");
        let last_chances = worker.leases.values().filter(|held| held.last_chance).count();
        assert_eq!(worker.last_chances as usize, last_chances, "last chances that worker {id} holds");
        assert!(last_chances <= 1, "worker {id} holds {last_chances} last chances");
        for (lease, held) in &worker.leases {
            assert!(*lease < self.next_lease, "lease {lease} is ahead of its time");
            assert!(!held.remaining.is_empty(), "lease {lease} has ended, and worker {id} holds it");
            let bounds = held.first..held.first + u64::from(held.count);
            assert!(held.remaining.iter().all(|range| bounds.start <= range.start && range.end <= bounds.end));
            let job = self.jobs.get(&held.job);
            assert!(job.is_some_and(|job| job.leases.get(lease) == Some(&id)), "lease {lease} is not of its job");
            assert!(worker.knows.contains(&held.job), "worker {id} holds what it does not know");
        }
        for job in &worker.knows {
            let known = self.jobs.get(job).is_some_and(|job| job.known.contains(&id));
            assert!(known, "worker {id} knows job {job}, which does not know it");
        }
        assert!(!worker.dismissed || worker.held == 0, "worker {id} may leave with what it holds");
        assert!(!worker.draining || worker.dismissed || worker.held > 0, "worker {id} may leave and was not told");
        assert_eq!(worker.place, Self::place_of(worker, &self.config), "worker {id} is out of place");
    }

    /// The indices say what the workers and jobs say.
    fn check_indices(&self) {
        for (&cluster, pool) in &self.pools {
            let workers = || self.workers.iter().filter(move |(_, worker)| worker.cluster == cluster);
            let places = || workers().map(|(&id, worker)| (id, worker.place));
            let indexed = |key: fn(Place) -> Option<u64>| -> BTreeMap<WorkerId, u64> {
                places().filter_map(|(id, place)| Some((id, key(place)?))).collect()
            };
            let hungry: BTreeMap<_, _> = pool.hungry.iter().map(|&(key, id)| (id, key)).collect();
            assert_eq!(hungry, indexed(|place| place.hungry), "hungry workers");
            assert_eq!(hungry.len(), pool.hungry.len(), "a worker is hungry twice");
            let queued: BTreeMap<_, _> = pool.queued.iter().map(|&(key, id)| (id, key)).collect();
            assert_eq!(queued, indexed(|place| place.queued), "workers with something to take back");
            assert_eq!(queued.len(), pool.queued.len(), "a worker is queued twice");
            assert_eq!(pool.total_slots, places().map(|(_, place)| place.slots).sum::<u64>(), "slots");
            assert_eq!(pool.free_slots, places().map(|(_, place)| place.free).sum::<u64>(), "free slots");
        }
        assert!(self.workers.values().all(|worker| self.pools.contains_key(&worker.cluster)), "a worker of no cluster");
        for &(due, id) in &self.retries {
            let waits = self.jobs.get(&id).is_some_and(|job| job.retrying.contains_key(&due));
            assert!(waits, "a retry of job {id} at {due} is nobody's");
        }
    }

    /// What is deferred waits for facts that are on their way.
    fn check_facts(&self) {
        assert!(self.persisted <= self.last_fact, "a fact was stored that is none");
        let mut last = self.persisted;
        for &(seq, ref deferred) in &self.deferred {
            assert!(last <= seq && self.persisted < seq && seq <= self.last_fact, "{deferred:?} waits for {seq:?}");
            last = seq;
        }
        for (&id, job) in &self.jobs {
            let opens = self.deferred.iter().any(|(_, deferred)| *deferred == Deferred::Open(id));
            let closes = self.deferred.iter().filter(|(_, deferred)| *deferred == Deferred::Close(id)).count();
            assert!(opens || job.phase != Phase::Storing, "job {id} will never begin");
            assert_eq!(closes, usize::from(matches!(job.phase, Phase::Ending(_))), "closings of job {id}");
        }
    }
}

/// Whether no count in `part` is greater than in `whole`.
fn runs_cover(whole: &Tally, part: &Tally) -> bool {
    let mut runs = part.runs_in(0..u64::MAX);
    runs.all(|(run, count)| {
        let found: Vec<_> = whole.runs_in(run.clone()).filter(|&(_, other)| other >= count).collect();
        found.iter().map(|(part, _)| part.end - part.start).sum::<u64>() == run.end - run.start
    })
}
