//! Jobs that need other jobs: results as arguments, reductions, and order.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module, squares};
use crate::wat;

fn graph(workers: usize) -> (Farm, &'static str) {
    let farm = Farm::new(workers);
    let m = module(&farm.world, wat::GRAPH);
    (farm, m)
}

fn sum_of_squares(count: u64) -> u64 {
    (0..count).map(|x| x * x).sum()
}

#[test]
fn results_are_arguments_element_by_element() {
    let (farm, m) = graph(2);
    let first = farm.detach(&[m, "-f", "square", "--range", "0..1000"]);
    let second = farm.farm(&["submit", m, "-f", "square", "--args-from", &first]).succeeds();
    let expected: Value = (0..1000_u64).map(|x| x * x * x * x).collect();
    assert_eq!(second.json(), expected);
    // Of a job that is over as well, and of a job that is made of one.
    let third = farm.farm(&["submit", m, "-f", "even", "--args-from", "2", "--format", "ndjson"]).fails(1);
    let kinds = kinds(&third);
    assert_eq!((&kinds[2], &kinds[3]), (&json!(16), &json!("trap")));
    assert_eq!(farm.job("3")["needs"], json!([2]));
    farm.world.check_state();
}

#[test]
fn a_result_is_passed_on_while_others_are_made() {
    let (farm, m) = graph(2);
    let first = farm.detach(&[m, "-f", "spin", "--args", "[2, 3, 4, 0]"]);
    let args = ["submit", m, "-f", "square", "--args-from", &first, "--format", "ndjson"];
    let mut second = farm.farm(&args).start();
    for value in [4, 9, 16] {
        second.until_it_prints(&format!("\"value\":{value}"));
    }
    assert_eq!(farm.job(&first)["state"], "running");
    assert!(second.is_running());
    let why = farm.why("2:3");
    let cause = json!({"cause": "input", "job": 1, "first": 3, "end": 4, "task": 3, "count": 1});
    assert_eq!(why["groups"], json!([cause]));

    // What a cancelled job leaves missing fails whoever needs it.
    farm.farm(&["job", "cancel", &first]).succeeds();
    let finished = second.wait().with_code(7);
    finished.says(&["error: job 2 failed: job 1", "was cancelled"]);
    assert_eq!(finished.lines().len(), 3);
}

#[test]
fn what_others_need_is_not_stuck_behind_a_long_task() {
    let (farm, m) = graph(2);
    let first = farm.detach(&[m, "-f", "spin", "--args", "[2, 3, 0, 4]"]);
    let _second = farm.detach(&[m, "-f", "square", "--args-from", &first]);
    farm.wait_until(&first, "has all results but one", |status| status["counts"]["succeeded"] == 3);
    farm.wait_until("2", "has them as well", |status| status["counts"]["succeeded"] == 3);
}

#[test]
fn results_are_reduced_in_trees_of_any_shape() {
    let (farm, m) = graph(2);
    for fan_in in ["2", "16"] {
        for count in [1, 2, 3, 16, 17, 33, 257] {
            let range = format!("0..{count}");
            let reduce = ["submit", m, "-f", "square", "--range", &range, "--reduce", "add", "--fan-in", fan_in];
            let reduced = farm.farm(&reduce).succeeds();
            assert_eq!(reduced.json(), sum_of_squares(count), "{count} by {fan_in}");
        }
    }
    // It leaves nothing that runs.
    let jobs = farm.farm(&["jobs", "--output", "json"]).succeeds().json();
    assert!(jobs.as_array().is_some_and(|jobs| jobs.iter().all(|job| job["state"] == "done")), "{jobs}");
    farm.world.check_state();
}

#[test]
fn a_reduction_keeps_the_order() {
    let (farm, m) = graph(1);
    let reduce = ["submit", m, "-f", "square", "--args", "[9, 1, 2, 3]", "--reduce", "minus"];
    assert_eq!(farm.farm(&reduce).succeeds().json(), 81 - 1 - 4 - 9);
    // (81 - 1) - (4 - 9)
    assert_eq!(farm.farm(&reduce).with(["--fan-in", "2"]).succeeds().json(), 85);
}

#[test]
fn all_jobs_of_a_detached_reduction_are_there() {
    let (farm, m) = graph(1);
    let value = farm.detach(&[m, "-f", "square", "--range", "1..11", "--reduce", "add", "--fan-in", "4"]);
    assert_eq!(value, "3", "ten, three, one");
    assert_eq!(farm.farm(&["job", "results", "3"]).succeeds().json(), json!([385]));
    let all = farm.farm(&["job", "results", "1"]).succeeds().json();
    assert_eq!(all, (1..11_u64).map(|x| x * x).collect::<Value>());
}

#[test]
fn results_that_are_there_are_reduced() {
    let (farm, m) = graph(1);
    let first = farm.detach(&[m, "-f", "square", "--range", "0..100"]);
    let sum = farm.farm(&["submit", m, "--args-from", &first, "--reduce", "add"]).succeeds();
    assert_eq!(sum.json(), sum_of_squares(100));
    // Mapped first.
    let args = ["submit", m, "-f", "square", "--args-from", &first, "--reduce", "add", "--output", "json"];
    let sum = farm.farm(&args).succeeds().json();
    assert_eq!(sum["result"], (0..100_u64).map(|x| x.pow(4)).sum::<u64>());
    // Left alone, it is the last job that is named.
    let last = farm.detach(&[m, "--args-from", &first, "--reduce", "add", "--fan-in", "10"]);
    let jobs = farm.farm(&["jobs", "--output", "json"]).succeeds().json();
    assert_eq!(jobs.as_array().and_then(|jobs| jobs.last()).map(|job| job["id"].to_string()), Some(last.clone()));
    assert_eq!(farm.farm(&["job", "results", &last]).succeeds().json(), json!([sum_of_squares(100)]));
}

#[test]
fn a_function_of_a_list_reduces() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SUM);
    for (count, fan_in) in [(1, "2"), (5, "2"), (100, "16"), (7, "100")] {
        let range = format!("0..{count}");
        // There are two functions, so that the other one must be meant.
        let reduce = ["submit", m, "--range", &range, "--reduce", "sum", "--fan-in", fan_in];
        assert_eq!(farm.farm(&reduce).succeeds().json(), sum_of_squares(count), "{count} by {fan_in}");
    }
}

#[test]
fn a_farm_of_its_own_will_do_for_a_reduction() {
    let world = farm_tests::World::new();
    let m = module(&world, wat::GRAPH);
    let reduced = world.farm(["submit", m, "-f", "square", "--range", "0..50", "--reduce", "add"]).succeeds();
    assert_eq!(reduced.json(), sum_of_squares(50));
    world.leaves_nothing();
    for args in [["--args-from", "1"], ["--after", "1"]] {
        let alone = world.farm(["submit", m, "-f", "square"]).with(args);
        let alone = if args[0] == "--after" { alone.with(["--range", "0..2"]) } else { alone };
        alone.fails(5).explains(&["no farm is up"]).hints(&["farm up"]);
    }
}

#[test]
fn what_cannot_be_reduced_is_told() {
    let (farm, m) = graph(0);
    let submit = |args: &[&str]| farm.farm(&["submit", m, "-f", "square"]).with(args);
    submit(&["--range", "0..0", "--reduce", "add"]).fails(4).explains(&["nothing to reduce"]);
    let three = submit(&["--range", "0..9", "--reduce", "three"]).fails(2);
    three.explains(&["three has 3 parameters", "two values", "a list"]).hints(&["farm inspect"]);
    submit(&["--range", "0..9", "--reduce", "other"]).fails(3).explains(&["other"]);
    submit(&["--range", "0..9", "--reduce", "add", "--fan-in", "1"]).fails(2).says(&["--fan-in"]);
    submit(&["--range", "0..9", "--fan-in", "4"]).fails(2).says(&["--reduce"]);
    submit(&["--range", "0..9", "--args-from", "1"]).fails(2).says(&["--args-from"]);
    assert_eq!(farm.farm(&["jobs", "--output", "json"]).succeeds().json(), json!([]), "nothing was started");
}

#[test]
fn a_failed_input_fails_who_needs_it() {
    let (farm, m) = graph(1);
    let first = farm.detach(&[m, "-f", "even", "--args", "[2, 3, 4]"]);
    let second = farm.farm(&["submit", m, "-f", "square", "--args-from", &first, "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&second), [json!(4), json!("input-failed"), json!(16)]);
    second.says(&["input-failed", "task 1 of job 1 failed"]);
    // Through several levels.
    let third = farm.farm(&["submit", m, "-f", "square", "--args-from", "2", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&third), [json!(16), json!("input-failed"), json!(256)]);
    third.says(&["task 1 of job 2 failed"]);
    // There is no value of what lacks a part.
    let sum = farm.farm(&["submit", m, "--args-from", &first, "--reduce", "add"]).fails(1);
    sum.says(&["input-failed", "task 1 of job 1 failed"]);
    assert!(!sum.text().contains('6'), "{}", sum.text());
    farm.world.check_state();
}

#[test]
fn a_job_starts_when_those_before_it_are_done() {
    let (farm, m) = graph(1);
    let spin = farm.detach(&[m, "-f", "spin", "--args", "[0]"]);
    let quick = farm.detach(&[m, "-f", "square", "--args", "[3]"]);
    let third = farm.detach(&[m, "-f", "square", "--args", "[4]", "--after", &quick, "--after", &spin]);
    assert_eq!(farm.job(&third)["needs"], json!([1, 2]));
    assert_eq!(farm.why(&third)["groups"][0]["cause"], "after");
    farm.farm(&["job", "cancel", &spin]).succeeds();
    let failed = farm.farm(&["job", "results", &third]).fails(7);
    failed.says(&["error: job 3 failed: job 1", "was cancelled"]);
    // Of one that was cancelled long since.
    let late = farm.farm(&["submit", m, "-f", "square", "--args", "[4]", "--after", &spin]).fails(7);
    late.says(&["failed: job 1", "was cancelled"]);
    // Of one that is done.
    let after = farm.farm(&["submit", m, "-f", "square", "--args", "[5]", "--after", &quick]).succeeds();
    assert_eq!(after.json(), json!([25]));
    // Of one that is done though some of its tasks have failed.
    farm.farm(&["submit", m, "-f", "even", "--args", "[1, 2]"]).fails(1);
    let after = farm.farm(&["submit", m, "-f", "square", "--args", "[6]", "--after", "6"]).succeeds();
    assert_eq!(after.json(), json!([36]));
    // And of one that failed as a whole.
    farm.farm(&["submit", m, "-f", "even", "--args", "[1, 2]", "--max-failures", "0"]).fails(7);
    let last = farm.farm(&["submit", m, "-f", "square", "--args", "[5]", "--after", "8"]).fails(7);
    last.says(&["failed: job 8", "failed"]);
}

#[test]
fn a_job_that_comes_after_has_its_turn() {
    let farm = Farm::new(2);
    let m = module(&farm.world, &wat::busy(100_000_000));
    let first = farm.detach(&[m, "--range", "0..8"]);
    let second = farm.detach(&[m, "--range", "0..2", "--after", &first, "--priority", "9"]);
    let done = farm.wait_until(&second, "has begun", |status| status["counts"]["waiting"] != 2);
    assert_eq!(farm.job(&first)["state"], "done");
    assert_eq!(done["needs"], json!([1]));
    assert_eq!(farm.farm(&["job", "results", &second]).succeeds().json(), squares(2));
}

#[test]
fn only_ones_own_jobs_are_known() {
    let (farm, m) = graph(1);
    let first = farm.detach(&[m, "-f", "square", "--range", "0..10"]);
    let ada = farm.ticket_for("ada");
    for args in [["--args-from", "99"], ["--after", "99"]] {
        let submit = farm.farm(&["submit", m, "-f", "square"]).with(args);
        let submit = if args[0] == "--after" { submit.with(["--range", "0..2"]) } else { submit };
        submit.fails(8).explains(&["there is no job 99"]).hints(&["farm jobs"]);
    }
    let of_another = farm.world.farm(["submit", m, "-f", "square", "--args-from", &first]);
    of_another.with_env("FARM_TICKET", &ada).fails(8).explains(&["there is no job 1"]);
    let of_another = farm.world.farm(["submit", m, "-f", "square", "--range", "0..2", "--after", &first]);
    of_another.with_env("FARM_TICKET", &ada).fails(8).explains(&["there is no job 1"]);
    for command in [&["job", "show", "1"][..], &["job", "delete", "1"], &["job", "retry", "1"], &["why", "1"]] {
        let hers = farm.world.farm(command).with_env("FARM_TICKET", &ada);
        hers.fails(8).explains(&["there is no job 1"]);
    }
}

#[test]
fn what_is_needed_is_not_deleted() {
    let (farm, m) = graph(1);
    let first = farm.detach(&[m, "-f", "square", "--range", "0..10"]);
    farm.wait_until(&first, "is done", |status| status["state"] == "done");
    let second = farm.detach(&[m, "-f", "spin", "--args-from", &first]);
    let refused = farm.farm(&["job", "delete", &first]).fails(6);
    refused.explains(&["job 2 needs job 1"]).hints(&["farm why 2"]);
    let running = farm.farm(&["job", "delete", &second]).fails(6);
    running.explains(&["job 2 is not over"]).hints(&["farm job cancel 2"]);
    farm.farm(&["job", "cancel", &second]).succeeds();
    for job in [&first, &second] {
        farm.farm(&["job", "delete", job]).succeeds().says(&[&format!("job {job} is deleted")]);
        farm.farm(&["job", "delete", job]).fails(8);
    }
    farm.world.check_state();
}

#[test]
fn ctrl_c_cancels_all_jobs_of_a_reduction() {
    let (farm, m) = graph(1);
    let client = farm.farm(&["submit", m, "-f", "spin", "--range", "0..40", "--reduce", "add"]).start();
    farm.wait_until("3", "is there", |_| true);
    client.signal(Signal::INT);
    client.wait().with_code(130).says(&["interrupted: cancelling jobs"]);
    for job in ["1", "2", "3"] {
        assert_eq!(farm.job(job)["state"], "cancelled", "{job}");
    }
}

#[test]
fn a_graph_outlives_its_scheduler_and_workers() {
    let mut farm = Farm::new(1);
    let text = wat::busy(1_000_000);
    // Besides `busy`, something that adds.
    let add = r#"(func (export "add") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1))))"#;
    let m = module(&farm.world, &format!("{}{add}", &text[..text.len() - 1]));
    let args = ["submit", m, "-f", "busy", "--range", "0..2000", "--reduce", "add"];
    let client = farm.farm(&args).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(50));
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    farm.wait_until("2", "has begun", |status| status["counts"]["succeeded"].as_u64() > Some(2));
    let worker = farm.workers.remove(0);
    worker.signal(Signal::KILL);
    worker.wait();
    let _another = farm.world.worker(&farm.scheduler, "w1", 1);
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    assert_eq!(client.wait().with_code(0).json(), sum_of_squares(2000));
    farm.world.check_state();
}
