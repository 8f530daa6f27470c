//! State folders: looked after, damaged, copied, and on a disk that is full.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use farm_tests::{World, wait_for};
use serde_json::json;

use crate::disk::SmallDisk;
use crate::support::{Farm, module, squares};
use crate::wat;

/// A farm that has done a job, and its folder.
fn done() -> Farm {
    let farm = Farm::new(1);
    let m = module(&farm.world, wat::SQUARE);
    farm.farm(&["submit", m, "--range", "0..1000"]).succeeds();
    farm
}

fn end(farm: Farm) -> World {
    let Farm { workers, scheduler, world } = farm;
    drop((workers, scheduler));
    world
}

fn admin(world: &World, args: &[&str]) -> farm_tests::Command {
    world.farm(["admin", "--state"]).with([world.state()]).with(args)
}

/// The only blob there is: the module.
fn blob(state: &Path) -> PathBuf {
    let files = |folder: PathBuf| fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    let folders = files(state.join("blobs")).filter(|path| path.is_dir());
    folders.flat_map(files).find(|path| path.is_file()).expect("a blob")
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x55], at).expect("a byte");
}

#[test]
fn a_sound_state_is_found_sound_while_it_is_used_and_afterwards() {
    let farm = done();
    farm.world.check_state();
    let world = end(farm);
    let report = admin(&world, &["check", "--output", "json"]).succeeds().json();
    assert_eq!((&report["jobs"], &report["tasks"], &report["blobs"]), (&json!(1), &json!(1000), &json!(1)));
    admin(&world, &["check"]).succeeds().says(&["1 jobs", "1,000 outcomes", "all is well"]);
}

#[test]
fn damage_is_named_with_its_place() {
    let world = end(done());
    let state = world.state();
    flip(&blob(&state), 10);
    let report = admin(&world, &["check", "--output", "json"]).fails(70).json();
    let faults = report["faults"].as_array().expect("faults");
    let name = blob(&state).file_name().expect("a name").to_string_lossy().into_owned();
    assert!(faults.len() == 1 && faults[0].as_str().is_some_and(|fault| fault.contains(&name)), "{report}");
    flip(&blob(&state), 10);

    fs::rename(blob(&state), world.path().join("kept")).expect("renamed");
    admin(&world, &["check"]).fails(70);
    fs::write(state.join("blobs").join(&name[..2]).join(&name), fs::read(world.path().join("kept")).expect("kept"))
        .expect("written");
    admin(&world, &["check"]).succeeds();

    // Somewhere in its pages: check finds it, or the scheduler refuses it, by name.
    let database = state.join("farm.sqlite");
    let size = fs::metadata(&database).expect("a database").len();
    for at in [100, size / 2, size - 100] {
        flip(&database, at);
        let checked = admin(&world, &["check"]).run();
        if checked.code() != Some(0) {
            let told = format!("{}{}", String::from_utf8_lossy(&checked.stdout), checked.stderr);
            assert!(told.contains("farm.sqlite") || told.contains("table"), "{told}");
        }
        flip(&database, at);
    }
    admin(&world, &["check"]).succeeds();
}

#[test]
fn a_copy_of_a_farm_at_work_is_a_farm() {
    let farm = done();
    let m = module(&farm.world, &wat::busy(1_000_000));
    let job = farm.detach(&[m, "--range", "0..2000"]);
    farm.wait_until(&job, "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(100));
    let copy = farm.world.path().join("copy");
    admin(&farm.world, &["backup"]).with([&copy]).succeeds();
    let again = admin(&farm.world, &["backup"]).with([&copy]).run();
    again.with_code(70).explains(&["is not empty"]);
    farm.wait_until(&job, "ends", |status| status["state"] == "done");
    admin(&farm.world, &["gc"]).fails(70).explains(&["belongs to a scheduler that is running"]);
    let world = end(farm);
    world.farm(["admin", "check", "--state"]).with([&copy]).succeeds();

    // It goes on from there, under another address.
    fs::rename(&copy, world.path().join("moved")).expect("renamed");
    fs::remove_dir_all(world.state()).expect("removed");
    fs::rename(world.path().join("moved"), world.state()).expect("renamed");
    let scheduler = world.scheduler();
    let worker = world.worker(&scheduler, "w", 1);
    let farm = Farm { workers: vec![worker], scheduler, world };
    let results = farm.farm(&["job", "results", &job]).succeeds();
    assert_eq!(results.json(), squares(2000));
    assert_eq!(farm.farm(&["job", "results", "1"]).succeeds().json(), squares(1000));
    drop((farm.workers, farm.scheduler));
    farm.world.check_state();
}

#[test]
fn a_state_of_a_newer_version_is_refused() {
    let world = end(done());
    // SQLite's `user_version`, big endian: https://www.sqlite.org/fileformat2.html, 1.3.10.
    let database = fs::File::options().write(true).open(world.state().join("farm.sqlite")).expect("a database");
    database.write_all_at(&99u32.to_be_bytes(), 60).expect("written");
    let refused = world.farm(["scheduler", "--listen", "127.0.0.1:0", "--state"]).with([world.state()]).fails(70);
    refused.says(&["error: ", "is of version 99", "written by a newer one", "hint: "]);
    admin(&world, &["check"]).fails(70).says(&["is of version 99"]);
}

#[test]
fn a_full_disk_takes_no_more_and_loses_nothing() {
    let world = World::new();
    let Some(_disk) = SmallDisk::mount_of(&world.state(), "4m") else { return };
    let scheduler = world.scheduler();
    let worker = world.worker(&scheduler, "w", 1);
    let farm = Farm { workers: vec![worker], scheduler, world };
    let m = module(&farm.world, wat::SQUARE);
    let first = farm.detach(&[m, "--range", "0..60000"]);
    farm.wait_until(&first, "is done", |status| status["state"] == "done");
    // Too much for the rest of the disk.
    let second = farm.detach(&[m, "--range", "0..600000"]);
    let refused = wait_for("a refusal", || {
        let tried = farm.farm(&["submit", m, "--range", "0..10", "--detach"]).run();
        (tried.code() != Some(0)).then_some(tried)
    });
    refused.says(&["error: the farm refused: the scheduler cannot store it", "full"]);
    assert_eq!(farm.farm(&["job", "results", &first]).succeeds().json(), squares(60000));
    let stuck = farm.job(&second);
    assert_eq!(stuck["state"], "running", "{stuck}");
    // What is cancelled and deleted makes room, and the farm takes jobs again.
    farm.farm(&["job", "delete", &first]).succeeds();
    let scheduler_log = farm.scheduler.log();
    assert!(scheduler_log.contains("cannot store anything"), "{scheduler_log}");
    drop((farm.workers, farm.scheduler));
    farm.world.check_state();
}
