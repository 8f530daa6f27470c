//! What the agent tells a slot, and what outcomes carry besides their result.
//!
//! Commands are frames of farm-proto on the socket that the slot has as its stdin. There is no answer there but a byte
//! that says "look into the ring".

use std::path::PathBuf;

use farm_proto::ids::JobId;
use farm_proto::job::{Args, CommandOptions, JobSpec, Limits, ModuleKind, Profile, ResultEncoding};
use farm_proto::outcome::{Captured, Failure};
use serde::{Deserialize, Serialize};

use super::outputs::OutputSetup;
use super::ring::{MAX_DETAILS, MAX_RESULT};
use crate::sandbox::SECRETS;

/// Sandboxes that a slot keeps open. Those used least recently go first, on both sides alike.
pub(super) const OPEN_JOBS: usize = 4;

/// Everything that a slot has to know of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSetup {
    pub job: JobId,
    /// The compiled module.
    pub artefact: PathBuf,
    pub kind: ModuleKind,
    pub function: String,
    pub limits: Limits,
    pub profile: Profile,
    /// Environment of the guest.
    pub env: Vec<(String, String)>,
    /// Folder that the guest sees read-only at `/in`.
    pub inputs: Option<PathBuf>,
    /// What is behind `/out`.
    pub outputs: Option<OutputSetup>,
    /// Folder that the guest sees read-only at `/secrets`.
    pub secrets: Option<PathBuf>,
    pub command: CommandOptions,
    pub result: ResultEncoding,
    /// If the arguments are a range of integers: that of task 0.
    pub range_start: Option<i64>,
    /// Whether the function takes two, and is called over the elements of an array.
    pub fold: bool,
}

/// The folders of a job, where it needs them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFolders {
    /// Where its inputs lie.
    pub inputs: Option<PathBuf>,
    /// Where slots may make folders for what its tasks write.
    pub outputs: Option<PathBuf>,
    /// Where its secrets are.
    pub secrets: Option<PathBuf>,
}

impl JobSetup {
    /// The setup of a job whose module has been compiled to `artefact`.
    pub fn new(job: JobId, spec: &JobSpec, artefact: PathBuf, folders: JobFolders) -> Self {
        let JobFolders { inputs, outputs, secrets } = folders;
        let mut env = spec.env.clone();
        env.extend(spec.mounts.secrets.iter().map(|name| (name.clone(), format!("{SECRETS}/{name}"))));
        let mut limits = spec.limits.clone();
        // More than that has no room in a frame.
        limits.result = limits.result.min(MAX_RESULT as u64);
        limits.output = limits.output.min(MAX_DETAILS as u64 / 4);
        Self {
            job,
            artefact,
            kind: spec.module.kind,
            function: spec.function.clone(),
            limits,
            profile: spec.profile,
            env,
            inputs,
            outputs: spec.mounts.outputs.zip(outputs).map(|(limits, folder)| OutputSetup { folder, limits }),
            secrets,
            command: spec.command.clone(),
            result: spec.module.result,
            range_start: match spec.args {
                Args::Range { start, .. } => Some(start),
                Args::Inline { .. } | Args::Chunks(_) | Args::Results(_) | Args::Subset { .. } => None,
            },
            fold: spec.fold,
        }
    }
}

/// Agent to slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Command {
    /// Opens a sandbox, closing the one used least recently if there are more than [`OPEN_JOBS`] then.
    Open(Box<JobSetup>),
    /// Runs tasks. Their span has been set. Payload: the arguments as columns, unless they are a range.
    Run {
        chunk: u64,
        job: JobId,
        first: u64,
        count: u32,
        /// Number of the attempt where it is not 0: offset from `first`, ascending.
        attempts: Vec<(u32, u32)>,
    },
    /// Closes the job's sandbox.
    Forget(JobId),
    /// What an earlier attempt of a task has kept, which is of the next chunk that is run. Payload: that.
    Restore { task: u64 },
}

/// What an outcome carries if it is not just a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Details {
    pub(super) failure: Option<Failure>,
    pub(super) captured: Captured,
    /// Name of the [`KeptFolder`](super::outputs::KeptFolder) with the files that are listed.
    pub(super) kept: Option<String>,
}

/// Which sandboxes are open in a slot, the last used first. Slot and agent do the same with it, so that both know.
#[derive(Debug)]
pub(super) struct Recent<T>(Vec<(JobId, T)>);

impl<T> Recent<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a job, in front; the last one falls out if there are too many.
    pub(super) fn insert(&mut self, job: JobId, value: T) {
        self.remove(job);
        self.0.insert(0, (job, value));
        self.0.truncate(OPEN_JOBS);
    }

    /// The job's value; it is moved to the front.
    pub(super) fn touch(&mut self, job: JobId) -> Option<&mut T> {
        let at = self.0.iter().position(|(other, _)| *other == job)?;
        self.0[..=at].rotate_right(1);
        self.0.first_mut().map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, job: JobId) {
        self.0.retain(|(other, _)| *other != job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_falls_out() {
        let mut recent = Recent::new();
        for job in 0..OPEN_JOBS as u64 {
            recent.insert(JobId(job), job);
        }
        assert_eq!(recent.touch(JobId(0)), Some(&mut 0));
        recent.insert(JobId(99), 99);
        assert_eq!(recent.touch(JobId(1)), None);
        assert_eq!(recent.touch(JobId(0)), Some(&mut 0));
        recent.remove(JobId(0));
        assert_eq!(recent.touch(JobId(0)), None);
        assert_eq!(recent.touch(JobId(99)), Some(&mut 99));
    }
}
