//! Jobs that need jobs.

use std::time::Duration;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::outcome::FailureKind;

use super::{MS, Rig, batch, lease, leases};
use crate::{Command, Config, Core, Event, Fact, FactSeq, NewJob, Refused, TaskInput, Waiting};

fn after(jobs: &[JobId], tasks: u64) -> NewJob {
    NewJob { after: jobs.to_vec(), ..NewJob::new("ada", tasks) }
}

fn of(job: JobId, fan_in: u32, tasks: u64) -> NewJob {
    NewJob { input: Some(TaskInput { job, fan_in }), ..NewJob::new("ada", tasks) }
}

/// The job's first task is with worker 1, of one slot, in a lease of its own.
fn rig(tasks: u64) -> (Rig, JobId, farm_proto::message::Lease) {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", tasks));
    (rig, job, lease(&commands))
}

fn state(rig: &Rig, job: JobId) -> JobState {
    rig.core.job(job).expect("a job that was submitted").state
}

fn reason(rig: &Rig, job: JobId) -> String {
    rig.core.job(job).and_then(|view| view.reason).unwrap_or_default()
}

/// Which tasks of a job could be leased.
fn ready(rig: &Rig, job: JobId) -> Vec<std::ops::Range<u64>> {
    rig.core.jobs[&job].waiting.iter().collect()
}

/// Worker 1 runs what it has, one task after the other, until it has nothing. Gives what it ran.
fn finish(rig: &mut Rig) -> Vec<(JobId, u64)> {
    let mut ran = Vec::new();
    while let Some((&lease, held)) = rig.core.workers[&WorkerId(1)].leases.first_key_value() {
        let (job, task) = (held.job, held.remaining.first().expect("a lease that is not over").start);
        let batch = batch(task, 1, 5_000 * MS);
        rig.tell(Event::BatchArrived { worker: WorkerId(1), lease, batch: &batch });
        ran.push((job, task));
    }
    ran
}

#[test]
fn a_job_begins_when_the_jobs_before_it_are_done() {
    let (mut rig, first, held) = rig(1);
    let (second, _) = rig.submit_spec(NewJob::new("ben", 1));
    let (last, commands) = rig.submit_spec(after(&[first, second, first], 1));
    assert_eq!(leases(&commands), []);
    assert_eq!((rig.core.needs(last), rig.counts(last).waiting), (vec![first, second], 1));
    assert_eq!(rig.core.dependants(first).collect::<Vec<_>>(), [last]);
    let held = lease(&rig.succeed(1, &held, 1, Duration::from_secs(5)));
    assert_eq!((held.job, rig.core.why(last, 0)), (second, Some(Waiting::After { job: second })));
    let commands = rig.succeed(1, &held, 1, Duration::from_secs(5));
    let held = lease(&commands);
    assert_eq!(held.job, last);
    let ended = commands.iter().position(|command| matches!(command, Command::JobEnded { job, .. } if *job == second));
    let sent = commands.iter().position(|command| matches!(command, Command::SendLease { .. }));
    assert!(ended < sent, "not before its end is stored: {commands:?}");
    assert!(!rig.core.forget(first) && !rig.core.forget(second), "they are needed");
    rig.succeed(1, &held, 1, Duration::from_secs(5));
    assert_eq!((state(&rig, last), rig.core.needs(last)), (JobState::Done, Vec::new()));
    assert!(rig.core.forget(first) && rig.core.forget(second));
}

#[test]
fn a_job_fails_with_a_job_before_it() {
    let (mut rig, first, _) = rig(3);
    let (second, _) = rig.submit_spec(after(&[first], 2));
    let (third, _) = rig.submit_spec(after(&[second], 0));
    rig.tell(Event::JobCancelled { job: first });
    assert_eq!((state(&rig, second), state(&rig, third)), (JobState::Failed, JobState::Failed));
    assert_eq!(reason(&rig, second), "job 1, which has to be done before, was cancelled");
    assert_eq!(reason(&rig, third), "job 2, which has to be done before, failed");
    assert_eq!(rig.counts(second).cancelled, 2);
    // Whatever comes now is too late.
    let (late, commands) = rig.submit_spec(after(&[second], 1));
    assert_eq!(commands[1], Command::JobAccepted { job: late });
    assert_eq!(
        (state(&rig, late), &*reason(&rig, late)),
        (JobState::Failed, "job 2, which has to be done before, failed")
    );
}

#[test]
fn a_job_waits_for_an_end_that_is_not_stored() {
    let (mut rig, first, held) = rig(1);
    rig.acks = false;
    rig.succeed(1, &held, 1, Duration::from_secs(5));
    let (second, _) = rig.submit_spec(after(&[first], 0));
    let (third, _) = rig.submit_spec(of(first, 1, 1));
    let end = FactSeq(3);
    let commands = rig.tell(Event::Persisted { seq: FactSeq(2) });
    assert_eq!(leases(&commands), []);
    let commands = rig.tell(Event::Persisted { seq: end });
    assert_eq!(leases(&commands), [], "the others are not stored themselves");
    let commands = rig.tell(Event::Persisted { seq: FactSeq(5) });
    assert_eq!(lease(&commands).job, third);
    let done = |fact: &Fact| matches!(fact, Fact::JobEnded { job, state: JobState::Done, .. } if *job == second);
    assert!(rig.facts.iter().any(done));
}

#[test]
fn an_empty_job_waits_for_those_before_it() {
    let (mut rig, first, held) = rig(1);
    let (second, _) = rig.submit_spec(after(&[first], 0));
    let (third, _) = rig.submit_spec(after(&[first], 0));
    assert_eq!(state(&rig, second), JobState::Waiting);
    rig.tell(Event::JobCancelled { job: third });
    assert_eq!(state(&rig, third), JobState::Cancelled);
    rig.succeed(1, &held, 1, Duration::from_secs(5));
    assert_eq!(state(&rig, second), JobState::Done);
    let (late, _) = rig.submit_spec(after(&[first, second], 0));
    assert_eq!(state(&rig, late), JobState::Done, "all that it needs was over");
}

#[test]
fn tasks_wait_for_their_elements() {
    let (mut rig, first, held) = rig(10);
    let (second, _) = rig.submit_spec(of(first, 1, 10));
    assert_eq!((ready(&rig, second), rig.counts(second).waiting), (vec![], 10));
    assert_eq!(rig.core.why(second, 3), Some(Waiting::Input { job: first, first: 3, end: 4 }));
    rig.succeed(1, &held, 1, Duration::from_secs(5));
    assert_eq!(ready(&rig, second), [0..1]);
    assert_eq!(rig.core.why(second, 0), Some(Waiting::Slot { tasks: 0, jobs: 1, slots: 1 }));
    assert_eq!(rig.core.jobs[&second].blocked.iter().collect::<Vec<_>>(), [1..10]);
}

#[test]
fn tasks_wait_for_whole_groups() {
    let mut rig = Rig::new();
    let (first, _) = rig.submit_spec(NewJob { task_ns: Some(1_000), ..NewJob::new("ada", 10) });
    let (second, _) = rig.submit_spec(of(first, 4, 3));
    let (third, _) = rig.submit_spec(of(second, 8, 1));
    rig.core.jobs.get_mut(&first).expect("a live job").pace.learn(1_000, 1_000 * 1_000);
    let held = lease(&rig.join(1, 1));
    assert_eq!(held.count, 10);
    assert_eq!(rig.core.why(second, 2), Some(Waiting::Input { job: first, first: 8, end: 10 }));
    let answer = |rig: &mut Rig, tasks: std::ops::Range<u64>| {
        let batch = batch(tasks.start, (tasks.end - tasks.start) as u32, 1_000);
        rig.tell(Event::BatchArrived { worker: WorkerId(1), lease: held.lease, batch: &batch })
    };
    let taken = |rig: &Rig| 3 - rig.core.jobs[&second].blocked.len();
    let steps = [(1..3, 0), (9..10, 0), (3..5, 0), (0..1, 1), (8..9, 2), (5..7, 2), (7..8, 3)];
    for (tasks, open) in steps {
        answer(&mut rig, tasks.clone());
        assert_eq!(taken(&rig), open, "after {tasks:?}");
    }
    assert_eq!(rig.core.why(third, 0), Some(Waiting::Input { job: second, first: 0, end: 3 }));
}

#[test]
fn a_failed_element_fails_its_task_and_no_other() {
    let (mut rig, first, held) = rig(3);
    let (second, _) = rig.submit_spec(of(first, 2, 2));
    let (third, _) = rig.submit_spec(of(second, 1, 2));
    rig.fail(1, &held, 0, FailureKind::Trap);
    let failures: Vec<_> = rig
        .facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::TaskFailed { job, task, failure } => Some((*job, *task, failure.to_string())),
            _ => None,
        })
        .collect();
    let told = |job: JobId| format!("input-failed: task 0 of job {job} failed");
    assert_eq!(failures, [(second, 0, told(first)), (third, 0, told(second))]);
    assert_eq!((rig.counts(second).failed, rig.counts(third).failed, rig.counts(third).waiting), (1, 1, 1));

    assert_eq!(finish(&mut rig), [(first, 1), (first, 2), (second, 1), (third, 1)]);
    assert_eq!((state(&rig, second), state(&rig, third)), (JobState::Done, JobState::Done));
    assert_eq!(rig.core.without_value(third, true), Some(vec![0..1]));
}

#[test]
fn failed_elements_count_as_failures() {
    let (mut rig, first, held) = rig(100);
    let (second, _) = rig.submit_spec(NewJob { max_failures: Some(0), ..of(first, 1, 100) });
    let commands = rig.fail(1, &held, 0, FailureKind::Trap);
    assert!(commands.contains(&Command::JobEnded { job: second, state: JobState::Failed }), "{commands:?}");
    assert_eq!(reason(&rig, second), "stopped because a task failed");
}

#[test]
fn a_job_that_comes_late_sees_what_is_there() {
    let mut rig = Rig::new();
    rig.join(1, 4);
    let (first, commands) = rig.submit_spec(NewJob::new("ada", 4));
    let held = lease(&commands);
    rig.succeed(1, &held, 1, Duration::from_millis(1));
    rig.fail(1, &held, 1, FailureKind::Trap);
    rig.acks = false;
    let batch = batch(2, 1, MS);
    rig.tell(Event::BatchArrived { worker: WorkerId(1), lease: held.lease, batch: &batch });
    let stored = rig.core.last_fact();
    let (second, _) = rig.submit_spec(of(first, 1, 4));
    rig.tell(Event::Persisted { seq: stored });
    assert_eq!(rig.core.why(second, 0), Some(Waiting::Storing));
    rig.tell(Event::Persisted { seq: FactSeq(stored.0 + 1) });
    let counts = rig.counts(second);
    assert_eq!((counts.leased, counts.failed, rig.core.jobs[&second].blocked.len()), (2, 1, 1));

    // Of a job that is over, nothing is waited for.
    rig.acks = true;
    rig.tell(Event::Persisted { seq: rig.core.last_fact() });
    rig.fail(1, &held, 3, FailureKind::Trap);
    assert_eq!(state(&rig, first), JobState::Done);
    let (third, _) = rig.submit_spec(of(first, 2, 2));
    assert_eq!((rig.counts(third).failed, state(&rig, third)), (2, JobState::Done));
}

#[test]
fn a_job_fails_with_the_job_whose_results_it_needs() {
    let (mut rig, first, held) = rig(4);
    let (second, _) = rig.submit_spec(of(first, 1, 4));
    rig.succeed(1, &held, 1, Duration::from_secs(5));
    rig.tell(Event::JobCancelled { job: first });
    assert_eq!(reason(&rig, second), "job 1, whose results are needed, was cancelled");
    assert_eq!((state(&rig, second), rig.counts(second).cancelled), (JobState::Failed, 4));
    let (late, _) = rig.submit_spec(of(first, 4, 1));
    assert_eq!((state(&rig, late), reason(&rig, late)), (JobState::Failed, reason(&rig, second)));
}

#[test]
fn results_of_an_empty_job_are_there_at_once() {
    let mut rig = Rig::new();
    let first = rig.submit("ada", 0);
    let (second, _) = rig.submit_spec(of(first, 8, 0));
    assert_eq!(state(&rig, second), JobState::Done);
}

#[test]
fn results_of_a_running_job_can_be_waited_for_by_many() {
    let (mut rig, first, held) = rig(2);
    let jobs: Vec<_> = (0..5).map(|_| rig.submit_spec(of(first, 2, 1)).0).collect();
    assert_eq!(rig.core.dependants(first).collect::<Vec<_>>(), jobs);
    let held = lease(&rig.succeed(1, &held, 1, Duration::from_secs(5)));
    rig.succeed(1, &held, 1, Duration::from_secs(5));
    assert!(jobs.iter().all(|job| rig.core.jobs[job].blocked.is_empty()));
}

#[test]
fn jobs_that_cannot_be_needed_are_refused() {
    let (mut rig, first, _) = rig(5);
    let next = rig.core.next_job();
    let later = JobId(next.0 + 3);
    let cases = [
        (after(&[next], 1), Refused::BadInput(next)),
        (after(&[first, later], 1), Refused::BadInput(later)),
        (after(&[JobId(0)], 1), Refused::NoSuchJob(JobId(0))),
        (of(next, 1, 1), Refused::BadInput(next)),
        (of(JobId(0), 1, 1), Refused::NoSuchJob(JobId(0))),
        (of(first, 0, 5), Refused::BadInput(first)),
        (of(first, 1, 4), Refused::BadInput(first)),
        (of(first, 2, 2), Refused::BadInput(first)),
        (of(first, u32::MAX, 0), Refused::BadInput(first)),
    ];
    for (spec, refusal) in cases {
        let what = format!("{spec:?}");
        assert_eq!(rig.try_tell(Event::JobSubmitted { job: next, spec }), Err(refusal), "{what}");
        assert_eq!((rig.core.next_job(), rig.core.dependants(first).count()), (next, 0));
    }
    rig.submit_spec(of(first, u32::MAX, 1));
}

#[test]
fn needs_come_back_from_the_disk() {
    let first = JobId(1);
    let job = |id: u64, spec: NewJob| Fact::JobAccepted { job: JobId(id), spec };
    let outcomes = |accepted: std::ops::Range<u64>, failed: Vec<std::ops::Range<u64>>| {
        let leased = Duration::ZERO;
        Fact::Outcomes { job: first, accepted: vec![accepted], failed, leased }
    };
    let second = Fact::Outcomes { job: JobId(2), accepted: vec![1..2], failed: Vec::new(), leased: Duration::ZERO };
    let facts = [
        job(1, NewJob::new("ada", 6)),
        job(2, of(first, 1, 6)),
        job(3, of(first, 4, 2)),
        job(4, after(&[first], 1)),
        job(5, of(JobId(2), 6, 1)),
        outcomes(0..2, vec![0..1]),
        second,
        outcomes(4..6, Vec::new()),
    ];
    let core = Core::replay(Config::default(), facts).expect("facts of a core");
    let mut rig = Rig { core, acks: false, ..Rig::new() };
    rig.drain();
    // What follows from a failure had not been stored, and is not passed on before it is.
    let failed: Vec<_> = rig.facts.iter().map(|fact| (fact.job().0, matches!(fact, Fact::TaskFailed { .. }))).collect();
    assert_eq!(failed, [(2, true), (3, true)]);
    assert_eq!((ready(&rig, JobId(2)), ready(&rig, JobId(3))), (vec![4..6], vec![1..2]));
    assert_eq!(rig.core.jobs[&JobId(2)].blocked.iter().collect::<Vec<_>>(), [2..4]);
    assert_eq!(rig.core.why(JobId(4), 0), Some(Waiting::After { job: first }));
    assert_eq!(rig.core.why(JobId(5), 0), Some(Waiting::Input { job: JobId(2), first: 0, end: 6 }));
    rig.acks = true;
    rig.tell(Event::Persisted { seq: rig.core.last_fact() });
    assert_eq!(state(&rig, JobId(5)), JobState::Done);
    assert_eq!(rig.counts(JobId(5)).failed, 1);
}

#[test]
fn ends_that_were_not_passed_on_before_a_crash_are_passed_on_after_it() {
    let job = |id: u64, spec: NewJob| Fact::JobAccepted { job: JobId(id), spec };
    let end = |id: u64, state, tasks: u64| {
        let missing = if state == JobState::Done { Vec::new() } else { vec![0..tasks] };
        Fact::JobEnded { job: JobId(id), state, reason: None, failed: Vec::new(), missing, retried: 0 }
    };
    let facts = [
        job(1, NewJob::new("ada", 2)),
        job(2, NewJob::new("ada", 2)),
        job(3, after(&[JobId(1)], 1)),
        job(4, after(&[JobId(1), JobId(2)], 1)),
        job(5, of(JobId(2), 1, 2)),
        job(6, of(JobId(1), 1, 2)),
        end(2, JobState::Cancelled, 2),
        end(1, JobState::Done, 2),
    ];
    let core = Core::replay(Config::default(), facts).expect("facts of a core");
    let mut rig = Rig { core, ..Rig::new() };
    rig.drain();
    let states: Vec<_> = (3..=6).map(|job| state(&rig, JobId(job))).collect();
    assert_eq!(states, [JobState::Waiting, JobState::Failed, JobState::Failed, JobState::Waiting]);
    assert_eq!((ready(&rig, JobId(3)), ready(&rig, JobId(6))), (vec![0..1], vec![0..2]));
}

#[test]
fn a_job_of_which_only_inputs_failed_has_not_begun() {
    let (mut rig, first, held) = rig(3);
    let (second, _) = rig.submit_spec(NewJob { after: vec![first], ..of(first, 1, 3) });
    rig.fail(1, &held, 0, FailureKind::Trap);
    let again = Core::replay(Config::default(), rig.facts.iter().cloned()).expect("facts of a core");
    again.check_invariants();
    for core in [&rig.core, &again] {
        let view = core.job(second).expect("a live job");
        assert_eq!((view.state, view.counts.failed), (JobState::Waiting, 1));
    }
}

#[test]
fn what_an_ended_job_needed_may_be_gone() {
    let spec = NewJob { after: vec![JobId(2)], ..of(JobId(1), 1, 0) };
    let end = Fact::JobEnded {
        job: JobId(3),
        state: JobState::Done,
        reason: None,
        failed: Vec::new(),
        missing: Vec::new(),
        retried: 0,
    };
    let accepted = Fact::JobAccepted { job: JobId(3), spec };
    let core = Core::replay(Config::default(), [accepted, end]).expect("facts of a core");
    core.check_invariants();
    assert_eq!((core.needs(JobId(3)), core.dependants(JobId(1)).count()), (Vec::new(), 0));
}

#[test]
fn unblocking_costs_by_range() {
    let mut rig = Rig::new();
    let tasks = 10_000_000;
    let (first, _) = rig.submit_spec(NewJob::new("ada", tasks));
    let (second, _) = rig.submit_spec(of(first, 3, tasks.div_ceil(3)));
    assert_eq!(rig.core.jobs[&second].blocked.range_count(), 1);
    rig.core.jobs.get_mut(&first).expect("a live job").pace.learn(1_000_000, 1_000_000_000);
    let (_, held) = leases(&rig.join(1, 4)).remove(0);
    rig.succeed(1, &held, held.count - 1, Duration::from_micros(1));
    let live = &rig.core.jobs[&second];
    let stored = u64::from(held.count - 1);
    assert_eq!(live.blocked.iter().collect::<Vec<_>>(), [stored / 3..tasks.div_ceil(3)]);
    assert_eq!(live.input.as_ref().map(|input| input.awaited.range_count()), Some(1));
}
