//! `farm submit` where no farm is up: it makes one for the job and leaves nothing behind.

use farm_tests::{World, guest, wait_for};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{module, outcomes, squares, takes_less_than};
use crate::wat;

#[test]
fn a_farm_is_made_for_the_job_and_goes_with_it() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    let finished = world.farm(["submit", m, "--args", "[1, 2, 3]"]).succeeds();
    assert_eq!(finished.json(), json!([1, 4, 9]));
    let cores = std::thread::available_parallelism().expect("known").get();
    finished.says(&["no farm is up: starting one for this job", &format!("with {cores} slot")]);
    assert_eq!(finished.stderr.lines().count(), 1, "no bar where stderr is no terminal: {}", finished.stderr);
    world.leaves_nothing();
}

#[test]
fn all_four_kinds_run_on_a_farm() {
    let world = World::new();
    assert_eq!(world.submit(module(&world, wat::SQUARE), &json!([7])), json!([49]));
    assert_eq!(world.submit(module(&world, wat::CAT), &json!(["a\n", {"stdin": "b"}])), json!(["a\n", "b"]));
    assert_eq!(world.submit(guest("square"), &json!([12])), json!([144]));
    let m = module(&world, wat::ECHO);
    let finished = world.farm(["submit", m, "--function", "echo", "--args", r#"["ü"]"#]).succeeds();
    assert_eq!(finished.json(), json!(["ü"]));
    world.leaves_nothing();
}

#[test]
fn arguments_and_results_are_as_with_run() {
    let world = World::new();
    let m = module(&world, wat::EVEN);
    world.write("args.ndjson", "0\n2\n3\n");
    let finished = world.farm(["submit", m, "--args", "args.ndjson", "--out", "results.json"]).fails(1);
    finished.says(&["1 of 3 tasks failed", "trap: the guest gave up", "task 2", "at refuse"]);
    assert_eq!(finished.text(), "");
    let written = std::fs::read(world.path().join("results.json")).expect("the results");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&written).expect("JSON"), json!([0, 4, null]));

    let finished = world.farm(["submit", m, "--range", "-4..100", "--format", "ndjson"]).fails(1);
    for (index, line) in outcomes(&finished).iter().enumerate() {
        let x = i64::try_from(index).expect("small") - 4;
        if x % 2 == 0 { assert_eq!(line["value"], x * x) } else { assert_eq!(line["error"]["kind"], "trap") }
    }
    let document = world.farm(["submit", m, "--args", "[2, 3]", "--output", "json"]).fails(1);
    assert_eq!(document.json()["results"], json!([4, null]));
    assert_eq!(document.json()["job"]["counts"]["failed"], 1);
    assert_eq!(document.json()["failures"][0]["index"], 1);
    assert_eq!(document.stderr, "", "with JSON nothing else is said");
    let empty = world.farm(["submit", m, "--args", "[]"]).succeeds();
    assert_eq!(empty.json(), json!([]));
    world.leaves_nothing();
}

#[test]
fn the_number_of_workers_can_be_chosen() {
    let world = World::new();
    let m = module(&world, &wat::busy(100_000));
    let finished = world.farm(["submit", m, "--range", "0..500", "--workers", "3"]).succeeds();
    finished.says(&["with 3 slots"]);
    assert_eq!(finished.json(), squares(500));
    let cores = std::thread::available_parallelism().expect("known").get();
    if cores < 3 {
        finished.says(&["warning: 3 slots on"]);
    }
    world.leaves_nothing();
    world.farm(["submit", m, "--range", "0..1", "--workers", "0"]).fails(2);
}

#[test]
fn detaching_needs_a_farm_that_stays() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    world.farm(["submit", m, "--args", "[1]", "--detach"]).fails(5).explains(&["--detach"]).hints(&["farm up"]);
    world.leaves_nothing();
}

/// A client whose job never ends, with its farm at work.
fn endless(world: &World) -> farm_tests::Running {
    let m = module(world, wat::SPIN);
    let mut client = world.farm(["submit", m, "--args", "[0, 0, 5]", "--format", "ndjson", "--workers", "3"]).start();
    client.until_it_prints("25");
    assert_eq!((world.parts("scheduler").len(), world.parts("worker").len()), (1, 3));
    wait_for("the slots", || (world.parts("slot").len() == 3).then_some(()));
    client
}

#[test]
fn ctrl_c_ends_the_farm_and_tidies_up() {
    let world = World::new();
    let client = endless(&world);
    let finished = takes_less_than(15, || {
        client.signal(Signal::INT);
        client.wait()
    });
    let finished = finished.with_code(130);
    finished.says(&["interrupted"]);
    world.leaves_nothing();
}

#[test]
fn a_farm_ends_with_its_client_even_if_that_is_killed() {
    let world = World::new();
    let client = endless(&world);
    client.signal(Signal::KILL);
    client.wait();
    world.leaves_no_process();
}

#[test]
fn a_farm_that_dies_is_told() {
    let world = World::new();
    let client = endless(&world);
    world.parts("scheduler")[0].signal(Signal::KILL);
    let finished = client.wait();
    assert!([Some(5), Some(70)].contains(&finished.code()), "{:?}", finished.status);
    finished.says(&["error: "]);
    world.leaves_nothing();
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    for command in ["run", "submit"] {
        let line = format!(
            "set -o pipefail; farm {command} {m} --range 0..100000 --format ndjson | head -n 1; echo $? ${{PIPESTATUS[@]}}"
        );
        let finished = world.shell(&format!("exec bash -c '{line}'")).succeeds();
        let lines: Vec<_> = finished.text().lines().collect();
        assert!(lines[0].starts_with("{\"index\":"), "{lines:?}");
        assert_eq!(lines[1], "0 0 0", "{}", finished.stderr);
        finished.says(&[]);
    }
    world.leaves_nothing();
}

#[test]
fn a_million_tasks_come_back_right_and_in_order() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    let finished = world.farm(["submit", m, "--range", "0..1000000"]).succeeds();
    let values: Vec<u64> = serde_json::from_slice(&finished.stdout).expect("an array of numbers");
    assert_eq!(values.len(), 1_000_000);
    let wrong = values.iter().enumerate().find(|(x, square)| **square != (*x as u64) * (*x as u64));
    assert_eq!(wrong, None);
    assert_eq!(values.iter().sum::<u64>(), 333_332_833_333_500_000);
    world.leaves_nothing();
}

#[test]
fn output_for_a_pipe_has_no_control_characters() {
    let world = World::new();
    let m = module(&world, &wat::busy(50_000_000));
    let finished = world.farm(["submit", m, "--range", "0..40"]).succeeds();
    assert!(!finished.stderr.contains(['\u{1b}', '\r']), "{:?}", finished.stderr);
}
