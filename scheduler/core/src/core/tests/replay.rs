//! Facts make the same core.

use std::time::Duration;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::outcome::{Failure, FailureKind};

use super::{Rig, leases};
use crate::{Command, Config, Core, Departure, Event, Fact, NewJob, ReplayError};

fn accepted(job: u64, tasks: u64) -> Fact {
    Fact::JobAccepted { job: JobId(job), spec: NewJob::new("ada", tasks) }
}

fn outcomes(job: u64, tasks: std::ops::Range<u64>, failed: u64) -> Fact {
    Fact::Outcomes { job: JobId(job), accepted: vec![tasks], failed }
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
    let facts = [Fact::JobAccepted { job: JobId(1), spec }, outcomes(1, 0..2, 1)];
    let core = Core::replay(Config::default(), facts).expect("facts of a core");
    let mut rig = Rig { core, ..Rig::new() };
    let ended = Command::JobEnded { job: JobId(1), state: JobState::Failed };
    assert!(rig.drain().contains(&ended));
}

#[test]
fn a_replayed_core_goes_on() {
    let facts = [accepted(1, 3), outcomes(1, 1..2, 0), accepted(5, 0)];
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
fn facts_that_contradict_each_other_are_refused() {
    let failed = |task| Fact::TaskFailed { job: JobId(1), task, failure: Failure::new(FailureKind::WorkerLost, "") };
    let ended = Fact::JobEnded { job: JobId(1), state: JobState::Cancelled, reason: None };
    let one = JobId(1);
    let cases = [
        (vec![accepted(1, 1), accepted(1, 1)], ReplayError::Twice(one)),
        (vec![accepted(1, 0), accepted(1, 1)], ReplayError::Twice(one)),
        (vec![outcomes(1, 0..1, 0)], ReplayError::NoSuchJob(one)),
        (vec![accepted(1, 1), outcomes(1, 0..1, 0), outcomes(1, 0..1, 0)], ReplayError::NoSuchJob(one)),
        (vec![accepted(1, 9), outcomes(1, 0..3, 0), outcomes(1, 2..4, 0)], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), outcomes(1, 8..10, 0)], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), outcomes(1, 0..1, 2)], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), failed(9)], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), failed(u64::MAX)], ReplayError::BadOutcome(one)),
        (vec![accepted(1, 9), ended.clone(), ended.clone()], ReplayError::NoSuchJob(one)),
        (vec![accepted(1, 9), ended, outcomes(1, 0..1, 0)], ReplayError::NoSuchJob(one)),
    ];
    for (facts, error) in cases {
        let what = format!("{facts:?}");
        assert_eq!(Core::replay(Config::default(), facts).err(), Some(error), "{what}");
    }
}
