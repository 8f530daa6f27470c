//! Forgetting what deleted jobs had, a step at a time.

use std::time::Duration;

use farm_proto::ids::JobId;
use rusqlite::{Connection, TransactionBehavior};

use super::schema::PATIENCE;
use super::{StoreError, Writer, batches, checkpoints};

/// Rows that one step deletes at most.
const STEP: usize = 256;
/// So many free pages stay in the file, for what comes next.
const SPARE: i64 = 1024;
/// Pages that one step gives back to the file system.
const PAGES: i64 = 1024;

impl Writer {
    /// Does a part of what is left to do for deleted jobs: a few milliseconds of work. To be called, again and again,
    /// when nothing else is to be written, until it returns false. What is not done when the scheduler ends is done by
    /// the next.
    ///
    /// # Errors
    ///
    /// It cannot be written. What was deleted stays so.
    pub(crate) fn tidy(&mut self) -> Result<bool, StoreError> {
        if let Some(&job) = self.deleted.first() {
            if self.forget(job)? {
                self.deleted.remove(&job);
            }
            return Ok(true);
        }
        let more = self.shrink(PAGES, SPARE)?;
        if !more {
            self.truncate_log();
            self.take_ballast();
        }
        Ok(more)
    }

    /// Whether [`Self::tidy`] has something to do for a deleted job.
    pub(crate) fn is_tidy(&self) -> bool {
        self.deleted.is_empty()
    }

    /// Whether a job is gone altogether.
    fn forget(&mut self, job: JobId) -> Result<bool, StoreError> {
        let mut step = STEP;
        loop {
            let sqlite = StoreError::of(&self.store.path);
            let mut delete = || {
                let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let gone = forget(&transaction, job, step)?;
                transaction.commit()?;
                Ok(gone)
            };
            match delete().map_err(sqlite) {
                // Fewer rows write fewer pages. What was deleted before is where the log may begin again, once it is
                // written back.
                Err(StoreError::Full { .. }) if step > 1 => {
                    step /= 4;
                    self.checkpoint();
                }
                result => return result,
            }
        }
    }

    /// Does everything that is left to do, in small steps, and keeps neither pages nor a log that are not needed: for a
    /// full disk. As far as that goes: a disk can be too full even for this.
    pub(super) fn make_room(&mut self) {
        if let Err(error) = self.try_make_room() {
            tracing::debug!(%error, "cannot make more room");
        }
    }

    fn try_make_room(&mut self) -> Result<(), StoreError> {
        self.truncate_log();
        while let Some(&job) = self.deleted.first() {
            if self.forget(job)? {
                self.deleted.remove(&job);
            }
        }
        self.checkpoint();
        let mut pages = PAGES / 32;
        while self.shrink(pages, 0)? {
            // The log begins again with each step, which may then take as much as the last has given.
            self.checkpoint();
            pages = PAGES.min(pages * 2);
        }
        self.truncate_log();
        Ok(())
    }

    /// Writes the log back, as [`Self::checkpoint`] does, and gives its room to others. Readers are not waited for.
    fn truncate_log(&self) {
        let truncate = || {
            self.connection.busy_timeout(Duration::ZERO)?;
            let truncated = self.connection.pragma(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
            self.connection.busy_timeout(PATIENCE)?;
            truncated
        };
        if let Err(error) = truncate() {
            tracing::debug!(%error, "cannot give back the log's room");
        }
    }

    /// Gives up to `pages` free pages back, but for the `spare` last; whether there are more.
    fn shrink(&self, pages: i64, spare: i64) -> Result<bool, StoreError> {
        let sqlite = StoreError::of(&self.store.path);
        let free =
            |connection: &Connection| connection.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0));
        let before = free(&self.connection).map_err(&sqlite)?;
        if before <= spare {
            return Ok(false);
        }
        let pages = pages.min(before - spare);
        self.connection.pragma(None, "incremental_vacuum", pages, |_| Ok(())).map_err(&sqlite)?;
        let left = free(&self.connection).map_err(&sqlite)?;
        if left <= spare {
            self.checkpoint();
        }
        Ok(left > spare && left < before)
    }

    /// Writes the log back, as far as that goes.
    pub(super) fn checkpoint(&self) {
        if let Err(error) = self.connection.pragma(None, "wal_checkpoint", "PASSIVE", |_| Ok(())) {
            tracing::debug!(%error, "cannot write the log back");
        }
    }
}

/// Deletes up to `step` rows of a job; whether nothing is left of it.
fn forget(connection: &Connection, job: JobId, step: usize) -> rusqlite::Result<bool> {
    let (ids, limit) = (batches::ids(job), step as i64);
    let job = job.0.cast_signed();
    let sql = "DELETE FROM batches WHERE id IN (SELECT id FROM batches WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)";
    if connection.prepare_cached(sql)?.execute([ids.start, ids.end, limit])? == step {
        return Ok(false);
    }
    let sql = "DELETE FROM pins WHERE job = ?1 AND digest IN (SELECT digest FROM pins WHERE job = ?1 LIMIT ?2)";
    if connection.prepare_cached(sql)?.execute([job, limit])? == step {
        return Ok(false);
    }
    // Jobs are accepted in the order of their ids, so that all older commits were of jobs that are gone.
    let sql = "DELETE FROM commits WHERE number IN (SELECT number FROM commits WHERE number < \
         (SELECT coalesce((SELECT accepted FROM jobs WHERE job <> ?1 ORDER BY job LIMIT 1), \
         (SELECT max(number) FROM commits))) ORDER BY number LIMIT ?2)";
    if connection.prepare_cached(sql)?.execute([job, limit])? == step {
        return Ok(false);
    }
    checkpoints::drop(connection, JobId(job.cast_unsigned()), &(0..u64::MAX))?;
    connection.prepare_cached("DELETE FROM ends WHERE job = ?")?.execute([job])?;
    connection.prepare_cached("DELETE FROM jobs WHERE job = ?")?.execute([job])?;
    Ok(true)
}
