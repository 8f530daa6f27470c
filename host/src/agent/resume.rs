//! What a worker says of itself when it connects: nothing for the first time, and all that it still has after that.

use std::collections::BTreeMap;

use farm_proto::ids::{JobId, LeaseId};
use farm_proto::message::{Claim, Resume, WorkerWork};

use super::outbox::Outbox;
use super::work::Work;

/// Everything that the scheduler would otherwise hand out again, or not know what to do with: tasks without an answer,
/// and tasks whose answers are to be sent again.
pub(super) fn resume(work: &Work, outbox: &Outbox) -> Resume {
    let mut claims: BTreeMap<LeaseId, (JobId, Vec<(u64, u64)>)> = BTreeMap::new();
    for Claim { lease, job, tasks } in work.unanswered() {
        claims.insert(lease, (job, tasks));
    }
    for (job, message) in outbox.iter() {
        let (lease, first, count) = match message {
            WorkerWork::Results { lease, batch } => (*lease, batch.first, batch.count),
            WorkerWork::Lost { lease, task, .. } => (*lease, *task, 1),
            WorkerWork::Returned { lease, first, count } => (*lease, *first, *count),
            // The task is among the unanswered, or its answer follows.
            WorkerWork::Checkpoint { .. } => continue,
        };
        let (_, tasks) = claims.entry(lease).or_insert_with(|| (job, Vec::new()));
        tasks.push((first, first.saturating_add(count.into())));
    }
    let claims = claims.into_iter().map(|(lease, (job, tasks))| Claim { lease, job, tasks: united(tasks) });
    Resume { jobs: work.jobs(), claims: claims.collect() }
}

/// The same tasks, in ascending ranges that do not touch each other.
fn united(mut tasks: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    tasks.sort_unstable();
    tasks.dedup_by(|next, last| {
        let touches = next.0 <= last.1;
        if touches {
            last.1 = last.1.max(next.1);
        }
        touches
    });
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(united(vec![(7, 9), (0, 2), (2, 3), (4, 5), (8, 12)]), [(0, 3), (4, 5), (7, 12)]);
        assert_eq!(united(Vec::new()), []);
    }
}
