//! The one who writes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use farm_proto::ids::{Digest, JobId};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::ballast::Ballast;
use super::batches::{self, LARGE, NewBatch};
use super::mark::Mark;
use super::rows::JobError;
use super::{JobResults, Outcomes, Record, Room, Store, StoreError, checkpoints, clusters, rows, tickets};
use crate::SchedulerError;
use crate::clock::unix_ns;
use crate::sync::locked;

/// Writes records. There is one, and whoever commits has it.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) connection: Connection,
    /// None if what is written need not be on the disk.
    mark: Option<Mark>,
    pub(super) ballast: Option<Ballast>,
    /// The number of the last commit.
    commits: u64,
    /// When that was on the disk, and whether it had batches.
    last: Option<(u64, bool)>,
    life: u64,
    /// Jobs that are stored, and not to be forgotten.
    known: HashSet<JobId>,
    /// The highest job that was ever stored.
    last_job: JobId,
    /// Jobs that are to be forgotten, and are not all gone.
    pub(super) deleted: BTreeSet<JobId>,
}

/// What a writer begins with.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) connection: Connection,
    pub(super) mark: Option<Mark>,
    pub(super) commits: u64,
    pub(super) known: HashSet<JobId>,
    pub(super) deleted: Vec<JobId>,
}

/// What a transaction changes if it succeeds.
#[derive(Debug, Default)]
struct Changes<'a> {
    accepted: HashSet<JobId>,
    deleted: HashSet<JobId>,
    /// How many batches each job has.
    stored: HashMap<JobId, u64>,
    /// Batches, their numbers, and the length of what is in front of their columns.
    batches: Vec<(&'a Arc<JobResults>, &'a Outcomes, u64, usize)>,
}

/// Lives are numbered by the time at which they begin, in units of this. Counted from 1, two lives would have the same
/// number when a farm goes on from a backup: one after the backup was made, and one after it was restored.
const NS_PER_LIFE: u64 = 16_000_000_000;

/// The number of a life that begins at `now`, in nanoseconds since the Unix epoch. By a clock that was set back, it is
/// just the next after the `last`.
fn next_life(last: u64, now: u64) -> u64 {
    last.saturating_add(1).max(now / NS_PER_LIFE)
}

impl Writer {
    /// Begins another life: which that is, and the highest job there ever was.
    pub(super) fn begin(store: Arc<Store>, begin: Begin) -> Result<(Self, u64, JobId), SchedulerError> {
        let Begin { connection, mark, commits, known, deleted } = begin;
        let ballast = mark.is_some().then(|| Ballast::new(&store.folder));
        let highest = known.iter().chain(&deleted).map(|job| job.0).max().unwrap_or_default();
        let farm = match rows::Farm::read(&connection, &store.path)? {
            Some(farm) => farm,
            None if commits == 0 => rows::Farm { life: 0, last_job: JobId(0) },
            None => return Err(StoreError::corrupt(&store.path, "table farm: no row").into()),
        };
        let last_job = farm.last_job.max(JobId(highest));
        let life = next_life(farm.life, unix_ns());
        let deleted = deleted.into_iter().collect();
        let mut writer = Self { store, connection, mark, ballast, commits, last: None, life, known, last_job, deleted };
        let path = writer.store.path.clone();
        writer.transact(false, |transaction, _| {
            rows::Farm { life, last_job }.write(transaction).map_err(StoreError::of(&path))
        })?;
        if let Some(mark) = &mut writer.mark {
            mark.sync().map_err(StoreError::io(mark.path()))?;
        }
        writer.forget_columns(&writer.deleted);
        writer.take_ballast();
        Ok((writer, life, last_job))
    }

    /// Stores records in one transaction, which is on the disk when this returns `Ok`. Batches can be read when they are
    /// [published](JobResults::publish). Waits for the disk.
    ///
    /// What belongs to a job that was deleted is passed over.
    ///
    /// # Errors
    ///
    /// Nothing of it is stored, and it may be tried again: with fewer records, if the disk is [full](StoreError::Full).
    pub(crate) fn commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        match self.try_commit(records) {
            Err(StoreError::Full { .. }) => {
                // All the room that there is: what deleted jobs left, and what the log takes up.
                self.make_room();
                self.try_commit(records)
            }
            result => result,
        }
    }

    /// Deletes jobs, and with `tight` does everything that makes room of it at once. What is their own is gone from the
    /// disk when [`Self::tidy`] is done, their large columns when this returns. Jobs that are not stored are passed over.
    /// On a full disk, this works all the same, as long as there is ballast.
    ///
    /// # Errors
    ///
    /// None of them is deleted, and it may be tried again.
    pub(crate) fn delete(&mut self, jobs: &[JobId], tight: bool) -> Result<(), StoreError> {
        let records: Vec<_> = jobs.iter().map(|&job| Record::Deleted { job }).collect();
        match self.try_commit(&records) {
            Err(StoreError::Full { .. }) => self.delete_on_a_full_disk(&records),
            Ok(()) if tight => {
                self.make_room();
                Ok(())
            }
            result => result,
        }
    }

    fn try_commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let room: Room = records.iter().map(Record::room).sum();
        if room.database > 0 && !self.store.has_room_for(&self.connection, room)? {
            return Err(StoreError::Full { path: self.store.path.clone() });
        }
        let mut new = Vec::new();
        let result = self.write_columns(records, &mut new).and_then(|digests| self.write_rows(records, digests));
        match &result {
            // Of a disk that fails, nobody knows what it has.
            Ok(()) | Err(StoreError::Io { .. } | StoreError::Sqlite { .. }) => {}
            // What is not stored takes no room.
            Err(_) => new.iter().for_each(|digest| self.remove_columns(digest)),
        }
        result
    }

    /// Writes those columns that are blobs: the digests of all columns. Those that were not there before are `new`.
    fn write_columns(&self, records: &[Record], new: &mut Vec<Digest>) -> Result<Vec<Digest>, StoreError> {
        let mut digests = Vec::new();
        for record in records {
            if let Record::Batch { outcomes, .. } = record {
                let digest = Digest::of(&outcomes.columns);
                if outcomes.columns.len() > LARGE {
                    let blobs = &self.store.blobs;
                    if blobs.write(&digest, &outcomes.columns).map_err(StoreError::io(&blobs.path(&digest)))? {
                        new.push(digest);
                    }
                }
                digests.push(digest);
            }
        }
        Ok(digests)
    }

    fn write_rows(&mut self, records: &[Record], digests: Vec<Digest>) -> Result<(), StoreError> {
        // fail point: scheduler.batch.before-commit
        let mut changes = Changes::default();
        let store = Arc::clone(&self.store);
        let (known, farm) = (std::mem::take(&mut self.known), rows::Farm { life: self.life, last_job: self.last_job });
        let has_batches = !digests.is_empty();
        let result = self.transact(has_batches, |transaction, commit| {
            let mut digests = digests.into_iter();
            let mut insert = Insert { store: &store, transaction, commit, known: &known, farm };
            records.iter().try_for_each(|record| insert.record(record, &mut digests, &mut changes))
        });
        self.known = known;
        result?;
        // fail point: scheduler.batch.after-commit
        let mut recent = locked(&self.store.recent);
        for (results, outcomes, number, head) in changes.batches {
            results.set_stored(number + 1);
            recent.insert(results.job, number, outcomes.clone(), head);
        }
        drop(recent);
        self.known.extend(&changes.accepted);
        self.known.retain(|job| !changes.deleted.contains(job));
        self.last_job = changes.accepted.into_iter().fold(self.last_job, Ord::max);
        self.deleted.extend(&changes.deleted);
        self.forget_columns(&changes.deleted);
        Ok(())
    }

    /// Does something in a transaction that counts, and acknowledges it.
    fn transact<T>(
        &mut self,
        has_batches: bool,
        work: impl FnOnce(&Transaction<'_>, u64) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let sqlite = StoreError::of(&self.store.path);
        let commit = self.commits + 1;
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(&sqlite)?;
        let count = || {
            note_last(&transaction, self.commits, self.last)?;
            let sql = "INSERT INTO commits (number, batches) VALUES (?, ?)";
            transaction.prepare_cached(sql)?.execute(params![commit.cast_signed(), has_batches])
        };
        count().map_err(&sqlite)?;
        let value = work(&transaction, commit)?;
        transaction.commit().map_err(&sqlite)?;
        let now = unix_ns();
        self.commits = commit;
        self.last = Some((now, has_batches));
        *locked(&self.store.last) = (commit, now);
        if let Some(mark) = &mut self.mark
            && let Err(error) = mark.set(commit)
        {
            // What is stored is stored. It is only that its loss would not be noticed.
            tracing::warn!(path = %mark.path().display(), %error, "cannot write the mark");
        }
        Ok(value)
    }

    /// Deletes with the room that the ballast takes up.
    fn delete_on_a_full_disk(&mut self, deletions: &[Record]) -> Result<(), StoreError> {
        if let Some(ballast) = &self.ballast {
            ballast.drop().map_err(StoreError::io(&self.store.folder))?;
        }
        // With room to grow, the database takes the log back, and that begins again.
        self.checkpoint();
        let result = self.try_commit(deletions);
        if result.is_ok() {
            self.make_room();
        }
        // What comes next is not to live on it.
        self.take_ballast();
        result
    }

    /// Removes the large columns that only deleted jobs have had: these are files, which go without anything being
    /// written. What somebody else may count on stays for as long as any blob that no job needs.
    pub(super) fn forget_columns<'a>(&self, deleted: impl IntoIterator<Item = &'a JobId>) {
        let (store, connection) = (&self.store, &self.connection);
        let forget = || {
            let mut own = HashSet::new();
            for job in deleted {
                let pins = rows::pins_of(connection, &store.path, *job)?;
                own.extend(pins.into_iter().filter(|digest| store.blobs.is_own(digest)));
            }
            if !own.is_empty() {
                let needed = rows::pinned(connection, &store.path)?;
                own.difference(&needed).for_each(|digest| self.remove_columns(digest));
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = forget() {
            tracing::warn!(%error, "large results of deleted jobs stay for now");
        }
    }

    fn remove_columns(&self, digest: &Digest) {
        if let Err(error) = self.store.blobs.remove_own(digest) {
            tracing::warn!(%error, %digest, "a large result that no job has stays for now");
        }
    }

    /// Takes on the ballast again where there is room.
    pub(super) fn take_ballast(&self) {
        if let Some(ballast) = &self.ballast
            && let Err(error) = ballast.take()
        {
            tracing::debug!(%error, "no ballast");
        }
    }
}

impl Drop for Writer {
    /// Leaves a database with nothing in its log, as far as that works: nothing depends on it.
    fn drop(&mut self) {
        let leave = || {
            // The row of the last commit itself has to stay.
            if self.last.is_some_and(|(_, has_batches)| has_batches) {
                note_last(&self.connection, self.commits, self.last)?;
            }
            self.connection.pragma(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))
        };
        if let Err(error) = leave() {
            tracing::debug!(%error, "cannot leave the database as it should be");
        }
        if let Some(mark) = &mut self.mark
            && let Err(error) = mark.sync()
        {
            tracing::warn!(path = %mark.path().display(), %error, "cannot write the mark");
        }
    }
}

/// Notes when the last commit was on the disk; if it was of no batch, nobody will ask.
fn note_last(connection: &Connection, commit: u64, last: Option<(u64, bool)>) -> rusqlite::Result<()> {
    match last {
        Some((stored_ns, true)) => {
            let sql = "UPDATE commits SET stored_ns = ? WHERE number = ?";
            connection.prepare_cached(sql)?.execute([stored_ns.cast_signed(), commit.cast_signed()])?;
        }
        Some((_, false)) => {
            connection.prepare_cached("DELETE FROM commits WHERE number = ?")?.execute([commit.cast_signed()])?;
        }
        None => {
            // Of an earlier life. When that was, is not known.
            let sql = "DELETE FROM commits WHERE number = ? AND NOT batches";
            connection.prepare_cached(sql)?.execute([commit.cast_signed()])?;
        }
    }
    Ok(())
}

/// What one record after the other is written with.
struct Insert<'a> {
    store: &'a Store,
    transaction: &'a Transaction<'a>,
    commit: u64,
    known: &'a HashSet<JobId>,
    farm: rows::Farm,
}

impl Insert<'_> {
    fn record<'r>(
        &mut self,
        record: &'r Record,
        digests: &mut impl Iterator<Item = Digest>,
        changes: &mut Changes<'r>,
    ) -> Result<(), StoreError> {
        let path = &self.store.path;
        let sqlite = StoreError::of(path);
        match record {
            Record::Accepted(row) => {
                if !batches::id_fits(row.job) {
                    return Err(StoreError::Beyond { job: row.job, what: "jobs before it" });
                }
                if self.is_gone(row.job, changes) {
                    return Ok(());
                }
                rows::insert_job(self.transaction, row, self.commit).map_err(|error| match error {
                    JobError::Encode(error) => StoreError::corrupt(path, format!("job {}: {error}", row.job)),
                    JobError::Sqlite(error) => sqlite(error),
                })?;
                changes.accepted.insert(row.job);
            }
            Record::Batch { results, outcomes, times } => {
                let digest = digests.next().unwrap_or_else(|| Digest::of(&outcomes.columns));
                if !self.is_known(results.job, changes)? {
                    return Ok(());
                }
                let stored = changes.stored.entry(results.job).or_insert_with(|| results.stored());
                let number = *stored;
                *stored += 1;
                let head = postcard::to_stdvec(&outcomes.batch)
                    .map_err(|error| batches::corrupt(path, results.job, number, &error.to_string()))?;
                let batch = NewBatch { job: results.job, number, commit: self.commit, digest, head };
                batch.insert(self.transaction, path, outcomes, times)?;
                changes.batches.push((results, outcomes, number, batch.head.len()));
            }
            Record::Ended { job, end } => {
                if self.is_known(*job, changes)? {
                    let batches = batches::count(self.transaction, path, *job)?;
                    rows::insert_end(self.transaction, *job, end, batches).map_err(sqlite)?;
                }
            }
            Record::Checkpoint(row) => {
                if self.is_known(row.job, changes)? {
                    checkpoints::write(self.transaction, row).map_err(sqlite)?;
                }
            }
            Record::CheckpointsDropped { job, tasks } => {
                checkpoints::drop(self.transaction, *job, tasks).map_err(sqlite)?;
            }
            Record::Cluster(row) => clusters::write(self.transaction, path, row)?,
            Record::Deleted { job } => {
                if changes.accepted.contains(job) || self.known.contains(job) {
                    rows::delete_job(self.transaction, *job).map_err(&sqlite)?;
                    let last_job = changes.accepted.iter().copied().fold(self.farm.last_job, Ord::max);
                    rows::Farm { last_job, ..self.farm }.write(self.transaction).map_err(&sqlite)?;
                    changes.deleted.insert(*job);
                }
            }
            Record::Ticket(row) => tickets::put_ticket(self.transaction, row).map_err(sqlite)?,
            Record::TicketForgotten { ticket } => {
                tickets::forget_ticket(self.transaction, *ticket).map_err(sqlite)?;
            }
        }
        Ok(())
    }

    /// Whether a job was stored once, and is not any more.
    fn is_gone(&self, job: JobId, changes: &Changes<'_>) -> bool {
        changes.deleted.contains(&job) || (job <= self.farm.last_job && !self.known.contains(&job))
    }

    /// Whether a job is stored; an error if it never was.
    fn is_known(&self, job: JobId, changes: &Changes<'_>) -> Result<bool, StoreError> {
        if changes.accepted.contains(&job) && !changes.deleted.contains(&job) {
            return Ok(true);
        }
        if self.is_gone(job, changes) {
            return Ok(false);
        }
        if self.known.contains(&job) { Ok(true) } else { Err(StoreError::NoSuchJob(job)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_ascend_whatever_the_clock_says() {
        let at = |life: u64| life * NS_PER_LIFE + 5;
        assert_eq!(next_life(0, at(100)), 100, "by the time, so that a backup's do not meet those since it was made");
        assert_eq!(next_life(100, at(100)), 101);
        assert_eq!(next_life(100, at(7)), 101, "the clock was set back");
        assert_eq!(next_life(100, 0), 101);
        assert_eq!(next_life(101, at(300)), 300);
    }
}
