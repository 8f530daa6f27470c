//! `--secret` and `farm secret`: tasks can read them, and nobody else.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use farm_tests::{World, files_with, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module};

/// Nobody writes that by chance.
const VALUE: &str = "kestrel-quartz-7f19c2-umbrella";

/// A WASI command that prints the file whose path below its first folder is its input, after a pause of some
/// milliseconds.
fn reader(pause_ms: u64) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (i32.store (i32.const 616) (i32.const 1))
                (i64.store (i32.const 624) (i64.const {}))
                (drop (call $poll (i32.const 600) (i32.const 800) (i32.const 1) (i32.const 900)))
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const 200))
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.load (i32.const 8))
                    (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)) (then unreachable))
                (i32.store (i32.const 0) (i32.const 1024))
                (i32.store (i32.const 4) (i32.const 60000))
                (drop (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
                (i32.store (i32.const 4) (i32.load (i32.const 8)))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#,
        pause_ms * 1_000_000
    )
}

/// The folders of secrets that have these bytes in them.
fn in_memory(value: &str) -> Vec<PathBuf> {
    let places = [std::env::var("XDG_RUNTIME_DIR").unwrap_or_default(), "/dev/shm".to_owned()];
    let folders = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let ours = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with("farm-secrets-"));
    ours.flat_map(|folder| files_with(&[&folder.path()], value)).collect()
}

#[test]
fn tasks_read_a_secret_where_its_variable_points() {
    let world = World::new();
    let value = "for-tasks-3c91";
    world.write("token.txt", value);
    let m = module(&world, &reader(0));
    let listed = farm_tests::wat(&world, "environ", &crate::wat::prints_list("environ"));
    for command in ["run", "submit"] {
        let read = world.farm([command, m, "--args", r#"["TOKEN"]"#, "--secret", "TOKEN=token.txt"]).succeeds();
        assert_eq!(read.json(), json!([value]));
        let environ = world.farm([command, "--args", r#"[""]"#, "--secret", "TOKEN=token.txt", "--env", "A=b"]);
        let environ = environ.with([&listed]).succeeds().json();
        assert_eq!(environ, json!(["A=b\0TOKEN=/secrets/TOKEN\0"]));
        world.leaves_nothing();
        assert_eq!(in_memory(value), [] as [PathBuf; 0]);
    }
}

#[test]
fn secrets_that_are_none_are_refused() {
    let world = World::new();
    let m = module(&world, &reader(0));
    world.write("a.txt", "a");
    world.write("large.bin", vec![0; (1 << 20) + 1]);
    for (secrets, code, words) in [
        (&["TOKEN"][..], 2, "NAME=FILE"),
        (&["../x=a.txt"], 2, "no name for a secret"),
        (&["A=a.txt", "A=a.txt"], 2, "given twice"),
        (&["A=no/such.txt"], 3, "no/such.txt"),
        (&["A=large.bin"], 3, "too large"),
    ] {
        for command in ["run", "submit"] {
            let given = secrets.iter().flat_map(|secret| ["--secret", secret]);
            world.farm([command, m, "--args", r#"["A"]"#]).with(given).fails(code).explains(&[words]);
        }
    }
    let both = ["--secret", "A=a.txt", "--env", "A=b"];
    world.farm(["run", m, "--args", r#"["A"]"#]).with(both).fails(2).explains(&["A is a secret"]);
    // Of a value that cannot be used, nothing is shown.
    world.farm(["run", m, "--args", r#"["A"]"#, "--secret", VALUE]).fails(2);
}

#[test]
fn a_secret_is_nowhere() {
    let world = World::new();
    let log = [("FARM_LOG", "trace")];
    // Not in the world, which is searched.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let file = elsewhere.path().join("token.txt");
    fs::write(&file, VALUE).expect("a file");
    let secret = format!("TOKEN={}", file.display());
    let scheduler = world.scheduler_at("127.0.0.1:0", &[], &log);
    let ticket = scheduler.worker_ticket();
    let mut workers = vec![world.worker_with(&ticket, "w0", 1, &[], &log)];
    let farm = |args: &[&str]| {
        world.farm(args).with_env("FARM_TICKET", scheduler.admin_ticket()).with_env("FARM_LOG", "trace")
    };
    // Tasks that take their time, and one that fails. What a task prints is its own affair: these print nothing of it.
    let m = module(&world, &crate::wat::SLEEP.replace("3600000000000", "1500000000"));
    let args = json!(["", "", ""]).to_string();
    let running = farm(&["submit", m, "--args", &args, "--secret", &secret]).start();
    wait_for("the secret at the worker", || (!in_memory(VALUE).is_empty()).then_some(()));
    for path in in_memory(VALUE) {
        let kind = rustix::fs::statfs(&path).expect("a file system").f_type as u64;
        assert!([0x0102_1994, 0x8584_58f6].contains(&kind), "{} is on a disk", path.display());
    }
    let mut shown = vec![scheduler.log()];
    for process in world.processes() {
        for what in ["environ", "cmdline"] {
            let read = fs::read(format!("/proc/{}/{what}", process.pid)).unwrap_or_default();
            shown.push(String::from_utf8_lossy(&read).into_owned());
        }
    }
    assert_eq!(files_with(&[world.path()], VALUE), [] as [PathBuf; 0], "while it runs");
    for args in [
        &["job", "show", "1", "--output", "json"][..],
        &["secret", "list", "1", "--output", "json"],
        &["why", "1"],
        &["jobs"],
        &["secret", "update", "1", &secret],
    ] {
        let finished = farm(args).succeeds();
        shown.extend([finished.text().to_owned(), finished.stderr.clone()]);
    }
    let wrong = farm(&["secret", "update", "1", &format!("OTHER={}", file.display())]).fails(6);
    wrong.says(&["has no secret OTHER; it has TOKEN"]);
    shown.push(wrong.stderr.clone());
    let finished = running.wait();
    assert_eq!(finished.code(), Some(0));
    shown.extend([finished.text().to_owned(), finished.stderr.clone()]);
    wait_for("the secret's end", || in_memory(VALUE).is_empty().then_some(()));
    shown.push(workers[0].log());
    workers.clear();
    shown.push(scheduler.log());
    for text in &shown {
        assert!(!text.contains(VALUE), "{text}");
    }
    assert!(shown.iter().any(|text| text.contains("secret given")), "the log is the one that would have it");
    assert_eq!(files_with(&[world.path()], VALUE), [] as [PathBuf; 0], "afterwards");
}

#[test]
fn a_restart_forgets_secrets_and_says_so() {
    let mut farm = Farm::new(0);
    farm.world.write("a.txt", "value-a-81f2");
    farm.world.write("b.txt", "value-b-81f2");
    let m = module(&farm.world, &reader(0));
    let secrets = ["--secret", "A=a.txt", "--secret", "B=b.txt"];
    let mut args = vec![m, "--args", r#"["A", "B"]"#];
    args.extend(secrets);
    let job = farm.detach(&args);
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    let cause = farm.wait_for_cause(&job, "secrets");
    assert_eq!((&cause["names"], &cause["count"]), (&json!(["A", "B"]), &json!(2)));
    // Who follows it is told.
    let mut following = farm.farm(&["job", "results", &job]).start();
    following.until_it_says(&format!("farm secret update {job} A=FILE B=FILE"));
    farm.farm(&["secret", "update", &job, "A=a.txt"]).succeeds();
    let ticket = farm.scheduler.worker_ticket();
    farm.workers.push(farm.world.worker_with(&ticket, "w0", 1, &[], &[]));
    farm.await_workers(1);
    assert_eq!(farm.wait_for_cause(&job, "secrets")["names"], json!(["B"]));
    let listed = farm.farm(&["secret", "list", &job]).succeeds();
    assert_eq!(listed.text(), "A: there\nB: not there\n");
    farm.farm(&["secret", "update", &job, "B=b.txt"]).succeeds();
    assert_eq!(following.wait().json(), json!(["value-a-81f2", "value-b-81f2"]));
    // A retry is a new job.
    farm.farm(&["secret", "update", &job, "B=b.txt"]).fails(6).explains(&["is over"]);
    assert_eq!(farm.farm(&["secret", "list", &job]).succeeds().text(), "A: not there\nB: not there\n");
}

#[test]
fn tasks_that_start_later_see_the_new_value() {
    let farm = Farm::new(1);
    farm.world.write("token.txt", "old-value-5d");
    let m = module(&farm.world, &reader(400));
    let args: Vec<Value> = vec![json!("TOKEN"); 12];
    let running = farm.farm(&["submit", m, "--args", &json!(args).to_string(), "--secret", "TOKEN=token.txt"]).start();
    wait_for("some tasks to end", || {
        let shown = farm.farm(&["job", "show", "1", "--output", "json"]).run();
        (shown.code() == Some(0) && shown.json()["counts"]["succeeded"].as_u64() > Some(0)).then_some(())
    });
    farm.world.write("token.txt", "new-value-5d");
    farm.farm(&["secret", "update", "1", "TOKEN=token.txt"]).succeeds();
    let values = running.wait().json();
    let values: Vec<_> = values.as_array().expect("an array").iter().map(|value| value.as_str()).collect();
    let count = |value: &str| values.iter().filter(|other| **other == Some(value)).count();
    let (old, new) = (count("old-value-5d"), count("new-value-5d"));
    assert!(old > 0 && new >= 4 && old + new == 12, "{values:?}");
    assert_eq!(values.last(), Some(&Some("new-value-5d")));
}

#[test]
fn workers_that_die_leave_no_secret() {
    let farm = Farm::new(1);
    let value = "to-be-gone-a7e3";
    farm.world.write("token.txt", value);
    let m = module(&farm.world, crate::wat::SLEEP);
    let job = farm.occupy(&[m, "--args", r#"[""]"#, "--secret", "TOKEN=token.txt"]);
    assert!(!in_memory(value).is_empty());
    farm.workers[0].signal(Signal::KILL);
    // Its slot sees to that.
    wait_for("the secret's end", || in_memory(value).is_empty().then_some(()));
    let _next = farm.world.worker(&farm.scheduler, "next", 1);
    wait_for("the next worker's secret", || (!in_memory(value).is_empty()).then_some(()));
    farm.farm(&["job", "cancel", &job]).succeeds();
    wait_for("the secret's end", || in_memory(value).is_empty().then_some(()));
}

#[test]
fn others_cannot_see_or_set_them() {
    let farm = Farm::new(0);
    farm.world.write("token.txt", "not-for-others");
    let m = module(&farm.world, &reader(0));
    let job = farm.detach(&[m, "--args", r#"["TOKEN"]"#, "--secret", "TOKEN=token.txt"]);
    let other = farm.ticket_for("eve");
    for args in [&["secret", "list", &job][..], &["secret", "update", &job, "TOKEN=token.txt"]] {
        farm.world.farm(args).with_env("FARM_TICKET", &other).fails(8).explains(&["no job"]);
    }
}

#[test]
fn who_hands_over_a_proxy_is_told_that_it_runs_out() {
    let farm = Farm::new(0);
    // The key and two certificates, as a proxy is.
    let make = |name: &str, days: &str| {
        let [key, certificate] = ["key", "pem"].map(|end| farm.world.path().join(format!("{name}.{end}")));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"])
            .args(["-days", days, "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output();
        made.is_ok_and(|made| made.status.success())
            .then(|| [&certificate, &key].map(|path| fs::read_to_string(path).expect("a file")).concat())
    };
    let (Some(long), Some(over)) = (make("long", "100"), make("over", "0")) else {
        println!("no openssl here: the rest is tested where certificates are read");
        return;
    };
    farm.world.write("proxy.pem", format!("{over}{long}"));
    farm.world.write("long.pem", long);
    let m = module(&farm.world, &reader(0));
    let submit = |file: &str| {
        let secret = format!("X509_USER_PROXY={file}");
        farm.farm(&["submit", "--detach", m, "--args", r#"["X509_USER_PROXY"]"#, "--secret", &secret]).succeeds()
    };
    submit("proxy.pem").says(&["warning: secret X509_USER_PROXY holds a certificate that ran out"]);
    assert!(!submit("long.pem").stderr.contains("warning"));
    farm.farm(&["secret", "list", "1"]).succeeds().says(&[]);
    let listed = farm.farm(&["secret", "list", "2", "--output", "json"]).succeeds().json();
    assert!(listed["secrets"][0]["expires_ms"].as_u64() > Some(0), "{listed}");
    assert!(farm.scheduler.log().contains("holds a certificate that ran out"));
}

#[test]
fn a_fold_sees_them_too() {
    let farm = Farm::new(1);
    farm.world.write("token.txt", "x");
    let m = module(&farm.world, crate::wat::GRAPH);
    let sum = ["--function", "square", "--range", "0..10", "--reduce", "add", "--secret", "TOKEN=token.txt"];
    let finished = farm.farm(&["submit", m, "--format", "ndjson"]).with(sum).succeeds();
    assert_eq!(kinds(&finished), [json!(285)]);
}
