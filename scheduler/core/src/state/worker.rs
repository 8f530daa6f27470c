//! Workers and what they hold.

use std::collections::{BTreeMap, BTreeSet};

use farm_proto::ids::{ClusterId, JobId, LeaseId};
use farm_proto::why::Stage;

use crate::range_set::RangeSet;
use crate::time::Time;

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) cluster: ClusterId,
    /// At least 1.
    pub(crate) slots: u32,
    pub(crate) draining: bool,
    /// Whether it was told that it may leave.
    pub(crate) dismissed: bool,
    /// What it holds, in the order in which it was sent, which is the order in which it is run.
    pub(crate) leases: BTreeMap<LeaseId, Held>,
    /// Tasks in its leases that have not been answered.
    pub(crate) held: u64,
    /// Leases of tasks that crash for the last time if they do.
    pub(crate) last_chances: u32,
    pub(crate) finished: u64,
    pub(crate) joined: Time,
    /// When it will be gone, if that is known.
    pub(crate) ends: Option<Time>,
    /// When it joined or last answered.
    pub(crate) heard: Time,
    /// Since when it has been working without an answer.
    pub(crate) silent_since: Time,
    /// When it was last asked to hand something back, while it has been working without a pause.
    pub(crate) asked: Option<Asked>,
    /// Jobs that it was told about.
    pub(crate) knows: BTreeSet<JobId>,
    /// What it does for a job before it can run its tasks.
    pub(crate) preparing: BTreeMap<JobId, Stage>,
    pub(crate) place: Place,
}

/// Where a worker stands in the core's indices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its key among the hungry.
    pub(crate) hungry: Option<u64>,
    /// Its key among those from which something could be taken back.
    pub(crate) queued: Option<u64>,
    /// Its part of the slots that take leases.
    pub(crate) slots: u64,
    /// Its part of the free ones.
    pub(crate) free: u64,
}

/// A request to hand something back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) at: Time,
    /// Whether something came back.
    pub(crate) answered: bool,
}

/// A lease, from the worker's side.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) job: JobId,
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// Tasks not answered; never empty.
    pub(crate) remaining: RangeSet,
    /// What a task was expected to take when the lease was made; its owner was charged by it.
    pub(crate) task_ns: u64,
    pub(crate) sent: Time,
    pub(crate) last_chance: bool,
}

impl Held {
    /// What its owner was charged for `tasks` of it.
    pub(crate) fn charge(&self, tasks: u64) -> u64 {
        self.task_ns.saturating_mul(tasks)
    }
}

/// How much a worker has to do, judged from what it holds: its slots run the tasks it was sent first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Slots with nothing to do.
    pub(crate) free: u64,
    /// Slots whose task is not a long one, so that they will soon be free.
    pub(crate) soon: u64,
    /// Tasks that have not started.
    pub(crate) queued: u64,
    /// What these take, all together.
    pub(crate) queued_ns: u64,
    /// Leases of which nothing has started.
    pub(crate) queued_leases: u32,
}

impl Worker {
    pub(crate) fn new(cluster: ClusterId, slots: u32, ends: Option<Time>, now: Time) -> Self {
        Self {
            cluster,
            slots,
            draining: false,
            dismissed: false,
            leases: BTreeMap::new(),
            held: 0,
            last_chances: 0,
            finished: 0,
            joined: now,
            ends,
            heard: now,
            silent_since: now,
            asked: None,
            knows: BTreeSet::new(),
            preparing: BTreeMap::new(),
            place: Place::default(),
        }
    }

    /// What it has to do if tasks of `long_task` nanoseconds are long.
    pub(crate) fn load(&self, long_task: u64) -> Load {
        let mut load = Load::default();
        let mut idle = u64::from(self.slots);
        for held in self.leases.values() {
            let remaining = held.remaining.len();
            let running = remaining.min(idle);
            let queued = remaining - running;
            idle -= running;
            if held.task_ns < long_task {
                load.soon += running;
            }
            load.queued += queued;
            load.queued_ns = load.queued_ns.saturating_add(held.charge(queued));
            load.queued_leases += u32::from(running == 0);
        }
        load.free = idle;
        load
    }
}
