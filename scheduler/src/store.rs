//! The durable store: everything of a farm that outlives its scheduler, but for blobs and identities.
//!
//! ```text
//! farm.sqlite          jobs, batches of outcomes, ends, checkpoints, pins, tickets (see `schema`)
//! farm.sqlite-wal      commits that are not in it yet; belongs to it like one of its pages
//! farm.sqlite-shm      where in that is what; made anew at each start
//! farm.mark            how many commits were acknowledged: two slots, written in turn (see `mark`)
//! farm.ballast         room for deletions on a full disk (see `ballast`)
//! blobs/…              columns of more than a megabyte, by digest, beside everything else that is there; read-only as
//!                      long as nobody but the store has put them or asked about them
//! ```
//!
//! A job's outcomes come in batches, numbered from 0 in the order in which they were stored. Four things are done with
//! them: the store [begins](Store::begin) a job, [commits](Writer::commit) records, tells watchers how far a job is
//! ([`JobResults::publish`]), and [reads](ResultsReader) any stretch again. Watchers wait on a number, never on each
//! other or on the writer: a slow one reads what it has not seen when it gets to it. What was written last, of all jobs
//! together, is in memory as well, for those who follow closely.
//!
//! # What is promised
//!
//! * **A commit that returned `Ok` is on the disk**, whole: it outlives the process, and the machine. One that returned an
//!   error has changed nothing and can be tried again. (With [`Durability::Ephemeral`], it outlives neither for sure.)
//! * **Loss is noticed.** [`Store::open`] gives back everything that was acknowledged, or refuses and names the place.
//!   SQLite by itself does not: where the log ends in bytes that are not what was written, it takes them for a
//!   transaction that never ended. But every transaction counts itself in the database, and the count is written to
//!   `farm.mark` once it is acknowledged. If there are fewer in the database than in the mark, some are gone.
//!   The mark is written at once and synced once a second: after the death of the process it is exact; after the loss of
//!   power, it may be a second old, so that damage is overlooked if the disk lost what it had confirmed within that
//!   second, and nothing from before.
//! * **What is read is what was written.** Every row has a checksum of all that is in it, and blobs are named by their
//!   digests. `open` checks the rows of jobs, their ends, and tickets, the index by which the outcomes of live jobs are found, and
//!   that nothing is missing from it. The bytes of results are checked when they are read, and all of them by
//!   [`admin::check`](crate::admin::check).
//! * **A full disk loses nothing.** A commit that does not fit is refused as a whole. [Deleting](Writer::delete) works all
//!   the same, as long as nobody else takes the room that is kept for it.
//!
//! # What is not
//!
//! Checksums find accidents, not forgery. Whoever may write to the folder may write anything.

mod ballast;
pub(crate) mod batches;
pub(crate) mod checkpoints;
pub(crate) mod clusters;
pub(crate) mod codec;
mod error;
mod job_results;
mod lookup;
pub(crate) mod mark;
mod outcomes;
mod reader;
mod recent;
pub(crate) mod recover;
pub(crate) mod rows;
pub(crate) mod schema;
mod tickets;
mod tidy;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use farm_proto::ids::{ClusterId, Digest, JobId, TicketId};
use farm_proto::job::{JobSpec, JobState};
use farm_proto::message::SubmitKey;
use rusqlite::Connection;

use self::batches::LARGE;
pub(crate) use self::checkpoints::{CheckpointRow, KeptState};
pub(crate) use self::error::StoreError;
pub(crate) use self::job_results::{JobResults, Published};
pub(crate) use self::outcomes::Outcomes;
pub(crate) use self::reader::{ResultsReader, Stored};
use self::recent::Recent;
pub(crate) use self::tickets::{TICKET, TicketRow, ticket};
pub(crate) use self::writer::Writer;
pub(crate) use crate::Durability;
use crate::SchedulerError;
use crate::blobs::Folder;
use crate::cluster::Wanted;
use crate::state_dir::StateDir;
use crate::sync::locked;

/// The last batches in memory, in bytes, of all jobs together.
const RECENT: usize = 16 << 20;
/// What stays free on the disk, in bytes: nothing is stored that would take of it. Enough to open a store, to mark a job
/// as deleted, and for the smallest steps of deleting it.
const RESERVE: u64 = 256 << 10;
/// Pages of the database, in bytes.
const PAGE: u64 = 4096;
/// How large a job is that there has to be room for, in bytes.
const JOB: u64 = 16 << 10;
/// Connections that are kept for the next read.
const READERS: usize = 4;

/// All that is stored of a farm, to be read. Each call opens or borrows a connection, and may wait for the disk.
#[derive(Debug)]
pub(crate) struct Store {
    /// The database.
    path: PathBuf,
    /// The state folder.
    folder: PathBuf,
    blobs: Folder,
    recent: Mutex<Recent>,
    readers: Mutex<Vec<Connection>>,
    /// The last commit, and when it was on the disk: the database learns of that with the next.
    last: Mutex<(u64, u64)>,
}

/// What was in the store when it was opened.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// Number of this life of the farm's scheduler. Greater than that of any earlier one, also of one that began from the
    /// same backup more than 16 seconds ago; less than 2^28 for the next two centuries.
    pub(crate) life: u64,
    /// Ascending by id; without those that were deleted.
    pub(crate) jobs: Vec<StoredJob>,
    pub(crate) clusters: Vec<ClusterRow>,
    /// The highest id that a job ever had, deleted ones included; 0 if there was none.
    pub(crate) last_job: JobId,
    pub(crate) tickets: Vec<TicketRow>,
}

/// A job as it was when the store was opened.
#[derive(Debug)]
pub(crate) struct StoredJob {
    pub(crate) row: JobRow,
    pub(crate) end: Option<JobEnd>,
    /// Of a job that has not ended: which tasks have outcomes, and which of these are failures. Ascending; what lies side
    /// by side is joined, so that these are not the batches that were stored.
    pub(crate) batches: Vec<(Range<u64>, Vec<Range<u64>>)>,
    /// About how many its outcomes take.
    pub(crate) bytes: u64,
    /// What tasks have kept, by their numbers.
    pub(crate) checkpoints: BTreeMap<u64, KeptState>,
    /// Already published; closed if the job has ended.
    pub(crate) results: Arc<JobResults>,
}

/// A cluster as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterRow {
    pub(crate) name: String,
    pub(crate) cluster: ClusterId,
    pub(crate) owner: String,
    pub(crate) created_ms: u64,
    /// None: there is none of that name any more, but jobs may still name it.
    pub(crate) wanted: Option<Wanted>,
}

/// A job as it was accepted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobRow {
    pub(crate) job: JobId,
    pub(crate) key: SubmitKey,
    pub(crate) owner: String,
    pub(crate) stamp: u64,
    pub(crate) submitted_ms: u64,
    pub(crate) spec: Arc<JobSpec>,
    /// The encoded columns of arguments that came with the submission.
    pub(crate) inline: Bytes,
    /// Bytes of argument a task, on average.
    pub(crate) arg_bytes: u64,
    pub(crate) task_ns: Option<u64>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobEnd {
    pub(crate) state: JobState,
    pub(crate) reason: Option<String>,
    pub(crate) ended_ms: u64,
    /// Tasks that failed; ascending.
    pub(crate) failed: Vec<Range<u64>>,
    /// Tasks without an outcome; ascending.
    pub(crate) missing: Vec<Range<u64>>,
    pub(crate) retried: u64,
    pub(crate) task_ns: Option<u64>,
    /// About how many its outcomes take.
    pub(crate) bytes: u64,
}

/// When a batch's tasks were where, as far as the scheduler knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// From the sending of their lease to the arrival of their outcomes.
    pub(crate) leased_ns: u64,
    /// When the outcomes arrived, in nanoseconds since the Unix epoch.
    pub(crate) arrived_ns: u64,
    /// When their job was submitted, in milliseconds since the Unix epoch.
    pub(crate) submitted_ms: u64,
}

/// Something to be stored.
#[derive(Debug, Clone)]
pub(crate) enum Record {
    /// A new job. Pins the blobs that it names.
    Accepted(Box<JobRow>),
    /// Outcomes of tasks that had none. The batch gets the job's next number.
    Batch {
        results: Arc<JobResults>,
        outcomes: Outcomes,
        times: Times,
    },
    Ended {
        job: JobId,
        end: JobEnd,
    },
    /// A state that a task has kept, in the place of the one before.
    Checkpoint(Box<CheckpointRow>),
    /// Tasks of a job, some of which have kept states, need them no longer.
    CheckpointsDropped {
        job: JobId,
        tasks: Range<u64>,
    },
    /// A cluster, new or changed.
    Cluster(Box<ClusterRow>),
    /// A job that is to be forgotten, with all that is its own. It need not be there any more. See [`Writer::delete`].
    Deleted {
        job: JobId,
    },
    /// A ticket as it is now.
    Ticket(Box<TicketRow>),
    /// A ticket that is over.
    TicketForgotten {
        ticket: TicketId,
    },
}

/// Room on the disk, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    database: u64,
    /// Blobs.
    files: u64,
}

impl std::iter::Sum for Room {
    fn sum<I: Iterator<Item = Self>>(rooms: I) -> Self {
        rooms.fold(Self::default(), |sum, room| Self {
            database: sum.database.saturating_add(room.database),
            files: sum.files.saturating_add(room.files),
        })
    }
}

impl Record {
    /// About where it goes; deletions take of what is kept free for them.
    fn room(&self) -> Room {
        match self {
            Self::Batch { outcomes, .. } if outcomes.columns.len() > LARGE => {
                let columns = outcomes.columns.len();
                // The rest of a batch is text about its failures.
                Room { database: (outcomes.weight() - columns) as u64, files: columns as u64 + PAGE }
            }
            Self::Deleted { .. } | Self::CheckpointsDropped { .. } => Room::default(),
            other => Room { database: other.weight() as u64, files: 0 },
        }
    }

    /// About how much storing it takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Accepted(row) => 512 + row.inline.len() + 48 * rows::blobs_of(&row.spec).count(),
            Self::Batch { outcomes, .. } => outcomes.weight(),
            Self::Ended { end, .. } => 128 + 8 * (end.failed.len() + end.missing.len()),
            Self::Checkpoint(row) => row.weight(),
            Self::Cluster(_) => 1024,
            Self::CheckpointsDropped { .. } | Self::Deleted { .. } | Self::TicketForgotten { .. } => 64,
            Self::Ticket(row) => row.weight(),
        }
    }
}

impl Store {
    /// Opens a farm's database, or makes it, and begins another life of its scheduler.
    ///
    /// # Errors
    ///
    /// It cannot be read or written, is of a newer version ([`SchedulerError::Newer`]), is not a farm's
    /// ([`SchedulerError::Foreign`]), or is not what was acknowledged ([`SchedulerError::Corrupt`]).
    pub(crate) fn open(
        state: &StateDir,
        durability: Durability,
    ) -> Result<(Arc<Self>, Writer, Recovered), SchedulerError> {
        recover::open(state, durability)
    }

    /// A new job, without results. It is not stored by that: see [`Record::Accepted`].
    #[expect(clippy::unused_self, reason = "results belong to a store, whoever makes them")]
    pub(crate) fn begin(&self, job: JobId) -> Arc<JobResults> {
        Arc::new(JobResults::new(job, 0))
    }

    /// Whether the disk has room for another job.
    ///
    /// # Errors
    ///
    /// It does not say.
    pub(crate) fn has_room(&self) -> Result<bool, StoreError> {
        self.read(|connection| self.has_room_for(connection, Room { database: JOB, files: 0 }))
    }

    /// Whether the disk has room for that; for what is in the database twice: in the log, and in the database when the
    /// log is written back, as all that is in the log already has to be. A log that cannot be written back can neither
    /// begin again, and then not even a deletion finds room.
    fn has_room_for(&self, connection: &Connection, room: Room) -> Result<bool, StoreError> {
        let number = |pragma| connection.pragma_query_value(None, pragma, |row| rows::number(row, 0));
        let pages = || Ok((number("page_count")?, number("freelist_count")?));
        let (all, free) = pages().map_err(StoreError::of(&self.path))?;
        let io = StoreError::io(&self.path);
        let length = std::fs::metadata(&self.path).map_err(&io)?.len();
        let unwritten = all.saturating_mul(PAGE).saturating_sub(length);
        let grows = room.database.saturating_sub(free.saturating_mul(PAGE));
        let parts = [room.database, grows, unwritten, room.files, RESERVE];
        let disk = rustix::fs::statvfs(&self.folder).map_err(|error| io(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(parts.into_iter().fold(0, u64::saturating_add) <= free)
    }

    /// The blobs that jobs need: see [`Blobs::remove_unpinned`](crate::blobs::Blobs::remove_unpinned).
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub(crate) fn pinned(&self) -> Result<HashSet<Digest>, StoreError> {
        self.read(|connection| rows::pinned(connection, &self.path))
    }

    /// The database, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads with a connection that nobody else uses at that time.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = locked(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::connect_to_read(&self.path)?,
        };
        let result = read(&connection);
        let mut readers = locked(&self.readers);
        if readers.len() < READERS {
            readers.push(connection);
        }
        drop(readers);
        result
    }
}
