//! What cannot be is refused, and changes nothing.

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::message::{Batch, Resume};
use farm_proto::outcome::{Failure, FailureKind};

use super::{MS, Rig, batch, lease};
use crate::{Departure, Event, FactSeq, NewJob, Refused};

/// A rig with a worker that holds tasks 0 and 1 of a job.
fn rig() -> (Rig, JobId, LeaseId) {
    let mut rig = Rig::new();
    rig.join(1, 2);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 10));
    (rig, job, lease(&commands).lease)
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let (mut rig, job, lease) = rig();
    let (one, other) = (WorkerId(1), WorkerId(9));
    let failure = Failure::new(FailureKind::BadModule, "");
    let with_failures = |offsets: &[u32]| Batch {
        failures: offsets.iter().map(|&offset| (offset, failure.clone())).collect(),
        ..batch(0, 2, MS)
    };
    let unordered = with_failures(&[1, 0]);
    let twice = with_failures(&[0, 0]);
    let beyond = with_failures(&[2]);
    let (good, below, above) = (batch(0, 2, MS), batch(u64::MAX, 2, MS), batch(1, 2, MS));
    let never = LeaseId(lease.0 + 1);
    let nothing = Resume::default();
    let arrived = |worker, lease, batch| Event::BatchArrived { worker, lease, batch };

    let cases = [
        (Event::JobSubmitted { job, spec: NewJob::new("eve", 1) }, Refused::JobTaken(job)),
        (Event::JobCancelled { job: JobId(7) }, Refused::NoSuchJob(JobId(7))),
        (Event::JobFailed { worker: other, job, failure: &failure }, Refused::NoSuchWorker(other)),
        (Event::JobFailed { worker: one, job: JobId(7), failure: &failure }, Refused::NeverLeased(one)),
        (Event::Persisted { seq: FactSeq(2) }, Refused::NoSuchFact(FactSeq(2))),
        (
            Event::WorkerJoined { worker: one, cluster: ClusterId::DEFAULT, slots: 1, ends: None, resume: &nothing },
            Refused::WorkerTaken(one),
        ),
        (
            Event::WorkerJoined { worker: other, cluster: ClusterId::DEFAULT, slots: 0, ends: None, resume: &nothing },
            Refused::NoSlots(other),
        ),
        (Event::WorkerDraining { worker: other }, Refused::NoSuchWorker(other)),
        (Event::WorkerLeft { worker: other, how: Departure::Lost }, Refused::NoSuchWorker(other)),
        (arrived(other, lease, &good), Refused::NoSuchWorker(other)),
        (arrived(one, never, &good), Refused::NeverLeased(one)),
        (arrived(one, lease, &below), Refused::OutsideLease(lease)),
        (arrived(one, lease, &above), Refused::OutsideLease(lease)),
        (arrived(one, lease, &unordered), Refused::BadFailures(lease)),
        (arrived(one, lease, &twice), Refused::BadFailures(lease)),
        (arrived(one, lease, &beyond), Refused::BadFailures(lease)),
        (Event::TaskLost { worker: one, lease, task: 2 }, Refused::OutsideLease(lease)),
        (Event::TaskLost { worker: one, lease, task: u64::MAX }, Refused::OutsideLease(lease)),
        (Event::TasksReturned { worker: one, lease, first: 0, count: 3 }, Refused::OutsideLease(lease)),
    ];
    let seen = |rig: &Rig| (rig.core.jobs().collect::<Vec<_>>(), rig.core.workers().collect::<Vec<_>>());
    let before = seen(&rig);
    for (event, refusal) in cases {
        let what = format!("{event:?}");
        assert_eq!(rig.try_tell(event), Err(refusal), "{what}");
        assert_eq!(seen(&rig), before, "{what}");
        rig.core.check_invariants();
    }
    let spec = NewJob::new("ada", 1);
    assert_eq!(rig.try_tell(Event::JobSubmitted { job: JobId(0), spec }), Err(Refused::JobTaken(JobId(0))));
}

#[test]
fn a_worker_may_not_fail_a_job_that_it_was_never_leased() {
    let (mut rig, job, _) = rig();
    rig.join(2, 1);
    let theirs = rig.submit("eve", 0);
    let failure = Failure::new(FailureKind::BadModule, "");
    let event = |job| Event::JobFailed { worker: WorkerId(2), job, failure: &failure };
    assert_eq!(rig.tell(event(theirs)), [], "it may be about a job that has ended");
    assert!(rig.core.worker(WorkerId(2)).is_some_and(|worker| worker.leased > 0), "it was leased something of job 1");
    let mut fresh = Rig { now: rig.now, ..Rig::new() };
    let waiting = fresh.submit("ada", 1);
    fresh.join(3, 1);
    fresh.tell(Event::WorkerDraining { worker: WorkerId(3) });
    fresh.join(4, 1);
    let stranger = Event::JobFailed { worker: WorkerId(4), job: waiting, failure: &failure };
    assert_eq!(fresh.try_tell(stranger), Err(Refused::NeverLeased(WorkerId(4))));
    assert!(rig.core.job(job).is_some_and(|view| !view.state.is_final()));
}

#[test]
fn answers_given_twice_are_dropped() {
    let (mut rig, job, lease) = rig();
    let batch = batch(0, 1, MS);
    let event = || Event::BatchArrived { worker: WorkerId(1), lease, batch: &batch };
    assert!(!rig.tell(event()).is_empty());
    assert_eq!(rig.tell(event()), []);
    assert_eq!(rig.tell(Event::TaskLost { worker: WorkerId(1), lease, task: 0 }), []);
    assert_eq!(rig.tell(Event::TasksReturned { worker: WorkerId(1), lease, first: 0, count: 1 }), []);
    assert_eq!(rig.counts(job).succeeded, 1);
}

#[test]
fn only_what_is_new_of_a_batch_is_kept() {
    let (mut rig, job, lease) = rig();
    let event = |batch| Event::BatchArrived { worker: WorkerId(1), lease, batch };
    let first = batch(0, 1, MS);
    rig.tell(event(&first));
    let failed = Batch {
        failures: vec![(0, Failure::new(FailureKind::Trap, "")), (1, Failure::new(FailureKind::Trap, ""))],
        ..batch(0, 2, MS)
    };
    let commands = rig.tell(event(&failed));
    let Some(crate::Fact::Outcomes { accepted, failed, .. }) = rig.facts.last() else { panic!("{commands:?}") };
    assert_eq!(*failed, [1..2]);
    assert_eq!(*accepted, [1..2], "the first outcome of task 0 stands");
    assert_eq!((rig.counts(job).succeeded, rig.counts(job).failed), (1, 1));
}
