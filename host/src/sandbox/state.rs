//! What belongs to one task while it runs.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use farm_proto::job::Profile;
use farm_proto::outcome::Captured;
use wasmtime::{Store, StoreContextMut};

use super::checkpoint::Carrier;
use super::limiter::Limiter;
use super::wasi::Wasi;
use super::{ProgressFn, SandboxSpec, Task};

/// What all tasks of a sandbox share.
pub(super) struct Shared {
    pub(super) spec: SandboxSpec,
    /// How many bytes may cross from the guest to the host in one call.
    pub(super) hostcall_bytes: usize,
    /// Here rather than in each [`State`], so that tasks which keep nothing pay nothing for it.
    pub(super) carrier: OnceLock<Box<dyn Carrier>>,
}

impl Shared {
    pub(super) fn new(spec: SandboxSpec, hostcall_bytes: usize) -> Arc<Self> {
        Arc::new(Self { spec, hostcall_bytes, carrier: OnceLock::new() })
    }
}

/// What a guest may know of its task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) job: u64,
    pub(super) index: u64,
    pub(super) attempt: u32,
    /// The same for every attempt; differs between the tasks of a job.
    pub(super) seed: u64,
}

impl Facts {
    pub(super) const fn of(task: &Task<'_>) -> Self {
        // The job's own seed is its id, for now.
        let seed = mix(mix(task.job.0).wrapping_add(task.index));
        Self { job: task.job.0, index: task.index, attempt: task.attempt, seed }
    }
}

/// The finaliser of SplitMix64: neighbouring numbers come out unrelated.
pub(super) const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a guest said before it aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PanicReport {
    pub(super) message: String,
    pub(super) file: String,
    pub(super) line: u32,
}

/// How a command is started.
#[derive(Debug, Default)]
pub(super) struct Invocation {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) stdin: Bytes,
}

/// The data of a store.
pub(super) struct State {
    pub(super) shared: Arc<Shared>,
    pub(super) limiter: Limiter,
    pub(super) facts: Facts,
    pub(super) progress: Option<ProgressFn>,
    pub(super) panic: Option<PanicReport>,
    pub(super) log: String,
    pub(super) log_truncated: bool,
    /// Made when the guest first asks for something of WASI; most never do.
    pub(super) wasi: Option<Box<Wasi>>,
    pub(super) invocation: Invocation,
}

impl State {
    pub(super) fn new(shared: &Arc<Shared>, facts: Facts, progress: Option<&ProgressFn>) -> Self {
        Self {
            limiter: Limiter::new(shared.spec.limits.memory),
            shared: Arc::clone(shared),
            facts,
            progress: progress.cloned(),
            panic: None,
            log: String::new(),
            log_truncated: false,
            wasi: None,
            invocation: Invocation::default(),
        }
    }

    /// A store for one instance, with all limits of the job.
    pub(super) fn into_store(self, engine: &wasmtime::Engine) -> wasmtime::Result<Store<Self>> {
        let metered = self.shared.spec.profile == Profile::Metered;
        let fuel = self.shared.spec.limits.fuel;
        let hostcall_bytes = self.shared.hostcall_bytes;
        let mut store = Store::new(engine, self);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(hostcall_bytes);
        if metered {
            store.set_fuel(fuel.unwrap_or(u64::MAX))?;
        }
        Ok(store)
    }

    /// Adds a line to the log, or as much of it as there is room for.
    pub(super) fn log(&mut self, level: &str, message: &str) {
        let limit = usize::try_from(self.shared.spec.limits.output).unwrap_or(usize::MAX);
        let room = limit.saturating_sub(self.log.len());
        let needed = level.len() + 2 + message.len() + 1;
        if needed <= room && !self.log_truncated {
            self.log.reserve(needed);
            self.log.push_str(level);
            self.log.push_str(": ");
            self.log.push_str(message);
            self.log.push('\n');
            return;
        }
        // Once something was dropped nothing more is taken: a log with holes misleads.
        if !self.log_truncated && room > level.len() + 3 {
            let mut end = room - level.len() - 3;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            self.log.push_str(level);
            self.log.push_str(": ");
            self.log.push_str(&message[..end]);
            self.log.push('\n');
        }
        self.log_truncated = true;
    }

    /// Takes out what the task printed.
    pub(super) fn take_captured(&mut self) -> Captured {
        let mut captured =
            Captured { log: std::mem::take(&mut self.log), truncated: self.log_truncated, ..Captured::default() };
        if let Some(wasi) = &self.wasi {
            wasi.take_output(&mut captured);
        }
        captured
    }
}

/// How much of the job's fuel a task has used; `None` if nobody counts.
pub(super) fn fuel_used(store: &StoreContextMut<'_, State>) -> Option<u64> {
    let given = store.data().shared.spec.limits.fuel.unwrap_or(u64::MAX);
    store.get_fuel().ok().map(|left| given.saturating_sub(left))
}

#[cfg(test)]
mod tests {
    use farm_proto::ids::JobId;

    use super::*;

    fn seed(job: u64, index: u64, attempt: u32) -> u64 {
        Facts::of(&Task { job: JobId(job), index, attempt, argument: b"" }).seed
    }

    #[test]
    fn a_seed_depends_on_job_and_index_only() {
        assert_eq!(seed(3, 5, 0), seed(3, 5, 7));
        assert_ne!(seed(3, 5, 0), seed(3, 6, 0));
        assert_ne!(seed(3, 5, 0), seed(4, 5, 0));
        // A sum of the two would meet itself here.
        assert_ne!(seed(3, 5, 0), seed(4, 4, 0));
    }
}
