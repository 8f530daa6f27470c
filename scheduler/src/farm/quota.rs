//! What users keep on the scheduler's disk, and how much they may.
//!
//! A user keeps what the user's jobs do, until they are deleted: their blobs, each once however many jobs name it, the
//! arguments that are stored with them, what their tasks have kept, and their outcomes. Jobs that would be too much are refused; what comes of those
//! that were accepted is kept in any case.

use std::collections::HashMap;

use farm_proto::ids::Digest;
use farm_proto::job::{Args, JobSpec};
use farm_proto::message::RequestError;
use farm_proto::ticket::Role;

use super::owner::Owner;
use crate::identity::caller::Caller;

/// What a job keeps.
#[derive(Debug)]
pub(super) struct Kept {
    /// With their sizes.
    blobs: Box<[(Digest, u64)]>,
    /// Bytes of the arguments that came with it.
    inline: u64,
    /// About how many bytes its outcomes take, so far.
    pub(super) results: u64,
}

impl Kept {
    pub(super) fn of(spec: &JobSpec, inline: usize) -> Self {
        Self { blobs: blobs_of(spec).into(), inline: inline as u64, results: 0 }
    }
}

/// The blobs that a job needs, and their sizes. One may be there several times.
pub(super) fn blobs_of(spec: &JobSpec) -> Vec<(Digest, u64)> {
    let chunks = match spec.args.whole() {
        Args::Chunks(chunks) => chunks.as_slice(),
        _ => &[],
    };
    let inputs = spec.inputs.iter().map(|input| (input.digest, input.size));
    let chunks = chunks.iter().map(|chunk| (chunk.digest, chunk.size));
    std::iter::once((spec.module.digest, spec.module.size)).chain(inputs).chain(chunks).collect()
}

impl Owner {
    /// Whether the caller may keep a job with these blobs, and so many bytes of arguments beside them.
    ///
    /// # Errors
    ///
    /// It would be more than is allowed, and how much.
    pub(super) fn check_quota(
        &self,
        caller: &Caller,
        blobs: Vec<(Digest, u64)>,
        inline: u64,
    ) -> Result<(), RequestError> {
        let limit = self.config.limits_of(&caller.name).stored_bytes;
        let Some(limit) = limit.filter(|_| caller.role == Role::User) else { return Ok(()) };
        let theirs = self.jobs.values().filter(|record| record.owner == caller.name);
        let (mut kept, mut used) = (HashMap::new(), 0_u64);
        for record in theirs {
            let job = &record.kept;
            kept.extend(job.blobs.iter().copied());
            used = used.saturating_add(job.inline).saturating_add(job.results);
            used = used.saturating_add(record.checkpoints.bytes());
        }
        used = kept.values().fold(used, |sum, size| sum.saturating_add(*size));
        let new: HashMap<_, _> = blobs.into_iter().filter(|(digest, _)| !kept.contains_key(digest)).collect();
        let more = new.values().fold(inline, |sum, size| sum.saturating_add(*size));
        if used.saturating_add(more) <= limit.0 {
            return Ok(());
        }
        Err(RequestError::OverLimit { user: caller.name.clone(), used, more, limit: limit.0 })
    }
}
