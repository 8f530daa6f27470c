//! Facts on their way to the disk.
//!
//! What the core wants stored collects here while the owner listens; [`Commits::commit`] then writes all of it at once.
//! A little is written on the spot: that costs microseconds in the page cache, two changes of thread would cost a
//! hundred. Much is written on another thread, one commit at a time, while the owner goes on listening.
//!
//! If the disk is full, what is to be stored stays and is tried again every [`RETRY`]; meanwhile no job is accepted and
//! no more results are taken in than there is [room](Commits::has_room) for, so that nothing accepted is lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use farm_core::FactSeq;
use farm_proto::ids::JobId;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::results::{JobResults, Outcomes, Writer};

/// Up to this many bytes are written on the spot.
const ON_THE_SPOT: usize = 256 << 10;
/// With more bytes than this waiting to be written, workers have to wait.
const ROOM: usize = 32 << 20;
/// How long after a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(1);

type Records = Vec<(Arc<JobResults>, Outcomes)>;

/// Facts that are not yet stored, and who stores them.
#[derive(Debug)]
pub(super) struct Commits {
    /// None while a commit is under way.
    writer: Option<Writer>,
    under_way: Option<JoinHandle<Written>>,
    /// What the facts that collect here want written, in order. Most facts want nothing written.
    records: Records,
    /// The bytes of `records`, and of what is under way.
    weight: usize,
    /// The last fact that was handed in, and the last that is stored.
    last: FactSeq,
    stored: FactSeq,
    /// Jobs whose files can be closed when everything is written.
    ended: Vec<JobId>,
    trouble: Option<Trouble>,
}

/// What a commit on another thread gives back.
#[derive(Debug)]
struct Written {
    writer: Writer,
    /// What could not be written, and why.
    left: Records,
    result: io::Result<()>,
    weight: usize,
    /// The last fact of the commit.
    last: FactSeq,
}

#[derive(Debug)]
struct Trouble {
    reason: String,
    again: Instant,
}

impl Commits {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            writer: Some(writer),
            under_way: None,
            records: Vec::new(),
            weight: 0,
            last: FactSeq::default(),
            stored: FactSeq::default(),
            ended: Vec::new(),
            trouble: None,
        }
    }

    /// Adds a fact, and what of it is to be written.
    pub(super) fn add(&mut self, seq: FactSeq, records: impl IntoIterator<Item = (Arc<JobResults>, Outcomes)>) {
        self.last = seq;
        for record in records {
            self.weight += record.1.weight();
            self.records.push(record);
        }
    }

    /// Closes a job's file when what there is of it is written.
    pub(super) fn end(&mut self, job: JobId) {
        self.ended.push(job);
    }

    /// Whether more results can be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.weight < ROOM
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
        let mut writer = self.writer.take()?;
        let records = std::mem::take(&mut self.records);
        let weight = records.iter().map(|(_, outcomes)| outcomes.weight()).sum();
        let last = self.last;
        let write = move || {
            let mut left = records;
            let result = writer.append(&left).map_err(|(done, error)| {
                left.drain(..done);
                error
            });
            if result.is_ok() {
                left.clear();
            }
            Written { writer, left, result, weight, last }
        };
        if weight > ON_THE_SPOT {
            self.under_way = Some(tokio::task::spawn_blocking(write));
            return None;
        }
        self.take_back(write())
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
        let Written { mut writer, mut left, result, weight, last } = written;
        self.weight -= weight;
        if let Err(error) = result {
            self.weight += left.iter().map(|(_, outcomes)| outcomes.weight()).sum::<usize>();
            left.append(&mut self.records);
            self.records = left;
            self.writer = Some(writer);
            if self.trouble.is_none() {
                tracing::error!(%error, "cannot store results: taking no jobs, trying again every second");
            }
            self.trouble = Some(Trouble { reason: error.to_string(), again: Instant::now() + RETRY });
            return None;
        }
        if self.trouble.take().is_some() {
            tracing::info!("results can be stored again");
        }
        if self.records.is_empty() {
            self.ended.drain(..).for_each(|job| writer.close(job));
        }
        self.writer = Some(writer);
        (last > self.stored).then(|| {
            self.stored = last;
            last
        })
    }
}
