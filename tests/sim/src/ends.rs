//! What has to be so when something is over.

use std::collections::BTreeMap;

use farm_core::Core;
use farm_proto::ids::JobId;
use farm_proto::job::JobState;
use farm_proto::outcome::FailureKind;

use crate::client::Progress;
use crate::stats::Kind;
use crate::truth::{Ending, Module};
use crate::worker::Link;
use crate::world::World;

impl World {
    /// A job's end is told.
    pub(crate) fn job_ended(&mut self, job: JobId, state: JobState) {
        let stored = &self.disk.jobs[&job];
        let kind = match state {
            JobState::Done => Kind::Done,
            JobState::Cancelled => Kind::Cancelled,
            _ if self.a_need_failed(job) => Kind::NeedFailed,
            _ if self.known[&job].truth.module != Module::Good => Kind::BadModule,
            _ => Kind::TooManyFailures,
        };
        assert!(kind != Kind::TooManyFailures || stored.spec.max_failures.is_some());
        self.count(kind);
        self.check_ended(job);
    }

    /// The state in which a job ended, and its outcomes, also if it has been deleted.
    fn end_of(&self, job: JobId) -> Option<(JobState, &BTreeMap<u64, Ending>)> {
        match self.disk.jobs.get(&job) {
            Some(stored) => Some((stored.ended?, &stored.outcomes)),
            None => self.graves.get(&job).map(|(state, outcomes)| (*state, outcomes)),
        }
    }

    /// Whether a job that it needs was cancelled or failed.
    fn a_need_failed(&self, job: JobId) -> bool {
        let spec = &self.disk.jobs[&job].spec;
        let mut needs = spec.after.iter().copied().chain(spec.input.map(|input| input.job));
        needs.any(|need| self.end_of(need).is_some_and(|(state, _)| state != JobState::Done))
    }

    /// Whether a job could end like this.
    pub(crate) fn check_reason(&self, job: JobId, state: JobState) {
        let (stored, known) = (&self.disk.jobs[&job], &self.known[&job]);
        let outcomes = &stored.outcomes;
        match state {
            JobState::Done => {
                assert_eq!(outcomes.len() as u64, stored.spec.tasks, "job {job} is done without all of its outcomes");
                for &after in &stored.spec.after {
                    let state = self.end_of(after).map(|(state, _)| state);
                    assert_eq!(state, Some(JobState::Done), "job {job} is done, and job {after} is not");
                }
            }
            JobState::Cancelled => assert!(known.cancel_asked, "nobody cancelled job {job}"),
            JobState::Failed => {
                let failed = outcomes.values().filter(|ending| ending.is_some()).count() as u64;
                let too_many = stored.spec.max_failures.is_some_and(|most| failed > most);
                let possible = too_many || known.truth.module != Module::Good || self.a_need_failed(job);
                assert!(possible, "job {job} failed for no reason");
            }
            state => panic!("job {job} ended as {state:?}"),
        }
        // A task fails for its input if and only if that has no value.
        let Some(input) = stored.spec.input else { return };
        let Some((_, results)) = self.end_of(input.job).or_else(|| self.outcomes_so_far(input.job)) else { return };
        let fan_in = u64::from(input.fan_in);
        for (&task, &ending) in outcomes {
            let mut needs = results.range(task * fan_in..(task + 1) * fan_in);
            let failed = needs.any(|(_, ending)| ending.is_some());
            let told = ending == Some(FailureKind::InputFailed);
            assert_eq!(failed, told, "task {task} of job {job} ended with {ending:?}");
        }
    }

    fn outcomes_so_far(&self, job: JobId) -> Option<(JobState, &BTreeMap<u64, Ending>)> {
        self.disk.jobs.get(&job).map(|stored| (JobState::Running, &stored.outcomes))
    }

    /// Everything that was accepted is there once, everyone knows it, and nothing else is left.
    pub(crate) fn check_end(&self) {
        for (key, submission) in &self.submissions {
            let Progress::Accepted(job) = submission.progress else { continue };
            let Some(stored) = self.disk.jobs.get(&job) else {
                assert!(submission.delete_stored, "job {job} is lost");
                continue;
            };
            assert!(!submission.deleted, "job {job} was deleted, and is there");
            assert_eq!(stored.ended, submission.ended, "how job {job} ended");
            assert_eq!(stored.outcomes, submission.got, "what submission {key} got of job {job}");
        }
        let shell = self.shell.as_ref().expect("a scheduler");
        let core = &shell.core;
        for (&job, stored) in &self.disk.jobs {
            let state = stored.ended.unwrap_or_else(|| panic!("job {job} has not ended"));
            self.check_reason(job, state);
        }
        let listed: Vec<_> = core.jobs().map(|view| view.job).collect();
        assert_eq!(listed, self.disk.jobs.keys().copied().collect::<Vec<_>>(), "jobs of the core and of the disk");
        for view in core.workers() {
            assert_eq!((view.leased, view.leases), (0, 0), "worker {} holds what is over", view.worker);
        }
        for (id, worker) in &shell.model.workers {
            assert!(worker.knows.is_empty(), "worker {id} was not told to forget {:?}", worker.knows);
        }
        for (pid, worker) in &self.workers {
            assert!(matches!(worker.link, Link::Up(_)), "{pid:?} has not come back: {worker:?}");
            assert!(worker.is_clean(), "something is left of what {pid:?} had to do: {worker:#?}");
        }
        for in_full in [true, false] {
            let facts = self.disk.facts(&mut self.dice.clone(), in_full);
            let mut again = Core::replay(self.config(), facts).expect("facts of a core");
            again.check_invariants();
            assert_eq!(again.poll_command(), None, "a core that has nothing to do");
            let views = |core: &Core| {
                let views = core.jobs().map(|view| farm_core::JobView { task_ns: None, ..view });
                views.collect::<Vec<_>>()
            };
            assert_eq!(views(core), views(&again), "jobs after a replay");
            for &job in self.disk.jobs.keys() {
                for failed in [true, false] {
                    let (one, other) = (core.without_value(job, failed), again.without_value(job, failed));
                    assert_eq!(one, other, "tasks of job {job} without a value after a replay");
                }
            }
        }
    }
}
