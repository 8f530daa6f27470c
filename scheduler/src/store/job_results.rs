//! How far a job's results are.

use std::sync::atomic::{AtomicU64, Ordering};

use farm_proto::ids::JobId;
use tokio::sync::watch;

/// How far a job is, for those who watch it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Published {
    /// Batches that may be read.
    pub(crate) batches: u64,
    /// Counts what else has changed: the state, or a task's progress.
    pub(crate) version: u64,
    /// Nothing will change any more.
    pub(crate) over: bool,
}

/// The results of one job: how many batches are stored, and how many of them may be read.
#[derive(Debug)]
pub(crate) struct JobResults {
    pub(crate) job: JobId,
    /// Set by the writer alone.
    stored: AtomicU64,
    published: watch::Sender<Published>,
}

impl JobResults {
    pub(super) fn new(job: JobId, stored: u64) -> Self {
        Self { job, stored: AtomicU64::new(stored), published: watch::Sender::default() }
    }

    /// How many batches are stored.
    pub(super) fn stored(&self) -> u64 {
        // A number by itself: what was stored is read from the database or the memory, each with its own lock.
        self.stored.load(Ordering::Relaxed)
    }

    pub(super) fn set_stored(&self, batches: u64) {
        self.stored.store(batches, Ordering::Relaxed);
    }

    /// Lets watchers have what is stored.
    pub(crate) fn publish(&self) {
        let batches = self.stored();
        self.published.send_if_modified(|published| {
            let news = published.batches != batches;
            published.batches = batches;
            news
        });
    }

    /// Tells watchers that something else has changed.
    pub(crate) fn touch(&self) {
        self.published.send_modify(|published| published.version += 1);
    }

    /// Tells watchers that nothing will change any more.
    pub(crate) fn close(&self) {
        self.published.send_modify(|published| published.over = true);
    }

    /// Where to wait for news.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }
}
