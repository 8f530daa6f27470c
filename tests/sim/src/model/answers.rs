//! What workers answer, and what has to come of it.

use std::ops::Range;

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::message::Batch;
use farm_proto::outcome::FailureKind;

use super::{CRASH_LIMIT, Model, Phase, Place, flat};
use crate::truth::Ending;

impl Model {
    /// Takes those of the tasks out of the lease that are in it.
    fn answer(&mut self, worker: WorkerId, lease: LeaseId, tasks: Range<u64>) -> Option<(JobId, Vec<u64>)> {
        let held = self.leases.get_mut(&lease).filter(|held| held.worker == worker)?;
        let id = held.job;
        let taken: Vec<_> = tasks.filter(|task| held.open.remove(task)).collect();
        if held.open.is_empty() {
            self.leases.remove(&lease);
        }
        let job = self.jobs.get_mut(&id).expect("a job with leases");
        for &task in &taken {
            assert_eq!(job.place(task), Place::Leased(lease), "task {task} of job {id}");
            job.put(task, Place::Waiting);
        }
        Some((id, taken))
    }

    /// Outcomes came; `runs` says which runs made them. Returns how many of them the lease has no use for.
    pub(crate) fn batch(&mut self, worker: WorkerId, lease: LeaseId, batch: &Batch, runs: &[u64]) -> u64 {
        let all = batch.first..batch.first + u64::from(batch.count);
        let Some((id, taken)) = self.answer(worker, lease, all) else { return u64::from(batch.count) };
        let fenced = u64::from(batch.count) - taken.len() as u64;
        let job = self.jobs.get_mut(&id).expect("a job with leases");
        let mut kept = Vec::new();
        for task in taken {
            let offset = (task - batch.first) as u32;
            let failure = batch.failures.iter().find(|(at, _)| *at == offset).map(|(_, failure)| failure.kind);
            if let Some(kind) = failure {
                if kind.fails_job() {
                    continue;
                }
                if kind.is_retryable() {
                    let failures = job.failures.entry(task).or_default();
                    assert!(failures.insert(runs[offset as usize]), "a run of task {task} of job {id} counts twice");
                    if failures.len() <= job.spec.retries as usize {
                        continue;
                    }
                }
            }
            kept.push((task, failure));
        }
        if !kept.is_empty() {
            self.expected = Some((id, kept));
        }
        fenced
    }

    /// The slot of this run died.
    pub(crate) fn lost(&mut self, worker: WorkerId, lease: LeaseId, task: u64, run: u64) {
        if let Some((id, taken)) = self.answer(worker, lease, task..task + 1)
            && !taken.is_empty()
        {
            let job = self.jobs.get_mut(&id).expect("a job with leases");
            assert!(job.lost.entry(task).or_default().insert(run), "a crash of task {task} of job {id} counts twice");
        }
    }

    pub(crate) fn returned(&mut self, worker: WorkerId, lease: LeaseId, first: u64, count: u32) {
        self.answer(worker, lease, first..first + u64::from(count));
    }

    /// The core wants outcomes of the batch in hand to be stored.
    pub(super) fn outcomes(&mut self, id: JobId, accepted: &[Range<u64>], failed: &[Range<u64>]) -> Vec<(u64, Ending)> {
        let (expected_of, rows) = self.expected.take().expect("outcomes of a batch that was just handed in");
        assert_eq!(expected_of, id, "outcomes of another job");
        assert_eq!(flat(accepted), rows.iter().map(|&(task, _)| task).collect::<Vec<_>>(), "outcomes of job {id}");
        let failures: Vec<_> = rows.iter().filter(|(_, ending)| ending.is_some()).map(|&(task, _)| task).collect();
        assert_eq!(flat(failed), failures, "failures of job {id}");
        let job = self.jobs.get_mut(&id).expect("a job");
        assert_eq!(job.phase, Phase::Live, "job {id} has outcomes");
        for &(task, ending) in &rows {
            assert_eq!(job.place(task), Place::Waiting, "task {task} of job {id}");
            job.put(task, Place::Done(ending));
        }
        rows
    }

    /// The core fails a task.
    pub(super) fn task_failed(&mut self, id: JobId, task: u64, kind: FailureKind) -> Vec<(u64, Ending)> {
        let input = self.jobs[&id].spec.input;
        let job = &self.jobs[&id];
        assert_eq!(job.place(task), Place::Waiting, "task {task} of job {id}");
        match kind {
            FailureKind::WorkerLost => {
                let crashes = job.crashes(task);
                assert!(crashes >= CRASH_LIMIT, "task {task} of job {id} failed after {crashes} crashes");
            }
            FailureKind::InputFailed => {
                let input = input.unwrap_or_else(|| panic!("job {id} has no input"));
                // One that was deleted has no dependants.
                let other = &self.jobs[&input.job];
                let mut needs = job.needs(task, other.spec.tasks);
                let failed = needs.any(|needed| matches!(other.place(needed), Place::Done(Some(_))));
                assert!(failed, "task {task} of job {id} failed for inputs that did not");
            }
            kind => panic!("the core cannot know that task {task} of job {id} ended with {kind}"),
        }
        let job = self.jobs.get_mut(&id).expect("a job");
        job.put(task, Place::Done(Some(kind)));
        vec![(task, Some(kind))]
    }
}
