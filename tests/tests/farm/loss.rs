//! Processes that die: nothing is lost, and only what they had started or held is done again.

use std::time::Duration;

use farm_tests::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Farm, kinds, module, squares, takes_less_than};
use crate::wat;

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, Signal::KILL).expect("it ran");
}

#[test]
fn a_worker_that_is_killed_loses_nothing() {
    let mut farm = Farm::new(2);
    let m = module(&farm.world, &wat::busy(2_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..3000", "--format", "ndjson"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(300));
    let killed = farm.workers.pop().expect("two workers");
    killed.signal(Signal::KILL);
    killed.wait();
    let finished = client.wait().with_code(0);
    // `kinds` checks that each task has exactly one line.
    let values = kinds(&finished);
    assert_eq!(json!(values), squares(3000));
    let status = farm.job("1");
    assert_eq!(status["counts"]["succeeded"], 3000);
    let workers = farm.status()["workers"].clone();
    assert_eq!(workers.as_array().map(Vec::len), Some(1));
    let last = workers[0]["finished"].as_u64().expect("a number");
    assert!(last > 1000 && last < 3000, "what the other had done is not done again: {last} of 3000");
}

#[test]
fn slots_end_with_their_worker() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let job = farm.occupy(&[m, "--args", "[0, 3]"]);
    let slots = wait_for("a slot", || Some(farm.workers[0].slot_pids()).filter(|slots| !slots.is_empty()));
    let killed = farm.workers.pop().expect("a worker");
    killed.signal(Signal::KILL);
    killed.wait();
    wait_for("the end of the slot", || farm.world.parts("slot").is_empty().then_some(()));
    assert!(!slots.is_empty());
    // The job goes on where there is another worker.
    let _worker = farm.world.worker(&farm.scheduler, "second", 1);
    farm.wait_until(&job, "has the honest result", |status| status["counts"]["succeeded"] == 1);
    farm.farm(&["job", "cancel", &job]).succeeds();
}

#[test]
fn a_slot_that_is_killed_costs_one_attempt_and_comes_back() {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::hangs_at_first());
    let client = farm.farm(&["submit", m, "--range", "-5..400", "--format", "ndjson"]).start();
    farm.wait_until("1", "hangs", |status| status["counts"]["succeeded"] == 5);
    let before = farm.workers[0].slot_pids();
    assert_eq!(before.len(), 1);
    kill(before[0]);
    let after = wait_for("another slot", || {
        let slots = farm.workers[0].slot_pids();
        (slots.len() == 1 && slots != before).then_some(slots)
    });
    assert_ne!(before, after);
    let finished = client.wait().with_code(0);
    let expected: serde_json::Value = (-5..400).map(|x| x * x).collect();
    assert_eq!(json!(kinds(&finished)), expected);
    assert_eq!(farm.job("1")["retried"], 1, "one attempt of one task");
    assert_eq!(farm.status()["workers"].as_array().map(Vec::len), Some(1), "the worker has not noticed");
}

#[test]
fn a_task_whose_slot_dies_every_time_fails_alone() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let client = farm.farm(&["submit", m, "--args", "[2, 0, 3]", "--format", "ndjson"]).start();
    let mut last = Vec::new();
    for _ in 0..3 {
        farm.wait_until("1", "has its task in a fresh slot", |status| {
            let slots = farm.workers[0].slot_pids();
            slots.len() == 1 && slots != last && status["counts"]["leased"] != 0
        });
        last = farm.workers[0].slot_pids();
        // Long enough for the slot to be in the midst of it.
        std::thread::sleep(Duration::from_millis(500));
        kill(last[0]);
    }
    let finished = takes_less_than(30, || client.wait()).with_code(1);
    assert_eq!(kinds(&finished), [json!(4), json!("worker-lost"), json!(9)]);
    finished.says(&["worker-lost: ", "task 1"]);
}

#[test]
fn a_worker_that_is_told_to_end_finishes_what_it_holds() {
    let mut farm = Farm::new(2);
    let m = module(&farm.world, &wat::busy(5_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..1000"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(50));
    let leaving = farm.workers.pop().expect("two workers");
    leaving.signal(Signal::TERM);
    let left = takes_less_than(30, || leaving.wait());
    assert_eq!(left.code(), Some(0), "{}", left.stderr);
    let finished = client.wait().with_code(0);
    assert_eq!(finished.json(), squares(1000));
    assert_eq!(farm.job("1")["retried"], 0, "nothing was done twice");
}

#[test]
fn a_worker_that_is_told_twice_ends_at_once() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    farm.occupy(&[m, "--args", "[0]"]);
    let worker = farm.workers.pop().expect("a worker");
    worker.signal(Signal::TERM);
    wait_for("draining", || (farm.status()["workers"][0]["draining"] == true).then_some(()));
    worker.signal(Signal::TERM);
    takes_less_than(10, || worker.wait());
    wait_for("the end of the slot", || farm.world.parts("slot").is_empty().then_some(()));
}

#[test]
fn a_scheduler_that_is_told_to_stop_is_waited_for() {
    let farm = Farm::new(2);
    let m = module(&farm.world, wat::SPIN);
    let mut client = farm.farm(&["submit", m, "--args", "[2, 0, 0]", "--format", "ndjson"]).start();
    client.until_it_prints("4");
    let Farm { mut workers, scheduler, world } = farm;
    scheduler.signal(Signal::TERM);
    let ended = takes_less_than(15, || scheduler.wait());
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    client.until_it_says("waiting up to 10 minutes for it to come back");
    assert!(client.is_running());
    // Told to leave, a worker does not wait any longer than its tasks may take.
    for worker in &mut workers {
        assert!(worker.is_running());
        worker.signal(Signal::TERM);
        worker.signal(Signal::TERM);
    }
    client.signal(Signal::INT);
    takes_less_than(30, || {
        workers.into_iter().for_each(|worker| drop(worker.wait()));
        client.wait().with_code(130).says(&["interrupted"]);
    });
    world.leaves_nothing();
}

#[test]
fn workers_of_a_scheduler_that_is_killed_give_up_in_the_end() {
    let world = farm_tests::World::new();
    let scheduler = world.scheduler();
    let mut worker = world.worker_with(&scheduler.worker_ticket(), "w0", 1, &["--wait", "1s"], &[]);
    worker.until_it_logs("at work");
    scheduler.signal(Signal::KILL);
    scheduler.wait();
    let ended = takes_less_than(60, || worker.wait());
    assert_eq!(ended.code(), Some(5), "{}", ended.stderr);
    ended.says(&["error: gave up waiting for the scheduler", "hint: --wait"]);
    world.leaves_nothing();
}
