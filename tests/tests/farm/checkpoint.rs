//! Tasks that go on from a checkpoint when their worker goes, whichever way it goes.

use farm_tests::{World, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::sdk::BEHAVIOURS;
use crate::support::{Farm, kinds, outcomes, takes_less_than};

/// Steps of a count, at 20 ms each: some seconds.
const END: u64 = 250;

/// Submits a task that counts to [`END`], and waits until it does so on the only worker.
fn count(farm: &Farm, suspends: bool) -> String {
    farm.world.write("b.wasm", &*BEHAVIOURS);
    let args = json!([[END, 20, suspends]]).to_string();
    let job = farm.detach(&["b.wasm", "--function", "counts", "--args", &args]);
    farm.wait_until(&job, "counts", |status| progress(status) > Some(0));
    job
}

/// What the only task last said of its progress.
fn progress(status: &Value) -> Option<u64> {
    status["progress"][0]["done"].as_u64()
}

/// Waits until the scheduler has taken in a checkpoint of the task after `than`, in milliseconds; when.
fn kept_later(farm: &Farm, job: &str, than: u64) -> u64 {
    wait_for("a checkpoint", || {
        let checkpoint = farm.why(&format!("{job}:0"))["checkpoint"].clone();
        let kept = checkpoint["kept_ms"].as_u64().filter(|kept| *kept > than)?;
        assert_eq!(checkpoint["bytes"], 8);
        Some(kept)
    })
}

/// The end of the count on another worker: where that began. Each step was done once, but for those that were lost.
fn goes_on(farm: &Farm, job: &str) -> u64 {
    let _other = farm.world.worker(&farm.scheduler, "other", 1);
    let results = farm.farm(&["job", "results", job]).succeeds().json();
    let restored = results[0]["restored"].as_u64().unwrap_or_else(|| panic!("it began anew: {results}"));
    assert_eq!(results[0]["steps"], END - restored, "{results}");
    assert!(restored > 0, "{results}");
    farm.world.check_state();
    restored
}

#[test]
fn a_task_that_is_warned_suspends_itself_and_goes_on_elsewhere() {
    let mut farm = Farm::new(1);
    let job = count(&farm, true);
    let worker = farm.workers.remove(0);
    worker.signal(Signal::USR1);
    // It would have no end of its own before the count has.
    worker.wait().with_code(0).says(&["handed back 1"]);
    goes_on(&farm, &job);
    assert_eq!(farm.job(&job)["retried"], 0, "nobody is to blame");
}

#[test]
fn a_drained_worker_tells_its_tasks_to_stop() {
    let mut farm = Farm::new(1);
    let job = count(&farm, true);
    farm.farm(&["worker", "drain", "w0"]).succeeds();
    farm.workers.remove(0).wait().with_code(0).says(&["handed back 1"]);
    goes_on(&farm, &job);
}

#[test]
fn a_worker_that_ends_soon_tells_its_tasks_to_stop() {
    let mut farm = Farm::new(0);
    let ticket = farm.scheduler.worker_ticket();
    farm.workers.push(farm.world.worker_with(&ticket, "brief", 1, &["--time", "8s"], &[]));
    farm.world.write("b.wasm", &*BEHAVIOURS);
    // A count without an end in any time that it has.
    let args = json!([[1_000_000, 20, true]]).to_string();
    let job = farm.detach(&["b.wasm", "--function", "counts", "--args", &args]);
    farm.workers.remove(0).wait().with_code(0).says(&["handed back 1"]);
    let why = farm.why(&format!("{job}:0"));
    assert_eq!((&why["groups"][0]["cause"], &why["checkpoint"]["bytes"]), (&json!("no-worker"), &json!(8)), "{why}");
    let told = farm.farm(&["why", &format!("{job}:0")]).succeeds().text().to_owned();
    assert!(told.contains("goes on from a checkpoint of 8 B, kept"), "{told}");
    farm.farm(&["job", "cancel", &job]).succeeds();
    assert_eq!(farm.why(&format!("{job}:0"))["checkpoint"], Value::Null, "nobody needs it any more");
    farm.world.check_state();
}

#[test]
fn a_task_that_is_cut_off_loses_nothing_that_it_has_kept() {
    let mut farm = Farm::new(0);
    let ticket = farm.scheduler.worker_ticket();
    farm.workers.push(farm.world.worker_with(&ticket, "brief", 1, &["--grace", "300ms"], &[]));
    let job = count(&farm, false);
    // Some way behind the first, which is sent at once.
    let seen = farm.wait_until(&job, "counts on", |status| progress(status) > Some(20));
    let worker = farm.workers.remove(0);
    worker.signal(Signal::TERM);
    takes_less_than(60, || worker.wait()).with_code(0).says(&["handed back 1"]);
    let restored = goes_on(&farm, &job);
    assert!(Some(restored) >= progress(&seen), "it had come to {:?} and began at {restored}", progress(&seen));
    let status = farm.job(&job);
    assert_eq!((&status["counts"]["failed"], &status["retried"]), (&json!(0), &json!(0)), "{status}");
}

#[test]
fn a_killed_worker_and_a_killed_scheduler_do_not_set_it_back_to_its_start() {
    let mut farm = Farm::new(1);
    let job = count(&farm, false);
    // When another has come, the first is on the disk: it is a second between them.
    let first = kept_later(&farm, &job, 0);
    kept_later(&farm, &job, first);
    farm.workers[0].signal(Signal::KILL);
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    assert_eq!(farm.why(&format!("{job}:0"))["checkpoint"]["bytes"], 8);
    farm.workers.clear();
    goes_on(&farm, &job);
}

#[test]
fn a_slot_that_dies_leaves_its_last_state() {
    let farm = Farm::new(1);
    let job = count(&farm, false);
    let seen = farm.wait_until(&job, "counts on", |status| progress(status) > Some(20));
    let slot = farm.workers[0].slot_pids()[0];
    let pid = rustix::process::Pid::from_raw(slot.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
    let results = farm.farm(&["job", "results", &job]).succeeds().json();
    assert!(results[0]["restored"].as_u64() >= progress(&seen), "{results}, and it had come to {seen}");
    assert_eq!(farm.job(&job)["retried"], 1);
}

#[test]
fn a_scheduler_that_comes_back_is_told_again() {
    let mut farm = Farm::new(1);
    let job = count(&farm, false);
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    farm.await_workers(1);
    kept_later(&farm, &job, 0);
    farm.workers[0].signal(Signal::KILL);
    farm.workers.clear();
    goes_on(&farm, &job);
}

/// Whenever the scheduler dies over a checkpoint, the worker has it still, or the disk has.
fn survives(point: &str) {
    let mut farm = Farm::new(0);
    let bomb = [("FARM_FAILPOINT", point)];
    farm.stop_scheduler(Signal::KILL);
    farm.scheduler = farm.world.scheduler_at(&farm.scheduler.address, &[], &bomb);
    farm.workers.push(farm.world.worker(&farm.scheduler, "w0", 1));
    farm.world.write("b.wasm", &*BEHAVIOURS);
    let args = json!([[END, 20, false]]).to_string();
    let job = farm.detach(&["b.wasm", "--function", "counts", "--args", &args]);
    wait_for("the end of the scheduler", || (!farm.scheduler.is_running()).then_some(()));
    farm.restart_scheduler();
    farm.await_workers(1);
    let first = kept_later(&farm, &job, 0);
    kept_later(&farm, &job, first);
    farm.workers[0].signal(Signal::KILL);
    farm.workers.clear();
    goes_on(&farm, &job);
}

#[test]
fn a_scheduler_that_dies_before_it_has_stored_a_checkpoint() {
    survives("scheduler.checkpoint.before-commit");
}

#[test]
fn a_scheduler_that_dies_after_it_has_stored_a_checkpoint() {
    survives("scheduler.checkpoint.after-commit:2");
}

/// Runs a function on each of the arguments, here or on a farm.
fn call(world: &World, command: &str, function: &str, args: &Value, extra: &[&str]) -> farm_tests::Finished {
    world.write("b.wasm", &*BEHAVIOURS);
    let command = world.farm([command, "b.wasm", "--function", function, "--args", "-", "--format", "ndjson"]);
    command.with(extra).stdin(args.to_string()).run()
}

#[test]
fn the_next_attempt_after_a_failure_goes_on_too_here_and_on_a_farm() {
    let world = World::new();
    let sizes = json!([0, 1, 100_000, 3_000_000, 16 << 20]);
    for command in ["run", "submit"] {
        let finished = call(&world, command, "keeps", &sizes, &["--retries", "1"]);
        assert_eq!(json!(kinds(&finished)), sizes, "by {command}");
        let alone = call(&world, command, "keeps", &json!([1]), &[]);
        assert_eq!(json!(kinds(&alone)), json!(["returned-error"]), "there was no attempt before");
    }
}

#[test]
fn a_state_that_is_too_large_is_told_so() {
    let world = World::new();
    for command in ["run", "submit"] {
        let finished = call(&world, command, "keeps", &json!([(16 << 20) + 1]), &["--retries", "1"]);
        let message = outcomes(&finished)[0]["error"]["message"].clone();
        assert_eq!(message, "a checkpoint of 16777217 bytes is more than the 16777216 that are kept", "by {command}");
    }
}

#[test]
fn a_task_cannot_give_itself_back_to_a_worker_that_stays() {
    let world = World::new();
    for command in ["run", "submit"] {
        let finished = call(&world, command, "suspends", &json!(["x"]), &[]);
        let error = outcomes(&finished)[0]["error"].clone();
        assert_eq!(error["kind"], "trap", "{error} by {command}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("`should_stop` has said so")), "{error}");
    }
}
