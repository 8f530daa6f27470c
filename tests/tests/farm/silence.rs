//! Peers that say nothing any more without having ended: frozen ones, and those behind a dead link.

use std::time::Duration;

use farm_tests::{Relay, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module, squares, takes_less_than};
use crate::wat;

/// Gives up the silent after a second.
const HASTY: &[&str] = &["--heartbeat", "1s"];

fn named<'a>(workers: &'a [Value], name: &str) -> &'a Value {
    workers.iter().find(|worker| worker["name"] == name).expect("it is among them")
}

#[test]
fn a_frozen_worker_is_given_up_and_comes_back() {
    let farm = Farm::with(2, HASTY);
    let frozen = &farm.workers[1];
    let before = named(&farm.await_workers(2), "w1").clone();
    let m = module(&farm.world, &wat::busy(500_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..16", "--format", "ndjson"]).start();
    wait_for("a lease of the one to be frozen", || {
        (named(&farm.await_workers(2), "w1")["leased"].as_u64() > Some(0)).then_some(())
    });
    frozen.signal(Signal::STOP);
    // Its tasks are run by the other one.
    let finished = takes_less_than(100, || client.wait()).with_code(0);
    assert_eq!(json!(kinds(&finished)), squares(16));
    assert_eq!(farm.await_workers(1)[0]["name"], "w0");
    let over = farm.job("1");

    // Then it comes back, and whatever it has to say of them changes nothing.
    frozen.signal(Signal::CONT);
    let after = named(&farm.await_workers(2), "w1").clone();
    assert_eq!(after["pid"], before["pid"]);
    assert!(after["id"].as_u64() > before["id"].as_u64(), "{before} {after}");
    assert_eq!(farm.farm(&["job", "results", "1"]).succeeds().json(), squares(16));
    assert_eq!(farm.job("1"), over);
    // It works.
    let again = takes_less_than(100, || farm.farm(&["submit", m, "--range", "0..4"]).succeeds());
    assert_eq!(again.json(), squares(4));
    wait_for("idle workers", || farm.await_workers(2).iter().all(|worker| worker["leased"] == 0).then_some(()));
    farm.world.check_state();
}

#[test]
fn the_only_worker_may_freeze() {
    let farm = Farm::with(1, HASTY);
    let m = module(&farm.world, wat::SPIN);
    let job = farm.occupy(&[m, "--args", "[2, 0]"]);
    let slots = farm.workers[0].slot_pids();
    farm.workers[0].signal(Signal::STOP);
    farm.await_workers(0);
    farm.wait_for_cause(&format!("{job}:1"), "no-worker");
    farm.workers[0].signal(Signal::CONT);
    farm.await_workers(1);
    farm.wait_for_cause(&format!("{job}:1"), "running");
    // It had never ceased to run it.
    assert_eq!(farm.workers[0].slot_pids(), slots);
    assert_eq!(farm.job(&job)["state"], "running");
}

#[test]
fn a_worker_behind_a_dead_link_comes_back_with_its_results() {
    let mut farm = Farm::with(0, HASTY);
    let relay = Relay::new(&farm.scheduler);
    let worker = farm.world.worker_with(&relay.ticket(&farm.scheduler.worker_ticket()), "far", 1, &[], &[]);
    farm.workers.push(worker);
    let before = farm.await_workers(1)[0].clone();
    let m = module(&farm.world, &wat::busy(20_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..300", "--format", "ndjson"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(10));
    relay.cut();
    farm.await_workers(0);
    std::thread::sleep(Duration::from_secs(1));
    relay.mend();
    let after = farm.await_workers(1)[0].clone();
    assert_eq!(after["pid"], before["pid"]);
    assert_ne!(after["id"], before["id"]);
    let finished = client.wait().with_code(0);
    assert_eq!(json!(kinds(&finished)), squares(300));
    farm.workers[0].until_it_logs("connected again");
    farm.world.check_state();
}

#[test]
fn a_link_that_is_dead_for_a_moment_costs_nothing() {
    let mut farm = Farm::new(0);
    let relay = Relay::new(&farm.scheduler);
    let worker = farm.world.worker_with(&relay.ticket(&farm.scheduler.worker_ticket()), "far", 1, &[], &[]);
    farm.workers.push(worker);
    let before = farm.await_workers(1)[0].clone();
    let m = module(&farm.world, &wat::busy(1_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..3000"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(0));
    relay.cut();
    std::thread::sleep(Duration::from_millis(500));
    relay.mend();
    assert_eq!(client.wait().with_code(0).json(), squares(3000));
    assert_eq!(farm.await_workers(1)[0]["id"], before["id"], "the same connection");
    assert_eq!(farm.job("1")["retried"], 0);
}

#[test]
fn a_client_behind_a_dead_link_misses_nothing() {
    let farm = Farm::with(1, HASTY);
    let relay = Relay::new(&farm.scheduler);
    let m = module(&farm.world, &wat::busy(2_000_000));
    let submit = farm.world.farm(["submit", m, "--range", "0..3000", "--format", "ndjson"]);
    let mut client = submit.with_env("FARM_TICKET", relay.ticket(&farm.scheduler.admin_ticket())).start();
    client.until_it_prints("\n");
    relay.cut();
    client.until_it_says("the scheduler does not answer; waiting up to");
    relay.mend();
    let finished = client.wait().with_code(0);
    finished.says(&["the scheduler is back after"]);
    assert_eq!(json!(kinds(&finished)), squares(3000));
}

#[test]
fn a_frozen_scheduler_is_waited_for() {
    let farm = Farm::with(1, HASTY);
    let m = module(&farm.world, &wat::busy(2_000_000));
    let mut client = farm.farm(&["submit", m, "--range", "0..3000", "--format", "ndjson"]).start();
    client.until_it_prints("\n");
    farm.scheduler.signal(Signal::STOP);
    client.until_it_says("the scheduler does not answer; waiting up to");
    farm.scheduler.signal(Signal::CONT);
    let finished = client.wait().with_code(0);
    assert_eq!(json!(kinds(&finished)), squares(3000));
    farm.await_workers(1);
}

#[test]
fn a_heartbeat_is_not_too_short() {
    let farm = Farm::new(0);
    let state = farm.world.path().join("other");
    let hurried = farm.world.farm(["scheduler", "--listen", "127.0.0.1:0", "--heartbeat", "1ms", "--state"]);
    hurried.with([state]).fails(2).says(&["--heartbeat", "250ms"]);
}
