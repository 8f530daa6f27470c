//! An ephemeral farm for tests.
//!
//! A [`World`] is a folder of its own with everything that the `farm` binary reads or writes, so that tests run side by
//! side and leave nothing behind: whatever still runs in a world when it is dropped is ended. Every command is printed as
//! a shell would take it, so that a failing test can be followed by hand.
//!
//! A function's author can test it on real workers in a few lines:
//!
//! ```no_run
//! use farm_tests::World;
//! use serde_json::json;
//!
//! let world = World::new();
//! let module = world.build("path/of/the/crate");
//! let results = world.submit(&module, &json!([1, 2, 3]));
//! assert_eq!(results, json!([1, 4, 9]));
//! ```
//!
//! What goes wrong can be tested as well:
//!
//! ```no_run
//! # use farm_tests::World;
//! # let world = World::new();
//! let command = world.farm(["submit", "square.wasm", "--args", "[1, true]"]);
//! command.fails(4).explains(&["element 1", "expected an integer"]).hints(&["farm inspect"]);
//! world.leaves_nothing();
//! ```
//!
//! * [`World::farm`] makes a [`Command`]. It runs to its end ([`Finished`]), or goes on while the test does something
//!   else ([`Running`]).
//! * [`World::scheduler`] and [`World::worker`] start the parts of a farm, which live as long as their handles and can be
//!   killed; [`World::processes`] tells what runs. A [`Relay`] is a link to them that can be cut.
//! * [`guest`], [`wat`] and [`World::build`] give modules.
//! * [`slurm`] brings up a SLURM cluster, [`net`] a network with NAT and a strict router.
//!
//! The binary is the one that `FARM_BIN` names, else the one beside the running test in cargo's target folder.

mod cell;
mod command;
mod finished;
mod guests;
mod leftovers;
pub mod net;
mod process;
mod relay;
mod running;
mod search;
pub mod slurm;

pub use command::Command;
pub use finished::Finished;
pub use guests::{compile_guests, guest, wat};
pub use leftovers::Process;
pub use process::{Scheduler, Worker};
pub use relay::Relay;
pub use running::Running;
pub use search::{files_with, has};

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that a test waits for. Generous: it only decides how long a broken test hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with a farm's state, cache and files. Removed when dropped, and all processes in it ended.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    binary: PathBuf,
    prefix: Vec<String>,
}

impl World {
    /// An empty world.
    ///
    /// # Panics
    ///
    /// If there is no `farm` binary, or the folder cannot be made.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("farm-test-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("cannot make a temporary folder: {error}"));
        let world = Self { folder, binary: binary(), prefix: Vec::new() };
        let temporary = world.temporary();
        fs::create_dir(&temporary).unwrap_or_else(|error| panic!("cannot make {}: {error}", temporary.display()));
        world
    }

    /// The same, with everything in it behind a prefix that becomes the program, such as [`net::Host::prefix`].
    #[must_use]
    pub fn behind(mut self, prefix: Vec<String>) -> Self {
        self.prefix = prefix;
        self
    }

    /// The `farm` that is tested.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The world's folder. Commands run in it.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where commands of this world put temporary files.
    pub fn temporary(&self) -> PathBuf {
        self.path().join("tmp")
    }

    /// Where commands of this world keep compiled modules.
    pub fn cache(&self) -> PathBuf {
        self.path().join("cache")
    }

    /// Writes a file and gives its path.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        let folder = path.parent().unwrap_or_else(|| self.path());
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, content))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }

    /// A `farm` command in this world, not yet started.
    pub fn farm<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        self.command(&self.binary).with(args)
    }

    /// A line for a shell in this world, where `farm` is the binary under test.
    pub fn shell(&self, line: &str) -> Command {
        let farm = self.binary.parent().unwrap_or_else(|| self.path());
        let mut path = OsString::from(farm);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        self.command(Path::new("/bin/sh")).with(["-e", "-c", line]).with_env("PATH", path)
    }

    fn command(&self, program: &Path) -> Command {
        let command = match self.prefix.split_first() {
            None => Command::new(program, self.path()),
            Some((first, rest)) => Command::new(Path::new(first), self.path()).with(rest).with([program]),
        };
        let command = command.with_env("FARM_HOME", self.path().join("home")).with_env("FARM_CACHE", self.cache());
        command.with_env("TMPDIR", self.temporary()).with_env("XDG_CONFIG_HOME", self.path().join("config"))
    }

    /// Runs `farm submit` and gives the results: on the farm that is up in this world, else on one made for the job.
    ///
    /// # Panics
    ///
    /// If a task fails.
    #[track_caller]
    pub fn submit(&self, module: impl AsRef<Path>, args: &Value) -> Value {
        let command = self.farm(["submit", "--args", "-"]).with([module.as_ref()]);
        command.stdin(args.to_string()).succeeds().json()
    }

    /// Where the scheduler of this world keeps its state.
    pub fn state(&self) -> PathBuf {
        self.path().join("scheduler")
    }

    /// Starts a scheduler on a free port.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn scheduler(&self) -> Scheduler {
        self.scheduler_at("127.0.0.1:0", &[], &[])
    }

    /// Starts the scheduler of this world at an address, with more arguments and environment: at its former address, it
    /// is the one that was there before.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn scheduler_at(&self, listen: &str, args: &[&str], env: &[(&str, &str)]) -> Scheduler {
        Scheduler::start(self, listen, args, env)
    }

    /// Starts a worker of that scheduler.
    pub fn worker(&self, scheduler: &Scheduler, name: &str, slots: u32) -> Worker {
        self.worker_with(&scheduler.worker_ticket(), name, slots, &[], &[])
    }

    /// Starts a worker with a ticket, and more arguments and environment.
    pub fn worker_with(&self, ticket: &str, name: &str, slots: u32, args: &[&str], env: &[(&str, &str)]) -> Worker {
        Worker::start(self, ticket, name, slots, args, env)
    }

    /// Expects that the state of this world's scheduler is sound: every digest, every range.
    ///
    /// # Panics
    ///
    /// If something is wrong with it.
    pub fn check_state(&self) {
        let checked =
            self.farm(["admin", "check", "--output", "json", "--state"]).with([self.state()]).succeeds().json();
        assert_eq!(checked["faults"], Value::Array(Vec::new()), "{checked}");
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.sweep();
    }
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FARM_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("cannot find the running test: {error}"));
    // target/debug/deps/test-1234 -> target/debug/farm
    let folders = test.ancestors().skip(1).take(2);
    let binary = folders.map(|folder| folder.join("farm")).find(|path| path.is_file());
    binary.unwrap_or_else(|| panic!("no farm binary beside {}: `cargo build --bin farm` makes it", test.display()))
}

/// Waits until `condition` gives something, looking every 10 ms.
///
/// # Panics
///
/// After [`PATIENCE`], naming `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_up_to(PATIENCE, condition).unwrap_or_else(|| panic!("waited in vain for {what}"))
}

/// Waits until `condition` gives something, looking every 10 ms; `None` if it does not in that time.
pub fn wait_up_to<T>(time: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let since = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if since.elapsed() > time {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
