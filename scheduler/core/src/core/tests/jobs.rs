//! How jobs come and end.

use std::time::Duration;

use farm_proto::ids::WorkerId;
use farm_proto::job::JobState;
use farm_proto::outcome::{Failure, FailureKind};

use super::{MS, Rig, batch, lease, leases};
use crate::{Command, Event, Fact, NewJob, Refused, Waiting};

#[test]
fn an_empty_job_is_done_at_once() {
    let mut rig = Rig::new();
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 0));
    assert!(matches!(commands[0], Command::Persist { fact: Fact::JobAccepted { .. }, .. }));
    assert_eq!(commands[1], Command::JobAccepted { job });
    let Command::Persist { fact: end @ Fact::JobEnded { state: JobState::Done, .. }, .. } = &commands[2] else {
        panic!("{commands:?}")
    };
    assert_eq!(end.job(), job);
    assert_eq!(commands[3..], [Command::JobEnded { job, state: JobState::Done }]);
    assert_eq!(rig.core.job(job).map(|view| view.state), Some(JobState::Done));
}

#[test]
fn a_lone_task_goes_out_and_comes_back_without_delay() {
    let mut rig = Rig::new();
    rig.join(1, 4);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 1));
    assert_eq!(rig.core.job(job).map(|view| view.state), Some(JobState::Running));
    let position = |wanted: &Command| commands.iter().position(|command| command == wanted);
    assert!(position(&Command::JobAccepted { job }) < position(&Command::JobStarted { job }), "{commands:?}");
    let lease = lease(&commands);
    assert_eq!((lease.job, lease.first, lease.count), (job, 0, 1));

    let commands = rig.after(Duration::from_millis(2)).succeed(1, &lease, 1, Duration::from_millis(1));
    let Command::Persist { seq, fact: Fact::Outcomes { accepted, failed, leased, .. } } = &commands[0] else {
        panic!("{commands:?}")
    };
    assert_eq!((&accepted[..], &failed[..], *leased), (&[0..1][..], &[][..], Duration::from_millis(2)));
    let ended = Fact::JobEnded {
        job,
        state: JobState::Done,
        reason: None,
        failed: Vec::new(),
        missing: Vec::new(),
        retried: 0,
    };
    assert_eq!(
        commands[1..],
        [
            Command::Persist { seq: rig.core.last_fact(), fact: ended },
            Command::OutcomesStored { job, seq: *seq },
            Command::JobEnded { job, state: JobState::Done },
            Command::ForgetJob { worker: WorkerId(1), job },
        ]
    );
    let view = rig.core.job(job).expect("an ended job");
    assert_eq!((view.state, view.counts.succeeded, view.task_ns), (JobState::Done, 1, Some(MS)));
    assert!(rig.core.forget(job) && !rig.core.forget(job));
    assert_eq!(rig.core.jobs().count(), 0);
    assert!(rig.core.next_job() > job, "ids are not used twice");
}

#[test]
fn a_job_is_introduced_once_to_each_worker() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    rig.join(2, 1);
    let (_, commands) = rig.submit_spec(NewJob::new("ada", 3));
    let introduced = |commands: &[Command]| {
        let of = |command: &Command| match command {
            Command::SendLease { worker, introduce, .. } => Some((worker.0, *introduce)),
            _ => None,
        };
        commands.iter().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(introduced(&commands), [(1, true), (2, true)]);
    let (worker, first) = leases(&commands).remove(0);
    assert_eq!(introduced(&rig.succeed(worker, &first, 1, Duration::from_secs(5))), [(1, false)]);
}

#[test]
fn a_cancelled_job_stops_everywhere_and_late_answers_are_dropped() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    rig.join(2, 2);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 100));
    let (worker, held) = leases(&commands).remove(0);
    let commands = rig.tell(Event::JobCancelled { job });
    assert_eq!(
        commands,
        [
            Command::CancelJob { worker: WorkerId(1), job },
            Command::CancelJob { worker: WorkerId(2), job },
            commands[2].clone(),
            Command::JobEnded { job, state: JobState::Cancelled },
            Command::ForgetJob { worker: WorkerId(1), job },
            Command::ForgetJob { worker: WorkerId(2), job },
        ]
    );
    assert_eq!(rig.counts(job).cancelled, 100);
    assert_eq!(rig.succeed(worker, &held, 2, Duration::from_millis(1)), []);
    let task = held.first;
    assert_eq!(rig.tell(Event::TaskLost { worker: WorkerId(worker), lease: held.lease, task }), []);
    assert_eq!(rig.counts(job).cancelled, 100);
    assert_eq!(rig.core.why(job, 3), Some(Waiting::Ended));
    assert_eq!(rig.tell(Event::JobCancelled { job }), [], "cancelling an ended job changes nothing");
    rig.core.forget(job);
    assert_eq!(rig.try_tell(Event::JobCancelled { job }), Err(Refused::NoSuchJob(job)));
}

#[test]
fn outcomes_before_a_cancel_stand() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 10));
    rig.succeed(1, &lease(&commands), 2, Duration::from_millis(10));
    rig.tell(Event::JobCancelled { job });
    let counts = rig.counts(job);
    assert_eq!((counts.succeeded, counts.cancelled, counts.leased), (2, 8, 0));
}

#[test]
fn a_job_with_too_many_failures_stops() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let spec = NewJob { max_failures: Some(1), ..NewJob::new("ada", 10) };
    let (job, commands) = rig.submit_spec(spec);
    let first = lease(&commands);
    let commands = rig.fail(1, &first, first.first, FailureKind::Trap);
    assert_eq!(rig.core.job(job).map(|view| view.state), Some(JobState::Running));
    let (_, second) = leases(&commands).remove(0);
    let commands = rig.fail(1, &second, second.first, FailureKind::Timeout);
    assert!(commands.contains(&Command::JobEnded { job, state: JobState::Failed }), "{commands:?}");
    let view = rig.core.job(job).expect("an ended job");
    assert_eq!(view.reason.as_deref(), Some("stopped because more than 1 task failed"));
    assert_eq!((view.counts.failed, view.counts.cancelled), (2, 8));
}

#[test]
fn a_job_whose_last_task_is_one_failure_too_many_is_done() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let spec = NewJob { max_failures: Some(0), ..NewJob::new("ada", 1) };
    let (job, commands) = rig.submit_spec(spec);
    let commands = rig.fail(1, &lease(&commands), 0, FailureKind::Trap);
    assert!(commands.contains(&Command::JobEnded { job, state: JobState::Done }), "there was nothing left to stop");
}

#[test]
fn a_bad_module_fails_the_job_once() {
    let mut rig = Rig::new();
    rig.join(1, 4);
    rig.join(2, 4);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 1_000_000));
    assert_eq!(leases(&commands).len(), 2);
    let failure = Failure::new(FailureKind::BadModule, "wants `env.nonsense`");
    let commands = rig.tell(Event::JobFailed { worker: WorkerId(2), job, failure: &failure });
    assert!(commands.contains(&Command::CancelJob { worker: WorkerId(1), job }), "{commands:?}");
    let view = rig.core.job(job).expect("an ended job");
    assert_eq!((view.state, view.reason.as_deref()), (JobState::Failed, Some("bad-module: wants `env.nonsense`")));
    let late = rig.tell(Event::JobFailed { worker: WorkerId(1), job, failure: &failure });
    assert_eq!(late, [], "the other worker finds the same a little later");
}

#[test]
fn outcomes_in_a_batch_with_a_fatal_one_are_kept() {
    let mut rig = Rig::new();
    rig.join(1, 3);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 9));
    let held = lease(&commands);
    let mut batch = batch(0, 3, MS);
    batch.failures = vec![(1, Failure::new(FailureKind::NoSuchFunction, "no `f`"))];
    let commands = rig.tell(Event::BatchArrived { worker: WorkerId(1), lease: held.lease, batch: &batch });
    let Command::Persist { fact: Fact::Outcomes { accepted, failed, .. }, .. } = &commands[0] else {
        panic!("{commands:?}")
    };
    assert_eq!((&accepted[..], failed.len()), (&[0..1, 2..3][..], 0));
    let view = rig.core.job(job).expect("an ended job");
    assert_eq!((view.counts.succeeded, view.counts.failed, view.counts.cancelled), (2, 0, 7));
    assert_eq!(view.reason.as_deref(), Some("no-such-function: no `f`"));
}
