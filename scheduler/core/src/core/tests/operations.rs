//! Any events in any order: what a peer that does not keep to the protocol could do at worst.

use farm_proto::ids::{ClusterId, JobId, LeaseId, WorkerId};
use farm_proto::message::{Batch, Claim, Resume};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::why::Stage;

use super::{Dice, MS, Rig, batch};
use crate::{Config, Core, Departure, Event, Fact, FactSeq, NewJob, TaskInput, Time, Waiting};

const SEEDS: u64 = 300;
const OPERATIONS: u64 = 300;
/// Leases below this one are of earlier lives of the scheduler.
const FIRST_LEASE: u64 = 20;

/// A small number, or one at the end of its range.
fn number(dice: &mut Dice, end: u64) -> u64 {
    match dice.below(40) {
        0 => u64::MAX,
        1 => u64::MAX - dice.below(4),
        _ => dice.below(end),
    }
}

fn any_batch(dice: &mut Dice) -> Batch {
    use FailureKind::{BadModule, Panic, Timeout, Trap, WorkerLost};
    let count = number(dice, 8) as u32;
    let kinds = [Trap, Panic, Timeout, WorkerLost, Trap, Panic, Trap, BadModule];
    let fails = |dice: &mut Dice| (dice.below(9) as u32, Failure::new(kinds[dice.below(8) as usize], "no"));
    let mut failures: Vec<_> = (0..dice.below(4)).map(|_| fails(dice)).collect();
    if !dice.once_in(8) {
        failures.sort_by_key(|(offset, _)| *offset);
        failures.dedup_by_key(|(offset, _)| *offset);
        failures.retain(|(offset, _)| *offset < count);
    }
    Batch { failures, ..batch(number(dice, 30), count, number(dice, 100 * MS)) }
}

/// What a worker might say that it holds: often what one was blamed for, or holds now.
fn any_resume(rig: &Rig, dice: &mut Dice) -> Resume {
    let mut claims = Vec::new();
    for (&job, live) in &rig.core.jobs {
        for (&lease, left) in &live.left {
            if !dice.once_in(3) {
                let kept = left.remaining.iter().filter(|_| !dice.once_in(5));
                claims.push(Claim { lease, job, tasks: kept.map(|range| (range.start, range.end)).collect() });
            }
        }
    }
    if dice.once_in(2) {
        let job = JobId(number(dice, 8));
        let tasks = (0..dice.below(3)).map(|index| (index * 10 + dice.below(9), index * 10 + 9)).collect();
        let earlier = dice.below(FIRST_LEASE + 60);
        claims.push(Claim { lease: LeaseId(earlier), job, tasks });
    }
    if dice.once_in(20) {
        let tasks = (0..dice.below(4)).map(|_| (number(dice, 30), number(dice, 30))).collect();
        claims.push(Claim { lease: LeaseId(number(dice, FIRST_LEASE)), job: JobId(number(dice, 8)), tasks });
    }
    Resume { jobs: (0..dice.below(3)).map(|_| (JobId(number(dice, 8)), 0)).collect(), claims }
}

fn operation(rig: &mut Rig, dice: &mut Dice) {
    let worker = WorkerId(dice.below(5));
    let job = JobId(number(dice, 8));
    // Often a lease that there is.
    let held = rig.core.workers.get(&worker).and_then(|worker| worker.leases.keys().next().copied());
    let lease = held.filter(|_| !dice.once_in(5)).unwrap_or_else(|| LeaseId(number(dice, FIRST_LEASE + 60)));
    let any_batch = any_batch(dice);
    let failure = Failure::new(FailureKind::BadModule, "no");
    let resume = any_resume(rig, dice);
    let event = match dice.below(18) {
        0 | 1 => {
            // The ids that a job leaves for those after it should not run out.
            let job = if dice.once_in(4) && job.0 < 9 { job } else { rig.core.next_job() };
            let count = rig.core.next_job().0;
            let of = rig.core.job(JobId(dice.below(count + 1)));
            let fan_in = dice.below(4) as u32;
            let input = of.filter(|_| dice.once_in(2)).map(|of| TaskInput { job: of.job, fan_in });
            let results = input.and_then(|input| Some(rig.core.job(input.job)?.counts.total()));
            let tasks = match results {
                Some(results) if fan_in > 0 => results.div_ceil(u64::from(fan_in)),
                _ => number(dice, 30),
            };
            let spec = NewJob {
                after: (0..dice.below(3) / 2).map(|_| JobId(dice.below(count + 1))).collect(),
                input,
                cluster: ClusterId(dice.below(2)),
                time_request: dice.once_in(4).then(|| number(dice, 100 * MS)),
                priority: dice.next() as i32,
                retries: dice.below(3) as u32,
                max_failures: dice.once_in(3).then(|| dice.below(3)),
                arg_bytes: number(dice, 1 << 24),
                task_ns: dice.once_in(2).then(|| number(dice, 100 * MS)),
                ..NewJob::new(["ada", "ben"][dice.below(2) as usize], tasks)
            };
            Event::JobSubmitted { job, spec }
        }
        2 if dice.once_in(3) => Event::JobCancelled { job },
        3 if dice.once_in(3) => Event::JobFailed { worker, job, failure: &failure },
        4 => Event::Persisted { seq: FactSeq(number(dice, rig.core.last_fact.0 + 2)) },
        5 | 6 => {
            let slots = if dice.once_in(1_000) { u32::MAX } else { dice.below(5) as u32 };
            Event::WorkerJoined {
                worker,
                cluster: ClusterId(dice.below(2)),
                slots,
                ends: dice.once_in(3).then(|| Time(rig.now.0.saturating_add(number(dice, 100 * MS)))),
                resume: &resume,
            }
        }
        7 if dice.once_in(3) => Event::WorkerDraining { worker },
        8 if dice.once_in(2) => {
            let how = if dice.once_in(3) { Departure::Planned } else { Departure::Lost };
            Event::WorkerLeft { worker, how }
        }
        9 => Event::TaskLost { worker, lease, task: number(dice, 30) },
        10 => {
            let (first, count) = (number(dice, 30), number(dice, 8) as u32);
            Event::TasksReturned { worker, lease, first, count }
        }
        11 => Event::Timeout,
        12 => {
            let stage = [Stage::Fetching, Stage::Compiling, Stage::Ready][dice.below(3) as usize];
            Event::WorkerPreparing { worker, job, stage }
        }
        _ => Event::BatchArrived { worker, lease, batch: &any_batch },
    };
    // Time may even go back.
    rig.now = Time(if dice.once_in(200) { number(dice, MS) } else { rig.now.0.saturating_add(dice.below(50 * MS)) });
    let before = rig.core.totals();
    if rig.try_tell(event).is_err() {
        assert_eq!(rig.core.totals(), before, "a refused event has changed something");
    }
    rig.core.forget(JobId(dice.below(30)));
    rig.core.why(job, number(dice, 30));
    check_why_all(&rig.core, job);
}

/// Each task that has no outcome is in one group, and the first of each waits for what the group says.
fn check_why_all(core: &Core, id: JobId) {
    let Some(groups) = core.why_all(id) else {
        assert_eq!(core.job(id), None);
        return;
    };
    let counts = core.job(id).expect("a job whose tasks wait").counts;
    let grouped: u64 = groups.iter().map(|group| group.count).sum();
    assert_eq!(grouped, counts.waiting + counts.leased + counts.cancelled, "job {id}: {groups:?}");
    for group in groups {
        let lone = core.why(id, group.first);
        let fits = match (group.waiting, lone) {
            // All of what the group waits for.
            (Waiting::Input { job, first, end }, Some(Waiting::Input { job: lone_job, first: start, end: stop })) => {
                job == lone_job && first == start && stop <= end
            }
            (waiting, lone) => Some(waiting) == lone,
        };
        assert!(fits, "task {} of job {id} waits for {lone:?}, not for {:?}", group.first, group.waiting);
    }
}

#[test]
fn no_order_of_events_breaks_the_core() {
    let mut adopted = 0;
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let config = Config { first_lease: LeaseId(FIRST_LEASE), ..Config::default() };
        let mut rig = Rig { acks: dice.once_in(2), ..Rig::with(config.clone()) };
        for _ in 0..OPERATIONS {
            operation(&mut rig, &mut dice);
            rig.core.check_invariants();
            adopted += rig.core.jobs.values().map(|job| job.resumed.len() as u64).sum::<u64>();
        }
        let again = |facts: Vec<Fact>| {
            let mut core = Core::replay(config.clone(), facts).expect("facts of a core");
            core.check_invariants();
            let mut further = Vec::new();
            while let Some(command) = core.poll_command() {
                further.push(command);
            }
            (core.jobs().collect::<Vec<_>>(), further)
        };
        let over: Vec<_> =
            rig.facts.iter().filter(|fact| matches!(fact, Fact::JobEnded { .. })).map(Fact::job).collect();
        let is_old = |fact: &Fact| matches!(fact, Fact::Outcomes { .. } | Fact::TaskFailed { .. });
        let needed = rig.facts.iter().filter(|fact| !is_old(fact) || !over.contains(&fact.job())).cloned().collect();
        assert_eq!(again(rig.facts.clone()), again(needed), "seed {seed}");
    }
    assert!(adopted > 0, "no claim of an earlier life was ever believed");
}
