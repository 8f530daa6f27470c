//! Questions about single tasks.

use std::ops::Range;

use bytes::Bytes;
use farm_proto::ids::{Digest, JobId};
use farm_proto::why::Account;
use rusqlite::{Connection, OptionalExtension};

use super::batches::{self, BATCH, BY_TASK, BatchRow, IndexRow};
use super::{JobRow, Store, StoreError, rows};
use crate::sync::locked;

/// What there is to know of a task that has ended, but for its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredOutcome {
    pub(crate) failed: bool,
    /// None if the scheduler died before it could note when the outcome was on the disk.
    pub(crate) account: Option<Account>,
}

impl Store {
    /// A job as it was accepted.
    ///
    /// # Errors
    ///
    /// There is none of that number ([`StoreError::NoSuchJob`]), or the database cannot be read, or is damaged.
    pub(crate) fn row(&self, job: JobId) -> Result<JobRow, StoreError> {
        self.read(|connection| {
            let sql = format!("SELECT {JOB} FROM jobs WHERE job = ? AND deleted IS NULL", JOB = rows::JOB);
            let mut statement = connection.prepare_cached(&sql).map_err(StoreError::of(&self.path))?;
            let mut found = statement.query([job.0.cast_signed()]).map_err(StoreError::of(&self.path))?;
            match found.next().map_err(StoreError::of(&self.path))? {
                Some(row) => rows::job(row, &self.path),
                None => Err(StoreError::NoSuchJob(job)),
            }
        })
    }

    /// Whether a job of that owner needs a blob.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub(crate) fn needs(&self, owner: &str, digest: &Digest) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM jobs CROSS JOIN pins ON pins.job = jobs.job AND pins.digest = ?2
                   WHERE jobs.owner = ?1 AND jobs.deleted IS NULL)";
        self.read(|connection| {
            let found = connection
                .prepare_cached(sql)
                .and_then(|mut statement| statement.query_row(rusqlite::params![owner, digest.0], |row| row.get(0)));
            found.map_err(StoreError::of(&self.path))
        })
    }

    /// The outcome of one task, if it has one.
    ///
    /// # Errors
    ///
    /// The database cannot be read, or is damaged.
    pub(crate) fn outcome_of(&self, job: JobId, task: u64) -> Result<Option<StoredOutcome>, StoreError> {
        self.read(|connection| {
            let Some(found) = self.batch_of(connection, job, task)? else {
                return Ok(None);
            };
            let offset = task - found.tasks.start;
            let failed = found.failed.iter().any(|range| range.contains(&offset));
            let row = self.batch(connection, job, found.number, |row| BatchRow::read(row, &self.path))?;
            let stored_ns = self.stored_ns(connection, row.stored)?;
            Ok(Some(StoredOutcome { failed, account: stored_ns.map(|stored_ns| account(&row, stored_ns)) }))
        })
    }

    /// The values of `tasks`, in order, as items of columns; none for a task that has none. Stops when there are more
    /// bytes than `max_bytes`, but not before the first: the answer may be shorter than `tasks`.
    ///
    /// # Errors
    ///
    /// The database or a blob cannot be read, or is damaged.
    pub(crate) fn results_of(
        &self,
        job: JobId,
        tasks: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.read(|connection| {
            let mut results = Vec::new();
            let (mut bytes, mut next) = (0, tasks.start);
            while next < tasks.end {
                let Some(found) = self.batch_from(connection, job, next)?.filter(|row| row.tasks.start < tasks.end)
                else {
                    results.resize((tasks.end - tasks.start) as usize, None);
                    return Ok(results);
                };
                let begin = found.tasks.start.max(next);
                results.resize((begin - tasks.start) as usize, None);
                let items = self.batch(connection, job, found.number, |row| {
                    BatchRow::read(row, &self.path)?.items(row, &self.path, &self.blobs)
                })?;
                next = found.tasks.end.min(tasks.end);
                let mut failed = found.failed.iter().peekable();
                for task in begin..next {
                    let offset = task - found.tasks.start;
                    while failed.next_if(|range| range.end <= offset).is_some() {}
                    if failed.peek().is_some_and(|range| range.start <= offset) {
                        results.push(None);
                        continue;
                    }
                    let item = items.get(offset as usize);
                    bytes += item.len();
                    if bytes > max_bytes && !results.is_empty() {
                        return Ok(results);
                    }
                    // Shares the batch's bytes.
                    results.push(Some(items.bytes().slice_ref(item)));
                }
            }
            Ok(results)
        })
    }

    /// Which batch has a task.
    fn batch_of(&self, connection: &Connection, job: JobId, task: u64) -> Result<Option<IndexRow>, StoreError> {
        let sql = format!("{BY_TASK} AND first <= ?2 ORDER BY first DESC LIMIT 1");
        let found = self.index_row(connection, &sql, job, task)?;
        Ok(found.filter(|row| row.tasks.contains(&task)))
    }

    /// The batch that has a task, or the next one after it.
    fn batch_from(&self, connection: &Connection, job: JobId, task: u64) -> Result<Option<IndexRow>, StoreError> {
        if let Some(found) = self.batch_of(connection, job, task)? {
            return Ok(Some(found));
        }
        let sql = format!("{BY_TASK} AND first > ?2 ORDER BY first LIMIT 1");
        self.index_row(connection, &sql, job, task)
    }

    fn index_row(
        &self,
        connection: &Connection,
        sql: &str,
        job: JobId,
        task: u64,
    ) -> Result<Option<IndexRow>, StoreError> {
        let sqlite = StoreError::of(&self.path);
        // Tasks beyond SQL's numbers are never stored.
        let task = i64::try_from(task).unwrap_or(i64::MAX);
        let mut statement = connection.prepare_cached(sql).map_err(&sqlite)?;
        let mut found = statement.query([job.0.cast_signed(), task]).map_err(&sqlite)?;
        let row = found.next().map_err(&sqlite)?;
        row.map(|row| IndexRow::read(row, job, &self.path)).transpose()
    }

    /// Reads one batch, which the index says is there.
    fn batch<T>(
        &self,
        connection: &Connection,
        job: JobId,
        number: u64,
        read: impl FnOnce(&rusqlite::Row<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let sqlite = StoreError::of(&self.path);
        let sql = format!("SELECT {BATCH} FROM batches WHERE id = ?");
        let mut statement = connection.prepare_cached(&sql).map_err(&sqlite)?;
        let mut found = statement.query([batches::id(job, number)?]).map_err(&sqlite)?;
        match found.next().map_err(&sqlite)? {
            Some(row) => read(row),
            None => Err(self.not_there(connection, job, number)),
        }
    }

    /// Why a batch is not there: its job was deleted, or the database is damaged.
    pub(super) fn not_there(&self, connection: &Connection, job: JobId, number: u64) -> StoreError {
        match rows::is_gone(connection, job) {
            Ok(true) => StoreError::NoSuchJob(job),
            Ok(false) => batches::corrupt(&self.path, job, number, "not there"),
            Err(error) => StoreError::of(&self.path)(error),
        }
    }

    /// Whether a job was deleted by now, or never was.
    pub(super) fn is_deleted(&self, job: JobId) -> Result<bool, StoreError> {
        self.read(|connection| rows::is_gone(connection, job).map_err(StoreError::of(&self.path)))
    }

    /// When a commit was on the disk.
    fn stored_ns(&self, connection: &Connection, commit: u64) -> Result<Option<u64>, StoreError> {
        let (last, stored_ns) = *locked(&self.last);
        if last == commit {
            return Ok(Some(stored_ns));
        }
        let sql = "SELECT stored_ns FROM commits WHERE number = ?";
        let row = connection.prepare_cached(sql).and_then(|mut statement| {
            statement.query_row([commit.cast_signed()], |row| rows::maybe(row, 0)).optional()
        });
        Ok(row.map_err(StoreError::of(&self.path))?.flatten())
    }
}

/// Where the time of a batch's tasks went. The parts sum to the time from submission to storage, unless clocks were set
/// back in between.
fn account(row: &BatchRow, stored_ns: u64) -> Account {
    let fetching_ns = row.head.fetch_ns.min(row.leased_ns);
    let compiling_ns = row.head.compile_ns.min(row.leased_ns - fetching_ns);
    let mean_ns = row.head.run_ns / u64::from(row.head.count.max(1));
    let running_ns = mean_ns.min(row.leased_ns - fetching_ns - compiling_ns);
    Account {
        queued_ns: row.queued_ns,
        leased_ns: row.leased_ns - fetching_ns - compiling_ns - running_ns,
        fetching_ns,
        compiling_ns,
        running_ns,
        storing_ns: stored_ns.saturating_sub(row.arrived_ns),
    }
}
