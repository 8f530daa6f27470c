//! What users of Dask Gateway do, step by step.

use farm_tests::slurm::Options;
use farm_tests::{World, guest};
use serde_json::{Value, json};

use crate::site::Site;

#[test]
fn named_clusters_scale_run_and_stop() {
    let Some(site) = Site::start(Options { nodes: 2, ..Options::default() }) else { return };
    let create = ["cluster", "create", "cms-1", "--provider", "slurm", "--partition", "cms", "--worker-cores", "1"];
    let made = site.farm(&create).with(["--worker-memory", "1GiB", "--time", "1h"]).succeeds();
    assert_eq!(made.text(), "cms-1\n");
    site.farm(&["cluster", "scale", "cms-1", "4"]).succeeds();
    let up = site.until_up("cms-1", 4);
    assert_eq!((&up["slots"], &up["wanted"], &up["short"]), (&json!(4), &json!(4), &json!([])), "{up}");
    for job in site.slurm.jobs() {
        assert!(job.name.starts_with("farm-cms-1"), "{job:?}");
    }

    // Another user, in another folder, who knows nothing but the ticket.
    let ticket = site.farm(&["ticket", "create", "--role", "user", "--name", "ada"]).succeeds();
    let ada = World::new();
    ada.farm(["login", ticket.text().trim()]).succeeds();
    let square = guest("square");
    let submit = |args: &[&str]| ada.farm(["submit", "--args", "[1, 2, 3, 4]"]).with([&square]).with(args);
    // The only cluster there is.
    assert_eq!(submit(&[]).succeeds().json(), json!([1, 4, 9, 16]));
    assert_eq!(submit(&["--cluster", "cms-1"]).succeeds().json(), json!([1, 4, 9, 16]));
    ada.farm(["cluster", "create", "--provider", "slurm"]).fails(6).explains(&["role of admin"]);

    site.farm(&["cluster", "create", "--provider", "slurm", "--partition", "debug"]).succeeds();
    let listed = ada.farm(["cluster", "list", "--output", "json"]).succeeds().json();
    let names: Vec<&str> = listed.as_array().expect("a list").iter().filter_map(|row| row["name"].as_str()).collect();
    assert!(names.contains(&"cms-1") && names.contains(&"cluster-1"), "{names:?}");
    submit(&[]).fails(2).explains(&["cms-1", "cluster-1"]).hints(&["--cluster"]);
    assert_eq!(submit(&["--cluster", "cms-1"]).succeeds().json(), json!([1, 4, 9, 16]));

    site.farm(&["cluster", "stop", "cluster-1"]).succeeds();
    site.farm(&["cluster", "stop", "cms-1"]).succeeds();
    farm_tests::wait_for("the end of the clusters", || {
        let listed = site.farm(&["cluster", "list", "--output", "json"]).succeeds().json();
        let left = listed.as_array().is_some_and(|rows| rows.iter().all(|row| row["name"] == "default"));
        (left && site.live_jobs().is_empty()).then_some(())
    });
    // Workers leave nothing of theirs behind but the program, which the next ones of this build use again.
    let scratch = site.world.path().join("scratch");
    let folders = std::fs::read_dir(&scratch).expect("a scratch folder").flatten();
    let left: Vec<_> = folders
        .flat_map(|folder| std::fs::read_dir(folder.path()).expect("a folder").flatten())
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with("program-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn clusters_and_their_workers_outlive_the_scheduler() {
    let Some(mut site) = Site::start(Options { nodes: 2, debug_nodes: 0, ..Options::default() }) else { return };
    site.farm(&["cluster", "create", "kept", "--provider", "slurm", "--scale", "4"]).succeeds();
    let before = site.until_up("kept", 4);
    let jobs = site.live_jobs();
    site.kill_scheduler();
    site.restart_scheduler();
    let after = site.until_up("kept", 4);
    let names = |status: &Value| -> Vec<String> {
        let workers = status["workers"].as_array().expect("workers").iter();
        let mut names: Vec<_> = workers.filter_map(|row| row["name"].as_str()).map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(&before), names(&after));
    assert_eq!(site.live_jobs(), jobs, "nothing was submitted again");

    // Stopped while nobody looks: what is in the queue of a cluster that is gone is cancelled.
    site.farm(&["cluster", "scale", "kept", "1"]).succeeds();
    site.until_up("kept", 1);
    farm_tests::wait_for("three jobs to end", || (site.live_jobs().len() == 1).then_some(()));
}
