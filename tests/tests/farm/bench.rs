//! `farm bench`, in small.

use farm_tests::{World, guest};
use serde_json::Value;

use crate::support::module;

const NAMES: [&str; 13] = [
    "cores",
    "tasks",
    "runs",
    "sandbox_one_core_per_s",
    "sandbox_all_cores_per_s",
    "submit_range_per_s",
    "submit_range_share",
    "submit_args_per_s",
    "submit_args_share",
    "round_trip_median_ms",
    "round_trip_p99_ms",
    "first_result_cold_ms",
    "first_result_warm_ms",
];

#[test]
fn its_figures_have_stable_names() {
    let world = World::new();
    let command = world.farm(["bench", "--tasks", "1000", "--runs", "1", "--output", "json"]).with([guest("square")]);
    let figures = command.succeeds().json();
    let Value::Object(figures) = figures else { panic!("no object") };
    for name in NAMES {
        assert!(figures[name].as_f64().is_some_and(|figure| figure > 0.0), "{name} of {figures:?}");
    }
    // May be 0 for so few tasks.
    assert!(figures["scheduler_bytes_per_queued_task"].as_f64().is_some_and(|figure| figure >= 0.0), "{figures:?}");
    assert_eq!((&figures["tasks"], &figures["runs"]), (&Value::from(1000), &Value::from(1)));
    assert!(figures["round_trip_median_ms"].as_f64() <= figures["round_trip_p99_ms"].as_f64(), "{figures:?}");
    world.leaves_nothing();
}

#[test]
fn it_measures_a_function_of_ones_own_and_says_so_to_people() {
    let world = World::new();
    let m = module(&world, r#"(module (func (export "same") (param i64) (result i64) (local.get 0)))"#);
    let finished = world.farm(["bench", m, "--function", "same", "--tasks", "500", "--runs", "1"]).succeeds();
    for part in
        ["sandbox alone, one core", "farm submit --range", "round trip of one task", "p99", "cold", "a queued task"]
    {
        assert!(finished.text().contains(part), "{}", finished.text());
    }
    finished.says(&["the sandbox alone"]);
    world.farm(["bench", "no.wasm"]).fails(3).explains(&["there is no file no.wasm"]).hints(&["cargo xtask guests"]);
    world.leaves_nothing();
}
