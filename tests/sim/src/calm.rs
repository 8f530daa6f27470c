//! When nothing goes wrong, little time is wasted.

use std::time::Duration;

use farm_core::{NewJob, Time};
use farm_proto::ids::JobId;

use crate::client::{Client, Progress, Submission};
use crate::dice::MS;
use crate::truth::Truth;
use crate::world::World;

/// A job of this size takes some hundred thousand steps.
const MOST_STEPS: u64 = 3_000_000;

/// A world in which nothing happens but what is asked for, with workers of these slots at this distance.
fn calm(slots: &[usize], distance: Duration) -> World {
    let mut world = World::empty(0, false);
    world.chaos = false;
    world.commit_ms = 0;
    world.start();
    world.clients.push(Client::idle());
    slots.iter().for_each(|&slots| world.spawn_with(slots, distance.as_nanos() as u64, 1));
    while world.now < Time(100 * MS) && world.step() {}
    world
}

fn submit(world: &mut World, owner: &str, tasks: u64, time: u64) -> u64 {
    world.enter(Submission::new(0, NewJob::new(owner, tasks), Truth::good(time), None))
}

/// Lets things happen until the client knows that its job has ended, and says how long that took.
fn finish(world: &mut World, key: u64) -> Duration {
    let start = world.now;
    let before = world.stats.steps;
    while world.submissions[&key].ended.is_none() {
        assert!(world.step() && world.stats.steps - before < MOST_STEPS, "the job does not end");
    }
    assert!(matches!(world.submissions[&key].progress, Progress::Accepted(JobId(_))));
    world.now.since(start)
}

/// How much longer than necessary a job takes: 1 if every slot is busy until the end.
fn waste(slots: &[usize], distance: Duration, tasks: u64, time: u64) -> f64 {
    let mut world = calm(slots, distance);
    let truth = Truth::good(time);
    let work: u64 = (0..tasks).map(|task| truth.time_of(task)).sum();
    let longest = (0..tasks).map(|task| truth.time_of(task)).max().unwrap_or(0);
    let ideal = work / slots.iter().sum::<usize>() as u64 + longest / 2;
    let key = submit(&mut world, "ada", tasks, time);
    finish(&mut world, key).as_nanos() as f64 / ideal as f64
}

#[test]
fn slots_are_kept_busy() {
    let near = Duration::from_micros(100);
    let far = Duration::from_millis(10);
    let cases: [(&[usize], Duration, u64, u64, f64); 8] = [
        (&[2], near, 20_000, MS / 20, 1.1),
        (&[2, 2, 2, 2], near, 40_000, MS / 20, 1.2),
        (&[1, 1, 6], near, 40_000, MS / 20, 1.2),
        (&[2, 2], near, 2_000, 3 * MS, 1.1),
        (&[2, 2, 2, 2], far, 4_000, 3 * MS, 1.2),
        (&[4, 4], near, 400, 30 * MS, 1.2),
        (&[4, 4], near, 200, 2_000 * MS, 1.1),
        (&[16, 16, 16, 16], near, 640, 500 * MS, 1.3),
    ];
    for (slots, distance, tasks, time, most) in cases {
        let waste = waste(slots, distance, tasks, time);
        println!("{tasks} tasks of {time} ns on {slots:?}: {waste:.3}");
        assert!(waste < most, "{tasks} tasks of {time} ns on {slots:?} took {waste} of the time needed");
    }
}

#[test]
fn a_newcomer_is_served_soon() {
    for time in [MS / 20, 3 * MS] {
        let mut world = calm(&[2, 2], Duration::from_micros(100));
        submit(&mut world, "ada", 3_000_000_000 / time, time);
        while world.now < Time(800 * MS) {
            assert!(world.step());
        }
        let ten = submit(&mut world, "ben", 10, MS);
        let took = finish(&mut world, ten);
        println!("{took:?} beside tasks of {time} ns");
        assert!(took < Duration::from_millis(420), "ten tasks took {took:?} beside another's many of {time} ns");
    }
}

#[test]
fn a_lone_task_takes_a_round_trip() {
    let mut world = calm(&[2, 2], Duration::from_micros(100));
    let key = submit(&mut world, "ada", 1, MS);
    let run = Truth::good(MS).time_of(0);
    let took = finish(&mut world, key);
    // The client's ways of up to 10, 10, 10 and 5 ms, half of the worker's more in each direction at worst, and its wait
    // for more outcomes.
    let most = Duration::from_nanos(run + 35 * MS + 2 * 175_000 + 3 * MS);
    assert!(took < most, "{took:?} for a task of {run} ns");
}
