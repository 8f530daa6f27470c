//! Jobs that need others: `--args-from`, `--reduce` and `--after`.

use farm_tests::Command;
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module};

/// What jobs of a graph run: `spin` squares, but never returns for 0; `even` squares, but traps on an odd number; `add`
/// adds; `minus` subtracts, so that it shows in which order it is given what.
const GRAPH: &str = r#"(module
    (func (export "spin") (param $x i64) (result i64)
        (if (i64.eqz (local.get $x)) (then (loop $again (br $again))))
        (i64.mul (local.get $x) (local.get $x)))
    (func (export "even") (param $x i64) (result i64)
        (if (i64.eq (i64.and (local.get $x) (i64.const 1)) (i64.const 1)) (then unreachable))
        (i64.mul (local.get $x) (local.get $x)))
    (func (export "add") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1)))
    (func (export "minus") (param i64 i64) (result i64) (i64.sub (local.get 0) (local.get 1))))"#;

fn farm(workers: usize) -> Farm {
    let farm = Farm::new(workers);
    module(&farm.world, GRAPH);
    farm
}

fn submit(farm: &Farm, args: &[&str]) -> Command {
    farm.farm(&["submit", "m.wat"]).with(args)
}

fn detach(farm: &Farm, args: &[&str]) -> String {
    submit(farm, args).with(["--detach"]).succeeds().text().trim().to_owned()
}

#[test]
fn results_are_arguments_element_by_element() {
    let farm = farm(2);
    let first = detach(&farm, &["-f", "spin", "--range", "1..500"]);
    let second = submit(&farm, &["-f", "spin", "--args-from", &first]).succeeds();
    assert_eq!(second.json(), (1..500_u64).map(|x| x.pow(4)).collect::<Value>());
}

#[test]
fn a_job_may_need_one_that_still_waits_for_a_worker() {
    let farm = farm(0);
    let first = detach(&farm, &["-f", "spin", "--range", "1..20"]);
    let second = detach(&farm, &["-f", "spin", "--args-from", &first]);
    let value = detach(&farm, &["--args-from", &second, "--reduce", "add"]);
    let _worker = farm.world.worker(&farm.scheduler, "late", 1);
    let results = farm.farm(&["job", "results", &value]).succeeds();
    assert_eq!(results.json(), json!([(1..20_u64).map(|x| x.pow(4)).sum::<u64>()]));
}

#[test]
fn a_task_starts_as_soon_as_its_own_argument_is_there() {
    let farm = farm(2);
    // Its last task never ends, and holds one of the slots.
    let second = detach(&farm, &["-f", "spin", "--args", "[1, 2, 3, 0]"]);
    let mut third = submit(&farm, &["-f", "spin", "--args-from", &second, "--format", "ndjson"]).start();
    third.until_it_prints("81");
    assert!(third.is_running(), "it waits for the last");
    farm.farm(&["job", "cancel", &second]).succeeds();
}

#[test]
fn results_are_reduced_whatever_their_number() {
    let farm = farm(2);
    for count in [1, 2, 3, 16, 17, 33, 257] {
        let range = format!("1..{}", count + 1);
        let sum: u64 = (1..=count).map(|x: u64| x * x).sum();
        for fan_in in ["2", "16"] {
            let reduced = submit(&farm, &["-f", "spin", "--range", &range, "--reduce", "add", "--fan-in", fan_in]);
            assert_eq!(reduced.succeeds().json(), sum, "{count} results, {fan_in} at a time");
        }
    }
}

#[test]
fn a_reduction_keeps_the_order() {
    let farm = farm(1);
    let reduced = submit(&farm, &["-f", "spin", "--args", "[9, 1, 2, 3]", "--reduce", "minus"]).succeeds();
    assert_eq!(reduced.json(), 81 - 1 - 4 - 9);
    // (81 - 1) - (4 - 9)
    let reduced = submit(&farm, &["-f", "spin", "--args", "[9, 1, 2, 3]", "--reduce", "minus", "--fan-in", "2"]);
    assert_eq!(reduced.succeeds().json(), 85);
}

#[test]
fn results_of_an_earlier_job_are_reduced() {
    let farm = farm(1);
    let first = detach(&farm, &["-f", "spin", "--range", "1..100"]);
    let sum = submit(&farm, &["--args-from", &first, "--reduce", "add"]).succeeds();
    assert_eq!(sum.json(), (1..100_u64).map(|x| x * x).sum::<u64>());
    let sum = submit(&farm, &["-f", "spin", "--args-from", &first, "--reduce", "add"]).succeeds();
    assert_eq!(sum.json(), (1..100_u64).map(|x| x.pow(4)).sum::<u64>());
}

#[test]
fn a_failed_result_fails_only_what_needs_it_and_is_named() {
    let farm = farm(1);
    let first = submit(&farm, &["-f", "even", "--args", "[2, 3, 4]"]).fails(1);
    assert_eq!(first.json(), json!([4, null, 16]));
    let second = submit(&farm, &["-f", "spin", "--args-from", "1", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&second), [json!(16), json!("input-failed"), json!(256)]);
    second.says(&["input-failed: task 1 of job 1 failed"]);
    // Further down, what is named is what it needs itself.
    let third = submit(&farm, &["-f", "spin", "--args-from", "2", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&third), [json!(256), json!("input-failed"), json!(65536)]);
    let sum = submit(&farm, &["--args-from", "1", "--reduce", "add", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&sum), [json!("input-failed")]);
    sum.says(&["task 1 of job 1 failed"]);
}

#[test]
fn a_job_whose_input_is_cancelled_fails_and_names_it() {
    let farm = farm(1);
    let first = farm.occupy(&["m.wat", "-f", "spin", "--args", "[0, 2]"]);
    let second = submit(&farm, &["-f", "spin", "--args-from", &first]).start();
    farm.wait_until("2", "is there", |_| true);
    farm.farm(&["job", "cancel", &first]).succeeds();
    second.wait().with_code(7).says(&["error: job 2 failed: ", "job 1", "was cancelled"]);
    assert_eq!(farm.job("2")["state"], "failed");
    // One that comes too late fails in the same way.
    submit(&farm, &["-f", "spin", "--args-from", &first]).fails(7).says(&["job 1", "was cancelled"]);
}

#[test]
fn a_job_starts_after_another() {
    let farm = farm(2);
    let first = farm.occupy(&["m.wat", "-f", "spin", "--args", "[0]"]);
    let done = detach(&farm, &["-f", "spin", "--args", "[2]"]);
    let next = detach(&farm, &["-f", "spin", "--range", "1..3", "--after", &done]);
    let never = detach(&farm, &["-f", "spin", "--range", "1..3", "--after", &done, "--after", &first]);
    assert_eq!(farm.farm(&["job", "results", &next]).succeeds().json(), json!([1, 4]));
    assert_eq!(farm.job(&never)["counts"]["waiting"], 2, "it waits for both");
    let waiting = farm.farm(&["job", "results", &never]).start();
    farm.farm(&["job", "cancel", &first]).succeeds();
    waiting.wait().with_code(7).says(&[&format!("job {never} failed: "), &format!("job {first}"), "was cancelled"]);
}

#[test]
fn a_job_with_failed_tasks_is_done_for_those_after_it() {
    let farm = farm(1);
    let first = detach(&farm, &["-f", "even", "--args", "[1, 2]"]);
    let next = submit(&farm, &["-f", "spin", "--range", "1..3", "--after", &first]).succeeds();
    assert_eq!(next.json(), json!([1, 4]));
}

#[test]
fn what_cannot_be_is_refused() {
    let farm = farm(0);
    submit(&farm, &["-f", "spin", "--args-from", "99"]).fails(8).explains(&["there is no job 99"]);
    submit(&farm, &["--args-from", "99", "--reduce", "add"]).fails(8).explains(&["there is no job 99"]);
    submit(&farm, &["-f", "spin", "--range", "0..3", "--after", "99"]).fails(8).explains(&["there is no job 99"]);
    submit(&farm, &["-f", "spin", "--args", "[]", "--reduce", "add"]).fails(4).explains(&["nothing to reduce"]);
    submit(&farm, &["-f", "spin", "--args", "[1]", "--reduce", "nope"]).fails(3).explains(&["no function `nope`"]);
    assert_eq!(farm.farm(&["jobs", "--output", "json"]).succeeds().json(), json!([]), "none of it left a job");
}

#[test]
fn a_job_that_another_needs_is_not_deleted() {
    let farm = farm(1);
    let first = detach(&farm, &["-f", "spin", "--args", "[1, 2, 0]"]);
    farm.wait_until(&first, "has two results", |status| status["counts"]["succeeded"] == 2);
    let needs = detach(&farm, &["-f", "spin", "--args-from", &first]);
    farm.farm(&["job", "delete", &first]).fails(6).explains(&["job 1 is not over"]);
    let done = submit(&farm, &["-f", "spin", "--args", "[2, 3]"]).start();
    farm.farm(&["job", "cancel", &first]).succeeds();
    assert_eq!(done.wait().with_code(0).json(), json!([4, 9]));
    farm.wait_until(&needs, "has failed", |status| status["state"] == "failed");

    farm.occupy(&["m.wat", "-f", "spin", "--args", "[0]"]);
    let needs = detach(&farm, &["-f", "spin", "--args-from", "3"]);
    farm.farm(&["job", "delete", "3"]).fails(6).explains(&["job 3", &format!("job {needs}")]);
    farm.farm(&["job", "cancel", &needs]).succeeds();
    farm.farm(&["job", "delete", "3"]).succeeds();
    farm.farm(&["job", "results", "3"]).fails(8);
}

#[test]
fn the_jobs_of_a_small_sum_are_all_kept_and_listed() {
    let farm = farm(1);
    let value = submit(&farm, &["-f", "spin", "--range", "1..11", "--reduce", "add", "--fan-in", "4", "--detach"]);
    assert_eq!(value.succeeds().text(), "3\n", "ten, three, one");
    assert_eq!(farm.farm(&["job", "results", "3"]).succeeds().json(), json!([385]));
    let all = farm.farm(&["job", "results", "1"]).succeeds().json();
    assert_eq!(all, (1..11_u64).map(|x| x * x).collect::<Value>());
}
