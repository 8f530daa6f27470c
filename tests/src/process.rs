//! Processes of a farm that live as long as their handles.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::leftovers::children;
use crate::{Finished, Running, World};

/// A running scheduler. Ended when dropped.
#[derive(Debug)]
pub struct Scheduler {
    running: Running,
    /// Where it listens.
    pub address: String,
    admin: PathBuf,
    worker: PathBuf,
}

impl Scheduler {
    pub(crate) fn start(world: &World, listen: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = world.farm(["scheduler", "--output", "json", "--end-with-stdin", "--listen", listen]);
        command.args(["--state"]).args([world.state()]).args(args);
        for (name, value) in env {
            command.env(name, value);
        }
        let mut running = command.keeping_stdin().start();
        running.until_it_prints("\n");
        let line = running.printed();
        let announced: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |name: &str| announced[name].as_str().unwrap_or_default().to_owned();
        let (address, admin, worker) = (text("address"), text("admin_ticket"), text("worker_ticket"));
        Self { running, address, admin: admin.into(), worker: worker.into() }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    /// The ticket of its administrator.
    ///
    /// # Panics
    ///
    /// If the scheduler has not written it.
    pub fn admin_ticket(&self) -> String {
        read(&self.admin)
    }

    /// The ticket of its workers.
    ///
    /// # Panics
    ///
    /// If the scheduler has not written it.
    pub fn worker_ticket(&self) -> String {
        read(&self.worker)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.running.said()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[track_caller]
    pub fn wait(self) -> Finished {
        self.running.wait()
    }
}

fn read(path: &Path) -> String {
    let text = fs::read_to_string(path);
    text.unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display())).trim().to_owned()
}

/// A running worker. Ended when dropped.
#[derive(Debug)]
pub struct Worker {
    running: Running,
}

impl Worker {
    pub(crate) fn start(
        world: &World,
        ticket: &str,
        name: &str,
        slots: u32,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let mut command = world.farm(["worker", "--end-with-stdin", "--name", name, "--slots", &slots.to_string()]);
        command.args(args);
        for (name, value) in env {
            command.env(name, value);
        }
        Self { running: command.with_env("FARM_TICKET", ticket).keeping_stdin().start() }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The processes of its slots, while they run.
    pub fn slot_pids(&self) -> Vec<u32> {
        let slots = children(self.pid()).into_iter().filter(|process| process.part() == "slot");
        slots.map(|process| process.pid).collect()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.running.said()
    }

    /// Waits until it has logged `text`.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    #[track_caller]
    pub fn until_it_logs(&mut self, text: &str) {
        self.running.until_it_says(text);
    }

    /// Sends a signal; `Signal::KILL` is what a crash looks like.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[track_caller]
    pub fn wait(self) -> Finished {
        self.running.wait()
    }
}
