//! Nodes on which a worker cannot start, and what its owner is told of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use farm_tests::slurm::{Options, Place};
use farm_tests::{World, guest};
use serde_json::json;

use crate::apart::{HTTP, UDP, behind_nat};
use crate::site::{Plan, Site};

/// A site with such nodes, and these commands before each worker.
fn start(place: &Place, prologue: &str) -> Option<Site> {
    let world = World::new();
    let places = ["n1", "n2"].map(|name| (name.to_owned(), place.clone())).to_vec();
    let slurm = Options { debug_nodes: 0, places, ..Options::default() };
    Site::planned(world, Plan { slurm, prologue: prologue.to_owned(), ..Plan::default() })
}

/// Makes a cluster of one worker with two slots, and waits until `farm cluster show` says this of why it has none.
fn is_short_of_it(site: &Site, why: &[&str]) {
    let create = ["cluster", "create", "bad", "--provider", "slurm", "--scale", "1", "--worker-cores", "2"];
    site.farm(&create).succeeds();
    let status = site.until_cluster("bad", &format!("{why:?}"), |status| {
        let short = status["short"].to_string();
        why.iter().all(|word| short.contains(word))
    });
    assert_eq!(status["up"], 0, "{status}");
}

#[test]
fn full_scratch_is_told_of() {
    let words = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=10m tmpfs /var/tmp && exec \"$@\"", "-"];
    let place = Place { prefix: words.map(str::to_owned).to_vec(), address: None };
    let Some(site) = start(&place, "export TMPDIR=/var/tmp") else { return };
    is_short_of_it(&site, &["the scratch folder /var/tmp is full", "KiB are free"]);
}

#[test]
fn a_node_without_a_way_to_the_udp_port_says_which() {
    let Some((net, site)) = behind_nat(vec![], &[HTTP]) else { return };
    let scheduler = format!("{}:{UDP}", net.scheduler().address());
    is_short_of_it(&site, &["gave up waiting", "no answer from", &scheduler]);
    let scratch = site.world.path().join("scratch");
    let logs = fs::read_dir(&scratch).expect("a folder").flatten().filter(|entry| entry.path().is_file());
    let logs: String = logs.map(|log| fs::read_to_string(log.path()).expect("a log")).collect();
    assert!(logs.contains(&format!("no answer from {scheduler}")), "{logs}");
}

#[test]
fn a_node_that_cannot_fetch_the_program_says_so() {
    // Some of what is on every node, and nothing that fetches.
    let bin = tempfile::tempdir().expect("a folder");
    for name in "sh bash cat chmod df find id mkdir mv rm sha256sum touch uname".split(' ') {
        let program = ["/bin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
        let program = program.iter().find(|path| path.exists()).expect("a program of every system");
        symlink(program, bin.path().join(name)).expect("a link");
    }
    let prologue = format!("export PATH={} TMPDIR={}", bin.path().display(), bin.path().display());
    let Some(site) = start(&Place::default(), &prologue) else { return };
    is_short_of_it(&site, &["there is no curl, wget or python3 on PATH"]);
}

#[test]
fn tasks_run_where_address_space_is_scarce() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("worker.log");
    let (folder, log_path) = (folder.path().display(), log.display());
    let prologue = format!("export TMPDIR={folder}\nexec 2>{log_path}\nulimit -v 6000000");
    let Some(site) = start(&Place::default(), &prologue) else { return };
    site.farm(&["cluster", "create", "tight", "--provider", "slurm", "--scale", "1", "--worker-cores", "2"]).succeeds();
    site.until_up("tight", 1);
    let submit = site.farm(&["submit", "--cluster", "tight", "--args", "[1, 2, 3]"]).with([guest("square")]);
    assert_eq!(submit.succeeds().json(), json!([1, 4, 9]));
    let logged = fs::read_to_string(&log).expect("a log");
    assert!(logged.contains("too little address space for a pool"), "{logged}");
}
