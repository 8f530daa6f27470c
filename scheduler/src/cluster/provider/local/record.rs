//! What is known of a process after the scheduler that started it is gone.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::super::ProviderError;
use super::state_error;

/// A process, told apart from a later one with the same id by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// In clock ticks since the host did.
    started: u64,
}

impl Process {
    /// A process that is there, if only as a zombie.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let (_, started) = state_and_start(pid)?;
        Some(Self { pid, started })
    }

    /// Whether it still runs; a zombie does not.
    pub(super) fn is_alive(self) -> bool {
        state_and_start(self.pid).is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    pub(super) fn signal(self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()).filter(|_| self.is_alive()) {
            // Fails only if it has just ended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Ends it at once, with the processes that it started and that stayed in its group.
    pub(super) fn kill_group(self) {
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()).filter(|_| self.is_alive()) {
            // Likewise.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Fields 3 and 22 of `/proc/PID/stat`; see proc(5).
fn state_and_start(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 2, the name, is in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A worker that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) farm: String,
    pub(super) cluster: String,
    pub(super) lease: String,
    /// None: it was gone as soon as it was there.
    pub(super) process: Option<Process>,
    /// When its time is over, in seconds since 1970.
    pub(super) ends_s: Option<u64>,
    /// When it was told so.
    pub(super) told_s: Option<u64>,
    pub(super) ended: Option<Ended>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) at_s: u64,
    pub(super) word: String,
}

impl Record {
    pub(super) fn path(folder: &Path, lease: &str) -> PathBuf {
        folder.join(format!("{lease}.json"))
    }

    pub(super) fn end(&mut self, at_s: u64, word: String) {
        self.ended = Some(Ended { at_s, word });
    }

    /// Writes it, whole or not at all. Not for good: a host that goes down has no processes either.
    pub(super) fn write(&self, folder: &Path) -> Result<(), ProviderError> {
        let path = Self::path(folder, &self.lease);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(state_error(&path))
    }

    /// All that are there. What cannot be read is none.
    pub(super) fn all(folder: &Path) -> Result<Vec<Self>, ProviderError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(folder).map_err(state_error(folder))? {
            let path = entry.map_err(state_error(folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                records.extend(fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()));
            }
        }
        Ok(records)
    }
}
