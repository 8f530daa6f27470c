//! `farm why`: what a task waits for, and where its time went.

use serde_json::{Value, json};

use crate::support::{Farm, module};
use crate::wat;

fn why(farm: &Farm, target: &str) -> Value {
    farm.farm(&["why", target, "--output", "json"]).succeeds().json()
}

fn cause(farm: &Farm, target: &str) -> Value {
    let why = why(farm, target);
    assert_eq!(why["groups"].as_array().map(Vec::len), Some(1), "{why}");
    why["groups"][0].clone()
}

fn says(farm: &Farm, target: &str, parts: &[&str]) {
    let told = farm.farm(&["why", target]).succeeds();
    for part in parts {
        assert!(told.text().contains(part), "{}", told.text());
    }
}

#[test]
fn without_a_worker_that_is_what_it_waits_for() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    let job = farm.detach(&[m, "--range", "0..10"]);
    assert_eq!(cause(&farm, &job), json!({"task": 0, "count": 10, "cause": "no-worker"}));
    says(&farm, "1:3", &["task 3 of job 1 waits for a worker: none is connected"]);
    farm.farm(&["why", "1:10"]).fails(8).explains(&["job 1 has no task 10"]);
    farm.farm(&["why", "9"]).fails(8).explains(&["there is no job 9"]);
    farm.farm(&["why", "nine"]).fails(2);
    farm.farm(&["job", "cancel", &job]).succeeds();
    assert_eq!(cause(&farm, "1:3")["cause"], "given-up");
    says(&farm, "1:3", &["was cancelled", "has no outcome"]);
}

#[test]
fn a_busy_farm_has_a_queue() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let first = farm.occupy(&[m, "--range", "0..1000"]);
    let running = cause(&farm, "1:0");
    assert_eq!((&running["cause"], &running["worker_name"]), (&json!("running"), &json!("w0")));
    says(&farm, "1:0", &["task 0 of job 1 probably runs on worker", "(w0)"]);
    let last = cause(&farm, "1:999");
    assert_eq!((&last["cause"], &last["slots"], &last["jobs_first"]), (&json!("slot"), &json!(1), &json!(0)), "{last}");
    let before = cause(&farm, "1:998")["tasks_first"].as_u64().expect("its place");
    assert_eq!(last["tasks_first"], before + 1);
    let other = farm.detach(&[m, "--range", "1..3"]);
    assert_eq!(cause(&farm, &format!("{other}:0"))["jobs_first"], 1);
    says(&farm, &other, &["1 other job goes first; the only slot is busy"]);
    farm.farm(&["job", "cancel", &first]).succeeds();
}

#[test]
fn what_needs_another_job_names_it() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    farm.detach(&[m, "--range", "0..10"]);
    farm.detach(&[m, "--args-from", "1"]);
    farm.detach(&[m, "--range", "0..3", "--after", "1"]);
    let input = json!({"task": 4, "count": 1, "cause": "input", "job": 1, "first": 4, "end": 5});
    assert_eq!(cause(&farm, "2:4"), input);
    says(&farm, "2:4", &["waits for its argument, the result of task 4 of job 1"]);
    assert_eq!(cause(&farm, "3"), json!({"task": 0, "count": 3, "cause": "after", "job": 1}));
    says(&farm, "3:0", &["waits for the end of job 1"]);
}

#[test]
fn a_task_that_is_tried_again_says_when() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::EVEN);
    let job = farm.detach(&[m, "--args", "[1]", "--retries", "50"]);
    farm.wait_until(&job, "has been tried some times", |status| status["retried"].as_u64() > Some(3));
    let found = farm_tests::wait_for("a pause", || Some(cause(&farm, "1:0")).filter(|it| it["cause"] == "backoff"));
    assert!(found["attempt"].as_u64() > Some(3) && found["wait_ms"].as_u64() < Some(40_000), "{found}");
    says(&farm, "1:0", &["waits for attempt"]);
    farm.farm(&["job", "cancel", &job]).succeeds();
}

#[test]
fn the_time_of_a_task_sums_to_its_whole() {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(5_000_000));
    farm.farm(&["submit", m, "--range", "0..20"]).succeeds();
    for task in 0..20 {
        let ended = cause(&farm, &format!("1:{task}"));
        assert_eq!((&ended["cause"], &ended["failed"]), (&json!("ended"), &json!(false)));
        let account = ended["account"].as_object().expect("an account");
        let parts = account.iter().filter(|(name, _)| *name != "whole_ns");
        assert_eq!(account["whole_ns"], parts.filter_map(|(_, time)| time.as_u64()).sum::<u64>());
        assert!(account["running_ns"].as_u64() > Some(100_000), "{ended}");
    }
    says(&farm, "1:7", &["task 7 of job 1 has a result, after", "compiling", "whole"]);
    says(&farm, "1", &["job 1 is done"]);
}
