//! The batches that were written last, of all jobs together.

use std::collections::{HashMap, VecDeque};

use farm_proto::ids::JobId;

use super::Outcomes;

/// Batches in memory, up to a sum of bytes. The oldest go first, to whichever job they belong.
#[derive(Debug)]
pub(super) struct Recent {
    batches: HashMap<(JobId, u64), Entry>,
    /// In the order in which they came.
    order: VecDeque<(JobId, u64)>,
    bytes: usize,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    outcomes: Outcomes,
    cost: usize,
}

impl Recent {
    pub(super) fn new(limit: usize) -> Self {
        Self { batches: HashMap::new(), order: VecDeque::new(), bytes: 0, limit }
    }

    /// Keeps a batch for a while, unless it would crowd out everything else. `head` is its length but for the columns.
    pub(super) fn insert(&mut self, job: JobId, number: u64, outcomes: Outcomes, head: usize) {
        let cost = outcomes.columns.len() + 2 * head + size_of::<Entry>();
        if cost > self.limit / 4 {
            return;
        }
        self.bytes += cost;
        self.order.push_back((job, number));
        self.batches.insert((job, number), Entry { outcomes, cost });
        while self.bytes > self.limit {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(entry) = self.batches.remove(&oldest) {
                self.bytes -= entry.cost;
            }
        }
    }

    pub(super) fn get(&self, job: JobId, number: u64) -> Option<Outcomes> {
        self.batches.get(&(job, number)).map(|entry| entry.outcomes.clone())
    }
}
