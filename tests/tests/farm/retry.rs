//! `farm job retry`, and jobs that stop early.

use farm_tests::Finished;
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module};
use crate::wat;

/// Values by task of what a job has so far; null where it has none.
fn so_far(farm: &Farm, job: &str) -> Vec<Value> {
    let results = farm.farm(&["job", "results", job, "--no-wait"]).run();
    let results = results.json();
    results.as_array().expect("an array").clone()
}

/// Cancels a job when it has some results and not all.
fn cancel_midway(farm: &Farm, job: &str) {
    farm.wait_until(job, "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(5));
    farm.farm(&["job", "cancel", job]).succeeds();
    assert_ne!(farm.job(job)["counts"]["cancelled"], 0, "it was too fast");
}

/// Puts what a retry gave where it was missing.
fn fill(results: &mut [Value], retried: &[Value]) {
    let missing = results.iter_mut().filter(|value| value.is_null());
    let mut filled = 0;
    for (value, retried) in missing.zip(retried) {
        *value = retried.clone();
        filled += 1;
    }
    assert_eq!(filled, retried.len(), "as many as were missing");
}

fn values(finished: &Finished) -> Vec<Value> {
    finished.json().as_array().expect("an array").clone()
}

#[test]
fn what_is_missing_is_made_again_and_again() {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(30_000_000));
    let first = farm.detach(&[m, "--range", "-50..250"]);
    cancel_midway(&farm, &first);
    let mut results = so_far(&farm, &first);
    // The retry is stopped as well, and retried.
    let second = farm.farm(&["job", "retry", &first, "--detach"]).succeeds().text().trim().to_owned();
    assert_eq!(second, "2");
    cancel_midway(&farm, &second);
    fill(&mut results, &so_far(&farm, &second));
    let third = farm.farm(&["job", "retry", &second]).succeeds();
    third.says(&["job 3 runs", "tasks of job 2 again", "numbered from 0"]);
    fill(&mut results, &values(&third));
    let expected: Vec<_> = (-50..250_i64).map(|x| json!(x * x)).collect();
    assert_eq!(results, expected);
    // The first ones are as they were.
    assert_eq!(farm.job(&first)["state"], "cancelled");
    // And nothing is left of the last.
    let nothing = farm.farm(&["job", "retry", "3"]).fails(6);
    nothing.explains(&["job 3 has no task to be retried"]).hints(&["every task has a result"]);
    farm.world.check_state();
}

#[test]
fn arguments_of_all_kinds_are_kept_for_a_retry() {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(30_000_000));
    let arguments: Vec<i64> = (0..300).map(|x| x * 7919 % 1000 - 500).collect();
    let submit = farm.farm(&["submit", m, "--args", "-", "--detach"]).stdin(json!(arguments).to_string());
    let first = submit.succeeds().text().trim().to_owned();
    cancel_midway(&farm, &first);
    let mut results = so_far(&farm, &first);
    let retried = farm.farm(&["job", "retry", &first, "--output", "json"]).succeeds().json();
    fill(&mut results, retried["results"].as_array().expect("an array"));
    let expected: Vec<_> = arguments.iter().map(|x| json!(x * x)).collect();
    assert_eq!(results, expected);
}

#[test]
fn what_failed_can_be_told_from_what_was_given_up() {
    let farm = Farm::new(1);
    let m = module(
        &farm.world,
        r#"(module (func (export "picky") (param $x i64) (result i64)
            (if (i64.eqz (local.get $x)) (then (loop $again (br $again))))
            (if (i64.ne (i64.and (local.get $x) (i64.const 1)) (i64.const 0)) (then unreachable))
            (i64.mul (local.get $x) (local.get $x))))"#,
    );
    let first = farm.detach(&[m, "--args", "[2, 3, 5, 0, 4]"]);
    farm.wait_until(&first, "hangs", |status| status["counts"]["failed"] == 2);
    let early = farm.farm(&["job", "retry", &first]).fails(6);
    early.explains(&["job 1 is not over"]).hints(&["farm job cancel 1"]);
    farm.farm(&["job", "cancel", &first]).succeeds();

    let failed = farm.farm(&["job", "retry", &first, "--failed", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&failed), [json!("trap"), json!("trap")]);
    let all = farm.farm(&["job", "retry", &first, "--detach"]).succeeds();
    assert_eq!(all.text(), "3\n");
    // Two that fail again, and the one that hangs; the last one may have been run before it was cancelled.
    let again = farm.wait_until("3", "hangs", |status| status["counts"]["failed"] == 2);
    let tasks = again["tasks"].as_u64();
    assert!(tasks == Some(3) || tasks == Some(4), "{again}");
    farm.farm(&["job", "cancel", "3"]).succeeds();
    farm.farm(&["job", "retry", "3", "--failed", "--detach", "--output", "json"]).succeeds();
    let nothing = farm.detach(&[m, "--args", "[0]"]);
    farm.farm(&["job", "cancel", &nothing]).succeeds();
    farm.farm(&["job", "retry", &nothing, "--failed"]).fails(6).explains(&["no task to be retried"]);
    farm.farm(&["job", "retry", "99"]).fails(8).explains(&["there is no job 99"]);
}

#[test]
fn a_retry_may_end_well() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let first = farm.farm(&["submit", m, "--args", "[2, 0, 3]", "--timeout", "500ms", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&first), [json!(4), json!("timeout"), json!(9)]);
    let second = farm.farm(&["job", "retry", "1", "--failed", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&second), [json!("timeout")], "it has the limits of the first");
    // Without its module and arguments there is nothing to run again.
    farm.farm(&["job", "delete", "1"]).succeeds();
    let third = farm.farm(&["job", "retry", "2", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&third), [json!("timeout")], "a retry does not need what it was made of");
}

#[test]
fn a_job_that_never_began_is_taken_up_again() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    let job = farm.detach(&[m, "--range", "0..5"]);
    farm.farm(&["job", "cancel", &job]).succeeds();
    farm.farm(&["job", "retry", &job, "--failed"]).fails(6).explains(&["job 1 has no task to be retried"]);
    let _worker = farm.world.worker(&farm.scheduler, "late", 1);
    assert_eq!(farm.farm(&["job", "retry", &job]).succeeds().json(), json!([0, 1, 4, 9, 16]));
}

#[test]
fn a_job_of_results_can_be_retried() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::GRAPH);
    let first = farm.detach(&[m, "-f", "square", "--range", "0..6"]);
    let second = farm.farm(&["submit", m, "-f", "even", "--args-from", &first, "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&second), [json!(0), json!("trap"), json!(4), json!("trap"), json!(16), json!("trap")]);
    let third = farm.farm(&["job", "retry", "2", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&third), [json!("trap"), json!("trap"), json!("trap")]);
    // What failed for its input would fail again.
    let fourth = farm.farm(&["submit", m, "-f", "square", "--args-from", "2", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&fourth)[1], "input-failed");
    let refused = farm.farm(&["job", "retry", "4"]).fails(6);
    refused.hints(&["retry the job that this comes from"]);
    farm.world.check_state();
}

#[test]
fn too_many_failures_stop_a_job() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::EVEN);
    let range = ["submit", m, "--range", "0..100000", "--max-failures", "3"];
    let stopped = farm.farm(&range).fails(7);
    stopped.says(&["error: job 1 failed: stopped because more than 3 tasks failed"]);
    let status = farm.job("1");
    assert_eq!(status["state"], "failed");
    assert!(status["counts"]["failed"].as_u64() > Some(3), "{status}");
    assert_ne!(status["counts"]["cancelled"], 0, "it stopped early");
    let enough = farm.farm(&["submit", m, "--range", "0..8", "--max-failures", "4"]).fails(1);
    enough.says(&["4 of 8 tasks failed"]);
}

/// A job of results of a job that still runs, or that lacks some.
#[test]
fn a_retry_leaves_out_what_has_no_input() {
    let farm = Farm::new(2);
    let m = module(&farm.world, wat::GRAPH);
    let first = farm.detach(&[m, "-f", "spin", "--args", "[2, 0, 3]"]);
    let second = farm.detach(&[m, "-f", "square", "--args-from", &first]);
    farm.wait_until(&second, "has what is there", |status| status["counts"]["succeeded"] == 2);
    farm.farm(&["job", "cancel", &second]).succeeds();
    farm.farm(&["job", "retry", &second]).fails(6).explains(&["job 1 is not over"]);
    farm.farm(&["job", "cancel", &first]).succeeds();
    farm.farm(&["job", "retry", &second]).fails(6).explains(&["job 2 has no task to be retried"]);
    farm.farm(&["job", "delete", &first]).succeeds();
    farm.farm(&["job", "retry", &second]).fails(6).explains(&["takes the results of job 1, which is deleted"]);
}
