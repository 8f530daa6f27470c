//! Unstarted tasks go to free slots.

use std::time::Duration;

use farm_proto::ids::WorkerId;
use farm_proto::message::Lease;

use super::{Rig, lease, leases, recalls};
use crate::{Command, Event, NewJob};

/// A rig whose worker 1, of one slot, holds a lease of `tasks` tasks that should take `task` each, with nothing waiting.
fn loaded(tasks: u32, task: Duration) -> (Rig, Lease) {
    let mut rig = Rig::new();
    let job = rig.submit("ada", u64::from(tasks));
    rig.core.jobs.get_mut(&job).expect("a live job").pace.learn(1_000, task.as_nanos() as u64 * 1_000);
    let held = lease(&rig.join(1, 1));
    assert_eq!((held.first, held.count), (0, tasks));
    (rig, held)
}

#[test]
fn a_free_slot_gets_half_of_what_another_has_queued() {
    let (mut rig, held) = loaded(9, Duration::from_millis(10));
    let commands = rig.join(2, 1);
    assert_eq!(recalls(&commands), [(1, held.lease, 5)], "the running one and four more stay");
    assert_eq!(recalls(&rig.tell(Event::Timeout)), [], "it has been asked");
    let commands = rig.tell(Event::TasksReturned { worker: WorkerId(1), lease: held.lease, first: 5, count: 4 });
    let to: Vec<_> = leases(&commands).iter().map(|(worker, _)| *worker).collect();
    assert!(to.contains(&2), "{commands:?}");
    assert_eq!(recalls(&commands), [], "both have enough to do");
}

#[test]
fn what_is_soon_done_is_left_alone_until_it_is_not() {
    let (mut rig, held) = loaded(4, Duration::from_micros(1));
    assert_eq!(recalls(&rig.join(2, 1)), [], "4 µs are no reason to ask");
    let deadline = rig.core.next_deadline().expect("a second look");
    assert_eq!(deadline, rig.now + Duration::from_millis(10));
    rig.now = deadline;
    let commands = rig.tell(Event::Timeout);
    assert_eq!(recalls(&commands), [(1, held.lease, 2)], "they take longer than they should");
}

#[test]
fn a_worker_that_hands_back_nothing_is_asked_for_everything_after_a_while() {
    let (mut rig, held) = loaded(9, Duration::from_millis(10));
    assert_eq!(recalls(&rig.join(2, 1)), [(1, held.lease, 5)]);
    // Nothing else happens that would make the core look again.
    let asked = rig.now;
    let mut commands = Vec::new();
    while commands.is_empty() {
        rig.now = rig.core.next_deadline().expect("another look");
        commands = rig.tell(Event::Timeout);
    }
    assert_eq!(recalls(&commands), [(1, held.lease, 0)]);
    assert_eq!(rig.now - asked, Duration::from_millis(100));
}

#[test]
fn a_worker_that_hands_back_less_than_it_should_is_asked_again() {
    let (mut rig, held) = loaded(9, Duration::from_millis(10));
    assert_eq!(recalls(&rig.join(2, 1)), [(1, held.lease, 5)]);
    rig.join(3, 1);
    rig.tell(Event::TasksReturned { worker: WorkerId(1), lease: held.lease, first: 8, count: 1 });
    rig.now = rig.core.next_deadline().expect("another look");
    assert_eq!(recalls(&rig.tell(Event::Timeout)), [(1, held.lease, 4)]);
}

#[test]
fn a_recall_of_a_lease_that_is_over_is_answered_with_nothing() {
    let (mut rig, held) = loaded(9, Duration::from_millis(10));
    rig.join(2, 1);
    let commands = rig.succeed(1, &held, 9, Duration::from_millis(10));
    assert!(commands.iter().any(|command| matches!(command, Command::JobEnded { .. })), "{commands:?}");
    let event = Event::TasksReturned { worker: WorkerId(1), lease: held.lease, first: 1, count: 8 };
    assert_eq!(rig.tell(event), []);
    assert_eq!(rig.core.next_deadline(), None);
}

#[test]
fn nothing_is_taken_back_while_something_waits() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let spec = NewJob { task_ns: Some(20_000_000), ..NewJob::new("ada", 100_000) };
    let (_, first) = leases(&rig.submit_spec(spec).1).remove(0);
    rig.succeed(1, &first, 1, Duration::from_millis(20));
    let commands = rig.join(2, 1);
    assert_eq!(recalls(&commands), []);
    assert!(!leases(&commands).is_empty());
}

#[test]
fn several_free_workers_share_what_one_has() {
    let (mut rig, held) = loaded(10, Duration::from_millis(10));
    for worker in 2..=4 {
        rig.join(worker, 1);
    }
    // The first newcomer made the worker be asked for half; when that is back, the others ask again.
    let mut started = [false; 5];
    let commands = rig.tell(Event::TasksReturned { worker: WorkerId(1), lease: held.lease, first: 5, count: 5 });
    leases(&commands).iter().for_each(|(worker, _)| started[*worker as usize] = true);
    assert!(started[2..=4].iter().all(|started| *started), "{commands:?}");
}
