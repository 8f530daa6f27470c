//! Reading a job's batches in order.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::ids::JobId;
use farm_proto::message::Batch;

use super::batches::{self, BATCH, BatchRow};
use super::{JobResults, Outcomes, Published, Store, StoreError};
use crate::sync::{locked, off_loop};

/// How much is read at once, in bytes, unless one batch is longer.
const READ: usize = 1 << 20;

/// A batch as it was stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) number: u64,
    pub(crate) batch: Batch,
    pub(crate) columns: Bytes,
}

/// Reads a job's batches from some number on, each once.
#[derive(Debug)]
pub(crate) struct ResultsReader {
    store: Arc<Store>,
    results: Arc<JobResults>,
    /// The batch to read next.
    next: u64,
}

impl ResultsReader {
    pub(crate) fn new(store: Arc<Store>, results: Arc<JobResults>, from: u64) -> Self {
        Self { store, results, next: from }
    }

    /// The next batches, about a megabyte of them; none if all that is `published` has been read.
    ///
    /// # Errors
    ///
    /// They cannot be read, or are not what was written; or the job was deleted.
    pub(crate) async fn next(&mut self, published: Published) -> io::Result<Vec<Stored>> {
        if !self.more(published) {
            return Ok(Vec::new());
        }
        let mut batches = self.at_hand(published);
        if batches.is_empty() {
            let (store, results) = (Arc::clone(&self.store), Arc::clone(&self.results));
            let (from, end) = (self.next, published.batches);
            batches = off_loop(move || store.stored(&results, from, end)).await?;
        }
        self.next += batches.len() as u64;
        Ok(batches)
    }

    /// Whether there is more to read of what is `published`.
    pub(crate) fn more(&self, published: Published) -> bool {
        self.next < published.batches
    }

    /// What there is in memory.
    fn at_hand(&self, published: Published) -> Vec<Stored> {
        let recent = locked(&self.store.recent);
        let mut batches = Vec::new();
        let mut length = 0;
        for number in self.next..published.batches {
            let Some(Outcomes { batch, columns }) = recent.get(self.results.job, number) else {
                break;
            };
            length += columns.len();
            batches.push(Stored { number, batch, columns });
            if length >= READ {
                break;
            }
        }
        batches
    }
}

impl Store {
    /// Batches of a job from `from` on, none of them beyond `end`, and at least one.
    fn stored(&self, results: &JobResults, from: u64, end: u64) -> Result<Vec<Stored>, StoreError> {
        match self.read_stored(results.job, from, end) {
            // Large columns go before their rows do.
            Err(StoreError::Corrupt { .. }) if self.is_deleted(results.job)? => Err(StoreError::NoSuchJob(results.job)),
            read => read,
        }
    }

    fn read_stored(&self, job: JobId, from: u64, end: u64) -> Result<Vec<Stored>, StoreError> {
        self.read(|connection| {
            let sqlite = StoreError::of(&self.path);
            let ids = batches::id(job, from)?..batches::ids(job).start.saturating_add_unsigned(end);
            let sql = format!("SELECT {BATCH} FROM batches WHERE id >= ? AND id < ? ORDER BY id");
            let mut statement = connection.prepare_cached(&sql).map_err(&sqlite)?;
            let mut found = statement.query([ids.start, ids.end]).map_err(&sqlite)?;
            let mut batches = Vec::new();
            let mut length = 0;
            while length < READ && from + (batches.len() as u64) < end {
                let number = from + batches.len() as u64;
                let row = found.next().map_err(&sqlite)?.ok_or_else(|| self.not_there(connection, job, number))?;
                let batch = BatchRow::read(row, &self.path)?;
                if batch.number != number {
                    return Err(self.not_there(connection, job, number));
                }
                let columns = batch.columns(row, &self.path, &self.blobs)?;
                length += columns.len() + 64;
                batches.push(Stored { number, batch: batch.head, columns });
            }
            Ok(batches)
        })
    }
}
