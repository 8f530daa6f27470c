//! Clusters that follow the demand.

use farm_tests::slurm::Options;
use farm_tests::wait_for;
use serde_json::json;

use crate::site::Site;
use crate::work::Work;

#[test]
fn workers_come_with_the_work_and_go_when_it_is_done() {
    let Some(site) = Site::start(Options { nodes: 2, debug_nodes: 0, ..Options::default() }) else { return };
    site.farm(&["cluster", "create", "c", "--provider", "slurm"]).succeeds();
    site.farm(&["cluster", "adapt", "c", "--min", "0", "--max", "3", "--idle", "3s"]).succeeds();
    let status = site.show("c");
    assert_eq!(status["scale"], json!({"min": 0, "max": 3, "idle_s": 3}), "{status}");
    assert_eq!(site.slurm.jobs(), [], "there is no work");

    let work = Work::start(&site, "c", 600, 10);
    site.until_cluster("c", "three workers", |status| status["up"] == 3);
    work.completes(&site);
    let gone = site.until_cluster("c", "nobody to be left", |status| status["workers"] == json!([]));
    assert_eq!((&gone["wanted"], &gone["short"]), (&json!(0), &json!([])), "{gone}");
    wait_for("the end of their jobs", || site.live_jobs().is_empty().then_some(()));
    let jobs = site.slurm.jobs();
    assert_eq!(jobs.len(), 3, "none was started in vain: {jobs:?}");
    assert!(jobs.iter().all(|job| job.state == "COMPLETED"), "{jobs:?}");
}
