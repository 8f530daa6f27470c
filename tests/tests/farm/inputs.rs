//! `--input NAME=FILE` and `NAME=FOLDER`: what tasks can read at /in.

use std::os::unix::fs::symlink;

use farm_tests::World;
use serde_json::{Value, json};

use crate::support::module;

/// A WASI command that prints the file whose path below /in is its input, or ends with the error's number.
const READS: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (local $error i32)
        (i32.store (i32.const 0) (i32.const 64))
        (i32.store (i32.const 4) (i32.const 900))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.load (i32.const 8))
            (i32.const OFLAGS) (i64.const RIGHTS) (i64.const 0) (i32.const 0) (i32.const 16)))
        (if (local.get $error) (then (call $exit (local.get $error))))
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 60000))
        (drop (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#;

fn reader() -> String {
    READS.replace("OFLAGS", "0").replace("RIGHTS", "2")
}

/// Opens for writing, and makes the file if it is not there.
fn writer() -> String {
    READS.replace("OFLAGS", "1").replace("RIGHTS", "66")
}

#[test]
fn tasks_read_files_and_folders_by_their_names() {
    let world = World::new();
    let m = module(&world, &reader());
    world.write("data/one.csv", "first");
    world.write("tree/a.txt", "in a");
    world.write("tree/deep/er/b.txt", "in b");
    let args = json!(["numbers.csv", "src/a.txt", "src/deep/er/b.txt"]).to_string();
    for command in ["run", "submit"] {
        let inputs = ["--input", "numbers.csv=data/one.csv", "--input", "src=tree"];
        let finished = world.farm([command, m, "--args", &args]).with(inputs).succeeds();
        assert_eq!(finished.json(), json!(["first", "in a", "in b"]));
        world.leaves_nothing();
    }
}

/// How tasks that open such paths end: `--format ndjson`.
fn ends(world: &World, command: &str, m: &str, paths: &Value) -> Vec<Value> {
    let args = paths.to_string();
    let finished = world.farm([command, m, "--args", &args, "--input", "x=x.txt", "--format", "ndjson"]).run();
    crate::support::kinds(&finished)
}

#[test]
fn nothing_else_can_be_read_and_nothing_written() {
    let world = World::new();
    world.write("x.txt", "here");
    world.write("secret.txt", "not here");
    let refused = json!("returned-error");
    for command in ["run", "submit"] {
        let m = module(&world, &reader());
        let paths = json!(["x", "../secret.txt", "../../../../../../etc/passwd", "/etc/passwd", "y"]);
        let mut expected = vec![json!("here")];
        expected.extend(vec![refused.clone(); 4]);
        assert_eq!(ends(&world, command, m, &paths), expected);
        let m = module(&world, &writer());
        assert_eq!(ends(&world, command, m, &json!(["x", "new"])), [refused.clone(), refused.clone()]);
        assert_eq!(std::fs::read_to_string(world.path().join("x.txt")).expect("the file"), "here");
    }
}

#[test]
fn a_farm_gets_each_file_once_and_its_workers_share_it() {
    let farm = crate::support::Farm::new(2);
    let m = module(&farm.world, &reader());
    // More than one blob's chunk, and the same bytes under two names.
    farm.world.write("big.txt", "z".repeat(3 << 20));
    let args = json!(vec!["a"; 40]).to_string();
    let inputs = ["--input", "a=big.txt", "--input", "b=big.txt"];
    for _ in 0..2 {
        let finished = farm.farm(&["submit", m, "--args", &args]).with(inputs).succeeds();
        assert_eq!(finished.json(), json!(vec!["z".repeat(60_000); 40]));
    }
}

#[test]
fn folders_come_with_their_links_and_their_empty_folders() {
    let world = World::new();
    world.write("tree/sub/a.txt", "in a");
    symlink("sub/a.txt", world.path().join("tree/b.txt")).expect("a link");
    std::fs::create_dir(world.path().join("tree/empty")).expect("a folder");
    let m = module(&world, &reader());
    // Opens folders only, and fails if it cannot.
    let folder = farm_tests::wat(&world, "folder", &READS.replace("OFLAGS", "2").replace("RIGHTS", "0"));
    for command in ["run", "submit"] {
        let args = json!(["t/sub/a.txt", "t/b.txt"]).to_string();
        let read = world.farm([command, m, "--args", &args, "--input", "t=tree"]).succeeds().json();
        assert_eq!(read, json!(["in a", "in a"]));
        let open = |args: &str| world.farm([command, "--args", args, "--input", "t=tree"]).with([&folder]);
        open(r#"["t/empty"]"#).succeeds();
        open(r#"["t/none"]"#).fails(1);
        world.leaves_nothing();
    }
    world.write("outside.txt", "not here");
    symlink("../outside.txt", world.path().join("tree/out.txt")).expect("a link");
    for command in ["run", "submit"] {
        let refused = world.farm([command, m, "--args", r#"["t/b.txt"]"#, "--input", "t=tree"]).fails(3);
        refused.explains(&["tree/out.txt", "outside of the folder"]);
    }
}

#[test]
fn an_upload_that_breaks_off_goes_on_where_it_was() {
    let log = [("FARM_LOG", "debug")];
    let world = World::new();
    let scheduler = world.scheduler_at("127.0.0.1:0", &[], &log);
    let farm = |args: &[&str]| world.farm(args).with_env("FARM_TICKET", scheduler.admin_ticket());
    let m = module(&world, &reader());
    // No two parts of it are equal.
    let content: Vec<u8> = (0..64u32 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    world.write("big.bin", &content);
    let submit = ["submit", "--detach", m, "--args", r#"["x"]"#, "--input", "x=big.bin"];
    let new = world.state().join("blobs/new");
    let partial = || {
        let files = std::fs::read_dir(&new).into_iter().flatten().flatten();
        let sizes = files.filter_map(|file| file.metadata().ok()).map(|file| file.len());
        sizes.max().unwrap_or_default()
    };
    let first = farm(&submit).start();
    farm_tests::wait_for("a part of the file", || (partial() > 20 << 20).then_some(()));
    first.signal(rustix::process::Signal::KILL);
    let _ = first.wait();
    assert!(partial() < content.len() as u64, "it was too fast for this test");
    // At once, before anybody has noticed that the other is gone.
    farm(&submit).succeeds();
    let lines = scheduler.log();
    let goes_on = lines.lines().find(|line| line.contains("an upload goes on where it was")).expect("it goes on");
    let from = goes_on.split("from=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a number");
    assert!(from.parse::<u64>().expect("a number") >= 20 << 20, "{goes_on}");
    // What has not changed is not sent again.
    let stored = |lines: &str| lines.lines().filter(|line| line.contains("blob stored")).count();
    let before = stored(&scheduler.log());
    farm(&submit).succeeds();
    assert_eq!(stored(&scheduler.log()), before);
    let worker = world.worker(&scheduler, "w0", 2);
    let read = farm(&["job", "results", "1", "--format", "ndjson"]).run();
    assert_eq!(read.lines().len(), 1, "it is read as it is, whatever becomes of it");
    drop(worker);
}

#[test]
fn a_file_that_changes_meanwhile_is_named_and_nothing_is_submitted() {
    let farm = crate::support::Farm::new(0);
    let m = module(&farm.world, &reader());
    let path = farm.world.write("growing.txt", "x".repeat(100_000));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let growing = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut file = std::fs::File::options().append(true).open(path).expect("the file");
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            file.write_all(b"more").expect("written");
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    });
    let submit = ["submit", "--detach", m, "--args", r#"["x"]"#, "--input", "x=growing.txt"];
    let refused = farm.farm(&submit).fails(3);
    refused.explains(&["growing.txt changed while it was being uploaded"]).hints(&["submit again"]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    growing.join().expect("no panic");
    assert_eq!(farm.farm(&["jobs", "--output", "json"]).succeeds().json(), json!([]));
    farm.farm(&submit).succeeds();
}

#[test]
fn inputs_that_are_none_are_refused() {
    let world = World::new();
    let m = module(&world, &reader());
    world.write("a.txt", "a");
    for (input, code, words) in [
        ("a.txt", 2, &["NAME=FILE", "a.txt"][..]),
        ("../a=a.txt", 2, &["../a"]),
        ("=a.txt", 2, &["no name"]),
        ("a=no/such.txt", 3, &["cannot read no/such.txt"]),
        ("a=/dev/null", 3, &["/dev/null", "neither a file nor a folder"]),
    ] {
        for command in ["run", "submit"] {
            world.farm([command, m, "--args", r#"["a"]"#, "--input", input]).fails(code).explains(words);
        }
    }
    let twice = ["--input", "a=a.txt", "--input", "a=m.wat"];
    world.farm(["run", m, "--args", r#"["a"]"#]).with(twice).fails(2).explains(&["two inputs are called \"a\""]);
    world.leaves_nothing();
}
