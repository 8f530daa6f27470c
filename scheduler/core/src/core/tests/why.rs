//! What tasks wait for can be told.

use std::time::Duration;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::outcome::FailureKind;
use farm_proto::why::Stage;

use super::{MS, Rig, lease};
use crate::{Event, NewJob, Refused, TaskInput, Waiting, WaitingGroup};

fn group(first: u64, count: u64, waiting: Waiting) -> WaitingGroup {
    WaitingGroup { first, count, waiting }
}

fn why_all(rig: &Rig, job: JobId) -> Vec<WaitingGroup> {
    rig.core.why_all(job).expect("a job that was submitted")
}

#[test]
fn what_is_not_leased_waits_for_the_disk_a_worker_or_a_slot() {
    let mut rig = Rig { acks: false, ..Rig::new() };
    let job = rig.submit("ada", 3);
    assert_eq!(rig.core.why(job, 2), Some(Waiting::Storing));
    assert_eq!(why_all(&rig, job), [group(0, 3, Waiting::Storing)]);
    rig.acks = true;
    rig.tell(Event::Persisted { seq: rig.core.last_fact() });
    assert_eq!(rig.core.why(job, 2), Some(Waiting::Worker));
    assert_eq!(why_all(&rig, job), [group(0, 3, Waiting::Worker)]);
    rig.join(1, 1);
    let other = rig.submit("ada", 2);
    let slot = |tasks, jobs| Waiting::Slot { tasks, jobs, slots: 1 };
    assert_eq!((rig.core.why(job, 2), rig.core.why(other, 0)), (Some(slot(1, 0)), Some(slot(0, 1))));
    let running = Waiting::Running { worker: WorkerId(1), since: rig.now };
    assert_eq!(rig.core.why(job, 0), Some(running));
    assert_eq!(why_all(&rig, job), [group(1, 2, slot(0, 0)), group(0, 1, running)]);
    assert_eq!((rig.core.why(job, 3), rig.core.why(JobId(9), 0), rig.core.why_all(JobId(9))), (None, None, None));
}

#[test]
fn what_is_leased_is_prepared_for_queues_and_runs() {
    let mut rig = Rig::new();
    let job = rig.submit("ada", 9);
    rig.core.jobs.get_mut(&job).expect("a live job").pace.learn(1_000, 10 * MS * 1_000);
    assert_eq!(lease(&rig.join(1, 2)).count, 9);
    let worker = WorkerId(1);
    let prepare = |rig: &mut Rig, stage| rig.tell(Event::WorkerPreparing { worker, job, stage });
    for stage in [Stage::Fetching, Stage::Compiling] {
        assert_eq!(prepare(&mut rig, stage), []);
        let preparing = Waiting::Preparing { worker, stage };
        assert_eq!(rig.core.why(job, 8), Some(preparing));
        assert_eq!(why_all(&rig, job), [group(0, 9, preparing)]);
    }
    prepare(&mut rig, Stage::Ready);
    let running = Waiting::Running { worker, since: rig.now };
    let queued = |tasks| Waiting::Queued { worker, tasks };
    let each: Vec<_> = [0, 1, 2, 8].into_iter().filter_map(|task| rig.core.why(job, task)).collect();
    assert_eq!(each, [running, running, queued(2), queued(8)]);
    assert_eq!(why_all(&rig, job), [group(0, 2, running), group(2, 7, queued(2))]);
}

#[test]
fn only_a_worker_that_knows_a_job_prepares_for_it() {
    let mut rig = Rig::new();
    let job = rig.submit("ada", 1);
    let (one, other) = (WorkerId(1), WorkerId(2));
    let event = |worker, job| Event::WorkerPreparing { worker, job, stage: Stage::Compiling };
    assert_eq!(rig.try_tell(event(one, job)), Err(Refused::NoSuchWorker(one)));
    let held = lease(&rig.join(1, 1));
    rig.join(2, 1);
    assert_eq!(rig.try_tell(event(other, job)), Err(Refused::NeverLeased(other)));
    assert_eq!(rig.try_tell(event(one, JobId(9))), Err(Refused::NeverLeased(one)));
    rig.tell(event(one, job));
    rig.succeed(1, &held, 1, Duration::from_millis(1));
    assert!(rig.core.workers[&one].preparing.is_empty());
    assert_eq!(rig.tell(event(other, job)), [], "it may be about a job that has ended");
}

#[test]
fn what_failed_waits_for_its_next_attempt() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let (job, commands) = rig.submit_spec(NewJob { retries: 1, ..NewJob::new("ada", 1) });
    rig.fail(1, &lease(&commands), 0, FailureKind::Panic);
    let until = rig.core.next_deadline().expect("a retry");
    let retry = Waiting::Retry { attempt: 1, until };
    assert_eq!((rig.core.why(job, 0), why_all(&rig, job)), (Some(retry), vec![group(0, 1, retry)]));
}

#[test]
fn what_needs_other_jobs_waits_for_them() {
    let mut rig = Rig::new();
    let first = rig.submit("ada", 10);
    let input = Some(TaskInput { job: first, fan_in: 4 });
    let (second, _) = rig.submit_spec(NewJob { input, ..NewJob::new("ada", 3) });
    let (third, _) = rig.submit_spec(NewJob { input, after: vec![second], ..NewJob::new("ada", 3) });
    let results = |start, end| Waiting::Input { job: first, first: start, end };
    assert_eq!(rig.core.why(second, 2), Some(results(8, 10)));
    assert_eq!(why_all(&rig, second), [group(0, 3, results(0, 10))]);
    let end = Waiting::After { job: second };
    assert_eq!((rig.core.why(third, 1), why_all(&rig, third)), (Some(end), vec![group(0, 3, end)]));
}

#[test]
fn what_is_over_waits_for_nothing() {
    let mut rig = Rig::new();
    let job = rig.submit("ada", 4);
    let held = lease(&rig.join(1, 2));
    rig.succeed(1, &held, 1, Duration::from_millis(1));
    rig.fail(1, &held, 1, FailureKind::Trap);
    rig.acks = false;
    rig.tell(Event::JobCancelled { job });
    let told = |rig: &Rig| [0, 1, 2].map(|task| rig.core.why(job, task).expect("a task"));
    let expected = [Waiting::Value, Waiting::Failed, Waiting::Ended];
    let groups = vec![group(2, 2, Waiting::Ended)];
    assert_eq!((told(&rig), why_all(&rig, job)), (expected, groups.clone()));
    rig.tell(Event::Persisted { seq: rig.core.last_fact() });
    assert_eq!((told(&rig), why_all(&rig, job)), (expected, groups));
    assert_eq!(rig.core.why(job, 4), None);
    let empty = rig.submit("ada", 0);
    rig.tell(Event::Persisted { seq: rig.core.last_fact() });
    rig.tell(Event::Persisted { seq: rig.core.last_fact() });
    assert_eq!(rig.core.why_all(empty), Some(Vec::new()));
}

#[test]
fn of_a_job_that_is_held_nothing_is_leased() {
    let mut rig = Rig { acks: false, ..Rig::new() };
    rig.join(1, 1);
    let job = rig.submit("ada", 3);
    let other = rig.submit("ada", 1);
    assert_eq!(rig.tell(Event::JobHeld { job }), []);
    assert_eq!(rig.core.why(job, 0), Some(Waiting::Storing));
    rig.acks = true;
    let commands = rig.tell(Event::Persisted { seq: rig.core.last_fact() });
    let held = lease(&commands);
    assert_eq!(held.job, other, "others go on");
    assert_eq!(rig.core.why(job, 2), Some(Waiting::Held));
    assert_eq!(why_all(&rig, job), [group(0, 3, Waiting::Held)]);
    let done = super::batch(0, 1, MS);
    assert_eq!(
        super::leases(&rig.tell(Event::BatchArrived { worker: WorkerId(1), lease: held.lease, batch: &done })),
        []
    );
    let held = lease(&rig.tell(Event::JobReleased { job }));
    assert_eq!((held.job, held.first), (job, 0));
    // What is leased stays so, and counts.
    rig.tell(Event::JobHeld { job });
    let commands = rig.tell(Event::BatchArrived { worker: WorkerId(1), lease: held.lease, batch: &done });
    assert_eq!((super::leases(&commands), rig.counts(job).succeeded), (Vec::new(), 1));
    assert_eq!(why_all(&rig, job), [group(1, 2, Waiting::Held)]);
    rig.tell(Event::JobCancelled { job });
    assert_eq!(rig.tell(Event::JobReleased { job }), [], "it is over");
    assert_eq!(rig.try_tell(Event::JobHeld { job: JobId(99) }), Err(Refused::NoSuchJob(JobId(99))));
    rig.core.check_invariants();
}
