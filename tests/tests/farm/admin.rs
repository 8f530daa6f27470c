//! State folders: looked over, copied, damaged, foreign, read-only, and on a full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use farm_tests::{Finished, World, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::disk::SmallDisk;
use crate::support::{Farm, module, squares};
use crate::wat;

/// A farm that has done something, and whose scheduler was stopped. Its state has a name that is found nowhere else.
fn stopped() -> (Farm, PathBuf) {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::EVEN);
    farm.farm(&["submit", m, "--range", "0..1000", "--name", "remarkable"]).fails(1);
    farm.farm(&["submit", m, "--args", "[123456]"]).succeeds();
    farm.stop_scheduler(Signal::TERM);
    let state = farm.world.state();
    (farm, state)
}

fn admin(world: &World, command: &str, state: &Path) -> farm_tests::Command {
    world.farm(["admin", command, "--output", "json", "--state"]).with([state])
}

fn start(world: &World, state: &Path) -> farm_tests::Command {
    world.farm(["scheduler", "--listen", "127.0.0.1:0", "--state"]).with([state]).with_env("FARM_LOG", "off")
}

fn faults(checked: &Finished) -> Vec<String> {
    let faults = checked.json()["faults"].clone();
    serde_json::from_value(faults).expect("texts")
}

/// Where bytes are in a file.
fn find(file: &Path, bytes: &[u8]) -> usize {
    let content = fs::read(file).expect("readable");
    let found = content.windows(bytes.len()).position(|window| window == bytes);
    found.unwrap_or_else(|| panic!("{:?} is not in {}", String::from_utf8_lossy(bytes), file.display()))
}

/// Changes bytes of a file.
fn patch(file: &Path, at: usize, change: impl FnOnce(&mut [u8])) {
    let mut content = fs::read(file).expect("readable");
    change(&mut content[at..]);
    fs::write(file, content).expect("writable");
}

/// The only blob: the module of both jobs.
fn blob(state: &Path) -> PathBuf {
    let mut folders = vec![state.join("blobs")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_state_that_is_sound() {
    let (mut farm, state) = stopped();
    let checked = admin(&farm.world, "check", &state).succeeds().json();
    assert_eq!((&checked["jobs"], &checked["tasks"], &checked["blobs"]), (&json!(2), &json!(1001), &json!(1)));
    assert_eq!(checked["faults"], json!([]));
    assert!(checked["batches"].as_u64() >= Some(2) && checked["bytes"].as_u64() > Some(0), "{checked}");
    let text = farm.world.farm(["admin", "check", "--state"]).with([&state]).succeeds();
    text.says(&["2 jobs, 1,001 outcomes", "all is well"]);
    // Beside a scheduler as well, and it changes nothing.
    farm.restart_scheduler();
    assert_eq!(admin(&farm.world, "check", &state).succeeds().json()["tasks"], 1001);
    assert_eq!(farm.farm(&["job", "results", "2"]).succeeds().json(), json!([123_456_u64 * 123_456]));
}

#[test]
fn a_blob_that_was_changed_or_is_gone() {
    let (farm, state) = stopped();
    let blob = blob(&state);
    let name = blob.file_name().expect("a name").to_string_lossy().into_owned();
    let whole = fs::read(&blob).expect("readable");
    patch(&blob, whole.len() / 2, |bytes| bytes[0] ^= 1);
    let changed = faults(&admin(&farm.world, "check", &state).fails(70));
    assert!(changed.len() == 1 && changed[0].contains(&name), "{changed:?}");
    fs::write(&blob, &whole[..whole.len() - 1]).expect("writable");
    let cut = faults(&admin(&farm.world, "check", &state).fails(70));
    assert!(cut.len() == 1 && cut[0].contains(&name), "{cut:?}");
    fs::remove_file(&blob).expect("there");
    let gone = faults(&admin(&farm.world, "check", &state).fails(70));
    assert!(gone.len() == 1 && gone[0].contains(&name) && gone[0].contains("job"), "{gone:?}");
    fs::write(&blob, whole).expect("writable");
    farm.world.check_state();
}

#[test]
fn a_database_that_was_changed() {
    let (mut farm, state) = stopped();
    let database = state.join("farm.sqlite");
    let good = fs::read(&database).expect("readable");
    // A job's name, and a result.
    let result = (123_456_u64 * 123_456).to_string();
    for (bytes, place) in [(&b"remarkable"[..], "jobs"), (result.as_bytes(), "batches")] {
        patch(&database, find(&database, bytes), |bytes| bytes[0] ^= 1);
        let found = faults(&admin(&farm.world, "check", &state).fails(70));
        assert!(found.iter().any(|fault| fault.contains("farm.sqlite") && fault.contains(place)), "{found:?}");
        fs::write(&database, &good).expect("writable");
    }
    // What a scheduler must know to start, it does not guess.
    patch(&database, find(&database, b"remarkable"), |bytes| bytes[0] ^= 1);
    let refused = start(&farm.world, &state).fails(70);
    refused.explains(&["farm.sqlite", "is damaged", "table jobs"]).hints(&["farm admin check"]);
    // Cut off, it is nothing at all.
    fs::write(&database, &good[..good.len() / 2]).expect("writable");
    start(&farm.world, &state).fails(70).explains(&["farm.sqlite"]);
    let checked = admin(&farm.world, "check", &state).run();
    assert_eq!(checked.code(), Some(70));
    // A good copy in its place, and all is well.
    fs::write(&database, &good).expect("writable");
    farm.restart_scheduler();
    assert_eq!(farm.farm(&["job", "results", "2"]).succeeds().json(), json!([123_456_u64 * 123_456]));
}

#[test]
fn a_log_that_has_lost_its_end() {
    let mut farm = Farm::new(1);
    let m = module(&farm.world, wat::SQUARE);
    for _ in 0..5 {
        farm.farm(&["submit", m, "--range", "0..100"]).succeeds();
    }
    farm.stop_scheduler(Signal::KILL);
    let state = farm.world.state();
    let log = state.join("farm.sqlite-wal");
    let whole = fs::read(&log).expect("a log of what is not in the database yet");
    fs::write(&log, &whole[..whole.len() * 2 / 3]).expect("writable");
    // It was acknowledged, so that it must not be missing without a word.
    let refused = start(&farm.world, &state).fails(70);
    refused.explains(&["farm.sqlite", "is damaged"]);
    let found = faults(&admin(&farm.world, "check", &state).fails(70));
    assert!(!found.is_empty());
    fs::write(&log, &whole).expect("writable");
    farm.restart_scheduler();
    for job in ["1", "5"] {
        assert_eq!(farm.farm(&["job", "results", job]).succeeds().json(), squares(100));
    }
}

#[test]
fn a_copy_is_a_farm() {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(2_000_000));
    farm.farm(&["submit", m, "--range", "0..100"]).succeeds();
    let client = farm.farm(&["submit", m, "--range", "0..3000"]).start();
    farm.wait_until("2", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(100));
    let other = World::new();
    let copy = farm.world.farm(["admin", "backup", "--state"]).with([farm.world.state(), other.state()]).succeeds();
    copy.says(&["is copied to", "farm scheduler --state"]);
    // The farm has not noticed.
    assert_eq!(client.wait().with_code(0).json(), squares(3000));

    other.check_state();
    let scheduler = other.scheduler();
    let admin_ticket = scheduler.admin_ticket();
    let of_copy = |args: &[&str]| other.farm(args).with_env("FARM_TICKET", &admin_ticket);
    assert_eq!(of_copy(&["job", "results", "1"]).succeeds().json(), squares(100));
    let there = of_copy(&["job", "show", "2", "--output", "json"]).succeeds().json();
    assert!(there["counts"]["succeeded"].as_u64() >= Some(100), "{there}");
    assert_ne!(there["state"], "done", "{there}");
    let _worker = other.worker(&scheduler, "w0", 1);
    assert_eq!(of_copy(&["job", "results", "2"]).succeeds().json(), squares(3000));

    // Not into a folder that is somebody's.
    let occupied = other.write("occupied/by.txt", "somebody");
    let folder = occupied.parent().expect("a folder");
    let refused = farm.world.farm(["admin", "backup", "--state"]).with([farm.world.state(), folder.to_owned()]);
    refused.fails(70).explains(&["is not empty"]).hints(&["folder of its own"]);
    assert_eq!(fs::read(occupied).expect("there"), b"somebody");
}

#[test]
fn a_running_scheduler_is_left_alone() {
    let farm = Farm::new(0);
    let refused = farm.world.farm(["admin", "gc", "--state"]).with([farm.world.state()]).fails(70);
    refused.explains(&["belongs to a scheduler that is running", &format!("process {}", farm.scheduler.pid())]);
    farm.status();
}

#[test]
fn a_state_of_a_newer_program() {
    let (farm, state) = stopped();
    let database = state.join("farm.sqlite");
    // `user_version` in SQLite's header.
    patch(&database, 60, |bytes| bytes[..4].copy_from_slice(&99_u32.to_be_bytes()));
    let before = fs::read(&database).expect("readable");
    for command in [start(&farm.world, &state), farm.world.farm(["admin", "check", "--state"]).with([&state])] {
        let refused = command.fails(70);
        refused.explains(&["farm.sqlite", "is of version 99", "knows versions up to"]).hints(&["newer `farm`"]);
    }
    assert_eq!(fs::read(&database).expect("readable"), before, "it is as it was");
}

#[test]
fn folders_of_others() {
    let world = World::new();
    let text = world.write("text/farm.sqlite", "no database at all, but long enough to be taken for one. ".repeat(100));
    let empty = world.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    let file = world.write("file", "");
    start(&world, text.parent().expect("a folder")).fails(70).explains(&["farm.sqlite"]);
    start(&world, &file).fails(70).explains(&["cannot use", "file"]);
    assert_eq!(fs::read(&file).expect("there"), b"");
    for command in ["check", "gc"] {
        let foreign = admin(&world, command, &empty).fails(70).error_json();
        assert!(foreign["error"]["message"].as_str().is_some_and(|text| text.contains("not a farm's")), "{foreign}");
        admin(&world, command, &world.path().join("nowhere")).fails(8);
    }
    assert_eq!(fs::read_dir(&empty).expect("there").count(), 0, "looking at it leaves nothing");

    // A database of some other program.
    let (farm, state) = stopped();
    patch(&state.join("farm.sqlite"), 68, |bytes| bytes[..4].copy_from_slice(&1_u32.to_be_bytes()));
    start(&farm.world, &state).fails(70).explains(&["farm.sqlite", "not a farm's"]);
}

/// A folder seen through a read-only mount, unmounted when dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    /// `None` where this user may not mount.
    fn mount(folder: &Path) -> Option<Self> {
        let mount = |args: &[&str]| {
            let done = Command::new("mount").args(args).arg(folder).output();
            done.is_ok_and(|output| output.status.success())
        };
        if !mount(&["--bind", folder.to_str()?]) {
            // As for a small disk, which tells.
            return SmallDisk::mount(folder, "16k").and(None);
        }
        let mounted = Self(folder.to_owned());
        mount(&["-o", "remount,bind,ro"]).then_some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_folder_that_can_only_be_read() {
    let (mut farm, state) = stopped();
    let Some(mount) = ReadOnly::mount(&state) else { return };
    let refused = start(&farm.world, &state).fails(70);
    refused.explains(&["cannot use", "Read-only"]);
    drop(mount);
    farm.restart_scheduler();
    assert_eq!(farm.farm(&["job", "results", "2"]).succeeds().json(), json!([123_456_u64 * 123_456]));
}

/// A farm whose state is on a disk of 48 MiB, of which a file takes all but so many bytes.
fn on_a_small_disk(left: u64) -> Option<(Farm, PathBuf, SmallDisk)> {
    let world = World::new();
    let disk = SmallDisk::mount(&world.state(), "48m")?;
    let scheduler = world.scheduler();
    let worker = world.worker(&scheduler, "w0", 1);
    let farm = Farm { workers: vec![worker], scheduler, world };
    farm.await_workers(1);
    let filler = farm.world.state().join("filler");
    fill(&filler, left);
    Some((farm, filler, disk))
}

fn fill(filler: &Path, left: u64) {
    let disk = rustix::fs::statvfs(filler.parent().expect("a folder")).expect("mounted");
    let room = (disk.f_bavail * disk.f_frsize).saturating_sub(left);
    let content = vec![0; usize::try_from(room).expect("small")];
    fs::write(filler, content).expect("it fits");
}

/// A job whose results take 16 MB.
fn large_results(farm: &Farm) -> (farm_tests::Running, Value) {
    let m = module(&farm.world, &wat::printer(1, &"x".repeat(4096), 1, 0));
    let arguments = json!(vec![""; 4000]).to_string();
    let client = farm.farm(&["submit", m, "--args", "-"]).stdin(arguments).start();
    (client, json!(vec!["x".repeat(4096); 4000]))
}

#[test]
fn a_full_disk_takes_no_job_and_loses_none() {
    let Some((farm, filler, _disk)) = on_a_small_disk(3 << 20) else { return };
    let m = module(&farm.world, wat::SQUARE);
    farm.farm(&["submit", m, "--range", "0..10"]).succeeds();
    farm.world.write("large.bin", vec![7; 8 << 20]);
    let refused = farm.farm(&["submit", m, "--range", "0..10", "--input", "large=large.bin"]).fails(6);
    refused.explains(&["cannot store"]);
    // Others are served.
    assert_eq!(farm.farm(&["job", "results", "1"]).succeeds().json(), squares(10));
    assert_eq!(farm.farm(&["submit", m, "--range", "0..20"]).succeeds().json(), squares(20));
    fs::remove_file(filler).expect("there");
    let now = farm.farm(&["submit", m, "--range", "0..10", "--input", "large=large.bin"]).succeeds();
    assert_eq!(now.json(), squares(10));
    farm.world.check_state();
}

#[test]
fn results_wait_for_room_on_a_full_disk() {
    let Some((mut farm, filler, _disk)) = on_a_small_disk(6 << 20) else { return };
    let (client, expected) = large_results(&farm);
    wait_for("a full disk", || farm.scheduler.log().contains("cannot store anything").then_some(()));
    // It answers, and takes no more.
    let status = farm.job("1");
    assert_eq!(status["state"], "running", "{status}");
    let m = farm_tests::wat(&farm.world, "square", wat::SQUARE);
    let refused = farm.farm(&["submit", "--range", "0..10"]).with([&m]).fails(6);
    refused.explains(&["cannot store"]);
    // Not even a death loses anything, though there is no room at its return.
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    assert_eq!(farm.job("1")["state"], "running");
    fs::remove_file(filler).expect("there");
    assert!(client.wait().with_code(0).json() == expected, "wrong results");
    assert_eq!(farm.farm(&["submit", "--range", "0..10"]).with([&m]).succeeds().json(), squares(10));
    farm.world.check_state();
}

/// Waits until there is no room for the results that a client waits for.
fn until_full(farm: &Farm, client: &mut farm_tests::Running) {
    wait_for("a full disk", || {
        assert!(client.is_running(), "{}", client.said());
        farm.scheduler.log().contains("cannot store anything").then_some(())
    });
}

#[test]
fn deleting_makes_room_on_a_full_disk() {
    let Some((mut farm, _filler, _disk)) = on_a_small_disk(30 << 20) else { return };
    let (client, expected) = large_results(&farm);
    assert!(client.wait().with_code(0).json() == expected, "wrong results");
    let (mut second, expected) = large_results(&farm);
    until_full(&farm, &mut second);
    farm.farm(&["job", "delete", "1"]).succeeds();
    assert!(second.wait().with_code(0).json() == expected, "wrong results");
    farm.farm(&["job", "show", "1"]).fails(8);
    farm.stop_scheduler(Signal::KILL);
    farm.restart_scheduler();
    farm.farm(&["job", "show", "1"]).fails(8);
    assert_eq!(farm.job("2")["state"], "done");
    farm.world.check_state();
}

#[test]
fn results_that_are_kept_no_longer_make_room_on_a_full_disk() {
    let Some((mut farm, _filler, _disk)) = on_a_small_disk(30 << 20) else { return };
    let (client, expected) = large_results(&farm);
    assert!(client.wait().with_code(0).json() == expected, "wrong results");
    farm.stop_scheduler(Signal::TERM);
    farm.scheduler = farm.world.scheduler_at(&farm.scheduler.address, &["--keep-results", "30s"], &[]);
    let (mut second, expected) = large_results(&farm);
    until_full(&farm, &mut second);
    assert!(second.wait().with_code(0).json() == expected, "wrong results");
    farm.farm(&["job", "show", "1"]).fails(8);
    farm.world.check_state();
}

#[test]
fn a_scheduler_starts_on_a_disk_without_any_room() {
    let Some((mut farm, filler, _disk)) = on_a_small_disk(3 << 20) else { return };
    let m = module(&farm.world, wat::SQUARE);
    farm.farm(&["submit", m, "--range", "0..10"]).succeeds();
    let ticket = fs::read(farm.world.state().join("admin.ticket")).expect("there");
    farm.stop_scheduler(Signal::TERM);
    // Without ballast, and with what the database needs to open at the very least.
    fs::remove_file(farm.world.state().join("farm.ballast")).expect("there");
    fs::remove_file(&filler).expect("there");
    fill(&filler, 80 << 10);
    farm.restart_scheduler();
    assert_eq!(fs::read(farm.world.state().join("admin.ticket")).expect("there"), ticket, "it will do");
    assert_eq!(farm.farm(&["job", "results", "1"]).succeeds().json(), squares(10));
    farm.farm(&["submit", m, "--range", "0..10"]).fails(6).explains(&["cannot store"]);
    // To an earlier address, where it leads now cannot be written.
    farm.stop_scheduler(Signal::TERM);
    fs::remove_file(&filler).expect("there");
    fill(&filler, 0);
    let filled = fs::metadata(&filler).expect("there").len();
    fs::File::options().write(true).open(&filler).and_then(|file| file.set_len(filled - (80 << 10))).expect("ours");
    farm.scheduler = farm.world.scheduler_at("127.0.0.1:0", &[], &[]);
    farm.farm(&["job", "delete", "1"]).succeeds();
    farm.world.check_state();
}

#[test]
fn a_folder_without_its_keys_is_refused() {
    let (mut farm, state) = stopped();
    for name in ["ca.pem", "secret.key"] {
        let (file, aside) = (state.join(name), state.join("aside"));
        fs::rename(&file, &aside).expect("there");
        let refused = start(&farm.world, &state).fails(70);
        refused.explains(&[name, "is missing"]).hints(&["backup", "empty"]);
        assert!(!file.exists(), "another would lock everybody out");
        fs::rename(&aside, &file).expect("there");
    }
    farm.restart_scheduler();
    assert_eq!(farm.job("2")["state"], "done");
}
