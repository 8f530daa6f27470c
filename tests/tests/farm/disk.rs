//! A cache on a full disk. What a scheduler does on one is in `admin`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use farm_tests::World;

use crate::support::module;
use crate::wat;

/// A file system of a few pages, unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Of that size. `None` where this user may not mount.
    pub(crate) fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let options = format!("size={size},mode=0700");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        // Past the harness, which shows nothing of tests that succeed.
        let _ = writeln!(std::io::stderr(), "SKIPPED: tests of a full disk, because this user may not mount a tmpfs");
        None
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.0.clone()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Larger than the disk, compiled or not.
fn large_module() -> String {
    let functions: String = (0..400)
        .map(|number| {
            format!(
                "(func (export \"f{number}\") (param i64) (result i64) (i64.mul (local.get 0) (i64.const {number})))"
            )
        })
        .collect();
    format!("(module {functions})")
}

#[test]
fn run_tells_where_there_is_no_space() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.cache(), "16k") else { return };
    let m = module(&world, &large_module());
    let finished = world.farm(["run", m, "--function", "f3", "--args", "[5]"]).fails(70);
    finished.explains(&["no space is left", "cache"]).hints(&["FARM_CACHE"]);
    world.leaves_nothing();
    let artefacts = disk.files().into_iter().filter(|file| file.starts_with(world.cache().join("artefacts")));
    assert_eq!(artefacts.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "what did not fit is removed");
}

#[test]
fn a_job_tells_where_there_is_no_space() {
    let world = World::new();
    let Some(_disk) = SmallDisk::mount(&world.cache(), "16k") else { return };
    let m = module(&world, &large_module());
    let finished = world.farm(["submit", m, "--function", "f3", "--args", "[5, 6]"]).run();
    assert!([Some(1), Some(7), Some(70)].contains(&finished.code()), "{:?}", finished.status);
    finished.says(&["no space is left"]);
    world.leaves_nothing();
}

#[test]
fn a_result_file_on_a_full_disk_is_told() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.path().join("small"), "16k") else { return };
    let m = module(&world, wat::SQUARE);
    for command in ["run", "submit"] {
        let finished = world.farm([command, m, "--range", "0..100000", "--out", "small/results.json"]).fails(70);
        finished.says(&["error: cannot write", "No space left"]);
        assert_eq!(disk.files(), Vec::<PathBuf>::new());
        world.leaves_nothing();
    }
    let full = world.farm(["run", m, "--range", "0..100000", "--out", "/dev/full"]).fails(70);
    full.explains(&["cannot write", "No space left"]);
}
