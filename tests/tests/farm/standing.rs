//! `farm up`, `down` and `status`: a farm that stays.

use std::net::UdpSocket;

use farm_tests::{World, wait_for};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{module, squares};
use crate::wat;

#[test]
fn a_farm_stays_until_it_is_taken_down() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    let up = world.farm(["up", "--workers", "2"]).succeeds();
    up.says(&["a farm of 2 slots is up at 127.0.0.1:", "`farm down` ends it"]);
    let status = world.farm(["status", "--output", "json"]).succeeds().json();
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["workers"][0]["slots"], 1);

    // Later submits find it, and say nothing of a farm of their own.
    let submitted = world.farm(["submit", m, "--args", "[5]"]).succeeds();
    assert_eq!((submitted.json(), submitted.stderr.as_str()), (json!([25]), ""));
    let noted = world.farm(["submit", m, "--args", "[6]", "--workers", "4"]).succeeds();
    noted.says(&["note: --workers is for a farm that is made for one job"]);
    let jobs = world.farm(["jobs", "--output", "json"]).succeeds().json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(2));

    world.farm(["down"]).succeeds().says(&["the farm is down"]);
    world.leaves_nothing();
    world.farm(["status"]).fails(5).explains(&["no farm is up"]).hints(&["farm up", "farm login", "--ticket"]);
    world.farm(["down"]).fails(5).explains(&["no farm is up"]);
}

#[test]
fn status_is_for_people_and_for_programs() {
    let world = World::new();
    let up = world.farm(["up", "--output", "json"]).succeeds().json();
    let cores = std::thread::available_parallelism().expect("known").get();
    assert_eq!(up["slots"], cores, "one slot a core by default: {up}");
    let address = up["address"].as_str().expect("a text");
    assert!(address.starts_with("127.0.0.1:"), "{up}");
    let status = world.farm(["status", "--output", "json"]).succeeds().json();
    assert_eq!(status["pid"], up["scheduler_pid"]);
    assert_eq!(status["workers"][0]["pid"], up["worker_pids"][0]);
    for name in ["version", "uptime_s", "memory", "tasks", "live_jobs"] {
        assert!(status.get(name).is_some(), "{name} is a promise: {status}");
    }
    for name in ["id", "name", "host", "slots", "version", "leased", "finished", "draining", "connected_s"] {
        assert!(status["workers"][0].get(name).is_some(), "{name} is a promise: {status}");
    }
    let text = world.farm(["status"]).succeeds();
    for part in ["1 workers", "WORKER", "SLOTS", "local-0", "0 live jobs"] {
        assert!(text.text().contains(part), "{}", text.text());
    }
    let down = world.farm(["down", "--output", "json"]).succeeds().json();
    assert_eq!(down, json!({"down": true}));
    world.leaves_nothing();
}

#[test]
fn a_second_up_changes_nothing() {
    let world = World::new();
    world.farm(["up", "--workers", "1"]).succeeds();
    let before = world.processes();
    world.farm(["up"]).succeeds().says(&["a farm is up already, at 127.0.0.1:"]);
    world.farm(["up", "--workers", "1"]).succeeds().says(&["a farm is up already"]);
    let other = world.farm(["up", "--workers", "2"]).fails(2);
    other.says(&["error: it has another number of workers", "hint: `farm down`"]);
    let schedulers = |processes: Vec<farm_tests::Process>| {
        processes
            .into_iter()
            .filter(|process| process.part() == "scheduler")
            .map(|process| process.pid)
            .collect::<Vec<_>>()
    };
    assert_eq!(schedulers(world.processes()), schedulers(before));
    world.farm(["down"]).succeeds();
    world.leaves_nothing();
}

#[test]
fn a_farm_that_was_killed_is_noticed_and_replaced() {
    let world = World::new();
    let m = module(&world, wat::SQUARE);
    world.farm(["up", "--workers", "1"]).succeeds();
    world.parts("scheduler")[0].signal(Signal::KILL);
    wait_for("the end of the scheduler", || world.parts("scheduler").is_empty().then_some(()));

    world.farm(["status"]).fails(5).explains(&["no farm is up"]);
    let submitted = world.farm(["submit", m, "--args", "[5]"]).succeeds();
    assert_eq!(submitted.json(), json!([25]));
    submitted.says(&["note: the farm of `farm up` is gone", "farm down", "no farm is up: starting one"]);

    world.farm(["up", "--workers", "1"]).succeeds();
    assert_eq!(world.farm(["submit", m, "--args", "[6]"]).succeeds().json(), json!([36]));
    world.farm(["down"]).succeeds();
    world.leaves_nothing();
}

#[test]
fn up_brings_back_a_farm_with_its_jobs() {
    let world = World::new();
    let m = module(&world, &wat::busy(2_000_000));
    world.farm(["up", "--workers", "1"]).succeeds();
    assert_eq!(world.farm(["submit", m, "--args", "[5]"]).succeeds().json(), json!([25]));
    let detached = world.farm(["submit", m, "--range", "0..1000", "--detach"]).succeeds();
    assert_eq!(detached.text(), "2\n");
    let client = world.farm(["submit", m, "--range", "0..500"]).start();
    wait_for("the job of the client", || (world.farm(["job", "show", "3"]).run().code() == Some(0)).then_some(()));
    world.parts("scheduler")[0].signal(Signal::KILL);
    wait_for("the end of the scheduler", || world.parts("scheduler").is_empty().then_some(()));
    world.farm(["jobs"]).fails(5).explains(&["no farm is up"]).hints(&["`farm up` brings it back with its jobs"]);

    world.farm(["up", "--workers", "1"]).succeeds();
    // Those who waited go on, and those who left find their results.
    assert_eq!(client.wait().with_code(0).json(), squares(500));
    assert_eq!(world.farm(["job", "results", "1"]).succeeds().json(), json!([25]));
    assert_eq!(world.farm(["job", "results", "2"]).succeeds().json(), squares(1000));
    let status = world.farm(["status", "--output", "json"]).succeeds().json();
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(1), "{status}");
    world.farm(["down"]).succeeds();
    world.leaves_no_process();

    // The state stays for the next one.
    world.farm(["up", "--workers", "1"]).succeeds();
    assert_eq!(world.farm(["job", "results", "2"]).succeeds().json(), squares(1000));
    world.farm(["down"]).succeeds();
    world.leaves_nothing();
}

#[test]
fn down_tidies_up_after_a_farm_that_was_killed() {
    let world = World::new();
    world.farm(["up", "--workers", "1"]).succeeds();
    world.parts("scheduler")[0].signal(Signal::KILL);
    world.farm(["down"]).succeeds();
    world.leaves_nothing();
    world.farm(["down"]).fails(5);
}

#[test]
fn down_ends_a_farm_at_work() {
    let world = World::new();
    let m = module(&world, wat::SPIN);
    world.farm(["up", "--workers", "2"]).succeeds();
    let client = world.farm(["submit", m, "--args", "[0, 0, 0]"]).start();
    wait_for("the tasks", || {
        let status = world.farm(["status", "--output", "json"]).succeeds().json();
        (status["tasks"]["leased"].as_u64()? >= 2).then_some(())
    });
    world.farm(["down"]).succeeds();
    let finished = client.wait();
    assert_eq!(finished.code(), Some(5), "{:?}", finished.stderr);
    finished.says(&["error: "]);
    world.leaves_nothing();
}

#[test]
fn an_address_can_be_chosen_if_it_is_free() {
    let world = World::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let refused = world.farm(["up", "--listen", &address]).fails(70);
    refused.explains(&["cannot listen", &address, "in use"]).hints(&["--listen"]);
    world.leaves_nothing();
    drop(taken);
    let up = world.farm(["up", "--listen", &address, "--workers", "1", "--output", "json"]).succeeds();
    assert_eq!(up.json()["address"], address.as_str());
    world.farm(["down"]).succeeds();
}

#[test]
fn more_slots_than_cores_are_worth_a_warning() {
    let world = World::new();
    let many = std::thread::available_parallelism().expect("known").get() + 1;
    let up = world.farm(["up", "--workers", &many.to_string()]).succeeds();
    up.says(&[&format!("warning: {many} slots on")]);
    world.farm(["down"]).succeeds();
    world.leaves_nothing();
}
