//! Who gets how much, and when.

use std::time::Duration;

use farm_proto::ids::{JobId, WorkerId};
use farm_proto::message::Lease;

use super::{MS, Rig, batch, lease, leases};
use crate::{Config, Event, NewJob};

/// Runs leases in the order in which they were sent, each task within `task`, until `until`, and gives all of them.
fn run(rig: &mut Rig, mut open: Vec<(u64, Lease)>, task: Duration, until: usize) -> Vec<(u64, Lease)> {
    let mut all = open.clone();
    while !open.is_empty() && all.len() < until {
        let (worker, next) = open.remove(0);
        let commands = rig.after(task).succeed(worker, &next, next.count, task);
        all.extend(leases(&commands));
        open.extend(leases(&commands));
    }
    all
}

#[test]
fn the_first_lease_holds_one_task_a_slot_and_the_next_ones_grow() {
    let mut rig = Rig::new();
    rig.join(1, 4);
    let (_, commands) = rig.submit_spec(NewJob::new("ada", 10_000_000));
    let first = leases(&commands);
    assert_eq!(first.iter().map(|(_, lease)| lease.count).collect::<Vec<_>>(), [4], "{commands:?}");
    let all = run(&mut rig, first, Duration::from_micros(4), 24);
    let counts: Vec<_> = all.iter().map(|(_, lease)| lease.count).collect();
    assert_eq!(counts[..3], [4, 16, 16], "{counts:?}");
    let mut answered = 0;
    for lease in &counts {
        assert!(u64::from(*lease) <= (answered * 4).max(4), "{counts:?}");
        answered += u64::from(*lease);
    }
    assert_eq!(counts.iter().max(), Some(&65_536), "100 ms of 4 slots would be 100 000: {counts:?}");
}

#[test]
fn a_lease_takes_about_a_tenth_of_a_second() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    let (_, commands) = rig.submit_spec(NewJob::new("ada", 1_000_000));
    let all = run(&mut rig, leases(&commands), Duration::from_micros(100), 20);
    let (_, last) = all.last().expect("leases");
    assert!((1_000..=2_002).contains(&last.count), "2 slots run 2 000 tasks in 100 ms: {last:?}");
    let held = rig.core.worker(WorkerId(1)).expect("the worker").leased;
    assert!((1_000..=4_000).contains(&held), "{held} tasks are ahead of the worker");
}

#[test]
fn nothing_is_sent_ahead_of_long_tasks() {
    let mut rig = Rig::new();
    rig.join(1, 4);
    let (_, commands) = rig.submit_spec(NewJob::new("ada", 1000));
    let first = lease(&commands);
    assert_eq!(first.count, 4);
    let commands = rig.after(Duration::from_secs(60)).succeed(1, &first, 1, Duration::from_secs(60));
    assert_eq!(lease(&commands).count, 1, "one slot is free, so one task comes");
    assert_eq!(rig.core.worker(WorkerId(1)).map(|worker| worker.leased), Some(4));
}

#[test]
fn little_is_sent_ahead_of_middling_tasks() {
    let mut rig = Rig::new();
    rig.join(1, 4);
    let (_, commands) = rig.submit_spec(NewJob::new("ada", 1000));
    run(&mut rig, leases(&commands), Duration::from_millis(300), 10);
    let held = rig.core.worker(WorkerId(1)).expect("the worker").leased;
    assert!((4..=6).contains(&held), "4 slots hold {held} tasks of 300 ms");
}

#[test]
fn a_small_job_is_divided_among_free_slots() {
    let mut rig = Rig::new();
    (1..=4).for_each(|worker| drop(rig.join(worker, 2)));
    let spec = NewJob { task_ns: Some(50 * MS), ..NewJob::new("ada", 6) };
    let (_, commands) = rig.submit_spec(spec);
    assert_eq!(leases(&commands).iter().map(|(_, lease)| lease.count).sum::<u32>(), 6);
    let held: Vec<_> = rig.core.workers().map(|worker| worker.leased).collect();
    assert!(held.iter().all(|held| (1..=2).contains(held)), "{held:?}");
}

#[test]
fn a_tiny_job_is_not_worth_dividing() {
    let mut rig = Rig::new();
    (1..=4).for_each(|worker| drop(rig.join(worker, 2)));
    let warm = rig.submit_spec(NewJob::new("ada", 2)).1;
    for (worker, lease) in leases(&warm) {
        rig.succeed(worker, &lease, lease.count, Duration::from_micros(5));
    }
    // No job is trusted further than it was tried, so what is asked here is only that nobody gets less than its slots.
    let spec = NewJob { task_ns: Some(5_000), ..NewJob::new("ada", 4) };
    let counts: Vec<_> = leases(&rig.submit_spec(spec).1).iter().map(|(_, lease)| lease.count).collect();
    assert_eq!(counts, [2, 2]);
}

#[test]
fn a_lease_is_bounded_by_its_arguments() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    let spec = NewJob { arg_bytes: 1 << 20, ..NewJob::new("ada", 10_000) };
    let (_, commands) = rig.submit_spec(spec);
    let all = run(&mut rig, leases(&commands), Duration::from_micros(10), 20);
    assert_eq!(all.iter().map(|(_, lease)| lease.count).max(), Some(8), "8 MiB hold 8 arguments of 1 MiB");

    let mut rig = Rig::new();
    rig.join(1, 1);
    let spec = NewJob { arg_bytes: 64 << 20, ..NewJob::new("ada", 10) };
    assert_eq!(lease(&rig.submit_spec(spec).1).count, 1, "a single argument always fits");
}

#[test]
fn a_million_tasks_do_not_starve_ten() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    let (million, commands) = rig.submit_spec(NewJob::new("ada", 1_000_000));
    run(&mut rig, leases(&commands), Duration::from_micros(50), 20);
    let ten = rig.submit("ben", 10);
    let held = |rig: &Rig, job: JobId| rig.core.job(job).expect("a job").counts.leased;
    let before = rig.core.job(million).expect("a job").counts.succeeded;
    // Whatever the worker holds, the next lease is not the first user's.
    let mut waited = 0;
    while held(&rig, ten) == 0 {
        let open = rig.core.jobs().find(|view| view.job == million).expect("a job").counts.leased;
        assert!(open > 0);
        let next = next_lease_of(&rig, 1);
        rig.after(Duration::from_millis(5)).succeed(1, &next, next.count.min(100), Duration::from_micros(50));
        waited += 1;
        assert!(waited < 100, "ten tasks starve");
    }
    let passed = rig.core.job(million).expect("a job").counts.succeeded - before;
    assert!(passed <= 6_000, "{passed} tasks were finished first: more than what 2 slots do in 150 ms");
}

/// What remains of the oldest lease that the worker holds.
fn next_lease_of(rig: &Rig, worker: u64) -> Lease {
    let worker = rig.core.workers.get(&WorkerId(worker)).expect("the worker");
    let (&lease, held) = worker.leases.first_key_value().expect("a lease");
    let first = held.remaining.first().expect("a task");
    let count = (first.end - first.start) as u32;
    Lease { lease, job: held.job, first: first.start, count, attempts: Vec::new() }
}

#[test]
fn users_share_by_time_and_not_by_tasks() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let short = rig.submit("ada", 1_000_000);
    let long = rig.submit("ben", 1_000_000);
    let mut used = [Duration::ZERO; 2];
    for _ in 0..2_000 {
        let next = next_lease_of(&rig, 1);
        let (of, task, count) = if next.job == short {
            (0, Duration::from_millis(1), next.count.min(20))
        } else {
            (1, Duration::from_millis(20), 1)
        };
        used[of] += task * count;
        rig.after(task * count).succeed(1, &next, count, task);
    }
    assert!(rig.counts(long).succeeded > 0);
    let ratio = used[0].as_secs_f64() / used[1].as_secs_f64();
    assert!((0.8..1.25).contains(&ratio), "{used:?}");
}

#[test]
fn who_comes_back_has_saved_nothing_up() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let early = rig.submit("ben", 1);
    let next = next_lease_of(&rig, 1);
    assert_eq!(next.job, early);
    rig.succeed(1, &next, 1, Duration::from_millis(100));
    let busy = rig.submit("ada", 1_000_000);
    for _ in 0..100 {
        let next = next_lease_of(&rig, 1);
        rig.after(Duration::from_millis(100)).succeed(1, &next, 1, Duration::from_millis(100));
    }
    // After ten seconds of the other user's work, ben gets half, not ten seconds all to himself.
    rig.submit("ben", 1_000_000);
    let before = rig.counts(busy).succeeded;
    for _ in 0..40 {
        let next = next_lease_of(&rig, 1);
        rig.after(Duration::from_millis(100)).succeed(1, &next, 1, Duration::from_millis(100));
    }
    let passed = rig.counts(busy).succeeded - before;
    assert!((15..=25).contains(&passed), "{passed} of 40");
}

#[test]
fn a_user_pays_for_what_was_used_and_not_for_what_was_feared() {
    let mut rig = Rig::new();
    rig.join(1, 1);
    let busy = rig.submit("ada", 1_000_000);
    for _ in 0..20 {
        let next = next_lease_of(&rig, 1);
        rig.after(Duration::from_millis(100)).succeed(1, &next, 1, Duration::from_millis(100));
    }
    // Tasks of a new job might take seconds, and are charged so until they turn out to be short.
    for round in 0..10 {
        let lone = rig.submit("ben", 1);
        let before = rig.counts(busy).succeeded;
        while rig.core.live_jobs() > 1 {
            let next = next_lease_of(&rig, 1);
            let task = Duration::from_millis(if next.job == lone { 1 } else { 100 });
            rig.after(task).succeed(1, &next, 1, task);
        }
        let passed = rig.counts(busy).succeeded - before;
        assert!(passed <= 3, "in round {round}, {passed} tasks of another came first");
    }
}

#[test]
fn jobs_of_a_user_go_by_priority_and_then_by_age() {
    let mut rig = Rig::new();
    let old = rig.submit("ada", 1);
    let young = rig.submit("ada", 1);
    let urgent = rig.submit_spec(NewJob { priority: 5, ..NewJob::new("ada", 1) }).0;
    let idle = rig.submit_spec(NewJob { priority: -5, ..NewJob::new("ada", 1) }).0;
    rig.join(1, 1);
    let mut order = Vec::new();
    for _ in 0..4 {
        let next = next_lease_of(&rig, 1);
        order.push(next.job);
        rig.succeed(1, &next, 1, Duration::from_secs(2));
    }
    assert_eq!(order, [urgent, old, young, idle]);
}

#[test]
fn scattered_tasks_go_out_in_one_turn() {
    let mut rig = Rig::with(Config { retry_delay: Duration::ZERO, ..Config::default() });
    rig.join(1, 8);
    let spec = NewJob { retries: 1, task_ns: Some(MS), ..NewJob::new("ada", 8) };
    let (_, commands) = rig.submit_spec(spec);
    let held = lease(&commands);
    let fails = |offset| (offset, farm_proto::outcome::Failure::new(farm_proto::outcome::FailureKind::Trap, ""));
    let batch = farm_proto::message::Batch { failures: vec![fails(1), fails(3), fails(5)], ..batch(0, 8, 8 * MS) };
    let commands = rig.tell(Event::BatchArrived { worker: WorkerId(1), lease: held.lease, batch: &batch });
    let again: Vec<_> = leases(&commands).into_iter().map(|(_, lease)| (lease.first, lease.attempts)).collect();
    assert_eq!(again, [(1, vec![(0, 1)]), (3, vec![(0, 1)]), (5, vec![(0, 1)])]);
}

#[test]
fn the_emptiest_worker_is_served_first() {
    let mut rig = Rig::new();
    rig.join(1, 2);
    rig.submit("ada", 1);
    rig.join(2, 2);
    let job = rig.core.next_job();
    let commands = rig.tell(Event::JobSubmitted { job, spec: NewJob::new("ada", 1) });
    assert_eq!(leases(&commands)[0].0, 2, "worker 1 has something to do already");
}
