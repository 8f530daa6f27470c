//! From facts to a core.

use std::fmt;

use farm_proto::ids::JobId;

use crate::command::Fact;
use crate::config::Config;
use crate::core::Core;

/// Facts that no core has asked to be stored in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayError {
    /// The job was accepted twice.
    Twice(JobId),
    /// The fact is about a job that has not been accepted, or has ended.
    NoSuchJob(JobId),
    /// A task of the job has two outcomes, or one that it cannot have.
    BadOutcome(JobId),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(job) => write!(f, "job {job} was accepted twice"),
            Self::NoSuchJob(job) => write!(f, "a fact is about job {job}, which did not exist or had ended by then"),
            Self::BadOutcome(job) => write!(f, "a task of job {job} has two outcomes, or is not one of its tasks"),
        }
    }
}

impl std::error::Error for ReplayError {}

impl Core {
    /// The core that asked for these facts to be stored, without its workers and leases: tasks without an outcome wait,
    /// with all of their attempts before them. Facts come in the order in which they were stored. Drain
    /// [`poll_command`](Self::poll_command) afterwards: a core that went down between two facts makes up for it.
    ///
    /// # Errors
    ///
    /// The facts contradict each other.
    pub fn replay(config: Config, facts: impl IntoIterator<Item = Fact>) -> Result<Self, ReplayError> {
        todo!()
    }
}
