//! The tail: unstarted tasks are taken back from those who have much for those who have nothing.

use farm_proto::ids::{ClusterId, WorkerId};

use crate::command::Command;
use crate::core::Core;
use crate::state::Asked;
use crate::time::nanos;

/// The most workers that are asked at a time.
const ASKED: usize = 8;
/// How long a worker is given to hand something back before it is asked again, in times of what a recall is worth.
const PATIENCE: u32 = 10;

impl Core {
    /// Asks for tasks to be handed back if slots are free and nothing waits.
    ///
    /// Nothing goes back and forth: a worker is asked only for what would wait a while, only for as much as leaves both
    /// sides with the same to do for each slot, and not again until it has had the time to answer. What comes back is
    /// leased to the emptiest worker first, so that each round fills a free slot.
    pub(super) fn shorten_tail(&mut self, cluster: ClusterId) {
        let Some(pool) = self.pools.get(&cluster) else { return };
        if pool.free_slots == 0 || pool.owners.any_work() {
            return;
        }
        let mut free = pool.free_slots;
        let longest: Vec<_> = pool.queued.iter().rev().take(ASKED).map(|&(_, worker)| worker).collect();
        for worker in longest {
            if free == 0 {
                break;
            }
            free = free.saturating_sub(self.ask_back(worker, free));
            // Its tasks may turn out to take longer than they usually do, or it may have nothing to say: what it was
            // asked for can be in a portion that its slot has begun.
            self.recheck = Some(self.now + self.config.recall_worth);
        }
    }

    /// Asks one worker for its last leases' tasks, on behalf of `free` slots. Returns how many were asked for.
    fn ask_back(&mut self, id: WorkerId, free: u64) -> u64 {
        let Some(worker) = self.workers.get(&id) else { return 0 };
        let again =
            worker.asked.map(|asked| asked.at + self.config.recall_worth * if asked.answered { 1 } else { PATIENCE });
        if again.is_some_and(|again| self.now < again) {
            return 0;
        }
        // Slots are handed tasks in portions, which a worker may count as its own until nothing else is left to keep.
        let everything = worker.asked.is_some_and(|asked| !asked.answered);
        let slots = u64::from(worker.slots);
        let load = worker.load(nanos(self.config.long_task));
        // That nothing was heard since then tells more than any estimate.
        let silent = nanos(self.now - worker.silent_since);
        let silent = silent.saturating_mul(load.queued.div_ceil(slots));
        if (load.queued_ns / slots).max(silent) < nanos(self.config.recall_worth) {
            return 0;
        }

        let share = u128::from(load.queued) * u128::from(free);
        // Not more than `queued`.
        let asked = u64::try_from(share.div_ceil(u128::from(free + slots))).unwrap_or(u64::MAX);
        let mut left = asked.min(load.queued);
        // From the back: of each lease, what is not covered by the slots after those in front of it.
        let mut in_front = worker.held;
        let mut recalls = Vec::new();
        for (&lease, held) in worker.leases.iter().rev() {
            let remaining = held.remaining.len();
            in_front -= remaining;
            let queued = remaining - remaining.min(slots.saturating_sub(in_front));
            let take = queued.min(left);
            if take > 0 {
                // A lease has at most `u32::MAX` tasks.
                let keep = if everything { 0 } else { (remaining - take) as u32 };
                recalls.push(Command::Recall { worker: id, lease, keep });
                left -= take;
            }
            if left == 0 || in_front == 0 {
                break;
            }
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.asked = Some(Asked { at: self.now, answered: false });
        }
        self.commands.extend(recalls);
        asked - left
    }
}
