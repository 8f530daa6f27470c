//! Which jobs need which.

use std::collections::BTreeSet;

use farm_proto::ids::JobId;
use farm_proto::job::{Args, JobSpec};
use farm_proto::message::RequestError;

use super::owner::Owner;
use crate::identity::caller::Caller;

/// The jobs that a job names itself: those it waits for, and those that its arguments are of.
pub(super) fn named_by(spec: &JobSpec) -> impl Iterator<Item = JobId> {
    let arguments = match &spec.args {
        Args::Results(results) => Some(results.job),
        Args::Subset { job, .. } => Some(*job),
        Args::Range { .. } | Args::Inline { .. } | Args::Chunks(_) => None,
    };
    spec.after.iter().copied().chain(arguments)
}

impl Owner {
    /// The jobs that a new job needs: those it names, and of one whose arguments it takes over, those that these come
    /// from.
    ///
    /// # Errors
    ///
    /// One does not exist, as far as the caller knows.
    pub(super) fn needs_of(&self, caller: &Caller, spec: &JobSpec) -> Result<Vec<JobId>, RequestError> {
        let stays = |job: &JobId| self.jobs.get(job).is_some_and(|record| record.deleting.is_none());
        let mut needs = BTreeSet::new();
        for job in named_by(spec) {
            let record = self.visible(caller, job)?;
            needs.insert(job);
            if let Args::Subset { job: source, .. } = &spec.args
                && *source == job
            {
                needs.extend(record.needs.iter().copied().filter(|job| stays(job)));
            }
        }
        Ok(needs.into_iter().collect())
    }

    /// A job that is not over and needs this one.
    pub(super) fn needed_by(&self, job: JobId) -> Option<JobId> {
        // Only later jobs can.
        let mut later = self.jobs.range(job..).filter(|(_, record)| record.needs.contains(&job));
        later.find(|(id, _)| self.core.job(**id).is_some_and(|view| !view.state.is_final())).map(|(&id, _)| id)
    }
}
