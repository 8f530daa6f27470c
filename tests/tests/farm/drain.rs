//! Workers that are asked to leave: they finish what they run, within bounds, and hand back the rest.

use farm_tests::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Farm, module, squares, takes_less_than};
use crate::wat;

#[test]
fn a_drained_worker_finishes_what_it_runs_and_leaves() {
    let mut farm = Farm::new(2);
    let m = module(&farm.world, &wat::busy(20_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..200"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(10));
    farm.farm(&["worker", "drain", "w1"]).succeeds().says(&["leaves when what runs there has ended"]);
    let left = takes_less_than(60, || farm.workers.remove(1).wait()).with_code(0);
    left.says(&["leaving: finished", "handed back"]);
    assert_eq!(client.wait().with_code(0).json(), squares(200));
    assert_eq!(farm.job("1")["retried"], 0, "nothing was done twice");
    assert_eq!(farm.await_workers(1)[0]["name"], "w0");
    farm.world.check_state();
}

#[test]
fn what_has_not_started_goes_elsewhere() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(300_000_000));
    let job = farm.detach(&[m, "--range", "0..12"]);
    farm.wait_until(&job, "is under way", |status| status["counts"]["succeeded"] != 0);
    let number = farm.status()["workers"][0]["id"].to_string();
    let drained = farm.farm(&["worker", "drain", &number, "--output", "json"]).succeeds().json();
    assert_eq!(drained["draining"].as_array().map(Vec::len), Some(1), "{drained}");
    takes_less_than(60, || farm.workers.remove(0).wait()).with_code(0).says(&[]);
    let status = farm.job(&job);
    assert_ne!(status["counts"]["waiting"], 0, "{status}");
    assert_eq!(status["counts"]["leased"], 0);
    let _other = farm.world.worker(&farm.scheduler, "other", 1);
    assert_eq!(farm.farm(&["job", "results", &job]).succeeds().json(), squares(12));
    assert_eq!(farm.job(&job)["retried"], 0);
}

/// A task that takes longer than a worker may stay is handed on, and nobody is to blame.
#[test]
fn a_task_that_does_not_end_in_time_is_handed_back_without_blame() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SPIN);
    let job = farm.detach(&[m, "--args", "[2, 0]"]);
    // Three crashes would end it.
    for number in 0..4 {
        let name = format!("brief-{number}");
        let worker = farm.world.worker_with(&farm.scheduler.worker_ticket(), &name, 1, &["--grace", "300ms"], &[]);
        let target = format!("{job}:1");
        let why = wait_for("the task there", || {
            let group = farm.why(&target)["groups"][0].clone();
            (group["cause"] == "running" && group["worker_name"] == name.as_str()).then_some(group)
        });
        assert_eq!(why["count"], 1);
        if number % 2 == 0 {
            worker.signal(Signal::TERM);
        } else {
            farm.farm(&["worker", "drain", &name]).succeeds();
        }
        let left = takes_less_than(60, || worker.wait()).with_code(0);
        left.says(&["handed back 1"]);
        farm.await_workers(0);
    }
    let status = farm.job(&job);
    assert_eq!((&status["state"], &status["retried"]), (&json!("running"), &json!(0)), "{status}");
    assert_eq!(status["counts"]["failed"], 0);
    wait_for("the end of the slots", || farm.world.parts("slot").is_empty().then_some(()));
}

#[test]
fn an_idle_worker_leaves_at_once() {
    let mut farm = Farm::new(1);
    farm.farm(&["worker", "drain", "w0"]).succeeds();
    takes_less_than(20, || farm.workers.remove(0).wait()).with_code(0).says(&[]);
    farm.await_workers(0);
}

#[test]
fn all_workers_of_a_name_leave() {
    let farm = Farm::new(0);
    let twins = [0, 1].map(|_| farm.world.worker(&farm.scheduler, "twin", 1));
    farm.await_workers(2);
    farm.farm(&["worker", "drain", "twin"]).succeeds();
    for twin in twins {
        takes_less_than(20, || twin.wait()).with_code(0).says(&[]);
    }
}

#[test]
fn who_is_not_there_cannot_leave() {
    let farm = Farm::new(1);
    for name in ["nobody", "99"] {
        let refused = farm.farm(&["worker", "drain", name]).fails(8);
        refused.explains(&["no worker is called", name]).hints(&["farm status"]);
    }
    farm_tests::World::new().farm(["worker", "drain", "w0"]).fails(5).explains(&["no farm is up"]);
    let ada = farm.ticket_for("ada");
    let refused = farm.world.farm(["worker", "drain", "w0"]).with_env("FARM_TICKET", ada).fails(6);
    refused.explains(&["admin"]);
    assert_eq!(farm.await_workers(1)[0]["draining"], false);
}

/// Draining is not forgotten by a scheduler that comes back.
#[test]
fn a_worker_that_leaves_goes_on_leaving() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(4_000_000_000));
    let job = farm.occupy(&[m, "--args", "[3, 4, 5]"]);
    farm.farm(&["worker", "drain", "w0"]).succeeds();
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    let left = takes_less_than(100, || farm.workers.remove(0).wait()).with_code(0);
    left.says(&["leaving: finished"]);
    let status = farm.job(&job);
    assert_eq!((&status["counts"]["leased"], &status["counts"]["failed"]), (&json!(0), &json!(0)), "{status}");
    assert_ne!(status["counts"]["waiting"], 0, "{status}");
}
