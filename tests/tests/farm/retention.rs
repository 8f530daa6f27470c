//! How long results are kept, and what is freed when they go.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use farm_tests::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Farm, module, squares};
use crate::wat;

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let (folders, mut found): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    folders.iter().for_each(|folder| found.extend(files(folder)));
    found
}

fn size(folder: &Path) -> u64 {
    files(folder).iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn results_go_when_their_time_is_over() {
    let farm = Farm::with(1, &["--keep-results", "3s"]);
    let m = module(&farm.world, wat::SPIN);
    let first = farm.detach(&[m, "--range", "1..20"]);
    let needed = farm.detach(&[m, "--args-from", &first]);
    // Before the only slot is taken for good.
    farm.wait_until(&needed, "is done", |status| status["state"] == "done");
    let running = farm.detach(&[m, "--args", "[2, 0]"]);
    for job in [&first, &needed] {
        wait_for("the end of its time", || (farm.farm(&["job", "show", job]).run().code() == Some(8)).then_some(()));
        farm.farm(&["job", "results", job]).fails(8).explains(&[&format!("there is no job {job}")]);
    }
    // One that is not over is kept as long as it takes.
    assert_eq!(farm.job(&running)["state"], "running");
    let jobs = farm.farm(&["jobs", "--output", "json"]).succeeds().json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs}");
    farm.world.check_state();
}

#[test]
fn what_is_needed_is_kept() {
    let farm = Farm::with(1, &["--keep-results", "500ms"]);
    let m = module(&farm.world, wat::GRAPH);
    let first = farm.detach(&[m, "-f", "square", "--range", "0..10"]);
    farm.wait_until(&first, "is done", |status| status["state"] == "done");
    let second = farm.detach(&[m, "-f", "spin", "--args-from", &first]);
    farm.wait_until(&second, "hangs", |status| status["counts"]["leased"] == 1);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(farm.job(&first)["state"], "done");
    farm.farm(&["job", "cancel", &second]).succeeds();
    for job in [&first, &second] {
        wait_for("the end of its time", || (farm.farm(&["job", "show", job]).run().code() == Some(8)).then_some(()));
    }
}

#[test]
fn a_deleted_job_is_gone_for_good() {
    let mut farm = Farm::with(1, &["--keep-results", "forever"]);
    // Some twenty megabytes.
    let m = module(&farm.world, &wat::printer(1, &"x".repeat(4096), 1, 0));
    let arguments = json!(vec![""; 5000]).to_string();
    let submit = farm.farm(&["submit", m, "--args", "-", "--out", "results.json"]).stdin(arguments);
    submit.succeeds();
    let before = size(&farm.world.state());
    assert!(before > 20_000_000, "{before}");
    farm.farm(&["job", "delete", "1", "--output", "json"]).succeeds();
    for args in [&["job", "show", "1"][..], &["job", "results", "1"], &["job", "delete", "1"], &["job", "retry", "1"]] {
        farm.farm(args).fails(8).explains(&["there is no job 1"]);
    }
    assert_eq!(farm.farm(&["jobs"]).succeeds().text(), "no jobs\n");
    wait_for("room on the disk", || (size(&farm.world.state()) < before / 2).then_some(()));
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    farm.farm(&["job", "show", "1"]).fails(8);
    farm.world.check_state();
}

#[test]
fn blobs_that_no_job_needs_are_removed() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::SQUARE);
    // No two bytes alike for long, so that nothing can make it smaller.
    let noise: Vec<u8> = (0..2_000_000_u32).flat_map(|x| x.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    farm.world.write("large.bin", noise);
    farm.farm(&["submit", m, "--range", "0..10", "--input", "large=large.bin"]).succeeds();
    let kept = farm_tests::wat(&farm.world, "kept", wat::EVEN);
    farm.farm(&["submit", "--args", "[2]"]).with([&kept]).succeeds();
    farm.farm(&["job", "delete", "1"]).succeeds();
    let state = farm.world.state();
    let gc = |farm: &Farm| farm.world.farm(["admin", "gc", "--output", "json", "--state"]).with([&state]);

    // Not beside a scheduler, which may be taking in a job.
    gc(&farm).fails(70);
    farm.stop_scheduler(Signal::TERM);
    let before = size(&state);
    let nothing = gc(&farm).succeeds().json();
    assert_eq!((&nothing["removed"], &nothing["bytes"]), (&json!(0), &json!(0)), "a new one may be for a job to come");

    let two_hours_ago = SystemTime::now() - Duration::from_secs(7200);
    for blob in files(&state.join("blobs")) {
        let file = File::options().write(true).open(&blob).expect("a blob");
        file.set_modified(two_hours_ago).expect("our own file");
    }
    let removed = gc(&farm).succeeds().json();
    // The module and the input of the first job.
    assert_eq!(removed["removed"], 2, "{removed}");
    assert!(removed["bytes"].as_u64() > Some(8_000_000), "{removed}");
    assert!(size(&state) + 8_000_000 <= before, "{} of {before}", size(&state));
    assert_eq!(gc(&farm).succeeds().json()["removed"], 0);
    farm.world.check_state();

    // What is left works.
    farm.restart_scheduler();
    assert_eq!(farm.farm(&["job", "results", "2"]).succeeds().json(), json!([4]));
    assert_eq!(farm.farm(&["submit", m, "--range", "0..10"]).succeeds().json(), squares(10));
}
