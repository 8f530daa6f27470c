//! Workers that are asked to leave: `farm worker drain` and SIGTERM.

use farm_tests::{World, wait_for};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Farm, module, squares, takes_less_than};
use crate::wat;

#[test]
fn a_worker_that_is_drained_by_name_finishes_and_leaves() {
    let mut farm = Farm::new(2);
    let m = module(&farm.world, &wat::busy(5_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..500"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(20));
    farm.farm(&["worker", "drain", "w1"]).succeeds();
    let leaving = farm.workers.pop().expect("two workers");
    let left = takes_less_than(30, || leaving.wait());
    assert_eq!(left.code(), Some(0), "{}", left.stderr);
    assert_eq!(client.wait().with_code(0).json(), squares(500));
    assert_eq!(farm.job("1")["retried"], 0, "nothing was done twice");
}

/// A farm whose only worker, with a second of grace, is in the midst of a task that hangs the first time.
fn hanging() -> (Farm, farm_tests::Worker, farm_tests::Running) {
    let farm = Farm::new(0);
    let worker = farm.world.worker_with(&farm.scheduler.worker_ticket(), "brief", 1, &["--grace", "1s"], &[]);
    let m = module(&farm.world, wat::SPIN);
    let client = farm.farm(&["submit", m, "--args", "[2, 0, 3]", "--format", "ndjson"]).start();
    farm.wait_until("1", "hangs", |status| status["counts"]["leased"] != 0 && status["counts"]["succeeded"] == 1);
    (farm, worker, client)
}

#[test]
fn what_takes_longer_than_the_grace_goes_back_without_blame() {
    for by_command in [true, false] {
        let (farm, worker, client) = hanging();
        if by_command {
            farm.farm(&["worker", "drain", "brief"]).succeeds();
        } else {
            worker.signal(Signal::TERM);
        }
        let left = takes_less_than(20, || worker.wait());
        assert_eq!(left.code(), Some(0), "{}", left.stderr);
        let status = farm.wait_until("1", "waits again", |status| status["counts"]["leased"] == 0);
        assert_eq!((&status["retried"], &status["counts"]["failed"]), (&json!(0), &json!(0)), "{status}");
        // Another worker takes it up.
        let _worker = farm.world.worker(&farm.scheduler, "other", 2);
        farm.wait_until("1", "has the others", |status| status["counts"]["succeeded"] == 2);
        farm.farm(&["job", "cancel", "1"]).succeeds();
        assert_eq!(client.wait().with_code(7).lines().len(), 2);
    }
}

#[test]
fn a_worker_that_is_not_there_cannot_be_drained() {
    let farm = Farm::new(1);
    farm.farm(&["worker", "drain", "nobody"]).fails(8).explains(&["nobody"]).hints(&["farm status"]);
    farm.farm(&["worker", "drain", "99"]).fails(8).explains(&["99"]);
    World::new().farm(["worker", "drain", "w0"]).fails(5).explains(&["no farm is up"]);
    assert_eq!(farm.status()["workers"][0]["draining"], false);
}

#[test]
fn an_idle_worker_leaves_at_once() {
    let mut farm = Farm::new(1);
    farm.farm(&["worker", "drain", "w0"]).succeeds();
    let worker = farm.workers.pop().expect("a worker");
    assert_eq!(takes_less_than(10, || worker.wait()).code(), Some(0));
    wait_for("its leaving", || (farm.status()["workers"] == json!([])).then_some(()));
}
