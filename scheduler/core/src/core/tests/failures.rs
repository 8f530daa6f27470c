//! Attempts: which failures are tried again, and when a task is given up.

use std::time::Duration;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::message::Lease;
use farm_proto::outcome::FailureKind;

use super::{Rig, lease, leases};
use crate::{Command, Config, Departure, Event, Fact, NewJob, Time, Waiting};

/// A rig with a worker of one slot, and a job of one task with this many retries.
fn one_task(retries: u32) -> (Rig, JobId, Lease) {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let (job, commands) = rig.submit_spec(NewJob { retries, ..NewJob::new("ada", 1) });
    (rig, job, lease(&commands))
}

fn wait_for_deadline(rig: &mut Rig) -> Vec<Command> {
    rig.now = rig.core.next_deadline().expect("something to wait for");
    rig.tell(Event::Timeout)
}

#[test]
fn a_failed_task_is_tried_again_after_a_while_as_often_as_asked() {
    let (mut rig, job, mut held) = one_task(2);
    let mut waits = Vec::new();
    for attempt in 1..=2 {
        assert_eq!(
            rig.fail(1, &held, 0, FailureKind::Panic),
            [],
            "nothing is stored of an attempt that is not the last"
        );
        let until = rig.core.next_deadline().expect("a retry");
        assert_eq!(rig.core.why(job, 0), Some(Waiting::Retry { attempt, until }));
        assert_eq!(rig.counts(job).waiting, 1);
        waits.push(until - rig.now);
        let early = Time(until.0 - 1);
        rig.now = early;
        assert_eq!(rig.tell(Event::Timeout), [], "not yet");
        held = lease(&wait_for_deadline(&mut rig));
        assert_eq!(held.attempts, [(0, attempt)]);
    }
    let (first, second) =
        (Duration::from_millis(75)..Duration::from_millis(130), Duration::from_millis(150)..Duration::from_millis(260));
    assert!(first.contains(&waits[0]) && second.contains(&waits[1]), "{waits:?}");
    let commands = rig.fail(1, &held, 0, FailureKind::Panic);
    assert!(commands.contains(&Command::JobEnded { job, state: JobState::Done }), "{commands:?}");
    let view = rig.core.job(job).expect("an ended job");
    assert_eq!((view.counts.failed, view.retried), (1, 2));
    assert_eq!(rig.core.next_deadline(), None);
}

#[test]
fn limits_are_not_tried_again() {
    use FailureKind::{BadArguments, Cancelled, MemoryLimit, OutOfFuel, ResultTooLarge, Timeout};
    for kind in [Timeout, OutOfFuel, MemoryLimit, ResultTooLarge, BadArguments, Cancelled] {
        let (mut rig, job, held) = one_task(5);
        rig.fail(1, &held, 0, kind);
        assert_eq!(rig.counts(job).failed, 1, "{kind}");
    }
}

#[test]
fn many_tasks_that_fail_together_share_their_deadlines() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let (job, commands) = rig.submit_spec(NewJob { retries: 1, task_ns: Some(1_000), ..NewJob::new("ada", 100_000) });
    let mut open = leases(&commands);
    while let Some((worker, held)) = open.pop() {
        let fail = |offset| (offset, farm_proto::outcome::Failure::new(FailureKind::Trap, ""));
        let failures = (0..held.count).map(fail).collect();
        let batch = farm_proto::message::Batch { failures, ..super::batch(held.first, held.count, 1) };
        let event = Event::BatchArrived { worker: WorkerId(worker), lease: held.lease, batch: &batch };
        open.extend(leases(&rig.tell(event)));
    }
    let job = rig.core.jobs.get(&job).expect("a live job");
    assert_eq!(job.unleased(), 100_000);
    let ranges: usize = job.retrying.values().map(crate::RangeSet::range_count).sum();
    assert!(ranges < 100_000 / 50, "{ranges} ranges");
    assert_eq!(job.attempts.runs_in(0..100_000).count(), 1);
}

#[test]
fn a_cancel_drops_what_waits_for_another_attempt() {
    let (mut rig, job, held) = one_task(5);
    rig.fail(1, &held, 0, FailureKind::Trap);
    rig.tell(Event::JobCancelled { job });
    assert_eq!(rig.core.next_deadline(), None);
    assert_eq!(rig.counts(job).cancelled, 1);
}

#[test]
fn a_task_whose_slot_dies_is_tried_again_at_once_and_given_up_the_third_time() {
    let (mut rig, job, mut held) = one_task(0);
    for attempt in 1..=2 {
        let commands = rig.tell(Event::TaskLost { worker: WorkerId(1), lease: held.lease, task: 0 });
        held = lease(&commands);
        assert_eq!(held.attempts, [(0, attempt)]);
    }
    let commands = rig.tell(Event::TaskLost { worker: WorkerId(1), lease: held.lease, task: 0 });
    let Command::Persist { seq, fact: Fact::TaskFailed { task: 0, failure, .. } } = &commands[0] else {
        panic!("{commands:?}")
    };
    assert_eq!(failure.to_string(), "worker-lost: the worker died while running this task, 3 times");
    assert!(commands.contains(&Command::OutcomesStored { job, seq: *seq }), "{commands:?}");
    assert_eq!((rig.counts(job).failed, rig.core.job(job).map(|view| view.retried)), (1, Some(2)));
}

#[test]
fn crashes_do_not_use_up_retries() {
    let (mut rig, job, held) = one_task(1);
    let commands = rig.tell(Event::TaskLost { worker: WorkerId(1), lease: held.lease, task: 0 });
    rig.fail(1, &lease(&commands), 0, FailureKind::Trap);
    assert_eq!(rig.counts(job).waiting, 1, "there is one retry left");
    let commands = wait_for_deadline(&mut rig);
    assert_eq!(lease(&commands).attempts, [(0, 2)]);
    rig.fail(1, &lease(&commands), 0, FailureKind::Trap);
    assert_eq!(rig.counts(job).failed, 1);
}

#[test]
fn a_lost_worker_is_counted_against_what_its_slots_may_have_run() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    let spec = NewJob { task_ns: Some(10_000_000), ..NewJob::new("ada", 50) };
    let (job, commands) = rig.submit_spec(spec);
    let (_, first) = leases(&commands).remove(0);
    rig.succeed(1, &first, 1, Duration::from_millis(10));
    let held = rig.core.worker(WorkerId(1)).expect("the worker").leased;
    assert!(held > 4, "{held}");
    rig.tell(Event::WorkerLeft { worker: WorkerId(1), how: Departure::Lost });
    assert_eq!((rig.counts(job).waiting, rig.counts(job).leased), (49, 0));
    let crashes: Vec<_> = rig.core.jobs[&job].crashes.runs_in(0..50).collect();
    assert_eq!(crashes, [(1..3, 1)], "of what was not answered, two slots ran the first two");
    assert_eq!(rig.core.job(job).map(|view| view.retried), Some(2));
}

#[test]
fn nobody_is_blamed_for_a_planned_departure() {
    let (mut rig, job, _) = one_task(0);
    for worker in 2..12 {
        rig.tell(Event::WorkerLeft { worker: WorkerId(worker - 1), how: Departure::Planned });
        assert_eq!(lease(&rig.join(worker, 1)).attempts, []);
    }
    assert_eq!(rig.counts(job).leased, 1);
}

#[test]
fn tasks_on_their_last_chance_do_not_run_side_by_side() {
    let mut rig = Rig::new();
    let (job, _) = rig.submit_spec(NewJob { task_ns: Some(5_000_000_000), ..NewJob::new("ada", 2) });
    for worker in 1..=2 {
        rig.join(worker, 2);
        assert_eq!(rig.counts(job).leased, 2);
        rig.tell(Event::WorkerLeft { worker: WorkerId(worker), how: Departure::Lost });
    }
    let commands = rig.join(3, 2);
    assert_eq!(rig.counts(job).leased, 1, "{commands:?}");
    rig.join(4, 2);
    assert_eq!(rig.counts(job).leased, 2);
    // The first was the one that takes workers down.
    rig.tell(Event::WorkerLeft { worker: WorkerId(3), how: Departure::Lost });
    assert_eq!((rig.counts(job).failed, rig.counts(job).leased), (1, 1));
}

#[test]
fn a_task_that_takes_workers_down_is_found_among_many() {
    let mut rig = Rig::new();
    let poison = 31_234;
    let spec = NewJob { task_ns: Some(4_000), ..NewJob::new("ada", 60_000) };
    let (job, mut commands) = rig.submit_spec(spec);
    let mut deaths = 0;
    let mut worker = 0;
    let mut sent = 0;
    while rig.counts(job).succeeded + rig.counts(job).failed < 60_000 {
        worker += 1;
        commands.extend(rig.join(worker, 2));
        let mut open = leases(&commands);
        commands.clear();
        while !open.is_empty() {
            let (_, held) = open.remove(0);
            sent += 1;
            let end = held.first + u64::from(held.count);
            if (held.first..end).contains(&poison) {
                // What was finished within the last milliseconds is lost with the worker.
                rig.succeed(worker, &held, ((poison - held.first) / 2) as u32, Duration::from_micros(4));
                commands = rig.tell(Event::WorkerLeft { worker: WorkerId(worker), how: Departure::Lost });
                deaths += 1;
                break;
            }
            open.extend(leases(&rig.succeed(worker, &held, held.count, Duration::from_micros(4))));
        }
        assert!(deaths < 10, "{:?}", rig.counts(job));
    }
    assert_eq!(rig.counts(job).failed, 1, "{deaths} deaths");
    assert!(deaths <= 5, "{deaths} deaths");
    assert!(sent < 2_500, "{sent} leases: too many tasks went out one by one");
}

#[test]
fn the_crash_limit_can_be_one() {
    let mut rig = Rig::with(Config { crash_limit: 1, ..Config::default() });
    rig.join(1, 1);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 1));
    rig.tell(Event::TaskLost { worker: WorkerId(1), lease: lease(&commands).lease, task: 0 });
    assert_eq!(rig.counts(job).failed, 1);
}
