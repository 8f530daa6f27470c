//! Whether the core tells the truth about what tasks wait for.

use farm_core::{Core, Waiting};
use farm_proto::ids::JobId;
use farm_proto::job::JobState;

use crate::disk::Disk;
use crate::model::{Model, ModelJob, Phase, Place};
use crate::stats::Kind;
use crate::world::World;

/// The most tasks that are asked about at a time.
const ASKED: u64 = 40;

impl World {
    pub(crate) fn ask_why(&mut self, id: JobId) {
        let Some(shell) = &self.shell else { return };
        let Some(job) = shell.model.jobs.get(&id) else {
            assert_eq!((shell.core.why(id, 0), shell.core.why_all(id)), (None, None), "job {id} is not there");
            return;
        };
        let tasks = job.spec.tasks;
        assert_eq!(shell.core.why(id, tasks), None, "job {id} has no task {tasks}");
        let mut kinds = Vec::new();
        for number in 0..tasks.min(ASKED) {
            let task = if tasks <= ASKED { number } else { self.dice.below(tasks) };
            let waiting = shell.core.why(id, task).unwrap_or_else(|| panic!("no why for task {task} of job {id}"));
            let is_true = is_true(&shell.model, &self.disk, job, task, waiting);
            assert!(is_true, "task {task} of job {id}, {:?} and {:?}: {waiting:?}", job.place(task), job.phase);
            kinds.push(kind_of(waiting));
        }
        check_groups(&shell.core, id, job);
        kinds.into_iter().for_each(|kind| self.count(kind));
    }
}

fn is_true(model: &Model, disk: &Disk, job: &ModelJob, task: u64, waiting: Waiting) -> bool {
    let slots: u64 = model
        .workers
        .values()
        .filter(|worker| !worker.draining && worker.cluster == job.spec.cluster)
        .map(|worker| u64::from(worker.slots))
        .sum();
    match (job.place(task), waiting) {
        (Place::Done(None), Waiting::Value)
        | (Place::Done(Some(_)), Waiting::Failed)
        | (Place::GivenUp, Waiting::Ended) => true,
        (Place::Waiting, _) if job.phase == Phase::Storing => waiting == Waiting::Storing,
        (Place::Waiting, _) => {
            let is_done = |other: &JobId| disk.jobs.get(other).is_some_and(|other| other.ended == Some(JobState::Done));
            let missing: Vec<_> = job.spec.after.iter().filter(|other| !is_done(other)).collect();
            let input = job.spec.input.map(|input| (input, job.needs(task, disk.jobs[&input.job].spec.tasks)));
            let has_value = |job: JobId, task: u64| disk.jobs[&job].outcomes.get(&task) == Some(&None);
            let blocked =
                input.clone().filter(|(input, needs)| needs.clone().any(|needed| !has_value(input.job, needed)));
            match waiting {
                Waiting::After { job } => missing.contains(&&job),
                _ if !missing.is_empty() => false,
                Waiting::Input { job, first, end } => {
                    blocked.is_some_and(|(input, needs)| (input.job, needs) == (job, first..end))
                }
                _ if blocked.is_some() => false,
                Waiting::Worker => slots == 0,
                Waiting::Slot { tasks, slots: told, .. } => told == slots && slots > 0 && tasks < job.waiting(),
                Waiting::Retry { attempt, .. } => attempt > 0 && job.has_failed(task),
                _ => false,
            }
        }
        (Place::Leased(lease), waiting) => {
            let held = &model.leases[&lease];
            let all = model.leases.iter().filter(|(_, other)| other.worker == held.worker);
            let before = all.flat_map(|(&lease, held)| held.open.iter().map(move |&task| (lease, task)));
            let before = before.take_while(|&at| at != (lease, task)).count() as u64;
            let runs = before < u64::from(model.workers[&held.worker].slots);
            match waiting {
                Waiting::Running { worker, .. } => worker == held.worker && runs,
                Waiting::Queued { worker, tasks } => worker == held.worker && !runs && tasks == before,
                Waiting::Preparing { worker, .. } => worker == held.worker,
                _ => false,
            }
        }
        _ => false,
    }
}

/// The groups hold each task without an outcome once.
fn check_groups(core: &Core, id: JobId, job: &ModelJob) {
    let groups = core.why_all(id).unwrap_or_else(|| panic!("no why for job {id}"));
    let count: u64 = groups.iter().map(|group| group.count).sum();
    assert_eq!(count, job.open(), "tasks of job {id} that wait: {groups:?}");
    for group in groups {
        assert!(group.count > 0, "nothing waits: {group:?}");
        let first = core.why(id, group.first).map(kind_of);
        assert_eq!(first, Some(kind_of(group.waiting)), "task {} of job {id} is the first of {group:?}", group.first);
    }
}

fn kind_of(waiting: Waiting) -> Kind {
    match waiting {
        Waiting::Storing => Kind::WhyStoring,
        Waiting::Held => unreachable!("no job is held here"),
        Waiting::After { .. } => Kind::WhyAfter,
        Waiting::Input { .. } => Kind::WhyInput,
        // No worker of this world knows its end.
        Waiting::Worker | Waiting::Time { .. } => Kind::WhyWorker,
        Waiting::Slot { .. } => Kind::WhySlot,
        Waiting::Retry { .. } => Kind::WhyRetry,
        Waiting::Preparing { .. } => Kind::WhyPreparing,
        Waiting::Queued { .. } => Kind::WhyQueued,
        Waiting::Running { .. } => Kind::WhyRunning,
        Waiting::Value => Kind::WhyValue,
        Waiting::Failed => Kind::WhyFailed,
        Waiting::Ended => Kind::WhyEnded,
    }
}
