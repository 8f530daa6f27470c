//! Nodes have nothing in common with who submits: no disk, no network but two ports of the scheduler.

use std::fs;
use std::path::Path;

use farm_tests::net::{self, Net};
use farm_tests::slurm::{CONTROLLER_PORT, NODE_PORT, Options, Place};
use farm_tests::{World, wait_for, wat};
use serde_json::json;

use crate::site::{Plan, Site};

/// A WASI command that reads `/in/numbers.txt` and `/secrets/TOKEN`, leaves the first as `/out/copy` and prints both.
const USES_ALL: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 64) "numbers.txt")
    (data (i32.const 80) "TOKEN")
    (data (i32.const 96) "copy")
    (func $opened (param $folder i32) (param $name i32) (param $length i32) (param $flags i32) (param $rights i64)
        (result i32)
        (if (call $open (local.get $folder) (i32.const 0) (local.get $name) (local.get $length) (local.get $flags)
            (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 16)) (then unreachable))
        (i32.load (i32.const 16)))
    (func $all (param $file i32)
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 1000))
        (if (call $read (local.get $file) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
        (i32.store (i32.const 4) (i32.load (i32.const 8))))
    (func $put (param $file i32)
        (if (call $write (local.get $file) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))
    (func (export "_start")
        (call $all (call $opened (i32.const 3) (i32.const 64) (i32.const 11) (i32.const 0) (i64.const 2)))
        (call $put (call $opened (i32.const 4) (i32.const 96) (i32.const 4) (i32.const 9) (i64.const 66)))
        (i32.store (i32.const 0) (i32.const 1024))
        (call $put (i32.const 1))
        (call $all (call $opened (i32.const 5) (i32.const 80) (i32.const 5) (i32.const 0) (i64.const 2)))
        (call $put (i32.const 1))))"#;

/// Where nodes keep things that hide everything of the submitter's: a disk of each node's own.
const SCRATCH: &str = "/var/tmp";

/// What puts a program on a machine without these folders' content, and with scratch of its own.
fn without(folders: &[&Path]) -> Vec<String> {
    let mounts: String =
        folders.iter().map(|folder| format!("mount -t tmpfs tmpfs '{}' && ", folder.display())).collect();
    let line = format!("{mounts} mount -t tmpfs tmpfs {SCRATCH} && exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &line, "-"].map(str::to_owned).to_vec()
}

/// Places like that for the usual nodes.
fn places(prefix: &[String]) -> Vec<(String, Place)> {
    ["n1", "n2"].map(|name| (name.to_owned(), Place { prefix: prefix.to_vec(), address: None })).to_vec()
}

#[test]
fn nodes_need_no_disk_of_the_submitter() {
    let world = World::new();
    let program = world.binary().canonicalize().expect("a path");
    let build = program.parent().expect("a folder").to_owned();
    let home = Path::new("/root");
    let hidden = [home, world.path(), &build].map(Path::to_owned);
    let prefix = without(&hidden.each_ref().map(|folder| &**folder));
    let slurm = Options { debug_nodes: 0, places: places(&prefix), ..Options::default() };
    let plan = Plan { slurm, prologue: format!("export TMPDIR={SCRATCH}"), ..Plan::default() };
    let Some(site) = Site::planned(world, plan) else { return };

    // The nodes do see nothing of it: what is here is not there.
    for node in ["n1", "n2"] {
        let listing = format!(
            "ls -A '{}' '{}' '{}' | grep -v -e : -e '^$' | wc -l",
            home.display(),
            site.world.path().display(),
            build.display()
        );
        let job = site.slurm.submit(&["--nodelist", node, "--wrap", &listing]);
        site.slurm.until_job(&job, "COMPLETED");
        let printed = fs::read_to_string(site.slurm.path().join(format!("slurm-{job}.out"))).expect("what it printed");
        assert_eq!(printed.trim(), "0");
        for folder in &hidden[1..] {
            assert!(fs::read_dir(folder).expect("a folder").next().is_some(), "{} is empty here", folder.display());
        }
    }

    site.farm(&["cluster", "create", "far", "--provider", "slurm", "--scale", "2", "--worker-cores", "1"]).succeeds();
    site.until_up("far", 2);

    // Another user, whose folder the nodes do not know either.
    let ticket = site.farm(&["ticket", "create", "--role", "user", "--name", "ada"]).succeeds();
    let ada = World::new();
    ada.farm(["login", ticket.text().trim()]).succeeds();
    ada.write("data/numbers.txt", "1 2 3\n");
    ada.write("token.txt", "kestrel");
    let module = wat(&ada, "uses", USES_ALL);
    let given =
        ["--args", r#"["", "", "", ""]"#, "--input", "numbers.txt=data/numbers.txt", "--secret", "TOKEN=token.txt"];
    let submit = |folder: &str| ada.farm(["submit"]).with([&module]).with(given).with(["--output-dir", folder]);
    assert_eq!(submit("left").succeeds().json(), json!(["1 2 3\nkestrel"].repeat(4)));
    let copies = |folder: &str| {
        for n in 0..4 {
            let copy = ada.path().join(format!("{folder}/{n}/copy"));
            assert_eq!(fs::read_to_string(copy).expect("a copy"), "1 2 3\n");
        }
    };
    copies("left");

    // And from one folder to another, later.
    let job = submit("unused").with(["--detach"]).succeeds();
    ada.farm(["job", "fetch", job.text().trim(), "--to", "fetched"]).succeeds();
    copies("fetched");
    site.farm(&["cluster", "stop", "far"]).succeeds();
    wait_for("the end of the workers", || site.live_jobs().is_empty().then_some(()));
}

/// Where the scheduler listens in a network of its own, over UDP and HTTP.
pub(crate) const UDP: u16 = 7117;
pub(crate) const HTTP: u16 = 7118;

/// A WASI command that prints its input after 2 s.
const SLOW: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 616) (i32.const 1))
        (i64.store (i32.const 624) (i64.const 2000000000))
        (drop (call $poll (i32.const 600) (i32.const 800) (i32.const 1) (i32.const 900)))
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 1000))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// A site whose nodes are behind NAT, and whose scheduler is reached at these ports only.
pub(crate) fn behind_nat(udp: Vec<u16>, tcp: &[u16]) -> Option<(Net, Site)> {
    let tcp = [tcp, &[CONTROLLER_PORT]].concat();
    let net = Net::start(&net::Options { nodes: 2, udp, tcp, tcp_to_nodes: vec![NODE_PORT] })?;
    let places = [0, 1].map(|n| (format!("n{}", n + 1), net.node(n).place())).to_vec();
    // What SLURM does about a node that does not answer is another matter.
    let slurm = Options {
        debug_nodes: 0,
        slurmd_timeout: 300,
        controller: net.scheduler().place(),
        places,
        ..Options::default()
    };
    let world = World::new().behind(net.scheduler().prefix());
    let scratch = world.path().join("scratch");
    fs::create_dir(&scratch).expect("a folder for scratch");
    let prologue = format!("export TMPDIR={}", scratch.display());
    let listens = [UDP, HTTP].map(|port| format!("{}:{port}", net.scheduler().address()));
    let lines = format!("log_dir = \"{}\"", scratch.display());
    let site = Site::planned(world, Plan { slurm, prologue, lines, listens: Some(listens), ..Plan::default() })?;
    Some((net, site))
}

#[test]
fn nodes_need_two_ports_of_the_scheduler_and_outlive_a_cut() {
    let Some((net, site)) = behind_nat(vec![UDP], &[HTTP]) else { return };
    site.farm(&["cluster", "create", "nat", "--provider", "slurm", "--scale", "2", "--worker-cores", "2"]).succeeds();
    let before = site.until_up("nat", 2);
    assert_eq!(before["short"], json!([]));
    let jobs = site.live_jobs();
    let nodes: Vec<_> = site.slurm.jobs().into_iter().map(|job| job.nodes).collect();
    assert!(nodes.contains(&"n1".to_owned()) && nodes.contains(&"n2".to_owned()), "{nodes:?}");

    let module = wat(&site.world, "slow", SLOW);
    let args: Vec<_> = (0..16).map(|n| n.to_string()).collect();
    let args_text = json!(args).to_string();
    let mut running = site.farm(&["submit", "--args", &args_text, "--cluster", "nat"]).with([&module]).start();
    wait_for("tasks at work", || {
        let job = site.farm(&["job", "show", "1", "--output", "json"]).run();
        (job.code() == Some(0) && job.json()["counts"]["leased"] != 0).then_some(())
    });
    net.cut(0);
    net.cut(1);
    site.until_cluster("nat", "both workers to be lost", |status| status["up"] == 0);
    assert!(running.is_running(), "the job was over before the cut");
    net.mend();
    site.until_up("nat", 2);
    assert_eq!(running.wait().json(), json!(args));
    assert_eq!(site.live_jobs(), jobs, "nothing was submitted again");
}
