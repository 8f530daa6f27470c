//! `--output-dir` and `farm job fetch`: what tasks leave in /out.

use std::fs;
use std::path::{Path, PathBuf};

use farm_tests::{World, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Farm, kinds, module, outcomes};
use crate::wat::leaves;

/// Makes the folder `other`.
const MKDIR: &str = "(drop (call $mkdir (i32.const 3) (i32.const 512) (i32.const 5)))";

/// Every file below a folder, with its content.
fn tree(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("a file")));
            }
        }
    }
    found.sort();
    found
}

fn files(contents: &[(&str, &str)]) -> Vec<(String, String)> {
    contents.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

/// Everything that workers of a world keep of tasks' files.
fn kept_by_workers(world: &World) -> Vec<PathBuf> {
    let runs = fs::read_dir(world.cache()).into_iter().flatten().flatten();
    let outs = runs.map(|run| run.path().join("out")).filter(|out| out.exists());
    outs.flat_map(|out| fs::read_dir(out).expect("a folder").map(|entry| entry.expect("an entry").path()))
        .filter(|path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()))
        .collect()
}

#[test]
fn what_tasks_leave_comes_back() {
    let world = World::new();
    let m = module(&world, &leaves(3, "other/x", 1, MKDIR));
    let args = json!(["zero", "", "two"]).to_string();
    for command in ["run", "submit"] {
        let out = format!("files-{command}");
        let finished = world.farm([command, m, "--args", &args, "--format", "ndjson", "--output-dir", &out]).succeeds();
        finished.says(&["3 files", &out]);
        assert_eq!(
            tree(&world.path().join(&out)),
            files(&[("0/other/x", "zero"), ("1/other/x", ""), ("2/other/x", "two")])
        );
        let listed = &outcomes(&finished)[2]["files"];
        assert_eq!((&listed[0]["path"], &listed[0]["size"]), (&json!("other/x"), &json!(3)), "{listed}");
        world.leaves_nothing();
        // Not over anything.
        let again = || world.farm([command, m, "--args", &args, "--output-dir", &out]);
        again().fails(2).explains(&[&out, "not empty"]).hints(&["--force"]);
        fs::write(world.path().join(&out).join("0/other/x"), "mine").expect("a file");
        again().with(["--force"]).succeeds();
        assert_eq!(fs::read_to_string(world.path().join(&out).join("0/other/x")).expect("a file"), "zero");
    }
}

#[test]
fn without_it_there_is_no_out() {
    let world = World::new();
    let m = module(&world, &leaves(3, "x", 1, ""));
    for command in ["run", "submit"] {
        let finished = world.farm([command, m, "--args", r#"["a"]"#, "--format", "ndjson"]).fails(1);
        assert_eq!(kinds(&finished), [json!("trap")]);
        world.leaves_nothing();
    }
    let m = module(&world, crate::wat::CAT);
    let finished = world.farm(["run", m, "--args", r#"["a"]"#, "--output-dir", "out"]).succeeds();
    finished.says(&["0 files"]);
    assert!(!world.path().join("out").exists());
}

#[test]
fn what_is_no_plain_file_fails_the_task() {
    let world = World::new();
    let symlink = "(drop (call $symlink (i32.const 64) (i32.const 1) (i32.const 3) (i32.const 512) (i32.const 5)))";
    // The second name of a file that is there: its own, from before.
    let link =
        "(drop (call $open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 5) (i32.const 9) (i64.const 66)
            (i64.const 0) (i32.const 0) (i32.const 16)))
        (drop (call $link (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 5) (i32.const 3) (i32.const 512)
            (i32.const 4)))";
    for (first, words) in [(symlink, "/out/other is a symbolic link"), (link, "a hard link")] {
        let m = module(&world, &leaves(3, "x", 1, first));
        for command in ["run", "submit"] {
            let finished = world.farm([command, m, "--args", r#"["a"]"#, "--output-dir", "out"]).fails(1);
            finished.says(&["bad-output", words]);
            assert!(!world.path().join("out").exists());
            world.leaves_nothing();
        }
    }
}

#[test]
fn inputs_cannot_be_changed_by_way_of_out() {
    let world = World::new();
    world.write("x.txt", "as it was");
    // /in is 3, /out is 4. The input is called `other`.
    let link = "(if (i32.eqz (call $link (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 5) (i32.const 4)
        (i32.const 64) (i32.const 1))) (then unreachable))";
    let m = module(&world, &leaves(4, "x", 1, link));
    let inputs = ["--input", "other=x.txt", "--output-dir", "out"];
    world.farm(["submit", m, "--args", r#"["changed"]"#]).with(inputs).succeeds();
    assert_eq!(fs::read_to_string(world.path().join("x.txt")).expect("a file"), "as it was");
    assert_eq!(tree(&world.path().join("out")), files(&[("0/x", "changed")]));
}

#[test]
fn who_writes_without_end_is_stopped() {
    let world = World::new();
    let args = json!(["z".repeat(60_000)]).to_string();
    // 60 kB at a time, for ever.
    let m = module(&world, &leaves(3, "x", u64::MAX, ""));
    for command in ["run", "submit"] {
        let finished = world
            .farm([command, m, "--args", "-", "--output-dir", "out", "--max-output-dir", "10MiB", "--format", "ndjson"])
            .stdin(args.clone())
            .fails(1);
        assert_eq!(kinds(&finished), [json!("output-too-large")]);
        finished.says(&["10 MiB"]);
        world.leaves_nothing();
    }
    // More than the limit, but over before anyone looks.
    let m = module(&world, &leaves(3, "x", 2, MKDIR));
    let limited = |limit: &[&str]| {
        let finished = world.farm(["run", m, "--args", "-", "--output-dir", "out", "--format", "ndjson"]);
        kinds(&finished.with(limit).stdin(args.clone()).run())
    };
    assert_eq!(limited(&["--max-output-dir", "100kB"]), [json!("output-too-large")]);
    assert_eq!(limited(&["--max-output-files", "1"]), [json!("output-too-large")]);
    assert_eq!(limited(&["--max-output-files", "2"]), [json!("")]);
}

#[test]
fn files_are_fetched_later_and_once() {
    let farm = Farm::new(2);
    let m = module(&farm.world, &leaves(3, "x", 1, ""));
    let args: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    let job = farm.detach(&[m, "--args", &json!(args).to_string(), "--output-dir", "unused"]);
    let fetch = |more: &[&str]| farm.farm(&["job", "fetch", &job, "--output", "json"]).with(more).succeeds().json();
    let told = |files: u64, present: u64| json!({"job": job.parse::<u64>().expect("a number"), "files": files, "present": present});
    let matches = |fetched: Value, expected: Value| {
        for name in ["job", "files", "present"] {
            assert_eq!(fetched[name], expected[name], "{fetched}");
        }
    };
    matches(fetch(&["--to", "all"]), told(20, 0));
    let expected: Vec<_> = args.iter().map(|n| (format!("{n}/x"), n.clone())).collect();
    let mut expected = expected;
    expected.sort();
    assert_eq!(tree(&farm.world.path().join("all")), expected);
    assert!(!farm.world.path().join("unused").exists());
    fs::remove_file(farm.world.path().join("all/7/x")).expect("a file");
    matches(fetch(&["--to", "all"]), told(20, 19));
    assert_eq!(tree(&farm.world.path().join("all")), expected);
    matches(fetch(&["--to", "one", "--task", "3"]), told(1, 0));
    assert_eq!(tree(&farm.world.path().join("one")), files(&[("3/x", "3")]));
    let beyond = farm.farm(&["job", "fetch", &job, "--to", "one", "--task", "20"]).fails(8);
    beyond.explains(&["no task 20"]);
    fs::write(farm.world.path().join("one/3/x"), "mine").expect("a file");
    farm.farm(&["job", "fetch", &job, "--to", "one"]).fails(2).explains(&["one/3/x", "is there already"]);
    farm.farm(&["job", "fetch", &job, "--to", "one", "--force", "--task", "3"]).succeeds().says(&["1 file"]);
    wait_for("workers to keep nothing", || kept_by_workers(&farm.world).is_empty().then_some(()));
    farm.farm(&["job", "delete", &job]).succeeds();
    farm.farm(&["job", "fetch", &job, "--to", "none"]).fails(8);
}

/// How many blobs a stopped scheduler's folder has, and how many go.
fn collect(farm: &Farm) -> u64 {
    let blobs = farm.world.state().join("blobs");
    let count = || {
        let folders = fs::read_dir(&blobs).expect("a folder").flatten().filter(|folder| folder.file_name() != "new");
        folders.map(|folder| fs::read_dir(folder.path()).expect("a folder").count() as u64).sum()
    };
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(100_000);
    for folder in fs::read_dir(&blobs).expect("a folder").flatten().filter(|folder| folder.file_name() != "new") {
        for file in fs::read_dir(folder.path()).expect("a folder").flatten() {
            let file = fs::File::options().write(true).open(file.path()).expect("a blob");
            file.set_modified(long_ago).expect("a time");
        }
    }
    farm.world.farm(["admin", "gc", "--state"]).with([farm.world.state()]).succeeds();
    count()
}

#[test]
fn files_live_as_long_as_their_job() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, &leaves(3, "x", 1, ""));
    let job = farm.detach(&[m, "--args", r#"["a", "b", "a"]"#, "--output-dir", "unused"]);
    farm.wait_until(&job, "is done", |status| status["state"] == "done");
    farm.stop_scheduler(Signal::TERM);
    farm.world.check_state();
    // The module, and two different files.
    assert_eq!(collect(&farm), 3);
    farm.restart_scheduler();
    farm.farm(&["job", "fetch", &job, "--to", "all"]).succeeds();
    assert_eq!(tree(&farm.world.path().join("all")), files(&[("0/x", "a"), ("1/x", "b"), ("2/x", "a")]));
    farm.farm(&["job", "delete", &job]).succeeds();
    farm.stop_scheduler(Signal::TERM);
    assert_eq!(collect(&farm), 0);
    farm.world.check_state();
}

#[test]
fn files_outlive_who_dies_on_the_way() {
    // A scheduler that dies when it has the files, and when it has the outcome as well.
    for point in ["scheduler.blob.after-rename:2", "scheduler.batch.before-commit", "scheduler.batch.after-commit"] {
        let world = World::new();
        let scheduler = world.scheduler_at("127.0.0.1:0", &[], &[("FARM_FAILPOINT", point)]);
        let workers = vec![world.worker(&scheduler, "w0", 1)];
        let mut farm = Farm { workers, scheduler, world };
        let m = module(&farm.world, &leaves(3, "x", 1, ""));
        let args: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        let submit = ["submit", m, "--args", &json!(args).to_string(), "--output-dir", "out"];
        let running = farm.farm(&submit).start();
        wait_for("the scheduler's death", || (!farm.scheduler.is_running()).then_some(()));
        farm.restart_scheduler();
        assert_eq!(running.wait().code(), Some(0));
        let expected: Vec<_> = args.iter().map(|n| (format!("{n}/x"), n.clone())).collect();
        assert_eq!(tree(&farm.world.path().join("out")), expected, "{point}");
        farm.stop_scheduler(Signal::TERM);
        farm.world.check_state();
    }
}

#[test]
fn files_of_a_worker_that_dies_are_made_again() {
    let farm = Farm::new(0);
    let env = [("FARM_FAILPOINT", "worker.result:3")];
    let ticket = farm.scheduler.worker_ticket();
    let mut first = farm.world.worker_with(&ticket, "first", 1, &[], &env);
    let m = module(&farm.world, &leaves(3, "x", 1, "(call $pause)"));
    let args: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    let running = farm.farm(&["submit", m, "--args", &json!(args).to_string(), "--output-dir", "out"]).start();
    wait_for("the worker's death", || (!first.is_running()).then_some(()));
    let _second = farm.world.worker(&farm.scheduler, "second", 1);
    assert_eq!(running.wait().code(), Some(0));
    let expected: Vec<_> = args.iter().map(|n| (format!("{n}/x"), n.clone())).collect();
    assert_eq!(tree(&farm.world.path().join("out")), expected);
}
