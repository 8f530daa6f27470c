//! Opening a store: what is in it, and whether that is all.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use farm_proto::ids::JobId;
use rusqlite::Connection;

use super::ballast::Ballast;
use super::batches::{self, IndexRow};
use super::codec::push_joined;
use super::mark::{self, Mark, Marked};
use super::recent::Recent;
use super::writer::Begin;
use super::{
    Durability, JobEnd, JobResults, RECENT, Recovered, Store, StoreError, StoredJob, Writer, checkpoints, clusters,
    rows, schema, tickets,
};
use crate::SchedulerError;
use crate::blobs::Folder;
use crate::state_dir::{StateDir, state_error};

/// The database in the state folder.
pub(crate) const DATABASE: &str = "farm.sqlite";

pub(crate) fn open(
    state: &StateDir,
    durability: Durability,
) -> Result<(Arc<Store>, Writer, Recovered), SchedulerError> {
    let folder = state.path();
    let path = folder.join(DATABASE);
    let marked = mark::read(folder).map_err(state_error(&folder.join(mark::NAME)))?;
    not_gone(&path, marked)?;
    let ballast = Ballast::new(folder);
    ballast.drop_if_scarce().map_err(state_error(folder))?;
    let blobs = Folder::open(state, durability)?;
    let connection = schema::connect_to_write(&path, durability)?;
    let commits = acknowledged(&connection, &path, marked)?;
    for table in ["farm", "commits", "jobs", "ends", "pins", "clusters", "tickets"] {
        sound(&connection, &path, table)?;
    }
    let (jobs, deleted) = jobs(&connection, &path)?;
    let clusters = clusters::read(&connection, &path)?;
    let tickets = tickets::tickets(&connection, &path)?;
    let mark = match durability {
        Durability::Synced => Some(Mark::open(folder).map_err(|(path, error)| state_error(&path)(error))?),
        Durability::Ephemeral => None,
    };
    let store = Arc::new(Store {
        path,
        folder: folder.to_owned(),
        blobs,
        recent: Mutex::new(Recent::new(RECENT)),
        readers: Mutex::default(),
        last: Mutex::default(),
    });
    let known = jobs.iter().map(|job| job.row.job).collect();
    let begin = Begin { connection, mark, commits, known, deleted };
    let (writer, life, last_job) = Writer::begin(Arc::clone(&store), begin)?;
    Ok((store, writer, Recovered { life, jobs, clusters, last_job, tickets }))
}

/// Whether there is a database where there has to be one. To SQLite, an empty file is a database without tables, for
/// which it throws the log away.
fn not_gone(path: &Path, marked: Marked) -> Result<(), SchedulerError> {
    let corrupt = |place: &str| Err(StoreError::corrupt(path, place).into());
    let length = match fs::metadata(path) {
        Ok(file) => Some(file.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(state_error(path)(error)),
    };
    match (length, marked) {
        (Some(0), _) => corrupt("the file is empty"),
        (None, Marked::Commits(commits)) => corrupt(&format!("the file is gone, with {commits} acknowledged commits")),
        (None, Marked::Damaged) => corrupt("the file is gone, with all that was acknowledged"),
        _ => Ok(()),
    }
}

/// How many commits there are: no fewer than were acknowledged.
fn acknowledged(connection: &Connection, path: &Path, marked: Marked) -> Result<u64, SchedulerError> {
    let found = commits(connection, path)?;
    match marked {
        Marked::Commits(commits) if commits > found => {
            let place = lost(found, commits);
            Err(StoreError::corrupt(&path.with_extension("sqlite-wal"), place).into())
        }
        Marked::Damaged => {
            let mark = path.with_file_name(mark::NAME);
            tracing::warn!(path = %mark.display(), "the mark is damaged: whether commits are missing cannot be known");
            Ok(found)
        }
        Marked::Commits(_) | Marked::Nothing => Ok(found),
    }
}

pub(crate) fn lost(found: u64, acknowledged: u64) -> String {
    let first = found + 1;
    format!(
        "commits {first} to {acknowledged} were acknowledged and are not there. If the database was put back from a \
         backup, delete farm.mark, and they are given up"
    )
}

/// The number of the last commit.
pub(crate) fn commits(connection: &Connection, path: &Path) -> Result<u64, StoreError> {
    let number: Option<i64> =
        connection.query_row("SELECT max(number) FROM commits", [], |row| row.get(0)).map_err(StoreError::of(path))?;
    let number = number.ok_or_else(|| StoreError::corrupt(path, "table commits: no rows"))?;
    Ok(number.cast_unsigned())
}

/// Whether the pages of a table and its indices are in order. For tables with few pages.
fn sound(connection: &Connection, path: &Path, table: &str) -> Result<(), StoreError> {
    let mut found = String::new();
    connection
        .pragma(None, "integrity_check", table, |row| {
            found = row.get(0)?;
            Ok(())
        })
        .map_err(StoreError::of(path))?;
    if found == "ok" { Ok(()) } else { Err(StoreError::corrupt(path, format!("table {table}: {found}"))) }
}

/// All jobs, and those whose deletion is not complete.
fn jobs(connection: &Connection, path: &Path) -> Result<(Vec<StoredJob>, Vec<JobId>), StoreError> {
    let sqlite = StoreError::of(path);
    let mut ends = ends(connection, path)?;
    let mut kept = checkpoints::read(connection, path)?;
    let sql = format!("SELECT {}, deleted FROM jobs ORDER BY job", rows::JOB);
    let deleted_at = rows::JOB.split(", ").count();
    let mut statement = connection.prepare(&sql).map_err(&sqlite)?;
    let mut found = statement.query([]).map_err(&sqlite)?;
    let (mut jobs, mut deleted) = (Vec::new(), Vec::new());
    while let Some(columns) = found.next().map_err(&sqlite)? {
        let row = rows::job(columns, path)?;
        let end = ends.remove(&row.job);
        if rows::is_deleted(columns, deleted_at, row.job, path)? {
            deleted.push(row.job);
            continue;
        }
        let ended = end.is_some();
        let (end, batches, count, bytes) = match end {
            Some((end, count)) => {
                let bytes = end.bytes;
                (Some(end), Vec::new(), count, bytes)
            }
            None => {
                let (batches, count, bytes) = outcomes(connection, path, row.job, row.spec.args.count())?;
                (None, batches, count, bytes)
            }
        };
        let results = Arc::new(JobResults::new(row.job, count));
        results.publish();
        if ended {
            results.close();
        }
        let later = kept.split_off(&(JobId(row.job.0.saturating_add(1)), 0));
        let checkpoints = std::mem::replace(&mut kept, later).into_iter();
        let checkpoints = checkpoints.filter(|((job, _), _)| *job == row.job).map(|((_, task), kept)| (task, kept));
        let checkpoints = checkpoints.collect();
        jobs.push(StoredJob { row, end, batches, bytes, checkpoints, results });
    }
    match ends.keys().min() {
        Some(job) => Err(StoreError::corrupt(path, format!("table ends, job {job}: there is no such job"))),
        None => Ok((jobs, deleted)),
    }
}

/// How jobs ended, and how many batches each has.
fn ends(connection: &Connection, path: &Path) -> Result<HashMap<JobId, (JobEnd, u64)>, StoreError> {
    let sqlite = StoreError::of(path);
    let mut statement = connection.prepare(&format!("SELECT {} FROM ends", rows::END)).map_err(&sqlite)?;
    let mut found = statement.query([]).map_err(&sqlite)?;
    let mut ends = HashMap::new();
    while let Some(row) = found.next().map_err(&sqlite)? {
        let (job, end, batches) = rows::end(row, path)?;
        ends.insert(job, (end, batches));
    }
    Ok(ends)
}

type Joined = Vec<(Range<u64>, Vec<Range<u64>>)>;

/// Which tasks of a job have outcomes, how many batches these are, and how many bytes. From the index alone, which has to agree with the
/// table about how many there are.
fn outcomes(connection: &Connection, path: &Path, job: JobId, tasks: u64) -> Result<(Joined, u64, u64), StoreError> {
    let sqlite = StoreError::of(path);
    let sql = format!("{} ORDER BY first", batches::BY_TASK);
    let mut statement = connection.prepare_cached(&sql).map_err(&sqlite)?;
    let mut found = statement.query([job.0.cast_signed()]).map_err(&sqlite)?;
    let mut joined: Joined = Vec::new();
    let (mut count, mut sum, mut bytes, mut end) = (0_u64, 0_u64, 0_u64, 0);
    while let Some(row) = found.next().map_err(&sqlite)? {
        let row = IndexRow::read(row, job, path)?;
        if row.tasks.start < end || row.tasks.end > tasks {
            return Err(row.corrupt(path, "tasks that another batch has, or that the job does not have"));
        }
        end = row.tasks.end;
        count += 1;
        sum = sum.wrapping_add(row.number);
        bytes = bytes.saturating_add(row.bytes);
        let failed = row.failed.iter().map(|range| row.tasks.start + range.start..row.tasks.start + range.end);
        match joined.last_mut() {
            Some((tasks, failures)) if tasks.end == row.tasks.start => {
                tasks.end = row.tasks.end;
                failed.for_each(|range| push_joined(failures, range));
            }
            _ => {
                let failed = failed.collect();
                joined.push((row.tasks, failed));
            }
        }
    }
    let stored = batches::count(connection, path, job)?;
    // 0 + 1 + … if each number is there once.
    let expected = (u128::from(stored) * u128::from(stored.saturating_sub(1)) / 2) as u64;
    if (count, sum) != (stored, expected) {
        let place = format!("index batches_by_task, job {job}: {count} batches, and {stored} in the table");
        return Err(StoreError::corrupt(path, place));
    }
    Ok((joined, count, bytes))
}
