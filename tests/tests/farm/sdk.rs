//! Functions made with the SDK, built here from `guests/behaviours` and run here and on a farm.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use farm_tests::{Finished, World};
use serde_json::{Value, json};

use crate::support::{kinds, outcomes};

/// The module, built once for all tests.
pub(crate) static BEHAVIOURS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let world = World::new();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = here.join("guests/behaviours");
    let read =
        |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let sdk = here.join("../guest-sdk").canonicalize().expect("the SDK");
    let manifest = read(source.join("Cargo.toml.in")).replace("{{sdk}}", sdk.to_str().expect("a plain path"));
    world.write("behaviours/Cargo.toml", manifest);
    world.write("behaviours/src/lib.rs", read(source.join("src/lib.rs")));
    world.write("behaviours/Cargo.lock", read(here.join("../Cargo.lock")));
    std::fs::read(world.build("behaviours")).expect("a module")
});

/// Runs a function on each of the arguments, here or on a farm.
fn call(world: &World, command: &str, function: &str, args: &Value, extra: &[&str]) -> Finished {
    world.write("b.wasm", &*BEHAVIOURS);
    let command = world.farm([command, "b.wasm", "--function", function, "--args", "-", "--format", "ndjson"]);
    command.with(extra).stdin(args.to_string()).run()
}

/// Values and kinds of failure are the same here and on a farm.
fn gives(function: &str, args: Value, expected: Value, extra: &[&str]) {
    let world = World::new();
    for command in ["run", "submit"] {
        let finished = call(&world, command, function, &args, extra);
        finished.says(&[]);
        assert_eq!(json!(kinds(&finished)), expected, "{function} by {command}");
    }
    world.leaves_nothing();
}

#[test]
fn parameters_come_by_position_or_by_name_and_may_be_left_out() {
    gives("add", json!([[1, 2], [1], {"b": 5, "a": 1}, {"a": 1}, [1, null]]), json!([3, 11, 6, 11, 11]), &[]);
}

#[test]
fn types_of_ones_own_are_checked_before_anything_is_sent() {
    let points = json!([[], [{"x": 1.5, "label": "a"}, {"x": -1.0, "label": null}]]);
    gives("shift", points, json!([[], [{"x": 2.5, "label": "a"}, {"x": 0.0, "label": null}]]), &[]);
    let world = World::new();
    for command in ["run", "submit"] {
        let finished = call(&world, command, "shift", &json!([[], [{"x": 1}, {"x": "far"}]]), &[]).with_code(4);
        finished.explains(&["element 1", "$[1].x: expected a number", "found \"far\""]);
        call(&world, command, "add", &json!([["1"]]), &[])
            .with_code(4)
            .explains(&["element 0", "$[0]: expected an integer"]);
    }
    let info = world.farm(["inspect", "b.wasm"]).succeeds();
    for part in ["add(a: i64, b: Option<i64>) -> i64", "A point", "Moves points to the right.", "reverse("] {
        assert!(info.text().contains(part), "{}", info.text());
    }
}

#[test]
fn bytes_go_in_and_out_raw() {
    let args = json!(["abc", {"base64": "AP8="}, [1, 2]]);
    gives("reverse", args, json!([{"base64": "Y2Jh"}, {"base64": "/wA="}, {"base64": "XTIsMVs="}]), &[]);
}

#[test]
fn a_panic_comes_with_its_message_place_and_backtrace() {
    let world = World::new();
    for command in ["run", "submit"] {
        let finished = call(&world, command, "panics", &json!(["went wrong"]), &[]).with_code(1);
        let error = outcomes(&finished)[0]["error"].clone();
        assert_eq!(error["kind"], "panic");
        let message = error["message"].as_str().expect("a text");
        assert!(message.starts_with("went wrong, ") && message.contains("src/lib.rs:"), "{message}");
        let frames = error["backtrace"].as_array().expect("a list");
        let named =
            |name: &str| frames.iter().find(|frame| frame["function"].as_str().is_some_and(|f| f.contains(name)));
        assert!(named("behaviours::inner").is_some(), "{frames:?}");
        let place = named("behaviours::panics").or_else(|| named("behaviours::inner")).expect("a frame");
        assert!(place["file"].as_str().is_some_and(|file| file.ends_with("lib.rs")), "{place}");
        assert!(place["line"].as_u64() > Some(0), "{place}");
        finished.stderr.contains("panic: went wrong").then_some(()).expect("told to people");
        assert!(finished.stderr.contains("at behaviours::inner"), "{}", finished.stderr);
    }
    world.leaves_nothing();
}

#[test]
fn an_error_is_told_in_its_own_words() {
    let world = World::new();
    for command in ["run", "submit"] {
        let args = json!(["no luck", "no luck", "another reason"]);
        let finished = call(&world, command, "refuses", &args, &[]).with_code(1);
        assert_eq!(kinds(&finished), vec![json!("returned-error"); 3]);
        finished.says(&[
            "3 of 3 tasks failed",
            "returned-error: no luck\n    tasks 0, 1",
            "returned-error: another reason",
        ]);
    }
}

#[test]
fn a_task_knows_its_attempt() {
    gives("at_attempt", json!([0, 1, 2]), json!([0, 1, 2]), &["--retries", "2"]);
    gives("at_attempt", json!([0, 1, 2]), json!([0, 1, "returned-error"]), &["--retries", "1"]);
}

#[test]
fn what_a_task_draws_is_the_same_here_and_there() {
    let world = World::new();
    let draw = |command: &str| kinds(&call(&world, command, "facts", &json!([0, 0, 0, 0]), &[]).with_code(0));
    let (here, there, again) = (draw("run"), draw("submit"), draw("submit"));
    for (index, facts) in there.iter().enumerate() {
        assert_eq!(facts[0], index);
    }
    let numbers = |facts: &[Value]| facts.iter().map(|facts| facts[2].as_u64().expect("a number")).collect::<Vec<_>>();
    let mut distinct = numbers(&there);
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 4, "each task draws its own");
    // Each farm counts its jobs from 1, and `run` is a job 1 as well: what is seeded by job and task comes again.
    assert_eq!(numbers(&there), numbers(&again));
    assert_eq!(numbers(&here), numbers(&there));
}

#[test]
fn what_a_task_says_is_kept_with_its_outcome() {
    let world = World::new();
    for command in ["run", "submit"] {
        let finished = call(&world, command, "talks", &json!(["Ada"]), &[]).with_code(0);
        let outcome = &outcomes(&finished)[0];
        assert_eq!((&outcome["value"], &outcome["stdout"]), (&json!(3), &json!("on stdout\n")));
        assert_eq!(outcome["stderr"], "on stderr\n");
        let log = outcome["log"].as_str().expect("a text");
        assert!(log.contains("info") && log.contains("hello Ada") && log.contains("warn"), "{log:?}");
    }
}

#[test]
fn a_task_sees_the_variables_and_inputs_of_its_job() {
    let world = World::new();
    world.write("data.csv", "12345");
    world.write("notes.txt", "");
    let extra = ["--env", "COLOUR=red", "--input", "data=data.csv", "--input", "notes=notes.txt"];
    for command in ["run", "submit"] {
        let finished = call(&world, command, "surroundings", &json!(["COLOUR", "HOME"]), &extra).with_code(0);
        let files = json!({"data": 5, "notes": 0});
        assert_eq!(kinds(&finished), [json!(["red", files]), json!([null, files])]);
        let none = call(&world, command, "surroundings", &json!(["HOME"]), &[]).with_code(1);
        assert_eq!(kinds(&none), ["returned-error"], "without inputs there is no file system");
    }
    world.leaves_nothing();
}
