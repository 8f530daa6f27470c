//! Why something is not stored, or cannot be read.

use std::io;
use std::path::{Path, PathBuf};

use farm_proto::ids::JobId;
use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

use crate::SchedulerError;
use crate::state_dir::is_full;

/// What can go wrong with a store that is open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Nothing is lost; try again when there is room.
    #[error("the disk of {path} is full")]
    Full { path: PathBuf },
    /// What is there is not what was written.
    #[error("{path} is damaged: {place}")]
    Corrupt {
        path: PathBuf,
        /// Table and row, or what else is wrong where.
        place: String,
    },
    /// A job that was deleted, or never was.
    #[error("job {0} is not stored")]
    NoSuchJob(JobId),
    /// A number that the database has no room for.
    #[error("job {job} has more {what} than can be stored")]
    Beyond { job: JobId, what: &'static str },
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot use {path}: {source}")]
    Sqlite { path: PathBuf, source: rusqlite::Error },
}

impl StoreError {
    /// What SQLite says about the database at `path`.
    pub(crate) fn of(path: &Path) -> impl Fn(rusqlite::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path: path.clone() },
            // The bookkeeping of the log is a file of its own.
            Some(_) if source.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_IOERR_SHMSIZE) => {
                Self::Full { path: path.clone() }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path: path.clone(), place: source.to_string() }
            }
            _ => Self::Sqlite { path: path.clone(), source },
        }
    }

    /// What the operating system says about the file at `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let path = path.clone();
            if is_full(&source) { Self::Full { path } } else { Self::Io { path, source } }
        }
    }

    pub(crate) fn corrupt(path: &Path, place: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), place: place.into() }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Full { .. } => io::ErrorKind::StorageFull,
            StoreError::Corrupt { .. } => io::ErrorKind::InvalidData,
            StoreError::NoSuchJob(_) => io::ErrorKind::NotFound,
            StoreError::Beyond { .. } => io::ErrorKind::InvalidInput,
            StoreError::Io { source, .. } => source.kind(),
            StoreError::Sqlite { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<StoreError> for SchedulerError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { path, place } => Self::Corrupt { path, place },
            StoreError::Full { path } => Self::State { path, source: io::ErrorKind::StorageFull.into() },
            StoreError::Io { path, source } => Self::State { path, source },
            StoreError::Sqlite { path, source } => Self::State { path, source: os_error(source) },
            other @ (StoreError::NoSuchJob(_) | StoreError::Beyond { .. }) => {
                // Whoever asks knows that the job is, or was.
                Self::Corrupt { path: PathBuf::from("farm.sqlite"), place: other.to_string() }
            }
        }
    }
}

/// SQLite's error, as what it means to whoever has to do something about it.
fn os_error(source: rusqlite::Error) -> io::Error {
    let kind = match source.sqlite_error_code() {
        Some(ErrorCode::ReadOnly) => io::ErrorKind::ReadOnlyFilesystem,
        Some(ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, source)
}
