//! The processes of a world, and what is left when a command has ended.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::{World, wait_up_to};

/// How long processes of a farm may take to end after whoever they belonged to.
const SOON: Duration = Duration::from_secs(15);

/// A process of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Its command line.
    pub words: Vec<String>,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        Some(Self { pid, words: words.map(|word| String::from_utf8_lossy(word).into_owned()).collect() })
    }

    /// All that run on this machine.
    pub(crate) fn all() -> Vec<Self> {
        pids().filter_map(Self::read).collect()
    }

    /// Which part of a farm it is: `scheduler`, `worker`, `slot` and so on, the first word behind `farm`.
    pub fn part(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()) {
            // Fails only if it has ended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<Process> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    pids.into_iter().filter_map(Process::read).collect()
}

impl World {
    /// All processes that commands of this world have started and that still run, whoever their parents are.
    pub fn processes(&self) -> Vec<Process> {
        // Each world has a temporary folder of its own, and every process inherits which that is.
        let mark = format!("TMPDIR={}", self.temporary().display());
        let of_this_world = pids().filter(|pid| {
            // That of a zombie is empty.
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        });
        of_this_world.filter_map(Process::read).collect()
    }

    /// The processes of this world that are that part of a farm: `scheduler`, `worker`, `slot` and so on.
    pub fn parts(&self, part: &str) -> Vec<Process> {
        let mut processes = self.processes();
        processes.retain(|process| process.part() == part);
        processes
    }

    /// Expects that soon no process of this world is left.
    ///
    /// # Panics
    ///
    /// If one is.
    #[track_caller]
    pub fn leaves_no_process(&self) {
        let gone = wait_up_to(SOON, || self.processes().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind: {:?}", self.processes());
    }

    /// Expects that soon no process of this world is left, and nothing in its temporary folder.
    ///
    /// # Panics
    ///
    /// If something is.
    #[track_caller]
    pub fn leaves_nothing(&self) {
        self.leaves_no_process();
        let files: Vec<_> = fs::read_dir(self.temporary()).into_iter().flatten().flatten().collect();
        assert!(files.is_empty(), "left behind: {files:?}");
    }

    /// Kills what is left.
    pub(crate) fn sweep(&self) {
        let swept = wait_up_to(SOON, || {
            let left = self.processes();
            left.iter().for_each(|process| process.signal(Signal::KILL));
            left.is_empty().then_some(())
        });
        if swept.is_none() {
            println!("cannot end {:?}", self.processes());
        }
    }
}
