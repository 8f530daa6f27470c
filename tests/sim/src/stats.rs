//! What has happened in a world, by kind, so that one sees that everything does.

use std::fmt;

macro_rules! kinds {
    ($($kind:ident $name:literal,)*) => {
        /// Something worth being counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind {
            $($kind,)*
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

kinds! {
    CrashAnywhere "scheduler died between two events",
    CrashBeforeCommit "scheduler died before a commit",
    CrashAfterCommit "scheduler died after a commit, its effects unreleased",
    CrashWhileReleasing "scheduler died while it did what the core asked for",
    Stopped "scheduler stopped in good order",
    ReplayedInFull "core replayed with the outcomes of ended jobs",
    ReplayedWithout "core replayed without some of them",
    ReplayEnded "replayed core ended a job or a task at once",
    FactsLost "facts lost that were on their way to the disk",
    LinkBroken "connection broken",
    SilentGivenUp "silent worker given up",
    Rejoined "worker came back",
    RejoinedEarly "worker came back before its loss was noticed",
    RejoinedBeside "worker came back beside its former self",
    RejoinedNewLife "worker came back to another life of the scheduler",
    Claimed "task claimed",
    Adopted "claimed task adopted",
    NotAdopted "claimed task not adopted",
    OverlappingClaims "claims of two leases overlapped",
    Resent "answer sent again",
    Fenced "late outcome dropped",
    Forgiven "crash forgiven",
    Blamed "task blamed for the loss of its worker",
    WorkerKilled "worker killed",
    WorkerKilledByTask "worker killed by its task",
    SlotKilled "slot died with its task",
    Frozen "worker froze",
    FrozenGivenUp "frozen worker woke up given up",
    Drained "worker drained by order",
    Terminated "worker told to leave on its own machine",
    GraceOver "grace of a draining worker was over",
    Left "worker left for good",
    Recalled "lease recalled",
    HandedBack "task handed back",
    Retried "attempt repeated",
    CrashLimit "task failed for its crashes",
    InputFailed "task failed for its input",
    NeedFailed "job failed for what it needs",
    TooManyFailures "job failed for its failures",
    BadModule "module could not be run",
    Cancelled "job cancelled",
    CancelLate "cancelled what was over",
    Done "job done",
    SubmittedAgain "submission repeated",
    BadSubmission "submission refused",
    WatchedAgain "watch taken up again",
    RetryJob "job made of what failed",
    NothingToRetry "retry refused",
    Deleted "job deleted",
    DeleteRefused "deletion refused",
    WhyStoring "why: storing",
    WhyAfter "why: after",
    WhyInput "why: input",
    WhyWorker "why: worker",
    WhySlot "why: slot",
    WhyRetry "why: retry",
    WhyPreparing "why: preparing",
    WhyQueued "why: queued",
    WhyRunning "why: running",
    WhyValue "why: value",
    WhyFailed "why: failed",
    WhyEnded "why: ended",
}

const KINDS: usize = NAMES.len();

/// How often each kind of thing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    counts: [u64; KINDS],
    /// Steps of all worlds.
    pub steps: u64,
    /// Outcomes stored.
    pub outcomes: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self { counts: [0; KINDS], steps: 0, outcomes: 0, virtual_ms: 0 }
    }
}

impl Stats {
    pub(crate) fn add(&mut self, kind: Kind) {
        self.counts[kind as usize] += 1;
    }

    /// Adds what happened in another world.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.steps += other.steps;
        self.outcomes += other.outcomes;
        self.virtual_ms += other.virtual_ms;
    }

    /// The kinds of things that have not happened at all.
    pub fn missing(&self) -> Vec<&'static str> {
        NAMES.iter().zip(self.counts).filter(|&(_, count)| count == 0).map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in NAMES.iter().zip(self.counts) {
            writeln!(f, "{count:>10}  {name}")?;
        }
        writeln!(f, "{:>10}  outcomes stored", self.outcomes)?;
        writeln!(f, "{:>10}  steps", self.steps)?;
        write!(f, "{:>10}  virtual seconds", self.virtual_ms / 1000)
    }
}
