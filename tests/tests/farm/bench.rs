//! `farm bench`, in small.

use std::collections::BTreeSet;

use farm_tests::{World, guest};
use serde_json::{Map, Value};

use crate::support::module;

/// What each part of it prints.
const NAMES: [(&str, &[&str]); 6] = [
    ("sandbox", &["sandbox_one_core_per_s", "sandbox_all_cores_per_s"]),
    (
        "submit",
        &[
            "submit_range_per_s",
            "submit_range_share",
            "submit_args_per_s",
            "submit_args_share",
            "scheduler_bytes_per_queued_task",
        ],
    ),
    ("latency", &["round_trip_median_ms", "round_trip_p99_ms", "first_result_cold_ms", "first_result_warm_ms"]),
    (
        "durable",
        &[
            "durable_per_s",
            "ephemeral_per_s",
            "durable_share",
            "acknowledged_ms",
            "acknowledged_most_ms",
            "durable_round_trip_median_ms",
            "durable_round_trip_p99_ms",
        ],
    ),
    ("recovery", &["recovery_ms", "recovery_first_ms", "recovery_memory", "recovery_peak_memory", "state_bytes"]),
    (
        "loss",
        &[
            "lost_worker_noticed_ms",
            "lost_worker_tasks_again",
            "lost_worker_work_ms",
            "frozen_worker_noticed_ms",
            "frozen_worker_tasks_again",
            "frozen_worker_work_ms",
        ],
    ),
];

/// May be nothing: with so few tasks, or if all goes well.
const MAY_BE_ZERO: [&str; 3] =
    ["scheduler_bytes_per_queued_task", "lost_worker_tasks_again", "frozen_worker_tasks_again"];

/// Runs the parts of these names in small, and expects their figures and no others.
fn figures_of(parts: &[&str]) -> Map<String, Value> {
    let world = World::new();
    let mut command = world.farm(["bench", "--tasks", "1000", "--runs", "1", "--heartbeat", "1s", "--output", "json"]);
    for part in parts {
        command = command.with(["--only", part]);
    }
    let figures = command.with([guest("square")]).succeeds().json();
    let Value::Object(figures) = figures else { panic!("no object") };
    let of_parts = NAMES.iter().filter(|(part, _)| parts.contains(part)).flat_map(|(_, names)| *names);
    let names: BTreeSet<&str> = ["cores", "tasks", "runs"].iter().chain(of_parts).copied().collect();
    assert_eq!(figures.keys().map(String::as_str).collect::<BTreeSet<_>>(), names, "{parts:?}");
    for (name, figure) in &figures {
        let least = if MAY_BE_ZERO.contains(&name.as_str()) { 0.0 } else { f64::MIN_POSITIVE };
        assert!(figure.as_f64().is_some_and(|figure| figure >= least), "{name} of {figures:?}");
    }
    assert_eq!((&figures["tasks"], &figures["runs"]), (&Value::from(1000), &Value::from(1)));
    world.leaves_nothing();
    figures
}

/// Whether a figure is at most another one.
fn in_order(figures: &Map<String, Value>, least: &str, most: &str) {
    assert!(figures[least].as_f64() <= figures[most].as_f64(), "{least} and {most} of {figures:?}");
}

#[test]
fn its_figures_have_stable_names() {
    let figures = figures_of(&["sandbox", "submit", "latency"]);
    in_order(&figures, "round_trip_median_ms", "round_trip_p99_ms");
}

#[test]
fn it_measures_what_a_store_costs() {
    let figures = figures_of(&["durable"]);
    in_order(&figures, "durable_round_trip_median_ms", "durable_round_trip_p99_ms");
    in_order(&figures, "acknowledged_ms", "acknowledged_most_ms");
}

#[test]
fn it_kills_a_scheduler_and_starts_it_again() {
    let figures = figures_of(&["recovery"]);
    in_order(&figures, "recovery_first_ms", "recovery_ms");
    in_order(&figures, "recovery_memory", "recovery_peak_memory");
}

#[test]
fn it_loses_workers_and_no_task() {
    let figures = figures_of(&["loss"]);
    // No more than the one that ran in the only slot.
    for name in ["lost_worker_tasks_again", "frozen_worker_tasks_again"] {
        assert!(figures[name].as_f64().is_some_and(|tasks| tasks <= 1.0), "{name} of {figures:?}");
    }
}

#[test]
fn it_measures_a_function_of_ones_own_and_says_so_to_people() {
    let world = World::new();
    let m = module(&world, r#"(module (func (export "same") (param i64) (result i64) (local.get 0)))"#);
    let finished =
        world.farm(["bench", m, "--function", "same", "--tasks", "500", "--runs", "1", "--heartbeat", "1s"]).succeeds();
    for part in
        ["sandbox alone, one core", "farm submit --range", "round trip of one task", "p99", "cold", "a queued task"]
    {
        assert!(finished.text().contains(part), "{}", finished.text());
    }
    finished.says(&["the sandbox alone"]);
    world.farm(["bench", "no.wasm"]).fails(3).explains(&["there is no file no.wasm"]).hints(&["cargo xtask guests"]);
    world.leaves_nothing();
}
