//! Clusters share nothing, and workers with an end get nothing that outlasts them.

use std::time::Duration;

use farm_proto::ids::{ClusterId, WorkerId};
use farm_proto::message::Resume;

use super::{MS, Rig, leases, recalls};
use crate::{Command, Event, NewJob, Time, Waiting};

const ONE: ClusterId = ClusterId(1);

fn join(rig: &mut Rig, worker: u64, cluster: ClusterId, ends: Option<Time>) -> Vec<Command> {
    let resume = Resume::default();
    rig.tell(Event::WorkerJoined { worker: WorkerId(worker), cluster, slots: 1, ends, resume: &resume })
}

#[test]
fn a_job_is_run_by_its_cluster_only() {
    let mut rig = Rig::new();
    join(&mut rig, 1, ClusterId::DEFAULT, None);
    let (job, commands) = rig.submit_spec(NewJob { cluster: ONE, ..NewJob::new("ada", 10) });
    assert_eq!(leases(&commands), [], "the idle worker is of another cluster");
    assert_eq!(rig.core.why(job, 0), Some(Waiting::Worker));
    assert_eq!((rig.core.demand(ONE), rig.core.demand(ClusterId::DEFAULT)), (10, 0));
    let commands = join(&mut rig, 2, ONE, None);
    assert_eq!(leases(&commands).iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [2]);
    assert_eq!(rig.core.job(job).map(|view| view.cluster), Some(ONE));
}

#[test]
fn nothing_is_taken_back_for_another_cluster() {
    let mut rig = Rig::new();
    let (job, _) = rig.submit_spec(NewJob { cluster: ONE, ..NewJob::new("ada", 9) });
    rig.core.jobs.get_mut(&job).expect("a live job").pace.learn(1_000, 10_000 * MS);
    assert_eq!(leases(&join(&mut rig, 1, ONE, None)).len(), 1, "it holds all of it");
    assert_eq!(recalls(&join(&mut rig, 2, ClusterId::DEFAULT, None)), []);
    assert_eq!(recalls(&join(&mut rig, 3, ONE, None)).len(), 1);
}

#[test]
fn what_takes_long_goes_to_a_worker_that_stays() {
    let mut rig = Rig::new();
    let soon = rig.now + Duration::from_secs(60);
    join(&mut rig, 1, ONE, Some(soon));
    let hour = Some(3_600_000 * MS);
    let (long, commands) = rig.submit_spec(NewJob { cluster: ONE, time_request: hour, ..NewJob::new("ada", 2) });
    assert_eq!(leases(&commands), []);
    assert_eq!(rig.core.why(long, 0), Some(Waiting::Time { needed: Duration::from_secs(3600) }));
    // Another job is not held up by that.
    let (_, commands) = rig.submit_spec(NewJob { cluster: ONE, ..NewJob::new("ada", 1) });
    assert_eq!(leases(&commands).len(), 1);
    assert_eq!(leases(&join(&mut rig, 2, ONE, None)).len(), 1);
}

#[test]
fn a_lease_holds_no_more_than_its_worker_can_finish() {
    let mut rig = Rig::new();
    let soon = rig.now + Duration::from_millis(20);
    let spec = NewJob { cluster: ONE, task_ns: Some(5 * MS), ..NewJob::new("ada", 100) };
    rig.submit_spec(spec);
    let commands = join(&mut rig, 1, ONE, Some(soon));
    let held: u32 = leases(&commands).iter().map(|(_, lease)| lease.count).sum();
    assert!((1..=4).contains(&held), "{commands:?}");
    rig.now = soon;
    rig.tell(Event::Timeout);
    let (_, lease) = leases(&commands).remove(0);
    let commands = rig.succeed(1, &lease, lease.count, Duration::from_millis(5));
    assert_eq!(leases(&commands), [], "its end has come");
}

#[test]
fn short_tasks_are_not_worth_a_slot_each() {
    let mut rig = Rig::new();
    let short = NewJob { cluster: ONE, task_ns: Some(MS), ..NewJob::new("ada", 2_500) };
    rig.submit_spec(short);
    assert_eq!(rig.core.demand(ONE), 2);
    rig.submit_spec(NewJob { cluster: ONE, task_ns: Some(1), ..NewJob::new("ada", 5) });
    assert_eq!(rig.core.demand(ONE), 3, "a little work is work for one");
    rig.submit_spec(NewJob { cluster: ONE, task_ns: Some(10_000 * MS), ..NewJob::new("ada", 7) });
    assert_eq!(rig.core.demand(ONE), 10);
}
