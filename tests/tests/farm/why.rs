//! `farm why`: what a task waits for, and where its time went.

use serde_json::{Value, json};

use crate::support::{Farm, module};
use crate::wat;

fn says(farm: &Farm, target: &str, parts: &[&str]) {
    let said = farm.farm(&["why", target]).succeeds();
    for part in parts {
        assert!(said.text().contains(part), "{part:?} is not in: {}", said.text());
    }
}

#[test]
fn without_a_worker() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    let job = farm.detach(&[m, "--range", "0..10"]);
    let why = farm.why(&job);
    let group = |task: u64, count: u64| json!([{"task": task, "count": count, "cause": "no-worker", "cluster": "default", "coming": 0, "short": []}]);
    assert_eq!(why, json!({"job": 1, "state": "waiting", "reason": null, "groups": group(0, 10), "checkpoint": null}));
    assert_eq!(farm.why("1:7")["groups"], group(7, 1));
    says(&farm, "1", &["10 tasks of job 1", "wait for a worker: none of cluster default is connected"]);
    says(&farm, "1:7", &["task 7 of job 1 waits for a worker"]);
}

#[test]
fn when_all_slots_are_busy() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let first = farm.occupy(&[m, "--args", "[0]"]);
    let running = farm.wait_for_cause(&format!("{first}:0"), "running");
    assert_eq!((&running["worker_name"], &running["worker"]), (&json!("w0"), &farm.status()["workers"][0]["id"]));
    assert!(running["leased_ms"].as_u64().is_some(), "{running}");
    says(&farm, &first, &["task 0 of job 1 probably runs on worker", "(w0), leased"]);

    // One lease may be sent ahead, so that the place in the queue is that of the jobs behind.
    let behind: Vec<String> = (0..3).map(|_| farm.detach(&[m, "--range", "1..6"])).collect();
    let places = behind.iter().map(|job| farm.why(&format!("{job}:4"))["groups"][0].clone()).collect::<Vec<_>>();
    for place in &places[1..] {
        assert_eq!((&place["cause"], &place["slots"], &place["tasks_first"]), (&json!("slot"), &json!(1), &json!(4)));
    }
    let jobs_first: Vec<_> = places.iter().filter_map(|place| place["jobs_first"].as_u64()).collect();
    assert!(jobs_first.is_sorted_by(|a, b| a + 1 == *b), "each is one further behind: {places:?}");
    says(&farm, "4:4", &["waits for a slot: 4 tasks of this job and", "the only slot is busy"]);

    // They are all done in the end.
    farm.farm(&["job", "cancel", &first]).succeeds();
    for job in &behind {
        farm.wait_until(job, "is done", |status| status["state"] == "done");
        says(&farm, job, &["is done: every task has an outcome"]);
    }
}

#[test]
fn a_busy_farm_has_a_queue() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    farm.occupy(&[m, "--range", "0..1000"]);
    let last = farm.why("1:999")["groups"][0].clone();
    assert_eq!((&last["cause"], &last["slots"], &last["jobs_first"]), (&json!("slot"), &json!(1), &json!(0)), "{last}");
    let before = farm.why("1:998")["groups"][0]["tasks_first"].as_u64().expect("its place");
    assert_eq!(last["tasks_first"], before + 1);
    let other = farm.detach(&[m, "--range", "1..3"]);
    assert_eq!(farm.why(&format!("{other}:0"))["groups"][0]["jobs_first"], 1);
    says(&farm, &other, &["1 other job goes first; the only slot is busy"]);
}

#[test]
fn between_two_attempts() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::EVEN);
    let job = farm.detach(&[m, "--args", "[2, 3]", "--retries", "30"]);
    let why = farm.wait_for_cause(&format!("{job}:1"), "backoff");
    assert!(why["attempt"].as_u64() > Some(0) && why["wait_ms"].as_u64().is_some(), "{why}");
    let said = farm_tests::wait_for("words for it", || {
        let said = farm.farm(&["why", "1:1"]).succeeds();
        said.text().contains("waits for attempt").then_some(said)
    });
    assert!(said.text().contains("which begins in"), "{}", said.text());
    assert_eq!(farm.why("1:0")["groups"][0]["cause"], "ended");
}

#[test]
fn for_other_jobs() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::GRAPH);
    let first = farm.occupy(&[m, "-f", "spin", "--args", "[0]"]);
    let second = farm.detach(&[m, "-f", "square", "--args-from", &first]);
    let third = farm.detach(&[m, "-f", "square", "--range", "0..5", "--after", &second]);
    let input = json!([{"task": 0, "count": 1, "cause": "input", "job": 1, "first": 0, "end": 1}]);
    assert_eq!(farm.why(&second)["groups"], input);
    assert_eq!(farm.why(&third)["groups"], json!([{"task": 0, "count": 5, "cause": "after", "job": 2}]));
    says(&farm, &second, &["waits for its argument, the result of task 0 of job 1"]);
    says(&farm, &third, &["5 tasks of job 3", "wait for the end of job 2"]);
}

#[test]
fn for_an_end_that_has_come() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let job = farm.detach(&[m, "--args", "[2, 0, 3]"]);
    farm.wait_until(&job, "hangs", |status| status["counts"]["succeeded"] == 1);
    farm.farm(&["job", "cancel", &job]).succeeds();
    let why = farm.why(&format!("{job}:1"));
    assert_eq!((&why["state"], &why["groups"][0]["cause"]), (&json!("cancelled"), &json!("given-up")));
    says(&farm, "1", &["job 1 was cancelled"]);

    let even = farm_tests::wat(&farm.world, "even", wat::EVEN);
    farm.farm(&["submit", "--args", "[1, 2]", "--max-failures", "0"]).with([even]).fails(7);
    assert_eq!(farm.why("2:0")["groups"][0]["failed"], true);
    let why = farm.why("2");
    assert!(why["reason"].as_str().is_some_and(|reason| reason.contains("a task failed")), "{why}");
    says(&farm, "2", &["job 2 failed: stopped because a task failed"]);
}

fn expect_whole(account: &Value) -> u64 {
    let parts = ["queued_ns", "leased_ns", "fetching_ns", "compiling_ns", "running_ns", "storing_ns"];
    let number = |name: &str| account[name].as_u64().unwrap_or_else(|| panic!("no {name} in {account}"));
    let whole = number("whole_ns");
    assert_eq!(parts.into_iter().map(number).sum::<u64>(), whole, "{account}");
    whole
}

#[test]
fn a_finished_tasks_time_is_accounted_for() {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(200_000_000));
    farm.farm(&["submit", m, "--range", "0..4"]).succeeds();
    let ended = farm.job("1");
    let took_ms = ended["ended_ms"].as_u64().expect("a time") - ended["submitted_ms"].as_u64().expect("a time");
    for task in 0..4 {
        let why = farm.why(&format!("1:{task}"));
        let group = &why["groups"][0];
        assert_eq!((&group["cause"], &group["failed"], &group["task"]), (&json!("ended"), &json!(false), &json!(task)));
        let account = &group["account"];
        let whole = expect_whole(account);
        assert_ne!(account["running_ns"], 0, "{account}");
        // A job's end is when the last outcome arrives, and then it is stored. Times are rounded to milliseconds.
        let storing = account["storing_ns"].as_u64().expect("a number");
        assert!((whole - storing) / 1_000_000 <= took_ms + 2, "{account} in a job of {took_ms} ms");
    }
    says(&farm, "1:3", &["task 3 of job 1 has a result, after", "queued", "compiling", "running", "storing", "whole"]);
    // The first task found an empty cache.
    let first = farm.why("1:0")["groups"][0]["account"].clone();
    assert_ne!(first["compiling_ns"], 0, "{first}");

    // Of one that failed as well.
    let even = farm_tests::wat(&farm.world, "even", wat::EVEN);
    farm.farm(&["submit", "--args", "[1, 2]"]).with([even]).fails(1);
    let failed = farm.why("2:0")["groups"][0].clone();
    assert_eq!(failed["failed"], true);
    expect_whole(&failed["account"]);
    says(&farm, "2:0", &["task 0 of job 2 failed for good, after"]);
}

#[test]
fn of_what_is_not_there() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    farm.detach(&[m, "--range", "0..3"]);
    farm.farm(&["why", "1:3"]).fails(8).explains(&["job 1 has no task 3", "numbered from 0"]);
    farm.farm(&["why", "9"]).fails(8).explains(&["there is no job 9"]).hints(&["farm jobs"]);
    farm.farm(&["why", "9:1"]).fails(8).explains(&["there is no job 9"]);
    for nonsense in ["", "x", "1:", "1:x", "1:2:3"] {
        farm.farm(&["why", nonsense]).fails(2).says(&["JOB"]);
    }
}
