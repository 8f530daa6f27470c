//! Clusters whose workers are processes of the scheduler's host. Those on SLURM have tests of their own.

use farm_tests::{guest, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::Farm;

fn show(farm: &Farm, cluster: &str) -> Value {
    farm.farm(&["cluster", "show", cluster, "--output", "json"]).succeeds().json()
}

fn until_up(farm: &Farm, cluster: &str, count: u64) -> Value {
    wait_for(&format!("{count} workers of {cluster}"), || {
        Some(show(farm, cluster)).filter(|status| status["up"] == count && status["starting"] == 0)
    })
}

fn names(status: &Value) -> Vec<String> {
    let workers = status["workers"].as_array().into_iter().flatten();
    let mut names: Vec<_> = workers.filter_map(|worker| Some(worker["name"].as_str()?.to_owned())).collect();
    names.sort();
    names
}

#[test]
fn a_local_cluster_scales_up_and_down_and_stops() {
    let farm = Farm::new(0);
    farm.farm(&["cluster", "create", "here", "--provider", "local", "--scale", "2"]).succeeds();
    let up = until_up(&farm, "here", 2);
    assert_eq!((&up["slots"], &up["short"]), (&json!(2), &json!([])), "{up}");
    let square = guest("square");
    let square = square.to_str().expect("text");
    assert_eq!(farm.farm(&["submit", square, "--args", "[3, 4]"]).succeeds().json(), json!([9, 16]));

    farm.farm(&["cluster", "scale", "here", "1"]).succeeds();
    let left = until_up(&farm, "here", 1);
    assert!(names(&up).contains(&names(&left)[0]), "{up} {left}");

    farm.farm(&["cluster", "stop", "here"]).succeeds();
    wait_for("the end of the cluster", || {
        let listed = farm.farm(&["cluster", "list", "--output", "json"]).succeeds().json();
        listed.as_array()?.iter().all(|row| row["name"] != "here").then_some(())
    });
    farm.farm(&["cluster", "show", "here"]).fails(8).explains(&["there is no cluster here"]);
    // What waits for a cluster that is gone says so.
    farm.farm(&["submit", square, "--args", "[3]", "--cluster", "here"]).fails(8).explains(&["no cluster here"]);
}

#[test]
fn a_cluster_without_workers_is_stopped_at_once() {
    let farm = Farm::new(0);
    farm.farm(&["cluster", "create", "empty", "--provider", "local"]).succeeds();
    farm.farm(&["cluster", "stop", "empty"]).succeeds();
    wait_for("the end of the cluster", || {
        let listed = farm.farm(&["cluster", "list", "--output", "json"]).succeeds().json();
        listed.as_array()?.iter().all(|row| row["name"] != "empty").then_some(())
    });
}

#[test]
fn local_workers_outlive_a_scheduler_that_is_killed() {
    let mut farm = Farm::new(0);
    farm.farm(&["cluster", "create", "here", "--provider", "local", "--scale", "2"]).succeeds();
    let before = until_up(&farm, "here", 2);
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    let after = until_up(&farm, "here", 2);
    assert_eq!(names(&before), names(&after), "none was started again");
}

#[test]
fn a_local_worker_that_is_killed_is_replaced() {
    let farm = Farm::new(0);
    farm.farm(&["cluster", "create", "here", "--provider", "local", "--scale", "1"]).succeeds();
    let before = until_up(&farm, "here", 1);
    let worker = farm.world.parts("worker").into_iter().next().expect("a worker");
    worker.signal(Signal::KILL);
    wait_for("another worker", || {
        let status = show(&farm, "here");
        (status["up"] == 1 && names(&status) != names(&before)).then_some(())
    });
}

#[test]
fn a_cluster_follows_the_work() {
    let farm = Farm::new(0);
    farm.farm(&["cluster", "create", "wide", "--provider", "local"]).succeeds();
    farm.farm(&["cluster", "adapt", "wide", "--min", "0", "--max", "2", "--idle", "2s"]).succeeds();
    assert_eq!(show(&farm, "wide")["up"], 0);
    let square = guest("square");
    let square = square.to_str().expect("text");
    assert_eq!(farm.farm(&["submit", square, "--args", "[3, 4]"]).succeeds().json(), json!([9, 16]));
    until_up(&farm, "wide", 0);
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let farm = Farm::new(0);
    let create = |args: &[&str]| farm.farm(&["cluster", "create"]).with(args);
    create(&["x", "--provider", "local", "--partition", "cms"]).fails(6).explains(&["local", "no partition"]);
    create(&["default", "--provider", "local"]).fails(6).explains(&["default"]);
    create(&["A b", "--provider", "local"]).fails(6).explains(&["A b"]);
    create(&["x", "--provider", "local"]).succeeds();
    create(&["x", "--provider", "local"]).fails(6).explains(&["there is a cluster x already"]);
    farm.farm(&["cluster", "adapt", "x", "--min", "3", "--max", "2"]).fails(6).explains(&["at least 3 and at most 2"]);
    farm.farm(&["cluster", "scale", "y", "3"]).fails(8).explains(&["no cluster y", "x"]);
    farm.farm(&["cluster", "scale", "default", "3"]).fails(6).explains(&["started by hand"]);
}
