//! Workers that come back.

use std::time::Duration;

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::message::{Claim, Lease, Resume};
use farm_proto::outcome::FailureKind;

use super::{MS, Rig, batch, lease, leases, recalls};
use crate::{Command, Config, Core, Departure, Event, Fact, NewJob, Refused, Waiting};

/// Leases of earlier lives are below this.
const FIRST: LeaseId = LeaseId(1_000);

fn claim(lease: LeaseId, job: JobId, tasks: &[(u64, u64)]) -> Claim {
    Claim { lease, job, tasks: tasks.to_vec() }
}

/// What a worker says that knows the jobs of its claims.
fn resume(claims: Vec<Claim>) -> Resume {
    Resume { jobs: claims.iter().map(|claim| (claim.job, 0)).collect(), claims }
}

/// A worker of two slots that holds one lease of tasks of 10 ms each.
fn rig(tasks: u64) -> (Rig, JobId, Lease) {
    let mut rig = Rig::new();
    let job = rig.submit("ada", tasks);
    rig.core.jobs.get_mut(&job).expect("a live job").pace.learn(1_000, 10 * MS * 1_000);
    let held = lease(&rig.join(1, 2));
    (rig, job, held)
}

/// A core that knows a job of so many tasks from its disk, of which the first `done` have values.
fn restarted(tasks: u64, done: u64) -> (Rig, JobId) {
    let job = JobId(1);
    let mut facts = vec![Fact::JobAccepted { job, spec: NewJob::new("ada", tasks) }];
    if done > 0 {
        facts.push(Fact::Outcomes { job, accepted: vec![0..done], failed: Vec::new(), leased: Duration::ZERO });
    }
    let config = Config { first_lease: FIRST, ..Config::default() };
    (Rig { core: Core::replay(config, facts).expect("facts of a core"), ..Rig::new() }, job)
}

#[test]
fn a_worker_that_comes_back_keeps_what_it_had_not_answered() {
    let (mut rig, job, held) = rig(8);
    assert_eq!(held.count, 8);
    rig.after(Duration::from_millis(20)).succeed(1, &held, 3, Duration::from_millis(10));
    rig.leave(1, Departure::Lost);
    assert_eq!(rig.counts(job).waiting, 5);

    // The answer to task 2 arrived, but the worker does not know.
    let commands = rig.come_back(2, 2, &resume(vec![claim(held.lease, job, &[(2, 8)])]));
    assert_eq!(commands, [], "nothing is left for anyone else, and nobody is told anything new");
    assert_eq!((rig.counts(job).leased, rig.core.worker(WorkerId(2)).map(|view| view.leased)), (5, Some(5)));
    assert_eq!(rig.core.job(job).map(|view| (view.retried, view.workers)), Some((0, 1)));

    let again = Lease { first: 2, ..held.clone() };
    rig.after(Duration::from_millis(10)).succeed(2, &again, 4, Duration::from_millis(10));
    let Some(Fact::Outcomes { accepted, leased, .. }) = rig.facts.last() else { panic!("{:?}", rig.facts) };
    assert_eq!((&accepted[..], *leased), (&[3..6][..], Duration::from_millis(30)), "since the lease was first sent");
    let rest = Lease { first: 6, ..held };
    let commands = rig.succeed(2, &rest, 2, Duration::from_millis(10));
    assert!(commands.contains(&Command::JobEnded { job, state: JobState::Done }), "{commands:?}");
    assert!(commands.contains(&Command::ForgetJob { worker: WorkerId(2), job }), "{commands:?}");
}

#[test]
fn nobody_is_blamed_for_a_connection() {
    let (mut rig, job, held) = rig(4);
    for worker in 2..=9 {
        rig.leave(worker - 1, Departure::Lost);
        assert_eq!(rig.core.jobs[&job].crashes.runs_in(0..4).count(), 1);
        rig.come_back(worker, 2, &resume(vec![claim(held.lease, job, &[(0, 4)])]));
        assert_eq!(rig.counts(job).leased, 4);
        let live = &rig.core.jobs[&job];
        let tallies = [&live.crashes, &live.attempts, &live.losses].map(|tally| tally.runs_in(0..4).count());
        assert_eq!((tallies, live.retried), ([0; 3], 0));
    }
    let commands = rig.succeed(9, &held, 4, Duration::from_millis(10));
    assert!(commands.contains(&Command::JobEnded { job, state: JobState::Done }), "{commands:?}");
}

#[test]
fn only_what_a_lease_was_blamed_for_is_taken_back() {
    let (mut rig, job, held) = rig(4);
    rig.tell(Event::TaskLost { worker: WorkerId(1), lease: held.lease, task: 1 });
    let crashes = |rig: &Rig| rig.core.jobs[&job].crashes.runs_in(0..4).collect::<Vec<_>>();
    assert_eq!(crashes(&rig), [(1..2, 1)]);
    // Task 1 has been leased anew, so that the worker holds 0, 2 and 3, and then 1.
    rig.leave(1, Departure::Lost);
    assert_eq!(crashes(&rig), [(0..3, 1)]);
    rig.come_back(2, 2, &resume(vec![claim(held.lease, job, &[(0, 4)])]));
    assert_eq!(crashes(&rig), [(1..2, 1)], "that its slot died remains true");
    assert_eq!(rig.core.job(job).map(|view| view.retried), Some(1));
    let mine = &rig.core.workers[&WorkerId(2)].leases[&held.lease];
    assert_eq!(mine.remaining.iter().collect::<Vec<_>>(), [0..1, 2..4], "the loss of task 1 is not heard twice");
}

#[test]
fn a_task_that_another_worker_has_is_not_given_back_but_its_crash_is() {
    let (mut rig, job, held) = rig(2);
    rig.leave(1, Departure::Lost);
    let theirs = lease(&rig.join(2, 2));
    assert_eq!(theirs.attempts, [(0, 1), (1, 1)]);
    assert_eq!(rig.come_back(3, 2, &resume(vec![claim(held.lease, job, &[(0, 2)])])), []);
    assert_eq!(rig.core.worker(WorkerId(3)).map(|view| view.leased), Some(0));
    assert_eq!(rig.core.jobs[&job].crashes.runs_in(0..2).count(), 0);
    assert_eq!(rig.succeed(3, &held, 2, Duration::from_millis(10)), [], "its late answers are dropped");
    let commands = rig.succeed(2, &theirs, 2, Duration::from_millis(10));
    assert!(commands.contains(&Command::JobEnded { job, state: JobState::Done }), "{commands:?}");
}

#[test]
fn a_failed_attempt_is_not_heard_twice() {
    let mut rig = Rig::new();
    let (job, _) = rig.submit_spec(NewJob { retries: 1, ..NewJob::new("ada", 2) });
    let held = lease(&rig.join(1, 2));
    rig.fail(1, &held, 0, FailureKind::Trap);
    rig.leave(1, Departure::Lost);
    // Its next attempt is due before the worker comes back.
    rig.after(Duration::from_secs(1)).tell(Event::Timeout);
    assert_eq!(rig.core.jobs[&job].waiting.len(), 2);
    let commands = rig.come_back(2, 2, &resume(vec![claim(held.lease, job, &[(0, 2)])]));
    let again = lease(&commands);
    assert_eq!((again.first, again.count, again.attempts), (0, 1, vec![(0, 1)]), "{commands:?}");
    assert_eq!(rig.fail(2, &held, 0, FailureKind::Trap), []);
    assert_eq!(rig.counts(job).failed, 0);
}

#[test]
fn leases_of_an_earlier_life_are_believed_once() {
    let (mut rig, job) = restarted(10, 4);
    let old = LeaseId(7);
    // Tasks 2 and 3 were stored, but the worker was not told before the scheduler died.
    let commands = rig.come_back(1, 2, &resume(vec![claim(old, job, &[(2, 6)])]));
    assert_eq!(commands, [], "it has enough to do");
    let held = &rig.core.workers[&WorkerId(1)].leases[&old];
    assert_eq!((held.first, held.count, held.remaining.iter().collect::<Vec<_>>()), (2, 4, vec![4..6]));
    let two = batch(2, 2, MS);
    assert_eq!(rig.tell(Event::BatchArrived { worker: WorkerId(1), lease: old, batch: &two }), []);
    rig.tell(Event::TaskLost { worker: WorkerId(1), lease: old, task: 4 });
    rig.tell(Event::TaskLost { worker: WorkerId(1), lease: old, task: 5 });
    rig.leave(1, Departure::Planned);
    assert_eq!(rig.counts(job).waiting, 6);

    let commands = rig.come_back(2, 2, &resume(vec![claim(old, job, &[(4, 6)])]));
    assert!(!rig.core.workers[&WorkerId(2)].leases.contains_key(&old), "all of it was answered in this life");
    assert!(leases(&commands).iter().all(|(worker, lease)| *worker == 2 && lease.lease >= FIRST), "{commands:?}");
}

#[test]
fn a_job_whose_lease_comes_back_runs() {
    let (mut rig, job) = restarted(2, 0);
    let commands = rig.come_back(1, 2, &resume(vec![claim(LeaseId(7), job, &[(0, 2)])]));
    assert_eq!(commands, [Command::JobStarted { job }]);
    assert_eq!(rig.core.job(job).map(|view| view.state), Some(JobState::Running));
}

#[test]
fn a_lease_of_this_life_that_was_answered_is_nobodys() {
    let (mut rig, job, held) = rig(1);
    rig.tell(Event::TaskLost { worker: WorkerId(1), lease: held.lease, task: 0 });
    rig.leave(1, Departure::Planned);
    let commands = rig.come_back(2, 2, &resume(vec![claim(held.lease, job, &[(0, 1)])]));
    assert!(lease(&commands).lease > held.lease);
    assert_eq!(rig.tell(Event::TaskLost { worker: WorkerId(2), lease: held.lease, task: 0 }), []);
}

#[test]
fn a_lease_that_a_connected_worker_holds_cannot_be_claimed() {
    let (mut rig, job, held) = rig(8);
    rig.tell(Event::TasksReturned { worker: WorkerId(1), lease: held.lease, first: 7, count: 1 });
    rig.tell(Event::WorkerDraining { worker: WorkerId(1) });
    rig.come_back(2, 2, &resume(vec![claim(held.lease, job, &[(0, 8)])]));
    assert!(rig.core.workers[&WorkerId(1)].leases.contains_key(&held.lease));
    assert!(!rig.core.workers[&WorkerId(2)].leases.contains_key(&held.lease));
}

#[test]
fn a_worker_is_told_of_jobs_that_are_over() {
    let (mut rig, job, held) = rig(2);
    let other = rig.submit("ben", 1);
    rig.leave(1, Departure::Lost);
    rig.tell(Event::JobCancelled { job });
    let gone = JobId(77);
    let mut back = resume(vec![claim(held.lease, job, &[(0, 2)])]);
    back.jobs.extend([(other, 0), (gone, 0)]);
    let commands = rig.come_back(2, 2, &back);
    let worker = WorkerId(2);
    assert_eq!(
        commands[..3],
        [
            Command::CancelJob { worker, job },
            Command::ForgetJob { worker, job },
            Command::ForgetJob { worker, job: gone }
        ]
    );
    assert!(matches!(commands[3..], [Command::SendLease { introduce: false, .. }]), "{commands:?}");
    assert_eq!(rig.succeed(2, &held, 2, Duration::from_millis(10)), []);
}

#[test]
fn a_job_whose_end_is_on_its_way_is_stopped_and_forgotten_later() {
    let (mut rig, job, held) = rig(2);
    rig.leave(1, Departure::Lost);
    rig.acks = false;
    rig.tell(Event::JobCancelled { job });
    let commands = rig.come_back(2, 2, &resume(vec![claim(held.lease, job, &[(0, 2)])]));
    assert_eq!(commands, [Command::CancelJob { worker: WorkerId(2), job }]);
    let commands = rig.tell(Event::Persisted { seq: rig.core.last_fact() });
    assert!(commands.contains(&Command::ForgetJob { worker: WorkerId(2), job }), "{commands:?}");
}

#[test]
fn one_last_chance_for_each_worker_is_given_back() {
    let (mut rig, job) = restarted(6, 0);
    for worker in 1..=2 {
        let commands = rig.join(worker, 2);
        assert_eq!(lease(&commands).count, 2, "{commands:?}");
        rig.leave(worker, Departure::Lost);
    }
    assert_eq!(rig.core.jobs[&job].last_chance.iter().collect::<Vec<_>>(), [0..2]);
    rig.come_back(3, 2, &resume(vec![claim(LeaseId(5), job, &[(1, 4)]), claim(LeaseId(6), job, &[(0, 1), (4, 5)])]));
    let leases = &rig.core.workers[&WorkerId(3)].leases;
    let remaining = |lease| leases[&LeaseId(lease)].remaining.iter().collect::<Vec<_>>();
    assert_eq!((remaining(5), remaining(6)), (vec![2..4], vec![0..1, 4..5]));
    assert!(!leases[&LeaseId(5)].last_chance && leases[&LeaseId(6)].last_chance);
}

#[test]
fn a_task_that_is_claimed_for_two_leases_is_of_the_last() {
    let (mut rig, job) = restarted(6, 0);
    rig.come_back(3, 8, &resume(vec![claim(LeaseId(5), job, &[(0, 4)]), claim(LeaseId(6), job, &[(2, 3)])]));
    let leases = &rig.core.workers[&WorkerId(3)].leases;
    let remaining = |lease| leases[&LeaseId(lease)].remaining.iter().collect::<Vec<_>>();
    assert_eq!((remaining(5), remaining(6)), (vec![0..2, 3..4], vec![2..3]));
}

#[test]
fn a_forgiven_task_need_not_run_alone() {
    let (mut rig, job, held) = rig(2);
    rig.leave(1, Departure::Lost);
    rig.join(2, 2);
    rig.leave(2, Departure::Lost);
    assert_eq!(rig.core.jobs[&job].last_chance.len(), 2);
    rig.come_back(3, 2, &resume(vec![claim(held.lease, job, &[(0, 2)])]));
    assert_eq!(rig.core.jobs[&job].crashes.runs_in(0..2).collect::<Vec<_>>(), [(0..2, 1)]);
    assert_eq!(rig.core.workers[&WorkerId(3)].leases[&held.lease].remaining.len(), 2);
}

#[test]
fn an_outcome_that_was_given_for_a_crash_stands() {
    let mut rig = Rig::with(Config { crash_limit: 1, ..Config::default() });
    let (job, _) = rig.submit_spec(NewJob::new("ada", 2));
    let held = lease(&rig.join(1, 1));
    rig.leave(1, Departure::Lost);
    assert_eq!(rig.counts(job).failed, 1);
    let commands = rig.come_back(2, 1, &resume(vec![claim(held.lease, job, &[(0, 1)])]));
    assert_eq!(lease(&commands).first, 1);
    assert_eq!(rig.succeed(2, &held, 1, Duration::from_millis(1)), []);
    assert_eq!((rig.counts(job).failed, rig.core.why(job, 0)), (1, Some(Waiting::Failed)));
}

#[test]
fn what_was_given_back_can_be_recalled_and_drained() {
    let (mut rig, job, held) = rig(8);
    rig.leave(1, Departure::Lost);
    rig.come_back(2, 2, &resume(vec![claim(held.lease, job, &[(0, 8)])]));
    let commands = rig.join(3, 2);
    assert_eq!(recalls(&commands), [(2, held.lease, 5)], "{commands:?}");
    let commands = rig.tell(Event::TasksReturned { worker: WorkerId(2), lease: held.lease, first: 5, count: 3 });
    assert!(leases(&commands).iter().any(|(worker, _)| *worker == 3), "{commands:?}");
    let commands = rig.tell(Event::WorkerDraining { worker: WorkerId(2) });
    assert!(recalls(&commands).contains(&(2, held.lease, 0)), "{commands:?}");
    rig.tell(Event::TasksReturned { worker: WorkerId(2), lease: held.lease, first: 2, count: 3 });
    let rest: Vec<_> = rig.core.workers[&WorkerId(2)].leases.keys().copied().filter(|id| *id != held.lease).collect();
    for lease in rest {
        let mine = &rig.core.workers[&WorkerId(2)].leases[&lease];
        let (first, count) = (mine.first, mine.count);
        rig.tell(Event::TasksReturned { worker: WorkerId(2), lease, first, count });
    }
    let commands = rig.succeed(2, &held, 2, Duration::from_millis(10));
    assert!(commands.contains(&Command::WorkerMayLeave { worker: WorkerId(2) }), "{commands:?}");
}

#[test]
fn claims_that_cannot_be_are_refused() {
    let (mut rig, job, held) = rig(8);
    rig.leave(1, Departure::Lost);
    rig.acks = false;
    let unstored = rig.submit("ada", 5);
    let lease = held.lease;
    let future = rig.core.next_lease();
    let cases = [
        vec![claim(future, job, &[(0, 1)])],
        vec![claim(lease, job, &[(0, 9)])],
        vec![claim(lease, job, &[(u64::MAX - 1, u64::MAX)])],
        vec![claim(lease, job, &[(3, 3)])],
        vec![claim(lease, job, &[(4, 3)])],
        vec![claim(lease, job, &[(4, 5), (1, 2)])],
        vec![claim(lease, job, &[(1, 3), (2, 4)])],
        vec![claim(lease, job, &[(0, 1)]), claim(lease, job, &[(1, 2)])],
        vec![claim(lease, JobId(99), &[(0, 1), (1 << 40, (1 << 40) + 1)])],
        vec![claim(lease, unstored, &[(0, 1)])],
    ];
    for claims in cases {
        let resume = resume(claims);
        let event = Event::WorkerJoined {
            worker: WorkerId(2),
            cluster: ClusterId::DEFAULT,
            slots: 1,
            ends: None,
            resume: &resume,
        };
        assert_eq!(rig.try_tell(event), Err(Refused::BadClaim(WorkerId(2))), "{resume:?}");
        assert_eq!(rig.core.worker(WorkerId(2)), None);
    }
    rig.come_back(2, 1, &resume(vec![claim(lease, job, &[]), claim(LeaseId(0), job, &[(0, 3), (3, 4)])]));
}

#[test]
fn what_is_remembered_goes_with_the_job() {
    let (mut rig, job, _) = rig(8);
    rig.leave(1, Departure::Lost);
    assert_eq!(rig.core.jobs[&job].left.len(), 1);
    rig.acks = false;
    rig.tell(Event::JobCancelled { job });
    assert_eq!(rig.core.jobs[&job].left.len(), 0);
}
