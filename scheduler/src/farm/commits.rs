//! Facts on their way to the disk.
//!
//! What the core wants stored collects here while the owner listens; [`Commits::commit`] then writes all of it with one
//! transaction, on another thread, while the owner goes on listening: a disk takes its time to be sure. A farm whose
//! store is [ephemeral](crate::Durability::Ephemeral) waits for no disk, and writes a little on the spot: two changes of
//! thread would cost more.
//!
//! If the disk is full, what is to be stored stays and is tried again every [`RETRY`]; meanwhile no job is accepted and
//! no more results are taken in than there is [room](Commits::has_room) for, so that nothing accepted is lost.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use farm_core::FactSeq;
use farm_link::failpoint;
use farm_proto::message::RequestError;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Reply;
use crate::Durability;
use crate::store::{Record, StoreError, Writer};

/// Up to this many bytes are written on the spot where nobody waits for the disk.
const ON_THE_SPOT: usize = 256 << 10;
/// With more bytes than this waiting to be written, workers have to wait.
const ROOM: usize = 32 << 20;
/// One transaction takes about this many bytes, so that it can be done again if it fails, and that others need not wait
/// for it too long.
const AT_ONCE: usize = 16 << 20;
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
    /// The bytes of what waits and of what is under way.
    weight: usize,
    stored: FactSeq,
    trouble: Option<Trouble>,
    /// Whether there may be something left to do for deleted jobs.
    untidy: bool,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Pending {
    /// In order.
    records: Vec<Record>,
    /// For each of them, the fact that is stored with it: none if more of that fact comes, or it is of no fact.
    seqs: Vec<Option<FactSeq>>,
    /// Who is to be told when everything up to that many of the records is written.
    waiters: Vec<(usize, Reply<()>)>,
}

/// What a commit on another thread gives back.
#[derive(Debug)]
struct Written {
    writer: Writer,
    pending: Pending,
    result: Result<(), StoreError>,
    weight: usize,
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
            weight: 0,
            stored: FactSeq::default(),
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

    /// Adds something that is no fact of the core, and says when it is written.
    pub(super) fn add_for(&mut self, record: Record, reply: Reply<()>) {
        self.push(record);
        self.waiting.waiters.push((self.waiting.records.len(), reply));
    }

    /// Adds something that nobody waits for.
    pub(super) fn add_quietly(&mut self, record: Record) {
        self.push(record);
    }

    fn push(&mut self, record: Record) {
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
        self.under_way.is_none() && self.waiting.records.is_empty()
    }

    /// The last fact that is stored.
    pub(super) fn stored(&self) -> FactSeq {
        self.stored
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
        if self.trouble.as_ref().is_some_and(|trouble| Instant::now() < trouble.again) {
            return None;
        }
        if self.waiting.records.is_empty() {
            self.tidy();
            return None;
        }
        let mut writer = self.writer.take()?;
        let (pending, weight) = self.waiting.take(AT_ONCE);
        let _lock = Arc::clone(&self.lock);
        let write = move || {
            let points = points_of(&pending.records);
            points.iter().for_each(|(before, _)| failpoint::hit(before));
            let result = writer.commit(&pending.records);
            points.iter().for_each(|(_, after)| failpoint::hit(after));
            let untidy = (!writer.is_tidy()).then_some(true);
            Written { writer, pending, result, weight, untidy, _lock }
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
            Written { writer, pending: Pending::default(), result: tidied.map(drop), weight: 0, untidy, _lock }
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
        let Written { writer, mut pending, result, weight, untidy, _lock } = written;
        self.writer = Some(writer);
        self.untidy = untidy.unwrap_or(self.untidy);
        if pending.records.is_empty() {
            if let Err(error) = result {
                tracing::warn!(%error, "what deleted jobs left stays for now");
            }
            return None;
        }
        if let Err(error) = result {
            if self.trouble.is_none() {
                tracing::error!(%error, "cannot store anything: taking no jobs, trying again every second");
            }
            self.trouble = Some(Trouble { reason: error.to_string(), again: Instant::now() + RETRY });
            pending.append(std::mem::take(&mut self.waiting));
            self.waiting = pending;
            return None;
        }
        self.weight -= weight;
        if self.trouble.take().is_some() {
            tracing::info!("things can be stored again");
        }
        for (_, reply) in pending.waiters {
            let _ = reply.send(Ok(()));
        }
        let last = pending.seqs.iter().rev().find_map(|seq| *seq)?;
        self.stored = last;
        Some(last)
    }

    /// Tells those who wait for something to be written that it cannot be. It is tried again all the same.
    pub(super) fn refuse_waiters(&mut self) {
        if let Some(Trouble { reason, .. }) = &self.trouble {
            for (_, reply) in self.waiting.waiters.drain(..) {
                let _ = reply.send(Err(RequestError::Storage(reason.clone())));
            }
        }
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
        let (waiters, later) =
            std::mem::take(&mut self.waiters).into_iter().partition::<Vec<_>, _>(|(after, _)| *after <= taken);
        self.waiters = later;
        self.waiters.iter_mut().for_each(|(after, _)| *after -= taken);
        (Self { records, seqs, waiters }, weight)
    }

    fn append(&mut self, mut later: Self) {
        let offset = self.records.len();
        self.records.append(&mut later.records);
        self.seqs.append(&mut later.seqs);
        self.waiters.extend(later.waiters.into_iter().map(|(after, reply)| (after + offset, reply)));
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
        Record::Deleted { .. } => None,
    };
    let mut points: Vec<_> = records.iter().filter_map(of).collect();
    points.dedup();
    points
}
