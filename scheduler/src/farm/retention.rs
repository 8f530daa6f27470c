//! How long ended jobs are kept, and blobs that no job names.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::owner::Owner;
use crate::clock::unix_ms;

/// How often it is looked for jobs whose time is over, at least.
const SWEEP: Duration = Duration::from_secs(60);
/// How often, if blobs may have become superfluous, these are removed.
const BLOBS: Duration = Duration::from_secs(600);
/// A blob that is as new as that may have been put for a job that is about to be submitted.
const NEW: Duration = Duration::from_secs(3600);

/// When to look for what can go.
#[derive(Debug)]
pub(super) struct Retention {
    /// None: for ever.
    keep: Option<Duration>,
    next_sweep: Option<Instant>,
    /// Whether a job was deleted since blobs were looked at, and when they may be again.
    blobs_stale: bool,
    next_blobs: Instant,
    removing: Option<JoinHandle<()>>,
}

impl Retention {
    pub(super) fn new(keep: Option<Duration>) -> Self {
        let now = Instant::now();
        Self { keep, next_sweep: Some(now), blobs_stale: true, next_blobs: now, removing: None }
    }

    pub(super) fn next_sweep(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// A job was deleted: blobs may have become superfluous.
    pub(super) fn look_at_blobs(&mut self) {
        self.blobs_stale = true;
    }
}

/// Whether what ended then has been kept for long enough. By a clock that was set back, things are kept longer.
fn is_over(ended_ms: Option<u64>, keep: Duration, now_ms: u64) -> bool {
    let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
    // Not by subtracting from now: what is kept for longer than since the epoch is not over.
    ended_ms.and_then(|ended| ended.checked_add(keep)).is_some_and(|until| until <= now_ms)
}

impl Owner {
    /// Deletes what has been kept for long enough.
    pub(super) fn retain(&mut self) {
        let now = Instant::now();
        if self.retention.next_sweep.is_none_or(|next| now < next) {
            return;
        }
        let pause = self.retention.keep.map_or(SWEEP, |keep| SWEEP.min(keep / 4)).max(Duration::from_millis(200));
        self.retention.next_sweep = now.checked_add(pause);
        if self.stopping.is_some() {
            return;
        }
        if let Some(keep) = self.retention.keep {
            let now_ms = unix_ms();
            let ended = self.jobs.iter().filter(|(job, record)| {
                record.deleting.is_none()
                    && is_over(record.ended_ms, keep, now_ms)
                    && self.core.job(**job).is_some_and(|view| view.state.is_final())
            });
            let ended: Vec<_> = ended.map(|(&job, _)| job).collect();
            for job in ended {
                if self.needed_by(job).is_none() {
                    tracing::info!(%job, "results were kept for long enough");
                    self.begin_to_delete(job, None);
                }
            }
        }
        self.remove_blobs(now);
    }

    fn remove_blobs(&mut self, now: Instant) {
        let is_removing = self.retention.removing.as_ref().is_some_and(|removing| !removing.is_finished());
        if !self.retention.blobs_stale || now < self.retention.next_blobs || is_removing {
            return;
        }
        let Some(unpinned) = self.commits.unpinned() else { return };
        self.retention.blobs_stale = false;
        self.retention.next_blobs = now + BLOBS;
        let (store, blobs) = (Arc::clone(&self.store), Arc::clone(&self.blobs));
        self.retention.removing = Some(tokio::task::spawn_blocking(move || {
            // Of jobs that come while this runs, the blobs are new or were just looked at.
            let Some(older_than) = SystemTime::now().checked_sub(NEW) else { return };
            let removed = store.pinned().map_err(|error| error.to_string()).and_then(|mut pins| {
                pins.extend(unpinned);
                blobs.remove_unpinned(&pins, older_than).map_err(|error| error.to_string())
            });
            if let Err(error) = removed {
                tracing::warn!(error, "blobs that no job names stay for now");
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_keeps_things_longer() {
        let week = Duration::from_secs(7 * 86_400);
        let ended = 1_700_000_000_000;
        let week_ms = 7 * 86_400_000;
        let over = |now| is_over(Some(ended), week, now);
        assert_eq!([ended + week_ms - 1, ended + week_ms].map(over), [false, true]);
        assert_eq!([0, 1, ended - week_ms, ended - 1, ended].map(over), [false; 5]);
        assert!(!is_over(None, Duration::ZERO, u64::MAX), "it goes on");
        assert!(is_over(Some(ended), Duration::ZERO, ended));
        assert!(!is_over(Some(ended), Duration::MAX, u64::MAX - 1));
    }
}
