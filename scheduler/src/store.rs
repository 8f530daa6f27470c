//! Results: what is known of ended tasks, in memory at first, then on disk.
//!
//! A job's batches are numbered. The first few, up to [`HELD`] bytes, stay in memory for good: most jobs have no more,
//! and making a file for each would cost more than all the rest of a short job. What comes after them is appended to a
//! file of the job, `results/JOB`, and read from there by number:
//!
//! ```text
//! a line of text that names the job
//! frames (farm_proto::frame): a Batch, its columns as payload; the first that is not held, the next, …
//! ```
//!
//! The store does four things: it [begins](Store::begin) a job, [appends](Writer::append) what a commit holds, tells
//! watchers how far a job is ([`JobResults::publish`]), and [reads](ResultsReader) any stretch again. Watchers wait on a
//! number, never on each other or on the writer: a slow one reads what it has not seen when it gets to it. What was
//! written last, of all jobs together, is in memory as well, for those who follow closely.
//!
//! In memory, a job's results are the bytes that are held, and one number for every [`MARK`] batches.
//!
//! Non-goal, for now: surviving a restart. Jobs live in the core's memory only, so that results of an earlier
//! scheduler belong to nobody and are cleared at start.

mod outcomes;
mod reader;
mod recent;
mod writer;

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use farm_link::identity::private_folder;
use farm_proto::ids::JobId;
use tokio::sync::watch;

pub(crate) use self::outcomes::Outcomes;
pub(crate) use self::reader::{ResultsReader, Stored};
use self::recent::Recent;
pub(crate) use self::writer::Writer;
use crate::SchedulerError;
use crate::state_dir::{StateDir, state_error};
use crate::sync::locked;

/// Every so many batches, it is kept where in the file one begins.
const MARK: u64 = 64;
/// The first batches of each job that stay in memory, in bytes.
const HELD: usize = 4 << 10;
/// The last batches in memory, in bytes, of all jobs together.
const RECENT: usize = 16 << 20;
/// With less room than this on the disk, in bytes, no job is taken.
const RESERVE: u64 = 64 << 10;

/// All results of a farm.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    recent: Mutex<Recent>,
}

/// How far a job is, for those who watch it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Published {
    /// Batches that may be read.
    pub(crate) batches: u64,
    /// The end of the last of them in the file.
    bytes: u64,
    /// Counts what else has changed: the state, or a task's progress.
    pub(crate) version: u64,
    /// Nothing will change any more.
    pub(crate) over: bool,
}

/// The results of one job.
#[derive(Debug)]
pub(crate) struct JobResults {
    pub(crate) job: JobId,
    path: PathBuf,
    written: Mutex<Written>,
    published: watch::Sender<Published>,
}

/// What there is of a job.
#[derive(Debug)]
struct Written {
    batches: u64,
    /// The first of them.
    held: Vec<Outcomes>,
    held_bytes: usize,
    /// The end of the last of the others in the file; before the first, where that will begin.
    bytes: u64,
    /// Where every `MARK`th of them begins.
    marks: Vec<u64>,
}

impl Written {
    /// Keeps a batch in memory, if it is one of the first and there is room.
    fn hold(&mut self, outcomes: &Outcomes) -> bool {
        let bytes = self.held_bytes + outcomes.weight();
        if bytes > HELD || self.in_file() > 0 {
            return false;
        }
        self.held.push(outcomes.clone());
        self.held_bytes = bytes;
        self.batches += 1;
        true
    }

    /// How many batches are in the file.
    fn in_file(&self) -> u64 {
        self.batches - self.held.len() as u64
    }
}

impl Store {
    /// Opens the results of a state folder, clearing those of an earlier scheduler.
    pub(crate) fn open(state: &StateDir) -> Result<Self, SchedulerError> {
        let folder = state.join("results");
        let error = || state_error(&folder);
        let earlier = match fs::read_dir(&folder) {
            Ok(files) => files.count(),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(error()(source)),
        };
        if earlier > 0 {
            tracing::warn!(jobs = earlier, "clearing results of jobs that ended with an earlier scheduler");
            fs::remove_dir_all(&folder).map_err(error())?;
        }
        private_folder(&folder).map_err(error())?;
        Ok(Self { folder, recent: Mutex::new(Recent::new(RECENT)) })
    }

    /// Begins a job. To be done before it is accepted: a farm that cannot store takes no work.
    ///
    /// # Errors
    ///
    /// The disk is full.
    pub(crate) fn begin(&self, job: JobId) -> io::Result<Arc<JobResults>> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < RESERVE {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let results = JobResults {
            job,
            path: self.folder.join(job.to_string()),
            written: Mutex::new(Written {
                batches: 0,
                held: Vec::new(),
                held_bytes: 0,
                bytes: title(job).len() as u64,
                marks: Vec::new(),
            }),
            published: watch::Sender::default(),
        };
        Ok(Arc::new(results))
    }
}

/// What a job's file begins with.
fn title(job: JobId) -> String {
    format!("farm results of job {job}\n")
}

impl JobResults {
    /// Lets watchers have what is written.
    pub(crate) fn publish(&self) {
        let (batches, bytes) = {
            let written = locked(&self.written);
            (written.batches, written.bytes)
        };
        self.published.send_if_modified(|published| {
            let news = published.batches != batches;
            (published.batches, published.bytes) = (batches, bytes);
            news
        });
    }

    /// Tells watchers that something else has changed.
    pub(crate) fn touch(&self) {
        self.published.send_modify(|published| published.version += 1);
    }

    /// Tells watchers that nothing will change any more.
    pub(crate) fn close(&self) {
        self.published.send_modify(|published| published.over = true);
    }

    /// Where to wait for news.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}
