//! Guests that misbehave, on a farm that goes on working: one behaviour each.

use farm_tests::World;
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module, outcomes, takes_less_than};
use crate::wat;

/// Runs the module on one argument and tells its failure; afterwards the farm does honest work.
fn failure(text: &str, argument: &str, options: &[&str]) -> Value {
    let farm = Farm::new(1);
    let m = module(&farm.world, text);
    let command = farm.farm(&["submit", m, "--args", argument, "--format", "ndjson"]).with(options);
    let finished = takes_less_than(60, || command.fails(1));
    let outcome = outcomes(&finished).remove(0);
    let square = module(&farm.world, wat::SQUARE);
    assert_eq!(farm.farm(&["submit", square, "--range", "0..100"]).succeeds().json(), crate::support::squares(100));
    outcome["error"].clone()
}

#[test]
fn one_that_recurses_without_end() {
    let error = failure(wat::RECURSE, "[1]", &[]);
    assert_eq!(error["kind"], "trap");
    assert!(error["message"].as_str().is_some_and(|message| message.starts_with("stack overflow")), "{error}");
    assert_eq!(error["backtrace"][0]["function"], "deeper");
}

#[test]
fn one_that_allocates_without_end() {
    let error = failure(wat::ALLOCATE, "[1]", &[]);
    assert_eq!(error["kind"], "memory-limit");
    assert_eq!(error["message"], "the task needs more memory than the job's limit of 1 GiB");
}

#[test]
fn one_that_fills_tables_without_end() {
    let module = r#"(module (table $t 1 funcref) (func (export "grow") (param i32)
        (loop $again
            (if (i32.eq (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)) (then unreachable))
            (br $again))))"#;
    assert_eq!(failure(module, "[1]", &["--memory", "256KiB"])["kind"], "memory-limit");
}

#[test]
fn one_that_returns_a_gigabyte() {
    let error = failure(wat::RETURN_A_GIGABYTE, "[1]", &["--memory", "2GiB"]);
    assert_eq!(error["kind"], "result-too-large");
    assert_eq!(error["message"], "the result is larger than the job's limit of 64 MiB");
}

#[test]
fn one_that_prints_a_gigabyte_as_its_result() {
    let module = wat::printer(1, &"x".repeat(65_536), 16_384, 0);
    assert_eq!(failure(&module, r#"[""]"#, &["--max-result", "1MiB"])["kind"], "result-too-large");
}

#[test]
fn one_that_prints_a_gigabyte_to_stderr_loses_most_of_it() {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::printer(2, &"x".repeat(65_536), 16_384, 0));
    let command = farm.farm(&["submit", m, "--args", r#"[""]"#, "--format", "ndjson"]);
    let finished = takes_less_than(60, || command.succeeds());
    let outcome = outcomes(&finished).remove(0);
    assert_eq!(outcome["truncated"], true);
    assert_eq!(outcome["stderr"].as_str().map(str::len), Some(64 << 10));
}

#[test]
fn one_that_traps_where_it_starts() {
    let module = r#"(module (func $s unreachable) (start $s) (func (export "f") (param i32)))"#;
    assert_eq!(failure(module, "[1]", &[])["kind"], "trap");
    let module = r#"(module (func (export "_initialize") unreachable) (func (export "f") (param i32)))"#;
    assert_eq!(failure(module, "[1]", &[])["kind"], "trap");
}

#[test]
fn one_that_wants_more_memory_than_it_may_from_the_start() {
    let module = r#"(module (memory 2000) (func (export "f") (param i32)))"#;
    assert_eq!(failure(module, "[1]", &["--memory", "64MiB"])["kind"], "memory-limit");
}

#[test]
fn they_do_not_disturb_each_other_nor_the_honest() {
    let farm = Farm::new(2);
    let world = &farm.world;
    let guests = [
        ("spin", wat::SPIN, "300ms", "timeout"),
        ("fill", wat::FILL, "300ms", "timeout"),
        ("deep", wat::RECURSE, "1m", "trap"),
        ("grow", wat::ALLOCATE, "1m", "memory-limit"),
    ];
    let hostile = guests.map(|(name, text, time, kind)| {
        let path = farm_tests::wat(world, name, text);
        let options = ["--args", "[0, 0, 0]", "--timeout", time, "--memory", "300MiB", "--format", "ndjson"];
        (farm.farm(&["submit"]).with([path]).with(options).start(), kind)
    });
    let m = module(world, wat::SQUARE);
    let honest = farm.farm(&["submit", m, "--range", "0..20000"]).start();
    assert_eq!(honest.wait().with_code(0).json(), crate::support::squares(20_000));
    for (running, kind) in hostile {
        assert_eq!(kinds(&running.wait().with_code(1)), vec![json!(kind); 3]);
    }
}

#[test]
fn run_survives_them_as_well() {
    let world = World::new();
    for (text, args, kind) in
        [(wat::RECURSE, "[1]", "trap"), (wat::ALLOCATE, "[1]", "memory-limit"), (wat::FILL, "[1]", "timeout")]
    {
        let m = module(&world, text);
        let command = world.farm(["run", m, "--args", args, "--timeout", "5s", "--format", "ndjson"]);
        assert_eq!(kinds(&takes_less_than(60, || command.fails(1))), [kind]);
    }
    world.leaves_nothing();
}
