//! The harness: a cluster of its own for each test, and what may befall it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use farm_tests::slurm::{Options, Place, Preemption, Proctrack, Slurm};
use farm_tests::{Process, wait_for, wait_up_to};

/// What a job has printed.
fn printed(slurm: &Slurm, job: &str) -> String {
    fs::read_to_string(slurm.path().join(format!("slurm-{job}.out"))).unwrap_or_default()
}

/// Nodes that fail are noticed soon.
fn hasty() -> Options {
    Options { slurmd_timeout: 2, message_timeout: 2, ..Options::default() }
}

fn is_alive(process: &Process) -> bool {
    Path::new(&format!("/proc/{}/exe", process.pid)).read_link().is_ok()
}

#[test]
fn jobs_run_on_every_node() {
    let since = Instant::now();
    let Some(slurm) = Slurm::start(Options::default()) else { return };
    println!("up after {:?}", since.elapsed());
    let jobs = [("n1", "cms"), ("n2", "cms"), ("d1", "debug")].map(|(node, partition)| {
        let (list, partition) = (format!("--nodelist={node}"), format!("--partition={partition}"));
        let words = [&*list, &partition, "--job-name=who", "--comment=a:b", "--wrap", "hostname; echo $SLURM_CONF"];
        (node, slurm.submit(&words))
    });
    for (node, id) in jobs {
        let job = slurm.until_job(&id, "COMPLETED");
        assert_eq!((&*job.name, &*job.comment, &*job.nodes, &*job.reason), ("who", "a:b", node, "None"));
        assert_eq!(printed(&slurm, &id), format!("{node}\n{}\n", slurm.conf().display()));
    }
}

#[test]
fn two_clusters_do_not_see_each_other() {
    let Some(one) = Slurm::start(Options { debug_nodes: 0, ..Options::default() }) else { return };
    let Some(other) = Slurm::start(Options { debug_nodes: 0, ..Options::default() }) else { return };
    let job = one.submit(&["--wrap", "hostname"]);
    one.until_job(&job, "COMPLETED");
    assert_eq!(other.jobs(), []);
    drop(one);
    let job = other.submit(&["--wrap", "hostname"]);
    other.until_job(&job, "COMPLETED");
}

#[test]
fn a_node_that_crashes_is_down_and_comes_back() {
    let Some(slurm) = Slurm::start(hasty()) else { return };
    let job = slurm.submit(&["--nodelist=n1", "--no-requeue", "--wrap", "sleep 1000"]);
    slurm.until_job(&job, "RUNNING");
    let processes =
        wait_for("sleep on n1", || Some(slurm.node("n1").processes()).filter(|all| all.iter().any(is_sleep)));
    slurm.node("n1").crash();
    assert!(!processes.iter().any(is_alive), "{processes:?}");
    assert_eq!(slurm.until_job(&job, "NODE_FAIL").nodes, "n1");
    assert!(slurm.node_state("n1").starts_with("down"), "{}", slurm.node_state("n1"));
    slurm.node("n1").start();
    slurm.until_node("n1", "idle");
}

fn is_sleep(process: &Process) -> bool {
    process.words.first().is_some_and(|word| word == "sleep")
}

#[test]
fn jobs_outlive_the_daemon_of_their_node() {
    let Some(slurm) = Slurm::start(Options { debug_nodes: 0, ..Options::default() }) else { return };
    let job = slurm.submit(&["--nodelist=n1", "--wrap", "sleep 3; hostname"]);
    slurm.until_job(&job, "RUNNING");
    let node = slurm.node("n1");
    wait_for("sleep on n1", || node.processes().iter().any(is_sleep).then_some(()));
    node.kill();
    assert!(!node.is_running());
    assert!(node.processes().iter().any(is_sleep));
    node.start();
    slurm.until_job(&job, "COMPLETED");
    assert_eq!(printed(&slurm, &job), "n1\n");
}

#[test]
fn a_frozen_node_goes_on_when_it_thaws() {
    let Some(slurm) = Slurm::start(Options { debug_nodes: 0, ..Options::default() }) else { return };
    let job = slurm.submit(&["--nodelist=n1", "--wrap", "while :; do echo tick; sleep 0.1; done"]);
    let ticks = || printed(&slurm, &job).len();
    wait_for("a tick", || (ticks() > 0).then_some(()));
    slurm.node("n1").freeze();
    let frozen = ticks();
    assert!(wait_up_to(Duration::from_millis(500), || (ticks() > frozen).then_some(())).is_none());
    slurm.node("n1").thaw();
    wait_for("another tick", || (ticks() > frozen).then_some(()));
}

#[test]
fn a_controller_that_restarts_knows_its_jobs() {
    let Some(slurm) = Slurm::start(Options::default()) else { return };
    let job = slurm.submit(&["--wrap", "sleep 1000"]);
    slurm.until_job(&job, "RUNNING");
    slurm.controller().stop();
    let squeue = slurm.command("squeue").output().expect("squeue starts");
    assert_eq!(squeue.status.code(), Some(1));
    slurm.controller().start();
    slurm.until_controller();
    assert_eq!(slurm.job(&job).map(|job| job.state).as_deref(), Some("RUNNING"));

    slurm.controller().freeze();
    slurm.controller().thaw();
    slurm.controller().kill();
    slurm.controller().start();
    slurm.until_controller();
}

#[test]
fn a_node_can_be_drained() {
    let Some(slurm) = Slurm::start(Options::default()) else { return };
    slurm.set_node_state("n2", "DRAIN");
    assert_eq!(slurm.node_state("n2"), "drained");
    slurm.set_node_state("n2", "RESUME");
    slurm.until_node("n2", "idle");
}

#[test]
fn urgent_jobs_push_others_aside() {
    let cancel = Some(Preemption::Cancel { grace: 0 });
    for (preemption, state) in [(Some(Preemption::Requeue), "PENDING"), (cancel, "PREEMPTED")] {
        let options = Options { nodes: 1, debug_nodes: 0, preemption, ..Options::default() };
        let Some(slurm) = Slurm::start(options) else { return };
        let job = slurm.submit(&["--exclusive", "--wrap", "sleep 1000"]);
        slurm.until_job(&job, "RUNNING");
        let urgent = slurm.submit(&["--partition=urgent", "--exclusive", "--wrap", "sleep 1000"]);
        slurm.until_job(&urgent, "RUNNING");
        slurm.until_job(&job, state);
    }
}

#[test]
fn limits_may_be_enforced() {
    for enforce_part_limits in [false, true] {
        let Some(slurm) = Slurm::start(Options { enforce_part_limits, ..Options::default() }) else { return };
        let sbatch = slurm.command("sbatch").args(["--partition=debug", "--time=60", "--wrap", "true"]).output();
        assert_eq!(sbatch.expect("sbatch starts").status.success(), !enforce_part_limits);
    }
}

/// By way of a prefix that mounts something.
#[test]
fn a_node_can_have_files_of_its_own() {
    let prefix = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt && touch /mnt/mine && exec \"$@\"", "-"];
    let prefix = prefix.map(str::to_owned).to_vec();
    let places = vec![("n1".to_owned(), Place { prefix, ..Place::default() })];
    let Some(slurm) = Slurm::start(Options { debug_nodes: 0, places, ..Options::default() }) else { return };
    let jobs = ["n1", "n2"].map(|node| slurm.submit(&["--nodelist", node, "--wrap", "ls /mnt"]));
    let seen = jobs.map(|job| {
        slurm.until_job(&job, "COMPLETED");
        printed(&slurm, &job).contains("mine")
    });
    assert_eq!(seen, [true, false]);
}

/// Also of a job that does what it can to stay.
#[test]
fn nothing_is_left() {
    let Some(slurm) = Slurm::start(Options::default()) else { return };
    let stays = "trap '' TERM; setsid env -i sleep 1000 & sleep 1000";
    let job = slurm.submit(&["--nodelist=n1", "--wrap", stays]);
    slurm.until_job(&job, "RUNNING");
    let node = slurm.node("n1");
    wait_for("both", || (node.processes().iter().filter(|process| is_sleep(process)).count() == 2).then_some(()));
    let mut all = slurm.controller().processes();
    all.extend(["n1", "n2", "d1"].iter().flat_map(|name| slurm.node(name).processes()));
    assert!(all.len() >= 7, "{all:?}");
    let folder = slurm.path().to_owned();
    let since = Instant::now();
    drop(slurm);
    println!("down after {:?}", since.elapsed());
    assert!(!all.iter().any(is_alive), "{all:?}");
    assert!(!folder.exists());
    let mark = folder.display().to_string();
    let left: Vec<_> = fs::read_dir("/proc").expect("/proc").flatten().collect();
    let left: Vec<_> = left
        .iter()
        .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.contains(&mark))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn with_control_groups_a_job_leaves_nothing_on_its_node() {
    let options = Options { debug_nodes: 0, proctrack: Proctrack::Cgroup, ..Options::default() };
    let Some(slurm) = Slurm::start(options) else { return };
    let job = slurm.submit(&["--nodelist=n1", "--wrap", "setsid env -i sleep 1000 & sleep 1; hostname"]);
    slurm.until_job(&job, "COMPLETED");
    wait_for("its end", || (!slurm.node("n1").processes().iter().any(is_sleep)).then_some(()));
    drop(slurm);
    assert!(!Path::new("/sys/fs/cgroup/freezer/slurm_n1").exists());
}
