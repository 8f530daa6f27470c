//! Clusters: what their workers are like, how many are wanted, and how many there are.

use serde::{Deserialize, Serialize};

use crate::ids::ClusterId;

/// The name of the cluster of those workers that were started by hand.
pub const DEFAULT: &str = "default";
/// The longest name of a cluster, in bytes.
pub const MAX_NAME: usize = 40;

/// Whether a text can name a cluster: lower-case letters, digits and hyphens, a letter first. Such a name can be part of
/// the name of a job in a queue.
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Who starts a cluster's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderKind {
    /// The scheduler does, as processes of its own host.
    Local,
    /// SLURM does, as batch jobs.
    Slurm,
}

impl ProviderKind {
    /// The name on the command line and in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Slurm => "slurm",
        }
    }
}

/// What the workers of a cluster are like. What is not said is up to the site's configuration, then to the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    pub name: String,
    pub provider: ProviderKind,
    /// Cores of one worker, and so its slots. At least 1.
    pub cores: u32,
    /// Nodes of one allocation, with a worker each; more than 1 only of SLURM. At least 1.
    pub nodes: u32,
    /// Memory of one worker, in bytes.
    pub memory: Option<u64>,
    /// How long a worker may stay, in seconds.
    pub time_s: Option<u64>,
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    /// More arguments of `sbatch`, one by one.
    pub sbatch_args: Vec<String>,
    /// Shell commands before the worker starts.
    pub prologue: Option<String>,
    /// Environment of the workers (not of the tasks).
    pub env: Vec<(String, String)>,
    /// Where nodes have the program installed. None: they fetch it from the scheduler.
    pub worker_binary: Option<String>,
}

/// How many workers are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    Fixed(u32),
    /// As many as there is work for, within bounds. A worker without work is kept for `idle_s` seconds.
    Adaptive {
        min: u32,
        max: u32,
        idle_s: u64,
    },
}

/// A cluster, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub cluster: ClusterId,
    /// None for the cluster `default`.
    pub spec: Option<ClusterSpec>,
    pub scale: Scale,
    /// Who made it.
    pub owner: String,
    /// Seconds since it was made.
    pub age_s: u64,
    /// Whether it is to go as soon as its workers have.
    pub stopping: bool,
    /// Workers that are wanted now.
    pub wanted: u32,
    /// Workers that wait in the queue.
    pub queued: u32,
    /// Workers whose job or process runs, and that have not connected.
    pub starting: u32,
    /// Workers that are connected.
    pub up: u32,
    /// Workers that were connected and whose job or process runs.
    pub lost: u32,
    /// Slots of the connected workers.
    pub slots: u32,
    /// Jobs that have not ended.
    pub jobs: u64,
    pub workers: Vec<MemberStatus>,
    /// Why there are fewer workers than wanted, if so.
    pub short: Vec<String>,
    /// Seconds until the next attempt to start workers, after failures.
    pub retry_in_s: Option<u64>,
}

impl ClusterStatus {
    pub fn name(&self) -> &str {
        self.spec.as_ref().map_or(DEFAULT, |spec| &spec.name)
    }
}

/// One worker of a cluster, or what is to become one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The name of its submission, and of the worker.
    pub lease: String,
    pub state: MemberState,
    /// Its number in the queue, or its process id.
    pub id: Option<String>,
    pub node: Option<String>,
    /// What the queue says.
    pub reason: Option<String>,
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    Queued,
    Starting,
    Up,
    Lost,
    /// It finishes what it runs, and goes.
    Draining,
}

/// What would be done to start a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The batch script; empty if there is none.
    pub script: String,
    /// The commands, one a line, as a shell would take them. Secrets are left out.
    pub commands: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_those_of_batch_jobs() {
        for name in ["cms", "a", "default", "night-2"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "2a", "-a", "A", "a b", "a|b", "ü", "a_b", &"x".repeat(41)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
