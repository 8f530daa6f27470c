//! Results: what is known of ended tasks, on disk.
//!
//! Each job has one file, `results/JOB`, to which batches are appended and from which they are read by number:
//!
//! ```text
//! a line of text that names the job
//! frames (farm_proto::frame): a Batch, its columns as payload; batch 0, batch 1, …
//! ```
//!
//! The store does four things: it [creates](Store::create) a job's file, [appends](Writer::append) what a commit holds,
//! tells watchers how far a job is ([`JobResults::publish`]), and [reads](ResultsReader) any stretch again. Watchers
//! wait on a number, never on each other or on the writer: a slow one reads what it has not seen from the file when it
//! gets to it. What was written last is also in memory, up to a bound, for those who follow closely.
//!
//! In memory, a job's results are one number for every [`MARK`] batches.
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
/// Batches in memory, in bytes, of all jobs together.
const RECENT: usize = 16 << 20;

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

/// What is in a job's file.
#[derive(Debug)]
struct Written {
    batches: u64,
    bytes: u64,
    /// Where batch `MARK * i` begins.
    marks: Vec<u64>,
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

    /// Makes a job's file. To be done before the job is accepted: a farm that cannot store takes no work.
    ///
    /// # Errors
    ///
    /// The file cannot be written; nothing of it stays.
    pub(crate) fn create(&self, job: JobId) -> io::Result<Arc<JobResults>> {
        let path = self.folder.join(job.to_string());
        let title = format!("farm results of job {job}\n");
        if let Err(error) = fs::write(&path, &title) {
            // What was made of the file, if anything, is empty or a part of the title.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let start = title.len() as u64;
        let (published, _) = watch::channel(Published { bytes: start, ..Published::default() });
        Ok(Arc::new(JobResults {
            job,
            path,
            written: Mutex::new(Written { batches: 0, bytes: start, marks: Vec::new() }),
            published,
        }))
    }

    /// Takes back [`Self::create`] for a job that was not accepted after all.
    pub(crate) fn remove(&self, results: &JobResults) {
        if let Err(error) = fs::remove_file(&results.path) {
            tracing::warn!(job = %results.job, %error, "cannot remove the results of a refused job");
        }
    }
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
