//! When nothing goes wrong, little time is wasted.

use std::time::Duration;

use farm_proto::ids::JobId;

use super::oracle::Truth;
use super::{MAX_STEPS, World};
use crate::core::tests::MS;
use crate::{Event, NewJob, Time};

/// A world in which nothing happens but what is asked for, with workers of these slots at this distance.
fn calm(slots: &[u32], distance: Duration) -> World {
    let mut world = World::new(0);
    world.agenda.clear();
    world.actions.clear();
    world.chaos = false;
    world.commit = None;
    world.jobs_to_come = 0;
    slots.iter().for_each(|&slots| world.join_with(slots, distance));
    world
}

fn submit(world: &mut World, owner: &str, tasks: u64, time: u64) -> JobId {
    let job = world.core.next_job();
    let spec = NewJob::new(owner, tasks);
    world.oracle.submitted(job, &spec, Truth::good(time));
    world.tell(Event::JobSubmitted { job, spec }, None);
    job
}

/// Lets things happen until the job has ended, and says when that was.
fn finish(world: &mut World, job: JobId) -> Time {
    let mut steps = 0;
    while world.core.job(job).is_some_and(|view| !view.state.is_final()) {
        assert!(world.step() && steps < 50 * MAX_STEPS, "the job does not end");
        steps += 1;
    }
    world.now
}

/// How much longer than necessary a job takes: 1 if every slot is busy until the end.
fn waste(slots: &[u32], distance: Duration, tasks: u64, time: u64) -> f64 {
    let mut world = calm(slots, distance);
    let job = submit(&mut world, "ada", tasks, time);
    let truth = world.oracle.truth(job);
    let work: u64 = (0..tasks).map(|task| truth.time_of(task)).sum();
    let longest = (0..tasks).map(|task| truth.time_of(task)).max().unwrap_or(0);
    let ideal = work / u64::from(slots.iter().sum::<u32>()) + longest / 2;
    finish(&mut world, job).0 as f64 / ideal as f64
}

#[test]
fn slots_are_kept_busy() {
    let near = Duration::from_micros(100);
    let far = Duration::from_millis(10);
    let cases: [(&[u32], Duration, u64, u64, f64); 8] = [
        (&[2], near, 40_000, MS / 20, 1.1),
        (&[2, 2, 2, 2], near, 40_000, MS / 20, 1.1),
        (&[1, 1, 6], near, 40_000, MS / 20, 1.1),
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
        while world.now < Time(700 * MS) {
            assert!(world.step());
        }
        let start = world.now;
        let ten = submit(&mut world, "ben", 10, MS);
        let took = finish(&mut world, ten).since(start);
        println!("{took:?} beside tasks of {time} ns");
        assert!(took < Duration::from_millis(400), "ten tasks took {took:?} beside another's many of {time} ns");
    }
}

#[test]
fn a_lone_task_takes_a_round_trip() {
    let mut world = calm(&[2, 2], Duration::from_micros(100));
    let lone = submit(&mut world, "ada", 1, MS);
    let run = world.oracle.truth(lone).time_of(0);
    let took = finish(&mut world, lone).0;
    // Half of the way more in each direction at worst, and the worker's wait for more outcomes.
    assert!(took < run + 2 * 175_000 + 3 * MS, "{took} ns for a task of {run} ns");
}
