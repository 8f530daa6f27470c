//! Facts on their way to the disk.
//!
//! What the core wants stored collects here while the owner listens; [`Commits::commit`] then writes all of it with one
//! transaction, on another thread, while the owner goes on listening: a disk takes its time to be sure. A farm whose
//! store is [ephemeral](crate::Durability::Ephemeral) waits for no disk, and writes a little on the spot: two changes of
//! thread would cost more.
//!
//! If the disk is full, what is to be stored stays and is tried again every [`RETRY`], in smaller parts; meanwhile no job
//! is accepted and no more results are taken in than there is [room](Commits::has_room) for, so that nothing accepted is
//! lost.
//!
//! Deletions are what makes room. They are no facts of the core, wait behind none, and have a transaction of their own,
//! at once, whatever is stuck: a job that is over has nothing that is not yet stored.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use farm_core::FactSeq;
use farm_link::failpoint;
use farm_proto::ids::{Digest, JobId};
use farm_proto::message::RequestError;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Durability;
use crate::store::{Record, StoreError, Writer, rows};

/// Up to this many bytes are written on the spot where nobody waits for the disk.
const ON_THE_SPOT: usize = 256 << 10;
/// With more bytes than this waiting to be written, workers have to wait.
const ROOM: usize = 32 << 20;
/// One transaction takes about this many bytes, so that it can be done again if it fails, and that others need not wait
/// for it too long.
const AT_ONCE: usize = 16 << 20;
/// And no fewer than this, when it was tried with more on a full disk: what fits is stored.
const AT_LEAST: usize = 256 << 10;
/// How long after a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Facts that are not yet stored, and who stores them.
#[derive(Debug)]
pub(super) struct Commits {
    durability: Durability,
    /// Nobody else may have the folder before the last commit is over.
    lock: Arc<File>,
    /// None while a commit is under way.
    writer: Option<Writer>,
    under_way: Option<JoinHandle<Written>>,
    waiting: Pending,
    /// Jobs that are to be deleted next.
    deletions: Vec<JobId>,
    /// Jobs whose deletion is over, and the reason if it was refused.
    deleted: Vec<(JobId, Option<String>)>,
    /// About so many bytes are for the next transaction.
    at_once: usize,
    /// The bytes of what waits and of what is under way.
    weight: usize,
    /// Records that were ever added, and that were written.
    added: u64,
    written: u64,
    trouble: Option<Trouble>,
    /// Whether there may be something left to do for deleted jobs.
    untidy: bool,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Pending {
    /// In order.
    records: Vec<Record>,
    /// For each of them, the fact that is stored with it: none if more of that fact comes.
    seqs: Vec<Option<FactSeq>>,
}

/// What was to be done on another thread.
#[derive(Debug)]
enum Work {
    Facts { pending: Pending, weight: usize },
    Delete(Vec<JobId>),
    Tidy,
}

/// What a commit on another thread gives back.
#[derive(Debug)]
struct Written {
    writer: Writer,
    work: Work,
    result: Result<(), StoreError>,
    /// Whether there may be something left to tidy up, if that is known.
    untidy: Option<bool>,
    _lock: Arc<File>,
}

#[derive(Debug)]
struct Trouble {
    reason: String,
    again: Instant,
}

impl Commits {
    pub(super) fn new(writer: Writer, durability: Durability, lock: Arc<File>) -> Self {
        Self {
            durability,
            lock,
            writer: Some(writer),
            under_way: None,
            waiting: Pending::default(),
            deletions: Vec::new(),
            deleted: Vec::new(),
            at_once: AT_ONCE,
            weight: 0,
            added: 0,
            written: 0,
            trouble: None,
            untidy: true,
        }
    }

    /// Adds what a fact wants to be written: at least one record.
    pub(super) fn add(&mut self, seq: FactSeq, records: impl IntoIterator<Item = Record>) {
        let from = self.waiting.seqs.len();
        for record in records {
            self.push(record);
        }
        match self.waiting.seqs.get_mut(from..).and_then(<[_]>::last_mut) {
            Some(last) => *last = Some(seq),
            None => tracing::error!(?seq, "a fact without a record; this is a bug"),
        }
    }

    /// Deletes a job that is over, and as such stored. What comes of it is told by [`Self::deleted`].
    pub(super) fn delete(&mut self, job: JobId) {
        self.deletions.push(job);
    }

    /// Jobs whose deletion is over since this was last asked: whether they are gone, or why they are not.
    pub(super) fn deleted(&mut self) -> Vec<(JobId, Option<String>)> {
        std::mem::take(&mut self.deleted)
    }

    /// Adds something that is no fact of the core: it is stored when so many records are [written](Self::written).
    pub(super) fn add_other(&mut self, record: Record) -> u64 {
        self.push(record);
        self.added
    }

    /// How many records were ever added.
    pub(super) fn added(&self) -> u64 {
        self.added
    }

    /// What has become of the record of this number: it is written, or nothing can be at present. `None` as long as
    /// neither is known.
    pub(super) fn fate(&self, number: u64) -> Option<Result<(), RequestError>> {
        if number <= self.written { Some(Ok(())) } else { self.check_trouble().err().map(Err) }
    }

    /// Whether things can be stored, as far as is known.
    pub(super) fn check_trouble(&self) -> Result<(), RequestError> {
        self.trouble().map_or(Ok(()), |trouble| Err(RequestError::Storage(trouble.to_owned())))
    }

    /// How many of the records are written that were ever added.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    fn push(&mut self, record: Record) {
        self.added += 1;
        self.weight += record.weight();
        self.waiting.records.push(record);
        self.waiting.seqs.push(None);
    }

    /// Whether more results can be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.weight < ROOM
    }

    /// Whether everything is written.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.waiting.records.is_empty() && self.deletions.is_empty()
    }

    /// The blobs of jobs that wait to be stored, none of which are pinned yet; none while something is under way, when
    /// that is not known.
    pub(super) fn unpinned(&self) -> Option<HashSet<Digest>> {
        let blobs = self.waiting.records.iter().filter_map(|record| match record {
            Record::Accepted(row) => Some(rows::blobs_of(&row.spec)),
            _ => None,
        });
        self.under_way.is_none().then(|| blobs.flatten().collect())
    }

    /// Why nothing can be stored at the moment, if so.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| trouble.reason.as_str())
    }

    /// When [`Self::commit`] is to be called again if nothing else happens.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let waits = self.under_way.is_none();
        self.trouble.as_ref().filter(|_| waits).map(|trouble| trouble.again)
    }

    /// Writes what has collected. Returns the last fact that is stored now, if that is news. To be called again until
    /// it is not: what is stored makes the core want more to be stored.
    pub(super) fn commit(&mut self) -> Option<FactSeq> {
        if !self.deletions.is_empty() {
            self.delete_jobs();
            return None;
        }
        if self.trouble.as_ref().is_some_and(|trouble| Instant::now() < trouble.again) {
            return None;
        }
        if self.waiting.records.is_empty() {
            self.tidy();
            return None;
        }
        let mut writer = self.writer.take()?;
        let (pending, weight) = self.waiting.take(self.at_once);
        let _lock = Arc::clone(&self.lock);
        let write = move || {
            let points = points_of(&pending.records);
            points.iter().for_each(|(before, _)| failpoint::hit(before));
            let result = writer.commit(&pending.records);
            points.iter().for_each(|(_, after)| failpoint::hit(after));
            let untidy = (!writer.is_tidy()).then_some(true);
            Written { writer, work: Work::Facts { pending, weight }, result, untidy, _lock }
        };
        if self.durability == Durability::Ephemeral && weight <= ON_THE_SPOT {
            return self.take_back(write());
        }
        self.under_way = Some(tokio::task::spawn_blocking(write));
        None
    }

    /// Removes a little of what deleted jobs left, where nothing else is to be written.
    fn tidy(&mut self) {
        if !self.untidy {
            return;
        }
        let Some(mut writer) = self.writer.take() else { return };
        let _lock = Arc::clone(&self.lock);
        self.under_way = Some(tokio::task::spawn_blocking(move || {
            let tidied = writer.tidy();
            let untidy = Some(tidied.as_ref().is_ok_and(|more| *more));
            Written { writer, work: Work::Tidy, result: tidied.map(drop), untidy, _lock }
        }));
    }

    /// Begins with the deletions that wait, unless something else is under way.
    fn delete_jobs(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let jobs = std::mem::take(&mut self.deletions);
        // Facts that are stuck need the room now.
        let tight = self.trouble.is_some();
        let _lock = Arc::clone(&self.lock);
        self.under_way = Some(tokio::task::spawn_blocking(move || {
            let result = writer.delete(&jobs, tight);
            Written { writer, work: Work::Delete(jobs), result, untidy: Some(true), _lock }
        }));
    }

    /// Waits for the commit that is under way; for ever if there is none. Then as [`Self::commit`]. Cancel-safe.
    pub(super) async fn finished(&mut self) -> Option<FactSeq> {
        let Some(under_way) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let written = match under_way.await {
            Ok(written) => written,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going, and this task with it.
                Err(_) => return std::future::pending().await,
            },
        };
        self.under_way = None;
        self.take_back(written)
    }

    fn take_back(&mut self, written: Written) -> Option<FactSeq> {
        let Written { writer, work, result, untidy, _lock } = written;
        self.writer = Some(writer);
        self.untidy = untidy.unwrap_or(self.untidy);
        match work {
            Work::Facts { pending, weight } => return self.facts_written(pending, weight, result),
            Work::Delete(jobs) => {
                if let (Ok(()), Some(trouble)) = (&result, &mut self.trouble) {
                    trouble.again = Instant::now();
                }
                let refused = result.err().map(|error| error.to_string());
                self.deleted.extend(jobs.into_iter().map(|job| (job, refused.clone())));
            }
            Work::Tidy => {
                if let Err(error) = result {
                    tracing::warn!(%error, "what deleted jobs left stays for now");
                }
            }
        }
        None
    }

    fn facts_written(
        &mut self,
        mut pending: Pending,
        weight: usize,
        result: Result<(), StoreError>,
    ) -> Option<FactSeq> {
        if let Err(error) = result {
            if weight > AT_LEAST && self.at_once > AT_LEAST && matches!(error, StoreError::Full { .. }) {
                // There may be room for some of it.
                self.at_once = (self.at_once / 4).max(AT_LEAST);
            } else {
                if self.trouble.is_none() {
                    tracing::error!(%error, "cannot store anything: taking no jobs, trying again every second");
                }
                self.trouble = Some(Trouble { reason: error.to_string(), again: Instant::now() + RETRY });
            }
            pending.append(std::mem::take(&mut self.waiting));
            self.waiting = pending;
            return None;
        }
        self.weight -= weight;
        self.at_once = (self.at_once * 2).min(AT_ONCE);
        self.written += pending.records.len() as u64;
        if self.trouble.take().is_some() {
            tracing::info!("things can be stored again");
        }
        pending.seqs.iter().rev().find_map(|seq| *seq)
    }
}

impl Pending {
    /// Takes the first records, about `bytes` of them, but not only some of those of one fact.
    fn take(&mut self, bytes: usize) -> (Self, usize) {
        let (mut taken, mut weight) = (0, 0);
        for (record, seq) in self.records.iter().zip(&self.seqs) {
            taken += 1;
            weight += record.weight();
            if seq.is_some() && weight >= bytes {
                break;
            }
        }
        let rest = self.records.split_off(taken);
        let records = std::mem::replace(&mut self.records, rest);
        let rest = self.seqs.split_off(taken);
        let seqs = std::mem::replace(&mut self.seqs, rest);
        (Self { records, seqs }, weight)
    }

    fn append(&mut self, mut later: Self) {
        self.records.append(&mut later.records);
        self.seqs.append(&mut later.seqs);
    }
}

/// The fail points before and after a commit of these records.
fn points_of(records: &[Record]) -> Vec<(&'static str, &'static str)> {
    if !failpoint::ENABLED {
        return Vec::new();
    }
    let of = |record: &Record| match record {
        Record::Accepted(_) => Some(("scheduler.accept.before-commit", "scheduler.accept.after-commit")),
        Record::Batch { .. } => Some(("scheduler.batch.before-commit", "scheduler.batch.after-commit")),
        Record::Ended { .. } => Some(("scheduler.end.before-commit", "scheduler.end.after-commit")),
        Record::Checkpoint(_) => Some(("scheduler.checkpoint.before-commit", "scheduler.checkpoint.after-commit")),
        Record::CheckpointsDropped { .. }
        | Record::Cluster(_)
        | Record::Deleted { .. }
        | Record::Ticket(_)
        | Record::TicketForgotten { .. } => None,
    };
    let mut points: Vec<_> = records.iter().filter_map(of).collect();
    points.dedup();
    points
}
