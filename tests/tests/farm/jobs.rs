//! `farm jobs`, `farm job show/results` and `--detach`: what becomes of jobs, seen from any terminal.

use farm_tests::World;
use serde_json::{Value, json};

use crate::support::{Farm, module, squares};
use crate::wat;

#[test]
fn results_can_be_had_later_once_or_again() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::EVEN);
    let job = farm.detach(&[m, "--args", "[2, 3, 4]", "--name", "evens"]);
    assert!(job.parse::<u64>().is_ok(), "the id and nothing else: {job:?}");
    let another = farm.farm(&["submit", m, "--args", "[2]", "--detach", "--output", "json"]).succeeds();
    assert_eq!(another.json(), json!({"job": 2}));

    // Another terminal knows the farm by its ticket, and nothing of who submitted.
    let elsewhere = World::new();
    let ticket = farm.scheduler.admin_ticket();
    for _ in 0..2 {
        let results = elsewhere.farm(["job", "results", &job, "--ticket", &ticket]).fails(1);
        assert_eq!(results.json(), json!([4, null, 16]));
        results.says(&["1 of 3 tasks failed", "task 1"]);
    }
    let file = elsewhere.farm(["job", "results", &job, "--out", "r.json"]).with_env("FARM_TICKET", &ticket);
    file.fails(1);
    let written = std::fs::read(elsewhere.path().join("r.json")).expect("the results");
    assert_eq!(serde_json::from_slice::<Value>(&written).expect("JSON"), json!([4, null, 16]));
    let document = farm.farm(&["job", "results", &job, "--output", "json"]).fails(1).json();
    assert_eq!((&document["results"], &document["job"]["name"]), (&json!([4, null, 16]), &json!("evens")));
    assert_eq!(document["failures"][0]["index"], 1);
    let lines = farm.farm(&["job", "results", &job, "--format", "ndjson"]).fails(1);
    assert_eq!(crate::support::kinds(&lines), [json!(4), json!("trap"), json!(16)]);
}

#[test]
fn results_of_a_running_job_are_waited_for_or_not() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let job = farm.detach(&[m, "--args", "[2, 3, 0, 5]"]);
    farm.wait_until(&job, "has two results", |status| status["counts"]["succeeded"] == 2);
    let some = farm.farm(&["job", "results", &job, "--no-wait"]).succeeds();
    assert_eq!(some.json(), json!([4, 9, null, null]));
    let mut waiting = farm.farm(&["job", "results", &job, "--format", "ndjson"]).start();
    waiting.until_it_prints("9");
    assert!(waiting.is_running());
    farm.farm(&["job", "cancel", &job]).succeeds();
    let finished = waiting.wait().with_code(7);
    finished.says(&[&format!("error: job {job} was cancelled")]);
    assert_eq!(finished.lines().len(), 2, "good results are delivered: {}", finished.text());
}

#[test]
fn whoever_stops_waiting_for_results_leaves_the_job_alone() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let job = farm.detach(&[m, "--args", "[2, 0]"]);
    let mut waiting = farm.farm(&["job", "results", &job, "--format", "ndjson"]).start();
    waiting.until_it_prints("4");
    waiting.signal(rustix::process::Signal::INT);
    waiting.wait().with_code(130).says(&[&format!("job {job} goes on")]);
    assert_eq!(farm.job(&job)["state"], "running");
}

#[test]
fn ctrl_c_on_a_submit_cancels_its_job() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let mut client = farm.farm(&["submit", m, "--args", "[2, 0]", "--format", "ndjson"]).start();
    client.until_it_prints("4");
    client.signal(rustix::process::Signal::INT);
    client.wait().with_code(130).says(&["interrupted: cancelling job 1", "--detach"]);
    assert_eq!(farm.job("1")["state"], "cancelled");
}

#[test]
fn jobs_are_listed_and_shown() {
    let farm = Farm::new(1);
    assert_eq!(farm.farm(&["jobs"]).succeeds().text(), "no jobs\n");
    assert_eq!(farm.farm(&["jobs", "--output", "json"]).succeeds().json(), json!([]));
    let m = module(&farm.world, wat::SQUARE);
    farm.farm(&["submit", m, "--range", "0..10", "--name", "first", "--priority", "-3"]).succeeds();
    farm.farm(&["submit", m, "--range", "0..5"]).succeeds();

    let text = farm.farm(&["jobs"]).succeeds();
    let rows: Vec<Vec<&str>> = text.text().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["JOB", "STATE", "TASKS", "OK", "FAILED", "TOOK", "NEEDS", "OWNER", "NAME"]);
    assert_eq!((rows[1][0], rows[1][1], rows[1][2], rows[1].last()), ("1", "done", "10", Some(&"first")));
    assert_eq!((rows[2][0], rows[2][2], rows[2].last()), ("2", "5", Some(&"square")));
    let jobs = farm.farm(&["jobs", "--output", "json"]).succeeds().json();
    assert_eq!((&jobs[0]["name"], &jobs[1]["name"]), (&json!("first"), &Value::Null));

    let shown = farm.job("1");
    for name in ["id", "owner", "function", "module", "submitted_ms", "ended_ms", "retried", "reason", "progress"] {
        assert!(shown.get(name).is_some(), "{name} is a promise: {shown}");
    }
    assert_eq!((&shown["priority"], &shown["tasks"], &shown["state"]), (&json!(-3), &json!(10), &json!("done")));
    let counts = json!({"waiting": 0, "leased": 0, "succeeded": 10, "failed": 0, "cancelled": 0});
    assert_eq!(shown["counts"], counts);
    let text = farm.farm(&["job", "show", "1"]).succeeds();
    for part in ["job 1 (first): done", "square of module", "10: 10 succeeded, 0 failed", "priority -3"] {
        assert!(text.text().contains(part), "{}", text.text());
    }
}

#[test]
fn a_job_that_does_not_exist_is_told() {
    let farm = Farm::new(0);
    for args in [&["job", "show", "99"][..], &["job", "results", "99"], &["job", "cancel", "99"]] {
        farm.farm(args).fails(8).explains(&["there is no job 99"]).hints(&["farm jobs"]);
    }
    farm.farm(&["job", "show", "many"]).fails(2);
}

#[test]
fn without_a_farm_there_are_no_jobs() {
    let world = World::new();
    for args in [&["jobs"][..], &["job", "show", "1"], &["job", "results", "1"], &["job", "cancel", "1"]] {
        world.farm(args).fails(5).explains(&["no farm is up"]).hints(&["farm up"]);
    }
}

#[test]
fn a_job_waits_for_workers() {
    let farm = Farm::new(0);
    let m = module(&farm.world, wat::SQUARE);
    let text = farm.farm(&["status"]).succeeds();
    assert!(text.text().contains("no worker is connected"), "{}", text.text());
    let job = farm.detach(&[m, "--range", "0..100"]);
    assert_eq!((&farm.job(&job)["state"], &farm.job(&job)["counts"]["waiting"]), (&json!("waiting"), &json!(100)));
    let _worker = farm.world.worker(&farm.scheduler, "late", 1);
    assert_eq!(farm.farm(&["job", "results", &job]).succeeds().json(), squares(100));
}

#[test]
fn two_clients_at_once_get_their_own_results() {
    let farm = Farm::new(2);
    let m = module(&farm.world, &wat::busy(20_000));
    let start = |range: &str| farm.farm(&["submit", m, "--range", range]).start();
    let clients = ["0..3000", "10000..13000", "20000..23000"].map(start);
    for (client, first) in clients.into_iter().zip([0_u64, 10_000, 20_000]) {
        let expected: Value = (first..first + 3000).map(|x| x * x).collect();
        assert_eq!(client.wait().with_code(0).json(), expected);
    }
}

#[test]
fn a_million_tasks_of_one_user_do_not_hold_up_ten_of_another() {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(200_000));
    let many = farm.detach(&[m, "--range", "0..1000000"]);
    farm.wait_until(&many, "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(0));
    let user = farm.farm(&["ticket", "create", "--role", "user", "--name", "ada"]).succeeds();
    let few = farm.world.farm(["submit", m, "--range", "0..10"]).with_env("FARM_TICKET", user.text().trim());
    assert_eq!(few.succeeds().json(), squares(10));
    let status = farm.job(&many);
    assert_eq!(status["state"], "running", "{status}");
    farm.farm(&["job", "cancel", &many]).succeeds();
}

#[test]
fn a_module_is_compiled_once_on_each_worker() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SQUARE);
    for _ in 0..3 {
        assert_eq!(farm.farm(&["submit", m, "--range", "0..1000"]).succeeds().json(), squares(1000));
    }
    let log = farm.workers[0].log();
    assert_eq!(log.matches("compiled a module").count(), 1, "{log}");
}

#[test]
fn of_one_users_jobs_those_of_higher_priority_go_first() {
    let farm = Farm::new(0);
    let m = module(&farm.world, &wat::busy(3_000_000));
    let low = farm.detach(&[m, "--range", "0..60"]);
    let high = farm.detach(&[m, "--range", "0..60", "--priority", "5"]);
    let lowest = farm.detach(&[m, "--range", "0..10", "--priority", "-5"]);
    let _worker = farm.world.worker(&farm.scheduler, "late", 1);
    let ended = |job: &str| {
        let status = farm.wait_until(job, "is done", |status| status["state"] == "done");
        status["ended_ms"].as_u64().expect("a time")
    };
    let (low, high, lowest) = (ended(&low), ended(&high), ended(&lowest));
    assert!(high < low && low < lowest, "{high} {low} {lowest}");
}
