//! What a task may use: time, memory, fuel, and the size of its result and output.

use std::time::Duration;

use farm_tests::World;
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module, outcomes, takes_less_than};
use crate::wat;

/// Each of the guests, with `--timeout` and alone in its job, ends within bounds, with that kind.
fn is_stopped(text: &str, argument: &str) {
    let world = World::new();
    let m = module(&world, text);
    for command in ["run", "submit"] {
        let command = world.farm([command, m, "--timeout", "300ms", "--args", argument, "--format", "ndjson"]);
        let finished = takes_less_than(20, || command.fails(1));
        assert_eq!(kinds(&finished), ["timeout"]);
        let message = outcomes(&finished)[0]["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("300 ms"), "{message}");
        finished.says(&["timeout: ", "task 0"]);
        world.leaves_nothing();
    }
}

#[test]
fn time_is_up_for_a_busy_loop() {
    is_stopped(wat::SPIN, "[0]");
}

#[test]
fn time_is_up_for_one_endless_instruction_after_the_other() {
    is_stopped(wat::FILL, "[0]");
}

#[test]
fn time_is_up_for_a_sleeper() {
    is_stopped(wat::SLEEP, r#"[""]"#);
}

#[test]
fn time_is_up_when_it_is_up() {
    const LIMIT: Duration = Duration::from_millis(100);
    let world = World::new();
    let m = module(&world, wat::SPIN);
    // The best of several, for a machine that does other things as well.
    let tries = (0..8).map(|_| world.farm(["run", m, "--timeout", "100ms", "--args", "[0]"]).fails(1).took);
    let best = tries.min().unwrap_or_default();
    assert!(best >= LIMIT, "{best:?}");
    assert!(best < LIMIT + Duration::from_millis(250), "start, 100 ms of work, and end took {best:?}");
}

#[test]
fn a_timeout_costs_the_other_tasks_nothing() {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SPIN);
    let args = json!((0..40).map(|x| x % 10).collect::<Vec<_>>()).to_string();
    let submit = farm.farm(&["submit", m, "--timeout", "200ms", "--args", &args, "--format", "ndjson"]);
    let finished = takes_less_than(30, || submit.fails(1));
    for (index, kind) in kinds(&finished).iter().enumerate() {
        let x = index % 10;
        assert_eq!(*kind, if x == 0 { json!("timeout") } else { json!(x * x) });
    }
    finished.says(&["4 of 40 tasks failed", "tasks 0, 10, 20, 30"]);
}

#[test]
fn a_task_in_time_is_left_alone() {
    let world = World::new();
    let m = module(&world, &wat::busy(1_000_000));
    let finished = world.farm(["submit", m, "--timeout", "1m", "--range", "0..200"]).succeeds();
    assert_eq!(finished.json(), crate::support::squares(200));
}

/// Gives the size of its memory after it has grown as far as it can, in pages.
const GROWS: &str = r#"(module (memory 1) (func (export "grows") (param i32) (result i32)
    (loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (memory.size)))"#;

#[test]
fn memory_is_what_the_job_allows() {
    let world = World::new();
    let m = module(&world, GROWS);
    for command in ["run", "submit"] {
        let finished = world.farm([command, m, "--memory", "64MiB", "--args", "[0]"]).succeeds();
        assert_eq!(finished.json(), json!([1024]));
    }
    let m = module(&world, wat::ALLOCATE);
    for command in ["run", "submit"] {
        let finished = world.farm([command, m, "--memory", "64MiB", "--args", "[0]", "--format", "ndjson"]).fails(1);
        assert_eq!(kinds(&finished), ["memory-limit"]);
        finished.says(&["memory-limit: the task needs more memory than the job's limit of 64 MiB"]);
    }
}

/// Fuel that one call of `busy` needs, by trying; `command` is `run` or `submit`.
fn fuel_needed(world: &World, command: &str, m: &str) -> u64 {
    let is_enough = |fuel: u64| {
        let finished =
            world.farm([command, m, "--fuel", &fuel.to_string(), "--args", "[3]", "--format", "ndjson"]).run();
        let kind = kinds(&finished).remove(0);
        assert!(kind == "out-of-fuel" || kind == 9, "{kind}");
        kind == 9
    };
    let (mut too_little, mut enough) = (0, 16_384);
    assert!(is_enough(enough));
    while enough - too_little > 1 {
        let middle = too_little.midpoint(enough);
        if is_enough(middle) { enough = middle } else { too_little = middle }
    }
    enough
}

#[test]
fn fuel_is_the_same_every_time_to_the_unit() {
    let world = World::new();
    let m = module(&world, &wat::busy(1000));
    let needed = fuel_needed(&world, "run", m);
    assert!(needed > 4000, "about one unit an instruction: {needed}");
    let args = json!(vec![3; 50]).to_string();
    for command in ["run", "submit"] {
        let submit = |fuel: u64| {
            let fuel = fuel.to_string();
            world.farm([command, m, "--fuel", &fuel, "--args", &args, "--format", "ndjson"]).run()
        };
        assert_eq!(kinds(&submit(needed)), vec![json!(9); 50]);
        let short = submit(needed - 1);
        assert_eq!(kinds(&short), vec![json!("out-of-fuel"); 50]);
        short.says(&[&format!("out-of-fuel: the task used up its fuel of {}", needed - 1)]);
    }
}

#[test]
fn fuel_ends_a_loop_without_end() {
    let world = World::new();
    let m = module(&world, wat::SPIN);
    let finished = world.farm(["submit", m, "--fuel", "1000000", "--args", "[0, 2]", "--format", "ndjson"]).fails(1);
    assert_eq!(kinds(&finished), [json!("out-of-fuel"), json!(4)]);
}

#[test]
fn a_result_may_be_as_large_as_the_job_allows() {
    let world = World::new();
    let m = module(&world, wat::CAT);
    let args = json!(["x".repeat(1000), "x".repeat(1001)]).to_string();
    for command in ["run", "submit"] {
        let finished = world.farm([command, m, "--max-result", "1000", "--args", "-", "--format", "ndjson"]);
        let finished = finished.stdin(args.as_str()).fails(1);
        assert_eq!(kinds(&finished), [json!("x".repeat(1000)), json!("result-too-large")]);
        finished.says(&["result-too-large: the result is larger than the job's limit of 1000 bytes"]);
    }
}

#[test]
fn of_what_a_task_prints_the_job_says_how_much_is_kept() {
    let world = World::new();
    let m = module(&world, &wat::printer(2, "0123456789", 100, 0));
    for command in ["run", "submit"] {
        let printed = |extra: &[&str]| {
            let finished = world.farm([command, m, "--args", r#"[""]"#, "--format", "ndjson"]).with(extra).succeeds();
            let line = outcomes(&finished).remove(0);
            (line["stderr"].as_str().unwrap_or_default().len(), line["truncated"].clone())
        };
        assert_eq!(printed(&[]), (1000, Value::Null));
        assert_eq!(printed(&["--max-output", "1KiB"]), (1000, Value::Null));
        assert_eq!(printed(&["--max-output", "123"]), (123, json!(true)));
    }
}

#[test]
fn sizes_and_times_that_are_none_are_refused() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for (option, value, word) in [
        ("--timeout", "soon", "500ms, 10s, 5m"),
        ("--memory", "lots", "512MiB"),
        ("--max-result", "-1", "512MiB"),
        ("--fuel", "-1", "--fuel"),
        ("--retries", "x", "--retries"),
    ] {
        let equals = format!("{option}={value}");
        world.farm(["run", m, "--args", "[1]", &equals]).fails(2).says(&[word]);
    }
}
