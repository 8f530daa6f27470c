//! What is stopped makes room at once.

use farm_tests::World;
use serde_json::json;

use crate::support::{Farm, module, takes_less_than};
use crate::wat;

/// A farm of one slot, with a job that holds the slot.
fn held(text: &str, argument: &str) -> (Farm, String) {
    let farm = Farm::new(1);
    let m = module(&farm.world, text);
    let job = farm.occupy(&[m, "--args", argument]);
    (farm, job)
}

/// Once the job is cancelled, the next one has the slot.
fn makes_room(text: &str, argument: &str) {
    let (farm, job) = held(text, argument);
    let square = farm_tests::wat(&farm.world, "square", wat::SQUARE);
    let next = farm.world.farm(["submit", "--args", "[3]"]).with([square]);
    let next = next.with_env("FARM_TICKET", farm.scheduler.admin_ticket());
    let results = takes_less_than(15, || {
        farm.farm(&["job", "cancel", &job]).succeeds().says(&[&format!("job {job} is cancelled")]);
        next.succeeds()
    });
    assert_eq!(results.json(), json!([9]));
    let status = farm.job(&job);
    assert_eq!(status["state"], "cancelled");
    assert_eq!((&status["counts"]["leased"], &status["counts"]["waiting"]), (&json!(0), &json!(0)));
    // Its end is final, and told in the same way again.
    let again = farm.farm(&["job", "cancel", &job, "--output", "json"]).succeeds();
    assert_eq!(again.json()["state"], "cancelled");
    farm.farm(&["job", "results", &job]).fails(7).says(&["was cancelled"]);
}

#[test]
fn a_cancelled_loop_makes_room() {
    makes_room(wat::SPIN, "[0, 0, 0]");
}

#[test]
fn a_cancelled_fill_of_memory_makes_room() {
    makes_room(wat::FILL, "[0]");
}

#[test]
fn a_cancelled_sleeper_makes_room() {
    makes_room(wat::SLEEP, r#"["", ""]"#);
}

#[test]
fn ctrl_c_ends_a_run_and_its_task() {
    let world = World::new();
    let m = module(&world, wat::SPIN);
    let mut running = world.farm(["run", m, "--args", "[3, 0]", "--format", "ndjson"]).start();
    running.until_it_prints("9");
    running.signal(rustix::process::Signal::INT);
    takes_less_than(10, || running.wait()).with_code(130).says(&[]);
    world.leaves_nothing();
    let running = world.farm(["run", m, "--args", "[0]"]).start();
    farm_tests::wait_for("the slot", || (world.parts("slot").len() == 1).then_some(()));
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    world.leaves_no_process();
}

#[test]
fn a_waiting_client_learns_that_its_job_was_cancelled() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let mut client = farm.farm(&["submit", m, "--args", "[2, 0]", "--format", "ndjson"]).start();
    client.until_it_prints("4");
    farm.farm(&["job", "cancel", "1"]).succeeds();
    let finished = takes_less_than(10, || client.wait());
    finished.with_code(7).says(&["error: job 1 was cancelled"]);
}

#[test]
fn a_finished_job_stays_as_it_is() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SQUARE);
    farm.farm(&["submit", m, "--args", "[4]"]).succeeds();
    farm.farm(&["job", "cancel", "1"]).succeeds().says(&["job 1 is done"]);
    assert_eq!(farm.farm(&["job", "results", "1"]).succeeds().json(), json!([16]));
}

#[test]
fn a_job_that_waits_can_be_cancelled() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    let job = farm.detach(&[m, "--range", "0..1000000"]);
    farm.farm(&["job", "cancel", &job]).succeeds();
    let status = farm.job(&job);
    assert_eq!((&status["state"], &status["counts"]["cancelled"]), (&json!("cancelled"), &json!(1_000_000)));
}
