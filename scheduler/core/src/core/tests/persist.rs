//! Nothing is promised before it is stored.

use std::time::Duration;

use farm_proto::ids::WorkerId;
use farm_proto::job::JobState;

use super::{Rig, lease};
use crate::{Command, Event, Fact, FactSeq, NewJob, Refused, Waiting};

fn unstored() -> Rig {
    Rig { acks: false, ..Rig::new() }
}

#[test]
fn a_driver_that_never_stores_sees_no_promise() {
    let mut rig = unstored();
    rig.join(1, 4);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 4));
    assert_eq!(commands.len(), 1, "{commands:?}");
    assert!(matches!(commands[0], Command::Persist { seq: FactSeq(1), .. }));
    assert_eq!(rig.core.why(job, 0), Some(Waiting::Storing));
    let commands = rig.tell(Event::JobCancelled { job });
    assert!(matches!(commands[..], [Command::Persist { fact: Fact::JobEnded { .. }, .. }]), "{commands:?}");
    assert_ne!(rig.core.job(job).map(|view| view.state), Some(JobState::Cancelled), "it might yet come back");
}

#[test]
fn outcomes_are_told_once_they_are_stored_and_the_end_after_them() {
    let mut rig = unstored();
    rig.join(1, 2);
    let (job, _) = rig.submit_spec(NewJob::new("ada", 2));
    let commands = rig.tell(Event::Persisted { seq: FactSeq(1) });
    assert_eq!(commands[..2], [Command::JobAccepted { job }, Command::JobStarted { job }]);
    let held = lease(&commands);

    let commands = rig.succeed(1, &held, 1, Duration::from_millis(1));
    assert!(matches!(commands[..], [Command::Persist { seq: FactSeq(2), .. }]), "{commands:?}");
    let last = farm_proto::message::Lease { first: 1, ..held };
    let commands = rig.succeed(1, &last, 1, Duration::from_millis(1));
    assert!(matches!(
        commands[..],
        [Command::Persist { seq: FactSeq(3), .. }, Command::Persist { seq: FactSeq(4), fact: Fact::JobEnded { .. } }]
    ));
    assert_eq!(rig.core.job(job).map(|view| view.state), Some(JobState::Running));

    assert_eq!(rig.tell(Event::Persisted { seq: FactSeq(2) }), [Command::OutcomesStored { job, seq: FactSeq(2) }]);
    assert_eq!(rig.tell(Event::Persisted { seq: FactSeq(2) }), [], "a fact is stored once");
    assert_eq!(
        rig.tell(Event::Persisted { seq: FactSeq(3) }),
        [Command::OutcomesStored { job, seq: FactSeq(3) }],
        "its end is still on its way"
    );
    assert_eq!(
        rig.tell(Event::Persisted { seq: FactSeq(4) }),
        [Command::JobEnded { job, state: JobState::Done }, Command::ForgetJob { worker: WorkerId(1), job },]
    );
}

#[test]
fn one_commit_stores_many_facts() {
    let mut rig = unstored();
    let jobs: Vec<_> = (0..3).map(|_| rig.submit("ada", 0)).collect();
    let commands = rig.tell(Event::Persisted { seq: FactSeq(3) });
    let told: Vec<_> = commands.iter().filter(|command| !matches!(command, Command::Persist { .. })).collect();
    let accepted: Vec<_> = jobs.iter().map(|&job| Command::JobAccepted { job }).collect();
    assert_eq!(told, accepted.iter().collect::<Vec<_>>());
    assert_eq!((rig.core.last_fact(), rig.facts.len()), (FactSeq(6), 6), "each is done");
    let ended = |job| Command::JobEnded { job, state: JobState::Done };
    assert_eq!(rig.tell(Event::Persisted { seq: FactSeq(6) }), jobs.into_iter().map(ended).collect::<Vec<_>>());
    assert_eq!(rig.try_tell(Event::Persisted { seq: FactSeq(7) }), Err(Refused::NoSuchFact(FactSeq(7))));
}

#[test]
fn a_job_cancelled_before_it_is_stored_never_runs() {
    let mut rig = unstored();
    rig.join(1, 1);
    let job = rig.submit("ada", 1);
    rig.tell(Event::JobCancelled { job });
    assert_eq!(rig.tell(Event::Persisted { seq: FactSeq(1) }), [Command::JobAccepted { job }]);
    let ended = Command::JobEnded { job, state: JobState::Cancelled };
    assert_eq!(rig.tell(Event::Persisted { seq: FactSeq(2) }), [ended]);
}

#[test]
fn an_empty_job_cannot_be_cancelled() {
    let mut rig = unstored();
    let job = rig.submit("ada", 0);
    assert_eq!(rig.tell(Event::JobCancelled { job }), []);
    let commands = rig.tell(Event::Persisted { seq: FactSeq(1) });
    assert!(matches!(commands[1..], [Command::Persist { fact: Fact::JobEnded { state: JobState::Done, .. }, .. }]));
    assert_eq!(rig.tell(Event::JobCancelled { job }), [], "it is done already");
    let ended = Command::JobEnded { job, state: JobState::Done };
    assert_eq!(rig.tell(Event::Persisted { seq: FactSeq(2) }), [ended]);
}

#[test]
fn a_cancel_stops_tasks_before_it_is_stored() {
    let mut rig = unstored();
    rig.join(1, 1);
    let job = rig.submit("ada", 5);
    rig.tell(Event::Persisted { seq: FactSeq(1) });
    let commands = rig.tell(Event::JobCancelled { job });
    assert_eq!(commands[0], Command::CancelJob { worker: WorkerId(1), job });
    assert!(matches!(commands[1..], [Command::Persist { .. }]), "{commands:?}");
}
