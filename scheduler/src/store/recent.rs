//! The batches that were written last, of all jobs together.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use farm_proto::ids::JobId;
use farm_proto::message::Batch;

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
    /// Where the batch ends in the job's file.
    end: u64,
    cost: usize,
}

impl Recent {
    pub(super) fn new(limit: usize) -> Self {
        Self { batches: HashMap::new(), order: VecDeque::new(), bytes: 0, limit }
    }

    /// Keeps a batch for a while, unless it would crowd out everything else. `message` is its length in the file.
    pub(super) fn insert(&mut self, job: JobId, number: u64, end: u64, outcomes: &Outcomes, message: usize) {
        let cost = outcomes.columns.len() + 2 * message + size_of::<Entry>();
        if cost > self.limit / 4 {
            return;
        }
        self.bytes += cost;
        self.order.push_back((job, number));
        let entry = Entry { outcomes: outcomes.clone(), end, cost };
        self.batches.insert((job, number), entry);
        while self.bytes > self.limit {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(entry) = self.batches.remove(&oldest) {
                self.bytes -= entry.cost;
            }
        }
    }

    /// A batch, and where it ends in the file.
    pub(super) fn get(&self, job: JobId, number: u64) -> Option<(Batch, Bytes, u64)> {
        let entry = self.batches.get(&(job, number))?;
        let Outcomes { batch, columns } = &entry.outcomes;
        Some((batch.clone(), columns.clone(), entry.end))
    }
}
