//! What must not be seen: the value of a secret, and the ticket of a worker.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use farm_tests::slurm::Options;
use farm_tests::{Process, World, files_with, has, wait_for, wat};

use crate::site::{Plan, Site};

/// A WASI command that reads `/secrets/TOKEN`, says on stderr that it has, sleeps for 3 s and then fails if its input is
/// empty.
const USES_SECRET: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 64) "TOKEN")
    (data (i32.const 80) "it was read\n")
    (func (export "_start")
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 0) (i64.const 2)
            (i64.const 0) (i32.const 0) (i32.const 16)) (then unreachable))
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 1000))
        (if (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
        (if (i32.lt_u (i32.load (i32.const 8)) (i32.const 20)) (then unreachable))
        (i32.store (i32.const 0) (i32.const 80))
        (i32.store (i32.const 4) (i32.const 12))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 616) (i32.const 1))
        (i64.store (i32.const 624) (i64.const 3000000000))
        (drop (call $poll (i32.const 600) (i32.const 800) (i32.const 1) (i32.const 900)))
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 10))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (if (i32.eqz (i32.load (i32.const 8))) (then unreachable))))"#;

/// Whatever runs on the nodes and is farm's, and the commands and the scheduler of the site.
fn processes(site: &Site) -> Vec<Process> {
    let nodes = ["n1", "n2"].map(|node| site.slurm.node(node).processes());
    nodes.into_iter().flatten().chain(site.world.processes()).collect()
}

/// What everybody sees, or root, of a process.
fn shown_of(process: &Process, what: &str) -> Vec<u8> {
    fs::read(format!("/proc/{}/{what}", process.pid)).unwrap_or_default()
}

/// What SLURM tells of its jobs, their scripts included.
fn told(site: &Site) -> Vec<u8> {
    let run = |words: &[&str]| {
        let output = site.slurm.command("scontrol").args(words).output().expect("scontrol starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let mut all = run(&["show", "job", "--details"]);
    for job in site.live_jobs() {
        all.extend(run(&["write", "batch_script", &job, "-"]));
    }
    all
}

/// Everything logged, and the workers' logs in that folder of the world.
fn start() -> Option<Site> {
    let world = World::new();
    let [scratch, logs] = ["scratch", "logs"].map(|name| world.path().join(name));
    for folder in [&scratch, &logs] {
        fs::create_dir(folder).expect("a folder");
    }
    let prologue = format!("export TMPDIR={} FARM_LOG=trace", scratch.display());
    let lines = format!("log_dir = \"{}\"", logs.display());
    let slurm = Options { debug_nodes: 0, ..Options::default() };
    let env = vec![("FARM_LOG", "trace".to_owned())];
    Site::planned(world, Plan { slurm, prologue, lines, env, ..Plan::default() })
}

#[test]
fn a_secret_is_nowhere_on_a_cluster() {
    let Some(site) = start() else { return };
    site.farm(&["cluster", "create", "dark", "--provider", "slurm", "--scale", "2", "--worker-cores", "1"]).succeeds();
    site.until_up("dark", 2);
    let random = || RandomState::new().hash_one(0);
    let value = format!("kestrel-{:016x}-{:016x}", random(), random());
    // The submitter's own file, which is not searched.
    let own = tempfile::tempdir().expect("a folder");
    let file = own.path().join("token.txt");
    fs::write(&file, &value).expect("a file");
    assert_eq!(files_with(&[own.path()], &value), std::slice::from_ref(&file), "what searches finds it");

    let module = wat(&site.world, "uses", USES_SECRET);
    let secret = format!("TOKEN={}", file.display());
    let submit = site.farm(&["submit", "--args", r#"["x", ""]"#, "--cluster", "dark", "--secret", &secret]);
    let running = submit.with([&module]).with_env("FARM_LOG", "trace").start();
    let memory = std::env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| "/dev/shm".to_owned());
    let memory = [Path::new(&memory), Path::new("/dev/shm")];
    wait_for("the secret at a worker", || (!files_with(&memory, &value).is_empty()).then_some(()));
    let folders = [site.world.path(), site.slurm.path()];
    let nowhere = |when: &str| {
        assert_eq!(files_with(&folders, &value), [] as [PathBuf; 0], "{when}");
        assert!(!has(&told(&site), &value), "SLURM tells of it {when}");
        for process in processes(&site) {
            for what in ["cmdline", "environ"] {
                assert!(!has(&shown_of(&process, what), &value), "in {what} of {process:?} {when}");
            }
        }
        assert!(!site.scheduler.log().contains(&value), "the scheduler logs it {when}");
    };
    nowhere("while it is used");
    let finished = running.wait().with_code(1);
    finished.says(&["trap"]);
    for text in [finished.text(), &finished.stderr] {
        assert!(!text.contains(&value), "{text}");
    }
    for args in [&["job", "show", "1", "--output", "json"][..], &["why", "1"], &["secret", "list", "1"]] {
        let finished = site.farm(args).run();
        assert!(!finished.text().contains(&value) && !finished.stderr.contains(&value), "{args:?}");
    }
    wait_for("the secret's end in memory", || files_with(&memory, &value).is_empty().then_some(()));
    nowhere("afterwards");
    // These logs are the ones that would have it.
    assert!(site.scheduler.log().contains("secret given"));
    let logs = fs::read_dir(site.world.path().join("logs")).expect("a folder").flatten();
    let logs: Vec<_> = logs.map(|log| fs::read_to_string(log.path()).expect("a log")).collect();
    assert!(logs.len() == 2 && logs.iter().all(|log| log.contains("TRACE")), "{logs:?}");
    site.farm(&["cluster", "stop", "dark"]).succeeds();
    wait_for("the end of the workers", || site.live_jobs().is_empty().then_some(()));
    nowhere("at last");
}

/// The command lines of all processes of this machine until it is dropped, also of those that are over at once.
struct CommandLines {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<Vec<u8>>>,
}

impl CommandLines {
    fn watch() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut lines = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    lines.extend(fs::read(entry.path().join("cmdline")));
                }
            }
            lines
        });
        Self { is_over, thread }
    }

    fn end(self) -> BTreeSet<Vec<u8>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

#[test]
fn the_ticket_of_a_worker_is_in_its_environment_only() {
    let Some(site) = start() else { return };
    let lines = CommandLines::watch();
    site.farm(&["cluster", "create", "dark", "--provider", "slurm", "--scale", "2", "--worker-cores", "1"]).succeeds();
    site.until_up("dark", 2);
    let lines = lines.end();
    let worker = processes(&site).into_iter().find(|process| process.part() == "worker").expect("a worker");
    let environment = shown_of(&worker, "environ");
    let environment: Vec<_> = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let ticket = environment.iter().find_map(|variable| variable.strip_prefix("FARM_TICKET=")).expect("a ticket");
    let secret = ticket.split_once("secret=").expect("a secret").1;
    assert!(secret.len() > 20, "{ticket}");

    assert!(lines.iter().any(|line| has(line, "sbatch\0--parsable")), "the submission was watched");
    assert!(!lines.iter().any(|line| has(line, secret)), "it is on a command line");
    let told = told(&site);
    assert!(has(&told, "JobName=farm-dark-") && has(&told, "farm_main"), "jobs and scripts are told of");
    assert!(!has(&told, secret), "SLURM tells of it");
    assert_eq!(files_with(&[site.world.path()], secret), [] as [PathBuf; 0]);
    assert!(!site.scheduler.log().contains(secret), "the scheduler logs it");
    let log = site.slurm.path().join("log");
    assert_eq!(files_with(&[&log], secret), [] as [PathBuf; 0]);
}
