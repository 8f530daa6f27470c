//! `farm job retry`: what a job did not get is run again, as a job of its own.

use serde_json::json;

use crate::support::{Farm, module};
use crate::wat;

#[test]
fn what_failed_is_run_again_as_a_new_job() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::EVEN);
    let first = farm.farm(&["submit", m, "--range", "0..6"]).fails(1);
    assert_eq!(first.json(), json!([0, null, 4, null, 16, null]));
    for args in [&["job", "retry", "1"][..], &["job", "retry", "1", "--failed"]] {
        // It fails again, but this is about which tasks are run: 1, 3 and 5.
        let again = farm.farm(args).fails(1);
        assert_eq!(again.json(), json!([null, null, null]));
        again.says(&["3 tasks of job 1", "numbered from 0", "3 of 3 tasks failed"]);
    }
    assert_eq!(farm.job("1")["counts"]["failed"], 3, "the first stays as it is");
    assert_eq!(farm.job("3")["tasks"], 3);
}

#[test]
fn a_retry_can_be_left_alone() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::EVEN);
    farm.farm(&["submit", m, "--args", "[1, 2]"]).fails(1);
    let job = farm.farm(&["job", "retry", "1", "--detach"]).succeeds();
    assert_eq!(job.text(), "2\n");
    assert_eq!(farm.farm(&["job", "results", "2"]).fails(1).json(), json!([null]));
}

#[test]
fn a_cancelled_job_is_taken_up_again() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    let job = farm.detach(&[m, "--range", "0..5"]);
    farm.farm(&["job", "retry", &job]).fails(6).explains(&["job 1 is not over"]);
    farm.farm(&["job", "cancel", &job]).succeeds();
    farm.farm(&["job", "retry", &job, "--failed"]).fails(6).explains(&["job 1 has no task to be retried"]);
    let _worker = farm.world.worker(&farm.scheduler, "late", 1);
    assert_eq!(farm.farm(&["job", "retry", &job]).succeeds().json(), json!([0, 1, 4, 9, 16]));
}

#[test]
fn where_nothing_is_missing_nothing_is_retried() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SQUARE);
    farm.farm(&["submit", m, "--range", "0..5"]).succeeds();
    farm.farm(&["job", "retry", "1"]).fails(6).explains(&["job 1 has no task to be retried"]);
    farm.farm(&["job", "retry", "9"]).fails(8).explains(&["there is no job 9"]);
    assert_eq!(farm.farm(&["jobs", "--output", "json"]).succeeds().json().as_array().map(Vec::len), Some(1));
}
