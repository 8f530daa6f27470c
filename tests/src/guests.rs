//! Modules for tests: those of the repository, WebAssembly text, and crates built on the spot.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command as Plain;

use crate::{Command, World};

/// The two targets that function crates are built for.
const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-unknown-unknown"];

/// The path of an example module: `square`, `pi`, `wordcount`, `mandelbrot`, `zmumu`.
///
/// # Panics
///
/// If it has not been built.
pub fn guest(name: &str) -> PathBuf {
    let path = folder().join(format!("{name}.wasm"));
    assert!(path.is_file(), "there is no {}: `cargo xtask guests` makes it", path.display());
    path
}

/// Where `cargo xtask guests` puts modules.
fn folder() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
    std::env::var_os("FARM_GUESTS").map_or_else(default, PathBuf::from)
}

/// Writes WebAssembly text into the world and gives its path.
pub fn wat(world: &World, name: &str, text: &str) -> PathBuf {
    world.write(&format!("{name}.wat"), text)
}

impl World {
    /// Builds a function crate with `farm build` and gives the path of its module.
    ///
    /// # Panics
    ///
    /// If it does not build, or there is no compiler for it.
    pub fn build(&self, folder: impl AsRef<Path>) -> PathBuf {
        let out = self.path().join("built");
        std::fs::create_dir_all(&out).unwrap_or_else(|error| panic!("cannot make {}: {error}", out.display()));
        let mut command = self.farm(["build", "--output", "json", "--out"]).with([&out]).with([folder.as_ref()]);
        compile_guests(&mut command);
        let built = command.succeeds().json();
        let module = built["module"].as_str().unwrap_or_else(|| panic!("no path of a module in {built}"));
        self.path().join(module)
    }
}

/// Gives a command that builds function crates the compiler for them: the one that `RUSTC` names or rustup has, if it
/// knows the targets, else the one that `cargo xtask guests` has made. What that has built of the crates' dependencies is
/// used again.
///
/// # Panics
///
/// If there is none.
pub fn compile_guests(command: &mut Command) {
    command.env("RUSTC", compiler());
    let shared = folder().with_file_name("guest-build");
    if shared.is_dir() {
        command.env("CARGO_TARGET_DIR", shared);
    }
}

fn compiler() -> OsString {
    let at_hand = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let made = folder().with_file_name("wasm-toolchain").join("rustc").into_os_string();
    let mut candidates = [at_hand, made].into_iter();
    candidates.find(|rustc| TARGETS.iter().all(|target| has_target(rustc, target))).unwrap_or_else(|| {
        panic!("no Rust compiler for {} here: `cargo xtask guests` sets one up", TARGETS.join(" and "))
    })
}

fn has_target(rustc: &OsStr, target: &str) -> bool {
    let output = Plain::new(rustc).args(["--print", "target-libdir", "--target", target]).output();
    output.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let mut files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
    })
}
