//! The harness, as a user's own tests use it.

use std::time::Duration;

use farm_tests::{World, guest, wait_for, wait_up_to};
use serde_json::json;

use crate::support::module;
use crate::wat;

/// What the documentation of the crate shows, but for the building, which is in `crates`.
#[test]
fn a_function_is_tested_on_a_farm_of_its_own() {
    let world = World::new();
    let results = world.submit(guest("square"), &json!([1, 2, 3]));
    assert_eq!(results, json!([1, 4, 9]));

    std::fs::copy(guest("square"), world.path().join("square.wasm")).expect("a copy");
    let command = world.farm(["submit", "square.wasm", "--args", "[1, true]"]);
    command.fails(4).explains(&["element 1", "expected an integer"]).hints(&["farm inspect"]);
    world.leaves_nothing();
}

#[test]
fn submit_uses_the_farm_that_is_up() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    world.farm(["up", "--workers", "1"]).succeeds();
    assert_eq!(world.submit(m, &json!([3])), json!([9]));
    let jobs = world.farm(["jobs", "--output", "json"]).succeeds().json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(1));
    // The world ends it.
}

#[test]
fn a_world_ends_what_runs_in_it() {
    let world = World::new();
    world.farm(["up", "--workers", "1"]).succeeds();
    let processes = world.processes();
    assert!(processes.len() >= 2, "{processes:?}");
    let folder = world.path().to_owned();
    drop(world);
    let is_alive = |pid: u32| std::path::Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok();
    wait_for("their end", || processes.iter().all(|process| !is_alive(process.pid)).then_some(()));
    assert!(!folder.exists());
}

#[test]
fn worlds_do_not_see_each_other() {
    let (one, other) = (World::new(), World::new());
    one.farm(["up", "--workers", "1"]).succeeds();
    other.farm(["status"]).fails(5);
    assert_eq!(other.processes(), []);
    assert!(!one.processes().is_empty());
}

#[test]
#[should_panic(expected = "left behind")]
fn what_is_left_behind_is_noticed() {
    let world = World::new();
    world.write("tmp/forgotten", "");
    world.leaves_nothing();
}

#[test]
#[should_panic(expected = "still running after")]
fn a_command_that_hangs_is_killed() {
    let world = World::new();
    let m = module(&world, wat::SPIN);
    world.farm(["run", m, "--args", "[0]"]).within(Duration::from_millis(700)).run();
}

#[test]
#[should_panic(expected = "the error lacks")]
fn an_error_without_the_words_is_noticed() {
    World::new().farm(["inspect", "no.wasm"]).fails(3).explains(&["something else"]);
}

#[test]
#[should_panic(expected = "left: Some(3)")]
fn another_exit_code_is_noticed() {
    World::new().farm(["inspect", "no.wasm"]).succeeds();
}

#[test]
fn waiting_has_an_end() {
    assert_eq!(wait_up_to(Duration::from_millis(50), || None::<()>), None);
    assert_eq!(wait_up_to(Duration::ZERO, || Some(1)), Some(1));
}
