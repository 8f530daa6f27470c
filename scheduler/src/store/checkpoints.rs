//! Rows of checkpoints: what tasks without an outcome have kept for their next attempts.
//!
//! The states are in the database, however large: a row is replaced every few seconds and goes with the outcome, in the
//! same transaction, neither of which files are good at.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use farm_proto::ids::{Digest, JobId, LeaseId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::Sum;
use super::rows::number;
use super::{Store, StoreError};

/// What [`kept`] reads.
pub(crate) const CHECKPOINT: &str = "job, task, lease, kept_ms, bytes, sum, digest, state";
/// Where the state is among these.
const STATE: usize = 7;

/// A state that a task has kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckpointRow {
    pub(crate) job: JobId,
    pub(crate) task: u64,
    pub(crate) kept: KeptState,
    pub(crate) state: Bytes,
}

/// What there is to know of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptState {
    /// By which lease it was kept.
    pub(crate) lease: LeaseId,
    pub(crate) kept_ms: u64,
    pub(crate) bytes: u64,
}

impl CheckpointRow {
    /// About how much storing it takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        192 + self.state.len()
    }
}

/// Writes a state over the one that the task has kept before.
pub(super) fn write(connection: &Connection, row: &CheckpointRow) -> rusqlite::Result<()> {
    let CheckpointRow { job, task, kept, state } = row;
    let digest = Digest::of(state);
    let sql = format!("INSERT OR REPLACE INTO checkpoints ({CHECKPOINT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    connection.prepare_cached(&sql)?.execute(params![
        job.0.cast_signed(),
        task.cast_signed(),
        kept.lease.0.cast_signed(),
        kept.kept_ms.cast_signed(),
        kept.bytes.cast_signed(),
        sum(*job, *task, *kept, &digest),
        digest.0,
        &**state,
    ])?;
    Ok(())
}

/// Forgets what tasks of a job have kept.
pub(super) fn drop(connection: &Connection, job: JobId, tasks: &Range<u64>) -> rusqlite::Result<()> {
    let sql = "DELETE FROM checkpoints WHERE job = ? AND task BETWEEN ? AND ?";
    // Tasks beyond what SQLite counts have no outcomes either.
    let bound = |task: u64| i64::try_from(task).unwrap_or(i64::MAX);
    let bounds = [job.0.cast_signed(), bound(tasks.start), bound(tasks.end.saturating_sub(1))];
    connection.prepare_cached(sql)?.execute(bounds)?;
    Ok(())
}

/// What there is, but for the states, which are not read.
pub(super) fn read(connection: &Connection, path: &Path) -> Result<BTreeMap<(JobId, u64), KeptState>, StoreError> {
    let sqlite = StoreError::of(path);
    let mut statement = connection.prepare(&format!("SELECT {CHECKPOINT} FROM checkpoints")).map_err(&sqlite)?;
    let mut found = statement.query([]).map_err(&sqlite)?;
    let mut all = BTreeMap::new();
    while let Some(row) = found.next().map_err(&sqlite)? {
        let (job, task, kept, _) = kept(row, path)?;
        all.insert((job, task), kept);
    }
    Ok(all)
}

/// Reads [`CHECKPOINT`] but for the state, of which it gives the digest.
pub(crate) fn kept(row: &Row<'_>, path: &Path) -> Result<(JobId, u64, KeptState, Digest), StoreError> {
    let sqlite = StoreError::of(path);
    let (job, task) = (JobId(number(row, 0).map_err(&sqlite)?), number(row, 1).map_err(&sqlite)?);
    let read = || -> rusqlite::Result<_> {
        let (lease, kept_ms, bytes) = (LeaseId(number(row, 2)?), number(row, 3)?, number(row, 4)?);
        let (kept, digest) = (KeptState { lease, kept_ms, bytes }, Digest(row.get(6)?));
        Ok((row.get::<_, [u8; 16]>(5)? == sum(job, task, kept, &digest)).then_some((kept, digest)))
    };
    let (kept, digest) = read().ok().flatten().ok_or_else(|| corrupt(path, job, task))?;
    Ok((job, task, kept, digest))
}

/// Reads [`CHECKPOINT`]: the state.
pub(crate) fn state(row: &Row<'_>, path: &Path) -> Result<Bytes, StoreError> {
    let (job, task, kept, digest) = kept(row, path)?;
    let state = row.get_ref(STATE).map_err(StoreError::of(path))?;
    match state.as_blob() {
        Ok(state) if state.len() as u64 == kept.bytes && Digest::of(state) == digest => {
            Ok(Bytes::copy_from_slice(state))
        }
        _ => Err(corrupt(path, job, task)),
    }
}

fn corrupt(path: &Path, job: JobId, task: u64) -> StoreError {
    StoreError::corrupt(path, format!("table checkpoints, job {job}, task {task}: not what was written"))
}

fn sum(job: JobId, task: u64, kept: KeptState, digest: &Digest) -> [u8; 16] {
    let KeptState { lease, kept_ms, bytes } = kept;
    let sum = Sum::new("checkpoints").number(job.0).number(task).number(lease.0);
    sum.number(kept_ms).number(bytes).bytes(&digest.0).finish()
}

impl Store {
    /// What a task has kept, if it has and still needs it.
    ///
    /// # Errors
    ///
    /// The database cannot be read, or is damaged.
    pub(crate) fn checkpoint(&self, job: JobId, task: u64) -> Result<Option<Bytes>, StoreError> {
        self.read(|connection| {
            let sql = format!("SELECT {CHECKPOINT} FROM checkpoints WHERE job = ? AND task = ?");
            let found = connection.prepare_cached(&sql).and_then(|mut statement| {
                let keys = [job.0.cast_signed(), task.cast_signed()];
                statement.query_row(keys, |row| Ok(state(row, &self.path))).optional()
            });
            found.map_err(StoreError::of(&self.path))?.transpose()
        })
    }
}
