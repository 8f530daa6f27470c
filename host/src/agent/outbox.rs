//! Answers that the scheduler has not acknowledged: those that are still to be sent, and those that have been, but may
//! not be on its disk yet.
//!
//! A connection may be lost at any time, and the scheduler with it. So an answer is kept until the scheduler says that
//! its effects are on disk ([`SchedulerControl::Stored`](farm_proto::message::SchedulerControl::Stored)), and on the next
//! connection it is sent again, before anything newer.
//!
//! Outcomes of tasks that left files are held back until the scheduler has these, and then come behind what was not. A
//! connection that was lost may have been the scheduler's that had them: on the next one, they are offered again.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::ids::{Digest, JobId};
use farm_proto::message::WorkerWork;
use farm_proto::outcome::Failure;

use crate::slot::KeptFolders;

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
    /// Where the files are that its tasks left, by offset; removed when it is acknowledged.
    files: Option<Arc<KeptFolders>>,
}

/// A file that the scheduler is to have before an outcome.
#[derive(Debug)]
pub(super) struct Upload {
    /// Which of a batch's tasks left it.
    pub(super) offset: u32,
    /// Below `/out`.
    pub(super) name: String,
    /// `None` if there is no such file, whatever the slot says.
    pub(super) path: Option<PathBuf>,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Keeps the file.
    _files: Arc<KeptFolders>,
}

/// The scheduler acknowledged more than it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NeverSent;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    kept: VecDeque<Kept>,
    /// Those whose files are on their way, by a number.
    held: BTreeMap<u64, Kept>,
    next_number: u64,
    /// How many of `kept` have been sent on this connection.
    sent: usize,
    /// How many messages of this connection have been acknowledged, and are not kept any more.
    acknowledged: u64,
    bytes: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, job: JobId, message: WorkerWork, payload: Bytes) {
        if let WorkerWork::Checkpoint { .. } = message {
            self.drop_unsent(&message);
        }
        self.bytes += size(&message, &payload);
        self.kept.push_back(Kept { job, message, payload, files: None });
    }

    /// Drops earlier checkpoints of the same task that have not been sent on this connection.
    fn drop_unsent(&mut self, checkpoint: &WorkerWork) {
        let unsent = |outbox: &Self| outbox.kept.iter().skip(outbox.sent).position(|kept| kept.message == *checkpoint);
        while let Some(old) = unsent(self).and_then(|at| self.kept.remove(self.sent + at)) {
            self.bytes -= size(&old.message, &old.payload);
        }
    }

    /// Holds an answer back until its files have been brought to the scheduler: the number by which it is
    /// [released](Self::release).
    pub(super) fn hold(&mut self, job: JobId, message: WorkerWork, payload: Bytes, files: KeptFolders) -> u64 {
        self.bytes += size(&message, &payload);
        self.hold_kept(Kept { job, message, payload, files: Some(Arc::new(files)) })
    }

    fn hold_kept(&mut self, kept: Kept) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.held.insert(number, kept);
        number
    }

    /// The files that go before an answer.
    pub(super) fn uploads(&self, number: u64) -> Vec<Upload> {
        let Some(Kept { message: WorkerWork::Results { batch, .. }, files: Some(files), .. }) = self.held.get(&number)
        else {
            return Vec::new();
        };
        let of_task = |offset: u32| files.iter().find(|(at, _)| *at == offset).map(|(_, folder)| folder.path());
        let listed =
            batch.captured.iter().flat_map(|(offset, captured)| captured.files.iter().map(|file| (*offset, file)));
        let uploads = listed.map(|(offset, file)| Upload {
            offset,
            name: file.path.clone(),
            path: of_task(offset).filter(|_| farm_proto::job::is_below(&file.path)).map(|path| path.join(&file.path)),
            digest: file.digest,
            size: file.size,
            _files: Arc::clone(files),
        });
        uploads.collect()
    }

    /// The scheduler has the files of an answer, but for those of the tasks that fail because of that. Nothing happens if
    /// the answer is not held back any more.
    pub(super) fn release(&mut self, number: u64, failures: Vec<(u32, Failure)>) {
        let Some(mut kept) = self.held.remove(&number) else {
            return;
        };
        self.bytes -= size(&kept.message, &kept.payload);
        fail(&mut kept, failures);
        self.bytes += size(&kept.message, &kept.payload);
        self.kept.push_back(kept);
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
        self.kept.is_empty() && self.held.is_empty()
    }

    /// How many messages are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.len() + self.held.len()
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

    /// Another connection begins: everything is sent again, but for the answers that nobody wants any more. Gives the
    /// numbers of those that are held back now and were not before.
    #[must_use]
    pub(super) fn restart(&mut self, is_wanted: impl Fn(JobId) -> bool) -> Vec<u64> {
        self.kept.retain(|kept| is_wanted(kept.job));
        self.held.retain(|_, kept| is_wanted(kept.job));
        let (with_files, others) = self.kept.drain(..).partition::<Vec<_>, _>(|kept| kept.files.is_some());
        self.kept = others.into();
        let held = with_files.into_iter().map(|kept| self.hold_kept(kept)).collect();
        self.bytes = self.all().map(|kept| size(&kept.message, &kept.payload)).sum();
        self.sent = 0;
        self.acknowledged = 0;
        held
    }

    fn all(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter().chain(self.held.values())
    }

    /// What is kept, in order; then what is held back.
    pub(super) fn iter(&self) -> impl Iterator<Item = (JobId, &WorkerWork)> {
        self.all().map(|kept| (kept.job, &kept.message))
    }
}

/// Makes failures of some outcomes of a batch.
fn fail(kept: &mut Kept, failures: Vec<(u32, Failure)>) {
    let WorkerWork::Results { batch, .. } = &mut kept.message else { return };
    if failures.is_empty() {
        return;
    }
    let Ok(results) = Columns::decode(batch.count.into(), kept.payload.clone()) else { return };
    let mut failed: BTreeMap<u32, Failure> = std::mem::take(&mut batch.failures).into_iter().collect();
    for (offset, failure) in failures {
        failed.entry(offset).or_insert(failure);
    }
    let mut values = ColumnsBuilder::new();
    for (value, offset) in results.iter().zip(0..) {
        values.push(if failed.contains_key(&offset) { &[] } else { value });
    }
    kept.payload = values.finish().encode();
    for (_, captured) in batch.captured.iter_mut().filter(|(offset, _)| failed.contains_key(offset)) {
        captured.files.clear();
    }
    batch.captured.retain(|(_, captured)| !captured.is_empty() || captured.truncated);
    batch.failures = failed.into_iter().collect();
}

fn size(message: &WorkerWork, payload: &Bytes) -> usize {
    let words = match message {
        WorkerWork::Results { batch, .. } => {
            let failures = batch.failures.iter().map(|(_, failure)| OVERHEAD + failure.message.len());
            let captured = batch.captured.iter().map(|(_, captured)| {
                let files = captured.files.iter().map(|file| OVERHEAD + file.path.len()).sum::<usize>();
                OVERHEAD + captured.stdout.len() + captured.stderr.len() + captured.log.len() + files
            });
            failures.chain(captured).sum()
        }
        WorkerWork::Lost { message, .. } => message.len(),
        WorkerWork::Returned { .. } | WorkerWork::Checkpoint { .. } => 0,
    };
    OVERHEAD + words + payload.len()
}

#[cfg(test)]
mod tests {
    use farm_proto::ids::LeaseId;
    use farm_proto::message::Batch;
    use farm_proto::outcome::{Captured, FailureKind, OutputFile};

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
        let _ = outbox.restart(|_| true);
        assert_eq!(unsent(&mut outbox), [2, 3, 4, 5].map(message));
        // Counted anew.
        assert_eq!(outbox.stored(1), Ok(()));
        assert_eq!(outbox.stored(5), Err(NeverSent));
        assert_eq!(outbox.stored(4), Ok(()));
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn answers_with_files_wait_for_them() {
        let captured = |path: &str| Captured {
            files: vec![OutputFile { path: path.to_owned(), digest: Digest::of(b"x"), size: 1 }],
            ..Captured::default()
        };
        let batch = Batch {
            first: 7,
            count: 3,
            failures: Vec::new(),
            captured: vec![(1, captured("a")), (2, captured("../b"))],
            run_ns: 0,
            fetch_ns: 0,
            compile_ns: 0,
        };
        let mut values = ColumnsBuilder::new();
        [b"1", b"2", b"3"].into_iter().for_each(|value| values.push(value));
        let results = WorkerWork::Results { lease: LeaseId(1), batch };
        let mut outbox = Outbox::default();
        let number = outbox.hold(JobId(1), results, values.finish().encode(), Vec::new());
        outbox.push(JobId(1), message(0), Bytes::new());
        assert_eq!(unsent(&mut outbox), [message(0)]);
        assert_eq!((outbox.len(), outbox.iter().count()), (2, 2));
        let uploads = outbox.uploads(number);
        assert_eq!(uploads.iter().map(|upload| upload.offset).collect::<Vec<_>>(), [1, 2]);
        assert!(uploads.iter().all(|upload| upload.path.is_none()), "no folder came with it");
        outbox.release(number, vec![(2, Failure::new(FailureKind::BadOutput, "gone"))]);
        outbox.release(number, Vec::new());
        let Some((WorkerWork::Results { batch, .. }, payload)) = outbox.take_unsent() else { panic!("released") };
        assert_eq!(batch.captured, [(1, captured("a"))]);
        assert_eq!(batch.failures.len(), 1);
        let values = Columns::decode(3, payload).unwrap();
        assert_eq!(values.iter().collect::<Vec<_>>(), [&b"1"[..], b"2", b""]);
        // The next scheduler may not have them.
        let held = outbox.restart(|_| true);
        assert_eq!(unsent(&mut outbox), [message(0)]);
        outbox.release(held[0], Vec::new());
        assert!(outbox.take_unsent().is_some());
        assert_eq!(outbox.stored(2), Ok(()));
        assert_eq!((outbox.bytes, outbox.is_empty()), (0, true));
    }

    #[test]
    fn of_unsent_checkpoints_only_the_last_is_kept() {
        let checkpoint = |task| WorkerWork::Checkpoint { lease: LeaseId(1), task };
        let mut outbox = Outbox::default();
        let keep = |outbox: &mut Outbox, task, state: &'static [u8]| {
            outbox.push(JobId(1), checkpoint(task), Bytes::from_static(state));
        };
        keep(&mut outbox, 0, b"1");
        keep(&mut outbox, 1, b"2");
        keep(&mut outbox, 0, b"3");
        assert_eq!(outbox.take_unsent(), Some((checkpoint(1), Bytes::from_static(b"2"))));
        assert_eq!(outbox.take_unsent(), Some((checkpoint(0), Bytes::from_static(b"3"))));
        // That one may be on its way.
        keep(&mut outbox, 0, b"4");
        assert_eq!(outbox.len(), 3);
        let _ = outbox.restart(|_| true);
        // The connection may be lost again and again, and the outbox does not grow by it.
        keep(&mut outbox, 0, b"5");
        keep(&mut outbox, 0, b"6");
        assert_eq!(outbox.len(), 2);
        assert_eq!(outbox.kept.back().map(|kept| &kept.payload[..]), Some(&b"6"[..]));
        let sent = unsent(&mut outbox).len() as u64;
        assert_eq!((outbox.stored(sent), outbox.bytes), (Ok(()), 0));
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
        let _ = outbox.restart(|job| job == JobId(1));
        assert_eq!(unsent(&mut outbox), [1, 3].map(message));
        assert!(!outbox.is_full());
    }
}
