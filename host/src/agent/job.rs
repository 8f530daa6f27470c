//! A job as a worker knows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_proto::job::{Args, JobSpec};
use farm_proto::outcome::Failure;
use farm_proto::why::Stage;

use super::prepare::Prepared;
use crate::slot::{JobSetup, Pace};

/// A job that a scheduler has spoken of and not let us forget.
#[derive(Debug)]
pub(super) struct Job {
    /// Which of the jobs that may have this number it is; `None` if it was cancelled before we were told.
    pub(super) stamp: Option<u64>,
    pub(super) state: JobState,
    pub(super) pace: Pace,
    /// Whether its tasks need arguments from their lease.
    pub(super) has_columns: bool,
    pub(super) preparation: Preparation,
}

#[derive(Debug)]
pub(super) enum JobState {
    Preparing(Arc<JobSpec>),
    Ready {
        setup: Arc<JobSetup>,
        /// Holds the folder of inputs, which goes with it.
        _prepared: Prepared,
    },
    /// It cannot be run here. The scheduler may not know yet.
    Failed(Box<Failure>),
    /// The scheduler wants nothing of it any more.
    Cancelled,
}

impl Job {
    pub(super) fn new(stamp: u64, spec: Arc<JobSpec>) -> Self {
        Self {
            stamp: Some(stamp),
            pace: Pace::default(),
            has_columns: !matches!(spec.args, Args::Range { .. }),
            state: JobState::Preparing(spec),
            preparation: Preparation::default(),
        }
    }

    /// A job that is over before it was told of.
    pub(super) fn cancelled() -> Self {
        Self {
            stamp: None,
            pace: Pace::default(),
            has_columns: false,
            state: JobState::Cancelled,
            preparation: Preparation::default(),
        }
    }

    /// Whether nothing of it is run or answered any more.
    pub(super) const fn is_dead(&self) -> bool {
        matches!(self.state, JobState::Failed(_) | JobState::Cancelled)
    }
}

/// How far its preparation is, and how long it took.
#[derive(Debug, Default)]
pub(super) struct Preparation {
    /// What is being done, and since when.
    stage: Option<(Stage, Instant)>,
    spent: Spent,
    /// What the scheduler was told last.
    told: Option<Stage>,
}

/// Time that a job's preparation took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    fetching: Duration,
    compiling: Duration,
}

impl Spent {
    /// Fetching and compiling since an earlier time, in nanoseconds.
    pub(super) fn since(self, earlier: Self) -> (u64, u64) {
        let ns = |now: Duration, then: Duration| u64::try_from(now.saturating_sub(then).as_nanos()).unwrap_or(u64::MAX);
        (ns(self.fetching, earlier.fetching), ns(self.compiling, earlier.compiling))
    }
}

impl Preparation {
    pub(super) fn enter(&mut self, stage: Stage, now: Instant) {
        self.spent = self.spent_until(now);
        self.stage = Some((stage, now));
    }

    /// How long it took until now.
    pub(super) fn spent_until(&self, now: Instant) -> Spent {
        let mut spent = self.spent;
        match self.stage {
            Some((Stage::Fetching, since)) => spent.fetching += now.saturating_duration_since(since),
            Some((Stage::Compiling, since)) => spent.compiling += now.saturating_duration_since(since),
            Some((Stage::Ready, _)) | None => {}
        }
        spent
    }

    /// What the scheduler is to be told, if that is news. That a job is ready is none for who never heard of a wait.
    pub(super) fn news(&mut self) -> Option<Stage> {
        let (stage, _) = self.stage?;
        if self.told == Some(stage) || (stage == Stage::Ready && self.told.is_none()) {
            return None;
        }
        self.told = Some(stage);
        Some(stage)
    }

    /// There is another scheduler, or the same one without a memory of this.
    pub(super) fn untell(&mut self) {
        self.told = None;
    }
}
