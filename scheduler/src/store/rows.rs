//! Rows: written with checksums, and checked when they are read.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{Args, JobSpec, JobState};
use farm_proto::message::SubmitKey;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::codec::{Sum, decode_ranges, encode_ranges};
use super::{JobEnd, JobRow, StoreError};

/// The columns of `jobs` that [`job`] reads.
pub(crate) const JOB: &str =
    "job, key, owner, name, tasks, stamp, submitted_ms, arg_bytes, task_ns, accepted, sum, spec, inline";
/// The columns of `ends` that [`end`] reads.
pub(crate) const END: &str = "job, state, reason, ended_ms, retried, task_ns, batches, sum, failed, missing, bytes";

/// The blobs that a job needs.
pub(crate) fn blobs_of(spec: &JobSpec) -> impl Iterator<Item = Digest> {
    let chunks = match spec.args.whole() {
        Args::Chunks(chunks) => chunks.as_slice(),
        _ => &[],
    };
    let inputs = spec.inputs.iter().map(|input| input.digest);
    std::iter::once(spec.module.digest).chain(inputs).chain(chunks.iter().map(|chunk| chunk.digest))
}

/// The blobs that any job needs, unless it is to be forgotten.
pub(crate) fn pinned(connection: &Connection, path: &Path) -> Result<HashSet<Digest>, StoreError> {
    let sqlite = StoreError::of(path);
    let sql = "SELECT job, digest, seal FROM pins WHERE job NOT IN (SELECT job FROM jobs WHERE deleted NOT NULL)";
    let mut statement = connection.prepare(sql).map_err(&sqlite)?;
    let mut found = statement.query([]).map_err(&sqlite)?;
    let mut pinned = HashSet::new();
    while let Some(row) = found.next().map_err(&sqlite)? {
        pinned.insert(pin(row, path)?.1);
    }
    Ok(pinned)
}

/// The blobs that one job needs, deleted or not.
pub(crate) fn pins_of(connection: &Connection, path: &Path, job: JobId) -> Result<Vec<Digest>, StoreError> {
    let sqlite = StoreError::of(path);
    let sql = "SELECT job, digest, seal FROM pins WHERE job = ?";
    let mut statement = connection.prepare_cached(sql).map_err(&sqlite)?;
    let mut found = statement.query([job.0.cast_signed()]).map_err(&sqlite)?;
    let mut pins = Vec::new();
    while let Some(row) = found.next().map_err(&sqlite)? {
        pins.push(pin(row, path)?.1);
    }
    Ok(pins)
}

/// Reads job, digest and seal of a pin.
pub(crate) fn pin(row: &Row<'_>, path: &Path) -> Result<(JobId, Digest), StoreError> {
    let job = JobId(number(row, 0).map_err(StoreError::of(path))?);
    let read = || -> rusqlite::Result<_> {
        let digest = Digest(row.get(1)?);
        Ok((row.get::<_, i64>(2)? == pin_seal(job, &digest)).then_some((job, digest)))
    };
    read()
        .ok()
        .flatten()
        .ok_or_else(|| StoreError::corrupt(path, format!("table pins, job {job}: not what was written")))
}

fn pin_seal(job: JobId, digest: &Digest) -> i64 {
    Sum::new("pins").number(job.0).bytes(&digest.0).seal()
}

pub(crate) fn insert_pin(connection: &Connection, job: JobId, digest: &Digest) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO pins (job, digest, seal) VALUES (?, ?, ?)";
    connection.prepare_cached(sql)?.execute(params![job.0.cast_signed(), digest.0, pin_seal(job, digest)])?;
    Ok(())
}

/// What the farm as a whole has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Farm {
    pub(crate) life: u64,
    pub(crate) last_job: JobId,
}

impl Farm {
    fn seal(self) -> i64 {
        Sum::new("farm").number(self.life).number(self.last_job.0).seal()
    }

    /// Reads the row; none in a new database.
    pub(crate) fn read(connection: &Connection, path: &Path) -> Result<Option<Self>, StoreError> {
        let read = |row: &Row<'_>| {
            let farm = Self { life: number(row, 0)?, last_job: JobId(number(row, 1)?) };
            Ok((row.get::<_, i64>(2)? == farm.seal()).then_some(farm))
        };
        match connection.query_row("SELECT life, last_job, seal FROM farm", [], read).optional() {
            Ok(Some(None)) => Err(StoreError::corrupt(path, "table farm: not what was written")),
            Ok(found) => Ok(found.flatten()),
            Err(error) => Err(StoreError::of(path)(error)),
        }
    }

    pub(crate) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO farm (one, life, last_job, seal) VALUES (1, ?, ?, ?)";
        let values = [self.life.cast_signed(), self.last_job.0.cast_signed(), self.seal()];
        connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }
}

/// Marks a job as one that is to be forgotten.
pub(crate) fn delete_job(connection: &Connection, job: JobId) -> rusqlite::Result<()> {
    let sql = "UPDATE jobs SET deleted = ? WHERE job = ?";
    connection.prepare_cached(sql)?.execute([deleted_seal(job), job.0.cast_signed()])?;
    Ok(())
}

/// Whether a job is to be forgotten, or not there at all.
pub(crate) fn is_gone(connection: &Connection, job: JobId) -> rusqlite::Result<bool> {
    let sql = "SELECT deleted NOT NULL FROM jobs WHERE job = ?";
    let deleted = connection.query_row(sql, [job.0.cast_signed()], |row| row.get(0)).optional()?;
    Ok(deleted.unwrap_or(true))
}

fn deleted_seal(job: JobId) -> i64 {
    Sum::new("deleted").number(job.0).seal()
}

/// Reads whether a job is to be forgotten.
pub(crate) fn is_deleted(row: &Row<'_>, column: usize, job: JobId, path: &Path) -> Result<bool, StoreError> {
    match row.get::<_, Option<i64>>(column) {
        Ok(None) => Ok(false),
        Ok(Some(seal)) if seal == deleted_seal(job) => Ok(true),
        _ => Err(StoreError::corrupt(path, format!("table jobs, job {job}: not what was written"))),
    }
}

pub(crate) fn insert_job(connection: &Connection, row: &JobRow, commit: u64) -> Result<(), JobError> {
    let spec = postcard::to_stdvec(&*row.spec).map_err(JobError::Encode)?;
    let tasks = row.spec.args.count();
    let name = row.spec.name.as_deref();
    let sum = job_sum(row, commit, name, tasks, &spec);
    let sql = format!("INSERT INTO jobs ({JOB}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    connection.prepare_cached(&sql)?.execute(params![
        row.job.0.cast_signed(),
        row.key.0.to_be_bytes(),
        row.owner,
        name,
        tasks.cast_signed(),
        row.stamp.cast_signed(),
        row.submitted_ms.cast_signed(),
        row.arg_bytes.cast_signed(),
        row.task_ns.map(u64::cast_signed),
        commit.cast_signed(),
        sum,
        spec,
        &*row.inline,
    ])?;
    for digest in blobs_of(&row.spec) {
        insert_pin(connection, row.job, &digest)?;
    }
    Ok(())
}

/// Why a row is not written.
#[derive(Debug)]
pub(crate) enum JobError {
    Encode(postcard::Error),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for JobError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn job_sum(row: &JobRow, commit: u64, name: Option<&str>, tasks: u64, spec: &[u8]) -> [u8; 16] {
    Sum::new("jobs")
        .number(row.job.0)
        .bytes(&row.key.0.to_be_bytes())
        .bytes(row.owner.as_bytes())
        .number(name.is_some().into())
        .bytes(name.unwrap_or_default().as_bytes())
        .number(tasks)
        .number(row.stamp)
        .number(row.submitted_ms)
        .number(row.arg_bytes)
        .maybe(row.task_ns)
        .number(commit)
        .bytes(spec)
        .bytes(&row.inline)
        .finish()
}

/// Reads [`JOB`].
pub(crate) fn job(row: &Row<'_>, path: &Path) -> Result<JobRow, StoreError> {
    let sqlite = StoreError::of(path);
    let id = JobId(number(row, 0).map_err(&sqlite)?);
    let read = || -> rusqlite::Result<_> {
        let spec = row.get_ref(11)?.as_blob()?;
        let job = JobRow {
            job: id,
            key: SubmitKey(u128::from_be_bytes(row.get(1)?)),
            owner: row.get(2)?,
            stamp: number(row, 5)?,
            submitted_ms: number(row, 6)?,
            arg_bytes: number(row, 7)?,
            task_ns: maybe(row, 8)?,
            spec: match postcard::from_bytes(spec) {
                Ok(spec) => Arc::new(spec),
                Err(_) => return Ok(None),
            },
            inline: Bytes::copy_from_slice(row.get_ref(12)?.as_blob()?),
        };
        let name: Option<String> = row.get(3)?;
        let sum = job_sum(&job, number(row, 9)?, name.as_deref(), number(row, 4)?, spec);
        Ok((sum == row.get::<_, [u8; 16]>(10)?).then_some(job))
    };
    // A column of another type is a sum that does not fit.
    read()
        .ok()
        .flatten()
        .ok_or_else(|| StoreError::corrupt(path, format!("table jobs, job {id}: not what was written")))
}

pub(crate) fn insert_end(connection: &Connection, job: JobId, end: &JobEnd, batches: u64) -> rusqlite::Result<()> {
    let (failed, missing) = (encode_ranges(&end.failed), encode_ranges(&end.missing));
    let sum = end_sum(job, end, batches, &failed, &missing);
    let sql = format!("INSERT INTO ends ({END}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    connection.prepare_cached(&sql)?.execute(params![
        job.0.cast_signed(),
        state_name(end.state),
        end.reason,
        end.ended_ms.cast_signed(),
        end.retried.cast_signed(),
        end.task_ns.map(u64::cast_signed),
        batches.cast_signed(),
        sum,
        failed,
        missing,
        end.bytes.cast_signed(),
    ])?;
    Ok(())
}

fn end_sum(job: JobId, end: &JobEnd, batches: u64, failed: &[u8], missing: &[u8]) -> [u8; 16] {
    Sum::new("ends")
        .number(job.0)
        .bytes(state_name(end.state).as_bytes())
        .number(end.reason.is_some().into())
        .bytes(end.reason.as_deref().unwrap_or_default().as_bytes())
        .number(end.ended_ms)
        .number(end.retried)
        .maybe(end.task_ns)
        .number(batches)
        .number(end.bytes)
        .bytes(failed)
        .bytes(missing)
        .finish()
}

/// Reads [`END`]: whose end, the end, and how many batches the job has.
pub(crate) fn end(row: &Row<'_>, path: &Path) -> Result<(JobId, JobEnd, u64), StoreError> {
    let id = JobId(number(row, 0).map_err(StoreError::of(path))?);
    let read = || -> rusqlite::Result<_> {
        let (failed, missing) = (row.get_ref(8)?.as_blob()?, row.get_ref(9)?.as_blob()?);
        let state = row.get_ref(1)?.as_str()?;
        let all = [JobState::Done, JobState::Cancelled, JobState::Failed];
        let state = all.into_iter().find(|known| state_name(*known) == state);
        let (Some(state), Some(failed_tasks), Some(missing_tasks)) =
            (state, decode_ranges(failed), decode_ranges(missing))
        else {
            return Ok(None);
        };
        let end = JobEnd {
            state,
            reason: row.get(2)?,
            ended_ms: number(row, 3)?,
            failed: failed_tasks,
            missing: missing_tasks,
            retried: number(row, 4)?,
            task_ns: maybe(row, 5)?,
            bytes: number(row, 10)?,
        };
        let batches = number(row, 6)?;
        let sum = end_sum(id, &end, batches, failed, missing);
        Ok((sum == row.get::<_, [u8; 16]>(7)?).then_some((id, end, batches)))
    };
    read()
        .ok()
        .flatten()
        .ok_or_else(|| StoreError::corrupt(path, format!("table ends, job {id}: not what was written")))
}

/// As in `ends`. Live states are never stored.
const fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
        JobState::Failed => "failed",
        JobState::Waiting => "waiting",
        JobState::Running => "running",
    }
}

/// A number without a sign.
pub(crate) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(i64::cast_unsigned)
}

pub(crate) fn maybe(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    row.get(column).map(|number: Option<i64>| number.map(i64::cast_unsigned))
}
