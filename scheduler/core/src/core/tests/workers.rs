//! How workers come, drain and go.

use std::time::Duration;

use farm_proto::ids::WorkerId;

use super::{Rig, lease, leases, recalls};
use crate::{Command, Departure, Event, NewJob, Waiting};

#[test]
fn an_idle_worker_may_leave_at_once() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    let commands = rig.tell(Event::WorkerDraining { worker: WorkerId(1) });
    assert_eq!(commands, [Command::WorkerMayLeave { worker: WorkerId(1) }]);
    assert_eq!(rig.tell(Event::WorkerDraining { worker: WorkerId(1) }), [], "once is enough");
    let job = rig.submit("ada", 1);
    assert_eq!(rig.core.why(job, 0), Some(Waiting::Worker));
}

#[test]
fn a_draining_worker_hands_back_finishes_and_leaves() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let spec = NewJob { task_ns: Some(20_000_000), ..NewJob::new("ada", 100) };
    let held = leases(&rig.submit_spec(spec).1);
    let all: Vec<_> = held.iter().map(|(worker, lease)| (*worker, lease.lease, 0)).collect();
    assert_eq!(all.len(), 3, "one task runs and two are ahead of it");
    let commands = rig.tell(Event::WorkerDraining { worker: WorkerId(1) });
    assert_eq!(recalls(&commands), all);
    rig.join(2, 1);

    for (_, held) in &held[1..] {
        let event = Event::TasksReturned { worker: WorkerId(1), lease: held.lease, first: held.first, count: 1 };
        let commands = rig.tell(event);
        assert!(leases(&commands).iter().all(|(worker, _)| *worker == 2), "{commands:?}");
    }
    let commands = rig.succeed(1, &held[0].1, 1, Duration::from_millis(20));
    assert!(commands.contains(&Command::WorkerMayLeave { worker: WorkerId(1) }), "{commands:?}");
    assert!(leases(&commands).iter().all(|(worker, _)| *worker == 2), "{commands:?}");
    assert_eq!(rig.tell(Event::WorkerLeft { worker: WorkerId(1), how: Departure::Planned }), []);
}

#[test]
fn tasks_of_a_lost_worker_go_to_the_others() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 1));
    let held = lease(&commands);
    rig.join(2, 1);
    let commands = rig.tell(Event::WorkerLeft { worker: WorkerId(1), how: Departure::Lost });
    let again = lease(&commands);
    assert!(again.lease > held.lease, "the old lease is fenced by its id");
    assert_eq!(
        rig.succeed(2, &again, 1, Duration::from_millis(1)).len(),
        5,
        "stored, told, its end stored, ended, forgotten"
    );
    assert_eq!(rig.core.why(job, 0), Some(Waiting::Value));
}

#[test]
fn commands_to_a_worker_that_is_gone_are_taken_back() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let job = rig.core.next_job();
    rig.acks = false;
    rig.tell(Event::JobSubmitted { job, spec: NewJob::new("ada", 1) });
    // A driver that does not drain between events.
    rig.core.handle(rig.now, Event::Persisted { seq: crate::FactSeq(1) }).expect("a fact");
    rig.core.handle(rig.now, Event::WorkerLeft { worker: WorkerId(1), how: Departure::Lost }).expect("a worker");
    assert_eq!(leases(&rig.drain()), []);
}

#[test]
fn the_farm_adds_up() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    rig.join(2, 2);
    let (job, commands) = rig.submit_spec(NewJob::new("ada", 5));
    rig.submit("ben", 7);
    let (worker, held) = leases(&commands).remove(0);
    rig.succeed(worker, &held, held.count, Duration::from_secs(3));
    let totals = rig.core.totals();
    assert_eq!((totals.total(), totals.succeeded), (12, u64::from(held.count)));
    assert_eq!(totals.leased, rig.core.workers().map(|worker| worker.leased).sum::<u64>());
    assert_eq!(rig.core.live_jobs(), 2);
    assert_eq!(rig.core.worker(WorkerId(worker)).map(|view| view.finished), Some(u64::from(held.count)));
    assert_eq!(rig.core.job(job).map(|view| view.owner), Some("ada".to_owned()));
}
