//! Facts make the same core.

use std::ops::Range;
use std::time::Duration;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::outcome::{Failure, FailureKind};

use super::{Rig, leases};
use crate::{Command, Config, Core, Departure, Event, Fact, NewJob, ReplayError, TaskInput, Waiting};

fn accepted(job: u64, tasks: u64) -> Fact {
    Fact::JobAccepted { job: JobId(job), spec: NewJob::new("ada", tasks) }
}

fn outcomes(job: u64, accepted: Range<u64>, failed: &[Range<u64>]) -> Fact {
    Fact::Outcomes { job: JobId(job), accepted: vec![accepted], failed: failed.to_vec(), leased: Duration::ZERO }
}

fn ended(job: u64, state: JobState, failed: &[Range<u64>], missing: &[Range<u64>]) -> Fact {
    let (failed, missing) = (failed.to_vec(), missing.to_vec());
    Fact::JobEnded { job: JobId(job), state, reason: None, failed, missing, retried: 0 }
}

fn ended_with(job: u64, state: JobState, failed: &[Range<u64>], missing: &[Range<u64>], why: &str) -> Fact {
    let (failed, missing, retried) = (failed.to_vec(), missing.to_vec(), if why == "enough" { 7 } else { 0 });
    Fact::JobEnded { job: JobId(job), state, reason: Some(why.to_owned()), failed, missing, retried }
}

#[test]
fn facts_make_the_same_core_without_its_leases() {
    let mut rig = Rig::new();
    rig.join(1, 4);
    let done = rig.submit("ada", 4);
    let open = rig.submit_spec(NewJob { priority: 3, ..NewJob::new("ben", 100) }).0;
    let cancelled = rig.submit("ada", 10);
    let held: Vec<_> = rig.core.workers[&WorkerId(1)].leases.keys().copied().collect();
    assert_eq!(held.len(), 1);
    let batch = super::batch(0, 4, 4);
    let commands = rig.tell(Event::BatchArrived { worker: WorkerId(1), lease: held[0], batch: &batch });
    let (_, of_open) = leases(&commands).into_iter().find(|(_, lease)| lease.job == open).expect("ben's turn");
    rig.fail(1, &of_open, of_open.first + 1, FailureKind::Timeout);
    rig.tell(Event::JobCancelled { job: cancelled });
    rig.tell(Event::WorkerLeft { worker: WorkerId(1), how: Departure::Planned });

    let again = Core::replay(Config::default(), rig.facts.iter().cloned()).expect("facts of a core");
    again.check_invariants();
    for job in [done, open, cancelled] {
        let view =
            |core: &Core| core.job(job).map(|view| (view.owner, view.priority, view.state, view.counts, view.reason));
        assert_eq!(view(&again), view(&rig.core));
    }
    assert_eq!(again.jobs[&open].waiting, rig.core.jobs[&open].waiting);
    assert_eq!(again.next_job(), rig.core.next_job());
}

#[test]
fn a_job_that_should_have_been_stopped_is_stopped_now() {
    let spec = NewJob { max_failures: Some(0), ..NewJob::new("ada", 10) };
    let facts = [Fact::JobAccepted { job: JobId(1), spec }, outcomes(1, 0..2, &[1..2])];
    let core = Core::replay(Config::default(), facts).expect("facts of a core");
    let mut rig = Rig { core, ..Rig::new() };
    let ended = Command::JobEnded { job: JobId(1), state: JobState::Failed };
    assert!(rig.drain().contains(&ended));
    assert_eq!(
        rig.facts.last(),
        Some(&ended_with(1, JobState::Failed, &[1..2], &[2..10], "stopped because a task failed"))
    );
}

#[test]
fn a_replayed_core_goes_on() {
    let facts = [accepted(1, 3), outcomes(1, 1..2, &[]), accepted(5, 0), ended(5, JobState::Done, &[], &[])];
    let core = Core::replay(Config::default(), facts).expect("facts of a core");
    let mut rig = Rig { core, ..Rig::new() };
    assert_eq!(rig.drain(), [], "what has been told is not told again");
    assert_eq!(rig.core.job(JobId(5)).map(|view| view.state), Some(JobState::Done));
    let mut open = leases(&rig.join(1, 4));
    let mut tasks = Vec::new();
    while let Some((_, held)) = open.pop() {
        tasks.extend(held.first..held.first + u64::from(held.count));
        open.extend(leases(&rig.succeed(1, &held, held.count, Duration::from_millis(1))));
    }
    tasks.sort_unstable();
    assert_eq!(tasks, [0, 2]);
    assert_eq!(rig.core.next_job(), JobId(6));
}

#[test]
fn a_job_whose_end_was_not_stored_ends_now() {
    let facts = [accepted(1, 2), outcomes(1, 0..1, &[]), outcomes(1, 1..2, &[1..2]), accepted(2, 0)];
    let core = Core::replay(Config::default(), facts).expect("facts of a core");
    let mut rig = Rig { core, ..Rig::new() };
    rig.drain();
    assert_eq!(rig.facts, [ended(1, JobState::Done, &[1..2], &[]), ended(2, JobState::Done, &[], &[])]);
}

#[test]
fn outcomes_of_an_ended_job_may_be_left_out() {
    let end = ended_with(1, JobState::Cancelled, &[1..2, 6..8], &[3..4, 9..10], "enough");
    let all = [
        accepted(1, 10),
        outcomes(1, 0..3, &[1..2]),
        outcomes(1, 4..9, &[6..7, 7..8]),
        end.clone(),
        accepted(2, 3),
        outcomes(2, 0..1, &[]),
    ];
    let short = [all[0].clone(), end, all[4].clone(), all[5].clone()];
    for facts in [all.to_vec(), short.to_vec()] {
        let core = Core::replay(Config::default(), facts).expect("facts of a core");
        core.check_invariants();
        let view = core.job(JobId(1)).expect("an ended job");
        let counts = (view.counts.succeeded, view.counts.failed, view.counts.cancelled, view.counts.total());
        assert_eq!((view.state, counts, view.retried), (JobState::Cancelled, (5, 3, 2, 10), 7));
        assert_eq!(view.reason.as_deref(), Some("enough"));
        assert_eq!(core.without_value(JobId(1), true), Some(vec![1..2, 6..8]));
        assert_eq!(core.without_value(JobId(1), false), Some(vec![1..2, 3..4, 6..8, 9..10]));
        let why: Vec<_> = [0, 1, 3].into_iter().map(|task| core.why(JobId(1), task)).collect();
        assert_eq!(why, [Some(Waiting::Value), Some(Waiting::Failed), Some(Waiting::Ended)]);
        assert_eq!((core.without_value(JobId(2), false), core.without_value(JobId(3), false)), (None, None));
    }
}

#[test]
fn many_batches_in_any_order_make_one_job() {
    let (tasks, batch) = (2_000_000, 100);
    let mut dice = super::Dice(1);
    let mut starts: Vec<u64> = (0..tasks / batch).map(|index| index * batch).collect();
    for index in (1..starts.len()).rev() {
        starts.swap(index, dice.below(index as u64 + 1) as usize);
    }
    let facts = starts.into_iter().map(|start| outcomes(1, start..start + batch, &[start + 7..start + 8]));
    let facts = [accepted(1, tasks + 5)].into_iter().chain(facts).chain([accepted(2, 1_000_000)]);
    let core = Core::replay(Config::default(), facts).expect("facts of a core");
    core.check_invariants();
    let counts = core.job(JobId(1)).expect("a live job").counts;
    assert_eq!((counts.waiting, counts.failed, counts.succeeded), (5, tasks / batch, tasks - tasks / batch));
}

#[test]
fn facts_that_contradict_each_other_are_refused() {
    let failed = |task| Fact::TaskFailed { job: JobId(1), task, failure: Failure::new(FailureKind::WorkerLost, "") };
    let ended = |state, failed: &[Range<u64>], missing: &[Range<u64>]| ended(1, state, failed, missing);
    let cancelled = || ended(JobState::Cancelled, &[], &[0..9]);
    let good = || outcomes(1, 0..1, &[]);
    let one = JobId(1);
    let spec = |after: &[u64], input: Option<(u64, u32)>| NewJob {
        after: after.iter().map(|&job| JobId(job)).collect(),
        input: input.map(|(job, fan_in)| TaskInput { job: JobId(job), fan_in }),
        ..NewJob::new("ada", 3)
    };
    let needing = |spec| Fact::JobAccepted { job: JobId(2), spec };
    let bad_input = ReplayError::BadInput(JobId(2));
    let cases = [
        (vec![accepted(1, 1), accepted(1, 1)], ReplayError::Twice(one)),
        (vec![accepted(1, 9), cancelled(), accepted(1, 1)], ReplayError::Twice(one)),
        (vec![good()], ReplayError::NoSuchJob(one)),
        (vec![accepted(1, 1), good(), good()], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), outcomes(1, 0..3, &[]), outcomes(1, 2..4, &[])], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), outcomes(1, 8..10, &[])], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), outcomes(1, 3..3, &[])], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), outcomes(1, 0..1, &[0..2])], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), outcomes(1, 0..2, &[1..2, 0..1])], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), failed(9)], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), failed(u64::MAX)], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), cancelled(), cancelled()], ReplayError::NoSuchJob(one)),
        (vec![accepted(1, 9), cancelled(), good()], ReplayError::NoSuchJob(one)),
        (vec![accepted(1, 9), good(), cancelled()], ReplayError::BadEnd(one)),
        (vec![accepted(1, 9), failed(3), ended(JobState::Cancelled, &[], &[8..9])], ReplayError::BadEnd(one)),
        (vec![accepted(1, 9), ended(JobState::Running, &[], &[])], ReplayError::BadEnd(one)),
        (vec![accepted(1, 9), ended(JobState::Done, &[], &[8..9])], ReplayError::BadEnd(one)),
        (vec![accepted(1, 9), ended(JobState::Done, &[8..10], &[])], ReplayError::BadEnd(one)),
        (vec![accepted(1, 9), ended(JobState::Failed, &[3..5], &[4..6])], ReplayError::BadEnd(one)),
        (vec![accepted(1, 9), ended(JobState::Failed, &[], &[5..6, 3..4])], ReplayError::BadEnd(one)),
        (vec![needing(spec(&[1], None))], bad_input.clone()),
        (vec![accepted(3, 3), needing(spec(&[3], None))], bad_input.clone()),
        (vec![needing(spec(&[2], None))], bad_input.clone()),
        (vec![accepted(1, 4), needing(spec(&[], Some((1, 1))))], bad_input.clone()),
        (vec![accepted(1, 3), needing(spec(&[], Some((1, 0))))], bad_input),
    ];
    for (facts, error) in cases {
        let what = format!("{facts:?}");
        assert_eq!(Core::replay(Config::default(), facts).err(), Some(error), "{what}");
    }
}
