//! Any events in any order: what a peer that does not keep to the protocol could do at worst.

use farm_proto::ids::{JobId, LeaseId, WorkerId};
use farm_proto::message::Batch;
use farm_proto::outcome::{Failure, FailureKind};

use super::{Dice, MS, Rig, batch};
use crate::{Config, Core, Departure, Event, FactSeq, NewJob, Time};

const SEEDS: u64 = 300;
const OPERATIONS: u64 = 300;

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

fn operation(rig: &mut Rig, dice: &mut Dice) {
    let worker = WorkerId(dice.below(5));
    let job = JobId(number(dice, 8));
    // Often a lease that there is.
    let held = rig.core.workers.get(&worker).and_then(|worker| worker.leases.keys().next().copied());
    let lease = held.filter(|_| !dice.once_in(5)).unwrap_or_else(|| LeaseId(number(dice, 60)));
    let any_batch = any_batch(dice);
    let failure = Failure::new(FailureKind::BadModule, "no");
    let event = match dice.below(16) {
        0 | 1 => {
            // The ids that a job leaves for those after it should not run out.
            let job = if dice.once_in(4) && job.0 < 9 { job } else { rig.core.next_job() };
            let spec = NewJob {
                priority: dice.next() as i32,
                retries: dice.below(3) as u32,
                max_failures: dice.once_in(3).then(|| dice.below(3)),
                arg_bytes: number(dice, 1 << 24),
                task_ns: dice.once_in(2).then(|| number(dice, 100 * MS)),
                ..NewJob::new(["ada", "ben"][dice.below(2) as usize], number(dice, 30))
            };
            Event::JobSubmitted { job, spec }
        }
        2 if dice.once_in(3) => Event::JobCancelled { job },
        3 if dice.once_in(3) => Event::JobFailed { worker, job, failure: &failure },
        4 => Event::Persisted { seq: FactSeq(number(dice, rig.core.last_fact.0 + 2)) },
        5 | 6 => {
            let slots = if dice.once_in(1_000) { u32::MAX } else { dice.below(5) as u32 };
            Event::WorkerJoined { worker, slots }
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
}

#[test]
fn no_order_of_events_breaks_the_core() {
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let mut rig = Rig { acks: dice.once_in(2), ..Rig::new() };
        for _ in 0..OPERATIONS {
            operation(&mut rig, &mut dice);
            rig.core.check_invariants();
        }
        Core::replay(Config::default(), rig.facts.iter().cloned()).expect("facts of a core").check_invariants();
    }
}
