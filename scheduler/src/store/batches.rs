//! Rows of outcomes.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use farm_proto::columns::Columns;
use farm_proto::ids::{Digest, JobId};
use farm_proto::message::Batch;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::{Sum, decode_ranges, encode_ranges, failed_offsets};
use super::rows::{insert_pin, number};
use super::{Outcomes, StoreError, Times};
use crate::blobs::Folder;

/// Columns of more bytes are a blob of their own.
pub(crate) const LARGE: usize = 1 << 20;
/// How many bits of a row's id are the batch's number.
const NUMBER_BITS: u32 = 31;

/// What [`IndexRow::read`] reads, of the job that is its parameter: nothing but the index is touched by that.
pub(crate) const BY_TASK: &str =
    "SELECT first, count, number, failed, offsets, seal, bytes FROM batches INDEXED BY batches_by_task WHERE job = ?1";
/// What [`BatchRow::read`] reads.
pub(crate) const BATCH: &str = "id, first, count, failed, offsets, seal, stored, queued_ns, leased_ns, arrived_ns, sum, \
     digest, head, bytes, columns";
/// Where the columns are among these.
const COLUMNS: usize = 14;

/// The ids of a job's rows.
pub(crate) const fn ids(job: JobId) -> Range<i64> {
    // Jobs beyond that are refused.
    let first = (job.0 << NUMBER_BITS).cast_signed();
    first..first.saturating_add(1 << NUMBER_BITS)
}

/// The id of a row.
pub(crate) fn id(job: JobId, number: u64) -> Result<i64, StoreError> {
    if number >> NUMBER_BITS != 0 {
        return Err(StoreError::Beyond { job, what: "batches" });
    }
    // As for `id_fits`.
    Ok((job.0 << NUMBER_BITS | number).cast_signed())
}

/// Whether a job's rows have ids.
pub(crate) const fn id_fits(job: JobId) -> bool {
    job.0 >> (63 - NUMBER_BITS) == 0
}

/// How many batches a job has.
pub(crate) fn count(connection: &Connection, path: &Path, job: JobId) -> Result<u64, StoreError> {
    let sqlite = StoreError::of(path);
    let ids = ids(job);
    let sql = "SELECT id FROM batches WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 1";
    let last = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([ids.start, ids.end], |row| row.get::<_, i64>(0)).optional())
        .map_err(sqlite)?;
    Ok(last.map_or(0, |id| (id - ids.start).cast_unsigned() + 1))
}

/// What the index has of a batch.
#[derive(Debug)]
pub(crate) struct IndexRow {
    pub(crate) job: JobId,
    pub(crate) number: u64,
    pub(crate) tasks: Range<u64>,
    /// Which of them failed, as offsets.
    pub(crate) failed: Vec<Range<u64>>,
    /// About how many it takes.
    pub(crate) bytes: u64,
}

impl IndexRow {
    /// Reads [`BY_TASK`].
    pub(crate) fn read(row: &Row<'_>, job: JobId, path: &Path) -> Result<Self, StoreError> {
        let read = || -> rusqlite::Result<_> {
            let offsets = row.get_ref(4)?.as_blob_or_null()?;
            let (first, count, nth, failed) = (number(row, 0)?, number(row, 1)?, number(row, 2)?, number(row, 3)?);
            let bytes = number(row, 6)?;
            let good = row.get::<_, i64>(5)? == seal(job, [nth, first, count, failed, bytes], offsets);
            let ranges = offsets.map_or_else(|| Some(Vec::new()), decode_ranges);
            let tasks = first..first + count;
            Ok(ranges.filter(|_| good).map(|failed| Self { job, number: nth, tasks, failed, bytes }))
        };
        read().ok().flatten().ok_or_else(|| {
            let first = number(row, 0).unwrap_or_default();
            let place = format!("index batches_by_task, job {job}, batch of task {first}: not what was written");
            StoreError::corrupt(path, place)
        })
    }

    pub(crate) fn corrupt(&self, path: &Path, what: &str) -> StoreError {
        corrupt(path, self.job, self.number, what)
    }
}

/// A batch that does not hold what it should.
pub(crate) fn corrupt(path: &Path, job: JobId, number: u64, what: &str) -> StoreError {
    StoreError::corrupt(path, format!("table batches, job {job}, batch {number}: {what}"))
}

/// Of the batch's number, its first task, how many there are, how many failed, and its bytes.
fn seal(job: JobId, numbers: [u64; 5], offsets: Option<&[u8]>) -> i64 {
    let sum = Sum::new("batches_by_task").number(job.0);
    numbers.into_iter().fold(sum, Sum::number).bytes(offsets.unwrap_or_default()).seal()
}

/// Everything of a batch but its columns.
#[derive(Debug)]
pub(crate) struct BatchRow {
    pub(crate) job: JobId,
    pub(crate) number: u64,
    pub(crate) head: Batch,
    /// Which failed, as offsets.
    pub(crate) failed: Vec<Range<u64>>,
    /// The commit that it came with.
    pub(crate) stored: u64,
    pub(crate) queued_ns: u64,
    pub(crate) leased_ns: u64,
    pub(crate) arrived_ns: u64,
    /// Of the columns.
    pub(crate) digest: Digest,
}

/// What is written of a batch.
#[derive(Debug)]
pub(crate) struct NewBatch {
    pub(crate) job: JobId,
    pub(crate) number: u64,
    pub(crate) commit: u64,
    pub(crate) digest: Digest,
    pub(crate) head: Vec<u8>,
}

impl NewBatch {
    pub(crate) fn insert(
        &self,
        connection: &Connection,
        path: &Path,
        outcomes: &Outcomes,
        times: &Times,
    ) -> Result<(), StoreError> {
        let job = self.job;
        let id = id(job, self.number)?;
        let Batch { first, count, .. } = outcomes.batch;
        if i64::try_from(first.saturating_add(count.into())).is_err() {
            return Err(StoreError::Beyond { job, what: "tasks" });
        }
        let failed = failed_offsets(&outcomes.batch);
        let offsets = (!failed.is_empty()).then(|| encode_ranges(&failed));
        let failed = outcomes.batch.failures.len() as u64;
        let bytes = outcomes.weight() as u64;
        let seal = seal(job, [self.number, first, count.into(), failed, bytes], offsets.as_deref());
        let submitted_ns = times.submitted_ms.saturating_mul(1_000_000);
        // Clocks go back, and leases of another life are as long as their worker says.
        let leased_at = times.arrived_ns.saturating_sub(times.leased_ns);
        let numbers = [self.commit, leased_at.saturating_sub(submitted_ns), times.leased_ns, times.arrived_ns]
            .map(u64::cast_signed);
        let sum = sum(id, seal, numbers, &self.digest, &self.head);
        let sql = format!(
            "INSERT INTO batches (job, number, {BATCH}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        );
        let large = outcomes.columns.len() > LARGE;
        let write = || {
            connection.prepare_cached(&sql)?.execute(params![
                job.0.cast_signed(),
                self.number.cast_signed(),
                id,
                first.cast_signed(),
                count,
                failed.cast_signed(),
                offsets,
                seal,
                numbers[0],
                numbers[1],
                numbers[2],
                numbers[3],
                sum,
                self.digest.0,
                self.head,
                bytes.cast_signed(),
                (!large).then_some(&*outcomes.columns),
            ])?;
            if large {
                insert_pin(connection, job, &self.digest)?;
            }
            outcomes.files().try_for_each(|file| insert_pin(connection, job, &file.digest))
        };
        write().map_err(StoreError::of(path))
    }
}

/// Over all of a row but its columns. The seal stands for what it is the checksum of.
fn sum(id: i64, seal: i64, numbers: [i64; 4], digest: &Digest, head: &[u8]) -> [u8; 16] {
    let sum = Sum::new("batches").number(id.cast_unsigned()).number(seal.cast_unsigned());
    let sum = numbers.into_iter().fold(sum, |sum, number| sum.number(number.cast_unsigned()));
    sum.bytes(&digest.0).bytes(head).finish()
}

impl BatchRow {
    /// Reads [`BATCH`] but for the columns, and checks that it is what was written.
    pub(crate) fn read(row: &Row<'_>, path: &Path) -> Result<Self, StoreError> {
        let id: i64 = row.get(0).map_err(StoreError::of(path))?;
        let job = JobId(id.cast_unsigned() >> NUMBER_BITS);
        let nth = id.cast_unsigned() & ((1 << NUMBER_BITS) - 1);
        let read = || -> rusqlite::Result<Option<Self>> {
            let offsets = row.get_ref(4)?.as_blob_or_null()?;
            let (first, count, failed) = (number(row, 1)?, number(row, 2)?, number(row, 3)?);
            let sealed: i64 = row.get(5)?;
            let numbers = [row.get(6)?, row.get(7)?, row.get(8)?, row.get(9)?];
            let digest = Digest(row.get(11)?);
            let head = row.get_ref(12)?.as_blob()?;
            let sealing = [nth, first, count, failed, number(row, COLUMNS - 1)?];
            let good = sealed == seal(job, sealing, offsets)
                && row.get::<_, [u8; 16]>(10)? == sum(id, sealed, numbers, &digest, head);
            let (Ok(head), Some(ranges), true) =
                (postcard::from_bytes::<Batch>(head), offsets.map_or_else(|| Some(Vec::new()), decode_ranges), good)
            else {
                return Ok(None);
            };
            if (head.first, u64::from(head.count), head.failures.len() as u64) != (first, count, failed) {
                return Ok(None);
            }
            let [stored, queued_ns, leased_ns, arrived_ns] = numbers.map(i64::cast_unsigned);
            Ok(Some(Self { job, number: nth, head, failed: ranges, stored, queued_ns, leased_ns, arrived_ns, digest }))
        };
        read().ok().flatten().ok_or_else(|| corrupt(path, job, nth, "not what was written"))
    }

    /// The columns, which are the last of [`BATCH`], or a blob. Checked by their digest.
    pub(crate) fn columns(&self, row: &Row<'_>, path: &Path, blobs: &Folder) -> Result<Bytes, StoreError> {
        if !self.is_large(row) {
            return self.inline_bytes(row, path);
        }
        let file = blobs.path(&self.digest);
        let needed = |what| StoreError::corrupt(&file, format!("{what}, and job {} needs it", self.job));
        match blobs.read(&self.digest) {
            Ok(Some(bytes)) if Digest::of(&bytes) == self.digest => Ok(bytes),
            Ok(Some(_)) => Err(needed("not what was written")),
            Ok(None) => Err(needed("not there")),
            Err(error) => Err(StoreError::io(&file)(error)),
        }
    }

    /// Whether the columns are a blob.
    pub(crate) fn is_large(&self, row: &Row<'_>) -> bool {
        row.get_ref(COLUMNS).is_ok_and(|value| value == ValueRef::Null)
    }

    fn inline_bytes(&self, row: &Row<'_>, path: &Path) -> Result<Bytes, StoreError> {
        let columns = row.get_ref(COLUMNS).map_err(StoreError::of(path))?;
        match columns.as_blob() {
            Ok(bytes) if Digest::of(bytes) == self.digest => Ok(Bytes::copy_from_slice(bytes)),
            _ => Err(corrupt(path, self.job, self.number, "columns that are not what was written")),
        }
    }

    /// The columns that are in the row, as items.
    pub(crate) fn inline(&self, row: &Row<'_>, path: &Path) -> Result<Columns, StoreError> {
        self.decode(self.inline_bytes(row, path)?, path)
    }

    /// The columns, as items.
    pub(crate) fn items(&self, row: &Row<'_>, path: &Path, blobs: &Folder) -> Result<Columns, StoreError> {
        self.decode(self.columns(row, path, blobs)?, path)
    }

    pub(crate) fn decode(&self, columns: Bytes, path: &Path) -> Result<Columns, StoreError> {
        Columns::decode(self.head.count.into(), columns)
            .map_err(|error| corrupt(path, self.job, self.number, &error.to_string()))
    }
}
