//! Clusters whose queue refuses, and whose workers are taken away.

use farm_tests::slurm::{Options, Preemption};
use farm_tests::wait_for;
use serde_json::json;

use crate::site::Site;
use crate::work::{Work, short, up};

/// Creates a cluster of workers with one core.
fn create(site: &Site, name: &str, scale: &str, more: &[&str]) {
    site.farm(&["cluster", "create", name, "--provider", "slurm", "--scale", scale]).with(more).succeeds();
}

/// A node that dies is noticed soon.
fn hasty() -> Options {
    Options { nodes: 2, debug_nodes: 0, slurmd_timeout: 2, message_timeout: 2, ..Options::default() }
}

#[test]
fn a_partition_that_is_not_there_is_named_and_tried_less_and_less() {
    let Some(site) = Site::start(Options { nodes: 1, debug_nodes: 0, ..Options::default() }) else { return };
    create(&site, "astray", "2", &["--partition", "moon"]);
    // The first pauses are of 1 s and 5 s.
    let status = site.until_cluster("astray", "a third attempt", |status| status["retry_in_s"].as_u64() > Some(6));
    assert!(short(&status).contains("invalid partition specified: moon"), "{status}");
    assert_eq!((&status["queued"], &status["starting"], &status["up"]), (&json!(0), &json!(0), &json!(0)), "{status}");
    let listed = site.farm(&["cluster", "list"]).succeeds();
    assert!(listed.text().contains("astray: short of workers") && listed.text().contains("moon"), "{}", listed.text());
    assert!(listed.text().contains("the next attempt is in"), "{}", listed.text());
    assert_eq!(site.slurm.jobs(), []);
    site.farm(&["cluster", "stop", "astray"]).succeeds();
    wait_for("the end of the cluster", || {
        (site.farm(&["cluster", "show", "astray"]).run().code() != Some(0)).then_some(())
    });
}

#[test]
fn what_can_never_run_is_told_in_the_words_of_the_queue() {
    // It waits in the queue for better times, or is refused.
    for enforce_part_limits in [false, true] {
        let options = Options { nodes: 1, debug_nodes: 1, enforce_part_limits, ..Options::default() };
        let Some(site) = Site::start(options) else { return };
        create(&site, "wide", "1", &["--worker-cores", "64"]);
        create(&site, "long", "1", &["--partition", "debug", "--time", "1h"]);
        let told = if enforce_part_limits { "More processors requested" } else { "in the queue: PartitionConfig" };
        let wide = site.until_cluster("wide", told, |status| short(status).contains(told));
        assert_eq!(wide["queued"], u64::from(!enforce_part_limits), "{wide}");
        let told =
            if enforce_part_limits { "Requested time limit is invalid" } else { "in the queue: PartitionTimeLimit" };
        let long = site.until_cluster("long", told, |status| short(status).contains(told));
        assert_eq!(long["queued"], u64::from(!enforce_part_limits), "{long}");
    }
}

#[test]
fn workers_that_are_cancelled_by_hand_are_replaced() {
    let Some(site) = Site::start(Options { nodes: 2, debug_nodes: 0, ..Options::default() }) else { return };
    create(&site, "c", "2", &[]);
    let before = site.until_up("c", 2);
    let mut work = Work::start(&site, "c", 1500, 20);
    work.until_done(&site, 50);
    let jobs = site.live_jobs();
    for job in &jobs {
        let scancel = site.slurm.command("scancel").arg(job).status();
        assert!(scancel.expect("scancel starts").success());
    }
    let after = site.until_cluster("c", "two others", |status| {
        let (before, now) = (up(&before), up(status));
        now.len() == 2 && now.iter().all(|name| !before.contains(name))
    });
    assert_eq!((&after["lost"], &after["retry_in_s"]), (&json!(0), &json!(null)), "{after}");
    work.is_under_way();
    work.completes(&site);
    assert_eq!(site.slurm.jobs().len(), 4, "{:?}", site.slurm.jobs());
}

#[test]
fn the_workers_of_a_node_that_crashes_are_replaced_on_another() {
    let Some(site) = Site::start(hasty()) else { return };
    create(&site, "c", "2", &["--sbatch-arg=--exclusive"]);
    let before = site.until_up("c", 2);
    let work = Work::start(&site, "c", 1500, 20);
    work.until_done(&site, 50);
    site.slurm.node("n1").crash();
    site.until_cluster("c", "the loss to show", |status| status["up"] == 1 && status["lost"] == 1);
    // There is nowhere else to go.
    let alone = site.until_cluster("c", "another to be asked for", |status| status["queued"] == 1);
    assert!(up(&before).contains(&up(&alone)[0]), "{alone}");
    assert!(!short(&alone).is_empty(), "{alone}");
    site.slurm.node("n1").start();
    site.until_up("c", 2);
    work.completes(&site);
}

#[test]
fn a_node_that_hangs_and_comes_back_disturbs_nothing() {
    let Some(site) = Site::start(hasty()) else { return };
    create(&site, "c", "2", &["--sbatch-arg=--exclusive"]);
    site.until_up("c", 2);
    let mut work = Work::start(&site, "c", 5000, 20);
    work.until_done(&site, 50);
    site.slurm.node("n1").freeze();
    site.until_cluster("c", "the loss to show", |status| status["up"] == 1);
    site.slurm.until_node("n1", "down*");
    let done = Work::done(&site);
    work.until_done(&site, done + 50);
    // It has tasks that others have by now.
    site.slurm.node("n1").thaw();
    let after = site.until_up("c", 2);
    assert_eq!(after["lost"], 0, "{after}");
    work.is_under_way();
    work.completes(&site);
    wait_for("no other worker", || (site.live_jobs().len() == 2).then_some(()));
}

#[test]
fn a_controller_that_is_away_costs_no_worker_and_doubles_none() {
    let Some(site) = Site::start(Options { nodes: 1, debug_nodes: 0, ..Options::default() }) else { return };
    create(&site, "c", "3", &[]);
    let full = |status: &serde_json::Value| status["up"] == 2 && short(status).contains("1 in the queue: Resources");
    let before = site.until_cluster("c", "a full node", full);
    site.slurm.controller().kill();
    site.until_cluster("c", "silence to show", |status| short(status).contains("the queue does not answer"));
    // Nothing is submitted that could not be found again.
    site.farm(&["cluster", "scale", "c", "4"]).succeeds();
    Work::start(&site, "c", 300, 5).completes(&site);
    let during = site.show("c");
    assert_eq!((up(&during), &during["queued"], &during["wanted"]), (up(&before), &json!(1), &json!(4)), "{during}");
    site.slurm.controller().start();
    let after = site.until_cluster("c", "a fourth in the queue", |status| status["queued"] == 2);
    assert_eq!(up(&after), up(&before), "{after}");
    assert_eq!(site.slurm.jobs().len(), 4, "{:?}", site.slurm.jobs());
}

#[test]
fn workers_leave_before_their_time_is_up_and_others_come() {
    let Some(site) = Site::start(Options { nodes: 2, debug_nodes: 0, ..Options::default() }) else { return };
    // SLURM counts in minutes; the worker believes the environment of its job.
    let soon = "farm_now=$(date +%s); export SLURM_JOB_START_TIME=$farm_now SLURM_JOB_END_TIME=$((farm_now + 8))\n";
    let prologue = site.world.write("soon.sh", soon).display().to_string();
    create(&site, "c", "2", &["--prologue", &prologue]);
    let before = site.until_up("c", 2);
    let work = Work::start(&site, "c", 2000, 20);
    let mut seen = up(&before);
    // Two generations after the first one.
    wait_for("workers to come and go", || {
        let status = site.show("c");
        assert_eq!(status["retry_in_s"], json!(null), "{status}");
        seen.extend(up(&status));
        seen.sort();
        seen.dedup();
        (seen.len() >= 6).then_some(())
    });
    work.completes(&site);
    let ended =
        site.slurm.jobs().into_iter().filter(|job| !matches!(&*job.state, "PENDING" | "RUNNING" | "COMPLETING"));
    let ended: Vec<_> = ended.map(|job| job.state).collect();
    assert!(ended.len() >= 4 && ended.iter().all(|state| state == "COMPLETED"), "{ended:?}");
    let job = site.farm(&["job", "show", "1", "--output", "json"]).succeeds().json();
    assert_eq!(job["retried"], 0, "{job}");
}

#[test]
fn workers_that_urgent_jobs_push_aside_come_back() {
    for preemption in [Preemption::Requeue, Preemption::Cancel { grace: 0 }] {
        let preemption = Some(preemption);
        let Some(site) = Site::start(Options { nodes: 2, debug_nodes: 0, preemption, ..Options::default() }) else {
            return;
        };
        create(&site, "c", "2", &["--sbatch-arg=--exclusive"]);
        let before = site.until_up("c", 2);
        let mut work = Work::start(&site, "c", 2000, 20);
        work.until_done(&site, 50);
        let urgent = ["--partition=urgent", "--exclusive", "--nodelist=n1", "--wrap", "sleep 1000"];
        let urgent = site.slurm.submit(&urgent);
        site.slurm.until_job(&urgent, "RUNNING");
        let during = site.until_cluster("c", "one to wait", |status| status["up"] == 1 && status["queued"] == 1);
        assert!(up(&before).contains(&up(&during)[0]), "{during}");
        let reason = site.until_cluster("c", "why", |status| short(status).contains("1 in the queue: "));
        assert_eq!(reason["wanted"], 2);
        let scancel = site.slurm.command("scancel").arg(&urgent).status();
        assert!(scancel.expect("scancel starts").success());
        site.until_up("c", 2);
        work.is_under_way();
        work.completes(&site);
    }
}

#[test]
fn a_site_may_bound_what_waits_and_what_runs() {
    let options = || Options { nodes: 1, debug_nodes: 0, ..Options::default() };
    let Some(site) = Site::configured(options(), "max_queued = 1") else { return };
    create(&site, "c", "5", &[]);
    let capped = "there may be no more workers of the provider slurm by the site's configuration";
    let is_full = |status: &serde_json::Value| status["up"] == 2 && status["queued"] == 1;
    let full = site.until_cluster("c", "one to wait", |status| is_full(status) && short(status).contains(capped));
    assert!(short(&full).contains("1 in the queue: "), "{full}");
    assert_eq!(site.live_jobs().len(), 3);
    drop(site);

    let Some(site) = Site::configured(options(), "max_running = 2") else { return };
    create(&site, "one", "2", &[]);
    site.until_up("one", 2);
    create(&site, "other", "1", &[]);
    let status = site.until_cluster("other", "the bound", |status| short(status).contains(capped));
    assert_eq!((&status["queued"], &status["retry_in_s"]), (&json!(0), &json!(null)), "{status}");
    // As soon as there is room, it goes on.
    site.farm(&["cluster", "scale", "one", "1"]).succeeds();
    site.until_up("other", 1);
    site.until_up("one", 1);
    assert_eq!(site.live_jobs().len(), 2);
}

#[test]
fn a_queue_that_is_full_is_tried_again() {
    let options = Options {
        nodes: 1,
        debug_nodes: 0,
        min_job_age: 2,
        extra: vec!["MaxJobCount=2".to_owned()],
        ..Options::default()
    };
    let Some(site) = Site::start(options) else { return };
    // There are to be fewer than that.
    let other = site.slurm.submit(&["--wrap", "sleep 1000"]);
    create(&site, "c", "1", &[]);
    let told = "temporarily unable to accept job";
    let status =
        site.until_cluster("c", told, |status| short(status).contains(told) && status["retry_in_s"] != json!(null));
    assert_eq!(status["queued"], 0, "{status}");
    let scancel = site.slurm.command("scancel").arg(&other).status();
    assert!(scancel.expect("scancel starts").success());
    site.until_up("c", 1);
}
