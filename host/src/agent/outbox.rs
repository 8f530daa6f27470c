//! Answers that the scheduler has not acknowledged: those that are still to be sent, and those that have been, but may
//! not be on its disk yet.
//!
//! A connection may be lost at any time, and the scheduler with it. So an answer is kept until the scheduler says that
//! its effects are on disk ([`SchedulerControl::Stored`](farm_proto::message::SchedulerControl::Stored)), and on the next
//! connection it is sent again, before anything newer.

use std::collections::VecDeque;

use bytes::Bytes;
use farm_proto::ids::JobId;
use farm_proto::message::WorkerWork;

/// With so many bytes kept, nothing more is taken out of the slots, which then wait.
const LIMIT: usize = 64 << 20;
/// What a message costs besides what is counted of it.
const OVERHEAD: usize = 256;

/// One message, and what it is about.
#[derive(Debug)]
struct Kept {
    job: JobId,
    message: WorkerWork,
    payload: Bytes,
}

/// The scheduler acknowledged more than it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NeverSent;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    kept: VecDeque<Kept>,
    /// How many of `kept` have been sent on this connection.
    sent: usize,
    /// How many messages of this connection have been acknowledged, and are not kept any more.
    acknowledged: u64,
    bytes: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, job: JobId, message: WorkerWork, payload: Bytes) {
        self.bytes += size(&message, &payload);
        self.kept.push_back(Kept { job, message, payload });
    }

    /// The next message for this connection.
    pub(super) fn take_unsent(&mut self) -> Option<(WorkerWork, Bytes)> {
        let next = self.kept.get(self.sent)?;
        self.sent += 1;
        Some((next.message.clone(), next.payload.clone()))
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.kept.len()
    }

    /// Whether nothing more should be added.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= LIMIT
    }

    /// Whether everything has been acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many messages are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The effects of the first `messages` messages of this connection are on disk.
    ///
    /// # Errors
    ///
    /// There have not been so many.
    pub(super) fn stored(&mut self, messages: u64) -> Result<(), NeverSent> {
        let new = messages.saturating_sub(self.acknowledged);
        if new > self.sent as u64 {
            return Err(NeverSent);
        }
        for kept in self.kept.drain(..new as usize) {
            self.bytes -= size(&kept.message, &kept.payload);
        }
        self.sent -= new as usize;
        self.acknowledged += new;
        Ok(())
    }

    /// Another connection begins: everything is sent again, but for the answers that nobody wants any more.
    pub(super) fn restart(&mut self, is_wanted: impl Fn(JobId) -> bool) {
        self.kept.retain(|kept| is_wanted(kept.job));
        self.bytes = self.kept.iter().map(|kept| size(&kept.message, &kept.payload)).sum();
        self.sent = 0;
        self.acknowledged = 0;
    }

    /// What is kept, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (JobId, &WorkerWork)> {
        self.kept.iter().map(|kept| (kept.job, &kept.message))
    }
}

fn size(message: &WorkerWork, payload: &Bytes) -> usize {
    let words = match message {
        WorkerWork::Results { batch, .. } => {
            let failures = batch.failures.iter().map(|(_, failure)| OVERHEAD + failure.message.len());
            let captured = batch
                .captured
                .iter()
                .map(|(_, captured)| OVERHEAD + captured.stdout.len() + captured.stderr.len() + captured.log.len());
            failures.chain(captured).sum()
        }
        WorkerWork::Lost { message, .. } => message.len(),
        WorkerWork::Returned { .. } => 0,
    };
    OVERHEAD + words + payload.len()
}

#[cfg(test)]
mod tests {
    use farm_proto::ids::LeaseId;

    use super::*;

    fn message(first: u64) -> WorkerWork {
        WorkerWork::Returned { lease: LeaseId(1), first, count: 1 }
    }

    fn unsent(outbox: &mut Outbox) -> Vec<WorkerWork> {
        std::iter::from_fn(|| outbox.take_unsent()).map(|(message, _)| message).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_order() {
        let mut outbox = Outbox::default();
        (0..5).for_each(|first| outbox.push(JobId(1), message(first), Bytes::new()));
        assert_eq!(unsent(&mut outbox).len(), 5);
        assert_eq!(outbox.stored(2), Ok(()));
        // Cumulative, so that saying it again changes nothing.
        assert_eq!(outbox.stored(2), Ok(()));
        assert_eq!(outbox.stored(1), Ok(()));
        outbox.push(JobId(1), message(5), Bytes::new());
        outbox.restart(|_| true);
        assert_eq!(unsent(&mut outbox), [2, 3, 4, 5].map(message));
        // Counted anew.
        assert_eq!(outbox.stored(1), Ok(()));
        assert_eq!(outbox.stored(5), Err(NeverSent));
        assert_eq!(outbox.stored(4), Ok(()));
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn what_was_not_sent_cannot_be_acknowledged() {
        let mut outbox = Outbox::default();
        outbox.push(JobId(1), message(0), Bytes::new());
        assert_eq!(outbox.stored(1), Err(NeverSent));
        outbox.take_unsent();
        assert_eq!(outbox.stored(1), Ok(()));
    }

    #[test]
    fn answers_of_a_job_that_is_over_are_not_sent_again() {
        let mut outbox = Outbox::default();
        (0..4).for_each(|first| outbox.push(JobId(first % 2), message(first), Bytes::from(vec![0; LIMIT / 4])));
        assert!(outbox.is_full());
        outbox.restart(|job| job == JobId(1));
        assert_eq!(unsent(&mut outbox), [1, 3].map(message));
        assert!(!outbox.is_full());
    }
}
