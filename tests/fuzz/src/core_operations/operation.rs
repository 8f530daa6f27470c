//! What bytes are read as.

use arbitrary::Arbitrary;

/// A number: mostly a small one, now and then one at the end of its range.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) struct Number(u8);

impl Number {
    pub(super) fn get(self) -> u64 {
        match self.0 {
            small @ 0..=199 => small.into(),
            thousands @ 200..=227 => (u64::from(thousands) - 199) * 3_000,
            bits @ 228..=239 => (1 << (u64::from(bits) - 228 + 28)) - 1,
            end => u64::MAX - u64::from(u8::MAX - end),
        }
    }

    pub(super) fn get_u32(self) -> u32 {
        let number = self.get();
        u32::try_from(number).unwrap_or_else(|_| u32::MAX - (u64::MAX - number).min(20) as u32)
    }
}

/// Chooses one of several that there are.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) struct Pick(u8);

impl Pick {
    pub(super) fn of<T: Copy>(self, several: &[T]) -> Option<T> {
        several.get(usize::from(self.0) % several.len().max(1)).copied()
    }
}

/// Whether something happens that would end most of what is going on if it happened as often as everything else.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) struct Seldom(u8);

impl Seldom {
    pub(super) fn happens(self) -> bool {
        self.0 % 4 == 3
    }
}

#[derive(Debug, Arbitrary)]
pub(super) struct Settings {
    /// Whether facts are stored as soon as they are asked to be.
    pub(super) prompt_disk: bool,
    pub(super) crash_limit: u8,
    pub(super) small_leases: bool,
    pub(super) lease_ms: u8,
}

#[derive(Debug, Arbitrary)]
pub(super) enum Operation {
    /// Users.
    Submit(Submission),
    Cancel(Pick, Seldom),
    /// The disk: facts up to this many of those on their way are stored; or any number is said to be.
    Stored(u8),
    StoredAny(Number),
    /// Workers come: with what they were leased on an earlier connection, and with what they make up.
    Join {
        slots: Number,
        claims: Vec<ClaimOfOld>,
        inventions: Vec<Invention>,
        jobs: Vec<Pick>,
    },
    /// A worker's number is used twice.
    JoinAgain {
        worker: Pick,
    },
    Leave {
        worker: Pick,
        is_lost: bool,
    },
    Drain {
        worker: Pick,
        seldom: Seldom,
    },
    Preparing {
        worker: Pick,
        job: Pick,
        stage: u8,
    },
    JobFailed {
        worker: Pick,
        job: Pick,
        seldom: Seldom,
    },
    /// Answers to a lease that was given out, within it.
    Results {
        lease: Pick,
        from: u8,
        count: Number,
        failures: Vec<(u8, u8)>,
        run_ms: u8,
    },
    /// All of it, well.
    Finished {
        lease: Pick,
        run_ms: u8,
    },
    Lost {
        lease: Pick,
        offset: u8,
    },
    Returned {
        lease: Pick,
        from: u8,
        count: Number,
    },
    /// Answers to anything.
    AnyResults {
        worker: Pick,
        lease: Number,
        first: Number,
        count: Number,
        failures: Vec<(Number, u8)>,
        run_ns: Number,
    },
    AnyLost {
        worker: Pick,
        lease: Number,
        task: Number,
    },
    AnyReturned {
        worker: Pick,
        lease: Number,
        first: Number,
        count: Number,
    },
    /// Time.
    Pass {
        ms: u8,
    },
    PassUntilDeadline,
    PassAny(Number, Seldom),
    /// The shell.
    Forget(Pick),
    Ask {
        job: Pick,
        task: Number,
    },
    /// The scheduler dies, and comes back with the facts that are stored, and some of those on their way.
    Restart {
        written: u8,
        is_short: bool,
        seldom: Seldom,
    },
}

#[derive(Debug, Arbitrary)]
pub(super) struct Submission {
    pub(super) owner: u8,
    pub(super) priority: i8,
    pub(super) tasks: Number,
    pub(super) retries: u8,
    pub(super) max_failures: Option<Number>,
    pub(super) arg_bytes: Number,
    pub(super) task_ns: Option<Number>,
    pub(super) after: Option<Pick>,
    pub(super) after_any: Option<Number>,
    pub(super) input: Option<(Pick, u8)>,
    /// Whether the number of tasks is the one that fits the input.
    pub(super) fits: bool,
    /// Ids that are left out.
    pub(super) gap: u8,
}

/// A lease of before, as its worker would claim it.
#[derive(Debug, Arbitrary)]
pub(super) struct ClaimOfOld {
    pub(super) lease: Pick,
    /// What is claimed of it: some at its start are left out, and then every so many.
    pub(super) skip: u8,
    pub(super) every: u8,
}

/// A claim that is made up.
#[derive(Debug, Arbitrary)]
pub(super) struct Invention {
    pub(super) lease: Number,
    /// As old as the life of the scheduler before this one.
    pub(super) is_old: bool,
    pub(super) job: Pick,
    pub(super) any_job: Option<Number>,
    pub(super) tasks: Vec<(Number, Number)>,
}
